package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// A node is one instance, a routing.Node for one goroutine. It is made when somebody asks for it.
type node struct {
	tree     *Tree
	parent   *node // nil for the root
	class    *class
	decl     *manifest.Child // that declares it; nil for the root
	moniker  name.Moniker
	depth    int
	children []*node // in the order of the declaration; nil where nobody asked
}

// A class is what instances have in common that have equal places: the root alone; or children that equal places declare with one
// URL, one environment and equal offers.
type class struct {
	state    readState
	resolved *resolver.Resolved // once read
	err      error
	children []*class // one for each child of the declaration
	index    map[string]int

	instances int // in the tree below one of them, itself included; 0 before the survey

	// What Check found at the first instance.
	checked bool
	clean   bool     // nothing there or below
	broken  []broken // questions that fail
	own     int      // questions there
	routes  int      // questions there and below
}

type readState uint8

const (
	unread readState = iota
	reading
	read
)

func (n *node) Moniker() name.Moniker           { return n.moniker }
func (n *node) Dynamic(string) []routing.Node   { return nil }
func (n *node) DynamicOffers() []manifest.Offer { return nil }

// Exposing looks at the children that have been read, which are all of them after Open but those that don't resolve.
func (n *node) Exposing(kind manifest.Kind, capability string) []string {
	var out []string
	for i, c := range n.class.children {
		if c.resolved == nil {
			continue
		}
		exposes := c.resolved.Decl.Decl().Exposes
		if slices.ContainsFunc(exposes, func(x manifest.Expose) bool {
			return x.Kind == kind && x.TargetName == capability && x.Target.Kind == manifest.RefParent
		}) {
			out = append(out, n.class.resolved.Decl.Decl().Children[i].Name)
		}
	}
	return out
}

func (n *node) Parent() (routing.Node, bool) {
	if n.parent == nil {
		return nil, false
	}
	return n.parent, true
}

func (n *node) Environment() string {
	if n.decl == nil {
		return ""
	}
	return n.decl.Environment
}

func (n *node) url() string {
	if n.decl == nil {
		return n.tree.cfg.Root
	}
	return n.decl.URL
}

// Decl resolves n, or takes what another of its class was resolved to.
func (n *node) Decl(ctx context.Context) (*manifest.Component, error) {
	c := n.class
	if c.state == reading {
		return nil, n.refuse("its resolver comes from itself", "take the resolver from a component that does not need it")
	}
	if c.state == unread {
		c.state = reading
		r, err := n.resolve(ctx)
		if ctx.Err() != nil {
			c.state = unread
			return nil, ctx.Err()
		}
		c.state, c.resolved, c.err = read, r, err
		if err == nil {
			c.classify(r.Decl.Decl())
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	return c.resolved.Decl.Decl(), nil
}

// scheme is by which resolver n is resolved: as in the running tree, a relative URL by that of the nearest ancestor with an
// absolute one. The parent has been resolved.
func (n *node) scheme() string {
	s := name.Scheme(n.url())
	if s == "" && n.parent != nil {
		s = name.Scheme(n.parent.class.resolved.URL)
	}
	return s
}

func (n *node) resolve(ctx context.Context) (*resolver.Resolved, error) {
	var parent *resolver.Resolved
	if n.parent != nil {
		if _, err := n.parent.Decl(ctx); err != nil {
			return nil, err
		}
		parent = n.parent.class.resolved
	}
	if n.depth > maxDepth {
		return nil, n.refuse(fmt.Sprintf("more than %d levels deep", maxDepth), "")
	}
	route, err := n.tree.engine.Resolver(ctx, n, n.scheme())
	if err != nil {
		return nil, err
	}
	by, err := n.resolver(route)
	if err != nil {
		return nil, err
	}
	r, err := by.Resolve(ctx, n.url(), parent)
	if err != nil {
		return nil, err
	}
	for a := n.parent; a != nil; a = a.parent {
		if a.class.resolved.URL == r.URL {
			return nil, n.refuse("is the manifest of a component that it is below: the tree has no end",
				"make it a child in a collection, which exists when it is created")
		}
	}
	return r, nil
}

// resolver is what the route of n's resolver leads to. One that a component provides runs only in a running tree.
func (n *node) resolver(route *capabilities.Route) (resolver.Resolver, error) {
	if by := n.tree.cfg.Resolvers[route.Source.Name]; by != nil && route.Source.Kind == capabilities.FromBuiltin {
		return by, nil
	}
	why := fmt.Sprintf("its resolver comes from component %s, which only a running tree can ask", route.Source)
	return nil, n.refuse(why, "")
}

func (n *node) refuse(why, hint string) error {
	return &resolver.Error{URL: n.url(), Why: capabilities.Invalid, Err: errors.New(why), Hint: hint}
}

func (n *node) Child(ctx context.Context, segment string) (routing.Node, bool, error) {
	if _, err := n.Decl(ctx); err != nil {
		return nil, false, err
	}
	i, ok := n.class.index[segment]
	if !ok {
		return nil, false, nil
	}
	return n.child(i), true, nil
}

// child is number i of the children that n, which is resolved, declares.
func (n *node) child(i int) *node {
	d := n.class.resolved.Decl.Decl()
	if n.children == nil {
		n.children = make([]*node, len(d.Children))
	}
	if n.children[i] == nil {
		c := &d.Children[i]
		n.children[i] = &node{
			tree: n.tree, parent: n, class: n.class.children[i], decl: c, moniker: n.moniker.Child(c.Name), depth: n.depth + 1,
		}
	}
	return n.children[i]
}

// classify makes the classes of the children that d declares.
func (c *class) classify(d *manifest.Component) {
	if len(d.Children) == 0 {
		return
	}
	c.index = make(map[string]int, len(d.Children))
	c.children = make([]*class, len(d.Children))
	places := make([][]byte, len(d.Children))
	for i := range d.Children {
		child := &d.Children[i]
		c.index[child.Name] = i
		places[i] = text(text(nil, child.URL), child.Environment)
	}
	for i := range d.Offers {
		o := &d.Offers[i]
		if k, ok := c.index[o.Target.Name]; ok && o.Target.Kind == manifest.RefChild {
			places[k] = place(places[k], o)
		}
	}
	equal := make(map[string]*class, 1)
	for i := range places {
		k := equal[string(places[i])]
		if k == nil {
			k = new(class)
			equal[string(places[i])] = k
		}
		c.children[i] = k
	}
}

// place appends all of an offer that a route can depend on, but to whom it is made.
func place(b []byte, o *manifest.Offer) []byte {
	b = append(b, byte(o.Kind), byte(o.Dependency), byte(o.Availability))
	b = binary.LittleEndian.AppendUint16(b, uint16(o.Rights))
	b = ref(text(text(text(b, o.SourceName), o.TargetName), o.Subdir), o.Source)
	b = binary.AppendUvarint(b, uint64(len(o.Scope)))
	for _, r := range o.Scope {
		b = ref(b, r)
	}
	return b
}

func ref(b []byte, r manifest.Ref) []byte {
	return text(text(append(b, byte(r.Kind)), r.Name), r.Dictionary)
}

func text(b []byte, s string) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }
