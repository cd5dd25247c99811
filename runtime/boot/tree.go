package boot

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/boot/systools"
	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// A Tree is a tree of components that was resolved and verified when its script was made.
type Tree struct {
	URL     string     // of the root
	Start   [][]string // monikers: what is started eagerly, each level after the one before it
	Records []resolver.Record
	// Manifests are the compiled ones, by their SHA-256 sums.
	Manifests map[[32]byte]string
	// Sources are the files that it was made of, with their sums.
	Sources map[string][32]byte
	// Lazy: packages that a loader gets are fetched at their first use.
	Lazy bool

	seen map[[2]string]bool // while it is made: what has a record, by parent and reference
}

// Stale are the sources that are there and not what they were when the tree was compiled, sorted. One that isn't there is no
// fault: a tree may run where its sources never were.
func (t *Tree) Stale() ([]string, error) {
	var out []string
	for file, sum := range t.Sources {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if sha256.Sum256(b) != sum {
			out = append(out, file)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Compile makes the script of the tree below root, which must have been verified. What is below the directory dir, where the
// script will be, stands below $ROOT in it, so that both can be moved together.
func Compile(ctx context.Context, root, dir string, r resolver.Resolver) (term.Term, error) {
	t := &Tree{Manifests: map[[32]byte]string{}, Sources: map[string][32]byte{}, seen: map[[2]string]bool{}}
	top, err := t.add(ctx, r, "", root, nil)
	if err != nil {
		return nil, err
	}
	t.URL = root
	type at struct {
		moniker name.Moniker
		*resolver.Resolved
	}
	// Of each URL once: what is below it is the same wherever it stands.
	resolved := map[string]*resolver.Resolved{top.URL: top}
	walked := map[string]bool{}
	var walk func(parent *resolver.Resolved) error
	walk = func(parent *resolver.Resolved) error {
		if walked[parent.URL] {
			return nil
		}
		walked[parent.URL] = true
		for _, c := range parent.Decl.Decl().Children {
			child, err := t.add(ctx, r, parent.URL, c.URL, parent)
			if err != nil {
				return fmt.Errorf("child %s of %s: %w", c.Name, parent.URL, err)
			}
			if resolved[child.URL] == nil {
				resolved[child.URL] = child
			}
			if err := walk(child); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(top); err != nil {
		return nil, err
	}
	urls := map[[2]string]string{}
	for _, rec := range t.Records {
		urls[[2]string{rec.Parent, rec.Ref}] = rec.URL
	}
	for level := []at{{name.Root, top}}; len(level) > 0; {
		var names []string
		var next []at
		for _, i := range level {
			names = append(names, string(i.moniker))
			for _, c := range i.Decl.Decl().Children {
				if c.Startup == manifest.Eager {
					next = append(next, at{i.moniker.Child(c.Name), resolved[urls[[2]string{i.URL, c.URL}]]})
				}
			}
		}
		t.Start = append(t.Start, names)
		level = next
	}
	return t.script(dir), nil
}

// add resolves a reference and keeps what it leads to.
func (t *Tree) add(ctx context.Context, r resolver.Resolver, parent, ref string, from *resolver.Resolved) (*resolver.Resolved, error) {
	if s := name.Scheme(ref); s != "" && s != "file" {
		return nil, fmt.Errorf("%s: only trees of files can be compiled", ref)
	}
	got, err := r.Resolve(ctx, ref, from)
	if err != nil {
		return nil, err
	}
	if t.seen[[2]string{parent, ref}] {
		return got, nil
	}
	t.seen[[2]string{parent, ref}] = true
	b, err := codec.EncodeStripped(got.Decl.Decl()) // where it was written is not the same everywhere
	if err != nil {
		return nil, err
	}
	rec := got.Record(parent, ref)
	rec.Manifest = sha256.Sum256(b)
	t.Manifests[rec.Manifest] = string(b)
	t.Records = append(t.Records, rec)
	for _, file := range got.Sources {
		if _, ok := t.Sources[file]; ok {
			continue
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		t.Sources[file] = sha256.Sum256(src)
	}
	return got, nil
}

// script is the tree as a boot script.
func (t *Tree) script(dir string) term.Term {
	at := urlOf(dir)
	place := func(s string) term.Term { // a directory, a file or a URL
		for _, from := range []struct{ prefix, to string }{{"file://" + at, "file://$ROOT"}, {dir, "$ROOT"}} {
			if rest, ok := strings.CutPrefix(s, from.prefix); ok && (rest == "" || strings.ContainsAny(rest[:1], "/#")) {
				return bits(from.to + rest)
			}
		}
		return bits(s)
	}
	sum := func(s [32]byte) term.Term { return bits(hex.EncodeToString(s[:])) }
	bySum := func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) }
	var records, manifests, sources, start []term.Term
	for _, r := range t.Records {
		ref := bits(r.Ref) // as it stands in the parent's manifest, which isn't changed when it is moved
		if r.Parent == "" {
			ref = place(r.Ref)
		}
		records = append(records, term.Tuple{place(r.Parent), ref, place(r.URL), place(r.Dir), place(r.Tree), place(r.Package), sum(r.Manifest)})
	}
	for _, s := range slices.SortedFunc(maps.Keys(t.Manifests), bySum) {
		manifests = append(manifests, term.Tuple{sum(s), bits(base64.StdEncoding.EncodeToString([]byte(t.Manifests[s])))})
	}
	for _, file := range slices.Sorted(maps.Keys(t.Sources)) {
		sources = append(sources, term.Tuple{place(file), sum(t.Sources[file])})
	}
	for _, level := range t.Start {
		names := make([]term.Term, len(level))
		for i, n := range level {
			names[i] = bits(n)
		}
		start = append(start, term.Cons(names, nil))
	}
	app := term.Atom(strings.TrimSuffix(filepath.Base(urlPath(t.URL)), filepath.Ext(urlPath(t.URL))))
	if app == "" || len([]rune(string(app))) > 255 {
		app = "root"
	}
	tuple := func(key term.Atom, v term.Term) term.Term { return term.Tuple{key, v} }
	list := func(of ...term.Term) term.Term { return term.Cons(of, nil) }
	tree := list(tuple("root", place(t.URL)), tuple("start", list(start...)), tuple("records", list(records...)),
		tuple("manifests", list(manifests...)), tuple("sources", list(sources...)))
	apply := func(m, f term.Atom, args ...term.Term) term.Term {
		return tuple("apply", term.Tuple{m, f, list(args...)})
	}
	nodes := make([]term.Term, len(systools.Builtins))
	for i, b := range systools.Builtins {
		nodes[i] = b
	}
	return term.Tuple{term.Atom("script"), term.Tuple{term.String(string(app)), term.String("")}, list(
		tuple("preLoaded", list(nodes...)), tuple("progress", term.Atom("preloaded")),
		term.Tuple{term.Atom("kernel_load_completed")}, tuple("progress", term.Atom("kernel_load_completed")),
		tuple("progress", term.Atom("modules_loaded")), tuple("progress", term.Atom("init_kernel_started")),
		apply("application", "load", term.Tuple{term.Atom("application"), app, list(
			tuple("description", list()), tuple("vsn", list()), tuple("id", list()), tuple("modules", list()), tuple("registered", list()),
			tuple("applications", list()), tuple("optional_applications", list()), tuple("included_applications", list()),
			tuple("env", list(tuple("cmgr", list(tuple("tree", tree))))), tuple("maxT", term.Atom("infinity")),
			tuple("maxP", term.Atom("infinity")),
		)}), tuple("progress", term.Atom("applications_loaded")),
		apply("application", "start_boot", app, term.Atom(Temporary)), tuple("progress", term.Atom("started")),
	)}
}

func bits(s string) term.Term { return term.Bits{Bytes: s} }

// urlOf is dir as the path of a URL.
func urlOf(dir string) string { return (&url.URL{Path: dir}).EscapedPath() }

func urlPath(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Path
	}
	return s
}

var errTree = errors.New("the tree of the application is damaged; compile it again")

// readTree is the other way of script.
func readTree(t term.Term, root string) (*Tree, error) {
	out := &Tree{Manifests: map[[32]byte]string{}, Sources: map[string][32]byte{}}
	at, ok := urlOf(root), true
	raw := func(t term.Term) string {
		b, isBits := t.(term.Bits)
		ok = ok && isBits && b.Last == 0
		return b.Bytes
	}
	place := func(t term.Term) string {
		s := raw(t)
		if rest, is := strings.CutPrefix(s, "file://$ROOT"); is {
			return "file://" + at + rest
		}
		if rest, is := strings.CutPrefix(s, "$ROOT"); is {
			return root + rest
		}
		return s
	}
	sum := func(t term.Term) (s [32]byte) {
		b, err := hex.DecodeString(raw(t))
		ok = ok && err == nil && len(b) == len(s)
		copy(s[:], b)
		return s
	}
	rows := func(key term.Atom, width int, row func(term.Tuple)) {
		elems, proper := term.Proper(lookup(t, key))
		ok = ok && proper
		for _, e := range elems {
			tu, isTuple := e.(term.Tuple)
			if ok = ok && isTuple && len(tu) == width; !ok {
				return
			}
			row(tu)
		}
	}
	out.URL = place(lookup(t, "root"))
	rows("records", 7, func(r term.Tuple) {
		out.Records = append(out.Records, resolver.Record{
			Parent: place(r[0]), Ref: place(r[1]), URL: place(r[2]), Dir: place(r[3]), Tree: place(r[4]), Package: place(r[5]),
			Manifest: sum(r[6]),
		})
	})
	rows("manifests", 2, func(r term.Tuple) {
		s := sum(r[0])
		b, err := base64.StdEncoding.DecodeString(raw(r[1]))
		ok = ok && err == nil && sha256.Sum256(b) == s
		out.Manifests[s] = string(b)
	})
	rows("sources", 2, func(r term.Tuple) { out.Sources[place(r[0])] = sum(r[1]) })
	levels, proper := term.Proper(lookup(t, "start"))
	ok = ok && proper
	for _, l := range levels {
		elems, proper := term.Proper(l)
		ok = ok && proper
		var names []string
		for _, e := range elems {
			n := raw(e)
			_, err := name.ParseMoniker(n)
			ok = ok && err == nil
			names = append(names, n)
		}
		out.Start = append(out.Start, names)
	}
	for _, r := range out.Records {
		_, has := out.Manifests[r.Manifest]
		ok = ok && has
	}
	if !ok {
		return nil, errTree
	}
	return out, nil
}
