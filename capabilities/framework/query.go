package framework

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/proto/componentpb"
)

// A LifecycleClient is a connection to LifecycleController, by which a component moves instances below itself. Monikers are
// relative: "." or "./net".
type LifecycleClient struct{ Client }

// OpenLifecycle connects to LifecycleController at its usual path.
func OpenLifecycle(ctx context.Context) (*LifecycleClient, error) {
	c, err := dial(ctx, LifecycleController)
	if err != nil {
		return nil, err
	}
	return &LifecycleClient{c}, nil
}

// Start starts an instance; one that runs is fine.
func (c *LifecycleClient) Start(ctx context.Context, moniker string) error {
	return c.do(ctx, "StartInstance", moniker)
}

// Stop stops an instance's program, not what is below it, and returns once it has ended.
func (c *LifecycleClient) Stop(ctx context.Context, moniker string) error {
	return c.do(ctx, "StopInstance", moniker)
}

// Resolve reads an instance's manifest.
func (c *LifecycleClient) Resolve(ctx context.Context, moniker string) error {
	return c.do(ctx, "ResolveInstance", moniker)
}

// Unresolve shuts an instance and all below it down and forgets its manifest.
func (c *LifecycleClient) Unresolve(ctx context.Context, moniker string) error {
	return c.do(ctx, "UnresolveInstance", moniker)
}

func (c *LifecycleClient) do(ctx context.Context, method, moniker string) error {
	_, err := c.call(ctx, method, &componentpb.Moniker{Moniker: moniker}, nil)
	return err
}

// Create adds an instance to a collection of parent.
func (c *LifecycleClient) Create(ctx context.Context, parent, collection string, child Child) error {
	_, err := c.call(ctx, "CreateInstance", &componentpb.CreateInstance{Parent: parent, Child: child.wire(collection)}, nil)
	return err
}

// Destroy ends an instance of a collection of parent.
func (c *LifecycleClient) Destroy(ctx context.Context, parent string, child Ref) error {
	_, err := c.call(ctx, "DestroyInstance", &componentpb.DestroyInstance{Parent: parent, Child: child.wire()}, nil)
	return err
}

// A QueryClient is a connection to RealmQuery, which tells of the instances below a component.
type QueryClient struct{ Client }

// OpenQuery connects to RealmQuery at its usual path.
func OpenQuery(ctx context.Context) (*QueryClient, error) {
	c, err := dial(ctx, RealmQuery)
	if err != nil {
		return nil, err
	}
	return &QueryClient{c}, nil
}

// An Instance is what RealmQuery tells of one.
type Instance struct {
	Moniker     string // relative
	URL         string
	Environment string // "" for its parent's
	State       string
	ResolvedURL string // from here on "" unless resolved
	Package     string
	StartReason string // "" unless started
	Processes   []int  // the main one first; Get only
}

func instanceOf(w *componentpb.Instance) Instance {
	i := Instance{
		Moniker: w.Moniker, URL: w.Url, Environment: w.Environment, State: w.State, ResolvedURL: w.ResolvedUrl, Package: w.Package,
		StartReason: w.StartReason,
	}
	for _, p := range w.Processes {
		i.Processes = append(i.Processes, int(p))
	}
	return i
}

// Get tells of one instance.
func (c *QueryClient) Get(ctx context.Context, moniker string) (Instance, error) {
	got := new(componentpb.Instance)
	if _, err := c.call(ctx, "GetInstance", &componentpb.Moniker{Moniker: moniker}, got); err != nil {
		return Instance{}, err
	}
	return instanceOf(got), nil
}

// All tells of all instances that are known, by moniker.
func (c *QueryClient) All(ctx context.Context) ([]Instance, error) {
	got := new(componentpb.Instances)
	if _, err := c.call(ctx, "GetAllInstances", &componentpb.Moniker{}, got); err != nil {
		return nil, err
	}
	out := make([]Instance, len(got.Instances))
	for i, w := range got.Instances {
		out[i] = instanceOf(w)
	}
	return out, nil
}

// Declaration is the manifest of an instance that is resolved.
func (c *QueryClient) Declaration(ctx context.Context, moniker string) (*manifest.Component, error) {
	got := new(componentpb.Declaration)
	if _, err := c.call(ctx, "GetResolvedDeclaration", &componentpb.Moniker{Moniker: moniker}, got); err != nil {
		return nil, err
	}
	return codec.Decode(got.Manifest)
}

// A ConfigValue is one key of a component's configuration.
type ConfigValue struct {
	Key    string
	Value  string // as JSON
	Source string // default, package, capability of /net, parent or override
}

// Config is an instance's configuration as its next start will find it, by key.
func (c *QueryClient) Config(ctx context.Context, moniker string) ([]ConfigValue, error) {
	got := new(componentpb.StructuredConfig)
	if _, err := c.call(ctx, "GetStructuredConfig", &componentpb.Moniker{Moniker: moniker}, got); err != nil {
		return nil, err
	}
	out := make([]ConfigValue, len(got.Fields))
	for i, f := range got.Fields {
		out[i] = ConfigValue{f.Key, f.Value, f.Source}
	}
	return out, nil
}

// A ConfigClient is a connection to ConfigOverride, which overrides the configuration of instances from their next start on.
type ConfigClient struct{ Client }

// OpenConfig connects to ConfigOverride at its usual path.
func OpenConfig(ctx context.Context) (*ConfigClient, error) {
	c, err := dial(ctx, ConfigOverride)
	if err != nil {
		return nil, err
	}
	return &ConfigClient{c}, nil
}

// Set overrides values, which are JSON, by key: all or none.
func (c *ConfigClient) Set(ctx context.Context, moniker string, values map[string]string) error {
	ask := &componentpb.SetStructuredConfig{Moniker: moniker, Fields: configFields(values)}
	_, err := c.call(ctx, "SetStructuredConfig", ask, nil)
	return err
}

// Unset takes back what was overridden for an instance, or for all of them with "".
func (c *ConfigClient) Unset(ctx context.Context, moniker string) error {
	_, err := c.call(ctx, "UnsetStructuredConfig", &componentpb.Moniker{Moniker: moniker}, nil)
	return err
}

func configFields(values map[string]string) (out []*componentpb.ConfigValue) {
	for _, k := range slices.Sorted(maps.Keys(values)) {
		out = append(out, &componentpb.ConfigValue{Key: k, Value: values[k]})
	}
	return out
}

// A RouteClient is a connection to RouteValidator.
type RouteClient struct{ Client }

// OpenRoutes connects to RouteValidator at its usual path.
func OpenRoutes(ctx context.Context) (*RouteClient, error) {
	c, err := dial(ctx, RouteValidator)
	if err != nil {
		return nil, err
	}
	return &RouteClient{c}, nil
}

// A Report is where one capability comes from.
type Report struct {
	Type         string // use or expose
	Kind         string
	Capability   string
	Outcome      string // success, failed or void
	Source       string
	Error, Hint  string
	Availability string
	Code         capabilities.Code // of a route that failed
}

// Route walks the routes of what an instance uses and exposes; uses and exposes restrict it to those in whose name one of them
// is.
func (c *RouteClient) Route(ctx context.Context, moniker string, uses, exposes []string) ([]Report, error) {
	ask := &componentpb.Route{Moniker: moniker}
	for _, n := range uses {
		ask.Targets = append(ask.Targets, &componentpb.Target{Name: n, Type: "use"})
	}
	for _, n := range exposes {
		ask.Targets = append(ask.Targets, &componentpb.Target{Name: n, Type: "expose"})
	}
	got := new(componentpb.Routes)
	if _, err := c.call(ctx, "Route", ask, got); err != nil {
		return nil, err
	}
	out := make([]Report, len(got.Reports))
	for i, r := range got.Reports {
		out[i] = Report{
			r.Type, r.Kind, r.Capability, r.Outcome, r.Source, r.Error, r.Hint, r.Availability, capabilities.ParseCode(r.ErrorCode),
		}
	}
	return out, nil
}

// An IntrospectorClient is a connection to Introspector, which says whose a process is.
type IntrospectorClient struct{ Client }

// OpenIntrospector connects to Introspector at its usual path.
func OpenIntrospector(ctx context.Context) (*IntrospectorClient, error) {
	c, err := dial(ctx, Introspector)
	if err != nil {
		return nil, err
	}
	return &IntrospectorClient{c}, nil
}

// An Identity is whose a process is.
type Identity struct {
	Moniker string // relative
	URL     string // resolved
	PID     int    // as the manager sees it
}

// Peer says which component made a connection, such as a *net.UnixConn that this one accepted. NotFound says that it was none, or
// that it has ended.
func (c *IntrospectorClient) Peer(ctx context.Context, conn syscall.Conn) (Identity, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Identity{}, err
	}
	var f *os.File
	var derr error
	if err := raw.Control(func(fd uintptr) {
		dup, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			derr = errno
			return
		}
		f = os.NewFile(dup, "connection")
	}); err != nil {
		return Identity{}, err
	}
	if derr != nil {
		return Identity{}, fmt.Errorf("duplicate the connection: %w", derr)
	}
	defer f.Close()
	return c.ask(ctx, &componentpb.Introspect{Socket: 1}, f)
}

// Process says which component a process belongs to, by its number as the manager sees it.
func (c *IntrospectorClient) Process(ctx context.Context, pid int) (Identity, error) {
	return c.ask(ctx, &componentpb.Introspect{Pid: int32(pid)})
}

func (c *IntrospectorClient) ask(ctx context.Context, ask *componentpb.Introspect, files ...*os.File) (Identity, error) {
	got := new(componentpb.Identity)
	if _, err := c.call(ctx, "GetMoniker", ask, got, files...); err != nil {
		return Identity{}, err
	}
	return Identity{got.Moniker, got.Url, int(got.Pid)}, nil
}
