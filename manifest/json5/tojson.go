package json5

import (
	"math/big"
	"strings"

	"github.com/tailscale/hujson"
)

// ToJSON turns a tree into standard JSON (RFC 8259) without white space. Of a name that an object has twice the last one counts.
// NaN and the infinities, which JSON cannot say, are an Errors.
func ToJSON(t *Tree) ([]byte, error) {
	w := jsonWriter{t: t, out: make([]byte, 0, len(t.Src()))}
	w.value(&t.Root)
	if len(w.errors) > 0 {
		return nil, w.errors
	}
	return w.out, nil
}

type jsonWriter struct {
	t      *Tree
	out    []byte
	errors Errors
}

func (w *jsonWriter) value(v *hujson.Value) {
	switch x := v.Value.(type) {
	case *hujson.Object:
		w.out = append(w.out, '{')
		w.members(x.Members)
		w.out = append(w.out, '}')
	case *hujson.Array:
		w.out = append(w.out, '[')
		for i := range x.Elements {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			w.value(&x.Elements[i])
		}
		w.out = append(w.out, ']')
	case hujson.Literal:
		switch KindOf(*v) {
		case String:
			w.out = append(w.out, hujson.String(Text(*v))...)
		case Number:
			w.number(v, string(x))
		default:
			w.out = append(w.out, x...)
		}
	}
}

func (w *jsonWriter) members(members []hujson.ObjectMember) {
	last := make(map[string]int, len(members))
	for i := range members {
		last[Name(members[i].Name)] = i
	}
	first := true
	for i := range members {
		name := Name(members[i].Name)
		at, ok := last[name]
		if !ok {
			continue // written already
		}
		delete(last, name)
		if !first {
			w.out = append(w.out, ',')
		}
		first = false
		w.out = append(append(w.out, hujson.String(name)...), ':')
		w.value(&members[at].Value)
	}
}

func (w *jsonWriter) number(v *hujson.Value, s string) {
	if s[0] == '-' {
		w.out = append(w.out, '-')
	}
	s = strings.TrimLeft(s, "+-")
	switch {
	case s[0] == 'I' || s[0] == 'N':
		w.errors = append(w.errors, &Error{Position: w.t.Position(v.StartOffset), Message: s + " cannot be written as JSON"})
		return
	case isHexNumber(s):
		n, _ := new(big.Int).SetString(s[2:], 16)
		w.out = n.Append(w.out, 10)
		return
	case s[0] == '.':
		w.out = append(w.out, '0')
	}
	// "5." and "5.e3" have a point with no digit after it.
	if i := strings.IndexByte(s, '.'); i >= 0 && (i+1 == len(s) || !isDigit(s[i+1])) {
		s = s[:i] + s[i+1:]
	}
	w.out = append(w.out, s...)
}
