package resolver

import (
	"context"
	"encoding/hex"
	"path/filepath"
	"sync"

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

// Compiled resolves what was resolved before, and stored: no source is read. It asks another for the rest.
type Compiled struct {
	records   map[[2]string]Record
	manifests map[[32]byte]string
	rest      Resolver
	loaded    *Loaded

	// mu guards decls, the manifests that were wanted so far.
	mu    sync.Mutex
	decls map[[32]byte]manifest.Validated
}

// NewCompiled makes a resolver of records and of compiled manifests by their sums. The packages are those of loaded, or directories of
// this disk if it is nil.
func NewCompiled(records []Record, manifests map[[32]byte]string, rest Resolver, loaded *Loaded) *Compiled {
	c := &Compiled{
		records: make(map[[2]string]Record, len(records)), manifests: manifests, rest: rest, loaded: loaded,
		decls: make(map[[32]byte]manifest.Validated, len(manifests)),
	}
	for _, r := range records {
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
		return c.rest.Resolve(ctx, url, parent)
	}
	decl, err := c.decl(r)
	if err != nil {
		return nil, &Error{URL: url, Why: capabilities.Invalid, Err: err}
	}
	out := &Resolved{
		URL: r.URL, Decl: decl, Sources: []string{filepath.Base(r.URL)}, Package: runners.Package{Dir: r.Package},
		dir: filepath.Clean(r.Dir), tree: filepath.Clean(r.Tree),
	}
	if c.loaded != nil {
		err = c.loaded.place(ctx, url, out)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// decl is the manifest of r.
func (c *Compiled) decl(r Record) (manifest.Validated, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.decls[r.Manifest]; ok {
		return d, nil
	}
	d, found := codec.Load(hex.EncodeToString(r.Manifest[:8])+".cm", []byte(c.manifests[r.Manifest]))
	if err := found.Err(); err != nil {
		return d, err
	}
	c.decls[r.Manifest] = d
	return d, nil
}
