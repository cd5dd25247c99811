package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// Scheme is that of the URLs of a script's components; RootURL is that of the component above them.
const (
	Scheme  = "boot"
	RootURL = Scheme + ":///"
)

// A Resolver finds the components of a plan by URLs of Scheme: along the script's path, as NAME.cm, NAME.cml, or in a package,
// NAME/meta/NAME.cm or .cml. The component above them has them as children, none of them eager. What it has found stays found.
type Resolver struct {
	plan  *Plan
	files Files
	root  *resolver.Resolved

	// mu guards found. It is not held while something is resolved.
	mu    sync.Mutex
	found map[string]*resolver.Resolved
}

// Files are where the components of a script are.
type Files struct {
	Resolver resolver.Resolver // resolves URLs of Scheme
	Scheme   string
	Loader   *prim.Loader // finds them; nil is the disk
}

// NewResolver makes a resolver of p's components, which files has; lazy ones only with lazy.
func NewResolver(p *Plan, files Files, lazy bool) (*Resolver, error) {
	d := &manifest.Component{Sources: []string{"boot script"}}
	for _, c := range p.Components() {
		if !c.Lazy || lazy {
			d.Children = append(d.Children, manifest.Child{Name: c.Name, URL: RootURL + c.Name})
		}
	}
	v, found := manifest.Validate(d, manifest.ValidateOptions{})
	if err := found.Err(); err != nil {
		return nil, err
	}
	return &Resolver{
		plan: p, files: files, root: &resolver.Resolved{URL: RootURL, Decl: v, Sources: d.Sources},
		found: map[string]*resolver.Resolved{},
	}, nil
}

// Resolve gives the component of a plan, or the one above all.
func (r *Resolver) Resolve(ctx context.Context, url string, _ *resolver.Resolved) (*resolver.Resolved, error) {
	n, ok := strings.CutPrefix(url, RootURL)
	if ok && n == "" {
		return r.root, nil
	}
	c := r.plan.components[n]
	if !ok || c == nil {
		return nil, &resolver.Error{URL: url, Why: capabilities.NotFound, Err: errors.New("no component of the boot script")}
	}
	r.mu.Lock()
	got := r.found[n]
	r.mu.Unlock()
	if got != nil {
		return got, nil
	}
	file, err := c.find(ctx, r.files.has)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &resolver.Error{URL: url, Why: capabilities.NotFound, Err: err, Hint: "-pa DIR adds a directory to the path"}
	}
	if err != nil {
		return nil, &resolver.Error{URL: url, Why: capabilities.Unavailable, Err: err}
	}
	at, err := resolver.FileURL(file)
	if err != nil {
		return nil, err
	}
	if got, err = r.files.Resolver.Resolve(ctx, r.files.Scheme+strings.TrimPrefix(at, "file"), nil); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.found[n] = got
	r.mu.Unlock()
	return got, nil
}

// has says whether there is a file of that name.
func (f Files) has(ctx context.Context, name string) (bool, error) {
	if f.Loader == nil {
		st, err := os.Stat(name)
		return err == nil && st.Mode().IsRegular(), nil
	}
	st, err := f.Loader.Stat(ctx, name)
	if errors.Is(err, errors.ErrUnsupported) { // a port program
		var file loader.File
		if file, _, err = f.Loader.Get(ctx, name); err == nil {
			return true, file.Close()
		}
	}
	if errors.Is(err, loader.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.Mode().IsRegular(), err
}

// errNowhere is that of a component that no directory of its path has.
type errNowhere string

func (e errNowhere) Error() string { return string(e) }
func (errNowhere) Unwrap() error   { return fs.ErrNotExist }

// find looks for the component's manifest along its path.
func (c *Component) find(ctx context.Context, has func(context.Context, string) (bool, error)) (string, error) {
	for _, d := range c.Dirs {
		for _, f := range []string{c.Name + ".cm", c.Name + ".cml", c.Name + "/meta/" + c.Name + ".cm", c.Name + "/meta/" + c.Name + ".cml"} {
			file := filepath.Join(d, f)
			if ok, err := has(ctx, file); ok || err != nil {
				return file, err
			}
		}
	}
	if len(c.Dirs) == 0 {
		return "", errNowhere(fmt.Sprintf("component %s: no path was set before", c.Name))
	}
	return "", errNowhere(fmt.Sprintf("component %s: no %s.cm, %s.cml or %s/meta/%s.cm in %s", c.Name, c.Name, c.Name, c.Name, c.Name,
		strings.Join(c.Dirs, ", ")))
}
