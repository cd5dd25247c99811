package resolver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/manifest/name"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// source is a manifest that can be told from others: it provides a protocol of that name.
func source(name string) string { return "{ capabilities: [{ protocol: '" + name + "' }] }" }

// says is the name in a declaration that source made.
func says(r *Resolved) string {
	if c := r.Decl.Decl().Capabilities; len(c) == 1 {
		return c[0].Name
	}
	return "?"
}

// write makes files below a new directory, which it returns without symlinks. "-> target" makes a symlink, "cm: name" a compiled
// source(name). All are old enough to be remembered.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		put(t, filepath.Join(top, name), text)
	}
	return top
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if target, ok := strings.CutPrefix(text, "-> "); ok {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if name, ok := strings.CutPrefix(text, "cm: "); ok {
		v, ds := cml.Load("source.cml", []byte(source(name)), cml.Options{})
		data, err := codec.Encode(v.Decl())
		if ds.Err() != nil || err != nil {
			t.Fatal(ds, err)
		}
		text = string(data)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	age(t, path)
}

func age(t testing.TB, path string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

var tree = map[string]string{
	"srv/root.cml":              source("root"),
	"srv/echo.cml":              source("echo"),
	"srv/net/net.cml":           source("net"),
	"srv/net/log.cml":           source("netlog"),
	"srv/net/meta/net.cm":       "cm: netmeta",
	"srv/net/meta/other.cml":    source("netother"),
	"srv/net/sub/meta/sub.cm":   "cm: sub",
	"srv/meta/root.cm":          "cm: metaroot",
	"srv/meta/both.cm":          "cm: compiled",
	"srv/meta/both.cml":         source("source"),
	"srv/meta/a b%20c.cml":      source("odd"),
	"srv/a%zz.cml":              source("percent"),
	"srv/inside.cml":            "-> net/net.cml",
	"srv/outside.cml":           "-> ../other/secret.cml",
	"srv/linked":                "-> net",
	"srv/away":                  "-> ../other",
	"srv/net/meta/leaves.cm":    "-> ../../meta/root.cm",
	"srv/net/meta/stays.cm":     "-> net.cm",
	"srv/bad.cml":               "{ use: [{ protocol: 'x', frm: 'parent' }] }",
	"srv/broken.cml":            "{ children: [ }",
	"srv/notcompiled.cm":        "{}",
	"srv/dir.cml/x":             "",
	"other/secret.cml":          source("secret"),
	"other/meta/secret.cm":      "cm: secret",
	"srv/compiledundername.cml": "cm: undername",
}

func TestURLs(t *testing.T) {
	top := write(t, tree)
	ctx, d := t.Context(), NewDisk(cml.Options{})
	resolve := func(url string, parent *Resolved) *Resolved {
		t.Helper()
		r, err := d.Resolve(ctx, url, parent)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	root := resolve(filepath.Join(top, "srv/root.cml"), nil)
	metaroot := resolve("file://"+top+"/srv/meta/root.cm", nil)
	net := resolve("net/net.cml", root)
	netmeta := resolve("net#meta/net.cm", root)

	for i, test := range []struct {
		parent         *Resolved
		url            string
		says, pkg, res string // pkg and res are below top
	}{
		{nil, top + "/srv/root.cml", "root", "srv", "/srv/root.cml"},
		{nil, "file://" + top + "/srv/root.cml", "root", "srv", "/srv/root.cml"},
		{nil, "file://localhost" + top + "/srv/net/../root.cml", "root", "srv", "/srv/root.cml"},
		{nil, top + "/srv/meta/root.cm", "metaroot", "srv", "/srv/meta/root.cm"},
		{nil, "file://" + top + "/srv#meta/root.cm", "metaroot", "srv", "/srv#meta/root.cm"},
		{nil, top + "/srv/outside.cml", "secret", "other", "/other/secret.cml"}, // the person at the keyboard may
		{nil, top + "/srv/linked/net.cml", "net", "srv/net", "/srv/net/net.cml"},
		{nil, "file://" + top + "/srv/linked#meta/net.cm", "netmeta", "srv/net", "/srv/net#meta/net.cm"},
		{nil, top + "/srv/compiledundername.cml", "undername", "srv", "/srv/compiledundername.cml"},

		{root, "echo.cml", "echo", "srv", "/srv/echo.cml"},
		{root, "./net/../echo.cml", "echo", "srv", "/srv/echo.cml"},
		{root, "net/net.cml", "net", "srv/net", "/srv/net/net.cml"},
		{root, "meta/root.cm", "metaroot", "srv", "/srv/meta/root.cm"},
		{root, "inside.cml", "net", "srv/net", "/srv/net/net.cml"}, // the package is where the file is
		{root, "linked/net.cml", "net", "srv/net", "/srv/net/net.cml"},
		{root, "meta/a b%20c.cml", "odd", "srv", "/srv/meta/a%20b%2520c.cml"},
		{root, "a%zz.cml", "percent", "srv", "/srv/a%25zz.cml"},
		{root, "file://" + top + "/other/secret.cml", "secret", "other", "/other/secret.cml"},
		{net, "log.cml", "netlog", "srv/net", "/srv/net/log.cml"},
		{net, "../echo.cml", "echo", "srv", "/srv/echo.cml"},
		{metaroot, "../echo.cml", "echo", "srv", "/srv/echo.cml"}, // relative to the manifest, not to the package
		{metaroot, "both.cml", "source", "srv", "/srv/meta/both.cml"},

		{root, "#meta/root.cm", "metaroot", "srv", "/srv#meta/root.cm"},
		{root, "#meta/both.cm", "compiled", "srv", "/srv#meta/both.cm"},
		{root, "#meta/a%20b%2520c.cm", "odd", "srv", "/srv#meta/a%20b%2520c.cm"},
		{root, "net#meta/net.cm", "netmeta", "srv/net", "/srv/net#meta/net.cm"},
		{root, "net#meta/other.cm", "netother", "srv/net", "/srv/net#meta/other.cm"}, // only the source is there
		{root, "linked#meta/net.cm", "netmeta", "srv/net", "/srv/net#meta/net.cm"},
		{root, "net#meta/stays.cm", "netmeta", "srv/net", "/srv/net#meta/stays.cm"},
		{netmeta, "#meta/other.cm", "netother", "srv/net", "/srv/net#meta/other.cm"},
		{netmeta, "sub#meta/sub.cm", "sub", "srv/net/sub", "/srv/net/sub#meta/sub.cm"},
		{netmeta, "..#meta/root.cm", "metaroot", "srv", "/srv#meta/root.cm"},
		{netmeta, "other.cml", "netother", "srv/net", "/srv/net/meta/other.cml"},
	} {
		r, err := d.Resolve(ctx, test.url, test.parent)
		if err != nil {
			t.Errorf("%d %s: %v", i, test.url, err)
			continue
		}
		wantURL := "file://" + top + test.res
		if says(r) != test.says || r.Package.Dir != filepath.Join(top, test.pkg) || r.URL != wantURL {
			t.Errorf("%d %s: says %s, package %s, url %s", i, test.url, says(r), r.Package.Dir, r.URL)
		}
		if len(r.Sources) != 1 || !filepath.IsAbs(r.Sources[0]) {
			t.Errorf("%d %s: sources %q", i, test.url, r.Sources)
		}
		if again, err := d.Resolve(ctx, r.URL, nil); err != nil || again.Decl != r.Decl || again.Package != r.Package {
			t.Errorf("%d its resolved url %s: %v", i, r.URL, err)
		}
		if again, err := d.Resolve(ctx, test.url, test.parent); err != nil || again.Decl != r.Decl {
			t.Errorf("%d the second time: not shared, %v", i, err)
		}
	}
}

func TestErrors(t *testing.T) {
	top := write(t, tree)
	ctx, d := t.Context(), NewDisk(cml.Options{})
	root, err := d.Resolve(ctx, filepath.Join(top, "srv/root.cml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	netmeta, err := d.Resolve(ctx, "net#meta/net.cm", root)
	if err != nil {
		t.Fatal(err)
	}
	foreign := &Resolved{URL: "x://y"}
	for i, test := range []struct {
		parent *Resolved
		url    string
		why    capabilities.Code
		text   []string
	}{
		{nil, top + "/srv/rot.cml", capabilities.NotFound, []string{
			"tried " + top + "/srv/rot.cml",
			"did you mean " + top + "/srv/root.cml?",
		}},
		{nil, top + "/srv/root.cml/x.cml", capabilities.NotFound, []string{"tried"}},
		{nil, "file://" + top + "/srv#meta/rot.cm", capabilities.NotFound, []string{
			"rot.cm or rot.cml",
			"did you mean " + top + "/srv/meta/root.cm?",
		}},
		{root, "ehco.cml", capabilities.NotFound, []string{
			"ehco.cml: ", "tried " + top + "/srv/ehco.cml",
			"did you mean " + top + "/srv/echo.cml?",
		}},
		{root, "ent/net.cml", capabilities.NotFound, []string{"did you mean " + top + "/srv/net/net.cml?"}},
		{root, "zzz/zzz.cml", capabilities.NotFound, []string{"no such manifest"}},
		{root, "ent#meta/net.cm", capabilities.NotFound, []string{"no such manifest", "did you mean " + top + "/srv/net/meta/net.cm?"}},

		{root, "../other/secret.cml", capabilities.Denied, []string{"leads out of the tree " + top + "/srv", "file:///"}},
		{root, "outside.cml", capabilities.Denied, []string{"leads out of the tree"}},
		{root, "away/secret.cml", capabilities.Denied, []string{"leads out of the tree"}},
		{root, "away/none.cml", capabilities.Denied, []string{"leads out of the tree"}},
		{root, "../other#meta/secret.cm", capabilities.Denied, []string{"leads out of the tree"}},
		{root, "away#meta/secret.cm", capabilities.Denied, []string{"leads out of the tree"}},
		{root, "#../other/secret.cm", capabilities.Denied, []string{"leads out of the package " + top + "/srv"}},
		{root, "#%2e%2e/other/secret.cm", capabilities.Denied, []string{"leads out of the package"}},
		{root, "#/etc/x.cm", capabilities.Denied, []string{"leads out of the package"}},
		{netmeta, "#../meta/root.cm", capabilities.Denied, []string{"leads out of the package " + top + "/srv/net"}},
		{netmeta, "#meta/leaves.cm", capabilities.Denied, []string{"leads out of the package"}},
		{nil, "file://" + top + "/srv/net#../root.cml", capabilities.Denied, []string{"leads out of the package"}},

		{nil, "echo.cml", capabilities.Invalid, []string{"without a parent"}},
		{nil, "#meta/x.cm", capabilities.Invalid, []string{"without a parent"}},
		{root, top + "/srv/root.cml", capabilities.Invalid, []string{"file:///path"}},
		{root, "root.json5", capabilities.Invalid, []string{"has a fragment"}},
		{root, "//host/x.cml", capabilities.Invalid, []string{"file:///path"}},
		{root, "file://elsewhere/x.cml", capabilities.Invalid, []string{"file:///path"}},
		{root, "file:x.cml", capabilities.Invalid, []string{"file:///path"}},
		{root, "http://host/x.cml", capabilities.Invalid, []string{"no file URL (http)"}},
		{root, "file:///x.cml?y", capabilities.Invalid, []string{"no query"}},
		{root, "file:///x%00y.cml", capabilities.Invalid, []string{"NUL"}},
		{root, "file:///%zz", capabilities.Invalid, []string{"escape"}},
		{foreign, "x.cml", capabilities.Invalid, []string{"no file of this machine"}},
		{foreign, "#meta/x.cm", capabilities.Invalid, []string{"without a package"}},

		{root, "bad.cml", capabilities.Invalid, []string{top + "/srv/bad.cml:1:", "frm"}},
		{root, "broken.cml", capabilities.Invalid, []string{top + "/srv/broken.cml:1:"}},
		{root, "notcompiled.cm", capabilities.Invalid, []string{top + "/srv/notcompiled.cm: not a compiled manifest"}},
		{root, "dir.cml", capabilities.Unavailable, []string{"directory"}},
	} {
		r, err := d.Resolve(ctx, test.url, test.parent)
		if err == nil {
			t.Errorf("%d %s: says %s", i, test.url, says(r))
			continue
		}
		if capabilities.CodeOf(err) != test.why {
			t.Errorf("%d %s: %v, want %v: %v", i, test.url, capabilities.CodeOf(err), test.why, err)
		}
		for _, text := range test.text {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%d %s: %q lacks %q", i, test.url, err, text)
			}
		}
		if strings.Contains(err.Error(), "secret.cm?") {
			t.Errorf("%d %s: tells what is outside: %v", i, test.url, err)
		}
		_, wrong := manifest.AsDiagnostics(err)
		if want := slices.Contains([]string{"bad.cml", "broken.cml", "notcompiled.cm"}, test.url); wrong != want {
			t.Errorf("%d %s: diagnostics %v: %v", i, test.url, wrong, err)
		}
	}

	cause := errors.New("given up")
	gone, cancel := context.WithCancelCause(ctx)
	cancel(cause)
	if _, err := d.Resolve(gone, "echo.cml", root); !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
}

// The package of a parent that another resolver resolved.
func TestForeignParent(t *testing.T) {
	top := write(t, tree)
	d := NewDisk(cml.Options{})
	parent := &Resolved{URL: "x://y"}
	parent.Package.Dir = filepath.Join(top, "srv/net")
	if r, err := d.Resolve(t.Context(), "#meta/net.cm", parent); err != nil || says(r) != "netmeta" {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := d.Resolve(t.Context(), "..#meta/root.cm", parent); capabilities.CodeOf(err) != capabilities.Denied {
		t.Errorf("%v, %v", r, err)
	}
}

func TestFileURL(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/a b/#c%.cml": "file:///a%20b/%23c%25.cml", "x/../y.cml": "file://" + dir + "/y.cml",
	} {
		if got, err := FileURL(path); got != want || err != nil {
			t.Errorf("FileURL(%q) = %q, %v", path, got, err)
		}
	}
}

// parses is how often a file was parsed since the last call: each parse makes new declarations.
type parses map[*manifest.Component]bool

func (p parses) add(r *Resolved) { p[r.Decl.Decl()] = true }

func TestSharing(t *testing.T) {
	top := write(t, tree)
	d := NewDisk(cml.Options{})
	root, err := d.Resolve(t.Context(), filepath.Join(top, "srv/root.cml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Nine thousand children at once, by several ways to one file.
	urls := []string{
		"net/net.cml", "./net/net.cml", "linked/net.cml", "inside.cml", "file://" + top + "/srv/net/net.cml",
		"net#net.cml",
	}
	var mu sync.Mutex
	decls, whole := parses{}, map[string]map[*Resolved]bool{}
	var wg sync.WaitGroup
	for worker := range 6 {
		wg.Go(func() {
			for i := range 1500 {
				url := urls[(i+worker)%len(urls)]
				r, err := d.Resolve(t.Context(), url, root)
				mu.Lock()
				if err != nil {
					t.Error(err)
				} else {
					decls.add(r)
					if whole[url] == nil {
						whole[url] = map[*Resolved]bool{}
					}
					whole[url][r] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(decls) != 1 {
		t.Errorf("parsed %d times", len(decls))
	}
	for _, url := range []string{"net/net.cml", "file://" + top + "/srv/net/net.cml", "net#net.cml"} {
		if len(whole[url]) != 1 {
			t.Errorf("%s: %d results, not shared", url, len(whole[url]))
		}
	}
}

func TestChanges(t *testing.T) {
	top := write(t, tree)
	d := NewDisk(cml.Options{})
	rootFile := filepath.Join(top, "srv/root.cml")
	root, err := d.Resolve(t.Context(), rootFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(step, url, want string) *Resolved {
		t.Helper()
		r, err := d.Resolve(t.Context(), url, root)
		got := "error"
		if err == nil {
			got = says(r)
		}
		if got != want {
			t.Errorf("%s: %s says %q, want %q (%v)", step, url, got, want, err)
		}
		return r
	}
	file := filepath.Join(top, "srv/echo.cml")
	expect("at first", "echo.cml", "echo")
	put(t, file, source("longer"))
	expect("rewritten", "echo.cml", "longer")
	// The same length within one tick of the file system's clock, again and again.
	for i := range 50 {
		name := fmt.Sprintf("same%02d", i)
		if err := os.WriteFile(file, []byte(source(name)), 0o666); err != nil {
			t.Fatal(err)
		}
		expect("rewritten at once", "echo.cml", name)
	}
	put(t, file+".new", source("renamed"))
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	expect("replaced", "echo.cml", "renamed")
	put(t, file, "{ nonsense")
	expect("broken", "echo.cml", "error")
	put(t, file, source("mended"))
	expect("mended", "echo.cml", "mended")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expect("removed", "echo.cml", "error")

	expect("only the source", "net#meta/other.cm", "netother")
	put(t, filepath.Join(top, "srv/net/meta/other.cm"), "cm: compiled")
	expect("compiled meanwhile", "net#meta/other.cm", "compiled")
	if err := os.Remove(filepath.Join(top, "srv/net/meta/other.cm")); err != nil {
		t.Fatal(err)
	}
	expect("and removed", "net#meta/other.cm", "netother")

	// A package that is exchanged by its symlink, as deployments do, for one whose manifest is a hard link to the same file.
	put(t, filepath.Join(top, "srv/v1/app.cml"), source("app"))
	if err := os.MkdirAll(filepath.Join(top, "srv/v2"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(top, "srv/v1/app.cml"), filepath.Join(top, "srv/v2/app.cml")); err != nil {
		t.Fatal(err)
	}
	current := filepath.Join(top, "srv/current")
	for _, v := range []string{"v1", "v2", "v1"} {
		_ = os.Remove(current)
		if err := os.Symlink(v, current); err != nil {
			t.Fatal(err)
		}
		for _, url := range []string{"current/app.cml", "current#app.cm", "file://" + current + "/app.cml"} {
			if r := expect("deployed "+v, url, "app"); r != nil && filepath.Base(r.Package.Dir) != v {
				t.Errorf("%s: package %s, want %s", url, r.Package.Dir, v)
			}
		}
	}
	// The directory itself is exchanged.
	dir := filepath.Join(top, "srv/net")
	expect("before the exchange", "net/net.cml", "net")
	link := filepath.Join(top, "srv/v1/net.cml")
	if err := errors.Join(os.Rename(dir, dir+".old"), os.Symlink("v1", dir), os.Link(dir+".old/net.cml", link)); err != nil {
		t.Fatal(err)
	}
	if r := expect("after the exchange", "net/net.cml", "net"); r != nil && filepath.Base(r.Package.Dir) != "v1" {
		t.Errorf("package %s after the exchange", r.Package.Dir)
	}
}

// A value file is read with its manifest, and so are its changes.
func TestValues(t *testing.T) {
	top := write(t, map[string]string{
		"a.cml": `{ config: { n: { type: "uint8" } } }`, "meta/b.cml": `{ config: { n: { type: "uint8" } } }`, "meta/b.cvf": "{ n: 2 }",
		"none.cml": source("none"), "none.cvf": "this is none's, and not read",
	})
	d := NewDisk(cml.Options{})
	expect := func(url string, want any) {
		t.Helper()
		r, err := d.Resolve(t.Context(), url, nil)
		switch {
		case err != nil && want != err.Error() || err == nil && r.Values["n"] != want:
			t.Errorf("%s: %v, %v, want %v", url, r, err, want)
		}
	}
	a := filepath.Join(top, "a.cml")
	for range 2 {
		expect(a, nil)
		expect("file://"+top+"#meta/b.cm", uint64(2))
		expect(filepath.Join(top, "none.cml"), nil)
	}
	put(t, filepath.Join(top, "a.cvf"), "{ n: 1 }")
	expect(a, uint64(1))
	put(t, filepath.Join(top, "a.cvf"), "{ n: 100 }")
	expect(a, uint64(100))
	put(t, filepath.Join(top, "a.cvf"), "{ n: 1000 }")
	expect(a, filepath.Join(top, "a.cvf")+":1:6: 1000 is out of range for type uint8")
	if err := os.Remove(filepath.Join(top, "a.cvf")); err != nil {
		t.Fatal(err)
	}
	expect(a, nil)
}

func TestIncludes(t *testing.T) {
	top := write(t, map[string]string{
		"srv/app/app.cml":        "{ include: ['part.shard.cml', '//lib/log.shard.cml'] }",
		"srv/app/part.shard.cml": "{ capabilities: [{ protocol: 'part' }] }",
		"srv/lib/log.shard.cml":  "-> real.shard.cml",
		"srv/lib/real.shard.cml": "{ use: [{ protocol: 'log' }] }",
		"srv/root.cml":           "{}",
		"srv/out.cml":            "{ include: ['../other/secret.shard.cml'] }",
		"srv/linkout.cml":        "{ include: ['link.shard.cml'] }",
		"srv/link.shard.cml":     "-> ../other/secret.shard.cml",
		"srv/cwd.cml":            "{ include: ['resolver.go'] }", // a file of the working directory
		"other/secret.shard.cml": "{ capabilities: [{ protocol: 'secret' }] }",
	})
	d := NewDisk(cml.Options{})
	root, err := d.Resolve(t.Context(), top+"/srv/root.cml", nil)
	if err != nil {
		t.Fatal(err)
	}
	var seen []*manifest.Component
	for i, want := range []string{"part", "part", "other", "other"} {
		if i == 2 {
			put(t, top+"/srv/app/part.shard.cml", "{ capabilities: [{ protocol: 'other' }] }")
		}
		r, err := d.Resolve(t.Context(), "app/app.cml", root)
		if err != nil {
			t.Fatal(err)
		}
		sources := []string{top + "/srv/app/app.cml", top + "/srv/app/part.shard.cml", top + "/srv/lib/log.shard.cml"}
		if says(r) != want || len(r.Decl.Decl().Uses) != 1 || !slices.Equal(r.Sources, sources) {
			t.Errorf("says %q, sources %q, want %q", says(r), r.Sources, want)
		}
		seen = append(seen, r.Decl.Decl())
	}
	if seen[0] != seen[1] || seen[1] == seen[2] || seen[2] != seen[3] {
		t.Error("parsed anew without a change, or not after one")
	}
	put(t, top+"/srv/lib/real.shard.cml", "{ use: [{ protocol: 'changed' }] }") // behind a symlink
	if r, err := d.Resolve(t.Context(), "app/app.cml", root); err != nil || r.Decl.Decl().Uses[0].SourceName != "changed" {
		t.Errorf("after a change behind a symlink: %v, %v", r, err)
	}
	// In a tree of its own "//lib" is elsewhere.
	if _, err := d.Resolve(t.Context(), "file://"+top+"/srv/app/app.cml", root); !strings.Contains(fmt.Sprint(err),
		top+"/srv/app/lib/log.shard.cml") {
		t.Errorf("as the root of a tree: %v", err)
	}
	for url, want := range map[string]string{
		"out.cml": "leads out of the tree " + top + "/srv", "linkout.cml": "leads out of the tree", "cwd.cml": "no such file",
	} {
		if _, err := d.Resolve(t.Context(), url,
			root); capabilities.CodeOf(err) != capabilities.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	m := map[int]int{}
	for i := range 3 * cacheSize {
		keep(m, i, i)
		keep(m, i, i)
		if m[i] != i || len(m) > cacheSize {
			t.Fatalf("after %d: %d entries", i, len(m))
		}
	}
}

func TestWarnings(t *testing.T) {
	top := write(t, map[string]string{"x.cml": "{\n  use: [{ protocol: 'a', rights: ['r*'] }],\n}"})
	r, err := NewDisk(cml.Options{}).Resolve(t.Context(), filepath.Join(top, "x.cml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Warnings) != 1 || !strings.HasPrefix(r.Warnings[0].Pos.String(), top+"/x.cml:2:") {
		t.Errorf("warnings: %v", r.Warnings)
	}
}

// FuzzResolve: whatever a manifest says that is not an absolute URL stays in its tree, and resolves to a URL that gives the same.
func FuzzResolve(f *testing.F) {
	for _, url := range []string{
		"net/net.cml", "../other/secret.cml", "away/secret.cml", "#meta/root.cm", "net#../../other/secret.cm", "away#meta/secret.cm",
		"linked#meta/net.cm", "%2e%2e#other/secret.cml", "net/../../srv/echo.cml", "..#srv/root.cml", "#%2e%2e%2fother%2fsecret.cml",
	} {
		f.Add(url)
	}
	top, err := filepath.EvalSymlinks(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	for name, text := range tree {
		put(f, filepath.Join(top, name), text)
	}
	d := NewDisk(cml.Options{})
	root, err := d.Resolve(f.Context(), filepath.Join(top, "srv/root.cml"), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, url string) {
		if name.Scheme(url) != "" {
			return
		}
		r, err := d.Resolve(t.Context(), url, root)
		if err != nil {
			if capabilities.CodeOf(err) == capabilities.Internal {
				t.Fatalf("%q: %v", url, err)
			}
			return
		}
		within := func(path string) bool { return path == top+"/srv" || strings.HasPrefix(path, top+"/srv/") }
		if says(r) == "secret" || !within(r.Package.Dir) || !within(r.Sources[0]) {
			t.Fatalf("%q leads to %q, package %q", url, r.Sources, r.Package.Dir)
		}
		if again, err := d.Resolve(t.Context(), r.URL, nil); err != nil || again.Decl != r.Decl || again.Package != r.Package {
			t.Fatalf("%q resolves to %q, which gives %v, %v", url, r.URL, again, err)
		}
	})
}

func BenchmarkResolveKnown(b *testing.B) {
	top := b.TempDir()
	if err := os.WriteFile(filepath.Join(top, "x.cml"), []byte(source("x")), 0o666); err != nil {
		b.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(top, "x.cml"), old, old); err != nil {
		b.Fatal(err)
	}
	d := NewDisk(cml.Options{})
	root, err := d.Resolve(b.Context(), filepath.Join(top, "x.cml"), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Resolve(b.Context(), "x.cml", root); err != nil {
			b.Fatal(err)
		}
	}
}

func TestServices(t *testing.T) {
	for _, dir := range []string{"/etc/sv/web", "/etc/sv/my db%2F#?"} {
		r, err := Services{}.Resolve(t.Context(), ServiceURL(dir), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := r.Decl.Decl().Program.Info.Get("service_dir")
		if got.Value != manifest.String(dir) || r.Decl.Decl().Program.Runner != "runit" || r.URL != ServiceURL(dir) {
			t.Errorf("%s: %v, URL %s", dir, got, r.URL)
		}
	}
	for _, url := range []string{"runit:", "runit:sv", "runit://host/sv", "runit:///sv#x", "runit:///sv?x", "file:///sv", "runit:///%00", "%"} {
		if _, err := (Services{}).Resolve(t.Context(), url, nil); capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("%s: %v", url, err)
		}
	}
}
