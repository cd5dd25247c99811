package runners

import (
	"context"
	"sync"
)

// An Ending is the end of one run, told once: embedded in a Program it is its Wait and its OnExit (Notifier). The zero Ending is
// a run that goes on.
type Ending struct {
	mu    sync.Mutex // guards everything below; not held while a callback runs
	done  chan struct{}
	exit  *Exit
	calls []func(Exit)
}

// End says how the run ended and calls whoever asked by OnExit, on the calling goroutine. Only the first call counts; it
// reports true.
func (e *Ending) End(x Exit) bool {
	e.mu.Lock()
	if e.exit != nil {
		e.mu.Unlock()
		return false
	}
	e.exit = &x
	if e.done != nil {
		close(e.done)
	}
	calls := e.calls
	e.calls = nil
	e.mu.Unlock()
	for _, f := range calls {
		f(x)
	}
	return true
}

// Ended returns the exit, if the run has ended.
func (e *Ending) Ended() (Exit, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.exit == nil {
		return Exit{}, false
	}
	return *e.exit, true
}

// Wait returns the exit once the run has ended, or ctx's error.
func (e *Ending) Wait(ctx context.Context) (Exit, error) {
	e.mu.Lock()
	if e.exit == nil {
		// Made on demand: a manager of thousands asks by OnExit and never waits.
		if e.done == nil {
			e.done = make(chan struct{})
		}
		done := e.done
		e.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return Exit{}, context.Cause(ctx)
		}
		e.mu.Lock()
	}
	defer e.mu.Unlock()
	return *e.exit, nil
}

// OnExit calls f once with the exit: when the run ends, or at once, on the calling goroutine, if it has ended.
func (e *Ending) OnExit(f func(Exit)) {
	e.mu.Lock()
	if e.exit == nil {
		e.calls = append(e.calls, f)
		e.mu.Unlock()
		return
	}
	x := *e.exit
	e.mu.Unlock()
	f(x)
}
