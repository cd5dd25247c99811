package routing

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// This file says what to do about each way in which the declarations fall short: the line to add, and the manifest to add it to.

// place names a component and its manifest: "/net (net.cml)".
func place(m name.Moniker, d *manifest.Component) string {
	if d == nil || len(d.Sources) == 0 {
		return string(m)
	}
	return fmt.Sprintf("%s (%s)", m, d.Sources[0])
}

// addTo says to add a line to a section of n's manifest.
func addTo(section string, n Node, d *manifest.Component, line string) string {
	return fmt.Sprintf("add %s to %q of %s", line, section, place(n.Moniker(), d))
}

// suggest puts the nearest of the candidates before what else there is to do.
func suggest(word string, candidates []string, otherwise string) string {
	near := name.Nearest(word, candidates)
	switch {
	case near == "" || near == word:
		return otherwise
	case otherwise == "":
		return fmt.Sprintf("did you mean %q?", near)
	default:
		return fmt.Sprintf("did you mean %q? otherwise %s", near, otherwise)
	}
}

// list names the built-ins for which has is true: one of the methods of Builtins.
func (e *Engine) list(kind manifest.Kind, has func(manifest.Kind, string) bool) []string {
	l, ok := e.b.(Lister)
	if !ok {
		return nil
	}
	return slices.DeleteFunc(l.List(kind), func(s string) bool { return !has(kind, s) })
}

// quoted is a one-line entry of a manifest, of key-value pairs.
func quoted(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s: %q", pairs[i], pairs[i+1])
	}
	return "{ " + b.String() + " }"
}

func (w *walk) notOffered(s step, p Node, d *manifest.Component, key offerKey) *capabilities.Error {
	var offered []string
	for _, i := range offersTo(d, offerTo{key.target, s.kind, key.to}) {
		offered = append(offered, d.Offers[i].TargetName)
	}
	hint := suggest(s.name, offered, w.offerLine(s, p, d, "#"+key.to))
	what := ""
	if s.by == byEnvironment {
		what = s.kind.String() + " "
	}
	return w.fail(s, capabilities.NotFound, hint, "%s`%s` was not offered to `%s` by parent", what, s.name, s.n.Moniker())
}

// offerLine says to add an offer of what s misses to p's manifest.
func (w *walk) offerLine(s step, p Node, d *manifest.Component, to string) string {
	source := w.bestSource(s, p, d)
	pairs := []string{s.kind.String(), source.name, "from", source.from, "to", to}
	if source.name != s.name {
		pairs = append(pairs, "as", s.name)
	}
	return addTo("offer", p, d, quoted(pairs...)) + source.also
}

// bestSource guesses where the parent p would have the capability from that s misses: from where it offers it to others or uses
// it itself; else from itself if it declares it, from another child that is known to expose it, else from above.
func (w *walk) bestSource(s step, p Node, d *manifest.Component) (best struct{ from, name, also string }) {
	best.name = s.name
	itself := func(r manifest.Ref) bool { return r.Kind == manifest.RefChild && r.Name == s.n.Moniker().Base() }
	for _, i := range offersNamed(d, capKey{s.kind, s.name}) {
		o := &d.Offers[i]
		if o.Target.Kind == manifest.RefSelf {
			continue
		}
		if o.Source.Kind != manifest.RefVoid && !itself(o.Source) {
			best.from, best.name = o.Source.String(), o.SourceName
			return best
		}
	}
	for i := range d.Uses {
		u := &d.Uses[i]
		if u.Kind == s.kind && u.SourceName == s.name && u.Source.Kind == manifest.RefChild && !itself(u.Source) {
			best.from = u.Source.String()
			return best
		}
	}
	_, below := p.Parent()
	child := exposing(p, s, s.n.Moniker().Base())
	switch {
	case capabilityOf(d, s.kind, s.name) != nil:
		best.from = "self"
	case child != "":
		best.from = "#" + child
	case below || w.e.b.Has(s.kind, s.name):
		best.from = "parent"
	default:
		best.from, best.also = "self", `, and declare it in "capabilities" there (or offer it from the child that provides it)`
	}
	return best
}

// exposing is a child of n that is known to expose what s wants, and is not the one that the name but says.
func exposing(n Node, s step, but string) string {
	x, ok := n.(Exposer)
	if !ok {
		return ""
	}
	for _, child := range x.Exposing(s.kind, s.name) {
		if child != but {
			return child
		}
	}
	return ""
}

// notBuiltin is about what the root wants from its parent.
func (w *walk) notBuiltin(s step) *capabilities.Error {
	all := w.e.list(s.kind, w.e.b.Has)
	hint := "above the root there is only cmgr itself"
	d, err := s.n.Decl(w.ctx)
	child := exposing(s.n, s, "")
	switch {
	case err == nil && capabilityOf(d, s.kind, s.name) != nil:
		hint += `; write from: "self"`
	case child != "":
		hint += fmt.Sprintf("; write from: %q", "#"+child)
	case name.Nearest(s.name, all) != "":
		hint = suggest(s.name, all, "")
	default:
		if len(all) > 0 {
			hint += ", which has " + few(all)
		}
		hint += `: take it from a child, or declare it in "capabilities"`
		if s.kind == manifest.KindProtocol || s.kind == manifest.KindDirectory {
			hint += ", or give it the host's by namespace_capabilities of the manager's --config"
		}
	}
	return w.fail(s, capabilities.NotFound, hint, "`%s` is not a built-in capability", s.name)
}

// few are the first of names, for a sentence.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most-1], ", "), len(names)-most+1)
}

func (w *walk) notDeclared(s step, d *manifest.Component) *capabilities.Error {
	var declared []string
	for i := range d.Capabilities {
		if d.Capabilities[i].Kind == s.kind {
			declared = append(declared, d.Capabilities[i].Name)
		}
	}
	format := "`%s` was not declared as a capability by `%s`"
	switch s.by {
	case byOffer:
		format = "cannot offer `%s` because was not declared as a capability by `%s`"
	case byExpose:
		format = "unable to expose `%s` because it was not declared as a capability by `%s`"
	}
	hint := suggest(s.name, declared, addTo("capabilities", s.n, d, declaration(s.kind, s.name)))
	return w.fail(s, capabilities.NotFound, hint, format, s.name, s.n.Moniker())
}

// declaration is an entry of "capabilities" with all that the kind demands.
func declaration(kind manifest.Kind, capability string) string {
	pairs := []string{kind.String(), capability}
	switch kind {
	case manifest.KindDirectory:
		return fmt.Sprintf(`{ directory: %q, rights: ["r*"], path: "/%s" }`, capability, capability)
	case manifest.KindConfig:
		return fmt.Sprintf(`{ config: %q, type: "bool", value: true }`, capability)
	case manifest.KindStorage:
		pairs = append(pairs, "from", "parent", "backing_dir", capability, "storage_id", "static_instance_id_or_moniker")
	case manifest.KindRunner:
		pairs = append(pairs, "path", "/svc/cmgr.component.Runner")
	case manifest.KindResolver:
		pairs = append(pairs, "path", "/svc/cmgr.component.Resolver")
	}
	return quoted(pairs...)
}

func (w *walk) noChild(s step) *capabilities.Error {
	hint := "create it first"
	if d, err := s.n.Decl(w.ctx); err == nil && !strings.Contains(s.src.Name, ":") {
		children := make([]string, len(d.Children))
		for i := range d.Children {
			children[i] = d.Children[i].Name
		}
		hint = suggest(s.src.Name, children, addTo("children", s.n, d, fmt.Sprintf("{ name: %q, url: … }", s.src.Name)))
	}
	return w.fail(s, capabilities.NotFound, hint, "`%s` does not have child `#%s`", s.n.Moniker(), s.src.Name)
}

func (w *walk) notExposed(s step, c Node, d *manifest.Component) *capabilities.Error {
	var exposed []string
	for i := range d.Exposes {
		if d.Exposes[i].Kind == s.kind {
			exposed = append(exposed, d.Exposes[i].TargetName)
		}
	}
	hint := addTo("expose", c, d, quoted(s.kind.String(), s.name, "from", "self"))
	if capabilityOf(d, s.kind, s.name) == nil {
		hint += fmt.Sprintf(` and %s to its "capabilities"`, declaration(s.kind, s.name))
	}
	hint = suggest(s.name, exposed, hint)
	if s.by == byTool {
		return w.fail(s, capabilities.NotFound, hint, "`%s` was not exposed from `/`", s.name)
	}
	format := "`%s` was not exposed to `%s` from `#%s`"
	if s.by == byStorage {
		format = "backing directory " + format
	}
	return w.fail(s, capabilities.NotFound, hint, format, s.name, s.n.Moniker(), c.Moniker().Base())
}

func (w *walk) notFramework(s step, candidates []string) *capabilities.Error {
	format := "`%[1]s` is not a framework capability (at component `%[2]s`)"
	if s.by == byExpose {
		format = "`%[2]s` tried to expose `%[1]s` from the framework, but no such framework capability was found"
	}
	if candidates == nil {
		candidates = w.e.list(s.kind, w.e.b.Framework)
	}
	return w.fail(s, capabilities.NotFound, suggest(s.name, candidates, ""), format, s.name, s.n.Moniker())
}

func (w *walk) noItem(s step, owner Node, d *manifest.Component, dictionary string) *capabilities.Error {
	var items []string
	for i := range d.Offers {
		o := &d.Offers[i]
		if o.Target.Kind != manifest.RefSelf || o.Target.Dictionary != dictionary {
			continue
		}
		if o.TargetName == s.name {
			return w.fail(s, capabilities.NotFound, "", "routed capability was the wrong type at component `%s`. Was: %s, expected: %s",
				owner.Moniker(), o.Kind, s.kind)
		}
		if o.Kind == s.kind {
			items = append(items, o.TargetName)
		}
	}
	hint := w.offerLine(s, owner, d, "self/"+dictionary)
	return w.fail(s, capabilities.NotFound, suggest(s.name, items, hint),
		"item `%s` is not present in dictionary at component `%s`", s.name, owner.Moniker())
}

// registrationHint says how to put s.name into an environment that s.n is in: the nearest one, or a new one where there is none.
func (w *walk) registrationHint(s step, names []string, owner Node, d *manifest.Component, env *manifest.Environment) string {
	list, as := s.kind.String()+"s", []string{"from", "parent"}
	first := []string{s.kind.String(), s.name}
	switch s.kind {
	case manifest.KindProtocol:
		list = "debug"
	case manifest.KindResolver:
		first = []string{"resolver", s.name}
		as = append(as, "scheme", s.name)
	}
	if owner == nil {
		if owner, _ = s.n.Parent(); owner == nil {
			return suggest(s.name, names, oneOf(names))
		}
		d, _ = owner.Decl(w.ctx)
	}
	if d != nil && capabilityOf(d, s.kind, s.name) != nil {
		as[1] = "self"
	}
	line := quoted(append(first, as...)...)
	if env != nil {
		return suggest(s.name, names, fmt.Sprintf(`add %s to %q of environment %q of %s`, line, list, env.Name,
			place(owner.Moniker(), d)))
	}
	return suggest(s.name, names,
		fmt.Sprintf(`add { name: "env", extends: "realm", %s: [%s] } to "environments" of %s, and environment: "#env" to its child %q`,
			list, line, place(owner.Moniker(), d), s.n.Moniker().Base()))
}

func oneOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "there are " + strings.Join(names, ", ")
}
