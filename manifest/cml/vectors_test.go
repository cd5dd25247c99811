package cml

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
)

// A vector is one case of ../shared/vectors/cml.
type vector struct {
	Name          string
	CML           string
	Want          string
	ErrorContains *string `json:"error_contains"`
	ErrorKind     *string `json:"error_kind"`
	IncludeCML    string  `json:"include_cml"`
	Merged        json.RawMessage
	Canonical     json.RawMessage
	Compare       string
	Main          string
	Files         map[string]string
	IncludePath   []string
	IncludeRoot   string
	Includes      []string
	Validate      bool
	Options       struct {
		Features              []string
		MustOfferProtocols    []string `json:"must_offer_protocols"`
		MustOfferDictionaries []string `json:"must_offer_dictionaries"`
		MustUseProtocols      []string `json:"must_use_protocols"`
		Location              *struct{ Line, Column int32 }
	}
}

// vectorCounts are the files of vectors, how many cases each has, and where they run: here, or in the test that is named.
var vectorCounts = map[string]struct {
	n  int
	in string
}{
	"allowlist_patterns.json":                         {28, "manifest/name TestPatternVectors"},
	"canonicalize.json":                               {1, ""},
	"check_includes.json":                             {9, ""},
	"elf_runner_program.json":                         {28, "runners/elf TestVectors"},
	"include.json":                                    {14, ""},
	"include_loader.json":                             {8, ""},
	"merge.json":                                      {73, ""},
	"parse_only.json":                                 {50, ""},
	"validate_availability.json":                      {15, ""},
	"validate_capabilities.json":                      {21, ""},
	"validate_children_environments_collections.json": {33, ""},
	"validate_constraints.json":                       {41, ""},
	"validate_core.json":                              {69, ""},
	"validate_dictionaries.json":                      {10, ""},
	"validate_expose.json":                            {18, ""},
	"validate_facets.json":                            {18, ""},
	"validate_features.json":                          {3, ""},
	"validate_offer.json":                             {41, ""},
	"validate_references.json":                        {6, ""},
	"validate_requirements.json":                      {21, ""},
	"validate_services.json":                          {12, ""},
	"validate_structured_config.json":                 {21, ""},
	"validate_use_config.json":                        {10, ""},
}

// TestVectorsAll: the folder has the 550 cases that tests run, and no file that none does; rights_expansion.json is not cases but
// a table, which is compared here.
func TestVectorsAll(t *testing.T) {
	dir := filepath.Join(needs.Shared(t), "vectors", "cml")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(f)
		if base == "rights_expansion.json" {
			checkRights(t, src)
			continue
		}
		var cases []json.RawMessage
		if err := json.Unmarshal(src, &cases); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		total += len(cases)
		if want, ok := vectorCounts[base]; !ok || want.n != len(cases) {
			t.Errorf("%s: %d cases, want %d", base, len(cases), want.n)
		}
		if in := vectorCounts[base].in; in != "" {
			pkg, test, _ := strings.Cut(in, " ")
			tests, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
			if err != nil || !slices.ContainsFunc(tests, func(file string) bool {
				src, err := os.ReadFile(file)
				return err == nil && strings.Contains(string(src), "func "+test+"(") && strings.Contains(string(src), base)
			}) {
				t.Errorf("%s: no %s that reads it (%v)", base, in, err)
			}
		}
	}
	if total != 550 || len(files) != len(vectorCounts)+1 {
		t.Errorf("%d cases in %d files, want 550 in %d", total, len(files), len(vectorCounts)+1)
	}
}

func checkRights(t *testing.T, src []byte) {
	var table struct{ Expand map[string][]string }
	if err := json.Unmarshal(src, &table); err != nil || len(table.Expand) != 5 {
		t.Fatal(err, table)
	}
	for alias, want := range table.Expand {
		slices.Sort(want)
		if got, ok := manifest.ParseRights(alias); !ok || !slices.Equal(got.Names(), want) {
			t.Errorf("%s: %v, want %v", alias, got.Names(), want)
		}
	}
}

// readVectors reads the cases of the files, whose count is checked.
func readVectors(t *testing.T, pattern string) map[string][]vector {
	files, err := filepath.Glob(filepath.Join(needs.Shared(t), "vectors", "cml", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors %s: %v", pattern, err)
	}
	out := map[string][]vector{}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var vs []vector
		if err := json.Unmarshal(src, &vs); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if want := vectorCounts[filepath.Base(f)]; want.n != len(vs) || want.in != "" {
			t.Fatalf("%s: %d cases, want %d", f, len(vs), want.n)
		}
		out[filepath.Base(f)] = vs
	}
	return out
}

func options(v vector) Options {
	return Options{
		Restrict: true, Features: v.Options.Features, MustOfferProtocols: v.Options.MustOfferProtocols,
		MustOfferDictionaries: v.Options.MustOfferDictionaries, MustUseProtocols: v.Options.MustUseProtocols,
	}
}

// differences are the vectors that are decided otherwise on purpose, with the reason: the list in ARCHITECTURE.md.
func differences(t *testing.T) map[string]string {
	src, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(string(src), "<!-- vectors -->")
	list, _, ended := strings.Cut(list, "<!-- end of vectors -->")
	if !ok || !ended {
		t.Fatal("ARCHITECTURE.md has no list of vectors")
	}
	out := map[string]string{}
	for line := range strings.Lines(list) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if name, ok := strings.CutPrefix(cells[0], "| `"); ok && len(cells) == 2 {
			why := strings.TrimSuffix(cells[1], " |")
			if why == "" || out[name] != "" {
				t.Errorf("ARCHITECTURE.md: %s is listed twice, or without a reason", name)
			}
			out[strings.TrimSuffix(name, "`")] = why
		}
	}
	return out
}

// TestValidateVectors: each vector is accepted or refused as it says, and refused with its words, or it is on the list.
func TestValidateVectors(t *testing.T) {
	different := differences(t)
	ran := 0
	for file, vs := range readVectors(t, "validate_*.json") {
		if file == "validate_references.json" {
			continue // TestValidateReferences
		}
		for _, v := range vs {
			ran++
			doc, ds := Parse(v.Name+".cml", []byte(v.CML))
			doc.Include = Texts{} // these are not resolved
			_, more := doc.load(options(v), len(ds.Errors()) > 0)
			errs := append(ds, more...).Errors()
			why := disagreement(v, errs)
			if _, listed := different[v.Name]; listed == (why == "") {
				t.Errorf("%s %s: on the list %v, but %q\n%s", file, v.Name, listed, why, v.CML)
			}
			delete(different, v.Name)
			checkPlaces(t, v.Name, v.CML, errs)
		}
	}
	for name := range different {
		t.Errorf("%s is on the list but no vector", name)
	}
	if ran != 333 {
		t.Errorf("%d cases, want 333", ran)
	}
}

// disagreement says where the errors differ from what v wants; "" if they don't.
func disagreement(v vector, errs manifest.Diagnostics) string {
	if got := len(errs) > 0; got != (v.Want == "error") {
		return "want " + v.Want + ", got " + errs.Error()
	}
	if v.ErrorContains == nil {
		return ""
	}
	i := slices.IndexFunc(errs, func(d manifest.Diagnostic) bool {
		return strings.Contains(strings.ToLower(d.Message), strings.ToLower(*v.ErrorContains))
	})
	if i < 0 {
		return "want " + *v.ErrorContains + ", got " + errs.Error()
	}
	if l := v.Options.Location; l != nil && (errs[i].Pos.Line != l.Line || errs[i].Pos.Col != l.Column) {
		return "want it at another place than " + errs[i].Pos.String()
	}
	return ""
}

// checkPlaces checks that every finding has a place within the source, and words.
func checkPlaces(t *testing.T, name, src string, ds manifest.Diagnostics) {
	t.Helper()
	lines := strings.Split(src, "\n")
	for _, d := range ds {
		if d.Pos.Line < 1 || int(d.Pos.Line) > len(lines) || d.Pos.Col < 1 || int(d.Pos.Col) > len([]rune(lines[d.Pos.Line-1]))+1 {
			t.Errorf("%s: place %v of %v", name, d.Pos, d)
		}
		if d.Rule == "" || d.Message == "" {
			t.Errorf("%s: empty finding %+v", name, d)
		}
	}
}

func TestParseVectors(t *testing.T) {
	for _, v := range readVectors(t, "parse_only.json")["parse_only.json"] {
		doc, ds := Parse(v.Name, []byte(v.CML))
		if why := disagreement(v, ds.Errors()); why != "" {
			t.Errorf("%s: %s\n%s", v.Name, why, v.CML)
		}
		checkPlaces(t, v.Name, v.CML, ds)
		if again, ds := Parse(v.Name, doc.JSON()); v.Want == "ok" && (len(ds) > 0 || !again.Equal(doc)) {
			t.Errorf("%s: printed as %s: %v", v.Name, doc.JSON(), ds)
		}
	}
}

func TestMergeVectors(t *testing.T) {
	for _, v := range readVectors(t, "merge.json")["merge.json"] {
		a, ds := Parse("a.cml", []byte(v.CML))
		b, _ := Parse("b.cml", []byte(v.IncludeCML))
		ds = append(ds, a.Merge(b)...)
		if why := disagreement(v, ds.Errors()); why != "" {
			t.Errorf("%s: %s", v.Name, why)
			continue
		}
		if v.Want == "ok" {
			want, _ := Parse("want.cml", v.Merged)
			section, isSection := strings.CutPrefix(v.Compare, "section:")
			got, wanted := sections(t, a.JSON()), sections(t, want.JSON())
			for name := range maps.Keys(wanted) {
				if isSection && name != section {
					continue
				}
				if got[name] != wanted[name] {
					t.Errorf("%s: %s:\n got %s\nwant %s", v.Name, name, got[name], wanted[name])
				}
			}
			if !isSection && len(got) != len(wanted) {
				t.Errorf("%s: got %s, want %s", v.Name, a.JSON(), v.Merged)
			}
		}
	}
}

// sections gives each section of a document as JSON with sorted keys, arrays of one string as the string.
func sections(t *testing.T, doc []byte) map[string]string {
	var in map[string]any
	if err := json.Unmarshal(doc, &in); err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	out := map[string]string{}
	for k, v := range in {
		if k != "program" && k != "facets" {
			v = collapse(v)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out[k] = string(b)
	}
	return out
}

func collapse(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			x[k] = collapse(x[k])
		}
	case []any:
		for i := range x {
			x[i] = collapse(x[i])
		}
		if len(x) == 1 {
			if s, ok := x[0].(string); ok {
				return s
			}
		}
	}
	return v
}

func TestCanonicalizeVectors(t *testing.T) {
	for _, v := range readVectors(t, "canonicalize.json")["canonicalize.json"] {
		doc, ds := Parse("a.cml", []byte(v.CML))
		doc.Canonicalize()
		if d := cmp.Diff(sections(t, v.Canonical), sections(t, doc.JSON())); d != "" || len(ds) > 0 {
			t.Errorf("%s: %v %s", v.Name, ds, d)
		}
	}
}

func TestIncludeVectors(t *testing.T) {
	for file, vs := range readVectors(t, "include*.json") {
		for _, v := range vs {
			in := &Includes{Paths: v.IncludePath, Root: v.IncludeRoot, Open: func(file string) ([]byte, error) {
				if src, ok := v.Files[file]; ok {
					return []byte(src), nil
				}
				return nil, fs.ErrNotExist
			}}
			doc, ds := Parse(v.Main, []byte(v.Files[v.Main]))
			ds = append(ds, Expand(doc, in)...)
			if v.Validate {
				_, more := doc.load(Options{}, false)
				ds = append(ds, more...)
			}
			if why := disagreement(v, ds.Errors()); why != "" {
				t.Errorf("%s %s: %s", file, v.Name, why)
				continue
			}
			if v.Want != "ok" {
				continue
			}
			slices.Sort(doc.Included)
			if len(v.Includes) > 0 && !slices.Equal(doc.Included, v.Includes) {
				t.Errorf("%s %s: includes %v, want %v", file, v.Name, doc.Included, v.Includes)
			}
			doc.Canonicalize()
			if string(v.Merged) == "null" {
				continue
			}
			if d := cmp.Diff(sections(t, v.Merged), sections(t, doc.JSON())); d != "" {
				t.Errorf("%s %s: %s", file, v.Name, d)
			}
		}
	}
}
