// Package routing answers route questions over any tree: the running one (runtime/realm) and one read from disk. It walks
// declarations and does nothing else; it starts no component.
package routing

import (
	"context"

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

// Builtins are what stands above the root: the manager's own capabilities.
type Builtins interface {
	// Has says whether the manager offers this to the root.
	Has(kind manifest.Kind, capability string) bool
	// Framework says whether every component has this from "framework".
	Framework(kind manifest.Kind, capability string) bool
	// InRootEnvironment says whether the root's environment has this runner (by name) or resolver (by scheme).
	InRootEnvironment(kind manifest.Kind, nameOrScheme string) bool
}
