// Package control is the management interface of a running tree: the server of cmgr.control.v1.Control (proto/control/v1) on
// a unix socket that only the manager's own user and root can use, and the client that finds it. It decides nothing: it finds
// the instance that a query means, asks the tree, and writes down the answer.
//
// Goroutines: Serve runs the HTTP server on the caller's; each connection's goroutines end with it, and Close waits for them.
package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb/controlpbconnect"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
)

// A Tree is what the server manages. Its methods are those of a realm.Realm; OfRealm makes one of it.
type Tree interface {
	Resolve(ctx context.Context, m name.Moniker) error
	Unresolve(ctx context.Context, m name.Moniker) error
	Start(ctx context.Context, m name.Moniker, reason string) error
	Stop(ctx context.Context, m name.Moniker) error
	Restart(ctx context.Context, m name.Moniker, reason string) error
	Kill(ctx context.Context, m name.Moniker) error
	Disable(ctx context.Context, m name.Moniker) error
	Enable(ctx context.Context, m name.Moniker) error
	Reload(ctx context.Context, m name.Moniker, dry bool) ([]realm.Change, error)
	Create(ctx context.Context, parent name.Moniker, collection string, c realm.ChildDecl) (name.Moniker, error)
	Destroy(ctx context.Context, m name.Moniker) error
	Config(ctx context.Context, m name.Moniker) ([]realm.ConfigValue, error)
	SetConfig(ctx context.Context, m name.Moniker, values map[string]string) error
	UnsetConfig(ctx context.Context, m name.Moniker, keys ...string) error
	Storages(ctx context.Context) ([]realm.Stored, error)
	DeleteStored(ctx context.Context, at name.Moniker, storage string, user name.Moniker) error
	Instances() []realm.Info
	Instance(m name.Moniker) (realm.Info, bool)
	Node(m name.Moniker) (routing.Node, bool)
	Subscribe(since uint64) Subscription
	LastEvent() uint64
}

// A Subscription gives events in their order; lost counts those that were thrown away because the reader was too slow. After the
// tree's end, and once nothing is left to read, Next gives realm.ErrClosed.
type Subscription interface {
	Next(ctx context.Context) (e realm.Event, lost uint64, err error)
}

// OfRealm is r as a Tree.
func OfRealm(r *realm.Realm) Tree { return ofRealm{r} }

type ofRealm struct{ *realm.Realm }

func (r ofRealm) Subscribe(since uint64) Subscription { return r.Realm.Subscribe(since) }

// A Router answers route questions; a routing.Engine is one.
type Router interface {
	Use(ctx context.Context, n routing.Node, u *manifest.Use) (*capabilities.Route, error)
	Expose(ctx context.Context, n routing.Node, e *manifest.Expose) (*capabilities.Route, error)
	Runner(ctx context.Context, n routing.Node) (*capabilities.Route, error)
	StopTimeout(ctx context.Context, n routing.Node) (time.Duration, error)
}

var (
	_ Router = (*routing.Engine)(nil)
	_ Logs   = (*logs.Logs)(nil)
)

// A Check is one thing that the manager found out about its machine.
type Check struct {
	Status Status
	Key    string // "job backend"
	Value  string // "cgroup v2 at /sys/fs/cgroup/cmgr"
	Hint   string // what to do; "" for nothing
}

// Status is how good a Check's finding is.
type Status uint8

const (
	OK   Status = iota
	Warn        // it works, but less well
	Fail        // something will not work
)

func (s Status) String() string { return [...]string{"ok", "warn", "fail"}[s] }

// A Sandbox is what a program can touch; see SandboxResponse.
type Sandbox struct {
	Confined bool
	Why      string
	Access   []Access
}

// An Access is one thing of a Sandbox.
type Access struct {
	Path, May, What, Why string
	NotWithheld          []string
}

// Progress is how far a manager is; see StatusResponse.
type Progress struct {
	Internal, Said string
	Step, Steps    int // 0 when no instruction is being done
	Instruction    string
	Since          time.Time
}

// Config is what a Server serves.
type Config struct {
	Name    string // of the manager; "default" unless it was given one
	Version string
	RootURL string
	// Group is whose members may manage beside the manager's user and root; NoGroup for nobody's.
	Group  int
	Tree   Tree
	Router Router
	Logs   Logs
	// Connect connects to a protocol that a component declares, starting it; nil where that can't be.
	Connect func(ctx context.Context, m name.Moniker, protocol string) (*os.File, error)
	// Explore runs a program in the place of a component's own, and returns how it ended; nil where that can't be. note goes into
	// the component's log. The files of x are its own.
	Explore func(ctx context.Context, m name.Moniker, x runners.Exploration, note string) (runners.Exit, error)
	// Doctor says what the manager found on this machine; nil for nothing to say.
	Doctor func(ctx context.Context) []Check
	// Sandbox says what an instance's program can touch; nil where nobody knows.
	Sandbox func(ctx context.Context, m name.Moniker) (*Sandbox, error)
	// Progress says how far the manager is; nil for nothing to say.
	Progress func() Progress
	// Shutdown shuts the tree down, returns when that is done, and makes the manager end soon after.
	Shutdown func(ctx context.Context) error
	Log      *slog.Logger
}

// A Server serves one tree.
type Server struct {
	cfg     Config
	http    *http.Server
	started time.Time
	ctx     context.Context // ends when streams must: at Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // of explorations
}

// maxRequest bounds a request in bytes: what people ask is short.
const maxRequest = 1 << 20

// New makes a server that serves nothing yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, started: time.Now()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.Handle(controlpbconnect.NewControlHandler(s,
		connect.WithCodec(jsonCodec("json")), connect.WithCodec(jsonCodec("json; charset=utf-8")),
		connect.WithCompression("gzip", nil, nil), // it would only cost time on a local socket
		connect.WithReadMaxBytes(maxRequest)))
	mux.HandleFunc("POST "+connectPath, s.connectTo)
	mux.HandleFunc("POST "+explorePath, s.explore)
	mux.HandleFunc("GET "+metricsPath, s.metrics)
	s.http = &http.Server{
		Handler:           ofOwner(uint32(os.Geteuid()), mux),
		ConnContext:       withPeer(cfg.Group),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers requests on l until Close, which it reports as nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close takes no new requests, ends streams once they have given what is there, waits for the other requests as long as ctx
// allows, and drops the rest.
func (s *Server) Close(ctx context.Context) error {
	s.cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	over := make(chan struct{})
	go func() { s.wg.Wait(); close(over) }()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// untilClose is ctx that also ends at Close.
func (s *Server) untilClose(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(realm.ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}
