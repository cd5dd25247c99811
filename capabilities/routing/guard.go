package routing

import (
	"slices"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A Guard is Builtins that forbid some of what could be routed: the policy of the manager's configuration. The reason is "" for
// what is allowed.
type Guard interface {
	// Forbids says why target may not have the capability of that kind from src, and what to do.
	Forbids(kind manifest.Kind, src capabilities.Source, target name.Moniker) (reason, hint string)
	// ForbidsDebug says why owner may not register that protocol for debugging in that environment of its own, and what to do.
	ForbidsDebug(owner name.Moniker, environment, protocol string) (reason, hint string)
}

// A Limiter is Builtins that know what may be done in their directories.
type Limiter interface {
	// Rights are those of a directory that is offered to the root.
	Rights(directory string) manifest.Rights
}

// limited is the end of a walk at a directory of the manager's.
func (w *walk) limited(s step) error {
	l, ok := w.e.b.(Limiter)
	if !ok || s.kind != manifest.KindDirectory {
		return nil
	}
	have := l.Rights(s.name)
	if !have.Has(w.asked) {
		return w.fail(s, capabilities.Denied, "ask for fewer rights, or give them in namespace_capabilities of the manager's --config",
			"requested rights (%s) greater than provided rights (%s) at %q",
			rightsText(w.asked), rightsText(have), capabilities.Source{Kind: capabilities.FromBuiltin})
	}
	if w.asked == 0 {
		w.r.Rights = have
	}
	return nil
}

// registration is one of a debug protocol, by which a walk came.
type registration struct {
	owner       Node
	environment string
	reg         *manifest.Registration
}

// debugAllowed says whether the protocol may stand in that environment.
func (w *walk) debugAllowed(r registration) error {
	g, ok := w.e.b.(Guard)
	if !ok || r.reg == nil {
		return nil
	}
	reason, hint := g.ForbidsDebug(r.owner.Moniker(), r.environment, r.reg.Name)
	if reason == "" {
		return nil
	}
	return w.fail(step{n: r.owner, pos: r.reg.Pos}, capabilities.Denied, hint, "%s", reason)
}

// allowed ends a walk that has found what n, the component asking for it, gets. A part of an aggregated service that it may not
// have does not take the others with it.
func (w *walk) allowed(n Node) error {
	g, ok := w.e.b.(Guard)
	if !ok {
		return nil
	}
	if err := w.debugAllowed(w.debug); err != nil {
		return err
	}
	return w.permit(g, n, w.r)
}

func (w *walk) permit(g Guard, n Node, r *capabilities.Route) error {
	switch r.Source.Kind {
	case capabilities.FromVoid:
		return nil
	case capabilities.FromCollection:
		left := len(r.Members) == 0
		for i := range r.Members {
			m := &r.Members[i]
			if m.Err == nil {
				if err := w.permit(g, n, m.Route); err != nil {
					*m = capabilities.Member{Err: err}
				}
			}
			left = left || m.Err == nil
		}
		if !left {
			return r.Members[0].Err
		}
		return nil
	}
	reason, hint := g.Forbids(r.Kind, r.Source, n.Moniker())
	if reason == "" {
		return nil
	}
	f := w.fail(step{n: n}, capabilities.Denied, hint, "%s", reason)
	if len(w.r.Hops) > 0 {
		f.Pos = w.r.Hops[0].Pos
	}
	if r != w.r {
		f.Hops = slices.Concat(w.r.Hops, r.Hops)
	}
	return f
}
