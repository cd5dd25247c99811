package routing

import (
	"context"
	"fmt"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
)

// environments calls f for each environment that n is in, the nearest first, with the component that declares it, until f returns
// false or an environment extends none. The root's own environment, which nobody declares, is not among them.
func environments(ctx context.Context, n Node, f func(owner Node, d *manifest.Component, env *manifest.Environment) bool) error {
	for {
		p, ok := n.Parent()
		if !ok {
			return nil
		}
		if named := n.Environment(); named != "" {
			d, err := p.Decl(ctx)
			if err != nil {
				return &unresolvedError{p, err}
			}
			env := d.Environment(named)
			if env == nil {
				return fmt.Errorf("`%s` has no environment `#%s`, which its child `%s` names", p.Moniker(), named, n.Moniker())
			}
			if !f(p, d, env) || !env.ExtendsRealm {
				return nil
			}
		} else if err := ctx.Err(); err != nil {
			return err
		}
		n = p
	}
}

// registered continues s, which asks the environment of its component, at the registration. done is true for what the root's
// environment has.
func (w *walk) registered(s step) (next step, done bool, err error) {
	debug := s.kind == manifest.KindProtocol
	var nearest struct {
		owner Node
		d     *manifest.Component
		env   *manifest.Environment
	}
	var names []string // all that are registered, for "did you mean"
	closed := false
	err = environments(w.ctx, s.n, func(owner Node, d *manifest.Component, env *manifest.Environment) bool {
		if nearest.env == nil {
			nearest.owner, nearest.d, nearest.env = owner, d, env
		}
		closed = !env.ExtendsRealm
		regs := env.Runners
		switch {
		case debug:
			regs = env.Debug
		case s.kind == manifest.KindResolver:
			regs = env.Resolvers
		}
		for i := range regs {
			reg := &regs[i]
			if reg.As == s.name {
				w.hop(owner, "environment", s.kind, reg.As, reg.Pos)
				if debug {
					w.debug = registration{owner, env.Name, reg}
				}
				next = step{n: owner, by: byEnvironment, kind: s.kind, src: reg.Source, name: reg.Name, pos: reg.Pos}
				return false
			}
			names = append(names, reg.As)
		}
		return true
	})
	switch {
	case err != nil:
		return s, false, w.asError(s, err)
	case next.n != nil:
		return next, false, nil
	}
	if !closed && w.e.b.InRootEnvironment(s.kind, s.name) {
		if debug {
			return s, false, w.fail(s, capabilities.Denied, "register it in an environment",
				"`%s` tried to use %s `%s` from the root environment",
				s.n.Moniker(), s.kind, s.name)
		}
		w.builtin(s)
		return s, true, nil
	}
	if !closed {
		names = append(names, w.e.list(s.kind, w.e.b.InRootEnvironment)...)
	}
	return s, false, w.fail(s, capabilities.NotFound, w.registrationHint(s, names, nearest.owner, nearest.d, nearest.env),
		"%s `%s` was not registered in environment of `%s`", s.kind, s.name, s.n.Moniker())
}
