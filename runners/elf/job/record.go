package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A record is what a Manager leaves for its successor: the file jobs.lock in the state directory, locked while it lives
// (flock(2)), holds the path of its cgroup subtree.
type record struct{ file *os.File }

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
	r := &record{f}
	if err := r.recover(); err != nil {
		f.Close()
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

func (r *record) close() { r.file.Close() }
