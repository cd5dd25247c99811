package json5

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/tailscale/hujson"
)

type parser struct {
	src      []byte
	pos      int
	opens    []int // offsets of the brackets that are open
	maxDepth int

	inComment  bool // the source ends within a line comment
	lines      *lines
	errors     Errors
	duplicates []Duplicate

	*stacks
}

// stacks hold the members and elements of objects and arrays under way, the innermost on top; they are copied out at the end, so
// that each slice is allocated once, at its size.
type stacks struct {
	members  []hujson.ObjectMember
	elements []hujson.Value
}

// spare has the stacks of finished parsers.
var spare = sync.Pool{New: func() any { return &stacks{} }}

// release lets another parser have the stacks, which keep nothing of this one's source, unless they have grown large.
func (s *stacks) release() {
	const large = 1 << 12
	if cap(s.members) > large || cap(s.elements) > large {
		return
	}
	clear(s.members[:cap(s.members)])
	clear(s.elements[:cap(s.elements)])
	s.members, s.elements = s.members[:0], s.elements[:0]
	spare.Put(s)
}

// fail reports what cannot be read past.
func (p *parser) fail(offset int, format string, args ...any) bool {
	p.errors = append(p.errors, &Error{Position: Position{Offset: offset}, Message: fmt.Sprintf(format, args...)})
	return false
}

// slip reports what can be repaired; false when there have been too many to go on.
func (p *parser) slip(offset int, fix Fix, format string, args ...any) bool {
	if len(p.errors) >= maxErrors {
		return p.fail(offset, "too many errors; only the first %d are told", maxErrors)
	}
	p.errors = append(p.errors, &Error{Position: Position{Offset: offset}, Message: fmt.Sprintf(format, args...), Fix: &fix})
	return true
}

func (p *parser) document(v *hujson.Value) bool {
	if i := invalidUTF8(p.src); i >= 0 {
		return p.fail(i, "invalid UTF-8: byte 0x%02x", p.src[i])
	}
	if !p.extra(&v.BeforeExtra) {
		return false
	}
	if p.memberAhead() {
		return p.fail(p.pos, "a name and its value stand outside of braces: the text must begin with `{` and end with `}`")
	}
	if !p.bareValue(v) || !p.extra(&v.AfterExtra) {
		return false
	}
	for p.pos < len(p.src) && bytes.IndexByte([]byte("}],;"), p.src[p.pos]) >= 0 {
		if !p.superfluous() || !p.moreExtra(&v.AfterExtra) {
			return false
		}
	}
	if p.pos < len(p.src) {
		if c := p.src[v.EndOffset-1]; c == '}' || c == ']' {
			return p.fail(p.pos, "unexpected %s after the end of the value, which the `%c` of %s closes", p.found(), c,
				p.lines.position(v.EndOffset-1))
		}
		return p.fail(p.pos, "unexpected %s after the end of the value", p.found())
	}
	return true
}

func invalidUTF8(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for i := 0; ; {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
}

// found describes what stands at pos.
func (p *parser) found() string {
	if p.pos >= len(p.src) {
		return "end of file"
	}
	r, _ := utf8.DecodeRune(p.src[p.pos:])
	if unicode.IsPrint(r) {
		return "`" + string(r) + "`"
	}
	return fmt.Sprintf("character %U", r)
}

// value reads a value with the blanks and comments around it.
func (p *parser) value(v *hujson.Value) bool {
	if !p.extra(&v.BeforeExtra) {
		return false
	}
	return p.bareValue(v) && p.extra(&v.AfterExtra)
}

func (p *parser) bareValue(v *hujson.Value) bool {
	start := p.pos
	v.StartOffset = start
	if start == len(p.src) {
		return p.fail(start, "expected a value, found end of file")
	}
	switch c := p.src[start]; {
	case c == '"' || c == '\'':
		lit, ok := p.string(c)
		if !ok {
			return false
		}
		v.Value, v.EndOffset = lit, p.pos
		return true
	case c == '{' || c == '[':
		if len(p.opens) == p.maxDepth {
			return p.fail(start, "nested more than %d deep", p.maxDepth)
		}
		p.opens = append(p.opens, start)
		var ok bool
		if c == '{' {
			obj := &hujson.Object{}
			v.Value, ok = obj, p.object(obj)
		} else {
			arr := &hujson.Array{}
			v.Value, ok = arr, p.array(arr)
		}
		p.opens = p.opens[:len(p.opens)-1]
		v.EndOffset = p.pos
		return ok
	case c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.':
		if !p.number() {
			return false
		}
	default:
		if lit, end := p.curly(start); end > start {
			v.Value, v.EndOffset, p.pos = lit, end, end
			return p.straighten(start, end, lit)
		}
		end, ok := p.identifier(start)
		if !ok {
			return false
		}
		switch word := string(p.src[start:end]); word {
		case "null", "true", "false", "Infinity", "NaN":
			p.pos = end
		default:
			lit, ok := p.unquoted(start, word)
			if !ok {
				return false
			}
			v.Value, v.EndOffset = lit, p.pos
			return true
		}
	}
	v.EndOffset = p.pos
	v.Value = hujson.Literal(p.src[start:p.pos:p.pos])
	return true
}

// unquoted reads a string that lacks its quotes. It is clear where it ends if something that ends a value follows.
func (p *parser) unquoted(start int, word string) (hujson.Literal, bool) {
	end := p.wordEnd(start)
	if end == start {
		return nil, p.fail(start, "expected a value, found %s", p.found())
	}
	fix := Fix{Offset: start, Delete: end - start, Insert: `"` + string(p.src[start:end]) + `"`}
	clear := p.follows(end, ",]}\r\n/")
	switch lower := strings.ToLower(word); lower {
	case "null", "true", "false":
		if clear && end == start+len(word) {
			fix.Insert, p.pos = lower, end
			return hujson.Literal(lower), p.slip(start, fix, "unexpected word `%s`; it is written `%s`", word, lower)
		}
	case "none", "nil", "undefined", "nan", "infinity": // was it meant as a string?
	case "":
		if p.src[start] != '#' {
			return nil, p.fail(start, "expected a value, found %s", p.found())
		}
		fallthrough
	default:
		if clear {
			p.pos = end
			return hujson.Literal(fix.Insert),
				p.slip(start, fix, "unexpected word `%s`; a string needs quotes", clip(string(p.src[start:end])))
		}
	}
	return nil, p.fail(start, "unexpected word `%s`; a string needs quotes", clip(word))
}

// memberAhead says whether a name and a colon stand here.
func (p *parser) memberAhead() bool {
	ahead := parser{src: p.src, pos: p.pos, lines: p.lines}
	var name hujson.Value
	if c := ahead.peek(); ahead.pos == len(p.src) || c == '{' || c == '[' || !ahead.name(&name) {
		return false
	}
	return ahead.extra(&name.AfterExtra) && ahead.peek() == ':'
}

// curlyQuotes are those that word processors make of straight ones.
const curlyQuotes = "\u201c\u201d\u201e\u2018\u2019\u201a"

// curly is the string in such quotes that stands at start, with straight ones, and its end; start itself if there is none.
func (p *parser) curly(start int) (hujson.Literal, int) {
	first, n := utf8.DecodeRune(p.src[start:])
	if !strings.ContainsRune(curlyQuotes, first) {
		return nil, start
	}
	inside := p.src[start+n:]
	inside = inside[:lineEnd(inside)]
	length := bytes.IndexAny(inside, curlyQuotes)
	if length < 0 || bytes.ContainsAny(inside[:length], "\"\\") {
		return nil, start
	}
	_, last := utf8.DecodeRune(inside[length:])
	return hujson.Literal(`"` + string(inside[:length]) + `"`), start + n + length + last
}

// straighten reports a string in curly quotes.
func (p *parser) straighten(start, end int, lit hujson.Literal) bool {
	r, _ := utf8.DecodeRune(p.src[start:])
	return p.slip(start, Fix{Offset: start, Delete: end - start, Insert: string(lit)}, "found `%c`; quotes must be straight", r)
}

// wordEnd is the end of what looks like a name, a path, a reference or a number.
func (p *parser) wordEnd(i int) int {
	for ; i < len(p.src); i++ {
		switch c := p.src[i]; {
		case c|0x20 >= 'a' && c|0x20 <= 'z', isDigit(c), c == '_', c == '-', c == '.', c == '#':
		case c == '/' && (i+1 == len(p.src) || p.src[i+1] != '/' && p.src[i+1] != '*'):
		default:
			return i
		}
	}
	return i
}

// endsLine says whether only commas, closing brackets or a comment follow on the line.
func (p *parser) endsLine(i int) bool {
	for ; i < len(p.src); i++ {
		switch p.src[i] {
		case ' ', '\t', ',', '}', ']':
		case '\n', '\r', '/':
			return true
		default:
			return false
		}
	}
	return true
}

// follows says whether one of what follows offset i, after blanks, or nothing at all.
func (p *parser) follows(i int, what string) bool {
	rest := bytes.TrimLeft(p.src[i:], " \t")
	return len(rest) == 0 || strings.IndexByte(what, rest[0]) >= 0
}

// clip shortens s for a message.
func clip(s string) string {
	const limit = 40
	if len(s) <= limit {
		return s
	}
	n := limit
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

func (p *parser) object(obj *hujson.Object) bool {
	bottom := len(p.members)
	c := p.open()
	var last *hujson.Value // the last member's value, while it lies on the stack
	for {
		var name hujson.Value
		if !p.extra(&name.BeforeExtra) {
			return false
		}
		name.StartOffset = p.pos
		switch b := p.peek(); {
		case b == '}' && p.tooEarly():
			if !p.superfluous() {
				return false
			}
			continue
		case b == '}' || p.pos == len(p.src):
			obj.AfterExtra = name.BeforeExtra
			if last != nil && last.AfterExtra == nil {
				last.AfterExtra = hujson.Extra{} // hujson's mark of a trailing comma
			}
			return p.closeObject(obj, bottom, false)
		case b == ',':
			if !p.extraComma() {
				return false
			}
			continue
		case b == ']' || b == ')' || b == '{' && p.within('['):
			switch p.misplaced('}', c) {
			case closed:
				return p.closeObject(obj, bottom, true)
			case stopped:
				return false
			}
			continue
		}
		if !p.name(&name) || !p.extra(&name.AfterExtra) {
			return false
		}
		switch p.peek() {
		case ':':
			p.pos++
		case '=':
			if !p.slip(p.pos, Fix{Offset: p.pos, Delete: 1, Insert: ":"}, "found `=` where a colon should be") {
				return false
			}
			p.pos++
		case '"', '\'', '{', '[':
			if !p.slip(name.EndOffset, Fix{Offset: name.EndOffset, Insert: ":"}, "missing colon after the name %s",
				clip(string(p.src[name.StartOffset:name.EndOffset]))) {
				return false
			}
		default:
			return p.fail(p.pos, "expected a colon after the name %s, found %s",
				clip(string(p.src[name.StartOffset:name.EndOffset])), p.found())
		}
		var v hujson.Value
		if !p.value(&v) {
			return false
		}
		p.members = append(p.members, hujson.ObjectMember{Name: name, Value: v})
		last = &p.members[len(p.members)-1].Value
		c = p.ended(v.EndOffset)
	after:
		switch b := p.peek(); {
		case b == ',':
			p.pos++
		case b == '}' && p.tooEarly():
			if !p.superfluous() || !p.moreExtra(&last.AfterExtra) {
				return false
			}
			goto after
		case b == '}' || p.pos == len(p.src):
			obj.AfterExtra, last.AfterExtra = last.AfterExtra, nil
			return p.closeObject(obj, bottom, false)
		case b == ']' || b == ')' || b == '{' && p.within('['):
			switch p.misplaced('}', c) {
			case closed:
				last.AfterExtra = nil
				return p.closeObject(obj, bottom, true)
			case stopped:
				return false
			}
			if !p.moreExtra(&last.AfterExtra) {
				return false
			}
			goto after
		case b == ';':
			if !p.semicolon() {
				return false
			}
		default:
			if end, ok := p.nameAhead(); !ok || end == 0 {
				return p.fail(p.pos, "expected `,` or `}` after the value, found %s", p.found())
			}
			if !p.missingComma(&v) {
				return false
			}
		}
	}
}

// nameAhead says whether a name starts here.
func (p *parser) nameAhead() (int, bool) {
	switch p.peek() {
	case '"', '\'':
		return 1, true
	}
	n := len(p.errors)
	end, ok := p.identifier(p.pos)
	p.errors = p.errors[:n]
	return end - p.pos, ok
}

// missingComma reports that a comma is missing right after v.
func (p *parser) missingComma(v *hujson.Value) bool {
	what, _ := utf8.DecodeLastRune(p.src[:v.EndOffset])
	next := p.pos
	end := next + 1
	switch c := p.src[next]; {
	case c == '"' || c == '\'':
		for end < len(p.src) && p.src[end] != c && p.src[end] != '\n' {
			end++
		}
		end = min(end+1, len(p.src))
	case c != '{' && c != '[':
		for end < len(p.src) && !bytes.ContainsRune([]byte(" \t\r\n:,{}[]"), rune(p.src[end])) {
			end++
		}
	}
	return p.slip(v.EndOffset, Fix{Offset: v.EndOffset, Insert: ","}, "missing comma between `%s` and `%s`", string(what),
		clip(string(p.src[next:end])))
}

// semicolon reads a `;` after a value.
func (p *parser) semicolon() bool {
	fix := Fix{Offset: p.pos, Delete: 1, Insert: ","}
	p.pos++
	return p.slip(fix.Offset, fix, "found `;` where a comma should be")
}

// superfluous reads a closing bracket that closes nothing, or a comma behind all.
func (p *parser) superfluous() bool {
	fix := Fix{Offset: p.pos, Delete: 1}
	p.pos++
	return p.slip(fix.Offset, fix, "superfluous `%c`", p.src[fix.Offset])
}

// moreExtra reads blanks and comments behind those of into.
func (p *parser) moreExtra(into *hujson.Extra) bool {
	var more hujson.Extra
	ok := p.extra(&more)
	*into = append((*into)[:len(*into):len(*into)], more...)
	return ok
}

// A solid is the last place within a bracket up to which all was clear: the end of the last value, or of the bracket itself.
type solid struct {
	end, errors int
}

// open reads an opening bracket.
func (p *parser) open() solid {
	p.pos++
	return p.ended(p.pos)
}

func (p *parser) ended(end int) solid {
	n := len(p.errors)
	for n > 0 && p.errors[n-1].Offset >= end && p.errors[n-1].Fix != nil && p.errors[n-1].Fix.Insert == "//" {
		n-- // a comment behind it is read again
	}
	return solid{end, n}
}

// tooEarly says whether the bracket here closes the whole text although more follows, which is well without the bracket.
func (p *parser) tooEarly() bool {
	if len(p.opens) != 1 {
		return false
	}
	ahead := parser{src: p.src, pos: p.pos + 1, lines: p.lines}
	var extra hujson.Extra
	if !ahead.extra(&extra) || ahead.pos == len(p.src) || p.src[ahead.pos] == '}' || p.src[ahead.pos] == ']' {
		return false
	}
	return p.balanced(p.pos+1, 0)
}

// within says whether what is open stands in a bracket of the kind.
func (p *parser) within(kind byte) bool {
	return len(p.opens) > 1 && p.src[p.opens[len(p.opens)-2]] == kind
}

// What became of something misplaced.
type outcome uint8

const (
	stopped outcome = iota // it cannot be read past
	closed                 // what is open has been closed
	dropped                // it is as if it were not there
)

// misplaced deals with something that cannot stand in what is open, which want closes: a closing bracket of the other kind, or
// what belongs to what stands around it. Only one of the possible slips can leave all brackets of the text in pairs: that want is
// missing after c, that the bracket here is superfluous, or that it is of the wrong kind.
func (p *parser) misplaced(want byte, c solid) outcome {
	open, found := p.opens[len(p.opens)-1], p.src[p.pos]
	isBracket := found == '}' || found == ']' || found == ')'
	line := p.lines.position(open).Line
	ok := false
	switch {
	case found != ')' && p.balanced(p.pos, 1):
		// What stands around reads again what follows.
		p.pos, p.errors = c.end, p.errors[:c.errors]
		ok = p.slip(c.end, Fix{Offset: c.end, Insert: string(want)}, "missing `%c`: the `%c` of %s is not closed", want, p.src[open],
			p.lines.position(open))
	case isBracket && p.balanced(p.pos+1, 0):
		if p.superfluous() {
			return dropped
		}
	case isBracket && p.balanced(p.pos+1, 1):
		fix := Fix{Offset: p.pos, Delete: 1, Insert: string(want)}
		p.pos++
		ok = p.slip(fix.Offset, fix, "found `%c` where `%c` should close the `%c` of line %d", found, want, p.src[open], line)
	default:
		p.fail(p.pos, "found %s where `%c` should close the `%c` of line %d", p.found(), want, p.src[open], line)
	}
	if ok {
		return closed
	}
	return stopped
}

// balanced says whether the brackets from offset i on close all that is open, but for the innermost ones that closed counts, and
// nothing but blanks and comments follows.
func (p *parser) balanced(i, closed int) bool {
	stack := make([]byte, 0, len(p.opens)+8)
	for _, open := range p.opens[:len(p.opens)-closed] {
		stack = append(stack, p.src[open]+2) // the closing bracket of either kind
	}
	ahead := parser{src: p.src, pos: i, lines: p.lines}
	var extra hujson.Extra
	for ahead.extra(&extra) {
		switch c := ahead.peek(); {
		case ahead.pos == len(p.src):
			return len(stack) == 0
		case len(stack) == 0:
			return false
		case c == '{' || c == '[':
			stack = append(stack, c+2)
			ahead.pos++
		case c == '}' || c == ']':
			if c != stack[len(stack)-1] {
				return false
			}
			stack = stack[:len(stack)-1]
			ahead.pos++
		case c == '"' || c == '\'':
			if _, ok := ahead.string(c); !ok {
				return false
			}
		default:
			ahead.pos++
		}
	}
	return false
}

func (p *parser) extraComma() bool {
	fix := Fix{Offset: p.pos, Delete: 1}
	p.pos++
	return p.slip(fix.Offset, fix, "a comma with no value before it")
}

// closeObject takes the members from the stack, and reads the bracket unless the object is closed already.
func (p *parser) closeObject(obj *hujson.Object, bottom int, closed bool) bool {
	obj.Members = slices.Clone(p.members[bottom:])
	p.members = p.members[:bottom]
	p.findDuplicates(obj.Members)
	return closed || p.close('}')
}

// close reads the closing bracket of what is open.
func (p *parser) close(bracket byte) bool {
	if p.pos < len(p.src) {
		p.pos++
		return true
	}
	insert := string(bracket)
	if p.inComment {
		insert, p.inComment = "\n"+insert, false
	}
	open := p.opens[len(p.opens)-1]
	return p.slip(p.pos, Fix{Offset: p.pos, Insert: insert}, "missing `%c`: the `%c` of %s is not closed",
		bracket, p.src[open], p.lines.position(open))
}

func (p *parser) array(arr *hujson.Array) bool {
	bottom := len(p.elements)
	c := p.open()
	done := func(closed bool) bool {
		arr.Elements = slices.Clone(p.elements[bottom:])
		p.elements = p.elements[:bottom]
		return closed || p.close(']')
	}
	for {
		var v hujson.Value
		if !p.extra(&v.BeforeExtra) {
			return false
		}
		switch b := p.peek(); {
		case b == ']' && p.tooEarly():
			if !p.superfluous() {
				return false
			}
			continue
		case b == ']' || p.pos == len(p.src):
			arr.AfterExtra = v.BeforeExtra
			if n := len(p.elements); n > bottom && p.elements[n-1].AfterExtra == nil {
				p.elements[n-1].AfterExtra = hujson.Extra{}
			}
			return done(false)
		case b == ',':
			if !p.extraComma() {
				return false
			}
			continue
		case b == '}' || b == ')' || p.isName(b):
			switch p.misplaced(']', c) {
			case closed:
				if n := len(p.elements); n > bottom {
					p.elements[n-1].AfterExtra = nil
				}
				return done(true)
			case stopped:
				return false
			}
			continue
		}
		if !p.bareValue(&v) || !p.extra(&v.AfterExtra) {
			return false
		}
		if p.peek() == ':' && p.within('{') && isQuoted(v.Value) {
			// It is a name of what stands around.
			p.pos = v.StartOffset
			if p.misplaced(']', c) != closed {
				return false
			}
			if n := len(p.elements); n > bottom {
				p.elements[n-1].AfterExtra = nil
			}
			return done(true)
		}
		p.elements = append(p.elements, v)
		last := &p.elements[len(p.elements)-1]
		c = p.ended(v.EndOffset)
	after:
		switch b := p.peek(); {
		case b == ',':
			p.pos++
		case b == ']' && p.tooEarly():
			if !p.superfluous() || !p.moreExtra(&last.AfterExtra) {
				return false
			}
			goto after
		case b == ']' || p.pos == len(p.src):
			arr.AfterExtra, last.AfterExtra = last.AfterExtra, nil
			return done(false)
		case b == ';':
			if !p.semicolon() {
				return false
			}
		case b == '}' || b == ')' || p.isName(b):
			switch p.misplaced(']', c) {
			case closed:
				last.AfterExtra = nil
				return done(true)
			case stopped:
				return false
			}
			if !p.moreExtra(&last.AfterExtra) {
				return false
			}
			goto after
		case b == '"' || b == '\'' || b == '{' || b == '[' || b >= '0' && b <= '9' || b == '-':
			if !p.missingComma(&v) {
				return false
			}
		default:
			return p.fail(p.pos, "expected `,` or `]` after the value, found %s", p.found())
		}
	}
}

func isQuoted(v hujson.ValueTrimmed) bool {
	lit, ok := v.(hujson.Literal)
	return ok && (lit[0] == '"' || lit[0] == '\'')
}

// isName says whether an identifier and a colon stand here, in an array that stands in an object; b is the first byte.
func (p *parser) isName(b byte) bool {
	if !p.within('{') || b < utf8.RuneSelf && !(b|0x20 >= 'a' && b|0x20 <= 'z' || b == '_' || b == '$') {
		return false
	}
	ahead := parser{src: p.src, lines: p.lines}
	ahead.pos, _ = ahead.identifier(p.pos)
	var extra hujson.Extra
	return ahead.pos > p.pos && ahead.extra(&extra) && ahead.peek() == ':'
}

// name reads a member's name: a string or an ECMAScript 5.1 IdentifierName.
func (p *parser) name(v *hujson.Value) bool {
	start := p.pos
	if c := p.peek(); c == '"' || c == '\'' {
		lit, ok := p.string(c)
		v.Value, v.EndOffset = lit, p.pos
		return ok
	} else {
		if lit, end := p.curly(start); end > start {
			v.Value, v.EndOffset, p.pos = lit, end, end
			return p.straighten(start, end, lit)
		}
		end, ok := p.identifier(start)
		if !ok {
			return false
		}
		if end == start {
			return p.fail(start, "expected a name (an identifier or a string), found %s", p.found())
		}
		p.pos = end
		if more := p.wordEnd(end); more > end && more < len(p.src) && p.src[more] == ':' {
			fix := Fix{Offset: start, Delete: more - start, Insert: `"` + string(p.src[start:more]) + `"`}
			v.Value, v.EndOffset, p.pos = hujson.Literal(fix.Insert), more, more
			return p.slip(start, fix, "the name `%s` needs quotes", clip(string(p.src[start:more])))
		}
	}
	v.EndOffset = p.pos
	v.Value = hujson.Literal(p.src[start:p.pos:p.pos])
	return true
}

func (p *parser) peek() byte {
	if p.pos < len(p.src) {
		return p.src[p.pos]
	}
	return 0
}

// isBlank tells JSON5's white space and line terminators beyond ASCII: NBSP, BOM, LS, PS and all of category Zs.
func isBlank(r rune) bool {
	return r == '\uFEFF' || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Zs, r)
}

// extra reads white space and comments.
func (p *parser) extra(into *hujson.Extra) bool {
	start := p.pos
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; {
		case c == ' ' || c >= '\t' && c <= '\r':
			p.pos++
		case c == '/':
			if !p.comment() {
				return false
			}
		case c == '#' && p.hash():
			if !p.slip(p.pos, Fix{Offset: p.pos, Delete: 1, Insert: "//"}, "a comment begins with `//`, not with `#`") {
				return false
			}
			p.pos += lineEnd(p.src[p.pos:])
			p.inComment = p.pos == len(p.src)
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(p.src[p.pos:])
			if !isBlank(r) {
				*into = p.since(start)
				return true
			}
			p.pos += n
		default:
			*into = p.since(start)
			return true
		}
	}
	*into = p.since(start)
	return true
}

// hash says whether the `#` here begins a comment of other languages: it can begin no reference (`#name`).
func (p *parser) hash() bool {
	return p.pos+1 == len(p.src) || bytes.IndexByte([]byte(" \t\r\n#!"), p.src[p.pos+1]) >= 0
}

func (p *parser) since(start int) hujson.Extra {
	if start == p.pos {
		return nil
	}
	return hujson.Extra(p.src[start:p.pos:p.pos])
}

func (p *parser) comment() bool {
	rest := p.src[p.pos:]
	switch {
	case bytes.HasPrefix(rest, []byte("//")):
		p.pos += lineEnd(rest)
		p.inComment = p.pos == len(p.src)
	case bytes.HasPrefix(rest, []byte("/*")):
		end := bytes.Index(rest[2:], []byte("*/"))
		if end < 0 {
			return p.fail(p.pos, "comment is not closed: `*/` is missing")
		}
		p.pos += end + 4
	default:
		return p.fail(p.pos, "unexpected `/`; a comment is // or /* */")
	}
	return true
}

// lineEnd is the offset of b's first line terminator.
func lineEnd(b []byte) int {
	for i, c := range b {
		switch {
		case c == '\n' || c == '\r':
			return i
		case c == 0xE2 && i+2 < len(b) && b[i+1] == 0x80 && (b[i+2] == 0xA8 || b[i+2] == 0xA9):
			return i
		}
	}
	return len(b)
}

// string reads a string that starts with quote.
func (p *parser) string(quote byte) (hujson.Literal, bool) {
	start, src := p.pos, p.src
	for i := start + 1; i < len(src); {
		switch c := src[i]; c {
		case quote:
			p.pos = i + 1
			return hujson.Literal(src[start:p.pos:p.pos]), true
		case '\n', '\r':
			return p.unclosed(quote, "string is not closed on its line")
		case '\\':
			n, why := escapeLength(src[i:])
			if n == 0 {
				return nil, p.fail(i, "%s", why)
			}
			i += n
		default:
			i++
		}
	}
	return p.unclosed(quote, "string is not closed")
}

// unclosed reads a string that lacks its second quote, whose place is clear if nothing but a word stands on its line.
func (p *parser) unclosed(quote byte, message string) (hujson.Literal, bool) {
	start := p.pos
	end := p.wordEnd(start + 1)
	if other := quote ^ '"' ^ '\''; end > start+1 && end < len(p.src) && p.src[end] == other && p.follows(end+1, ",:]}\r\n/") {
		p.pos = end + 1
		return hujson.Literal(string(p.src[start:end]) + string(quote)),
			p.slip(end, Fix{Offset: end, Delete: 1, Insert: string(quote)}, "found `%c`: the string of %s begins with `%c`", other,
				p.lines.position(start), quote)
	}
	if end == start+1 || !p.endsLine(end) {
		return nil, p.fail(start, "%s", message)
	}
	p.pos = end
	return hujson.Literal(string(p.src[start:end]) + string(quote)),
		p.slip(end, Fix{Offset: end, Insert: string(quote)}, "missing `%c`: the string of %s is not closed", quote,
			p.lines.position(start))
}

// escapeLength is the length of the escape sequence at the start of b, or 0 and why there is none.
func escapeLength(b []byte) (int, string) {
	if len(b) < 2 {
		return 0, "string is not closed"
	}
	switch c := b[1]; {
	case c == 'x' || c == 'u':
		n := 4
		if c == 'u' {
			n = 6
		}
		if len(b) < n || !allHex(b[2:n]) {
			return 0, fmt.Sprintf("`\\%c` needs %d hexadecimal digits; a backslash itself is written `\\\\`", c, n-2)
		}
		return n, ""
	case c == '0':
		if len(b) > 2 && isDigit(b[2]) {
			return 0, "octal escapes are not allowed"
		}
		return 2, ""
	case isDigit(c):
		return 0, "octal escapes are not allowed"
	case c == '\r' && len(b) > 2 && b[2] == '\n':
		return 3, ""
	default:
		_, n := utf8.DecodeRune(b[1:])
		return 1 + n, ""
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

func allHex(b []byte) bool {
	for _, c := range b {
		if !isHex(c) {
			return false
		}
	}
	return true
}

// number reads a JSON5Number.
func (p *parser) number() bool {
	start, src := p.pos, p.src
	i := start
	if src[i] == '+' || src[i] == '-' {
		i++
	}
	digits := func(is func(byte) bool) int {
		from := i
		for i < len(src) && is(src[i]) {
			i++
		}
		return i - from
	}
	switch {
	case bytes.HasPrefix(src[i:], []byte("Infinity")):
		i += len("Infinity")
	case bytes.HasPrefix(src[i:], []byte("NaN")):
		i += len("NaN")
	case len(src) > i+1 && src[i] == '0' && src[i+1]|0x20 == 'x':
		i += 2
		if digits(isHex) == 0 {
			return p.fail(start, "hexadecimal number without digits")
		}
	default:
		first := i
		n := digits(isDigit)
		if n > 1 && src[first] == '0' {
			return p.fail(start, "a number may not start with 0 (octal numbers are not allowed)")
		}
		if i < len(src) && src[i] == '.' {
			i++
			n += digits(isDigit)
		}
		if n == 0 {
			return p.fail(start, "`%s` is not a number", clip(string(src[start:max(i, start+1)])))
		}
		if i < len(src) && src[i]|0x20 == 'e' {
			i++
			if i < len(src) && (src[i] == '+' || src[i] == '-') {
				i++
			}
			if digits(isDigit) == 0 {
				return p.fail(start, "the exponent of a number needs digits")
			}
		}
	}
	p.pos = i
	if i < len(src) && (src[i] == '.' || isDigit(src[i])) {
		return p.fail(i, "unexpected %s within a number", p.found())
	}
	end, ok := p.identifier(i)
	if ok && end > i {
		return p.fail(i, "unexpected %s within a number", p.found())
	}
	return ok
}

// identifier returns the end of the IdentifierName at start, start itself where there is none.
func (p *parser) identifier(start int) (int, bool) {
	i := start
	for i < len(p.src) {
		c := p.src[i]
		switch {
		case c|0x20 >= 'a' && c|0x20 <= 'z' || c == '$' || c == '_' || isDigit(c) && i > start:
			i++
			continue
		case c == '\\':
			r, ok := unicodeEscape(p.src[i:])
			if !ok || !isIdentifierPart(r, i == start) {
				return i, p.fail(i, "`\\` in a name must begin a \\uXXXX that is a letter")
			}
			i += 6
			continue
		case c < utf8.RuneSelf:
			return i, true
		}
		r, n := utf8.DecodeRune(p.src[i:])
		if !isIdentifierPart(r, i == start) {
			return i, true
		}
		i += n
	}
	return i, true
}

// isIdentifierPart follows ECMAScript 5.1 §7.6.
func isIdentifierPart(r rune, first bool) bool {
	if r == '$' || r == '_' || unicode.In(r, unicode.L, unicode.Nl) {
		return true
	}
	return !first && (r == '\u200C' || r == '\u200D' || unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc))
}

// findDuplicates notes names that occur again.
func (p *parser) findDuplicates(members []hujson.ObjectMember) {
	if len(members) > 8 {
		seen := make(map[string]int, len(members))
		for i := range members {
			name := Name(members[i].Name)
			if j, ok := seen[name]; ok {
				p.duplicate(name, &members[j], &members[i])
				continue
			}
			seen[name] = i
		}
		return
	}
	var names [8]string
	for i := range members {
		names[i] = Name(members[i].Name)
		for j := range i {
			if names[i] == names[j] {
				p.duplicate(names[i], &members[j], &members[i])
				break
			}
		}
	}
}

func (p *parser) duplicate(name string, first, second *hujson.ObjectMember) {
	p.duplicates = append(p.duplicates, Duplicate{Name: name, First: first.Name.StartOffset, Second: second.Name.StartOffset})
}
