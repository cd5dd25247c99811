package cml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// Merge adds what o says to d, as an include does. o's parts become d's; it must not be used afterwards. What d already says is not
// said again, and of two availabilities the stronger one stays. Contradictions that only validation can see are left to it.
func (d *Document) Merge(o *Document) manifest.Diagnostics {
	m := merger{}
	if !d.At.IsSet() {
		d.At = o.At
	}
	m.clauses(&d.Capabilities, &o.Capabilities, &capabilityShape)
	m.clauses(&d.Use, &o.Use, &useShape)
	m.clauses(&d.Offer, &o.Offer, &offerShape)
	m.clauses(&d.Expose, &o.Expose, &exposeShape)
	appendNew(&d.Children, &o.Children, &childShape)
	appendNew(&d.Collections, &o.Collections, &collectionShape)
	m.environments(&d.Environments, &o.Environments)
	m.object(&d.Program, &o.Program, "program", programArrays)
	m.object(&d.Facets, &o.Facets, "facets", allArrays)
	m.config(&d.Config, &o.Config)
	return m.diagnostics
}

type merger struct{ diagnostics manifest.Diagnostics }

func (m *merger) conflict(at, first At, format string, args ...any) {
	m.diagnostics = append(m.diagnostics, manifest.Diagnostic{Pos: at.Pos(), Rule: "merge-conflict", Message: fmt.Sprintf(format, args...),
		Hint: "the other one is at " + first.Pos().String()})
}

// clauses merges two lists of clauses.
func (m *merger) clauses(a, b *List[Clause], s *shape[Clause]) {
	for _, list := range []*List[Clause]{a, b} {
		for i := range list.Items {
			if c := &list.Items[i]; c.Kind == 0 || len(c.Names.Items) == 0 {
				m.diagnostics = append(m.diagnostics, manifest.Diagnostic{Pos: c.At.Pos(), Rule: "missing-keyword",
					Message: fmt.Sprintf("cannot merge an entry of `%s` without a capability name", s.section)})
				return
			}
		}
	}
	switch {
	case !b.At.IsSet():
		return
	case !a.At.IsSet():
		*a = *b
		return
	}
	// Only clauses of one kind that share a name can have something to say about each other.
	type named struct {
		kind manifest.Kind
		name string
	}
	byName := make(map[named][]int, len(a.Items))
	add := func(i int) {
		for _, n := range a.Items[i].Names.Items {
			byName[named{a.Items[i].Kind, n.Value}] = append(byName[named{a.Items[i].Kind, n.Value}], i)
		}
	}
	for i := range a.Items {
		add(i)
	}
	for i := range b.Items {
		c := b.Items[i]
		c.Names.Items = slices.Clone(c.Names.Items)
		c.Names.Items = slices.DeleteFunc(c.Names.Items, func(n Text) bool {
			for _, j := range byName[named{c.Kind, n.Value}] {
				old := &a.Items[j]
				if !hasName(old, n.Value) || !(objectForm[Clause]{s}).sameBut(old, &c) {
					continue
				}
				switch strength(old, &c) {
				case notWeaker:
					return true
				case weaker:
					old.Names.Items = slices.DeleteFunc(slices.Clone(old.Names.Items), func(o Text) bool { return o.Value == n.Value })
				}
			}
			return false
		})
		if len(c.Names.Items) > 0 {
			a.Items = append(a.Items, c)
			add(len(a.Items) - 1)
		}
	}
	a.Items = slices.DeleteFunc(a.Items, func(c Clause) bool { return len(c.Names.Items) == 0 })
}

func hasName(c *Clause, name string) bool {
	return slices.ContainsFunc(c.Names.Items, func(n Text) bool { return n.Value == name })
}

// sameBut compares two clauses in all but their names and their availability.
func (f objectForm[T]) sameBut(a, b *T) bool {
	if any(a).(*Clause).Kind != any(b).(*Clause).Kind {
		return false
	}
	for i := range f.shape.keys {
		if k := &f.shape.keys[i]; k.kind == 0 && k.name != "availability" && !k.form.equal(k.field(a), k.field(b)) {
			return false
		}
	}
	return true
}

const (
	incomparable = iota
	notWeaker
	weaker
)

// strength compares the availability of a with that of b.
func strength(a, b *Clause) int {
	x, y := availability(a.Availability), availability(b.Availability)
	switch {
	case x == y:
		return notWeaker
	case x == manifest.SameAsTarget || y == manifest.SameAsTarget:
		return incomparable
	case x < y: // required, optional, transitional
		return notWeaker
	}
	return weaker
}

// appendNew appends the items of b that a doesn't have.
func appendNew[T any](a, b *List[T], s *shape[T]) {
	form := objectForm[T]{s}
	if !a.At.IsSet() {
		a.At = b.At
	}
	for i := range b.Items {
		if !slices.ContainsFunc(a.Items, func(t T) bool { return form.equal(&t, &b.Items[i]) }) {
			a.Items = append(a.Items, b.Items[i])
		}
	}
}

func (m *merger) environments(a, b *List[Environment]) {
	if !b.At.IsSet() {
		return
	}
	a.At = orElse(a.At, b.At)
	for i := range b.Items {
		e := &b.Items[i]
		at := slices.IndexFunc(a.Items, func(o Environment) bool { return o.Name.Value == e.Name.Value })
		if at < 0 {
			a.Items = append(a.Items, *e)
			continue
		}
		old := &a.Items[at]
		if e.Extends.At.IsSet() {
			if old.Extends.At.IsSet() && old.Extends.Value != e.Extends.Value {
				m.conflict(e.Extends.At, old.Extends.At, "cannot merge `environments` that declare conflicting `extends`")
			}
			old.Extends = e.Extends
		}
		if e.StopTimeout.At.IsSet() {
			if old.StopTimeout.At.IsSet() && old.StopTimeout.Value != e.StopTimeout.Value {
				m.conflict(e.StopTimeout.At, old.StopTimeout.At, "cannot merge `environments` that declare conflicting `stop_timeout_ms`")
			}
			old.StopTimeout = e.StopTimeout
		}
		concat(&old.Runners, &e.Runners)
		concat(&old.Resolvers, &e.Resolvers)
		concat(&old.Debug, &e.Debug)
	}
	slices.SortStableFunc(a.Items, func(x, y Environment) int { return strings.Compare(x.Name.Value, y.Name.Value) })
}

func concat[T any](a, b *List[T]) {
	a.At = orElse(a.At, b.At)
	a.Items = append(a.Items, b.Items...)
}

// Which arrays are concatenated: of a program only two, and what is nested; of facets all.
func programArrays(path string) bool {
	return path == "program.environ" || path == "program.features" || strings.Count(path, ".") > 1
}

func allArrays(string) bool { return true }

func (m *merger) object(a, b *Free, path string, concatenated func(string) bool) {
	if !b.At.IsSet() {
		return
	}
	if !a.At.IsSet() {
		*a = *b
		return
	}
	for i := range b.Members {
		n := &b.Members[i]
		old := a.Get(n.Name)
		sub := path + "." + n.Name
		switch {
		case old == nil:
			a.Members = append(a.Members, *n)
		case sub == "program.runner" && freeEqual(&old.Value, &n.Value):
		case old.Value.Kind == json5.Object && n.Value.Kind == json5.Object:
			m.object(&old.Value, &n.Value, sub, concatenated)
		case old.Value.Kind == json5.Array && n.Value.Kind == json5.Array && concatenated(sub):
			old.Value.Items = append(old.Value.Items, n.Value.Items...)
		default:
			m.conflict(n.At, old.At, "manifest include had a conflicting `%s`: %s", sub, n.At.Source.File)
		}
	}
}

func (m *merger) config(a, b *ConfigSection) {
	if !b.At.IsSet() {
		return
	}
	a.At = orElse(a.At, b.At)
	for i := range b.Fields {
		f := &b.Fields[i]
		at := slices.IndexFunc(a.Fields, func(o ConfigField) bool { return o.Key.Value == f.Key.Value })
		if at < 0 {
			a.Fields = append(a.Fields, *f)
		} else if !(objectForm[ConfigType]{&configTypeShape}).equal(&a.Fields[at].Type, &f.Type) {
			m.conflict(f.Key.At, a.Fields[at].Key.At, "Found conflicting entry for config key `%s`", f.Key.Value)
		}
	}
}

// Canonicalize brings the document into the order that `cmc include` prints: parts by name, capabilities by kind and name, clauses
// that differ only in their names as one.
func (d *Document) Canonicalize() {
	slices.SortStableFunc(d.Children.Items, func(a, b Child) int { return strings.Compare(a.Name.Value, b.Name.Value) })
	slices.SortStableFunc(d.Collections.Items, func(a, b Collection) int { return strings.Compare(a.Name.Value, b.Name.Value) })
	slices.SortStableFunc(d.Environments.Items, func(a, b Environment) int { return strings.Compare(a.Name.Value, b.Name.Value) })
	canonical(&d.Capabilities, &capabilityShape)
	canonical(&d.Use, &useShape)
	canonical(&d.Offer, &offerShape)
	canonical(&d.Expose, &exposeShape)
}

func canonical(l *List[Clause], s *shape[Clause]) {
	form := objectForm[Clause]{s}
	byText := func(a, b Text) int { return strings.Compare(a.Value, b.Value) }
	var out []Clause
	for i := range l.Items {
		c := l.Items[i]
		for _, ts := range []*Texts{&c.Names, &c.From, &c.To, &c.Scope} {
			ts.Items = slices.SortedStableFunc(slices.Values(ts.Items), byText)
		}
		at := -1
		if many := s.keys[slices.IndexFunc(s.keys, func(k key[Clause]) bool { return k.kind == c.Kind })].form.(textsForm).many; many && !c.Path.At.IsSet() && !c.As.At.IsSet() {
			at = slices.IndexFunc(out, func(o Clause) bool {
				return form.sameBut(&o, &c) && availability(o.Availability) == availability(c.Availability)
			})
		}
		if at < 0 {
			out = append(out, c)
			continue
		}
		o := &out[at]
		o.Names.Items = append(o.Names.Items, c.Names.Items...)
		slices.SortStableFunc(o.Names.Items, byText)
		o.Names.Items = slices.CompactFunc(o.Names.Items, func(a, b Text) bool { return a.Value == b.Value })
		o.Names.Many = true
	}
	first := func(c Clause) string {
		if len(c.Names.Items) == 0 {
			return ""
		}
		return c.Names.Items[0].Value
	}
	slices.SortStableFunc(out, func(a, b Clause) int {
		return cmp.Or(strings.Compare(kindWord(a.Kind), kindWord(b.Kind)), strings.Compare(first(a), first(b)))
	})
	l.Items = out
}

func kindWord(k manifest.Kind) string { return k.String() }
