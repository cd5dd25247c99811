package cml

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// Format is src in the one style that manifests have, which is that of `cmc format`: four blanks for each level, one key or
// element a line, a comma after each, keys in a fixed order, names without needless quotes, a lone string on the line of its
// brackets. Elements whose order means nothing (names, sources, targets, scopes, rights) are sorted. Comments stay with what they
// stand at. Unlike cmc it leaves the order of `include` and of free data alone, since it means something there.
//
// Formatting twice is formatting once, and what is formatted means what it meant. src need only be JSON5, not a valid manifest.
// The findings are those of the syntax; the text is nil if there is one.
func Format(file string, src []byte) ([]byte, manifest.Diagnostics) {
	tree, err := json5.Parse(src, json5.Options{})
	if err != nil {
		return nil, syntax(&Source{File: file, Tree: tree}, err)
	}
	var w formatter
	w.document(&tree.Root)
	return w.out, nil
}

// Repair makes the one obvious repair of each slip in the syntax of src (a missing comma, colon, quote or bracket, a superfluous
// bracket) and tells what it did in the findings, which have the places of the slips, and the repairs as hints. If there is a
// slip without such a repair, the text is nil and the findings are all that is wrong.
func Repair(file string, src []byte) ([]byte, manifest.Diagnostics) {
	tree, err := json5.Parse(src, json5.Options{})
	es, ok := errors.AsType[json5.Errors](err)
	if !ok {
		return src, nil
	}
	found := syntax(&Source{File: file, Tree: tree}, es)
	if !es.Repairable() {
		return nil, found
	}
	return es.Apply(src), found
}

// ToJSON is a JSON5 text as standard JSON, on one line with a newline at the end; or what keeps it from being one. The text need
// not be a manifest.
func ToJSON(file string, src []byte) ([]byte, manifest.Diagnostics) {
	tree, err := json5.Parse(src, json5.Options{})
	var out []byte
	if err == nil {
		out, err = json5.ToJSON(&tree)
	}
	if err != nil {
		return nil, syntax(&Source{File: file, Tree: tree}, err)
	}
	return append(out, '\n'), nil
}

// syntax are the findings of the parser.
func syntax(s *Source, err error) manifest.Diagnostics {
	d := decoder{source: s}
	if es, ok := errors.AsType[json5.Errors](err); ok {
		for _, e := range es {
			hint := e.Hint()
			if len(bytes.TrimSpace(s.Tree.Src())) == 0 && strings.HasSuffix(e.Message, "end of file") { // and not too long to be read
				hint = "a manifest that says nothing is {}"
			}
			d.report(d.at(e.Offset), "syntax", hint, "%s", e.Message)
		}
	}
	return d.diagnostics
}

// The orders of keys; what is not named keeps its order behind them.
var (
	documentOrder = []string{
		"include", "program", "children", "collections", "capabilities", "use", "offer", "expose",
		"environments", "facets",
	}
	programOrder = []string{"runner", "binary", "args"}
	entryOrder   = []string{
		"name", "url", "startup", "environment", "config", "dictionary", "durability", "service", "protocol",
		"directory", "storage", "runner", "resolver", "event", "event_stream", "from", "as", "to", "rights", "path", "subdir",
		"filter", "dependency", "extends", "runners", "resolvers", "debug",
	}
)

// sets are the keys whose arrays mean the same in any order.
var sets = []string{
	"service", "protocol", "directory", "storage", "runner", "resolver", "event_stream", "dictionary", "config",
	"from", "to", "rights", "scope",
}

type formatter struct {
	out      []byte
	path     []string // the keys down to where the formatter is, "" for an element
	keepSets bool     // leave arrays in their order
}

// A comment is one of those between two tokens.
type comment struct {
	text    string // without the end of the line
	block   bool
	newline bool   // a line ends between it and what stands before it
	blank   bool   // so does another one, that has nothing else on it
	indent  string // before it, if it begins its line with blanks only
}

// onOneLine says whether c takes part of a line.
func (c *comment) onOneLine() bool { return !strings.Contains(c.text, "\n") }

// An item is a member or an element, or the document.
type item struct {
	before []comment
	gap    bool // a blank line follows those
	name   string
	value  *hujson.Value
	after  []comment // on its line; only the last may be a line comment
}

// comments reads the white space between two tokens; newline and blank say what stands behind the last comment.
func comments(extra hujson.Extra) (out []comment, newline, blank bool) {
	s := string(extra)
	lines, lineStart := 0, -1
	for i := 0; i < len(s); {
		switch n := lineBreak(s[i:]); {
		case n > 0:
			i += n
			lines++
			lineStart = i
		case s[i] == '/':
			c := comment{block: s[i+1] == '*', newline: lines > 0, blank: lines > 1}
			end := i
			if c.block {
				end += 2 + strings.Index(s[i+2:], "*/") + 2
			} else {
				for end < len(s) && lineBreak(s[end:]) == 0 {
					end++
				}
			}
			if lineStart >= 0 && strings.Trim(s[lineStart:i], " \t") == "" {
				c.indent = s[lineStart:i]
			}
			c.text = s[i:end]
			if c.block {
				c.text = lineEnds.Replace(c.text)
			} else {
				c.text = strings.TrimRight(c.text, " \t\v\f")
			}
			out = append(out, c)
			i, lines, lineStart = end, 0, -1
		default:
			i++
		}
	}
	return out, lines > 0, lines > 1
}

var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// lineBreak is the length of the line terminator that s begins with.
func lineBreak(s string) int {
	switch {
	case strings.HasPrefix(s, "\r\n"):
		return 2
	case s[0] == '\n' || s[0] == '\r':
		return 1
	case strings.HasPrefix(s, "\u2028") || strings.HasPrefix(s, "\u2029"):
		return 3
	}
	return 0
}

// take moves the first of cs to the line of it, as far as they stand there and fit, and returns the others.
func (it *item) take(cs []comment) []comment {
	for len(cs) > 0 && !cs[0].newline && cs[0].onOneLine() {
		if n := len(it.after); n > 0 && !it.after[n-1].block {
			break
		}
		it.after = append(it.after, cs[0])
		cs = cs[1:]
	}
	return cs
}

// begin makes the next item, whose token stands after extra; last is the item before it, or nil; left are the comments that
// found no place there.
func begin(last *item, left []comment, extra hujson.Extra) item {
	cs, newline, blank := comments(extra)
	// A block comment on the line of both belongs to the next one.
	if last != nil && (newline || slices.ContainsFunc(cs, func(c comment) bool { return c.newline || !c.block })) && len(left) == 0 {
		cs = last.take(cs)
	}
	cs = append(left, cs...)
	return item{before: cs, gap: blank && len(cs) > 0}
}

// finish gives the item its value, which other comments may stand around, and returns those that find no place.
func (it *item) finish(v *hujson.Value, between ...hujson.Extra) []comment {
	it.value = v
	for _, extra := range between {
		if cs, _, _ := comments(extra); len(cs) > 0 {
			it.before, it.gap = append(it.before, cs...), false
		}
	}
	cs, _, _ := comments(v.AfterExtra)
	return it.take(cs)
}

// items are a container's members or elements, and the comments behind the last one.
func items(v *hujson.Value) (all []item, rest []comment) {
	var left []comment
	last := func() *item {
		if len(all) == 0 {
			return nil
		}
		return &all[len(all)-1]
	}
	end := func(extra hujson.Extra) {
		cs, _, _ := comments(extra)
		if it := last(); it != nil && len(left) == 0 {
			cs = it.take(cs)
		}
		rest = append(left, cs...)
	}
	switch x := v.Value.(type) {
	case *hujson.Object:
		for i := range x.Members {
			m := &x.Members[i]
			it := begin(last(), left, m.Name.BeforeExtra)
			it.name = bareName(string(m.Name.Value.(hujson.Literal)))
			left = it.finish(&m.Value, m.Name.AfterExtra, m.Value.BeforeExtra)
			all = append(all, it)
		}
		end(x.AfterExtra)
	case *hujson.Array:
		for i := range x.Elements {
			e := &x.Elements[i]
			it := begin(last(), left, e.BeforeExtra)
			left = it.finish(e)
			all = append(all, it)
		}
		end(x.AfterExtra)
	}
	return all, rest
}

// bareName is a name as it is written: without quotes if it needs none.
func bareName(lit string) string {
	if lit[0] != '"' && lit[0] != '\'' {
		return lit
	}
	isBare := len(lit) > 2
	for i, c := range []byte(lit[1 : len(lit)-1]) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '$'
		isBare = isBare && (letter || i > 0 && c >= '0' && c <= '9')
	}
	if isBare {
		return lit[1 : len(lit)-1]
	}
	return doubleQuoted(lit)
}

// doubleQuoted is a literal with double quotes, if that is all that there is to change.
func doubleQuoted(lit string) string {
	if lit[0] == '\'' && !strings.ContainsAny(lit, `"\`) {
		return `"` + lit[1:len(lit)-1] + `"`
	}
	return lit
}

func (w *formatter) text(s string) { w.out = append(w.out, s...) }

func (w *formatter) line() {
	w.text("\n")
	for range w.path {
		w.text("    ")
	}
}

func (w *formatter) blankLine() { w.text("\n") }

func (w *formatter) document(root *hujson.Value) {
	it := begin(nil, nil, root.BeforeExtra)
	rest := it.finish(root)
	w.before(&it, true)
	w.value(root)
	w.after(&it)
	w.rest(rest, true)
	w.text("\n")
	w.out = w.out[1:] // each line began with the end of the one before
}

// before writes the comments above an item, and begins its line.
func (w *formatter) before(it *item, first bool) {
	for i := range it.before {
		if c := &it.before[i]; i == 0 && !first || i > 0 && c.blank {
			w.blankLine()
		}
		w.line()
		w.comment(&it.before[i])
	}
	if it.gap {
		w.blankLine()
	}
	w.line()
}

// after writes the comments on an item's line.
func (w *formatter) after(it *item) {
	for i := range it.after {
		w.text(" " + it.after[i].text)
	}
}

// rest writes the comments behind the last item, if there is one.
func (w *formatter) rest(cs []comment, items bool) {
	for i := range cs {
		if i == 0 && items || i > 0 && cs[i].blank {
			w.blankLine()
		}
		w.line()
		w.comment(&cs[i])
	}
}

// comment writes a comment whose line has begun. The lines of a block move with the first one, if they stood below it.
func (w *formatter) comment(c *comment) {
	first, more, ok := strings.Cut(c.text, "\n")
	w.text(first)
	if !ok {
		return
	}
	lines := strings.Split(more, "\n")
	aligned := true
	for i, l := range lines {
		if strings.Trim(l, " \t") == "" {
			lines[i] = ""
			continue
		}
		aligned = aligned && strings.HasPrefix(l, c.indent)
	}
	for _, l := range lines {
		switch {
		case l == "":
			w.blankLine()
		case aligned:
			w.line()
			w.text(l[len(c.indent):])
		default:
			w.text("\n" + l)
		}
	}
}

func (w *formatter) value(v *hujson.Value) {
	switch x := v.Value.(type) {
	case hujson.Literal:
		w.text(doubleQuoted(string(x)))
	case *hujson.Object:
		w.container(v, "{", "}")
	case *hujson.Array:
		w.container(v, "[", "]")
	}
}

func (w *formatter) container(v *hujson.Value, open, end string) {
	all, rest := items(v)
	w.text(open)
	if len(all) == 0 && len(rest) == 0 {
		w.text(end)
		return
	}
	if w.collapses(all, rest) {
		w.text(" ")
		if all[0].name != "" {
			w.text(all[0].name + ": ")
		}
		w.value(all[0].value)
		w.text(" " + end)
		return
	}
	w.sort(v, all)
	w.path = append(w.path, "")
	for i := range all {
		it := &all[i]
		w.before(it, i == 0)
		if it.name != "" {
			w.path[len(w.path)-1] = it.name
			w.text(it.name + ": ")
		}
		w.value(it.value)
		w.text(",")
		w.after(it)
	}
	w.rest(rest, len(all) > 0)
	w.path = w.path[:len(w.path)-1]
	w.line()
	w.text(end)
}

// collapses says whether a container stands on one line: for the sake of one literal without comments, but not a whole program.
func (w *formatter) collapses(all []item, rest []comment) bool {
	isProgram := len(w.path) == 1 && w.path[0] == "program"
	if isProgram || len(all) != 1 || len(rest) > 0 || len(all[0].before) > 0 || len(all[0].after) > 0 {
		return false
	}
	_, ok := all[0].value.Value.(hujson.Literal)
	return ok
}

// sort brings the items of the container that the path leads to into order.
func (w *formatter) sort(v *hujson.Value, all []item) {
	section := ""
	if len(w.path) > 0 {
		section = w.path[0]
	}
	if _, ok := v.Value.(*hujson.Array); ok {
		noString := func(it item) bool { return json5.KindOf(*it.value) != json5.String }
		if !w.keepSets && w.isSet(section) && !slices.ContainsFunc(all, noString) {
			slices.SortStableFunc(all, func(a, b item) int {
				x, y := json5.Text(*a.value), json5.Text(*b.value)
				return cmp.Or(strings.Compare(strings.ToLower(x), strings.ToLower(y)), strings.Compare(x, y))
			})
		}
		return
	}
	var order []string
	switch depth := len(w.path); {
	case depth == 0:
		order = documentOrder
	case section == "program" && depth == 1:
		order = programOrder
	case section != "program" && (depth == 2 || depth == 4):
		order = entryOrder
	}
	rank := func(it item) int {
		if i := slices.Index(order, strings.Trim(it.name, `"'`)); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(all, func(a, b item) int { return cmp.Compare(rank(a), rank(b)) })
}

// isSet says whether the path leads to an array whose order means nothing: use[].protocol, environments[].debug[].protocol.
func (w *formatter) isSet(section string) bool {
	switch section {
	case "capabilities", "use", "offer", "expose":
		return len(w.path) == 3 && slices.Contains(sets, w.path[2])
	case "environments":
		return len(w.path) == 5 && slices.Contains(sets, w.path[4])
	}
	return false
}
