package routing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A walk is one route question while it is answered.
type walk struct {
	e      *Engine
	ctx    context.Context
	target name.Moniker
	kind   manifest.Kind // what was asked for, and under which name
	name   string
	steps  *int // taken, over all branches
	r      *capabilities.Route
	asked  manifest.Rights // the rights that the hops so far rely on
	source Node            // of a source that a component declares
	debug  registration    // by which a debug protocol came
	// inside are the steps that wait for a dictionary to be found or for the members of a service. Such a search may lead to further
	// ones; if it leads back to a step that waits, it would never end.
	inside []step
}

// maxSteps bounds one question: a deep tree takes a thousand steps, a service of 9,000 instances 40,000. Dictionaries out of
// dictionaries and services out of services can be declared so that a question takes 2ⁿ steps for n lines.
const maxSteps = 1 << 16

// A step is a declaration that says where to look next: at n, in src, for name.
type step struct {
	n    Node
	by   clause
	kind manifest.Kind
	src  manifest.Ref
	name string
	pos  manifest.Pos
}

// A clause is the kind of declaration that a step stands for; errors differ in words by it.
type clause uint8

const (
	byUse clause = iota
	byOffer
	byExpose
	byEnvironment
	byStorage // the backing directory of a storage capability
	byTool    // nobody in the tree
)

func (e *Engine) walk(ctx context.Context, n Node, kind manifest.Kind, capability string) *walk {
	r := &capabilities.Route{Kind: kind, Target: n.Moniker(), Hops: make([]capabilities.Hop, 0, 4)}
	return &walk{e: e, ctx: ctx, target: r.Target, kind: kind, name: capability, steps: new(int), r: r}
}

// branch is a walk that goes on from here by itself, with a route of its own that begins here.
func (w *walk) branch() *walk {
	b, r := *w, *w.r
	r.Hops, r.Members, r.Scope, b.inside = nil, nil, slices.Clip(r.Scope), slices.Clip(w.inside)
	b.r = &r
	return &b
}

// failed is the error of a branch as that of the whole walk.
func (w *walk) failed(branch error) error {
	if f, ok := errors.AsType[*capabilities.Error](branch); ok {
		f.Hops = slices.Concat(w.r.Hops, f.Hops)
	}
	return branch
}

func (w *walk) hop(n Node, decl string, kind manifest.Kind, capability string, pos manifest.Pos) {
	w.r.Hops = append(w.r.Hops, capabilities.Hop{At: n.Moniker(), Decl: decl, Kind: kind, Name: capability, Pos: pos})
}

func (w *walk) builtin(s step) {
	w.r.Hops = append(w.r.Hops, capabilities.Hop{Decl: "builtin", Kind: s.kind, Name: s.name})
	w.r.Source = capabilities.Source{Kind: capabilities.FromBuiltin, Name: s.name}
}

// answer walks from s to the end. A step without a node is the end already.
func (w *walk) answer(s step) (*capabilities.Route, error) {
	if s.n != nil {
		if err := w.follow(s); err != nil {
			return nil, err
		}
	}
	if w.r.Availability == manifest.SameAsTarget {
		w.r.Availability = manifest.Required
	}
	return w.r, nil
}

// answerTo is answer to a question of n, which may not have all that there is.
func (w *walk) answerTo(n Node, s step) (*capabilities.Route, error) {
	if _, err := w.answer(s); err != nil {
		return nil, err
	}
	if err := w.allowed(n); err != nil {
		return nil, err
	}
	return w.r, nil
}

// follow walks from s until it has a source. A step that comes a second time would come for ever; Brent's algorithm notices it
// within three turns, and remembers one step only.
func (w *walk) follow(s step) error {
	mark, markAt := s, len(w.r.Hops)
	for n, power := 1, 1; ; n++ {
		if err := w.ctx.Err(); err != nil {
			return w.asError(s, err)
		}
		if *w.steps++; *w.steps > maxSteps {
			return w.fail(s, capabilities.Invalid, "route through fewer dictionaries and aggregated services",
				"the route takes more than %d steps", maxSteps)
		}
		next, done, err := w.next(s)
		if err != nil || done {
			return err
		}
		if next == mark {
			return w.cycle(next, markAt)
		}
		if n == power {
			mark, markAt, power, n = next, len(w.r.Hops), 2*power, 0
		}
		s = next
	}
}

// next takes one step. done says that the walk is over: w.r.Source is set.
func (w *walk) next(s step) (next step, done bool, err error) {
	if s.src.Dictionary != "" {
		return w.item(s)
	}
	switch s.src.Kind {
	case manifest.RefParent:
		return w.parent(s)
	case manifest.RefSelf:
		return w.self(s)
	case manifest.RefChild:
		return w.child(s)
	case manifest.RefCollection:
		return w.collection(s)
	case manifest.RefCapability:
		return w.capability(s)
	case manifest.RefFramework:
		return w.framework(s)
	case manifest.RefDebug, manifest.RefEnvironment:
		return w.registered(s)
	case manifest.RefVoid:
		return w.void(s)
	default:
		return s, false, w.fail(s, capabilities.Invalid, "", "`%s` does not say where `%s` comes from", s.n.Moniker(), s.name)
	}
}

func (w *walk) parent(s step) (step, bool, error) {
	p, ok := s.n.Parent()
	if !ok {
		if !w.e.b.Has(s.kind, s.name) {
			return s, false, w.notBuiltin(s)
		}
		w.builtin(s)
		return s, true, w.limited(s)
	}
	segment := s.n.Moniker().Base()
	key := offerKey{target: manifest.RefChild, kind: s.kind, to: segment, name: s.name}
	if collection, _, dynamic := strings.Cut(segment, ":"); dynamic {
		own := s.n.DynamicOffers()
		for i := range own {
			if own[i].Kind == s.kind && own[i].TargetName == s.name {
				next, err := w.offer(p, &own[i])
				return next, false, err
			}
		}
		key.target, key.to = manifest.RefCollection, collection
	}
	d, err := p.Decl(w.ctx)
	if err != nil {
		return s, false, w.unresolved(s, p, err)
	}
	o, more := offersOf(d, key)
	if o == nil {
		return s, false, w.notOffered(s, p, d, key)
	}
	return w.offers(p, o, more)
}

// offers goes on at o, or at all of them.
func (w *walk) offers(n Node, o *manifest.Offer, more []*manifest.Offer) (step, bool, error) {
	if len(more) == 0 {
		next, err := w.offer(n, o)
		return next, false, err
	}
	at := step{n: n, by: byOffer, kind: o.Kind, src: o.Target, name: o.TargetName, pos: o.Pos}
	if err := w.enter(at); err != nil {
		return at, false, err
	}
	for _, o := range append([]*manifest.Offer{o}, more...) {
		w.member(func(b *walk) (step, error) { return b.offer(n, o) })
	}
	return at, true, w.aggregated(n, o.TargetName)
}

// offer goes on at o, which n says.
func (w *walk) offer(n Node, o *manifest.Offer) (step, error) {
	w.hop(n, "offer", o.Kind, o.TargetName, o.Pos)
	next := step{n: n, by: byOffer, kind: o.Kind, src: o.Source, name: o.SourceName, pos: o.Pos}
	return next, w.pass(n, o.Availability, o.Rights, o.Subdir, o.Scope, next)
}

// expose goes on at x, which n says.
func (w *walk) expose(n Node, x *manifest.Expose) (step, error) {
	w.hop(n, "expose", x.Kind, x.TargetName, x.Pos)
	next := step{n: n, by: byExpose, kind: x.Kind, src: x.Source, name: x.SourceName, pos: x.Pos}
	return next, w.pass(n, x.Availability, x.Rights, x.Subdir, x.Scope, next)
}

// pass takes in what a hop says beside where it leads.
func (w *walk) pass(n Node, a manifest.Availability, r manifest.Rights, subdir string, scope []manifest.Ref, s step) error {
	if hasAvailability(s.kind) {
		if s.src.Kind == manifest.RefVoid && w.r.Availability == manifest.Required {
			return w.voidForRequired(s)
		}
		if err := w.availability(a, s); err != nil {
			return err
		}
	}
	if s.kind != manifest.KindDirectory {
		w.scope(n, scope)
		return nil
	}
	w.r.Subdir = path.Join(subdir, w.r.Subdir)
	return w.rights(n, r, s.pos)
}

func hasAvailability(k manifest.Kind) bool {
	return k != manifest.KindRunner && k != manifest.KindResolver && k != manifest.KindEventStream
}

// availability takes in a hop's. It may ask more of what is above than the target does, and then that holds from there on; it
// must not promise less.
func (w *walk) availability(hop manifest.Availability, s step) error {
	switch have := w.r.Availability; {
	case hop == manifest.SameAsTarget || hop == have:
	case have == manifest.SameAsTarget, hop < have: // Required < Optional < Transitional: stronger
		w.r.Availability = hop
	default:
		return w.fail(s, capabilities.NotFound, fmt.Sprintf(`set "availability" to %q there, or to %q where it is used`, have, hop),
			"availability requested by the target has stronger guarantees than what is being provided at the source at `%s`",
			s.n.Moniker())
	}
	return nil
}

// rights takes in a hop's, 0 if it states none.
func (w *walk) rights(n Node, r manifest.Rights, pos manifest.Pos) error {
	if r == 0 {
		return nil
	}
	if !r.Has(w.asked) {
		return w.fail(step{n: n, pos: pos}, capabilities.Denied, "give the missing rights there, or ask for fewer",
			"requested rights (%s) greater than provided rights (%s) at %q",
			rightsText(w.asked), rightsText(r), n.Moniker())
	}
	if w.asked == 0 {
		w.r.Rights = r
	}
	w.asked = r
	return nil
}

func rightsText(r manifest.Rights) string { return strings.Join(r.Short(), ", ") }

func (w *walk) scope(n Node, refs []manifest.Ref) {
	if len(refs) == 0 {
		return
	}
	s := capabilities.Scope{At: n.Moniker()}
	for _, r := range refs {
		s.Segments = append(s.Segments, r.Name)
	}
	w.r.Scope = append(w.r.Scope, s)
}

func (w *walk) self(s step) (step, bool, error) {
	d, err := s.n.Decl(w.ctx)
	if err != nil {
		return s, false, w.unresolved(s, s.n, err)
	}
	c := capabilityOf(d, s.kind, s.name)
	if c == nil {
		return s, false, w.notDeclared(s, d)
	}
	w.hop(s.n, "capability", s.kind, c.Name, c.Pos)
	w.r.Source = capabilities.Source{Kind: capabilities.FromComponent, At: s.n.Moniker(), Name: c.Name, Capability: c}
	w.source = s.n
	switch s.kind {
	case manifest.KindDirectory:
		if c.Rights == 0 {
			return s, false, w.fail(step{n: s.n, pos: c.Pos}, capabilities.NotFound, "",
				"directory routes must end at source with a rights declaration, it's missing at %q", s.n.Moniker())
		}
		return s, true, w.rights(s.n, c.Rights, c.Pos)
	case manifest.KindStorage:
		return s, true, w.backing(s.n, c)
	}
	return s, true, nil
}

// backing finds the directory that the storage c, declared by n, is kept in.
func (w *walk) backing(n Node, c *manifest.Capability) error {
	b := w.branch()
	b.r.Kind, b.r.Target, b.r.Source = manifest.KindDirectory, n.Moniker(), capabilities.Source{}
	b.r.Subdir, b.r.Rights, b.asked = c.Storage.Subdir, manifest.RightsRW, manifest.RightsRW
	b.source = nil
	err := b.follow(step{
		n: n, by: byStorage, kind: manifest.KindDirectory, src: c.Storage.Source,
		name: c.Storage.BackingDir, pos: c.Pos,
	})
	if err != nil {
		return w.failed(err)
	}
	w.r.Backing = b.r
	return nil
}

func (w *walk) child(s step) (step, bool, error) {
	c, ok, err := s.n.Child(w.ctx, s.src.Name)
	if err != nil {
		return s, false, w.unresolved(s, s.n, err)
	}
	if !ok {
		return s, false, w.noChild(s)
	}
	return w.exposed(s, c)
}

// exposed goes on at what c exposes to s.n.
func (w *walk) exposed(s step, c Node) (step, bool, error) {
	d, err := c.Decl(w.ctx)
	if err != nil {
		return s, false, w.unresolved(s, c, err)
	}
	x, more := exposesOf(d, s.kind, s.name)
	if x == nil {
		return s, false, w.notExposed(s, c, d)
	}
	if len(more) == 0 {
		next, err := w.expose(c, x)
		return next, false, err
	}
	at := step{n: c, by: byExpose, kind: x.Kind, name: x.TargetName, pos: x.Pos}
	if err := w.enter(at); err != nil {
		return s, false, err
	}
	for _, x := range append([]*manifest.Expose{x}, more...) {
		w.member(func(b *walk) (step, error) { return b.expose(c, x) })
	}
	return s, true, w.aggregated(c, x.TargetName)
}

// collection puts together what the instances of a collection expose.
func (w *walk) collection(s step) (step, bool, error) {
	d, err := s.n.Decl(w.ctx)
	if err != nil {
		return s, false, w.unresolved(s, s.n, err)
	}
	if d.Collection(s.src.Name) == nil {
		return s, false, w.fail(s, capabilities.NotFound, "", "`%s` does not have collection `#%s`", s.n.Moniker(), s.src.Name)
	}
	if err := w.enter(s); err != nil {
		return s, false, err
	}
	for _, c := range s.n.Dynamic(s.src.Name) {
		// An instance that exposes no such service is no member, and its manifest is not at fault.
		if d, err := c.Decl(w.ctx); err == nil {
			if x, _ := exposesOf(d, s.kind, s.name); x == nil {
				continue
			}
		}
		w.member(func(b *walk) (step, error) {
			next, done, err := b.exposed(s, c)
			if done {
				next.n = nil
			}
			return next, err
		})
	}
	w.r.Source = capabilities.Source{Kind: capabilities.FromCollection, At: s.n.Moniker(), Name: s.src.Name}
	return s, true, nil
}

// enter says that the walk waits at s from here on.
func (w *walk) enter(s step) error {
	if slices.Contains(w.inside, s) {
		return w.cycle(s, 0)
	}
	w.inside = append(w.inside, s)
	return nil
}

// member adds what a walk that starts with first finds. A first without a node has found it already.
func (w *walk) member(first func(*walk) (step, error)) {
	b := w.branch()
	var m capabilities.Member
	s, err := first(b)
	if err == nil {
		m.Route, err = b.answer(s)
	}
	m.Err = err
	w.r.Members = append(w.r.Members, m)
}

// aggregated ends at n with the members found. If there is none at all, the route fails as its first member does.
func (w *walk) aggregated(n Node, capability string) error {
	for _, m := range w.r.Members {
		if m.Err == nil {
			w.r.Source = capabilities.Source{Kind: capabilities.FromCollection, At: n.Moniker(), Name: capability}
			return nil
		}
	}
	return w.failed(w.r.Members[0].Err)
}

// capability ends at what the manager makes of a storage capability that the component itself declares, or goes on in a
// dictionary of its own.
func (w *walk) capability(s step) (step, bool, error) {
	d, err := s.n.Decl(w.ctx)
	if err != nil {
		return s, false, w.unresolved(s, s.n, err)
	}
	if capabilityOf(d, manifest.KindDictionary, s.src.Name) != nil {
		s.src = manifest.Ref{Kind: manifest.RefSelf, Dictionary: s.src.Name}
		return s, false, nil
	}
	c := capabilityOf(d, manifest.KindStorage, s.src.Name)
	if c == nil {
		s.kind, s.name = manifest.KindStorage, s.src.Name
		return s, false, w.notDeclared(s, d)
	}
	if s.kind != manifest.KindProtocol || s.name != StorageAdmin {
		return s, false, w.notFramework(s, []string{StorageAdmin})
	}
	w.hop(s.n, "capability", manifest.KindStorage, c.Name, c.Pos)
	w.r.Source = capabilities.Source{Kind: capabilities.FromCapability, At: s.n.Moniker(), Name: c.Name, Capability: c}
	return s, true, w.backing(s.n, c)
}

func (w *walk) framework(s step) (step, bool, error) {
	if !w.e.b.Framework(s.kind, s.name) {
		return s, false, w.notFramework(s, nil)
	}
	w.r.Source = capabilities.Source{Kind: capabilities.FromFramework, At: s.n.Moniker(), Name: s.name}
	switch s.kind {
	case manifest.KindDirectory:
		return s, true, w.rights(s.n, manifest.RightsRX, s.pos) // the package: nobody writes to it
	case manifest.KindEventStream:
		w.r.Scope = append(w.r.Scope, capabilities.Scope{At: s.n.Moniker()})
	}
	return s, true, nil
}

func (w *walk) void(s step) (step, bool, error) {
	if w.r.Availability == manifest.Required || !hasAvailability(s.kind) {
		return s, false, w.voidForRequired(s)
	}
	w.r.Source = capabilities.Source{Kind: capabilities.FromVoid, At: s.n.Moniker(), Name: s.name}
	return s, true, nil
}

func (w *walk) voidForRequired(s step) *capabilities.Error {
	what := "offer"
	if s.by == byExpose {
		what = "expose"
	}
	return w.fail(s, capabilities.NotFound, `give it a source there, or set "availability" to "optional" where it is used`,
		"%s uses void source, but target requires the capability at `%s`", what, s.n.Moniker())
}

// item goes on at what was put into the dictionary that s names.
func (w *walk) item(s step) (step, bool, error) {
	if s.kind == manifest.KindStorage || s.kind == manifest.KindEventStream {
		return s, false, w.fail(s, capabilities.Invalid, "",
			"dictionaries are not yet supported for %s capabilities at component `%s`", s.kind, s.n.Moniker())
	}
	waiting := len(w.inside)
	if err := w.enter(s); err != nil {
		return s, false, err
	}

	// "parent/d/e" is the item "e" of the dictionary "d" of the parent.
	search := s
	search.kind = manifest.KindDictionary
	if i := strings.LastIndexByte(s.src.Dictionary, '/'); i >= 0 {
		search.name, search.src.Dictionary = s.src.Dictionary[i+1:], s.src.Dictionary[:i]
	} else {
		search.name, search.src.Dictionary = s.src.Dictionary, ""
	}
	asked := w.r.Availability
	if err := w.follow(search); err != nil {
		return s, false, err
	}
	w.inside = w.inside[:waiting]
	found, owner := w.r.Source, w.source
	if found.Kind == capabilities.FromVoid {
		return s, true, nil
	}
	// The dictionary being there for certain does not make each item so.
	w.r.Source, w.source, w.r.Availability = capabilities.Source{}, nil, asked
	switch {
	case found.Kind != capabilities.FromComponent:
		return s, false, w.fail(s, capabilities.NotFound, "", "item `%s` is not present in dictionary at component `%s`", s.name, found)
	case found.Capability.Path != "" && s.kind != manifest.KindProtocol:
		return s, false, w.fail(s, capabilities.Invalid, "",
			"the dictionary that the program of `%s` provides holds protocols, not %s capabilities", found.At, s.kind)
	case found.Capability.Path != "":
		w.r.Source = capabilities.Source{Kind: capabilities.FromDictionary, At: found.At, Name: s.name, Capability: found.Capability}
		return s, true, nil
	}
	return w.put(s, owner, found.Name)
}

// put goes on at what owner puts into a dictionary of its own.
func (w *walk) put(s step, owner Node, dictionary string) (step, bool, error) {
	d, err := owner.Decl(w.ctx)
	if err != nil {
		return s, false, w.unresolved(s, owner, err)
	}
	o, more := offersOf(d, offerKey{target: manifest.RefSelf, kind: s.kind, to: dictionary, name: s.name})
	if o == nil {
		return s, false, w.noItem(s, owner, d, dictionary)
	}
	return w.offers(owner, o, more)
}

// An unresolvedError says which instance's declaration could not be had.
type unresolvedError struct {
	n   Node
	err error
}

func (e *unresolvedError) Error() string { return e.err.Error() }
func (e *unresolvedError) Unwrap() error { return e.err }

// fail makes the error of a walk that ends at s.
func (w *walk) fail(s step, why capabilities.Code, hint, format string, args ...any) *capabilities.Error {
	return &capabilities.Error{
		Target: w.target, Kind: w.kind, Name: w.name, At: s.n.Moniker(), Reason: fmt.Sprintf(format, args...), Pos: s.pos, Hint: hint,
		Why: why, Hops: w.r.Hops,
	}
}

// unresolved is the error for a walk that needs n's declaration and cannot have it.
func (w *walk) unresolved(s step, n Node, err error) *capabilities.Error {
	return w.asError(s, &unresolvedError{n, err})
}

// asError wraps what something other than the declarations failed with.
func (w *walk) asError(s step, err error) *capabilities.Error {
	var u *unresolvedError
	f := w.fail(s, capabilities.CodeOf(err), "", "could not be routed")
	if errors.As(err, &u) {
		f.At, f.Reason, err = u.n.Moniker(), fmt.Sprintf("failed to resolve `%s`", u.n.Moniker()), u.err
		if errors.Is(err, fs.ErrNotExist) {
			f.Why = capabilities.NotFound
		}
	}
	if w.ctx.Err() != nil {
		f.Why = capabilities.Unavailable
	}
	f.Err = err
	return f
}

// cycle is the error for a walk that came to s a second time; the hops from the given one on are the way round.
func (w *walk) cycle(s step, from int) *capabilities.Error {
	var b strings.Builder
	for _, h := range w.r.Hops[min(from, len(w.r.Hops)):] {
		fmt.Fprintf(&b, "%s %s `%s` -> ", h.At, h.Decl, h.Name)
	}
	return w.fail(s, capabilities.Invalid, "break the cycle by declaring the capability in one of these components",
		"the route is a cycle: %s`%s` at `%s`", b.String(), s.name, s.n.Moniker())
}

func (w *walk) runnerCycle(chain []Node) *capabilities.Error {
	names := make([]string, 0, len(chain)+1)
	for _, n := range append(chain, chain[0]) {
		names = append(names, fmt.Sprintf("`%s`", n.Moniker()))
	}
	h := w.r.Hops[0]
	f := w.fail(step{n: chain[0], pos: h.Pos}, capabilities.Invalid, "give one of them a runner that none of the others provides",
		"the runner is a cycle: %s", strings.Join(names, " is run by "))
	f.At = h.At
	return f
}
