package host

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/realm"
)

// lifecycleMethods are those of framework.LifecycleController.
var lifecycleMethods = map[string]method{
	"StartInstance": move(func(ctx context.Context, s *session, m name.Moniker) error {
		return s.cfg.Tree.Start(ctx, m, "asked by "+string(s.user))
	}),
	"StopInstance": move(func(ctx context.Context, s *session, m name.Moniker) error { return s.cfg.Tree.Stop(ctx, m) }),
	"ResolveInstance": move(func(ctx context.Context, s *session, m name.Moniker) error {
		return s.cfg.Tree.Resolve(ctx, m)
	}),
	"UnresolveInstance": move(func(ctx context.Context, s *session, m name.Moniker) error {
		return s.cfg.Tree.Unresolve(ctx, m)
	}),
	"CreateInstance": on(func(ctx context.Context, s *session, q *componentpb.CreateInstance) (proto.Message, error) {
		m, err := s.absolute(q.Parent)
		if err != nil {
			return nil, err
		}
		return nil, s.create(ctx, m, q.GetChild())
	}),
	"DestroyInstance": on(func(ctx context.Context, s *session, q *componentpb.DestroyInstance) (proto.Message, error) {
		m, err := s.absolute(q.Parent)
		if err != nil {
			return nil, err
		}
		return nil, s.destroy(ctx, m, q.GetChild())
	}),
}

// move is a method that does f to an instance.
func move(f func(context.Context, *session, name.Moniker) error) method {
	return on(func(ctx context.Context, s *session, q *componentpb.Moniker) (proto.Message, error) {
		m, err := s.absolute(q.Moniker)
		if err != nil {
			return nil, err
		}
		return nil, f(ctx, s, m)
	})
}

// queryMethods are those of framework.RealmQuery.
var queryMethods = map[string]method{
	"GetInstance": on(func(ctx context.Context, s *session, q *componentpb.Moniker) (proto.Message, error) {
		i, err := s.instance(q.Moniker)
		if err != nil {
			return nil, err
		}
		out := s.describe(i)
		if l, ok := i.Program.(runners.ProcessLister); ok {
			pids, err := l.Processes(ctx)
			if err != nil {
				return nil, err
			}
			for _, p := range pids {
				out.Processes = append(out.Processes, int32(p))
			}
		}
		return out, nil
	}),
	"GetAllInstances": on(func(_ context.Context, s *session, _ *componentpb.Moniker) (proto.Message, error) {
		out := &componentpb.Instances{}
		for _, i := range s.cfg.Tree.Instances() {
			if s.scope.Contains(i.Moniker) {
				out.Instances = append(out.Instances, s.describe(i))
			}
		}
		return out, nil
	}),
	"GetResolvedDeclaration": on(func(_ context.Context, s *session, q *componentpb.Moniker) (proto.Message, error) {
		i, err := s.instance(q.Moniker)
		if err != nil {
			return nil, err
		}
		if i.Decl == nil {
			return nil, &rpc.Error{
				Why: capabilities.Precondition, Text: fmt.Sprintf("%s has not been resolved", i.Moniker),
			}
		}
		b, err := codec.Encode(i.Decl)
		return &componentpb.Declaration{Manifest: b}, err
	}),
	"GetStructuredConfig": on(func(ctx context.Context, s *session, q *componentpb.Moniker) (proto.Message, error) {
		m, err := s.absolute(q.Moniker)
		if err != nil {
			return nil, err
		}
		values, err := s.cfg.Tree.Config(ctx, m)
		if err != nil {
			return nil, err
		}
		out := &componentpb.StructuredConfig{}
		for _, v := range values {
			out.Fields = append(out.Fields, &componentpb.ConfigValue{Key: v.Key, Value: v.Text(), Source: v.String()})
		}
		return out, nil
	}),
}

// configMethods are those of framework.ConfigOverride.
var configMethods = map[string]method{
	"SetStructuredConfig": on(func(ctx context.Context, s *session, q *componentpb.SetStructuredConfig) (proto.Message, error) {
		m, err := s.absolute(q.Moniker)
		if err != nil {
			return nil, err
		}
		return nil, s.cfg.Tree.SetConfig(ctx, m, configOf(q.Fields))
	}),
	"UnsetStructuredConfig": on(func(ctx context.Context, s *session, q *componentpb.Moniker) (proto.Message, error) {
		if q.Moniker == "" {
			for _, i := range s.cfg.Tree.Instances() {
				if !s.scope.Contains(i.Moniker) {
					continue
				}
				if err := s.cfg.Tree.UnsetConfig(ctx, i.Moniker); err != nil && capabilities.CodeOf(err) != capabilities.NotFound {
					return nil, err
				}
			}
			return nil, nil
		}
		m, err := s.absolute(q.Moniker)
		if err != nil {
			return nil, err
		}
		return nil, s.cfg.Tree.UnsetConfig(ctx, m)
	}),
}

// configOf are values by key; nil for none.
func configOf(fields []*componentpb.ConfigValue) map[string]string {
	if len(fields) == 0 {
		return nil
	}
	out := make(map[string]string, len(fields))
	for _, f := range fields {
		out[f.GetKey()] = f.GetValue()
	}
	return out
}

func (s *session) describe(i realm.Info) *componentpb.Instance {
	return &componentpb.Instance{
		Moniker: relative(s.scope, i.Moniker), Url: i.URL, Environment: i.Environment, State: i.State.String(),
		ResolvedUrl: i.ResolvedURL, Package: i.PackageDir, StartReason: i.StartReason,
	}
}

// routeMethods are those of framework.RouteValidator.
var routeMethods = map[string]method{
	"Route": on(func(ctx context.Context, s *session, q *componentpb.Route) (proto.Message, error) {
		m, err := s.absolute(q.Moniker)
		if err != nil {
			return nil, err
		}
		n, d, err := s.decl(ctx, m)
		if err != nil {
			return nil, err
		}
		wanted := func(declType, capability string) bool {
			return len(q.Targets) == 0 || slices.ContainsFunc(q.Targets, func(t *componentpb.Target) bool {
				return (t.Type == "" || t.Type == declType) && strings.Contains(capability, t.Name)
			})
		}
		out := &componentpb.Routes{}
		engine := s.cfg.Tree.Engine()
		if p := d.Program; p != nil && p.Runner != "" && wanted("use", p.Runner) {
			r, err := engine.Runner(ctx, n)
			out.Reports = append(out.Reports, s.report("use", manifest.KindRunner, p.Runner, manifest.Required, r, err))
		}
		for k := range d.Uses {
			if u := &d.Uses[k]; wanted("use", u.SourceName) {
				r, err := engine.Use(ctx, n, u)
				out.Reports = append(out.Reports, s.report("use", u.Kind, u.SourceName, u.Availability, r, err))
			}
		}
		for k := range d.Exposes {
			if x := &d.Exposes[k]; wanted("expose", x.TargetName) {
				r, err := engine.Expose(ctx, n, x)
				out.Reports = append(out.Reports, s.report("expose", x.Kind, x.TargetName, x.Availability, r, err))
			}
		}
		return out, nil
	}),
}

func (s *session) report(
	declType string, k manifest.Kind, capability string, a manifest.Availability, r *capabilities.Route, err error,
) *componentpb.RouteReport {
	out := &componentpb.RouteReport{Type: declType, Kind: k.String(), Capability: capability, Outcome: "success", Availability: a.String()}
	switch {
	case err != nil:
		e := problem(err)
		out.Outcome, out.Error, out.ErrorCode, out.Hint = "failed", e.Text, e.Why.String(), e.Hint
	case r.Source.Kind == capabilities.FromVoid:
		out.Outcome = "void"
	case r.Source.Kind == capabilities.FromComponent && s.scope.Contains(r.Source.At):
		out.Source = relative(s.scope, r.Source.At)
	default:
		out.Source = r.Source.String()
	}
	return out
}

// introspectorMethods are those of framework.Introspector.
var introspectorMethods = map[string]method{
	"GetMoniker": func(ctx context.Context, s *session, m rpc.Message) (proto.Message, *os.File, error) {
		defer m.Close()
		q := new(componentpb.Introspect)
		if err := proto.Unmarshal(m.Body, q); err != nil {
			return nil, nil, invalid("the body is no Introspect")
		}
		pid := int(q.Pid)
		switch {
		case q.Socket > 1 || int(q.Socket) != len(m.Files) || (q.Socket == 0) == (pid <= 0):
			return nil, nil, invalid("give one connection, or the number of a process")
		case q.Socket == 1:
			peer, err := sock.PeerOf(m.Files[0])
			if err != nil {
				return nil, nil, invalid("the descriptor is no unix connection: %v", err)
			}
			if pid = peer.PID; pid <= 0 {
				return nil, nil, notFound("nobody in this machine's view made the connection")
			}
		}
		i, ok := s.owner(ctx, pid)
		if !ok || q.Socket == 1 && sock.PeerEnded(m.Files[0]) {
			return nil, nil, notFound("process %d belongs to no component, or has ended", pid)
		}
		if !s.scope.Contains(i.Moniker) {
			return nil, nil, &rpc.Error{
				Why: capabilities.Denied, Text: fmt.Sprintf("process %d belongs to a component that is not below %s", pid, s.scope),
			}
		}
		return &componentpb.Identity{Moniker: relative(s.scope, i.Moniker), Url: i.ResolvedURL, Pid: int32(pid)}, nil, nil
	},
}

// owner is the instance whose program has the process pid. Its job says so; the process's cgroup only which to ask first.
func (s *session) owner(ctx context.Context, pid int) (realm.Info, bool) {
	cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	segments := strings.Split(strings.TrimSpace(string(cgroup)), "/")
	likely := func(p runners.Program) bool {
		d, ok := p.(runners.Describer)
		return ok && slices.ContainsFunc(d.Describe(), func(x runners.Detail) bool {
			return x.Key == "Job ID" && slices.Contains(segments, path.Base(x.Value))
		})
	}
	var rest []realm.Info
	has := func(i realm.Info) bool {
		pids, err := i.Program.(runners.ProcessLister).Processes(ctx)
		return err == nil && slices.Contains(pids, pid)
	}
	for _, i := range s.cfg.Tree.Instances() {
		switch _, ok := i.Program.(runners.ProcessLister); {
		case !ok:
		case !likely(i.Program):
			rest = append(rest, i)
		case has(i):
			return i, true
		}
	}
	for _, i := range rest {
		if has(i) {
			return i, true
		}
	}
	return realm.Info{}, false
}
