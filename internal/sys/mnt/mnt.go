// Package mnt builds mount namespaces by the system calls of mount descriptors (open_tree(2), fsopen(2), move_mount(2),
// mount_setattr(2), Linux 5.12), and keeps them without a process in them.
package mnt

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/proc"
)

// Namespace makes a namespace of kind flag (unix.CLONE_NEWNS, unix.CLONE_NEWNET), has build called in it, and returns a
// descriptor of it, close-on-exec and the caller's, which keeps it. build runs on a thread of its own with umask 0, whose root
// directory in a mount namespace may be changed; there what was mounted elsewhere neither comes nor goes any more.
func Namespace(flag int, build func() error) (fd int, err error) {
	file := map[int]string{unix.CLONE_NEWNS: "mnt", unix.CLONE_NEWNET: "net"}[flag]
	done := make(chan struct{})
	proc.OwnThread(func() {
		defer close(done)
		fd = -1
		if err = unix.Unshare(unix.CLONE_FS | flag); err != nil {
			err = fmt.Errorf("unshare: %w", err)
			return
		}
		unix.Umask(0)
		if flag == unix.CLONE_NEWNS {
			if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				err = fmt.Errorf("make mounts private: %w", err)
				return
			}
		}
		if fd, err = unix.Open("/proc/thread-self/ns/"+file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			err = fmt.Errorf("open namespace: %w", err)
			return
		}
		if err = build(); err != nil {
			unix.Close(fd)
			fd = -1
		}
	})
	<-done
	return fd, err
}

// Tree returns a detached copy of what is mounted at path (relative to the directory dirfd, or with path "" that itself), with
// all that is mounted below, each with the attributes attr (unix.MOUNT_ATTR_…) in addition to its own.
func Tree(dirfd int, path string, attr uint64) (fd int, err error) {
	fd, err = unix.OpenTree(dirfd, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("copy mount %s: %w", path, err)
	}
	a := unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &a); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set attributes of mount %s: %w", path, err)
	}
	return fd, nil
}

// FS returns a new detached file system of the kind name, with options as key, value, key, value…, mounted with attr.
func FS(name string, attr int, options ...string) (fd int, err error) {
	fail := func(err error) (int, error) { return -1, fmt.Errorf("make %s: %w", name, err) }
	ctx, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(ctx)
	for i := 0; i+1 < len(options); i += 2 {
		if err := unix.FsconfigSetString(ctx, options[i], options[i+1]); err != nil {
			return fail(err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return fail(err)
	}
	if fd, err = unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attr); err != nil {
		return fail(err)
	}
	return fd, nil
}

// Attach puts the detached mount fd at path and closes it.
func Attach(fd int, path string) error {
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	return nil
}

// Root makes the detached mount fd the root of the namespace, out of which all else is gone then, and closes it. Only within
// Namespace.
func Root(fd int) error {
	defer unix.Close(fd)
	// Where this process's root is no namespace's but a chroot(2)'s, whoever enters the namespace would be outside of it: first to
	// the namespace's root, which entering it leads to (setns(2)).
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	err = unix.Setns(ns, unix.CLONE_NEWNS)
	unix.Close(ns)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	// pivot_root wants it attached somewhere; /proc is a directory everywhere.
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach root: %w", err)
	}
	if err := unix.Fchdir(fd); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// The old root ends up on top of the new one (pivot_root(2), "pivot_root(".", ".")").
	switch err := unix.PivotRoot(".", "."); err {
	case nil:
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detach old root: %w", err)
		}
	case unix.EINVAL:
		// The root of a machine that runs from its initramfs stays; it is covered. Who enters the namespace comes to what is on top.
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("cover root: %w", err)
		}
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
	default:
		return fmt.Errorf("pivot_root: %w", err)
	}
	return unix.Chdir("/")
}

// Restrict adds the attributes attr to the mount at path.
func Restrict(path string, attr uint64) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &unix.MountAttr{Attr_set: attr}); err != nil {
		return fmt.Errorf("set attributes of mount %s: %w", path, err)
	}
	return nil
}
