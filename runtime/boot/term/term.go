// Package term has Erlang's terms, as far as boot scripts, releases and application files have them: their text, which Parse
// reads and Text writes, and the external term format, which Decode reads and Encode writes (erl_ext_dist in ERTS's manual;
// erlang.md c). Pids, ports, references and local funs belong to a running node; they are refused.
//
// Nesting is at most MaxDepth deep, and a compressed term at most MaxSize bytes; no count is believed before its bytes are there.
package term

import (
	"bytes"
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

const (
	MaxDepth = 10000    // the nesting of a term that is read
	MaxSize  = 16 << 20 // bytes: of a text, and of a compressed term when it is expanded
	maxBits  = 1 << 20  // bytes of the binaries of a text, more than its own
	maxAtom  = 255      // characters
)

// A Term is one of Atom, Int, Big, Float, List, Tuple, Bits, Map and Fun.
type Term interface{ rank() int }

// An Atom is a name, at most 255 characters.
type Atom string

// An Int is an integer that fits.
type Int int64

// A Big is an integer that an Int cannot hold; Integer makes it.
type Big struct{ v *big.Int }

// A Float is a finite number.
type Float float64

// A List is a list, a string too; Cons makes it. The zero List is [].
type List struct {
	Elems []Term
	Tail  Term // nil for a proper list; never a List
}

// A Tuple is {A,B,…}.
type Tuple []Term

// Bits is a binary. Of the last byte only the upper Last bits are part of it, the others are 0; Last is 0 if all are.
type Bits struct {
	Bytes string
	Last  uint8
}

// A Map is a map: its pairs in the order of their keys, each key once. MakeMap makes it.
type Map []Pair

// A Pair is an association of a Map.
type Pair struct{ Key, Value Term }

// A Fun is fun M:F/Arity.
type Fun struct {
	M, F  Atom
	Arity uint8
}

// The order of kinds, in which the keys of a small map are stored: integers before floats (erlang.md c.2).
func (Int) rank() int   { return 0 }
func (Big) rank() int   { return 0 }
func (Float) rank() int { return 1 }
func (Atom) rank() int  { return 2 }
func (Fun) rank() int   { return 3 }
func (Tuple) rank() int { return 4 }
func (Map) rank() int   { return 5 }
func (l List) rank() int {
	if l.Elems == nil {
		return 6
	}
	return 7
}
func (Bits) rank() int { return 8 }

// Integer is the term for i.
func Integer(i *big.Int) Term {
	if i.IsInt64() {
		return Int(i.Int64())
	}
	return Big{new(big.Int).Set(i)}
}

// BigInt is the value of an Int or a Big, else nil.
func BigInt(t Term) *big.Int {
	switch t := t.(type) {
	case Int:
		return big.NewInt(int64(t))
	case Big:
		return t.v
	}
	return nil
}

// Cons is the list of elems followed by tail: nil, the rest of the list, or the tail of an improper one.
func Cons(elems []Term, tail Term) Term {
	if rest, ok := tail.(List); ok {
		if len(elems) == 0 {
			return rest
		}
		return List{append(slices.Clip(elems), rest.Elems...), rest.Tail}
	}
	if len(elems) == 0 {
		if tail == nil {
			return List{}
		}
		return tail
	}
	return List{elems, tail}
}

// String is the list of the characters of s.
func String(s string) Term {
	var elems []Term
	for _, r := range s {
		elems = append(elems, Int(r))
	}
	return Cons(elems, nil)
}

// Proper returns the elements of a proper list.
func Proper(t Term) ([]Term, bool) {
	l, ok := t.(List)
	return l.Elems, ok && l.Tail == nil
}

// IsString says whether t is a list of characters, and which; [] is the empty one.
func IsString(t Term) (string, bool) {
	elems, ok := Proper(t)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for _, e := range elems {
		i, ok := e.(Int)
		if !ok || !character(int64(i)) {
			return "", false
		}
		b.WriteRune(rune(i))
	}
	return b.String(), true
}

// character says whether i is a Unicode scalar value.
func character(i int64) bool { return i >= 0 && i <= 0x10ffff && (i < 0xd800 || i > 0xdfff) }

// MakeMap is the map with pairs; of equal keys the last one's value counts. twice says whether there were any.
func MakeMap(pairs []Pair) (m Map, twice bool) {
	m = slices.Clone(pairs)
	slices.SortStableFunc(m, func(a, b Pair) int { return Compare(a.Key, b.Key) })
	out := m[:0]
	for _, p := range m {
		if n := len(out); n > 0 && Compare(out[n-1].Key, p.Key) == 0 {
			out[n-1].Value, twice = p.Value, true
			continue
		}
		out = append(out, p)
	}
	return out, twice
}

// Compare orders terms as the keys of a map are: 0 means equal by =:=, so 0.0 and -0.0 are and 1 and 1.0 are not.
func Compare(a, b Term) int {
	if c := cmp.Compare(a.rank(), b.rank()); c != 0 {
		return c
	}
	switch a := a.(type) {
	case Atom:
		return cmp.Compare(a, b.(Atom))
	case Float:
		return cmp.Compare(a, b.(Float))
	case Fun:
		b := b.(Fun)
		return cmp.Or(cmp.Compare(a.M, b.M), cmp.Compare(a.F, b.F), cmp.Compare(a.Arity, b.Arity))
	case Tuple:
		return cmp.Or(cmp.Compare(len(a), len(b.(Tuple))), slices.CompareFunc(a, b.(Tuple), Compare))
	case Map:
		b := b.(Map)
		return cmp.Or(cmp.Compare(len(a), len(b)),
			slices.CompareFunc(a, b, func(p, q Pair) int { return Compare(p.Key, q.Key) }),
			slices.CompareFunc(a, b, func(p, q Pair) int { return Compare(p.Value, q.Value) }))
	case List:
		return compareLists(a, b.(List))
	case Bits:
		b := b.(Bits)
		return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), cmp.Compare((a.Last+7)%8, (b.Last+7)%8))
	}
	return BigInt(a).Cmp(BigInt(b))
}

// compareLists compares element by element, then what is left of each.
func compareLists(a, b List) int {
	n := min(len(a.Elems), len(b.Elems))
	if c := slices.CompareFunc(a.Elems[:n], b.Elems[:n], Compare); c != 0 {
		return c
	}
	if len(a.Elems) == n && len(b.Elems) == n && a.Tail == nil && b.Tail == nil {
		return 0
	}
	return Compare(Cons(a.Elems[n:], a.Tail), Cons(b.Elems[n:], b.Tail))
}

// JSON is t as one line of JSON, one value per term (conformance/erlang/scripts/TERMJSON.md).
func JSON(t Term) []byte {
	var b bytes.Buffer
	writeJSON(&b, t)
	return b.Bytes()
}

func writeJSON(b *bytes.Buffer, t Term) {
	each := func(terms []Term) {
		b.WriteByte('[')
		for i, e := range terms {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, e)
		}
		b.WriteByte(']')
	}
	switch t := t.(type) {
	case Atom:
		fmt.Fprintf(b, `{"a":%s}`, quoteJSON(string(t)))
	case Int, Big:
		fmt.Fprintf(b, `{"i":"%s"}`, BigInt(t))
	case Float:
		fmt.Fprintf(b, `{"f":"%016x"}`, floatBits(t))
	case List:
		if s, ok := IsString(t); ok && s != "" {
			fmt.Fprintf(b, `{"s":%s}`, quoteJSON(s))
			return
		}
		b.WriteString(`{"l":`)
		each(t.Elems)
		if t.Tail != nil {
			b.WriteString(`,"tail":`)
			writeJSON(b, t.Tail)
		}
		b.WriteByte('}')
	case Tuple:
		b.WriteString(`{"t":`)
		each(t)
		b.WriteByte('}')
	case Bits:
		fmt.Fprintf(b, `{"b":"%x"`, t.Bytes)
		if t.Last != 0 {
			fmt.Fprintf(b, `,"bits":%d`, t.Last)
		}
		b.WriteByte('}')
	case Map:
		pairs := make([]string, len(t))
		for i, p := range t {
			pairs[i] = string(JSON(p.Key)) + "," + string(JSON(p.Value))
		}
		// The key's text ends where the value's begins, and no key's text is the beginning of another's.
		slices.Sort(pairs)
		b.WriteString(`{"m":[`)
		for i, p := range pairs {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString("[" + p + "]")
		}
		b.WriteString("]}")
	case Fun:
		fmt.Fprintf(b, `{"fun":[%s,%s,%d]}`, quoteJSON(string(t.M)), quoteJSON(string(t.F)), t.Arity)
	}
}

// quoteJSON quotes s as TERMJSON.md says.
func quoteJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
