package routing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A Resolve gives the declaration at url and the absolute form of that URL. A relative url is relative to parent, the resolved
// URL of the component above; that is "" for the root.
type Resolve func(ctx context.Context, url, parent string) (decl manifest.Validated, resolved string, err error)

// Offline is a tree that nobody runs: its nodes are the static instances that a root declares, resolved when they are asked for,
// and the dynamic ones that Create adds. It is safe for concurrent use.
type Offline struct {
	resolve Resolve
	root    *offlineNode
}

// NewOffline is the tree below the component at url.
func NewOffline(url string, r Resolve) *Offline {
	t := &Offline{resolve: r}
	t.root = &offlineNode{tree: t, moniker: name.Root, url: url}
	return t
}

// Root is the root instance.
func (t *Offline) Root() Node { return t.root }

// Create adds a dynamic child to a collection of parent, which must be a node of t. The offers are as Node.DynamicOffers has
// them.
func (t *Offline) Create(ctx context.Context, parent Node, collection, child, url string, offers []manifest.Offer) (Node, error) {
	p := parent.(*offlineNode)
	d, err := p.Decl(ctx)
	if err != nil {
		return nil, err
	}
	c := d.Collection(collection)
	if c == nil {
		return nil, fmt.Errorf("create %s: `%s` does not have collection `#%s`", child, p.moniker, collection)
	}
	segment := collection + ":" + child
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.children[segment]; ok {
		return nil, fmt.Errorf("create %s: exists already", p.moniker.Child(segment))
	}
	n := &offlineNode{tree: t, parent: p, moniker: p.moniker.Child(segment), url: url, environment: c.Environment, offers: offers}
	p.children[segment] = n
	return n, nil
}

type offlineNode struct {
	tree        *Offline
	parent      *offlineNode // nil for the root
	moniker     name.Moniker
	url         string
	environment string
	offers      []manifest.Offer

	mu       sync.Mutex
	decl     *manifest.Component // nil until resolved
	resolved string              // its URL
	err      error               // why it cannot be resolved
	children map[string]*offlineNode
}

func (n *offlineNode) Moniker() name.Moniker           { return n.moniker }
func (n *offlineNode) Environment() string             { return n.environment }
func (n *offlineNode) DynamicOffers() []manifest.Offer { return n.offers }

func (n *offlineNode) Parent() (Node, bool) {
	if n.parent == nil {
		return nil, false
	}
	return n.parent, true
}

// Decl resolves n once; what failed fails again, unless it was for ctx.
func (n *offlineNode) Decl(ctx context.Context) (*manifest.Component, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.decl != nil || n.err != nil {
		return n.decl, n.err
	}
	above := ""
	if n.parent != nil {
		// The parent has been resolved: it is where n was found.
		above = n.parent.resolvedURL()
	}
	v, resolved, err := n.tree.resolve(ctx, n.url, above)
	if err != nil {
		if ctx.Err() == nil {
			n.err = err
		}
		return nil, err
	}
	n.decl, n.resolved = v.Decl(), resolved
	n.children = make(map[string]*offlineNode, len(n.decl.Children))
	nodes := make([]offlineNode, len(n.decl.Children))
	for i := range n.decl.Children {
		c := &n.decl.Children[i]
		nodes[i].tree, nodes[i].parent, nodes[i].url, nodes[i].environment = n.tree, n, c.URL, c.Environment
		nodes[i].moniker = n.moniker.Child(c.Name)
		n.children[c.Name] = &nodes[i]
	}
	return n.decl, nil
}

func (n *offlineNode) resolvedURL() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.resolved
}

func (n *offlineNode) Child(ctx context.Context, segment string) (Node, bool, error) {
	if _, err := n.Decl(ctx); err != nil {
		return nil, false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.children[segment]
	if !ok {
		return nil, false, nil
	}
	return c, true, nil
}

func (n *offlineNode) Dynamic(collection string) []Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Node
	for _, c := range n.children {
		if c.moniker.Collection() == collection && collection != "" {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.Moniker(), b.Moniker()) })
	return out
}
