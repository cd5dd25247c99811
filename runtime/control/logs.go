package control

import (
	"context"
	"iter"

	"connectrpc.com/connect"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/logs"
)

// Logs is where programs' output is kept. A logs.Logs is one.
type Logs interface {
	// Dir is the directory of m's log, be it there or not.
	Dir(m name.Moniker) string
	// History gives the last n lines (all that are kept if n is negative) of each instance that filter wants, in order of time.
	History(filter func(name.Moniker) bool, n int) iter.Seq2[logs.Line, error]
	// Follow does as History, and goes on with lines as they come until ctx ends.
	Follow(ctx context.Context, filter func(name.Moniker) bool, n int) iter.Seq2[logs.Line, error]
}

// Logs answers cmgr.control.v1.Control/Logs.
func (s *Server) Logs(ctx context.Context, req *controlpb.LogsRequest, out *connect.ServerStream[controlpb.LogLine]) error {
	ctx, cancel := s.untilClose(ctx)
	defer cancel()
	wanted := map[name.Moniker]bool{}
	for _, q := range req.GetQueries() {
		m, err := s.logged(ctx, q)
		if err != nil {
			return failed("find", q, err)
		}
		wanted[m] = true
	}
	filter := func(m name.Moniker) bool { return len(wanted) == 0 || wanted[m] }
	n := -1
	if req.Lines != nil {
		n = int(req.GetLines())
	}
	lines := s.cfg.Logs.History(filter, n)
	if req.GetFollow() {
		lines = s.cfg.Logs.Follow(ctx, filter, n)
	}
	for line, err := range lines {
		if err != nil {
			return failed("logs", "", err)
		}
		if err := out.Send(LineMessage(line)); err != nil {
			return err
		}
	}
	return nil
}

// logged is the instance that query means, or one that is no more but whose log is kept.
func (s *Server) logged(ctx context.Context, query string) (name.Moniker, error) {
	i, err := s.find(ctx, query)
	if err == nil {
		return i.Moniker, nil
	}
	if m, bad := name.ParseMoniker(query); bad == nil {
		for range s.cfg.Logs.History(func(x name.Moniker) bool { return x == m }, 1) {
			return m, nil
		}
	}
	return "", err
}
