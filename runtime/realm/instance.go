package realm

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmgr/cmgr/capabilities/protocol"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/supervision"
)

// An instance is one component in the tree. It is a routing.Node.
type instance struct {
	realm   *Realm
	parent  *instance // nil for the root
	moniker name.Moniker
	decl    childDecl

	// mu guards everything below. It is never held across a call to another package, and never while another instance's mu is
	// taken, except from parent to child.
	mu       sync.Mutex
	state    state
	acts     [verbs]*action
	disabled bool // nothing may be started here until it is enabled
	// forgotten says that its manifest has been, and not been read since.
	forgotten bool
	closing   bool // a shutdown has begun: nothing may be resolved, started or created here any more
	children  map[string]*instance
	restart   *time.Timer                // a restart that is due; nil for none
	past      *past                      // nil until something has happened
	provides  *protocol.Provider         // the sockets of what it provides; nil until somebody needs one
	out       string                     // its outgoing directory; "" until somebody needs it
	outFor    *manifest.Component        // for which of its declarations that has directories
	bounds    map[string]*protocol.Bound // of what its program binds itself, by name, as far as somebody needs it
	// overrides are values of its configuration, by key; they stay while the instance is in the tree.
	overrides map[string]any
	// explorations are those under way; nil for none.
	explorations map[*exploration]struct{}
}

// childDecl is what the parent says of an instance, whether in its manifest or when creating it.
type childDecl struct {
	url         string
	startup     manifest.Startup
	onTerminate manifest.OnTerminate
	policy      *manifest.Restart
	environment string
	collection  *manifest.Collection // nil for a static child
	offers      []manifest.Offer
	config      map[string]string // values of its configuration, as written
}

func staticChild(c *manifest.Child) childDecl {
	return childDecl{
		url: c.URL, startup: c.Startup, onTerminate: c.OnTerminate, policy: c.Restart, environment: c.Environment,
	}
}

// declaredAt is where the parent's manifest names i; unknown for the root and for dynamic children.
func (i *instance) declaredAt() manifest.Pos {
	if i.parent == nil {
		return manifest.Pos{}
	}
	i.parent.mu.Lock()
	res := i.parent.resolutionLocked()
	i.parent.mu.Unlock()
	if res != nil {
		if c := res.Decl.Decl().Child(i.moniker.Base()); c != nil {
			return c.Pos
		}
	}
	return manifest.Pos{}
}

// past is what is remembered beyond a run.
type past struct {
	lastExit  *runners.Exit
	lastError error
	restarts  int
	history   supervision.History
	nextStart time.Time
	gaveUp    bool
	// demands counts the starts on demand since demandSince.
	demands     int
	demandSince time.Time
}

func (i *instance) pastLocked() *past {
	if i.past == nil {
		i.past = &past{}
	}
	return i.past
}

// state is the sum of the states; each holds what exists only in it.
type state interface{ state() State }

type (
	unresolved struct{}
	resolved   struct{ *resolution }
	started    struct {
		*resolution
		*run
	}
	stopping struct {
		*resolution
		*run
	}
	shutdown  struct{ *resolution } // nil if it never was resolved
	destroyed struct{}
)

func (unresolved) state() State { return Unresolved }
func (resolved) state() State   { return Resolved }
func (started) state() State    { return Started }
func (stopping) state() State   { return Stopping }
func (shutdown) state() State   { return Shutdown }
func (destroyed) state() State  { return Destroyed }

// resolution is what resolving gave. It is never changed; instances with one URL share what is in it.
type resolution struct{ *resolver.Resolved }

// run is one run of an instance's program. The fields below the line are guarded by the instance's mu.
type run struct {
	program runners.Program // nil for a component without a program
	reason  string
	since   time.Time
	drained func(context.Context) // nil without a program
	has     *delivery             // what was routed to it; nil without a program

	asked    bool // somebody asked it to end: no policy follows its exit
	timedOut bool
	hurried  bool          // KillAll cut its time to stop short
	done     chan struct{} // closed once the run is over; nil while nobody waits
	over     bool
}

// ended is closed once the run is over. i.mu must be held.
func (n *run) endedLocked() <-chan struct{} {
	if n.done == nil {
		n.done = make(chan struct{})
		if n.over {
			close(n.done)
		}
	}
	return n.done
}

func (n *run) finishLocked() {
	n.over = true
	if n.done != nil {
		close(n.done)
	}
}

// verb is an action of which at most one is under way for an instance.
type verb uint8

const (
	resolving verb = iota
	starting
	stoppingRun
	shuttingDown
	destroying
	verbs
)

// An action is something under way; equal requests join it and get its result.
type action struct {
	done   chan struct{}
	err    error // valid once done is closed
	cancel context.CancelCauseFunc
}

func (a *action) wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin joins the action under way for v, or makes f one. i.mu must be held. The action goes on when those who wait for it give
// up.
func (i *instance) beginLocked(v verb, f func(ctx context.Context) error) *action {
	if a := i.acts[v]; a != nil {
		return a
	}
	ctx, cancel := context.WithCancelCause(i.realm.ctx)
	a := &action{done: make(chan struct{}), cancel: cancel}
	i.acts[v] = a
	i.realm.spawn(func() {
		err := f(ctx)
		i.mu.Lock()
		i.acts[v] = nil
		i.mu.Unlock()
		a.err = err
		close(a.done)
		cancel(nil)
	})
	return a
}

func newInstance(r *Realm, parent *instance, segment string, d childDecl) *instance {
	i := &instance{realm: r, parent: parent, moniker: name.Root, decl: d, state: unresolved{}}
	if parent != nil {
		i.moniker = parent.moniker.Child(segment)
		i.disabled = r.cfg.Disabled != nil && r.cfg.Disabled.Has(i.moniker)
	}
	return i
}

// emitLocked adds an event; under mu, so that an instance's events stand in the order of its states.
func (i *instance) emitLocked(e Event) {
	e.Moniker, e.URL = i.moniker, i.decl.url
	i.realm.events.add(e)
}

// resolutionLocked is what is known of the manifest, nil if it has not been read.
func (i *instance) resolutionLocked() *resolution {
	switch s := i.state.(type) {
	case resolved:
		return s.resolution
	case started:
		return s.resolution
	case stopping:
		return s.resolution
	case shutdown:
		return s.resolution
	default:
		return nil
	}
}

// currentRunLocked is the run that is not over yet, or nil.
func (i *instance) currentRunLocked() *run {
	switch s := i.state.(type) {
	case started:
		return s.run
	case stopping:
		return s.run
	default:
		return nil
	}
}

// Moniker says where i stands.
func (i *instance) Moniker() name.Moniker { return i.moniker }

// Parent is the instance above.
func (i *instance) Parent() (routing.Node, bool) {
	if i.parent == nil {
		return nil, false
	}
	return i.parent, true
}

// Environment is the name of the parent's environment that i runs in.
func (i *instance) Environment() string { return i.decl.environment }

// DynamicOffers are the offers made when i was created.
func (i *instance) DynamicOffers() []manifest.Offer { return i.decl.offers }

// Decl is i's declaration; it resolves i first if that has not been done.
func (i *instance) Decl(ctx context.Context) (*manifest.Component, error) {
	i.mu.Lock()
	res := i.resolutionLocked()
	i.mu.Unlock()
	if res == nil {
		var err error
		if res, err = i.resolve(ctx); err != nil {
			return nil, err
		}
	}
	return res.Decl.Decl(), nil
}

// Child is the child of that segment.
func (i *instance) Child(ctx context.Context, segment string) (routing.Node, bool, error) {
	if _, err := i.Decl(ctx); err != nil {
		return nil, false, err
	}
	i.mu.Lock()
	c := i.children[segment]
	i.mu.Unlock()
	if c == nil {
		return nil, false, nil
	}
	return c, true, nil
}

// Dynamic are the live children of a collection, sorted by moniker.
func (i *instance) Dynamic(collection string) []routing.Node {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []routing.Node
	for seg, c := range i.children {
		if strings.HasPrefix(seg, collection+":") {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b routing.Node) int { return strings.Compare(string(a.Moniker()), string(b.Moniker())) })
	return out
}

// childrenLocked are all live children, in no order.
func (i *instance) childrenLocked() []*instance {
	out := make([]*instance, 0, len(i.children))
	for _, c := range i.children {
		out = append(out, c)
	}
	return out
}

func (i *instance) info() Info {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := Info{
		Moniker: i.moniker, URL: i.decl.url, State: i.state.state(), Environment: i.decl.environment,
		Starting: i.acts[starting] != nil, InstanceID: i.realm.cfg.InstanceIDs[i.moniker], Disabled: i.disabled,
	}
	if res := i.resolutionLocked(); res != nil {
		n.ResolvedURL, n.Decl, n.PackageDir = res.URL, res.Decl.Decl(), res.Package.Dir
	}
	if u := i.currentRunLocked(); u != nil {
		n.StartReason, n.StartedAt, n.Program = u.reason, u.since, u.program
	}
	if p := i.past; p != nil {
		n.LastExit, n.LastError, n.Restarts, n.NextStart, n.RestartsUp = p.lastExit, p.lastError, p.restarts, p.nextStart, p.gaveUp
	}
	return n
}
