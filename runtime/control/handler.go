package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/proto/controlpb/controlpbconnect"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/realm"
)

// The methods that follow are those of the service; control.proto says what they do.
var _ controlpbconnect.ControlHandler = (*Server)(nil)

// operator is the reason of a start that somebody asked for.
const operator = "asked by an operator"

// gone is the error for an instance that left the tree between two looks.
func gone(m name.Moniker) error {
	return problem(capabilities.NotFound, "", "%s was destroyed", m)
}

// List answers cmgr.control.v1.Control/List.
func (s *Server) List(ctx context.Context, req *controlpb.ListRequest) (*controlpb.ListResponse, error) {
	all, err := s.only(ctx, req.GetOnly())
	if err != nil {
		return nil, failed("list", "", err)
	}
	out := &controlpb.ListResponse{}
	for _, i := range all {
		x := instance(i)
		if req.GetUsage() && isRunning(i) && i.Program != nil {
			x.Usage = usage(ctx, i.Program)
		}
		out.Instances = append(out.Instances, x)
	}
	return out, nil
}

// Show answers cmgr.control.v1.Control/Show.
func (s *Server) Show(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.ShowResponse, error) {
	i, err := s.find(ctx, req.GetQuery())
	if err != nil {
		return nil, failed("find", req.GetQuery(), err)
	}
	out := &controlpb.ShowResponse{
		Moniker: string(i.Moniker), Url: i.URL, Environment: i.Environment, State: i.State.String(), Starting: i.Starting,
		InstanceId: i.InstanceID, Resolved: resolved(i), LastExit: exit(i.LastExit), LastError: errorText(i.LastError),
		Restarts: uint32(i.Restarts), NextStart: timestamp(i.NextStart), GaveUp: i.RestartsUp, LogDirectory: s.cfg.Logs.Dir(i.Moniker),
		Disabled: i.Disabled,
	}
	if out.Resolved != nil && isRunning(i) {
		out.Resolved.Started = started(ctx, i)
	}
	if out.Resolved != nil {
		values, err := s.cfg.Tree.Config(ctx, i.Moniker)
		if err == nil {
			out.Resolved.Configuration = configValues(values)
		}
	}
	if n, ok := s.cfg.Tree.Node(i.Moniker); ok {
		if x := out.GetResolved().GetStarted(); x != nil && x.Runtime == "" {
			x.Runtime = s.runtime(ctx, n)
		}
		if t, err := s.cfg.Router.StopTimeout(ctx, n); err == nil {
			out.StopTimeoutMs = uint32(t.Milliseconds())
		}
	}
	return out, nil
}

// runtime is what a program runs on, in the words of the reference: ELF, or the runner's name where it comes from; None without a
// program.
func (s *Server) runtime(ctx context.Context, n routing.Node) string {
	switch r, err := s.cfg.Router.Runner(ctx, n); {
	case err != nil:
		return "Unknown"
	case r == nil:
		return "None"
	case r.Source.Kind == capabilities.FromBuiltin && r.Source.Name == "elf":
		return "ELF"
	default:
		return r.Source.Name
	}
}

// Sandbox answers cmgr.control.v1.Control/Sandbox.
func (s *Server) Sandbox(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.SandboxResponse, error) {
	i, err := s.find(ctx, req.GetQuery())
	if err != nil {
		return nil, failed("find", req.GetQuery(), err)
	}
	out := &controlpb.SandboxResponse{Moniker: string(i.Moniker), Why: "this manager does not know"}
	if s.cfg.Sandbox == nil {
		return out, nil
	}
	b, err := s.cfg.Sandbox(ctx, i.Moniker)
	if err != nil {
		return nil, failed("look into", string(i.Moniker), err)
	}
	out.Confined, out.Why = b.Confined, b.Why
	for _, a := range b.Access {
		out.Access = append(out.Access, &controlpb.Access{Path: a.Path, May: a.May, What: a.What, Why: a.Why, NotWithheld: a.NotWithheld})
	}
	return out, nil
}

// An action is what the tree can do to an instance.
type action func(context.Context, name.Moniker) error

// act finds an instance, does something to it, and says how it is afterwards.
func (s *Server) act(ctx context.Context, op, query string, f action) (*controlpb.InstanceResponse, error) {
	i, err := s.find(ctx, query)
	if err != nil {
		return nil, failed("find", query, err)
	}
	if err := f(ctx, i.Moniker); err != nil {
		return nil, failed(op, string(i.Moniker), err)
	}
	s.cfg.Log.Debug("done", "op", op, "instance", i.Moniker)
	return s.after(i), nil
}

// after is i as it is now. One that is destroyed when it stops (single_run) is told of as it last was.
func (s *Server) after(i realm.Info) *controlpb.InstanceResponse {
	if now, ok := s.cfg.Tree.Instance(i.Moniker); ok {
		return &controlpb.InstanceResponse{Instance: instance(now)}
	}
	i.State, i.Starting = realm.Destroyed, false
	return &controlpb.InstanceResponse{Instance: instance(i)}
}

// Resolve answers cmgr.control.v1.Control/Resolve.
func (s *Server) Resolve(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "resolve", req.GetQuery(), s.cfg.Tree.Resolve)
}

// Unresolve answers cmgr.control.v1.Control/Unresolve.
func (s *Server) Unresolve(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "unresolve", req.GetQuery(), s.cfg.Tree.Unresolve)
}

// Start answers cmgr.control.v1.Control/Start.
func (s *Server) Start(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "start", req.GetQuery(), s.start)
}

func (s *Server) start(ctx context.Context, m name.Moniker) error {
	return s.cfg.Tree.Start(ctx, m, operator)
}

// Stop answers cmgr.control.v1.Control/Stop.
func (s *Server) Stop(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "stop", req.GetQuery(), s.cfg.Tree.Stop)
}

// Restart answers cmgr.control.v1.Control/Restart.
func (s *Server) Restart(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "restart", req.GetQuery(), func(ctx context.Context, m name.Moniker) error {
		return s.cfg.Tree.Restart(ctx, m, operator)
	})
}

// Kill answers cmgr.control.v1.Control/Kill.
func (s *Server) Kill(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "kill", req.GetQuery(), s.cfg.Tree.Kill)
}

// Disable answers cmgr.control.v1.Control/Disable.
func (s *Server) Disable(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "disable", req.GetQuery(), s.cfg.Tree.Disable)
}

// Enable answers cmgr.control.v1.Control/Enable.
func (s *Server) Enable(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "enable", req.GetQuery(), s.cfg.Tree.Enable)
}

// Signal answers cmgr.control.v1.Control/Signal.
func (s *Server) Signal(ctx context.Context, req *controlpb.SignalRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "signal", req.GetQuery(), func(ctx context.Context, m name.Moniker) error {
		sig, err := runners.ParseSignal(req.GetSignal())
		if err != nil {
			return invalid("%v; kill -l lists them", err)
		}
		i, ok := s.cfg.Tree.Instance(m)
		switch p, can := i.Program.(runners.Signaler); {
		case !ok:
			return gone(m)
		case i.Program == nil:
			return problem(capabilities.Precondition, "", "no program of it runs")
		case !can:
			return problem(capabilities.Precondition, "", "its runner passes no signals")
		default:
			return p.Signal(ctx, sig)
		}
	})
}

// Reload answers cmgr.control.v1.Control/Reload.
func (s *Server) Reload(ctx context.Context, req *controlpb.ReloadRequest) (*controlpb.ReloadResponse, error) {
	out := &controlpb.ReloadResponse{}
	r, err := s.act(ctx, "reload", req.GetQuery(), func(ctx context.Context, m name.Moniker) error {
		changes, err := s.cfg.Tree.Reload(ctx, m, req.GetDryRun())
		for _, c := range changes {
			out.Changes = append(out.Changes, &controlpb.Change{
				Moniker: string(c.Moniker), Kind: c.Kind.String(), Why: c.Why, Position: position(c.Pos),
			})
		}
		if err != nil && len(changes) > 0 {
			p := ProblemOf(err)
			p.Changes = out.Changes
			return &Error{p}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Instance = r.GetInstance()
	return out, nil
}

// Destroy answers cmgr.control.v1.Control/Destroy.
func (s *Server) Destroy(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.DestroyResponse, error) {
	r, err := s.act(ctx, "destroy", req.GetQuery(), s.cfg.Tree.Destroy)
	if err != nil {
		return nil, err
	}
	return &controlpb.DestroyResponse{Moniker: r.GetInstance().GetMoniker()}, nil
}

// Create answers cmgr.control.v1.Control/Create.
func (s *Server) Create(ctx context.Context, req *controlpb.CreateRequest) (*controlpb.InstanceResponse, error) {
	m, err := name.ParseMoniker(req.GetMoniker())
	if err == nil && m.Collection() == "" {
		err = fmt.Errorf("%s is no instance of a collection", m)
	}
	if err != nil {
		const hint = "name it PARENT/COLLECTION:NAME, as in /core/jobs:import-7"
		return nil, failed("create", "", problem(capabilities.Invalid, hint, "%v", err))
	}
	i, err := s.create(ctx, m, req.GetUrl(), req.GetConfig())
	if err != nil {
		return nil, failed("create", string(m), err)
	}
	return s.after(i), nil
}

func (s *Server) create(ctx context.Context, m name.Moniker, url string, config map[string]string) (realm.Info, error) {
	parent, _ := m.Parent() // a moniker with a collection has one
	collection, child, _ := strings.Cut(m.Base(), ":")
	got, err := s.cfg.Tree.Create(ctx, parent, collection, realm.ChildDecl{Name: child, URL: url, Config: config})
	if err != nil {
		return realm.Info{}, err
	}
	if i, ok := s.cfg.Tree.Instance(got); ok {
		return i, nil
	}
	return realm.Info{Moniker: got, URL: url, State: realm.Destroyed}, nil // a single run that is over
}

// RunInCollection answers cmgr.control.v1.Control/RunInCollection.
func (s *Server) RunInCollection(
	ctx context.Context, req *controlpb.RunInCollectionRequest,
) (*controlpb.InstanceResponse, error) {
	m, err := name.ParseMoniker(req.GetMoniker())
	if err == nil && m == name.Root {
		err = errors.New("the root is no collection")
	}
	if err == nil && m.Collection() == "" {
		m, err = name.ParseMoniker(string(m) + ":" + nameOf(req.GetUrl()))
	}
	if err != nil {
		const hint = "name PARENT/COLLECTION or PARENT/COLLECTION:NAME, as in /core/jobs:import-7"
		return nil, failed("run", "", problem(capabilities.Invalid, hint, "%v", err))
	}
	if _, exists := s.cfg.Tree.Instance(m); exists {
		if !req.GetRecreate() {
			hint := "use --recreate to destroy and recreate it, or another name: " + string(m) + "-2"
			return nil, failed("run", string(m), problem(capabilities.Precondition, hint, "component instance already exists"))
		}
		if err := s.cfg.Tree.Destroy(ctx, m); err != nil {
			return nil, failed("run", string(m), err)
		}
	}
	i, err := s.create(ctx, m, req.GetUrl(), nil)
	if err == nil && i.State != realm.Destroyed {
		if err = s.start(ctx, m); err != nil {
			_ = s.cfg.Tree.Destroy(context.WithoutCancel(ctx), m) // it was made for this run alone
		}
	}
	if err != nil {
		return nil, failed("run", string(m), err)
	}
	return s.after(i), nil
}

// nameOf makes a child's name of a URL: the manifest's file name without its ending, what names can't have replaced by "_".
func nameOf(url string) string {
	s, fragment, ok := strings.Cut(url, "#")
	if ok && fragment != "" {
		s = fragment
	}
	s, _, _ = strings.Cut(s, "?")
	s = path.Base(s)
	s = strings.TrimSuffix(s, path.Ext(s))
	return strings.Map(func(r rune) rune {
		if name.Check("_"+string(r)) != nil {
			return '_'
		}
		return r
	}, s)
}

// Events answers cmgr.control.v1.Control/Events.
func (s *Server) Events(ctx context.Context, req *controlpb.EventsRequest, out *connect.ServerStream[controlpb.Event]) error {
	ctx, cancel := s.untilClose(ctx)
	defer cancel()
	var of name.Moniker
	if q := req.GetQuery(); q != "" {
		i, err := s.find(ctx, q)
		of = i.Moniker
		if err != nil {
			m, past := s.past(ctx, q)
			if len(past) == 0 {
				return failed("find", q, err)
			}
			of = m
		}
	}
	since, last := uint64(max(req.GetSinceSeq(), 0)), s.cfg.Tree.LastEvent()
	if req.GetNewOnly() {
		since = last
	}
	from := time.Time{}
	if t := req.GetSinceTime(); t != nil {
		from = t.AsTime()
	}
	events := s.cfg.Tree.Subscribe(since)
	for at := since; req.GetFollow() || at < last; {
		e, lost, err := events.Next(ctx)
		if err != nil {
			return ended("events", err)
		}
		at = e.Seq
		// What was too old when this began was never promised; what is lost later is said.
		if lost > 0 && at > last {
			if err := out.Send(&controlpb.Event{
				Seq: float64(at - 1), Time: timestamp(e.Time), Kind: "lost", Text: fmt.Sprintf("%d events were lost", lost),
			}); err != nil {
				return err
			}
		}
		if of != "" && e.Moniker != of || e.Time.Before(from) {
			continue
		}
		if err := out.Send(event(e)); err != nil {
			return err
		}
	}
	return nil
}

// past is what the tree still knows to have happened to the moniker that query is, be it in the tree or not.
func (s *Server) past(ctx context.Context, query string) (name.Moniker, []realm.Event) {
	m, err := name.ParseMoniker(query)
	if err != nil {
		return "", nil
	}
	var out []realm.Event
	events, last := s.cfg.Tree.Subscribe(0), s.cfg.Tree.LastEvent()
	for at := uint64(0); at < last; {
		e, _, err := events.Next(ctx)
		if err != nil {
			break
		}
		if at = e.Seq; e.Moniker == m {
			out = append(out, e)
		}
	}
	return m, out
}

// ended is the end of a stream: nil when the manager ends.
func ended(op string, err error) error {
	if errors.Is(err, realm.ErrClosed) {
		return nil
	}
	return failed(op, "", err)
}

// Status answers cmgr.control.v1.Control/Status.
func (s *Server) Status(context.Context, *controlpb.StatusRequest) (*controlpb.StatusResponse, error) {
	out := &controlpb.StatusResponse{}
	if s.cfg.Progress != nil {
		p := s.cfg.Progress()
		out.Internal, out.Progress, out.Step, out.Steps = p.Internal, p.Said, int32(p.Step), int32(p.Steps)
		out.Instruction, out.Since = p.Instruction, timestamp(p.Since)
	}
	return out, nil
}

// Doctor answers cmgr.control.v1.Control/Doctor.
func (s *Server) Doctor(ctx context.Context, _ *controlpb.DoctorRequest) (*controlpb.DoctorResponse, error) {
	out := &controlpb.DoctorResponse{}
	if s.cfg.Doctor != nil {
		out.Checks = CheckMessages(s.cfg.Doctor(ctx))
	}
	return out, nil
}

// Shutdown answers cmgr.control.v1.Control/Shutdown.
func (s *Server) Shutdown(ctx context.Context, _ *controlpb.ShutdownRequest) (*controlpb.ShutdownResponse, error) {
	if err := s.cfg.Shutdown(ctx); err != nil {
		return nil, failed("shutdown", "", err)
	}
	return &controlpb.ShutdownResponse{}, nil
}

// Version answers cmgr.control.v1.Control/Version.
func (s *Server) Version(context.Context, *controlpb.VersionRequest) (*controlpb.VersionResponse, error) {
	return &controlpb.VersionResponse{
		Version: s.cfg.Version, Manager: s.cfg.Name, ProcessId: int32(os.Getpid()), RootUrl: s.cfg.RootURL,
		StartedAt: timestamp(s.started),
	}, nil
}
