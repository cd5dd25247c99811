package systools

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// order checks what applications say of each other, rewrites their uses and includes, and puts them into the order in which they
// are loaded and started (erlang.md e.2 and e.3).
func order(apps []*application) ([]*application, error) {
	at := map[term.Atom]int{} // where the release lists it first
	for i, a := range apps {
		if _, ok := at[a.name]; !ok {
			at[a.name] = i
		}
	}
	var undefined []term.Atom
	for _, a := range apps {
		for _, u := range append(without(a.uses, a.optional), a.includes...) {
			if _, ok := at[u]; !ok && !slices.Contains(undefined, u) {
				undefined = append(undefined, u)
			}
		}
	}
	if undefined != nil {
		return nil, fail(tuple("undefined_applications", list(undefined)), "used or included, and not in the release: %s",
			words(undefined))
	}
	type member struct {
		name term.Atom
		app  *application
	}
	// twice tells of the names that two have: the last pair first.
	twice := func(members []member, why term.Atom, withVsn bool, verb string) error {
		slices.SortStableFunc(members, func(a, b member) int { return term.Compare(a.name, b.name) })
		var pairs []term.Term
		var what []string
		describe := func(m member) term.Term {
			if withVsn {
				return term.Tuple{m.name, m.app.name, term.String(m.app.vsn), term.String(m.app.dir)}
			}
			return term.Tuple{m.name, m.app.name, term.String(m.app.dir)}
		}
		for i := len(members) - 1; i > 0; i-- {
			if a, b := members[i-1], members[i]; a.name == b.name {
				pairs = append(pairs, term.Tuple{describe(a), describe(b)})
				what = append(what, fmt.Sprintf("%s is %s by %s and by %s", a.name, verb, a.app.name, b.app.name))
			}
		}
		if pairs == nil {
			return nil
		}
		return fail(tuple(why, term.Cons(pairs, nil)), "%s", strings.Join(what, "\n"))
	}
	var regs, incs, mods []member
	by := map[term.Atom]term.Atom{} // included: by
	for _, a := range apps {
		for _, n := range a.registered {
			regs = append(regs, member{n, a})
		}
		for _, n := range a.includes {
			incs = append(incs, member{n, a})
			if _, ok := by[n]; !ok {
				by[n] = a.name
			}
		}
		for _, n := range a.modules {
			mods = append(mods, member{n, a})
		}
	}
	if err := twice(regs, "duplicate_register", true, "registered"); err != nil {
		return nil, err
	}
	if err := twice(incs, "duplicate_include", true, "included"); err != nil {
		return nil, err
	}
	// top is the application that includes name, not included itself.
	top := func(name term.Atom) (term.Atom, error) {
		ring := []term.Term{}
		for range len(apps) + 1 {
			up, ok := by[name]
			if !ok {
				return name, nil
			}
			name = up
			if i, ok := at[name]; ok {
				ring = append(ring, term.Tuple{name, term.String(apps[i].vsn)})
			}
		}
		ring = distinct(ring)
		return "", fail(tuple("circular_dependencies", term.Cons(ring, nil)), "applications that include each other: %s",
			short(term.Cons(ring, nil)))
	}
	for _, a := range apps {
		if err := a.useTops(by, top); err != nil {
			return nil, err
		}
	}
	inOrder := func(names []term.Atom) {
		slices.SortStableFunc(names, func(a, b term.Atom) int {
			pos := func(n term.Atom) int {
				if i, ok := at[n]; ok {
					return i
				}
				return len(apps) // optional
			}
			return pos(a) - pos(b)
		})
	}
	for _, a := range apps {
		a.uses, a.includes = slices.Clone(a.uses), slices.Clone(a.includes)
		inOrder(a.uses)
		inOrder(a.includes)
	}
	if err := twice(mods, "duplicate_modules", false, "a module of the application"); err != nil {
		return nil, err
	}
	return dependencies(apps)
}

// useTops makes uses of included applications uses of their topmost including ones.
func (a *application) useTops(by map[term.Atom]term.Atom, top func(term.Atom) (term.Atom, error)) error {
	mine, err := top(a.name)
	if err != nil {
		return err
	}
	uses := a.uses
	for _, u := range a.uses {
		if u == mine { // an included application uses its own top
			uses = without(uses, []term.Atom{mine})
			continue
		}
		up, ok := by[u]
		if !ok {
			continue
		}
		t, err := top(up)
		switch {
		case err != nil:
			return err
		case slices.Contains(uses, t):
			uses = without(uses, []term.Atom{u})
		case t == mine: // both are below one top
		default:
			uses = append(without(uses, []term.Atom{u}), t)
		}
	}
	a.uses = uses
	return nil
}

// dependencies is the order of apps in which each stands behind what it uses and includes, as close to the order given as that
// allows. What includes another may be used by it.
func dependencies(apps []*application) ([]*application, error) {
	var out []*application
	var missing []term.Atom
	var circular []term.Term
	type key struct {
		name term.Atom
		vsn  string
	}
	visited := map[key]int{}
	seen := map[term.Atom]bool{}
	id := func(a *application) term.Term { return term.Tuple{a.name, term.String(a.vsn)} }

	rest := slices.Clone(apps)
	for steps := 0; len(rest) > 0; steps++ {
		a := rest[0]
		rest = rest[1:]
		var first []*application // what must stand before a
		take := func(names []term.Atom) (lost []term.Atom) {
			var found []*application
			for _, n := range slices.Backward(names) {
				i := slices.IndexFunc(rest, func(b *application) bool { return b.name == n })
				switch {
				case i >= 0 && !slices.Contains(rest[i].includes, a.name):
					found = append(found, rest[i])
					rest = slices.Delete(slices.Clone(rest), i, i+1)
				case !seen[n]:
					lost = append(lost, n)
				}
			}
			slices.Reverse(found)
			slices.Reverse(lost)
			first = append(first, found...)
			return lost
		}
		lost := without(take(a.uses), a.optional)
		lost = append(lost, take(a.includes)...)
		missing = append(lost, missing...)
		k := key{a.name, a.vsn}
		if len(first) == 0 {
			out = append(out, a)
		} else {
			var again []*application
			for _, b := range first {
				for range visited[key{b.name, b.vsn}] {
					again = append(again, b)
				}
			}
			if len(again) > 0 {
				now := []term.Term{id(a)}
				for _, b := range again {
					now = append(now, id(b))
				}
				circular = append(now, circular...)
			}
			rest = slices.Concat(first, []*application{a}, rest)
			for _, b := range again {
				if i := slices.IndexFunc(rest, func(c *application) bool { return c.name == b.name && c.vsn == b.vsn }); i >= 0 {
					rest = slices.Delete(rest, i, i+1)
				}
			}
		}
		visited[k]++
		seen[a.name] = true
		if most := 4 * (len(apps) + 1) * (len(apps) + 1); steps > most {
			circular = append(circular, id(a))
			break
		}
	}
	var undefined, ring term.Term
	if len(missing) > 0 {
		var names []term.Atom
		for _, n := range missing {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
		undefined = tuple("undefined_applications", list(names))
	}
	if circular != nil {
		ring = tuple("circular_dependencies", term.Cons(distinct(circular), nil))
	}
	switch {
	case ring != nil && undefined != nil:
		return nil, fail(tuple("apps", list([]term.Term{ring, undefined})), "applications that need each other (%s), and missing ones (%s)",
			short(ring.(term.Tuple)[1]), short(undefined.(term.Tuple)[1]))
	case ring != nil:
		return nil, fail(ring, "applications that need each other: %s", short(ring.(term.Tuple)[1]))
	case undefined != nil:
		return nil, fail(undefined, "both used and included, or missing: %s", short(undefined.(term.Tuple)[1]))
	}
	return out, nil
}

// without is names without the first of each in gone, as Erlang's -- has it.
func without(names, gone []term.Atom) []term.Atom {
	out := slices.Clone(names)
	for _, g := range gone {
		if i := slices.Index(out, g); i >= 0 {
			out = slices.Delete(out, i, i+1)
		}
	}
	return out
}

// distinct keeps the first of equal terms.
func distinct(terms []term.Term) []term.Term {
	var out []term.Term
	for _, t := range terms {
		if !slices.ContainsFunc(out, func(o term.Term) bool { return term.Compare(o, t) == 0 }) {
			out = append(out, t)
		}
	}
	return out
}

func words(names []term.Atom) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return strings.Join(out, ", ")
}
