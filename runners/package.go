package runners

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/manifest/name"
)

// A PackageError is a path that is not to be had in a package.
type PackageError struct {
	Package string // its directory
	Path    string
	Why     capabilities.Code
	Err     error
	Hint    string
}

func (e *PackageError) Error() string {
	s := fmt.Sprintf("%s in package %s: %v", e.Path, e.Package, e.Err)
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return s
}

func (e *PackageError) Unwrap() error { return e.Err }

// Code is NotFound, Invalid (no relative path), Denied (it leads outside of the package, or may not be read) or Internal.
func (e *PackageError) Code() capabilities.Code { return e.Why }

// Path is the absolute name, without symlinks, of the file or directory at the slash-separated path rel in the package. It is
// proven to be beneath the package's directory by the kernel, or where there are symlinks by a walk that opens each step beneath the
// one before (os.Root): neither ".." nor a symlink leads out, and an absolute symlink counts as leading out wherever it points.
// Errors are *PackageErrors.
func (p Package) Path(rel string) (string, error) {
	fail := func(why capabilities.Code, hint string, err error) (string, error) {
		return "", &PackageError{Package: p.Dir, Path: rel, Why: why, Err: err, Hint: hint}
	}
	switch {
	case p.Dir == "":
		return fail(capabilities.Precondition, "", errors.New("the component has no package"))
	case rel == "" || strings.ContainsRune(rel, 0) || path.IsAbs(rel):
		return fail(capabilities.Invalid, "", errors.New("must be a path relative to the package"))
	}
	if abs, ok := p.plain(rel); ok {
		return abs, nil
	}
	err := p.within(func(root *os.Root) error {
		_, err := root.Stat(rel)
		return err
	})
	abs := ""
	if err == nil {
		abs, err = filepath.EvalSymlinks(filepath.Join(p.Dir, rel))
	}
	if err == nil {
		// What was proven may have been exchanged since; what is returned must be below, too.
		if below, relErr := filepath.Rel(p.Dir, abs); relErr == nil && filepath.IsLocal(below) {
			return abs, nil
		}
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		hint := ""
		if near := p.Nearest(rel); near != "" {
			hint = "did you mean " + near + "?"
		}
		return fail(capabilities.NotFound, hint, errors.New("no such file"))
	case errors.Is(err, fs.ErrPermission):
		return fail(capabilities.Denied, "", fs.ErrPermission)
	case errors.As(err, &errno):
		return fail(capabilities.Internal, "", errno)
	default: // the only error of os.Root that is no errno
		return fail(capabilities.Denied, "", errors.New("leads outside of the package"))
	}
}

// plain is Path where no symlink is on the way, as mostly, by one system call in place of one for each step. Then rel leads where it
// says, if it says so without "..".
func (p Package) plain(rel string) (abs string, ok bool) {
	if path.Clean(rel) != rel || !filepath.IsLocal(rel) {
		return "", false
	}
	abs = filepath.Join(p.Dir, rel)
	return abs, mnt.Plain(abs)
}

// Nearest is the path in the package that was probably meant by rel, which is not there: the first step that is missing is
// replaced by the name most like it. "" if there is none.
func (p Package) Nearest(rel string) string {
	near := ""
	_ = p.within(func(root *os.Root) error {
		dir, steps := ".", strings.Split(path.Clean(rel), "/")
		for i, step := range steps {
			next := path.Join(dir, step)
			if _, err := root.Stat(next); err == nil {
				dir = next
				continue
			}
			f, err := root.Open(dir)
			if err != nil {
				return err
			}
			defer f.Close()
			names, err := f.Readdirnames(-1)
			if n := name.Nearest(step, names); n != "" {
				near = path.Join(dir, n, path.Join(steps[i+1:]...))
			}
			return err
		}
		return nil
	})
	return near
}

func (p Package) within(f func(*os.Root) error) error {
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return f(root)
}
