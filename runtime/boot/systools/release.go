package systools

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// A Failure is why there is no script of a release: Term is what the real systools calls it (erlang.md e.2), What says it to
// people.
type Failure struct {
	Term term.Term
	What string
}

func (f *Failure) Error() string { return f.What }

func fail(t term.Term, format string, args ...any) *Failure {
	return &Failure{t, fmt.Sprintf(format, args...)}
}

// tuple is {name,…}.
func tuple(name term.Atom, rest ...term.Term) term.Term {
	return append(term.Tuple{name}, rest...)
}

func list[T term.Term](elems []T) term.Term {
	out := make([]term.Term, len(elems))
	for i, e := range elems {
		out[i] = e
	}
	return term.Cons(out, nil)
}

// A release is what a .rel file says.
type release struct {
	name, vsn, erts string
	apps            []*listed
}

// listed is an application as a .rel file lists it.
type listed struct {
	name     term.Atom
	vsn      string
	kind     term.Atom
	includes []term.Atom // in the place of those of its .app file
	override bool
}

// The kinds of start of an application.
var startKinds = []term.Atom{"permanent", "transient", "temporary", "load", "none"}

// readRelease reads the file name.rel, which lies in the working directory or in one of the directories of path.
func readRelease(name string, path []string) (*release, error) {
	file := name + ".rel"
	t, _, err := find(append([]string{"."}, path...), file)
	if err != nil {
		if s := (*term.SyntaxError)(nil); errors.As(err, &s) {
			if s.Torn {
				return nil, fail(tuple("read", term.String(file)), "%v", err)
			}
			return nil, fail(tuple("parse", term.String(file), grammar(s)), "%v", err)
		}
		return nil, fail(tuple("not_found", term.String(file)), "%v", err)
	}
	return checkRelease(file, t)
}

// grammar is a fault of the grammar as Erlang's parser has it: {Line,Module,What}.
func grammar(s *term.SyntaxError) term.Term {
	return term.Tuple{term.Int(s.Line), term.Atom("erl_parse"), term.String(s.Err.Error())}
}

func checkRelease(file string, t term.Term) (*release, error) {
	bad := fail(term.Atom("badly_formatted_release"),
		"%s: not {release,{Name,Vsn},{erts,Vsn},[{Application,Vsn}…]}", file)
	r, ok := t.(term.Tuple)
	if !ok || len(r) != 4 || r[0] != term.Atom("release") {
		return nil, bad
	}
	id, ok1 := r[1].(term.Tuple)
	erts, ok2 := r[2].(term.Tuple)
	apps, ok3 := term.Proper(r[3])
	if !ok1 || !ok2 || !ok3 || len(id) != 2 || len(erts) != 2 || erts[0] != term.Atom("erts") {
		return nil, bad
	}
	out := &release{}
	if out.name, ok = term.IsString(id[0]); !ok {
		return nil, fail(tuple("illegal_name", id[0]), "%s: the release's name is no string: %s", file, short(id[0]))
	}
	if out.vsn, ok = term.IsString(id[1]); !ok {
		return nil, fail(tuple("illegal_form", id[1]), "%s: the release's version is no string: %s", file, short(id[1]))
	}
	if out.erts, ok = term.IsString(erts[1]); !ok {
		return nil, fail(tuple("illegal_form", tuple("erts", erts[1])), "%s: the version of erts is no string: %s", file,
			short(erts[1]))
	}
	var illegal []term.Term
	for _, a := range apps {
		if l := checkListed(a); l != nil {
			out.apps = append(out.apps, l)
		} else {
			illegal = append(illegal, a)
		}
	}
	if illegal != nil {
		all := term.Cons(illegal, nil)
		return nil, fail(tuple("illegal_applications", all), "%s: not {Application,Vsn}, with a kind of start or a list of applications: %s",
			file, short(all))
	}
	return out, nil
}

// checkListed is one application of a .rel file, nil if it is none.
func checkListed(t term.Term) *listed {
	a, ok := t.(term.Tuple)
	if !ok || len(a) < 2 || len(a) > 4 {
		return nil
	}
	l := &listed{kind: "permanent"}
	var ok1, ok2 bool
	l.name, ok1 = a[0].(term.Atom)
	l.vsn, ok2 = term.IsString(a[1])
	if !ok1 || !ok2 {
		return nil
	}
	rest := a[2:]
	if len(rest) > 0 {
		if k, ok := rest[0].(term.Atom); ok && slices.Contains(startKinds, k) {
			l.kind, rest = k, rest[1:]
		} else if len(rest) == 2 {
			return nil
		}
	}
	if len(rest) > 0 {
		if l.includes, l.override = atoms(rest[0]); !l.override {
			return nil
		}
	}
	return l
}

// atoms are the elements of a list of atoms.
func atoms(t term.Term) ([]term.Atom, bool) {
	elems, ok := term.Proper(t)
	out := make([]term.Atom, 0, len(elems))
	for _, e := range elems {
		a, isAtom := e.(term.Atom)
		ok = ok && isAtom
		out = append(out, a)
	}
	return out, ok
}

// mandatory checks that an Erlang release has what every one needs, and warns of what most have.
func (r *release) mandatory() (warnings []term.Term, err error) {
	kind := func(name term.Atom) term.Atom {
		for _, a := range r.apps {
			if a.name == name {
				return a.kind
			}
		}
		return ""
	}
	for _, name := range []term.Atom{"kernel", "stdlib"} {
		switch k := kind(name); k {
		case "permanent":
		case "":
			return nil, fail(tuple("missing_mandatory_app", name), "%s is missing: each Erlang release has it", name)
		default:
			return nil, fail(tuple("mandatory_app", name, k), "%s must be permanent, is %s", name, k)
		}
	}
	if kind("sasl") == "" {
		warnings = append(warnings, term.Atom("missing_sasl"))
	}
	return warnings, nil
}

// find reads the first file of that name that is in a directory of path, and says where it is.
func find(path []string, name string) (t term.Term, file string, err error) {
	for _, dir := range path {
		file = join(dir, name)
		b, err := readBounded(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		t, err = term.Parse(file, b)
		return t, file, err
	}
	return nil, "", fmt.Errorf("%s: not found in %s", name, strings.Join(path, ", "))
}

// readBounded reads a regular file of which no more than a term may be is taken.
func readBounded(file string) ([]byte, error) {
	st, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", file)
	case st.Size() > term.MaxSize:
		return nil, fmt.Errorf("%s: %d bytes; at most %d are read", file, st.Size(), term.MaxSize)
	}
	return os.ReadFile(file)
}
