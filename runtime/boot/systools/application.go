package systools

import (
	"errors"
	"path/filepath"
	"slices"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// An application is what its .app file says, and how the release starts it. uses and includes change as they are put in order.
type application struct {
	name                     term.Atom
	vsn                      string
	kind                     term.Atom
	id, description          term.Term
	modules, registered      []term.Atom
	uses, optional, includes []term.Atom
	env, maxT, maxP          term.Term
	phases, mod              term.Term // nil: not said
	dir                      string    // of the .app file
}

// readApplications reads the .app files of all applications of r. The faults of all are told together, the last one's first.
func (r *release) readApplications(path []string) ([]*application, error) {
	var apps []*application
	var faults []*Failure
	for _, l := range r.apps {
		a, what := l.read(path)
		switch {
		case what != nil:
			faults = append(faults, fail(tuple("error_reading", term.Tuple{l.name, what.Term}), "%s: %s", l.name, what.What))
		case a.name != l.name:
			faults = append(faults, fail(tuple("bad_application_name",
				term.Tuple{l.name, term.Tuple{a.name, term.String(a.vsn)}}), "%s: the file is that of %s", l.name, a.name))
		default:
			apps = append(apps, a)
		}
	}
	if faults == nil {
		return apps, nil
	}
	slices.Reverse(faults)
	all := &Failure{}
	var terms []term.Term
	for _, f := range faults {
		terms = append(terms, f.Term)
		if all.What != "" {
			all.What += "\n"
		}
		all.What += f.What
	}
	all.Term = term.Cons(terms, nil)
	return nil, all
}

// read finds the .app file of the right version. One of another version, and one that cannot be parsed, are passed over as long
// as a better one may follow; the first of them is the fault if none does.
func (l *listed) read(path []string) (*application, *Failure) {
	name := string(l.name) + ".app"
	var first *Failure
	note := func(f *Failure) {
		if first == nil {
			first = f
		}
	}
	for _, dir := range path {
		t, file, err := find([]string{dir}, name)
		if s := (*term.SyntaxError)(nil); errors.As(err, &s) {
			if !s.Torn {
				note(fail(tuple("parse_error", term.Tuple{term.String(s.File), term.Int(s.Line), term.String(s.Err.Error())}), "%v", err))
			}
			continue
		}
		if err != nil {
			continue
		}
		a, f := l.parse(t, file)
		if f != nil {
			return nil, f
		}
		if a.vsn == l.vsn {
			return a, l.overrideIncludes(a)
		}
		note(fail(tuple("no_valid_version", term.Tuple{
			term.Tuple{term.String("should be"), term.String(l.vsn)},
			term.Tuple{term.String("found file"), term.String(file), term.String(a.vsn)},
		}), "version %s is wanted, %s has %s", l.vsn, file, a.vsn))
	}
	if first == nil {
		return nil, fail(tuple("not_found", term.String(name)), "%s not found; --path says where to look", name)
	}
	return nil, first
}

// overrideIncludes puts the included applications that the release names in the place of the file's, which has them all.
func (l *listed) overrideIncludes(a *application) *Failure {
	if !l.override {
		return nil
	}
	var missing []term.Atom
	for _, i := range l.includes {
		if !slices.Contains(a.includes, i) {
			missing = append(missing, i)
		}
	}
	if missing != nil {
		return fail(tuple("overrideIncludesinclude", list(missing)), "the release includes what its .app file doesn't: %s",
			short(list(missing)))
	}
	a.includes = l.includes
	return nil
}

// parse reads {application,Name,[{Key,Value}…]}. Keys that are not known are left out.
func (l *listed) parse(t term.Term, file string) (*application, *Failure) {
	app, _ := t.(term.Tuple)
	var name term.Atom
	var dict []term.Term
	ok := len(app) == 3 && app[0] == term.Atom("application")
	if ok {
		name, ok = app[1].(term.Atom)
	}
	if ok {
		dict, ok = term.Proper(app[2])
	}
	if !ok {
		return nil, fail(tuple("badly_formatted_application", t), "%s: not {application,Name,[{Key,Value}…]}", file)
	}
	a := &application{name: name, kind: l.kind, dir: filepath.Dir(file)}
	var wrong *Failure
	blame := func(why, key term.Atom, what string) {
		if wrong == nil {
			wrong = fail(term.Tuple{tuple(why, key), t}, "%s: %s: %s", file, key, what)
		}
	}
	// get hands the value of a key to take, which says whether it will do.
	get := func(key term.Atom, optional bool, want string, take func(term.Term) bool) {
		for _, e := range dict {
			if kv, ok := e.(term.Tuple); ok && len(kv) > 0 && kv[0] == key {
				if len(kv) != 2 {
					blame("missing_param", key, "not {Key,Value}")
				} else if !take(kv[1]) {
					if key == "mod" { // the real one has no other word for it
						blame("missing_param", key, "not "+want)
					} else {
						blame("bad_param", key, "not "+want)
					}
				}
				return
			}
		}
		if !optional {
			blame("missing_param", key, "missing")
		}
	}
	keep := func(to *term.Term, ok func(term.Term) bool) func(term.Term) bool {
		return func(t term.Term) bool { *to = t; return ok(t) }
	}
	names := func(to *[]term.Atom) func(term.Term) bool {
		return func(t term.Term) (ok bool) { *to, ok = atoms(t); return ok }
	}
	isString := func(t term.Term) bool { _, ok := term.IsString(t); return ok }
	count := func(t term.Term) bool {
		n := term.BigInt(t)
		return t == term.Atom("infinity") || n != nil && n.Sign() > 0
	}
	a.id, a.env, a.maxT, a.maxP = term.List{}, term.List{}, term.Atom("infinity"), term.Atom("infinity")
	get("vsn", false, "a string", func(t term.Term) (ok bool) { a.vsn, ok = term.IsString(t); return ok })
	get("id", true, "a string", keep(&a.id, isString))
	get("description", false, "a string", keep(&a.description, isString))
	get("modules", false, "a list of atoms", names(&a.modules))
	get("registered", false, "a list of atoms", names(&a.registered))
	get("applications", false, "a list of atoms", names(&a.uses))
	get("optional_applications", true, "a list of atoms", names(&a.optional))
	get("included_applications", true, "a list of atoms", names(&a.includes))
	get("mod", true, "{Module,Argument}", func(t term.Term) bool {
		if l, ok := t.(term.List); ok && l.Elems == nil {
			return true
		}
		m, ok := t.(term.Tuple)
		if ok = ok && len(m) == 2; ok {
			_, ok = m[0].(term.Atom)
		}
		a.mod = t
		return ok
	})
	get("start_phases", true, "a list of {Phase,Argument}", func(t term.Term) bool {
		if t == term.Atom("undefined") {
			return true
		}
		a.phases = t
		return pairs(t)
	})
	get("env", true, "a list of {Key,Value}", keep(&a.env, pairs))
	get("maxT", true, "a number above 0 or infinity", keep(&a.maxT, count))
	get("maxP", true, "a number above 0 or infinity", keep(&a.maxP, count))
	return a, wrong
}

// pairs says whether t is a list of tuples of two whose first element is an atom.
func pairs(t term.Term) bool {
	elems, ok := term.Proper(t)
	for _, e := range elems {
		p, isTuple := e.(term.Tuple)
		if ok = ok && isTuple && len(p) == 2; ok {
			_, ok = p[0].(term.Atom)
		}
	}
	return ok
}

// term is the application as the script has it.
func (a *application) term() term.Term {
	keys := []term.Term{
		tuple("description", a.description), tuple("vsn", term.String(a.vsn)), tuple("id", a.id),
		tuple("modules", list(a.modules)), tuple("registered", list(a.registered)),
		tuple("applications", list(a.uses)), tuple("optional_applications", list(a.optional)),
		tuple("included_applications", list(a.includes)), tuple("env", a.env), tuple("maxT", a.maxT), tuple("maxP", a.maxP),
	}
	if a.phases != nil {
		keys = append(keys, tuple("start_phases", a.phases))
	}
	if a.mod != nil {
		keys = append(keys, tuple("mod", a.mod))
	}
	return term.Tuple{term.Atom("application"), a.name, term.Cons(keys, nil)}
}
