package resolver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/runners"
)

// A Record is a Resolved as it is stored: what the reference Ref in the component that resolved to Parent led to.
type Record struct {
	Parent string // "" for the root
	Ref    string
	URL    string
	Dir    string // of the manifest
	Tree   string // what relative paths stay in
	// Package is the package's directory.
	Package  string
	Manifest [32]byte // the SHA-256 sum of the compiled manifest
}

// Record is r as the reference ref of a component that resolved to parent, without a manifest.
func (r *Resolved) Record(parent, ref string) Record {
	return Record{Parent: parent, Ref: ref, URL: r.URL, Dir: r.dir, Tree: r.tree, Package: r.Package.Dir}
}

// CompiledConfig is what was stored of a tree.
type CompiledConfig struct {
	Records []Record
	// Manifests are the compiled ones, by their sums.
	Manifests map[[32]byte]string
	// Sources are the files that they were made of, with their sums: a package that Loaded gets must not have others. nil: it may.
	Sources map[string][32]byte
	// Rest resolves what is not stored.
	Rest Resolver
	// Loaded gets the packages; nil if they are directories of this disk.
	Loaded *Loaded
}

// Compiled resolves what was resolved before, and stored: no source is read. It asks another for the rest.
type Compiled struct {
	cfg     CompiledConfig
	records map[[2]string]Record

	// mu guards what follows.
	mu    sync.Mutex
	decls map[[32]byte]manifest.Validated // those that were wanted so far
	fresh map[string]bool                 // packages of which the sources are the same
}

// NewCompiled makes a resolver of what was stored.
func NewCompiled(cfg CompiledConfig) *Compiled {
	c := &Compiled{
		cfg: cfg, records: make(map[[2]string]Record, len(cfg.Records)),
		decls: make(map[[32]byte]manifest.Validated, len(cfg.Manifests)), fresh: map[string]bool{},
	}
	for _, r := range cfg.Records {
		c.records[[2]string{r.Parent, r.Ref}] = r
	}
	return c
}

// Resolve gives what is stored, or asks the other.
func (c *Compiled) Resolve(ctx context.Context, url string, parent *Resolved) (*Resolved, error) {
	key := [2]string{"", url}
	if parent != nil {
		key[0] = parent.URL
	}
	r, ok := c.records[key]
	if !ok {
		return c.cfg.Rest.Resolve(ctx, url, parent)
	}
	return c.stored(ctx, r)
}

func (c *Compiled) stored(ctx context.Context, r Record) (*Resolved, error) {
	decl, err := c.decl(r)
	if err != nil {
		return nil, &Error{URL: r.Ref, Why: capabilities.Invalid, Err: err}
	}
	out := &Resolved{
		URL: r.URL, Decl: decl, Sources: []string{filepath.Base(r.URL)}, Package: runners.Package{Dir: r.Package},
		dir: filepath.Clean(r.Dir), tree: filepath.Clean(r.Tree),
	}
	if c.cfg.Loaded == nil {
		return out, nil
	}
	if err := c.cfg.Loaded.place(ctx, r.Ref, out); err != nil {
		return nil, err
	}
	return out, c.unchanged(r, out.Package.Dir)
}

// Fetch gets all packages of what is stored, if they come by a loader, and compares their sources.
func (c *Compiled) Fetch(ctx context.Context) error {
	if c.cfg.Loaded == nil {
		return nil
	}
	var next atomic.Int64
	failed := make([]error, len(c.cfg.Records))
	var wg sync.WaitGroup
	for range min(parallel, len(failed)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(failed); i = next.Add(1) - 1 {
				_, failed[i] = c.stored(ctx, c.cfg.Records[i])
			}
		})
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// unchanged refuses r's package, which is in dir here, if sources in it are not what the tree was compiled from. One that isn't
// there is no fault, as on the disk.
func (c *Compiled) unchanged(r Record, dir string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh[r.Package] {
		return nil
	}
	var changed []string
	for file, sum := range c.cfg.Sources {
		rel, err := filepath.Rel(r.Package, file)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, rel))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if sha256.Sum256(b) != sum {
			changed = append(changed, file)
		}
	}
	if changed == nil {
		c.fresh[r.Package] = true
		return nil
	}
	slices.Sort(changed)
	return &Error{
		URL: r.Ref, Why: capabilities.Precondition,
		Err:  fmt.Errorf("since the tree was compiled these have changed: %s", strings.Join(changed, ", ")),
		Hint: StaleHint,
	}
}

// StaleHint is what can be done about a compiled tree whose sources have changed.
const StaleHint = "compile it again (cmgr compile --boot), or run it as it was (--stale)"

// decl is the manifest of r.
func (c *Compiled) decl(r Record) (manifest.Validated, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.decls[r.Manifest]; ok {
		return d, nil
	}
	d, found := codec.Load(hex.EncodeToString(r.Manifest[:8])+".cm", []byte(c.cfg.Manifests[r.Manifest]))
	if err := found.Err(); err != nil {
		return d, err
	}
	c.decls[r.Manifest] = d
	return d, nil
}
