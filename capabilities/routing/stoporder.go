package routing

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/manifest"
)

// A Vertex is what stops in a realm: the component's own program or one of its children.
type Vertex int32

// Self is the component's own program. The vertex of decl.Children[i] is StaticChild(i), that of dynamic[j] is
// DynamicChild(decl, j).
const Self Vertex = 0

// StaticChild is the vertex of decl.Children[i].
func StaticChild(i int) Vertex { return Vertex(1 + i) }

// DynamicChild is the vertex of the dynamic child number j of a realm with that declaration.
func DynamicChild(decl *manifest.Component, j int) Vertex { return Vertex(1 + len(decl.Children) + j) }

// A Dynamic is a live dynamic child.
type Dynamic struct {
	Segment string           // of its moniker: "jobs:import-7"
	Offers  []manifest.Offer // that it was created with
}

// A Graph says which parts of a realm rely on which others, so that what relies on another stops before it.
//
// Source: the reference of shutdown ordering (component-runtime.md §2). Strong dependencies only: from offers, from uses of
// children, from the directories behind storage, from registrations in environments to all children in them. Collections,
// environments, storage and dictionaries are vertices in between. Where self relies on a child, over whatever steps, the child
// stops after self; all other children stop before self.
type Graph struct {
	decl    *manifest.Component
	dynamic []Dynamic
	between []string // names of the vertices in between, for errors
	stops   int      // vertices below this stop; the others are in between
	edges   []edge
}

// An edge says that target relies on source.
type edge struct{ source, target Vertex }

// Dependencies makes the graph of the realm of a component with that declaration and those live dynamic children. Its time and
// space are linear in both.
func Dependencies(decl *manifest.Component, dynamic []Dynamic) *Graph {
	g := &Graph{decl: decl, dynamic: dynamic, stops: 1 + len(decl.Children) + len(dynamic)}
	g.edges = make([]edge, 0, len(decl.Offers)+len(decl.Uses)+2*len(decl.Children)+2*len(dynamic))
	b := builder{Graph: g, vertices: make(map[vertexKey]Vertex, len(decl.Children)+2*len(decl.Collections)+len(decl.Environments)+4)}
	b.declared()
	for i := range decl.Offers {
		o := &decl.Offers[i]
		if o.Dependency == manifest.Strong {
			b.edge(b.source(o.Source, o.Kind, o.SourceName), b.target(o.Target))
		}
	}
	for j := range dynamic {
		for i := range dynamic[j].Offers {
			o := &dynamic[j].Offers[i]
			if o.Dependency == manifest.Strong {
				b.edge(b.source(o.Source, o.Kind, o.SourceName), DynamicChild(decl, j))
			}
		}
	}
	for i := range decl.Uses {
		u := &decl.Uses[i]
		if s := b.source(u.Source, u.Kind, u.SourceName); u.Dependency == manifest.Strong && s != Self {
			b.edge(s, Self)
		}
	}
	g.childrenBeforeSelf()
	return g
}

// none is the vertex of what is not in this realm: the parent, the framework, void.
const none Vertex = -1

type builder struct {
	*Graph
	vertices map[vertexKey]Vertex
}

// A vertexKey finds a vertex by what a reference says. A collection has two vertices, one as a source and one as a target: what
// is offered to it goes to each instance, what comes from it comes from each instance, and that is no cycle.
type vertexKey struct {
	kind vertexKind
	name string
}

type vertexKind uint8

const (
	childVertex vertexKind = iota
	collectionSource
	collectionTarget
	environmentVertex
	storageVertex
	dictionaryVertex
)

func (b *builder) add(k vertexKind, name string) Vertex {
	v := Vertex(b.stops + len(b.between))
	b.between = append(b.between, name)
	b.vertices[vertexKey{k, name}] = v
	return v
}

func (b *builder) find(k vertexKind, name string) Vertex {
	if v, ok := b.vertices[vertexKey{k, name}]; ok {
		return v
	}
	return none
}

func (b *builder) edge(source, target Vertex) {
	if source != none && target != none {
		b.edges = append(b.edges, edge{source, target})
	}
}

// declared makes the vertices, and the edges that don't come from use and offer.
func (b *builder) declared() {
	d := b.decl
	for i := range d.Children {
		b.vertices[vertexKey{childVertex, d.Children[i].Name}] = StaticChild(i)
	}
	for j := range b.dynamic {
		b.vertices[vertexKey{childVertex, b.dynamic[j].Segment}] = DynamicChild(d, j)
	}
	for i := range d.Collections {
		b.add(collectionSource, d.Collections[i].Name)
		b.add(collectionTarget, d.Collections[i].Name)
	}
	for i := range d.Environments {
		b.add(environmentVertex, d.Environments[i].Name)
	}
	for i := range d.Capabilities {
		switch c := &d.Capabilities[i]; c.Kind {
		case manifest.KindStorage:
			b.add(storageVertex, c.Name)
		case manifest.KindDictionary:
			if v := b.add(dictionaryVertex, c.Name); c.Path != "" {
				b.edge(Self, v)
			}
		}
	}

	for i := range d.Children {
		if c := &d.Children[i]; c.Environment != "" {
			b.edge(b.find(environmentVertex, c.Environment), StaticChild(i))
		}
	}
	for j := range b.dynamic {
		collection, _, _ := strings.Cut(b.dynamic[j].Segment, ":")
		b.edge(b.find(collectionTarget, collection), DynamicChild(d, j))
		b.edge(DynamicChild(d, j), b.find(collectionSource, collection))
	}
	for i := range d.Collections {
		if c := &d.Collections[i]; c.Environment != "" {
			b.edge(b.find(environmentVertex, c.Environment), b.find(collectionTarget, c.Name))
		}
	}
	for i := range d.Environments {
		env := &d.Environments[i]
		v := b.find(environmentVertex, env.Name)
		for _, regs := range [...][]manifest.Registration{env.Runners, env.Resolvers, env.Debug} {
			for i := range regs {
				b.edge(b.source(regs[i].Source, regs[i].Kind, regs[i].Name), v)
			}
		}
	}
	for i := range d.Capabilities {
		if c := &d.Capabilities[i]; c.Storage != nil {
			b.edge(b.source(c.Storage.Source, manifest.KindDirectory, c.Storage.BackingDir), b.find(storageVertex, c.Name))
		}
	}
}

// source is the vertex of a capability's source, none if it is not in this realm.
func (b *builder) source(r manifest.Ref, kind manifest.Kind, name string) Vertex {
	switch r.Kind {
	case manifest.RefChild:
		return b.find(childVertex, r.Name)
	case manifest.RefCollection:
		return b.find(collectionSource, r.Name)
	case manifest.RefCapability:
		if v := b.find(storageVertex, r.Name); v != none {
			return v
		}
		return b.find(dictionaryVertex, r.Name)
	case manifest.RefSelf:
		k := dictionaryVertex
		switch {
		case r.Dictionary != "":
			name, _, _ = strings.Cut(r.Dictionary, "/")
		case kind == manifest.KindStorage:
			k = storageVertex
		case kind != manifest.KindDictionary:
			return Self
		}
		return b.find(k, name)
	default:
		return none
	}
}

func (b *builder) target(r manifest.Ref) Vertex {
	switch r.Kind {
	case manifest.RefChild:
		return b.find(childVertex, r.Name)
	case manifest.RefCollection:
		return b.find(collectionTarget, r.Name)
	case manifest.RefSelf:
		return b.find(dictionaryVertex, r.Dictionary)
	default:
		return none
	}
}

// childrenBeforeSelf adds an edge from self to each child that self does not rely on.
func (g *Graph) childrenBeforeSelf() {
	relied := make([]bool, g.stops+len(g.between))
	relied[Self] = true
	from := g.sourcesOf(g.edges)
	for queue := []Vertex{Self}; len(queue) > 0; {
		v := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, s := range from.of(v) {
			if !relied[s] {
				relied[s] = true
				queue = append(queue, s)
			}
		}
	}
	for v := Self + 1; int(v) < g.stops; v++ {
		if !relied[v] {
			g.edges = append(g.edges, edge{Self, v})
		}
	}
}

// sources are edges sorted by target: what v relies on is list[first[v]:first[v+1]].
type sources struct {
	first []int32
	list  []Vertex
}

func (s sources) of(v Vertex) []Vertex { return s.list[s.first[v]:s.first[v+1]] }

func (g *Graph) sourcesOf(edges []edge) sources {
	n := g.stops + len(g.between)
	s := sources{first: make([]int32, n+1), list: make([]Vertex, len(edges))}
	for _, e := range edges {
		s.first[e.target+1]++
	}
	for v := range n {
		s.first[v+1] += s.first[v]
	}
	fill := slices.Clone(s.first)
	for _, e := range edges {
		s.list[fill[e.target]] = e.source
		fill[e.target]++
	}
	return s
}

// Len is the number of vertices that stop.
func (g *Graph) Len() int { return g.stops }

// Name is "self", or "#" and the child's moniker segment.
func (g *Graph) Name(v Vertex) string {
	switch i := int(v) - 1; {
	case v == Self:
		return "self"
	case i < len(g.decl.Children):
		return "#" + g.decl.Children[i].Name
	case int(v) < g.stops:
		return "#" + g.dynamic[i-len(g.decl.Children)].Segment
	default:
		return "#" + g.between[int(v)-g.stops]
	}
}

// A CycleError says that a realm cannot be stopped in the order of its dependencies, as there is none.
type CycleError struct{ Path []string } // names, the first repeated as the last

func (e *CycleError) Error() string {
	return fmt.Sprintf("strong dependency cycle: {%s}; break it by removing a dependency or marking an offer as weak",
		strings.Join(e.Path, " -> "))
}

// Stops are the stops of a realm under way: which may happen now, and which follow. It is safe for concurrent use.
type Stops struct {
	g       *Graph
	sources sources

	// mu guards what is below.
	mu      sync.Mutex
	targets []int32 // of each vertex, how many of those that rely on it have not stopped; -1 once it was given out
	left    int
}

// Stops begins: ready are the vertices that may stop now. In a graph with a cycle the error is a *CycleError; the stops can be
// used all the same, as a realm must be able to stop: what is on a cycle, or waits for one, then waits only for the rest.
func (g *Graph) Stops() (s *Stops, ready []Vertex, err error) {
	s = &Stops{g: g, left: g.stops, sources: g.sourcesOf(g.edges), targets: g.targetCounts(g.edges)}
	if stuck := s.stuck(); stuck != nil {
		onCycle := func(e edge) bool { return stuck[e.source] > 0 && stuck[e.target] > 0 }
		err = g.cycle(onCycle)
		edges := slices.DeleteFunc(slices.Clone(g.edges), onCycle)
		s.sources, s.targets = g.sourcesOf(edges), g.targetCounts(edges)
	}
	for v := range s.targets {
		if s.targets[v] == 0 {
			ready = s.give(ready, Vertex(v))
		}
	}
	return s, ready, err
}

func (g *Graph) targetCounts(edges []edge) []int32 {
	n := make([]int32, g.stops+len(g.between))
	for _, e := range edges {
		n[e.source]++
	}
	return n
}

// Done says that v has stopped (or was not there), and returns what may stop now. Calls after the first for a v return nothing.
func (s *Stops) Done(v Vertex) (ready []Vertex) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.targets[v] != given {
		return nil
	}
	return s.release(nil, v)
}

// Left is how many vertices have not stopped.
func (s *Stops) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// Marks in Stops.targets.
const (
	given = -1 // it may stop, and was told so
	over  = -2 // it has stopped
)

// give adds v to ready; what is in between stops at once.
func (s *Stops) give(ready []Vertex, v Vertex) []Vertex {
	s.targets[v] = given
	if int(v) < s.g.stops {
		return append(ready, v)
	}
	return s.release(ready, v)
}

func (s *Stops) release(ready []Vertex, v Vertex) []Vertex {
	s.targets[v] = over
	if int(v) < s.g.stops {
		s.left--
	}
	for _, source := range s.sources.of(v) {
		if s.targets[source]--; s.targets[source] == 0 {
			ready = s.give(ready, source)
		}
	}
	return ready
}

// stuck runs the order to its end and returns how many targets each vertex still waits for, nil if none is left waiting.
func (s *Stops) stuck() []int32 {
	wait := slices.Clone(s.targets)
	var queue []Vertex
	for v, n := range wait {
		if n == 0 {
			queue = append(queue, Vertex(v))
		}
	}
	done := 0
	for ; done < len(queue); done++ {
		for _, source := range s.sources.of(queue[done]) {
			if wait[source]--; wait[source] == 0 {
				queue = append(queue, source)
			}
		}
	}
	if done == len(wait) {
		return nil
	}
	return wait
}

// cycle finds one among the edges for which on is true; every source of one is the target of another or leads to a cycle.
func (g *Graph) cycle(on func(edge) bool) *CycleError {
	next := make(map[Vertex]Vertex)
	v := none
	for _, e := range g.edges {
		if _, ok := next[e.source]; !ok && on(e) {
			next[e.source], v = e.target, e.source
		}
	}
	for seen := map[Vertex]bool{}; !seen[v]; v = next[v] {
		seen[v] = true
	}
	// v is on a cycle; begin it at its smallest name.
	first := v
	for at := next[v]; at != v; at = next[at] {
		if g.Name(at) < g.Name(first) {
			first = at
		}
	}
	path := []string{g.Name(first)}
	for at := next[first]; ; at = next[at] {
		// The two vertices of a collection are one to the reader.
		if n := g.Name(at); n != path[len(path)-1] || len(path) == 1 && at == first {
			path = append(path, n)
		}
		if at == first {
			return &CycleError{path}
		}
	}
}
