package cml

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml/cmltest"
)

// checkDecompile checks that what v is decompiled to is formatted, parses, and compiles to v again.
func checkDecompile(t interface{ Fatalf(string, ...any) }, v manifest.Validated) {
	src := Decompile(v.Decl())
	again, ds := Load("d.cml", src, Options{})
	if again.IsZero() {
		t.Fatalf("decompiled to\n%s%v", src, ds)
	}
	c := *again.Decl()
	c.Sources = v.Decl().Sources
	if d := cmp.Diff(v.Decl(), &c, withoutPlaces); d != "" {
		t.Fatalf("decompiled to\n%swhich compiles to something else:\n%s", src, d)
	}
}

// TestDecompile: compile, decompile, compile is compile, for all that is valid in the vectors and the corpus.
func TestDecompile(t *testing.T) {
	n := 0
	check := func(file string, src []byte, o Options) {
		v, _ := Load(file, src, o)
		if !v.IsZero() {
			n++
			checkDecompile(t, v)
		}
	}
	check("valid.cml", []byte(cmltest.Valid), Options{})
	for file, vs := range readVectors(t, "validate_*.json") {
		for _, v := range vs {
			check(file+" "+v.Name, []byte(v.CML), Options{})
		}
	}
	dir, index := corpus(t)
	for _, f := range index {
		src, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			t.Fatal(err)
		}
		for _, root := range []string{"includeroot-newest", "includeroot-2023"} {
			root := filepath.Join(dir, root)
			check(f.File, src, Options{Includes: &Includes{
				Root: root, Paths: []string{filepath.Join(root, "sdk/lib")},
				Open: func(file string) ([]byte, error) {
					b, err := os.ReadFile(file)
					if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(file) {
						b, err = os.ReadFile(filepath.Join(dir, file))
					}
					return b, err
				},
			}})
		}
	}
	if n < 200 {
		t.Errorf("only %d valid manifests", n)
	}
}

// generated is a valid manifest with a bit of everything.
func generated(t *rapid.T) string {
	pick := func(words ...string) string { return rapid.SampledFrom(words).Draw(t, "word") }
	some := func(f func(i int) string) string {
		var out []string
		for i := range rapid.IntRange(0, 4).Draw(t, "n") {
			out = append(out, f(i))
		}
		return strings.Join(out, ",\n")
	}
	availability := func() string { return pick("", `, availability: "optional"`, `, availability: "transitional"`) }
	var b strings.Builder
	children := rapid.IntRange(1, 3).Draw(t, "children")
	b.WriteString("{ children: [")
	for i := range children {
		fmt.Fprintf(&b, "{ name: 'c%d', url: '#c'%s%s },", i, pick("", ", startup: 'eager'"), pick("", ", on_terminate: 'reboot'",
			", on_terminate: 'restart'", ", on_terminate: 'restart', restart: { limit: 3, window_ms: 5 }",
			", on_terminate: 'restart', restart: { delay_ms: 0 }", ", environment: '#e'"))
	}
	b.WriteString("], collections: [{ name: 'k', durability: '" + pick("transient", "single_run") + "'" +
		pick("", ", allowed_offers: 'static_and_dynamic'", ", persistent_storage: true") + " }],\n")
	b.WriteString("environments: [{ name: 'e', extends: 'realm'" + pick("", ", __stop_timeout_ms: 0", ", __stop_timeout_ms: 7"))
	b.WriteString(", debug: [" + some(func(i int) string {
		return fmt.Sprintf("{ protocol: ['d%d', 'f%d'], from: 'parent' }", i, i)
	}) + "] }],\n")
	target := func() string {
		return pick("'#c0'", "['#c0', '#k']", fmt.Sprintf("['#c%d', '#k']", children-1), "'#k'")
	}
	b.WriteString("offer: [" + some(func(i int) string {
		kind := pick("protocol", "directory", "runner", "storage")
		names := pick(fmt.Sprintf("['o%d', 'p%d']", i, i), fmt.Sprintf("'o%d'", i), fmt.Sprintf("'o%d', as: 'q%d'", i, i))
		return fmt.Sprintf("{ %s: %s, from: 'parent', to: %s%s }", kind, names, target(), availability())
	}) + "],\n")
	b.WriteString("expose: [" + some(func(i int) string {
		return fmt.Sprintf("{ %s: %s, from: '#c0'%s }", pick("protocol", "service"), pick(fmt.Sprintf("['x%d', 'y%d']", i, i),
			fmt.Sprintf("'x%d'", i)), availability())
	}) + "],\n")
	b.WriteString("use: [" + some(func(i int) string {
		return pick(fmt.Sprintf("{ protocol: ['u%d', 'v%d']%s }", i, i, availability()),
			fmt.Sprintf("{ protocol: 'u%d', path: '/svc/w%d' }", i, i),
			fmt.Sprintf("{ directory: 'u%d', path: '/d%d', rights: ['%s'] }", i, i, pick("r*", "rw*", "connect", "x*")),
			fmt.Sprintf("{ storage: 'u%d', path: '/d%d' }", i, i),
			fmt.Sprintf("{ config: 'u%d', key: 'k%d', type: 'uint8', availability: 'optional', default: 3 }", i, i))
	}) + "],\n")
	word := rapid.StringMatching(`[a-c]?(\.[a-c]?){0,3}`)
	b.WriteString("facets: {")
	seen := map[string]bool{}
	for range rapid.IntRange(0, 5).Draw(t, "facets") {
		if k := word.Draw(t, "key"); !seen[k] {
			seen[k] = true
			fmt.Fprintf(&b, "%q: %s,", k, pick("'x'", "null", "[]", "['y', 'z']", "[{ a: { b: 'c' } }, {}]"))
		}
	}
	b.WriteString("}, program: { runner: 'elf', binary: 'b', 'runner.x': 'y', limits: { nofile: '1' } }, ")
	b.WriteString("capabilities: [" + some(func(i int) string {
		return pick(fmt.Sprintf("{ protocol: ['g%d', 'h%d'] }", i, i), fmt.Sprintf("{ protocol: 'g%d', path: '/a/b' }", i),
			fmt.Sprintf("{ config: 'g%d', type: 'vector', element: { type: 'int8' }, max_count: 3, value: [-1, 2] }", i),
			fmt.Sprintf("{ directory: 'g%d', path: '/x', rights: ['r*', 'write_bytes'] }", i), fmt.Sprintf("{ dictionary: 'g%d' }", i))
	}) + "] }\n")
	return b.String()
}

func TestDecompileGenerated(t *testing.T) {
	valid := 0
	rapid.Check(t, func(t *rapid.T) {
		src := generated(t)
		v, _ := Load("g.cml", []byte(src), Options{})
		if !v.IsZero() {
			valid++
			checkDecompile(t, v)
		}
	})
	if valid < 10 {
		t.Errorf("only %d generated manifests were valid", valid)
	}
}

// FuzzDecompile states: what is valid is decompiled to what compiles to the same.
func FuzzDecompile(f *testing.F) {
	f.Add(cmltest.Valid)
	f.Add(`{ facets: { "a": "b", "a.b": "c", "": { "": null } }, program: { runner: "x", "runner.y": [{}] } }`)
	f.Fuzz(func(t *testing.T, src string) {
		if v, _ := Load("f.cml", []byte(src), Options{}); !v.IsZero() {
			checkDecompile(t, v)
		}
	})
}
