package lsp

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

// maxItems bounds the answers to one completion.
const maxItems = 1000

// Kinds of completion items.
const (
	itemProperty = 10
	itemValue    = 12
	itemSkeleton = 15
	itemFile     = 17
	itemRef      = 18
	itemFolder   = 19
	itemWord     = 20
)

type completionItem struct {
	Label         string   `json:"label"`
	Kind          int      `json:"kind"`
	Detail        string   `json:"detail,omitempty"`
	Documentation any      `json:"documentation,omitempty"`
	SortText      string   `json:"sortText"`
	TextFormat    int      `json:"insertTextFormat,omitempty"`
	TextEdit      textEdit `json:"textEdit"`
}

// A choice is something that can stand at the cursor.
type choice struct {
	label, detail, doc string
	kind               int
	bare               bool   // written without quotes
	listed             bool   // written within an array
	far                bool   // less probable than others
	snippet            string // written instead of the label, with tab stops
}

// completion lists the keys, words, names and files that can stand at the cursor.
func (s *server) completion(d *document, p *params) (any, *rpcError) {
	out := struct {
		Incomplete bool             `json:"isIncomplete"`
		Items      []completionItem `json:"items"`
	}{Items: []completionItem{}}
	root, offset := s.tree(d), d.text.offset(p.Position)
	if slices.ContainsFunc(d.comments, func(c [2]int) bool {
		return offset > c[0] && (offset < c[1] || offset == c[1] && d.text.src[c[0]+1] == '/')
	}) {
		return out, nil
	}
	c := locate(root, offset)
	if c.object == nil {
		return out, nil
	}
	var choices []choice
	var edit func(choice) textEdit
	if c.inName || c.member == nil {
		choices = c.keys()
		edit = func(ch choice) textEdit { return nameEdit(d, c, root, offset, ch) }
	} else {
		var skip int // bytes of the text that stay before the choice
		choices, skip = s.values(d, root, c, offset)
		edit = func(ch choice) textEdit {
			if ch.snippet != "" {
				ch.label = ch.snippet
				if !s.client.TextDocument.Completion.CompletionItem.Snippets {
					ch.label = tabStops.ReplaceAllString(ch.snippet, "$1")
				}
			}
			return valueEdit(d, c, offset, skip, ch)
		}
	}
	if out.Incomplete = len(choices) > maxItems; out.Incomplete {
		choices = choices[:maxItems]
	}
	for i, ch := range choices {
		item := completionItem{Label: ch.label, Kind: ch.kind, Detail: ch.detail, TextEdit: edit(ch), SortText: fmt.Sprintf("0%04d", i)}
		if ch.snippet != "" && s.client.TextDocument.Completion.CompletionItem.Snippets {
			item.TextFormat = 2
		}
		if ch.far {
			item.SortText = fmt.Sprintf("1%04d", i)
		}
		if ch.doc != "" {
			item.Documentation = object{"kind": "markdown", "value": ch.doc}
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

// tabStops are the places of a snippet where something is to be written, with what stands there until then.
var tabStops = regexp.MustCompile(`\$(?:[0-9]+|\{[0-9]+:([^}]*)\})`)

// skeletons are the objects that can stand in a list, with the keys that they cannot do without.
func skeletons(o *cml.Object, quoted bool) []choice {
	skeleton := func(first *cml.Key) choice {
		var names, members []string
		add := func(k *cml.Key) {
			if slices.Contains(names, k.Name) {
				return
			}
			names = append(names, k.Name)
			name, value := k.Name, fmt.Sprintf(`"$%d"`, len(names))
			if quoted {
				name = `"` + name + `"`
			}
			switch {
			case k.Value.Kind == cml.StringsValue && !k.Value.One:
				value = "[ " + value + " ]"
			case k.Value.Kind != cml.StringValue && k.Value.Kind != cml.StringsValue:
				value = fmt.Sprintf("${%d:null}", len(names))
			}
			members = append(members, name+": "+value)
		}
		if first != nil {
			add(first)
		}
		for i := range o.Keys {
			if k := &o.Keys[i]; k.Required || first != nil && slices.Contains(first.Needs, k.Name) {
				add(k)
			}
		}
		braces := func(words []string) string { return "{ " + strings.Join(words, ", ") + " }" }
		return choice{label: braces(names), snippet: braces(members), detail: o.Name, kind: itemSkeleton, bare: true}
	}
	var out []choice
	for i := range o.Keys {
		if o.Keys[i].Kind != 0 {
			out = append(out, skeleton(&o.Keys[i]))
		}
	}
	if out == nil {
		out = append(out, skeleton(nil))
	}
	return out
}

// keys are the keys that the object at the cursor can still have.
func (c cursor) keys() []choice {
	o := c.object.object
	if o == nil {
		return nil
	}
	has := map[string]bool{}
	var kind manifest.Kind
	for i := range c.object.members {
		if m := &c.object.members[i]; m.name != nil && m != c.member {
			has[m.name.text] = true
			if k := o.Key(m.name.text); k != nil && k.Kind != 0 {
				kind = k.Kind
			}
		}
	}
	var out []choice
	for i := range o.Keys {
		k := &o.Keys[i]
		switch {
		case has[k.Name], k.Kind != 0 && kind != 0, k.Of != nil && kind != 0 && !slices.Contains(k.Of, kind):
			continue
		}
		ch := choice{label: k.Name, kind: itemProperty, doc: k.Doc, detail: valueWords(&k.Value)}
		if k.Required {
			ch.detail += ", required"
		}
		ch.far = o.Section != "" && kind == 0 && k.Kind == 0
		out = append(out, ch)
	}
	return out
}

// valueWords says in a few words what a key holds.
func valueWords(v *cml.Value) string {
	what := v.Grammar
	if v.Words != nil {
		what = "word"
	}
	switch v.Kind {
	case cml.StringValue:
		return what
	case cml.StringsValue:
		if v.One {
			return what + " or array"
		}
		return "array"
	case cml.BoolValue:
		return "true or false"
	case cml.UintValue:
		return "number"
	case cml.DecimalValue:
		return "decimal"
	case cml.ListValue:
		return "array of objects"
	case cml.ObjectValue, cml.MapValue:
		return "object"
	}
	if v.Object != nil {
		return "object"
	}
	return "value"
}

// quoted says whether the manifest quotes its keys.
func quoted(root *node) bool {
	return len(root.members) > 0 && root.members[0].name != nil && root.members[0].name.kind == stringNode
}

// nameEdit writes a key.
func nameEdit(d *document, c cursor, root *node, offset int, ch choice) textEdit {
	if c.token == nil {
		name := ch.label
		if quoted(root) {
			name = `"` + name + `"`
		}
		return textEdit{d.text.span(offset, offset), name + ": "}
	}
	start, end := c.token.inner()
	name := ch.label
	if c.member.colon < 0 && c.member.value == nil {
		if c.token.kind == stringNode {
			name += d.text.src[c.token.start : c.token.start+1]
			end = c.token.end
		}
		name += ": "
	}
	return textEdit{d.text.span(start, end), name}
}

// valueEdit writes a value. The first skip bytes of the string that is there stay.
func valueEdit(d *document, c cursor, offset, skip int, ch choice) textEdit {
	text := ch.label
	switch {
	case c.token == nil:
		if !ch.bare {
			text = `"` + text + `"`
		}
		if ch.listed && c.array == nil {
			text = "[ " + text + " ]"
		}
		if c.array == nil && d.text.src[offset-1] == ':' {
			text = " " + text
		}
		return textEdit{d.text.span(offset, offset), text}
	case c.token.kind != stringNode:
		if !ch.bare {
			text = `"` + text + `"`
		}
		return textEdit{d.text.span(c.token.start, c.token.end), text}
	}
	start, end := c.token.inner()
	// A quote that is still missing makes the string reach too far.
	if rest := d.text.src[max(start, min(offset, end)):end]; !c.token.closed || strings.ContainsAny(rest, " \t,:;{}[]") {
		end = max(start, min(offset, end))
		if ch.kind != itemFolder {
			text += d.text.src[c.token.start : c.token.start+1]
		}
	}
	return textEdit{d.text.span(min(start+skip, end), end), text}
}

// values are what can stand as the value at the cursor. skip is how much of the string that is there is kept.
func (s *server) values(d *document, root *node, c cursor, offset int) (out []choice, skip int) {
	if c.object.object == nil || c.member.name == nil {
		return nil, 0
	}
	k := c.object.object.Key(c.member.name.text)
	if k != nil && k.Value.Kind == cml.ListValue && c.array != nil && c.token == nil {
		return skeletons(k.Value.Object, quoted(root)), 0
	}
	if k == nil || k.Value.Kind == cml.ListValue || c.array != nil && k.Value.Kind != cml.StringsValue {
		return nil, 0
	}
	typed := ""
	if c.token != nil && c.token.kind == stringNode {
		start, end := c.token.inner()
		typed = d.text.src[start:max(start, min(offset, end))]
	}
	there := map[string]bool{}
	if c.array != nil {
		for _, n := range c.array.strings() {
			there[n.text] = n != c.token
		}
	}
	add := func(ch choice) {
		if !there[ch.label] {
			there[ch.label] = true
			ch.listed = k.Value.Kind == cml.StringsValue && !k.Value.One
			out = append(out, ch)
		}
	}
	v := &k.Value
	if v.Bare != "" && c.array == nil {
		add(choice{label: v.Bare, kind: itemWord})
	}
	for _, w := range v.Words {
		add(choice{label: w, kind: itemWord, doc: k.Doc})
	}
	switch {
	case v.Kind == cml.BoolValue:
		add(choice{label: "true", kind: itemValue, bare: true})
		add(choice{label: "false", kind: itemValue, bare: true})
	case v.Refs != nil:
		for _, ch := range references(root, c.object, k) {
			add(ch)
		}
	case v.Grammar == "URL" || k.Name == "include":
		skip = strings.LastIndexByte(typed, '/') + 1
		for _, ch := range files(d, typed[:skip], v.Grammar == "URL") {
			add(ch)
		}
	case v.Grammar == "path" && (c.object.get("protocol") != nil || c.object.get("service") != nil):
		for _, n := range append(c.object.get("protocol").strings(), c.object.get("service").strings()...) {
			add(choice{label: "/svc/" + n.text, kind: itemValue})
		}
	case v.Grammar == "name":
		for _, ch := range s.capabilities(d, root, c.object, k) {
			add(ch)
		}
	}
	return out, skip
}

// references are what a key that takes references can refer to.
func references(root, entry *node, k *cml.Key) []choice {
	var out []choice
	for _, w := range k.Value.Refs.Words {
		out = append(out, choice{label: w, kind: itemWord, doc: k.Doc})
	}
	keywordKey, _ := keyword(entry)
	kind := ""
	if keywordKey != nil {
		kind = keywordKey.Name
	}
	for _, decl := range declarations(root) {
		ref := choice{label: "#" + decl.name, detail: decl.kind, kind: itemRef}
		switch {
		case k.Name == "environment":
			if decl.kind == aEnvironment {
				out = append(out, ref)
			}
		case decl.kind == aChild:
			if url := decl.entry.get("url"); url != nil {
				ref.detail += " " + url.text
			}
			out = append(out, ref)
		case decl.kind == aCollection && (k.Name != "from" || kind == "service" || kind == ""):
			out = append(out, ref)
		case decl.kind == "storage" && k.Name == "from" && kind == "protocol":
			out = append(out, ref)
		case decl.kind == "dictionary" && slices.Contains(k.Value.Refs.Roots, "self"):
			out = append(out, choice{label: "self/" + decl.name, detail: decl.kind, kind: itemRef})
		}
	}
	return out
}

// capabilities are names that a key which takes a capability's name may hold: what the child exposes that it comes from, before
// what has that kind anywhere in the manifest.
func (s *server) capabilities(d *document, root, entry *node, k *cml.Key) []choice {
	kind := k.Name
	switch kind {
	case "backing_dir":
		kind = manifest.KindDirectory.String()
	case "as", "name", "key":
		return nil
	}
	var out []choice
	add := func(n *node, detail string, far bool) {
		if n.text != "" {
			out = append(out, choice{label: n.text, detail: detail, kind: itemRef, far: far})
		}
	}
	for _, from := range entry.get("from").strings() {
		if m, ok := mentionIn(from); ok {
			if path := s.childManifest(d, root, m); path != "" {
				_, child := s.manifestTree(path)
				for _, e := range exposed(child, kind) {
					add(e.name, "exposed by "+from.text, false)
				}
			}
		}
	}
	for _, section := range []string{"capabilities", "use", "offer", "expose"} {
		for _, e := range entries(root, section) {
			if e == entry {
				continue
			}
			if key, value := keyword(e); key != nil && key.Name == kind {
				for _, n := range append(value.strings(), e.get("as").strings()...) {
					add(n, kind+" in "+section, len(out) > 0 && entry.get("from") != nil)
				}
			}
		}
	}
	if kind == manifest.KindRunner.String() {
		for _, name := range []string{"elf", "builtin"} {
			add(&node{text: name}, "runner of the manager", false)
		}
	}
	return out
}

// An exposedName is a name that a manifest's parent is given, as it is written there.
type exposedName struct {
	name *node
	as   string
}

// exposed are what a manifest exposes of a kind.
func exposed(root *node, kind string) []exposedName {
	var out []exposedName
	for _, e := range entries(root, "expose") {
		k, value := keyword(e)
		if k == nil || k.Name != kind {
			continue
		}
		if as := e.get("as"); as != nil && as.kind == stringNode {
			out = append(out, exposedName{as, as.text})
			continue
		}
		for _, n := range value.strings() {
			out = append(out, exposedName{n, n.text})
		}
	}
	return out
}

// childManifest is the file of the manifest of the child that m mentions; "" if there is none.
func (s *server) childManifest(d *document, root *node, m mention) string {
	decl, ok := m.declares(declarations(root))
	if !ok || decl.kind != aChild {
		return ""
	}
	url := decl.entry.get("url")
	if url == nil {
		return ""
	}
	return s.manifestOf(d, url.text)
}

// files are the manifests and directories in the directory dir, which is relative to that of d: those for children, or those to
// be included.
func files(d *document, dir string, children bool) []choice {
	if d.path == "" || strings.ContainsAny(dir, ":#\x00") || filepath.IsAbs(dir) {
		return nil
	}
	f, err := os.Open(filepath.Join(filepath.Dir(d.path), dir))
	if err != nil {
		return nil
	}
	defer f.Close()
	list, _ := f.ReadDir(maxItems) // what could be read
	slices.SortFunc(list, func(a, b os.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	var out []choice
	for _, e := range list {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, "."):
		case e.IsDir():
			out = append(out, choice{label: name + "/", kind: itemFolder, far: true})
		case filepath.Join(filepath.Dir(d.path), dir, name) == d.path:
		case strings.HasSuffix(name, ".shard.cml"):
			if !children {
				out = append(out, choice{label: name, kind: itemFile})
			}
		case strings.HasSuffix(name, ".cml"), strings.HasSuffix(name, ".cm") && children:
			out = append(out, choice{label: name, kind: itemFile, far: !children})
		}
	}
	return out
}
