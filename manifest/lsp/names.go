package lsp

import (
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

// What kind of thing a name of a manifest stands for.
const (
	aChild       = "child"
	aCollection  = "collection"
	aEnvironment = "environment"
	// Capabilities have the names of their kinds.
)

// A declaration is where a manifest gives something a name.
type declaration struct {
	kind  string
	name  string
	at    *node // the name
	entry *node // the object that declares it
}

// declarations are all names that the manifest declares, in order.
func declarations(root *node) []declaration {
	var out []declaration
	for _, s := range []struct{ section, kind string }{
		{"children", aChild}, {"collections", aCollection}, {"environments", aEnvironment},
	} {
		for _, e := range entries(root, s.section) {
			if n := e.get("name"); n != nil && n.kind == stringNode {
				out = append(out, declaration{s.kind, n.text, n, e})
			}
		}
	}
	for _, e := range entries(root, "capabilities") {
		if k, v := keyword(e); k != nil {
			for _, n := range v.strings() {
				out = append(out, declaration{k.Name, n.text, n, e})
			}
		}
	}
	return out
}

// entries are the objects in a section.
func entries(root *node, section string) []*node {
	list := root.get(section)
	if list == nil {
		return nil
	}
	var out []*node
	for _, e := range list.items {
		if e.kind == objectNode {
			out = append(out, e)
		}
	}
	return out
}

// keyword is the capability keyword of an entry, with its value, which may be nil; k is nil if there is none.
func keyword(entry *node) (k *cml.Key, value *node) {
	if entry == nil || entry.object == nil {
		return nil, nil
	}
	for i := range entry.members {
		if m := &entry.members[i]; m.name != nil {
			if k := entry.object.Key(m.name.text); k != nil && k.Kind != 0 {
				return k, m.value
			}
		}
	}
	return nil, nil
}

// A mention is a piece of a string that names something declared in the manifest: the x in "#x", "#x/path" and "self/x/path".
type mention struct {
	kinds  []string // what it may be, what counts first in front
	name   string
	at     *node
	prefix string // of the string, before the name: "#" or "self/"
}

// place is where the name stands in src. Where the string is written with escapes that is all of it, and whole is true.
func (m mention) place(src string) (start, end int, whole bool) {
	start, end = m.at.inner()
	if src[start:end] != m.at.text {
		return start, end, true
	}
	start += len(m.prefix)
	return start, start + len(m.name), false
}

var (
	environments = []string{aEnvironment}
	dictionaries = []string{manifest.KindDictionary.String()}
	// "#name" is a child before a collection before a capability, as the compiler has it.
	others = []string{aChild, aCollection, manifest.KindStorage.String(), manifest.KindDictionary.String()}
)

// mentionIn reads the string n as a reference.
func mentionIn(n *node) (mention, bool) {
	if n.kind != stringNode || n.key == nil || n.key.Value.Refs == nil {
		return mention{}, false
	}
	if rest, ok := strings.CutPrefix(n.text, "#"); ok {
		name, _, _ := strings.Cut(rest, "/")
		kinds := others
		if n.key.Name == "environment" {
			kinds = environments
		}
		return mention{kinds, name, n, "#"}, name != ""
	}
	if rest, ok := strings.CutPrefix(n.text, "self/"); ok {
		name, _, _ := strings.Cut(rest, "/")
		return mention{dictionaries, name, n, "self/"}, name != ""
	}
	return mention{}, false
}

// mentions are all mentions in n, in order.
func mentions(n *node) []mention {
	var out []mention
	n.leaves(func(s *node) {
		if m, ok := mentionIn(s); ok {
			out = append(out, m)
		}
	})
	return out
}

// leaves calls f for every value in n that holds no other.
func (n *node) leaves(f func(*node)) {
	if n == nil {
		return
	}
	if n.kind != objectNode && n.kind != arrayNode {
		f(n)
	}
	for _, i := range n.items {
		i.leaves(f)
	}
	for i := range n.members {
		n.members[i].value.leaves(f)
	}
}

// declares finds what m stands for among ds.
func (m mention) declares(ds []declaration) (declaration, bool) {
	for _, kind := range m.kinds {
		if i := slices.IndexFunc(ds, func(d declaration) bool { return d.kind == kind && d.name == m.name }); i >= 0 {
			return ds[i], true
		}
	}
	return declaration{}, false
}

// declarationAt is the declaration whose name is at offset, or that is mentioned there; node is the token at offset.
func declarationAt(root *node, offset int) (d declaration, at *node, ok bool) {
	c := locate(root, offset)
	if c.token == nil || c.inName {
		return declaration{}, nil, false
	}
	ds := declarations(root)
	if m, isMention := mentionIn(c.token); isMention {
		d, ok = m.declares(ds)
		return d, c.token, ok
	}
	i := slices.IndexFunc(ds, func(d declaration) bool { return d.at == c.token })
	if i < 0 {
		return declaration{}, nil, false
	}
	return ds[i], c.token, true
}

// A cursor is what is around a place.
type cursor struct {
	object *node   // the innermost object; nil at the top level
	member *member // the member of it whose name or value is here; nil where a name may begin
	array  *node   // the innermost array within the member, if it is in one
	token  *node   // the name, string or word that is touched
	inName bool    // the place is in the name of member
}

// locate finds out what is around offset.
func locate(n *node, offset int) cursor {
	var c cursor
	for n != nil && n.holds(offset) {
		var next *node
		if n.kind == arrayNode {
			c.array = n
			for _, i := range n.items {
				if !i.touches(offset) {
					continue
				}
				if i.kind != arrayNode && i.kind != objectNode {
					c.token = i
					return c
				}
				if i.holds(offset) {
					next = i
				}
			}
			n = next
			continue
		}
		c = cursor{object: n}
		for i := range n.members {
			m := &n.members[i]
			switch {
			case m.name != nil && m.name.touches(offset):
				c.member, c.token, c.inName = m, m.name, true
				return c
			case m.value != nil && m.value.touches(offset):
				if m.value.kind != arrayNode && m.value.kind != objectNode {
					c.member, c.token = m, m.value
					return c
				}
				if m.value.holds(offset) {
					c.member, next = m, m.value
				}
			case m.colon >= 0 && offset > m.colon && (m.value == nil && offset <= m.end || m.value != nil && offset < m.value.start):
				c.member = m
			}
		}
		n = next
	}
	return c
}
