// Package prim is the loader that a system starts from, as erl_prim_loader is Erlang's: opened by its kind, with an id and hosts,
// it gets files by absolute name or along a path of directories.
package prim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/disk"
	"github.com/cmgr/cmgr/runtime/loader/inet"
	"github.com/cmgr/cmgr/runtime/loader/port"
)

// The kinds of loaders. Any other word is the port program itself.
const (
	Efile = "efile"
	Inet  = "inet"
)

// Config says what loader, and how it asks.
type Config struct {
	// Loader is Efile, Inet, or a port program and its arguments, separated by blanks; "" is Efile.
	Loader string
	// Hosts, ID, Cookie and Version are for Inet (inet.Config).
	Hosts               []string
	ID, Cookie, Version string
	// Transport is for a port program; "" is port.Raw.
	Transport port.Transport
	// Path are the directories in which relative names are looked for; without any it is Pa, then ".", then Pz. For Efile "." is
	// this process's working directory, for others that of the other side.
	Path, Pa, Pz []string
	// Timeout bounds a request of a port program, and the search for a boot server; 0 is the loader's own.
	Timeout time.Duration
	// Progress is called with what has come of a file, and of how many bytes, -1 if that is unknown; nil is nobody. It must not
	// block.
	Progress func(name string, done, total int64)
	// Log is told of servers that fail, and of what a port program says; nil is silence.
	Log *slog.Logger
}

// Kind is the kind of loader: "efile", "inet" or "port".
func (c *Config) Kind() string {
	switch c.Loader {
	case "", Efile:
		return Efile
	case Inet:
		return Inet
	}
	return "port"
}

// A Loader is a loader with a path.
type Loader struct {
	medium loader.Loader
	cwd    string // what relative directories of the path are below; "" for those of the other side

	mu   sync.Mutex
	path []string
}

// Start opens the loader. Nobody is asked yet.
func Start(cfg Config) (*Loader, error) {
	l := &Loader{}
	var err error
	switch kind := cfg.Kind(); {
	case kind != Inet && len(cfg.Hosts) > 0:
		return nil, fmt.Errorf("loader %s: hosts are for the loader inet", kind)
	case kind != "port" && cfg.Transport != "":
		return nil, fmt.Errorf("loader %s: a transport is for port programs", kind)
	case kind == Efile:
		if l.cwd, err = os.Getwd(); err == nil {
			l.medium, err = disk.Open("/")
		}
	case kind == Inet:
		l.medium, err = inet.Open(inet.Config{
			Hosts: cfg.Hosts, ID: cfg.ID, Cookie: cfg.Cookie, Version: cfg.Version, Timeout: cfg.Timeout, Progress: cfg.Progress,
			Log: cfg.Log,
		})
	default:
		l.medium, err = port.Open(port.Config{
			Program: strings.Fields(cfg.Loader), Transport: cfg.Transport, Timeout: cfg.Timeout, Progress: cfg.Progress, Log: cfg.Log,
		})
	}
	if err != nil {
		return nil, err
	}
	if l.path = cfg.Path; len(l.path) == 0 {
		l.path = slices.Concat(cfg.Pa, []string{"."}, cfg.Pz)
	}
	return l, nil
}

// Medium is what it asks; its root is /.
func (l *Loader) Medium() loader.Loader { return l.medium }

// Path are the directories in which relative names are looked for.
func (l *Loader) Path() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.path)
}

// SetPath changes them.
func (l *Loader) SetPath(dirs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path = slices.Clone(dirs)
}

// Get opens the file called name, and says under what name it was found: that itself if it is absolute, else in the first
// directory of the path that has it. The search goes on only after "does not exist"; any other error ends it.
func (l *Loader) Get(ctx context.Context, name string) (loader.File, string, error) {
	if path.IsAbs(name) {
		f, err := l.get(ctx, name)
		return f, name, err
	}
	dirs := l.Path()
	for _, dir := range dirs {
		at := l.under(dir, name)
		f, err := l.get(ctx, at)
		if err == nil || !errors.Is(err, loader.ErrNotExist) || len(dirs) == 1 {
			return f, at, err
		}
	}
	return nil, "", &fs.PathError{
		Op: "get", Path: name, Err: fmt.Errorf("in none of %s: %w", strings.Join(dirs, ", "), loader.ErrNotExist),
	}
}

func (l *Loader) get(ctx context.Context, name string) (loader.File, error) {
	if g, ok := l.medium.(loader.Getter); ok {
		return g.Get(ctx, name)
	}
	f, err := l.medium.Open(ctx, below(name))
	return f, named(err, name)
}

// named is err, in which the medium has its name for what is called name here.
func named(err error, name string) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: pe.Op, Path: name, Err: pe.Err}
	}
	return err
}

// List is the directory called name, as Get finds it, and Stat what lies there. A medium that can't tell gives
// errors.ErrUnsupported.
func (l *Loader) List(ctx context.Context, name string) (entries []fs.DirEntry, err error) {
	lister, ok := l.medium.(loader.Lister)
	if !ok {
		return nil, &fs.PathError{Op: "list", Path: name, Err: errors.ErrUnsupported}
	}
	err = l.along(name, func(at string) error {
		entries, err = lister.List(ctx, below(at))
		return named(err, at)
	})
	return entries, err
}

// Stat is what lies at name.
func (l *Loader) Stat(ctx context.Context, name string) (info fs.FileInfo, err error) {
	stater, ok := l.medium.(loader.Stater)
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: errors.ErrUnsupported}
	}
	err = l.along(name, func(at string) error {
		info, err = stater.Stat(ctx, below(at))
		return named(err, at)
	})
	return info, err
}

// along calls f with the places of name until one is there.
func (l *Loader) along(name string, f func(at string) error) error {
	if path.IsAbs(name) {
		return f(name)
	}
	err := error(&fs.PathError{Op: "find", Path: name, Err: loader.ErrNotExist})
	for _, dir := range l.Path() {
		if err = f(l.under(dir, name)); !errors.Is(err, loader.ErrNotExist) {
			break
		}
	}
	return err
}

// Stop frees what the loader holds; a port program is ended.
func (l *Loader) Stop() error { return l.medium.Close() }

// under is name in dir.
func (l *Loader) under(dir, name string) string {
	if !path.IsAbs(dir) && l.cwd != "" {
		dir = filepath.Join(l.cwd, dir)
	}
	return path.Join(dir, name)
}

// below is name relative to the medium's root.
func below(name string) string {
	if name = strings.TrimPrefix(path.Clean("/"+name), "/"); name == "" {
		return "."
	}
	return name
}
