package cml

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml/cmltest"
)

// withoutPlaces compares declarations as if nobody knew where they were written.
var withoutPlaces = cmp.Options{cmpopts.IgnoreTypes(manifest.Pos{}), cmpopts.EquateEmpty()}

// FuzzCompile states: every finding has a place in the source and words; a document equals what it is printed as; and its print
// compiles to the same declaration with the same verdict.
func FuzzCompile(f *testing.F) {
	f.Add(cmltest.Valid)
	f.Add(`{ "program": { "runner": "elf", "binary": "bin/echo" } "use": [ { runner: 'elf' } ] }`)
	f.Add(`{ offer: [{ protocol: ["a", "b"], from: ["#x", "void"], to: "all" }], children: [{ name: "x", url: "x#x" }], ` +
		`include: ["a"] }`)
	f.Add(`{ use: [{ config: "a", type: "vector", element: { type: "vector" }, max_count: 1, key: "k", default: [[1]] ` +
		`}], config: {} }`)
	f.Add(`{ use: [{ directory: "d", path: "/svc" }, { protocol: "p" }, { dictionary: "q", path: "/svc/p/x" }, { ` +
		`storage: "s", path: "/" }] }`)
	f.Add(`{ capabilities: [{ storage: "s", from: "#a", backing_dir: "d" }, { dictionary: "d", path: "/d" }], facets: { ` +
		`a: { b: [1] }, "a.b": null } }`)
	f.Fuzz(func(t *testing.T, src string) {
		doc, ds := Parse("f.cml", []byte(src))
		v, more := doc.load(Options{}, len(ds.Errors()) > 0)
		if all := append(ds, more...); v.IsZero() && doc.At.IsSet() && len(all.Errors()) == 0 {
			t.Fatalf("%q: refused without an error", src)
		}
		checkFuzzPlaces(t, src, append(ds, more...))
		if len(ds) > 0 || !doc.At.IsSet() {
			return
		}
		printed := doc.JSON()
		again, ds := Parse("f.cml", printed)
		if len(ds) > 0 || !again.Equal(doc) {
			t.Fatalf("%q is printed as %q: %v", src, printed, ds)
		}
		w, _ := again.load(Options{}, false)
		if v.IsZero() != w.IsZero() {
			t.Fatalf("%q: valid %v, its print %v", src, !v.IsZero(), !w.IsZero())
		}
		a, _ := Compile(doc)
		b, _ := Compile(again)
		if d := cmp.Diff(a, b, withoutPlaces); d != "" {
			t.Fatalf("%q compiles otherwise than its print: %s", src, d)
		}
	})
}

func checkFuzzPlaces(t *testing.T, src string, ds manifest.Diagnostics) {
	for _, d := range ds {
		if d.Rule == "" || d.Message == "" || d.Pos.Line < 1 || d.Pos.Col < 1 || int(d.Pos.Line) > strings.Count(src,
			"\n")+strings.Count(src, "\r")+1 {
			t.Fatalf("%q: finding %+v", src, d)
		}
	}
}

// FuzzMerge states: what is merged prints as a document that says the same; and merging the same document again settles. (The first
// time may differ from the second: a section that was lacking is taken over with what it says twice, which goes only when it meets
// another.) Of programs, facets and environments only the first, since their arrays are concatenated each time.
func FuzzMerge(f *testing.F) {
	f.Add(`{ use: [{ protocol: ["a", "b"] }], children: [{ name: "a", url: "a.cml" }] }`,
		`{ use: [{ protocol: "a", availability: "optional" }], expose: [] }`)
	f.Add(`{ offer: [{ service: "a", from: "self", to: "#b" }] }`,
		`{ offer: [{ service: ["a", "a1"], from: "self", to: "#b", availability: "same_as_target" }] }`)
	f.Add(`{ program: { runner: "elf", environ: ["a=b"], o: { p: { q: [] } } }, environments: [{ name: "e", extends: "realm" }] }`,
		`{ program: { runner: "elf", environ: ["c=d"], o: { p: { q: ["x"] } } }, environments: [{ name: "e", runners: [] }], `+
			`facets: { a: [1] } }`)
	f.Fuzz(func(t *testing.T, a, b string) {
		parse := func(s string) *Document {
			doc, ds := Parse("f.cml", []byte(s))
			if len(ds) > 0 {
				t.Skip()
			}
			return doc
		}
		doc := parse(a)
		if ds := doc.Merge(parse(b)); len(ds) > 0 {
			checkWords(t, ds)
			return
		}
		once := doc.JSON()
		if again, ds := Parse("f.cml", once); len(ds) > 0 || !again.Equal(doc) {
			t.Fatalf("%q + %q: printed as %q: %v", a, b, once, ds)
		}
		if doc.Program.At.IsSet() || doc.Facets.At.IsSet() || len(doc.Environments.Items) > 0 {
			return
		}
		if ds := doc.Merge(parse(b)); len(ds) > 0 {
			t.Fatalf("%q + %q: once fine, then %v", a, b, ds)
		}
		twice := doc.JSON()
		doc.Merge(parse(b))
		if d := cmp.Diff(string(twice), string(doc.JSON())); d != "" {
			t.Fatalf("%q + %q: merging does not settle: %s", a, b, d)
		}
	})
}

// checkWords checks that every finding has a place and words.
func checkWords(t *testing.T, ds manifest.Diagnostics) {
	t.Helper()
	for _, d := range ds {
		if d.Pos.File == "" || d.Pos.Line < 1 || d.Pos.Col < 1 || d.Rule == "" || d.Message == "" {
			t.Fatalf("empty finding %+v", d)
		}
	}
}

// FuzzExpand states: whatever two files include, expanding ends, reads each file once, and says what is missing; what is found in
// an included file has its place there; and including one file that includes nothing is merging it.
func FuzzExpand(f *testing.F) {
	f.Add(`{ include: ["b.cml", "/a.cml", "//b.cml", "../x/./b.cml", ""] }`, `{ include: ["a.cml"] }`)
	f.Add(`{ include: ["b.cml"], use: [{ protocol: "a" }] }`, `{ use: [{ protocol: ["a", "b"], availability: "optional" }], nosuch: 1 }`)
	f.Fuzz(func(t *testing.T, a, b string) {
		doc, _ := Parse("a.cml", []byte(a))
		includes := doc.Include.Items
		ds := Expand(doc, &Includes{Paths: []string{"inc"}, Open: func(file string) ([]byte, error) {
			switch file {
			case "a.cml":
				return []byte(a), nil
			case "b.cml":
				return []byte(b), nil
			}
			return nil, fs.ErrNotExist
		}})
		if len(includes) > 0 && len(doc.Included) == 0 && len(ds) == 0 {
			t.Fatalf("%q: includes vanished", a)
		}
		checkWords(t, ds)
		if len(doc.Include.Items) > 0 || len(doc.Included) > 1 {
			t.Fatalf("%q: included %v, still to include %v", a, doc.Included, values(doc.Include))
		}
		for _, d := range ds {
			if d.Pos.File != "a.cml" && (d.Pos.File != "b.cml" || d.IncludedAt.File != "a.cml") {
				t.Fatalf("%q: finding %+v", a, d)
			}
		}
		part, found := Parse("b.cml", []byte(b))
		if len(includes) != 1 || len(doc.Included) != 1 || len(part.Include.Items) > 0 || len(found) > 0 {
			return
		}
		merged, _ := Parse("a.cml", []byte(a))
		merged.Include = Texts{}
		part.Include = Texts{}
		more := merged.Merge(part)
		if len(more) != len(ds) || !merged.Equal(doc) {
			t.Fatalf("%q including %q is %s (%v), merging it %s (%v)", a, b, doc.JSON(), ds, merged.JSON(), more)
		}
	})
}
