// Package routing answers route questions over any tree: the running one (runtime/realm) and one read from disk (Offline). It
// walks declarations and does nothing else; it starts no component, and it resolves only those that a route leads through.
//
// A walk goes from the target to the source: from a use to the parent's offers, upward as long as they say "parent", then down
// through the exposes of a child, or aside into a dictionary, until a component declares the capability. Above the root stand the
// Builtins. What a walk comes by decides the rest: names change at each hop, rights must not grow, subdirectories add up,
// availability must not weaken.
//
// Source: the reference of routing (component-runtime.md §4), whose words the errors use.
package routing

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A Node is one instance, as far as routing looks at it. Implementations must be comparable and safe for concurrent use.
type Node interface {
	Moniker() name.Moniker
	// Parent is the instance above; false for the root.
	Parent() (Node, bool)
	// Decl is the instance's declaration; it resolves the instance if that has not been done.
	Decl(ctx context.Context) (*manifest.Component, error)
	// Child is the child of that moniker segment ("net", "jobs:import-7"); it resolves this instance, not the child.
	Child(ctx context.Context, segment string) (Node, bool, error)
	// Dynamic are the live children of a collection, sorted by moniker.
	Dynamic(collection string) []Node
	// Environment is the name of the environment of the parent's declaration that this instance runs in, "" to inherit
	// the parent's.
	Environment() string
	// DynamicOffers are the offers that this instance was created with (dynamic children only); their Target is empty.
	DynamicOffers() []manifest.Offer
}

// An Exposer is a Node that knows what its children expose, for hints.
type Exposer interface {
	// Exposing names those of its static children that expose this to it, as far as their declarations are at hand; it
	// resolves none.
	Exposing(kind manifest.Kind, capability string) []string
}

// Builtins are what stands above the root: the manager's own capabilities.
type Builtins interface {
	// Has says whether the manager offers this to the root.
	Has(kind manifest.Kind, capability string) bool
	// Framework says whether every component has this from "framework".
	Framework(kind manifest.Kind, capability string) bool
	// InRootEnvironment says whether the root's environment has this runner (by name) or resolver (by scheme).
	InRootEnvironment(kind manifest.Kind, nameOrScheme string) bool
}

// A Lister is Builtins that can name what they have, for "did you mean".
type Lister interface {
	// List names all of this kind that any method of Builtins knows, in a slice of the caller's own.
	List(kind manifest.Kind) []string
}

// StorageAdmin is the protocol that a component has from each storage capability that it declares (`from: "#data"`).
const StorageAdmin = "cmgr.component.StorageAdmin"

// DefaultStopTimeout is how long a program may take to stop where no environment says otherwise.
const DefaultStopTimeout = 5 * time.Second

// An Engine answers route questions. It keeps nothing between questions but the indexes of large declarations, so that a route
// is always that of the tree as it is. It is safe for concurrent use.
//
// Every error is a *capabilities.Error. A nil error with a Source of FromVoid says that the capability is absent on purpose.
type Engine struct{ b Builtins }

// New makes an engine for trees below b.
func New(b Builtins) *Engine { return &Engine{b: b} }

// Use answers where u, which n's declaration says, leads. That of the runner of n's program is answered by Runner.
func (e *Engine) Use(ctx context.Context, n Node, u *manifest.Use) (*capabilities.Route, error) {
	if u.Kind == manifest.KindRunner {
		if r, err := e.Runner(ctx, n); r != nil || err != nil {
			return r, err
		}
	}
	w := e.walk(ctx, n, u.Kind, u.SourceName)
	w.r.Availability = u.Availability
	w.r.Subdir = u.Subdir
	w.hop(n, "use", u.Kind, u.SourceName, u.Pos)
	s := step{n: n, by: byUse, kind: u.Kind, src: u.Source, name: u.SourceName, pos: u.Pos}
	if s.src.Kind == 0 && u.Kind == manifest.KindStorage {
		s.src.Kind = manifest.RefParent // the language allows no other
	}
	w.scope(n, u.Scope)
	if err := w.rights(n, u.Rights, u.Pos); err != nil {
		return nil, err
	}
	return w.answerTo(n, s)
}

// Offer answers where o, which n's declaration says, leads.
func (e *Engine) Offer(ctx context.Context, n Node, o *manifest.Offer) (*capabilities.Route, error) {
	w := e.walk(ctx, n, o.Kind, o.TargetName)
	w.r.Availability = manifest.SameAsTarget // whatever the target will ask
	s, err := w.offer(n, o)
	if err != nil {
		return nil, err
	}
	return w.answer(s)
}

// Items are the offers of d that put something into a dictionary of its own, one for each kind and name: of a service that
// several put there the first.
func Items(d *manifest.Component, dictionary string) iter.Seq[*manifest.Offer] {
	return func(yield func(*manifest.Offer) bool) {
		seen := map[capKey]bool{}
		for i := range d.Offers {
			o := &d.Offers[i]
			k := capKey{o.Kind, o.TargetName}
			if o.Target.Kind != manifest.RefSelf || o.Target.Dictionary != dictionary || seen[k] {
				continue
			}
			if seen[k] = true; !yield(o) {
				return
			}
		}
	}
}

// Item answers what user, who has the dictionary of that name which owner declares, gets from it under the name capability.
func (e *Engine) Item(
	ctx context.Context, user, owner Node, dictionary string, kind manifest.Kind, capability string,
) (*capabilities.Route, error) {
	w := e.walk(ctx, user, kind, capability)
	w.r.Availability = manifest.SameAsTarget
	s, done, err := w.put(step{n: owner, by: byUse, kind: kind, name: capability}, owner, dictionary)
	if err != nil {
		return nil, err
	}
	if done {
		s.n = nil
	}
	return w.answerTo(user, s)
}

// Expose answers what the parent, or the framework, gets by x, which n's declaration says.
func (e *Engine) Expose(ctx context.Context, n Node, x *manifest.Expose) (*capabilities.Route, error) {
	w := e.walk(ctx, n, x.Kind, x.TargetName)
	w.r.Availability = manifest.SameAsTarget
	s, err := w.expose(n, x)
	if err != nil {
		return nil, err
	}
	return w.answer(s)
}

// Registration answers where r, which an environment of n's declaration has, leads. Those who are in the environment get it from
// there, if they ask for it.
func (e *Engine) Registration(ctx context.Context, n Node, r *manifest.Registration) (*capabilities.Route, error) {
	w := e.walk(ctx, n, r.Kind, r.As)
	w.hop(n, "environment", r.Kind, r.As, r.Pos)
	route, err := w.answer(step{n: n, by: byEnvironment, kind: r.Kind, src: r.Source, name: r.Name, pos: r.Pos})
	if err != nil || r.Kind != manifest.KindProtocol {
		return route, err
	}
	d, err := n.Decl(ctx)
	if err != nil {
		return nil, w.unresolved(step{n: n}, n, err)
	}
	for i := range d.Environments {
		env := &d.Environments[i]
		for k := range env.Debug {
			if &env.Debug[k] == r {
				if err := w.debugAllowed(registration{n, env.Name, r}); err != nil {
					return nil, err
				}
			}
		}
	}
	return route, nil
}

// Exposed answers what the parent of n, or for the root the operator, gets from n under that name.
func (e *Engine) Exposed(ctx context.Context, n Node, kind manifest.Kind, capability string) (*capabilities.Route, error) {
	w := e.walk(ctx, n, kind, capability)
	w.r.Availability = manifest.SameAsTarget
	p, ok := n.Parent()
	s := step{n: p, by: byUse, kind: kind, src: manifest.Ref{Kind: manifest.RefChild, Name: n.Moniker().Base()}, name: capability}
	if !ok {
		s.n, s.by, s.src = n, byTool, manifest.Ref{Kind: manifest.RefParent}
	}
	s, done, err := w.exposed(s, n)
	if err != nil {
		return nil, err
	}
	if done {
		s.n = nil
	}
	if !ok {
		return w.answer(s) // to an operator, whom no policy means
	}
	return w.answerTo(p, s)
}

// Runner answers which runner runs n's program: the program block's, found through the environments, or the one that n uses. The
// route is nil for a component without a program. A runner that would, over other runners, have to run itself is refused.
func (e *Engine) Runner(ctx context.Context, n Node) (*capabilities.Route, error) {
	w, err := e.runner(ctx, n)
	if err != nil || w == nil {
		return nil, err
	}
	// The provider of the runner is a component, whose own runner may be one, and so on. What is wrong further on is the affair of
	// the component it is wrong for, unless it leads back to one that was met.
	chain := []Node{n}
	for at := w.source; at != nil; {
		if i := slices.Index(chain, at); i >= 0 {
			return nil, w.runnerCycle(chain[i:])
		}
		chain = append(chain, at)
		next, err := e.runner(ctx, at)
		if err != nil || next == nil {
			break
		}
		at = next.source
	}
	return w.r, nil
}

func (e *Engine) runner(ctx context.Context, n Node) (*walk, error) {
	d, err := n.Decl(ctx)
	if err != nil {
		return nil, e.walk(ctx, n, manifest.KindRunner, "").unresolved(step{n: n}, n, err)
	}
	if d.Program == nil {
		return nil, nil
	}
	s := step{
		n: n, by: byUse, kind: manifest.KindRunner, src: manifest.Ref{Kind: manifest.RefEnvironment},
		name: d.Program.Runner, pos: d.Program.RunnerPos,
	}
	decl := "program"
	if !s.pos.IsValid() {
		s.pos = d.Program.Pos
	}
	if s.name == "" {
		for i := range d.Uses {
			if u := &d.Uses[i]; u.Kind == manifest.KindRunner {
				s.src, s.name, s.pos, decl = u.Source, u.SourceName, u.Pos, "use"
			}
		}
	}
	w := e.walk(ctx, n, manifest.KindRunner, s.name)
	if s.name == "" {
		return nil, w.fail(s, capabilities.Invalid, `add "runner" to "program" of `+place(n.Moniker(), d),
			"`%s` has a program but names no runner", n.Moniker())
	}
	w.hop(n, decl, manifest.KindRunner, s.name, s.pos)
	if _, err := w.answerTo(n, s); err != nil {
		return nil, err
	}
	return w, nil
}

// Resolver answers which resolver resolves n's URL, given the URL's scheme. It does not look at n's declaration.
func (e *Engine) Resolver(ctx context.Context, n Node, scheme string) (*capabilities.Route, error) {
	w := e.walk(ctx, n, manifest.KindResolver, scheme)
	return w.answerTo(n, step{
		n: n, by: byUse, kind: manifest.KindResolver, src: manifest.Ref{Kind: manifest.RefEnvironment},
		name: scheme,
	})
}

// StopTimeout is how long n's program may take to stop: what the nearest environment that says so says.
func (e *Engine) StopTimeout(ctx context.Context, n Node) (time.Duration, error) {
	timeout := DefaultStopTimeout
	err := environments(ctx, n, func(_ Node, _ *manifest.Component, env *manifest.Environment) bool {
		if env.StopTimeoutMS != nil {
			timeout = time.Duration(*env.StopTimeoutMS) * time.Millisecond
			return false
		}
		return true
	})
	if err != nil {
		return 0, e.walk(ctx, n, 0, "").asError(step{n: n}, err)
	}
	return timeout, nil
}
