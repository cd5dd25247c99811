package term

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text is t as Parse reads it again, on one line, in UTF-8.
func Text(t Term) string {
	var b strings.Builder
	write(&b, t)
	return b.String()
}

func write(b *strings.Builder, t Term) {
	switch t := t.(type) {
	case Atom:
		b.WriteString(quoteAtom(string(t)))
	case Int, Big:
		b.WriteString(BigInt(t).String())
	case Float:
		b.WriteString(floatText(float64(t)))
	case List:
		if s, ok := IsString(t); ok && s != "" && printable(s) {
			b.WriteString(quote(s, '"'))
			return
		}
		series(b, "[", t.Elems, "")
		if t.Tail != nil {
			b.WriteByte('|')
			write(b, t.Tail)
		}
		b.WriteByte(']')
	case Tuple:
		series(b, "{", t, "}")
	case Bits:
		b.WriteString("<<")
		if t.Last == 0 && len(t.Bytes) > 0 && !strings.ContainsFunc(t.Bytes, func(r rune) bool { return r < ' ' || r > '~' }) {
			b.WriteString(quote(t.Bytes, '"') + ">>")
			return
		}
		for i, c := range []byte(t.Bytes) {
			if i > 0 {
				b.WriteByte(',')
			}
			if i == len(t.Bytes)-1 && t.Last != 0 {
				fmt.Fprintf(b, "%d:%d", c>>(8-t.Last), t.Last)
			} else {
				fmt.Fprintf(b, "%d", c)
			}
		}
		b.WriteString(">>")
	case Map:
		b.WriteString("#{")
		for i, p := range t {
			if i > 0 {
				b.WriteByte(',')
			}
			write(b, p.Key)
			b.WriteString(" => ")
			write(b, p.Value)
		}
		b.WriteByte('}')
	case Fun:
		fmt.Fprintf(b, "fun %s:%s/%d", quoteAtom(string(t.M)), quoteAtom(string(t.F)), t.Arity)
	}
}

func series(b *strings.Builder, open string, terms []Term, closer string) {
	b.WriteString(open)
	for i, t := range terms {
		if i > 0 {
			b.WriteByte(',')
		}
		write(b, t)
	}
	b.WriteString(closer)
}

// printable says whether s is shown as a string rather than as a list of numbers.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && !strings.ContainsRune("\b\t\n\v\f\r\x1b", r) || r >= 0x7f && r < 0xa0 || r == 0xfeff || r&0xfffe == 0xfffe
	})
}

// floatText always has a digit on both sides of a point.
func floatText(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	mantissa, exp, has := strings.Cut(s, "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	if has {
		return mantissa + "e" + exp
	}
	return mantissa
}

func quoteAtom(s string) string {
	for i, r := range s {
		if i == 0 && !lower(r) || !inName(r) {
			return quote(s, '\'')
		}
	}
	if s == "" || slices.Contains(reserved, s) {
		return quote(s, '\'')
	}
	return s
}

func quote(s string, q rune) string {
	var b strings.Builder
	b.WriteRune(q)
	for _, r := range s {
		i := strings.IndexRune("\b\x7f\x1b\f\n\r\t\v", r)
		switch {
		case r == q || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case i >= 0:
			b.WriteByte('\\')
			b.WriteByte("bdefnrtv"[i])
		case r < ' ' || r >= 0x80 && r < 0xa0 || r == 0xfeff || r == 0xfffd:
			fmt.Fprintf(&b, `\x{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteRune(q)
	return b.String()
}

// Width is how wide Format makes lines where it can.
const Width = 100

// Format is t as Parse reads it again, in UTF-8, for people and for diff(1): what does not fit on a line has a line for each
// element.
func Format(t Term) string {
	var b strings.Builder
	format(&b, t, 0, 0)
	return b.String()
}

// format writes t from column col on; more is what must follow on its last line.
func format(b *strings.Builder, t Term, col, more int) {
	text := Text(t)
	if utf8.RuneCountInString(text)+col+more <= Width {
		b.WriteString(text)
		return
	}
	var elems []Term
	begin, end := "[", "]"
	switch t := t.(type) {
	case Tuple:
		elems, begin, end = t, "{", "}"
	case List:
		if _, ok := IsString(t); !ok && t.Tail == nil {
			elems = t.Elems
		}
	}
	if elems == nil {
		b.WriteString(text)
		return
	}
	b.WriteString(begin)
	at := col + 1
	for i, e := range elems {
		if i > 0 {
			b.WriteByte(',')
			b.WriteByte('\n')
			b.WriteString(strings.Repeat(" ", at))
		}
		last := 1
		if i == len(elems)-1 {
			last += more
		}
		format(b, e, at, last)
	}
	b.WriteString(end)
}
