package mnt

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/proc"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// A namespace that was built is there without a process in it, and nothing of it is here.
func TestNamespace(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile("/proc/self/mountinfo")
	fd, err := Namespace(unix.CLONE_NEWNS, func() error {
		tree, err := Tree(unix.AT_FDCWD, dir, unix.MOUNT_ATTR_RDONLY)
		if err != nil {
			return err
		}
		root, err := FS("tmpfs", unix.MOUNT_ATTR_NODEV, "mode", "700")
		if err != nil {
			return err
		}
		if err := Root(root); err != nil {
			return err
		}
		if err := os.Mkdir("/in", 0o777); err != nil {
			return err
		}
		return errors.Join(Attach(tree, "/in"), Restrict("/", unix.MOUNT_ATTR_RDONLY))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if after, _ := os.ReadFile("/proc/self/mountinfo"); string(after) != string(before) {
		t.Errorf("mounts here are now\n%s", after)
	}
	done := make(chan []error)
	proc.OwnThread(func() {
		err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(fd, unix.CLONE_NEWNS))
		_, found := os.Stat("/in/file")
		done <- []error{err, found, os.WriteFile("/in/new", nil, 0o644), os.Mkdir("/new", 0o755), os.Chdir("/usr")}
	})
	got := <-done
	for i, want := range []error{nil, nil, unix.EROFS, unix.EROFS, unix.ENOENT} {
		if !errors.Is(got[i], want) {
			t.Errorf("step %d: %v, want %v", i, got[i], want)
		}
	}
}

func TestNamespaceFails(t *testing.T) {
	needs.Root(t)
	want := errors.New("no")
	if fd, err := Namespace(unix.CLONE_NEWNET, func() error { return want }); fd != -1 || err != want {
		t.Errorf("%d, %v", fd, err)
	}
}
