package cml

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// CheckIncludes checks that a document, as Parse left it, includes each of the expected files, be it through others. An expected
// file is named as in `include`. If none is expected the includes are not even read. The findings are those of Expand, and one
// for each file that is missing; doc.Included lists the files afterwards.
func CheckIncludes(doc *Document, expected []string, in *Includes) manifest.Diagnostics {
	if len(expected) == 0 {
		return nil
	}
	main := doc.Source.File
	at, dir := orElse(doc.Include.At, doc.At), path.Dir(path.Clean(main))
	ds := Expand(doc, in)
	for _, x := range expected {
		e := expander{in: in}
		if slices.ContainsFunc(e.candidates(x, dir), func(c string) bool { return slices.Contains(doc.Included, c) }) {
			continue
		}
		pos := at.Pos()
		pos.File = main
		ds = append(ds, manifest.Diagnostic{
			Pos: pos, Rule: "must-include", Message: fmt.Sprintf("%q must include %q", main, x),
			Hint: fmt.Sprintf("add it: include: [ %q ]", x),
		})
	}
	return ds
}

// runsPackaged are the runners whose program is a file of the component's package.
var runsPackaged = []string{"driver", "elf", "elf_test_runner", "go_test_runner", "gtest_runner", "rust_test_runner"}

// ValidateReferences checks that the files that the program names are in the package, whose files provided lists. It knows the
// runners of the reference compiler only, and leaves other programs alone, and absolute paths, which are files of the machine.
func ValidateReferences(c *manifest.Component, provided []string) manifest.Diagnostics {
	p := c.Program
	if p == nil {
		return nil
	}
	runner := p.Runner
	for i := range c.Uses {
		if c.Uses[i].Kind == manifest.KindRunner {
			runner = c.Uses[i].SourceName
		}
	}
	if !slices.Contains(runsPackaged, runner) {
		return nil
	}
	keys := []string{"binary"}
	if runner == "driver" {
		keys = []string{"binary", "bind", "compat"}
	}
	var ds manifest.Diagnostics
	for _, key := range keys {
		e, _ := p.Info.Get(key)
		file, ok := e.Value.(manifest.String)
		if !ok || strings.HasPrefix(string(file), "/") || provides(provided, string(file)) {
			continue
		}
		d := manifest.Diagnostic{
			Pos: e.Pos, Rule: "missing-file", Hint: "the package is empty",
			Message: fmt.Sprintf("program.%s=%s but %s is not provided by deps!", key, file, file),
		}
		if len(provided) > 0 {
			d.Hint = fmt.Sprintf("the package has %d files, none of which has a name like it", len(provided))
		}
		if near := name.Nearest(string(file), provided); near != "" {
			d.Hint = fmt.Sprintf("did you mean %q?", near)
		}
		ds = append(ds, d)
	}
	return ds
}

// provides says whether the package has the file, or the same test disabled.
func provides(provided []string, file string) bool {
	if slices.Contains(provided, file) {
		return true
	}
	test, ok := strings.CutPrefix(file, "test/")
	return ok && slices.Contains(provided, "test/disabled/"+test)
}
