package cml

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest/json5"
)

// JSON is the document as standard JSON without white space, keys in the order of the language's tables, comments left out.
// Parsing it gives an equal document.
func (d *Document) JSON() []byte {
	w := &printer{}
	documentForm.encode(w, d)
	return w.out
}

// Indented is JSON for people: a level is four blanks, with a newline at the end.
func (d *Document) Indented() []byte {
	var b bytes.Buffer
	if err := json.Indent(&b, d.JSON(), "", "    "); err != nil {
		panic("cml: " + err.Error()) // JSON writes JSON
	}
	return append(b.Bytes(), '\n')
}

// Equal says whether two documents say the same, whatever their places, and their style of writing.
func (d *Document) Equal(o *Document) bool { return documentForm.equal(d, o) }

var documentForm = objectForm[Document]{&documentShape}

type printer struct{ out []byte }

func (w *printer) string(s string) { w.out = append(w.out, hujson.String(s)...) }

// item puts a comma before all but the first item of what began at start.
func (w *printer) item(start int) {
	if len(w.out) > start {
		w.out = append(w.out, ',')
	}
}

func (textForm) encode(w *printer, from any) bool {
	t := from.(*Text)
	if t.At.IsSet() {
		w.string(t.Value)
	}
	return t.At.IsSet()
}

func (textsForm) encode(w *printer, from any) bool {
	t := from.(*Texts)
	if !t.At.IsSet() {
		return false
	}
	if !t.Many {
		for _, i := range t.Items {
			w.string(i.Value)
		}
		return len(t.Items) > 0
	}
	w.out = append(w.out, '[')
	start := len(w.out)
	for _, i := range t.Items {
		w.item(start)
		w.string(i.Value)
	}
	w.out = append(w.out, ']')
	return true
}

func (boolForm) encode(w *printer, from any) bool {
	t := from.(*Flag)
	if t.At.IsSet() {
		w.out = strconv.AppendBool(w.out, t.Value)
	}
	return t.At.IsSet()
}

func (uintForm) encode(w *printer, from any) bool {
	t := from.(*Uint)
	if t.At.IsSet() {
		w.out = strconv.AppendUint(w.out, t.Value, 10)
	}
	return t.At.IsSet()
}

func (decimalForm) encode(w *printer, from any) bool { return textForm{}.encode(w, from) }

func (freeForm) encode(w *printer, from any) bool {
	t := from.(*Free)
	if t.At.IsSet() {
		w.free(t)
	}
	return t.At.IsSet()
}

func (w *printer) free(t *Free) {
	switch t.Kind {
	case json5.Object:
		w.out = append(w.out, '{')
		start := len(w.out)
		for i := range t.Members {
			w.item(start)
			w.string(t.Members[i].Name)
			w.out = append(w.out, ':')
			w.free(&t.Members[i].Value)
		}
		w.out = append(w.out, '}')
	case json5.Array:
		w.out = append(w.out, '[')
		start := len(w.out)
		for i := range t.Items {
			w.item(start)
			w.free(&t.Items[i])
		}
		w.out = append(w.out, ']')
	case json5.String:
		w.string(t.Text)
	default:
		w.out = append(w.out, t.Text...)
	}
}

func (f objectForm[T]) encode(w *printer, from any) bool {
	t := from.(*T)
	if !f.shape.at(t).IsSet() {
		return false
	}
	c, isClause := from.(*Clause)
	w.out = append(w.out, '{')
	start := len(w.out)
	for i := range f.shape.keys {
		k := &f.shape.keys[i]
		if isClause && k.kind != 0 && k.kind != c.Kind {
			continue
		}
		before := len(w.out)
		w.item(start)
		w.string(k.name)
		w.out = append(w.out, ':')
		if !k.form.encode(w, k.field(t)) {
			w.out = w.out[:before]
		}
	}
	w.out = append(w.out, '}')
	return true
}

func (f listForm[T]) encode(w *printer, from any) bool {
	t := from.(*List[T])
	if !t.At.IsSet() {
		return false
	}
	w.out = append(w.out, '[')
	start := len(w.out)
	for i := range t.Items {
		w.item(start)
		objectForm[T](f).encode(w, &t.Items[i])
	}
	w.out = append(w.out, ']')
	return true
}

func (configForm) encode(w *printer, from any) bool {
	t := from.(*ConfigSection)
	if !t.At.IsSet() {
		return false
	}
	w.out = append(w.out, '{')
	start := len(w.out)
	for i := range t.Fields {
		w.item(start)
		w.string(t.Fields[i].Key.Value)
		w.out = append(w.out, ':')
		objectForm[ConfigType]{&configTypeShape}.encode(w, &t.Fields[i].Type)
	}
	w.out = append(w.out, '}')
	return true
}

func (elementForm) encode(w *printer, from any) bool {
	t := *from.(**ConfigType)
	return t != nil && objectForm[ConfigType]{&elementShape}.encode(w, t)
}
