package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// declaredInSelf checks that what comes from self, or from a dictionary of self, is declared (V11, V12, V32, V40).
func (v *validator) declaredInSelf(verb string, k Kind, capName string, source Ref, pos place) {
	if source.Kind != RefSelf {
		return
	}
	if source.Dictionary != "" {
		dict, _, _ := strings.Cut(source.Dictionary, "/")
		if !v.has(KindDictionary, dict) {
			v.report(pos, "undeclared", v.nearest(dict, v.declared(KindDictionary)),
				"%s %q is %s from %q, so %q must be declared as a \"dictionary\" in \"capabilities\"",
				k, capName, verb, source, dict)
		}
		return
	}
	if v.has(k, capName) {
		return
	}
	hint := v.nearest(capName, v.declared(k))
	for _, other := range Kinds() {
		if v.has(other, capName) {
			hint = fmt.Sprintf("it is declared as a %q", other)
		}
	}
	v.report(pos, "undeclared", hint, "%s %q is %s from self, so it must be declared as a %q in \"capabilities\"", k, capName, verb,
		k)
}

// source checks that a source "#x" exists and can have a capability of the kind (V28, V56, V66).
func (v *validator) source(section string, k Kind, source Ref, pos place) {
	var ok bool
	where := `"children"`
	switch source.Kind {
	case RefChild:
		_, ok = v.children_[source.Name]
	case RefCollection:
		_, ok = v.collections_[source.Name]
		ok = ok && k == KindService
	case RefCapability:
		// A protocol from storage is the storage's administration; what a dictionary holds is addressed as self/<dictionary>.
		ok = (k == KindProtocol || section == "use" && k != KindService) && (v.has(KindStorage, source.Name) || v.has(KindDictionary,
			source.Name))
	default:
		return
	}
	if ok || source.Name == "" {
		return
	}
	candidates := []func() []string{references(names(v.children_))}
	switch {
	case k == KindService:
		where += ` or "collections"`
		candidates = append(candidates, references(names(v.collections_)))
	case k == KindProtocol || section == "use":
		where += ` or "capabilities"`
		candidates = append(candidates, references(v.declared(KindStorage, KindDictionary)))
	}
	ref := source
	ref.Dictionary = ""
	hint := v.nearest(ref.String(), candidates...)
	switch {
	case source.Kind == RefCollection:
		hint = fmt.Sprintf("%q is a collection, which only a service can come from", source.Name)
	case hint == "" && source.Kind == RefChild:
		if section == "use" {
			hint = "only a child of its own can be named here; what a sibling has comes by way of the parent: leave out `from`, and let " +
				"the parent offer it"
		}
		if _, isEnv := v.environments_[source.Name]; isEnv {
			hint = fmt.Sprintf("%q is an environment", source.Name)
		}
		for _, kind := range Kinds() {
			if v.has(kind, source.Name) {
				hint = fmt.Sprintf("%q is declared by this component: write from: \"self\"", source.Name)
			}
		}
	}
	v.report(pos, "unknown-source", hint, "%q source %q does not appear in %s", section, ref, where)
}

// noDictionary checks that the kind can be held by a dictionary (V19, V35, V44).
func (v *validator) noDictionary(k Kind, source Ref, pos place) {
	if source.Dictionary != "" && (k == KindStorage || k == KindEventStream) {
		v.report(pos, "no-dictionary", "", "Dictionaries do not support %q capabilities", k)
	}
}

func (v *validator) scope(s Section, i int, scope []Ref, entry Pos) {
	for j, r := range scope {
		if r.Kind == RefChild {
			if _, ok := v.children_[r.Name]; ok {
				continue
			}
		}
		if r.Kind == RefCollection || r.Name == "" {
			continue
		}
		v.report(v.pos(s, i, fmt.Sprintf("scope/%d", j), entry), "unknown-scope",
			v.nearest(r.String(), references(names(v.children_)), references(names(v.collections_))),
			"event_stream scope %s did not match a component or collection in this .cml file.", r.Name)
	}
}

func (v *validator) uses() {
	config := make(map[string]Pos)
	for i := range v.c.Uses {
		u := &v.c.Uses[i]
		from := v.pos(SectionUse, i, "from", u.Pos)
		switch {
		case u.Source.Kind == RefDebug && u.Kind != KindProtocol:
			v.report(from, "debug-source", "", "only \"protocol\" supports source from \"debug\"")
		case u.Source.Kind == RefSelf && (u.Kind == KindEventStream || u.Kind == KindRunner):
			v.report(from, "bad-source", "", "\"from: self\" cannot be used with %q", u.Kind)
		case u.Source.Kind == RefVoid || u.Source.Kind == RefEnvironment && u.Kind != KindRunner:
			v.report(from, "bad-source", "", "a use cannot come from %q", u.Source)
		case u.Kind == KindEventStream && u.Source.Kind != RefParent && u.Source.Kind != RefChild:
			v.report(from, "bad-source", "", "an event_stream can only be used from parent or a child, not from %q", u.Source)
		default:
			v.declaredInSelf("used", u.Kind, u.SourceName, u.Source, from)
			v.source("use", u.Kind, u.Source, from)
		}
		v.noDictionary(u.Kind, u.Source, from)
		if u.Availability == SameAsTarget {
			v.report(v.pos(SectionUse, i, "availability", u.Pos), "bad-availability", "",
				"\"availability: same_as_target\" cannot be used with use declarations")
		}
		if u.Dependency == Weak && u.Source.Kind != RefChild && u.Source.Kind != RefCollection && u.Source.Kind != RefCapability {
			v.report(v.pos(SectionUse, i, "dependency", u.Pos), "weak-use", "remove it",
				"Only `use` from children can have dependency: \"weak\"")
		}
		for j, r := range u.Scope {
			if r.Kind != RefChild && r.Kind != RefCollection {
				v.report(v.pos(SectionUse, i, fmt.Sprintf("scope/%d", j), u.Pos), "unknown-scope", "",
					"event_stream scope %s is not a component or collection.",
					r)
			}
		}
		switch u.Kind {
		case KindDirectory, KindStorage:
			if u.TargetPath == "" {
				v.report(here(u.Pos), "missing-path", forInstance(u.Kind, u.SourceName), "\"path\" should be present for `use %s`.", u.Kind)
			}
			if u.Kind == KindDirectory && u.Rights == 0 {
				v.report(here(u.Pos), "missing-rights", `for instance rights: ["r*"]`, "This use statement requires a `rights` field.")
			}
		case KindProtocol:
			if (u.TargetPath == "") == (u.NumberedHandle == nil) {
				v.report(here(u.Pos), "missing-path", "", "a used protocol has either a path or a numbered handle")
			}
		case KindResolver:
			v.report(here(u.Pos), "bad-kind", "", "a resolver cannot be used; an environment registers it")
		case KindConfig:
			if u.Config == nil {
				if !v.options.Partial {
					v.report(here(u.Pos), "missing-key", "", "config %q has neither key nor type", u.SourceName)
				}
				break
			}
			v.configType(u.Config.Type, u.Pos)
			if schema := v.c.Config; u.Availability != Required && u.Config.Default == nil && (schema == nil || schema.FromCapabilities) &&
				!v.options.Partial {
				v.report(here(u.Pos), "optional-config", "add a `default`",
					"optionally using a config capability without a default requires a matching 'config' section.")
			}
			if p, ok := config[u.Config.Key]; ok {
				v.report(v.pos(SectionUse, i, "key", u.Pos), "duplicate-target", at("the first one", p),
					"%q is a duplicate \"use\" target config", u.Config.Key)
			} else {
				config[u.Config.Key] = u.Pos
			}
			if u.Config.Default == nil {
				break
			}
			pos := v.pos(SectionUse, i, "default", u.Pos)
			if u.Availability == Required {
				v.report(pos, "required-default", `write availability: "optional", or remove the default`,
					"Config '%s' is required and has a default value", u.SourceName)
			}
			if err := u.Config.Type.Check(u.Config.Default); err != nil {
				v.report(pos, "bad-config-value", "", "config %q: %v", u.SourceName, err)
			}
		}
	}
	v.usedPaths()
}

// usedPaths checks that no two uses meet in the namespace (V23, V24, V25).
func (v *validator) usedPaths() {
	type entry struct {
		i    int
		path string // what must not be covered: the directory of a socket, or the directory itself
	}
	var entries []entry
	byPath := make(map[string]int, len(v.c.Uses))
	for i := range v.c.Uses {
		u := &v.c.Uses[i]
		if !strings.HasPrefix(u.TargetPath, "/") {
			continue
		}
		pos := v.pos(SectionUse, i, "path", u.Pos)
		if within(u.TargetPath, "/pkg") {
			v.report(pos, "protected-path", "",
				"%s %q conflicts with the protected path \"/pkg\", please use this capability with a different path", u.Kind, u.TargetPath)
		}
		if first, ok := byPath[u.TargetPath]; ok {
			// The streams of one clause share one path, and equal dictionaries merge.
			if k := v.c.Uses[first].Kind; k != u.Kind || k != KindEventStream && k != KindDictionary {
				v.report(pos, "duplicate-target", at("the first one", v.c.Uses[first].Pos), "%q is a duplicate \"use\" target %s",
					u.TargetPath, u.Kind)
			}
			continue
		}
		byPath[u.TargetPath] = i
		e := entry{i, u.TargetPath}
		if isSocket(u.Kind) {
			e.path = u.TargetPath[:strings.LastIndexByte(u.TargetPath, '/')]
		}
		entries = append(entries, e)
	}
	// In the order of segments every path stands right behind those that contain it, so one stack finds all overlaps.
	order := slices.Clone(entries)
	slices.SortStableFunc(order, func(a, b entry) int { return comparePaths(a.path, b.path) })
	var stack []entry
	for _, e := range order {
		for len(stack) > 0 && !within(e.path, stack[len(stack)-1].path) {
			stack = stack[:len(stack)-1]
		}
		n := len(stack)
		if v.full() { // there can be as many overlaps as pairs
			if n > 0 && !v.mayOverlap(stack[n-1].i, e.i, stack[n-1].path == e.path) {
				v.omitted++
			}
			stack = append(stack, e)
			continue
		}
		if n > 0 && stack[n-1].path == e.path && isSocket(v.c.Uses[stack[n-1].i].Kind) &&
			isSocket(v.c.Uses[e.i].Kind) {
			continue // one socket stands for all of its directory
		}
		for _, above := range stack {
			if v.mayOverlap(above.i, e.i, above.path == e.path) {
				continue
			}
			// The one that was declared first is named first.
			a, b := &v.c.Uses[above.i], &v.c.Uses[e.i]
			at_, verb := e.i, "is a prefix of"
			if above.i > e.i {
				a, b, at_ = b, a, above.i
				if above.path != e.path {
					verb = "lies within"
				}
			}
			v.report(v.pos(SectionUse, at_, "path", v.c.Uses[at_].Pos), "path-overlap", at("the first one", a.Pos),
				"%s %q %s \"use\" target %s %q",
				a.Kind, a.TargetPath, verb, b.Kind, b.TargetPath)
		}
		stack = append(stack, e)
	}
}

func isSocket(k Kind) bool { return k == KindProtocol || k == KindService || k == KindEventStream }

// mayOverlap says whether use b may stand at or below use a.
func (v *validator) mayOverlap(a, b int, same bool) bool {
	ka, kb := v.c.Uses[a].Kind, v.c.Uses[b].Kind
	if ka == KindDictionary || kb == KindDictionary {
		// A dictionary appears as a directory to which others may add, but not within what another one serves.
		other := a
		if ka == KindDictionary {
			other = b
		}
		return ka == KindDictionary || isSocket(v.c.Uses[other].Kind) && !within(v.c.Uses[b].TargetPath, v.c.Uses[a].TargetPath)
	}
	return isSocket(ka) && isSocket(kb) && (same || ka == KindEventStream || kb == KindEventStream)
}

// within says whether path is dir or lies below it; "" is the root.
func within(path, dir string) bool {
	return strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

// comparePaths orders by segments: "/a/b" before "/a.b".
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			if a[i] == '/' {
				return -1
			}
			if b[i] == '/' {
				return 1
			}
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// void checks that what comes from nowhere is optional (V57).
func (v *validator) void(capName string, source Ref, a Availability, from place) {
	if source.Kind == RefVoid && a != Optional {
		v.report(v.or(from, "availability"), "void-availability", `write availability: "optional"`,
			"capabilities with a source of \"void\" must have an availability of \"optional\", capabilities: %q, from: \"void\"", capName)
	}
}

type givenName struct {
	target Ref
	name   string
}

func (v *validator) offers() {
	seen := make(map[givenName]int, len(v.c.Offers))
	for i := range v.c.Offers {
		o := &v.c.Offers[i]
		from, to := v.pos(SectionOffer, i, "from", o.Pos), v.pos(SectionOffer, i, "to", o.Pos)
		switch {
		case o.Kind == KindEventStream && o.Source.Kind == RefSelf && o.Source.Dictionary == "":
			v.report(from, "bad-source", "", "cannot offer an event_stream from self")
		case o.Kind == KindStorage && (o.Source.Kind == RefChild || o.Source.Kind == RefCollection) && o.Source.Dictionary == "":
			v.report(from, "bad-source", "", "Storage %q is offered from a child, but storage capabilities cannot be exposed",
				o.SourceName)
		case o.Source.Kind == RefDebug || o.Source.Kind == RefEnvironment || o.Kind == KindStorage && o.Source.Kind == RefFramework:
			v.report(from, "bad-source", "", "an offer of %s cannot come from %q", o.Kind, o.Source)
		default:
			v.declaredInSelf("offered", o.Kind, o.SourceName, o.Source, from)
			v.source("offer", o.Kind, o.Source, from)
		}
		v.noDictionary(o.Kind, o.Source, from)
		v.void(o.SourceName, o.Source, o.Availability, from)
		v.scope(SectionOffer, i, o.Scope, o.Pos)
		v.offerTarget(o, to)

		key := givenName{o.Target, o.TargetName}
		if first, ok := seen[key]; ok && o.Target != (Ref{Kind: RefChild}) {
			f := &v.c.Offers[first]
			if o.Kind == KindService && f.Kind == KindService && o.SourceName != f.SourceName {
				v.report(to, "aggregate", at("the first one", f.Pos), "Invalid aggregate offer: %q and %q cannot both become %q of %q",
					f.SourceName, o.SourceName, o.TargetName, o.Target)
			} else if o.Kind != KindService || f.Kind != KindService {
				v.report(to, "duplicate-target", at("the first one", f.Pos), "%q is a duplicate \"offer\" target capability for %q",
					o.TargetName, o.Target)
			} else if o.Availability != f.Availability {
				v.report(v.pos(SectionOffer, i, "availability", o.Pos), "aggregate", at("the first one", f.Pos),
					"All sources that feed into an aggregation operation should have the same availability. Got [ %s, %s ].", f.Availability,
					o.Availability)
			}
			continue
		}
		seen[key] = i
	}
}

func (v *validator) offerTarget(o *Offer, to place) {
	switch o.Target.Kind {
	case RefChild:
		if _, ok := v.children_[o.Target.Name]; !ok {
			v.unknownTarget(o, to)
			return
		}
		switch {
		case v.backs(o):
			v.report(to, "self-offer", "", "Storage offer target %q is same as source", o.Target)
		case o.Kind != KindStorage && o.Source.Kind == RefChild && o.Source.Name == o.Target.Name && o.Dependency == Strong:
			v.report(to, "self-offer", `if that is meant, write dependency: "weak"`, "Offer target %q is same as source", o.Target)
		}
	case RefCollection:
	case RefSelf:
		v.dictionaryTarget(o, to)
	default:
		v.report(to, "bad-target", "", "an offer cannot go to %q", o.Target)
	}
}

// backs says whether o offers storage to the child that backs it.
func (v *validator) backs(o *Offer) bool {
	if o.Kind != KindStorage || o.Source.Kind != RefSelf || o.Target.Kind != RefChild {
		return false
	}
	i, ok := v.capabilities_[capability{KindStorage, o.SourceName}]
	if !ok || v.c.Capabilities[i].Storage == nil {
		return false
	}
	backing := v.c.Capabilities[i].Storage.Source
	return backing.Kind == RefChild && backing.Name == o.Target.Name
}

func (v *validator) unknownTarget(o *Offer, to place) {
	if o.Target.Name == "" {
		return // reported where it was read
	}
	v.report(to, "unknown-target", v.nearest(o.Target.String(), references(names(v.children_)), references(names(v.collections_))),
		"%q is an \"offer\" target from %q but it does not appear in \"children\" or \"collections\"", o.Target, o.Source)
}

// dictionaryTarget checks an offer into one of the component's own dictionaries (V50, V51, V52).
func (v *validator) dictionaryTarget(o *Offer, to place) {
	if o.Kind == KindStorage || o.Kind == KindEventStream {
		v.report(to, "no-dictionary", "", "\"offer\" to dictionary %q for %q but dictionaries do not support this type yet.", o.Target,
			o.Kind)
		return
	}
	i, ok := v.capabilities_[capability{KindDictionary, o.Target.Dictionary}]
	switch {
	case !ok:
		v.report(to, "undeclared", v.nearest(o.Target.Dictionary, v.declared(KindDictionary)),
			"\"offer\" has dictionary target %q but %q is not a dictionary capability defined by this component", o.Target,
			o.Target.Dictionary)
	case v.c.Capabilities[i].Path != "":
		v.report(to, "dynamic-dictionary", at("it", v.c.Capabilities[i].Pos),
			"\"offer\" has dictionary target %q but %q sets \"path\". "+
				"Therefore, it is a dynamic dictionary that does not allow offers into it.", o.Target, o.Target.Dictionary)
	}
}

func (v *validator) exposes() {
	seen := make(map[givenName]int, len(v.c.Exposes))
	for i := range v.c.Exposes {
		e := &v.c.Exposes[i]
		from := v.pos(SectionExpose, i, "from", e.Pos)
		switch {
		case e.Kind == KindEventStream && e.Target.Kind == RefFramework:
			v.report(v.pos(SectionExpose, i, "to", e.Pos), "bad-target", "", "cannot expose an event_stream to framework")
		case e.Kind == KindEventStream && e.Source.Kind == RefSelf && e.Source.Dictionary == "":
			v.report(from, "bad-source", "", "Cannot expose event_streams from self")
		case e.Source.Kind == RefParent:
			v.report(from, "bad-source", "", "`expose` dictionary path must begin with `self` or `#<child-name>`")
		case e.Source.Kind == RefDebug || e.Source.Kind == RefEnvironment:
			v.report(from, "bad-source", "", "an expose cannot come from %q", e.Source)
		case e.Kind == KindStorage:
			v.report(here(e.Pos), "bad-kind", "expose the directory behind it", "storage cannot be exposed")
		default:
			v.declaredInSelf("exposed", e.Kind, e.SourceName, e.Source, from)
			v.source("expose", e.Kind, e.Source, from)
		}
		v.noDictionary(e.Kind, e.Source, from)
		v.void(e.SourceName, e.Source, e.Availability, from)
		v.scope(SectionExpose, i, e.Scope, e.Pos)
		if e.Subdir != "" && e.Target.Kind == RefFramework {
			v.report(v.pos(SectionExpose, i, "subdir", e.Pos), "framework-subdir", "",
				"`subdir` is not supported for expose to framework. Directly expose the subdirectory instead.")
		}
		key := givenName{e.Target, e.TargetName}
		if first, ok := seen[key]; ok {
			f := &v.c.Exposes[first]
			if e.Kind != KindService || f.Kind != KindService {
				v.report(v.pos(SectionExpose, i, "as", e.Pos), "duplicate-target", at("the first one", f.Pos),
					"%q is a duplicate \"expose\" target capability for %q",
					e.TargetName, e.Target)
			} else if e.Availability != f.Availability {
				v.report(v.pos(SectionExpose, i, "availability", e.Pos), "aggregate", at("the first one", f.Pos),
					"All sources that feed into an aggregation operation should have the same availability. Got [ %s, %s ].", f.Availability,
					e.Availability)
			}
			continue
		}
		seen[key] = i
	}
}
