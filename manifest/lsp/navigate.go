package lsp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
)

// hover tells what cml(5) says of the key at the cursor, what a reference refers to, and which file a URL means.
func (s *server) hover(d *document, p *params) (any, *rpcError) {
	root := s.tree(d)
	offset := d.text.offset(p.Position)
	c := locate(root, offset)
	if c.token == nil || c.member == nil || c.member.name == nil || c.object.object == nil {
		return nil, nil
	}
	k := c.object.object.Key(c.member.name.text)
	if k == nil {
		return nil, nil
	}
	var parts []string
	if !c.inName {
		if decl, _, ok := declarationAt(root, offset); ok {
			parts = append(parts, fmt.Sprintf("%s `%s`\n```json5\n%s\n```", decl.kind, decl.name, excerpt(d.text, decl.entry)))
		}
		if file := s.fileAt(d, k, c.token); file != "" {
			parts = append(parts, "`"+file+"`")
		}
	}
	title := fmt.Sprintf("**%s** (%s", k.Name, valueWords(&k.Value))
	if k.Required {
		title += ", required"
	}
	parts = append(parts, title+")", k.Doc)
	kind := "plaintext"
	if f := s.client.TextDocument.Hover.ContentFormat; slices.Contains(f, "markdown") {
		kind = "markdown"
	}
	return object{
		"contents": object{"kind": kind, "value": strings.TrimSpace(strings.Join(parts, "\n\n"))},
		"range":    d.text.span(c.token.start, c.token.end),
	}, nil
}

// excerpt is the text of n, without its indentation, and shortened.
func excerpt(t *text, n *node) string {
	const most = 20
	start, _ := t.line(t.position(n.start).Line)
	before := t.src[start:n.start]
	indent := before[:len(before)-len(strings.TrimLeft(before, " \t"))]
	lines := strings.SplitN(t.src[n.start:n.end], "\n", most+1)
	if len(lines) > most {
		lines[most] = "…"
	}
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], indent)
	}
	return strings.Join(lines, "\n")
}

// fileAt is the file that a string means which is the value of k; "" for none.
func (s *server) fileAt(d *document, k *cml.Key, n *node) string {
	switch {
	case n.kind != stringNode:
	case k.Value.Grammar == "URL":
		return s.manifestOf(d, n.text)
	case k.Name == "include" && k.Value.Kind == cml.StringsValue:
		if path, _, err := s.includes(d).Find(n.text, d.name()); err == nil {
			return path
		}
	}
	return ""
}

// definition goes from a child's URL or an include to the file, from a reference to the declaration, and from the name of a
// capability to where its source declares or exposes it.
func (s *server) definition(d *document, p *params) (any, *rpcError) {
	root := s.tree(d)
	offset := d.text.offset(p.Position)
	c := locate(root, offset)
	if c.token == nil || c.inName || c.token.key == nil {
		return nil, nil
	}
	if file := s.fileAt(d, c.token.key, c.token); file != "" {
		return location{URI: s.uriOf(file)}, nil
	}
	if decl, _, ok := declarationAt(root, offset); ok {
		return location{d.uri, d.text.span(decl.at.start, decl.at.end)}, nil
	}
	k, _ := keyword(c.object)
	if k == nil || c.token.key != k || c.token.kind != stringNode {
		return nil, nil
	}
	out := []location{}
	for _, from := range c.object.get("from").strings() {
		if from.text == "self" {
			for _, decl := range declarations(root) {
				if decl.kind == k.Name && decl.name == c.token.text {
					out = append(out, location{d.uri, d.text.span(decl.at.start, decl.at.end)})
				}
			}
			continue
		}
		m, ok := mentionIn(from)
		if !ok {
			continue
		}
		if path := s.childManifest(d, root, m); path != "" {
			t, child := s.manifestTree(path)
			for _, e := range exposed(child, k.Name) {
				if e.as == c.token.text {
					out = append(out, location{s.uriOf(path), t.span(e.name.start, e.name.end)})
				}
			}
		}
	}
	return out, nil
}

// references are the places that refer to what is declared or mentioned at the cursor.
func (s *server) references(d *document, p *params) (any, *rpcError) {
	root := s.tree(d)
	out := []location{}
	decl, _, ok := declarationAt(root, d.text.offset(p.Position))
	if !ok {
		return out, nil
	}
	if p.Context.IncludeDeclaration {
		out = append(out, location{d.uri, d.text.span(decl.at.start, decl.at.end)})
	}
	for _, m := range mentionsOf(root, decl) {
		out = append(out, location{d.uri, d.text.span(m.at.start, m.at.end)})
	}
	for _, section := range []string{"use", "offer", "expose"} {
		for _, e := range entries(root, section) {
			k, value := keyword(e)
			if k == nil || k.Name != decl.kind ||
				!slices.ContainsFunc(e.get("from").strings(), func(n *node) bool { return n.text == "self" }) {
				continue
			}
			for _, n := range value.strings() {
				if n.text == decl.name {
					out = append(out, location{d.uri, d.text.span(n.start, n.end)})
				}
			}
		}
	}
	return out, nil
}

// mentionsOf are the mentions of decl.
func mentionsOf(root *node, decl declaration) []mention {
	ds := declarations(root)
	return slices.DeleteFunc(mentions(root), func(m mention) bool {
		found, ok := m.declares(ds)
		return !ok || found.at != decl.at
	})
}

// renamed finds what is to be renamed at p: a child, a collection or an environment, which nobody outside knows by its name.
func (s *server) renamed(d *document, p *params) (declaration, *node, *rpcError) {
	decl, at, ok := declarationAt(s.tree(d), d.text.offset(p.Position))
	switch {
	case !ok:
		return declaration{}, nil, failf(codeFailed, "rename: put the cursor on the name of a child, a collection or an environment")
	case decl.kind != aChild && decl.kind != aCollection && decl.kind != aEnvironment:
		return declaration{}, nil, failf(codeFailed, "rename: %s %q is known to other manifests by its name", decl.kind, decl.name)
	}
	return decl, at, nil
}

func (s *server) prepareRename(d *document, p *params) (any, *rpcError) {
	decl, at, err := s.renamed(d, p)
	if err != nil {
		return nil, err
	}
	start, end := at.inner()
	if m, ok := mentionIn(at); ok {
		start, end, _ = m.place(d.text.src)
	}
	return object{"range": d.text.span(start, end), "placeholder": decl.name}, nil
}

// rename renames a child, a collection or an environment wherever the manifest mentions it.
func (s *server) rename(d *document, p *params) (any, *rpcError) {
	decl, _, err := s.renamed(d, p)
	if err != nil {
		return nil, err
	}
	to := strings.TrimPrefix(p.NewName, "#")
	if err := name.Check(to); err != nil {
		return nil, failf(codeInvalidParams, "rename: %v", err)
	}
	root := s.tree(d)
	for _, other := range declarations(root) {
		if other.name == to && other.at != decl.at {
			return nil, failf(codeFailed, "rename: there is a %s %q already", other.kind, to)
		}
	}
	start, end := decl.at.inner()
	edits := []textEdit{{d.text.span(start, end), to}}
	for _, m := range mentionsOf(root, decl) {
		start, end, whole := m.place(d.text.src)
		with := to
		if whole {
			with = m.prefix + to + m.at.text[len(m.prefix)+len(m.name):]
		}
		edits = append(edits, textEdit{d.text.span(start, end), with})
	}
	return workspaceEdit{map[string][]textEdit{d.uri: edits}}, nil
}

type symbol struct {
	Name      string   `json:"name"`
	Detail    string   `json:"detail,omitempty"`
	Kind      int      `json:"kind"`
	Range     span     `json:"range"`
	Selection span     `json:"selectionRange"`
	Children  []symbol `json:"children,omitempty"`
}

// Kinds of symbols.
const (
	symbolModule    = 2
	symbolNamespace = 3
	symbolField     = 8
	symbolInterface = 11
	symbolFunction  = 12
)

// symbols are the sections of the manifest, and what is in them.
func (s *server) symbols(d *document, _ *params) (any, *rpcError) {
	root := s.tree(d)
	out := []symbol{}
	if root == nil {
		return out, nil
	}
	for i := range root.members {
		m := &root.members[i]
		if m.name == nil || m.value == nil {
			continue
		}
		sec := symbol{
			Name: named(m.name.text), Kind: symbolNamespace, Range: d.text.span(m.name.start, m.value.end),
			Selection: d.text.span(m.name.start, m.name.end),
		}
		switch sec.Name {
		case "program":
			sec.Kind = symbolFunction
			if b := m.value.get("binary"); b != nil {
				sec.Detail = b.text
			}
		case "config":
			for j := range m.value.members {
				if f := &m.value.members[j]; f.name != nil && f.value != nil {
					sec.Children = append(sec.Children, symbol{
						Name: named(f.name.text), Kind: symbolField, Range: d.text.span(f.name.start, f.value.end),
						Selection: d.text.span(f.name.start, f.name.end),
					})
				}
			}
		default:
			for _, e := range m.value.items {
				if e.kind == objectNode {
					sec.Children = append(sec.Children, entrySymbol(d.text, e))
				}
			}
		}
		out = append(out, sec)
	}
	if s.client.TextDocument.DocumentSymbol.Hierarchical {
		return out, nil
	}
	return flat(d.uri, "", out), nil
}

// named is a name that may be shown: clients refuse empty ones.
func named(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

// entrySymbol is a child, collection, environment or capability.
func entrySymbol(t *text, e *node) symbol {
	out := symbol{Name: "?", Kind: symbolModule, Range: t.span(e.start, e.end), Selection: t.span(e.start, min(e.start+1, e.end))}
	if n := e.get("name"); n != nil {
		out.Name, out.Selection = named(n.text), t.span(n.start, n.end)
		for _, key := range []string{"url", "durability", "extends"} {
			if v := e.get(key); v != nil {
				out.Detail = v.text
			}
		}
		return out
	}
	k, value := keyword(e)
	if k == nil {
		return out
	}
	list := func(n *node) string {
		var words []string
		for _, s := range n.strings() {
			words = append(words, s.text)
		}
		return strings.Join(words, ", ")
	}
	out.Kind, out.Name = symbolInterface, strings.TrimSpace(k.Name+" "+list(value))
	if value != nil {
		out.Selection = t.span(value.start, value.end)
	}
	out.Detail = list(e.get("from"))
	if to := list(e.get("to")); to != "" {
		out.Detail += " → " + to
	}
	return out
}

// flat is a tree of symbols for clients that know only lists.
func flat(uri, container string, symbols []symbol) []any {
	out := []any{}
	for _, y := range symbols {
		out = append(out, object{"name": y.Name, "kind": y.Kind, "containerName": container, "location": location{uri, y.Range}})
		out = append(out, flat(uri, y.Name, y.Children)...)
	}
	return out
}
