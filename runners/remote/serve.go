package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/proto/runnerpb"
	"github.com/cmgr/cmgr/runners"
)

// Serve speaks the runner protocol over conn, a SOCK_SEQPACKET connection that a manager has made, and has r run what it is
// given. It returns when the manager has closed the connection (nil), when ctx is done (its cause) or when the manager breaks the
// protocol; then no program of the connection is left. The conn is closed.
//
// Programs that are runners.Describers are described once, when they have started.
func Serve(ctx context.Context, conn *net.UnixConn, r runners.Runner) error {
	s := &server{runner: r, open: make(chan struct{}), programs: map[uint64]runners.Program{}}
	c, err := rpc.Accept(ctx, conn, rpc.Config{
		Protocol: Protocol, Versions: versions, MaxFDs: rpc.MaxFDs, MaxBody: MaxStartInfo, Handle: s.handle,
	})
	if err != nil {
		return err
	}
	s.conn = c
	close(s.open)
	select {
	case <-c.Done():
	case <-ctx.Done():
	}
	c.Close()
	// No handler is left, so there will be no further program.
	s.mu.Lock()
	var left []runners.Program
	for _, p := range s.programs {
		left = append(left, p)
	}
	s.mu.Unlock()
	for _, p := range left {
		_ = p.Kill(context.Background())
	}
	s.running.Wait()
	switch err := c.Err(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

type server struct {
	runner  runners.Runner
	conn    *rpc.Conn
	open    chan struct{} // closed when conn is set
	running sync.WaitGroup

	mu       sync.Mutex                 // guards what follows; held for no call to anything outside
	programs map[uint64]runners.Program // nil while it starts
}

func (s *server) handle(ctx context.Context, method string, m rpc.Message) (rpc.Message, error) {
	switch method {
	case "Start":
		return rpc.Message{}, s.start(ctx, m)
	case "Stop":
		return rpc.Message{}, s.order(ctx, m, runners.Program.Stop)
	case "Kill":
		return rpc.Message{}, s.order(ctx, m, runners.Program.Kill)
	default:
		m.Close()
		return rpc.Message{}, rpc.ErrUnsupported
	}
}

func (s *server) start(ctx context.Context, m rpc.Message) error {
	id, info, pkg, err := decode(m)
	if err != nil {
		return &rpc.Error{Why: capabilities.Invalid, Text: err.Error()}
	}
	ends := func() { _ = pkg.Close() } // of nil it is an error, and nothing else
	s.mu.Lock()
	_, taken := s.programs[id]
	if !taken {
		s.programs[id] = nil
	}
	s.mu.Unlock()
	if taken {
		info.Close()
		ends()
		return &rpc.Error{Why: capabilities.Invalid, Text: "another program has its number"}
	}
	p, err := s.runner.Start(ctx, info)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.programs, id)
		ends()
		return told(err)
	}
	s.programs[id] = p
	s.running.Go(func() {
		defer ends()
		s.watch(id, p)
	})
	return nil
}

// told is err as the manager is told of it: it knows itself which operation it was, on what.
func told(err error) error {
	var e *runners.Error
	if errors.As(err, &e) {
		return &rpc.Error{Why: e.Why, Text: e.Err.Error(), Hint: e.Hint}
	}
	return &rpc.Error{Why: capabilities.CodeOf(err), Text: err.Error()}
}

func (s *server) order(ctx context.Context, m rpc.Message, f func(runners.Program, context.Context) error) error {
	defer m.Close()
	w := new(runnerpb.Program)
	if err := proto.Unmarshal(m.Body, w); err != nil {
		return &rpc.Error{Why: capabilities.Invalid, Text: "the body is no Program"}
	}
	s.mu.Lock()
	p := s.programs[w.Program]
	s.mu.Unlock()
	if p == nil {
		return &rpc.Error{Why: capabilities.NotFound, Text: "no such program"}
	}
	if err := f(p, ctx); err != nil {
		return told(err)
	}
	return nil
}

// watch tells the manager what there is to tell of p, until its end. An error in telling is the connection's end, of which Serve
// knows.
func (s *server) watch(id uint64, p runners.Program) {
	<-s.open
	tell := func(what string, m proto.Message) {
		if body, err := proto.Marshal(m); err == nil {
			_ = s.conn.Notify(context.Background(), what, rpc.Message{Body: body})
		}
	}
	if d, ok := p.(runners.Describer); ok {
		w := &runnerpb.Diagnostics{Program: id}
		for _, x := range d.Describe() {
			w.Details = append(w.Details, &runnerpb.Detail{Key: line(x.Key), Value: line(x.Value)})
		}
		tell("Diagnostics", w)
	}
	x, err := p.Wait(context.Background())
	if err != nil {
		x = runners.Exit{Code: -1, Cause: runners.ByRunner, Detail: err.Error()}
	}
	tell("Exit", &runnerpb.Exit{
		Program: id, Code: int32(x.Code), Signal: uint32(x.Signal), CoreDumped: x.CoreDumped,
		Cause: causes[x.Cause], Detail: line(x.Detail),
	})
	// Not before: an order that finds no program must find its end told.
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.programs, id)
}

var causes = [...]runnerpb.Cause{
	runners.BySelf: runnerpb.Cause_CAUSE_SELF, runners.ByStop: runnerpb.Cause_CAUSE_STOP, runners.ByKill: runnerpb.Cause_CAUSE_KILL,
	runners.ByTimeout: runnerpb.Cause_CAUSE_TIMEOUT, runners.ByRunner: runnerpb.Cause_CAUSE_RUNNER,
	runners.ByHealth: runnerpb.Cause_CAUSE_SELF, // whose detail says why
}
