// Package builtin runs Go functions as components: those that are compiled into the manager, or into a program that embeds one.
//
//	program: { runner: "builtin", function: "clock", args: ["--utc"] }
//
// A Go function cannot be ended from outside. Stop cancels its context; Kill closes Env.Killed and then waits for Config.Grace
// only: a function that has not returned by then is reported as killed all the same, its files are closed under it, and its
// goroutine, which is left behind, is logged and counted (Runner.Left). A panic is an end with code 2, as of a Go program, and
// does not touch the manager.
package builtin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// A Func is a component written in Go. It runs on a goroutine of its own until it returns: nil, or its context's error once
// that is done, is exit code 0; an error with a method `ExitCode() int` (as *os/exec.ExitError has) is that code; any other is
// code 1. The error's text becomes the exit's detail.
//
// ctx is cancelled when the component is to end, with the cause ErrStopped or ErrKilled.
type Func func(ctx context.Context, env *Env) error

// Causes of a Func's cancelled context (context.Cause).
var (
	ErrStopped = errors.New("the component was asked to stop")
	ErrKilled  = errors.New("the component was killed")
)

// Env is what a function finds in place of a process's environment. Its files are closed when the function has returned.
type Env struct {
	Moniker name.Moniker
	URL     string // resolved
	Args    []string
	Program runners.Block
	Package runners.Package
	// Stdout and Stderr are never nil.
	Stdout, Stderr io.Writer
	Namespace      []runners.NamespaceEntry
	Listeners      []runners.Listener // of the protocols that it declares
	Outgoing       *os.File           // nil for none
	Handles        []runners.Handle
	Config         []byte
	// Killed is closed by Kill: what a function that is busy ending must look at too.
	Killed <-chan struct{}
}

// Config is what a Runner needs.
type Config struct {
	// Funcs are the functions by the name in `program.function`.
	Funcs map[string]Func
	// Grace is how long a killed function may take to return; 0 means one second.
	Grace time.Duration
	// Log is told of panics and of goroutines left behind; nil for nothing.
	Log *slog.Logger
}

// A Runner runs functions.
type Runner struct {
	Config
	left atomic.Int32
}

// New returns a runner of cfg's functions.
func New(cfg Config) *Runner {
	if cfg.Grace == 0 {
		cfg.Grace = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{Config: cfg}
}

// Left counts the killed functions that have not returned.
func (r *Runner) Left() int { return int(r.left.Load()) }

// Check tells what is wrong with a program block without running it.
func (r *Runner) Check(b runners.Block) manifest.Diagnostics {
	var ds manifest.Diagnostics
	if _, _, err := r.parse(b); err != nil {
		d := manifest.Diagnostic{Pos: b.Pos, Rule: "program", Message: err.Error()}
		var be *runners.BlockError
		if errors.As(err, &be) {
			d.Pos, d.Message = be.Pos, "program."+be.Key+": "+be.What
		}
		ds = append(ds, d)
	}
	for _, e := range b.Unknown("function", "args") {
		ds = append(ds, manifest.Diagnostic{
			Pos: e.Pos, Rule: "unknown-key", Warning: true,
			Message: fmt.Sprintf("program.%s: the builtin runner does not know this key", e.Key),
		})
	}
	return ds
}

func (r *Runner) parse(b runners.Block) (Func, []string, error) {
	fn, ok, err := b.String("function")
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, b.Errorf("function", "is missing: the builtin runner needs the name of a function")
	}
	f := r.Funcs[fn]
	if f == nil {
		return nil, nil, b.Errorf("function", "there is no function %q; there are %q", fn, slices.Sorted(maps.Keys(r.Funcs)))
	}
	args, err := b.Strings("args")
	return f, args, err
}

// Start calls the function that info's program block names, on a goroutine of its own.
func (r *Runner) Start(ctx context.Context, info runners.StartInfo) (runners.Program, error) {
	f, args, err := r.parse(info.Program)
	if err != nil {
		info.Close()
		return nil, &runners.Error{Op: "start", At: info.Moniker, Why: capabilities.Invalid, Err: err}
	}
	if info.BreakOnStart != nil {
		select {
		case <-info.BreakOnStart:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		info.Close()
		return nil, &runners.Error{Op: "start", At: info.Moniker, Why: capabilities.Unavailable, Err: context.Cause(ctx)}
	}
	fctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	p := &program{runner: r, info: info, started: time.Now(), cancel: cancel, killed: make(chan struct{})}
	env := &Env{
		Moniker: info.Moniker, URL: info.URL, Args: args, Program: info.Program, Package: info.Package,
		Stdout: writer(info.Stdout), Stderr: writer(info.Stderr),
		Namespace: info.Namespace, Listeners: info.Listeners, Outgoing: info.Outgoing, Handles: info.Handles, Config: info.Config,
		Killed: p.killed,
	}
	go p.run(fctx, f, env)
	return p, nil
}

func writer(f *os.File) io.Writer {
	if f == nil {
		return io.Discard
	}
	return f
}

type program struct {
	runners.Ending
	runner  *Runner
	info    runners.StartInfo
	started time.Time
	cancel  context.CancelCauseFunc
	killed  chan struct{} // closed by Kill

	mu    sync.Mutex // guards what follows; held for no call to anything outside
	cause runners.Cause
	ended bool // end has been called
	lost  bool // …by the watch of a kill: the goroutine is left behind
	watch *time.Timer
}

// run calls f and reports how it ended. Its end is awaited by Wait, or counted by Left.
func (p *program) run(ctx context.Context, f Func, env *Env) {
	x := runners.Exit{Code: 1, Detail: "its function called runtime.Goexit"}
	defer func() {
		if v := recover(); v != nil {
			x = runners.Exit{Code: 2, Detail: fmt.Sprintf("panic: %v", v)}
			fmt.Fprintf(env.Stderr, "panic: %v\n\n%s", v, debug.Stack())
			p.runner.Log.Error("function panicked", "instance", p.info.Moniker, "panic", v)
		}
		p.cancel(nil)
		p.end(x, false)
	}()
	err := f(ctx, env)
	x = exit(ctx, err)
}

// exit is the end that err stands for.
func exit(ctx context.Context, err error) runners.Exit {
	if err == nil || ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return runners.Exit{}
	}
	x := runners.Exit{Code: 1, Detail: err.Error()}
	var c interface{ ExitCode() int }
	if errors.As(err, &c) {
		x.Code = c.ExitCode()
	}
	return x
}

// end reports the end once: of the function, or, if lost, of the patience with it.
func (p *program) end(x runners.Exit, lost bool) {
	p.mu.Lock()
	if p.ended {
		late := p.lost
		p.mu.Unlock()
		if late && !lost {
			p.runner.left.Add(-1)
			p.runner.Log.Info("killed function returned at last", "instance", p.info.Moniker)
		}
		return
	}
	p.ended, p.lost = true, lost
	if p.watch != nil {
		p.watch.Stop()
	}
	x.Cause = p.cause
	p.mu.Unlock()
	if lost {
		p.runner.left.Add(1)
		p.runner.Log.Warn("killed function does not return; its goroutine is left", "instance", p.info.Moniker)
	}
	if x.Cause == runners.ByKill {
		x.Code = -1 // whatever it returned, it did not come to its own end
	}
	p.info.Close()
	x.Started, x.Ended = p.started, time.Now()
	p.End(x)
}

// Stop cancels the function's context.
func (p *program) Stop(context.Context) error {
	p.mu.Lock()
	if p.cause == runners.BySelf && !p.ended {
		p.cause = runners.ByStop
	}
	p.mu.Unlock()
	p.cancel(ErrStopped)
	return nil
}

// Kill cancels the function's context, closes Env.Killed and gives it Config.Grace to return.
func (p *program) Kill(context.Context) error {
	p.mu.Lock()
	if !p.ended && p.cause != runners.ByKill {
		p.cause = runners.ByKill
		close(p.killed)
		p.watch = time.AfterFunc(p.runner.Grace, func() {
			p.end(runners.Exit{Detail: "its function did not return; its goroutine is left"}, true)
		})
	}
	p.mu.Unlock()
	p.cancel(ErrKilled)
	return nil
}
