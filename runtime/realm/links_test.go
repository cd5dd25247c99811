package realm

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/remote"
	"github.com/cmgr/cmgr/runners/runnertest"
)

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

// providers are what the components of a world provide: they run on the fake runner, and speak through here.
type providers struct {
	t     *testing.T
	inner *runnertest.Fake         // runs what the runners that components provide are given
	speak func(conn *net.UnixConn) // instead of the runner protocol; nil for that
	dials map[name.Moniker]int     // how often each was connected to
	conns map[name.Moniker]*net.UnixConn
	mu    sync.Mutex
	wg    sync.WaitGroup
}

func (p *providers) dial(_ context.Context, at name.Moniker, c *manifest.Capability) (*os.File, error) {
	ours, theirs, err := sock.Pair()
	if err != nil {
		return nil, err
	}
	conn, err := socketOf(os.NewFile(uintptr(theirs), "provider"))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.dials[at]++
	p.conns[at] = conn
	speak := p.speak
	p.mu.Unlock()
	p.wg.Go(func() {
		switch {
		case speak != nil:
			speak(conn)
		case c.Kind == manifest.KindResolver:
			resolve(conn)
		default:
			_ = remote.Serve(context.Background(), conn, p.inner)
		}
	})
	return os.NewFile(uintptr(ours), "manager"), nil
}

// resolve is a resolver of the scheme "made": made:///x is a component whose runner is x, except for what it is told to get wrong.
func resolve(conn *net.UnixConn) {
	c, err := rpc.Accept(context.Background(), conn, rpc.Config{
		Protocol: framework.Resolver, Versions: []uint32{1},
		Handle: func(_ context.Context, method string, m rpc.Message) (rpc.Message, error) {
			q := new(componentpb.Resolve)
			if err := proto.Unmarshal(m.Body, q); err != nil || method != "Resolve" {
				return rpc.Message{}, rpc.ErrUnsupported
			}
			out := &componentpb.Resolved{Url: q.Url, Manifest: []byte(prog1(strings.TrimPrefix(q.Url, "made:///"))), File: "made.cml"}
			switch q.Url {
			case "made:///none":
				return rpc.Message{}, &rpc.Error{Why: capabilities.NotFound, Text: "there is no such thing", Hint: "make it"}
			case "made:///relative":
				out.Url = "relative"
			case "made:///broken":
				out.Manifest = []byte("{ program: [] }")
			case "made:///escape":
				out.Package = "../.."
			}
			b, err := proto.Marshal(out)
			return rpc.Message{Body: b}, err
		},
	})
	if err == nil {
		<-c.Done()
	}
}

func prog1(runner string) string { return `{ program: { runner: "` + runner + `" } }` }

// provide is a world where /run provides the runner "r", which /a and /b get, and /res the resolver of "made", which /made gets.
func provide(t *testing.T, more files) (*world, *providers) {
	p := &providers{t: t, inner: runnertest.NewFake(), dials: map[name.Moniker]int{}, conns: map[name.Moniker]*net.UnixConn{}}
	f := files{
		"root": `{
			children: [
				{ name: "run", url: "mem:///run" }, { name: "res", url: "mem:///res" },
				{ name: "a", url: "mem:///r", environment: "#env" }, { name: "b", url: "mem:///r", environment: "#env" },
				{ name: "made", url: "made:///fake", environment: "#env" }, { name: "none", url: "made:///none", environment: "#env" },
				{ name: "relative", url: "made:///relative", environment: "#env" }, { name: "broken", url: "made:///broken", environment: "#env" },
				{ name: "escape", url: "made:///escape", environment: "#env" },
			],
			environments: [ { name: "env", extends: "realm", runners: [ { runner: "r", from: "#run" } ],
				resolvers: [ { resolver: "made", from: "#res", scheme: "made" } ] } ],
		}`,
		"run": `{ ` + prog + `, capabilities: [ { runner: "r", path: "/svc/cmgr.component.Runner" } ], expose: [ { runner: "r", from: "self" } ] }`,
		"res": `{ ` + prog + `, capabilities: [ { resolver: "made", path: "/svc/cmgr.component.Resolver" } ],
			expose: [ { resolver: "made", from: "self" } ] }`,
		"r": prog1("r"),
	}
	for k, v := range more {
		f[k] = v
	}
	w := newWorld(t, f)
	w.cfg.Dial = p.dial
	t.Cleanup(func() {
		w.Close()
		p.wg.Wait()
		p.inner.Wait()
	})
	return w, p
}

// speaks has the providers that are connected to from now on speak otherwise.
func (p *providers) speaks(f func(conn *net.UnixConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.speak = f
}

func (w *world) await(m name.Moniker, ok func(Info) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), bound)
	defer cancel()
	events := w.Subscribe(0)
	for {
		if i, known := w.Instance(m); known && ok(i) {
			return
		}
		if _, _, err := events.Next(ctx); err != nil {
			w.t.Fatalf("%s: %v; events %q", m, err, w.events())
		}
	}
}

func TestProvidedRunner(t *testing.T) {
	w, p := provide(t, nil)
	ctx := t.Context()
	w.must(w.Start(ctx, "/a", "test"))
	w.must(w.Start(ctx, "/b", "test"))
	w.states(map[name.Moniker]State{"/run": Started, "/a": Started, "/b": Started})
	if i, _ := w.Instance("/run"); i.StartReason != `/a requested capability "r"` {
		t.Errorf("reason %q", i.StartReason)
	}
	if got := p.inner.Running(); !slices.Equal(got, []name.Moniker{"/a", "/b"}) || p.dials["/run"] != 1 {
		t.Errorf("running %q by %d connections", got, p.dials["/run"])
	}
	w.must(w.Stop(ctx, "/a"))
	w.states(map[name.Moniker]State{"/run": Started, "/a": Resolved, "/b": Started})

	// The runner dies: what it ran has died, and says of what; the next start makes a new connection, however soon.
	for dials := 2; dials < 100; dials++ {
		p.mu.Lock()
		p.conns["/run"].Close()
		p.mu.Unlock()
		w.await("/b", func(i Info) bool { return i.State == Resolved })
		if i, _ := w.Instance("/b"); i.LastExit.Cause != runners.ByRunner || i.LastExit.Well() {
			t.Errorf("exit %v", i.LastExit)
		}
		// Who served the connection that is gone sees that by itself.
		for end := time.Now().Add(bound); len(p.inner.Running()) > 0; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("the runner keeps %q", p.inner.Running())
			}
		}
		w.must(w.Start(ctx, "/b", "test"))
		if p.dials["/run"] != dials {
			t.Fatalf("%d connections, want %d", p.dials["/run"], dials)
		}
	}
	// Shutdown: the runner after what it runs.
	w.must(w.Shutdown(ctx))
	if e := w.events(); !before(e, "shutdown /b", "shutdown /run") {
		t.Errorf("events %q", e)
	}
	w.Close()
	if i, _ := w.Instance("/b"); i.LastExit.Cause != runners.ByStop {
		t.Errorf("exit %v", i.LastExit)
	}
}

// TestProvidedRunnerFails: a provider that can't be started, hangs, speaks something else or lies is the affair of who needs it.
func TestProvidedRunnerFails(t *testing.T) {
	w, p := provide(t, nil)
	ctx := t.Context()
	fails := func(want string) {
		t.Helper()
		err := w.Start(ctx, "/a", "test")
		if err == nil || !strings.Contains(err.Error(), want) || capabilities.CodeOf(err) != capabilities.Unavailable {
			t.Errorf("%v, want %q", err, want)
		}
	}
	w.fake.Behave("/run", runnertest.NeverStarts)
	fails("runner r: comes from /run: start /run: this program never starts")
	w.fake.Behave("/run", "")
	p.speaks(func(c *net.UnixConn) { c.Write([]byte("\x1a\x09\x12\x07go away")); c.Close() })
	fails("go away")
	p.speaks(func(c *net.UnixConn) { c.Write([]byte("HTTP/1.1 400 Bad Request")); c.Close() })
	fails("sends")
	p.speaks(func(c *net.UnixConn) { c.Close() })
	fails("comes from /run")
	// A liar: the end of a program that there is not.
	p.speaks(func(c *net.UnixConn) {
		r, err := rpc.Accept(context.Background(), c, rpc.Config{
			Protocol: remote.Protocol, Versions: []uint32{1}, MaxFDs: rpc.MaxFDs, MaxBody: remote.MaxStartInfo,
			Handle: func(_ context.Context, method string, m rpc.Message) (rpc.Message, error) {
				m.Close()
				if method == "Start" {
					return rpc.Message{}, nil
				}
				return rpc.Message{}, rpc.ErrUnsupported
			},
		})
		if err != nil {
			return
		}
		_ = r.Notify(context.Background(), "Exit", rpc.Message{Body: []byte{0x08, 0x63}})
		<-r.Done()
	})
	_ = w.Start(ctx, "/a", "test") // whether that comes before or after the lie
	notes := w.cfg.Sinks.(sinks).notes
	for told := false; !told; {
		select {
		case n := <-notes:
			told = strings.HasPrefix(n, "/run: ") && strings.Contains(n, "dropped: it tells the end of program 99")
		case <-time.After(bound):
			t.Fatal("nobody was told of the lie")
		}
	}
	w.await("/a", func(i Info) bool { return i.State == Resolved })
	p.speaks(nil)
	w.must(w.Start(ctx, "/a", "test"))
}

func TestProvidedResolver(t *testing.T) {
	w, p := provide(t, nil)
	ctx := t.Context()
	w.must(w.Start(ctx, "/made", "test"))
	w.states(map[name.Moniker]State{"/res": Started, "/made": Started})
	for m, c := range map[name.Moniker]struct {
		code capabilities.Code
		text string
	}{
		"/none":     {capabilities.NotFound, "there is no such thing"},
		"/relative": {capabilities.Internal, `has the URL "relative", which is not absolute`},
		"/broken":   {capabilities.Invalid, "made.cml:1:"},
		"/escape":   {capabilities.NotFound, "names a package"},
	} {
		err := w.Resolve(ctx, m)
		if err == nil || capabilities.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%v)", m, err, capabilities.CodeOf(err))
		}
	}
	if p.dials["/res"] != 1 {
		t.Errorf("%d connections", p.dials["/res"])
	}
}

// TestProvidedCycles: what needs itself, over whatever, is told so, and nobody waits for ever.
func TestProvidedCycles(t *testing.T) {
	for what, f := range map[string]files{
		"a resolver that resolves itself": {
			"root": `{
				children: [ { name: "res", url: "made:///x", environment: "#env" } ],
				environments: [ { name: "env", extends: "realm", resolvers: [ { resolver: "made", from: "#res", scheme: "made" } ] } ],
			}`,
		},
		"two resolvers that resolve each other": {
			"root": `{
				children: [ { name: "res", url: "two:///x", environment: "#one" }, { name: "two", url: "one:///x", environment: "#two" } ],
				environments: [
					{ name: "one", extends: "realm", resolvers: [ { resolver: "made", from: "#two", scheme: "two" } ] },
					{ name: "two", extends: "realm", resolvers: [ { resolver: "made", from: "#res", scheme: "one" } ] },
				],
			}`,
		},
	} {
		t.Run(what, func(t *testing.T) {
			w, _ := provide(t, f)
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			// Whoever begins, and at the same time.
			var wg sync.WaitGroup
			for _, m := range []name.Moniker{"/res", "/two"} {
				if m == "/two" && !strings.Contains(f["root"], `"two"`) {
					continue
				}
				wg.Go(func() {
					if err := w.Resolve(ctx, m); err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cycle") {
						t.Errorf("%s: %v", m, err)
					}
				})
			}
			wg.Wait()
		})
	}
}
