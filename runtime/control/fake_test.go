package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// epoch is when everything in these tests happens.
var epoch = time.Date(2026, 3, 1, 10, 2, 11, 420e6, time.UTC)

// tree is a Tree in memory. It keeps what a tree promises and runs nothing. manifests are by URL.
type tree struct {
	manifests map[string]*manifest.Component

	mu         sync.Mutex
	instances  map[name.Moniker]*realm.Info
	events     []realm.Event
	more       chan struct{} // closed at the next event
	closed     bool
	subscribed chan struct{}             // if not nil, gets a value for each Subscribe
	startError map[name.Moniker]error    // what Start of these gives
	startsThen map[name.Moniker]func()   // what happens right after these have started
	stops      map[name.Moniker]struct{} // those that Stop was asked for
	config     map[name.Moniker]map[string]string
	stored     []realm.Stored
}

// newTree makes a tree of CML sources by URL; the root is "root.cml", and everything that can be resolved is.
func newTree(t testing.TB, sources map[string]string) *tree {
	t.Helper()
	tr := &tree{
		manifests: map[string]*manifest.Component{}, instances: map[name.Moniker]*realm.Info{}, more: make(chan struct{}),
		startError: map[name.Moniker]error{}, startsThen: map[name.Moniker]func(){}, stops: map[name.Moniker]struct{}{},
	}
	for url, src := range sources {
		v, found := cml.Load(url, []byte(src), cml.Options{})
		if err := found.Err(); err != nil {
			t.Fatal(err)
		}
		tr.manifests[url] = v.Decl()
	}
	tr.add(name.Root, "root.cml", "")
	if err := tr.Resolve(t.Context(), name.Root); err != nil {
		t.Fatal(err)
	}
	return tr
}

func (t *tree) add(m name.Moniker, url, environment string) {
	t.instances[m] = &realm.Info{Moniker: m, URL: url, Environment: environment}
	t.emit(realm.Event{Kind: realm.EventDiscovered, Moniker: m, URL: url})
}

// emit is called with mu held, or before anybody else has t.
func (t *tree) emit(e realm.Event) {
	e.Seq, e.Time = uint64(len(t.events)+1), epoch.Add(time.Duration(len(t.events))*time.Second)
	t.events = append(t.events, e)
	close(t.more)
	t.more = make(chan struct{})
}

// change changes an instance and tells of it.
func (t *tree) change(m name.Moniker, e realm.Event, f func(*realm.Info)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.instances[m]
	if i == nil {
		return &realm.Error{Op: "find", At: m, Why: capabilities.NotFound, Err: errors.New("no such instance")}
	}
	f(i)
	e.Moniker, e.URL = m, i.URL
	t.emit(e)
	return nil
}

func (t *tree) Resolve(_ context.Context, m name.Moniker) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.instances[m]
	if i == nil {
		return &realm.Error{
			Op: "find", At: m, Why: capabilities.NotFound, Err: errors.New("no such instance"),
			Hint: "did you mean /core?",
		}
	}
	if i.Decl != nil {
		return nil
	}
	d := t.manifests[i.URL]
	if d == nil {
		return &realm.Error{Op: "resolve", At: m, Why: capabilities.NotFound, Err: fmt.Errorf("%s: no such manifest", i.URL)}
	}
	i.State, i.Decl, i.ResolvedURL, i.PackageDir = realm.Resolved, d, "file:///pkg/"+i.URL, "/pkg"
	t.emit(realm.Event{Kind: realm.EventResolved, Moniker: m})
	for _, c := range d.Children {
		t.add(m.Child(c.Name), c.URL, c.Environment)
	}
	return nil
}

func (t *tree) Start(ctx context.Context, m name.Moniker, reason string) error {
	if err := t.Resolve(ctx, m); err != nil {
		return err
	}
	if err := t.startError[m]; err != nil {
		_ = t.change(m, realm.Event{Kind: realm.EventFailed, Err: err}, func(i *realm.Info) { i.LastError = err })
		return err
	}
	err := t.change(m, realm.Event{Kind: realm.EventStarted, Text: reason}, func(i *realm.Info) {
		i.State, i.StartReason, i.StartedAt, i.Program = realm.Started, reason, epoch, fakeProgram{}
	})
	if then := t.startsThen[m]; then != nil {
		then()
	}
	return err
}

// ends is what happens when m's program ends so.
func (t *tree) ends(m name.Moniker, x runners.Exit) error {
	return t.change(m, realm.Event{Kind: realm.EventStopped, Exit: &x}, func(i *realm.Info) {
		i.State, i.LastExit, i.Program = realm.Resolved, &x, nil
	})
}

func (t *tree) Stop(_ context.Context, m name.Moniker) error {
	return t.ends(m, runners.Exit{Cause: runners.ByStop, Started: epoch, Ended: epoch.Add(3 * time.Second)})
}

func (t *tree) Restart(ctx context.Context, m name.Moniker, reason string) error {
	if err := t.Stop(ctx, m); err != nil {
		return err
	}
	return t.Start(ctx, m, reason)
}

func (t *tree) Kill(_ context.Context, m name.Moniker) error {
	return t.ends(m, runners.Exit{Code: -1, Signal: 9, Cause: runners.ByKill, Started: epoch, Ended: epoch.Add(3 * time.Second)})
}

func (t *tree) Disable(ctx context.Context, m name.Moniker) error {
	return errors.Join(t.Stop(ctx, m), t.set(m, true))
}

func (t *tree) Enable(_ context.Context, m name.Moniker) error { return t.set(m, false) }

func (t *tree) set(m name.Moniker, disabled bool) error {
	return t.change(m, realm.Event{Kind: realm.EventDisabled}, func(i *realm.Info) { i.Disabled = disabled })
}

func (t *tree) Unresolve(_ context.Context, m name.Moniker) error {
	return t.change(m, realm.Event{Kind: realm.EventUnresolved}, func(i *realm.Info) { i.State, i.Decl = realm.Unresolved, nil })
}

func (t *tree) Reload(ctx context.Context, m name.Moniker, dry bool) ([]realm.Change, error) {
	changes := []realm.Change{
		{Moniker: m, Kind: realm.ChangeRestarted, Why: "its program changed", Pos: manifest.Pos{File: "net.cml", Line: 3, Col: 7}},
		{Moniker: m.Child("new"), Kind: realm.ChangeAdded},
	}
	if dry {
		return changes, nil
	}
	return changes, errors.Join(t.Unresolve(ctx, m), t.Start(ctx, m, "reload"))
}

func (t *tree) Create(_ context.Context, parent name.Moniker, collection string, c realm.ChildDecl) (name.Moniker, error) {
	m := parent.Child(collection + ":" + c.Name)
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.instances[parent]
	if p == nil || p.Decl == nil || p.Decl.Collection(collection) == nil {
		err := fmt.Errorf("`%s` does not have collection `#%s`", parent, collection)
		return "", &realm.Error{Op: "create", At: m, Why: capabilities.NotFound, Err: err}
	}
	t.add(m, c.URL, "")
	return m, nil
}

func (t *tree) Config(_ context.Context, m name.Moniker) (out []realm.ConfigValue, _ error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(t.config[m])) {
		out = append(out, realm.ConfigValue{
			Key: k, Value: t.config[m][k], Type: manifest.ConfigType{Kind: manifest.ConfigString, MaxSize: 9}, Source: realm.SourceOverride,
		})
	}
	return out, nil
}

func (t *tree) SetConfig(_ context.Context, m name.Moniker, values map[string]string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.config == nil {
		t.config = map[name.Moniker]map[string]string{}
	}
	t.config[m] = values
	return nil
}

func (t *tree) UnsetConfig(_ context.Context, m name.Moniker, keys ...string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(keys) == 0 {
		t.config[m] = nil
	}
	for _, k := range keys {
		delete(t.config[m], k)
	}
	return nil
}

func (t *tree) Storages(context.Context) ([]realm.Stored, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.stored), nil
}

func (t *tree) DeleteStored(_ context.Context, at name.Moniker, storage string, user name.Moniker) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.stored)
	t.stored = slices.DeleteFunc(t.stored, func(s realm.Stored) bool { return s.Provider == at && s.Storage == storage && s.User == user })
	if len(t.stored) == n {
		return &realm.Error{Op: "delete storage of", At: user, Why: capabilities.NotFound, Err: errors.New("it keeps nothing")}
	}
	return nil
}

func (t *tree) Destroy(_ context.Context, m name.Moniker) error {
	if m.Collection() == "" {
		return &realm.Error{Op: "destroy", At: m, Why: capabilities.Invalid, Err: errors.New("only dynamic children can be destroyed")}
	}
	t.remove(m)
	return nil
}

func (t *tree) remove(m name.Moniker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.instances, m)
	t.emit(realm.Event{Kind: realm.EventDestroyed, Moniker: m})
}

func (t *tree) Instances() []realm.Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []realm.Info
	for _, i := range t.instances {
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b realm.Info) int { return cmp.Compare(a.Moniker, b.Moniker) })
	return out
}

func (t *tree) Instance(m name.Moniker) (realm.Info, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.instances[m]; i != nil {
		return *i, true
	}
	return realm.Info{}, false
}

func (t *tree) Node(m name.Moniker) (routing.Node, bool) {
	_, ok := t.Instance(m)
	return node{t, m}, ok
}

func (t *tree) LastEvent() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return uint64(len(t.events))
}

func (t *tree) Subscribe(since uint64) Subscription {
	if t.subscribed != nil {
		t.subscribed <- struct{}{}
	}
	return &subscription{t: t, next: int(since)}
}

// close ends the tree: subscriptions end once they have given what is there.
func (t *tree) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	close(t.more)
	t.more = make(chan struct{})
}

type subscription struct {
	t    *tree
	next int
}

func (s *subscription) Next(ctx context.Context) (realm.Event, uint64, error) {
	for {
		s.t.mu.Lock()
		more, closed := s.t.more, s.t.closed
		if s.next < len(s.t.events) {
			e := s.t.events[s.next]
			s.next++
			s.t.mu.Unlock()
			return e, 0, nil
		}
		s.t.mu.Unlock()
		if closed {
			return realm.Event{}, 0, realm.ErrClosed
		}
		select {
		case <-more:
		case <-ctx.Done():
			return realm.Event{}, 0, context.Cause(ctx)
		}
	}
}

// node is one instance as routing sees it.
type node struct {
	t *tree
	m name.Moniker
}

func (n node) Moniker() name.Moniker { return n.m }

func (n node) Parent() (routing.Node, bool) {
	p, ok := n.m.Parent()
	return node{n.t, p}, ok
}

func (n node) Decl(ctx context.Context) (*manifest.Component, error) {
	if err := n.t.Resolve(ctx, n.m); err != nil {
		return nil, err
	}
	i, _ := n.t.Instance(n.m)
	return i.Decl, nil
}

func (n node) Child(ctx context.Context, segment string) (routing.Node, bool, error) {
	if _, err := n.Decl(ctx); err != nil {
		return nil, false, err
	}
	c, ok := n.t.Node(n.m.Child(segment))
	return c, ok, nil
}

func (n node) Dynamic(collection string) []routing.Node {
	var out []routing.Node
	for _, i := range n.t.Instances() {
		if p, ok := i.Moniker.Parent(); ok && p == n.m && i.Moniker.Collection() == collection {
			out = append(out, node{n.t, i.Moniker})
		}
	}
	return out
}

func (n node) Environment() string {
	i, _ := n.t.Instance(n.m)
	return i.Environment
}

func (node) DynamicOffers() []manifest.Offer { return nil }

// builtins are a manager with a runner and nothing else.
type builtins struct{}

func (builtins) Has(kind manifest.Kind, capability string) bool {
	return kind == manifest.KindRunner && capability == "elf"
}
func (builtins) Framework(manifest.Kind, string) bool         { return false }
func (builtins) InRootEnvironment(manifest.Kind, string) bool { return false }

// fakeProgram runs for ever and knows all about itself.
type fakeProgram struct{}

func (fakeProgram) Stop(context.Context) error { return nil }
func (fakeProgram) Kill(context.Context) error { return nil }
func (fakeProgram) Wait(context.Context) (runners.Exit, error) {
	return runners.Exit{}, errors.ErrUnsupported
}

func (fakeProgram) Signal(_ context.Context, sig syscall.Signal) error {
	if sig != syscall.SIGHUP {
		return errors.New("got " + sig.String())
	}
	return nil
}
func (fakeProgram) Processes(context.Context) ([]int, error) { return []int{20490, 20491}, nil }
func (fakeProgram) Describe() []runners.Detail {
	return []runners.Detail{{Key: "Job ID", Value: "/sys/fs/cgroup/cmgr/net"}}
}

func (fakeProgram) Stats(context.Context) (runners.Stats, error) {
	return runners.Stats{CPU: 1500 * time.Millisecond, Memory: 3 << 20, Processes: -1}, nil
}

// fakeLogs are lines that are there, and a channel of those to come.
type fakeLogs struct {
	old []logs.Line
	new chan logs.Line
}

func (fakeLogs) Dir(m name.Moniker) string {
	return "/state/logs/" + strings.ReplaceAll(string(m[1:]), "/", "+")
}

func (l fakeLogs) History(filter func(name.Moniker) bool, n int) iter.Seq2[logs.Line, error] {
	return func(yield func(logs.Line, error) bool) {
		left := map[name.Moniker]int{}
		for _, x := range l.old {
			left[x.Moniker]++
		}
		for _, x := range l.old {
			left[x.Moniker]--
			if filter(x.Moniker) && (n < 0 || left[x.Moniker] < n) && !yield(x, nil) {
				return
			}
		}
	}
}

func (l fakeLogs) Follow(ctx context.Context, filter func(name.Moniker) bool, n int) iter.Seq2[logs.Line, error] {
	return func(yield func(logs.Line, error) bool) {
		for x, err := range l.History(filter, n) {
			if !yield(x, err) {
				return
			}
		}
		for {
			select {
			case x := <-l.new:
				if filter(x.Moniker) && !yield(x, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// shop is a tree with everything that these tests ask for.
func shop(t testing.TB) *tree {
	return newTree(t, map[string]string{
		"root.cml": `{
			children: [{ name: "core", url: "core.cml" }, { name: "netstack", url: "netstack.cml" }],
			offer: [{ runner: "elf", from: "parent", to: ["#core", "#netstack"] }],
		}`,
		"core.cml": `{
			children: [{ name: "net", url: "net.cml", environment: "#slow" }, { name: "log", url: "log.cml" }],
			collections: [{ name: "jobs", durability: "transient" }],
			environments: [{ name: "slow", extends: "realm", __stop_timeout_ms: 30000 }],
			offer: [
				{ runner: "elf", from: "parent", to: ["#net", "#log"] },
				{ protocol: "syslog", from: "#log", to: "#net", as: "logger" },
				{ protocol: "metrics", from: "void", to: "#net", availability: "optional" },
			],
		}`,
		"net.cml": `{
			program: { binary: "bin/net" },
			use: [
				{ runner: "elf" },
				{ protocol: "logger", path: "/svc/logger" },
				{ protocol: "metrics", availability: "optional" },
				{ protocol: "billing" },
			],
			capabilities: [{ protocol: "tcp" }],
			expose: [{ protocol: "tcp", from: "self" }],
		}`,
		"log.cml": `{
			program: { binary: "bin/log" },
			use: [{ runner: "elf" }],
			capabilities: [{ protocol: "syslog" }],
			expose: [{ protocol: "syslog", from: "self" }],
		}`,
		"netstack.cml": `{}`,
		"import.cml":   `{}`,
	})
}

// serve serves tr on a socket of its own and returns a client, the server's and the socket's path.
func serve(t testing.TB, tr *tree, change ...func(*Config)) (*Client, *Server, string) {
	t.Helper()
	cfg := Config{
		Name: "test", Version: "v1", RootURL: "root.cml", Tree: tr, Router: routing.New(builtins{}), Logs: fakeLogs{},
		Log:      slog.New(slog.DiscardHandler),
		Shutdown: func(context.Context) error { tr.close(); return nil },
	}
	for _, f := range change {
		f(&cfg)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen("test", socket, cfg.Group)
	if err != nil {
		t.Fatal(err)
	}
	s := New(cfg)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c, err := Dial(t.Context(), "test", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return c, s, socket
}
