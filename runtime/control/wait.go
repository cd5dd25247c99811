package control

import (
	"context"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/realm"
)

// Wait answers cmgr.control.v1.Control/Wait.
func (s *Server) Wait(ctx context.Context, req *controlpb.WaitRequest) (*controlpb.WaitResponse, error) {
	until := req.GetUntil()
	if until != "running" && until != "stopped" && until != "exited" {
		return nil, failed("wait", "", invalid("until must be 'running', 'stopped' or 'exited', is '%s'", until))
	}
	ctx, cancel := s.untilClose(ctx)
	defer cancel()
	i, err := s.find(ctx, req.GetQuery())
	if err != nil {
		// A single run may be over and gone by now.
		m, past := s.past(ctx, req.GetQuery())
		if x := lastExit(past); until == "exited" && x != nil || until == "stopped" && len(past) > 0 {
			return &controlpb.WaitResponse{Moniker: string(m), State: realm.Destroyed.String(), Exit: exit(x)}, nil
		}
		return nil, failed("find", req.GetQuery(), err)
	}
	m := i.Moniker
	fail := func(err error) (*controlpb.WaitResponse, error) { return nil, failed("wait", string(m), err) }
	events := s.cfg.Tree.Subscribe(s.cfg.Tree.LastEvent())
	for {
		// The state decides where it can; the events tell of what was over before one looked.
		now, ok := s.cfg.Tree.Instance(m)
		if ok {
			i = now
		} else {
			_, past := s.past(ctx, string(m))
			i.State, i.Starting, i.NextStart, i.LastExit = realm.Destroyed, false, time.Time{}, lastExit(past)
		}
		answer := &controlpb.WaitResponse{Moniker: string(m), State: i.State.String(), Exit: exit(i.LastExit)}
		settled := !isRunning(i) && !i.Starting
		final := i.State == realm.Shutdown || i.State == realm.Destroyed
		switch {
		case until == "running" && i.State == realm.Started && !i.Starting:
			answer.Exit = nil
			return answer, nil
		case until == "stopped" && settled && i.NextStart.IsZero(), until == "exited" && settled && i.LastExit != nil:
			return answer, nil
		case until == "running" && settled && i.RestartsUp:
			return fail(problem(capabilities.Unavailable, "", "its restart policy has given up"))
		case final && settled:
			return fail(problem(capabilities.Precondition, "", "it is %s and will not be %s any more", isDown(i.State), until))
		}
		for changed := false; !changed; {
			e, lost, err := events.Next(ctx)
			if err != nil {
				return fail(err)
			}
			changed = lost > 0
			if e.Moniker != m {
				continue
			}
			changed = true
			switch {
			case e.Kind == realm.EventStopped && until == "exited":
				answer.Exit, answer.State = exit(e.Exit), realm.Resolved.String()
				if now, ok := s.cfg.Tree.Instance(m); ok {
					answer.State = now.State.String()
				}
				return answer, nil
			case e.Kind == realm.EventStarted && until == "running":
				answer.Exit, answer.State = nil, realm.Started.String()
				return answer, nil
			case e.Kind == realm.EventFailed && until != "stopped":
				if now, ok := s.cfg.Tree.Instance(m); !ok || now.NextStart.IsZero() {
					return fail(e.Err)
				}
			}
		}
	}
}

func isDown(s realm.State) string {
	if s == realm.Shutdown {
		return "shut down"
	}
	return s.String()
}

// lastExit is how the last run ended of which past tells; nil for none.
func lastExit(past []realm.Event) (x *runners.Exit) {
	for _, e := range past {
		if e.Exit != nil {
			x = e.Exit
		}
	}
	return x
}
