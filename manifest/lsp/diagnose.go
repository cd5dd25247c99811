package lsp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

type diagnostic struct {
	Range    span      `json:"range"`
	Severity int       `json:"severity"`
	Code     string    `json:"code"`
	Source   string    `json:"source"`
	Message  string    `json:"message"`
	Tags     []int     `json:"tags,omitempty"`
	Related  []related `json:"relatedInformation,omitempty"`

	start, end int // of Range, in bytes
	found      manifest.Diagnostic
	elsewhere  bool // it was found in an included file
}

type related struct {
	Location location `json:"location"`
	Message  string   `json:"message"`
}

type location struct {
	URI   string `json:"uri"`
	Range span   `json:"range"`
}

// publishChanged publishes the diagnostics of the documents that have changed.
func (s *server) publishChanged() {
	for _, d := range s.documents {
		if d.changed {
			d.changed = false
			s.publish(d.uri, d.version, s.diagnose(d))
		}
	}
}

func (s *server) publish(uri string, version *int, ds []diagnostic) {
	s.notify("textDocument/publishDiagnostics", struct {
		URI         string       `json:"uri"`
		Version     *int         `json:"version,omitempty"`
		Diagnostics []diagnostic `json:"diagnostics"`
	}{uri, version, ds})
}

// diagnose finds what is wrong with d. A shard says less than a manifest: only what it says itself is looked at.
func (s *server) diagnose(d *document) []diagnostic {
	src := []byte(d.text.src)
	var found manifest.Diagnostics
	in := s.includes(d)
	if strings.HasSuffix(d.name(), ".shard.cml") {
		var doc *cml.Document
		doc, found = cml.Parse(d.name(), src)
		found = append(found, cml.Expand(doc, in)...)
	} else {
		_, found = cml.Load(d.name(), src, cml.Options{Includes: in})
	}
	var origins map[string]*node
	out := []diagnostic{}
	for _, f := range found {
		o := diagnostic{Severity: 1, Code: f.Rule, Source: "cmgr", Message: f.Message, found: f, Related: s.relatedOf(d, f)}
		if f.Warning {
			o.Severity = 2
		}
		if f.Rule == "no-effect" {
			o.Tags = []int{1} // it may be faded out
		}
		if f.Hint != "" {
			o.Message += "\nhint: " + f.Hint
		}
		if f.Pos.File == d.name() || !f.Pos.IsValid() {
			o.start = d.text.place(int(f.Pos.Line), int(f.Pos.Col))
			o.end = s.extent(d, o.start)
		} else {
			if origins == nil {
				origins = s.origins(d, in)
			}
			o.Message = f.Pos.String() + ": " + o.Message
			o.elsewhere = true
			o.Related = append([]related{{s.locationOf(d, f.Pos), "here"}}, o.Related...)
			if n := origins[f.Pos.File]; n != nil {
				o.start, o.end = n.start, n.end
			}
		}
		o.Range = d.text.span(o.start, o.end)
		out = append(out, o)
	}
	return out
}

// extent is where what begins at start ends: a token, or one character of anything else.
func (s *server) extent(d *document, start int) int {
	if c := locate(s.tree(d), start); c.token != nil && c.token.start == start {
		return c.token.end
	}
	p := d.text.position(start)
	_, end := d.text.line(p.Line)
	if start >= end {
		return start
	}
	return start + len(string([]rune(d.text.src[start:end])[:1]))
}

// places are the mentions of other places in the words of a diagnostic.
var places = regexp.MustCompile(` at (?:(\S.*):)?(\d+):(\d+)$`)

// relatedOf finds the other places that f speaks of, one a line.
func (s *server) relatedOf(d *document, f manifest.Diagnostic) []related {
	var out []related
	for line := range strings.Lines(f.Message + "\n" + f.Hint) {
		line = strings.TrimSpace(line)
		m := places.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		line1, _ := strconv.ParseInt(m[2], 10, 32)
		col, _ := strconv.ParseInt(m[3], 10, 32)
		pos := manifest.Pos{File: m[1], Line: int32(line1), Col: int32(col)}
		if pos.File == "" {
			pos.File = f.Pos.File
		}
		out = append(out, related{s.locationOf(d, pos), strings.TrimSuffix(line, m[0])})
	}
	return out
}

// locationOf is a place of d or a file as the protocol writes it.
func (s *server) locationOf(d *document, p manifest.Pos) location {
	if p.File == d.name() {
		at := d.text.place(int(p.Line), int(p.Col))
		return location{d.uri, d.text.span(at, s.extent(d, at))}
	}
	if src, err := s.readFile(p.File); err == nil {
		t := newText(string(src), s.utf16)
		at := t.place(int(p.Line), int(p.Col))
		return location{s.uriOf(p.File), t.span(at, at)}
	}
	return location{URI: s.uriOf(p.File)}
}

// origins are the entries of d's `include` by the files that come in through them.
func (s *server) origins(d *document, in *cml.Includes) map[string]*node {
	out := map[string]*node{}
	var follow func(file string, list *node, origin *node)
	follow = func(file string, list, origin *node) {
		for _, n := range list.strings() {
			from := origin
			if from == nil {
				from = n
			}
			if path, src, err := in.Find(n.text, file); err == nil && out[path] == nil {
				out[path] = from
				root, _ := parseTree(string(src))
				follow(path, root.get("include"), from)
			}
		}
	}
	follow(d.name(), s.tree(d).get("include"), nil)
	return out
}

// Kinds of code actions.
const (
	kindQuickFix = "quickfix"
	kindFixAll   = "source.fixAll.cmgr"
)

type codeAction struct {
	Title       string        `json:"title"`
	Kind        string        `json:"kind"`
	Diagnostics []diagnostic  `json:"diagnostics,omitempty"`
	Preferred   bool          `json:"isPreferred,omitempty"`
	Edit        workspaceEdit `json:"edit"`
}

type workspaceEdit struct {
	Changes map[string][]textEdit `json:"changes"`
}

type textEdit struct {
	Range   span   `json:"range"`
	NewText string `json:"newText"`
}

// Hints that say what to write instead.
var (
	didYouMean = regexp.MustCompile("did you mean (?:`([^`]+)`|(\"(?:[^\"\\\\]|\\\\.)*\"))\\?")
	writeAs    = regexp.MustCompile(`^write it as the string (".*")$`)
)

// codeActions offers repairs of what is wrong in a range: of slips in the syntax, and of words that are near to the right one.
func (s *server) codeActions(d *document, p *params) (any, *rpcError) {
	from, to := d.text.offset(p.Range.Start), d.text.offset(p.Range.End)
	wants := func(kind string) bool {
		return len(p.Context.Only) == 0 || slices.ContainsFunc(p.Context.Only, func(only string) bool {
			return only == "" || kind == only || strings.HasPrefix(kind, only+".")
		})
	}
	edit := func(edits ...textEdit) workspaceEdit { return workspaceEdit{map[string][]textEdit{d.uri: edits}} }
	out := []codeAction{}
	fixes := cml.Fixes([]byte(d.text.src))
	var all []textEdit
	byStart := map[int][]textEdit{}
	for _, e := range fixes {
		t := textEdit{d.text.span(e.Fix.Offset, e.Fix.Offset+e.Fix.Delete), e.Fix.Insert}
		all = append(all, t)
		byStart[e.Offset] = append(byStart[e.Offset], t)
	}
	if wants(kindQuickFix) {
		for _, f := range s.diagnose(d) {
			if f.elsewhere || f.end < from || f.start > to {
				continue
			}
			title, change := "", textEdit{Range: f.Range}
			if fixes := byStart[f.start]; len(fixes) > 0 && f.Code == "syntax" {
				title, change = f.found.Hint, fixes[0]
				byStart[f.start] = fixes[1:] // those of one place come in the order of their diagnostics
			} else if c := locate(s.tree(d), f.start); c.token == nil || c.token.start != f.start {
				continue
			} else if m := writeAs.FindStringSubmatch(f.found.Hint); m != nil {
				title, change.NewText = f.found.Hint, m[1]
			} else if m := didYouMean.FindStringSubmatch(f.found.Message + "\n" + f.found.Hint); m != nil {
				word := m[1]
				if word == "" {
					if json.Unmarshal([]byte(m[2]), &word) != nil {
						continue
					}
				}
				title = fmt.Sprintf("change to `%s`", word)
				start, end := c.token.inner()
				change = textEdit{d.text.span(start, end), word}
			}
			if title != "" {
				out = append(out, codeAction{title, kindQuickFix, []diagnostic{f}, true, edit(change)})
			}
		}
	}
	if len(all) > 0 && wants(kindFixAll) {
		title := "repair the syntax"
		if len(all) > 1 {
			title = fmt.Sprintf("repair the syntax in %d places", len(all))
		}
		out = append(out, codeAction{Title: title, Kind: kindFixAll, Edit: edit(all...)})
	}
	return out, nil
}

// formatting is the edit that formats the document: one, of the lines that change.
func (s *server) formatting(d *document, _ *params) (any, *rpcError) {
	src := []byte(d.text.src)
	out, found := cml.Format(d.name(), src)
	if err := found.Err(); err != nil {
		return nil, failf(codeFailed, "format %s: %s", filepath.Base(d.name()), found.Errors()[0].Error())
	}
	if bytes.Equal(src, out) {
		return []textEdit{}, nil
	}
	before, after := 0, 0
	for i := 0; i < min(len(src), len(out)) && src[i] == out[i]; i++ {
		if src[i] == '\n' {
			before = i + 1
		}
	}
	for i := 1; i <= min(len(src), len(out))-before && src[len(src)-i] == out[len(out)-i]; i++ {
		if i > 1 && src[len(src)-i] == '\n' {
			after = i - 1
		}
	}
	return []textEdit{{d.text.span(before, len(src)-after), string(out[before : len(out)-after])}}, nil
}
