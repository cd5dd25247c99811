package control

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
)

// Capability answers cmgr.control.v1.Control/Capability.
func (s *Server) Capability(_ context.Context, req *controlpb.CapabilityRequest) (*controlpb.CapabilityResponse, error) {
	wanted := req.GetName()
	if err := name.Check(wanted); err != nil {
		return nil, failed("find", wanted, problem(capabilities.Invalid, "", "%v", err))
	}
	out := &controlpb.CapabilityResponse{}
	names := map[string]bool{}
	for _, i := range s.cfg.Tree.Instances() {
		if i.Decl == nil {
			continue
		}
		// add puts a mention into a list where one of its names is the one that is asked for.
		add := func(list *[]*controlpb.Mention, kind manifest.Kind, source, target, from, to string, pos manifest.Pos) {
			names[source], names[target] = true, true
			if source == wanted || target == wanted {
				*list = append(*list, &controlpb.Mention{
					Moniker: string(i.Moniker), Kind: kind.String(), SourceName: source, TargetName: target, From: from, To: to,
					Position: position(pos),
				})
			}
		}
		for _, c := range i.Decl.Capabilities {
			add(&out.Declarations, c.Kind, c.Name, c.Name, "", "", c.Pos)
		}
		for _, e := range i.Decl.Exposes {
			add(&out.Exposes, e.Kind, e.SourceName, e.TargetName, e.Source.String(), e.Target.String(), e.Pos)
		}
		for _, o := range i.Decl.Offers {
			add(&out.Offers, o.Kind, o.SourceName, o.TargetName, o.Source.String(), o.Target.String(), o.Pos)
		}
		if p := i.Decl.Program; p != nil && p.Runner != "" {
			add(&out.Uses, manifest.KindRunner, p.Runner, p.Runner, "environment", "", p.RunnerPos)
		}
		for _, u := range i.Decl.Uses {
			add(&out.Uses, u.Kind, u.SourceName, u.SourceName, u.Source.String(), "", u.Pos)
		}
	}
	if len(out.Declarations)+len(out.Exposes)+len(out.Offers)+len(out.Uses) == 0 {
		hint := "manifests that are not read yet are not searched: `cmgr resolve` reads one, `cmgr verify ROOT` all"
		if near := name.Nearest(wanted, slices.Sorted(maps.Keys(names))); near != "" {
			hint = fmt.Sprintf("did you mean %s?", near)
		}
		return nil, failed("find", wanted, problem(capabilities.NotFound, hint, "no manifest that was read names such a capability"))
	}
	return out, nil
}
