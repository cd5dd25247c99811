package cml

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
)

// Bounds of what one manifest includes: files in all, their bytes, and how deep they are within each other. What is included
// deeply is merged at every level.
const (
	maxIncludes     = 1000
	maxIncludeBytes = 16 << 20
	maxIncludeDepth = 100
)

// Includes say where included files are found. An include "//x" is x below Root; an absolute path is itself; any other is the
// first that
// exists of: x beside the including file, x, x below each of Paths.
type Includes struct {
	// Open gives the contents of a file, named as above with "." and ".." removed lexically. That there is none is an
	// fs.ErrNotExist.
	Open  func(file string) ([]byte, error)
	Root  string
	Paths []string
}

// Expand merges all that doc includes into it, each file once, its own includes first, and removes `include`. doc.Included lists
// the files
// afterwards.
func Expand(doc *Document, in *Includes) manifest.Diagnostics {
	main := path.Clean(doc.Source.File)
	e := expander{in: in, visited: map[string]bool{main: true}}
	e.expand(doc, []string{main})
	doc.Included, doc.IncludedAt = e.files, e.places
	ds := arrange(e.diagnostics)
	if e.omitted > 0 {
		ds = append(ds, manifest.Omitted(ds[len(ds)-1].Pos, e.omitted, false))
	}
	return doc.Placed(ds)
}

// Placed tells of each finding in a file that d includes where that is included.
func (d *Document) Placed(ds manifest.Diagnostics) manifest.Diagnostics {
	if len(d.Included) == 0 {
		return ds
	}
	includes := make(map[string]At, len(d.Included))
	for i, file := range d.Included {
		includes[file] = d.IncludedAt[i]
	}
	for i := range ds {
		ds[i].IncludedAt = includes[ds[i].Pos.File].Pos()
	}
	return ds
}

type expander struct {
	in          *Includes
	visited     map[string]bool
	files       []string
	places      []At
	bytes       int // of the files
	full        bool
	omitted     int // findings beyond maxFindings
	diagnostics manifest.Diagnostics
}

func (e *expander) report(at At, hint, format string, args ...any) {
	if len(e.diagnostics) >= maxFindings {
		e.omitted++
		return
	}
	e.diagnostics = append(e.diagnostics, manifest.Diagnostic{
		Pos: at.Pos(), Rule: "include", Hint: hint,
		Message: fmt.Sprintf(format, args...),
	})
}

// expand merges doc's includes into doc. stack is the files under way, doc's own last.
func (e *expander) expand(doc *Document, stack []string) {
	includes := doc.Include.Items
	doc.Include = Texts{}
	var m *merger
	for _, t := range includes {
		dir := path.Dir(stack[len(stack)-1])
		isVisited := func(c string) bool { return e.visited[c] }
		if len(stack) > maxIncludeDepth && !slices.ContainsFunc(e.candidates(t.Value, dir), isVisited) {
			e.report(t.At, "", "files include each other more than %d deep", maxIncludeDepth)
			continue
		}
		file, src, err := e.find(t.Value, dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.report(t.At, "searched: "+strings.Join(e.candidates(t.Value, dir), ", "),
				"include %q: no such file", t.Value)
			continue
		case err != nil:
			e.report(t.At, "", "include %q: %v", t.Value, err)
			continue
		}
		if i := slices.Index(stack, file); i >= 0 {
			e.report(t.At, "", "Circular include detected: %s -> %s", strings.Join(stack[i:], " -> "), file)
			continue
		}
		if e.visited[file] {
			continue
		}
		e.bytes += len(src)
		switch {
		case e.full: // said once
			continue
		case len(e.files) == maxIncludes:
			e.full = true
			e.report(t.At, "", "more than %d files included", maxIncludes)
			continue
		case e.bytes > maxIncludeBytes:
			e.full = true
			e.report(t.At, "", "more than %d bytes included", maxIncludeBytes)
			continue
		}
		e.visited[file] = true
		e.files, e.places = append(e.files, file), append(e.places, t.At)
		part, ds := Parse(file, src)
		e.diagnostics = append(e.diagnostics, ds...)
		e.expand(part, append(stack[:len(stack):len(stack)], file))
		if m == nil {
			m = newMerger(doc)
		}
		m.add(part)
	}
	if m != nil {
		m.finish()
		e.diagnostics = append(e.diagnostics, m.diagnostics...)
	}
}

// candidates are the files that x may mean, in order.
func (e *expander) candidates(x, dir string) []string {
	if rest, ok := strings.CutPrefix(x, "//"); ok {
		return []string{path.Join(e.in.Root, rest)}
	}
	if path.IsAbs(x) {
		return []string{path.Clean(x)}
	}
	out := []string{path.Join(dir, x)}
	for _, p := range append([]string{""}, e.in.Paths...) {
		if c := path.Join(p, x); !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

func (e *expander) find(x, dir string) (string, []byte, error) {
	err := fs.ErrNotExist
	if x == "" {
		return "", nil, err
	}
	for _, c := range e.candidates(x, dir) {
		if e.visited[c] {
			return c, nil, nil // not read again: n files that all include each other would be read n² times
		}
		src, openErr := e.in.Open(c)
		if openErr == nil {
			return c, src, nil
		}
		if err = openErr; !errors.Is(err, fs.ErrNotExist) {
			return c, nil, err
		}
	}
	return "", nil, err
}
