package realm

import (
	"context"
	"errors"
	"sync"

	"github.com/cmgr/cmgr/capabilities/routing"
)

// shutdown ends i and all below it for good: targets of strong dependencies before their sources, independent ones at the same time.
// It returns once nothing runs, or says what could not be ended; then the rest has been ended all the same.
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
	i.mu.Lock()
	res := i.resolutionLocked()
	var kids []*instance // by vertex: static children as declared, then the dynamic ones; vertex 0 is i itself
	var dynamic []routing.Dynamic
	if res != nil {
		d := res.Decl.Decl()
		kids = make([]*instance, 1, 1+len(i.children))
		for k := range d.Children {
			kids = append(kids, i.children[d.Children[k].Name])
		}
		for seg, c := range i.children {
			if c.decl.collection != nil {
				kids = append(kids, c)
				dynamic = append(dynamic, routing.Dynamic{Segment: seg, Offers: c.decl.offers})
			}
		}
	}
	i.mu.Unlock()

	if res != nil {
		if err := i.stopInOrder(ctx, routing.Dependencies(res.Decl.Decl(), dynamic), kids); err != nil {
			return err // something of it runs and could not be ended: it may be tried again
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.state = shutdown{res}
	i.emitLocked(Event{Kind: EventShutdown})
	return nil
}

// stopInOrder drives the order that routing computed: each part that may stop does so at once, on a goroutine of its own.
func (i *instance) stopInOrder(ctx context.Context, g *routing.Graph, kids []*instance) error {
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
				var err error
				if v == routing.Self {
					err = i.stop(ctx, "shutdown")
				} else if c := kids[v]; c != nil {
					err = c.shutdown(ctx)
				}
				if err != nil {
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
