// Package disk is the loader for files of this machine: everything below one directory, and nothing else. That is os.Root's
// promise: each step of a path is opened beneath the one before, so neither ".." nor a symlink, however it is changed
// meanwhile, leads out. Symlinks that stay inside are followed, but not absolute ones, which count as leading outside wherever
// they point. Where the directory is / nothing lies outside.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/runtime/loader"
)

// A Loader reads files below one directory. It holds one descriptor until it is closed.
type Loader struct {
	root *os.Root
	dir  string // absolute, symlinks resolved
}

var (
	_ loader.Loader = (*Loader)(nil)
	_ loader.Lister = (*Loader)(nil)
	_ loader.Stater = (*Loader)(nil)
	_ loader.Local  = (*Loader)(nil)
)

// Open makes a loader for the files below dir.
func Open(dir string) (*Loader, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return nil, err
	}
	return OpenReal(abs)
}

// OpenReal is Open of a directory whose name is known to be absolute and without symlinks. If there is one meanwhile, what
// LocalPath and OpenLocal find lies outside.
func OpenReal(dir string) (*Loader, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Loader{root: root, dir: dir}, nil
}

// Dir is the directory, absolute and with symlinks resolved.
func (l *Loader) Dir() string { return l.dir }

// Open opens the regular file at path.
func (l *Loader) Open(ctx context.Context, path string) (loader.File, error) {
	f, _, err := l.openRegular(ctx, path)
	return f, err
}

// OpenLocal is Open and LocalPath in one, of the same file, and what it was when it was opened.
func (l *Loader) OpenLocal(ctx context.Context, path string) (_ loader.File, real string, _ fs.FileInfo, _ error) {
	f, info, err := l.openRegular(ctx, path)
	if err != nil {
		return nil, "", nil, err
	}
	if real, err = l.nameOf(f.(file).File, path); err != nil {
		f.Close()
		return nil, "", nil, err
	}
	return f, real, info, nil
}

// nameOf is the name of the open file, which is at path. The kernel knows it at once; looking at each directory of the path,
// which is what else can be done, takes several times as long.
func (l *Loader) nameOf(f *os.File, path string) (string, error) {
	var real string
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { real, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) })
	}
	if rest, ok := strings.CutPrefix(real, strings.TrimSuffix(l.dir, "/")+"/"); ok && rest != "" && !strings.HasSuffix(real, " (deleted)") {
		return real, nil
	}
	return l.LocalPath(path)
}

func (l *Loader) openRegular(ctx context.Context, path string) (loader.File, fs.FileInfo, error) {
	f, err := l.open(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: notRegular(info.Mode())}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return file{f, info.Size()}, info, nil
}

// List is the directory at path, sorted by name.
func (l *Loader) List(ctx context.Context, path string) ([]fs.DirEntry, error) {
	f, err := l.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// Stat is what lies at path.
func (l *Loader) Stat(ctx context.Context, path string) (fs.FileInfo, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := loader.Check("stat", path); err != nil {
		return nil, err
	}
	info, err := l.stat(path)
	if err != nil {
		return nil, classify("stat", path, err)
	}
	return info, nil
}

func (l *Loader) stat(path string) (fs.FileInfo, error) {
	info, err := l.root.Stat(path)
	if l.dir == "/" && err != nil && !errors.Is(err, fs.ErrClosed) {
		return os.Stat("/" + path)
	}
	return info, err
}

// LocalPath is path as an absolute name without symlinks.
func (l *Loader) LocalPath(path string) (string, error) {
	if err := loader.Check("resolve", path); err != nil {
		return "", err
	}
	if _, err := l.stat(path); err != nil {
		return "", classify("resolve", path, err)
	}
	real, err := filepath.EvalSymlinks(filepath.Join(l.dir, path))
	if err != nil {
		return "", classify("resolve", path, err)
	}
	// What was proven may have been exchanged since; what is returned must be below, too.
	if rel, err := filepath.Rel(l.dir, real); err != nil || !filepath.IsLocal(rel) {
		return "", &fs.PathError{Op: "resolve", Path: path, Err: loader.ErrOutside}
	}
	return real, nil
}

// Close gives the root's descriptor back.
func (l *Loader) Close() error { return l.root.Close() }

func (l *Loader) open(ctx context.Context, path string) (*os.File, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := loader.Check("open", path); err != nil {
		return nil, err
	}
	// Without O_NONBLOCK the open of a FIFO would wait for a writer.
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	f, err := l.root.OpenFile(path, flags, 0)
	if l.dir == "/" && err != nil && !errors.Is(err, fs.ErrClosed) { // perhaps an absolute symlink
		f, err = os.OpenFile("/"+path, flags, 0)
	}
	if err != nil {
		return nil, classify("open", path, err)
	}
	return f, nil
}

// classify puts err into the words of the door.
func classify(op, path string, err error) error {
	var errno syscall.Errno
	cause := err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		cause = pe.Err
	}
	switch isErrno := errors.As(cause, &errno); {
	case errno == syscall.ENOTDIR: // "a/b" where a is a file
		cause = loader.ErrNotExist
	case !isErrno && !errors.Is(cause, fs.ErrClosed):
		cause = loader.ErrOutside // the only other error that os.Root has, and it has no name
	}
	return &fs.PathError{Op: op, Path: path, Err: cause}
}

// notRegular is the error of opening what is no file, as errno what a boot server says of it.
type notRegular fs.FileMode

func (m notRegular) Error() string {
	kind := "a device"
	switch fs.FileMode(m) & fs.ModeType {
	case fs.ModeDir:
		kind = "a directory"
	case fs.ModeNamedPipe:
		kind = "a FIFO"
	case fs.ModeSocket:
		kind = "a socket"
	}
	return "is no regular file but " + kind
}

func (m notRegular) Unwrap() error {
	if fs.FileMode(m).IsDir() {
		return syscall.EISDIR
	}
	return syscall.EACCES
}

type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }
