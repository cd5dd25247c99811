package framework

import (
	"context"
	"errors"
	"net"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/proto/componentpb"
)

// A RealmClient is a connection to Realm, which makes, finds and ends children of the component.
type RealmClient struct{ Client }

// OpenRealm connects to Realm at its usual path.
func OpenRealm(ctx context.Context) (*RealmClient, error) {
	c, err := dial(ctx, Realm)
	if err != nil {
		return nil, err
	}
	return &RealmClient{c}, nil
}

// A Child is one to be created in a collection.
type Child struct {
	Name   string
	URL    string
	Eager  bool // CreateChild returns once it runs; so too in a single_run collection
	Offers []Offer
	Config map[string]string // values of its configuration as JSON, of keys that have mutability: ["parent"]
}

// An Offer is an entry of a manifest's "offer" without its "to"; the collection must have allowed_offers: "static_and_dynamic".
type Offer struct {
	Kind         string   // "protocol", "directory", …
	Name         string   // as the source calls it
	From         string   // "parent", "self", "#child", "#collection:name", "self/dictionary", …
	As           string   // as the child calls it; "" for Name
	Subdir       string   // directory
	Rights       []string // directory: "r*", "read_bytes", …; none for those of the source
	Availability string   // "" for "required"
	Weak         bool
}

// Ref names a child: a static one, or one of a collection.
type Ref struct{ Collection, Name string }

func (r Ref) wire() *componentpb.ChildRef {
	return &componentpb.ChildRef{Collection: r.Collection, Name: r.Name}
}

func (c Child) wire(collection string) *componentpb.CreateChild {
	w := &componentpb.CreateChild{
		Collection: collection, Child: &componentpb.Child{Name: c.Name, Url: c.URL, Eager: c.Eager, ConfigOverrides: configFields(c.Config)},
	}
	for _, o := range c.Offers {
		w.Offers = append(w.Offers, &componentpb.Offer{
			Kind: o.Kind, Name: o.Name, From: o.From, As: o.As, Subdir: o.Subdir, Rights: o.Rights, Availability: o.Availability,
			Weak: o.Weak,
		})
	}
	return w
}

// CreateChild adds a child to a collection. Precondition says that there is one of that name, NotFound that there is no such
// collection.
func (c *RealmClient) CreateChild(ctx context.Context, collection string, child Child) error {
	_, err := c.call(ctx, "CreateChild", child.wire(collection), nil)
	return err
}

// DestroyChild ends a child of a collection, with all below it, and takes it out of the tree.
func (c *RealmClient) DestroyChild(ctx context.Context, child Ref) error {
	_, err := c.call(ctx, "DestroyChild", child.wire(), nil)
	return err
}

// ListChildren are the children of a collection, by name.
func (c *RealmClient) ListChildren(ctx context.Context, collection string) ([]Ref, error) {
	got := new(componentpb.Children)
	if _, err := c.call(ctx, "ListChildren", &componentpb.Collection{Collection: collection}, got); err != nil {
		return nil, err
	}
	out := make([]Ref, len(got.Children))
	for i, r := range got.Children {
		out[i] = Ref{r.Collection, r.Name}
	}
	return out, nil
}

// A Capability is one by kind and name. Instances are those of a service, sorted.
type Capability struct {
	Kind, Name string
	Instances  []string
}

// OpenExposedDir says what a child exposes to its parent. It starts nothing.
func (c *RealmClient) OpenExposedDir(ctx context.Context, child Ref) ([]Capability, error) {
	got := new(componentpb.Exposed)
	if _, err := c.call(ctx, "OpenExposedDir", child.wire(), got); err != nil {
		return nil, err
	}
	out := make([]Capability, len(got.Capabilities))
	for i, x := range got.Capabilities {
		out[i] = Capability{x.Kind, x.Name, x.Instances}
	}
	return out, nil
}

// ConnectExposed connects to a protocol that a child exposes, which starts its provider. The connection is the caller's.
func (c *RealmClient) ConnectExposed(ctx context.Context, child Ref, protocol string) (net.Conn, error) {
	f, err := c.call(ctx, "ConnectExposed", &componentpb.ConnectExposed{Child: child.wire(), Name: protocol}, nil)
	if err != nil {
		return nil, err
	}
	return connOf(f)
}

// ConnectInstance connects to an instance of a service that a child exposes, which starts its provider. The connection is the
// caller's.
func (c *RealmClient) ConnectInstance(ctx context.Context, child Ref, service, instance string) (net.Conn, error) {
	f, err := c.call(ctx, "ConnectExposed", &componentpb.ConnectExposed{Child: child.wire(), Name: service, Instance: instance}, nil)
	if err != nil {
		return nil, err
	}
	return connOf(f)
}

// OpenDirectory opens a directory that a child exposes, which starts its provider, with the rights that the child gives. The
// directory is the caller's: it can be read, and what is in it is reached by openat(2) and the like.
func (c *RealmClient) OpenDirectory(ctx context.Context, child Ref, directory string) (*os.File, error) {
	f, err := c.call(ctx, "OpenDirectory", &componentpb.ConnectExposed{Child: child.wire(), Name: directory}, nil)
	if err == nil && f == nil {
		err = errors.New("the answer lacks the directory")
	}
	return f, err
}

func connOf(f *os.File) (net.Conn, error) {
	if f == nil {
		return nil, errors.New("the answer lacks the connection")
	}
	defer f.Close()
	return net.FileConn(f)
}

// A State is how a child stands.
type State struct {
	State string // unresolved, resolved, started, stopping, shutdown, destroyed
	Exit  *Exit  // of the last run; nil if none has ended
}

func stateOf(w *componentpb.State) State { return State{w.State, exitOf(w.Exit)} }

// A ControllerClient is a connection to the Controller of one child. It ends with the RealmClient that it came from.
type ControllerClient struct{ Client }

// OpenController gives a controller of a child, static or dynamic. event, if not nil, is called for each of "Started", "Stopped"
// and "Destroyed", in their order; it must not block nor call the client.
func (c *RealmClient) OpenController(ctx context.Context, child Ref, event func(what string, s State)) (*ControllerClient, error) {
	f, err := c.call(ctx, "OpenController", child.wire(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := connOf(f)
	if err != nil {
		return nil, err
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("the controller is no unix socket")
	}
	var take func(string, rpc.Message) error
	if event != nil {
		take = func(what string, m rpc.Message) error {
			m.Close()
			s := new(componentpb.State)
			if err := proto.Unmarshal(m.Body, s); err != nil {
				return errors.New("sends a State that is none")
			}
			event(what, stateOf(s))
			return nil
		}
	}
	client, err := connect(ctx, unix, Controller, take)
	if err != nil {
		return nil, err
	}
	return &ControllerClient{client}, nil
}

// State is how the child stands.
func (c *ControllerClient) State(ctx context.Context) (State, error) { return c.state(ctx, "GetState") }

// Start starts the child's program and returns once it runs; one that runs is fine.
func (c *ControllerClient) Start(ctx context.Context) error { return c.do(ctx, "Start") }

// Stop stops the child's program and returns once it has ended.
func (c *ControllerClient) Stop(ctx context.Context) error { return c.do(ctx, "Stop") }

// Kill ends the child's program at once.
func (c *ControllerClient) Kill(ctx context.Context) error { return c.do(ctx, "Kill") }

// Destroy is RealmClient.DestroyChild.
func (c *ControllerClient) Destroy(ctx context.Context) error { return c.do(ctx, "Destroy") }

// Wait returns once the child's program does not run.
func (c *ControllerClient) Wait(ctx context.Context) (State, error) { return c.state(ctx, "Wait") }

func (c *ControllerClient) do(ctx context.Context, method string) error {
	_, err := c.call(ctx, method, &componentpb.State{}, nil)
	return err
}

func (c *ControllerClient) state(ctx context.Context, method string) (State, error) {
	got := new(componentpb.State)
	if _, err := c.call(ctx, method, &componentpb.State{}, got); err != nil {
		return State{}, err
	}
	return stateOf(got), nil
}
