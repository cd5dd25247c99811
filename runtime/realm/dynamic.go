package realm

import (
	"context"
	"errors"
	"fmt"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/supervision"
)

// Create adds a dynamic child to a collection of parent. In a single_run collection, and if the child is eager, it returns once
// the child runs; else the child is only created. The name may be used again as soon as it is destroyed.
func (r *Realm) Create(ctx context.Context, parent name.Moniker, collection string, c ChildDecl) (name.Moniker, error) {
	p, err := r.reach(ctx, parent)
	if err != nil {
		return "", err
	}
	d, err := p.Decl(ctx)
	if err != nil {
		return "", err
	}
	m := p.moniker.Child(collection + ":" + c.Name)
	invalid := func(format string, args ...any) error {
		return &Error{Op: "create", At: m, Why: capabilities.Invalid, Err: fmt.Errorf(format, args...)}
	}
	coll := d.Collection(collection)
	if coll == nil {
		names := make([]string, len(d.Collections))
		for k := range d.Collections {
			names[k] = d.Collections[k].Name
		}
		e := &Error{Op: "create", At: m, Why: capabilities.NotFound, Err: fmt.Errorf("`%s` does not have collection `#%s`", p.moniker, collection)}
		if near := name.Nearest(collection, names); near != "" {
			e.Hint = fmt.Sprintf("did you mean %s?", near)
		}
		return "", e
	}
	check := name.Check
	if coll.AllowLongNames {
		check = name.CheckLong
	}
	if err := check(c.Name); err != nil {
		return "", invalid("%w", err)
	}
	if err := name.CheckURL(c.URL); err != nil {
		return "", invalid("url: %w", err)
	}
	if len(c.DynamicOffers) > 0 && !coll.DynamicOffers {
		return "", invalid("collection %q takes no dynamic offers (allowed_offers: \"static_only\")", collection)
	}
	p.mu.Lock()
	if err := p.finalLocked(); err != nil {
		p.mu.Unlock()
		return "", p.precondition("create in", "%w", err)
	}
	seg := collection + ":" + c.Name
	if p.children[seg] != nil {
		p.mu.Unlock()
		return "", &Error{
			Op: "create", At: m, Why: capabilities.Precondition, Err: errors.New("component instance already exists"),
			Hint: "destroy it first, or choose another name",
		}
	}
	if !r.room(1) {
		p.mu.Unlock()
		return "", &Error{
			Op: "create", At: m, Why: capabilities.Precondition,
			Err:  fmt.Errorf("the tree has %d instances, which is the most", r.limit()),
			Hint: "destroy what is not needed",
		}
	}
	child := newInstance(r, p, seg, childDecl{
		url: c.URL, startup: c.Startup, environment: coll.Environment, collection: coll, offers: c.DynamicOffers, config: c.Config,
		onTerminate: c.OnTerminate, policy: c.Restart,
	})
	if p.children == nil {
		p.children = map[string]*instance{}
	}
	p.children[seg] = child
	child.emitLocked(Event{Kind: EventDiscovered})
	p.mu.Unlock()
	r.refresh()
	switch {
	case coll.Durability == manifest.SingleRun:
		if err = child.start(ctx, "single_run"); err != nil {
			_ = child.destroy(r.ctx)
		}
	case c.Startup == manifest.Eager:
		err = child.start(ctx, "eager")
	}
	return m, err
}

// Destroy takes a dynamic child and all below it out of the tree, after shutting it down.
func (r *Realm) Destroy(ctx context.Context, m name.Moniker) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	if i.decl.collection == nil {
		return &Error{
			Op: "destroy", At: m, Why: capabilities.Invalid, Err: errors.New("only dynamic children can be destroyed"),
			Hint: fmt.Sprintf("it stands in the manifest of its parent; `cmgr stop %s` stops it", m),
		}
	}
	return i.destroy(ctx)
}

func (i *instance) destroy(ctx context.Context) error {
	i.mu.Lock()
	if _, ok := i.state.(destroyed); ok {
		i.mu.Unlock()
		return nil
	}
	a := i.beginLocked(destroying, i.doDestroy)
	i.mu.Unlock()
	return a.wait(ctx)
}

func (i *instance) doDestroy(ctx context.Context) error {
	for again := true; again; {
		if err := i.shutdown(ctx); err != nil {
			return err
		}
		i.mu.Lock()
		switch i.state.(type) {
		case shutdown, destroyed:
			again = false
		} // else somebody has unresolved it in between
		i.mu.Unlock()
	}
	if c := i.decl.collection; c == nil || !c.PersistentStorage {
		i.purge(ctx)
	}
	i.leave(true)
	seg := i.moniker.Base()
	i.parent.mu.Lock()
	if i.parent.children[seg] == i {
		delete(i.parent.children, seg)
	}
	i.parent.mu.Unlock()
	i.realm.refresh()
	return nil
}

// leave takes i and what is below it, all of which has been shut down, out of the tree; it does nothing if that is done. forGood
// says that they will not come back with the next manifest of i's parent.
func (i *instance) leave(forGood bool) {
	i.mu.Lock()
	if _, gone := i.state.(destroyed); gone {
		i.mu.Unlock()
		return
	}
	kids := i.childrenLocked()
	i.children = nil
	i.state = destroyed{}
	i.mu.Unlock()
	i.realm.count(-1)
	i.unprovide()
	for _, c := range kids {
		c.leave(forGood)
	}
	i.mu.Lock()
	i.emitLocked(Event{Kind: EventDestroyed})
	i.mu.Unlock()
	if forGood || i.decl.collection != nil {
		i.realm.cfg.Sinks.Remove(i.moniker)
	}
	if i.decl.collection == nil {
		i.realm.noteEnd(i.moniker, "") // what it was counts no more
	}
}

// Unresolve shuts m down and forgets its manifest and all that is below it; then it can be resolved and started anew.
func (r *Realm) Unresolve(ctx context.Context, m name.Moniker) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	return i.unresolve(ctx)
}

func (i *instance) unresolve(ctx context.Context) error {
	if err := i.shutdown(ctx); err != nil {
		return err
	}
	kids, err := i.forget()
	for _, c := range kids {
		c.leave(false)
	}
	return err
}

// forget makes an instance that has been shut down an unresolved one, and returns the children that it had.
func (i *instance) forget() ([]*instance, error) {
	// A parent that is on its way down has had i shut down, and relies on that.
	if p := i.parent; p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := p.finalLocked(); err != nil {
			return nil, i.precondition("unresolve", "its parent: %w", err)
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.state.(shutdown); !ok {
		return nil, i.precondition("unresolve", "it is being changed by somebody else")
	}
	kids := i.childrenLocked()
	i.children = nil
	i.state, i.forgotten = unresolved{}, true
	i.closing = false
	if i.past != nil {
		i.past.gaveUp = false
		i.past.history = supervision.History{}
	}
	i.emitLocked(Event{Kind: EventUnresolved})
	return kids, nil
}
