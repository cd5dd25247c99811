package boot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/realm"
)

// Status is how far a boot is, as init:get_status has it.
type Status struct {
	Internal string // starting, started (the script has been run to its end) or stopping
	Progress string // the text of the last {progress,Term}, at first starting
	Step     int    // the instruction that is being done, from 1; 0 before the first
	Steps    int
	Text     string    // of that instruction
	Since    time.Time // of its beginning
}

// News is what a boot tells while it goes on.
type News struct {
	Status
	Begins  bool          // the instruction has begun
	Debug   string        // and this is what init says of it with -init_debug
	Reached bool          // the progress is new
	Hangs   time.Duration // the instruction has not returned for so long
	Said    string        // by cmgr:log
}

// patience is how long an instruction may take before that is told, and then again after twice as long.
const patience = 5 * time.Second

// A Boot runs a plan on a tree, once.
type Boot struct {
	plan *Plan
	tree *realm.Realm
	tell func(News)
	subs *realm.Subscription

	// mu guards what follows. It is not held while anybody is called.
	mu      sync.Mutex
	status  Status
	watched map[name.Moniker]Type
	kernel  []name.Moniker   // in the order of their starts
	others  [][]name.Moniker // what each application, or each apply of a component, starts, likewise
}

// New makes a boot of p on tree, whose root must be the one that the plan has. tell may be called from several goroutines.
func New(p *Plan, tree *realm.Realm, tell func(News)) *Boot {
	return &Boot{
		plan: p, tree: tree, tell: tell, subs: tree.Subscribe(tree.LastEvent()), watched: map[name.Moniker]Type{},
		status: Status{Internal: "starting", Progress: "starting", Steps: p.Steps(), Since: time.Now()},
	}
}

// Status is how far it is.
func (b *Boot) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

// set changes the status and tells it.
func (b *Boot) set(change func(*Status), n News) {
	b.mu.Lock()
	change(&b.status)
	n.Status = b.status
	b.mu.Unlock()
	b.tell(n)
}

// A StepError is an instruction that failed.
type StepError struct {
	Step int
	Text string
	Err  error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("instruction %d, %s: %v", e.Step, e.Text, e.Err)
}
func (e *StepError) Unwrap() error { return e.Err }

// Run does the script's instructions, one after the other, until one fails. The error is a *StepError.
func (b *Boot) Run(ctx context.Context) error {
	if b.plan.Tree == nil {
		if err := b.tree.Start(ctx, name.Root, "boot"); err != nil {
			return err
		}
	}
	for _, s := range b.plan.steps {
		b.set(func(st *Status) { st.Step, st.Text, st.Since = s.at, s.text, time.Now() }, News{Begins: true, Debug: s.said})
		if err := b.bounded(ctx, s); err != nil {
			return &StepError{s.at, s.text, err}
		}
	}
	b.set(func(st *Status) { st.Internal = "started" }, News{})
	return nil
}

// bounded does one instruction, and tells if it takes long.
func (b *Boot) bounded(ctx context.Context, s step) error {
	ended := make(chan struct{})
	var wait sync.WaitGroup
	if s.do != nil {
		wait.Go(func() {
			begun := time.Now()
			for next := patience; ; next *= 2 {
				t := time.NewTimer(next)
				select {
				case <-t.C:
					n := News{Hangs: time.Since(begun).Round(time.Second)}
					n.Status = b.Status()
					b.tell(n)
				case <-ended:
					t.Stop()
					return
				}
			}
		})
	}
	err := b.do(ctx, s)
	close(ended)
	wait.Wait()
	return err
}

func (b *Boot) do(ctx context.Context, s step) error {
	switch do := s.do.(type) {
	case progress:
		b.set(func(st *Status) { st.Progress = term.Text(do.to) }, News{Reached: true})
	case kernel:
		m, err := Moniker(do.name)
		if err != nil {
			return err
		}
		b.mu.Lock()
		if do.watch != "" {
			b.watched[m] = do.watch
			b.kernel = append(b.kernel, m)
		} else {
			b.others = append(b.others, []name.Moniker{m})
		}
		b.mu.Unlock()
		return b.start(ctx, m, do.timeout)
	case run:
		return b.once(ctx, do)
	case start:
		return b.application(ctx, do)
	case pause:
		t := time.NewTimer(time.Duration(do))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case say:
		n := News{Said: string(do)}
		n.Status = b.Status()
		b.tell(n)
	}
	return nil
}

// errHangs is what is said of what does not return in time.
var errHangs = errors.New("it hangs")

// within is ctx with the timeout, if it is not 0.
func within(ctx context.Context, timeout time.Duration, what string) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: %s within %s", errHangs, what, timeout))
}

func (b *Boot) start(ctx context.Context, m name.Moniker, timeout time.Duration) error {
	ctx, cancel := within(ctx, timeout, "not ready")
	defer cancel()
	return b.tree.Start(ctx, m, "boot")
}

// once runs a component to its end.
func (b *Boot) once(ctx context.Context, do run) error {
	m, err := Moniker(do.name)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.others = append(b.others, []name.Moniker{m})
	b.mu.Unlock()
	ctx, cancel := within(ctx, do.timeout, "not ended")
	defer cancel()
	events := b.tree.Subscribe(b.tree.LastEvent())
	err = b.tree.Start(ctx, m, "boot")
	for err == nil {
		i, ok := b.tree.Instance(m)
		if !ok || i.State != realm.Started && i.State != realm.Stopping && i.LastExit != nil {
			if ok && !i.LastExit.Well() {
				err = errors.New(i.LastExit.String())
			}
			break
		}
		if i.State == realm.Started && i.Program == nil {
			err = errors.New("it has no program, and so no end")
			break
		}
		_, _, err = events.Next(ctx)
	}
	if err == nil || ctx.Err() == nil && do.mayFail {
		return nil
	}
	if errors.Is(err, errHangs) {
		_ = b.tree.Kill(context.WithoutCancel(ctx), m)
	}
	return fmt.Errorf("component %s: %w", do.name, err)
}

// atOnce bounds the starts of an application that are under way at once.
const atOnce = 64

// application starts an application's components.
func (b *Boot) application(ctx context.Context, do start) error {
	levels := make([][]name.Moniker, len(do.levels))
	for i, names := range do.levels {
		for _, n := range names {
			m, err := Moniker(n)
			if err != nil {
				return err
			}
			levels[i] = append(levels[i], m)
		}
	}
	b.mu.Lock()
	b.others = append(b.others, slices.Concat(levels...))
	b.mu.Unlock()
	var mu sync.Mutex
	var failed []error
	for _, level := range levels {
		slots := make(chan struct{}, atOnce)
		var wait sync.WaitGroup
		for _, m := range level {
			if do.watch != Temporary {
				b.mu.Lock()
				b.watched[m] = do.watch
				b.mu.Unlock()
			}
			slots <- struct{}{}
			wait.Go(func() {
				defer func() { <-slots }()
				if err := b.start(ctx, m, ReadyTimeout); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			})
		}
		wait.Wait()
	}
	if do.watch == Permanent && len(failed) > 0 {
		return fmt.Errorf("application %s is permanent: %w", do.app, errors.Join(failed...))
	}
	return context.Cause(ctx)
}

// Watch calls down for the first watched component that ends when it must not. It returns then, or when ctx ends.
func (b *Boot) Watch(ctx context.Context, down func(m name.Moniker, why string)) {
	for {
		e, lost, err := b.subs.Next(ctx)
		if err != nil {
			return
		}
		if lost > 0 { // then the states have to tell
			for _, i := range b.tree.Instances() {
				if i.State == realm.Resolved && i.LastExit != nil && b.ends(i.Moniker, i.LastExit, down) {
					return
				}
			}
		}
		if e.Kind == realm.EventStopped && e.Exit != nil && b.ends(e.Moniker, e.Exit, down) {
			return
		}
	}
}

// ends says whether the end of m is one that takes the system down, and calls down then.
func (b *Boot) ends(m name.Moniker, x *runners.Exit, down func(name.Moniker, string)) bool {
	b.mu.Lock()
	kind := b.watched[m]
	critical := slices.Contains(b.kernel, m)
	stopping := b.status.Internal == "stopping"
	b.mu.Unlock()
	asked := x.Cause == runners.ByStop || x.Cause == runners.ByKill
	if stopping || kind == "" || asked || kind == Transient && x.OK() {
		return false
	}
	what := string(kind)
	if critical {
		what = "a kernel process"
	}
	down(m, "it is "+what+" of the boot script: "+x.String())
	return true
}

// Stop stops what the script started: applications, and components that were applied, in the reverse order of their starts, then
// kernel processes, one by one, each within the stop timeout of its environment. What a tree has is left to the tree, which knows
// what depends on what.
func (b *Boot) Stop(ctx context.Context) {
	b.set(func(st *Status) { st.Internal = "stopping" }, News{})
	if b.plan.Tree != nil {
		return
	}
	b.mu.Lock()
	others, kernel := slices.Clone(b.others), slices.Clone(b.kernel)
	b.mu.Unlock()
	for _, group := range slices.Backward(others) {
		var wait sync.WaitGroup
		for _, m := range group {
			wait.Go(func() { _ = b.tree.Stop(ctx, m) }) // what doesn't end is told by the tree
		}
		wait.Wait()
	}
	for _, m := range slices.Backward(kernel) {
		_ = b.tree.Stop(ctx, m)
	}
}
