package disk_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/disk"
	"github.com/cmgr/cmgr/runtime/loader/loadertest"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func TestContract(t *testing.T) {
	loadertest.Run(t, func(t *testing.T, files fstest.MapFS) loader.Loader {
		dir := t.TempDir()
		if err := os.CopyFS(dir, files); err != nil {
			t.Fatal(err)
		}
		return open(t, dir)
	})
}

func open(t *testing.T, dir string) *disk.Loader {
	t.Helper()
	l, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// tree makes outside/secret beside root/{file,dir/file} and these symlinks in root, and returns root.
func tree(t *testing.T, links map[string]string) string {
	t.Helper()
	top := t.TempDir()
	root := filepath.Join(top, "root")
	err := os.CopyFS(top, fstest.MapFS{
		"outside/secret": {Data: []byte("secret")}, "root/file": {Data: []byte("inside")}, "root/dir/file": {Data: []byte("inside")},
	})
	for name, target := range links {
		err = errors.Join(err, os.Symlink(target, filepath.Join(root, name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestSymlinks(t *testing.T) {
	root := tree(t, map[string]string{
		"inside": "dir/file", "updown": "dir/../file", "dir/up": "../file", "d": "dir", "chain": "d/up",
		"leaves": "../outside/secret", "leavesdir": "../outside", "leavesandreturns": "../root/file", "absolute": "/etc/passwd",
		"chainleaves": "leavesdir/secret", "loop": "loop", "dangling": "nowhere",
	})
	if err := os.Symlink(filepath.Join(root, "file"), filepath.Join(root, "absoluteinside")); err != nil {
		t.Fatal(err)
	}
	l := open(t, root)
	for path, want := range map[string]error{
		"inside": nil, "updown": nil, "dir/up": nil, "d/file": nil, "d/up": nil, "chain": nil,
		"leaves": loader.ErrOutside, "leavesdir/secret": loader.ErrOutside, "leavesandreturns": loader.ErrOutside,
		"absolute":    loader.ErrOutside,
		"chainleaves": loader.ErrOutside, "absoluteinside": loader.ErrOutside, "loop": syscall.ELOOP, "dangling": loader.ErrNotExist,
		"leavesdir/none": loader.ErrOutside, // nothing is told of what is there
	} {
		f, err := l.Open(t.Context(), path)
		if err == nil {
			data, _ := io.ReadAll(f)
			f.Close()
			if string(data) != "inside" {
				t.Errorf("open %s reads %q", path, data)
			}
		}
		if !errors.Is(err, want) {
			t.Errorf("open %s: %v, want %v", path, err, want)
		}
		local, err := l.LocalPath(path)
		if !errors.Is(err, want) || err == nil && !strings.HasPrefix(local, l.Dir()+"/") {
			t.Errorf("local path of %s: %q, %v, want %v", path, local, err, want)
		}
	}
	if _, err := l.List(t.Context(), "leavesdir"); !errors.Is(err, loader.ErrOutside) {
		t.Errorf("list: %v", err)
	}
}

// A directory that becomes a symlink after it was seen must not lead out, for as long as this is tried.
func TestExchangedDirectory(t *testing.T) {
	root := tree(t, map[string]string{"swap": "dir"})
	if err := os.WriteFile(filepath.Join(root, "../outside/file"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, root)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			next := filepath.Join(root, "next")
			_ = os.Symlink([]string{"dir", "../outside"}[i%2], next)
			_ = os.Rename(next, filepath.Join(root, "swap"))
		}
	}()
	for range 5000 {
		f, err := l.Open(t.Context(), "swap/file")
		if err != nil {
			continue
		}
		data, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(data) != "inside" {
			t.Errorf("read %q, %v", data, err)
			break
		}
	}
	close(stop)
	<-done
}

func TestSpecialFiles(t *testing.T) {
	root := tree(t, nil)
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, root)
	if f, err := l.Open(t.Context(), "fifo"); err == nil || !strings.Contains(err.Error(), "a FIFO") {
		t.Errorf("a FIFO: %v, %v", f, err) // and it did not block
	}
	if os.Geteuid() != 0 { // root may read everything
		if err := os.Chmod(filepath.Join(root, "file"), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Open(t.Context(), "file"); !errors.Is(err, os.ErrPermission) {
			t.Errorf("a file without rights: %v", err)
		}
	}
}

// Nothing lies outside of /, so there an absolute symlink is one like any other.
func TestWholeDisk(t *testing.T) {
	root := tree(t, nil)
	if err := os.Symlink(filepath.Join(root, "file"), filepath.Join(root, "absolute")); err != nil {
		t.Fatal(err)
	}
	l := open(t, "/")
	path := strings.TrimPrefix(filepath.Join(root, "absolute"), "/")
	f, err := l.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if info, err := l.Stat(t.Context(), path); err != nil || info.Size() != int64(len("inside")) {
		t.Errorf("stat: %v, %v", info, err)
	}
	if at, err := l.LocalPath(path); err != nil || at != filepath.Join(root, "file") {
		t.Errorf("local path: %s, %v", at, err)
	}
}

func TestRoot(t *testing.T) {
	root := tree(t, nil)
	link := filepath.Join(filepath.Dir(root), "link")
	if err := os.Symlink("root", link); err != nil {
		t.Fatal(err)
	}
	want, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	if l := open(t, link); l.Dir() != want {
		t.Errorf("root through a symlink: %s, want %s", l.Dir(), want)
	}
	if _, err := disk.Open(filepath.Join(root, "none")); !errors.Is(err, loader.ErrNotExist) {
		t.Errorf("a root that isn't there: %v", err)
	}
	if _, err := disk.Open(filepath.Join(root, "file")); err == nil {
		t.Error("a root that is a file")
	}
}
