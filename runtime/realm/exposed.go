package realm

import (
	"context"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
)

// expose brings the protocols that the root exposes to this machine's programs: each as a socket by its name, in a directory that
// Config.Exposed is told. A route that leads nowhere is a socket that refuses, and the root's log says why.
func (r *Realm) expose(ctx context.Context) {
	if r.cfg.Exposed == nil || r.cfg.Sockets == nil {
		return
	}
	r.root.mu.Lock()
	res := r.root.resolutionLocked()
	r.root.mu.Unlock()
	r.exposing.Lock()
	defer r.exposing.Unlock()
	got, dir := &delivery{}, ""
	if res != nil {
		var err error
		if dir, err = r.root.exposed(ctx, got, res.Decl.Decl()); err != nil {
			r.cfg.Log.Error("what the root exposes cannot be reached", "error", err)
			got.end()
			return
		}
	}
	old := r.exposed
	r.exposed = got
	r.cfg.Exposed(dir)
	old.end()
}

// exposed puts what d, i's declaration, exposes into a view, and returns its directory; "" where that is nothing.
func (i *instance) exposed(ctx context.Context, got *delivery, d *manifest.Component) (string, error) {
	info := &runners.StartInfo{}
	defer info.Close()
	for k := range d.Exposes {
		e := &d.Exposes[k]
		if e.Kind != manifest.KindProtocol || e.Target.Kind != manifest.RefParent {
			continue
		}
		use := &manifest.Use{Pos: e.Pos, Kind: e.Kind, SourceName: e.TargetName, Availability: e.Availability}
		ask := func(ctx context.Context) ([]Delivery, []lack) {
			switch route, err := i.realm.engine.Expose(ctx, i, e); {
			case err != nil:
				return nil, []lack{{use, err}}
			case route.Source.Kind == capabilities.FromVoid:
				return nil, nil
			default:
				return []Delivery{{Route: route}}, nil
			}
		}
		if err := i.place(ctx, got, use, "/"+e.TargetName, ask, info); err != nil {
			return "", err
		}
	}
	return info.View, nil
}
