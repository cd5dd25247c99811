package mnt

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Open returns an O_PATH descriptor of what is at path, symbolic links followed: what can be mounted elsewhere, and nothing more.
func Open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Plain says whether there is something at path, and no symbolic link on the way to it (openat2(2), RESOLVE_NO_SYMLINKS). Where that
// can't be told it is not.
func Plain(path string) bool {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// Here returns what f is as this process's mount namespace has it, for mounts are copied within one only: f may be of another
// process's. Where nothing here is the same file at the same path, that is f. f is closed unless it is returned.
func Here(f *os.File) *os.File {
	st, err := f.Stat()
	if err != nil {
		return f
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return f
	}
	here, err := Open(path)
	if err != nil {
		return f
	}
	if at, err := here.Stat(); err != nil || !os.SameFile(st, at) {
		here.Close()
		return f
	}
	f.Close()
	return here
}

// Beneath is Open of rel within dir, which nothing that stands there, no ".." and no symbolic link, can lead out of (openat2(2),
// RESOLVE_BENEATH).
func Beneath(dir *os.File, rel string) (*os.File, error) { return beneath(dir, rel, unix.O_PATH) }

func beneath(dir *os.File, rel string, flags uint64) (*os.File, error) {
	if rel == "" {
		rel = "."
	}
	fd, err := unix.Openat2(int(dir.Fd()), rel, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Join(dir.Name(), rel), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(dir.Name(), rel)), nil
}

// MakeBeneath makes the directory rel within dir, and those above it as far as they are missing, with the mode, whatever the
// umask, and returns it as Beneath does.
func MakeBeneath(dir *os.File, rel string, mode uint32) (*os.File, error) {
	at, err := Beneath(dir, "")
	if err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(path.Clean("/" + rel)[1:], "/") {
		if part == "" {
			continue
		}
		err := unix.Mkdirat(int(at.Fd()), part, 0o700)
		next, oerr := beneath(at, part, unix.O_RDONLY|unix.O_DIRECTORY)
		if oerr == nil && err == nil {
			oerr = next.Chmod(fs.FileMode(mode & 0o777))
		}
		at.Close()
		if err != nil && err != unix.EEXIST {
			if next != nil {
				next.Close()
			}
			return nil, fmt.Errorf("make directory %s: %w", path.Join(dir.Name(), rel), err)
		}
		if oerr != nil {
			return nil, oerr
		}
		at = next
	}
	return at, nil
}

// Usage is how large the file system of dir is, and how much of it is used, in bytes.
func Usage(dir *os.File) (total, used uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir.Name(), Err: err}
	}
	size := uint64(st.Bsize)
	return st.Blocks * size, (st.Blocks - st.Bfree) * size, nil
}

// Name is a path by which this process reaches what is called base in dir, whatever the directory is called by now.
func Name(dir *os.File, base string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), base)
}
