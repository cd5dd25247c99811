package lsp

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// A position is a place in a text as the protocol counts: lines and units of the negotiated encoding, both from 0.
type position struct {
	Line      int `json:"line"`
	Character int `json:"character"`
}

// A span is a range of positions; its end is not part of it.
type span struct {
	Start position `json:"start"`
	End   position `json:"end"`
}

// A text knows where its lines begin. Lines end with LF, CRLF or CR.
type text struct {
	src    string
	starts []int
	utf16  bool // characters are UTF-16 code units, else bytes
}

func newText(src string, utf16 bool) *text {
	t := &text{src: src, starts: []int{0}, utf16: utf16}
	for i := range len(src) {
		if c := src[i]; c == '\n' || c == '\r' && (i+1 == len(src) || src[i+1] != '\n') {
			t.starts = append(t.starts, i+1)
		}
	}
	return t
}

// line is where line n begins and ends, without its end of line.
func (t *text) line(n int) (start, end int) {
	start, end = t.starts[n], len(t.src)
	if n+1 < len(t.starts) {
		end = t.starts[n+1]
	}
	return start, start + len(strings.TrimRight(t.src[start:end], "\r\n"))
}

// offset is the place of p in bytes. A position beyond its line is the end of the line, as the protocol says, and one beyond the
// text the end of the text.
func (t *text) offset(p position) int {
	switch {
	case p.Line < 0:
		return 0
	case p.Line >= len(t.starts):
		return len(t.src)
	}
	at, end := t.line(p.Line)
	for n := p.Character; n > 0 && at < end; {
		r, size := utf8.DecodeRuneInString(t.src[at:])
		units := size
		if t.utf16 {
			units = utf16Len(r)
		}
		if units > n {
			break // within a character
		}
		n -= units
		at += size
	}
	return at
}

// position is the place of offset, which is within the text.
func (t *text) position(offset int) position {
	n, found := slices.BinarySearch(t.starts, offset)
	if !found {
		n--
	}
	p := position{Line: n}
	for _, r := range t.src[t.starts[n]:offset] {
		if t.utf16 {
			p.Character += utf16Len(r)
		} else {
			p.Character += utf8.RuneLen(r)
		}
	}
	return p
}

func (t *text) span(start, end int) span { return span{t.position(start), t.position(end)} }

// place is the offset of a line and column in characters, both from 1, as diagnostics have them.
func (t *text) place(line, col int) int {
	if line < 1 || line > len(t.starts) {
		return len(t.src)
	}
	at, end := t.line(line - 1)
	if line == 1 && strings.HasPrefix(t.src, "\uFEFF") {
		at += len("\uFEFF") // it does not count as a column
	}
	for ; col > 1 && at < end; col-- {
		_, size := utf8.DecodeRuneInString(t.src[at:])
		at += size
	}
	return at
}

// replace is the text with a range replaced.
func (t *text) replace(s span, with string) string {
	start, end := t.offset(s.Start), t.offset(s.End)
	return t.src[:start] + with + t.src[max(start, end):]
}

func utf16Len(r rune) int {
	if r > 0xFFFF {
		return 2
	}
	return 1
}
