// Package loadertest holds the cases that every loader.Loader passes.
package loadertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/cmgr/cmgr/runtime/loader"
)

// files are what the loader under test is made with in the general cases.
func files() fstest.MapFS {
	big := make([]byte, 300_000)
	for i := range big {
		big[i] = byte(i * 7)
	}
	return fstest.MapFS{
		"root.cml":         {Data: []byte("{}\n")},
		"net/echo.cm":      {Data: []byte("echo")},
		"net/deep/er/x":    {Data: []byte("x")},
		"empty":            {},
		"big":              {Data: big},
		"a name/ü {1}.txt": {Data: []byte("odd")},
		"nul\nline":        {Data: []byte{0, '\n', 0xff}},
	}
}

// Run checks the loaders that newLoader makes. Each call is for one subtest and gives a loader whose root holds exactly these
// files; what it opened besides it frees itself with t.Cleanup. The kit closes the loader. Lister, Stater and Local are checked
// where the loader has them.
func Run(t *testing.T, newLoader func(t *testing.T, files fstest.MapFS) loader.Loader) {
	open := func(t *testing.T) loader.Loader {
		l := newLoader(t, files())
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return l
	}
	ctx := t.Context()

	t.Run("reads", func(t *testing.T) {
		l := open(t)
		for path, f := range files() {
			if err := read(ctx, l, path, f.Data); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("not exist", func(t *testing.T) {
		l := open(t)
		for _, path := range []string{"none", "net/none", "none/none", "root.cml/below", "net/echo.c", "net/echo.cml", "ROOT.CML"} {
			f, err := l.Open(ctx, path)
			if err == nil {
				f.Close()
			}
			if !errors.Is(err, loader.ErrNotExist) {
				t.Errorf("open %s: %v, want ErrNotExist", path, err)
			}
		}
	})
	t.Run("no file", func(t *testing.T) {
		l := open(t)
		for _, path := range []string{".", "net", "", "net/echo.cm\x00"} {
			refused(t, l, path, nil)
		}
	})
	t.Run("escapes", func(t *testing.T) {
		l := open(t)
		for _, path := range []string{"..", "../root.cml", "net/../../root.cml", "../../../../../../../etc/passwd", "/../etc/passwd"} {
			refused(t, l, path, loader.ErrOutside)
		}
	})
	t.Run("search", func(t *testing.T) {
		l := open(t)
		f, got, err := loader.Search(ctx, l, "none", "net/none", "root.cml", "empty")
		if err != nil || got != "root.cml" {
			t.Fatalf("search: %q, %v", got, err)
		}
		f.Close()
		if _, _, err := loader.Search(ctx, l, "none", "net/none"); !errors.Is(err, loader.ErrNotExist) {
			t.Errorf("search in vain: %v", err)
		}
		_, at, err := loader.Search(ctx, l, "none", "../x", "root.cml")
		if err == nil || errors.Is(err, loader.ErrNotExist) || at != "../x" {
			t.Errorf("search past an error: stopped at %q with %v", at, err)
		}
	})
	t.Run("concurrent", func(t *testing.T) {
		l := open(t)
		all := files()
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				for range 5 {
					for path, f := range all {
						if err := read(ctx, l, path, f.Data); err != nil {
							errs[i] = err
							return
						}
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
	})
	t.Run("independent readers", func(t *testing.T) {
		l := open(t)
		a, err := l.Open(ctx, "big")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if _, err := io.ReadFull(a, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := read(ctx, l, "big", files()["big"].Data); err != nil {
			t.Error(err)
		}
		rest, err := io.ReadAll(a)
		if err != nil || !bytes.Equal(rest, files()["big"].Data[1000:]) {
			t.Errorf("the first reader lost its place: %d bytes, %v", len(rest), err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		l := open(t)
		cause := errors.New("given up")
		gone, cancel := context.WithCancelCause(ctx)
		cancel(cause)
		f, err := l.Open(gone, "root.cml")
		if err == nil {
			f.Close()
		}
		if err == nil || errors.Is(err, loader.ErrNotExist) || !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
			t.Errorf("open with a cancelled context: %v", err)
		}
		if err := read(ctx, l, "root.cml", files()["root.cml"].Data); err != nil {
			t.Errorf("after a cancelled open: %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		l := newLoader(t, files())
		f, err := l.Open(ctx, "big")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range 2 {
			if err := l.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if data, err := io.ReadAll(f); err != nil || !bytes.Equal(data, files()["big"].Data) {
			t.Errorf("a file that was open before: %d bytes, %v", len(data), err)
		}
		for _, path := range []string{"root.cml", "none"} {
			refused(t, l, path, fs.ErrClosed)
		}
	})
	t.Run("list", func(t *testing.T) {
		l := open(t)
		lister, ok := l.(loader.Lister)
		if !ok {
			t.Skip("it is no Lister")
		}
		for path, want := range map[string][]string{
			".":        {"a name/", "big", "empty", "net/", "nul\nline", "root.cml"},
			"net":      {"deep/", "echo.cm"},
			"net/deep": {"er/"},
		} {
			entries, err := lister.List(ctx, path)
			var got []string
			for _, e := range entries {
				n := e.Name()
				if e.IsDir() {
					n += "/"
				}
				got = append(got, n)
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("list %s: %q, %v, want %q", path, got, err, want)
			}
		}
		if _, err := lister.List(ctx, "none"); !errors.Is(err, loader.ErrNotExist) {
			t.Errorf("list none: %v, want ErrNotExist", err)
		}
		for _, path := range []string{"..", "net/../.."} {
			if e, err := lister.List(ctx, path); !errors.Is(err, loader.ErrOutside) {
				t.Errorf("list %s: %v, %v, want ErrOutside", path, e, err)
			}
		}
		if e, err := lister.List(ctx, "root.cml"); err == nil {
			t.Errorf("list of a file: %v", e)
		}
	})
	t.Run("stat", func(t *testing.T) {
		l := open(t)
		stater, ok := l.(loader.Stater)
		if !ok {
			t.Skip("it is no Stater")
		}
		for path, f := range files() {
			info, err := stater.Stat(ctx, path)
			if err != nil {
				t.Error(err)
			} else if info.Size() != int64(len(f.Data)) || !info.Mode().IsRegular() || info.Name() != filepath.Base(path) {
				t.Errorf("stat %q: %q, %d bytes, %v", path, info.Name(), info.Size(), info.Mode())
			}
		}
		for _, path := range []string{".", "net"} {
			if info, err := stater.Stat(ctx, path); err != nil || !info.IsDir() {
				t.Errorf("stat %q: %v, %v, want a directory", path, info, err)
			}
		}
		for path, want := range map[string]error{
			"none": loader.ErrNotExist, "root.cml/x": loader.ErrNotExist, "../root.cml": loader.ErrOutside,
		} {
			if info, err := stater.Stat(ctx, path); !errors.Is(err, want) {
				t.Errorf("stat %s: %v, %v, want %v", path, info, err, want)
			}
		}
	})
	t.Run("local", func(t *testing.T) {
		l := open(t)
		local, ok := l.(loader.Local)
		if !ok {
			t.Skip("it is no Local")
		}
		for path, f := range files() {
			p, err := local.LocalPath(path)
			if err != nil {
				t.Error(err)
				continue
			}
			if data, err := os.ReadFile(p); err != nil || !filepath.IsAbs(p) || !bytes.Equal(data, f.Data) {
				t.Errorf("%s: at %s are %d bytes, %v", path, p, len(data), err)
			}
		}
		if p, err := local.LocalPath("net"); err != nil || filepath.Base(p) != "net" {
			t.Errorf("a directory: %q, %v", p, err)
		}
		for path, want := range map[string]error{
			"none": loader.ErrNotExist, "root.cml/x": loader.ErrNotExist, "../root.cml": loader.ErrOutside,
		} {
			if p, err := local.LocalPath(path); !errors.Is(err, want) {
				t.Errorf("%s: %q, %v, want %v", path, p, err, want)
			}
		}
	})
}

// read says how what l has at path differs from want.
func read(ctx context.Context, l loader.Loader, path string, want []byte) error {
	f, err := l.Open(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	if size := f.Size(); size != int64(len(want)) && size != -1 {
		return fmt.Errorf("size of %q: %d, want %d or -1", path, size, len(want))
	}
	got, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("read %q: %d bytes that differ from the %d written", path, len(got), len(want))
	}
	return nil
}

// refused checks that path cannot be opened and that no search goes on after it. The error is want, if that is not nil.
func refused(t *testing.T, l loader.Loader, path string, want error) {
	t.Helper()
	f, err := l.Open(t.Context(), path)
	if err == nil {
		f.Close()
	}
	if err == nil || errors.Is(err, loader.ErrNotExist) || want != nil && !errors.Is(err, want) {
		t.Errorf("open %q: %v, want an error other than ErrNotExist (%v)", path, err, want)
	}
	if err != nil && path != "" && !strings.Contains(err.Error(), strings.TrimSuffix(path, "\x00")) {
		t.Errorf("the error does not name %q: %v", path, err)
	}
}
