package cml

import (
	"encoding/json"
	"errors"
	"io/fs"
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

// TestCorpus reads manifests that people wrote: files of the newest dialect parse, and are valid where all that they include is
// there;
// others are refused with the key that is too old or too new.
func TestCorpus(t *testing.T) {
	dir, index := corpus(t)
	valid := 0
	for _, f := range index {
		src, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			t.Fatal(err)
		}
		doc, ds := Parse(f.File, src)
		if !f.NewestKeys {
			for _, key := range f.NotNewest {
				if word := key[strings.LastIndexByte(key, '.')+1:]; !strings.Contains(ds.Errors().Error(), word) {
					t.Errorf("%s: %q is not of the newest dialect, got %v", f.File, key, ds)
				}
			}
			continue
		}
		if err := ds.Err(); err != nil {
			t.Errorf("%s: %v", f.File, err)
			continue
		}
		if again, ds := Parse(f.File, doc.JSON()); len(ds) > 0 || !again.Equal(doc) {
			t.Errorf("%s: printed as %s %v", f.File, doc.JSON(), ds)
		}
		root, complete := "includeroot-newest", f.RootNewest == "complete"
		for _, old := range []string{"gnoliyil", "vsrinivas", "artem"} {
			if strings.HasPrefix(f.File, old) {
				root, complete = "includeroot-2023", f.Root2023 == "complete"
			}
		}
		if strings.Contains(f.File, "shard.") || !complete && len(doc.Include.Items) > 0 {
			continue
		}
		root = filepath.Join(dir, root)
		in := &Includes{Root: root, Paths: []string{filepath.Join(root, "sdk/lib")}, Open: func(file string) ([]byte, error) {
			b, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(file) {
				b, err = os.ReadFile(filepath.Join(dir, file))
			}
			return b, err
		}}
		v, ds := Load(f.File, src, Options{Includes: in})
		if err := ds.Err(); err != nil || v.IsZero() {
			t.Errorf("%s: %v", f.File, err)
			continue
		}
		valid++
	}
	t.Logf("%d files, %d valid with their includes", len(index), valid)
	if valid < 20 {
		t.Errorf("only %d valid files", valid)
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
