// Package verify looks at a tree that nobody runs. It resolves every manifest below a root, asks the engine that also routes live
// (capabilities/routing) where each use, offer, expose and registration of every instance leads, and which runner and resolver it
// has, and says what is wrong where, who reaches what, what differs from another tree, and in which order the tree would shut
// down.
//
// What can be told of it: static children only. The children that somebody will create in a collection are not there; what is
// offered to the collection is asked for all the same.
//
// Instances that no question can tell apart but by their monikers (siblings with one URL, one environment and equal offers, and
// all below them) are one class: Check asks for one of them, and for the others only what fails there. So a tree of 100,000
// instances through one repeated child costs little more than that child. With a Policy, which goes by monikers, it asks for all.
//
// Source: `ffx scrutiny verify routes` (component-tooling.md §6).
package verify

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/resolver"
)

const (
	// DefaultLimit is how many instances a tree may have if Config doesn't say.
	DefaultLimit = 250_000
	// maxDepth bounds the levels of a tree: monikers grow with it, so that the space would be its square.
	maxDepth = 1000
)

// Config says which tree is looked at, and what stands above it.
type Config struct {
	Root      string // URL
	Builtins  routing.Builtins
	Resolvers map[string]resolver.Resolver // by the name that Builtins know them by
	Limit     int                          // of instances; 0 is DefaultLimit
	Policy    Policy                       // nil where it is not known: nothing is forbidden
	// Progress, if it is set, is told often how many instances have been looked at; total is 0 as long as it is not known.
	Progress func(done, total int)
}

// A Policy says what may be by the manager's configuration. What it says of routes is in Builtins (routing.Guard).
type Policy interface {
	// RebootOnTerminate says whether the parent may give m `on_terminate: "reboot"`.
	RebootOnTerminate(m name.Moniker) bool
	// Job says whether m may have in its program block what that policy of the runner elf is about.
	Job(policy string, m name.Moniker) bool
}

// A Tree is a static tree with all its manifests read. It is not safe for concurrent use.
type Tree struct {
	// RootURL is the root's, resolved.
	RootURL string
	// Manifests is the number of different manifests, Instances that of instances.
	Manifests, Instances int

	cfg    Config
	engine *routing.Engine
	root   *node
}

// A LimitError says that a tree is too large to be looked at.
type LimitError struct {
	Root      string
	Instances int // 0 if they were not counted to the end
	Limit     int
}

func (e *LimitError) Error() string {
	n := fmt.Sprintf("%d", e.Instances)
	switch {
	case e.Instances == 0:
		n = fmt.Sprintf("more than %d", e.Limit)
	case e.Instances >= countless:
		n = fmt.Sprintf("more than %d", countless)
	}
	return fmt.Sprintf("%s: a tree of %s instances, and no more than %d are looked at\n"+
		"  hint: raise the limit (--limit N); it bounds memory and time", e.Root, n, e.Limit)
}

// Code is Invalid.
func (e *LimitError) Code() capabilities.Code { return capabilities.Invalid }

// countless is where counting instances ends; two of it don't overflow.
const countless = math.MaxInt / 2

// Open reads the tree: each manifest once, and each class of instances. A root that does not resolve is an error; other
// manifests that don't are for Check to tell. A tree of too many instances is a *LimitError, found without making them.
func Open(ctx context.Context, cfg Config) (*Tree, error) {
	if cfg.Limit == 0 {
		cfg.Limit = DefaultLimit
	}
	t := &Tree{cfg: cfg, engine: routing.New(cfg.Builtins)}
	t.root = &node{tree: t, class: new(class), moniker: name.Root}
	if _, err := t.root.Decl(ctx); err != nil {
		return nil, err
	}
	t.RootURL = t.root.class.resolved.URL
	s := survey{tree: t, manifests: map[string]bool{}}
	if err := s.visit(ctx, t.root); err != nil {
		return nil, err
	}
	t.Manifests, t.Instances = len(s.manifests), t.root.class.instances
	if t.Instances > cfg.Limit {
		return nil, &LimitError{Root: t.RootURL, Instances: t.Instances, Limit: cfg.Limit}
	}
	return t, nil
}

// A survey reads the first instance of each class, and counts the instances.
type survey struct {
	tree      *Tree
	classes   int
	manifests map[string]bool // by resolved URL
}

func (s *survey) visit(ctx context.Context, n *node) error {
	if s.classes++; s.classes > s.tree.cfg.Limit {
		return &LimitError{Root: s.tree.RootURL, Limit: s.tree.cfg.Limit}
	}
	s.tree.progress(s.classes, 0)
	c := n.class
	c.instances = 1
	d, err := n.Decl(ctx)
	if err != nil {
		return ctx.Err() // if it isn't that, it belongs to what Check finds
	}
	s.manifests[c.resolved.URL] = true
	for i := range d.Children {
		below := c.children[i]
		if below.instances == 0 {
			if err := s.visit(ctx, n.child(i)); err != nil {
				return err
			}
		}
		c.instances = min(c.instances+below.instances, countless)
	}
	return nil
}

// Files are the files that the tree was read from, includes among them, sorted.
func (t *Tree) Files() []string {
	files, seen := map[string]bool{}, map[*class]bool{}
	var visit func(c *class)
	visit = func(c *class) {
		if seen[c] {
			return
		}
		seen[c] = true
		if c.resolved != nil {
			for _, f := range c.resolved.Sources {
				files[f] = true
			}
		}
		for _, below := range c.children {
			visit(below)
		}
	}
	visit(t.root.class)
	return slices.Sorted(maps.Keys(files))
}

func (t *Tree) progress(done, total int) {
	if t.cfg.Progress != nil {
		t.cfg.Progress(done, total)
	}
}
