package term

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Parse reads the first term of src, an .script, .rel or .app file, and the dot after it; what follows is not looked at, as
// systools does (erlang.md c.1). The error is a *SyntaxError.
func Parse(file string, src []byte) (t Term, err error) {
	if len(src) > MaxSize {
		return nil, &SyntaxError{File: file, Line: 1, Col: 1, Err: fmt.Errorf("%d bytes; at most %d are read", len(src), MaxSize)}
	}
	p := &parser{src: src, latin1: latin1(src), line: 1, col: 1, room: 8 * (maxBits + len(src))}
	empty := false
	if err = p.next(); err == nil {
		empty = p.tok.kind == eof
		if t, err = p.term(0); err == nil && p.tok.kind != end {
			err = p.unexpected("a full stop after the term")
		}
	}
	if err == nil {
		return t, nil
	}
	e := &SyntaxError{File: file, Line: p.tok.line, Col: p.tok.col, Err: err}
	for !p.torn && p.tok.kind != end && p.tok.kind != eof {
		_ = p.next()
	}
	e.Torn = p.torn || empty
	return nil, e
}

// A SyntaxError is why a text is no term, and where: line and column count from 1.
type SyntaxError struct {
	File      string
	Line, Col int
	// Torn says that the text up to its full stop is not even words, or that there is none: Erlang's reader cannot read such a
	// file, where it finds fault with the grammar of others.
	Torn bool
	Err  error
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %v", e.File, e.Line, e.Col, e.Err)
}
func (e *SyntaxError) Unwrap() error { return e.Err }

var coding = regexp.MustCompile(`^[^\n%]*%[^\n]*?coding *[:=] *([-A-Za-z0-9]+)`)

// latin1 says whether a comment in the first two lines says so; otherwise a file is UTF-8.
func latin1(src []byte) bool {
	for range 2 {
		line, rest, _ := bytes.Cut(src, []byte("\n"))
		if m := coding.FindSubmatch(line); m != nil {
			return strings.EqualFold(string(m[1]), "latin-1")
		}
		src = rest
	}
	return false
}

type kind int

const (
	eof   kind = iota
	end        // the full stop
	punct      // text
	atomT      // text
	word       // a reserved one: text
	str        // text
	num        // value
	variable
)

// A token stands at line:col.
type token struct {
	kind      kind
	text      string
	value     Term
	line, col int
}

type parser struct {
	src       []byte
	latin1    bool
	line, col int // of the next character
	room      int // bits that the text may still make: a segment's size can ask for any number
	tok       token
	torn      bool // what follows tok is no word
}

const none = rune(-1)

var errTooLarge = errors.New("the binaries are much larger than their text")

var errUTF8 = errors.New("the text is not UTF-8 here")

// peek is the next character, or none at the end.
func (p *parser) peek() (rune, int, error) {
	switch {
	case len(p.src) == 0:
		return none, 0, nil
	case p.latin1:
		return rune(p.src[0]), 1, nil
	}
	r, n := utf8.DecodeRune(p.src)
	if r == utf8.RuneError && n == 1 {
		return 0, 0, errUTF8
	}
	return r, n, nil
}

// read is the next character, which is then behind.
func (p *parser) read() (rune, error) {
	r, n, err := p.peek()
	p.src = p.src[n:]
	if r == '\n' {
		p.line, p.col = p.line+1, 1
	} else if n > 0 {
		p.col++
	}
	return r, err
}

// starts says whether the text goes on with an ASCII character of set.
func (p *parser) starts(set string) bool {
	return len(p.src) > 0 && strings.IndexByte(set, p.src[0]) >= 0
}

func blank(r rune) bool { return r >= 0 && r <= 32 || r >= 128 && r <= 160 }
func digit(r rune) bool { return r >= '0' && r <= '9' }
func lower(r rune) bool { return r >= 'a' && r <= 'z' || r >= 0xdf && r <= 0xff && r != 0xf7 }
func upper(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 0xc0 && r <= 0xde && r != 0xd7 }
func inName(r rune) bool {
	return lower(r) || upper(r) || digit(r) || r == '_' || r == '@'
}

var reserved = strings.Fields(`after and andalso band begin bnot bor bsl bsr bxor case catch cond div end fun if let not of or
	orelse receive rem try when xor`)

// next reads the next token.
func (p *parser) next() error {
	err := p.token()
	p.torn = err != nil
	return err
}

func (p *parser) token() error {
	var r rune
	for comment := false; ; {
		p.tok = token{line: p.line, col: p.col}
		var err error
		if r, err = p.read(); err != nil {
			return err
		}
		if r == none {
			return nil
		}
		comment = (comment || r == '%') && r != '\n'
		if !comment && !blank(r) {
			break
		}
	}
	switch {
	case digit(r):
		return p.number(r)
	case r == '$':
		c, err := p.char()
		if err != nil {
			return err
		}
		p.tok.kind, p.tok.value = num, Int(c)
	case r == '"' || r == '\'':
		return p.quoted(r)
	case lower(r):
		name, err := p.name(r)
		if err != nil {
			return err
		}
		p.tok.kind, p.tok.text = atomT, name
		if slices.Contains(reserved, name) {
			p.tok.kind = word
			return nil
		}
		_, err = atom(name)
		return err
	case upper(r) || r == '_':
		p.tok.kind = variable
		_, err := p.name(r)
		return err
	case r == '.':
		n, _, err := p.peek()
		if err != nil {
			return err
		}
		if n != none && n != '%' && !blank(n) {
			return fmt.Errorf("%q right after a full stop", n)
		}
		p.tok.kind = end
	default:
		p.tok.kind, p.tok.text = punct, string(r)
		for _, two := range []string{"<<", ">>", "=>", "--", "++", ":=", "->", "||", "=="} {
			if rune(two[0]) == r && p.starts(two[1:]) {
				p.tok.text = two
				_, err := p.read()
				return err
			}
		}
	}
	return nil
}

func (p *parser) name(first rune) (string, error) {
	b := []rune{first}
	for {
		r, _, err := p.peek()
		if err != nil || !inName(r) {
			return string(b), err
		}
		b = append(b, r)
		if _, err := p.read(); err != nil {
			return "", err
		}
	}
}

// quoted reads a string or an atom up to the quote q.
func (p *parser) quoted(q rune) error {
	var b strings.Builder
	for !p.starts(string(q)) {
		if len(p.src) == 0 {
			return fmt.Errorf("the %q is never closed", q)
		}
		c, err := p.char()
		if err != nil {
			return err
		}
		b.WriteRune(c)
	}
	_, err := p.read()
	p.tok.kind, p.tok.text = str, b.String()
	if q == '\'' && err == nil {
		p.tok.kind = atomT
		_, err = atom(p.tok.text)
	}
	return err
}

// char reads a character, or the escape sequence for one.
func (p *parser) char() (rune, error) {
	r, err := p.read()
	if err != nil || r != '\\' {
		if r == none {
			err = errors.New("the file ends where a character was expected")
		}
		return r, err
	}
	if r, err = p.read(); err != nil {
		return 0, err
	}
	switch {
	case r == none:
		return 0, errors.New("the file ends in an escape sequence")
	case r == 'x':
		return p.hex()
	case r == '^':
		if r, err = p.read(); err == nil && r == none {
			err = errors.New("the file ends in an escape sequence")
		}
		return r & 31, err
	case r >= '0' && r <= '7':
		v := r - '0'
		for range 2 {
			if !p.starts("01234567") {
				break
			}
			d, _ := p.read()
			v = v*8 + d - '0'
		}
		return v, nil
	}
	if i := strings.IndexRune("bdefnrstv", r); i >= 0 {
		return rune("\b\x7f\x1b\f\n\r \t\v"[i]), nil
	}
	return r, nil
}

const hexDigits = "0123456789abcdefABCDEF"

func (p *parser) hex() (rune, error) {
	braces := p.starts("{")
	if braces {
		_, _ = p.read()
	}
	v, n := int64(0), 0
	for p.starts(hexDigits) && (braces || n < 2) {
		d, _ := p.read()
		i, _ := strconv.ParseInt(string(d), 16, 64)
		v, n = min(v*16+i, math.MaxInt32), n+1
	}
	switch {
	case n == 0 || !braces && n < 2 || braces && !p.starts("}"):
		return 0, errors.New(`\x wants two hexadecimal digits, or any number in braces`)
	case !character(v):
		return 0, errors.New(`the \x is no Unicode character`)
	}
	if braces {
		_, _ = p.read()
	}
	return rune(v), nil
}

// digits reads digits of the base with _ between them, after those in text.
func (p *parser) digits(text string, base int) string {
	of := "0123456789abcdefghijklmnopqrstuvwxyz"[:base]
	of += strings.ToUpper(of[min(base, 10):])
	b := []byte(text)
	for {
		under := len(b) > 0 && len(p.src) > 1 && p.src[0] == '_' && strings.IndexByte(of, p.src[1]) >= 0
		if !under && !p.starts(of) {
			return string(b)
		}
		c, _ := p.read()
		if c != '_' {
			b = append(b, byte(c))
		}
	}
}

func (p *parser) number(first rune) error {
	text := p.digits(string(first), 10)
	p.tok.kind = num
	base := 10
	switch {
	case p.starts("#"):
		b, err := strconv.Atoi(text)
		if err != nil || b < 2 || b > 36 {
			return fmt.Errorf("base %.20s; it is 2 to 36", text)
		}
		_, _ = p.read()
		if text, base = p.digits("", b), b; text == "" {
			return errors.New("no digits after the base")
		}
	case len(p.src) > 1 && p.src[0] == '.' && digit(rune(p.src[1])):
		_, _ = p.read()
		text += "." + p.digits("", 10)
		if p.starts("eE") {
			_, _ = p.read()
			sign := ""
			if p.starts("+-") {
				c, _ := p.read()
				sign = string(c)
			}
			exp := p.digits("", 10)
			if exp == "" {
				return errors.New("no digits in the exponent")
			}
			text += "e" + sign + exp
		}
		f, err := strconv.ParseFloat(text, 64)
		if math.IsInf(f, 0) {
			return fmt.Errorf("the float is too large: %w", err)
		}
		p.tok.value = Float(f)
		return nil
	}
	i, ok := new(big.Int).SetString(text, base)
	if !ok {
		return errors.New("no number")
	}
	p.tok.value = Integer(i)
	return nil
}

// unexpected says what stands where something else was wanted.
func (p *parser) unexpected(want string) error {
	var found string
	switch p.tok.kind {
	case variable:
		return errors.New("a variable; only terms are read")
	case eof:
		found = "the file ends"
	case end:
		found = "a full stop"
	case str:
		found = "a string"
	case num:
		found = "a number"
	case word:
		found = fmt.Sprintf("the reserved word %s", p.tok.text)
	default:
		found = fmt.Sprintf("%q", p.tok.text)
	}
	return fmt.Errorf("%s where %s was expected", found, want)
}

// is says whether the token is the punctuation s.
func (p *parser) is(s string) bool { return p.tok.kind == punct && p.tok.text == s }

// want reads over the punctuation s.
func (p *parser) want(s string) error {
	if !p.is(s) {
		return p.unexpected("'" + s + "'")
	}
	return p.next()
}

// series reads what item reads, separated by commas, up to close.
func (p *parser) series(closer string, item func() error) error {
	if p.is(closer) {
		return p.next()
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if !p.is(",") {
			return p.want(closer)
		}
		if err := p.next(); err != nil {
			return err
		}
	}
}

func (p *parser) term(depth int) (Term, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested more than %d deep", MaxDepth)
	}
	tok := p.tok
	switch tok.kind {
	case num:
		return tok.value, p.next()
	case atomT:
		return Atom(tok.text), p.next()
	case str:
		s, err := p.strings()
		return String(s), err
	case word:
		if tok.text == "fun" {
			return p.fun()
		}
	case punct:
		if !slices.Contains([]string{"+", "-", "(", "{", "[", "#", "<<"}, tok.text) {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		switch tok.text {
		case "+", "-":
			return p.signed(tok.text == "-", depth+1)
		case "(":
			t, err := p.term(depth + 1)
			if err == nil {
				err = p.want(")")
			}
			return t, err
		case "{":
			elems := Tuple{}
			err := p.series("}", func() error {
				t, err := p.term(depth + 1)
				elems = append(elems, t)
				return err
			})
			return elems, err
		case "[":
			return p.list(depth)
		case "#":
			return p.mapping(depth)
		case "<<":
			return p.binary(depth)
		}
	}
	return nil, p.unexpected("a term")
}

// strings reads a string and those right after it, which go on with it.
func (p *parser) strings() (string, error) {
	var b strings.Builder
	for p.tok.kind == str {
		b.WriteString(p.tok.text)
		if err := p.next(); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// signed reads a number without a sign, in any parentheses.
func (p *parser) signed(minus bool, depth int) (Term, error) {
	if p.is("(") && depth <= MaxDepth {
		if err := p.next(); err != nil {
			return nil, err
		}
		t, err := p.signed(minus, depth+1)
		if err == nil {
			err = p.want(")")
		}
		return t, err
	}
	t := p.tok.value
	if p.tok.kind != num {
		return nil, p.unexpected("a number after the sign")
	}
	if f, ok := t.(Float); ok && minus {
		t = -f
	} else if minus {
		t = Integer(new(big.Int).Neg(BigInt(t)))
	}
	return t, p.next()
}

func (p *parser) list(depth int) (Term, error) {
	var elems []Term
	var tail Term
	err := p.series("]", func() error {
		t, err := p.term(depth + 1)
		elems = append(elems, t)
		if err == nil && p.is("|") {
			if err = p.next(); err == nil {
				tail, err = p.term(depth + 1)
			}
			if err == nil && !p.is("]") {
				err = p.unexpected("']'")
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return Cons(elems, tail), nil
}

func (p *parser) mapping(depth int) (Term, error) {
	if err := p.want("{"); err != nil {
		return nil, err
	}
	var pairs []Pair
	err := p.series("}", func() error {
		k, err := p.term(depth + 1)
		if err == nil {
			err = p.want("=>")
		}
		if err != nil {
			return err
		}
		v, err := p.term(depth + 1)
		pairs = append(pairs, Pair{k, v})
		return err
	})
	m, _ := MakeMap(pairs)
	return m, err
}

// fun reads fun M:F/A.
func (p *parser) fun() (Term, error) {
	var f Fun
	for _, part := range []struct {
		before string
		name   *Atom
	}{{"fun", &f.M}, {":", &f.F}} {
		if p.tok.text != part.before || p.tok.kind != word && p.tok.kind != punct {
			return nil, p.unexpected("'" + part.before + "' of fun M:F/A")
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		if p.tok.kind != atomT {
			return nil, p.unexpected("an atom of fun M:F/A")
		}
		*part.name = Atom(p.tok.text)
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if err := p.want("/"); err != nil {
		return nil, err
	}
	a, ok := p.tok.value.(Int)
	if !ok || a < 0 || a > 255 {
		return nil, p.unexpected("an arity from 0 to 255")
	}
	f.Arity = uint8(a)
	return f, p.next()
}

// A bitWriter collects the bits of the segments of a binary.
type bitWriter struct {
	b    []byte
	n    int  // bits
	room *int // what all binaries of the text may still have
}

func (w *bitWriter) add(p []byte, n int) {
	*w.room -= n
	if w.n%8 == 0 {
		w.b = append(w.b, p[:(n+7)/8]...)
		w.n += n
		if n%8 != 0 {
			w.b[len(w.b)-1] &= 0xff << (8 - n%8)
		}
		return
	}
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= p[i/8] >> (7 - i%8) & 1 << (7 - w.n%8)
		w.n++
	}
}

// A segment of a binary is Value:Size/Type.
type segment struct {
	size         int // -1: not given
	kind         string
	unit         int // 0: not given
	little       bool
	sign, endian bool // given
}

func (p *parser) binary(depth int) (Term, error) {
	w := bitWriter{room: &p.room}
	err := p.series(">>", func() error {
		var text *string
		var v Term
		var err error
		if p.tok.kind == str {
			s, err := p.strings()
			if err != nil {
				return err
			}
			text = &s
		} else if v, err = p.term(depth + 1); err != nil {
			return err
		}
		s, err := p.segment()
		if err != nil {
			return err
		}
		if text == nil {
			return s.write(&w, v)
		}
		for _, r := range *text {
			if err := s.write(&w, Int(r)); err != nil {
				return err
			}
		}
		return nil
	})
	return Bits{string(w.b), uint8(w.n % 8)}, err
}

func (p *parser) segment() (s segment, err error) {
	s = segment{size: -1, kind: "integer"}
	number := func(most int) (int, error) {
		i, ok := p.tok.value.(Int)
		if !ok || i < 0 || int(i) > most {
			return 0, p.unexpected(fmt.Sprintf("a size of at most %d", most))
		}
		return int(i), p.next()
	}
	if p.is(":") {
		if err = p.next(); err == nil {
			s.size, err = number(8 * maxBits)
		}
		if err != nil {
			return s, err
		}
	}
	if !p.is("/") {
		return s, nil
	}
	typed := false
	for first := true; first || p.is("-"); first = false {
		if err := p.next(); err != nil {
			return s, err
		}
		name := p.tok.text
		var twice bool
		if p.tok.kind != atomT {
			return s, p.unexpected("a type of a segment")
		}
		switch name {
		case "integer", "float", "binary", "bytes", "bitstring", "bits", "utf8", "utf16", "utf32":
			twice, typed, s.kind = typed, true, name
		case "big", "little", "native":
			twice, s.endian = s.endian, true
			s.little = name == "little" || name == "native" && binary.NativeEndian.Uint16([]byte{1, 0}) == 1
		case "signed", "unsigned":
			twice, s.sign = s.sign, true
		case "unit":
			twice = s.unit != 0
		default:
			return s, p.unexpected("a type of a segment")
		}
		if twice {
			return s, fmt.Errorf("%s contradicts another type of the segment", name)
		}
		if err := p.next(); err != nil {
			return s, err
		}
		if name == "unit" {
			if err = p.want(":"); err == nil {
				s.unit, err = number(256)
			}
			if err == nil && s.unit == 0 {
				err = errors.New("a unit of 0")
			}
			if err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// write appends v as the segment says.
func (s segment) write(w *bitWriter, v Term) error {
	size := func(size, unit int) (int, error) {
		if s.size >= 0 {
			size = s.size
		} else if s.unit != 0 && s.kind != "binary" && s.kind != "bytes" && s.kind != "bitstring" && s.kind != "bits" {
			return 0, errors.New("a unit without a size")
		}
		if s.unit != 0 {
			unit = s.unit
		}
		if n := size * unit; n <= *w.room {
			return n, nil
		}
		return 0, errTooLarge
	}
	number := func(p []byte, n int) {
		if s.little {
			slices.Reverse(p)
			if odd := n % 8; odd != 0 { // the odd bits are the upper ones, and come last
				p[len(p)-1] <<= 8 - odd
			}
		} else if odd := n % 8; odd != 0 {
			for i := range p {
				p[i] <<= 8 - odd
				if i+1 < len(p) {
					p[i] |= p[i+1] >> odd
				}
			}
		}
		w.add(p, n)
	}
	switch s.kind {
	case "integer":
		n, err := size(8, 1)
		i := BigInt(v)
		if err != nil || i == nil {
			return valueErr(err, "an integer")
		}
		m := new(big.Int).Lsh(big.NewInt(1), uint(n))
		number(new(big.Int).And(i, m.Sub(m, big.NewInt(1))).FillBytes(make([]byte, (n+7)/8)), n)
	case "float":
		n, err := size(64, 1)
		f, ok := v.(Float)
		if i := BigInt(v); i != nil {
			x, _ := new(big.Float).SetInt(i).Float64()
			f, ok = Float(x), !math.IsInf(x, 0)
		}
		if err != nil || !ok {
			return valueErr(err, "a number that is not too large")
		}
		switch n {
		case 64:
			number(binary.BigEndian.AppendUint64(nil, floatBits(f)), n)
		case 32:
			if math.IsInf(float64(float32(f)), 0) {
				return errors.New("the float is too large for 32 bits")
			}
			number(binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(f))), n)
		default:
			return fmt.Errorf("a float of %d bits; 32 and 64 are known", n)
		}
	case "utf8", "utf16", "utf32":
		i, ok := v.(Int)
		if !ok || !character(int64(i)) || s.size >= 0 || s.unit != 0 {
			return fmt.Errorf("%s wants a character, without a size", s.kind)
		}
		s.unicode(w, rune(i), number)
	default:
		return s.nested(w, v, size)
	}
	if *w.room < 0 {
		return errTooLarge
	}
	return nil
}

func valueErr(err error, want string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("the value of a segment is not %s", want)
}

// unicode writes r in the encoding of the segment.
func (s segment) unicode(w *bitWriter, r rune, number func([]byte, int)) {
	switch {
	case s.kind == "utf8":
		p := utf8.AppendRune(nil, r)
		w.add(p, 8*len(p))
	case s.kind == "utf32":
		number(binary.BigEndian.AppendUint32(nil, uint32(r)), 32)
	case r < 0x10000:
		number(binary.BigEndian.AppendUint16(nil, uint16(r)), 16)
	default:
		r -= 0x10000
		number(binary.BigEndian.AppendUint16(nil, uint16(0xd800|r>>10)), 16)
		number(binary.BigEndian.AppendUint16(nil, uint16(0xdc00|r&0x3ff)), 16)
	}
}

// nested writes the binary v, or the beginning of it.
func (s segment) nested(w *bitWriter, v Term, size func(int, int) (int, error)) error {
	b, ok := v.(Bits)
	if !ok {
		return errors.New("the value of a segment is not a binary")
	}
	has, unit := 8*len(b.Bytes), 1
	if b.Last != 0 {
		has -= 8 - int(b.Last)
	}
	if s.kind == "binary" || s.kind == "bytes" {
		unit = 8
	}
	if s.unit != 0 {
		unit = s.unit
	}
	n, err := size(has/unit, unit)
	if err != nil {
		return err
	}
	if n > has || s.size < 0 && n != has {
		return fmt.Errorf("a binary of %d bits where the segment wants %d", has, n)
	}
	w.add([]byte(b.Bytes), n)
	return nil
}
