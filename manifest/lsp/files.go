package lsp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/json5"
	"github.com/cmgr/cmgr/manifest/name"
)

// pathOf is the path of a file's URI; "" for others.
func pathOf(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "file" || !filepath.IsAbs(u.Path) || strings.ContainsRune(u.Path, 0) {
		return ""
	}
	return filepath.Clean(u.Path)
}

// uriOf is the URI of a file: the one that the client uses, if it has it open.
func (s *server) uriOf(path string) string {
	if d := s.open(path); d != nil {
		return d.uri
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// open is the open document of a file; nil if there is none.
func (s *server) open(path string) *document {
	for _, d := range s.documents {
		if d.path == path {
			return d
		}
	}
	return nil
}

// readFile is the contents of a file as the editor has it, else from the disk. Only what may be a manifest is read: no device, no
// pipe, nothing of more than a manifest's size.
func (s *server) readFile(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fs.ErrNotExist // the working directory of a server means nothing
	}
	if d := s.open(path); d != nil {
		return []byte(d.text.src), nil
	}
	if !isFile(path) {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, json5.DefaultMaxBytes+1))
	if err == nil && len(b) > json5.DefaultMaxBytes {
		err = fmt.Errorf("open %s: %w", path, errors.New("too large for a manifest"))
	}
	return b, err
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// includes say how the includes of d are found: "//x" below the root that the server was given, else below the client's folder
// that holds d, else beside d.
func (s *server) includes(d *document) *cml.Includes {
	in := &cml.Includes{Root: s.options.IncludeRoot, Paths: s.options.IncludePaths, Open: s.readFile}
	if in.Root == "" && d.path != "" {
		in.Root = filepath.Dir(d.path)
		longest := 0
		for _, f := range s.folders {
			if len(f) > longest && strings.HasPrefix(d.path, strings.TrimSuffix(f, "/")+"/") {
				in.Root, longest = f, len(f)
			}
		}
	}
	return in
}

// manifestOf is the file that a child's URL in the manifest d means, as the resolver of this machine's files reads it; "" if
// there is none. The source is taken where both it and the compiled form are there.
func (s *server) manifestOf(d *document, ref string) string {
	if d.path == "" {
		return ""
	}
	dir := filepath.Dir(d.path)
	pkg := dir
	if filepath.Base(dir) == "meta" {
		pkg = filepath.Dir(dir)
	}
	var file string
	if name.IsManifestPath(ref) {
		file = filepath.Join(dir, ref)
	} else if u, err := url.Parse(ref); err == nil && (u.Scheme == "file" || u.Scheme == "" && u.Fragment != "") {
		if u.Scheme == "file" {
			pkg = "/"
		}
		file = filepath.Join(pkg, u.Path, u.Fragment)
	}
	if file == "" || strings.ContainsRune(file, 0) {
		return ""
	}
	if source := file + "l"; strings.HasSuffix(file, ".cm") && (s.open(source) != nil || isFile(source)) {
		return source
	}
	if s.open(file) != nil || isFile(file) {
		return file
	}
	return ""
}

// manifestTree is the tree of another manifest than the ones at hand; nil if it cannot be read.
func (s *server) manifestTree(path string) (*text, *node) {
	src, err := s.readFile(path)
	if err != nil {
		return nil, nil
	}
	t := newText(string(src), s.utf16)
	root, _ := parseTree(t.src)
	return t, root
}
