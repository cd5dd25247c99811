package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// ends asks of every instance what its program, and whoever resolves and runs it, get in the end, without the offers and exposes
// in between; of the root also what it exposes.
func (t *Tree) ends(ctx context.Context, found func(n *node, r Result)) error {
	done := 0
	var visit func(n *node) error
	visit = func(n *node) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		done++
		t.progress(done, t.Instances)
		d, _ := n.Decl(ctx)
		for q := range questions(d) {
			if q.ask < askOffer || q.ask == askExpose && n == t.root {
				found(n, t.ask(ctx, n, d, q))
			}
		}
		if d == nil {
			return nil
		}
		for i := range d.Children {
			if err := visit(n.child(i)); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(t.root)
}

// A Wanted is a capability as its source has it.
type Wanted struct {
	Kind manifest.Kind // 0: any
	Name string
	At   name.Moniker // of the component that is the source; "": any
}

// ParseWanted reads [KIND:]NAME[@MONIKER].
func ParseWanted(s string) (Wanted, error) {
	rest, at, hasAt := strings.Cut(s, "@")
	w := Wanted{Name: rest}
	if kind, n, ok := strings.Cut(rest, ":"); ok {
		i := slices.IndexFunc(manifest.Kinds(), func(k manifest.Kind) bool { return k.String() == kind })
		if i < 0 {
			var words []string
			for _, k := range manifest.Kinds() {
				words = append(words, k.String())
			}
			return w, fmt.Errorf("%q is no kind of capability: there are %s", kind, strings.Join(words, ", "))
		}
		w.Kind, w.Name = manifest.Kinds()[i], n
	}
	if err := name.Check(w.Name); err != nil {
		return w, err
	}
	var err error
	if hasAt {
		w.At, err = name.ParseMoniker(at)
	}
	return w, err
}

// String is the form that ParseWanted reads.
func (w Wanted) String() string {
	s := w.Name
	if w.Kind != 0 {
		s = w.Kind.String() + ":" + s
	}
	if w.At != "" {
		s += "@" + string(w.At)
	}
	return s
}

func (w Wanted) is(k manifest.Kind, s capabilities.Source) bool {
	return s.Name == w.Name && (w.Kind == 0 || w.Kind == k) && (w.At == "" || w.At == s.At) && s.Kind != capabilities.FromVoid
}

// A Reach is one way by which a component gets a capability.
type Reach struct {
	By     Result        // what it asks for
	Kind   manifest.Kind // of what is reached: a use of storage reaches a directory
	Source capabilities.Source
	Hops   []capabilities.Hop // from the target's declaration to the source's
}

// WhoCanReach finds every component that the wanted capability reaches: by a use of its own, as its runner or its resolver; as
// part of an aggregated service; as the directory behind storage; in a dictionary. The root's exposes are among them: they
// reach the operator. If nobody gets it, near is the nearest name of a capability that there is, "" if w itself is one.
func (t *Tree) WhoCanReach(ctx context.Context, w Wanted) (reached []Reach, near string, err error) {
	names := map[string]bool{}
	err = t.ends(ctx, func(n *node, by Result) {
		if by.Route == nil {
			return
		}
		f := finder{tree: t, user: n, names: names}
		f.found = func(k manifest.Kind, s capabilities.Source, hops []capabilities.Hop) {
			if w.is(k, s) {
				reached = append(reached, Reach{By: by, Kind: k, Source: s, Hops: slices.Clone(hops)})
			}
		}
		f.route(ctx, by.Route, nil)
	})
	if err == nil && len(reached) == 0 {
		near, err = t.nearest(ctx, w, names)
	}
	return reached, near, err
}

// nearest is the nearest of the names that are routed or declared, "" if one is w's.
func (t *Tree) nearest(ctx context.Context, w Wanted, names map[string]bool) (string, error) {
	seen := map[*manifest.Component]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		d, err := n.Decl(ctx)
		if err != nil || seen[d] {
			return
		}
		seen[d] = true
		for i := range d.Capabilities {
			names[d.Capabilities[i].Name] = true
		}
		for i := range d.Children {
			visit(n.child(i))
		}
	}
	visit(t.root)
	if names[w.Name] {
		return "", ctx.Err()
	}
	all := make([]string, 0, len(names))
	for n := range names {
		all = append(all, n)
	}
	slices.Sort(all)
	return cmp.Or(name.Nearest(w.Name, all), w.Name), ctx.Err()
}

// A finder finds all sources that a route leads to.
type finder struct {
	tree   *Tree
	user   *node
	names  map[string]bool
	found  func(manifest.Kind, capabilities.Source, []capabilities.Hop)
	inside []*manifest.Capability // the dictionaries that are being looked into
}

func (f *finder) tell(k manifest.Kind, s capabilities.Source, hops []capabilities.Hop) {
	f.names[s.Name] = true
	f.found(k, s, hops)
}

func (f *finder) route(ctx context.Context, r *capabilities.Route, before []capabilities.Hop) {
	hops := slices.Concat(before, r.Hops)
	if r.Source.Kind == capabilities.FromCapability {
		// Who has its protocol has the storage.
		admin := r.Source
		admin.Name = routing.StorageAdmin
		f.tell(r.Kind, admin, hops)
		f.tell(manifest.KindStorage, r.Source, hops)
	} else {
		f.tell(r.Kind, r.Source, hops)
	}
	for _, m := range r.Members {
		if m.Route != nil {
			f.route(ctx, m.Route, hops)
		}
	}
	if r.Backing != nil {
		f.route(ctx, r.Backing, hops)
	}
	// Who has a dictionary has what is in it.
	dict := r.Source.Capability
	if r.Kind != manifest.KindDictionary || dict == nil || slices.Contains(f.inside, dict) {
		return
	}
	n := f.tree.at(ctx, r.Source.At)
	if n == nil {
		return
	}
	f.inside = append(f.inside, dict)
	d, _ := n.Decl(ctx)
	for o := range routing.Items(d, dict.Name) {
		if r, err := f.tree.engine.Item(ctx, f.user, n, dict.Name, o.Kind, o.TargetName); err == nil {
			f.route(ctx, r, hops)
		}
	}
	f.inside = f.inside[:len(f.inside)-1]
}

// at is the resolved instance m, or nil.
func (t *Tree) at(ctx context.Context, m name.Moniker) *node {
	n := t.root
	for _, segment := range m.Segments() {
		if _, ok, err := n.Child(ctx, segment); err != nil || !ok {
			return nil
		}
		n = n.child(n.class.index[segment])
	}
	if _, err := n.Decl(ctx); err != nil {
		return nil
	}
	return n
}

// A Change is a route that two trees don't have alike: one of those that end at a program, a runner, a resolver, or at the root's
// expose. Before or After is nil where it is not asked for.
type Change struct{ Before, After *Result }

// Word is "added", "removed" or "changed".
func (c Change) Word() string {
	switch {
	case c.Before == nil:
		return "added"
	case c.After == nil:
		return "removed"
	default:
		return "changed"
	}
}

// Diff says which routes differ from before to after: added, removed, from another source, with other rights, over other
// declarations. Where lines moved, nothing differs. The changes are in the order of monikers.
func Diff(ctx context.Context, before, after *Tree) ([]Change, error) {
	type key struct {
		target name.Moniker
		decl   string
		kind   manifest.Kind
		name   string
		number int // a component may use one capability twice
	}
	collect := func(t *Tree, f func(key, Result)) error {
		count := map[key]int{}
		var of name.Moniker
		return t.ends(ctx, func(n *node, r Result) {
			if of != n.moniker {
				clear(count)
				of = n.moniker
			}
			k := key{r.Target, r.Decl, r.Kind, r.Name, 0}
			k.number = count[k]
			count[key{r.Target, r.Decl, r.Kind, r.Name, 0}]++
			f(k, r)
		})
	}
	// Only the text of each is kept, as nearly all are equal.
	old := map[key]string{}
	if err := collect(before, func(k key, r Result) { old[k] = r.way() }); err != nil {
		return nil, err
	}
	differ := map[key]*Change{}
	err := collect(after, func(k key, r Result) {
		if way, ok := old[k]; !ok || way != r.way() {
			differ[k] = &Change{After: &r}
		}
		delete(old, k)
	})
	if err != nil {
		return nil, err
	}
	err = collect(before, func(k key, r Result) {
		if c := differ[k]; c != nil {
			c.Before = &r
		} else if _, gone := old[k]; gone {
			differ[k] = &Change{Before: &r}
		}
	})
	keys := make([]key, 0, len(differ))
	for k := range differ {
		keys = append(keys, k)
	}
	words := [...]string{"child", "program", "use", "expose"}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(slices.Compare(a.target.Segments(), b.target.Segments()),
			cmp.Compare(slices.Index(words[:], a.decl), slices.Index(words[:], b.decl)),
			cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name), cmp.Compare(a.number, b.number))
	})
	out := make([]Change, len(keys))
	for i, k := range keys {
		out[i] = *differ[k]
	}
	return out, err
}

// way is all of a result that makes a difference.
func (r *Result) way() string {
	var b strings.Builder
	if r.Route == nil && r.Err != nil {
		// Not the cause, which may name files of this tree.
		b.WriteString(r.Err.Why.String() + " " + r.Err.Reason)
	} else {
		b.WriteString(r.Ending())
	}
	hops := func(hs []capabilities.Hop) {
		for _, h := range hs {
			fmt.Fprintf(&b, "\n%s %s %s %s", h.At, h.Decl, h.Kind, h.Name)
		}
	}
	var walk func(*capabilities.Route)
	walk = func(x *capabilities.Route) {
		hops(x.Hops)
		fmt.Fprintf(&b, "\n%s", x.Source.Name)
		for _, m := range x.Members {
			if m.Route != nil {
				fmt.Fprintf(&b, "\n%s", m.Route.Source)
				walk(m.Route)
			}
		}
		if x.Backing != nil {
			walk(x.Backing)
		}
	}
	if r.Route != nil {
		walk(r.Route)
	}
	if r.Err != nil {
		hops(r.Err.Hops)
	}
	return b.String()
}

// Ending is where a result's route ends, on one line: "log of /core/log", with what else it came to, or why it fails.
func (r *Result) Ending() string {
	if r.Route == nil {
		return Cause(r.Err)
	}
	x := r.Route
	s := x.Source.String()
	switch x.Source.Kind {
	case capabilities.FromVoid:
	case capabilities.FromCollection:
		parts := make([]string, 0, len(x.Members))
		for _, m := range x.Members {
			if m.Route != nil {
				parts = append(parts, m.Route.Source.String())
			}
		}
		s = fmt.Sprintf("%s of %s [%s]", x.Source.Name, x.Source.At, strings.Join(parts, " "))
	default:
		s = x.Source.Name + " of " + s
	}
	if x.Rights != 0 {
		s += ", rights " + strings.Join(x.Rights.Names(), " ")
	}
	if x.Subdir != "" {
		s += ", subdir " + x.Subdir
	}
	if x.Availability != manifest.Required {
		s += ", " + x.Availability.String()
	}
	if r.Err != nil {
		s += "; but " + Cause(r.Err)
	}
	return s
}

// Subject is what a result is about: "use protocol log", "offer runner elf to #net", "program runner elf", "child resolver
// file".
func (r *Result) Subject() string {
	s := r.Decl + " " + r.Kind.String() + " " + r.Name
	if r.To != "" {
		s += " to " + r.To
	}
	return s
}
