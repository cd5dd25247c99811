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
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// Services and dictionaries are directories in the namespace: of instances, each a directory with the service's socket; and of
// what is in the dictionary, by name.

// deliverSet puts the service or dictionary that u uses into the namespace.
func (i *instance) deliverSet(ctx context.Context, got *delivery, u *manifest.Use, info *runners.StartInfo) error {
	return i.putSet(ctx, got, u, u.TargetPath, func(ctx context.Context) (*capabilities.Route, error) {
		return i.realm.engine.Use(ctx, i, u)
	}, u.Kind, info, nil)
}

// putSet puts what the route that ask tells leads to at at: an empty directory if that is nowhere. inside are the dictionaries
// around it.
func (i *instance) putSet(
	ctx context.Context, got *delivery, u *manifest.Use, at string, ask func(context.Context) (*capabilities.Route, error),
	k manifest.Kind,
	info *runners.StartInfo, inside []string,
) error {
	route, err := ask(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil && route.Source.Kind == capabilities.FromVoid:
		return nil
	}
	v, verr := i.seeHolder(got, at, info)
	if verr != nil {
		return verr
	}
	if verr = i.enter(v, at, v.Hold(at, true), info); verr != nil {
		return verr
	}
	if k == manifest.KindService {
		s := &serviceSet{i: i, use: u, view: v, at: at, ask: ask}
		got.follows = append(got.follows, s)
		if i.passing(route, err) {
			i.realm.follow(s)
			return s.fill(ctx) // what has come since was not told
		}
		return s.show(ctx, route, err)
	}
	if err != nil {
		i.missing(u, err)
		return nil
	}
	return i.putItems(ctx, got, u, at, route, info, inside)
}

// putItems puts what is in the dictionary that route leads to into the directory at at.
func (i *instance) putItems(
	ctx context.Context, got *delivery, u *manifest.Use, at string, route *capabilities.Route, info *runners.StartInfo,
	inside []string,
) error {
	src := route.Source
	id := string(src.At) + " " + src.Name
	for _, d := range inside {
		if d == id {
			return fmt.Errorf("dictionary %s of %s contains itself", src.Name, src.At)
		}
	}
	inside = append(inside[:len(inside):len(inside)], id)
	if src.Kind == capabilities.FromComponent && src.Capability.Path != "" {
		return i.putProvided(ctx, got, u, at, src)
	}
	if src.Kind != capabilities.FromComponent {
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
	for o := range routing.Items(d, src.Name) {
		ask := func(ctx context.Context) (*capabilities.Route, error) {
			return i.realm.engine.Item(ctx, i, owner, src.Name, o.Kind, o.TargetName)
		}
		if err := i.putItem(ctx, got, u, path.Join(at, o.TargetName), o.Kind, ask, info, inside); err != nil {
			return err
		}
	}
	return nil
}

// putItem puts one item of a dictionary at at.
func (i *instance) putItem(
	ctx context.Context, got *delivery, u *manifest.Use, at string, k manifest.Kind,
	ask func(context.Context) (*capabilities.Route, error),
	info *runners.StartInfo, inside []string,
) error {
	switch k {
	case manifest.KindService, manifest.KindDictionary:
		return i.putSet(ctx, got, u, at, ask, k, info, inside)
	case manifest.KindProtocol, manifest.KindDirectory:
	default:
		return nil // runners and resolvers are for environments, configuration is for keys
	}
	if k == manifest.KindProtocol {
		return i.place(ctx, got, u, at, func(ctx context.Context) ([]Delivery, []lack) {
			item, err := ask(ctx)
			switch {
			case err != nil:
				return nil, []lack{{u, err}}
			case item.Source.Kind == capabilities.FromVoid:
				return nil, nil
			}
			return []Delivery{{Use: u, Route: item}}, nil
		}, info)
	}
	item, err := ask(ctx)
	if err == nil && item.Source.Kind == capabilities.FromVoid {
		return nil
	}
	var f *os.File
	if err == nil {
		f, err = i.realm.directory(ctx, i, item, false)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		i.missing(u, err)
		return nil
	}
	return i.putFiles(got, at, runners.NamespaceEntry{File: f, Rights: item.Rights}, info)
}

// A serviceSet is the directory of a service's instances that one run has.
type serviceSet struct {
	i    *instance
	use  *manifest.Use
	view *protocol.View
	at   string
	ask  func(ctx context.Context) (*capabilities.Route, error)

	asking sync.Mutex // held over fill: who asked last must show last
	mu     sync.Mutex // held over show
	have   map[string]protocol.End
	lacks  string // why there is none, as it was told
	over   bool
}

func (s *serviceSet) of() (*instance, *manifest.Use) { return s.i, s.use }

// fill makes the directory what the route says.
func (s *serviceSet) fill(ctx context.Context) error {
	s.asking.Lock()
	defer s.asking.Unlock()
	route, err := s.ask(ctx)
	return s.show(ctx, route, err)
}

// show shows the instances of the service that route leads to: none if there is an error.
func (s *serviceSet) show(ctx context.Context, route *capabilities.Route, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	var members []serviceMember
	lacks := ""
	if err == nil {
		members = instancesOf(route)
	} else if lacks = err.Error(); lacks != s.lacks {
		s.i.missing(s.use, err)
	}
	s.lacks = lacks
	want := map[string]protocol.End{}
	for _, m := range members {
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
					Kind: s.use.Kind, SourceName: s.use.SourceName + " (instance " + m.name + ")", Availability: manifest.Optional,
					Pos: s.use.Pos,
				}, err)
			}
			continue
		}
		want[m.name] = so
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
	s.i.realm.unfollow(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// A ServiceInstance is one instance of a service, as whoever uses it finds it.
type ServiceInstance struct {
	Name   string
	Source capabilities.Source // if Err is nil
	Err    error               // why it is not there
}

// ServiceInstances are the instances of the service that route leads to.
func ServiceInstances(route *capabilities.Route) []ServiceInstance {
	var out []ServiceInstance
	for _, m := range instancesOf(route) {
		i := ServiceInstance{Name: m.name, Err: m.err}
		if m.err == nil {
			i.Source = m.route.Source
		}
		out = append(out, i)
	}
	return out
}

// A serviceMember is one instance of a service.
type serviceMember struct {
	name  string
	route *capabilities.Route
	err   error
}

// instancesOf are the instances of the service that route leads to, each with a name of its own.
func instancesOf(route *capabilities.Route) []serviceMember {
	all := serviceMembers(route, "")
	taken := make(map[string]bool, len(all))
	for i := range all {
		n := all[i].name
		for k := 2; taken[n]; k++ {
			n = all[i].name + "-" + strconv.Itoa(k)
		}
		all[i].name, taken[n] = n, true
	}
	return all
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
