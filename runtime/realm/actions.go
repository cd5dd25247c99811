package realm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/supervision"
)

var (
	errStopped   = errors.New("stopped while starting")
	errEnds      = errors.New("it is being shut down")
	errShutdown  = errors.New("it is shut down")
	errDestroyed = errors.New("it is destroyed")
)

// final is why nothing can be started here any more, or nil.
func (i *instance) finalLocked() error {
	switch i.state.(type) {
	case destroyed:
		return errDestroyed
	case shutdown:
		return errShutdown
	}
	if i.closing {
		return errEnds
	}
	return nil
}

func (i *instance) resolve(ctx context.Context) (*resolution, error) {
	i.mu.Lock()
	if res := i.resolutionLocked(); res != nil {
		i.mu.Unlock()
		return res, nil
	}
	if err := i.finalLocked(); err != nil {
		i.mu.Unlock()
		return nil, i.precondition("resolve", "%w", err)
	}
	a := i.beginLocked(resolving, i.doResolve)
	i.mu.Unlock()
	done, err := i.await(ctx, "resolve")
	if err != nil {
		return nil, err
	}
	err = a.wait(ctx)
	done()
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if res := i.resolutionLocked(); res != nil {
		return res, nil
	}
	return nil, i.precondition("resolve", "its manifest was given up meanwhile")
}

func (i *instance) doResolve(ctx context.Context) error {
	got, err := i.fetch(within(ctx, i))
	fetched := err == nil
	if fetched {
		err = i.grow(got)
	}
	if err != nil {
		at := ""
		if pos := i.declaredAt(); pos.IsValid() {
			at = fmt.Sprintf(" (declared at %s)", pos)
		}
		err = fmt.Errorf("resolve %s%s: %w", i.moniker, at, err)
		if !fetched { // a log of its own for each instance that there is no room for would fill the disk
			i.realm.cfg.Sinks.Note(i.moniker, err.Error())
		}
		i.mu.Lock()
		i.pastLocked().lastError = err
		i.emitLocked(Event{Kind: EventFailed, Err: err})
		i.mu.Unlock()
		i.realm.noteEnd(i.moniker, err.Error())
		return err
	}
	res := &resolution{got}
	i.mu.Lock()
	if i.closing {
		i.mu.Unlock()
		i.realm.count(-len(got.Decl.Decl().Children))
		return i.precondition("resolve", "%w", errEnds)
	}
	i.state = resolved{res}
	if i.past != nil {
		i.past.lastError = nil
	}
	i.emitLocked(Event{Kind: EventResolved})
	d := got.Decl.Decl()
	if len(d.Children) > 0 {
		i.children = make(map[string]*instance, len(d.Children))
	}
	for k := range d.Children {
		c := &d.Children[k]
		child := newInstance(i.realm, i, c.Name, staticChild(c))
		i.children[c.Name] = child
		child.emitLocked(Event{Kind: EventDiscovered})
	}
	again := i.forgotten
	i.forgotten = false
	i.mu.Unlock()
	i.declares(d)
	if i.parent == nil {
		i.realm.spawn(func() { i.realm.expose(i.realm.ctx) })
	}
	if again {
		i.realm.refreshAll()
	}
	return nil
}

// grow makes room for the children that the manifest declares.
func (i *instance) grow(got *resolver.Resolved) error {
	n := len(got.Decl.Decl().Children)
	const hint = "is there a manifest that is a child of itself, or of what is below it?"
	if n > 0 && strings.Count(string(i.moniker), "/") >= maxDepth {
		return &resolver.Error{URL: got.URL, Why: capabilities.Invalid, Err: fmt.Errorf("more than %d levels of children", maxDepth), Hint: hint}
	}
	if n > 0 && !i.realm.room(n) {
		err := fmt.Errorf("with its children (%d) the tree would have more than %d instances", n, i.realm.limit())
		return &resolver.Error{URL: got.URL, Why: capabilities.Invalid, Err: err, Hint: hint}
	}
	return nil
}

// fetch reads i's manifest.
func (i *instance) fetch(ctx context.Context) (*resolver.Resolved, error) {
	var parent *resolver.Resolved
	if i.parent != nil {
		res, err := i.parent.resolve(ctx)
		if err != nil {
			return nil, err
		}
		parent = res.Resolved
	}
	return i.realm.fetch(ctx, i, i.decl.url, parent)
}

// fetch finds the resolver for the URL of n and asks it.
func (r *Realm) fetch(ctx context.Context, n routing.Node, url string, parent *resolver.Resolved) (*resolver.Resolved, error) {
	// A relative URL is resolved by what resolved the nearest ancestor with an absolute one: the parent's resolved URL is absolute.
	scheme := name.Scheme(url)
	if scheme == "" && parent != nil {
		scheme = name.Scheme(parent.URL)
	}
	route, err := r.engine.Resolver(ctx, n, scheme)
	if err != nil {
		return nil, err
	}
	asked, err := r.resolver(ctx, n.Moniker(), route)
	if err != nil {
		return nil, err
	}
	return asked.Resolve(ctx, url, parent)
}

func (i *instance) start(ctx context.Context, reason string) error {
	return i.startThen(ctx, reason, func() {})
}

// startThen is start; launched is called when the program's process exists, if that is before it is ready.
func (i *instance) startThen(ctx context.Context, reason string, launched func()) error {
	done, err := i.await(ctx, "start")
	if err != nil {
		return err
	}
	defer done()
	for {
		i.mu.Lock()
		if err := i.finalLocked(); err != nil {
			i.mu.Unlock()
			return i.precondition("start", "%w", err)
		}
		if i.disabled {
			i.emitLocked(Event{Kind: EventDisabled, Text: reason})
			i.mu.Unlock()
			return &Error{
				Op: "start", At: i.moniker, Why: capabilities.Precondition, Err: errors.New("it is disabled"),
				Hint: fmt.Sprintf("`cmgr enable %s` lets it start", i.moniker),
			}
		}
		switch s := i.state.(type) {
		case started:
			if i.acts[stoppingRun] == nil {
				i.mu.Unlock()
				return nil
			}
		case stopping:
			over := s.endedLocked()
			i.mu.Unlock()
			select {
			case <-over:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		if a := i.acts[stoppingRun]; a != nil {
			i.mu.Unlock()
			if err := a.wait(ctx); err != nil && ctx.Err() != nil {
				return err
			}
			continue
		}
		i.dropRestartLocked()
		if reason != reasonRestart && i.past != nil { // somebody wants it: the account of its restarts begins anew
			i.past.gaveUp, i.past.history = false, supervision.History{}
		}
		a := i.beginLocked(starting, func(ctx context.Context) error { return i.doStart(ctx, reason, launched) })
		i.mu.Unlock()
		return a.wait(ctx)
	}
}

// reasonRestart is the start reason of what a restart policy starts.
const reasonRestart = "restart"

// readyPatience is how long a start may wait for its program to be ready before that is told.
const readyPatience = 3 * time.Second

func (i *instance) doStart(ctx context.Context, reason string, launched func()) error {
	var patience atomic.Pointer[time.Timer]
	n, err := i.launch(within(ctx, i), reason, func() {
		launched()
		patience.Store(time.AfterFunc(readyPatience, func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.emitLocked(Event{Kind: EventWaiting, Text: fmt.Sprintf("started %s ago, and not ready yet", readyPatience)})
		}))
	})
	if t := patience.Load(); t != nil {
		t.Stop()
	}
	if err == nil {
		return i.running(ctx, n)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	if u := (*unresolvable)(nil); errors.As(err, &u) {
		i.notStarted()
		return u.error // resolving has told it
	}
	err = i.startError(err)
	i.realm.cfg.Sinks.Note(i.moniker, err.Error())
	now := time.Now()
	exit := runners.Exit{Code: -1, Detail: err.Error(), Started: now, Ended: now}
	var re *runners.Error
	ran := errors.As(err, &re) && re.Exit != nil
	if ran {
		exit = *re.Exit
	}

	i.mu.Lock()
	p := i.pastLocked()
	if p.lastError = err; ran {
		p.lastExit = &exit
	}
	i.emitLocked(Event{Kind: EventFailed, Err: err, Text: reason})
	if ctx.Err() != nil { // it was asked to end
		i.mu.Unlock()
		i.afterEnd()
		return err
	}
	reboot := ""
	switch capabilities.CodeOf(err) {
	case capabilities.Invalid, capabilities.Denied, capabilities.NotFound:
		// Trying again would give the same: the manifest, the policy or the package must change first.
		if exit.Critical {
			reboot = i.verdictLocked(&run{}, exit)
		}
	default:
		reboot = i.verdictLocked(&run{}, exit)
	}
	i.mu.Unlock()
	i.realm.noteEnd(i.moniker, err.Error())
	i.notStarted()
	i.takeDown(reboot, exit)
	return err
}

// takeDown tells that an end must take the whole tree down; why is "" if it needn't.
func (i *instance) takeDown(why string, exit runners.Exit) {
	if why == "" || i.realm.cfg.Rebooted == nil {
		return
	}
	i.mu.Lock()
	i.emitLocked(Event{Kind: EventReboot, Text: why, Exit: &exit})
	i.mu.Unlock()
	i.realm.noteEnd(i.moniker, exit.String()+"; "+why)
	i.realm.cfg.Rebooted(i.moniker, why+": "+exit.String())
}

// unresolvable is a start that failed as the instance could not be resolved.
type unresolvable struct{ error }

func (u *unresolvable) Unwrap() error { return u.error }

// startError names the instance once, whatever the cause calls itself.
func (i *instance) startError(err error) error {
	var re *runners.Error
	if errors.As(err, &re) && re.At == i.moniker {
		return err
	}
	var own *Error
	if errors.As(err, &own) && own.At == i.moniker {
		return err
	}
	return &Error{Op: "start", At: i.moniker, Why: capabilities.CodeOf(err), Err: err}
}

// launch brings i's program to life. n.program stays nil for a component without one.
func (i *instance) launch(ctx context.Context, reason string, launched func()) (*run, error) {
	res, err := i.resolve(ctx)
	if err != nil {
		return nil, &unresolvable{err}
	}
	d := res.Decl.Decl()
	if i.decl.onTerminate == manifest.OnTerminateReboot && !i.realm.cfg.Policy.RebootOnTerminate(i.moniker) {
		return nil, &Error{
			Op: "start", At: i.moniker, Why: capabilities.Denied,
			Err:  errors.New(`on_terminate: "reboot" is not allowed for it`),
			Hint: fmt.Sprintf("add %q to security_policy.child_policy.reboot_on_terminate of the manager's --config", i.moniker),
		}
	}
	route, err := i.realm.engine.Runner(ctx, i)
	if err != nil {
		return nil, err
	}
	if route == nil {
		return &run{reason: reason, since: time.Now()}, nil
	}
	runner, err := i.realm.runner(ctx, i, route)
	if err != nil {
		return nil, err
	}
	info := runners.StartInfo{Moniker: i.moniker, URL: res.URL, Package: res.Package, Launched: launched}
	if d.Program != nil {
		info.Program = runners.Block{Pos: d.Program.Pos, Info: d.Program.Info}
	}
	n := &run{reason: reason, since: time.Now()}
	if info.Stdout, info.Stderr, n.drained, err = i.realm.cfg.Sinks.Open(i.moniker); err != nil {
		return nil, err
	}
	if n.has, err = i.deliver(ctx, d, &info); err != nil {
		info.Close()
		n.drained(i.realm.ctx)
		return nil, err
	}
	if n.program, err = runner.Start(ctx, info); err != nil {
		n.drained(i.realm.ctx)
		n.has.end()
		return nil, err
	}
	return n, nil
}

// running makes a launched run the instance's state.
func (i *instance) running(ctx context.Context, n *run) error {
	i.mu.Lock()
	if ctx.Err() != nil && n.program == nil {
		i.mu.Unlock()
		return i.precondition("start", "%w", context.Cause(ctx))
	}
	res := i.resolutionLocked()
	i.state = started{res, n}
	if i.past != nil {
		i.past.lastError = nil
	}
	i.emitLocked(Event{Kind: EventStarted, Text: n.reason})
	i.mu.Unlock()
	if n.program != nil {
		i.realm.noteRun()
		if p, ok := n.program.(runners.HealthNotifier); ok {
			p.OnUnhealthy(func(why string) { i.realm.spawn(func() { i.unhealthy(n, why) }) })
		}
		i.realm.hold() // released in ended
		i.realm.wg.Add(1)
		over := func(e runners.Exit) {
			go func() {
				defer i.realm.wg.Done()
				defer i.realm.release()
				i.ended(n, e)
			}()
		}
		if p, ok := n.program.(runners.Notifier); ok {
			p.OnExit(over)
		} else {
			go func() {
				e, err := n.program.Wait(context.Background())
				if err != nil {
					e = runners.Exit{Code: -1, Cause: runners.ByRunner, Detail: err.Error(), Started: n.since, Ended: time.Now()}
				}
				over(e)
			}()
		}
	}
	i.startEager(res)
	return nil
}

// startEager starts the eager children, each after its own fashion; a failure is its own affair.
func (i *instance) startEager(res *resolution) {
	d := res.Decl.Decl()
	eager := 0
	for k := range d.Children {
		if d.Children[k].Startup == manifest.Eager {
			eager++
		}
	}
	if eager == 0 {
		return
	}
	r := i.realm
	r.spawn(func() {
		for k := range d.Children {
			if d.Children[k].Startup != manifest.Eager {
				continue
			}
			i.mu.Lock()
			c := i.children[d.Children[k].Name]
			i.mu.Unlock()
			if c == nil {
				return // unresolved meanwhile
			}
			c.startInTurn("eager")
		}
	})
}

// startInTurn starts i once few enough others are starting, and does not wait until it has; a failure is in its events and log.
func (i *instance) startInTurn(reason string) {
	r := i.realm
	r.launch <- struct{}{}
	r.spawn(func() {
		free := sync.OnceFunc(func() { <-r.launch })
		defer free()
		_ = i.startThen(r.ctx, reason, free)
	})
}

// ended takes in the end of a run.
func (i *instance) ended(n *run, exit runners.Exit) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*KillTimeout)
	n.drained(ctx)
	cancel()
	n.has.end()

	i.mu.Lock()
	i.leaveLocked(n)
	res := i.resolutionLocked()
	switch {
	case exit.Cause == runners.ByHealth: // however that went
	case n.timedOut:
		exit.Cause = runners.ByTimeout
	case n.asked && exit.Cause == runners.BySelf:
		exit.Cause = runners.ByStop
	}
	p := i.pastLocked()
	p.lastExit = &exit
	i.state = resolved{res}
	i.emitLocked(Event{Kind: EventStopped, Exit: &exit})
	reboot := i.verdictLocked(n, exit)
	closing := i.closing
	if closing {
		reboot = "" // it goes down already
	}
	hurried := n.hurried && exit.Cause == runners.ByKill // it was given no time to end as it should
	well := !n.timedOut && !hurried && (n.asked || exit.Well())
	if well {
		i.realm.noteEnd(i.moniker, "")
	} else {
		i.realm.noteEnd(i.moniker, exit.String())
	}
	tell := !well && (!n.timedOut || exit.Cause == runners.ByHealth)
	n.finishLocked() // who waits for the end sees all of it
	i.mu.Unlock()

	if tell {
		i.realm.cfg.Sinks.Note(i.moniker, exit.String())
	}
	i.takeDown(reboot, exit)
	i.afterEnd()
	if !closing {
		i.afterRun(res)
	}
}

// afterRun lets go what lives only as long as a run: the dynamic children, or, in a single_run collection, the instance itself.
func (i *instance) afterRun(res *resolution) {
	if c := i.decl.collection; c != nil && c.Durability == manifest.SingleRun {
		i.realm.spawn(func() { _ = i.destroy(i.realm.ctx) })
		return
	}
	for k := range res.Decl.Decl().Collections {
		for _, c := range i.Dynamic(res.Decl.Decl().Collections[k].Name) {
			i.realm.spawn(func() { _ = c.(*instance).destroy(i.realm.ctx) })
		}
	}
}

// verdictLocked does what the instance's policy says about an end, and returns why the whole tree must go down, "" if it needn't.
func (i *instance) verdictLocked(n *run, exit runners.Exit) (reboot string) {
	p := i.pastLocked()
	policy := supervision.Policy{OnTerminate: i.decl.onTerminate, Restart: i.decl.policy}
	v, h := supervision.Decide(policy, p.history, exit, n.asked || i.closing, time.Now())
	p.history = h
	//exhaustive:enforce
	switch v.Kind {
	case supervision.Nothing:
	case supervision.Reboot:
		return v.Reason
	case supervision.GiveUp:
		p.gaveUp = true
		i.emitLocked(Event{Kind: EventGaveUp, Text: v.Reason})
	case supervision.Restart:
		p.nextStart = time.Now().Add(v.Delay)
		i.emitLocked(Event{Kind: EventRestarting, Delay: v.Delay, Text: v.Reason})
		i.realm.hold() // released when the timer fires or is dropped
		i.restart = time.AfterFunc(v.Delay, i.restartDue)
	}
	return ""
}

func (i *instance) restartDue() {
	i.mu.Lock()
	if i.restart == nil {
		i.mu.Unlock()
		return // dropped meanwhile; the hold went with it
	}
	i.restart = nil
	p := i.pastLocked()
	p.nextStart = time.Time{}
	p.restarts++
	i.mu.Unlock()
	i.realm.spawn(func() {
		i.realm.release()
		_ = i.start(i.realm.ctx, reasonRestart)
	})
}

// dropRestartLocked forgets a restart that is due.
func (i *instance) dropRestartLocked() {
	if i.restart == nil {
		return
	}
	i.restart.Stop()
	i.restart = nil
	i.past.nextStart = time.Time{}
	i.realm.release()
}

// abortStart gives up a start under way and returns once it has ended.
func (i *instance) abortStart(ctx context.Context, cause error) error {
	for _, v := range []verb{starting, resolving} {
		i.mu.Lock()
		a := i.acts[v]
		if a != nil && v == starting {
			a.cancel(cause)
		}
		i.mu.Unlock()
		if a != nil && (v == starting || cause == errEnds) {
			_ = a.wait(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

func (i *instance) stop(ctx context.Context, why string) error {
	i.mu.Lock()
	i.dropRestartLocked()
	i.mu.Unlock()
	if err := i.abortStart(ctx, errStopped); err != nil {
		return err
	}
	i.mu.Lock()
	n := i.currentRunLocked()
	if n == nil {
		i.mu.Unlock()
		return nil
	}
	n.asked = true
	a := i.beginLocked(stoppingRun, func(ctx context.Context) error { return i.doStop(ctx, n, why) })
	i.mu.Unlock()
	return a.wait(ctx)
}

// unhealthy stops a run that does not do its work any more. Nobody has asked for that, so a policy follows.
func (i *instance) unhealthy(n *run, why string) {
	i.mu.Lock()
	s, ok := i.state.(started)
	if !ok || s.run != n {
		i.mu.Unlock()
		return // it is on its way out
	}
	i.emitLocked(Event{Kind: EventUnhealthy, Text: why})
	a := i.beginLocked(stoppingRun, func(ctx context.Context) error { return i.doStop(ctx, n, "unhealthy") })
	i.mu.Unlock()
	_ = a.wait(i.realm.ctx) // its events tell
}

// doStop asks a run to end, bounds that, and then kills it.
func (i *instance) doStop(ctx context.Context, n *run, why string) error {
	i.mu.Lock()
	s, ok := i.state.(started)
	if !ok || s.run != n {
		over := n.endedLocked()
		i.mu.Unlock()
		return i.awaitKill(ctx, n, over) // it is on its way out
	}
	if n.program == nil {
		i.state = resolved{s.resolution}
		i.emitLocked(Event{Kind: EventStopped, Text: why})
		n.finishLocked()
		closing := i.closing
		i.mu.Unlock()
		if !closing {
			i.afterRun(s.resolution)
		}
		return nil
	}
	i.state = stopping{s.resolution, n}
	i.emitLocked(Event{Kind: EventStopping, Text: why})
	over := n.endedLocked()
	i.mu.Unlock()

	timeout, err := i.realm.engine.StopTimeout(ctx, i)
	if err != nil {
		timeout = routing.DefaultStopTimeout // it must stop, whatever has become of those above it
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := n.program.Stop(bounded); err != nil && bounded.Err() == nil {
		i.realm.cfg.Sinks.Note(i.moniker, "stop: "+err.Error())
		cancel()
	}
	warn := time.NewTimer(min(timeout/2, 2*time.Second))
	defer warn.Stop()
	for asked := time.Now(); ; {
		select {
		case <-over:
			return nil
		case <-warn.C:
			i.mu.Lock()
			took := time.Since(asked).Round(100 * time.Millisecond)
			i.emitLocked(Event{Kind: EventWaiting, Text: fmt.Sprintf("asked to stop %s ago, will be killed after %s", took, timeout)})
			i.mu.Unlock()
			continue
		case <-bounded.Done():
		case <-i.realm.kill:
		}
		break
	}
	i.mu.Lock()
	n.timedOut = bounded.Err() != nil
	n.hurried = !n.timedOut
	i.mu.Unlock()
	if err := n.program.Kill(ctx); err != nil {
		return &Error{Op: "kill", At: i.moniker, Why: capabilities.Internal, Err: err}
	}
	return i.awaitKill(ctx, n, over)
}

// awaitKill waits for the end of a run that was killed. One that doesn't end is said, not hidden.
func (i *instance) awaitKill(ctx context.Context, n *run, over <-chan struct{}) error {
	t := time.NewTimer(KillTimeout)
	defer t.Stop()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
	}
	err := &Error{
		Op: "kill", At: i.moniker, Why: capabilities.Unavailable,
		Err: fmt.Errorf("it still runs %s after it was killed", KillTimeout),
	}
	if p, ok := n.program.(runners.ProcessLister); ok {
		if pids, perr := p.Processes(ctx); perr == nil && len(pids) > 0 {
			err.Hint = fmt.Sprintf("processes %v are left; `cat /proc/%d/stack` tells where the kernel holds one", pids, pids[0])
		}
	}
	i.realm.cfg.Sinks.Note(i.moniker, err.Error())
	i.realm.noteEnd(i.moniker, err.Error())
	return err
}

func (i *instance) killRun(ctx context.Context) error {
	i.mu.Lock()
	i.dropRestartLocked()
	i.mu.Unlock()
	if err := i.abortStart(ctx, errStopped); err != nil {
		return err
	}
	i.mu.Lock()
	n := i.currentRunLocked()
	if n == nil {
		i.mu.Unlock()
		return nil
	}
	if n.program == nil {
		i.mu.Unlock()
		return i.stop(ctx, "asked by an operator")
	}
	n.asked = true
	over := n.endedLocked()
	i.mu.Unlock()
	if err := n.program.Kill(ctx); err != nil {
		return &Error{Op: "kill", At: i.moniker, Why: capabilities.Internal, Err: err}
	}
	return i.awaitKill(ctx, n, over)
}
