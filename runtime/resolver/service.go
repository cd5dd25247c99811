package resolver

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
)

// ServiceScheme is the scheme of the URLs of service directories, and the name of their resolver and their runner.
const ServiceScheme = "runit"

// ServiceURL is the URL of the service directory at dir, which is absolute.
func ServiceURL(dir string) string { return (&url.URL{Scheme: ServiceScheme, Path: dir}).String() }

// Services resolves service directories of runit, runit:///etc/sv/web, each to a component that runs it. It doesn't look at them.
type Services struct{}

// Resolve makes the declaration that says `program: { runner: "runit", service_dir: DIR }`.
func (Services) Resolve(_ context.Context, ref string, _ *Resolved) (*Resolved, error) {
	u, err := url.Parse(ref)
	if err == nil {
		plain := url.URL{Scheme: ServiceScheme, Path: u.Path}
		if *u != plain || !filepath.IsAbs(u.Path) || strings.ContainsRune(u.Path, 0) {
			err = errors.New("the URL of a service directory is written runit:///path")
		}
	}
	if err != nil {
		return nil, &Error{URL: ref, Why: capabilities.Invalid, Err: err}
	}
	v, found := manifest.Validate(&manifest.Component{
		Program: &manifest.Program{
			Runner: ServiceScheme,
			Info:   manifest.Dictionary{{Key: "service_dir", Value: manifest.String(filepath.Clean(u.Path))}},
		},
		Sources: []string{"service directory"},
	}, manifest.ValidateOptions{})
	if err := found.Err(); err != nil {
		return nil, &Error{URL: ref, Why: capabilities.Internal, Err: err}
	}
	return &Resolved{URL: ServiceURL(filepath.Clean(u.Path)), Decl: v}, nil
}
