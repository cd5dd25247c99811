package cache_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/cmgr/cmgr/runtime/loader/cache"
)

func open(t testing.TB, dir string) *cache.Cache {
	t.Helper()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// put is a File of c with this text.
func put(t testing.TB, c *cache.Cache, path, text string) cache.File {
	t.Helper()
	h, err := c.Put(strings.NewReader(text))
	if err != nil || h != cache.HashOf([]byte(text)) || !c.Has(h) {
		t.Fatalf("%s is %v, %v", path, h, err)
	}
	return cache.File{Path: path, Hash: h}
}

func TestPackage(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	contents, err := cache.FormatContents([]cache.File{
		put(t, c, "bin/run", "#!/bin/sh\n"), put(t, c, "data/a=b", "data"), put(t, c, "bin/elf", "\x7fELF…"), put(t, c, "empty", ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	dirs := make([]string, 4)
	for i := range dirs {
		wg.Go(func() {
			var err error
			if dirs[i], err = c.Package(contents); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for p, mode := range map[string]os.FileMode{"bin/run": 0o555, "bin/elf": 0o555, "data/a=b": 0o444, "empty": 0o444, cache.Contents: 0o444} {
		st, err := os.Stat(filepath.Join(dirs[0], p))
		if err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", p, st, err)
		}
	}
	if dirs[0] != dirs[3] || filepath.Base(dirs[0]) != cache.HashOf(contents).String() {
		t.Errorf("at %q", dirs)
	}
	if left, _ := os.ReadDir(dir + "/tmp"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Of what breaks off, and of what was being made when everything ended, nothing is found.
func TestNothingHalf(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	broken := errors.New("broken")
	if _, err := c.Put(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("whole")))); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("%v", err)
	}
	if _, err := c.Put(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	f := put(t, c, "x", "was x")
	contents, _ := cache.FormatContents([]cache.File{f, {Path: "y", Hash: cache.HashOf([]byte("never came"))}})
	if d, err := c.Package(contents); err == nil {
		t.Errorf("a package without one of its files: %s", d)
	}
	if err := os.WriteFile(dir+"/tmp/half", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	for _, d := range []string{"tmp", "pkg"} {
		if left, _ := os.ReadDir(filepath.Join(dir, d)); len(left) > 0 {
			t.Errorf("left in %s: %v", d, left)
		}
	}
	// What was damaged on the disk is no longer had.
	at := filepath.Join(dir, "sha256", f.Hash.String()[:2], f.Hash.String())
	if err := errors.Join(os.Chmod(at, 0o644), os.WriteFile(at, []byte("is y"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if c.Has(f.Hash) {
		t.Error("a damaged content is had")
	}
}

// A contents file that is read is written again as what it says, and no path in it leads out.
func FuzzContents(f *testing.F) {
	h := cache.HashOf(nil).String()
	f.Add([]byte("a=" + h + "\nb/c=d=" + h + "\n"))
	f.Add([]byte("../a=" + h))
	f.Add([]byte("meta/contents=" + h))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := cache.ParseContents(b)
		if err != nil {
			return
		}
		for _, file := range files {
			if !filepath.IsLocal(file.Path) {
				t.Errorf("%q", file.Path)
			}
		}
		text, err := cache.FormatContents(files)
		if err != nil {
			t.Fatal(err)
		}
		again, err := cache.ParseContents(text)
		if err != nil || len(again) != len(files) {
			t.Fatalf("%q: %v, %v", text, again, err)
		}
		if twice, err := cache.FormatContents(again); err != nil || !bytes.Equal(twice, text) {
			t.Errorf("%q, then %q, %v", text, twice, err)
		}
	})
}
