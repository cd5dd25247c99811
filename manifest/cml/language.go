package cml

import (
	"errors"
	"path"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// An Object describes an object of the language: which keys it may have.
type Object struct {
	Name    string // for messages: "a child"
	Section string // of entries with a capability keyword: "capability", "use", "offer" or "expose"
	Keys    []Key
	Free    bool // it may have other keys too
}

// Key finds a key by its name; nil if there is none.
func (o *Object) Key(name string) *Key {
	for i := range o.Keys {
		if o.Keys[i].Name == name {
			return &o.Keys[i]
		}
	}
	return nil
}

// A Key describes one key of an Object.
type Key struct {
	Name     string
	Doc      string // what cml(5) says of it, as Markdown
	Required bool
	Kind     manifest.Kind   // set if it is a capability keyword
	Needs    []string        // of a keyword: the keys that an entry with it cannot do without, beside those that all need
	Of       []manifest.Kind // the kinds of capabilities that it applies to; nil means all
	Value    Value
}

// A ValueKind is a kind of value that a Key may hold.
type ValueKind uint8

const (
	FreeValue    ValueKind = iota // anything, or any object if there is an Object, which has the keys that are known
	StringValue                   // a string
	StringsValue                  // an array of different strings, or one string where One is set
	BoolValue                     // a boolean
	UintValue                     // an integer from Min to Max
	DecimalValue                  // a decimal of at least 1, as a number or a string
	ObjectValue                   // an Object
	ListValue                     // an array of Objects
	MapValue                      // an object whose keys have the Grammar and whose values are Objects
)

// A Value describes what a Key may hold.
type Value struct {
	Kind ValueKind

	// Of strings.
	One     bool     // of StringsValue: one string alone may be written
	Empty   bool     // of StringsValue: the array may be empty
	Words   []string // if not nil, it is one of these
	Grammar string   // else "name", "path", "relative path", "URL", "URL scheme", "config key", "reference" or "string"
	Refs    *Refs    // of references
	Bare    string   // a word that may stand alone, but not in the array; "" for none

	Min, Max uint64
	Object   *Object
}

// Refs describe what a reference may be.
type Refs struct {
	Words []string // these, as they are
	Roots []string // these, "/" and a relative path: a capability in a dictionary; "#" stands for "#name"
	Named bool     // "#name"
}

// Language describes a manifest. It must not be changed.
func Language() *Object { return theLanguage() }

var theLanguage = sync.OnceValue(func() *Object {
	l := &language{objects: map[any]*Object{}, manual: readManual(manualPage)}
	doc := describeShape(l, &documentShape)
	doc.Key("program").Value.Object = l.program()
	return doc
})

type language struct {
	objects map[any]*Object // by shape; a shape may hold itself
	manual  map[topic]manualText
}

func describeShape[T any](l *language, s *shape[T]) *Object {
	if o := l.objects[s]; o != nil {
		return o
	}
	o := &Object{Name: s.name, Section: s.section}
	l.objects[s] = o
	for i := range s.keys {
		k := &s.keys[i]
		doc := k.doc
		switch m := l.manual[topic{headings[s.name], k.name}]; {
		case m.shared:
			doc += "\n\n" + m.text
		case m.text != "":
			doc = m.text
		}
		o.Keys = append(o.Keys, Key{
			Name: k.name, Doc: doc, Required: k.required, Kind: k.kind, Of: k.of,
			Needs: needed[s.section][k.kind], Value: k.form.describe(l),
		})
	}
	return o
}

// needed are the keys that an entry needs beside its capability keyword, by the kind. The compiler demands them.
var needed = map[string]map[manifest.Kind][]string{
	"capability": {
		manifest.KindDirectory: {"path", "rights"},
		manifest.KindStorage:   {"backing_dir", "from", "storage_id"},
		manifest.KindRunner:    {"path"},
		manifest.KindResolver:  {"path"},
		manifest.KindConfig:    {"type", "value"},
	},
	"use": {
		manifest.KindDirectory: {"path", "rights"},
		manifest.KindStorage:   {"path"},
		manifest.KindConfig:    {"key", "type"},
	},
}

// program is the free object `program` with the keys that the runner elf knows.
func (l *language) program() *Object {
	o := &Object{Name: "`program`", Free: true, Keys: []Key{{
		Name: "runner", Doc: l.manual[topic{"PROGRAM", "runner"}].text,
		Value: aName.describe(l),
	}}}
	for _, name := range manualKeys(manualPage, headings[o.Name]) {
		into := o
		outer, inner, nested := strings.Cut(name, ".")
		doc := l.manual[topic{headings[o.Name], name}].text
		if nested {
			if o.Key(outer) == nil {
				o.Keys = append(o.Keys, Key{Name: outer, Doc: doc, Value: Value{Object: &Object{Name: "`" + outer + "`", Free: true}}})
			}
			into = o.Key(outer).Value.Object
			if inner == strings.ToUpper(inner) { // it stands for several names
				continue
			}
			name = inner
		}
		into.Keys = append(into.Keys, Key{Name: name, Doc: doc})
	}
	return o
}

func (f textForm) describe(*language) Value {
	v := Value{Kind: StringValue, Words: f.words, Grammar: f.what}
	if f.refs != nil {
		v.Refs = &Refs{Words: strings.Fields(f.refs.words), Roots: strings.Fields(f.refs.roots), Named: f.refs.named}
	}
	return v
}

func (f textsForm) describe(l *language) Value {
	v := f.item.describe(l)
	if f.many {
		v.Kind, v.One, v.Empty, v.Bare = StringsValue, f.one, f.empty, f.bare
	}
	return v
}

func (boolForm) describe(*language) Value { return Value{Kind: BoolValue} }

func (f uintForm) describe(*language) Value { return Value{Kind: UintValue, Min: f.min, Max: f.max} }

func (decimalForm) describe(*language) Value { return Value{Kind: DecimalValue} }

func (f freeForm) describe(*language) Value {
	if f.object {
		return Value{Object: &Object{Name: "an object", Free: true}}
	}
	return Value{}
}

func (f objectForm[T]) describe(l *language) Value {
	return Value{Kind: ObjectValue, Object: describeShape(l, f.shape)}
}

func (f listForm[T]) describe(l *language) Value {
	return Value{Kind: ListValue, Object: describeShape(l, f.shape)}
}

func (configForm) describe(l *language) Value {
	v := aConfigKey.describe(l)
	v.Kind, v.Object = MapValue, describeShape(l, &configTypeShape)
	return v
}

func (elementForm) describe(l *language) Value {
	return Value{Kind: ObjectValue, Object: describeShape(l, &elementShape)}
}

// Find opens the file that including x from the file named from means, as Expand does, and returns its name and contents.
func (in *Includes) Find(x, from string) (string, []byte, error) {
	e := expander{in: in}
	return e.find(x, path.Dir(from))
}

// Fixes are the slips in src that have one obvious repair, in the order of their places.
func Fixes(src []byte) json5.Errors {
	_, err := json5.Parse(src, json5.Options{})
	es, _ := errors.AsType[json5.Errors](err)
	var out json5.Errors
	for _, e := range es {
		if e.Fix != nil {
			out = append(out, e)
		}
	}
	return out
}
