package cml

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest/cml/cmltest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// allComments are the comments of a text, sorted, white space within them made single.
func allComments(t *testing.T, src []byte) []string {
	tree, err := json5.Parse(src, json5.Options{})
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	var out []string
	for v := range tree.Root.All() {
		extras := []hujson.Extra{v.BeforeExtra, v.AfterExtra}
		switch x := v.Value.(type) {
		case *hujson.Object:
			extras = append(extras, x.AfterExtra)
		case *hujson.Array:
			extras = append(extras, x.AfterExtra)
		}
		for _, e := range extras {
			cs, _, _ := comments(e)
			for _, c := range cs {
				out = append(out, strings.Join(strings.Fields(c.text), " "))
			}
		}
	}
	slices.Sort(out)
	return out
}

// commentRunes counts the characters between tokens that are not blank, whoever thinks that they are comments.
func commentRunes(t *testing.T, src []byte) map[rune]int {
	tree, err := json5.Parse(src, json5.Options{})
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	n := map[rune]int{}
	add := func(e hujson.Extra) {
		for _, r := range string(e) {
			if !unicode.IsSpace(r) && r != '\uFEFF' {
				n[r]++
			}
		}
	}
	for v := range tree.Root.All() {
		add(v.BeforeExtra)
		add(v.AfterExtra)
		switch x := v.Value.(type) {
		case *hujson.Object:
			add(x.AfterExtra)
		case *hujson.Array:
			add(x.AfterExtra)
		}
	}
	return n
}

// meaning is a text as JSON, its keys and sets sorted.
func meaning(t *testing.T, src []byte) string {
	tree, err := json5.Parse(src, json5.Options{})
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	plain, err := json5.ToJSON(&tree)
	if err != nil {
		return "" // NaN, which JSON cannot say
	}
	d := json.NewDecoder(bytes.NewReader(plain))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", plain, err)
	}
	if doc, ok := v.(map[string]any); ok {
		sortSets(doc)
	}
	out, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// sortSets sorts the arrays whose order means nothing.
func sortSets(doc map[string]any) {
	set := func(v any, key string) {
		entries, _ := v.([]any)
		for _, e := range entries {
			o, _ := e.(map[string]any)
			for k, a := range o {
				if a, ok := a.([]any); ok && (key == "" && slices.Contains(sets, k) || k == key) {
					if !slices.ContainsFunc(a, func(x any) bool { _, ok := x.(string); return !ok }) {
						slices.SortFunc(a, func(x, y any) int { return strings.Compare(x.(string), y.(string)) })
					}
				}
			}
		}
	}
	for _, section := range []string{"capabilities", "use", "offer", "expose"} {
		set(doc[section], "")
	}
	environments, _ := doc["environments"].([]any)
	for _, e := range environments {
		o, _ := e.(map[string]any)
		for _, list := range o {
			set(list, "")
		}
	}
}

// checkFormat checks the laws of formatting, and returns the formatted text.
func checkFormat(t *testing.T, src []byte) []byte {
	once, ds := Format("f.cml", src)
	if ds != nil {
		t.Fatalf("%q: %v", src, ds)
	}
	twice, ds := Format("f.cml", once)
	if d := cmp.Diff(string(once), string(twice)); d != "" || ds != nil {
		t.Fatalf("%q is formatted otherwise the second time: %v\n%s", src, ds, d)
	}
	if d := cmp.Diff(allComments(t, src), allComments(t, once)); d != "" {
		t.Fatalf("%q: comments differ\n%s\n%s", src, d, once)
	}
	if a, b := commentRunes(t, src), commentRunes(t, once); !maps.Equal(a, b) {
		t.Fatalf("%q: characters of comments differ\n%s", src, once)
	}
	if d := cmp.Diff(meaning(t, src), meaning(t, once)); d != "" {
		t.Fatalf("%q: means something else\n%s\n%s", src, d, once)
	}
	return once
}

// TestFormatCorpus: manifests that `cmc format` has formatted stay as they are, and are found again when they are written
// without line ends.
func TestFormatCorpus(t *testing.T) {
	dir, _ := corpus(t)
	files := 0
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".cml") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if d := cmp.Diff(string(src), string(checkFormat(t, src))); d != "" {
			t.Errorf("%s: %s", path, d)
		}
		if !bytes.Contains(src, []byte("//")) {
			if d := cmp.Diff(string(src), string(checkFormat(t, bytes.ReplaceAll(src, []byte("\n"), []byte(" "))))); d != "" {
				t.Errorf("%s on one line: %s", path, d)
			}
		}
		return nil
	})
	if err != nil || files < 80 {
		t.Errorf("%d files, %v", files, err)
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// TestFormatGolden: testdata/format/*.in is formatted as *.out.
func TestFormatGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/format/*.in")
	if err != nil || len(inputs) == 0 {
		t.Fatal(inputs, err)
	}
	for _, in := range inputs {
		src, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSuffix(in, ".in") + ".out"
		got := checkFormat(t, src)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if d := cmp.Diff(string(want), string(got)); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", in, err, d)
		}
	}
}

// FuzzFormat states: formatting twice is formatting once, every comment survives, and the text means what it meant; a text that
// can be repaired can be formatted then; and a valid manifest stays one, an invalid one too.
func FuzzFormat(f *testing.F) {
	f.Add(cmltest.Valid)
	f.Add("// a\n\n/* b\n   c */ { 'x': [1 /* d */, // e\n 2], /* f */ }// g")
	f.Add("{ use: [{ protocol: ['b' // b\n, /*a*/ \"A\", 'a', ] }, ], program: { args: ['b', 'a'], lifecycle: { x: 1 } } }")
	f.Add("[ /* only\r\n a comment */ ]")
	f.Add("{ a: elf b: 'x }")
	f.Fuzz(func(t *testing.T, src string) {
		fixed, ds := Repair("f.cml", []byte(src))
		if fixed == nil {
			if len(ds) == 0 {
				t.Fatalf("%q: not repaired, without a reason", src)
			}
			return
		}
		once := checkFormat(t, fixed)
		before, _ := Load("f.cml", fixed, Options{})
		after, ds := Load("f.cml", once, Options{})
		if before.IsZero() != after.IsZero() {
			t.Fatalf("%q: valid %v, formatted %v\n%s\n%v", src, !before.IsZero(), !after.IsZero(), once, ds)
		}
	})
}
