package lsp

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// Each line is a request about a file of testdata/tree: what, the file, and a piece of its text in which | is the cursor.
// "type" puts the last word at the cursor, and the lines after it see that; "reset" takes it all back.
const script = `
diagnostics broken.cml
diagnostics root.cml
actions broken.cml "eagr" }|
actions broken.cml |"eagr"
actions broken.cml |childen
actions broken.cml "pare|n"
actions broken.cml binary: |7
actions root.cml |children
symbols root.cml
hover root.cml star|tup
hover root.cml "ea|ger"
hover root.cml environment: "#e|nv"
hover root.cml "sub/db.|cml"
hover root.cml stop_|event
hover root.cml bi|nary
hover root.cml 𝄞𝄞 */ { proto|col
hover root.cml // The tr|ee
definition root.cml "sub/db.|cml"
definition root.cml "log.sh|ard.cml"
definition root.cml environment: "#e|nv"
definition root.cml from: "#n|et" },
definition root.cml to: "#\x6|eet"
definition root.cml to: "self/bun|dle"
definition root.cml "net.St|ack", from: "#net" },
definition root.cml "sta|tus", from: "self", as
definition root.cml from: "par|ent", to
definition root.cml backing_dir: "fi|les"
references root.cml name: "n|et"
references root.cml name: "d|b"
references root.cml "sta|tus", "root
references root.cml dictionary: "bun|dle" }
references root.cml name: "e|nv"
references root.cml "sub/|db
prepare root.cml '#jo|bs'
prepare root.cml name: "d|b"
prepare root.cml "sta|tus", from
prepare root.cml exten|ds
rename root.cml name: "n|et" network
rename root.cml "#d|b", ' database
rename root.cml '#jo|bs' #tasks
rename root.cml name: "e|nv" -bad
rename root.cml name: "n|et" db
formatting net.cml {|
formatting broken.cml {|
completion root.cml | include
completion root.cml { type: |"uint8"
completion root.cml startup: "|eager
completion root.cml environment: "#|env"
completion root.cml "#db|", '
completion root.cml 𝄞𝄞 */ { protocol: "net.Stack", from: "|#net
completion root.cml 𝄞𝄞 */ { protocol: "|net.Stack
completion root.cml url: "|net
completion root.cml "sub/|db
completion root.cml include: [ "|log
completion root.cml 𝄞𝄞 */ {| protocol
completion root.cml { dictionary: "bundle",| from
completion root.cml // The |tree
completion root.cml binary: "|bin
completion root.cml runner: "|elf" },
completion root.cml backing_dir: "|files"
completion net.cml "elf" } ],|
completion net.cml "binary|"
completion root.cml children: [|
completion root.cml use: [|
completion net.cml "capabilities": [|
type root.cml startup: "eager",|  on_te
completion root.cml on_te|
reset root.cml
type root.cml { runner: "elf" },|  { directory: "x", rights:
completion root.cml rights:|
type root.cml rights:|  [ "r*",
completion root.cml "r*",|
reset root.cml
type root.cml 𝄞𝄞 */ {| from: "#
completion root.cml { from: "#|
reset root.cml
type root.cml 𝄞𝄞 */ {| fr
completion root.cml { fr|
reset root.cml
type root.cml durability: "transient"| , allow_long_names:
completion root.cml allow_long_names:|
diagnostics root.cml
`

// Both encodings are tried: characters are counted otherwise, the answers are the same.
func TestGolden(t *testing.T) {
	for _, encoding := range []string{"utf-8", "utf-16"} {
		t.Run(encoding, func(t *testing.T) {
			golden(t, encoding)
		})
	}
}

func golden(t *testing.T, encoding string) {
	tree, err := filepath.Abs("testdata/tree")
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, Options{Delay: time.Millisecond}, fmt.Sprintf(`{"general":{"positionEncodings":["utf-32",%q]},"textDocument":{
		"completion":{"completionItem":{"snippetSupport":%t}},"hover":{"contentFormat":["markdown"]},
		"documentSymbol":{"hierarchicalDocumentSymbolSupport":true}}}`, encoding, encoding == "utf-16"))
	files := map[string]*text{}
	versions := map[string]int{}
	diagnostics := map[string][]diagnostic{}
	uri := func(file string) string { return "file://" + filepath.Join(tree, file) }
	load := func(file string) {
		src, err := os.ReadFile(filepath.Join(tree, file))
		if err != nil {
			t.Fatal(err)
		}
		files[file] = newText(string(src), encoding == "utf-16")
		versions[file]++
		c.notify("textDocument/didOpen", object{"textDocument": object{
			"uri": uri(file), "languageId": "cml", "version": versions[file],
			"text": string(src),
		}})
		diagnostics[file] = c.published(uri(file), versions[file])
	}
	for _, f := range []string{"root.cml", "net.cml", "broken.cml"} {
		load(f)
	}
	var out strings.Builder
	for line := range strings.Lines(strings.TrimSpace(script)) {
		line = strings.TrimSuffix(line, "\n")
		what, rest, _ := strings.Cut(line, " ")
		file, anchor, _ := strings.Cut(rest, " ")
		fmt.Fprintf(&out, "$ %s\n", line)
		var word string
		if what == "rename" || what == "type" {
			i := strings.LastIndexByte(anchor, ' ')
			if what == "type" {
				i = strings.IndexByte(anchor, '|') + 1
			}
			anchor, word = strings.TrimSuffix(anchor[:i], " "), anchor[i+1:]
			if what == "type" {
				word = " " + word
			}
		}
		p := object{"textDocument": object{"uri": uri(file)}}
		var at position
		if anchor != "" {
			before, after, _ := strings.Cut(anchor, "|")
			i := strings.Index(files[file].src, before+after)
			if i < 0 {
				t.Fatalf("%s: no %q in it", line, before+after)
			}
			at = files[file].position(i + len(before))
			p["position"] = at
			p["newName"] = word
			p["range"] = span{at, at}
			p["context"] = object{"includeDeclaration": true}
		}
		switch what {
		case "diagnostics":
			for _, d := range diagnostics[file] {
				fmt.Fprintf(&out, "%s %d %s %v: %s\n", show(d.Range), d.Severity, d.Code, d.Tags, d.Message)
				for _, r := range d.Related {
					fmt.Fprintf(&out, "    %s: %s\n", where(tree, r.Location), r.Message)
				}
			}
			continue
		case "reset":
			c.notify("textDocument/didClose", p)
			load(file)
			continue
		case "type":
			files[file] = newText(files[file].replace(span{at, at}, word), encoding == "utf-16")
			versions[file]++
			c.notify("textDocument/didChange", object{
				"textDocument":   object{"uri": uri(file), "version": versions[file]},
				"contentChanges": []object{{"range": span{at, at}, "text": word}},
			})
			diagnostics[file] = c.published(uri(file), versions[file])
			continue
		}
		method := map[string]string{"actions": "codeAction", "symbols": "documentSymbol", "prepare": "prepareRename"}[what]
		r := c.call("textDocument/"+cmp.Or(method, what), p)
		if r.Error != nil {
			fmt.Fprintf(&out, "error %d: %s\n", r.Error.Code, strings.ReplaceAll(r.Error.Message, tree+"/", ""))
			continue
		}
		render(t, &out, tree, what, files, r.Result)
	}
	got := strings.ReplaceAll(out.String(), tree, "TREE")
	name := "testdata/golden-" + encoding + ".txt"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("-want +got (run with -update, and read what changed):\n%s", d)
	}
}

func show(s span) string {
	return fmt.Sprintf("%d:%d-%d:%d", s.Start.Line, s.Start.Character, s.End.Line, s.End.Character)
}

func where(tree string, l location) string {
	return strings.TrimPrefix(l.URI, "file://"+tree+"/") + " " + show(l.Range)
}

// render writes a result, with what stands at each place where the text is at hand.
func render(t *testing.T, out *strings.Builder, tree, what string, files map[string]*text, result json.RawMessage) {
	read := func(into any) {
		if err := json.Unmarshal(result, into); err != nil {
			t.Fatalf("%v: %s", err, result)
		}
	}
	locate := func(l location) {
		fmt.Fprintf(out, "%s", where(tree, l))
		if f := files[filepath.Base(l.URI)]; f != nil {
			fmt.Fprintf(out, " %s", f.src[f.offset(l.Range.Start):f.offset(l.Range.End)])
		}
		out.WriteByte('\n')
	}
	edits := func(w workspaceEdit) {
		for _, u := range slices.Sorted(func(yield func(string) bool) {
			for u := range w.Changes {
				if !yield(u) {
					return
				}
			}
		}) {
			f := files[filepath.Base(u)]
			for _, e := range w.Changes[u] {
				fmt.Fprintf(out, "    %s %q -> %q\n", show(e.Range), f.src[f.offset(e.Range.Start):f.offset(e.Range.End)], e.NewText)
			}
		}
	}
	if string(result) == "null" {
		out.WriteString("null\n")
		return
	}
	switch what {
	case "completion":
		var r struct{ Items []completionItem }
		read(&r)
		slices.SortStableFunc(r.Items, func(a, b completionItem) int { return cmp.Compare(a.SortText, b.SortText) })
		for _, i := range r.Items {
			fmt.Fprintf(out, "%s %d %s: %s %q\n", i.Label, i.Kind, i.Detail, show(i.TextEdit.Range), i.TextEdit.NewText)
		}
	case "hover":
		var r struct {
			Contents struct{ Kind, Value string }
			Range    span
		}
		read(&r)
		fmt.Fprintf(out, "%s %s\n%s\n", show(r.Range), r.Contents.Kind, r.Contents.Value)
	case "definition", "references":
		var one location
		if result[0] == '{' {
			read(&one)
			locate(one)
			return
		}
		var many []location
		read(&many)
		for _, l := range many {
			locate(l)
		}
	case "prepare":
		var r struct {
			Range       span
			Placeholder string
		}
		read(&r)
		fmt.Fprintf(out, "%s %s\n", show(r.Range), r.Placeholder)
	case "rename":
		var r workspaceEdit
		read(&r)
		edits(r)
	case "formatting":
		var r []textEdit
		read(&r)
		for _, e := range r {
			fmt.Fprintf(out, "%s\n%s", show(e.Range), e.NewText)
		}
	case "actions":
		var r []codeAction
		read(&r)
		for _, a := range r {
			fmt.Fprintf(out, "%s (%s, %d diagnostics, preferred %v)\n", a.Title, a.Kind, len(a.Diagnostics), a.Preferred)
			edits(a.Edit)
		}
	case "symbols":
		var r []symbol
		read(&r)
		var list func(in string, symbols []symbol)
		list = func(in string, symbols []symbol) {
			for _, y := range symbols {
				fmt.Fprintf(out, "%s%s (%d) %s %s %s\n", in, y.Name, y.Kind, y.Detail, show(y.Range), show(y.Selection))
				list(in+"    ", y.Children)
			}
		}
		list("", r)
	}
}
