// Package json5 reads JSON5 1.0 (https://spec.json5.org) into the syntax tree of github.com/tailscale/hujson, which reads only
// JSON with commas and comments. The tree keeps every byte: packing it again gives the source. Names and literals therefore stand
// in it as they were written (unquoted, single-quoted, hexadecimal, …): read them with KindOf, Text, Name, Int, Uint and Float
// of this package, not with hujson's own accessors, and give tools that know only JSON the result of ToJSON.
//
// A slip with one obvious repair (a missing comma or colon, a closing bracket too few or too many) is an error that carries the
// repair, and reading goes on behind it, so that one reading finds them all.
package json5

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"
)

// The limits that hold when Options doesn't say otherwise.
const (
	DefaultMaxBytes = 4 << 20
	DefaultMaxDepth = 200
)

// maxErrors bounds how many slips one reading reports.
const maxErrors = 100

// Options bound what Parse reads. Zero fields mean the defaults.
type Options struct {
	MaxBytes int // of source
	MaxDepth int // of arrays and objects within each other
}

// A Tree is one parsed source text.
type Tree struct {
	Root hujson.Value
	// Duplicates are names that occur again in one object, in the order of their places. JSON5 allows them (the last one
	// counts); a stricter language need not.
	Duplicates []Duplicate

	lines lines
}

// A Duplicate is a name that an object has twice.
type Duplicate struct {
	Name          string
	First, Second int // offsets of the names
}

// Src is the source text; read only.
func (t *Tree) Src() []byte { return t.lines.src }

// Position tells where offset (in bytes) is, in time logarithmic in the length of the source.
func (t *Tree) Position(offset int) Position { return t.lines.position(offset) }

// A Position is a place in the source. Lines end with LF, CRLF or CR; Line, Col and ByteCol count from 1.
type Position struct {
	Offset  int // in bytes, from 0
	Line    int
	Col     int // in characters
	ByteCol int // in bytes
}

// String is "line:col".
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Col) }

// An Error is something that JSON5 doesn't allow.
type Error struct {
	Position
	Message string
	Fix     *Fix // the one obvious repair, or nil
}

// Error is "line:col: message".
func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Col, e.Message) }

// Hint says in words what the Fix does; "" without one.
func (e *Error) Hint() string {
	switch f := e.Fix; {
	case f == nil:
		return ""
	case f.Delete == 0:
		return fmt.Sprintf("insert `%s` here", strings.TrimSpace(f.Insert))
	case f.Insert == "":
		return "remove it"
	default:
		return fmt.Sprintf("write `%s`", f.Insert)
	}
}

// A Fix replaces Delete bytes at Offset with Insert.
type Fix struct {
	Offset int
	Delete int
	Insert string
}

// Errors are all slips of one source, in the order of their places; never empty as an error.
type Errors []*Error

// Error is one line for each.
func (es Errors) Error() string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Repairable says whether every error has a Fix, which is also when Parse returned the tree of the repaired text.
func (es Errors) Repairable() bool {
	return !slices.ContainsFunc(es, func(e *Error) bool { return e.Fix == nil })
}

// Apply gives src with the fixes of es made.
func (es Errors) Apply(src []byte) []byte {
	var out []byte
	done := 0
	for _, e := range es {
		if f := e.Fix; f != nil && f.Offset >= done {
			out = append(append(out, src[done:f.Offset]...), f.Insert...)
			done = f.Offset + f.Delete
		}
	}
	return append(out, src[done:]...)
}

// Parse reads one JSON5 value. The tree aliases src, which must not change afterwards. The error is an Errors; where all of them
// are
// Repairable the tree is complete and means what the text means that Apply repairs; otherwise its Root is empty. Positions are
// valid in
// either case.
func Parse(src []byte, o Options) (Tree, error) {
	if limit := cmp.Or(o.MaxBytes, DefaultMaxBytes); len(src) > limit {
		t := Tree{lines: newLines(nil)}
		return t, Errors{{Position: t.Position(0), Message: fmt.Sprintf("source of %d bytes: no more than %d allowed", len(src),
			limit)}}
	}
	t := Tree{lines: newLines(src)}
	p := parser{src: src, maxDepth: cmp.Or(o.MaxDepth, DefaultMaxDepth), lines: &t.lines, stacks: spare.Get().(*stacks)}
	ok := p.document(&t.Root)
	p.stacks.release()
	t.Duplicates = p.duplicates
	slices.SortFunc(t.Duplicates, func(a, b Duplicate) int { return cmp.Compare(a.Second, b.Second) })
	if !ok {
		t.Root = hujson.Value{}
	}
	if len(p.errors) == 0 {
		return t, nil
	}
	for _, e := range p.errors {
		e.Position = t.Position(e.Offset)
	}
	deletes := func(e *Error) int { // after what is inserted at the same place
		if e.Fix == nil {
			return 0
		}
		return min(e.Fix.Delete, 1)
	}
	slices.SortStableFunc(p.errors, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(deletes(a), deletes(b)))
	})
	return t, p.errors
}

// lines finds line and column of an offset.
type lines struct {
	src    []byte
	starts []int // offset of each line's first byte
	runes  []int // characters before each block of blockSize bytes; nil when all is ASCII
}

const blockSize = 1 << 10

func newLines(src []byte) lines {
	l := lines{src: src, starts: make([]int, 1, len(src)/32+1)}
	if strings.HasPrefix(string(src[:min(3, len(src))]), "\uFEFF") {
		l.starts[0] = 3 // editors don't count the byte order mark
	}
	ascii := true
	for i, c := range src {
		switch {
		case c == '\n', c == '\r' && (i+1 == len(src) || src[i+1] != '\n'):
			l.starts = append(l.starts, i+1)
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if !ascii {
		n := 0
		for i, c := range src {
			if i%blockSize == 0 {
				l.runes = append(l.runes, n)
			}
			if utf8.RuneStart(c) {
				n++
			}
		}
	}
	return l
}

// runesBefore is the number of characters that start before offset.
func (l *lines) runesBefore(offset int) int {
	if l.runes == nil {
		return offset
	}
	block := min(offset/blockSize, len(l.runes)-1)
	n := l.runes[block]
	for _, c := range l.src[block*blockSize : offset] {
		if utf8.RuneStart(c) {
			n++
		}
	}
	return n
}

func (l *lines) position(offset int) Position {
	offset = max(0, min(offset, len(l.src)))
	i, found := slices.BinarySearch(l.starts, offset)
	if !found {
		i = max(i-1, 0)
	}
	start := min(l.starts[i], offset)
	return Position{Offset: offset, Line: i + 1, Col: l.runesBefore(offset) - l.runesBefore(start) + 1, ByteCol: offset - start + 1}
}
