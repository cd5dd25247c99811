package cml

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
	"github.com/cmgr/cmgr/manifest/name"
)

// Parse reads one manifest. file is the name that places carry. The document is never nil; what was wrong stands in it as far as
// that helps later stages to find more.
func Parse(file string, src []byte) (*Document, manifest.Diagnostics) {
	d := newDecoder(file, src)
	doc := d.document(&d.source.Tree.Root)
	return doc, d.findings()
}

// ParseMany is Parse for a file that may also hold an array of manifests; they are never none.
func ParseMany(file string, src []byte) ([]*Document, manifest.Diagnostics) {
	d := newDecoder(file, src)
	arr, ok := d.source.Tree.Root.Value.(*hujson.Array)
	if !ok || len(arr.Elements) == 0 {
		doc := d.document(&d.source.Tree.Root)
		return []*Document{doc}, d.findings()
	}
	var docs []*Document
	for i := range arr.Elements {
		docs = append(docs, d.document(&arr.Elements[i]))
	}
	return docs, d.findings()
}

func newDecoder(file string, src []byte) *decoder {
	s := &Source{File: file}
	tree, err := json5.Parse(src, json5.Options{})
	s.Tree = tree
	d := &decoder{source: s, diagnostics: syntax(s, err)}
	for _, dup := range tree.Duplicates {
		d.report(d.at(dup.Second), "duplicate-key", "", "key %q occurs twice; first at %s", dup.Name, tree.Position(dup.First))
	}
	return d
}

// document decodes a value; what could not be read is an empty document.
func (d *decoder) document(v *hujson.Value) *Document {
	doc := &Document{Source: d.source}
	if v.Value != nil {
		objectForm[Document]{&documentShape}.decode(d, v, doc)
	}
	return doc
}

type decoder struct {
	source      *Source
	diagnostics manifest.Diagnostics
	omitted     int // findings beyond maxFindings
}

// findings are those that are told, and how many are not.
func (d *decoder) findings() manifest.Diagnostics {
	if d.omitted == 0 {
		return d.diagnostics
	}
	return append(arrange(d.diagnostics), manifest.Omitted(d.diagnostics[maxFindings-1].Pos, d.omitted, false))
}

func (d *decoder) at(offset int) At { return At{d.source, offset} }

// maxFindings bounds what each stage says of one manifest.
const maxFindings = 1000

func (d *decoder) report(at At, rule, hint, format string, args ...any) {
	if len(d.diagnostics) >= maxFindings {
		d.omitted++
		return
	}
	d.diagnostics = append(d.diagnostics, manifest.Diagnostic{Pos: at.Pos(), Rule: rule, Hint: hint, Message: fmt.Sprintf(format,
		args...)})
}

// wrongType reports that v is not what was expected.
func (d *decoder) wrongType(v *hujson.Value, want string) { d.wrongShape(v, want, "") }

// wrongShape is wrongType with a hint.
func (d *decoder) wrongShape(v *hujson.Value, want, hint string) {
	d.report(d.at(v.StartOffset), "wrong-type", hint, "invalid type: %s, expected %s", describe(v), want)
}

// describe is v as messages show it.
func describe(v *hujson.Value) string {
	switch json5.KindOf(*v) {
	case json5.String:
		return fmt.Sprintf("string %q", json5.Text(*v))
	case json5.Number:
		lit := string(v.Value.(hujson.Literal))
		if _, err := json5.Int(*v); err == nil {
			return "integer `" + lit + "`"
		}
		return "number `" + lit + "`"
	case json5.Bool:
		return "boolean `" + string(v.Value.(hujson.Literal)) + "`"
	case json5.Array:
		return "array"
	case json5.Object:
		return "object"
	}
	return "null"
}

// A form is what a key's value may be. decode reads v into what into points to, and reports what is wrong; equal compares two
// values without their places; encode appends the value, false if it was not written; describe is the form for other rooms.
type form interface {
	decode(d *decoder, v *hujson.Value, into any)
	equal(a, b any) bool
	encode(w *printer, from any) bool
	describe(l *language) Value
}

// textForm is a string of a grammar, or one of a few words. Its field is a *Text.
type textForm struct {
	what  string
	check func(string) error
	words []string
	refs  *refs // of references
}

func (f textForm) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*Text)
	t.At = d.at(v.StartOffset)
	if json5.KindOf(*v) != json5.String {
		want := "a string"
		if f.words != nil {
			want = oneOf(f.words)
		}
		d.wrongType(v, want)
		return
	}
	t.Value = json5.Text(*v)
	f.verify(d, t)
}

// verify reports t if it does not follow the grammar. References and words that don't are then empty, so that later stages
// have nothing to say of them; a name may yet be what others refer to.
func (f textForm) verify(d *decoder, t *Text) {
	if f.words != nil {
		if !slices.Contains(f.words, t.Value) {
			d.report(t.At, "unknown-word", didYouMean(t.Value, f.words), "unknown variant `%s`, expected %s", t.Value, oneOf(f.words))
			t.Value = ""
		}
		return
	}
	if f.check == nil {
		return
	}
	if err := f.check(t.Value); err != nil {
		d.report(t.At, "bad-"+strings.ReplaceAll(strings.ToLower(f.what), " ", "-"), f.hint(t.Value), "%v", err)
		if f.refs != nil {
			t.Value = ""
		}
	}
}

// hint helps with the slips that are seen most.
func (f textForm) hint(s string) string {
	switch f.what {
	case "reference":
		if slices.Contains(refWords, s) || name.Check(s) != nil || f.check("#"+s) != nil {
			return ""
		}
		if near := name.Nearest(s, strings.Fields(f.refs.words)); near != "" {
			return fmt.Sprintf("did you mean %q? (a child would be %q)", near, "#"+s)
		}
		return fmt.Sprintf("a reference starts with #: did you mean %q?", "#"+s)
	case "name":
		if bare, ok := strings.CutPrefix(s, "#"); ok && f.check(bare) == nil {
			return fmt.Sprintf("a name has no # here: did you mean %q?", bare)
		}
	case "path":
		if f.check("/"+s) == nil {
			return fmt.Sprintf("did you mean %q?", "/"+s)
		}
	case "relative path":
		if bare := strings.Trim(s, "/"); f.check(bare) == nil {
			return fmt.Sprintf("did you mean %q?", bare)
		}
	case "URL":
		if strings.Contains(s, ":") {
			return ""
		}
		return `a relative URL has a fragment ("#meta/x.cm") or is the path of a manifest ("x.cml")`
	}
	return ""
}

func oneOf(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = "`" + w + "`"
	}
	switch len(q) {
	case 1:
		return q[0]
	case 2:
		return q[0] + " or " + q[1]
	}
	return "one of " + strings.Join(q, ", ")
}

func didYouMean(word string, candidates []string) string {
	if near := name.Nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean `%s`?", near)
	}
	return ""
}

func (f textForm) equal(a, b any) bool { return textEqual(a.(*Text), b.(*Text)) }

func textEqual(a, b *Text) bool { return a.At.IsSet() == b.At.IsSet() && a.Value == b.Value }

// textsForm is a string, an array of different strings, or either. Its field is a *Texts.
type textsForm struct {
	one, many bool
	empty     bool // the array may be empty
	repeats   bool // strings may be there twice
	item      textForm
	bare      string // a word that may stand alone but not in an array
	want      string
}

func (f textsForm) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*Texts)
	t.At = d.at(v.StartOffset)
	arr, isArray := v.Value.(*hujson.Array)
	switch {
	case json5.KindOf(*v) == json5.String && f.one:
		t.Items = []Text{{d.at(v.StartOffset), json5.Text(*v)}}
		if f.bare == "" || t.Items[0].Value != f.bare {
			f.item.verify(d, &t.Items[0])
		}
		return
	case !isArray || !f.many:
		d.wrongType(v, f.want)
		return
	}
	t.Many = true
	if len(arr.Elements) == 0 && !f.empty {
		d.report(t.At, "empty-array", "", "invalid length 0, expected %s", f.want)
	}
	t.Items = make([]Text, 0, len(arr.Elements))
	seen := newSet(len(arr.Elements))
	for i := range arr.Elements {
		e := &arr.Elements[i]
		if json5.KindOf(*e) != json5.String {
			if json5.KindOf(*e) == json5.Object && f.item.what == "reference" {
				d.report(d.at(e.StartOffset), "wrong-type",
					`objects such as { dest: "#a", as: "b" } are an older dialect; write "#a" here and "as" beside "to"`,
					"invalid type: object, expected %s", f.want)
				continue
			}
			d.wrongType(e, f.want)
			continue
		}
		item := Text{d.at(e.StartOffset), json5.Text(*e)}
		if item.Value == f.bare && f.bare != "" {
			d.report(item.At, "bad-reference", fmt.Sprintf("write %q by itself, not in an array", f.bare),
				"invalid value: string %q, expected %s",
				item.Value, f.want)
			continue
		}
		if !f.repeats && !seen.add(item.Value) {
			d.report(item.At, "duplicate-element", fmt.Sprintf("%q is there already", item.Value),
				"invalid value: array with duplicate element, expected %s", f.want)
			continue
		}
		f.item.verify(d, &item)
		t.Items = append(t.Items, item)
	}
}

func (f textsForm) equal(a, b any) bool {
	x, y := a.(*Texts), b.(*Texts)
	return x.At.IsSet() == y.At.IsSet() && slices.EqualFunc(x.Items, y.Items, func(a, b Text) bool { return a.Value == b.Value })
}

// A set of strings, small ones without a map.
type set struct {
	few  []string
	many map[string]bool
}

func newSet(size int) set {
	if size > 16 {
		return set{many: make(map[string]bool, size)}
	}
	return set{}
}

// add says whether s was new.
func (s *set) add(x string) bool {
	if s.many != nil {
		if s.many[x] {
			return false
		}
		s.many[x] = true
		return true
	}
	if slices.Contains(s.few, x) {
		return false
	}
	if s.few = append(s.few, x); len(s.few) > 16 {
		s.many = make(map[string]bool, 2*len(s.few))
		for _, y := range s.few {
			s.many[y] = true
		}
	}
	return true
}

// boolForm is a boolean. Its field is a *Flag.
type boolForm struct{}

func (boolForm) decode(d *decoder, v *hujson.Value, into any) {
	if json5.KindOf(*v) != json5.Bool {
		d.wrongType(v, "a boolean")
		return
	}
	*into.(*Flag) = Flag{d.at(v.StartOffset), v.Value.(hujson.Literal).Bool()}
}

func (boolForm) equal(a, b any) bool {
	x, y := a.(*Flag), b.(*Flag)
	return x.At.IsSet() == y.At.IsSet() && x.Value == y.Value
}

// uintForm is an unsigned integer within bounds. Its field is a *Uint.
type uintForm struct {
	min, max uint64
	want     string
}

func (f uintForm) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*Uint)
	t.At = d.at(v.StartOffset)
	n, err := json5.Uint(*v)
	if err == nil && n >= f.min && n <= f.max {
		t.Value = n
		return
	}
	t.Value = f.min // later stages must not report it again
	if json5.KindOf(*v) != json5.Number {
		d.wrongType(v, f.want)
		return
	}
	d.report(t.At, "bad-number", "", "invalid value: %s, expected %s", describe(v), f.want)
}

func (uintForm) equal(a, b any) bool {
	x, y := a.(*Uint), b.(*Uint)
	return x.At.IsSet() == y.At.IsSet() && x.Value == y.Value
}

// decimalForm is a number, or a decimal as a string. Its field is a *Text.
type decimalForm struct{}

func (decimalForm) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*Text)
	t.At = d.at(v.StartOffset)
	const want = `a decimal of at least 1, such as 2 or "1.5"`
	switch json5.KindOf(*v) {
	case json5.String:
		t.Value = json5.Text(*v)
	case json5.Number:
		t.Value = string(v.Value.(hujson.Literal))
	default:
		d.wrongType(v, want)
		return
	}
	if !manifest.IsBackoff(t.Value) {
		d.report(t.At, "bad-number", "", "invalid value: %s, expected %s", describe(v), want)
		t.Value = "1"
	}
}

func (decimalForm) equal(a, b any) bool { return textEqual(a.(*Text), b.(*Text)) }

// freeForm is any value, or any object. Its field is a *Free.
type freeForm struct{ object bool }

func (f freeForm) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*Free)
	d.free(v, t)
	if f.object && t.Kind != json5.Object {
		d.wrongType(v, "a map")
	}
}

func (d *decoder) free(v *hujson.Value, t *Free) {
	t.At, t.Kind = d.at(v.StartOffset), json5.KindOf(*v)
	switch x := v.Value.(type) {
	case *hujson.Object:
		t.Members = make([]Member, 0, len(x.Members))
		seen := newSet(len(x.Members))
		for i := range x.Members {
			m := &x.Members[i]
			key := json5.Name(m.Name)
			if !seen.add(key) {
				continue // reported as a duplicate
			}
			t.Members = append(t.Members, Member{At: d.at(m.Name.StartOffset), Name: key})
			d.free(&m.Value, &t.Members[len(t.Members)-1].Value)
		}
	case *hujson.Array:
		t.Items = make([]Free, len(x.Elements))
		for i := range x.Elements {
			d.free(&x.Elements[i], &t.Items[i])
		}
	case hujson.Literal:
		if t.Kind == json5.String {
			t.Text = json5.Text(*v)
		} else {
			t.Text = string(x)
		}
	}
}

func (freeForm) equal(a, b any) bool { return freeEqual(a.(*Free), b.(*Free)) }

func freeEqual(a, b *Free) bool {
	if a.At.IsSet() != b.At.IsSet() || a.Kind != b.Kind || a.Text != b.Text || len(a.Items) != len(b.Items) ||
		len(a.Members) != len(b.Members) {
		return false
	}
	for i := range a.Items {
		if !freeEqual(&a.Items[i], &b.Items[i]) {
			return false
		}
	}
	if len(a.Members) == 0 {
		return true
	}
	of := make(map[string]*Free, len(b.Members))
	for i := range b.Members {
		of[b.Members[i].Name] = &b.Members[i].Value
	}
	for i := range a.Members {
		m := of[a.Members[i].Name]
		if m == nil || !freeEqual(&a.Members[i].Value, m) {
			return false
		}
	}
	return true
}

// objectForm is a closed object. Its field is a *T.
type objectForm[T any] struct{ shape *shape[T] }

func (f objectForm[T]) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*T)
	*f.shape.at(t) = d.at(v.StartOffset)
	obj, ok := v.Value.(*hujson.Object)
	if !ok {
		hint := ""
		if f.shape != any(&documentShape) {
			hint = f.shape.name + " is written " + f.shape.example()
		}
		d.wrongShape(v, "a map", hint)
		return
	}
	var seen, keywords uint64
	unknown := false
	for i := range obj.Members {
		m := &obj.Members[i]
		word := json5.Name(m.Name)
		k := f.shape.index(word)
		if k < 0 {
			d.unknownKey(m, word, f.shape.gone[word], f.shape.names())
			unknown = true
			continue
		}
		if seen&(1<<k) != 0 {
			continue // reported as a duplicate
		}
		seen |= 1 << k
		if kind := f.shape.keys[k].kind; kind != 0 {
			keywords |= 1 << k
			if c, ok := any(t).(*Clause); ok {
				if c.Kind != 0 {
					continue // only one can be kept
				}
				c.Kind = kind
			}
		}
		f.shape.keys[k].form.decode(d, &m.Value, f.shape.keys[k].field(t))
	}
	for k := range f.shape.keys {
		if f.shape.keys[k].required && seen&(1<<k) == 0 {
			d.report(d.at(v.StartOffset), "missing-key", f.shape.keys[k].adding(), "missing field `%s` in %s", f.shape.keys[k].name,
				f.shape.name)
		}
	}
	if f.shape.section != "" {
		f.checkKeywords(d, v.StartOffset, keywords, unknown)
	}
}

// checkKeywords reports a clause that has no capability keyword, or several.
func (f objectForm[T]) checkKeywords(d *decoder, offset int, keywords uint64, unknown bool) {
	switch n := bits.OnesCount64(keywords); {
	case n == 0 && !unknown: // an unknown key was probably meant to be it
		d.report(d.at(offset), "missing-keyword", "", "`%s` declaration is missing a capability keyword, one of: %s", f.shape.section,
			quoted(f.shape.keywords()))
	case n > 1:
		var names []string
		for k := range f.shape.keys {
			if keywords&(1<<k) != 0 {
				names = append(names, f.shape.keys[k].name)
			}
		}
		d.report(d.at(offset), "many-keywords", "write one entry for each",
			"%s declaration has multiple capability types defined: [%s]", f.shape.section, quoted(names))
	}
}

func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(q, ", ")
}

// adding is the hint to a key that is missing.
func (k *key[T]) adding() string {
	words := ""
	if f, ok := k.form.(textForm); ok && f.words != nil {
		words = ", " + oneOf(f.words)
	}
	return "add `" + k.name + "`: " + k.doc + words
}

// adding is the hint that the key of that name is missing.
func (s *shape[T]) adding(key string) string { return s.keys[s.index(key)].adding() }

func (s *shape[T]) index(word string) int {
	for i := range s.keys {
		if s.keys[i].name == word {
			return i
		}
	}
	return -1
}

func (d *decoder) unknownKey(m *hujson.ObjectMember, word, gone string, known []string) {
	at := d.at(m.Name.StartOffset)
	if near := name.Nearest(word, known); near != "" && gone == "" {
		d.report(at, "unknown-key", fmt.Sprintf("did you mean `%s`?", near), "unknown field `%s`", word)
		return
	}
	d.report(at, "unknown-key", gone, "unknown field `%s`, expected %s", word, oneOf(known))
}

func (f objectForm[T]) equal(a, b any) bool {
	x, y := a.(*T), b.(*T)
	if f.shape.at(x).IsSet() != f.shape.at(y).IsSet() {
		return false
	}
	if c, ok := any(x).(*Clause); ok && c.Kind != any(y).(*Clause).Kind {
		return false
	}
	for i := range f.shape.keys {
		if k := &f.shape.keys[i]; !k.form.equal(k.field(x), k.field(y)) {
			return false
		}
	}
	return true
}

// example is what an object of the shape looks like, with the keys that it needs.
func (s *shape[T]) example() string {
	var keys []string
	if s.section != "" {
		keys = append(keys, "protocol: …")
	}
	for i := range s.keys {
		if s.keys[i].required {
			keys = append(keys, s.keys[i].name+": …")
		}
	}
	if keys == nil {
		keys = []string{s.keys[0].name + ": …"}
	}
	return "{ " + strings.Join(keys, ", ") + " }"
}

// listForm is an array of closed objects. Its field is a *List[T].
type listForm[T any] struct{ shape *shape[T] }

func (f listForm[T]) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*List[T])
	t.At = d.at(v.StartOffset)
	arr, ok := v.Value.(*hujson.Array)
	if !ok {
		d.wrongShape(v, "an array", "write [ "+f.shape.example()+" ]")
		return
	}
	t.Items = make([]T, len(arr.Elements))
	for i := range arr.Elements {
		objectForm[T](f).decode(d, &arr.Elements[i], &t.Items[i])
	}
}

func (f listForm[T]) equal(a, b any) bool {
	x, y := a.(*List[T]), b.(*List[T])
	if x.At.IsSet() != y.At.IsSet() || len(x.Items) != len(y.Items) {
		return false
	}
	for i := range x.Items {
		if !objectForm[T](f).equal(&x.Items[i], &y.Items[i]) {
			return false
		}
	}
	return true
}

// configForm is the `config` section. Its field is a *ConfigSection.
type configForm struct{}

func (configForm) decode(d *decoder, v *hujson.Value, into any) {
	t := into.(*ConfigSection)
	obj, ok := v.Value.(*hujson.Object)
	if !ok {
		d.wrongType(v, "a map")
		return
	}
	t.At = d.at(v.StartOffset)
	seen := newSet(len(obj.Members))
	for i := range obj.Members {
		m := &obj.Members[i]
		f := ConfigField{Key: Text{d.at(m.Name.StartOffset), json5.Name(m.Name)}}
		if !seen.add(f.Key.Value) {
			continue // reported as a duplicate
		}
		aConfigKey.verify(d, &f.Key)
		objectForm[ConfigType]{&configTypeShape}.decode(d, &m.Value, &f.Type)
		t.Fields = append(t.Fields, f)
	}
}

func (configForm) equal(a, b any) bool {
	x, y := a.(*ConfigSection), b.(*ConfigSection)
	return x.At.IsSet() == y.At.IsSet() && slices.EqualFunc(x.Fields, y.Fields, func(a, b ConfigField) bool {
		return a.Key.Value == b.Key.Value && objectForm[ConfigType]{&configTypeShape}.equal(&a.Type, &b.Type)
	})
}

// elementForm is the type of a vector's elements. Its field is a **ConfigType.
type elementForm struct{}

func (elementForm) decode(d *decoder, v *hujson.Value, into any) {
	t := &ConfigType{}
	objectForm[ConfigType]{&elementShape}.decode(d, v, t)
	*into.(**ConfigType) = t
}

func (elementForm) equal(a, b any) bool {
	x, y := *a.(**ConfigType), *b.(**ConfigType)
	if x == nil || y == nil {
		return x == y
	}
	return objectForm[ConfigType]{&elementShape}.equal(x, y)
}
