package host

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
	"github.com/cmgr/cmgr/runtime/realm"
)

// realmMethods are those of framework.Realm.
var realmMethods = map[string]method{
	"CreateChild": on(func(ctx context.Context, s *session, q *componentpb.CreateChild) (proto.Message, error) {
		return nil, s.create(ctx, s.scope, q)
	}),
	"DestroyChild": on(func(ctx context.Context, s *session, q *componentpb.ChildRef) (proto.Message, error) {
		return nil, s.destroy(ctx, s.scope, q)
	}),
	"ListChildren": on(func(ctx context.Context, s *session, q *componentpb.Collection) (proto.Message, error) {
		n, d, err := s.decl(ctx, s.scope)
		if err != nil {
			return nil, err
		}
		if d.Collection(q.Collection) == nil {
			return nil, notFound("`%s` does not have collection `#%s`", s.scope, q.Collection)
		}
		out := &componentpb.Children{}
		for _, c := range n.Dynamic(q.Collection) {
			_, child, _ := strings.Cut(c.Moniker().Base(), ":")
			out.Children = append(out.Children, &componentpb.ChildRef{Collection: q.Collection, Name: child})
		}
		return out, nil
	}),
	"OpenExposedDir": on(func(ctx context.Context, s *session, q *componentpb.ChildRef) (proto.Message, error) {
		m, err := s.child(ctx, s.scope, q)
		if err != nil {
			return nil, err
		}
		_, d, err := s.decl(ctx, m)
		if err != nil {
			return nil, err
		}
		out := &componentpb.Exposed{}
		for k := range d.Exposes {
			if x := &d.Exposes[k]; x.Target.Kind != manifest.RefFramework {
				out.Capabilities = append(out.Capabilities, &componentpb.Capability{Kind: x.Kind.String(), Name: x.TargetName})
			}
		}
		order := func(a, b *componentpb.Capability) int {
			return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name)
		}
		slices.SortFunc(out.Capabilities, order)
		// A service of several sources is one capability.
		out.Capabilities = slices.CompactFunc(out.Capabilities, func(a, b *componentpb.Capability) bool { return order(a, b) == 0 })
		for _, c := range out.Capabilities {
			if c.Kind == manifest.KindService.String() {
				c.Instances, _ = s.cfg.Tree.ExposedInstances(ctx, m, c.Name) // one that leads nowhere has none
			}
		}
		return out, nil
	}),
	"ConnectExposed": giving(func(ctx context.Context, s *session, q *componentpb.ConnectExposed) (proto.Message, *os.File, error) {
		m, err := s.child(ctx, s.scope, q.Child)
		if err != nil {
			return nil, nil, err
		}
		f, err := s.connect(ctx, m, q.Name, q.Instance)
		return nil, f, err
	}),
	"OpenDirectory": giving(func(ctx context.Context, s *session, q *componentpb.ConnectExposed) (proto.Message, *os.File, error) {
		m, err := s.child(ctx, s.scope, q.Child)
		if err != nil {
			return nil, nil, err
		}
		f, err := s.cfg.Tree.OpenExposed(ctx, m, q.Name)
		return nil, f, err
	}),
	"OpenController": giving(func(ctx context.Context, s *session, q *componentpb.ChildRef) (proto.Message, *os.File, error) {
		m, err := s.child(ctx, s.scope, q)
		if err != nil {
			return nil, nil, err
		}
		f, err := s.control(m)
		return nil, f, err
	}),
}

// decl is the instance at m and its manifest, which is read if need be.
func (s *session) decl(ctx context.Context, m name.Moniker) (routing.Node, *manifest.Component, error) {
	n, ok := s.cfg.Tree.Node(m)
	if !ok {
		return nil, nil, notFound("there is no instance %s", m)
	}
	d, err := n.Decl(ctx)
	return n, d, err
}

// child is the moniker of an instance that exists.
func (s *session) child(ctx context.Context, parent name.Moniker, r *componentpb.ChildRef) (name.Moniker, error) {
	seg := r.GetName()
	if r.GetCollection() != "" {
		seg = r.GetCollection() + ":" + seg
	}
	if err := name.CheckChild(seg); err != nil {
		return "", invalid("%v", err)
	}
	n, d, err := s.decl(ctx, parent)
	if err != nil {
		return "", err
	}
	if r.GetCollection() != "" && d.Collection(r.GetCollection()) == nil {
		return "", notFound("`%s` does not have collection `#%s`", parent, r.GetCollection())
	}
	if _, ok, err := n.Child(ctx, seg); err != nil {
		return "", err
	} else if !ok {
		return "", notFound("`%s` does not have child `#%s`", parent, seg)
	}
	return parent.Child(seg), nil
}

func (s *session) create(ctx context.Context, parent name.Moniker, q *componentpb.CreateChild) error {
	c := q.GetChild()
	if c.GetEnvironment() != "" {
		return &rpc.Error{
			Why: capabilities.Invalid, Text: "a dynamic child may not set its environment", Hint: "set the collection's in the manifest",
		}
	}
	child := realm.ChildDecl{Name: c.GetName(), URL: c.GetUrl(), Config: configOf(c.GetConfigOverrides())}
	if c.GetEager() {
		child.Startup = manifest.Eager
	}
	var err error
	if len(q.Offers) > 0 {
		if child.DynamicOffers, err = s.offers(ctx, parent, q.GetCollection(), q.Offers); err != nil {
			return err
		}
	}
	_, err = s.cfg.Tree.Create(ctx, parent, q.GetCollection(), child)
	return err
}

func (s *session) destroy(ctx context.Context, parent name.Moniker, r *componentpb.ChildRef) error {
	if r.GetCollection() == "" {
		return invalid("only children of collections can be destroyed; %q is none", r.GetName())
	}
	m, err := s.child(ctx, parent, r)
	if err != nil {
		return err
	}
	return s.cfg.Tree.Destroy(ctx, m)
}

// maxOffers bounds the dynamic offers of one child.
const maxOffers = 1024

// offers reads dynamic offers and checks them as those of a manifest.
func (s *session) offers(ctx context.Context, parent name.Moniker, collection string, list []*componentpb.Offer) ([]manifest.Offer, error) {
	if len(list) > maxOffers {
		return nil, invalid("%d dynamic offers; %d is the most", len(list), maxOffers)
	}
	_, d, err := s.decl(ctx, parent)
	if err != nil {
		return nil, err
	}
	coll := d.Collection(collection)
	if coll == nil {
		return nil, notFound("`%s` does not have collection `#%s`", parent, collection)
	}
	out := make([]manifest.Offer, len(list))
	// What must hold for them, holds in a manifest of what they refer to, and of the offers that the child gets anyway.
	check := manifest.Component{
		Children: d.Children, Collections: d.Collections, Environments: d.Environments, Capabilities: d.Capabilities,
		Sources: d.Sources,
	}
	for i := range d.Offers {
		if o := &d.Offers[i]; o.Target.Kind == manifest.RefCollection && o.Target.Name == collection {
			check.Offers = append(check.Offers, *o)
		}
	}
	for i, w := range list {
		o, err := offerOf(w, d)
		if err != nil {
			return nil, invalid("dynamic offer %d: %v", i+1, err)
		}
		out[i] = o
		o.Target = manifest.Ref{Kind: manifest.RefCollection, Name: collection}
		if from, _, sibling := strings.Cut(o.Source.Name, ":"); sibling {
			ref := &componentpb.ChildRef{Collection: from, Name: o.Source.Name[len(from)+1:]}
			if _, err := s.child(ctx, parent, ref); err != nil {
				return nil, err
			}
			continue // no manifest can say that
		}
		check.Offers = append(check.Offers, o)
	}
	if _, found := manifest.Validate(&check, manifest.ValidateOptions{}); found.Err() != nil {
		f := found.Errors()[0]
		return nil, &rpc.Error{Why: capabilities.Invalid, Text: "dynamic offers: " + f.Message, Hint: f.Hint}
	}
	return out, nil
}

func offerOf(w *componentpb.Offer, d *manifest.Component) (manifest.Offer, error) {
	o := manifest.Offer{SourceName: w.Name, TargetName: w.As, Subdir: w.Subdir}
	if o.TargetName == "" {
		o.TargetName = w.Name
	}
	for _, k := range manifest.Kinds() {
		if k.String() == w.Kind {
			o.Kind = k
		}
	}
	if o.Kind == 0 {
		return o, fmt.Errorf("there is no kind of capability %q", w.Kind)
	}
	for _, t := range w.Rights {
		r, ok := manifest.ParseRights(t)
		if !ok {
			return o, fmt.Errorf("%q is no right", t)
		}
		o.Rights |= r
	}
	ok := w.Availability == ""
	for _, a := range []manifest.Availability{manifest.Required, manifest.Optional, manifest.Transitional, manifest.SameAsTarget} {
		if a.String() == w.Availability {
			o.Availability, ok = a, true
		}
	}
	if !ok {
		return o, fmt.Errorf("there is no availability %q", w.Availability)
	}
	if w.Weak {
		o.Dependency = manifest.Weak
	}
	from, dictionary, _ := strings.Cut(w.From, "/")
	o.Source.Dictionary = dictionary
	switch {
	case from == "parent":
		o.Source.Kind = manifest.RefParent
	case from == "self":
		o.Source.Kind = manifest.RefSelf
	case from == "framework":
		o.Source.Kind = manifest.RefFramework
	case from == "void":
		o.Source.Kind = manifest.RefVoid
	case strings.HasPrefix(from, "#"):
		o.Source.Name = from[1:]
		switch {
		case d.Collection(o.Source.Name) != nil:
			o.Source.Kind = manifest.RefCollection
		case d.Child(o.Source.Name) == nil && !strings.Contains(o.Source.Name, ":") &&
			d.Capability(manifest.KindStorage, o.Source.Name) != nil:
			o.Source.Kind = manifest.RefCapability
		default:
			o.Source.Kind = manifest.RefChild
		}
	default:
		return o, fmt.Errorf("from %q: must be parent, self, framework, void or #child", w.From)
	}
	return o, nil
}

// connect connects to a protocol that m exposes, or to an instance of a service.
func (s *session) connect(ctx context.Context, m name.Moniker, capability, instance string) (*os.File, error) {
	n, ok := s.cfg.Tree.Node(m)
	if !ok {
		return nil, notFound("there is no instance %s", m)
	}
	if instance != "" {
		return s.cfg.Tree.ConnectExposed(ctx, m, capability, instance)
	}
	r, err := s.cfg.Tree.Engine().Exposed(ctx, n, manifest.KindProtocol, capability)
	if err != nil {
		return nil, err
	}
	if r.Source.Kind != capabilities.FromComponent {
		return s.cfg.Tree.ConnectExposed(ctx, m, capability, "")
	}
	return s.cfg.Tree.Connect(ctx, r.Source.At, r.Source.Name)
}
