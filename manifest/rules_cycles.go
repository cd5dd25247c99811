package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// An edge says that to needs from: from must not stop before to.
type edge struct {
	from, to string
	why      reason
	at       place
}

// A reason is what an edge comes of, put into words only if the edge is in a cycle.
type reason struct {
	form string // "offer of %s %q", for kind and name; if there is no name it is all
	kind Kind
	name string
}

func (r reason) String() string {
	if r.name == "" {
		return r.form
	}
	return fmt.Sprintf(r.form, r.kind, r.name)
}

// cycles reports strong dependencies that go round (V70): there would be no order to shut the component down in.
func (v *validator) cycles() {
	g := graph{next: map[string][]edge{}}
	c := v.c
	for i := range c.Offers {
		o := &c.Offers[i]
		if o.Dependency != Strong {
			continue
		}
		from := v.node(o.Source, o.Kind, o.SourceName)
		if from == "" {
			continue // from outside
		}
		to := "#" + o.Target.Name
		if o.Target.Kind == RefSelf {
			dict, _, _ := strings.Cut(o.Target.Dictionary, "/")
			to = "#" + dict
		}
		// A child that is offered its own capability, or the storage that it backs, is an error of its own.
		if from != to && !v.backs(o) {
			g.add(from, to, reason{"offer of %s %q", o.Kind, o.SourceName}, here(o.Pos))
		}
	}
	for i := range c.Uses {
		u := &c.Uses[i]
		if from := v.node(u.Source, u.Kind, u.SourceName); u.Dependency == Strong && from != "self" {
			g.add(from, "self", reason{"use of %s %q", u.Kind, u.SourceName}, here(u.Pos))
		}
	}
	for i := range c.Environments {
		e := &c.Environments[i]
		for _, rs := range [][]Registration{e.Runners, e.Resolvers, e.Debug} {
			for j := range rs {
				r := &rs[j]
				g.add(v.node(r.Source, r.Kind, r.Name), "#"+e.Name, reason{"%s %q of the environment", r.Kind, r.Name}, here(r.Pos))
			}
		}
	}
	for i := range c.Children {
		if k := &c.Children[i]; k.Environment != "" {
			g.add("#"+k.Environment, "#"+k.Name, reason{form: "environment of the child"}, v.pos(SectionChildren, i, "environment", k.Pos))
		}
	}
	for i := range c.Collections {
		if k := &c.Collections[i]; k.Environment != "" {
			g.add("#"+k.Environment, "#"+k.Name, reason{form: "environment of the collection"},
				v.pos(SectionCollections, i, "environment", k.Pos))
		}
	}
	for i := range c.Capabilities {
		switch k := &c.Capabilities[i]; {
		case k.Kind == KindDictionary && k.Path != "":
			g.add("self", "#"+k.Name, reason{"dynamic %s %q", k.Kind, k.Name}, here(k.Pos))
		case k.Kind == KindStorage && k.Storage != nil:
			g.add(v.node(k.Storage.Source, KindDirectory, k.Storage.BackingDir), "#"+k.Name, reason{"backing of %s %q", k.Kind, k.Name},
				here(k.Pos))
		}
	}
	found, more := g.elementary()
	if len(found) == 0 {
		return
	}
	texts := make([]string, len(found))
	var hint strings.Builder
	hint.WriteString("where they come from:")
	for i, cycle := range found {
		var b strings.Builder
		for j, e := range cycle {
			if left := len(cycle) - j; j >= 20 && left > 3 { // nobody reads a cycle of thousands
				if left == 4 {
					fmt.Fprintf(&b, "… %d more … -> ", len(cycle)-23)
				}
				continue
			}
			b.WriteString(e.from + " -> ")
			fmt.Fprintf(&hint, "\n    %s -> %s: %s", e.from, e.to, e.why)
			if at := v.find(e.at); at.IsValid() {
				hint.WriteString(" at " + at.String())
			}
		}
		texts[i] = "{" + b.String() + cycle[0].from + "}"
	}
	if more {
		fmt.Fprintf(&hint, "\n    and there are more cycles than these %d", len(found))
	}
	v.report(found[0][0].at, "cycle", hint.String(),
		"Strong dependency cycles were found. Break the cycle by removing a dependency or marking an offer as weak. Cycles: {%s}",
		strings.Join(texts, ", "))
}

// node is the node that a source stands for; "" if the source is outside.
func (v *validator) node(r Ref, k Kind, capName string) string {
	switch r.Kind {
	case RefChild, RefCollection, RefCapability:
		return "#" + r.Name
	case RefSelf:
		if r.Dictionary != "" {
			dict, _, _ := strings.Cut(r.Dictionary, "/")
			return "#" + dict
		}
		if k == KindDictionary || k == KindStorage {
			return "#" + capName
		}
		return "self"
	}
	return ""
}

type graph struct{ next map[string][]edge }

func (g *graph) add(from, to string, why reason, at place) {
	if from != "" {
		g.next[from] = append(g.next[from], edge{from, to, why, at})
	}
}

// elementary lists cycles that pass no node twice, each from its smallest node, in order. It stops after the first few, since
// their number can grow exponentially; more says that there are others.
func (g *graph) elementary() (out [][]edge, more bool) {
	const maxCycles, maxSteps = 10, 100_000
	component := g.components()
	if len(component) == 0 {
		return nil, false
	}
	for from, es := range g.next {
		slices.SortStableFunc(es, func(a, b edge) int { return cmp.Compare(a.to, b.to) })
		g.next[from] = slices.CompactFunc(es, func(a, b edge) bool { return a.to == b.to })
	}
	nodes := make([]string, 0, len(component))
	for n := range component {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	var path []edge
	on := map[string]bool{}
	steps := 0
	var walk func(start, at string)
	walk = func(start, at string) {
		for _, e := range g.next[at] {
			if steps++; steps > maxSteps || len(out) > maxCycles {
				return
			}
			if component[e.to] != component[start] || e.to < start || on[e.to] {
				continue
			}
			path = append(path, e)
			if e.to == start {
				out = append(out, slices.Clone(path))
			} else {
				on[e.to] = true
				walk(start, e.to)
				delete(on, e.to)
			}
			path = path[:len(path)-1]
		}
	}
	for _, n := range nodes {
		walk(n, n)
	}
	switch {
	case len(out) == 0:
		return [][]edge{g.shortest(nodes[0], component)}, false // a long ring, most likely the only one
	case len(out) > maxCycles:
		return out[:maxCycles], true
	}
	return out, steps > maxSteps
}

// shortest is a shortest cycle through start.
func (g *graph) shortest(start string, component map[string]int) []edge {
	by := map[string]edge{} // the edge by which each node was reached
	for queue := []string{start}; ; queue = queue[1:] {
		for _, e := range g.next[queue[0]] {
			if _, ok := by[e.to]; ok || component[e.to] != component[start] {
				continue
			}
			by[e.to] = e
			if e.to != start {
				queue = append(queue, e.to)
				continue
			}
			path := []edge{e}
			for e.from != start {
				e = by[e.from]
				path = append(path, e)
			}
			slices.Reverse(path)
			return path
		}
	}
}

// components numbers the strongly connected components that have a cycle; other nodes are left out (Tarjan's algorithm, without
// recursion, since a chain of offers may be as long as the manifest).
func (g *graph) components() map[string]int {
	type frame struct {
		node string
		i    int
	}
	index, low, onStack := map[string]int{}, map[string]int{}, map[string]bool{}
	out := map[string]int{}
	var stack []string
	roots := make([]string, 0, len(g.next))
	for n := range g.next {
		roots = append(roots, n)
	}
	slices.Sort(roots)
	for _, root := range roots {
		if _, ok := index[root]; ok {
			continue
		}
		var calls []frame
		enter := func(n string) {
			index[n] = len(index)
			low[n] = index[n]
			stack = append(stack, n)
			onStack[n] = true
			calls = append(calls, frame{node: n})
		}
		enter(root)
		for len(calls) > 0 {
			f := &calls[len(calls)-1]
			if f.i < len(g.next[f.node]) {
				to := g.next[f.node][f.i].to
				f.i++
				if _, ok := index[to]; !ok {
					enter(to)
				} else if onStack[to] {
					low[f.node] = min(low[f.node], index[to])
				}
				continue
			}
			n := f.node
			calls = calls[:len(calls)-1]
			if len(calls) > 0 {
				up := calls[len(calls)-1].node
				low[up] = min(low[up], low[n])
			}
			if low[n] != index[n] {
				continue
			}
			var members []string
			for {
				m := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				onStack[m] = false
				members = append(members, m)
				if m == n {
					break
				}
			}
			if len(members) == 1 && !slices.ContainsFunc(g.next[n], func(e edge) bool { return e.to == n }) {
				continue
			}
			for _, m := range members {
				out[m] = index[n] + 1
			}
		}
	}
	return out
}
