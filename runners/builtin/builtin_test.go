package builtin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/builtin"
	"github.com/cmgr/cmgr/runners/runnertest"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

type code int

func (c code) Error() string { return fmt.Sprintf("code %d", int(c)) }
func (c code) ExitCode() int { return int(c) }

// funcs behave as the kit's programs.
var funcs = map[string]builtin.Func{
	string(runnertest.ExitZero): func(_ context.Context, e *builtin.Env) error {
		_, err := io.WriteString(e.Stdout, runnertest.Greeting)
		return err
	},
	string(runnertest.ExitSeven): func(_ context.Context, e *builtin.Env) error {
		io.WriteString(e.Stdout, runnertest.Greeting)
		return code(7)
	},
	string(runnertest.UntilStopped): func(ctx context.Context, e *builtin.Env) error {
		io.WriteString(e.Stdout, runnertest.Greeting)
		<-ctx.Done()
		return ctx.Err()
	},
	string(runnertest.IgnoresStop): func(_ context.Context, e *builtin.Env) error {
		io.WriteString(e.Stdout, runnertest.Greeting)
		<-e.Killed
		return nil
	},
	string(runnertest.Prints): func(_ context.Context, e *builtin.Env) error {
		_, err := e.Stdout.Write(runnertest.Output())
		return err
	},
}

func block(kv ...string) runners.Block {
	var b runners.Block
	for i := 0; i < len(kv); i += 2 {
		b.Info = append(b.Info, manifest.Entry{Key: kv[i], Value: manifest.String(kv[i+1])})
	}
	return b
}

func TestContract(t *testing.T) {
	runnertest.Run(t, runnertest.Kit{
		Runner: builtin.New(builtin.Config{Funcs: funcs}),
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			return runners.StartInfo{Program: block("function", string(b))}, b != runnertest.NeverReady
		},
	})
}

// once runs f to its end, after what do does to the program.
func once(t *testing.T, f builtin.Func, do func(runners.Program)) runners.Exit {
	t.Helper()
	r := builtin.New(builtin.Config{Funcs: map[string]builtin.Func{"f": f}})
	p, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/f", Program: block("function", "f")})
	if err != nil {
		t.Fatal(err)
	}
	if do != nil {
		do(p)
	}
	x, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestEnds(t *testing.T) {
	stop := func(p runners.Program) { p.Stop(context.Background()) }
	kill := func(p runners.Program) { p.Kill(context.Background()) }
	own := errors.New("disk full")
	for _, c := range []struct {
		name   string
		f      builtin.Func
		do     func(runners.Program)
		code   int
		cause  runners.Cause
		detail string
	}{
		{"nil", func(context.Context, *builtin.Env) error { return nil }, nil, 0, runners.BySelf, ""},
		{"error", func(context.Context, *builtin.Env) error { return own }, nil, 1, runners.BySelf, "disk full"},
		{
			"code", func(context.Context, *builtin.Env) error { return fmt.Errorf("x: %w", code(9)) }, nil, 9, runners.BySelf,
			"x: code 9",
		},
		{"panic", func(context.Context, *builtin.Env) error { panic("boom") }, nil, 2, runners.BySelf, "panic: boom"},
		{
			"panic of the runtime", func(context.Context, *builtin.Env) error {
				var p *int
				*p = 1 //nolint:govet // it is to panic
				return nil
			}, nil, 2, runners.BySelf,
			"panic: runtime error: invalid memory address or nil pointer dereference",
		},
		{
			"goexit", func(context.Context, *builtin.Env) error { runtime.Goexit(); return nil }, nil, 1, runners.BySelf,
			"its function called runtime.Goexit",
		},
		{
			"own context's error", func(context.Context, *builtin.Env) error { return context.Canceled }, nil, 1, runners.BySelf,
			"context canceled",
		},
		{
			"stopped, context's error", func(ctx context.Context, _ *builtin.Env) error { <-ctx.Done(); return ctx.Err() }, stop, 0,
			runners.ByStop, "",
		},
		{
			"stopped, cause", func(ctx context.Context, _ *builtin.Env) error { <-ctx.Done(); return context.Cause(ctx) }, stop, 0,
			runners.ByStop, "",
		},
		{
			"stopped, own error", func(ctx context.Context, _ *builtin.Env) error { <-ctx.Done(); return own }, stop, 1, runners.ByStop,
			"disk full",
		},
		{"killed", func(_ context.Context, e *builtin.Env) error { <-e.Killed; return nil }, kill, -1, runners.ByKill, ""},
		{"killed, cause", func(ctx context.Context, _ *builtin.Env) error {
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), builtin.ErrKilled) {
				return context.Cause(ctx)
			}
			return own
		}, kill, -1, runners.ByKill, "disk full"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := once(t, c.f, c.do)
			if x.Code != c.code || x.Cause != c.cause || x.Detail != c.detail || x.Signal != 0 {
				t.Errorf("exit %+v, want code %d, cause %v, detail %q", x, c.code, c.cause, c.detail)
			}
		})
	}
}

func TestFunctionThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		r := builtin.New(builtin.Config{
			Grace: time.Minute,
			Funcs: map[string]builtin.Func{"f": func(context.Context, *builtin.Env) error { <-free; return nil }},
		})
		p, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/f", Program: block("function", "f")})
		if err != nil {
			t.Fatal(err)
		}
		p.Kill(t.Context())
		x, _ := p.Wait(t.Context())
		if x.Cause != runners.ByKill || x.Code != -1 || x.Detail == "" || x.Ended.Sub(x.Started) != time.Minute {
			t.Errorf("exit %+v", x)
		}
		if r.Left() != 1 {
			t.Errorf("%d goroutines left, want 1", r.Left())
		}
		close(free)
		synctest.Wait()
		if r.Left() != 0 {
			t.Errorf("%d goroutines left after the function returned", r.Left())
		}
		if y, _ := p.Wait(t.Context()); y != x {
			t.Errorf("the exit became %+v", y)
		}
	})
}

func TestRefusals(t *testing.T) {
	r := builtin.New(builtin.Config{Funcs: map[string]builtin.Func{"clock": nil, "echo": funcs[string(runnertest.ExitZero)]}})
	list := runners.Block{Info: manifest.Dictionary{
		{Key: "args", Value: manifest.String("x"), Pos: manifest.Pos{File: "a.cml", Line: 3, Col: 9}},
		{Key: "function", Value: manifest.String("echo")},
	}}
	for _, c := range []struct {
		b    runners.Block
		want string
	}{
		{block(), `start /f: program.function: is missing: the builtin runner needs the name of a function`},
		{block("function", "nope"), `start /f: program.function: there is no function "nope"; there are ["clock" "echo"]`},
		{list, `start /f: a.cml:3:9: program.args: must be an array of strings, is a string`},
	} {
		p, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/f", Program: c.b})
		if p != nil || err == nil || err.Error() != c.want || capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if ds := r.Check(c.b); ds.Err() == nil {
			t.Errorf("Check found nothing in what Start refuses: %v", err)
		}
	}
	ds := r.Check(block("function", "echo", "colour", "red"))
	if ds.Err() != nil || len(ds) != 1 || !strings.Contains(ds[0].Message, "program.colour") {
		t.Errorf("diagnostics of an unknown key: %v", ds)
	}
}
