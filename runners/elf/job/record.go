package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A record is what a Manager leaves for its successor: the file jobs.lock in the state directory, locked while it lives
// (flock(2)), holds the path of its cgroup subtree. The lock on jobs.keepers is shared with its keepers, so it is free when the
// last of them has ended.
type record struct{ file, keepers *os.File }

// openRecord takes the state directory for this process and cleans up what the last one that had it left.
func openRecord(dir string) (*record, error) {
	path := filepath.Join(dir, "jobs.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: another manager that lives has it", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	r := &record{file: f}
	if err = r.recover(); err == nil {
		// Keepers of the dead one, too, must have ended, whatever contains jobs from now on.
		err = r.holdKeepers()
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// recover kills and removes the recorded subtree.
func (r *record) recover() error {
	b, err := os.ReadFile(r.file.Name())
	if err != nil {
		return err
	}
	root := strings.TrimSpace(string(b))
	if root == "" {
		return nil
	}
	// The file is ours, but killing is final: only what looks like a subtree of ours, on a cgroup v2 file system.
	var st unix.Statfs_t
	switch err := unix.Statfs(root, &st); {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return fmt.Errorf("recover %s: %w", root, err)
	case st.Type != unix.CGROUP2_SUPER_MAGIC || !strings.HasPrefix(filepath.Base(root), subtreePrefix) || !filepath.IsAbs(root):
		return fmt.Errorf("recover %q, as %s says: it is no cgroup of cmgr", root, r.file.Name())
	default:
		if err := clearCgroup(root); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
		_ = unix.Rmdir(selfOf(root)) // if it had to move there
	}
	return r.write("")
}

// write replaces the recorded path.
func (r *record) write(root string) error {
	if err := r.file.Truncate(0); err != nil {
		return err
	}
	_, err := r.file.WriteAt([]byte(root), 0)
	return err
}

// holdKeepers waits until the keepers of a dead Manager have done their work, and takes their lock.
func (r *record) holdKeepers() (err error) {
	path := filepath.Join(filepath.Dir(r.file.Name()), "jobs.keepers")
	if r.keepers, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	fd := int(r.keepers.Fd())
	for deadline := time.Now().Add(closeTimeout); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return fmt.Errorf("lock %s: processes of a manager that died are left: %w", path, err)
		}
	}
}

func (r *record) close() {
	r.file.Close()
	r.keepers.Close() // nil is fine
}
