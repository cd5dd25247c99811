package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// DefaultMaxSize is the bound of a cache in bytes unless another is given.
	DefaultMaxSize = 5 << 30
	// grace is how long a package stays that was asked for, though nobody uses it yet.
	grace = time.Hour
)

// Hold keeps all that is in the cache until release is called: from before it is looked whether something is there until it is
// part of a package.
func (c *Cache) Hold() (release func()) {
	c.holders.RLock()
	return func() {
		c.holders.RUnlock()
		if c.size.Load() > c.cfg.MaxSize && c.holders.TryLock() {
			defer c.holders.Unlock()
			if err := c.prune(); err != nil {
				c.cfg.Log.Warn("cache: cannot remove what was not used for long", "error", err)
			}
		}
	}
}

// MaxSize is the bound in bytes.
func (c *Cache) MaxSize() int64 { return c.cfg.MaxSize }

// Size is how many bytes the contents have, each counted once, and in how many packages they are.
func (c *Cache) Size() (bytes int64, packages int, err error) {
	blobs, err := c.blobs()
	if err != nil {
		return 0, 0, err
	}
	all, err := os.ReadDir(c.at("pkg"))
	return total(blobs), len(all), err
}

// An entry is a content or a package.
type entry struct {
	at   string
	used time.Time
	size int64 // of a content
	// alone says of a content that it is in no package.
	alone bool
}

func entryOf(at string, st fs.FileInfo) entry {
	sys, _ := st.Sys().(*syscall.Stat_t)
	return entry{at, st.ModTime(), st.Size(), sys.Nlink == 1}
}

func total(blobs []entry) (n int64) {
	for _, b := range blobs {
		n += b.size
	}
	return n
}

func (c *Cache) blobs() ([]entry, error) {
	var out []entry
	err := filepath.WalkDir(c.at("sha256"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			out = append(out, entryOf(p, st))
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
	return out, err
}

// prune removes what was used least recently until the contents are within the bound: first contents of no package, then
// packages, but none that is in use. Nobody holds the cache.
func (c *Cache) prune() error {
	blobs, err := c.blobs()
	if err != nil {
		return err
	}
	size := total(blobs)
	defer func() { c.size.Store(size) }()
	oldest := func(a, b entry) int { return a.used.Compare(b.used) }
	drop := func(blobs []entry) error {
		for _, b := range blobs {
			if !b.alone || size <= c.cfg.MaxSize {
				continue
			}
			switch err := os.Remove(b.at); {
			case err == nil:
				size -= b.size
			case !errors.Is(err, fs.ErrNotExist): // that it was one content of two files of a package
				return err
			}
		}
		return nil
	}
	slices.SortFunc(blobs, oldest)
	if err := drop(blobs); err != nil || size <= c.cfg.MaxSize {
		return err
	}
	entries, err := os.ReadDir(c.at("pkg"))
	if err != nil {
		return err
	}
	var packages []entry
	for _, e := range entries {
		if st, err := e.Info(); err == nil {
			packages = append(packages, entryOf(c.at("pkg", e.Name()), st))
		}
	}
	slices.SortFunc(packages, oldest)
	var used []string
	if c.cfg.InUse != nil {
		used = c.cfg.InUse()
	}
	for _, p := range packages {
		isHere := func(dir string) bool { return dir == p.at || strings.HasPrefix(dir, p.at+"/") }
		if size <= c.cfg.MaxSize || time.Since(p.used) < grace || slices.ContainsFunc(used, isHere) {
			continue
		}
		contents, _ := os.ReadFile(filepath.Join(p.at, Contents))
		files, _ := ParseContents(contents) // of a damaged one nothing: its contents are found the next time
		if err := c.removePackage(p.at); err != nil {
			return err
		}
		var blobs []entry
		for _, f := range append(files, File{Contents, HashOf(contents)}) {
			if st, err := os.Stat(c.blob(f.Hash)); err == nil {
				blobs = append(blobs, entryOf(c.blob(f.Hash), st))
			}
		}
		if err := drop(blobs); err != nil {
			return err
		}
	}
	return nil
}

// removePackage removes a package as a whole: no part of one is ever found.
func (c *Cache) removePackage(dir string) error {
	t, err := os.MkdirTemp(c.at("tmp"), "*")
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(dir, filepath.Join(t, "old")), os.RemoveAll(t))
}
