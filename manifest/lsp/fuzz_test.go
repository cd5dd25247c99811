package lsp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzMessages states: whatever messages come, each line of the input one, the server answers every request exactly once, in the
// order in which they came, and nothing else; and ends.
func FuzzMessages(f *testing.F) {
	const uri = `"textDocument":{"uri":"untitled:a.cml"`
	did := `{"method":"textDocument/didOpen","params":{` + uri + `,"version":1,"text":"{ use: [ { protocol: \"#"}}}`
	lines := func(messages ...string) string { return strings.Join(messages, "\n") }
	f.Add(lines(initialize, did,
		`{"id":2,"method":"textDocument/completion","params":{`+uri+`},"position":{"line":0,"character":23}}}`))
	f.Add(lines(initialize, did,
		`{"method":"textDocument/didChange","params":{`+uri+`},"contentChanges":[{"range":{"start":{"line":9,`+
			`"character":-1},"end":{"line":-1}},"text":"\ud834\udd1e"}]}}`,
		`{"id":"a","method":"textDocument/codeAction","params":{`+uri+`},"range":{"end":{"line":3}}}}`,
		shutdown))
	f.Add(lines(initialize, `{"id":1.5,"method":"x"}`, `{"method":"$/cancelRequest","params":{"id":1}}`, `{"id":3,"id":null}`))
	f.Fuzz(func(t *testing.T, input string) {
		var in strings.Builder
		var want []string
		for line := range strings.SplitSeq(input, "\n") {
			m := decode([]byte(line))
			if m.Method == "exit" {
				continue // what comes after it is not read
			}
			in.WriteString(frame(line))
			switch {
			case m.broken != nil && m.ID == nil:
				want = append(want, "null")
			case m.ID != nil && (m.Method != "" || m.broken != nil) && m.Method != "$/cancelRequest":
				want = append(want, decoded(m.ID))
			}
		}
		got, _ := converse(t, in.String()+frame(exit))
		var ids []string
		for _, m := range got {
			switch {
			case m.Method != "":
			case m.ID == nil:
				ids = append(ids, "null")
			default:
				ids = append(ids, decoded(m.ID))
			}
		}
		if !slices.Equal(ids, want) {
			t.Fatalf("%q: answered %q, want %q", input, ids, want)
		}
	})
}

// decoded is an id without its spelling.
func decoded(id json.RawMessage) string {
	var s string
	if len(id) == 0 || id[0] != '"' || json.Unmarshal(id, &s) != nil {
		return string(id)
	}
	return fmt.Sprintf("%q", s)
}

// FuzzFeatures states: whatever a manifest says, wherever the cursor is, every feature has an answer; ranges lie within the text
// and in order; and what a formatting makes of the text is formatted.
func FuzzFeatures(f *testing.F) {
	f.Add(`{ children: [ { name: "a", url: "b.cml", environment: "#e" } ], offer: [ { from: "#a", to: [ "#|`, 90, true)
	f.Add("{\r\n include: [ 'x', ], /* 𝄞 */ use: [{ protocol: [\"\\x61\" 'b'; ] from = \"self/d/x\" path }] }", 40, false)
	f.Add(`{ config: { a: { type: "vector", element: { type`, 47, true)
	f.Fuzz(func(t *testing.T, src string, offset int, utf16 bool) {
		if !utf8.ValidString(src) {
			return // JSON carries no other text
		}
		s := &server{utf16: utf16, documents: map[string]*document{}}
		d := &document{uri: "untitled:a.cml", text: newText("", utf16)}
		s.documents[d.uri] = d
		s.setText(d, src)
		offset = min(max(offset, 0), len(src))
		for offset > 0 && offset < len(src) && !utf8.RuneStart(src[offset]) {
			offset--
		}
		p := params{Position: d.text.position(offset), NewName: "new"}
		p.Range = span{End: d.text.position(len(src))}
		p.Context.IncludeDeclaration = true
		if got := d.text.offset(p.Position); got != offset && src[got] != '\n' && src[got] != '\r' {
			t.Fatalf("%q: offset %d is %v is offset %d", src, offset, p.Position, got)
		}
		check := func(r span) {
			start, end := d.text.offset(r.Start), d.text.offset(r.End)
			if start > end || d.text.position(start) != r.Start && src[start] != '\n' && src[start] != '\r' {
				t.Fatalf("%q: range %v", src, r)
			}
		}
		for _, x := range s.diagnose(d) {
			check(x.Range)
		}
		for method, feature := range features {
			result, failed := feature(s, d, &p)
			b, err := json.Marshal(result)
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			switch r := result.(type) {
			case []textEdit: // formatting
				if failed != nil || len(r) == 0 {
					break
				}
				check(r[0].Range)
				s.setText(d, d.text.replace(r[0].Range, r[0].NewText))
				if again, failed := s.formatting(d, &p); failed != nil || len(again.([]textEdit)) > 0 {
					t.Fatalf("%q is formatted as %q, and that as %v %v", src, d.text.src, again, failed)
				}
				s.setText(d, src)
			case workspaceEdit:
				edits := r.Changes[d.uri]
				for _, e := range edits {
					check(e.Range)
				}
				if len(edits) == 0 {
					t.Fatalf("%q: nothing renamed: %s", src, b)
				}
			case []codeAction:
				for _, a := range r {
					for _, e := range a.Edit.Changes[d.uri] {
						check(e.Range)
					}
				}
			}
			if failed != nil && (result != nil || failed.Message == "") {
				t.Fatalf("%s: %s and %v", method, b, failed)
			}
		}
		if fmt.Sprint(s.writeError) != "<nil>" {
			t.Fatal(s.writeError)
		}
	})
}
