package verify

import (
	"context"
	"errors"
	"slices"

	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest/name"
)

// A Cycle says that the children of an instance rely on each other in a circle, so that they cannot be stopped in order.
type Cycle struct {
	At   name.Moniker `json:"moniker"`
	Path []string     `json:"path"` // "#a", "#b", "#a"
}

// ShutdownOrder says in which order the tree would stop, if all of it ran. What is in one step may stop at the same time; each
// instance stops as early as it may if each takes as long as any other. In a realm with a cycle, what is on it is not ordered.
func (t *Tree) ShutdownOrder(ctx context.Context) (steps [][]name.Moniker, cycles []Cycle, err error) {
	o := stopper{ctx: ctx, tree: t}
	o.stop(t.root, 0)
	for _, s := range o.steps {
		slices.Sort(s)
	}
	return o.steps, o.cycles, ctx.Err()
}

type stopper struct {
	ctx    context.Context
	tree   *Tree
	steps  [][]name.Moniker
	cycles []Cycle
	done   int
}

// stop stops n and all below it from the step on, and returns the step after the last.
func (o *stopper) stop(n *node, step int) int {
	if o.ctx.Err() != nil {
		return step
	}
	o.done++
	o.tree.progress(o.done, o.tree.Instances)
	self := func(step int) int {
		for len(o.steps) <= step {
			o.steps = append(o.steps, nil)
		}
		o.steps[step] = append(o.steps[step], n.moniker)
		return step + 1
	}
	d, err := n.Decl(o.ctx)
	if err != nil || len(d.Children) == 0 {
		return self(step)
	}
	stops, ready, err := routing.Dependencies(d, nil).Stops()
	if c, ok := errors.AsType[*routing.CycleError](err); ok {
		o.cycles = append(o.cycles, Cycle{n.moniker, c.Path})
	}
	// Whatever ends first makes room first, as in the running tree.
	ending := map[int][]routing.Vertex{} // by the step after their last
	end := step
	begin := func(vs []routing.Vertex, step int) {
		for _, v := range vs {
			var at int
			if v == routing.Self {
				at = self(step)
			} else {
				at = o.stop(n.child(int(v-routing.StaticChild(0))), step)
			}
			ending[at] = append(ending[at], v)
			end = max(end, at)
		}
	}
	begin(ready, step)
	for ; step <= end; step++ {
		for _, v := range ending[step] {
			begin(stops.Done(v), step)
		}
		delete(ending, step)
	}
	return end
}
