package cml

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// Decompile is a manifest that compiles to c again, its places aside, formatted but for what Format would sort. What differs in
// names or targets only stands in one clause, and what is the default is not written. A declaration that no manifest can say,
// which Compile never makes, comes out changed.
func Decompile(c *manifest.Component) []byte {
	tree, err := json5.Parse(decompile(c).JSON(), json5.Options{MaxBytes: math.MaxInt, MaxDepth: math.MaxInt})
	if err != nil {
		return nil // JSON writes no such thing
	}
	w := formatter{keepSets: true}
	w.document(&tree.Root)
	return w.out
}

func decompile(c *manifest.Component) *Document {
	s := &Source{}
	s.Tree, _ = json5.Parse([]byte("{}"), json5.Options{})
	d := decompiler{at: At{Source: s}}
	doc := &Document{At: d.at, Source: s}
	if c.Program != nil {
		doc.Program = d.object(c.Program.Info, "runner")
		if c.Program.Runner != "" {
			runner := Member{At: d.at, Name: "runner", Value: d.free(manifest.String(c.Program.Runner))}
			doc.Program.Members = append([]Member{runner}, doc.Program.Members...)
		}
	}
	if len(c.Facets) > 0 {
		doc.Facets = d.object(c.Facets, "")
	}
	for i := range c.Children {
		add(&d, &doc.Children, d.child(&c.Children[i]))
	}
	for i := range c.Collections {
		add(&d, &doc.Collections, d.collection(&c.Collections[i]))
	}
	for i := range c.Environments {
		add(&d, &doc.Environments, d.environment(&c.Environments[i]))
	}
	for i := range c.Capabilities {
		d.clause(&doc.Capabilities, &capabilityShape, d.capability(&c.Capabilities[i]))
	}
	for i := range c.Uses {
		d.clause(&doc.Use, &useShape, d.use(&c.Uses[i]))
	}
	d.offers(doc, c.Offers)
	for i := range c.Exposes {
		d.clause(&doc.Expose, &exposeShape, d.expose(&c.Exposes[i]))
	}
	if c.Config != nil && !c.Config.FromCapabilities {
		doc.Config.At = d.at
		for _, f := range c.Config.Fields {
			field := ConfigField{Key: d.text(f.Key), Type: d.configType(f.Type)}
			if f.MutableByParent {
				field.Type.Mutability = d.texts(true, "parent")
			}
			doc.Config.Fields = append(doc.Config.Fields, field)
		}
	}
	return doc
}

type decompiler struct {
	at    At
	names set // of the clause under way
}

// text is s, and nothing if s is "".
func (d *decompiler) text(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{d.at, s}
}

// word is e, and nothing if it is the default.
func word[E interface {
	comparable
	fmt.Stringer
}](d *decompiler, e E) Text {
	if e == *new(E) {
		return Text{}
	}
	return d.text(e.String())
}

func (d *decompiler) texts(many bool, items ...string) Texts {
	if len(items) == 0 {
		return Texts{}
	}
	ts := Texts{At: d.at, Many: many || len(items) > 1}
	for _, s := range items {
		ts.Items = append(ts.Items, Text{d.at, s})
	}
	return ts
}

func (d *decompiler) uint(n uint64) Uint {
	if n == 0 {
		return Uint{}
	}
	return Uint{d.at, n}
}

func (d *decompiler) flag(b bool) Flag {
	if !b {
		return Flag{}
	}
	return Flag{d.at, b}
}

func reference(name string) string {
	if name == "" {
		return ""
	}
	return "#" + name
}

func add[T any](d *decompiler, l *List[T], item T) {
	l.At = d.at
	l.Items = append(l.Items, item)
}

func (d *decompiler) child(c *manifest.Child) Child {
	out := Child{
		At: d.at, Name: d.text(c.Name), URL: d.text(c.URL), Startup: word(d, c.Startup),
		OnTerminate: word(d, c.OnTerminate), Environment: d.text(reference(c.Environment)),
	}
	if r := c.Restart; r != nil {
		out.Restart = Restart{
			When: word(d, r.When), Delay: Uint{d.at, uint64(r.DelayMS)}, MaxDelay: d.uint(uint64(r.MaxDelayMS)),
			Backoff: d.text(r.Backoff), Limit: d.uint(uint64(r.Limit)),
		}
		if r.FromStart {
			out.Restart.Delay = Uint{} // as if nothing were written
		}
		if r.WindowMS != 60_000 {
			out.Restart.Window = d.uint(uint64(r.WindowMS))
		}
		if !reflect.ValueOf(out.Restart).IsZero() {
			out.Restart.At = d.at
		}
	}
	return out
}

func (d *decompiler) collection(c *manifest.Collection) Collection {
	out := Collection{
		At: d.at, Name: d.text(c.Name), Durability: d.text(c.Durability.String()),
		Environment: d.text(reference(c.Environment)), AllowLongNames: d.flag(c.AllowLongNames),
		PersistentStorage: d.flag(c.PersistentStorage),
	}
	if c.DynamicOffers {
		out.AllowedOffers = d.text("static_and_dynamic")
	}
	return out
}

func (d *decompiler) environment(e *manifest.Environment) Environment {
	out := Environment{
		At: d.at, Name: d.text(e.Name), Extends: d.text("none"), Runners: d.registrations(e.Runners),
		Resolvers: d.registrations(e.Resolvers), Debug: d.registrations(e.Debug),
	}
	if e.ExtendsRealm {
		out.Extends.Value = "realm"
	}
	if e.StopTimeoutMS != nil {
		out.StopTimeout = Uint{d.at, uint64(*e.StopTimeoutMS)}
	}
	return out
}

func (d *decompiler) registrations(rs []manifest.Registration) (out List[Registration]) {
	for _, r := range rs {
		reg := Registration{At: d.at, Names: d.texts(false, r.Name), From: d.text(r.Source.String())}
		switch {
		case r.Kind == manifest.KindResolver:
			reg.Scheme = d.text(r.As)
		case r.As != r.Name:
			reg.As = d.text(r.As)
		}
		add(d, &out, reg)
	}
	return out
}

// clause appends c, or only its name to the clause before it if they say the same.
func (d *decompiler) clause(l *List[Clause], s *shape[Clause], c Clause) {
	name := c.Names.Items[0]
	alone := c.Path.At.IsSet() && c.Kind != manifest.KindEventStream || c.As.At.IsSet() || c.NumberedHandle.At.IsSet()
	if n := len(l.Items); n > 0 && !alone && s.many(c.Kind) {
		last := &l.Items[n-1]
		rest, other := *last, c
		rest.Names, other.Names = Texts{}, Texts{}
		if (objectForm[Clause]{s}).equal(&rest, &other) && d.names.add(name.Value) {
			last.Names.Items, last.Names.Many = append(last.Names.Items, name), true
			return
		}
	}
	add(d, l, c)
	d.names = set{}
	d.names.add(name.Value)
}

func (d *decompiler) capability(c *manifest.Capability) Clause {
	out := Clause{
		At: d.at, Kind: c.Kind, Names: d.texts(false, c.Name), Rights: d.rights(c.Rights),
		Delivery: word(d, c.Delivery), Activation: word(d, c.Activate),
	}
	if !(c.Path == "/svc/"+c.Name && (c.Kind == manifest.KindProtocol || c.Kind == manifest.KindService)) {
		out.Path = d.text(c.Path)
	}
	if s := c.Storage; s != nil {
		out.From, out.BackingDir, out.Subdir = d.texts(false, s.Source.String()), d.text(s.BackingDir), d.text(s.Subdir)
		out.StorageID = d.text("static_instance_id_or_moniker")
		if s.StaticIDOnly {
			out.StorageID.Value = "static_instance_id"
		}
	}
	if v := c.Config; v != nil {
		out.Type, out.Value = d.configType(v.Type), d.constant(v.Value)
	}
	return out
}

func (d *decompiler) use(u *manifest.Use) Clause {
	out := Clause{
		At: d.at, Kind: u.Kind, Names: d.texts(false, u.SourceName), Rights: d.rights(u.Rights), Subdir: d.text(u.Subdir),
		Scope: d.scope(u.Scope), Dependency: word(d, u.Dependency), Availability: word(d, u.Availability),
	}
	if u.Source.Kind != manifest.RefParent || u.Source.Dictionary != "" {
		out.From = d.texts(false, u.Source.String())
	}
	standard := "/svc/" + u.SourceName
	if u.Kind == manifest.KindEventStream {
		standard = eventStreamPath
	}
	if u.TargetPath != standard || u.Kind == manifest.KindDirectory || u.Kind == manifest.KindStorage {
		out.Path = d.text(u.TargetPath)
	}
	if u.NumberedHandle != nil {
		out.NumberedHandle = Uint{d.at, uint64(*u.NumberedHandle)}
	}
	if len(u.Filter) > 0 {
		out.Filter = d.object(u.Filter, "")
	}
	if c := u.Config; c != nil {
		out.Key, out.Type = d.text(c.Key), d.configType(c.Type)
		if c.Default != nil {
			out.Default = d.constant(c.Default)
		}
	}
	return out
}

// offers puts offers into one clause that differ in their targets only, and those into one that differ in their names only, since
// a clause stands for an offer of each name to each target.
func (d *decompiler) offers(doc *Document, offers []manifest.Offer) {
	for len(offers) > 0 {
		first := &offers[0]
		like := func(o *manifest.Offer, nameToo bool) bool {
			p := *o
			p.Pos, p.Target = first.Pos, first.Target
			if !nameToo {
				if p.SourceName != p.TargetName || first.SourceName != first.TargetName {
					return false
				}
				p.SourceName, p.TargetName = first.SourceName, first.TargetName
			}
			return reflect.DeepEqual(p, *first)
		}
		var to []string
		var targets, seen set
		for n := 0; n < len(offers) && like(&offers[n], true) && targets.add(offers[n].Target.String()); n++ {
			to = append(to, offers[n].Target.String())
		}
		names := []string{first.SourceName}
		seen.add(first.SourceName)
		n := len(to)
		for ; n+len(to) <= len(offers) && seen.add(offers[n].SourceName); n += len(to) {
			row, same := offers[n:n+len(to)], true
			for i := range row {
				same = same && like(&row[i], false) && row[i].SourceName == row[0].SourceName && row[i].Target.String() == to[i]
			}
			if !same {
				break
			}
			names = append(names, row[0].SourceName)
		}
		offers = offers[n:]
		c := Clause{
			At: d.at, Kind: first.Kind, Names: d.texts(false, names...), From: d.texts(false, first.Source.String()),
			To: d.texts(false, to...), Rights: d.rights(first.Rights), Subdir: d.text(first.Subdir), Scope: d.scope(first.Scope),
			Dependency: word(d, first.Dependency), Availability: word(d, first.Availability),
		}
		if first.TargetName != first.SourceName {
			c.As = d.text(first.TargetName)
		}
		add(d, &doc.Offer, c)
	}
}

func (d *decompiler) expose(e *manifest.Expose) Clause {
	out := Clause{
		At: d.at, Kind: e.Kind, Names: d.texts(false, e.SourceName), From: d.texts(false, e.Source.String()),
		Rights: d.rights(e.Rights), Subdir: d.text(e.Subdir), Scope: d.scope(e.Scope), Availability: word(d, e.Availability),
	}
	if e.Target.Kind != manifest.RefParent {
		out.To = d.texts(false, e.Target.String())
	}
	if e.TargetName != e.SourceName {
		out.As = d.text(e.TargetName)
	}
	return out
}

func (d *decompiler) scope(refs []manifest.Ref) Texts {
	var out []string
	for _, r := range refs {
		out = append(out, r.String())
	}
	return d.texts(false, out...)
}

// rights are an alias if one says it all, else the names.
func (d *decompiler) rights(r manifest.Rights) Texts {
	for _, alias := range []string{"r*", "w*", "x*", "rw*", "rx*"} {
		if all, _ := manifest.ParseRights(alias); all == r {
			return d.texts(true, alias)
		}
	}
	return d.texts(true, r.Names()...)
}

func (d *decompiler) configType(t manifest.ConfigType) ConfigType {
	out := ConfigType{
		At: d.at, Type: d.text(t.Kind.String()), MaxSize: d.uint(uint64(t.MaxSize)),
		MaxCount: d.uint(uint64(t.MaxCount)),
	}
	if t.Element != nil {
		element := d.configType(*t.Element)
		out.Element = &element
	}
	return out
}

// constant is a value of structured configuration.
func (d *decompiler) constant(v any) Free {
	switch x := v.(type) {
	case bool:
		return Free{At: d.at, Kind: json5.Bool, Text: strconv.FormatBool(x)}
	case uint64:
		return Free{At: d.at, Kind: json5.Number, Text: strconv.FormatUint(x, 10)}
	case int64:
		return Free{At: d.at, Kind: json5.Number, Text: strconv.FormatInt(x, 10)}
	case string:
		return Free{At: d.at, Kind: json5.String, Text: x}
	}
	out := Free{At: d.at, Kind: json5.Array}
	items, _ := v.([]any)
	for _, e := range items {
		out.Items = append(out.Items, d.constant(e))
	}
	return out
}

// object is a dictionary with its dotted keys as objects in objects, but for those of the member that is reserved, and those of a
// key that has a value itself.
func (d *decompiler) object(from manifest.Dictionary, reserved string) Free {
	whole := make(map[string]bool, len(from)+1)
	whole[reserved] = reserved != ""
	for _, e := range from {
		whole[e.Key] = true
	}
	out := Free{At: d.at, Kind: json5.Object}
	for _, e := range from {
		o, key := &out, e.Key
		for {
			first, more, ok := strings.Cut(key, ".")
			if !ok || whole[e.Key[:len(e.Key)-len(more)-1]] {
				break
			}
			// The keys are sorted, so that those of one object follow each other.
			n := len(o.Members)
			if n == 0 || o.Members[n-1].Name != first || o.Members[n-1].Value.Kind != json5.Object {
				o.Members = append(o.Members, Member{At: d.at, Name: first, Value: Free{At: d.at, Kind: json5.Object}})
				n++
			}
			o, key = &o.Members[n-1].Value, more
		}
		o.Members = append(o.Members, Member{At: d.at, Name: key, Value: d.free(e.Value)})
	}
	return out
}

func (d *decompiler) free(v manifest.Value) Free {
	switch x := v.(type) {
	case manifest.String:
		return Free{At: d.at, Kind: json5.String, Text: string(x)}
	case manifest.Strings:
		out := Free{At: d.at, Kind: json5.Array}
		for _, s := range x {
			out.Items = append(out.Items, d.free(manifest.String(s)))
		}
		return out
	case manifest.Objects:
		out := Free{At: d.at, Kind: json5.Array}
		for _, o := range x {
			out.Items = append(out.Items, d.object(o, ""))
		}
		return out
	}
	return Free{At: d.at, Kind: json5.Null, Text: "null"}
}
