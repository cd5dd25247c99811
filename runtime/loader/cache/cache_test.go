package cache_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cmgr/cmgr/runtime/loader/cache"
)

func open(t testing.TB, dir string) *cache.Cache {
	t.Helper()
	c, err := cache.Open(cache.Config{Dir: dir})
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

// What was damaged and came again is in the packages that are there already, too.
func TestMended(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	contents, _ := cache.FormatContents([]cache.File{put(t, c, "bin/x", "whole"), put(t, c, "y", "y")})
	p, err := c.Package(contents)
	if err != nil {
		t.Fatal(err)
	}
	x := filepath.Join(p, "bin/x")
	if err := errors.Join(os.Chmod(x, 0o644), os.WriteFile(x, []byte("half"), 0o644), os.Remove(filepath.Join(p, "y"))); err != nil {
		t.Fatal(err)
	}
	put(t, c, "bin/x", "whole")
	if again, err := c.Package(contents); again != p || err != nil {
		t.Errorf("%s, %v", again, err)
	}
	for file, want := range map[string]string{"bin/x": "whole", "y": "y"} {
		if b, err := os.ReadFile(filepath.Join(p, file)); string(b) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
}

// Over the bound go contents of no package, and then the packages that were used least recently; what somebody uses stays.
func TestBound(t *testing.T) {
	var used, made []string
	all := false // of what was made is in use
	inUse := func() []string {
		if all {
			return made
		}
		return used
	}
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxSize: 3000, InUse: inUse})
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-24 * time.Hour)
	// pack makes a package of 1,000 bytes of its own, which was used so many minutes after long ago.
	pack := func(name string, minutes int) string {
		t.Helper()
		defer c.Hold()()
		contents, err := cache.FormatContents([]cache.File{put(t, c, "own", strings.Repeat(name, 1000)), put(t, c, "all", "common")})
		if err != nil {
			t.Fatal(err)
		}
		dir, err := c.Package(contents)
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, dir)
		at := long.Add(time.Duration(minutes) * time.Minute)
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	// check has what is needed for one of another size be there, and says what is left.
	check := func(what string, dirs ...string) {
		t.Helper()
		held := c.Hold()
		inner := c.Hold() // two fetch at one time: nothing may go before both are through
		put(t, c, "", what)
		inner()
		if _, n, err := c.Size(); n < len(dirs) || err != nil {
			t.Errorf("%s: %d packages while they are held, %v", what, n, err)
		}
		held()
		for _, d := range dirs {
			if b, err := os.ReadFile(filepath.Join(d, "all")); string(b) != "common" {
				t.Errorf("%s: %s: %q, %v", what, d, b, err)
			}
		}
		if _, n, err := c.Size(); n != len(dirs) || err != nil {
			t.Errorf("%s: %d packages, %v; want %d", what, n, err, len(dirs))
		}
	}
	a, b := pack("a", 3), pack("b", 1)
	check("lone "+strings.Repeat("l", 500), a, b)
	c1 := pack("c", 2) // for which the lone one must go, and b
	check("after", a, c1)
	used = []string{filepath.Join(c1, "meta")}
	d := pack("d", 5)
	check("in use", c1, d)
	all = true
	e, f := pack("e", 0), pack("f", 0)
	check("all in use", c1, d, e, f)
	if size, _, _ := c.Size(); size <= c.MaxSize() {
		t.Errorf("%d bytes", size)
	}
	used, all = nil, false
	now := time.Now()
	for _, dir := range []string{c1, d, e, f} {
		if err := os.Chtimes(dir, now, now); err != nil {
			t.Fatal(err)
		}
	}
	check("just asked for", c1, d, e, f)
}

// A package with the same content twice is no obstacle to the bound.
func TestBoundOfTwins(t *testing.T) {
	var log strings.Builder
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxSize: 500, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	release := c.Hold()
	one := strings.Repeat("1", 600)
	contents, err := cache.FormatContents([]cache.File{
		put(t, c, "a", one), put(t, c, "b", one), put(t, c, "c", strings.Repeat("2", 600)),
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := c.Package(contents)
	long := time.Now().Add(-24 * time.Hour)
	if err := errors.Join(err, os.Chtimes(dir, long, long)); err != nil {
		t.Fatal(err)
	}
	release()
	if n, _, err := c.Size(); n > c.MaxSize() || err != nil || log.Len() > 0 {
		t.Errorf("%d bytes, %v\n%s", n, err, log.String())
	}
}

// Who fetches, and who makes room, don't disturb each other.
func TestBoundAtOnce(t *testing.T) {
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-24 * time.Hour)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 50 {
				release := c.Hold()
				h, err := c.Put(strings.NewReader(strings.Repeat("x", n%5)))
				if err != nil {
					t.Error(err)
				}
				contents, _ := cache.FormatContents([]cache.File{{Path: "x", Hash: h}})
				dir, err := c.Package(contents)
				if err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
					t.Error(err)
				}
				if n%2 == 0 {
					if err := os.Chtimes(dir, long, long); err != nil {
						t.Error(err)
					}
				}
				release()
			}
		})
	}
	wg.Wait()
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
