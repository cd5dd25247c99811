package cml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// Merge adds what o says to d, as an include does. o's parts become d's; it must not be used afterwards. What d already says is
// not said again, and of two availabilities the stronger one stays. Contradictions that only validation can see are left to it.
func (d *Document) Merge(o *Document) manifest.Diagnostics {
	m := newMerger(d)
	m.add(o)
	m.finish()
	return m.diagnostics
}

// A merger merges documents into one. It keeps what it knows of that one, so that many small documents take no more time than one
// large.
type merger struct {
	doc         *Document
	diagnostics manifest.Diagnostics

	clauses [4]clauseMerger
	// Indices by name, nil if not made yet.
	children, collections map[string][]int
	environments, fields  map[string]int
	members               map[string]map[string]int // of program and facets
}

func newMerger(d *Document) *merger {
	return &merger{doc: d, clauses: [4]clauseMerger{
		{into: &d.Capabilities, alike: likeness{shape: &capabilityShape, anyAvailability: true}},
		{into: &d.Use, alike: likeness{shape: &useShape, anyAvailability: true}},
		{into: &d.Offer, alike: likeness{shape: &offerShape, anyAvailability: true}},
		{into: &d.Expose, alike: likeness{shape: &exposeShape, anyAvailability: true}},
	}}
}

func (m *merger) add(o *Document) {
	d := m.doc
	if !d.At.IsSet() {
		d.At = o.At
	}
	for i, list := range []*List[Clause]{&o.Capabilities, &o.Use, &o.Offer, &o.Expose} {
		m.clauses[i].add(list)
	}
	appendNew(&d.Children, &o.Children, &childShape, &m.children, func(c *Child) string { return c.Name.Value })
	appendNew(&d.Collections, &o.Collections, &collectionShape, &m.collections, func(c *Collection) string { return c.Name.Value })
	m.addEnvironments(&d.Environments, &o.Environments)
	m.object(&d.Program, &o.Program, "program", programArrays)
	m.object(&d.Facets, &o.Facets, "facets", allArrays)
	m.config(&d.Config, &o.Config)
}

// finish leaves the document as it is to be.
func (m *merger) finish() {
	for i := range m.clauses {
		m.clauses[i].finish()
	}
	if m.environments != nil {
		slices.SortStableFunc(m.doc.Environments.Items, func(x, y Environment) int {
			return strings.Compare(x.Name.Value, y.Name.Value)
		})
	}
}

// MergeAll merges documents into a new one in their order, and lists once what they include. They must not be used afterwards.
func MergeAll(docs []*Document) (*Document, manifest.Diagnostics) {
	out := &Document{Source: &Source{}}
	m := newMerger(out)
	for _, doc := range docs {
		if !out.At.IsSet() {
			out.Source = doc.Source
		}
		m.add(doc)
		out.Include.At, out.Include.Many = orElse(out.Include.At, doc.Include.At), true
		for _, t := range doc.Include.Items {
			if !slices.Contains(values(out.Include), t.Value) {
				out.Include.Items = append(out.Include.Items, t)
			}
		}
	}
	m.finish()
	return out, m.diagnostics
}

func (m *merger) conflict(at, first At, format string, args ...any) {
	m.diagnostics = append(m.diagnostics, manifest.Diagnostic{
		Pos: at.Pos(), Rule: "merge-conflict", Message: fmt.Sprintf(format,
			args...),
		Hint: "the other one is at " + first.Pos().String(),
	})
}

// A clauseMerger merges lists of clauses into one. Only clauses that share a name and say all else alike, but for their
// availability, have something to say about each other.
type clauseMerger struct {
	into   *List[Clause]
	alike  likeness
	byName map[named][]int // indices into into.Items; nil if not made yet
	gone   map[mention]bool
}

type named struct {
	like int
	name string
}

type mention struct {
	clause int
	name   string
}

// add merges b in. A clause that names no capability, which Parse has reported, has nothing to add.
func (m *clauseMerger) add(b *List[Clause]) {
	a := m.into
	switch {
	case !b.At.IsSet():
		return
	case !a.At.IsSet():
		*a = *b
		return
	}
	if m.byName == nil {
		m.byName, m.gone, m.alike.ids = make(map[named][]int, len(a.Items)), map[mention]bool{}, map[string]int{}
		for i := range a.Items {
			like := m.alike.of(&a.Items[i])
			for _, n := range a.Items[i].Names.Items {
				m.byName[named{like, n.Value}] = append(m.byName[named{like, n.Value}], i)
			}
		}
	}
	for i := range b.Items {
		c := b.Items[i]
		like := m.alike.of(&c)
		var kept []Text
		for _, n := range c.Names.Items {
			key := named{like, n.Value}
			drop := false
			m.byName[key] = slices.DeleteFunc(m.byName[key], func(j int) bool {
				switch strength(&a.Items[j], &c) {
				case notWeaker:
					drop = true
				case weaker:
					m.gone[mention{j, n.Value}] = true
					return true
				}
				return false
			})
			if !drop {
				kept = append(kept, n)
				m.byName[key] = append(m.byName[key], len(a.Items))
			}
		}
		if c.Names.Items = kept; len(kept) > 0 {
			a.Items = append(a.Items, c)
		}
	}
}

// finish takes away what a stronger clause has replaced.
func (m *clauseMerger) finish() {
	if len(m.gone) == 0 {
		return
	}
	for i := range m.into.Items {
		names := &m.into.Items[i].Names
		names.Items = slices.DeleteFunc(slices.Clone(names.Items), func(n Text) bool { return m.gone[mention{i, n.Value}] })
	}
	m.into.Items = slices.DeleteFunc(m.into.Items, func(c Clause) bool { return len(c.Names.Items) == 0 })
}

// likeness numbers clauses so that those that say the same have the same number, their names and perhaps their availability
// aside.
type likeness struct {
	shape           *shape[Clause]
	anyAvailability bool
	ids             map[string]int
}

func (l *likeness) of(c *Clause) int {
	rest := *c
	rest.Names = Texts{}
	if l.anyAvailability {
		rest.Availability = Text{}
	}
	w := printer{out: []byte(c.Kind.String())}
	objectForm[Clause]{l.shape}.encode(&w, &rest)
	id, ok := l.ids[string(w.out)]
	if !ok {
		id = len(l.ids)
		l.ids[string(w.out)] = id
	}
	return id
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

// appendNew appends the items of b that a doesn't have; of are the indices of a's items by name.
func appendNew[T any](a, b *List[T], s *shape[T], of *map[string][]int, name func(*T) string) {
	form := objectForm[T]{s}
	a.At = orElse(a.At, b.At)
	if len(b.Items) == 0 {
		return
	}
	if *of == nil {
		*of = make(map[string][]int, len(a.Items))
		for i := range a.Items {
			(*of)[name(&a.Items[i])] = append((*of)[name(&a.Items[i])], i)
		}
	}
	before := len(a.Items)
	for i := range b.Items {
		if !slices.ContainsFunc((*of)[name(&b.Items[i])], func(j int) bool { return form.equal(&a.Items[j], &b.Items[i]) }) {
			a.Items = append(a.Items, b.Items[i])
		}
	}
	for i := before; i < len(a.Items); i++ {
		(*of)[name(&a.Items[i])] = append((*of)[name(&a.Items[i])], i)
	}
}

func (m *merger) addEnvironments(a, b *List[Environment]) {
	if !b.At.IsSet() {
		return
	}
	a.At = orElse(a.At, b.At)
	if m.environments == nil {
		m.environments = make(map[string]int, len(a.Items))
		for i := range a.Items {
			m.environments[a.Items[i].Name.Value] = i
		}
	}
	for i := range b.Items {
		e := &b.Items[i]
		at, ok := m.environments[e.Name.Value]
		if !ok {
			m.environments[e.Name.Value] = len(a.Items)
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
	of := m.members[path]
	if of == nil {
		of = make(map[string]int, len(a.Members))
		for i := range a.Members {
			of[a.Members[i].Name] = i
		}
		if !strings.Contains(path, ".") { // a path with dots may be that of several objects
			if m.members == nil {
				m.members = map[string]map[string]int{}
			}
			m.members[path] = of
		}
	}
	for i := range b.Members {
		n := &b.Members[i]
		var old *Member
		if at, ok := of[n.Name]; ok {
			old = &a.Members[at]
		}
		sub := path + "." + n.Name
		switch {
		case old == nil:
			of[n.Name] = len(a.Members)
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
	if m.fields == nil {
		m.fields = make(map[string]int, len(a.Fields))
		for i := range a.Fields {
			m.fields[a.Fields[i].Key.Value] = i
		}
	}
	for i := range b.Fields {
		f := &b.Fields[i]
		if at, ok := m.fields[f.Key.Value]; !ok {
			m.fields[f.Key.Value] = len(a.Fields)
			a.Fields = append(a.Fields, *f)
		} else if !(objectForm[ConfigType]{&configTypeShape}).equal(&a.Fields[at].Type, &f.Type) {
			m.conflict(f.Key.At, a.Fields[at].Key.At, "Found conflicting entry for config key `%s`", f.Key.Value)
		}
	}
}

// Canonicalize brings the document into the order that `cmc include` prints: parts by name, capabilities by kind and name,
// clauses
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
	byText := func(a, b Text) int { return strings.Compare(a.Value, b.Value) }
	alike := likeness{shape: s, ids: map[string]int{}}
	var out []Clause
	at := map[int]int{} // where in out a likeness is
	for i := range l.Items {
		c := l.Items[i]
		for _, ts := range []*Texts{&c.From, &c.To, &c.Scope} {
			ts.Items = slices.SortedStableFunc(slices.Values(ts.Items), byText)
		}
		like := alike.of(&c)
		j, ok := at[like]
		if !ok || !s.many(c.Kind) || c.Path.At.IsSet() || c.As.At.IsSet() {
			at[like] = len(out)
			c.Names.Items = slices.Clone(c.Names.Items)
			out = append(out, c)
			continue
		}
		out[j].Names.Items = append(out[j].Names.Items, c.Names.Items...)
		out[j].Names.Many = true
	}
	for i := range out {
		names := &out[i].Names
		slices.SortStableFunc(names.Items, byText)
		names.Items = slices.CompactFunc(names.Items, func(a, b Text) bool { return a.Value == b.Value })
	}
	first := func(c Clause) string {
		if len(c.Names.Items) == 0 {
			return ""
		}
		return c.Names.Items[0].Value
	}
	slices.SortStableFunc(out, func(a, b Clause) int {
		return cmp.Or(strings.Compare(a.Kind.String(), b.Kind.String()), strings.Compare(first(a), first(b)))
	})
	l.Items = out
}

// many says whether a clause of the kind may have several names.
func (s *shape[T]) many(kind manifest.Kind) bool {
	return slices.ContainsFunc(s.keys, func(k key[T]) bool { return k.kind == kind && kind != 0 && k.form.(textsForm).many })
}
