package manager

import (
	"context"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/realm"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// services is the tree as runners/runit needs it: service directories become children of collections.
type services struct{ m *Manager }

// Has says whether m has that collection, of children that stay when they end.
func (s services) Has(m name.Moniker, collection string) bool {
	i, ok := s.m.realm.Instance(m)
	if !ok || i.Decl == nil {
		return false
	}
	c := i.Decl.Collection(collection)
	return c != nil && c.Durability == manifest.Transient
}

// Create makes a child of a service directory. As under runsvdir, what supervises it is started again whenever that ends.
func (s services) Create(ctx context.Context, m name.Moniker, collection, child, dir string) error {
	c := realm.ChildDecl{
		Name: child, URL: resolver.ServiceURL(dir), OnTerminate: manifest.OnTerminateRestart,
		Restart: &manifest.Restart{DelayMS: 1000, FromStart: true, WindowMS: 60_000},
	}
	at, err := s.m.realm.Create(ctx, m, collection, c)
	if capabilities.CodeOf(err) == capabilities.Precondition { // it is there, of the run before, on its way out
		if err = s.Destroy(ctx, m, collection, child); err == nil {
			at, err = s.m.realm.Create(ctx, m, collection, c)
		}
	}
	if err == nil {
		err = s.m.realm.StartInTurn(ctx, at, "service directory")
	}
	return err
}

// Destroy takes a child away, if it is there.
func (s services) Destroy(ctx context.Context, m name.Moniker, collection, child string) error {
	err := s.m.realm.Destroy(ctx, m.Child(collection+":"+child))
	if capabilities.CodeOf(err) == capabilities.NotFound {
		return nil
	}
	return err
}
