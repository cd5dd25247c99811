package runnertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// A Fake is a runner whose programs exist in memory only. It keeps the contract, so that what stands above runners can be tested
// without processes, in a synctest bubble too. Unless told otherwise, its programs run until they are stopped.
type Fake struct {
	mu      sync.Mutex // guards everything below; held for no call to anything outside
	behave  map[name.Moniker]Behaviour
	ready   map[name.Moniker]chan struct{}
	running map[name.Moniker]*fakeProgram
	log     []string
	wg      sync.WaitGroup
}

// NewFake returns a runner without programs.
func NewFake() *Fake {
	return &Fake{
		behave:  map[name.Moniker]Behaviour{},
		ready:   map[name.Moniker]chan struct{}{},
		running: map[name.Moniker]*fakeProgram{},
	}
}

// Behave says how the programs of m behave that are started from now on. Until m's behaviour is NeverReady no more, starts of it
// that are under way wait.
func (f *Fake) Behave(m name.Moniker, b Behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behave[m] = b
	if c := f.ready[m]; c != nil {
		close(c)
		delete(f.ready, m)
	}
	if b == NeverReady {
		f.ready[m] = make(chan struct{})
	}
}

// Exit ends the running program of m in the way that e says; false if none runs. Times that are not set are those of the run.
func (f *Fake) Exit(m name.Moniker, e runners.Exit) bool {
	f.mu.Lock()
	p := f.running[m]
	f.mu.Unlock()
	return p != nil && p.end("exit", e)
}

// Unhealthy has the running program of m be found unhealthy; false if none runs.
func (f *Fake) Unhealthy(m name.Moniker, why string) bool {
	f.mu.Lock()
	p := f.running[m]
	f.mu.Unlock()
	if p == nil {
		return false
	}
	p.mu.Lock()
	p.cause, p.failed = runners.ByHealth, why
	tell := p.onUnhealthy
	p.mu.Unlock()
	if tell != nil {
		tell(why)
	}
	return true
}

// Running are the monikers of the programs that run, sorted.
func (f *Fake) Running() []name.Moniker {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []name.Moniker
	for m := range f.running {
		out = append(out, m)
	}
	slices.Sort(out)
	return out
}

// Log is what happened, in order: "start /a", "refuse /a" (a start that failed), "stop /a", "kill /a", "exit /a" (by Exit or by
// itself), each when it took effect.
func (f *Fake) Log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Wait returns when everyone has been told of the ends so far.
func (f *Fake) Wait() { f.wg.Wait() }

func (f *Fake) note(what string, m name.Moniker) { f.log = append(f.log, what+" "+string(m)) }

// Start starts a program in memory.
func (f *Fake) Start(ctx context.Context, info runners.StartInfo) (runners.Program, error) {
	b, err := f.admit(ctx, &info)
	if err != nil {
		info.Close()
		f.mu.Lock()
		f.note("refuse", info.Moniker)
		f.mu.Unlock()
		return nil, err
	}
	p := &fakeProgram{fake: f, behaves: b, info: info, started: time.Now()}
	f.mu.Lock()
	f.note("start", info.Moniker)
	f.running[info.Moniker] = p
	f.mu.Unlock()
	f.wg.Go(p.run)
	return p, nil
}

// admit waits for all that a start waits for.
func (f *Fake) admit(ctx context.Context, info *runners.StartInfo) (Behaviour, error) {
	fail := func(why capabilities.Code, err error) (Behaviour, error) {
		return "", &runners.Error{Op: "start", At: info.Moniker, Why: why, Err: err}
	}
	if info.BreakOnStart != nil {
		select {
		case <-info.BreakOnStart:
		case <-ctx.Done():
		}
	}
	for {
		f.mu.Lock()
		b, ready := f.behave[info.Moniker], f.ready[info.Moniker]
		busy := f.running[info.Moniker] != nil
		f.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return fail(capabilities.Unavailable, context.Cause(ctx))
		case busy:
			return fail(capabilities.Precondition, errors.New("its program runs already"))
		case b == NeverStarts:
			return fail(capabilities.Unavailable, errors.New("this program never starts"))
		case b == NeverReady:
			if info.Launched != nil {
				info.Launched()
				info.Launched = nil
			}
			select {
			case <-ready:
			case <-ctx.Done():
			}
		default:
			return b, nil
		}
	}
}

type fakeProgram struct {
	runners.Ending
	fake    *Fake
	behaves Behaviour
	info    runners.StartInfo
	started time.Time

	mu          sync.Mutex // guards everything below
	ending      bool
	cause       runners.Cause
	failed      string // why it is unhealthy
	onUnhealthy func(why string)
}

// run is what the program does of its own accord.
func (p *fakeProgram) run() {
	out := []byte(Greeting)
	if p.behaves == Prints {
		out = Output()
	}
	if p.info.Stdout != nil {
		p.info.Stdout.Write(out) // an end during this closes the file
	}
	switch p.behaves {
	case ExitZero, Prints:
		p.end("exit", runners.Exit{})
	case ExitSeven:
		p.end("exit", runners.Exit{Code: 7})
	}
}

// end ends the program as e says unless it is ending already.
func (p *fakeProgram) end(how string, e runners.Exit) bool {
	p.mu.Lock()
	if p.ending {
		p.mu.Unlock()
		return false
	}
	p.ending = true
	if e.Cause == runners.BySelf || p.cause == runners.ByHealth {
		e.Cause, e.Detail = p.cause, p.failed+e.Detail
	}
	p.mu.Unlock()
	if e.Started.IsZero() {
		e.Started = p.started
	}
	if e.Ended.IsZero() {
		e.Ended = time.Now()
	}
	info := p.info // run may be reading p's
	info.Close()
	p.fake.mu.Lock()
	p.fake.note(how, p.info.Moniker)
	delete(p.fake.running, p.info.Moniker)
	p.fake.mu.Unlock()
	// As with a real runner, whoever is told of the end is not called from within Stop, Kill or Exit.
	p.fake.wg.Go(func() { p.End(e) })
	return true
}

func (p *fakeProgram) Stop(context.Context) error {
	if p.behaves != IgnoresStop && p.behaves != SurvivesKill {
		p.end("stop", runners.Exit{Cause: runners.ByStop})
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ending {
		if p.cause == runners.BySelf {
			p.cause = runners.ByStop
		}
		p.fake.mu.Lock()
		p.fake.note("stop", p.info.Moniker)
		p.fake.mu.Unlock()
	}
	return nil
}

func (p *fakeProgram) Kill(context.Context) error {
	if p.behaves != SurvivesKill {
		p.end("kill", runners.Exit{Code: -1, Signal: syscall.SIGKILL, Cause: runners.ByKill})
	}
	return nil
}

func (p *fakeProgram) OnUnhealthy(f func(why string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onUnhealthy = f
}
