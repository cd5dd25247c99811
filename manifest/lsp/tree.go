package lsp

import (
	"strings"
	"unicode/utf8"

	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/json5"
)

// While somebody types, a manifest is not JSON5 most of the time. So what can be said of a place is taken from a tree of our own,
// which every text has: what is missing is left out, and what is too much is skipped.

// Limits on a tree.
const (
	maxDepth = json5.DefaultMaxDepth
	maxNodes = 1 << 18
)

type nodeKind uint8

const (
	wordNode nodeKind = iota // a number, true, or anything else without quotes
	stringNode
	arrayNode
	objectNode
)

// A node is a value, or the name of a member.
type node struct {
	kind       nodeKind
	start, end int    // offsets, brackets and quotes included
	text       string // of a word as it stands; of a string decoded
	closed     bool   // of what has brackets or quotes: the second one is there
	members    []member
	items      []*node

	object *cml.Object // of an object: what it may hold, if that is known
	each   *cml.Object // of an object: what its members hold, whatever their names
	key    *cml.Key    // of a value: the key whose value it is, or is an item of
	parent *node       // the object or array that holds it
}

// A member is a name and a value of an object, one of which may be missing.
type member struct {
	name, value *node
	colon       int // offset of the colon, -1 if there is none
	end         int // where a missing value could stand at the latest
}

// get is the value of the member of that name, nil if there is none.
func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	for i := range n.members {
		if m := &n.members[i]; m.name != nil && m.name.text == name && m.value != nil {
			return m.value
		}
	}
	return nil
}

// strings are n, if it is a string, or the strings in n.
func (n *node) strings() []*node {
	switch {
	case n == nil:
		return nil
	case n.kind == stringNode:
		return []*node{n}
	}
	var out []*node
	for _, i := range n.items {
		if i.kind == stringNode {
			out = append(out, i)
		}
	}
	return out
}

// inner is where the text of a string or word is, without quotes.
func (n *node) inner() (start, end int) {
	if n.kind != stringNode {
		return n.start, n.end
	}
	if n.closed {
		return n.start + 1, n.end - 1
	}
	return n.start + 1, n.end
}

// holds says whether offset is within the brackets of n.
func (n *node) holds(offset int) bool {
	return offset > n.start && (offset < n.end || !n.closed && offset == n.end)
}

// touches says whether offset is within n or at one of its ends.
func (n *node) touches(offset int) bool { return n.start <= offset && offset <= n.end }

// parseTree reads src; nil if there is no value in it.
func parseTree(src string) (root *node, comments [][2]int) {
	p := treeParser{src: src}
	p.pos += len(src) - len(strings.TrimPrefix(src, "\uFEFF"))
	for p.skip(); p.pos < len(src); p.skip() {
		if c := src[p.pos]; c == '{' || c == '[' {
			root = p.value()
			break
		}
		p.pos++
	}
	if root != nil {
		root.object = cml.Language()
		root.annotate()
	}
	return root, p.comments
}

// annotate says of everything in n what the language says of it.
func (n *node) annotate() {
	for _, i := range n.items {
		i.parent = n
		i.key = n.key
		if i.kind == objectNode && n.key != nil && n.key.Value.Kind == cml.ListValue {
			i.object = n.key.Value.Object
		}
		i.annotate()
	}
	for i := range n.members {
		m := &n.members[i]
		if m.name != nil {
			m.name.parent = n
		}
		v := m.value
		if v == nil {
			continue
		}
		v.parent = n
		if n.object != nil && m.name != nil {
			v.key = n.object.Key(m.name.text)
		}
		switch {
		case v.kind == objectNode && n.each != nil:
			v.object = n.each
		case v.kind == objectNode && v.key != nil && v.key.Value.Kind == cml.MapValue:
			v.each = v.key.Value.Object
		case v.kind == objectNode && v.key != nil && v.key.Value.Kind != cml.ListValue:
			v.object = v.key.Value.Object
		}
		v.annotate()
	}
}

type treeParser struct {
	src      string
	pos      int
	nodes    int
	depth    int
	objects  int // that are open
	arrays   int
	comments [][2]int
}

// skip moves on to the next token.
func (p *treeParser) skip() {
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; {
		case c == ' ' || c >= '\t' && c <= '\r':
			p.pos++
		case strings.HasPrefix(p.src[p.pos:], "//"):
			end := strings.IndexAny(p.src[p.pos:], "\r\n")
			if end < 0 {
				end = len(p.src) - p.pos
			}
			p.comment(end)
		case strings.HasPrefix(p.src[p.pos:], "/*"):
			end := strings.Index(p.src[p.pos+2:], "*/")
			if end < 0 {
				end = len(p.src) - p.pos - 4
			}
			p.comment(end + 4)
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(p.src[p.pos:])
			if !strings.ContainsRune("\u00A0\uFEFF\u2028\u2029\u3000", r) {
				return
			}
			p.pos += size
		default:
			return
		}
	}
}

func (p *treeParser) comment(length int) {
	// One that was met before comes again after looking ahead.
	if n := len(p.comments); n == 0 || p.comments[n-1][0] < p.pos {
		p.comments = append(p.comments, [2]int{p.pos, p.pos + length})
	}
	p.pos += length
}

// at says whether the next character is one of set; not at the end.
func (p *treeParser) at(set string) bool {
	return p.pos < len(p.src) && strings.IndexByte(set, p.src[p.pos]) >= 0
}

// value reads a value; there is at least one character.
func (p *treeParser) value() *node {
	p.nodes++
	if p.nodes > maxNodes {
		p.pos = len(p.src)
		return &node{start: len(p.src), end: len(p.src)}
	}
	if !p.at("{[") || p.depth == maxDepth {
		return p.scalar()
	}
	n := &node{kind: objectNode, start: p.pos}
	p.depth++
	if p.at("{") {
		p.objects++
		p.pos++
		p.object(n)
		p.objects--
	} else {
		n.kind = arrayNode
		p.arrays++
		p.pos++
		p.array(n)
		p.arrays--
	}
	p.depth--
	n.end = p.pos
	return n
}

func (p *treeParser) object(n *node) {
	for p.skip(); p.pos < len(p.src); p.skip() {
		switch {
		case p.at("}"):
			p.pos++
			n.closed = true
			return
		case p.at("]") && p.arrays > 0:
			return
		case p.at(",;:=]"):
			p.pos++
		case p.at("{["):
			n.members = append(n.members, member{value: p.value(), colon: -1})
		default:
			m := member{name: p.scalar(), colon: -1}
			p.skip()
			switch {
			case p.at(":="):
				m.colon = p.pos
				p.pos++
				p.skip()
				m.value = p.memberValue()
				m.end = p.pos
				if i := strings.IndexAny(p.src[m.colon:m.end], "\r\n"); i >= 0 {
					m.end = m.colon + i
				}
			case p.at("{["):
				m.value = p.value()
			}
			n.members = append(n.members, m)
		}
	}
}

// memberValue reads the value after a colon, nil if it is missing.
func (p *treeParser) memberValue() *node {
	if p.pos == len(p.src) || p.at(",;}]") {
		return nil
	}
	if p.at("{[") {
		return p.value()
	}
	start := p.pos
	v := p.value()
	end := p.pos
	p.skip()
	if p.at(":") {
		p.pos = start // it is the next member's name
		return nil
	}
	p.pos = end
	return v
}

func (p *treeParser) array(n *node) {
	for p.skip(); p.pos < len(p.src); p.skip() {
		switch {
		case p.at("]"):
			p.pos++
			n.closed = true
			return
		case p.at("}") && p.objects > 0:
			return
		case p.at(",;:=}"):
			p.pos++
		default:
			n.items = append(n.items, p.value())
		}
	}
}

// scalar reads a string or a word.
func (p *treeParser) scalar() *node {
	n := &node{start: p.pos}
	if !p.at(`"'`) {
		for p.pos++; p.pos < len(p.src) && strings.IndexByte(" \t\n\v\f\r,;:={}[]/\"'", p.src[p.pos]) < 0; p.pos++ {
		}
		n.end = p.pos
		n.text = p.src[n.start:n.end]
		return n
	}
	n.kind = stringNode
	quote := p.src[p.pos]
	escaped := false
	for p.pos++; p.pos < len(p.src) && p.src[p.pos] != '\n' && p.src[p.pos] != '\r'; p.pos++ {
		if p.src[p.pos] == quote {
			p.pos++
			n.closed = true
			break
		}
		if p.src[p.pos] == '\\' && p.pos+1 < len(p.src) {
			escaped = true
			if strings.HasPrefix(p.src[p.pos+1:], "\r\n") {
				p.pos++
			}
			p.pos++
		}
	}
	n.end = p.pos
	start, end := n.inner()
	n.text = p.src[start:end]
	if escaped && n.closed {
		if tree, err := json5.Parse([]byte(p.src[n.start:n.end]), json5.Options{}); err == nil {
			n.text = json5.Text(tree.Root)
		}
	}
	return n
}
