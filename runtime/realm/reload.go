package realm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/supervision"
)

// ChangeKind is what a reload does to an instance.
type ChangeKind uint8

const (
	ChangeUpdated   ChangeKind = iota + 1 // it has a new manifest; what runs of it goes on
	ChangeAdded                           // it is new, and started if it is eager and its parent runs
	ChangeRemoved                         // its parent does not have it any more: it is shut down and destroyed
	ChangeRestarted                       // its program is stopped and started
	ChangeStarted                         // it is eager and failed before: it is started again
	ChangeReplaced                        // its parent says something else of it: all of it is destroyed, made anew, and started as it ran
)

var changeKinds = [...]string{"", "updated", "added", "removed", "restarted", "started", "replaced"}

func (k ChangeKind) String() string { return changeKinds[k] }

// A Change is what a reload does to one instance, and why.
type Change struct {
	Moniker name.Moniker
	Kind    ChangeKind
	Why     string
	Pos     manifest.Pos // of what is new; unknown for what was removed
}

// Reload reads the manifests of m, and of what is below it and has been resolved, again. Instances whose own declaration or
// routes have changed, these anywhere in the tree, are restarted, those that have come or gone are added or removed, and all
// others run on. It says what it changes, from the top down. A manifest that has become invalid is reported before anything is
// changed; what can't be started afterwards is an error beside the changes. With dry it only says what it would do.
func (r *Realm) Reload(ctx context.Context, m name.Moniker, dry bool) ([]Change, error) {
	i, err := r.reach(ctx, m)
	if err != nil {
		return nil, err
	}
	if dry {
		s, err := r.plan(ctx, i)
		if err != nil {
			return nil, err
		}
		return s.changes(nil), nil
	}
	select {
	case r.reloading <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	type result struct {
		changes []Change
		err     error
	}
	done := make(chan result, 1)
	r.spawn(func() { // it goes on when the caller gives up: half a reload would be worse
		defer func() { <-r.reloading }()
		c, err := r.reload(r.ctx, i)
		if len(c) > 0 {
			r.expose(r.ctx)
		}
		done <- result{c, err}
	})
	select {
	case d := <-done:
		return d.changes, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *Realm) reload(ctx context.Context, i *instance) ([]Change, error) {
	s, err := r.plan(ctx, i)
	if err != nil {
		return nil, err
	}
	defer r.refreshAll() // what a program was not given, because it was not there, may be by now
	i.mu.Lock()
	_, isShutdown := i.state.(shutdown)
	i.mu.Unlock()
	if isShutdown {
		if err := i.unresolve(ctx); err != nil {
			return nil, err
		}
	}
	if isShutdown || s.old == nil {
		if _, err := i.resolve(ctx); err != nil {
			return nil, err
		}
	}
	if isShutdown {
		return nil, nil
	}
	changes := s.changes(nil)
	if !s.touched {
		return changes, s.adopt()
	}
	if err := s.down(ctx); err != nil {
		return changes, err
	}
	if err := s.adopt(); err != nil {
		return changes, err
	}
	return changes, s.up(ctx)
}

// A step is an instance as it will be after a reload. A tree of steps is a tree to route in, so that what a reload changes can be
// known before it is done. A plan is made on one goroutine.
type step struct {
	realm   *Realm
	within  name.Moniker // which manifests are read again: of this instance, and below
	parent  *step        // nil where the plan begins
	moniker name.Moniker
	decl    childDecl
	i       *instance // as it is; nil for one to be added

	reading bool
	got     *resolver.Resolved // the manifest as it is now; nil if it was not read yet
	err     error              // it could not be read

	old     *resolution // what i runs by; nil if it was never resolved
	kids    map[string]*step
	gone    []*step // children that the new manifest doesn't have
	change  Change
	runs    bool           // its program runs, or should
	ran     []name.Moniker // of what is replaced: what ran in it, from the top down
	touched bool           // something here or below is to be stopped, started, added or removed
}

var _ routing.Node = (*step)(nil)

// plan reads the manifests from i down again and says what has changed, elsewhere too where routes lead through what has.
func (r *Realm) plan(ctx context.Context, i *instance) (*step, error) {
	s, err := r.planFrom(ctx, i, i.moniker)
	if err != nil || i == r.root || s.old == nil || len(s.changes(nil)) == 0 {
		return s, err
	}
	return r.planFrom(ctx, r.root, i.moniker)
}

// planFrom is a plan that begins at i, where the manifests that are read again are those from within down.
func (r *Realm) planFrom(ctx context.Context, i *instance, within name.Moniker) (*step, error) {
	s := &step{realm: r, within: within, moniker: i.moniker, decl: i.decl, i: i}
	if _, err := s.read(ctx); err != nil {
		return nil, &Error{Op: "reload", At: i.moniker, Why: capabilities.CodeOf(err), Err: err, Hint: "nothing was changed"}
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	s.judge(ctx)
	return s, nil
}

// read reads the manifest, once.
func (s *step) read(ctx context.Context) (*resolver.Resolved, error) {
	if s.got != nil || s.err != nil {
		return s.got, s.err
	}
	if s.reading {
		return nil, &Error{Op: "resolve", At: s.moniker, Why: capabilities.Invalid, Err: errors.New("its resolver comes from itself")}
	}
	if !s.within.Contains(s.moniker) && s.i != nil {
		s.i.mu.Lock()
		res := s.i.resolutionLocked()
		s.i.mu.Unlock()
		if res != nil {
			s.got = res.Resolved
			return s.got, nil
		}
	}
	s.reading = true
	defer func() { s.reading = false }()
	var parent *resolver.Resolved
	switch {
	case s.parent != nil:
		if parent, s.err = s.parent.read(ctx); s.err != nil {
			return nil, s.err
		}
	case s.i.parent != nil:
		res, err := s.i.parent.resolve(ctx)
		if err != nil {
			s.err = err
			return nil, err
		}
		parent = res.Resolved
	}
	s.got, s.err = s.realm.fetch(ctx, s, s.decl.url, parent)
	return s.got, s.err
}

// look finds what has come and gone at s and below it.
func (s *step) look(ctx context.Context) error {
	s.i.mu.Lock()
	s.old = s.i.resolutionLocked()
	_, isStarted := s.i.state.(started)
	s.runs = isStarted || s.i.acts[starting] != nil || s.i.restart != nil
	failed := s.i.past != nil && (s.i.past.lastError != nil || s.i.past.gaveUp)
	old := maps.Clone(s.i.children)
	s.i.mu.Unlock()
	if failed && !s.runs && s.eager() {
		if _, err := s.read(ctx); err != nil {
			return nil // as before
		}
		if s.within.Contains(s.moniker) {
			s.change.Kind, s.change.Why = ChangeStarted, "it failed before"
		}
	}
	if s.old == nil {
		return nil
	}
	got, err := s.read(ctx)
	if err != nil {
		return &Error{Op: "reload", At: s.moniker, Why: capabilities.CodeOf(err), Err: err, Hint: "nothing was changed"}
	}
	d := got.Decl.Decl()
	s.kids = make(map[string]*step, len(old))
	add := func(seg string, decl childDecl) *step {
		k := &step{realm: s.realm, within: s.within, parent: s, moniker: s.moniker.Child(seg), decl: decl, i: old[seg]}
		s.kids[seg] = k
		return k
	}
	for n := range d.Children {
		c := &d.Children[n]
		k := add(c.Name, staticChild(c))
		k.change.Pos = c.Pos
		switch o := k.i; {
		case o == nil:
			k.change.Kind = ChangeAdded
		case !o.decl.same(k.decl):
			k.change.Kind, k.change.Why = ChangeReplaced, "what its parent says of it changed"
			if _, err := k.read(ctx); err != nil && o.isResolved() {
				return &Error{Op: "reload", At: k.moniker, Why: capabilities.CodeOf(err), Err: err, Hint: "nothing was changed"}
			}
			k.ran = o.allRunning()
		default:
			if err := k.look(ctx); err != nil {
				return err
			}
		}
		delete(old, c.Name)
	}
	for seg, o := range old {
		was := o.decl.collection
		if was != nil {
			if now := d.Collection(was.Name); now != nil && same(reflect.ValueOf(*was), reflect.ValueOf(*now)) {
				if k := add(seg, o.decl); was.Durability != manifest.SingleRun { // a single run ends as it began
					if err := k.look(ctx); err != nil {
						return err
					}
				}
				continue
			}
		}
		k := &step{realm: s.realm, within: s.within, parent: s, moniker: o.moniker, decl: o.decl, i: o}
		k.change.Kind, k.change.Why = ChangeRemoved, "its parent does not have it any more"
		if was != nil {
			k.change.Why = fmt.Sprintf("collection %s changed", was.Name)
		}
		s.gone = append(s.gone, k)
	}
	slices.SortFunc(s.gone, func(a, b *step) int { return strings.Compare(string(a.moniker), string(b.moniker)) })
	return nil
}

// eager says whether s is started without being asked for.
func (s *step) eager() bool {
	switch {
	case s.i != nil && s.i.isDisabled():
		return false
	case s.parent != nil:
		return s.decl.startup == manifest.Eager && s.parent.runs
	case s.i.parent == nil:
		return true
	default:
		s.i.parent.mu.Lock()
		defer s.i.parent.mu.Unlock()
		_, runs := s.i.parent.state.(started)
		return runs && s.decl.startup == manifest.Eager
	}
}

// judge says of each instance that stays whether it must be restarted, and of all whether there is something to do.
func (s *step) judge(ctx context.Context) {
	if s.change.Kind == 0 && s.old != nil && s.got != nil {
		was, now := s.old.Decl.Decl(), s.got.Decl.Decl()
		why, pos := differs(was, now)
		if why == "" && !reflect.DeepEqual(s.old.Values, s.got.Values) {
			why = "the values of its configuration changed"
		}
		if why == "" && s.old.Package.Dir != s.got.Package.Dir {
			why = "its package changed"
		}
		if why == "" && s.runs {
			why, pos = s.reroutes(ctx, was, now)
		}
		switch {
		case why != "" && s.runs && (was.Program != nil || now.Program != nil):
			s.change.Kind, s.change.Why, s.change.Pos = ChangeRestarted, why, pos
		case why != "" || !same(reflect.ValueOf(*was), reflect.ValueOf(*now)):
			s.change.Kind, s.change.Why, s.change.Pos = ChangeUpdated, why, pos
		}
	}
	s.change.Moniker = s.moniker
	s.touched = s.change.Kind > ChangeUpdated || len(s.gone) > 0
	for _, k := range s.gone {
		k.change.Moniker = k.moniker
	}
	for _, k := range s.kids {
		k.judge(ctx)
		s.touched = s.touched || k.touched
	}
}

// differs says what of a declaration that a running program has taken in is not as it was, and where; "" for nothing.
func differs(was, now *manifest.Component) (why string, pos manifest.Pos) {
	if now.Program != nil {
		pos = now.Program.Pos
	}
	for _, part := range []struct {
		why      string
		was, now any
	}{
		{"its program changed", was.Program, now.Program},
		{"its configuration changed", was.Config, now.Config},
		{"what it uses changed", was.Uses, now.Uses},
		{"what it provides changed", was.Capabilities, now.Capabilities},
	} {
		if !same(reflect.ValueOf(part.was), reflect.ValueOf(part.now)) {
			return part.why, pos
		}
	}
	return "", manifest.Pos{}
}

// reroutes says which of s's routes, whose uses are as they were, lead elsewhere than they did; "" for none.
func (s *step) reroutes(ctx context.Context, was, now *manifest.Component) (string, manifest.Pos) {
	e := s.realm.engine
	a, aErr := e.Runner(ctx, s.i)
	b, bErr := e.Runner(ctx, s)
	if !sameRoute(a, aErr, b, bErr) {
		return "its runner comes from elsewhere", now.Program.Pos
	}
	for k := range now.Uses {
		a, aErr := e.Use(ctx, s.i, &was.Uses[k])
		b, bErr := e.Use(ctx, s, &now.Uses[k])
		if !sameRoute(a, aErr, b, bErr) || a != nil && a.Kind == manifest.KindDictionary &&
			!same(reflect.ValueOf(contents(ctx, e, s.i, a, 0)), reflect.ValueOf(contents(ctx, e, s, b, 0))) {
			u := &now.Uses[k]
			return fmt.Sprintf("the route of %s %s changed", u.Kind, u.SourceName), u.Pos
		}
	}
	return "", manifest.Pos{}
}

// An item is what a dictionary holds under one name.
type item struct {
	kind  manifest.Kind
	name  string
	route *capabilities.Route // nil if it leads nowhere
}

// contents are the items of the dictionary that user has by route, and of those in it, in the order of the offers.
func contents(ctx context.Context, e *routing.Engine, user routing.Node, route *capabilities.Route, depth int) []item {
	n, src := user, route.Source
	if src.Kind != capabilities.FromComponent {
		return nil
	}
	for !n.Moniker().Contains(src.At) {
		p, ok := n.Parent()
		if !ok {
			return nil
		}
		n = p
	}
	for _, seg := range src.At.Segments()[len(n.Moniker().Segments()):] {
		c, ok, err := n.Child(ctx, seg)
		if !ok || err != nil {
			return nil
		}
		n = c
	}
	d, err := n.Decl(ctx)
	if err != nil {
		return nil
	}
	var out []item
	for o := range routing.Items(d, src.Name) {
		r, _ := e.Item(ctx, user, n, src.Name, o.Kind, o.TargetName)
		out = append(out, item{o.Kind, o.TargetName, r})
		if r != nil && r.Kind == manifest.KindDictionary && depth < maxNesting {
			out = append(out, contents(ctx, e, user, r, depth+1)...)
		}
	}
	return out
}

// maxNesting bounds how deep dictionaries in dictionaries are looked into for changes: there may be one in itself.
const maxNesting = 8

func sameRoute(a *capabilities.Route, aErr error, b *capabilities.Route, bErr error) bool {
	return (aErr == nil) == (bErr == nil) && same(reflect.ValueOf(a), reflect.ValueOf(b))
}

// changes adds what a plan does to out, from the top down.
func (s *step) changes(out []Change) []Change {
	if s.change.Kind != 0 {
		out = append(out, s.change)
	}
	for _, k := range s.gone {
		out = append(out, k.change)
	}
	for _, seg := range slices.Sorted(maps.Keys(s.kids)) {
		out = s.kids[seg].changes(out)
	}
	return out
}

// down ends what is to end, in the order of a shutdown.
func (s *step) down(ctx context.Context) error {
	byInstance := map[*instance]*step{}
	for _, k := range s.kids {
		byInstance[k.i] = k
	}
	for _, k := range s.gone {
		byInstance[k.i] = k
	}
	g, kids := s.i.dependencies()
	if g == nil {
		return nil
	}
	return s.i.inOrder(g, func(v routing.Vertex) error {
		if v == routing.Self {
			if s.change.Kind == ChangeRestarted {
				return s.i.stop(ctx, "reload")
			}
			return nil
		}
		switch k := byInstance[kids[v]]; {
		case k == nil || kids[v] == nil:
			return nil // it has come since
		case k.change.Kind == ChangeRemoved || k.change.Kind == ChangeReplaced:
			return k.i.destroy(ctx)
		case k.touched:
			return k.down(ctx)
		default:
			return nil
		}
	})
}

// adopt gives the instances their new manifests and children.
func (s *step) adopt() error {
	i := s.i
	i.mu.Lock()
	if err := i.finalLocked(); err != nil {
		i.mu.Unlock()
		return i.precondition("reload", "%w", err)
	}
	if s.got != nil && s.old != nil {
		res := &resolution{s.got}
		switch st := i.state.(type) {
		case resolved:
			i.state = resolved{res}
		case started:
			i.state = started{res, st.run}
		case stopping:
			i.state = stopping{res, st.run}
		}
		if s.change.Kind != 0 {
			if p := i.past; p != nil {
				p.gaveUp, p.history = false, supervision.History{}
			}
			if s.got != s.old.Resolved {
				i.emitLocked(Event{Kind: EventResolved, Text: "reload"})
			}
		}
		for seg, k := range s.kids {
			if k.change.Kind != ChangeAdded && k.change.Kind != ChangeReplaced || i.children[seg] != nil {
				continue
			}
			if i.children == nil {
				i.children = map[string]*instance{}
			}
			k.i = newInstance(i.realm, i, seg, k.decl)
			i.realm.count(1) // where that is too many the next manifest is refused
			i.children[seg] = k.i
			k.i.emitLocked(Event{Kind: EventDiscovered})
		}
	}
	i.mu.Unlock()
	for _, k := range s.kids {
		if k.change.Kind == ChangeAdded || k.change.Kind == ChangeReplaced || k.i == nil {
			continue
		}
		if err := k.adopt(); err != nil {
			if _, there := i.realm.Instance(k.moniker); there {
				return err
			}
		}
	}
	return nil
}

// up starts what is to run: a parent before its children, those at the same time.
func (s *step) up(ctx context.Context) error {
	var err error
	switch k := s.change.Kind; {
	case k == ChangeRestarted, k == ChangeStarted,
		k == ChangeAdded && s.eager():
		err = s.i.start(ctx, "reload")
	case k == ChangeReplaced:
		if len(s.ran) == 0 && s.eager() {
			s.ran = []name.Moniker{s.moniker}
		}
		var errs []error
		for _, m := range s.ran {
			err := s.realm.Start(ctx, m, "reload")
			if e := (*Error)(nil); errors.As(err, &e) && e.Op == "find" {
				continue // it is not there any more
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs = []error{err}
	)
	for _, k := range s.kids {
		if k.touched {
			wg.Go(func() {
				err := k.up(ctx)
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			})
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// The methods of a routing.Node.

// Moniker says where s stands.
func (s *step) Moniker() name.Moniker { return s.moniker }

// Parent is the instance above.
func (s *step) Parent() (routing.Node, bool) {
	if s.parent != nil {
		return s.parent, true
	}
	return s.i.Parent()
}

// Decl is the declaration as it is now.
func (s *step) Decl(ctx context.Context) (*manifest.Component, error) {
	got, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	return got.Decl.Decl(), nil
}

// Child is the child of that segment.
func (s *step) Child(ctx context.Context, segment string) (routing.Node, bool, error) {
	d, err := s.Decl(ctx)
	if err != nil {
		return nil, false, err
	}
	if k := s.kids[segment]; k != nil {
		return k, true, nil
	}
	c := d.Child(segment) // of what was not resolved so far
	if c == nil {
		return nil, false, nil
	}
	return &step{realm: s.realm, within: s.within, parent: s, moniker: s.moniker.Child(segment), decl: staticChild(c)}, true, nil
}

// Dynamic are the children of a collection that stay, sorted by moniker.
func (s *step) Dynamic(collection string) []routing.Node {
	var out []routing.Node
	for _, seg := range slices.Sorted(maps.Keys(s.kids)) {
		if strings.HasPrefix(seg, collection+":") {
			out = append(out, s.kids[seg])
		}
	}
	return out
}

// Environment is the name of the parent's environment that s runs in.
func (s *step) Environment() string { return s.decl.environment }

// DynamicOffers are the offers made when it was created.
func (s *step) DynamicOffers() []manifest.Offer { return s.decl.offers }

func (i *instance) isDisabled() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.disabled
}

// isResolved says whether i's manifest has been read.
func (i *instance) isResolved() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.resolutionLocked() != nil
}

// allRunning are the instances from i down, through static children, that run, from the top down.
func (i *instance) allRunning() []name.Moniker {
	i.mu.Lock()
	_, runs := i.state.(started)
	runs = runs || i.acts[starting] != nil || i.restart != nil
	kids := i.childrenLocked()
	i.mu.Unlock()
	var out []name.Moniker
	if runs {
		out = append(out, i.moniker)
	}
	slices.SortFunc(kids, func(a, b *instance) int { return strings.Compare(string(a.moniker), string(b.moniker)) })
	for _, c := range kids {
		if c.decl.collection == nil {
			out = append(out, c.allRunning()...)
		}
	}
	return out
}

// same says whether what parents say of children is the same, wherever it is written.
func (d childDecl) same(o childDecl) bool {
	return d.url == o.url && d.startup == o.startup && d.onTerminate == o.onTerminate && d.environment == o.environment &&
		same(reflect.ValueOf(d.policy), reflect.ValueOf(o.policy))
}

var unsaid = map[reflect.Type]bool{
	reflect.TypeFor[manifest.Pos]():       true,
	reflect.TypeFor[[]capabilities.Hop](): true, // the way may differ
}

// same says whether two declarations, or parts of them, or routes, say the same, wherever they are written.
func same(a, b reflect.Value) bool {
	switch {
	case !a.IsValid() || !b.IsValid():
		return a.IsValid() == b.IsValid()
	case a.Type() != b.Type():
		return false
	case a.Type() == reflect.TypeFor[error]():
		return a.IsNil() == b.IsNil()
	case unsaid[a.Type()]:
		return true
	}
	switch a.Kind() {
	case reflect.Struct:
		for f := range a.NumField() {
			if !same(a.Field(f), b.Field(f)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for k := range a.Len() {
			if !same(a.Index(k), b.Index(k)) {
				return false
			}
		}
		return true
	case reflect.Pointer, reflect.Interface:
		return a.IsNil() == b.IsNil() && (a.IsNil() || same(a.Elem(), b.Elem()))
	default:
		return a.Equal(b)
	}
}
