// Package host serves what components have from the framework: the other end of package capabilities/framework. It decides
// nothing: what is asked for it does on the tree, below the component whose framework it is.
//
// Clients are not trusted. What they can make the manager hold is bounded by internal/rpc, and by Config for what a protocol
// adds; one that breaks a rule is told why and disconnected.
//
// The bytes are in PROTOCOL.md.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/realm"
)

// A Tree is what is served from: a *realm.Realm.
type Tree interface {
	Resolve(ctx context.Context, m name.Moniker) error
	Unresolve(ctx context.Context, m name.Moniker) error
	Start(ctx context.Context, m name.Moniker, reason string) error
	Stop(ctx context.Context, m name.Moniker) error
	Kill(ctx context.Context, m name.Moniker) error
	Create(ctx context.Context, parent name.Moniker, collection string, c realm.ChildDecl) (name.Moniker, error)
	Destroy(ctx context.Context, m name.Moniker) error
	Instances() []realm.Info
	Instance(m name.Moniker) (realm.Info, bool)
	Node(m name.Moniker) (routing.Node, bool)
	Engine() *routing.Engine
	Subscribe(since uint64) *realm.Subscription
	LastEvent() uint64
	Config(ctx context.Context, m name.Moniker) ([]realm.ConfigValue, error)
	SetConfig(ctx context.Context, m name.Moniker, values map[string]string) error
	UnsetConfig(ctx context.Context, m name.Moniker, keys ...string) error
	Stored(ctx context.Context, at name.Moniker, storage string) ([]realm.Stored, error)
	OpenStored(ctx context.Context, at name.Moniker, storage string, user name.Moniker) (*os.File, error)
	DeleteStored(ctx context.Context, at name.Moniker, storage string, user name.Moniker) error
	// Connect connects to a protocol that m declares, starting it.
	Connect(ctx context.Context, m name.Moniker, protocol string) (*os.File, error)
	// What m exposes: a connection to a protocol, or with an instance to that of a service; the instances of one; a directory.
	ConnectExposed(ctx context.Context, m name.Moniker, capability, instance string) (*os.File, error)
	ExposedInstances(ctx context.Context, m name.Moniker, service string) ([]string, error)
	OpenExposed(ctx context.Context, m name.Moniker, directory string) (*os.File, error)
}

// Config is what a Host serves.
type Config struct {
	Tree Tree
	// Allowed says whether user may have a restricted protocol (framework.Restricted) of the framework of scope.
	Allowed func(protocol string, scope, user name.Moniker) bool
	// Note writes into the log of a component why it was refused.
	Note func(m name.Moniker, text string)
}

// A Host serves the protocols of one tree.
type Host struct{ cfg Config }

// New makes a Host.
func New(cfg Config) *Host { return &Host{cfg} }

// Serve speaks protocol with user over conn, a connection that user has made: framework.Packets says of which type. It has from
// the framework of scope. Serve returns when the connection has ended, at the latest soon after ctx has. The conn is Serve's.
func (h *Host) Serve(ctx context.Context, user, scope name.Moniker, protocol string, conn *os.File) error {
	return h.speak(ctx, &session{Host: h, user: user, scope: scope}, protocol, conn)
}

// ServeStorage speaks framework.StorageAdmin of a storage that the component at declares, as Serve does.
func (h *Host) ServeStorage(ctx context.Context, user, at name.Moniker, storage string, conn *os.File) error {
	return h.speak(ctx, &session{Host: h, user: user, scope: at, storage: storage}, framework.StorageAdmin, conn)
}

func (h *Host) speak(ctx context.Context, s *session, protocol string, conn *os.File) error {
	c, err := take(conn)
	if err != nil {
		return err
	}
	user, scope := s.user, s.scope
	s.ctx, s.end = context.WithCancel(ctx)
	defer s.end()
	if framework.Restricted(protocol) && !h.cfg.Allowed(protocol, scope, user) {
		err := &rpc.Error{
			Why: capabilities.Denied, Text: fmt.Sprintf("%s may not use %s of %s", user, protocol, scope),
			Hint: fmt.Sprintf("add it to security_policy.capability_policy of the manager's --config: { source_moniker: %q, source: "+
				`"framework", source_name: %q, capability: "protocol", target_monikers: [%q] }`, scope, protocol, user),
		}
		h.cfg.Note(user, err.Error())
		rpc.Refuse(c, err)
		return err
	}
	switch methods := protocols[protocol]; {
	case protocol == framework.Binder:
		return s.bind(ctx, c)
	case methods != nil:
		err = s.serve(ctx, c, protocol, methods)
	default:
		c.Close()
		return fmt.Errorf("protocol %s: the manager does not serve it", protocol)
	}
	if err != nil && ctx.Err() == nil {
		h.cfg.Note(user, fmt.Sprintf("%s: disconnected: %v", protocol, err))
	}
	return err
}

// take makes a net.Conn of conn, which it closes.
func take(conn *os.File) (*net.UnixConn, error) {
	defer conn.Close()
	c, err := net.FileConn(conn)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("the connection is no unix socket")
	}
	return u, nil
}

// A session is one connection.
type session struct {
	*Host
	user, scope name.Moniker
	storage     string          // of StorageAdmin: of the scope
	ctx         context.Context // of its controllers
	end         func()

	controllers sync.WaitGroup
	mu          sync.Mutex // guards what follows
	open        int        // controllers
	closed      bool
}

// maxRequest is the longest body of a request, in bytes.
const maxRequest = 1 << 20

// A method answers one request. It owns m's files; the answer's are closed once they are sent.
type method func(ctx context.Context, s *session, m rpc.Message) (proto.Message, *os.File, error)

// on is a method whose request is a Q and whose answer has no descriptor.
func on[Q any, P interface {
	*Q
	proto.Message
}](f func(ctx context.Context, s *session, q P) (proto.Message, error)) method {
	return giving(func(ctx context.Context, s *session, q P) (proto.Message, *os.File, error) {
		a, err := f(ctx, s, q)
		return a, nil, err
	})
}

// giving is on for an answer that has one.
func giving[Q any, P interface {
	*Q
	proto.Message
}](f func(ctx context.Context, s *session, q P) (proto.Message, *os.File, error)) method {
	return func(ctx context.Context, s *session, m rpc.Message) (proto.Message, *os.File, error) {
		defer m.Close()
		q := P(new(Q))
		if err := proto.Unmarshal(m.Body, q); err != nil {
			return nil, nil, invalid("the body is no %s", q.ProtoReflect().Descriptor().Name())
		}
		return f(ctx, s, q)
	}
}

// protocols are those spoken in packets, with their methods.
var protocols = map[string]map[string]method{
	framework.Realm:               realmMethods,
	framework.LifecycleController: lifecycleMethods,
	framework.RealmQuery:          queryMethods,
	framework.ConfigOverride:      configMethods,
	framework.RouteValidator:      routeMethods,
	framework.Introspector:        introspectorMethods,
	framework.StorageAdmin:        storageMethods,
}

// serve answers requests until the connection ends.
func (s *session) serve(ctx context.Context, conn *net.UnixConn, protocol string, methods map[string]method) error {
	maxFDs := 0
	if protocol == framework.Introspector {
		maxFDs = 1
	}
	c, err := rpc.Accept(ctx, conn, rpc.Config{
		Protocol: protocol, Versions: []uint32{1}, MaxFDs: maxFDs, MaxBody: maxRequest,
		Handle: func(ctx context.Context, method string, m rpc.Message) (rpc.Message, error) {
			f := methods[method]
			if f == nil {
				m.Close()
				return rpc.Message{}, rpc.ErrUnsupported
			}
			return reply(f(ctx, s, m))
		},
	})
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil // somebody looked whether anybody listens
		}
		return err
	}
	return s.until(ctx, c)
}

// until waits for the end of c, at ctx's end brings it about, and says what the client did wrong.
func (s *session) until(ctx context.Context, c *rpc.Conn) error {
	select {
	case <-c.Done():
	case <-ctx.Done():
	}
	c.Close()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.controllers.Wait()
	if err := c.Err(); !errors.Is(err, io.EOF) && !errors.Is(err, rpc.ErrClosed) {
		return err
	}
	return nil
}

func reply(a proto.Message, f *os.File, err error) (rpc.Message, error) {
	if err != nil {
		return rpc.Message{}, problem(err)
	}
	out := rpc.Message{}
	if f != nil {
		out.Files = []*os.File{f}
	}
	if a != nil {
		if out.Body, err = proto.Marshal(a); err != nil {
			out.Close()
			return rpc.Message{}, err
		}
	}
	return out, nil
}

// problem is err for the wire: its text on one line, and its hints apart.
func problem(err error) *rpc.Error {
	if e := (*rpc.Error)(nil); errors.As(err, &e) {
		return e
	}
	e := &rpc.Error{Why: capabilities.CodeOf(err)}
	var text, hints []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if hint, ok := strings.CutPrefix(strings.TrimSpace(line), "hint: "); ok {
			hints = append(hints, hint)
		} else {
			text = append(text, strings.TrimSpace(line))
		}
	}
	e.Text, e.Hint = strings.Join(text, "; "), strings.Join(hints, "; ")
	return e
}

func invalid(format string, args ...any) error {
	return &rpc.Error{Why: capabilities.Invalid, Text: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &rpc.Error{Why: capabilities.NotFound, Text: fmt.Sprintf(format, args...)}
}

// absolute is the moniker that rel names below the scope.
func (s *session) absolute(rel string) (name.Moniker, error) {
	if rel != "." && !strings.HasPrefix(rel, "./") {
		return "", &rpc.Error{
			Why: capabilities.Invalid, Text: fmt.Sprintf("moniker %q: must be relative", rel),
			Hint: `"." is the component whose framework this is, "./net" its child`,
		}
	}
	m, err := name.ParseMoniker(rel)
	if err != nil {
		return "", invalid("%v", err)
	}
	return join(s.scope, m), nil
}

func join(scope, below name.Moniker) name.Moniker {
	for _, seg := range below.Segments() {
		scope = scope.Child(seg)
	}
	return scope
}

// relative is m as the client names it. It must be in the scope.
func relative(scope, m name.Moniker) string {
	if m == scope {
		return "."
	}
	return "./" + strings.TrimPrefix(strings.TrimPrefix(string(m), string(scope)), "/")
}

// instance is the instance that rel names.
func (s *session) instance(rel string) (realm.Info, error) {
	m, err := s.absolute(rel)
	if err != nil {
		return realm.Info{}, err
	}
	i, ok := s.cfg.Tree.Instance(m)
	if !ok {
		return realm.Info{}, notFound("there is no instance %s", m)
	}
	return i, nil
}
