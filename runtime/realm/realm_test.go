package realm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/runnertest"
	"github.com/cmgr/cmgr/runtime/resolver"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// files is a resolver of manifests in memory: the URL mem:///x is the text at x.
type files map[string]string

func (f files) Resolve(_ context.Context, url string, _ *resolver.Resolved) (*resolver.Resolved, error) {
	text, ok := f[strings.TrimPrefix(url, "mem:///")]
	if !ok {
		return nil, &resolver.Error{URL: url, Why: capabilities.NotFound, Err: fs.ErrNotExist}
	}
	v, ds := cml.Load(url, []byte(text), cml.Options{})
	if err := ds.Err(); err != nil {
		return nil, &resolver.Error{URL: url, Why: capabilities.Invalid, Err: err}
	}
	out := &resolver.Resolved{URL: url, Decl: v}
	if text, ok := f[strings.TrimPrefix(url, "mem:///")+".cvf"]; ok {
		if out.Values, ds = cml.ParseValues(url+".cvf", []byte(text), v.Decl().Config); ds.Err() != nil {
			return nil, &resolver.Error{URL: url, Why: capabilities.Invalid, Err: ds.Err()}
		}
	}
	return out, nil
}

// above has the runner "fake" and the scheme "mem".
type above struct{}

func (above) Has(k manifest.Kind, n string) bool {
	return k == manifest.KindRunner && n == "fake" || k == manifest.KindResolver && n == "mem"
}
func (above) Framework(manifest.Kind, string) bool               { return false }
func (a above) InRootEnvironment(k manifest.Kind, n string) bool { return a.Has(k, n) }

// sinks takes no output; it remembers notes.
type sinks struct{ notes chan string }

func (sinks) Open(name.Moniker) (stdout, stderr *os.File, drained func(context.Context), err error) {
	return nil, nil, func(context.Context) {}, nil
}

func (s sinks) Note(m name.Moniker, text string) {
	select {
	case s.notes <- string(m) + ": " + text:
	default:
	}
}
func (sinks) Remove(name.Moniker) {}

type allow string

func (a allow) RebootOnTerminate(m name.Moniker) bool { return string(m) == string(a) }

// prog is a program that the fake runner runs.
const prog = `program: { runner: "fake" }`

// world is a tree over a fake runner.
type world struct {
	*Realm
	t        *testing.T
	fake     *runnertest.Fake
	rebooted chan string
}

func newWorld(t *testing.T, f files, change ...func(*Config)) *world {
	w := &world{t: t, fake: runnertest.NewFake(), rebooted: make(chan string, 10)}
	cfg := Config{
		RootURL: "mem:///root", Builtins: above{}, Runners: map[string]runners.Runner{"fake": w.fake},
		Resolvers: map[string]resolver.Resolver{"mem": f}, Sinks: sinks{make(chan string, 100)}, Policy: allow("/may"),
		Log: slog.New(slog.DiscardHandler), Rebooted: func(m name.Moniker, why string) { w.rebooted <- string(m) + " " + why },
	}
	for _, f := range change {
		f(&cfg)
	}
	w.Realm = New(cfg)
	t.Cleanup(func() {
		w.Close()
		w.fake.Wait()
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// settle waits, in a bubble, until nothing moves by itself at this time.
func (w *world) settle() { synctest.Wait() }

func (w *world) events() []string {
	sub := w.Subscribe(0)
	var out []string
	for range w.LastEvent() {
		e, _, err := sub.Next(w.t.Context())
		w.must(err)
		out = append(out, e.Kind.String()+" "+string(e.Moniker))
	}
	return out
}

func (w *world) state(m name.Moniker) State {
	w.t.Helper()
	i, ok := w.Instance(m)
	if !ok {
		w.t.Fatalf("%s: no such instance; events %q", m, w.events())
	}
	return i.State
}

func (w *world) states(want map[name.Moniker]State) {
	w.t.Helper()
	for m, s := range want {
		if got := w.state(m); got != s {
			w.t.Errorf("%s is %s, want %s; events %q", m, got, s, w.events())
		}
	}
}

// before says whether event a came, and before b.
func before(events []string, a, b string) bool {
	x, y := slices.Index(events, a), slices.Index(events, b)
	return x >= 0 && y >= 0 && x < y
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestEagerAndLazy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [ { name: "a", url: "mem:///a", startup: "eager" }, { name: "lazy", url: "mem:///p" } ] }`,
			"a":    `{ ` + prog + `, children: [ { name: "b", url: "mem:///p", startup: "eager" } ] }`,
			"p":    `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		w.states(map[name.Moniker]State{"/": Started, "/a": Started, "/a/b": Started, "/lazy": Unresolved})
		if got := w.fake.Running(); !slices.Equal(got, []name.Moniker{"/a", "/a/b"}) {
			t.Errorf("running: %q", got)
		}
		if !before(w.events(), "started /a", "started /a/b") {
			t.Errorf("a child started before its parent: %q", w.events())
		}
		w.must(w.Start(t.Context(), "/lazy", "test"))
		w.states(map[name.Moniker]State{"/lazy": Started})
	})
}

func TestStopIsNotRecursiveAndNotFinal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ ` + prog + `, children: [ { name: "a", url: "mem:///p", startup: "eager" } ] }`,
			"p":    `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		w.must(w.Stop(t.Context(), "/"))
		w.states(map[name.Moniker]State{"/": Resolved, "/a": Started})
		i, _ := w.Instance("/")
		if i.LastExit == nil || i.LastExit.Cause != runners.ByStop {
			t.Errorf("last exit %+v, want one by stop", i.LastExit)
		}
		w.must(w.Stop(t.Context(), "/")) // nothing to do
		w.must(w.Start(t.Context(), "/", "again"))
		w.states(map[name.Moniker]State{"/": Started})
	})
}

func TestShutdownOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			// b uses what a exposes; self uses d; c's offer from b is weak.
			"root": `{ ` + prog + `,
				children: [
					{ name: "a", url: "mem:///srv", startup: "eager" }, { name: "b", url: "mem:///srv", startup: "eager" },
					{ name: "c", url: "mem:///p", startup: "eager" }, { name: "d", url: "mem:///srv", startup: "eager" },
				],
				use: [ { protocol: "x", from: "#d" } ],
				offer: [
					{ protocol: "x", from: "#a", to: "#b" },
					{ protocol: "x", from: "#b", to: "#a", as: "y", dependency: "weak" },
				] }`,
			"srv": `{ ` + prog + `, capabilities: [ { protocol: "x" } ], expose: [ { protocol: "x", from: "self" } ] }`,
			"p":   `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		w.must(w.Shutdown(t.Context()))
		ev := w.events()
		for _, o := range [][2]string{
			{"stopped /b", "stopping /a"},
			{"stopped /a", "stopping /"},
			{"stopped /c", "stopping /"},
			{"stopped /", "stopping /d"},
			{"stopped /d", "shutdown /"},
		} {
			if !before(ev, o[0], o[1]) {
				t.Errorf("%q does not come before %q: %q", o[0], o[1], ev)
			}
		}
		w.states(map[name.Moniker]State{"/": Shutdown, "/a": Shutdown})
		err := w.Start(t.Context(), "/a", "too late")
		if capabilities.CodeOf(err) != capabilities.Precondition {
			t.Errorf("start after shutdown: %v", err)
		}
	})
}

func TestStopAbortsStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{ ` + prog + ` }`})
		w.fake.Behave("/", runnertest.NeverReady)
		starts := make(chan error, 2)
		for range 2 { // equal actions join
			go func() { starts <- w.Start(context.Background(), "/", "root") }()
		}
		w.settle()
		if i, _ := w.Instance("/"); !i.Starting {
			t.Error("not starting")
		}
		w.must(w.Stop(t.Context(), "/"))
		for range 2 {
			if err := <-starts; !errors.Is(err, errStopped) {
				t.Errorf("start that was stopped: %v", err)
			}
		}
		w.states(map[name.Moniker]State{"/": Resolved})
		if got := w.fake.Log(); !slices.Equal(got, []string{"refuse /"}) {
			t.Errorf("the runner saw %q", got)
		}
		if len(w.Failures()) != 0 {
			t.Errorf("a start that was stopped counts as a failure: %v", w.Failures())
		}
	})
}

func TestStartGoesOnWhenItsCallerGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{ ` + prog + ` }`})
		w.fake.Behave("/", runnertest.NeverReady)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Start(ctx, "/", "root") }()
		w.settle()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		w.fake.Behave("/", runnertest.UntilStopped)
		w.settle()
		w.states(map[name.Moniker]State{"/": Started})
	})
}

func TestStopTimeoutKills(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [ { name: "a", url: "mem:///p", startup: "eager", environment: "#e" }, { name: "b", url: "mem:///p", startup: "eager" } ],
				environments: [ { name: "e", extends: "realm", __stop_timeout_ms: 100 } ] }`,
			"p": `{ ` + prog + ` }`,
		})
		w.fake.Behave("/a", runnertest.IgnoresStop)
		w.fake.Behave("/b", runnertest.IgnoresStop)
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		for m, want := range map[name.Moniker]time.Duration{"/a": 100 * time.Millisecond, "/b": 5 * time.Second} {
			at := time.Now()
			w.must(w.Stop(t.Context(), m))
			if took := time.Since(at); took != want {
				t.Errorf("%s was killed after %s, want %s", m, took, want)
			}
			if i, _ := w.Instance(m); i.LastExit.Cause != runners.ByTimeout {
				t.Errorf("%s: %s", m, i.LastExit)
			}
		}
		if len(w.Failures()) != 2 {
			t.Errorf("failures: %v", w.Failures())
		}
		if !slices.Contains(w.events(), "waiting /b") {
			t.Errorf("nobody was told what is waited for: %q", w.events())
		}
	})
}

func TestKillDuringStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{ ` + prog + ` }`})
		w.fake.Behave("/", runnertest.IgnoresStop)
		w.must(w.Start(t.Context(), "/", "root"))
		stopped := make(chan error)
		at := time.Now()
		go func() { stopped <- w.Stop(t.Context(), "/") }()
		w.settle()
		w.states(map[name.Moniker]State{"/": Stopping})
		w.must(w.Kill(t.Context(), "/"))
		w.must(<-stopped)
		if time.Since(at) != 0 {
			t.Errorf("it took %s", time.Since(at))
		}
	})
}

func TestKillAllHurriesAShutdown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{ ` + prog + ` }`})
		w.fake.Behave("/", runnertest.IgnoresStop)
		w.must(w.Start(t.Context(), "/", "root"))
		at := time.Now()
		time.AfterFunc(time.Millisecond, w.KillAll)
		w.must(w.Shutdown(t.Context()))
		if took := time.Since(at); took != time.Millisecond {
			t.Errorf("it took %s", took)
		}
		if f := w.Failures(); len(f) != 1 || f[0].Moniker != "/" {
			t.Errorf("what was cut short did not end well, but the failures are %v", f)
		}
	})
}

func TestAKillThatDoesNotEndIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{ ` + prog + ` }`})
		w.fake.Behave("/", runnertest.SurvivesKill)
		w.must(w.Start(t.Context(), "/", "root"))
		err := w.Shutdown(t.Context())
		if capabilities.CodeOf(err) != capabilities.Unavailable || !strings.Contains(err.Error(), "still runs") {
			t.Errorf("got %v", err)
		}
		w.states(map[name.Moniker]State{"/": Stopping})
		w.fake.Exit("/", runners.Exit{Code: -1, Signal: 9})
		w.settle()
		w.must(w.Shutdown(t.Context())) // now it can
		w.states(map[name.Moniker]State{"/": Shutdown})
	})
}

func TestCollections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ ` + prog + `, collections: [ { name: "jobs", durability: "transient" }, { name: "once", durability: "single_run" } ] }`,
			"p":    `{ ` + prog + ` }`,
		})
		ctx := t.Context()
		w.must(w.Start(ctx, "/", "root"))
		m, err := w.Create(ctx, "/", "jobs", ChildDecl{Name: "x", URL: "mem:///p"})
		w.must(err)
		if m != "/jobs:x" || w.state(m) != Unresolved {
			t.Errorf("%s is %s", m, w.state(m))
		}
		if _, err = w.Create(ctx, "/", "jobs", ChildDecl{Name: "x", URL: "mem:///p"}); capabilities.CodeOf(err) != capabilities.Precondition {
			t.Errorf("created twice: %v", err)
		}
		if _, err = w.Create(ctx, "/", "jobz", ChildDecl{Name: "x", URL: "mem:///p"}); !strings.Contains(fmt.Sprint(err), "did you mean jobs") {
			t.Errorf("unknown collection: %v", err)
		}
		if _, err = w.Create(ctx, "/", "jobs", ChildDecl{Name: "a/b", URL: "mem:///p"}); capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("bad name: %v", err)
		}
		w.must(w.Start(ctx, m, "test"))
		w.must(w.Destroy(ctx, m))
		if _, ok := w.Instance(m); ok {
			t.Error("it is still there")
		}
		_, err = w.Create(ctx, "/", "jobs", ChildDecl{Name: "x", URL: "mem:///p"}) // the name is free again
		w.must(err)

		once, err := w.Create(ctx, "/", "once", ChildDecl{Name: "y", URL: "mem:///p"})
		w.must(err)
		w.states(map[name.Moniker]State{once: Started})
		w.fake.Exit(once, runners.Exit{})
		w.settle()
		if _, ok := w.Instance(once); ok {
			t.Error("a single_run instance outlived its run")
		}
		if err := w.Destroy(ctx, "/"); capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("destroyed a static instance: %v", err)
		}
		w.must(w.Stop(ctx, "/"))
		w.settle()
		if _, ok := w.Instance(m); ok {
			t.Error("a transient child outlived its parent's run")
		}
	})
}

// What is destroyed while its parent leaves the tree is destroyed once.
func TestDestroyedTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{ ` + prog + `, collections: [ { name: "jobs", durability: "transient" } ] }`, "p": `{}`})
		m, err := w.Create(t.Context(), "/", "jobs", ChildDecl{Name: "x", URL: "mem:///p"})
		w.must(err)
		i := w.find(m)
		w.must(i.shutdown(t.Context()))
		i.leave(false)
		w.must(i.doDestroy(t.Context()))
		if _, ok := w.Instance(m); ok || w.instances != 1 {
			t.Errorf("there: %v, counted: %d", ok, w.instances)
		}
		n := 0
		for _, e := range w.events() {
			if e == "destroyed "+string(m) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("destroyed %d times; events %q", n, w.events())
		}
	})
}

// reloaded is what a reload says that it changes, in a line each.
func (w *world) reloaded(m name.Moniker, dry bool) string {
	w.t.Helper()
	changes, err := w.Reload(w.t.Context(), m, dry)
	w.must(err)
	w.settle()
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%s %s: %s\n", c.Moniker, c.Kind, c.Why)
	}
	return b.String()
}

// TestReload: what did not change runs on, and what is wrong changes nothing.
func TestReload(t *testing.T) {
	const (
		child = `{ name: "x", url: "mem:///x", startup: "eager" }`
		uses  = `use: [ { protocol: "p" } ]`
	)
	for name, c := range map[string]struct {
		was, now files
		at       name.Moniker
		want     string
		starts   string // of the runner, since the reload
	}{
		"nothing": {
			files{"a": `{ ` + prog + ` }`}, files{"a": "{\n\n// moved\n" + prog + ` }`}, "/", "", "",
		},
		"a program": {
			files{"a": `{ ` + prog + `, children: [ ` + child + ` ] }`, "x": `{ ` + prog + ` }`},
			files{"a": `{ program: { runner: "fake", args: [ "new" ] }, children: [ ` + child + ` ] }`},
			"/", "/a restarted: its program changed\n", "/a",
		},
		"only below": {
			files{"a": `{ ` + prog + ` }`, "b": `{ ` + prog + ` }`},
			files{"a": `{ program: { runner: "fake", args: [ "new" ] } }`, "b": `{ program: { runner: "fake", args: [ "new" ] } }`},
			"/b", "/b restarted: its program changed\n", "/b",
		},
		"children": {
			files{"a": `{ ` + prog + `, children: [ { name: "old", url: "mem:///b", startup: "eager" }, ` + child + ` ] }`, "x": `{ ` + prog + ` }`},
			files{"a": `{ ` + prog + `, children: [ ` + child + `, { name: "new", url: "mem:///b", startup: "eager" },
				{ name: "lazy", url: "mem:///b" } ] }`},
			"/a", "/a updated: \n/a/old removed: its parent does not have it any more\n/a/lazy added: \n/a/new added: \n", "/a/new",
		},
		"a child's clause": {
			files{"a": `{ ` + prog + `, children: [ ` + child + ` ] }`, "x": `{ ` + prog + `, children: [ { name: "y", url: "mem:///b", startup: "eager" } ] }`},
			files{"a": `{ ` + prog + `, children: [ { name: "x", url: "mem:///x", startup: "eager", on_terminate: "restart" } ] }`},
			"/a", "/a updated: \n/a/x replaced: what its parent says of it changed\n", "/a/x /a/x/y",
		},
		"a route": { // of x alone, by what its parent's parent offers
			files{
				"root": `{ children: [ { name: "a", url: "mem:///a", startup: "eager" }, { name: "b", url: "mem:///b" }, { name: "c", url: "mem:///b" } ],
					offer: [ { protocol: "p", from: "#b", to: "#a" } ] }`,
				"a": `{ ` + prog + `, children: [ ` + child + ` ], offer: [ { protocol: "p", from: "parent", to: "#x" } ] }`,
				"x": `{ ` + prog + `, ` + uses + ` }`,
				"b": `{ ` + prog + `, capabilities: [ { protocol: "p" } ], expose: [ { protocol: "p", from: "self" } ] }`,
			},
			files{"root": `{ children: [ { name: "a", url: "mem:///a", startup: "eager" }, { name: "b", url: "mem:///b" }, { name: "c", url: "mem:///b" } ],
				offer: [ { protocol: "p", from: "#c", to: "#a" } ] }`},
			"/", "/ updated: \n/a/x restarted: the route of protocol p changed\n", "/a/x",
		},
		"a capability": { // no program of its own provides it: only who uses it is restarted
			files{
				"root": `{ children: [ { name: "a", url: "mem:///a", startup: "eager" } ], capabilities: [ { directory: "d", rights: [ "r*" ], path: "/x" } ],
					offer: [ { directory: "d", from: "self", to: "#a" } ] }`,
				"a": `{ ` + prog + `, use: [ { directory: "d", rights: [ "r*" ], path: "/d" } ], children: [ ` + child + ` ] }`,
				"x": `{ ` + prog + ` }`,
			},
			files{"root": `{ children: [ { name: "a", url: "mem:///a", startup: "eager" } ], capabilities: [ { directory: "d", rights: [ "r*" ], path: "/y" } ],
				offer: [ { directory: "d", from: "self", to: "#a" } ] }`},
			"/", "/ updated: what it provides changed\n/a restarted: the route of directory d changed\n", "/a",
		},
		"what failed": {
			files{"a": `{ ` + prog + `, children: [ ` + child + ` ] }`, "x": `{ nonsense: 1 }`},
			files{"x": `{ ` + prog + ` }`},
			"/", "/a/x started: it failed before\n", "/a/x",
		},
		"what failed, by its name": {
			files{"a": `{ ` + prog + `, children: [ ` + child + ` ] }`, "x": `{ program: { runner: "none" } }`},
			files{"x": `{ ` + prog + ` }`},
			"/a/x", "/a/x started: it failed before\n", "/a/x",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := files{
					"root": `{ children: [ { name: "a", url: "mem:///a", startup: "eager" }, { name: "b", url: "mem:///b", startup: "eager" } ] }`,
					"b":    `{ ` + prog + ` }`,
				}
				maps.Copy(f, c.was)
				w := newWorld(t, f)
				w.must(w.Start(t.Context(), "/", "root"))
				w.settle()
				before, events := w.fake.Running(), len(w.events())

				maps.Copy(f, c.now)
				if got := w.reloaded(c.at, true); got != c.want {
					t.Errorf("it would change\n%swant\n%s", got, c.want)
				}
				if now := w.fake.Running(); !slices.Equal(now, before) {
					t.Errorf("after a dry run: running %q, before %q", now, before)
				}
				if got := w.reloaded(c.at, false); got != c.want {
					t.Errorf("it changed\n%swant\n%s", got, c.want)
				}
				var starts []string
				for _, e := range w.events()[events:] {
					if m, ok := strings.CutPrefix(e, "started "); ok {
						starts = append(starts, m)
					}
				}
				slices.Sort(starts)
				if got := strings.Join(starts, " "); got != c.starts {
					t.Errorf("started %q, want %q", got, c.starts)
				}
				if again := w.reloaded(c.at, false); again != "" {
					t.Errorf("once more: %s", again)
				}
			})
		})
	}
}

// TestReloadOfWhatIsWrong: a manifest anywhere below that has become invalid is told before anything is changed.
func TestReloadOfWhatIsWrong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := files{
			"root": `{ children: [ { name: "a", url: "mem:///a", startup: "eager" } ] }`,
			"a": `{ ` + prog + `, children: [ { name: "b", url: "mem:///b", startup: "eager" } ],
				collections: [ { name: "c", durability: "transient" }, { name: "jobs", durability: "single_run" } ] }`,
			"b": `{ ` + prog + ` }`,
		}
		w := newWorld(t, f)
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		for _, c := range []string{"c", "jobs"} {
			_, err := w.Create(t.Context(), "/a", c, ChildDecl{Name: "x", URL: "mem:///b", Startup: manifest.Eager})
			w.must(err)
		}
		running := []name.Moniker{"/a", "/a/b", "/a/c:x", "/a/jobs:x"}
		f["a"] = `{ program: { runner: "fake", args: [ "new" ] } }`
		f["b"] = `{ nonsense: 1 }`
		f["root"] = `{ children: [ { name: "a", url: "mem:///a", startup: "eager" } ], facets: { new: "1" } }`
		for _, m := range []name.Moniker{"/", "/a", "/a/b"} {
			f["a"] = `{ ` + prog + `, children: [ { name: "b", url: "mem:///b", startup: "eager" } ],
				collections: [ { name: "c", durability: "transient" }, { name: "jobs", durability: "single_run" } ], facets: { new: "1" } }`
			if c, err := w.Reload(t.Context(), m, false); capabilities.CodeOf(err) != capabilities.Invalid || len(c) > 0 {
				t.Errorf("reload of %s: %v, %v", m, c, err)
			}
		}
		w.settle()
		if got := w.fake.Running(); !slices.Equal(got, running) {
			t.Errorf("running: %q", got)
		}
		// A collection that is as it was keeps what is in it, and a run in it is not disturbed.
		f["b"] = `{ program: { runner: "fake", args: [ "new" ] } }`
		const want = "/ updated: \n/a updated: \n/a/b restarted: its program changed\n/a/c:x restarted: its program changed\n"
		if got := w.reloaded("/", false); got != want {
			t.Errorf("changed\n%swant\n%s", got, want)
		}
		if got := w.fake.Running(); !slices.Equal(got, running) {
			t.Errorf("running: %q", got)
		}
		f["a"] = `{ ` + prog + ` }`
		const gone = "/a updated: \n/a/b removed: its parent does not have it any more\n/a/c:x removed: collection c changed\n" +
			"/a/jobs:x removed: collection jobs changed\n"
		if got := w.reloaded("/a", false); got != gone {
			t.Errorf("changed\n%swant\n%s", got, gone)
		}
		if got := w.fake.Running(); !slices.Equal(got, []name.Moniker{"/a"}) {
			t.Errorf("running: %q", got)
		}
	})
}

func TestRestartPolicy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [ { name: "a", url: "mem:///p", startup: "eager", on_terminate: "restart",
				restart: { when: "failure", delay_ms: 100, backoff: 2, limit: 2, window_ms: 60000 } } ] }`,
			"p": `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		for n, delay := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond} {
			w.fake.Exit("/a", runners.Exit{Code: 1})
			w.settle()
			w.states(map[name.Moniker]State{"/a": Resolved})
			time.Sleep(delay - time.Millisecond)
			w.settle()
			w.states(map[name.Moniker]State{"/a": Resolved})
			time.Sleep(time.Millisecond)
			w.settle()
			w.states(map[name.Moniker]State{"/a": Started})
			if i, _ := w.Instance("/a"); i.Restarts != n+1 {
				t.Errorf("%d restarts, want %d", i.Restarts, n+1)
			}
		}
		w.fake.Exit("/a", runners.Exit{Code: 1})
		w.must(w.Idle(t.Context()))
		if i, _ := w.Instance("/a"); !i.RestartsUp || len(w.Failures()) != 1 {
			t.Errorf("%+v, failures %v", i, w.Failures())
		}
	})
}

// TestReadyDoesNotBlockOthers: components that wait until they are ready hold up no other start.
func TestReadyDoesNotBlockOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var children strings.Builder
		for k := range eagerAtOnce + 1 {
			fmt.Fprintf(&children, `{ name: "w%d", url: "mem:///p", startup: "eager" },`, k)
		}
		w := newWorld(t, files{
			"root": `{ children: [ ` + children.String() + `{ name: "z", url: "mem:///p", startup: "eager" } ] }`, "p": `{ ` + prog + ` }`,
		})
		for k := range eagerAtOnce + 1 {
			w.fake.Behave(name.Moniker(fmt.Sprintf("/w%d", k)), runnertest.NeverReady)
		}
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		w.states(map[name.Moniker]State{"/z": Started})
		time.Sleep(readyPatience)
		w.settle()
		if !slices.Contains(w.events(), "waiting /w3") {
			t.Error("nobody is told of a start that waits")
		}
	})
}

// TestAnOperatorsStartForgetsTheLimit: who starts what its policy has given up gets a policy that begins anew.
func TestAnOperatorsStartForgetsTheLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [ { name: "a", url: "mem:///p", startup: "eager", on_terminate: "restart",
				restart: { delay_ms: 0, limit: 1 } } ] }`,
			"p": `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		for range 2 {
			w.settle()
			w.fake.Exit("/a", runners.Exit{Code: 1})
		}
		w.settle()
		if i, _ := w.Instance("/a"); !i.RestartsUp {
			t.Fatal("it has not given up")
		}
		w.must(w.Start(t.Context(), "/a", "test"))
		if i, _ := w.Instance("/a"); i.RestartsUp {
			t.Error("it runs, and counts as given up")
		}
		w.fake.Exit("/a", runners.Exit{Code: 1})
		w.settle()
		w.states(map[name.Moniker]State{"/a": Started})
	})
}

// set is a DisabledSet in memory.
type set map[name.Moniker]bool

func (s set) Has(m name.Moniker) bool { return s[m] }

func (s set) Set(m name.Moniker, is bool) error {
	s[m] = is
	return nil
}

func TestDisable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		off := set{"/b": true}
		w := newWorld(t, files{
			"root": `{ children: [
				{ name: "a", url: "mem:///p", startup: "eager", on_terminate: "restart", restart: { delay_ms: 1000 } },
				{ name: "b", url: "mem:///p", startup: "eager" }, { name: "c", url: "mem:///p" } ],
				collections: [ { name: "jobs", durability: "transient" } ] }`,
			"p": `{ ` + prog + ` }`,
		}, func(c *Config) { c.Disabled = off })
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		w.states(map[name.Moniker]State{"/a": Started, "/b": Unresolved})
		if i, _ := w.Instance("/b"); !i.Disabled || len(w.Failures()) > 0 || !slices.Contains(w.events(), "disabled /b") {
			t.Errorf("%+v, failures %v, events %q", i, w.Failures(), w.events())
		}
		if err := w.Start(t.Context(), "/b", "test"); capabilities.CodeOf(err) != capabilities.Precondition {
			t.Errorf("a start of what is disabled: %v", err)
		}
		if c, err := w.Reload(t.Context(), "/", false); err != nil || len(c) > 0 {
			t.Errorf("a reload: %v, %v", c, err)
		}

		// A restart that is due does not come, and it lasts.
		w.fake.Exit("/a", runners.Exit{Code: 1})
		w.settle()
		w.must(w.Disable(t.Context(), "/a"))
		time.Sleep(time.Minute)
		w.states(map[name.Moniker]State{"/a": Resolved})
		if !off["/a"] {
			t.Error("nobody else knows")
		}
		w.must(w.Enable(t.Context(), "/a"))
		w.must(w.Enable(t.Context(), "/b"))
		w.must(w.Enable(t.Context(), "/c")) // it was not disabled
		w.states(map[name.Moniker]State{"/a": Started, "/b": Started, "/c": Unresolved})
		w.must(w.Disable(t.Context(), "/c"))
		w.must(w.Disable(t.Context(), "/a")) // which runs
		w.must(w.Enable(t.Context(), "/c"))  // which is lazy
		w.states(map[name.Moniker]State{"/a": Resolved, "/c": Unresolved})
		w.must(w.Start(t.Context(), "/c", "test"))
		if off["/b"] || off["/c"] {
			t.Errorf("still disabled: %v", off)
		}

		_, err := w.Create(t.Context(), "/", "jobs", ChildDecl{Name: "x", URL: "mem:///p"})
		w.must(err)
		for _, m := range []name.Moniker{"/", "/jobs:x"} {
			if err := w.Disable(t.Context(), m); capabilities.CodeOf(err) != capabilities.Invalid {
				t.Errorf("%s: %v", m, err)
			}
		}
	})
}

// What is unhealthy is stopped as if it had failed: its policy follows, unless somebody asks for the stop meanwhile.
func TestUnhealthy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [ { name: "a", url: "mem:///p", startup: "eager", on_terminate: "restart",
				restart: { when: "failure", delay_ms: 100 } } ] }`,
			"p": `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		w.fake.Unhealthy("/a", "hangs")
		w.settle()
		w.states(map[name.Moniker]State{"/a": Resolved})
		if i, _ := w.Instance("/a"); i.LastExit.Cause != runners.ByHealth || i.LastExit.Detail != "hangs" || len(w.Failures()) != 1 {
			t.Errorf("it ended as %v; failures %v", i.LastExit, w.Failures())
		}
		if es := w.events(); !slices.Equal(es[len(es)-4:], []string{"unhealthy /a", "stopping /a", "stopped /a", "restarting /a"}) {
			t.Errorf("events %q", es)
		}
		w.fake.Behave("/a", runnertest.IgnoresStop)
		time.Sleep(time.Second)
		w.states(map[name.Moniker]State{"/a": Started})

		at := time.Now()
		w.fake.Unhealthy("/a", "hangs")
		w.settle()
		w.states(map[name.Moniker]State{"/a": Stopping})
		w.must(w.Stop(t.Context(), "/a"))
		if took := time.Since(at); took != 5*time.Second {
			t.Errorf("it was killed after %s", took)
		}
		w.must(w.Idle(t.Context()))
		w.states(map[name.Moniker]State{"/a": Resolved})
		if i, _ := w.Instance("/a"); i.LastExit.Cause != runners.ByHealth || i.Restarts != 1 {
			t.Errorf("it ended as %v; %d restarts", i.LastExit, i.Restarts)
		}
	})
}

func TestAStopEndsARestartThatIsDue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [ { name: "a", url: "mem:///p", startup: "eager", on_terminate: "restart", restart: { delay_ms: 1000 } } ] }`,
			"p":    `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		w.fake.Exit("/a", runners.Exit{})
		w.settle()
		if i, _ := w.Instance("/a"); time.Until(i.NextStart) != time.Second {
			t.Errorf("next start at %s", i.NextStart)
		}
		w.must(w.Stop(t.Context(), "/a"))
		time.Sleep(time.Minute)
		w.states(map[name.Moniker]State{"/a": Resolved})
		w.must(w.Idle(t.Context()))
	})
}

func TestReboot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [
				{ name: "may", url: "mem:///p", startup: "eager", on_terminate: "reboot" },
				{ name: "maynot", url: "mem:///p", startup: "eager", on_terminate: "reboot" },
				{ name: "critical", url: "mem:///p", startup: "eager" } ] }`,
			"p": `{ ` + prog + ` }`,
		})
		w.must(w.Start(t.Context(), "/", "root"))
		w.settle()
		i, _ := w.Instance("/maynot")
		if capabilities.CodeOf(i.LastError) != capabilities.Denied || !strings.Contains(i.LastError.Error(), "reboot_on_terminate") {
			t.Errorf("it was started, or refused for another reason: %v", i.LastError)
		}
		w.must(w.Stop(t.Context(), "/may")) // asked for: no reboot
		w.must(w.Start(t.Context(), "/may", "test"))
		w.fake.Exit("/may", runners.Exit{}) // exit code 0 counts too
		w.fake.Wait()
		w.settle()
		if got := <-w.rebooted; !strings.HasPrefix(got, "/may ") {
			t.Errorf("rebooted by %q", got)
		}
		w.fake.Exit("/critical", runners.Exit{Code: 1, Critical: true})
		w.settle()
		if got := <-w.rebooted; !strings.HasPrefix(got, "/critical ") {
			t.Errorf("rebooted by %q", got)
		}
	})
}

func TestFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ children: [
				{ name: "norunner", url: "mem:///norunner", startup: "eager" }, { name: "missing", url: "mem:///nowhere", startup: "eager" },
				{ name: "bad", url: "mem:///bad", startup: "eager" }, { name: "refuses", url: "mem:///p", startup: "eager" },
				{ name: "ends", url: "mem:///p", startup: "eager" }, { name: "fine", url: "mem:///p", startup: "eager" } ] }`,
			"norunner": `{ program: {}, use: [ { runner: "fake" } ] }`,
			"bad":      `{ program: { runner: "fake" } use: [] }`,
			"p":        `{ ` + prog + ` }`,
		})
		w.fake.Behave("/refuses", runnertest.NeverStarts)
		w.fake.Behave("/ends", runnertest.ExitSeven)
		w.fake.Behave("/fine", runnertest.ExitZero)
		w.must(w.Start(t.Context(), "/", "root"))
		w.must(w.Idle(t.Context()))
		var got []string
		for _, f := range w.Failures() {
			got = append(got, string(f.Moniker))
		}
		if want := []string{"/bad", "/ends", "/missing", "/norunner", "/refuses"}; !slices.Equal(got, want) {
			t.Errorf("failures %q, want %q", got, want)
		}
		for _, m := range got {
			n := 0
			for _, e := range w.events() {
				if e == "failed "+m {
					n++
				}
			}
			if want := 1; m != "/ends" && n != want {
				t.Errorf("%s: %d events tell of the failure, want %d", m, n, want)
			}
		}
		i, _ := w.Instance("/norunner")
		for _, want := range []string{"was not offered to `/norunner` by parent", `{ runner: "fake", from: "parent", to: "#norunner" }`} {
			if i.LastError == nil || !strings.Contains(i.LastError.Error(), want) {
				t.Errorf("the error does not say %q: %v", want, i.LastError)
			}
		}
		if i, _ := w.Instance("/bad"); !strings.Contains(i.LastError.Error(), "comma") {
			t.Errorf("%v", i.LastError)
		}
	})
}

func TestUnknownInstance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{"root": `{ children: [ { name: "net", url: "mem:///p" } ] }`, "p": `{}`})
		err := w.Start(t.Context(), "/nett", "test")
		if capabilities.CodeOf(err) != capabilities.NotFound || !strings.Contains(err.Error(), "did you mean /net?") {
			t.Errorf("got %v", err)
		}
	})
}

func TestASlowReaderIsToldWhatItMissed(t *testing.T) {
	var l eventLog
	for range keptEvents + 5 {
		l.add(Event{})
	}
	s := &Subscription{log: &l, next: 1}
	e, lost, err := s.Next(t.Context())
	if err != nil || lost != 5 || e.Seq != 6 {
		t.Errorf("seq %d, lost %d, %v", e.Seq, lost, err)
	}
}

// TestStress lets many actions loose on a small tree at once; what must hold is that nothing hangs and that the end is an end.
func TestStress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, files{
			"root": `{ ` + prog + `, children: [ { name: "a", url: "mem:///a", startup: "eager" } ],
				collections: [ { name: "c", durability: "transient" } ] }`,
			"a": `{ ` + prog + `, children: [ { name: "b", url: "mem:///p", startup: "eager", on_terminate: "restart", restart: { delay_ms: 1 } } ] }`,
			"p": `{ ` + prog + ` }`,
		})
		ctx := t.Context()
		done := make(chan struct{})
		all := []func(){
			func() { _ = w.Start(ctx, "/", "x") }, func() { _ = w.Stop(ctx, "/") }, func() { _ = w.Start(ctx, "/a/b", "x") },
			func() { _ = w.Kill(ctx, "/a/b") }, func() { _, _ = w.Reload(ctx, "/a", false) }, func() { _ = w.Unresolve(ctx, "/a") },
			func() { _ = w.Unresolve(ctx, "/a/b") }, func() { _ = w.Unresolve(ctx, "/c:x") }, func() { _ = w.Start(ctx, "/c:x", "x") },
			func() { _, _ = w.Create(ctx, "/", "c", ChildDecl{Name: "x", URL: "mem:///p", Startup: manifest.Eager}) },
			func() { _ = w.Destroy(ctx, "/c:x") }, func() { w.fake.Exit("/a/b", runners.Exit{Code: 1}) }, func() { w.Instances() },
		}
		for _, f := range all {
			go func() {
				for range 50 {
					f()
					time.Sleep(time.Millisecond)
				}
				done <- struct{}{}
			}()
		}
		for range all {
			<-done
		}
		w.must(w.Shutdown(ctx))
		w.settle()
		if got := w.fake.Running(); len(got) > 0 {
			t.Errorf("still running: %q", got)
		}
		w.must(w.Idle(ctx))
	})
}

// TestLimits: a tree without an end, and one that doubles at each level, are refused where they are too deep or too large, whatever
// starts them; what is above goes on, and what leaves makes room.
func TestLimits(t *testing.T) {
	leaf := `{ children: [ { name: "a", url: "mem:///l", startup: "eager" }, { name: "b", url: "mem:///l", startup: "eager" } ] }`
	w := newWorld(t, files{
		"root": `{ children: [ { name: "self", url: "mem:///self" }, { name: "wide", url: "mem:///l" } ],
			collections: [ { name: "jobs", durability: "transient" } ] }`,
		"self": `{ children: [ { name: "a", url: "mem:///self" } ] }`,
		"l":    leaf, "one": `{}`, "two": `{ children: [ { name: "a", url: "mem:///one" }, { name: "b", url: "mem:///one" } ] }`,
	})
	w.cfg.Limit = 1500
	ctx := t.Context()
	deep := name.Moniker("/self" + strings.Repeat("/a", maxDepth-1))
	err := w.Resolve(ctx, deep)
	if err == nil || !strings.Contains(err.Error(), "more than 1000 levels of children") || capabilities.CodeOf(err) != capabilities.Invalid {
		t.Errorf("deep: %v", err)
	}
	_ = w.Start(ctx, "/wide", "test") // its children fail, one by one
	w.must(w.Idle(ctx))
	if n := w.instances; n > 1500 || n < 1490 {
		t.Errorf("%d instances, want no more than 1500 and hardly fewer", n)
	}
	w.cfg.Limit = w.instances + 3
	create := func(n, url string) error {
		_, err := w.Create(ctx, "/", "jobs", ChildDecl{Name: n, URL: "mem:///" + url})
		return err
	}
	w.must(create("x", "two"))
	w.must(w.Resolve(ctx, "/jobs:x"))
	if err := create("y", "one"); err == nil || !strings.Contains(err.Error(), "which is the most") {
		t.Errorf("created one too many: %v", err)
	}
	w.must(w.Destroy(ctx, "/jobs:x"))
	w.must(create("y", "one"))
	if w.instances != w.cfg.Limit-2 {
		t.Errorf("%d instances of %d", w.instances, w.cfg.Limit)
	}
}
