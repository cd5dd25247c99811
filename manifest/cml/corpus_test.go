package cml

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// A corpusFile is an entry of ../shared/corpus/cml/INDEX.json.
type corpusFile struct {
	File       string
	Parses     bool
	NewestKeys bool     `json:"newest_keys"`
	NotNewest  []string `json:"not_newest"`
	Root2023   any      `json:"includeroot-2023"`
	RootNewest any      `json:"includeroot-newest"`
	Uses       []string
}

func corpus(t testing.TB) (string, []corpusFile) {
	dir := filepath.Join(needs.Shared(t), "corpus", "cml")
	src, err := os.ReadFile(filepath.Join(dir, "INDEX.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index []corpusFile
	if err := json.Unmarshal(src, &index); err != nil {
		t.Fatal(err)
	}
	return dir, index
}

// TestCorpus reads manifests that people wrote, as their index says: shards parse, and expand where all that they include is there;
// whole manifests are then valid, too, and otherwise refused for what is missing; those of another dialect are refused for its key.
func TestCorpus(t *testing.T) {
	dir, index := corpus(t)
	n := map[string]int{}
	for _, f := range index {
		src, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			t.Fatal(err)
		}
		doc, ds := Parse(f.File, src)
		if !f.NewestKeys {
			for _, key := range f.NotNewest {
				want := "unknown field `" + key[strings.LastIndexByte(key, '.')+1:] + "`"
				if len(ds.Errors()) == 0 || !strings.Contains(ds.Errors()[0].Message, want) {
					t.Errorf("%s: %q is not of the newest dialect, got %v", f.File, key, ds)
				}
			}
			n["old"]++
			continue
		}
		if err := ds.Err(); err != nil {
			t.Errorf("%s: %v", f.File, err)
			continue
		}
		if again, ds := Parse(f.File, doc.JSON()); len(ds) > 0 || !again.Equal(doc) {
			t.Errorf("%s: printed as %s %v", f.File, doc.JSON(), ds)
		}
		overlay, says := "includeroot-newest", f.RootNewest
		for _, old := range []string{"gnoliyil", "vsrinivas", "artem"} {
			if strings.HasPrefix(f.File, old) {
				overlay, says = "includeroot-2023", f.Root2023
			}
		}
		root := filepath.Join(dir, overlay)
		in := &Includes{Root: root, Paths: []string{filepath.Join(root, "sdk/lib")}, Open: func(file string) ([]byte, error) {
			b, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(file) {
				b, err = os.ReadFile(filepath.Join(dir, file))
			}
			return b, err
		}}
		complete := says == "complete" || len(doc.Include.Items) == 0
		if strings.Contains(f.File, "shard.") {
			if ds := Expand(doc, in); complete != (ds.Err() == nil) {
				t.Errorf("%s: complete %v, but %v", f.File, complete, ds)
			}
			n["shards"]++
			continue
		}
		v, ds := Load(f.File, src, Options{Includes: in})
		switch {
		case !complete:
			// TestCorpusMissing compares which.
			if errs := ds.Errors(); !v.IsZero() || len(errs) == 0 || errs[0].Rule != "include" {
				t.Errorf("%s: %v misses %v, but %v", f.File, overlay, says, ds)
			}
			n["incomplete"]++
		case v.IsZero():
			t.Errorf("%s: %v", f.File, ds)
		default:
			n["valid"]++
		}
	}
	if want := map[string]int{"shards": 48, "valid": 32, "incomplete": 3, "old": 1}; !maps.Equal(n, want) {
		t.Errorf("%v, want %v", n, want)
	}
}

// TestCorpusMissing: what the index says is missing of a file's includes is what the findings say, and nothing else.
func TestCorpusMissing(t *testing.T) {
	dir, index := corpus(t)
	n := 0
	for _, f := range index {
		for overlay, says := range map[string]any{"includeroot-2023": f.Root2023, "includeroot-newest": f.RootNewest} {
			what, _ := says.(map[string]any)
			list, _ := what["missing"].([]any)
			if !f.NewestKeys || len(list) == 0 && says != "complete" {
				continue
			}
			var want []string
			for _, m := range list {
				want = append(want, m.(string))
			}
			file := filepath.Join(dir, f.File)
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			root := filepath.Join(dir, overlay)
			doc, _ := Parse(file, src)
			var got []string
			for _, d := range Expand(doc, &Includes{Root: root, Paths: []string{filepath.Join(root, "sdk/lib")}, Open: os.ReadFile}) {
				if name, ok := strings.CutPrefix(d.Message, `include "`); ok {
					name, _, _ = strings.Cut(name, `"`)
					got = append(got, name)
				}
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("%s with %s: missing %q, want %q", f.File, overlay, got, want)
			}
			n += len(want)
		}
	}
	if n < 15 {
		t.Errorf("only %d missing includes", n)
	}
}
