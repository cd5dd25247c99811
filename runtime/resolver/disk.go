package resolver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/disk"
)

// Disk resolves the URLs of files of this machine. What a file says is parsed once for as long as the file doesn't change, and
// shared: a tree of thousands of children with one URL costs one parse, and two stats a child.
type Disk struct {
	options cml.Options
	// What is below the directory here is called, in what is told of manifests, as if it were below there; unless here is "".
	here, there string

	// mu guards the maps, not what is in them.
	mu     sync.Mutex
	places map[place]known
	files  map[string]*file // by absolute name without symlinks
}

// known is what a place led to, for as long as its marks hold.
type known struct {
	*Resolved
	marks []mark
}

// file is what was last read from one file.
type file struct {
	mu   sync.Mutex // held over reading and parsing, so that many who want the file at once read it once
	last *parsed
}

// parsed is what a file said. It is never changed.
type parsed struct {
	decl     manifest.Validated
	warnings manifest.Diagnostics
	sources  []string
	tree     string // in which it was read; matters if there is more than one source
	marks    []mark
}

const (
	// cacheSize bounds each of Disk's maps. What falls out costs a parse; instances keep their declarations anyway.
	cacheSize = 4096
	// maxSource bounds the length of a manifest in bytes.
	maxSource = codec.MaxSize
)

// NewDisk makes a resolver that compiles sources with these options. If they don't say where included files are found, it is in
// the manifest's tree: beside the including file, or, for "//x", below the tree's root.
func NewDisk(o cml.Options) *Disk {
	return &Disk{options: o, places: map[place]known{}, files: map[string]*file{}}
}

// Resolve reads the declaration at url.
func (d *Disk) Resolve(ctx context.Context, url string, parent *Resolved) (*Resolved, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	at, err := locate(url, parent)
	if err != nil {
		return nil, &Error{URL: url, Why: capabilities.Invalid, Err: err}
	}
	d.mu.Lock()
	k, ok := d.places[at]
	d.mu.Unlock()
	if ok && hold(k.marks) {
		return k.Resolved, nil
	}
	r, marks, err := d.resolve(ctx, at)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	default:
		return nil, explain(url, at, err)
	}
	if marks != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		// Two who resolved at the same time share what the first made.
		if k, ok := d.places[at]; ok && k.Decl == r.Decl && k.Package == r.Package && r.Values == nil && k.Values == nil {
			r = k.Resolved
		}
		keep(d.places, at, known{r, marks})
	}
	return r, nil
}

// keep puts an entry into a map of bounded size, in the place of some other.
func keep[K comparable, V any](m map[K]V, key K, v V) {
	if _, ok := m[key]; !ok && len(m) >= cacheSize {
		for other := range m {
			delete(m, other)
			break
		}
	}
	m[key] = v
}

// resolve is Resolve without the memory. There are no marks if what was found cannot be known by them.
func (d *Disk) resolve(ctx context.Context, at place) (*Resolved, []mark, error) {
	l, names, err := at.open()
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	var absent []mark
	var path, name string
	var f loader.File
	var info fs.FileInfo
	for i := range names {
		name = names[i]
		var m mark
		last := i == len(names)-1
		if !last {
			m = look(filepath.Join(l.Dir(), name), content)
		}
		if f, path, info, err = l.OpenLocal(ctx, name); last || !errors.Is(err, loader.ErrNotExist) {
			break
		}
		absent = append(absent, m)
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	tree := cmp.Or(at.tree, l.Dir())
	p, err := d.parse(ctx, f, see(path, itself, info), tree)
	if err != nil {
		return nil, nil, err
	}

	r := &Resolved{Decl: p.decl, Warnings: p.warnings, Sources: p.sources, dir: filepath.Dir(path), tree: tree}
	if at.pkg != "" {
		r.URL, r.Package.Dir = fileURL(l.Dir(), at.file), l.Dir()
	} else {
		r.URL, r.Package.Dir = fileURL(path, ""), packageOf(path, r.tree)
	}
	var values []mark
	if c := p.decl.Decl().Config; c != nil && !c.FromCapabilities {
		file := valueFile(name)
		values = []mark{look(filepath.Join(l.Dir(), file), content)}
		switch data, err := read(ctx, l, file); {
		case errors.Is(err, loader.ErrNotExist):
		case err != nil:
			return nil, nil, err
		default:
			var found manifest.Diagnostics
			if r.Values, found = cml.ParseValues(valueFile(rebase(path, d.here, d.there)), data, c); found != nil {
				return nil, nil, found.Err()
			}
		}
	}
	// Where a symlink was followed, marks would not tell that it leads to another package meanwhile, whose manifest may be a hard
	// link to the same file.
	lexical := at.file
	if at.pkg != "" {
		lexical = filepath.Join(at.pkg, name)
	}
	if path != lexical {
		return r, nil, nil
	}
	return r, slices.Concat(absent, []mark{look(r.dir, sameDir)}, p.marks, values), nil
}

// valueFile is the name of the value file of the manifest at path.
func valueFile(path string) string { return strings.TrimSuffix(path, filepath.Ext(path)) + ".cvf" }

// open opens what bounds the place, a package or a tree, and says by which names the manifest is to be looked for in it.
func (at place) open() (*disk.Loader, []string, error) {
	if at.pkg != "" {
		dir, err := at.realPackage()
		if err != nil {
			return nil, nil, err
		}
		names := []string{at.file}
		if strings.HasSuffix(at.file, ".cm") {
			names = append(names, at.file+"l")
		}
		l, err := disk.Open(dir)
		return l, names, err
	}
	file, bound := at.file, at.tree
	if bound == "" {
		var err error
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return nil, nil, err
		}
		bound = packageOf(file, "")
	}
	name, err := filepath.Rel(bound, file)
	if err != nil {
		return nil, nil, err
	}
	l, err := disk.OpenReal(bound)
	return l, []string{name}, err
}

// realPackage is at.pkg without symlinks, proven to be beneath the tree if there is one.
func (at place) realPackage() (string, error) {
	if at.tree == "" {
		return filepath.EvalSymlinks(at.pkg)
	}
	l, err := disk.Open(at.tree)
	if err != nil {
		return "", err
	}
	defer l.Close()
	name, err := filepath.Rel(at.tree, at.pkg)
	if err != nil {
		return "", err
	}
	dir, err := l.LocalPath(name)
	if errors.Is(err, loader.ErrOutside) {
		err = outOfTree(at.tree)
	}
	return dir, err
}

// parse is what the open file says that was where and as now says. What it includes is found in the tree.
func (d *Disk) parse(ctx context.Context, open loader.File, now mark, tree string) (*parsed, error) {
	path := now.path
	d.mu.Lock()
	f := d.files[path]
	if f == nil {
		f = &file{}
		keep(d.files, path, f)
	}
	d.mu.Unlock()

	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.last; p != nil && (len(p.sources) == 1 || p.tree == tree) && hold(p.marks) {
		return p, nil
	}
	data, err := readAll(open)
	if err != nil {
		return nil, err
	}
	o := d.options
	if o.Includes == nil {
		o.Includes = &cml.Includes{Root: tree, Open: func(file string) ([]byte, error) { return include(ctx, tree, file) }}
	}
	called := rebase(path, d.here, d.there)
	if get := o.Includes.Open; called != path {
		o.Includes = &cml.Includes{Root: rebase(o.Includes.Root, d.here, d.there), Open: func(file string) ([]byte, error) {
			return get(rebase(file, d.there, d.here))
		}}
	}
	load := func() (manifest.Validated, manifest.Diagnostics) { return cml.Load(called, data, o) }
	compiled := codec.Is(data) || strings.HasSuffix(path, ".cm")
	if compiled {
		load = func() (manifest.Validated, manifest.Diagnostics) { return codec.Load(called, data) }
	}
	decl, found := load()
	if err := found.Err(); err != nil {
		return nil, err
	}
	p := &parsed{decl: decl, warnings: found, sources: []string{path}, tree: tree, marks: []mark{now}}
	if included := decl.Decl().Sources; !compiled && len(included) > 1 {
		for _, s := range included[1:] {
			s = rebase(s, d.there, d.here)
			p.sources = append(p.sources, s)
			p.marks = append(p.marks, look(s, content))
		}
	}
	f.last = p
	return p, nil
}

// rebase is p below the directory to instead of from, if it is below from.
func rebase(p, from, to string) string {
	if rel, ok := strings.CutPrefix(p, strings.TrimSuffix(from, "/")); ok && from != "" && (rel == "" || rel[0] == '/') {
		return filepath.Join(to, rel)
	}
	return p
}

// include reads what a manifest of the tree includes; nothing is looked for in the manager's working directory.
func include(ctx context.Context, tree, file string) ([]byte, error) {
	if !filepath.IsAbs(file) {
		return nil, fs.ErrNotExist
	}
	name, err := filepath.Rel(tree, file)
	if err != nil {
		return nil, err
	}
	l, err := disk.Open(tree)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	data, err := read(ctx, l, name)
	if errors.Is(err, loader.ErrOutside) {
		err = fmt.Errorf("leads out of the tree %s", tree)
	}
	return data, err
}

func read(ctx context.Context, l loader.Loader, name string) ([]byte, error) {
	f, err := l.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readAll(f loader.File) ([]byte, error) {
	var data bytes.Buffer
	data.Grow(int(min(f.Size(), maxSource)) + bytes.MinRead) // so that it is read at once
	_, err := data.ReadFrom(io.LimitReader(f, maxSource+1))
	if err == nil && data.Len() > maxSource {
		err = fmt.Errorf("a manifest of more than %d bytes", maxSource)
	}
	return data.Bytes(), err
}

// explain says of an error what was looked for and what might have been meant.
func explain(url string, at place, err error) error {
	e := &Error{Why: capabilities.Unavailable, Err: err}
	var errno syscall.Errno
	_, wrong := manifest.AsDiagnostics(err)
	switch {
	case wrong:
		e.Why = capabilities.Invalid
	case errors.As(err, &e):
	case errors.Is(err, loader.ErrOutside) && at.pkg != "":
		e.Why, e.Err = capabilities.Denied, fmt.Errorf("leads out of the package %s", at.pkg)
	case errors.Is(err, loader.ErrOutside):
		e = outOfTree(at.tree)
	case errors.Is(err, loader.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		e.Why = capabilities.NotFound
		e.Hint, e.Err = missing(at)
	case errors.Is(err, fs.ErrPermission):
		e.Why, e.Err = capabilities.Denied, fmt.Errorf("%s: %w", at, fs.ErrPermission)
	case errors.Is(err, syscall.EISDIR):
		e.Err = fmt.Errorf("%s: %w", at, syscall.EISDIR)
		if near := manifestIn(at.String()); near != "" {
			e.Hint = "name a manifest in it, such as " + near
		}
	case errors.As(err, &errno):
		e.Err = fmt.Errorf("%s: %w", at, errno)
	}
	e.URL = url
	return e
}

// manifestIn is a manifest in that directory, a root if there is one; "" if there is none.
func manifestIn(dir string) string {
	near := ""
	entries, _ := os.ReadDir(dir) // it's for a hint
	for _, e := range entries {
		if n := e.Name(); n == "root.cml" || near == "" && strings.HasSuffix(n, ".cml") {
			near = filepath.Join(dir, n)
		}
	}
	return near
}

func outOfTree(tree string) *Error {
	return &Error{
		Why: capabilities.Denied, Err: fmt.Errorf("leads out of the tree %s", tree),
		Hint: "relative URLs stay in the package of the nearest ancestor with an absolute URL; file:///path leads elsewhere",
	}
}

// missing says where a manifest was looked for, and what is there instead.
func missing(at place) (hint string, err error) {
	tried := at.String()
	if at.pkg != "" && strings.HasSuffix(at.file, ".cm") {
		tried += " or " + filepath.Base(at.file) + "l"
	}
	near := runners.Package{Dir: cmp.Or(at.tree, "/")} // an absolute URL may name any file
	rel, err := filepath.Rel(near.Dir, at.String())
	if err != nil {
		return "", err
	}
	if n := near.Nearest(rel); n != "" {
		hint = "did you mean " + filepath.Join(near.Dir, n) + "?"
	}
	return hint, fmt.Errorf("no such manifest: tried %s", tried)
}
