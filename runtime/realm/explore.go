package realm

import (
	"context"
	"errors"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// An exploration is an operator's program in the place of an instance's own.
type exploration struct {
	run  *run // in which it takes part; nil: the instance did not run
	end  context.CancelCauseFunc
	over chan struct{} // closed when nothing of it is left
}

var errRunOver = errors.New("the component has ended")

// Explore runs x in the place of m's own program: with what is routed to it, as a run of it would have it, and under its limits.
// m is resolved if need be, and not started; if it runs, x ends with the run. note is what m's log says of it. Explore returns
// how x ended; at the end of ctx it is killed. The files of x are Explore's.
func (r *Realm) Explore(ctx context.Context, m name.Moniker, x runners.Exploration, note string) (runners.Exit, error) {
	mine := true // the files
	defer func() {
		if mine {
			x.Close()
		}
	}()
	i, err := r.reach(ctx, m)
	if err != nil {
		return runners.Exit{}, err
	}
	res, err := i.resolve(ctx)
	if err != nil {
		return runners.Exit{}, err
	}
	explorer, err := i.explorer(ctx)
	if err != nil {
		return runners.Exit{}, err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(r.ctx, func() { end(errEnds) })()
	e := &exploration{end: end, over: make(chan struct{})}
	if x.Beside, err = i.join(e); err != nil {
		return runners.Exit{}, err
	}
	r.hold()
	defer r.release()
	defer i.part(e)

	d := res.Decl.Decl()
	info := runners.StartInfo{Moniker: i.moniker, URL: res.URL, Package: res.Package}
	if d.Program != nil {
		info.Program = runners.Block{Pos: d.Program.Pos, Info: d.Program.Info}
	}
	got := &delivery{}
	defer got.end()
	if r.cfg.Sockets != nil {
		if err := i.deliverUses(ctx, got, d, &info); err != nil {
			info.Close()
			return runners.Exit{}, err
		}
	}
	r.cfg.Sinks.Note(i.moniker, note)
	mine = false
	p, err := explorer.Explore(ctx, info, x)
	if err != nil {
		return runners.Exit{}, err
	}
	if x.Launched != nil {
		x.Launched()
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		_ = p.Kill(context.Background())
		exit, err = p.Wait(context.Background()) // the runner bounds it
		if cause := context.Cause(ctx); errors.Is(cause, errRunOver) || errors.Is(cause, errEnds) {
			exit.Cause, exit.Detail = runners.ByRunner, cause.Error()
		}
	}
	return exit, err
}

// explorer is i's runner, which can have it explored.
func (i *instance) explorer(ctx context.Context) (runners.Explorer, error) {
	route, err := i.realm.engine.Runner(ctx, i)
	if err != nil {
		return nil, err
	}
	if route == nil {
		return nil, i.precondition("explore", "it has no program, and so no namespace")
	}
	if route.Source.Kind == capabilities.FromBuiltin {
		if e, ok := i.realm.cfg.Runners[route.Source.Name].(runners.Explorer); ok {
			return e, nil
		}
	}
	return nil, i.precondition("explore", "its runner %s lets nobody into what it runs", route.Source.Name)
}

// join adds e, and returns the program of the run that it takes part in, nil for none.
func (i *instance) join(e *exploration) (runners.Program, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.finalLocked(); err != nil {
		return nil, i.precondition("explore", "%w", err)
	}
	if i.explorations == nil {
		i.explorations = map[*exploration]struct{}{}
	}
	i.explorations[e] = struct{}{}
	e.run = i.currentRunLocked()
	if e.run == nil {
		return nil, nil
	}
	return e.run.program, nil
}

// part removes e.
func (i *instance) part(e *exploration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.explorations, e)
	close(e.over)
}

// leaveLocked ends the explorations that took part in n, which is over.
func (i *instance) leaveLocked(n *run) {
	for e := range i.explorations {
		if e.run == n {
			e.end(errRunOver)
		}
	}
}

// endExplorations ends all of them and waits until nothing of them is left.
func (i *instance) endExplorations(ctx context.Context) error {
	i.mu.Lock()
	var all []*exploration
	for e := range i.explorations {
		e.end(errEnds)
		all = append(all, e)
	}
	i.mu.Unlock()
	for _, e := range all {
		select {
		case <-e.over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
