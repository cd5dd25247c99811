package realm

import (
	"context"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/protocol"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// Services and dictionaries are directories in the namespace: of instances, each a directory with the service's socket; and of
// what is in the dictionary, by name.

// deliverSet puts the service or dictionary that u uses into the namespace.
func (i *instance) deliverSet(ctx context.Context, got *delivery, u *manifest.Use, info *runners.StartInfo) error {
	route, err := i.realm.engine.Use(ctx, i, u)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		i.missing(u, err)
	case route.Source.Kind == capabilities.FromVoid:
		return nil
	}
	return i.putSet(ctx, got, u, u.TargetPath, route, info, nil)
}

// putSet puts what route leads to at at: an empty directory if route is nil. inside are the dictionaries around it.
func (i *instance) putSet(
	ctx context.Context, got *delivery, u *manifest.Use, at string, route *capabilities.Route, info *runners.StartInfo, inside []string,
) error {
	v, err := i.see(got, at, info)
	if err != nil {
		return err
	}
	if err := i.enter(v, at, v.Hold(at, true), info); err != nil || route == nil {
		return err
	}
	if route.Kind == manifest.KindService {
		s := &serviceSet{i: i, use: u, view: v, at: at, ask: func(ctx context.Context) (*capabilities.Route, error) { return route, nil }}
		if route.Source.Kind == capabilities.FromCollection {
			// Who it is made of may change.
			if len(inside) == 0 {
				s.ask = func(ctx context.Context) (*capabilities.Route, error) { return i.realm.engine.Use(ctx, i, u) }
			}
			got.sets = append(got.sets, s)
			i.realm.watchSet(s)
		}
		return s.fill(ctx)
	}
	return i.putItems(ctx, got, u, at, route, info, inside)
}

// putItems puts what is in the dictionary that route leads to into the directory at at.
func (i *instance) putItems(
	ctx context.Context, got *delivery, u *manifest.Use, at string, route *capabilities.Route, info *runners.StartInfo, inside []string,
) error {
	src := route.Source
	id := string(src.At) + " " + src.Name
	for _, d := range inside {
		if d == id {
			return fmt.Errorf("dictionary %s of %s contains itself", src.Name, src.At)
		}
	}
	inside = append(inside[:len(inside):len(inside)], id)
	if src.Kind != capabilities.FromComponent || src.Capability.Path != "" {
		i.missing(u, fmt.Errorf("%s: what is in it is not known from manifests", src))
		return nil
	}
	owner, err := i.realm.reach(ctx, src.At)
	if err != nil {
		return err
	}
	d, err := owner.Decl(ctx)
	if err != nil {
		return err
	}
	services := map[string]bool{}
	for k := range d.Offers {
		o := &d.Offers[k]
		if o.Target.Kind != manifest.RefSelf || o.Target.Dictionary != src.Name || services[o.TargetName] {
			continue
		}
		var item *capabilities.Route
		if o.Kind == manifest.KindService { // of one source or several
			services[o.TargetName] = true
			item, err = i.realm.engine.Use(ctx, owner, &manifest.Use{
				Kind: o.Kind, Source: manifest.Ref{Kind: manifest.RefSelf, Dictionary: src.Name}, SourceName: o.TargetName, Pos: o.Pos,
				Availability: manifest.Optional,
			})
		} else {
			item, err = i.realm.engine.Offer(ctx, owner, o)
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			i.missing(u, err)
			item = nil
		} else if item.Source.Kind == capabilities.FromVoid {
			continue
		}
		if err := i.putItem(ctx, got, u, path.Join(at, o.TargetName), o.Kind, item, info, inside); err != nil {
			return err
		}
	}
	return nil
}

// putItem puts one item of a dictionary at at; item is nil if it leads nowhere.
func (i *instance) putItem(
	ctx context.Context, got *delivery, u *manifest.Use, at string, k manifest.Kind, item *capabilities.Route, info *runners.StartInfo,
	inside []string,
) error {
	switch k {
	case manifest.KindProtocol:
		var routed []Delivery
		if item != nil {
			routed = []Delivery{{Use: u, Route: item}}
		}
		return i.putProtocol(ctx, got, u, at, routed, info)
	case manifest.KindService, manifest.KindDictionary:
		return i.putSet(ctx, got, u, at, item, info, inside)
	case manifest.KindDirectory:
		if item == nil {
			return nil
		}
		f, err := i.realm.directory(ctx, i, item, false)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			i.missing(u, err)
			return nil
		}
		return i.putFiles(got, at, runners.NamespaceEntry{File: f, Rights: item.Rights}, info)
	}
	return nil // runners and resolvers are for environments, configuration is for keys
}

// A serviceSet is the directory of a service's instances that one run has.
type serviceSet struct {
	i    *instance
	use  *manifest.Use
	view *protocol.View
	at   string
	ask  func(ctx context.Context) (*capabilities.Route, error)

	mu      sync.Mutex // held over fill
	have    map[string]protocol.End
	ended   bool
	pending bool // under Realm.mu: a fill will come
}

// fill makes the directory what the route says.
func (s *serviceSet) fill(ctx context.Context) error {
	route, err := s.ask(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.i.missing(s.use, err)
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	want := map[string]protocol.End{}
	for _, m := range serviceMembers(route, "") {
		so, err := protocol.End(nil), m.err
		if err == nil && m.route.Source.Kind != capabilities.FromComponent {
			err = errNobody
		}
		if err == nil {
			so, err = s.i.realm.heldSocket(ctx, m.route.Source)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.i.missing(&manifest.Use{
					Kind: s.use.Kind, SourceName: s.use.SourceName + " (instance " + m.name + ")", Availability: manifest.Optional, Pos: s.use.Pos,
				}, err)
			}
			continue
		}
		n := m.name
		for k := 2; want[n] != nil; k++ {
			n = m.name + "-" + strconv.Itoa(k)
		}
		want[n] = so
	}
	for n, so := range s.have {
		if want[n] != so {
			if err := s.view.Remove(path.Join(s.at, n)); err != nil {
				return err
			}
			delete(s.have, n)
		}
	}
	for n, so := range want {
		if s.have[n] == so {
			continue
		}
		if err := s.view.Link(path.Join(s.at, n, path.Base(s.at)), so); err != nil {
			if os.IsNotExist(err) {
				continue // its component has gone in this moment, and another fill comes
			}
			return err
		}
		if s.have == nil {
			s.have = map[string]protocol.End{}
		}
		s.have[n] = so
	}
	return nil
}

func (s *serviceSet) end() {
	s.i.realm.mu.Lock()
	delete(s.i.realm.sets, s)
	s.i.realm.mu.Unlock()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
}

// watchSet has s filled whenever dynamic children have come or gone, until it ends.
func (r *Realm) watchSet(s *serviceSet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sets == nil {
		r.sets = map[*serviceSet]struct{}{}
	}
	r.sets[s] = struct{}{}
}

// refreshSets says that dynamic children have come or gone.
func (r *Realm) refreshSets() {
	r.mu.Lock()
	var all []*serviceSet
	for s := range r.sets {
		if !s.pending {
			s.pending = true
			all = append(all, s)
		}
	}
	r.mu.Unlock()
	for _, s := range all {
		r.spawn(func() {
			r.mu.Lock()
			s.pending = false
			r.mu.Unlock()
			if err := s.fill(r.ctx); err != nil && r.ctx.Err() == nil {
				r.cfg.Log.Warn("the instances of a service could not be shown", "instance", s.i.moniker, "service", s.use.SourceName, "error", err)
			}
		})
	}
}

// A serviceMember is one instance of a service.
type serviceMember struct {
	name  string
	route *capabilities.Route
	err   error
}

// serviceMembers are the instances of the service that route leads to, with names: "default" for that of one source, and where it
// is put together that of the child that each comes from.
func serviceMembers(route *capabilities.Route, prefix string) []serviceMember {
	if route.Source.Kind != capabilities.FromCollection {
		if prefix == "" {
			prefix = "default"
		}
		return []serviceMember{{name: prefix, route: route}}
	}
	var out []serviceMember
	for k, m := range route.Members {
		if m.Err != nil {
			out = append(out, serviceMember{name: prefix + strconv.Itoa(k+1), err: m.Err})
			continue
		}
		if m.Route.Source.Kind == capabilities.FromVoid {
			continue
		}
		n := memberName(route.Source.At, m.Route)
		if prefix != "" {
			n = prefix + "." + n
		}
		out = append(out, serviceMembers(m.Route, n)...)
	}
	return out
}

// memberName names a part of what at puts together: by the child of at that it comes over, or else by who provides it.
func memberName(at name.Moniker, r *capabilities.Route) string {
	from := r.Source.At
	for _, h := range r.Hops {
		if h.At != at && h.At != "" {
			from = h.At
			break
		}
	}
	base := from.Base()
	if _, child, ok := strings.Cut(base, ":"); ok {
		base = child
	}
	if base == "" || base == "/" {
		return "self"
	}
	return base
}
