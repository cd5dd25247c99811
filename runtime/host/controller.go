package host

import (
	"context"
	"net"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/realm"
)

// maxControllers is how many controllers one connection may have open.
const maxControllers = 256

// control makes a controller of the child m and returns the client's end. It ends with the session.
func (s *session) control(m name.Moniker) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, &rpc.Error{Why: capabilities.Unavailable, Text: "the connection ends"}
	case s.open == maxControllers:
		return nil, &rpc.Error{
			Why: capabilities.Unavailable, Text: "too many controllers are open on this connection", Hint: "close some, or connect again",
		}
	}
	ours, theirs, err := sock.Pair()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(ours), "controller")
	conn, err := take(f)
	if err != nil {
		os.NewFile(uintptr(theirs), "controller").Close()
		return nil, err
	}
	s.open++
	since := s.cfg.Tree.LastEvent() // what happens once the client has its end, it is told
	s.controllers.Go(func() {
		c := &controller{session: session{Host: s.Host, user: s.user, scope: s.scope}, child: m}
		c.run(s.ctx, conn, since)
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
	})
	return os.NewFile(uintptr(theirs), "controller"), nil
}

// A controller is a connection about one child.
type controller struct {
	session
	child name.Moniker
}

func (c *controller) run(ctx context.Context, conn *net.UnixConn, since uint64) {
	r, err := rpc.Accept(ctx, conn, rpc.Config{
		Protocol: framework.Controller, Versions: []uint32{1}, MaxBody: maxRequest,
		Handle: func(ctx context.Context, method string, m rpc.Message) (rpc.Message, error) {
			m.Close()
			return c.handle(ctx, method)
		},
	})
	if err != nil {
		return
	}
	following, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.follow(following, r, since)
	}()
	select {
	case <-r.Done():
	case <-ctx.Done():
	}
	cancel()
	r.Close()
	<-done
}

func (c *controller) handle(ctx context.Context, method string) (rpc.Message, error) {
	tree := c.cfg.Tree
	switch method {
	case "GetState":
		return reply(c.state(), nil, nil)
	case "Start":
		return reply(nil, nil, tree.Start(ctx, c.child, "controller of "+string(c.user)))
	case "Stop":
		return reply(nil, nil, tree.Stop(ctx, c.child))
	case "Kill":
		return reply(nil, nil, tree.Kill(ctx, c.child))
	case "Destroy":
		return reply(nil, nil, tree.Destroy(ctx, c.child))
	case "Wait":
		err := stopped(ctx, tree, c.child)
		return reply(c.state(), nil, err)
	default:
		return rpc.Message{}, rpc.ErrUnsupported
	}
}

func (c *controller) state() *componentpb.State {
	i, ok := c.cfg.Tree.Instance(c.child)
	if !ok {
		return &componentpb.State{State: realm.Destroyed.String()}
	}
	return &componentpb.State{State: i.State.String(), Exit: exitOf(i.LastExit)}
}

func exitOf(e *runners.Exit) *componentpb.Exit {
	if e == nil {
		return nil
	}
	return &componentpb.Exit{Code: int32(e.Code), Signal: uint32(e.Signal), Cause: e.Cause.String(), Text: e.String()}
}

// stopped returns once the program of m does not run, nor begins to.
func stopped(ctx context.Context, tree Tree, m name.Moniker) error {
	events := tree.Subscribe(tree.LastEvent())
	for {
		i, ok := tree.Instance(m)
		if !ok || i.State != realm.Started && i.State != realm.Stopping && !i.Starting {
			return nil
		}
		for {
			e, lost, err := events.Next(ctx)
			if err != nil {
				return err
			}
			if lost > 0 || e.Moniker == m {
				break
			}
		}
	}
}

// follow tells the client of the child's changes of state. A client that doesn't read ends the connection (internal/rpc).
func (c *controller) follow(ctx context.Context, r *rpc.Conn, since uint64) {
	events := c.cfg.Tree.Subscribe(since)
	for {
		e, _, err := events.Next(ctx)
		if err != nil {
			return
		}
		if e.Moniker != c.child {
			continue
		}
		var what string
		s := &componentpb.State{}
		switch e.Kind {
		case realm.EventStarted:
			what, s.State = "Started", realm.Started.String()
		case realm.EventStopped:
			what, s.State, s.Exit = "Stopped", realm.Resolved.String(), exitOf(e.Exit)
		case realm.EventDestroyed:
			what, s.State = "Destroyed", realm.Destroyed.String()
		default:
			continue
		}
		body, err := proto.Marshal(s)
		if err != nil || r.Notify(ctx, what, rpc.Message{Body: body}) != nil {
			return
		}
	}
}
