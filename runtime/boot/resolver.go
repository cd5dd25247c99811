package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
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
	files resolver.Resolver
	root  *resolver.Resolved

	// mu guards found. It is not held while something is resolved.
	mu    sync.Mutex
	found map[string]*resolver.Resolved
}

// NewResolver makes a resolver of p's components; lazy ones only with lazy. files resolves the files that it finds.
func NewResolver(p *Plan, files resolver.Resolver, lazy bool) (*Resolver, error) {
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
		plan: p, files: files, root: &resolver.Resolved{URL: RootURL, Decl: v, Sources: d.Sources}, found: map[string]*resolver.Resolved{},
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
	file, err := c.find()
	if err != nil {
		return nil, &resolver.Error{URL: url, Why: capabilities.NotFound, Err: err, Hint: "-pa DIR adds a directory to the path"}
	}
	at, err := resolver.FileURL(file)
	if err != nil {
		return nil, err
	}
	if got, err = r.files.Resolve(ctx, at, nil); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.found[n] = got
	r.mu.Unlock()
	return got, nil
}

// find looks for the component's manifest along its path.
func (c *Component) find() (string, error) {
	for _, d := range c.Dirs {
		for _, f := range []string{c.Name + ".cm", c.Name + ".cml", c.Name + "/meta/" + c.Name + ".cm", c.Name + "/meta/" + c.Name + ".cml"} {
			file := filepath.Join(d, f)
			if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
				return file, nil
			}
		}
	}
	if len(c.Dirs) == 0 {
		return "", fmt.Errorf("component %s: no path was set before", c.Name)
	}
	return "", fmt.Errorf("component %s: no %s.cm, %s.cml or %s/meta/%s.cm in %s", c.Name, c.Name, c.Name, c.Name, c.Name,
		strings.Join(c.Dirs, ", "))
}
