package realm

import (
	"context"
	"errors"
	"sync"

	"github.com/cmgr/cmgr/capabilities/routing"
)

// shutdown ends i and all below it for good: targets of strong dependencies before their sources, independent ones at the same
// time. It returns once nothing runs, or says what could not be ended; then the rest has been ended all the same.
func (i *instance) shutdown(ctx context.Context) error {
	i.mu.Lock()
	switch i.state.(type) {
	case shutdown, destroyed:
		i.mu.Unlock()
		return nil
	}
	i.closing = true
	i.dropRestartLocked()
	a := i.beginLocked(shuttingDown, i.doShutdown)
	i.mu.Unlock()
	return a.wait(ctx)
}

func (i *instance) doShutdown(ctx context.Context) error {
	if err := i.abortStart(ctx, errEnds); err != nil {
		return err
	}
	if err := i.endExplorations(ctx); err != nil {
		return err
	}
	g, kids := i.dependencies()
	if g != nil {
		stop := func(v routing.Vertex) error {
			if v == routing.Self {
				return i.stop(ctx, "shutdown")
			}
			if c := kids[v]; c != nil {
				return c.shutdown(ctx)
			}
			return nil
		}
		if err := i.inOrder(g, stop); err != nil {
			return err // something of it runs and could not be ended: it may be tried again
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.state = shutdown{i.resolutionLocked()}
	i.emitLocked(Event{Kind: EventShutdown})
	return nil
}

// dependencies are who relies on whom in i's realm, and the instances by vertex: static children as declared, nil for one that is
// not there, then the dynamic ones; vertex 0 is i itself. The graph is nil if i is not resolved.
func (i *instance) dependencies() (*routing.Graph, []*instance) {
	i.mu.Lock()
	res := i.resolutionLocked()
	if res == nil {
		i.mu.Unlock()
		return nil, nil
	}
	d := res.Decl.Decl()
	var dynamic []routing.Dynamic
	kids := make([]*instance, 1, 1+len(i.children))
	for k := range d.Children {
		kids = append(kids, i.children[d.Children[k].Name])
	}
	for seg, c := range i.children {
		if c.decl.collection != nil {
			kids = append(kids, c)
			dynamic = append(dynamic, routing.Dynamic{Segment: seg, Offers: c.decl.offers})
		}
	}
	i.mu.Unlock()
	return routing.Dependencies(d, dynamic), kids
}

// inOrder drives the order that routing computed: f is called for each part as soon as it may stop, on a goroutine of its own.
func (i *instance) inOrder(g *routing.Graph, f func(routing.Vertex) error) error {
	stops, ready, err := g.Stops()
	if err != nil {
		i.realm.cfg.Sinks.Note(i.moniker, "shutdown: "+err.Error())
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		errs  []error
		begin func(ready []routing.Vertex)
	)
	begin = func(ready []routing.Vertex) {
		for _, v := range ready {
			wg.Go(func() {
				if err := f(v); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
				begin(stops.Done(v))
			})
		}
	}
	begin(ready)
	wg.Wait()
	return errors.Join(errs...)
}
