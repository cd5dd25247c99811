// Package realm is the running tree: its instances, their states, and the actions that move them. It routes nothing itself
// (capabilities/routing does), reads no manifest (runtime/resolver does) and runs no program (a runners.Runner does).
package realm

import (
	"context"
	"os"
	"time"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// State is where an instance stands. Shutdown and Destroyed are final.
type State uint8

const (
	Unresolved State = iota // known, its manifest not read
	Resolved                // its manifest is read, its static children are known; nothing runs
	Started                 // its program runs (a component without a program does so by definition)
	Stopping                // its program was asked to end
	Shutdown                // it will never start again
	Destroyed               // it is out of the tree
)

var states = [...]string{"unresolved", "resolved", "started", "stopping", "shutdown", "destroyed"}

func (s State) String() string { return states[s] }

// Info is a snapshot of one instance.
type Info struct {
	Moniker     name.Moniker
	URL         string // as the parent's manifest writes it
	State       State
	Starting    bool   // a start is under way
	Environment string // the environment of the parent's manifest, "" for the parent's own
	InstanceID  string // of the component id index; "" for none

	// From here on only once resolved.
	ResolvedURL string
	Decl        *manifest.Component // nil if unresolved
	PackageDir  string

	// From here on only while started.
	StartReason string
	StartedAt   time.Time
	Program     runners.Program // nil for a component without a program

	// What is known of earlier runs.
	LastExit   *runners.Exit // nil if it never ended
	LastError  error         // why the last start or resolve failed, nil if it did not
	Restarts   int           // by its restart policy, since the manager started
	NextStart  time.Time     // when the restart policy starts it again; zero if it won't
	RestartsUp bool          // its restart limit was reached: the policy has given up
	Disabled   bool          // it does not start, whoever asks for it
}

// EventKind is what happened.
type EventKind uint8

const (
	EventDiscovered EventKind = iota
	EventResolved
	EventUnresolved
	EventStarted
	EventStopping   // asked to stop; Text says why
	EventStopped    // Exit says how it ended
	EventFailed     // a start or resolve failed; Err says why
	EventRestarting // the restart policy will start it after Delay; Text says "3 of 5 within 1m0s"
	EventGaveUp     // the restart limit is reached
	EventShutdown   // it can't start any more
	EventDestroyed
	EventReboot    // its end makes the whole tree shut down
	EventWaiting   // a shutdown waits for it; Text says since when
	EventMissing   // something required is not available to it; Text says what and why, and what to do
	EventUnhealthy // its health checks failed, so it is stopped; Text says how
	EventDisabled  // it was disabled, or is and was to start; Text says why it was
)

var eventKinds = [...]string{
	"discovered", "resolved", "unresolved", "started", "stopping", "stopped", "failed", "restarting", "gave_up",
	"shutdown", "destroyed", "reboot", "waiting", "missing", "unhealthy", "disabled",
}

func (k EventKind) String() string { return eventKinds[k] }

// An Event is one change of state.
type Event struct {
	Seq     uint64 // counts from 1
	Time    time.Time
	Kind    EventKind
	Moniker name.Moniker
	URL     string
	Text    string        // the start's reason, …
	Delay   time.Duration // EventRestarting
	Exit    *runners.Exit // EventStopped
	Err     error         // EventFailed
}

// Sinks is where programs' output goes (runtime/logs).
type Sinks interface {
	// Open gives the writing ends for one run of m. drained waits until everything that was written has been
	// taken, at the latest when ctx ends; it must be called once, after the run's processes are gone.
	Open(m name.Moniker) (stdout, stderr *os.File, drained func(ctx context.Context), err error)
	// Note writes a line of the manager's own about m into m's log.
	Note(m name.Moniker, text string)
	// Remove forgets what is held for a destroyed instance.
	Remove(m name.Moniker)
}

// Policy is what the manager's configuration allows.
type Policy interface {
	// RebootOnTerminate says whether the parent may give m `on_terminate: "reboot"`.
	RebootOnTerminate(m name.Moniker) bool
}

// A DisabledSet is the instances that must not start. It outlives the tree.
type DisabledSet interface {
	Has(m name.Moniker) bool
	Set(m name.Moniker, disabled bool) error
}

// ChildDecl is a dynamic child to be created.
type ChildDecl struct {
	Name          string
	URL           string
	Startup       manifest.Startup
	DynamicOffers []manifest.Offer
	// Config are values of its configuration by key, as for SetConfig. They are read when it starts.
	Config map[string]string
	// What follows its ends, as for children of a manifest; by default nothing.
	OnTerminate manifest.OnTerminate
	Restart     *manifest.Restart
}
