package verify

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// Severity says what an answer means to whoever is responsible for the tree.
type Severity uint8

const (
	OK      Severity = iota // it leads somewhere, or it need not
	Warning                 // it should
	Error                   // it must
)

func (s Severity) String() string { return [...]string{"ok", "warning", "error"}[s] }

// A Result is the answer to one question.
type Result struct {
	Target name.Moniker // the instance whose declaration it is about
	// Decl is what was asked: "child" (can the instance be resolved?), "program" (which runner runs it?), "use", "offer", "expose"
	// or "environment" (where does a registration lead?).
	Decl string
	Kind manifest.Kind
	Name string // as the declaration's user sees it; of a child the URL's scheme
	To   string // of an offer: "#net", "self/d"; of a registration its environment: "#env"
	Pos  manifest.Pos
	// Availability is what the declaration says; Required where it has none.
	Availability manifest.Availability

	Severity Severity
	// Route is where it leads; nil if it fails, and for a child that cannot be resolved.
	Route *capabilities.Route
	// Err is why it fails, or, beside a Route, why one part of an aggregated service does.
	Err *capabilities.Error
	// Like is 0, or the number (from 1, of those that are not OK) of an earlier result that fails for the same reason at an
	// instance of the same class.
	Like int
	// Allowed is the reason for which the allowlist lets it pass; "" if it does not.
	Allowed string
}

// A Summary is what Check counts. What the allowlist lets pass is among Allowed only.
type Summary struct{ Routes, Errors, Warnings, Allowed int }

// found is how many results are not OK.
func (s Summary) found() int { return s.Errors + s.Warnings + s.Allowed }

// A question is about one declaration of an instance.
type question struct {
	ask  asked
	i, j int // the use, offer or expose; the environment, and the registration among all that it has
}

type asked uint8

const (
	askChild asked = iota
	askProgram
	askUse
	askOffer
	askExpose
	askEnvironment
)

var askedWords = [...]string{"child", "program", "use", "offer", "expose", "environment"}

// broken is a question that fails at the first instance of a class, and the number of the result.
type broken struct {
	question
	number int
}

// questions are all that can be asked of an instance; d is nil if it does not resolve.
func questions(d *manifest.Component) iter.Seq[question] {
	return func(yield func(question) bool) {
		if !yield(question{ask: askChild}) || d == nil {
			return
		}
		byUse := false // the runner is asked for once
		if d.Program != nil {
			byUse = d.Program.Runner == ""
			if !yield(question{ask: askProgram}) {
				return
			}
		}
		for i := range d.Uses {
			if (!byUse || d.Uses[i].Kind != manifest.KindRunner) && !yield(question{ask: askUse, i: i}) {
				return
			}
		}
		for i := range d.Offers {
			if !yield(question{ask: askOffer, i: i}) {
				return
			}
		}
		for i := range d.Exposes {
			if !yield(question{ask: askExpose, i: i}) {
				return
			}
		}
		for i := range d.Environments {
			e := &d.Environments[i]
			for j := range len(e.Runners) + len(e.Resolvers) + len(e.Debug) {
				if !yield(question{askEnvironment, i, j}) {
					return
				}
			}
		}
	}
}

// ask answers q, which is one of those of n with the declaration d.
func (t *Tree) ask(ctx context.Context, n *node, d *manifest.Component, q question) Result {
	r := Result{Target: n.moniker, Decl: askedWords[q.ask]}
	var err error
	switch q.ask {
	case askChild:
		r.Kind, r.Name = manifest.KindResolver, n.scheme()
		if n.decl != nil {
			r.Pos = n.decl.Pos
		}
		if r.Route, err = t.engine.Resolver(ctx, n, r.Name); err == nil && d == nil {
			err = n.unresolved(ctx, &r)
			r.Route = nil
		}
	case askProgram:
		r.Kind, r.Name, r.Pos = manifest.KindRunner, d.Program.Runner, d.Program.RunnerPos
		if !r.Pos.IsValid() {
			r.Pos = d.Program.Pos
		}
		if r.Route, err = t.engine.Runner(ctx, n); r.Name == "" && r.Route != nil {
			r.Name = r.Route.Hops[0].Name
		}
	case askUse:
		u := &d.Uses[q.i]
		r.Kind, r.Name, r.Pos, r.Availability = u.Kind, u.SourceName, u.Pos, u.Availability
		r.Route, err = t.engine.Use(ctx, n, u)
	case askOffer:
		o := &d.Offers[q.i]
		r.Kind, r.Name, r.Pos, r.Availability, r.To = o.Kind, o.TargetName, o.Pos, o.Availability, o.Target.String()
		r.Route, err = t.engine.Offer(ctx, n, o)
	case askExpose:
		x := &d.Exposes[q.i]
		r.Kind, r.Name, r.Pos, r.Availability = x.Kind, x.TargetName, x.Pos, x.Availability
		r.Route, err = t.engine.Expose(ctx, n, x)
	case askEnvironment:
		e, j := &d.Environments[q.i], q.j
		lists := [...][]manifest.Registration{e.Runners, e.Resolvers, e.Debug}
		l := 0
		for ; j >= len(lists[l]); l++ {
			j -= len(lists[l])
		}
		reg := &lists[l][j]
		r.Kind, r.Name, r.Pos, r.To = reg.Kind, reg.As, reg.Pos, "#"+e.Name
		r.Route, err = t.engine.Registration(ctx, n, reg)
	}
	if !r.Pos.IsValid() {
		at := n // a compiled manifest does not tell its lines
		if q.ask == askChild && n.parent != nil {
			at = n.parent
		}
		if res := at.class.resolved; res != nil {
			r.Pos.File = res.Sources[0]
			if called := res.Decl.Decl().Sources; len(called) > 0 {
				r.Pos.File = called[0]
			}
		}
	}
	switch {
	case errors.As(err, &r.Err):
		r.Severity = [...]Severity{
			manifest.Required: Error, manifest.Optional: Warning, manifest.Transitional: OK,
			// What needs it says so itself.
			manifest.SameAsTarget: Warning,
		}[r.Availability]
	case r.Route != nil:
		if r.Err = lost(r.Route); r.Err != nil && r.Availability != manifest.Transitional {
			r.Severity = Warning
		}
	}
	if r.Name == "" && r.Err != nil {
		r.Name = r.Err.Name
	}
	return r
}

// judge is ask, and of a program that the runner elf runs also whether it will.
func (t *Tree) judge(ctx context.Context, n *node, d *manifest.Component, q question) Result {
	r := t.ask(ctx, n, d, q)
	if q.ask == askChild && r.Severity == OK {
		t.mayReboot(n, &r)
	}
	if q.ask != askProgram || r.Route == nil || r.Route.Source.Kind != capabilities.FromBuiltin || r.Route.Source.Name != "elf" {
		return r
	}
	block := runners.Block{Pos: d.Program.Pos, Info: d.Program.Info}
	found := elf.Check(block)
	err, why := found.Err(), capabilities.Invalid
	if err == nil && t.cfg.Policy != nil {
		err, why = elf.Denied(t.cfg.Policy.Job, n.moniker, block), capabilities.Denied
	}
	if err != nil {
		r.Route, r.Severity = nil, Error
		r.Err = &capabilities.Error{
			Target: n.moniker, Kind: r.Kind, Name: r.Name, At: n.moniker, Reason: fmt.Sprintf("the runner refuses the program of `%s`", n.moniker),
			Pos: r.Pos, Why: why, Err: err,
		}
		if pe, ok := errors.AsType[*elf.PolicyError](err); ok {
			r.Err.Hint = fmt.Sprintf("add %q to security_policy.job_policy.%s of the manager's --config", n.moniker, pe.Policy)
		}
	}
	return r
}

// mayReboot makes r, which says that n can be had, an error if n may not have what its parent gives it.
func (t *Tree) mayReboot(n *node, r *Result) {
	if p := t.cfg.Policy; p == nil || n.decl == nil || n.decl.OnTerminate != manifest.OnTerminateReboot || p.RebootOnTerminate(n.moniker) {
		return
	}
	r.Route, r.Severity = nil, Error
	r.Err = &capabilities.Error{
		Target: n.moniker, Kind: r.Kind, Name: r.Name, At: n.parent.moniker, Pos: r.Pos, Why: capabilities.Denied,
		Reason: fmt.Sprintf("child security policy disallows `on_terminate: \"reboot\"` of `%s`", n.moniker),
		Hint:   fmt.Sprintf("add %q to security_policy.child_policy.reboot_on_terminate of the manager's --config", n.moniker),
	}
}

// unresolved is why n, whose resolver is there, has no declaration.
func (n *node) unresolved(ctx context.Context, r *Result) error {
	_, err := n.resolver(r.Route)
	if err == nil {
		_, err = n.Decl(ctx)
	}
	e := &capabilities.Error{
		Target: n.moniker, Kind: r.Kind, Name: r.Name, At: n.moniker, Reason: fmt.Sprintf("failed to resolve `%s`", n.moniker),
		Pos: r.Pos, Why: capabilities.CodeOf(err), Err: err,
	}
	if re, ok := errors.AsType[*resolver.Error](err); ok && re.Hint != "" {
		// Told once, and as a hint.
		bare := *re
		bare.Hint = ""
		e.Err, e.Hint = &bare, re.Hint
	}
	return e
}

// lost is the first part of an aggregated service that cannot be had, nil if there is none.
func lost(r *capabilities.Route) *capabilities.Error {
	for _, m := range r.Members {
		if e, ok := errors.AsType[*capabilities.Error](m.Err); ok {
			return e
		}
		if m.Route != nil {
			if e := lost(m.Route); e != nil {
				return e
			}
		}
	}
	return nil
}

// Check asks every question of every instance, and tells found, in the order of the tree, what is not OK; with all, everything.
// The allowlist may be nil.
func (t *Tree) Check(ctx context.Context, allow *Allowlist, all bool, found func(Result)) (Summary, error) {
	k := checker{tree: t, allow: allow, all: all, report: found}
	err := k.visit(ctx, t.root)
	return k.Summary, err
}

type checker struct {
	Summary
	tree   *Tree
	allow  *Allowlist
	all    bool
	report func(Result)
	done   int // instances
}

func (k *checker) visit(ctx context.Context, n *node) error {
	c := n.class
	each := k.all || k.tree.cfg.Policy != nil
	if c.checked && c.clean && !each {
		k.Routes += c.routes
		k.done += c.instances
		k.tree.progress(k.done, k.tree.Instances)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	k.done++
	k.tree.progress(k.done, k.tree.Instances)
	d, _ := n.Decl(ctx)
	before := k.Summary
	if !c.checked || each {
		for q := range questions(d) {
			r := k.tree.judge(ctx, n, d, q)
			k.Routes++
			switch {
			case r.Severity == OK:
			case !c.checked:
				c.broken = append(c.broken, broken{q, k.found() + 1})
			default: // one that is not among them is forbidden to this instance alone
				if i := slices.IndexFunc(c.broken, func(b broken) bool { return b.question == q }); i >= 0 {
					r.Like = c.broken[i].number
				}
			}
			k.tell(r)
		}
		c.own = k.Routes - before.Routes
	} else {
		for _, b := range c.broken {
			r := k.tree.judge(ctx, n, d, b.question)
			r.Like = b.number
			k.tell(r)
		}
		k.Routes += c.own
	}
	if d != nil {
		for i := range d.Children {
			if err := k.visit(ctx, n.child(i)); err != nil {
				return err
			}
		}
	}
	if !c.checked {
		c.checked = true
		c.routes = k.Routes - before.Routes
		c.clean = k.found() == before.found()
	}
	return nil
}

func (k *checker) tell(r Result) {
	if r.Severity == OK {
		if k.all {
			k.report(r)
		}
		return
	}
	r.Allowed = k.allow.reason(&r)
	switch {
	case r.Allowed != "":
		k.Allowed++
	case r.Severity == Error:
		k.Errors++
	default:
		k.Warnings++
	}
	if r.Like == k.found() {
		r.Like = 0 // in a second Check the first instance of a class is like itself
	}
	k.report(r)
}
