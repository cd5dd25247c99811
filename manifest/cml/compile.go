package cml

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// Options say how Load compiles. The zero Options suit a manager that runs what it finds.
type Options struct {
	// Restrict refuses what a restricted feature gates, unless Features names the feature.
	Restrict bool
	Features []string

	// What every manifest must offer to all its children and collections, and must use.
	MustOfferProtocols    []string
	MustOfferDictionaries []string
	MustUseProtocols      []string

	// Includes find what the manifest includes; nil refuses includes.
	Includes *Includes

	// ForceRunner, if set, is what runs the program, whatever the manifest says.
	ForceRunner string
}

// Load parses, compiles and validates one manifest, and reports the errors and warnings of all three in the order of their
// places.
// The Validated is zero if there is an error.
func Load(file string, src []byte, o Options) (manifest.Validated, manifest.Diagnostics) {
	_, v, ds := LoadDocument(file, src, o)
	return v, ds
}

// LoadDocument is Load that also returns the document, with what it includes merged into it; never nil, whatever is wrong with
// it.
func LoadDocument(file string, src []byte, o Options) (*Document, manifest.Validated, manifest.Diagnostics) {
	doc, before := Parse(file, src)
	if o.Includes != nil {
		before = append(before, Expand(doc, o.Includes)...)
	}
	v, ds := doc.load(o, len(before.Errors()) > 0)
	return doc, v, doc.Placed(arrange(append(before, ds...)))
}

// load compiles and validates. After errors the Validated is zero, and broken says that there were some before.
func (doc *Document) load(o Options, broken bool) (manifest.Validated, manifest.Diagnostics) {
	if !doc.At.IsSet() {
		return manifest.Validated{}, nil
	}
	if o.ForceRunner != "" {
		doc.force(o.ForceRunner)
	}
	k := compiler{doc: doc, options: o}
	k.compile()
	broken = broken || len(k.diagnostics.Errors()) > 0
	v, ds := manifest.Validate(k.out, manifest.ValidateOptions{Where: k.where, Partial: broken})
	return v, append(k.diagnostics, ds...)
}

// force makes the runner that of the program.
func (doc *Document) force(runner string) {
	p := &doc.Program
	if !p.At.IsSet() {
		*p = Free{At: doc.At, Kind: json5.Object}
	}
	p.Members = slices.DeleteFunc(slices.Clone(p.Members), func(m Member) bool { return m.Name == "runner" })
	p.Members = append(p.Members, Member{At: p.At, Name: "runner", Value: Free{At: p.At, Kind: json5.String, Text: runner}})
	doc.Use.Items = slices.DeleteFunc(slices.Clone(doc.Use.Items), func(c Clause) bool { return c.Kind == manifest.KindRunner })
}

// Compile turns a document into a declaration: an entry for each name, targets expanded, defaults filled. Not everything that is
// wrong is found here; manifest.Validate finds the rest.
func Compile(doc *Document) (*manifest.Component, manifest.Diagnostics) {
	k := compiler{doc: doc}
	k.compile()
	return k.out, arrange(k.diagnostics)
}

// arrange sorts by place, and drops what is said twice.
func arrange(ds manifest.Diagnostics) manifest.Diagnostics {
	slices.SortStableFunc(ds, func(a, b manifest.Diagnostic) int {
		return cmp.Or(strings.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
	return slices.CompactFunc(ds, func(a, b manifest.Diagnostic) bool { return a.Pos == b.Pos && a.Message == b.Message })
}

type compiler struct {
	doc         *Document
	options     Options
	out         *manifest.Component
	diagnostics manifest.Diagnostics
	warnings    int // so many there are; at most maxWarnings of them in diagnostics
	omitted     int // errors beyond maxFindings
	lastWarning manifest.Pos

	// What each entry of out's lists was made from.
	capabilities, uses, exposes []*Clause
	offers                      []offerOrigin

	kindOf map[string]manifest.RefKind // of "#name"
	toAll  map[givenName]allOffer      // what is offered to "all"; nil if nothing is
	named  map[givenName]bool          // what collections are offered by their names; nil if nothing is offered to "all"
}

// A givenName is what a target is given a capability as. Its zero target stands for "all".
type givenName struct {
	kind   manifest.Kind
	target manifest.Ref
	name   string
}

type allOffer struct {
	clause *Clause
	source manifest.Ref
	name   Text
}

type offerOrigin struct {
	clause *Clause
	to     At
}

// maxWarnings is less than maxFindings, so that warnings never keep an error from being found.
const maxWarnings = 100

func (k *compiler) report(at At, rule, hint, format string, args ...any) {
	k.reportAt(at.Pos(), rule, hint, fmt.Sprintf(format, args...))
}

func (k *compiler) reportAt(pos manifest.Pos, rule, hint, message string) {
	if len(k.diagnostics) >= maxFindings {
		k.omitted++
		return
	}
	k.diagnostics = append(k.diagnostics, manifest.Diagnostic{Pos: pos, Rule: rule, Hint: hint, Message: message})
}

// restricted reports what needs a feature that is not enabled.
func (k *compiler) restricted(at At, feature string) {
	if k.options.Restrict && !slices.Contains(k.options.Features, feature) {
		k.report(at, "restricted-feature", fmt.Sprintf("enable it with --features %s", feature), "restricted feature %q is not enabled",
			feature)
	}
}

// where finds the place of a key for manifest.Validate.
func (k *compiler) where(section manifest.Section, i int, key string) manifest.Pos {
	switch section {
	case manifest.SectionChildren:
		return keyPos(&childShape, &k.doc.Children.Items[i], key)
	case manifest.SectionCollections:
		return keyPos(&collectionShape, &k.doc.Collections.Items[i], key)
	case manifest.SectionEnvironments:
		return keyPos(&environmentShape, &k.doc.Environments.Items[i], key)
	case manifest.SectionCapabilities:
		return keyPos(&capabilityShape, k.capabilities[i], key)
	case manifest.SectionRegistrations:
		return k.registrationPos(i, key)
	case manifest.SectionUse:
		return keyPos(&useShape, k.uses[i], key)
	case manifest.SectionOffer:
		if key == "to" {
			return k.offers[i].to.Pos()
		}
		return keyPos(&offerShape, k.offers[i].clause, key)
	case manifest.SectionExpose:
		return keyPos(&exposeShape, k.exposes[i], key)
	}
	return manifest.Pos{}
}

// registrationPos is the place of a key of the ith registration of all environments.
func (k *compiler) registrationPos(i int, key string) manifest.Pos {
	for e := range k.doc.Environments.Items {
		env := &k.doc.Environments.Items[e]
		for _, list := range []struct {
			items []Registration
			shape *shape[Registration]
		}{{env.Runners.Items, &runnerShape}, {env.Resolvers.Items, &resolverShape}, {env.Debug.Items, &debugShape}} {
			for j := range list.items {
				if i -= len(list.items[j].Names.Items); i < 0 {
					return keyPos(list.shape, &list.items[j], key)
				}
			}
		}
	}
	return manifest.Pos{}
}

// keyPos is the place of a key's value, or of the element of it that key names as "scope/1"; invalid if it was not written.
func keyPos[T any](s *shape[T], t *T, key string) manifest.Pos {
	key, element, isElement := strings.Cut(key, "/")
	i := s.index(key)
	if i < 0 {
		return manifest.Pos{}
	}
	field := s.keys[i].field(t)
	if ts, ok := field.(*Texts); ok && isElement {
		if n, err := strconv.Atoi(element); err == nil && n < len(ts.Items) {
			return ts.Items[n].At.Pos()
		}
	}
	return written(field).Pos()
}

// written is where the value of a key is that field points to.
func written(field any) At {
	switch f := field.(type) {
	case *Text:
		return f.At
	case *Texts:
		return f.At
	case *Uint:
		return f.At
	case *Flag:
		return f.At
	case *Free:
		return f.At
	case *Restart:
		return f.At
	case **ConfigType:
		if *f != nil {
			return (*f).At
		}
	}
	return At{}
}

func (k *compiler) compile() {
	doc := k.doc
	k.out = &manifest.Component{Sources: append([]string{doc.Source.File}, doc.Included...)}
	if !doc.At.IsSet() {
		return
	}
	if len(doc.Include.Items) > 0 {
		k.report(doc.Include.Items[0].At, "include", "", "includes cannot be resolved here")
	}
	k.indexNames()
	k.children()
	k.collections()
	k.environments()
	k.program()
	for i := range doc.Capabilities.Items {
		k.capability(&doc.Capabilities.Items[i])
	}
	for i := range doc.Use.Items {
		k.use(&doc.Use.Items[i])
	}
	k.indexToAll()
	for i := range doc.Offer.Items {
		k.offer(&doc.Offer.Items[i])
	}
	for i := range doc.Expose.Items {
		k.expose(&doc.Expose.Items[i])
	}
	if doc.Facets.At.IsSet() && doc.Facets.Kind == json5.Object {
		k.out.Facets = k.dictionary(&doc.Facets, "")
		k.testFacets()
	}
	k.config()
	k.requirements()
	if k.warnings > maxWarnings {
		k.diagnostics = append(k.diagnostics, manifest.Omitted(k.lastWarning, k.warnings-maxWarnings, true))
	}
	if k.omitted > 0 {
		k.diagnostics = append(k.diagnostics, manifest.Omitted(k.diagnostics[maxFindings-1].Pos, k.omitted, false))
	}
}

// indexNames notes what a reference "#name" means: a child before a collection before a capability.
func (k *compiler) indexNames() {
	doc := k.doc
	k.kindOf = make(map[string]manifest.RefKind, len(doc.Children.Items)+len(doc.Collections.Items))
	for i := range doc.Capabilities.Items {
		c := &doc.Capabilities.Items[i]
		if c.Kind == manifest.KindStorage || c.Kind == manifest.KindDictionary {
			for _, n := range c.Names.Items {
				k.kindOf[n.Value] = manifest.RefCapability
			}
		}
	}
	for i := range doc.Collections.Items {
		k.kindOf[doc.Collections.Items[i].Name.Value] = manifest.RefCollection
	}
	for i := range doc.Children.Items {
		k.kindOf[doc.Children.Items[i].Name.Value] = manifest.RefChild
	}
}

// ref reads a reference whose grammar has been checked.
func (k *compiler) ref(s string) manifest.Ref {
	root, path, _ := strings.Cut(s, "/")
	r := manifest.Ref{Dictionary: path}
	switch root {
	case "parent":
		r.Kind = manifest.RefParent
	case "self":
		r.Kind = manifest.RefSelf
	case "framework":
		r.Kind = manifest.RefFramework
	case "debug":
		r.Kind = manifest.RefDebug
	case "void":
		r.Kind = manifest.RefVoid
	default:
		r.Name = strings.TrimPrefix(root, "#")
		r.Kind = cmp.Or(k.kindOf[r.Name], manifest.RefChild)
	}
	return r
}

func (k *compiler) refs(ts Texts) []manifest.Ref {
	var out []manifest.Ref
	for _, t := range ts.Items {
		out = append(out, k.ref(t.Value))
	}
	return out
}

// source is the reference of a clause that has one source, parent if none is written.
func (k *compiler) source(ts Texts) manifest.Ref {
	if len(ts.Items) == 0 {
		return manifest.Ref{Kind: manifest.RefParent}
	}
	return k.ref(ts.Items[0].Value)
}

func (k *compiler) children() {
	items := k.doc.Children.Items
	k.out.Children = make([]manifest.Child, len(items))
	for i := range items {
		c := &items[i]
		out := manifest.Child{
			Pos: orElse(c.Name.At, c.At).Pos(), Name: c.Name.Value, URL: c.URL.Value,
			Startup:     pick(c.Startup, manifest.Lazy, manifest.Eager),
			OnTerminate: pick(c.OnTerminate, manifest.OnTerminateNone, manifest.OnTerminateReboot, manifest.OnTerminateRestart),
			Environment: strings.TrimPrefix(c.Environment.Value, "#"),
		}
		if r := &c.Restart; out.OnTerminate == manifest.OnTerminateRestart {
			out.Restart = &manifest.Restart{
				When:    pick(r.When, manifest.RestartAlways, manifest.RestartFailure),
				DelayMS: uint32(r.Delay.Value), FromStart: !r.Delay.At.IsSet(), MaxDelayMS: uint32(r.MaxDelay.Value),
				Backoff: r.Backoff.Value, Limit: uint32(r.Limit.Value), WindowMS: cmp.Or(uint32(r.Window.Value), 60_000),
			}
			if out.Restart.FromStart {
				// As runsv: a program that crashes at once must not take the machine.
				out.Restart.DelayMS = min(1000, cmp.Or(out.Restart.MaxDelayMS, 1000))
			}
		} else if r.At.IsSet() {
			k.report(r.At, "bad-restart", `write on_terminate: "restart"`, "`restart` needs on_terminate: \"restart\"")
		}
		k.out.Children[i] = out
	}
}

// pick is the value of an enumeration whose names t holds, the first if none is written.
func pick[E interface {
	fmt.Stringer
	~uint8
}](t Text, of ...E) E {
	for _, e := range of {
		if e.String() == t.Value {
			return e
		}
	}
	return of[0]
}

func (k *compiler) collections() {
	items := k.doc.Collections.Items
	k.out.Collections = make([]manifest.Collection, len(items))
	for i := range items {
		c := &items[i]
		if c.AllowLongNames.At.IsSet() {
			k.restricted(c.AllowLongNames.At, "allow_long_names")
		}
		k.out.Collections[i] = manifest.Collection{
			Pos: orElse(c.Name.At, c.At).Pos(), Name: c.Name.Value,
			Durability:        pick(c.Durability, manifest.Transient, manifest.SingleRun),
			Environment:       strings.TrimPrefix(c.Environment.Value, "#"),
			DynamicOffers:     c.AllowedOffers.Value == "static_and_dynamic",
			AllowLongNames:    c.AllowLongNames.Value,
			PersistentStorage: c.PersistentStorage.Value,
		}
	}
}

func orElse(a, b At) At {
	if a.IsSet() {
		return a
	}
	return b
}

func (k *compiler) environments() {
	items := k.doc.Environments.Items
	k.out.Environments = make([]manifest.Environment, len(items))
	for i := range items {
		e := &items[i]
		out := manifest.Environment{Pos: orElse(e.Name.At, e.At).Pos(), Name: e.Name.Value, ExtendsRealm: e.Extends.Value == "realm"}
		if e.Extends.At.IsSet() && e.Extends.Value == "" {
			out.ExtendsRealm = true // reported
		}
		if e.StopTimeout.At.IsSet() {
			ms := uint32(e.StopTimeout.Value)
			out.StopTimeoutMS = &ms
		}
		out.Runners = k.registrations(manifest.KindRunner, e.Runners.Items)
		out.Resolvers = k.registrations(manifest.KindResolver, e.Resolvers.Items)
		out.Debug = k.registrations(manifest.KindProtocol, e.Debug.Items)
		k.out.Environments[i] = out
	}
}

func (k *compiler) registrations(kind manifest.Kind, items []Registration) []manifest.Registration {
	var out []manifest.Registration
	for i := range items {
		r := &items[i]
		if r.As.At.IsSet() && len(r.Names.Items) > 1 {
			k.report(r.As.At, "as-with-many", "write one entry for each name",
				"\"as\" can only be specified when one `%s` is supplied.", kind)
		}
		for _, n := range r.Names.Items {
			reg := manifest.Registration{Pos: n.At.Pos(), Kind: kind, Source: k.ref(r.From.Value), Name: n.Value, As: n.Value}
			switch {
			case kind == manifest.KindResolver:
				reg.As = r.Scheme.Value
			case r.As.At.IsSet() && len(r.Names.Items) == 1:
				reg.As = r.As.Value
			}
			out = append(out, reg)
		}
	}
	return out
}

func (k *compiler) program() {
	p := &k.doc.Program
	if !p.At.IsSet() || p.Kind != json5.Object {
		return
	}
	out := &manifest.Program{Pos: p.At.Pos()}
	info := *p
	info.Members = nil
	for _, m := range p.Members {
		if m.Name != "runner" {
			info.Members = append(info.Members, m)
			continue
		}
		out.Runner, out.RunnerPos = m.Value.Text, m.Value.At.Pos()
		if m.Value.Kind != json5.String || aName.check(m.Value.Text) != nil {
			k.report(m.Value.At, "bad-runner", "",
				"`runner` must be a non-empty string property no more than 255 characters in length, a name of [A-Za-z0-9_.-]")
			out.Runner = cmp.Or(out.Runner, "?") // it is there, so it isn't missed
		}
	}
	out.Info = k.dictionary(&info, "")
	k.out.Program = out
}

// dictionary flattens an object.
func (k *compiler) dictionary(f *Free, prefix string) manifest.Dictionary {
	d := k.flatten(nil, f, prefix)
	slices.SortStableFunc(d, func(a, b manifest.Entry) int { return strings.Compare(a.Key, b.Key) })
	for i := 1; i < len(d); i++ {
		if d[i].Key == d[i-1].Key {
			k.reportAt(d[i].Pos, "duplicate-key", "", fmt.Sprintf("key %q occurs twice; first at %d:%d", d[i].Key, d[i-1].Pos.Line,
				d[i-1].Pos.Col))
		}
	}
	return d
}

func (k *compiler) flatten(d manifest.Dictionary, f *Free, prefix string) manifest.Dictionary {
	for i := range f.Members {
		m := &f.Members[i]
		key := prefix + m.Name
		if m.Value.Kind == json5.Object {
			d = k.flatten(d, &m.Value, key+".")
			continue
		}
		if v := k.value(&m.Value); v != nil {
			d = append(d, manifest.Entry{Key: key, Pos: m.At.Pos(), Value: v})
		}
	}
	return d
}

// value is a dictionary's value; nil after an error.
func (k *compiler) value(f *Free) manifest.Value {
	switch f.Kind {
	case json5.String:
		return manifest.String(f.Text)
	case json5.Null:
		return manifest.Null{}
	case json5.Array:
		return k.array(f)
	}
	k.report(f.At, "bad-value", fmt.Sprintf("write it as the string %q", f.Text),
		"value must be string, list of strings, or list of objects: %s", f.Text)
	return nil
}

func (k *compiler) array(f *Free) manifest.Value {
	if len(f.Items) > 0 && f.Items[0].Kind == json5.Object {
		var out manifest.Objects
		for i := range f.Items {
			if f.Items[i].Kind != json5.Object {
				k.report(f.Items[i].At, "bad-value", "", "values of an array must be either exclusively strings or exclusively objects")
				return nil
			}
			out = append(out, k.dictionary(&f.Items[i], ""))
		}
		return out
	}
	out := make(manifest.Strings, 0, len(f.Items))
	for i := range f.Items {
		it := &f.Items[i]
		switch it.Kind {
		case json5.String:
			out = append(out, it.Text)
		case json5.Number, json5.Bool:
			k.report(it.At, "bad-value", fmt.Sprintf("write it as the string %q", it.Text),
				"values of an array must be either exclusively strings or exclusively objects: %s", it.Text)
			return nil
		default:
			k.report(it.At, "bad-value", "", "values of an array must be either exclusively strings or exclusively objects")
			return nil
		}
	}
	return out
}

// applies warns of keys that don't belong to the clause's kind.
func (k *compiler) applies(s *shape[Clause], c *Clause) {
	for i := range s.keys {
		key := &s.keys[i]
		if key.of == nil || slices.Contains(key.of, c.Kind) {
			continue
		}
		at := written(key.field(c))
		if !at.IsSet() {
			continue
		}
		pos := at.Pos()
		if k.warnings++; k.warnings <= maxWarnings {
			k.lastWarning = pos
			k.diagnostics = append(k.diagnostics, manifest.Diagnostic{
				Pos: pos, Rule: "no-effect", Warning: true,
				Message: fmt.Sprintf("`%s` has no effect on `%s`", key.name, c.Kind),
			})
		}
	}
}

// single reports a key that can stand only beside one name.
func (k *compiler) single(c *Clause, key string, at At) {
	if at.IsSet() && len(c.Names.Items) > 1 {
		k.report(at, strings.ReplaceAll(key, "_", "-")+"-with-many", "write one entry for each name",
			"%q can only be specified when one `%s` is supplied.", key,
			c.Kind)
	}
}

func (k *compiler) capability(c *Clause) {
	if c.Kind == 0 {
		return
	}
	k.applies(&capabilityShape, c)
	k.single(c, "path", c.Path.At)
	switch c.Kind {
	case manifest.KindStorage:
		if !c.From.At.IsSet() {
			k.missing(c, "from")
		}
		if c.Path.At.IsSet() {
			k.report(c.Path.At, "path-with-storage", "", `"path" can not be present with "storage", use "backing_dir"`)
		}
		if !c.StorageID.At.IsSet() {
			k.missing(c, "storage_id")
		}
	case manifest.KindRunner, manifest.KindResolver:
		if c.From.At.IsSet() {
			k.report(c.From.At, "extra-from", "remove it: what a component declares is its own",
				`"from" should not be present with %q`, c.Kind)
		}
	case manifest.KindDictionary:
		if c.Path.At.IsSet() {
			k.restricted(c.Path.At, "dynamic_dictionaries")
		}
	}
	if c.Delivery.At.IsSet() {
		k.restricted(c.Delivery.At, "delivery_type")
	}
	var value *manifest.ConfigValue
	if c.Kind == manifest.KindConfig {
		value = k.configValue(c, &c.Value, "value")
	}
	rights := k.rights(c)
	for _, n := range c.Names.Items {
		out := manifest.Capability{
			Pos: n.At.Pos(), Kind: c.Kind, Name: n.Value, Path: c.Path.Value, Rights: rights, Config: value,
			Delivery: pick(c.Delivery, manifest.DeliverImmediate, manifest.DeliverOnReadable),
			Activate: pick(c.Activation, manifest.ActivationListen, manifest.ActivationBind),
		}
		switch c.Kind {
		case manifest.KindProtocol, manifest.KindService:
			out.Path = cmp.Or(out.Path, "/svc/"+n.Value)
		case manifest.KindStorage:
			out.Path = ""
			out.Storage = &manifest.StorageDecl{
				Source: k.source(c.From), BackingDir: c.BackingDir.Value, Subdir: c.Subdir.Value,
				StaticIDOnly: c.StorageID.Value == "static_instance_id",
			}
		}
		k.out.Capabilities = append(k.out.Capabilities, out)
		k.capabilities = append(k.capabilities, c)
	}
}

func (k *compiler) missing(c *Clause, key string) {
	k.report(c.Names.At, "missing-"+strings.ReplaceAll(key, "_", "-"), capabilityShape.adding(key),
		"%q should be present with %q", key, c.Kind)
}

// rights expands the aliases; two tokens may not say the same.
func (k *compiler) rights(c *Clause) manifest.Rights {
	var out manifest.Rights
	for _, t := range c.Rights.Items {
		r, ok := manifest.ParseRights(t.Value)
		if !ok {
			continue // reported
		}
		if out&r != 0 {
			k.report(t.At, "duplicate-right", "", "%q is duplicated in the rights clause.", t.Value)
		}
		out |= r
	}
	if out == 0 && c.Rights.At.IsSet() {
		return manifest.RightsR // what is wrong was reported
	}
	return out
}

// availability of a clause; missing means required.
func availability(t Text) manifest.Availability {
	return pick(t, manifest.Required, manifest.Optional, manifest.Transitional, manifest.SameAsTarget)
}

func dependency(t Text) manifest.DependencyType { return pick(t, manifest.Strong, manifest.Weak) }

// eventStreamPath is where event streams appear if nothing else is said.
const eventStreamPath = "/svc/cmgr.component.EventStream"

func (k *compiler) use(c *Clause) {
	if c.Kind == 0 {
		return
	}
	k.applies(&useShape, c)
	if c.Kind != manifest.KindEventStream {
		k.single(c, "path", c.Path.At)
	}
	k.single(c, "numbered_handle", c.NumberedHandle.At)
	if c.NumberedHandle.At.IsSet() && c.Path.At.IsSet() {
		k.report(c.Path.At, "path-and-handle", "", "`path` and `numbered_handle` exclude each other")
	}
	if c.Availability.At.IsSet() && (c.Kind == manifest.KindEventStream || c.Kind == manifest.KindRunner) {
		k.report(c.Availability.At, "bad-availability", "remove it", `"availability" cannot be used with %q`, c.Kind)
	}
	if c.Filter.At.IsSet() && c.Kind != manifest.KindEventStream {
		k.report(c.Filter.At, "extra-filter", "", `"filter" can only be used with "event_stream"`)
	}
	if c.Kind == manifest.KindStorage && c.From.At.IsSet() {
		k.report(c.From.At, "extra-from", "storage always comes from the parent", `"from" cannot be used with "storage"`)
	}
	if c.Kind == manifest.KindDictionary {
		k.restricted(c.Names.At, "use_dictionaries")
	}
	var config *manifest.UseConfig
	if c.Kind == manifest.KindConfig {
		config = k.useConfig(c)
	}
	rights, scope := k.rights(c), k.refs(c.Scope)
	path := c.Path.Value
	if len(c.Names.Items) > 1 && c.Kind != manifest.KindEventStream {
		path = "" // reported
	}
	var filter manifest.Dictionary
	if c.Filter.At.IsSet() {
		filter = k.dictionary(&c.Filter, "")
	}
	for _, n := range c.Names.Items {
		out := manifest.Use{
			Pos: n.At.Pos(), Kind: c.Kind, Source: k.source(c.From), SourceName: n.Value, TargetPath: path,
			Rights: rights, Subdir: c.Subdir.Value, Scope: scope, Dependency: dependency(c.Dependency),
			Availability: availability(c.Availability), Filter: filter, Config: config,
		}
		switch c.Kind {
		case manifest.KindProtocol:
			if c.NumberedHandle.At.IsSet() {
				h := uint8(c.NumberedHandle.Value)
				out.NumberedHandle, out.TargetPath = &h, ""
				break
			}
			out.TargetPath = cmp.Or(out.TargetPath, "/svc/"+n.Value)
		case manifest.KindService, manifest.KindDictionary:
			out.TargetPath = cmp.Or(out.TargetPath, "/svc/"+n.Value)
		case manifest.KindEventStream:
			out.TargetPath = cmp.Or(out.TargetPath, eventStreamPath)
		case manifest.KindRunner, manifest.KindConfig:
			out.TargetPath = ""
		}
		k.out.Uses = append(k.out.Uses, out)
		k.uses = append(k.uses, c)
	}
}

// routed checks what offer and expose have in common.
func (k *compiler) routed(section string, s *shape[Clause], c *Clause) {
	k.applies(s, c)
	switch c.Kind {
	case manifest.KindEventStream:
		if c.As.At.IsSet() && len(c.Names.Items) > 1 {
			what := "events"
			if section == "expose" {
				what = "event streams"
			}
			k.report(c.As.At, "as-with-many", "write one entry for each name", "as cannot be used with multiple %s", what)
		}
	default:
		k.single(c, "as", c.As.At)
	}
	if len(c.From.Items) > 1 && c.Kind != manifest.KindService {
		k.report(c.From.Items[1].At, "many-sources", "only services can be aggregated",
			`%q capabilities cannot have multiple "from" clauses`, c.Kind)
	}
}

// sources are what a clause comes from: several only of a service, which has been reported.
func sources(c *Clause) []Text {
	if c.Kind != manifest.KindService && len(c.From.Items) > 1 {
		return c.From.Items[:1]
	}
	return c.From.Items
}

// lost says whether a source is one that `source_availability: "unknown"` allows to be missing, and is missing.
func (k *compiler) lost(c *Clause, from Text) bool {
	if c.SourceAvailability.Value != "unknown" {
		return false
	}
	r := k.ref(from.Value)
	if r.Kind != manifest.RefChild || k.kindOf[r.Name] != 0 {
		return false
	}
	if a := c.Availability; a.At.IsSet() && a.Value != "optional" {
		k.report(a.At, "bad-availability", "",
			"capabilities with an intentionally missing source must have an availability that is either unset or "+
				"\"optional\", capabilities: %s, from: %q", quoted(values(c.Names)), from.Value)
	}
	return true
}

func values(ts Texts) []string {
	out := make([]string, len(ts.Items))
	for i, t := range ts.Items {
		out[i] = t.Value
	}
	return out
}

// maxRoutes bounds the offers and exposes of one manifest: names × sources × targets can be far more than the text is long.
const maxRoutes = 1 << 18

func (k *compiler) tooMany(at At) bool {
	if len(k.out.Offers)+len(k.out.Exposes) < maxRoutes {
		return false
	}
	k.report(at, "too-many", "", "the manifest has more than %d offers and exposes", maxRoutes)
	return true
}

func (k *compiler) offer(c *Clause) {
	if c.Kind == 0 {
		return
	}
	k.routed("offer", &offerShape, c)
	if c.Dependency.At.IsSet() && !slices.Contains(ordering, c.Kind) {
		k.report(c.Dependency.At, "extra-dependency", "",
			"dependency can only be provided for protocol, directory, and service capabilities")
	}
	targets := k.targets(c)
	out := manifest.Offer{
		Kind: c.Kind, Rights: k.rights(c), Subdir: c.Subdir.Value, Scope: k.refs(c.Scope),
		Dependency: dependency(c.Dependency),
	}
	n := min(len(sources(c))*len(c.Names.Items)*len(targets), 1<<10)
	k.out.Offers, k.offers = slices.Grow(k.out.Offers, n), slices.Grow(k.offers, n)
	for _, from := range sources(c) {
		out.Source, out.Availability = k.ref(from.Value), availability(c.Availability)
		if k.lost(c, from) {
			out.Source, out.Availability = manifest.Ref{Kind: manifest.RefVoid}, manifest.Optional
		}
		for _, n := range c.Names.Items {
			out.Pos, out.SourceName, out.TargetName = n.At.Pos(), n.Value, as(c, n.Value)
			if a := k.toAll[givenName{kind: c.Kind, name: out.TargetName}]; toAll(c) && (a.clause != c || a.name.At != n.At) {
				at := n.At
				if len(c.Names.Items) == 1 {
					at = orElse(c.As.At, at)
				}
				k.report(at, "duplicate-target", "the first one is at "+a.name.At.Pos().String(),
					"%s(s) [%q] offered to \"all\" multiple times", title(c.Kind), out.TargetName)
				continue
			}
			for _, to := range targets {
				out.Target = to.ref
				if toAll(c) && k.exempt(&out) || !toAll(c) && k.coveredByAll(c, &out, to.at) {
					continue
				}
				if k.tooMany(n.At) {
					return
				}
				k.out.Offers = append(k.out.Offers, out)
				k.offers = append(k.offers, offerOrigin{c, to.at})
			}
		}
	}
}

func title(k manifest.Kind) string { return strings.ToUpper(k.String()[:1]) + k.String()[1:] }

// indexToAll notes what is offered to "all", and what is offered to collections by name.
func (k *compiler) indexToAll() {
	items := k.doc.Offer.Items
	for i := range items {
		if c := &items[i]; toAll(c) && len(c.From.Items) > 0 {
			for _, n := range c.Names.Items {
				key := givenName{kind: c.Kind, name: as(c, n.Value)}
				if _, ok := k.toAll[key]; !ok {
					if k.toAll == nil {
						k.toAll = map[givenName]allOffer{}
					}
					k.toAll[key] = allOffer{c, k.ref(c.From.Items[0].Value), n}
				}
			}
		}
	}
	if k.toAll == nil {
		return
	}
	k.named = map[givenName]bool{}
	for i := range items {
		c := &items[i]
		for _, to := range c.To.Items {
			if r := k.ref(to.Value); r.Kind == manifest.RefCollection {
				for _, n := range c.Names.Items {
					k.named[givenName{c.Kind, r, as(c, n.Value)}] = true
				}
			}
		}
	}
}

// exempt says whether an offer to "all" leaves o's target out: the source itself, and a collection that is offered the same name
// by its own.
func (k *compiler) exempt(o *manifest.Offer) bool {
	return o.Source.Kind == manifest.RefChild && o.Source.Name == o.Target.Name || k.named[givenName{o.Kind, o.Target, o.TargetName}]
}

// as is the name under which a clause gives n.
func as(c *Clause, n string) string {
	if c.As.At.IsSet() && len(c.Names.Items) == 1 {
		return c.As.Value
	}
	return n
}

type target struct {
	ref manifest.Ref
	at  At
}

// toAll says whether an offer goes to "all".
func toAll(c *Clause) bool { return len(c.To.Items) == 1 && c.To.Items[0].Value == "all" && !c.To.Many }

// targets are the children, collections and dictionaries that an offer goes to.
func (k *compiler) targets(c *Clause) []target {
	var out []target
	if toAll(c) {
		at := c.To.At
		if c.Kind != manifest.KindProtocol && c.Kind != manifest.KindDictionary {
			k.report(at, "bad-all", "name the targets", "only protocols and dictionaries can be offered to \"all\"")
			return nil
		}
		out = make([]target, 0, len(k.doc.Children.Items)+len(k.doc.Collections.Items))
		for i := range k.doc.Children.Items {
			out = append(out, target{manifest.Ref{Kind: manifest.RefChild, Name: k.doc.Children.Items[i].Name.Value}, at})
		}
		for i := range k.doc.Collections.Items {
			out = append(out, target{manifest.Ref{Kind: manifest.RefCollection, Name: k.doc.Collections.Items[i].Name.Value}, at})
		}
		return out
	}
	out = make([]target, 0, len(c.To.Items))
	for _, t := range c.To.Items {
		r := k.ref(t.Value)
		if c.TargetAvailability.Value == "unknown" && k.absent(r) {
			continue
		}
		out = append(out, target{r, t.At})
	}
	return out
}

// absent says whether a target is not in the manifest.
func (k *compiler) absent(r manifest.Ref) bool {
	if r.Kind == manifest.RefSelf {
		return k.kindOf[r.Dictionary] != manifest.RefCapability
	}
	return r.Kind == manifest.RefChild && k.kindOf[r.Name] == 0
}

// coveredByAll says whether an offer to one child is the same as one to "all", which has it already; and reports it where only
// the
// name is the same (V46).
func (k *compiler) coveredByAll(c *Clause, o *manifest.Offer, to At) bool {
	a, ok := k.toAll[givenName{kind: o.Kind, name: o.TargetName}]
	if !ok || o.Target.Kind != manifest.RefChild {
		return false
	}
	hint := "the offer to \"all\" is at " + a.name.At.Pos().String()
	switch {
	case a.name.Value != o.SourceName:
		plural := map[manifest.Kind]string{manifest.KindProtocol: "protocols", manifest.KindDictionary: "dictionaries"}[c.Kind]
		k.report(to, "offer-to-all", hint,
			"%s %s is aliased to %q with the same name as an offer to \"all\", but from different source %s",
			title(c.Kind), o.TargetName, o.Target.Name, plural)
	case a.source != o.Source:
		k.report(to, "offer-to-all", hint, "%s %s is offered to both \"all\" and child component %q with different sources",
			title(c.Kind), o.SourceName, o.Target.Name)
	}
	return true
}

func (k *compiler) expose(c *Clause) {
	if c.Kind == 0 {
		return
	}
	k.routed("expose", &exposeShape, c)
	to := manifest.Ref{Kind: manifest.RefParent}
	if len(c.To.Items) > 0 && c.To.Items[0].Value == "framework" {
		to.Kind = manifest.RefFramework
	}
	out := manifest.Expose{Kind: c.Kind, Target: to, Rights: k.rights(c), Subdir: c.Subdir.Value, Scope: k.refs(c.Scope)}
	for _, from := range sources(c) {
		out.Source, out.Availability = k.ref(from.Value), availability(c.Availability)
		if k.lost(c, from) {
			out.Source, out.Availability = manifest.Ref{Kind: manifest.RefVoid}, manifest.Optional
		}
		for _, n := range c.Names.Items {
			if k.tooMany(n.At) {
				return
			}
			out.Pos, out.SourceName, out.TargetName = n.At.Pos(), n.Value, as(c, n.Value)
			k.out.Exposes = append(k.out.Exposes, out)
			k.exposes = append(k.exposes, c)
		}
	}
}

// configType is a type as it was written, checked; false after an error. name is what messages call its owner, "" for the config
// section.
func (k *compiler) configType(t *ConfigType, at At, name string) (manifest.ConfigType, bool) {
	missing := func(key string) (manifest.ConfigType, bool) {
		if name == "" {
			k.report(at, "missing-key", configTypeShape.adding(key), "missing field `%s`", key)
		} else {
			typ := strings.ToUpper(t.Type.Value[:1]) + t.Type.Value[1:]
			k.report(at, "missing-key", configTypeShape.adding(key), "Config '%s' is type %s but is missing field '%s'", name, typ, key)
		}
		return manifest.ConfigType{}, false
	}
	out := manifest.ConfigType{MaxSize: uint32(t.MaxSize.Value), MaxCount: uint32(t.MaxCount.Value)}
	i := slices.Index(configWords, t.Type.Value)
	if i < 0 {
		return out, false // reported
	}
	out.Kind = manifest.ConfigKind(i)
	switch {
	case out.Kind == manifest.ConfigString && !t.MaxSize.At.IsSet():
		return missing("max_size")
	case out.Kind == manifest.ConfigVector && t.Element == nil:
		return missing("element")
	case out.Kind == manifest.ConfigVector && !t.MaxCount.At.IsSet():
		return missing("max_count")
	}
	for _, x := range []struct {
		name string
		at   At
		ok   bool
	}{{"max_size", t.MaxSize.At, out.Kind == manifest.ConfigString}, {
		"max_count", t.MaxCount.At,
		out.Kind == manifest.ConfigVector,
	}} {
		if x.at.IsSet() && !x.ok {
			k.report(x.at, "extra-key", "", "type `%s` has no `%s`", t.Type.Value, x.name)
		}
	}
	if t.Element == nil {
		return out, true
	}
	if out.Kind != manifest.ConfigVector {
		k.report(t.Element.At, "extra-key", "", "type `%s` has no `element`", t.Type.Value)
		return out, false
	}
	element, ok := k.configType(t.Element, t.Element.At, name)
	if element.Kind == manifest.ConfigVector && ok {
		k.report(t.Element.Type.At, "nested-vector", "", "a vector cannot hold vectors")
		return out, false
	}
	out.Element = &element
	return out, ok
}

// configValue is the typed constant of a clause; nil after an error.
func (k *compiler) configValue(c *Clause, f *Free, key string) *manifest.ConfigValue {
	name := ""
	if len(c.Names.Items) > 0 {
		name = c.Names.Items[0].Value
	}
	if !c.Type.Type.At.IsSet() {
		k.report(c.Names.At, "missing-key", "add `type`: "+oneOf(configWords), "Config '%s' is missing field 'type'", name)
		return nil
	}
	t, ok := k.configType(&c.Type, c.Names.At, name)
	if !ok {
		return nil
	}
	if !f.At.IsSet() {
		if key == "value" {
			k.report(c.Names.At, "missing-key", capabilityShape.adding("value"), "Config '%s' is missing field 'value'", name)
			return nil
		}
		return &manifest.ConfigValue{Type: t}
	}
	v := k.constant(t, f)
	if v == nil {
		return nil
	}
	return &manifest.ConfigValue{Type: t, Value: v}
}

// constant reads a value of type t; nil after an error.
func (k *compiler) constant(t manifest.ConfigType, f *Free) any {
	lit := hujson.Value{Value: hujson.Literal(f.Text)}
	var v any
	switch {
	case t.Kind == manifest.ConfigBool && f.Kind == json5.Bool:
		v = f.Text == "true"
	case t.Kind == manifest.ConfigString && f.Kind == json5.String:
		v = f.Text
	case t.Kind == manifest.ConfigVector && f.Kind == json5.Array:
		items := make([]any, len(f.Items))
		for i := range f.Items {
			if items[i] = k.constant(*t.Element, &f.Items[i]); items[i] == nil {
				return nil
			}
		}
		v = items
	case f.Kind == json5.Number && t.Kind >= manifest.ConfigUint8 && t.Kind <= manifest.ConfigUint64:
		if n, err := json5.Uint(lit); err == nil {
			v = n
		}
	case f.Kind == json5.Number && t.Kind >= manifest.ConfigInt8 && t.Kind <= manifest.ConfigInt64:
		if n, err := json5.Int(lit); err == nil {
			v = n
		}
	}
	if v == nil {
		k.report(f.At, "bad-config-value", "", "%s is not a value of type %s", f.describe(), t.Kind)
		return nil
	}
	if err := t.Check(v); err != nil {
		k.report(f.At, "bad-config-value", "", "%v", err)
		return nil
	}
	return v
}

// describe is f as messages show it.
func (f *Free) describe() string {
	switch f.Kind {
	case json5.String:
		return fmt.Sprintf("string %q", f.Text)
	case json5.Number, json5.Bool:
		return f.Text
	}
	return f.Kind.String()
}

func (k *compiler) useConfig(c *Clause) *manifest.UseConfig {
	name := ""
	if len(c.Names.Items) > 0 {
		name = c.Names.Items[0].Value
	}
	if !c.Key.At.IsSet() {
		k.report(c.Names.At, "missing-key", useShape.adding("key"), "Config '%s' missing field 'key'", name)
	}
	if c.Default.At.IsSet() && availability(c.Availability) == manifest.Required {
		k.report(c.Default.At, "required-default", `write availability: "optional", or remove the default`,
			"Config '%s' is required and has a default value", name)
	}
	v := k.configValue(c, &c.Default, "default")
	if v == nil || !c.Key.At.IsSet() {
		return nil
	}
	return &manifest.UseConfig{Key: c.Key.Value, Type: v.Type, Default: v.Value}
}

// config is the schema: the section's keys and those of used config capabilities.
func (k *compiler) config() {
	section := &k.doc.Config
	var out manifest.Config
	if section.At.IsSet() {
		out.Pos = section.At.Pos()
		if len(section.Fields) == 0 {
			k.report(section.At, "empty-config", "remove it", "'config' section is empty")
		}
	} else {
		out.FromCapabilities = true
	}
	for i := range section.Fields {
		f := &section.Fields[i]
		t, ok := k.configType(&f.Type, f.Type.At, "")
		if !ok {
			continue
		}
		out.Fields = append(out.Fields, manifest.ConfigField{
			Pos: f.Key.At.Pos(), Key: f.Key.Value, Type: t,
			MutableByParent: slices.Contains(values(f.Type.Mutability), "parent"),
		})
	}
	byKey := make(map[string]int, len(out.Fields))
	for i := range out.Fields {
		byKey[out.Fields[i].Key] = i
	}
	own := len(out.Fields)
	for i := range k.out.Uses {
		u := &k.out.Uses[i]
		if u.Config == nil {
			continue
		}
		at, ok := byKey[u.Config.Key]
		if !ok {
			at = len(out.Fields)
			byKey[u.Config.Key] = at
			out.Pos = cmp.Or(out.Pos, u.Pos)
			out.Fields = append(out.Fields, manifest.ConfigField{Pos: u.Pos, Key: u.Config.Key, Type: u.Config.Type})
		}
		fallback := u.Availability == manifest.Required || u.Config.Default != nil
		switch {
		case at >= own && !fallback:
			msg := "optionally using a config capability without a default requires a matching 'config' section."
			if section.At.IsSet() {
				msg = fmt.Sprintf("'config' section must contain key for optional use '%s'", u.Config.Key)
			}
			k.reportAt(u.Pos, "optional-config", "add the key to `config`, or a `default` here", msg)
		case at < own && !out.Fields[at].Type.Equal(u.Config.Type):
			msg := fmt.Sprintf("Config error: `use` and `config` block contain key '%s' with different types", u.Config.Key)
			if !fallback {
				msg = fmt.Sprintf("Use and config block differ on type for key '%s'", u.Config.Key)
			}
			k.reportAt(cmp.Or(k.where(manifest.SectionUse, i, "type"), u.Pos), "config-type",
				"the config section has it at "+out.Fields[at].Pos.String(), msg)
		}
	}
	if len(out.Fields) == 0 {
		return
	}
	slices.SortFunc(out.Fields, func(a, b manifest.ConfigField) int { return strings.Compare(a.Key, b.Key) })
	k.out.Config = &out
}
