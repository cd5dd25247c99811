package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/cache"
	"github.com/cmgr/cmgr/runtime/loader/prim"
)

// Loaded resolves URLs of files that a loader gets, whatever their scheme:
//
//	SCHEME:///srv/net#meta/x.cm   the manifest meta/x.cm of the package /srv/net
//	SCHEME:///srv/tree/net.cml    a manifest file, its package as for Disk
//	SCHEME:net.cml                the same, found along the loader's path
//
// and relative ones as Disk does. Of a package everything is fetched, into a cache: what its contents file lists (meta/contents,
// see cache), or, without one, what the loader lists. A loader that cannot list, a port program, is asked for what is needed as
// it is needed: manifests, what they include, and the program's binary. A package with a list is fetched when an absolute URL
// names it, and stays as it was then for all below.
//
// Files of the disk are used where they are.
type Loaded struct {
	cfg  LoadedConfig
	disk *Disk

	// mu guards what follows.
	mu    sync.Mutex
	trees map[string]*fetched // those that are fetched as needed, by package
	disks map[string]*Disk    // of what was fetched of the others at last, likewise
	kept  map[string]*kept    // with Once, likewise
}

// A kept is a package that is fetched once: nobody has it while slot is full.
type kept struct {
	slot chan struct{}
	tree atomic.Pointer[fetched] // nil until it is there
}

// LoadedConfig says where packages come from and go to.
type LoadedConfig struct {
	// Loader gets the files. It stays the caller's. nil is the disk, without a path.
	Loader *prim.Loader
	// Cache keeps them.
	Cache *cache.Cache
	// Trust, unless nil, says which packages are accepted, all others are refused. Then each needs a contents file.
	Trust *cache.Trust
	// Once has a package fetched once, for all that name it: it stays as it was then.
	Once bool
	// Options are those of the compiler. Includes must be nil: they are found in the package.
	Options cml.Options
}

// The bounds of a package that the loader lists: one that is larger needs a contents file.
const (
	maxFiles    = 10000
	maxContents = 4 << 20
	// parallel is how many files are fetched at one time.
	parallel = 4
)

// NewLoaded makes a resolver.
func NewLoaded(cfg LoadedConfig) *Loaded {
	return &Loaded{cfg: cfg, disk: NewDisk(cfg.Options), trees: map[string]*fetched{}, disks: map[string]*Disk{}, kept: map[string]*kept{}}
}

// A fetched is a package, or what of it was needed so far, on this disk.
type fetched struct {
	dir    string // here
	remote string // there: absolute
	scheme string
	disk   *Disk
	l      *Loaded // nil unless it is fetched as needed
}

// Resolve reads the declaration at ref.
func (l *Loaded) Resolve(ctx context.Context, ref string, parent *Resolved) (*Resolved, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	scheme := name.Scheme(ref)
	local := l.cfg.Loader == nil
	if !local {
		_, local = l.cfg.Loader.Medium().(loader.Local)
	}
	var r *Resolved
	var err error
	switch {
	case scheme == "" && parent == nil:
		return nil, &Error{URL: ref, Why: capabilities.Invalid, Err: errors.New("a relative URL of a component without a parent")}
	case scheme == "" && parent.loaded == nil && !local:
		return nil, &Error{URL: ref, Why: capabilities.Invalid, Err: errors.New("relative to a manifest that this loader did not get")}
	case scheme == "" && local:
		r, err = l.disk.Resolve(ctx, ref, parent)
		scheme = name.Scheme(parent.URL)
	case scheme == "":
		return parent.loaded.resolve(ctx, ref, ref, parent)
	case local:
		var abs string
		if abs, err = l.absolute(ctx, ref, scheme); err == nil {
			r, err = l.disk.Resolve(ctx, "file:"+abs[len(scheme)+1:], parent)
		}
	default:
		return l.fetch(ctx, ref, scheme)
	}
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.URL = ref
		}
		return nil, err
	}
	c := *r
	c.URL = scheme + ":" + strings.TrimPrefix(r.URL, "file:")
	return &c, nil
}

// absolute is ref, or, for SCHEME:NAME, where the file of that name is along the path.
func (l *Loaded) absolute(ctx context.Context, ref, scheme string) (string, error) {
	rest := ref[len(scheme)+1:]
	if strings.HasPrefix(rest, "/") {
		return ref, nil
	}
	u, err := url.Parse(rest)
	if l.cfg.Loader == nil || err != nil || rest == "" || u.RawQuery != "" {
		return "", &Error{URL: ref, Why: capabilities.Invalid, Err: errors.New("no name of a file")}
	}
	f, at, err := l.cfg.Loader.Get(ctx, u.Path)
	if err != nil {
		return "", loadError(ref, err)
	}
	f.Close()
	if !path.IsAbs(at) {
		at = "/" + at
	}
	return scheme + ":" + strings.TrimPrefix(fileURL(at, u.Fragment), "file:"), nil
}

// loadError is err, which a loader had.
func loadError(ref string, err error) error {
	e := &Error{URL: ref, Why: capabilities.Unavailable, Err: err}
	switch {
	case errors.Is(err, loader.ErrNotExist):
		e.Why = capabilities.NotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, loader.ErrOutside), errors.Is(err, cache.ErrUntrusted):
		e.Why = capabilities.Denied
	}
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		e.Hint = h.Hint()
	}
	return e
}

// fetch resolves an absolute URL.
func (l *Loaded) fetch(ctx context.Context, ref, scheme string) (*Resolved, error) {
	abs, err := l.absolute(ctx, ref, scheme)
	if err != nil {
		return nil, err
	}
	at, err := locate("file:"+abs[len(scheme)+1:], nil)
	if err != nil {
		return nil, &Error{URL: ref, Why: capabilities.Invalid, Err: err}
	}
	here := "#" + (&url.URL{Fragment: at.file}).EscapedFragment()
	if at.pkg == "" {
		at.pkg = packageOf(at.file, "")
		rel, err := filepath.Rel(at.pkg, at.file)
		if err != nil {
			return nil, err
		}
		here = "/" + (&url.URL{Path: rel}).EscapedPath()
	}
	t, err := l.tree(ctx, scheme, at.pkg)
	if err != nil {
		return nil, loadError(ref, err)
	}
	return t.resolve(ctx, ref, fileURL(t.dir, "")+here, nil)
}

// tree is the package at pkg.
func (l *Loaded) tree(ctx context.Context, scheme, pkg string) (*fetched, error) {
	if !l.cfg.Once {
		return l.fetchTree(ctx, scheme, pkg)
	}
	l.mu.Lock()
	k := l.kept[scheme+":"+pkg]
	if k == nil {
		k = &kept{slot: make(chan struct{}, 1)}
		l.kept[scheme+":"+pkg] = k
	}
	l.mu.Unlock()
	select {
	case k.slot <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-k.slot }()
	if t := k.tree.Load(); t != nil {
		return t, nil
	}
	t, err := l.fetchTree(ctx, scheme, pkg)
	if err == nil {
		k.tree.Store(t)
	}
	return t, err
}

// place fetches the package of r, which is a directory of the loader's, and has r be in it here.
func (l *Loaded) place(ctx context.Context, ref string, r *Resolved) error {
	t, err := l.tree(ctx, "file", r.Package.Dir)
	if err != nil {
		return loadError(ref, err)
	}
	dir, err := filepath.Rel(r.Package.Dir, r.dir)
	if err != nil || !filepath.IsLocal(dir) {
		dir = "."
	}
	r.Package.Dir, r.dir, r.tree = t.dir, filepath.Join(t.dir, dir), t.dir
	if t.l != nil {
		if err := t.needBinary(ctx, r); err != nil {
			return loadError(ref, err)
		}
	}
	return nil
}

// fetchTree fetches the package at pkg, or prepares for what will be needed of it.
func (l *Loaded) fetchTree(ctx context.Context, scheme, pkg string) (*fetched, error) {
	defer l.cfg.Cache.Hold()()
	t := &fetched{remote: pkg, scheme: scheme}
	contents, err := l.read(ctx, path.Join(pkg, cache.Contents), maxContents)
	lister, lists := l.cfg.Loader.Medium().(loader.Lister)
	var files []cache.File
	switch {
	case err == nil:
		if l.cfg.Trust != nil {
			get := func(name string) ([]byte, error) { return l.read(ctx, path.Join(pkg, name), 64<<10) }
			if err := l.cfg.Trust.Check(cache.Contents, contents, get); err != nil {
				return nil, fmt.Errorf("package %s: %w", pkg, err)
			}
		}
		if files, err = cache.ParseContents(contents); err != nil {
			return nil, fmt.Errorf("package %s: %w", pkg, err)
		}
	case !errors.Is(err, loader.ErrNotExist):
		return nil, err
	case l.cfg.Trust != nil:
		return nil, fmt.Errorf("package %s: %w: it has no %s", pkg, cache.ErrUntrusted, cache.Contents)
	case !lists:
		return l.growing(scheme, pkg)
	default:
		if files, err = list(ctx, lister, pkg); err != nil {
			return nil, err
		}
	}
	if err := l.fetchAll(ctx, pkg, files, contents != nil); err != nil {
		return nil, err
	}
	if contents == nil {
		if contents, err = cache.FormatContents(files); err != nil {
			return nil, err
		}
	}
	if t.dir, err = l.cfg.Cache.Package(contents); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.disk = l.disks[scheme+":"+pkg]; t.disk == nil || t.disk.here != t.dir {
		t.disk = NewDisk(l.cfg.Options)
		t.disk.here, t.disk.there = t.dir, pkg
		l.disks[scheme+":"+pkg] = t.disk
	}
	return t, nil
}

// list is all files at and below pkg.
func list(ctx context.Context, lister loader.Lister, pkg string) ([]cache.File, error) {
	var files []cache.File
	dirs := []string{"."}
	for n := 0; len(dirs) > 0; {
		d := dirs[0]
		dirs = dirs[1:]
		entries, err := lister.List(ctx, below(path.Join(pkg, d)))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if n++; n > maxFiles {
				return nil, fmt.Errorf("package %s: more than %d files: it needs a %s, with a line PATH=SHA256 for each", pkg, maxFiles,
					cache.Contents)
			}
			switch p := path.Join(d, e.Name()); {
			case e.IsDir():
				dirs = append(dirs, p)
			case e.Type().IsRegular():
				files = append(files, cache.File{Path: p})
			}
		}
	}
	return files, nil
}

// fetchAll fetches files of pkg into the cache. With known their hashes are what must come, otherwise they are set.
func (l *Loaded) fetchAll(ctx context.Context, pkg string, files []cache.File, known bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *cache.File)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for f := range next {
				if known && l.cfg.Cache.Has(f.Hash) {
					continue
				}
				h, err := l.put(ctx, path.Join(pkg, f.Path))
				if err == nil && known && h != f.Hash {
					err = fmt.Errorf("%s: sha256 is %s, and %s says %s", path.Join(pkg, f.Path), h, cache.Contents, f.Hash)
				}
				if err != nil {
					cancel(err)
				}
				f.Hash = h
			}
		})
	}
	for i := range files {
		if ctx.Err() != nil {
			break
		}
		next <- &files[i]
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// put fetches the file at p into the cache.
func (l *Loaded) put(ctx context.Context, p string) (cache.Hash, error) {
	f, _, err := l.cfg.Loader.Get(ctx, p)
	if err != nil {
		return cache.Hash{}, err
	}
	defer f.Close()
	return l.cfg.Cache.Put(f)
}

// read fetches the file at p, of at most most bytes.
func (l *Loaded) read(ctx context.Context, p string, most int64) ([]byte, error) {
	f, _, err := l.cfg.Loader.Get(ctx, p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: more than %d bytes", p, most)
	}
	return b, err
}

func below(p string) string {
	if p = strings.TrimPrefix(p, "/"); p == "" {
		return "."
	}
	return p
}

// growing gives the tree for a package of which nothing says what is in it.
func (l *Loaded) growing(scheme, pkg string) (*fetched, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.trees[scheme+":"+pkg]; t != nil {
		return t, nil
	}
	dir, err := l.cfg.Cache.Scratch()
	if err != nil {
		return nil, err
	}
	t := &fetched{dir: dir, remote: pkg, scheme: scheme, l: l}
	o := l.cfg.Options
	o.Includes = &cml.Includes{Root: dir, Open: func(file string) ([]byte, error) {
		rel, err := filepath.Rel(dir, file)
		if err == nil {
			err = t.need(context.Background(), rel)
		}
		if err != nil {
			return nil, err
		}
		return include(context.Background(), dir, file)
	}}
	t.disk = NewDisk(o)
	t.disk.here, t.disk.there = dir, pkg
	l.trees[scheme+":"+pkg] = t
	return t, nil
}

// need fetches the file at rel.
func (t *fetched) need(ctx context.Context, rel string) error {
	if !filepath.IsLocal(rel) {
		return loader.ErrOutside
	}
	defer t.l.cfg.Cache.Hold()()
	h, err := t.l.put(ctx, path.Join(t.remote, rel))
	if err != nil {
		return err
	}
	return t.l.cfg.Cache.Link(h, t.dir, rel)
}

// resolve resolves here, a URL of this disk or one relative to parent, for what the user calls ref.
func (t *fetched) resolve(ctx context.Context, ref, here string, parent *Resolved) (*Resolved, error) {
	if t.l != nil {
		at, err := locate(here, parent)
		if err != nil {
			return nil, &Error{URL: ref, Why: capabilities.Invalid, Err: err}
		}
		rel, err := filepath.Rel(t.dir, at.String())
		if err != nil {
			return nil, err
		}
		if err = t.need(ctx, rel); errors.Is(err, loader.ErrNotExist) && at.pkg != "" && strings.HasSuffix(rel, ".cm") {
			err = t.need(ctx, rel+"l")
		}
		if err != nil {
			return nil, loadError(ref, err)
		}
	}
	r, err := t.disk.Resolve(ctx, here, parent)
	if err != nil {
		return nil, t.told(ref, err)
	}
	if c := r.Decl.Decl().Config; t.l != nil && c != nil && !c.FromCapabilities {
		rel, err := filepath.Rel(t.dir, valueFile(r.Sources[0]))
		if err == nil {
			err = t.need(ctx, rel)
		}
		switch {
		case errors.Is(err, loader.ErrNotExist):
		case err != nil:
			return nil, loadError(ref, err)
		default:
			if r, err = t.disk.Resolve(ctx, here, parent); err != nil {
				return nil, t.told(ref, err)
			}
		}
	}
	if t.l != nil {
		if err := t.needBinary(ctx, r); err != nil {
			return nil, loadError(ref, err)
		}
	}
	c := *r
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, err
	}
	c.URL = t.scheme + ":" + strings.TrimPrefix(fileURL(rebase(u.Path, t.dir, t.remote), u.Fragment), "file:")
	c.loaded = t
	return &c, nil
}

// needBinary fetches the program that a manifest of this tree names. That it isn't there, its runner will say.
func (t *fetched) needBinary(ctx context.Context, r *Resolved) error {
	p := r.Decl.Decl().Program
	if p == nil {
		return nil
	}
	for _, e := range p.Info {
		b, ok := e.Value.(manifest.String)
		if e.Key != "binary" || !ok || !filepath.IsLocal(string(b)) {
			continue
		}
		rel, err := filepath.Rel(t.dir, filepath.Join(r.Package.Dir, string(b)))
		if err != nil {
			return err
		}
		if err := t.need(ctx, rel); err != nil && !errors.Is(err, loader.ErrNotExist) {
			return err
		}
	}
	return nil
}

// told is err with the names of the other side.
func (t *fetched) told(ref string, err error) error {
	words := func(s string) string { return strings.ReplaceAll(s, t.dir, strings.TrimSuffix(t.remote, "/")) }
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	c := &Error{URL: ref, Why: e.Why, Hint: words(e.Hint), Err: e.Err}
	if ds, ok := manifest.AsDiagnostics(e.Err); ok {
		ds = slices.Clone(ds)
		for i := range ds {
			ds[i].Message = words(ds[i].Message)
		}
		c.Err = ds
	} else if s := e.Err.Error(); words(s) != s {
		c.Err = errors.New(words(s))
	}
	return c
}

// Dirs are the directories of the packages that it goes on using, beside those of what it has resolved.
func (l *Loaded) Dirs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, k := range l.kept {
		if t := k.tree.Load(); t != nil {
			out = append(out, t.dir)
		}
	}
	return out
}

// Close removes what was fetched as needed. Nothing may run from there any more.
func (l *Loaded) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, t := range l.trees {
		err = errors.Join(err, os.RemoveAll(t.dir))
	}
	clear(l.trees)
	return err
}
