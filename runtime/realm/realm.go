package realm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/protocol"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/remote"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// ErrClosed is what reading events gives after the realm's end.
var ErrClosed = errors.New("the tree is shut down")

// KillTimeout bounds the wait for a killed program's end. Only a process in an uninterruptible system call takes longer.
const KillTimeout = 5 * time.Second

// Config is what a tree is made with. Runners and Resolvers are the built-in ones, by the name under which Builtins knows them.
type Config struct {
	RootURL   string
	Builtins  routing.Builtins
	Runners   map[string]runners.Runner
	Resolvers map[string]resolver.Resolver
	// Dial connects to the socket of a runner or resolver that the component at declares, and which runs. nil: by Sockets.
	Dial func(ctx context.Context, at name.Moniker, c *manifest.Capability) (*os.File, error)
	// Sockets makes the sockets of protocols; it stays the caller's. nil: nothing is delivered to programs.
	Sockets *protocol.Sockets
	// Directories and HostSockets are those of the host that the manager offers to the root, by name; sockets by their paths.
	Directories map[string]HostDirectory
	HostSockets map[string]string
	// InstanceIDs is the component id index: under which id the storage of an instance lies, whatever becomes of its moniker.
	InstanceIDs map[name.Moniker]string
	// Hosts are the protocols that the manager itself speaks; nil for none.
	Hosts  Hosts
	Sinks  Sinks
	Policy Policy
	// Confined says whether the program of m is confined; nil: none is.
	Confined func(m name.Moniker) bool
	// Disabled is what must not start; nil: nothing can be disabled.
	Disabled DisabledSet
	Log      *slog.Logger
	// Rebooted is called, on a goroutine of its own, when an end must take the whole tree down: a critical program's, or one with
	// on_terminate "reboot". The callee is expected to call Shutdown.
	Rebooted func(m name.Moniker, why string)
	// Exposed is told the directory with the sockets of what the root exposes, each by its name, when there is another; "" for none.
	// nil: what the root exposes is nobody's.
	Exposed func(dir string)
	// Limit is how many instances the tree may have; 0 is DefaultLimit.
	Limit int
}

const (
	// DefaultLimit is how many instances a tree may have if Config doesn't say: an instance without a program takes 3.5 KiB.
	DefaultLimit = 250_000
	// maxDepth bounds the levels of a tree: a manifest that is its own child has no end, and monikers grow with the levels.
	maxDepth = 1000
)

// A HostDirectory is a directory of the host, and the most that may be done in it.
type HostDirectory struct {
	Path   string
	Rights manifest.Rights
}

// A Realm is a running tree.
type Realm struct {
	cfg    Config
	engine *routing.Engine
	root   *instance
	events eventLog
	ctx    context.Context // of actions: ends only with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	launch chan struct{} // slots for starts of eager children
	kill   chan struct{} // closed by KillAll: stops don't wait any more
	killed sync.Once
	waits  waits

	remoteRunners      links[*remote.Runner]
	remoteResolvers    links[*resolver.Remote]
	remoteDictionaries links[dictionary]

	reloading chan struct{} // holds who reloads

	exposing sync.Mutex // guards exposed
	exposed  *delivery  // of what the root exposes; nil for nothing yet

	// mu guards what follows. It is a leaf.
	mu        sync.Mutex
	instances int           // in the tree
	active    int           // runs, actions and due restarts: while there are any, something can still happen
	idle      chan struct{} // closed when active falls to 0; nil while nobody waits
	failed    map[name.Moniker]string
	runs      int               // programs started, ever
	follows   map[follower]turn // what may change at any time
}

// eagerAtOnce bounds the starts of one tree that are under way at once, for memory's sake; starting is bound by the launcher
// anyway.
const eagerAtOnce = 64

func (r *Realm) limit() int { return cmp.Or(r.cfg.Limit, DefaultLimit) }

// room counts n instances that come into the tree; false if there is no room for them.
func (r *Realm) room(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.instances+n > r.limit() {
		return false
	}
	r.instances += n
	return true
}

// count notes that n instances have come into the tree, or, below 0, gone.
func (r *Realm) count(n int) {
	r.mu.Lock()
	r.instances += n
	r.mu.Unlock()
}

// New makes a tree with an unresolved root. Nothing is read or started.
func New(cfg Config) *Realm {
	r := &Realm{
		cfg:    cfg,
		engine: routing.New(cfg.Builtins),
		launch: make(chan struct{}, eagerAtOnce),
		kill:   make(chan struct{}),

		reloading: make(chan struct{}, 1),
		instances: 1,
		failed:    map[name.Moniker]string{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.root = newInstance(r, nil, "", childDecl{url: cfg.RootURL})
	r.root.emitLocked(Event{Kind: EventDiscovered})
	return r
}

// Close ends the realm's goroutines; call it after Shutdown. Programs that still run are killed.
func (r *Realm) Close() {
	r.KillAll()
	ctx, cancel := context.WithTimeout(context.Background(), 2*KillTimeout)
	defer cancel()
	_ = r.Shutdown(ctx)
	r.cancel()
	r.remoteRunners.close()
	r.remoteResolvers.close()
	r.remoteDictionaries.close()
	done := make(chan struct{})
	go func() { r.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(KillTimeout): // somebody's runner has a program that no kill ends; it has been said
		r.cfg.Log.Warn("programs outlive the manager", "monikers", r.running())
	}
	r.exposing.Lock()
	r.exposed.end()
	r.exposed = nil
	r.exposing.Unlock()
	r.root.closeSockets()
	r.events.close()
}

func (i *instance) closeSockets() {
	i.unprovide()
	i.mu.Lock()
	kids := i.childrenLocked()
	i.mu.Unlock()
	for _, c := range kids {
		c.closeSockets()
	}
}

func (r *Realm) running() []name.Moniker {
	var out []name.Moniker
	for _, i := range r.Instances() {
		if i.Program != nil {
			out = append(out, i.Moniker)
		}
	}
	return out
}

// spawn runs f on a goroutine that Close waits for, and that counts as activity.
func (r *Realm) spawn(f func()) {
	r.hold()
	r.wg.Go(func() {
		defer r.release()
		f()
	})
}

func (r *Realm) hold() {
	r.mu.Lock()
	r.active++
	r.mu.Unlock()
}

func (r *Realm) release() {
	r.mu.Lock()
	r.active--
	if r.active == 0 && r.idle != nil {
		close(r.idle)
		r.idle = nil
	}
	r.mu.Unlock()
}

// Idle waits until nothing runs, nothing is under way, and no restart is due: from then on only an operator can make something
// happen.
func (r *Realm) Idle(ctx context.Context) error {
	r.mu.Lock()
	if r.active == 0 {
		r.mu.Unlock()
		return nil
	}
	if r.idle == nil {
		r.idle = make(chan struct{})
	}
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// noteEnd keeps the account of what didn't end well; why is "" for a good end.
func (r *Realm) noteEnd(m name.Moniker, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if why == "" {
		delete(r.failed, m)
	} else if len(r.failed) < keptFailures {
		r.failed[m] = why
	}
}

// keptFailures bounds the account: dynamic children with names of their own may go on failing for years.
const keptFailures = 10_000

func (r *Realm) noteRun() {
	r.mu.Lock()
	r.runs++
	r.mu.Unlock()
}

// Runs is how many programs were started since the tree was made.
func (r *Realm) Runs() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs
}

// A Failure is an instance whose last run or start did not end well.
type Failure struct {
	Moniker name.Moniker
	Why     string
}

// Failures are the instances that did not end well, sorted by moniker.
func (r *Realm) Failures() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Failure, 0, len(r.failed))
	for m, why := range r.failed {
		out = append(out, Failure{m, why})
	}
	slices.SortFunc(out, func(a, b Failure) int { return strings.Compare(string(a.Moniker), string(b.Moniker)) })
	return out
}

// Engine answers route questions over this tree.
func (r *Realm) Engine() *routing.Engine { return r.engine }

// Node is the instance at m, as routing sees it.
func (r *Realm) Node(m name.Moniker) (routing.Node, bool) {
	i := r.find(m)
	return i, i != nil
}

// find walks to m over what is resolved; nil if there is no such instance.
func (r *Realm) find(m name.Moniker) *instance {
	i := r.root
	for _, seg := range m.Segments() {
		i.mu.Lock()
		c := i.children[seg]
		i.mu.Unlock()
		if c == nil {
			return nil
		}
		i = c
	}
	return i
}

// reach is find that resolves what stands above m, so that a manifest's children can be named before anybody needed them.
func (r *Realm) reach(ctx context.Context, m name.Moniker) (*instance, error) {
	i := r.root
	for _, seg := range m.Segments() {
		n, ok, err := i.Child(ctx, seg)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, i.noChild(seg)
		}
		i = n.(*instance)
	}
	return i, nil
}

func (i *instance) noChild(seg string) error {
	i.mu.Lock()
	segs := make([]string, 0, len(i.children))
	for s := range i.children {
		segs = append(segs, s)
	}
	i.mu.Unlock()
	slices.Sort(segs)
	e := &Error{Op: "find", At: i.moniker.Child(seg), Why: capabilities.NotFound, Err: fmt.Errorf("%s has no child %q", i.moniker, seg)}
	if near := name.Nearest(seg, segs); near != "" {
		e.Hint = fmt.Sprintf("did you mean %s?", i.moniker.Child(near))
	}
	return e
}

// Instance is the instance at m, if it is known.
func (r *Realm) Instance(m name.Moniker) (Info, bool) {
	i := r.find(m)
	if i == nil {
		return Info{}, false
	}
	return i.info(), true
}

// Instances are all instances that are known, sorted by moniker.
func (r *Realm) Instances() []Info {
	var out []Info
	var walk func(i *instance)
	walk = func(i *instance) {
		out = append(out, i.info())
		i.mu.Lock()
		kids := i.childrenLocked()
		i.mu.Unlock()
		for _, c := range kids {
			walk(c)
		}
	}
	walk(r.root)
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(string(a.Moniker), string(b.Moniker)) })
	return out
}

// An Error says why an action on an instance failed.
type Error struct {
	Op   string
	At   name.Moniker
	Why  capabilities.Code
	Err  error
	Hint string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.At, e.Err)
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Code is the error's kind.
func (e *Error) Code() capabilities.Code { return e.Why }

func (i *instance) precondition(op, format string, args ...any) error {
	return &Error{Op: op, At: i.moniker, Why: capabilities.Precondition, Err: fmt.Errorf(format, args...)}
}

// Resolve reads m's manifest, and those above it, if that has not been done.
func (r *Realm) Resolve(ctx context.Context, m name.Moniker) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	_, err = i.resolve(ctx)
	return err
}

// Start starts m's program. An instance that runs is fine; one that is stopping is started again once it has stopped. Its eager
// children start after it, without being waited for.
func (r *Realm) Start(ctx context.Context, m name.Moniker, reason string) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	return i.start(ctx, reason)
}

// StartInTurn starts m as an eager child is started: at most so many at once, and what fails is told by m's events and in its
// log. It returns when m's turn has come.
func (r *Realm) StartInTurn(ctx context.Context, m name.Moniker, reason string) error {
	i, err := r.reach(ctx, m)
	if err == nil {
		i.startInTurn(reason)
	}
	return err
}

// Stop stops m's program, and only it: children go on, and it can be started again. It returns once the program has ended; an
// instance that doesn't run is fine. A start under way is given up.
func (r *Realm) Stop(ctx context.Context, m name.Moniker) error {
	i := r.find(m)
	if i == nil {
		_, err := r.reach(ctx, m)
		return err
	}
	return i.stop(ctx, "asked by an operator")
}

// Restart stops m's program as Stop does, and then starts it. Idle does not take the moment in between for the end.
func (r *Realm) Restart(ctx context.Context, m name.Moniker, reason string) error {
	r.hold()
	defer r.release()
	if err := r.Stop(ctx, m); err != nil {
		return err
	}
	return r.Start(ctx, m, reason)
}

// Disable stops m's program, and has it start no more, whoever asks for it, until it is enabled: in later trees too. It is for
// what stands in manifests.
func (r *Realm) Disable(ctx context.Context, m name.Moniker) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	refuse := func(why, hint string) error {
		return &Error{Op: "disable", At: m, Why: capabilities.Invalid, Err: errors.New(why), Hint: hint}
	}
	switch {
	case m == name.Root:
		return refuse("the root cannot be disabled", "`cmgr shutdown` ends the manager")
	case strings.Contains(string(m), ":"):
		return refuse("what a collection holds does not last", fmt.Sprintf("`cmgr stop %s` stops it", m))
	case r.cfg.Disabled == nil:
		return refuse("nothing can be disabled here", "")
	}
	if err := r.cfg.Disabled.Set(m, true); err != nil {
		return &Error{Op: "disable", At: m, Why: capabilities.Unavailable, Err: err}
	}
	i.mu.Lock()
	i.disabled = true
	i.emitLocked(Event{Kind: EventDisabled, Text: "asked by an operator"})
	i.mu.Unlock()
	return i.stop(ctx, "disabled")
}

// Enable has m start again as before it was disabled, and starts it if it is eager and its parent runs.
func (r *Realm) Enable(ctx context.Context, m name.Moniker) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	i.mu.Lock()
	was := i.disabled
	i.mu.Unlock()
	if !was {
		return nil
	}
	if err := r.cfg.Disabled.Set(m, false); err != nil {
		return &Error{Op: "enable", At: m, Why: capabilities.Unavailable, Err: err}
	}
	i.mu.Lock()
	i.disabled = false
	i.mu.Unlock()
	i.parent.mu.Lock() // the root is never disabled
	_, runs := i.parent.state.(started)
	i.parent.mu.Unlock()
	if runs && i.decl.startup == manifest.Eager {
		return i.start(ctx, "eager")
	}
	return nil
}

// Kill ends m's program at once and returns when it has ended.
func (r *Realm) Kill(ctx context.Context, m name.Moniker) error {
	i := r.find(m)
	if i == nil {
		_, err := r.reach(ctx, m)
		return err
	}
	return i.killRun(ctx)
}

// KillAll makes every stop that is under way, and every later one, a kill.
func (r *Realm) KillAll() { r.killed.Do(func() { close(r.kill) }) }

// Shutdown stops the whole tree in dependency order, for good.
func (r *Realm) Shutdown(ctx context.Context) error { return r.root.shutdown(ctx) }
