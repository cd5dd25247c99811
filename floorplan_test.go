// Package cmgr_test checks the house as a whole: who may import whom, and that the prose about it is true.
package cmgr_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the doors' types into ARCHITECTURE.md")

const module = "github.com/cmgr/cmgr"

// topLevel is all that may lie at the top of the checkout.
var topLevel = strings.Fields(`
	go.mod go.sum cmd runtime manifest runners capabilities examples proto Makefile README.md
	internal tools .ci .golangci.yml floorplan.txt floorplan_test.go
	ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md LICENSE
	.git .gitignore bin cmgr`)

// A plan is what floorplan.txt says.
type plan struct {
	floor   map[string]int      // package → where it stands
	kit     map[string]bool     // packages for tests alone
	foreign map[string][]string // module → the rooms that may import it
	tests   map[string]bool     // modules for _test.go files, and for the kits in foreign
}

// readPlan reads floorplan.txt; what is wrong in it goes to bad.
func readPlan(text string, bad func(format string, args ...any)) plan {
	p := plan{map[string]int{}, map[string]bool{}, map[string][]string{}, map[string]bool{}}
	for n, line := range slices.Collect(strings.Lines(text)) {
		line, reason, _ := strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) < 2 {
			bad("floorplan.txt:%d: %s what?", n+1, words[0])
			continue
		}
		what := strings.TrimSuffix(words[1], ":")
		switch words[0] {
		case "floor", "kit":
			if _, twice := p.floor[what]; twice {
				bad("floorplan.txt:%d: %s is listed twice", n+1, what)
			}
			p.floor[what] = n
			p.kit[what] = words[0] == "kit"
		case "foreign", "tests":
			if strings.TrimSpace(reason) == "" {
				bad("floorplan.txt:%d: %s: say after # why it was chosen", n+1, what)
			}
			p.foreign[what] = words[2:]
			p.tests[what] = words[0] == "tests"
		default:
			bad("floorplan.txt:%d: unknown word %q", n+1, words[0])
		}
	}
	return p
}

// check says what is wrong with file (path below the top) importing imported.
func (p plan) check(file, imported string) string {
	room := path.Dir(file)
	inTest := strings.HasSuffix(file, "_test.go")
	if imported == "C" {
		return "imports C: the binary is static, without cgo"
	}
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
		at, listed := p.floor[ours]
		switch {
		case !listed:
			return "imports " + ours + ", which is not on the floor plan"
		case p.kit[ours] && !inTest && !p.kit[room]:
			return "imports the test kit " + ours
		case p.kit[ours] && inTest, ours == room, at < p.floor[room]:
			return ""
		}
		return "imports " + ours + ", which stands on a higher floor"
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	for m, rooms := range p.foreign {
		if imported != m && !strings.HasPrefix(imported, m+"/") {
			continue
		}
		if p.tests[m] && inTest || slices.ContainsFunc(rooms, func(r string) bool { return within(room, r) }) {
			return ""
		}
		return "imports " + m + ", which the floor plan does not allow in " + room
	}
	return "imports " + imported + ", of a module that the floor plan does not name"
}

// within tells whether room is what pattern names: a package, or with /... one and all below it.
func within(room, pattern string) bool {
	tree, ok := strings.CutSuffix(pattern, "/...")
	return room == tree || ok && strings.HasPrefix(room, tree+"/")
}

func TestFloorplan(t *testing.T) {
	text, err := os.ReadFile("floorplan.txt")
	if err != nil {
		t.Fatal(err)
	}
	p := readPlan(string(text), t.Errorf)
	seen := map[string]bool{}
	err = filepath.WalkDir(".", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() {
			if file != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || ownModule(file)) {
				return filepath.SkipDir
			}
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "models"}, name) {
				t.Errorf("%s: a name that says nothing; the lower room that can hold a line without a new import has it", file)
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || file == "floorplan_test.go" {
			return nil
		}
		room := path.Dir(file)
		if _, listed := p.floor[room]; !listed && !seen[room] {
			t.Errorf("%s: not on the floor plan", room)
		}
		seen[room] = true
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if wrong := p.check(file, imported); wrong != "" {
				t.Errorf("%s: %s", file, wrong)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range p.floor {
		if !seen[room] {
			t.Errorf("floorplan.txt: %s: there is no such package", room)
		}
	}
}

// ownModule tells whether dir holds a module of its own.
func ownModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		product := strings.HasSuffix(e.Name(), ".test") || strings.HasSuffix(e.Name(), ".out") // see .gitignore
		if !product && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s: does not belong at the top level", e.Name())
		}
	}
}

// TestPlanRefuses holds one violation of each kind, so that a check which stops checking is noticed.
func TestPlanRefuses(t *testing.T) {
	p := readPlan(`
floor internal/low
kit   internal/lowtest
floor middle
floor high
foreign example.org/a: middle high/... # here
tests   example.org/t: internal/lowtest # there
`, t.Errorf)
	for _, test := range []struct{ file, imported, wrong string }{
		{"middle/m.go", module + "/internal/low", ""},
		{"middle/m.go", module + "/high", "higher floor"},
		{"middle/m_test.go", module + "/high", "higher floor"},
		{"middle/m_test.go", module + "/middle", ""},
		{"middle/m.go", module + "/unheard/of", "not on the floor plan"},
		{"middle/m.go", module + "/internal/lowtest", "test kit"},
		{"internal/low/l_test.go", module + "/internal/lowtest", ""},
		{"internal/lowtest/l.go", module + "/internal/low", ""},
		{"middle/m.go", "example.org/a/b", ""},
		{"high/up/h.go", "example.org/a", ""},
		{"internal/low/l.go", "example.org/a", "does not allow"},
		{"internal/low/l.go", "example.org/ab", "does not name"},
		{"middle/m_test.go", "example.org/t", ""},
		{"middle/m.go", "example.org/t", "does not allow"},
		{"internal/lowtest/l.go", "example.org/t", ""},
		{"middle/m.go", "net/http", ""},
		{"middle/m.go", "C", "cgo"},
	} {
		got := p.check(test.file, test.imported)
		if (got == "") != (test.wrong == "") || !strings.Contains(got, test.wrong) {
			t.Errorf("%s importing %s: %q, want %q", test.file, test.imported, got, test.wrong)
		}
	}
	var bad []string
	readPlan("floor a\nfloor a\nflour b\nforeign x.org/y: a\ntests\n", func(format string, _ ...any) { bad = append(bad, format) })
	if len(bad) != 4 {
		t.Errorf("readPlan finds %d faults, want 4: %q", len(bad), bad)
	}
}

// doors are the packages that say what the rooms behind them do.
var doors = []string{"manifest", "capabilities", "runners", "runtime/loader"}

// TestArchitectureShowsTheDoors keeps the page of types in ARCHITECTURE.md true; -update writes it.
func TestArchitectureShowsTheDoors(t *testing.T) {
	const file, begin, end = "ARCHITECTURE.md", "<!-- doors: go test . -update -->\n", "<!-- end of doors -->\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: the marks %q and %q are gone", file, begin, end)
	}
	var page strings.Builder
	for _, d := range doors {
		fmt.Fprintf(&page, "\n`%s`\n\n```go\n%s```\n", d, door(t, d))
	}
	page.WriteString("\n")
	if page.String() == old {
		return
	}
	if !*update {
		t.Fatalf("%s: the doors' types have changed: go test . -update, and read the difference", file)
	}
	if err := os.WriteFile(file, []byte(before+begin+page.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// door is what the package in dir exports, a line for each type and function: interfaces with their methods, structs with the names
// of their fields only, enumerations by name.
func door(t *testing.T, dir string) string {
	t.Helper()
	fset := token.NewFileSet()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var parsed []*ast.File
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	p, err := doc.NewFromFiles(fset, parsed, module+"/"+dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var words []string
	funcs := p.Funcs
	for _, typ := range p.Types {
		funcs = append(funcs, typ.Funcs...)
		for _, spec := range typ.Decl.Specs {
			spec := spec.(*ast.TypeSpec)
			switch s := spec.Type.(type) {
			case *ast.StructType:
				fmt.Fprintf(&out, "type %s struct{%s}\n", spec.Name, strings.Join(fields(s), ", "))
			case *ast.InterfaceType:
				fmt.Fprintf(&out, "type %s interface {\n", spec.Name)
				for _, m := range s.Methods.List {
					name := "" // embedded
					if len(m.Names) > 0 {
						name = m.Names[0].Name
					}
					fmt.Fprintf(&out, "\t%s%s\n", name, strings.TrimPrefix(source(fset, m.Type), "func"))
				}
				if s.Incomplete { // go/doc leaves out unexported methods
					fmt.Fprintln(&out, "\t// only this package implements it")
				}
				fmt.Fprintln(&out, "}")
			case *ast.Ident:
				words = append(words, spec.Name.Name)
			default:
				fmt.Fprintf(&out, "type %s %s\n", spec.Name, source(fset, s))
			}
		}
	}
	for _, f := range funcs {
		f.Decl.Doc, f.Decl.Body = nil, nil
		fmt.Fprintln(&out, source(fset, f.Decl))
	}
	for line := range slices.Chunk(words, 8) {
		fmt.Fprintln(&out, "// and the words", strings.Join(line, ", "))
	}
	return out.String()
}

// fields are the names of s's exported fields.
func fields(s *ast.StructType) []string {
	var names []string
	for _, f := range s.Fields.List {
		for _, n := range f.Names {
			if n.IsExported() {
				names = append(names, n.Name)
			}
		}
	}
	return names
}

func source(fset *token.FileSet, node any) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, fset, node); err != nil {
		return err.Error()
	}
	return b.String()
}
