// Package resolver makes declarations out of URLs. It is the only room that knows where manifests lie: the tree above hands it
// what a manifest says, and gets a validated declaration with the package that it belongs to.
//
// Disk, the resolver of this machine's files, knows these URLs:
//
//	file:///srv/tree/net.cml     a manifest file. Its package is the parent of its directory if that is called "meta", else the
//	                             directory itself; and that package is the tree that its relative URLs stay in
//	file:///srv/net#meta/x.cm    the manifest meta/x.cm of the package /srv/net
//	/srv/tree/net.cml            the same as the first; for the root only, as people type it
//	echo.cml, ../log/log.cm      a manifest file, relative to the directory of the manifest that says it
//	#meta/x.cm                   another manifest of the package that the manifest that says it belongs to
//	net#meta/x.cm                a manifest of the package net, a path relative to that package
//
// Of a manifest named by a fragment the source is compiled where only that is there (meta/x.cml for #meta/x.cm).
//
// Beside a manifest with a `config` section may lie its value file, of the same name with ".cvf" for an ending: one JSON5 object,
// with values for keys of the configuration.
//
// What is reachable: by an absolute URL any file that the manager may read, and there symlinks are followed; by a fragment only
// the package; by a relative path only the tree, that is the package of the nearest ancestor with an absolute URL, in most
// cases of the root. So ".." is allowed as long as it stays in the tree, and symlinks are followed as long as they do.
package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// A Resolver turns URLs into declarations. It is safe for concurrent use.
type Resolver interface {
	// Resolve reads the declaration at url. parent is what the component whose manifest says url was resolved to, nil for the
	// root. The result is shared and must not be changed. Errors have a capabilities.Code; those of a manifest that is wrong
	// carry manifest.Diagnostics.
	Resolve(ctx context.Context, url string, parent *Resolved) (*Resolved, error)
}

// Resolved is a declaration and where it came from.
type Resolved struct {
	URL      string // absolute; resolves to the same without a parent
	Decl     manifest.Validated
	Package  runners.Package
	Sources  []string // the files it was read from, absolute, the manifest itself first
	Warnings manifest.Diagnostics
	// Values are what the package's value file says of the configuration; nil without one.
	Values map[string]any

	// What relative URLs are relative to, beside the package.
	dir  string // the manifest's directory, absolute, without symlinks
	tree string // what relative paths stay in, likewise
	// loaded is where a loader put it, nil for a file of this disk.
	loaded *fetched
}

// An Error is why a URL gives no declaration.
type Error struct {
	URL  string
	Why  capabilities.Code
	Err  error // manifest.Diagnostics, where the manifest is wrong
	Hint string
}

// Error is the diagnostics, which name the file, or "url: cause".
func (e *Error) Error() string {
	if _, ok := manifest.AsDiagnostics(e.Err); ok {
		return e.Err.Error()
	}
	s := e.URL + ": " + e.Err.Error()
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Code is NotFound, Invalid (the URL or the manifest), Denied, Unavailable (the file cannot be read) or Internal.
func (e *Error) Code() capabilities.Code { return e.Why }

// FileURL is the URL of the file at path, as people type it on a command line: relative to the working directory.
func FileURL(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return fileURL(abs, ""), nil
}

func fileURL(path, fragment string) string {
	return (&url.URL{Scheme: "file", Path: path, Fragment: fragment}).String()
}

// A place is where a URL says that a manifest lies. It is made without looking at the disk.
type place struct {
	// tree is what the manifest, or else its package, must be beneath; "" for an absolute URL, which starts a tree.
	tree string
	pkg  string // the package, if the URL names it: absolute
	file string // the manifest: absolute, or relative to pkg
}

var errAbsolute = errors.New("in a manifest an absolute path is written file:///path")

// locate reads a URL.
func locate(ref string, parent *Resolved) (place, error) {
	if parent == nil && filepath.IsAbs(ref) {
		return place{file: filepath.Clean(ref)}, nil
	}
	if parent != nil && name.IsManifestPath(ref) {
		// A path, not a URL: "%" is itself.
		switch {
		case filepath.IsAbs(ref):
			return place{}, errAbsolute
		case parent.dir == "":
			return place{}, errors.New("relative to a manifest that is no file of this machine")
		}
		return place{tree: parent.tree, file: filepath.Join(parent.dir, ref)}, nil
	}
	u, err := url.Parse(ref)
	switch {
	case err != nil:
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return place{}, err
	case u.Scheme == "file" && (u.Opaque != "" || !filepath.IsAbs(u.Path) || u.Host != "" && u.Host != "localhost"):
		return place{}, errors.New("a file URL is written file:///path, of this machine")
	case u.Scheme != "" && u.Scheme != "file":
		return place{}, fmt.Errorf("no file URL (%s)", u.Scheme)
	case u.RawQuery != "" || u.ForceQuery || u.User != nil:
		return place{}, errors.New("a file URL has no query and no user")
	case strings.ContainsRune(u.Path+u.Fragment, 0):
		return place{}, errors.New("a path has no NUL")
	}
	file := filepath.Clean(u.Fragment)
	switch {
	case u.Scheme == "file" && u.Fragment == "":
		return place{file: filepath.Clean(u.Path)}, nil
	case u.Scheme == "file":
		return place{pkg: filepath.Clean(u.Path), file: file}, nil
	case parent == nil:
		return place{}, errors.New("a relative URL of a component without a parent")
	case filepath.IsAbs(u.Path) || u.Host != "":
		return place{}, errAbsolute
	case u.Fragment == "":
		return place{}, errors.New("a relative URL has a fragment, or is the path of a .cml or .cm file")
	case parent.Package.Dir == "":
		return place{}, errors.New("relative to a component without a package")
	}
	// The package of a parent that another resolver resolved is a tree of its own.
	tree := cmp.Or(parent.tree, parent.Package.Dir)
	return place{tree: tree, pkg: filepath.Join(parent.Package.Dir, u.Path), file: file}, nil
}

// String is the absolute name of the manifest, before any symlink is followed.
func (at place) String() string { return filepath.Join(at.pkg, at.file) }

// packageOf is the directory of the package that the manifest at file belongs to; within tree, unless that is "".
func packageOf(file, tree string) string {
	dir := filepath.Dir(file)
	if filepath.Base(dir) == "meta" && dir != tree {
		return filepath.Dir(dir)
	}
	return dir
}
