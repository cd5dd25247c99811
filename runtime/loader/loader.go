// Package loader is the door to bytes by path: the disk here, a boot server or a user's port program elsewhere. A loader knows
// nothing of manifests; runtime/resolver makes declarations out of what it gives.
package loader

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

// ErrNotExist is the only error after which a search goes on to the next place: the medium answered, and the file isn't there.
// Any other error is a failure of the loader itself and ends the search.
var ErrNotExist = fs.ErrNotExist

// ErrOutside is the error for a path that leads out of the loader's root, by "..", by a leading "/", or through a symlink. What
// lies there is not told, nor whether it exists.
var ErrOutside = errors.New("leads outside of the root")

// A Loader gives bytes by slash-separated path. Implementations are safe for concurrent use; loadertest has the cases that they
// pass.
type Loader interface {
	// Open opens the file at path, relative to the loader's root. Nothing outside of the root is reachable, whatever ".." or
	// symlinks say. An error for a file that isn't there satisfies errors.Is(err, ErrNotExist), a path that leads outside of
	// the root errors.Is(err, ErrOutside), and after Close errors.Is(err, fs.ErrClosed). What is no file (a directory) is another
	// error. ctx bounds the opening; a loader for which reading takes time lets it bound that, too.
	Open(ctx context.Context, path string) (File, error)
	// Close frees what the loader holds; files already open stay so. A second Close does nothing.
	Close() error
}

// A File is an open file of a loader.
type File interface {
	io.ReadCloser
	// Size is the number of bytes, -1 if the medium doesn't tell before the end.
	Size() int64
}

// A Lister is a Loader that can list a directory.
type Lister interface {
	// List is the directory at path ("." for the root), sorted by name. Its errors are those of Open.
	List(ctx context.Context, path string) ([]fs.DirEntry, error)
}

// A Stater is a Loader that can tell what lies at a path without opening it.
type Stater interface {
	// Stat is what lies at path ("." for the root), through symlinks. Its errors are those of Open.
	Stat(ctx context.Context, path string) (fs.FileInfo, error)
}

// A Getter is a Loader whose medium is asked by names of its own: a boot server, which knows absolute ones too, or a user's
// program, to which a name may be anything.
type Getter interface {
	// Get opens the file that the medium calls name, which is passed on as it is; what may be had is up to the other side. Its
	// errors are those of Open, but for ErrOutside.
	Get(ctx context.Context, name string) (File, error)
}

// A Local is a Loader whose files are on this machine; programs can be executed from there in place.
type Local interface {
	// LocalPath is path, that of a file or directory, as an absolute name on this machine, symlinks resolved, proven to be below
	// the root. Its errors are those of Open.
	LocalPath(path string) (string, error)
}

// Search opens the first of paths that exists, and says which; it stops at the first error that is not ErrNotExist.
func Search(ctx context.Context, l Loader, paths ...string) (File, string, error) {
	var last error = ErrNotExist
	for _, p := range paths {
		f, err := l.Open(ctx, p)
		if err == nil {
			return f, p, nil
		}
		if !errors.Is(err, ErrNotExist) {
			return nil, p, err
		}
		last = err
	}
	return nil, "", last
}

// Check refuses what a slash-separated path below a root cannot be: fs.ErrInvalid for an empty one or one with NUL, ErrOutside
// for one that leads out. The error is an *fs.PathError with op.
func Check(op, path string) error {
	switch {
	case path == "" || strings.ContainsRune(path, 0):
		return &fs.PathError{Op: op, Path: path, Err: fs.ErrInvalid}
	case !filepath.IsLocal(path):
		return &fs.PathError{Op: op, Path: path, Err: ErrOutside}
	}
	return nil
}
