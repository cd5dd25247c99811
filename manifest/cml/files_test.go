package cml

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDepfile: make reads the names that were meant.
func TestDepfile(t *testing.T) {
	got := string(Depfile("a b.cm", []string{"z.cml", "$x#.cml", "z.cml"}))
	if want := `a\ b.cm: $$x\#.cml z.cml` + "\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPackageFiles(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "list")
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "p", "bin"), 0o755), os.WriteFile(filepath.Join(dir, "p", "bin", "a"), nil, 0o600),
		os.WriteFile(list, []byte("bin/b=out/b\n\n  meta/c.cm \n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for pkg, want := range map[string][]string{filepath.Join(dir, "p"): {"bin/a"}, list: {"bin/b", "meta/c.cm"}} {
		if got, err := PackageFiles(pkg); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", pkg, got, err)
		}
	}
	if _, err := PackageFiles(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestInit: a tree that is without findings and formatted, a README of three lines unless there is one, and nothing overwritten.
func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	files, err := Init(dir)
	if err != nil || len(files) != 3 || filepath.Base(files[0]) != "root.cml" {
		t.Fatal(files, err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(f) == "README.md" {
			if n := strings.Count(string(src), "\n"); n != 3 {
				t.Errorf("a README of %d lines", n)
			}
			continue
		}
		if _, ds := Load(f, src, Options{}); len(ds) > 0 {
			t.Error(ds)
		}
		if out, ds := Format(f, src); string(out) != string(src) || len(ds) > 0 {
			t.Errorf("%s is not formatted: %s%v", f, out, ds)
		}
	}
	if files, err := Init(dir); !errors.Is(err, fs.ErrExist) || files != nil {
		t.Errorf("a second time: %q, %v", files, err)
	}
	for _, f := range files[:2] {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := Init(dir); err != nil || !slices.Equal(again, files[:2]) {
		t.Errorf("beside a README: %q, %v", again, err)
	}
	if _, err := Init(files[0]); err == nil || errors.Is(err, fs.ErrExist) {
		t.Errorf("in a file: %v", err)
	}
}
