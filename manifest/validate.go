package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest/name"
)

// Validated is a declaration that every rule has accepted. Validate is its only maker, and nothing else enters a tree. It must
// not be changed afterwards: many instances share one.
type Validated struct{ c *Component }

// Decl is the declaration; read only.
func (v Validated) Decl() *Component { return v.c }

// IsZero says whether v holds nothing.
func (v Validated) IsZero() bool { return v.c == nil }

// A Section is one of a Component's lists.
type Section uint8

const (
	SectionChildren Section = iota
	SectionCollections
	SectionEnvironments
	SectionCapabilities
	SectionUse
	SectionOffer
	SectionExpose
	// SectionRegistrations are the runners, the resolvers and the debug protocols of the first environment, then those of the next.
	SectionRegistrations
)

// ValidateOptions are what Validate can be told besides the declaration.
type ValidateOptions struct {
	// Where gives the place of a key ("from", "to", "path", …) of entry i of a section, for messages; "scope/1" is the second
	// element of "scope". The zero Pos or a nil Where means that only the entry's own Pos is known.
	Where func(s Section, i int, key string) Pos
	// Partial says that the declaration comes of a source with errors, which have been reported. Names may be empty or malformed;
	// that is not reported again. The Validated is zero.
	Partial bool
}

// Validate checks a declaration against every rule that can be told from it alone: that references exist and are of the right
// kind,
// that names, targets and paths are unique, and that the strong dependencies order a shutdown. It finds all errors, in the order
// of their places; the Validated is zero if there is one. c must not be changed afterwards.
//
// Source of the rules: the validation rules of the reference compiler (V1 … V70) and of its validator for the compiled form.
func Validate(c *Component, o ValidateOptions) (Validated, Diagnostics) {
	v := validator{c: c, options: o}
	v.index()
	if !o.Partial {
		v.grammar()
	}
	v.program()
	v.children()
	v.collections()
	v.environments()
	v.capabilities()
	v.uses()
	v.offers()
	v.exposes()
	v.config()
	v.cycles()
	slices.SortStableFunc(v.out, func(a, b Diagnostic) int {
		return cmp.Or(strings.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
	if v.omitted > 0 {
		v.out = append(v.out, Omitted(v.out[len(v.out)-1].Pos, v.omitted, false))
	}
	if o.Partial || len(v.out.Errors()) > 0 {
		return Validated{}, v.out
	}
	return Validated{c}, v.out
}

type validator struct {
	c       *Component
	options ValidateOptions
	out     Diagnostics
	omitted int // findings beyond maxFindings; of paths that overlap only one for each use

	children_, collections_, environments_ map[string]int
	capabilities_                          map[capability]int
}

type capability struct {
	kind Kind
	name string
}

// maxFindings bounds what is said of one declaration.
const maxFindings = 1000

func (v *validator) report(p place, rule, hint, format string, args ...any) {
	if v.full() {
		v.omitted++
		return
	}
	v.out = append(v.out, Diagnostic{Pos: v.find(p), Rule: rule, Hint: hint, Message: fmt.Sprintf(format, args...)})
}

// full says that no more is reported.
func (v *validator) full() bool { return len(v.out) >= maxFindings }

// A place is where something stands, found only when there is something to say of it: a key, else its entry.
type place struct {
	section Section
	i       int
	key     string
	entry   Pos
}

func here(p Pos) place { return place{entry: p} }

// pos is the place of a key, or of its entry.
func (v *validator) pos(s Section, i int, key string, entry Pos) place {
	return place{s, i, key, entry}
}

// or is the place of another key of the same entry, or p.
func (v *validator) or(p place, key string) place {
	if q := (place{p.section, p.i, key, Pos{}}); v.find(q).IsValid() {
		return q
	}
	return p
}

func (v *validator) find(p place) Pos {
	if p.key != "" && v.options.Where != nil {
		if at := v.options.Where(p.section, p.i, p.key); at.IsValid() {
			return at
		}
	}
	return p.entry
}

// index makes the maps of names, and checks that the identifiers of one declaration differ (V1), as do its capabilities (V9).
func (v *validator) index() {
	c := v.c
	v.children_ = make(map[string]int, len(c.Children))
	v.collections_ = make(map[string]int, len(c.Collections))
	v.environments_ = make(map[string]int, len(c.Environments))
	v.capabilities_ = make(map[capability]int, len(c.Capabilities))

	type first struct {
		list string
		pos  Pos
	}
	seen := make(map[string]first, len(c.Children)+len(c.Collections)+len(c.Environments)+len(c.Capabilities))
	identifier := func(list, id string, pos Pos) {
		if id == "" {
			return // reported where it was read
		}
		if f, ok := seen[id]; ok {
			v.report(here(pos), "duplicate-name", at("the first one", f.pos), "identifier %q is defined twice, once in %q and once in %q",
				id, list, f.list)
			return
		}
		seen[id] = first{list, pos}
	}
	for i := range c.Children {
		v.children_[c.Children[i].Name] = i
		identifier("children", c.Children[i].Name, c.Children[i].Pos)
	}
	for i := range c.Collections {
		v.collections_[c.Collections[i].Name] = i
		identifier("collections", c.Collections[i].Name, c.Collections[i].Pos)
	}
	for _, k := range []struct {
		kind Kind
		list string
	}{{KindStorage, "storage"}, {KindRunner, "runners"}, {KindResolver, "resolvers"}, {0, "environments"}, {
		KindDictionary,
		"dictionaries",
	}} {
		if k.kind == 0 {
			for i := range c.Environments {
				v.environments_[c.Environments[i].Name] = i
				identifier(k.list, c.Environments[i].Name, c.Environments[i].Pos)
			}
			continue
		}
		for i := range c.Capabilities {
			if c.Capabilities[i].Kind == k.kind {
				identifier(k.list, c.Capabilities[i].Name, c.Capabilities[i].Pos)
			}
		}
	}
	byName := make(map[string]*Capability, len(c.Capabilities))
	for i := range c.Capabilities {
		k := &c.Capabilities[i]
		v.capabilities_[capability{k.Kind, k.Name}] = i
		// A dictionary may bear the name of a directory: manifests in use do so ("diagnostics"), and no reference can mean both.
		if f, ok := byName[k.Name]; ok && !(f.Kind == KindDictionary && k.Kind == KindDirectory || f.Kind == KindDirectory &&
			k.Kind == KindDictionary) {
			v.report(here(k.Pos), "duplicate-capability", at("the first one", f.Pos), "%q is a duplicate \"capability\" name", k.Name)
			continue
		}
		byName[k.Name] = k
	}
}

// at is a hint to another place, "" if that is unknown.
func at(what string, p Pos) string {
	if !p.IsValid() {
		return ""
	}
	return what + " is at " + p.String()
}

// nearest is a hint to the name that was probably meant, of those that the lists give. A declaration that is wrong in many places
// gets hints for the first ones only: each takes time in proportion to all names.
func (v *validator) nearest(word string, lists ...func() []string) string {
	if len(v.out) >= 100 {
		return ""
	}
	var names []string
	for _, list := range lists {
		names = append(names, list()...)
	}
	if near := name.Nearest(word, names); near != "" && near != word {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

func names(m map[string]int) func() []string {
	return func() []string { return slices.Sorted(maps.Keys(m)) }
}

// references are names as references to them.
func references(list func() []string) func() []string {
	return func() []string {
		out := list()
		for i, n := range out {
			out[i] = "#" + n
		}
		return out
	}
}

// declared are the names of the capabilities of the kinds.
func (v *validator) declared(kinds ...Kind) func() []string {
	return func() []string {
		var out []string
		for i := range v.c.Capabilities {
			if k := &v.c.Capabilities[i]; slices.Contains(kinds, k.Kind) {
				out = append(out, k.Name)
			}
		}
		return out
	}
}
