package cml

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
)

func TestValidateReferences(t *testing.T) {
	type vector struct {
		Name, CML, Want string
		PackageManifest string `json:"package_manifest"`
	}
	src, err := os.ReadFile(filepath.Join(needs.Shared(t), "vectors", "cml", "validate_references.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(src, &vs); err != nil || len(vs) != vectorCounts["validate_references.json"].n {
		t.Fatal(err, len(vs))
	}
	for _, v := range vs {
		var provided []string
		for line := range strings.Lines(v.PackageManifest) {
			dst, _, _ := strings.Cut(strings.TrimSpace(line), "=")
			provided = append(provided, dst)
		}
		doc, _ := Parse(v.Name, []byte(v.CML))
		c, ds := Compile(doc)
		ds = append(ds.Errors(), ValidateReferences(c, provided)...)
		if (len(ds) > 0) != (v.Want == "error") {
			t.Errorf("%s: %v", v.Name, ds)
		}
	}
}

func TestReferencesAreNamed(t *testing.T) {
	for src, want := range map[string]string{
		`{ program: { runner: "elf", binary: "bin/helo" } }`: "a.cml:1:29: program.binary=bin/helo but bin/helo is not provided " +
			"by deps!\n  hint: did you mean \"bin/hello\"?",
		`{ program: { runner: "driver", binary: "bin/hello", bind: "x.bind" } }`: "a.cml:1:53: program.bind=x.bind but x.bind is " +
			"not provided by deps!\n  hint: the package has 2 files, none of which has a name like it",
		`{ program: { runner: "elf", binary: "test/t" } }`:    "",
		`{ program: { runner: "elf", binary: "/bin/echo" } }`: "",
		`{ program: { runner: "own", binary: "x" } }`:         "",
		`{ program: { runner: "elf" } }`:                      "",
	} {
		doc, _ := Parse("a.cml", []byte(src))
		c, _ := Compile(doc)
		if got := ValidateReferences(c, []string{"bin/hello", "test/disabled/t"}).Error(); got != want {
			t.Errorf("%s\n got %s\nwant %s", src, got, want)
		}
	}
}

func TestCheckIncludesVectors(t *testing.T) {
	type vector struct {
		Name, Main, Want string
		Files            map[string]string
		IncludePath      []string
		IncludeRoot      string
		Expected         []string `json:"expected_includes"`
		ErrorContains    *string  `json:"error_contains"`
	}
	src, err := os.ReadFile(filepath.Join(needs.Shared(t), "vectors", "cml", "check_includes.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(src, &vs); err != nil || len(vs) != vectorCounts["check_includes.json"].n {
		t.Fatal(err, len(vs))
	}
	for _, v := range vs {
		in := &Includes{Paths: v.IncludePath, Root: v.IncludeRoot, Open: func(file string) ([]byte, error) {
			if src, ok := v.Files[file]; ok {
				return []byte(src), nil
			}
			return nil, fs.ErrNotExist
		}}
		doc, ds := Parse(v.Main, []byte(v.Files[v.Main]))
		ds = append(ds, CheckIncludes(doc, v.Expected, in)...)
		if (ds.Err() != nil) != (v.Want == "error") || v.ErrorContains != nil && !strings.Contains(ds.Error(), *v.ErrorContains) {
			t.Errorf("%s: %v", v.Name, ds)
		}
		for _, d := range ds {
			if d.Pos == (manifest.Pos{}) {
				t.Errorf("%s: %v has no place", v.Name, d)
			}
		}
	}
}
