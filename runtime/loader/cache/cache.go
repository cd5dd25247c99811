// Package cache keeps what loaders fetched: each content once, under its hash, and packages made of it by hard links. Nothing in
// it is ever half-written: a file is written under another name and renamed, and so is the directory of a package. Nothing is
// synced: a content is compared with its hash whenever it is used, so that one which the machine's end has cut off is fetched
// again, as any that was damaged.
//
// It is bounded in size: what was used least recently goes first.
//
//	sha256/ab/abcd…    a content, 0444, or 0555 if it is a program: an ELF file, or a text that begins with #!
//	pkg/HASH/…         a package, by the hash of its contents file
//	tmp/…              what is being made; emptied by Open
//
// A package's contents file, meta/contents, has a line PATH=SHA256 for each of its files but itself and its signatures, as
// Fuchsia's. Its own hash is the package's.
package cache

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Contents is the contents file's path in a package.
const Contents = "meta/contents"

// A Hash is a SHA-256.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads a Hash as String writes it.
func ParseHash(s string) (h Hash, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%q is no SHA-256: 64 hexadecimal digits", s)
	}
	return Hash(b), nil
}

// HashOf is the hash of b.
func HashOf(b []byte) Hash { return sha256.Sum256(b) }

// A File is a line of a contents file.
type File struct {
	Path string // slash-separated, below the package
	Hash Hash
}

// ParseContents reads a contents file.
func ParseContents(b []byte) ([]File, error) {
	var out []File
	seen := map[string]bool{}
	for n, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		fail := func(what string) error { return fmt.Errorf("%s:%d: %s", Contents, n+1, what) }
		i := strings.LastIndexByte(line, '=')
		if i < 0 {
			return nil, fail("no line PATH=SHA256")
		}
		h, err := ParseHash(line[i+1:])
		if err != nil {
			return nil, fail(err.Error())
		}
		p := line[:i]
		switch {
		case !filepath.IsLocal(p) || path.Clean(p) != p || p == "." || strings.ContainsRune(p, 0):
			return nil, fail(fmt.Sprintf("%q is no path below the package", p))
		case p == Contents || seen[p]:
			return nil, fail(fmt.Sprintf("%q stands here a second time, or is this file", p))
		}
		seen[p] = true
		out = append(out, File{p, h})
	}
	return out, nil
}

// FormatContents writes a contents file: sorted by path.
func FormatContents(files []File) ([]byte, error) {
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var b bytes.Buffer
	for _, f := range files {
		if strings.Contains(f.Path, "\n") {
			return nil, fmt.Errorf("%q: a file of a package has no line feed in its name", f.Path)
		}
		fmt.Fprintf(&b, "%s=%s\n", f.Path, f.Hash)
	}
	return b.Bytes(), nil
}

// Config says where a cache is, and how large it may be.
type Config struct {
	Dir string
	// MaxSize bounds the contents in bytes, each counted once; 0 is DefaultMaxSize. What is in use may be more.
	MaxSize int64
	// InUse gives the directories that somebody uses, of whatever cache: packages, and what is below them. nil is none. It is called
	// when something must be removed.
	InUse func() []string
	// Log is told what cannot be removed; nil is silence.
	Log *slog.Logger
}

// A Cache is a directory, which one process has at one time. Its methods may be called at the same time; who relies on what they
// have said holds it (Hold).
type Cache struct {
	cfg     Config
	dir     string
	holders sync.RWMutex
	placing sync.Mutex
	size    atomic.Int64 // of the contents; what was damaged and put again counts twice until it is looked
}

// Open opens the cache, and makes it if need be.
func Open(cfg Config) (*Cache, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.MaxSize = cmp.Or(cfg.MaxSize, DefaultMaxSize)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{cfg: cfg, dir: dir}
	if err := os.RemoveAll(c.at("tmp")); err != nil {
		return nil, err
	}
	for _, d := range []string{"sha256", "pkg", "tmp"} {
		if err := os.MkdirAll(c.at(d), 0o755); err != nil {
			return nil, err
		}
	}
	if c.dir, err = filepath.EvalSymlinks(c.dir); err != nil { // as those call it who resolve what is in it
		return nil, err
	}
	size, _, err := c.Size()
	c.size.Store(size)
	return c, err
}

func (c *Cache) at(elem ...string) string { return filepath.Join(append([]string{c.dir}, elem...)...) }

func (c *Cache) blob(h Hash) string { return c.at("sha256", h.String()[:2], h.String()) }

// Put keeps what r has, to its end. With an io.Seeker nothing is written of what is there already.
func (c *Cache) Put(r io.Reader) (h Hash, err error) {
	sum := sha256.New()
	if again, ok := r.(io.Seeker); ok {
		if _, err := io.Copy(sum, r); err != nil {
			return h, err
		}
		if h = Hash(sum.Sum(nil)); c.Has(h) {
			return h, nil
		}
		if _, err := again.Seek(0, io.SeekStart); err != nil {
			return h, err
		}
		sum.Reset()
	}
	f, err := os.CreateTemp(c.at("tmp"), "*")
	if err != nil {
		return h, err
	}
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(4)
	if err == io.EOF {
		err = nil
	}
	mode := fs.FileMode(0o444)
	if bytes.HasPrefix(head, []byte("#!")) || bytes.Equal(head, []byte("\x7fELF")) {
		mode = 0o555
	}
	var n int64
	if err == nil {
		n, err = io.Copy(io.MultiWriter(f, sum), in)
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		h = Hash(sum.Sum(nil))
		err = os.MkdirAll(filepath.Dir(c.blob(h)), 0o755)
	}
	if err == nil {
		err = c.place(f.Name(), h, n)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return h, err
}

// place puts the file, of n bytes with that hash, in its place. What is there and right stays: a link to it that is being made
// would fail if another took its name.
func (c *Cache) place(file string, h Hash, n int64) error {
	c.placing.Lock()
	defer c.placing.Unlock()
	if c.Has(h) {
		return os.Remove(file)
	}
	c.size.Add(n)
	return os.Rename(file, c.blob(h))
}

// Has says whether the content with that hash is there, and is what it was.
func (c *Cache) Has(h Hash) bool { return isFile(c.blob(h), h) }

// isFile says whether the file has the content with that hash.
func isFile(file string, h Hash) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return err == nil && Hash(sum.Sum(nil)) == h
}

// Link puts the content with that hash, which is there, at p below the directory dir, in the place of what is there.
func (c *Cache) Link(h Hash, dir, p string) error {
	if !filepath.IsLocal(p) {
		return &fs.PathError{Op: "link", Path: p, Err: fs.ErrInvalid}
	}
	to := filepath.Join(dir, p)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err := os.Link(c.blob(h), to)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist) && (same(to, c.blob(h)) || isFile(to, h)):
		return nil
	case !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.EMLINK) && !errors.Is(err, syscall.EPERM):
		return err
	}
	t, err := os.MkdirTemp(c.at("tmp"), "*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(t)
	next := filepath.Join(t, "file")
	if err := os.Link(c.blob(h), next); errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EPERM) {
		err = c.copyBlob(h, next) // too many links, or a file system without
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return os.Rename(next, to)
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func (c *Cache) copyBlob(h Hash, to string) error {
	from, err := os.Open(c.blob(h))
	if err != nil {
		return err
	}
	defer from.Close()
	st, err := from.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// Package gives the directory of the package that has this contents file, and whose contents Has has said, or Put has made sure,
// to be in the cache.
func (c *Cache) Package(contents []byte) (string, error) {
	dir := c.at("pkg", HashOf(contents).String())
	files, err := ParseContents(contents)
	if err != nil {
		return "", err
	}
	h, err := c.Put(bytes.NewReader(contents))
	if err != nil {
		return "", err
	}
	files = append(files, File{Contents, h})
	link := func(dir string) error {
		for _, f := range files {
			if err := c.Link(f.Hash, dir, f.Path); err != nil {
				return err
			}
		}
		return nil
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err == nil {
		return dir, link(dir) // what was damaged, and fetched again
	}
	t, err := os.MkdirTemp(c.at("tmp"), "*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(t) // in vain once it is renamed
	if err := os.Chmod(t, 0o755); err != nil {
		return "", err
	}
	if err := link(t); err != nil {
		return "", err
	}
	if err := os.Rename(t, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", err
	}
	return dir, nil
}

// Scratch makes an empty directory in the cache, which lives until it is removed, or Open.
func (c *Cache) Scratch() (string, error) {
	d, err := os.MkdirTemp(c.at("tmp"), "tree-*")
	if err != nil {
		return "", err
	}
	return d, os.Chmod(d, 0o755)
}
