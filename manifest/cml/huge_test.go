package cml

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest"
)

// TestHugeManifests: what is much longer than anybody writes is decided in seconds, whatever its form.
func TestHugeManifests(t *testing.T) {
	repeat := func(head, form, tail string, n int) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range n {
			b.WriteString(strings.ReplaceAll(form, "%", fmt.Sprint(i)))
		}
		b.WriteString(tail)
		return b.String()
	}
	const n = 5_000
	for name, src := range map[string]string{
		"names in an array": repeat(`{ use: [{ protocol: [`, `"n%",`, `] }] }`, 8*n),
		"equal names":       repeat(`{ use: [{ protocol: [`, `"n",`, `] }] }`, 8*n),
		"config fields":     repeat(`{ config: {`, `k%: { type: "bool" },`, `} }`, 4*n),
		"facets":            repeat(`{ facets: {`, `k%: "x",`, `} }`, 8*n),
		"facets in facets":  repeat(`{ facets: {`, `"k%.a.b": "x",`, `} }`, 8*n),
		"facets twice":      repeat(`{ facets: {`, `k%: "x", k%: "y",`, `} }`, 4*n),
		"unknown keys":      repeat(`{`, `chldren%: 1,`, `}`, 8*n),
		"offers to all": repeat(`{ offer: [`,
			`{ protocol: "p%", from: "parent", to: "all" }, { protocol: "p%", from: "parent", to: "#a" },`,
			`], children: [{ name: "a", url: "a.cml" }] }`, n),
		"offers to all, of many": repeat(`{ offer: [{ protocol: [`, `"p%",`, `], from: "parent", to: "all" }], children: [`, n) +
			repeat(``, `{ name: "c%", url: "#a" },`, `] }`, n),
		"names × targets": repeat(`{ offer: [{ protocol: [`, `"p%",`, `], from: "parent", to: [`, n) + repeat(``, `"#c%",`,
			`] }] }`, n),
		"children and offers": repeat(`{ children: [`, `{ name: "c%", url: "#a" },`, `], offer: [`, n) + repeat(``,
			`{ runner: "elf", from: "parent", to: "#c%" },`, `] }`, n),
		"dangling": repeat(`{ children: [`, `{ name: "c%", url: "#a" },`, `], offer: [`, n) + repeat(``,
			`{ runner: "elf", from: "#d%", to: "#e%" },`, `] }`, n),
		"uses":                   repeat(`{ use: [`, `{ protocol: "p%" },`, `] }`, 2*n),
		"one line of characters": repeat(`{ facets: {`, `"ä%": 1,`, `} }`, 4*n),
		"depth":                  `{ facets: ` + strings.Repeat(`{ a: [`, 500_000),
		"missing commas":         repeat(`{ use: [`, `{ protocol: "p%" }`, `] }`, 2*n),
	} {
		start := time.Now()
		doc, _ := Parse(name, []byte(src))
		again, _ := Parse(name, []byte(src))
		doc.Merge(again)
		doc.Canonicalize()
		v, ds := Load(name, []byte(src), Options{})
		if !v.IsZero() {
			Decompile(v.Decl())
		}
		if fixed, _ := Repair(name, []byte(src)); fixed != nil {
			Format(name, fixed)
		}
		d := time.Since(start)
		t.Logf("%s: %d bytes, %d findings, %v", name, len(src), len(ds), d.Round(time.Millisecond))
		if d > 30*time.Second {
			t.Errorf("%s: %d bytes take %v", name, len(src), d)
		}
	}
}

// TestLimits: what is too long or too deep is refused at its place, in words that say how much may be.
func TestLimits(t *testing.T) {
	for src, want := range map[string]string{
		`{ facets: { a: "` + strings.Repeat("x", 5_000_000) + `" } }`: "m.cml:1:1: source of 5000021 bytes: no more than 4194304 allowed",
		`{ facets: ` + strings.Repeat("{ a: ", 300):                   "m.cml:1:1006: nested more than 200 deep",
	} {
		if v, ds := Load("m.cml", []byte(src), Options{}); !v.IsZero() || ds.Error() != want {
			t.Errorf("%v, want %s", ds, want)
		}
	}
}

// TestManyIncludes: as many files as may be included take no more time than their text in one.
func TestManyIncludes(t *testing.T) {
	shard := func(i int) string {
		return strings.ReplaceAll(`{
			use: [{ protocol: "p%" }, { protocol: "log", availability: "optional" }],
			children: [{ name: "c%", url: "#c" }],
			offer: [{ protocol: "q%", from: "parent", to: "#c%" }],
			expose: [{ protocol: "r%", from: "#c%" }],
			environments: [{ name: "e%", extends: "realm" }],
			config: { k%: { type: "bool" } },
			program: { o%: { k: "v" } },
			facets: { f%: "x" },
		}`, "%", fmt.Sprint(i))
	}
	load := func(files map[string]string) (manifest.Validated, manifest.Diagnostics) {
		return Load("root.cml", []byte(files["root.cml"]), Options{Includes: &Includes{Open: func(file string) ([]byte, error) {
			if src, ok := files[file]; ok {
				return []byte(src), nil
			}
			return nil, fs.ErrNotExist
		}}})
	}
	wide := func(n int) map[string]string {
		files, list := map[string]string{}, ""
		for i := range n {
			files[fmt.Sprintf("s%d", i)] = shard(i)
			list += fmt.Sprintf("%q, ", fmt.Sprintf("s%d", i))
		}
		files["root.cml"] = `{ program: { runner: "elf" }, include: [` + list + `] }`
		return files
	}
	v, ds := load(wide(maxIncludes))
	if v.IsZero() {
		t.Fatal(ds.Err())
	}
	if d := v.Decl(); len(d.Children) != maxIncludes || len(d.Uses) != maxIncludes+1 || len(d.Sources) != maxIncludes+1 ||
		len(d.Environments) != maxIncludes || len(d.Config.Fields) != maxIncludes || len(d.Facets) != maxIncludes {
		t.Errorf("%d children, %d uses, %d sources", len(d.Children), len(d.Uses), len(d.Sources))
	}
	if _, ds := load(wide(maxIncludes + 2)); len(ds.Errors()) != 1 || !strings.Contains(ds[0].Message, "more than 1000 files") {
		t.Error(ds.Err())
	}

	deep := func(n int) map[string]string {
		files := map[string]string{"root.cml": `{ include: [ "s0" ] }`}
		for i := range n {
			files[fmt.Sprintf("s%d", i)] = fmt.Sprintf(`{ include: [ "s%d" ], children: [{ name: "c%d", url: "#c" }] }`, i+1, i)
		}
		files[fmt.Sprintf("s%d", n)] = "{}"
		return files
	}
	if v, ds := load(deep(maxIncludeDepth - 1)); v.IsZero() || len(v.Decl().Children) != maxIncludeDepth-1 {
		t.Error(ds.Err())
	}
	// Each file is read once, however many include it.
	const all = 500
	list := ""
	for i := range all {
		list += fmt.Sprintf("%q, ", fmt.Sprintf("s%d", i))
	}
	opened := 0
	_, ds = Load("s0", []byte("{ include: ["+list+"] }"), Options{Includes: &Includes{Open: func(file string) ([]byte, error) {
		opened++
		return fmt.Appendf(nil, "{ include: [%s] }", list), nil
	}}})
	if opened > all || len(ds) == 0 || !strings.Contains(ds[0].Message, "Circular include") {
		t.Errorf("%d files were opened %d times: %v", all, opened, ds[:min(len(ds), 1)])
	}
	// Not the number of files but their size.
	big := wide(10)
	for i := range 10 {
		big[fmt.Sprintf("s%d", i)] += "//" + strings.Repeat(" ", maxIncludeBytes/5)
	}
	_, ds = load(big)
	if len(ds) != 1 || ds[0].Message != "more than 16777216 bytes included" || ds[0].Pos.String() != "root.cml:1:65" {
		t.Error(ds)
	}
	_, ds = load(deep(maxIncludeDepth))
	if len(ds) != 1 || ds[0].Message != "files include each other more than 100 deep" || ds[0].Pos.String() != "s99:1:14" ||
		ds[0].IncludedAt.String() != "s98:1:14" {
		t.Error(ds.Err())
	}
}

// BenchmarkIncludes reads manifests that include so many files of one kind; the time for each file is to stay the same.
func BenchmarkIncludes(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			list := ""
			for i := range n {
				list += fmt.Sprintf("%q, ", fmt.Sprintf("s%d", i))
			}
			in := &Includes{Open: func(file string) ([]byte, error) {
				return fmt.Appendf(nil, `{ use: [{ protocol: "p%s" }], children: [{ name: "c%[1]s", url: "#c" }], facets: { f%[1]s: "x" } }`,
					file), nil
			}}
			for b.Loop() {
				if v, ds := Load("root.cml", []byte(`{ include: [`+list+`] }`), Options{Includes: in}); v.IsZero() {
					b.Fatal(ds)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/file")
		})
	}
}
