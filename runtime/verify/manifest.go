package verify

import (
	"cmp"
	"slices"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf"
)

// CheckManifest says all that is to be said of one manifest, a source or a compiled one, without looking at its tree: what the
// language says, and of a program that the runner elf runs also what that runner will. The findings are in the order of their
// places.
func CheckManifest(file string, src []byte, o cml.Options) manifest.Diagnostics {
	doc, c, ds := load(file, src, o)
	if c.Program != nil && isELF(c) {
		ds = append(ds, doc.Placed(elf.Check(runners.Block{Pos: c.Program.Pos, Info: c.Program.Info}))...)
	}
	slices.SortStableFunc(ds, func(a, b manifest.Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Col, b.Pos.Col))
	})
	return ds
}

// CheckReferences is cml.ValidateReferences of a manifest, a source or a compiled one, or what is wrong with it otherwise.
func CheckReferences(file string, src []byte, o cml.Options, provided []string) manifest.Diagnostics {
	doc, c, ds := load(file, src, o)
	if ds.Err() == nil {
		ds = append(ds, doc.Placed(cml.ValidateReferences(c, provided))...)
	}
	return ds
}

// load reads a manifest of either form; doc is empty for a compiled one. The declaration is never nil, and has what could be
// read if there are errors.
func load(file string, src []byte, o cml.Options) (doc *cml.Document, c *manifest.Component, ds manifest.Diagnostics) {
	var v manifest.Validated
	if codec.Is(src) {
		doc = &cml.Document{}
		v, ds = codec.Load(file, src)
	} else {
		doc, v, ds = cml.LoadDocument(file, src, o)
	}
	switch {
	case !v.IsZero():
		c = v.Decl()
	case codec.Is(src):
		c = &manifest.Component{}
	default:
		c, _ = cml.Compile(doc)
	}
	return doc, c, ds
}

// isELF says whether the runner is called elf here. It may have another name, which only the tree can tell.
func isELF(c *manifest.Component) bool {
	return c.Program.Runner == "elf" || slices.ContainsFunc(c.Uses, func(u manifest.Use) bool {
		return u.Kind == manifest.KindRunner && u.SourceName == "elf"
	})
}
