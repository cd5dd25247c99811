package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/realm"
)

// The outcomes of a route, in the words of the reference.
const (
	routed = "Success"
	void   = "Void"
	broken = "Failed"
)

// Route answers cmgr.control.v1.Control/Route.
func (s *Server) Route(ctx context.Context, req *controlpb.RouteRequest) (*controlpb.RouteResponse, error) {
	i, err := s.find(ctx, req.GetQuery())
	if err != nil {
		return nil, failed("find", req.GetQuery(), err)
	}
	n, ok := s.cfg.Tree.Node(i.Moniker)
	if !ok {
		return nil, failed("route", req.GetQuery(), gone(i.Moniker))
	}
	d, err := n.Decl(ctx)
	if err != nil {
		return nil, failed("route", string(i.Moniker), err)
	}
	out := &controlpb.RouteResponse{Moniker: string(i.Moniker)}
	for _, q := range s.routes(ctx, n, d, req.GetFilters()) {
		r := q.report()
		if r.Outcome == routed {
			r.DictionaryEntries = s.entries(ctx, q)
		}
		out.Routes = append(out.Routes, r)
	}
	return out, nil
}

// entries are the names of what is in the dictionary that q leads to; none if it is none.
func (s *Server) entries(ctx context.Context, q question) []string {
	src := q.route.Source
	if q.kind != manifest.KindDictionary || src.Kind != capabilities.FromComponent {
		return nil
	}
	n, ok := s.cfg.Tree.Node(src.At)
	if !ok {
		return nil
	}
	d, err := n.Decl(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for o := range routing.Items(d, src.Name) {
		names = append(names, o.TargetName)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// A question is asked of the router, and answered.
type question struct {
	declType     string // "use" or "expose"
	kind         manifest.Kind
	name         string
	availability manifest.Availability
	route        *capabilities.Route
	err          error
}

// routes asks for everything that n's declaration d uses and exposes, as far as the filters let it through.
func (s *Server) routes(ctx context.Context, n routing.Node, d *manifest.Component, filters []string) []question {
	var out []question
	if p := d.Program; p != nil && p.Runner != "" && wanted(filters, "use", p.Runner) {
		q := question{declType: "use", kind: manifest.KindRunner, name: p.Runner}
		q.route, q.err = s.cfg.Router.Runner(ctx, n)
		out = append(out, q)
	}
	for k := range d.Uses {
		u := &d.Uses[k]
		if wanted(filters, "use", u.SourceName) {
			q := question{declType: "use", kind: u.Kind, name: u.SourceName, availability: u.Availability}
			q.route, q.err = s.cfg.Router.Use(ctx, n, u)
			out = append(out, q)
		}
	}
	for k := range d.Exposes {
		e := &d.Exposes[k]
		if wanted(filters, "expose", e.TargetName) {
			q := question{declType: "expose", kind: e.Kind, name: e.TargetName, availability: e.Availability}
			q.route, q.err = s.cfg.Router.Expose(ctx, n, e)
			out = append(out, q)
		}
	}
	return out
}

// wanted says whether one of the filters ("NAME", "use:NAME", "expose:NAME", NAME being a part of the name) lets it through.
func wanted(filters []string, declType, capability string) bool {
	for _, f := range filters {
		part := f
		if t, rest, ok := strings.Cut(f, ":"); ok && (t == "use" || t == "expose") {
			if t != declType {
				continue
			}
			part = rest
		}
		if strings.Contains(capability, part) {
			return true
		}
	}
	return len(filters) == 0
}

func (q question) report() *controlpb.RouteReport {
	out := &controlpb.RouteReport{
		DeclType: q.declType, Kind: q.kind.String(), Capability: q.name, Availability: q.availability.String(), Outcome: routed,
	}
	var walked []capabilities.Hop
	switch {
	case q.err != nil:
		p := ProblemOf(q.err)
		out.Outcome, out.ErrorCode, out.ErrorSummary, out.Hint = broken, p.GetKind(), p.GetMessage(), p.GetHint()
		if e, ok := errors.AsType[*capabilities.Error](q.err); ok {
			out.ErrorSummary, walked = e.Reason, e.Hops
			if e.Err != nil {
				out.ErrorSummary += ": " + errorText(e.Err)
			}
		}
	case q.route.Source.Kind == capabilities.FromVoid:
		out.Outcome, walked = void, q.route.Hops
	default:
		out.SourceMoniker, walked = q.route.Source.String(), q.route.Hops
		out.Rights, out.Subdir = q.route.Rights.Short(), q.route.Subdir
		if q.kind == manifest.KindService {
			for _, i := range realm.ServiceInstances(q.route) {
				x := &controlpb.ServiceInstance{Name: i.Name, SourceName: i.Source.Name, Error: errorText(i.Err)}
				if i.Err == nil {
					x.SourceMoniker = i.Source.String()
				}
				out.ServiceInstances = append(out.ServiceInstances, x)
			}
		}
	}
	for _, h := range walked {
		out.Hops = append(out.Hops, &controlpb.Hop{Moniker: string(h.At), Decl: h.Decl, Capability: h.Name, Position: position(h.Pos)})
	}
	return out
}

// Graph answers cmgr.control.v1.Control/Graph.
func (s *Server) Graph(ctx context.Context, req *controlpb.GraphRequest) (*controlpb.GraphResponse, error) {
	all, err := s.only(ctx, req.GetOnly())
	if err != nil {
		return nil, failed("graph", "", err)
	}
	out := &controlpb.GraphResponse{}
	for _, i := range all {
		out.Instances = append(out.Instances, instance(i))
	}
	if !req.GetRoutes() {
		return out, nil
	}
	shown := map[string]bool{}
	for _, i := range all {
		shown[string(i.Moniker)] = true
	}
	for _, i := range all {
		n, ok := s.cfg.Tree.Node(i.Moniker)
		if !ok || i.Decl == nil {
			continue
		}
		for _, q := range s.routes(ctx, n, i.Decl, nil) {
			if q.declType != "use" || q.err != nil || q.route.Source.Kind == capabilities.FromVoid || !shown[string(q.route.Source.At)] {
				continue
			}
			out.Routes = append(out.Routes, &controlpb.Edge{
				From: string(i.Moniker), To: string(q.route.Source.At), Kind: q.kind.String(), Capability: q.name,
			})
		}
	}
	return out, nil
}
