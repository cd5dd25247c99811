package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

// A spot is a file or directory: of a component, which may be hostile, and so is looked at through a root that no symlink leads
// out of; or of this user's own.
type spot struct {
	root  *os.Root // nil for one's own
	path  string   // below root; "-" is standard input or output
	shown string   // as the user calls it
}

func (s spot) below(name string) spot {
	return spot{s.root, path.Join(s.path, name), path.Join(s.shown, name)}
}

func (s spot) lstat() (fs.FileInfo, error) {
	if s.root != nil {
		return s.root.Lstat(s.path)
	}
	return os.Lstat(s.path)
}

func (s spot) stat() (fs.FileInfo, error) {
	if s.root != nil {
		return s.root.Stat(s.path)
	}
	return os.Stat(s.path)
}

func (s spot) open(flag int, mode fs.FileMode) (*os.File, error) {
	if s.root != nil {
		return s.root.OpenFile(s.path, flag, mode)
	}
	return os.OpenFile(s.path, flag, mode)
}

func (s spot) mkdir(mode fs.FileMode) error {
	if s.root != nil {
		return s.root.Mkdir(s.path, mode)
	}
	return os.Mkdir(s.path, mode)
}

func (s spot) readlink() (string, error) {
	if s.root != nil {
		return s.root.Readlink(s.path)
	}
	return os.Readlink(s.path)
}

func (s spot) symlink(to string) error {
	if s.root != nil {
		return s.root.Symlink(to, s.path)
	}
	return os.Symlink(to, s.path)
}

// belongs gives the file to whoever has the directory that it was put into: what root copies to a component is that component's.
func (s spot) belongs() error {
	if s.root == nil || os.Geteuid() != 0 {
		return nil
	}
	st, err := spot{root: s.root, path: path.Dir(s.path)}.stat()
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return s.root.Lchown(s.path, int(sys.Uid), int(sys.Gid))
}

// wrap is err with the name that the user knows.
func (s spot) wrap(err error) error { return fmt.Errorf("%s: %w", s.shown, cause(err)) }

// copyAll copies a file, or a directory with all in it, to to; into it, if that is a directory. in and out stand for "-".
func copyAll(from, to spot, in io.Reader, out io.Writer) error {
	if from.path == "-" || to.path == "-" {
		return copyStream(from, to, in, out)
	}
	info, err := from.stat()
	if err != nil {
		return from.wrap(err)
	}
	if st, err := to.stat(); err == nil && st.IsDir() {
		base := filepath.Base(from.path)
		if base == "." || base == "/" || base == ".." {
			return copyIn(from, to)
		}
		to = to.below(base)
	}
	return copyOne(from, to, info)
}

// copyStream is copyAll for one file that comes from in or goes to out.
func copyStream(from, to spot, in io.Reader, out io.Writer) error {
	if from.path != "-" {
		f, err := from.open(os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return from.wrap(err)
		}
		defer f.Close()
		in = f
	}
	if to.path == "-" {
		if _, err := io.Copy(out, in); err != nil {
			return from.wrap(err)
		}
		return nil
	}
	return write(to, in, 0o644)
}

func write(to spot, in io.Reader, mode fs.FileMode) error {
	_, err := to.lstat()
	isNew := errors.Is(err, fs.ErrNotExist)
	f, err := to.open(os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, mode)
	if err != nil {
		return to.wrap(err)
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err == nil && isNew {
		err = to.belongs()
	}
	if err != nil {
		return to.wrap(err)
	}
	return nil
}

// copyOne copies what info is of.
func copyOne(from, to spot, info fs.FileInfo) error {
	switch info.Mode().Type() {
	case 0:
		f, err := from.open(os.O_RDONLY, 0)
		if err != nil {
			return from.wrap(err)
		}
		defer f.Close()
		return write(to, f, info.Mode().Perm())
	case fs.ModeDir:
		switch err := to.mkdir(info.Mode().Perm() | 0o700); {
		case err == nil:
			if err := to.belongs(); err != nil {
				return to.wrap(err)
			}
		case !errors.Is(err, fs.ErrExist):
			return to.wrap(err)
		}
		return copyIn(from, to)
	case fs.ModeSymlink:
		target, err := from.readlink()
		if err != nil {
			return from.wrap(err)
		}
		if err := to.symlink(target); err != nil {
			return to.wrap(err)
		}
		return nil
	default:
		return fmt.Errorf("%s: neither a file nor a directory", from.shown)
	}
}

// copyIn copies what is in the directory from into the directory to.
func copyIn(from, to spot) error {
	d, err := from.open(os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return from.wrap(err)
	}
	entries, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return from.wrap(err)
	}
	var failed error
	for _, e := range entries {
		at := from.below(e.Name())
		info, err := at.lstat()
		if err == nil {
			err = copyOne(at, to.below(e.Name()), info)
		} else {
			err = at.wrap(err)
		}
		failed = errors.Join(failed, err) // the others are copied all the same
	}
	return failed
}
