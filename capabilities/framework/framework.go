// Package framework is what the manager itself offers to components, and a client of it for components written in Go:
//
//	use: [{ protocol: "cmgr.component.Realm", from: "framework" }]
//
//	realm, err := framework.OpenRealm(ctx)
//	…
//	err = realm.CreateChild(ctx, "workers", framework.Child{Name: "w1", URL: "worker.cml"})
//
// Every protocol is scoped to one component, mostly to the one that uses it from "framework": monikers are relative to it ("." is
// itself, "./net" its child). The bytes are in runtime/host/PROTOCOL.md, for other languages.
//
// An error that the manager answers has a code (capabilities.CodeOf): NotFound, Invalid, Denied, Unavailable, Precondition or
// Internal.
package framework

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/proto/componentpb"
)

// The protocols of the framework. Those that see or change what their user did not make are restricted: the manager's
// configuration says who may have them (security_policy.capability_policy).
const (
	Realm               = "cmgr.component.Realm"
	Binder              = "cmgr.component.Binder"
	EventStream         = "cmgr.component.EventStream"
	LifecycleController = "cmgr.component.LifecycleController" // restricted
	RealmQuery          = "cmgr.component.RealmQuery"          // restricted
	ConfigOverride      = "cmgr.component.ConfigOverride"      // restricted
	RouteValidator      = "cmgr.component.RouteValidator"      // restricted
	Introspector        = "cmgr.component.Introspector"        // restricted
	// StorageAdmin is what a component has from each storage capability that it declares (`from: "#data"`).
	StorageAdmin = "cmgr.component.StorageAdmin"
	// Controller is what RealmClient.OpenController gives a connection of.
	Controller = "cmgr.component.Controller"
	// Resolver is what a component provides that resolves URLs for others.
	Resolver = "cmgr.component.Resolver"
	// Dictionary is what a component provides whose program makes what is in a dictionary: see ServeDictionary.
	Dictionary = "cmgr.component.Dictionary"
)

// Protocols are those that a component can use from "framework".
func Protocols() []string {
	return []string{Realm, Binder, LifecycleController, RealmQuery, ConfigOverride, RouteValidator, Introspector}
}

// Restricted says whether only those may use the protocol whom the manager's configuration names.
func Restricted(protocol string) bool {
	switch protocol {
	case LifecycleController, RealmQuery, ConfigOverride, RouteValidator, Introspector:
		return true
	}
	return false
}

// Packets says whether the protocol is spoken in packets with descriptors (SOCK_SEQPACKET); else it is a stream of bytes.
func Packets(protocol string) bool {
	switch protocol {
	case Realm, LifecycleController, RealmQuery, ConfigOverride, RouteValidator, Introspector, StorageAdmin, Controller, Resolver,
		Dictionary:
		return true
	}
	return false
}

// Events are the event streams that a component can use from "framework". Of the reference's, capability_requested and
// debug_started are not there: connections go to a component directly, and nobody debugs by events.
func Events() []string {
	return []string{
		"destroyed", "discovered", "failed", "resolved", "restarting", "started", "stopped", "stopping", "unresolved",
	}
}

// Path is where a component finds a protocol if its manifest doesn't say otherwise: below CMGR_NAMESPACE where the component is
// not confined, and so has no namespace of its own.
func Path(protocol string) string { return os.Getenv("CMGR_NAMESPACE") + "/svc/" + protocol }

// A Client is a connection to one of the protocols.
type Client struct{ conn *rpc.Conn }

// version is that of every protocol here.
const version = 1

// maxAnswer is the longest answer, in bytes: that of a tree of tens of thousands of instances.
const maxAnswer = 64 << 20

// dial connects to the protocol at its usual path.
func dial(ctx context.Context, protocol string) (Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", Path(protocol))
	if err != nil {
		return Client{}, fmt.Errorf("connect to %s: %w", protocol, err)
	}
	return connect(ctx, conn.(*net.UnixConn), protocol, nil)
}

// NewClient speaks protocol over conn, a connection that was made otherwise than by Path. The Client owns conn; on an error it is
// closed. A RealmClient, a QueryClient and so on can be made of the Client.
func NewClient(ctx context.Context, conn *net.UnixConn, protocol string) (Client, error) {
	return connect(ctx, conn, protocol, nil)
}

func connect(ctx context.Context, conn *net.UnixConn, protocol string, event func(string, rpc.Message) error) (Client, error) {
	c, err := rpc.Connect(ctx, conn, rpc.Config{Protocol: protocol, Versions: []uint32{version}, MaxFDs: 1, MaxBody: maxAnswer, Event: event})
	return Client{c}, err
}

// Close ends the connection.
func (c Client) Close() { c.conn.Close() }

// Done is closed when the connection has ended.
func (c Client) Done() <-chan struct{} { return c.conn.Done() }

// call sends ask and reads the answer into got, if that is not nil.
func (c Client) call(ctx context.Context, method string, ask, got proto.Message, files ...*os.File) (*os.File, error) {
	body, err := proto.Marshal(ask)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	m, err := c.conn.Call(ctx, method, rpc.Message{Body: body, Files: files})
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the manager closed the connection")
		}
		return nil, err
	}
	if got != nil {
		if err := proto.Unmarshal(m.Body, got); err != nil {
			m.Close()
			return nil, fmt.Errorf("%s: the answer: %w", method, err)
		}
	}
	if len(m.Files) == 0 {
		return nil, nil
	}
	return m.Files[0], nil
}

// An Exit is how a run ended.
type Exit struct {
	Code   int // -1 when a signal ended it or nobody can know
	Signal int
	Cause  string // self, stop, kill, timeout, runner
	Text   string // for people
}

func exitOf(e *componentpb.Exit) *Exit {
	if e == nil {
		return nil
	}
	return &Exit{Code: int(e.Code), Signal: int(e.Signal), Cause: e.Cause, Text: e.Text}
}
