package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/runnertest"
	"github.com/cmgr/cmgr/runtime/realm"
	"github.com/cmgr/cmgr/runtime/resolver"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

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
	return &resolver.Resolved{URL: url, Decl: v}, nil
}

// above has the runner "fake", the scheme "mem" and the framework.
type above struct{}

func (above) Has(k manifest.Kind, n string) bool {
	return k == manifest.KindRunner && n == "fake" || k == manifest.KindResolver && n == "mem"
}

func (above) Framework(k manifest.Kind, n string) bool {
	return k == manifest.KindProtocol && slices.Contains(framework.Protocols(), n) ||
		k == manifest.KindEventStream && slices.Contains(framework.Events(), n)
}
func (a above) InRootEnvironment(k manifest.Kind, n string) bool { return a.Has(k, n) }

type sinks struct{}

func (sinks) Open(name.Moniker) (stdout, stderr *os.File, drained func(context.Context), err error) {
	return nil, nil, func(context.Context) {}, nil
}
func (sinks) Note(name.Moniker, string) {}
func (sinks) Remove(name.Moniker)       {}

type policy struct{}

func (policy) RebootOnTerminate(name.Moniker) bool { return false }

// tree is a realm whose components' protocols are all served by an echo of "PROVIDER NAME".
type tree struct {
	*realm.Realm
	echo sync.WaitGroup
}

func (t *tree) Connect(ctx context.Context, m name.Moniker, protocol string) (*os.File, error) {
	if err := t.Start(ctx, m, "protocol "+protocol); err != nil {
		return nil, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(fds[1]), "echo")
	t.echo.Go(func() {
		defer theirs.Close()
		_, _ = io.WriteString(theirs, string(m)+" "+protocol+"\n")
	})
	return os.NewFile(uintptr(fds[0]), "connection"), nil
}

type world struct {
	*tree
	*Host
	t     *testing.T
	fake  *runnertest.Fake
	notes chan string
	serve sync.WaitGroup
	ctx   context.Context
}

const prog = `program: { runner: "fake" }`

// manifests is the tree that most tests take: /core may do everything; the collection takes dynamic offers.
var manifests = files{
	"root": `{ children: [ { name: "core", url: "mem:///core" }, { name: "other", url: "mem:///leaf" } ] }`,
	"core": `{
		` + prog + `,
		children: [ { name: "log", url: "mem:///log" }, { name: "net", url: "mem:///leaf" } ],
		collections: [
			{ name: "jobs", durability: "transient", allowed_offers: "static_and_dynamic" },
			{ name: "fixed", durability: "transient" },
			{ name: "once", durability: "single_run" },
		],
		capabilities: [ { protocol: "own" } ],
		use: [ { protocol: "log", from: "#log" }, { protocol: "gone", from: "parent", availability: "required" } ],
		offer: [ { protocol: "log", from: "#log", to: "#jobs" } ],
	}`,
	"log":   `{ ` + prog + `, capabilities: [ { protocol: "log" } ], expose: [ { protocol: "log", from: "self" } ] }`,
	"leaf":  `{ ` + prog + ` }`,
	"tuned": `{ ` + prog + `, config: { n: { type: "uint8", mutability: [ "parent" ] }, words: { type: "vector", max_count: 2, element: { type: "string", max_size: 9 } } } }`,
	"worker": `{ ` + prog + `, use: [ { protocol: [ "log", "own", "work" ], availability: "optional" } ],
		capabilities: [ { protocol: "work" }, { directory: "d", path: "/d", rights: ["r*"] } ],
		expose: [ { protocol: "work", from: "self" }, { directory: "d", from: "self" } ] }`,
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, fake: runnertest.NewFake(), notes: make(chan string, 100)}
	w.tree = &tree{Realm: realm.New(realm.Config{
		RootURL: "mem:///root", Builtins: above{}, Runners: map[string]runners.Runner{"fake": w.fake},
		Resolvers: map[string]resolver.Resolver{"mem": manifests}, Sinks: sinks{}, Policy: policy{}, Log: slog.New(slog.DiscardHandler),
	})}
	w.Host = New(Config{
		Tree:    w.tree,
		Allowed: func(_ string, _, user name.Moniker) bool { return user == "/core" || user == "/" },
		Note:    func(m name.Moniker, text string) { w.notes <- string(m) + ": " + text },
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.ctx = ctx
	t.Cleanup(func() {
		cancel()
		w.serve.Wait()
		w.tree.Close()
		w.fake.Wait()
		w.echo.Wait()
	})
	w.must(w.Start(t.Context(), "/core", "test"))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func pair(t *testing.T, kind int) (client *net.UnixConn, server *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "client")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "server")
}

// dial connects as user to a protocol of scope.
func (w *world) dial(user, scope name.Moniker, protocol string) *net.UnixConn {
	kind := syscall.SOCK_STREAM
	if framework.Packets(protocol) {
		kind = syscall.SOCK_SEQPACKET
	}
	c, s := pair(w.t, kind)
	w.serve.Go(func() { _ = w.Serve(w.ctx, user, scope, protocol, s) })
	return c
}

// client connects /core to its own framework.
func (w *world) client(protocol string) framework.Client {
	w.t.Helper()
	c, err := framework.NewClient(w.t.Context(), w.dial("/core", "/core", protocol), protocol)
	w.must(err)
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) realm() *framework.RealmClient {
	return &framework.RealmClient{Client: w.client(framework.Realm)}
}

// wants says what kind of error it must be, and what it must say.
func wants(t *testing.T, err error, code capabilities.Code, text string) {
	t.Helper()
	if err == nil || capabilities.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%v (%v), want %v: %q", err, capabilities.CodeOf(err), code, text)
	}
}

func TestRealm(t *testing.T) {
	w := newWorld(t)
	r, ctx := w.realm(), t.Context()
	w.must(r.CreateChild(ctx, "jobs", framework.Child{Name: "b", URL: "mem:///worker", Offers: []framework.Offer{
		{Kind: "protocol", Name: "own", From: "self"},
	}}))
	w.must(r.CreateChild(ctx, "jobs", framework.Child{Name: "a", URL: "mem:///worker", Eager: true, Offers: []framework.Offer{
		{Kind: "protocol", Name: "work", From: "#jobs:b"},
	}}))
	got, err := r.ListChildren(ctx, "jobs")
	w.must(err)
	if want := []framework.Ref{{Collection: "jobs", Name: "a"}, {Collection: "jobs", Name: "b"}}; !slices.Equal(got, want) {
		t.Errorf("children %v", got)
	}
	for m, want := range map[name.Moniker]realm.State{"/core/jobs:a": realm.Started, "/core/jobs:b": realm.Unresolved} {
		if i, ok := w.Instance(m); !ok || i.State != want {
			t.Errorf("%s is %v", m, i.State)
		}
	}
	// The dynamic offers are what is routed.
	for m, want := range map[name.Moniker]string{
		"/core/jobs:a work": "/core/jobs:b", "/core/jobs:b own": "/core", "/core/jobs:a log": "/core/log", "/core/jobs:a own": "",
	} {
		at, capability, _ := strings.Cut(string(m), " ")
		n, _ := w.Node(name.Moniker(at))
		d, err := n.Decl(ctx)
		w.must(err)
		for k := range d.Uses {
			if d.Uses[k].SourceName == capability {
				if route, err := w.Engine().Use(ctx, n, &d.Uses[k]); (err != nil) != (want == "") || err == nil && string(route.Source.At) != want {
					t.Errorf("%s: %v, %v", m, route, err)
				}
			}
		}
	}
	exposed, err := r.OpenExposedDir(ctx, framework.Ref{Collection: "jobs", Name: "b"})
	w.must(err)
	if want := []framework.Capability{{Kind: "directory", Name: "d"}, {Kind: "protocol", Name: "work"}}; !reflect.DeepEqual(exposed, want) {
		t.Errorf("exposed %v", exposed)
	}
	c, err := r.ConnectExposed(ctx, framework.Ref{Collection: "jobs", Name: "b"}, "work")
	w.must(err)
	defer c.Close()
	if line, _ := bufio.NewReader(c).ReadString('\n'); line != "/core/jobs:b work\n" {
		t.Errorf("connected to %q", line)
	}
	if i, _ := w.Instance("/core/jobs:b"); i.State != realm.Started {
		t.Errorf("the provider is %v", i.State)
	}
	w.must(r.DestroyChild(ctx, framework.Ref{Collection: "jobs", Name: "b"}))
	if _, ok := w.Instance("/core/jobs:b"); ok {
		t.Error("it is still there")
	}
	w.must(r.CreateChild(ctx, "jobs", framework.Child{Name: "b", URL: "mem:///worker"})) // the name is free again
}

func TestRealmRefuses(t *testing.T) {
	w := newWorld(t)
	r, ctx := w.realm(), t.Context()
	w.must(r.CreateChild(ctx, "jobs", framework.Child{Name: "a", URL: "mem:///worker"}))
	create := func(collection string, c framework.Child) error { return r.CreateChild(ctx, collection, c) }
	offer := func(o framework.Offer) error {
		return create("jobs", framework.Child{Name: "x", URL: "mem:///worker", Offers: []framework.Offer{o}})
	}
	for text, c := range map[string]struct {
		err  error
		code capabilities.Code
	}{
		"already exists":                        {create("jobs", framework.Child{Name: "a", URL: "mem:///worker"}), capabilities.Precondition},
		"does not have collection `#nojobs`":    {create("nojobs", framework.Child{Name: "a", URL: "mem:///worker"}), capabilities.NotFound},
		"no such":                               {create("once", framework.Child{Name: "a", URL: "mem:///nothing"}), capabilities.NotFound},
		"url":                                   {create("jobs", framework.Child{Name: "y"}), capabilities.Invalid},
		"collection \"fixed\" takes no dynamic": {create("fixed", framework.Child{Name: "a", URL: "mem:///worker", Offers: []framework.Offer{{Kind: "protocol", Name: "own", From: "self"}}}), capabilities.Invalid},
		"there is no kind of capability \"thing\"":  {offer(framework.Offer{Kind: "thing", Name: "own", From: "self"}), capabilities.Invalid},
		"must be declared":                          {offer(framework.Offer{Kind: "protocol", Name: "nope", From: "self"}), capabilities.Invalid},
		"does not have child `#jobs:z`":             {offer(framework.Offer{Kind: "protocol", Name: "work", From: "#jobs:z"}), capabilities.NotFound},
		"from \"above\"":                            {offer(framework.Offer{Kind: "protocol", Name: "own", From: "above"}), capabilities.Invalid},
		"\"read\" is no right":                      {offer(framework.Offer{Kind: "directory", Name: "d", From: "parent", Rights: []string{"read"}}), capabilities.Invalid},
		"there is no availability \"perhaps\"":      {offer(framework.Offer{Kind: "protocol", Name: "own", From: "self", Availability: "perhaps"}), capabilities.Invalid},
		"dynamic offers: ":                          {offer(framework.Offer{Kind: "protocol", Name: "own", From: "self", As: "log"}), capabilities.Invalid},
		"only children of collections":              {r.DestroyChild(ctx, framework.Ref{Name: "log"}), capabilities.Invalid},
		"does not have child `#jobs:none`":          {r.DestroyChild(ctx, framework.Ref{Collection: "jobs", Name: "none"}), capabilities.NotFound},
		"was not exposed to `/core` from `#jobs:a`": {second(r.ConnectExposed(ctx, framework.Ref{Collection: "jobs", Name: "a"}, "nope")), capabilities.NotFound},
		"does not have collection `#none`":          {second(r.ListChildren(ctx, "none")), capabilities.NotFound},
		"does not have child `#none`":               {second(r.OpenController(ctx, framework.Ref{Name: "none"}, nil)), capabilities.NotFound},
	} {
		wants(t, c.err, c.code, strings.Replace(text, "no such", "mem:///nothing", 1))
	}
	if got, err := r.ListChildren(ctx, "jobs"); err != nil || len(got) != 1 {
		t.Errorf("children %v, %v", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestController(t *testing.T) {
	w := newWorld(t)
	r, ctx := w.realm(), t.Context()
	events := make(chan string, 20)
	c, err := r.OpenController(ctx, framework.Ref{Name: "net"}, func(what string, s framework.State) {
		if s.Exit != nil {
			what += " " + s.Exit.Cause
		}
		events <- what
	})
	w.must(err)
	if s, err := c.State(ctx); err != nil || s.State != "unresolved" {
		t.Errorf("%v, %v", s, err)
	}
	w.must(c.Start(ctx))
	waited := make(chan framework.State, 1)
	go func() {
		s, _ := c.Wait(ctx)
		waited <- s
	}()
	w.fake.Exit("/core/net", runners.Exit{Code: 7})
	if s := <-waited; s.State != "resolved" || s.Exit == nil || s.Exit.Code != 7 {
		t.Errorf("waited for %+v", s)
	}
	w.must(c.Start(ctx))
	w.must(c.Stop(ctx))
	w.must(c.Start(ctx))
	w.must(c.Kill(ctx))
	wants(t, c.Destroy(ctx), capabilities.Invalid, "only dynamic children")
	for _, want := range []string{"Started", "Stopped self", "Started", "Stopped stop", "Started", "Stopped kill"} {
		select {
		case got := <-events:
			if got != want {
				t.Errorf("event %q, want %q", got, want)
			}
		case <-time.After(bound):
			t.Fatalf("no event; want %q", want)
		}
	}
	// It ends with the connection that it came from, and the child stays as it is.
	w.must(c.Start(ctx))
	r.Close()
	select {
	case <-c.Done():
	case <-time.After(bound):
		t.Error("the controller is still there")
	}
	c.Close()
	if i, _ := w.Instance("/core/net"); i.State != realm.Started {
		t.Errorf("the child is %v", i.State)
	}
}

func TestLifecycle(t *testing.T) {
	w := newWorld(t)
	c, ctx := &framework.LifecycleClient{Client: w.client(framework.LifecycleController)}, t.Context()
	state := func(m name.Moniker, want realm.State) {
		t.Helper()
		if i, _ := w.Instance(m); i.State != want {
			t.Errorf("%s is %v, want %v", m, i.State, want)
		}
	}
	w.must(c.Resolve(ctx, "./net"))
	state("/core/net", realm.Resolved)
	w.must(c.Start(ctx, "./net"))
	state("/core/net", realm.Started)
	w.must(c.Stop(ctx, "./net"))
	state("/core/net", realm.Resolved)
	w.must(c.Unresolve(ctx, "./net"))
	state("/core/net", realm.Unresolved)
	w.must(c.Create(ctx, ".", "jobs", framework.Child{Name: "a", URL: "mem:///worker"}))
	state("/core/jobs:a", realm.Unresolved)
	w.must(c.Destroy(ctx, ".", framework.Ref{Collection: "jobs", Name: "a"}))
	wants(t, c.Start(ctx, "/core/net"), capabilities.Invalid, "must be relative")
	wants(t, c.Start(ctx, "./../other"), capabilities.Invalid, "..")
	wants(t, c.Start(ctx, "./none"), capabilities.NotFound, "none")
	wants(t, c.Start(ctx, ""), capabilities.Invalid, "must be relative")
}

func TestQuery(t *testing.T) {
	w := newWorld(t)
	c, ctx := &framework.QueryClient{Client: w.client(framework.RealmQuery)}, t.Context()
	all, err := c.All(ctx)
	w.must(err)
	var got []string
	for _, i := range all {
		got = append(got, i.Moniker+" "+i.State)
	}
	if want := []string{". started", "./log unresolved", "./net unresolved"}; !slices.Equal(got, want) {
		t.Errorf("instances %q", got)
	}
	i, err := c.Get(ctx, ".")
	if err != nil || i.URL != "mem:///core" || i.ResolvedURL != "mem:///core" || i.StartReason != "test" {
		t.Errorf("%+v, %v", i, err)
	}
	d, err := c.Declaration(ctx, ".")
	if err != nil || len(d.Collections) != 3 {
		t.Errorf("%v, %v", d, err)
	}
	wants(t, second(c.Declaration(ctx, "./net")), capabilities.Precondition, "has not been resolved")
	wants(t, second(c.Get(ctx, "./none")), capabilities.NotFound, "no instance /core/none")

	routes := &framework.RouteClient{Client: w.client(framework.RouteValidator)}
	reports, err := routes.Route(ctx, ".", nil, nil)
	w.must(err)
	got = nil
	for _, r := range reports {
		got = append(got, strings.Join([]string{r.Type, r.Kind, r.Capability, r.Outcome, r.Source}, " "))
	}
	want := []string{"use runner fake success <component manager>", "use protocol log success ./log", "use protocol gone failed "}
	if !slices.Equal(got, want) {
		t.Errorf("routes %q", got)
	}
	if r := reports[2]; !strings.Contains(r.Error, "was not offered to `/core` by parent") || r.Hint == "" || r.Code != capabilities.NotFound {
		t.Errorf("%+v", r)
	}
	if some, err := routes.Route(ctx, ".", []string{"lo"}, nil); err != nil || len(some) != 1 {
		t.Errorf("%v, %v", some, err)
	}
}

// TestConfig: values by who creates a component, and overrides, as RealmQuery then tells them.
func TestConfig(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	realms := &framework.RealmClient{Client: w.client(framework.Realm)}
	query := &framework.QueryClient{Client: w.client(framework.RealmQuery)}
	c := &framework.ConfigClient{Client: w.client(framework.ConfigOverride)}
	w.must(realms.CreateChild(ctx, "jobs", framework.Child{Name: "a", URL: "mem:///tuned", Config: map[string]string{"n": "1"}}))
	wants(t, second(query.Config(ctx, "./jobs:a")), capabilities.Invalid, `key "words" has no value`)
	w.must(c.Set(ctx, "./jobs:a", map[string]string{"words": `["a","b"]`}))
	want := func(want ...framework.ConfigValue) {
		t.Helper()
		if got, err := query.Config(ctx, "./jobs:a"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	}
	words := framework.ConfigValue{Key: "words", Value: `["a","b"]`, Source: "override"}
	want(framework.ConfigValue{Key: "n", Value: "1", Source: "parent"}, words)
	w.must(c.Set(ctx, "./jobs:a", map[string]string{"n": "2"}))
	want(framework.ConfigValue{Key: "n", Value: "2", Source: "override"}, words)
	wants(t, c.Set(ctx, "./jobs:a", map[string]string{"n": "300"}), capabilities.Invalid, "out of range")
	wants(t, c.Set(ctx, "/other", map[string]string{"n": "3"}), capabilities.Invalid, "must be relative")
	wants(t, c.Set(ctx, "./net", map[string]string{"n": "3"}), capabilities.Invalid, "no configuration")
	w.must(c.Unset(ctx, "./jobs:a"))
	wants(t, second(query.Config(ctx, "./jobs:a")), capabilities.Invalid, `key "words" has no value`)
	w.must(c.Set(ctx, "./jobs:a", map[string]string{"words": `[]`}))
	w.must(c.Unset(ctx, ""))
	wants(t, second(query.Config(ctx, "./jobs:a")), capabilities.Invalid, `key "words" has no value`)
}

// TestRestricted: who is not named by the policy is told so, in words and in its log.
func TestRestricted(t *testing.T) {
	w := newWorld(t)
	for _, p := range framework.Protocols() {
		if !framework.Restricted(p) {
			continue
		}
		_, err := framework.NewClient(t.Context(), w.dial("/other", "/other", p), p)
		wants(t, err, capabilities.Denied, "/other may not use "+p)
		if n := <-w.notes; !strings.HasPrefix(n, "/other: ") || !strings.Contains(n, "capability_policy") {
			t.Errorf("note %q", n)
		}
	}
	c, err := framework.NewClient(t.Context(), w.dial("/other", "/other", framework.Realm), framework.Realm)
	w.must(err)
	c.Close()
}

func TestBinder(t *testing.T) {
	w := newWorld(t)
	c := w.dial("/core", "/core/net", framework.Binder)
	w.must(stateIs(w, "/core/net", realm.Started))
	// It lasts as long as the component runs.
	w.must(w.Stop(t.Context(), "/core/net"))
	c.SetReadDeadline(time.Now().Add(bound))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	// One that can't be started.
	w.must(w.Realm.Shutdown(t.Context()))
	c = w.dial("/core", "/core/net", framework.Binder)
	c.SetReadDeadline(time.Now().Add(bound))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	if n := <-w.notes; !strings.Contains(n, "shut down") {
		t.Errorf("note %q", n)
	}
}

func stateIs(w *world, m name.Moniker, want realm.State) error {
	events := w.Subscribe(0)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	for {
		if i, ok := w.Instance(m); ok && i.State == want {
			return nil
		}
		if _, _, err := events.Next(ctx); err != nil {
			return err
		}
	}
}

// streams are those of /core's framework, narrowed as a manifest would.
func streams(filter manifest.Dictionary, scope []capabilities.Scope, events ...string) (out []Stream) {
	for _, e := range events {
		out = append(out, Stream{Event: e, Filter: filter, Route: &capabilities.Route{
			Source: capabilities.Source{Kind: capabilities.FromFramework, At: "/core"}, Scope: append([]capabilities.Scope{{At: "/core"}}, scope...),
		}})
	}
	return out
}

func (w *world) events(s []Stream) *net.UnixConn {
	c, f := pair(w.t, syscall.SOCK_STREAM)
	w.serve.Go(func() { _ = w.Events(w.ctx, "/core", s, f) })
	c.SetReadDeadline(time.Now().Add(bound))
	return c
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for _, m := range []name.Moniker{"/other", "/core/net", "/core/log"} { // before it connects, after it was started
		w.must(w.Start(ctx, m, "test"))
	}
	c := w.events(streams(nil, nil, "started", "stopped"))
	w.must(w.Stop(ctx, "/core/net"))
	lines := json.NewDecoder(c)
	for _, want := range []string{"started .", "started ./net", "started ./log", "stopped ./net"} {
		var e event
		w.must(lines.Decode(&e))
		if got := e.Kind + " " + e.Moniker; got != want || e.Time == "" || e.URL == "" || (e.Kind == "stopped") != (e.Exit != nil) {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	// Scope and filter.
	for want, s := range map[string][]Stream{
		"./log": streams(nil, []capabilities.Scope{{At: "/core", Segments: []string{"log"}}}, "started"),
		"./net": streams(manifest.Dictionary{{Key: "moniker", Value: manifest.Strings{"./n*", "./net"}}}, nil, "started"),
	} {
		if s[0].Filter != nil {
			s[0].Filter[0].Value = manifest.String("./net")
		}
		var e event
		w.must(json.NewDecoder(w.events(s)).Decode(&e))
		if e.Moniker != want {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	// Protobuf.
	c = w.events(streams(manifest.Dictionary{{Key: "encoding", Value: manifest.String("protobuf")}}, nil, "stopped"))
	got := new(componentpb.Event)
	w.must(protodelim.UnmarshalFrom(bufio.NewReader(c), got))
	if got.Kind != "stopped" || got.Moniker != "./net" || got.Exit.GetCause() != "stop" || got.TimeNs == 0 {
		t.Errorf("%v", got)
	}
	// What is no filter.
	for _, f := range []manifest.Dictionary{
		{{Key: "colour", Value: manifest.String("red")}},
		{{Key: "encoding", Value: manifest.String("xml")}},
		{{Key: "moniker", Value: manifest.String("**/a")}},
		{{Key: "name", Value: manifest.Null{}}},
	} {
		if n, err := w.events(streams(f, nil, "started")).Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%v: %d, %v", f, n, err)
		}
		if n := <-w.notes; !strings.Contains(n, "event stream") {
			t.Errorf("note %q", n)
		}
	}
}

// TestEventsSlowReader: who doesn't read makes nobody wait, and is told what it lost.
func TestEventsSlowReader(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := w.events(streams(nil, nil, "started"))
	const rounds = 6000 // some 18,000 events: more than are kept, and more lines than a socket holds
	for range rounds {
		w.must(w.Start(ctx, "/core/net", "a reason of some length, so that the socket is full soon: "+strings.Repeat("x", 200)))
		w.must(w.Stop(ctx, "/core/net"))
	}
	lines := json.NewDecoder(c)
	var seen int
	var lost uint64
	for lost == 0 {
		var e event
		w.must(lines.Decode(&e))
		seen++
		lost += e.Lost
	}
	if seen >= rounds {
		t.Errorf("%d events came", seen)
	}
}

func TestIntrospector(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := &framework.IntrospectorClient{Client: w.client(framework.Introspector)}
	a, b := pair(t, syscall.SOCK_STREAM) // both ends are this test's, which is no component
	defer b.Close()
	wants(t, second(c.Peer(ctx, a)), capabilities.NotFound, "belongs to no component")
	wants(t, second(c.Process(ctx, 1<<30)), capabilities.NotFound, "belongs to no component")
	wants(t, second(c.Process(ctx, 0)), capabilities.Invalid, "give one")
	null, err := os.Open(os.DevNull)
	w.must(err)
	defer null.Close()
	wants(t, second(c.Peer(ctx, null)), capabilities.Invalid, "no unix connection")
}

// TestHostile: what a client can do wrong ends its own connection only.
func TestHostile(t *testing.T) {
	w := newWorld(t)
	raw := func() *rpc.Conn {
		c, err := rpc.Connect(t.Context(), w.dial("/core", "/core", framework.Realm), rpc.Config{
			Protocol: framework.Realm, Versions: []uint32{1}, MaxFDs: 1, MaxBody: 1 << 20,
		})
		w.must(err)
		t.Cleanup(c.Close)
		return c
	}
	good := w.realm()
	null, err := os.Open(os.DevNull)
	w.must(err)
	defer null.Close()
	for want, m := range map[string]rpc.Message{
		"1048576 is the most": {Body: make([]byte, 2<<20)},
		"descriptor":          {Files: []*os.File{null, null}},
	} {
		c := raw()
		if _, err := c.Call(t.Context(), "ListChildren", m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if n := <-w.notes; !strings.Contains(n, "disconnected") {
			t.Errorf("note %q", n)
		}
	}
	if _, err := raw().Call(t.Context(), "Nonsense", rpc.Message{}); !errors.Is(err, rpc.ErrUnsupported) {
		t.Error(err)
	}
	wants(t, second(raw().Call(t.Context(), "CreateChild", rpc.Message{Body: []byte{0xff}})), capabilities.Invalid, "the body is no CreateChild")
	wants(t, second(raw().Call(t.Context(), "ListChildren", rpc.Message{})), capabilities.NotFound, "collection")
	body, err := proto.Marshal(&componentpb.CreateChild{
		Collection: "jobs", Child: &componentpb.Child{Name: "x", Url: "mem:///worker", Environment: "env"},
	})
	w.must(err)
	wants(t, second(raw().Call(t.Context(), "CreateChild", rpc.Message{Body: body})), capabilities.Invalid, "may not set its environment")
	body, err = proto.Marshal(&componentpb.ChildRef{Name: "../net"})
	w.must(err)
	wants(t, second(raw().Call(t.Context(), "OpenExposedDir", rpc.Message{Body: body})), capabilities.Invalid, "../net")
	// Another protocol than that of the socket.
	_, err = framework.NewClient(t.Context(), w.dial("/core", "/core", framework.Realm), framework.RealmQuery)
	if err == nil || !strings.Contains(err.Error(), "asks for protocol") {
		t.Error(err)
	}
	// Controllers are bounded.
	var last error
	for range maxControllers + 1 {
		var c *framework.ControllerClient
		if c, last = good.OpenController(t.Context(), framework.Ref{Name: "net"}, nil); c != nil {
			defer c.Close()
		}
	}
	wants(t, last, capabilities.Unavailable, "too many controllers")
	if _, err := good.ListChildren(t.Context(), "jobs"); err != nil {
		t.Errorf("who did nothing wrong: %v", err)
	}
}
