package verify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing/routingtest"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/verify"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// lay writes files below a new directory and returns its name, without symlinks.
func lay(t testing.TB, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range files {
		file = filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func config(dir string) verify.Config {
	return verify.Config{
		Root: "file://" + dir + "/root.cml", Builtins: routingtest.Defaults(),
		Resolvers: map[string]resolver.Resolver{"file": resolver.NewDisk(cml.Options{})},
	}
}

func open(t testing.TB, files map[string]string) (*verify.Tree, string) {
	t.Helper()
	dir := lay(t, files)
	tree, err := verify.Open(t.Context(), config(dir))
	if err != nil {
		t.Fatal(err)
	}
	return tree, dir
}

// check is Check, with its results.
func check(t testing.TB, tree *verify.Tree, allow *verify.Allowlist, all bool) (verify.Summary, []verify.Result) {
	t.Helper()
	var out []verify.Result
	s, err := tree.Check(t.Context(), allow, all, func(r verify.Result) { out = append(out, r) })
	if err != nil {
		t.Fatal(err)
	}
	return s, out
}

// Every tree of the routing kit, verified, gives the answers that the kit has. Cases that are about dynamic children are asked
// only before the first of them is created.
func TestAgreesWithRouting(t *testing.T) {
	cases, err := filepath.Glob("../../capabilities/routing/routingtest/testdata/*.txtar")
	if err != nil || len(cases) < 30 {
		t.Fatal(cases, err)
	}
	asked := 0
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split("\n"+string(src), "\n-- ")
			files := map[string]string{}
			for _, f := range parts[1:] {
				file, text, _ := strings.Cut(f, " --\n")
				files[file] = text
			}
			dir := lay(t, files)
			cfg, above := config(dir), routingtest.Defaults()
			lines := strings.Split(parts[0], "\n")[1:]
			for _, line := range lines {
				var kind, capability string
				if n, _ := fmt.Sscanf(line, "builtin %s %s", &kind, &capability); n == 2 {
					i := slices.IndexFunc(manifest.Kinds(), func(k manifest.Kind) bool { return k.String() == kind })
					above.Offered[manifest.Kinds()[i]] = append(above.Offered[manifest.Kinds()[i]], capability)
				}
			}
			cfg.Builtins = above
			tree, err := verify.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, results := check(t, tree, nil, true)
			answers := map[string]string{}
			var unresolved []name.Moniker
			closed := func(m name.Moniker) bool {
				return slices.ContainsFunc(unresolved, func(u name.Moniker) bool { return u.Contains(m) })
			}
			for _, r := range results {
				key := fmt.Sprintf("%s %s %s %s", r.Decl, r.Target, r.Kind, r.Name)
				switch r.Decl {
				case "offer":
					key += " " + r.To
				case "program":
					key = "runner " + string(r.Target)
				case "child":
					key = fmt.Sprintf("resolver %s %s", r.Target, r.Name)
					if r.Severity != verify.OK && strings.HasPrefix(r.Err.Reason, "resolver `file` was not registered") {
						unresolved = append(unresolved, r.Target)
					}
				}
				if _, ok := answers[key]; !ok { // the kit, too, asks for the first
					answers[key] = strings.ReplaceAll(answer(r), dir+"/", "")
				}
			}
			for i, line := range lines {
				if strings.HasPrefix(line, "create ") {
					return
				}
				question, want, mark := cut(line)
				words := strings.Fields(question)
				if mark == "" {
					continue
				}
				if words[0] == "why" {
					words = words[1:]
				}
				got, ok := answers[strings.Join(words, " ")]
				if !ok {
					// What is not asked: what is no declaration's, and what is in an environment without the resolver of files.
					isDeclared := slices.Contains([]string{"use", "offer", "expose", "runner"}, words[0]) && want != "none"
					if isDeclared && !closed(name.Moniker(words[1])) {
						t.Errorf("line %d: %s was not asked", i+1, question)
					}
					continue
				}
				asked++
				want = mark + want
				for _, more := range lines[i+1:] {
					if hint, ok := strings.CutPrefix(more, "  hint: "); ok && mark == "!! " {
						want += "\n" + hint
					}
					if !strings.HasPrefix(more, " ") {
						break
					}
				}
				if got != want {
					t.Errorf("line %d: %s\ngot  %s\nwant %s", i+1, question, got, want)
				}
			}
		})
	}
	if asked < 100 {
		t.Errorf("only %d questions were asked", asked)
	}
}

func cut(line string) (question, answer, mark string) {
	if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "#") {
		return "", "", ""
	}
	i := min(uint(strings.Index(line, " -> ")), uint(strings.Index(line, " !! "))) // -1 is large
	if i >= uint(len(line)) {
		return "", "", ""
	}
	return line[:i], line[i+4:], line[i+1 : i+4]
}

// answer is a result as the kit writes it.
func answer(r verify.Result) string {
	if r.Route == nil {
		if r.Err == nil {
			return "-> none"
		}
		s := "!! " + r.Err.Why.String() + " " + r.Err.Reason
		if r.Err.Hint != "" {
			s += "\n" + r.Err.Hint
		}
		return s
	}
	x := r.Route
	s := fmt.Sprintf("-> %s %s %s", x.Source, x.Kind, x.Source.Name)
	switch x.Source.Kind {
	case capabilities.FromVoid:
		s = "-> void"
	case capabilities.FromDictionary:
		s = fmt.Sprintf("-> dictionary %s of %s %s %s", x.Source.Capability.Name, x.Source.At, r.Kind, x.Source.Name)
	case capabilities.FromCapability:
		s = fmt.Sprintf("-> storage of %s %s", x.Source.At, x.Source.Name)
	case capabilities.FromCollection:
		s = fmt.Sprintf("-> %s aggregate %s", x.Source.At, x.Source.Name)
	}
	var more []string
	if x.Rights != 0 {
		more = append(more, "rights "+strings.Join(x.Rights.Names(), " "))
	}
	if x.Subdir != "" {
		more = append(more, "subdir "+x.Subdir)
	}
	if x.Availability != manifest.Required {
		more = append(more, x.Availability.String())
	}
	for _, sc := range x.Scope {
		text := "scope " + string(sc.At)
		for _, seg := range sc.Segments {
			text += " #" + seg
		}
		more = append(more, text)
	}
	if len(more) > 0 {
		s += " [" + strings.Join(more, ", ") + "]"
	}
	return s
}

// brief is a result in a line.
func brief(r verify.Result) string {
	s := fmt.Sprintf("%s %s %s: %s", r.Severity, r.Target, r.Subject(), r.Ending())
	if r.Like > 0 {
		s += fmt.Sprintf(" (like %d)", r.Like)
	}
	if r.Allowed != "" {
		s += " (allowed: " + r.Allowed + ")"
	}
	return s
}

func briefs(rs []verify.Result) []string {
	var out []string
	for _, r := range rs {
		out = append(out, brief(r))
	}
	return out
}

// Availability decides how bad a broken route is; so does whether it is broken as a whole.
func TestSeverity(t *testing.T) {
	tree, _ := open(t, map[string]string{
		"root.cml": `{
			children: [ { name: 'a', url: 'a.cml' }, { name: 'x', url: 'x.cml' }, { name: 'idle', url: 'idle.cml' } ],
			offer: [
				{ protocol: 'absent', from: 'void', to: '#a', availability: 'optional' },
				{ protocol: 'lost', from: '#x', to: '#a', availability: 'same_as_target' },
				{ protocol: 'lost', from: '#x', as: 'lost2', to: '#a', availability: 'optional' },
				{ protocol: 'lost', from: '#x', as: 'lost3', to: '#a', availability: 'transitional' },
				{ protocol: 'lost', from: '#x', as: 'lost4', to: '#a' },
				{ service: 'work', from: ['#x', '#idle'], to: '#a' },
			],
		}`,
		"a.cml": `{ use: [
			{ protocol: 'r' }, { protocol: 'o', availability: 'optional' }, { protocol: 't', availability: 'transitional' },
			{ protocol: 'absent', availability: 'optional' },
			{ service: 'work' },
		] }`,
		"x.cml": `{ program: { runner: 'elf', binary: 'b' }, capabilities: [{ service: 'work' }],
			expose: [{ service: 'work', from: 'self' }] }`,
		"idle.cml": `{}`,
	})
	s, got := check(t, tree, nil, false)
	want := []string{
		"warning / offer protocol lost to #a: `lost` was not exposed to `/` from `#x`",
		"warning / offer protocol lost2 to #a: `lost` was not exposed to `/` from `#x`",
		"error / offer protocol lost4 to #a: `lost` was not exposed to `/` from `#x`",
		"warning / offer service work to #a: work of / [/x]; but `work` was not exposed to `/` from `#idle`",
		"error /a use protocol r: `r` was not offered to `/a` by parent",
		"warning /a use protocol o: `o` was not offered to `/a` by parent",
		"warning /a use service work: work of / [/x]; but `work` was not exposed to `/` from `#idle`",
	}
	// The parts of an aggregated service are two offers, and each of them is asked for.
	got = slices.DeleteFunc(got, func(r verify.Result) bool { return r.Decl == "offer" && r.Kind == manifest.KindService })
	want = slices.Delete(want, 3, 4)
	if d := cmp.Diff(want, briefs(got)); d != "" {
		t.Error(d)
	}
	if s.Errors+s.Warnings != len(got)+1 || s.Routes != 4+1+5+7+1 {
		t.Errorf("%+v", s)
	}
}

const endless = "is the manifest of a component that it is below: the tree has no end"

// What an environment has is asked for though nobody may need it yet: whoever is created in a collection may.
func TestRegistrations(t *testing.T) {
	tree, _ := open(t, map[string]string{
		"root.cml": `{ children: [ { name: 'x', url: 'x.cml' } ], collections: [ { name: 'jobs', durability: 'transient', environment: '#e' } ],
			environments: [ { name: 'e', extends: 'realm', runners: [ { runner: 'elf', from: 'parent' }, { runner: 'fast', from: '#x' } ],
				resolvers: [ { resolver: 'r', from: '#x', scheme: 's' } ], debug: [ { protocol: 'd', from: '#x' } ] } ] }`,
		"x.cml": `{ program: { runner: 'elf', binary: 'b' }, capabilities: [ { protocol: 'd' } ], expose: [ { protocol: 'd', from: 'self' } ] }`,
	})
	s, got := check(t, tree, nil, false)
	want := []string{
		"error / environment runner fast to #e: `fast` was not exposed to `/` from `#x`",
		"error / environment resolver s to #e: `r` was not exposed to `/` from `#x`",
	}
	if d := cmp.Diff(want, briefs(got)); d != "" || s.Routes != 2+4+1+1 {
		t.Error(s, d)
	}
}

// What is below something that does not resolve isn't there; the error stands at the line that declares the child.
func TestUnresolved(t *testing.T) {
	tree, dir := open(t, map[string]string{
		"root.cml": "{ children: [\n{ name: 'gone', url: 'gon.cml' },\n{ name: 'bad', url: 'bad.cml' },\n" +
			"{ name: 'again', url: 'again.cml' },\n{ name: 'pkg', url: 'pkg://host/x#meta/x.cm' },\n" +
			"{ name: 'own', url: 'own://x', environment: '#e' }, { name: 'res', url: 'res.cml' } ],\n" +
			"environments: [ { name: 'e', extends: 'realm', resolvers: [ { resolver: 'r', from: '#res', scheme: 'own' } ] } ] }",
		"res.cml": "{ program: { runner: 'elf', binary: 'b' }, capabilities: [ { resolver: 'r', path: '/svc/r' } ],\n" +
			"expose: [ { resolver: 'r', from: 'self' } ] }",
		"gone.cml":  "{}",
		"bad.cml":   "{\n  usee: []\n}",
		"again.cml": "{ children: [ { name: 'a', url: 'again.cml' } ] }",
	})
	_, got := check(t, tree, nil, false)
	want := []string{
		"error /gone child resolver file: failed to resolve `/gone`: gon.cml: no such manifest: tried " + dir + "/gon.cml",
		"error /bad child resolver file: failed to resolve `/bad`",
		"error /again/a child resolver file: failed to resolve `/again/a`: again.cml: " + endless,
		"error /pkg child resolver pkg: resolver `pkg` was not registered in environment of `/pkg`",
		"error /own child resolver own: failed to resolve `/own`: own://x: its resolver comes from component /res, " +
			"which only a running tree can ask",
	}
	if d := cmp.Diff(want, briefs(got)); d != "" {
		t.Fatal(d)
	}
	for i, at := range []string{"root.cml:2:9", "root.cml:3:9", "again.cml:1:23"} {
		if p := got[i].Err.Pos.String(); p != dir+"/"+at {
			t.Errorf("%s stands at %s, not %s", got[i].Target, p, at)
		}
	}
	if ds, ok := manifest.AsDiagnostics(got[1].Err); !ok || len(ds) != 1 || ds[0].Pos.String() != dir+"/bad.cml:2:3" {
		t.Error(ds)
	}
	if got[0].Err.Hint != "did you mean "+dir+"/gone.cml?" {
		t.Errorf("hint %q", got[0].Err.Hint)
	}
}

// A walk that leads down a tree without end is over when it comes to the end of what there is.
func TestEndlessExpose(t *testing.T) {
	tree, _ := open(t, map[string]string{
		"root.cml": "{ children: [ { name: 'a', url: 'a.cml' } ], use: [ { protocol: 'p', from: '#a' } ] }",
		"a.cml":    "{ children: [ { name: 'a', url: 'a.cml' } ], expose: [ { protocol: 'p', from: '#a' } ] }",
	})
	_, got := check(t, tree, nil, false)
	want := []string{
		"error / use protocol p: failed to resolve `/a/a`: a.cml: " + endless,
		"error /a expose protocol p: failed to resolve `/a/a`: a.cml: " + endless,
		"error /a/a child resolver file: failed to resolve `/a/a`: a.cml: " + endless,
	}
	if d := cmp.Diff(want, briefs(got)); d != "" {
		t.Error(d)
	}
}

func TestRoot(t *testing.T) {
	dir := lay(t, map[string]string{"bad.cml": "{ usee: [] }"})
	cfg := config(dir)
	if _, err := verify.Open(t.Context(), cfg); capabilities.CodeOf(err) != capabilities.NotFound {
		t.Error(err)
	}
	cfg.Root = "file://" + dir + "/bad.cml"
	_, err := verify.Open(t.Context(), cfg)
	if _, ok := manifest.AsDiagnostics(err); !ok {
		t.Error(err)
	}
}

// twins is a tree of n equal children and one that is not equal: its offers differ.
func twins(n int) map[string]string {
	var children, targets strings.Builder
	for i := range n {
		fmt.Fprintf(&children, "{ name: 'c%d', url: 'c.cml' }, ", i)
		fmt.Fprintf(&targets, "'#c%d', ", i)
	}
	return map[string]string{
		"root.cml": fmt.Sprintf(`{ program: { runner: 'elf', binary: 'b' },
			capabilities: [ { protocol: 'log' }, { protocol: 'other' } ],
			children: [ %s { name: 'odd', url: 'c.cml' } ],
			offer: [ { protocol: 'log', from: 'self', to: [ %s ] }, { protocol: 'missing', from: 'parent', to: [ %[2]s ] },
			  { protocol: 'other', from: 'self', to: '#odd', as: 'log' } ] }`, children.String(), targets.String()),
		"c.cml": "{ children: [ { name: 'below', url: 'below.cml' } ], use: [ { protocol: 'log' }, { protocol: 'missing' } ],\n" +
			"offer: [ { protocol: 'log', from: 'parent', to: '#below' } ] }",
		"below.cml": "{ use: [ { protocol: 'log' } ] }",
	}
}

// Sharing answers must not change them: with all asked for anew, the same fails.
func TestSharing(t *testing.T) {
	tree, _ := open(t, twins(3))
	s, few := check(t, tree, nil, false)
	fresh, _ := open(t, twins(3))
	sAll, all := check(t, fresh, nil, true)
	fails := slices.DeleteFunc(slices.Clone(all), func(r verify.Result) bool { return r.Severity == verify.OK })
	if d := cmp.Diff(briefs(fails), briefs(few)); d != "" || s != sAll {
		t.Errorf("%v %v %s", s, sAll, d)
	}
	if again, twice := check(t, tree, nil, true); again != s || len(twice) != len(all) {
		t.Errorf("a second time: %v", again)
	} else if d := cmp.Diff(briefs(all), briefs(twice)); d != "" {
		t.Errorf("a second time: %s", d)
	}
	if s.Routes != len(all) || tree.Instances != 9 || tree.Manifests != 3 {
		t.Errorf("%d routes, %d told; %d instances, %d manifests", s.Routes, len(all), tree.Instances, tree.Manifests)
	}
	want := []string{
		"error / offer protocol missing to #c0: `missing` is not a built-in capability",
		"error / offer protocol missing to #c1: `missing` is not a built-in capability",
		"error / offer protocol missing to #c2: `missing` is not a built-in capability",
		"error /c0 use protocol missing: `missing` is not a built-in capability",
		"error /c1 use protocol missing: `missing` is not a built-in capability (like 4)",
		"error /c2 use protocol missing: `missing` is not a built-in capability (like 4)",
		"error /odd use protocol missing: `missing` was not offered to `/odd` by parent",
	}
	if d := cmp.Diff(want, briefs(few)); d != "" {
		t.Error(d)
	}
}

// texts resolves to manifests in memory.
type texts map[string]string

func (ts texts) Resolve(_ context.Context, url string, _ *resolver.Resolved) (*resolver.Resolved, error) {
	url = strings.TrimPrefix(url, "file:///")
	v, ds := cml.Load(url, []byte(ts[url]), cml.Options{})
	return &resolver.Resolved{URL: "file:///" + url, Decl: v, Sources: []string{url}}, ds.Err()
}

// randomTree are a few manifests whose children, offers, exposes, uses and environments are at random; what is repeated has every
// chance to be alike and not to be.
func randomTree(t *rapid.T) texts {
	files := texts{}
	const n = 4
	for i := range n {
		pick := func(what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
		var children, offers, exposes, uses, caps []string
		sources := []string{"parent", "self"}
		below := []string{}
		for c := range rapid.IntRange(0, 3).Draw(t, "children") {
			if i == n-1 {
				break
			}
			name := fmt.Sprintf("c%d", c)
			env := pick("environment", "", "", "", ", environment: '#e'")
			url := rapid.IntRange(i+1, n-1).Draw(t, "url")
			children = append(children, fmt.Sprintf("{ name: '%s', url: 'm%d.cml'%s }", name, url, env))
			below = append(below, "#"+name)
		}
		sources = append(sources, below...)
		availability := func() string {
			return pick("availability", "", "", ", availability: 'optional'", ", availability: 'same_as_target'")
		}
		for _, p := range []string{"p", "q"} {
			caps = append(caps, fmt.Sprintf("{ protocol: '%s' }", p))
			offer := ""
			for _, to := range below {
				if offer == "" || rapid.IntRange(0, 3).Draw(t, "unlike") == 0 {
					offer = fmt.Sprintf("{ protocol: '%s', from: '%s', as: '%s', dependency: 'weak'%s", pick("name", "p", "q"),
						pick("from", sources...), p, availability())
				}
				if !strings.Contains(offer, to) && rapid.IntRange(0, 5).Draw(t, "offered") > 0 {
					offers = append(offers, offer+", to: '"+to+"' }")
				}
			}
			if rapid.Bool().Draw(t, "exposed") {
				exposes = append(exposes, fmt.Sprintf("{ protocol: '%s', from: '%s', as: '%s' }", pick("name", "p", "q"),
					pick("from", sources[1:]...), p))
			}
			if rapid.Bool().Draw(t, "used") {
				uses = append(uses, fmt.Sprintf("{ protocol: '%s', from: '%s', path: '/svc/%[1]s'%[3]s }", p,
					pick("from", "parent", "parent", "self"), pick("availability", "", "", ", availability: 'optional'")))
			}
		}
		for _, to := range below {
			if rapid.Bool().Draw(t, "runner") {
				offers = append(offers, fmt.Sprintf("{ runner: '%s', from: 'parent', as: 'r', to: '%s' }", pick("runner", "elf", "r"), to))
			}
		}
		list := func(key string, l []string) string { return fmt.Sprintf("%s: [ %s ],\n", key, strings.Join(l, ",\n")) }
		text := "{ program: { runner: '" + pick("runner", "elf", "r") + "', binary: 'b' },\n"
		text += list("environments", []string{
			"{ name: 'e', extends: 'realm', runners: [ { runner: '" + pick("runner", "elf", "r") + "', from: 'parent', as: 'r' } ] }",
		})
		file := fmt.Sprintf("m%d.cml", i)
		files[file] = text + list("children", children) + list("capabilities", caps) + list("offer", offers) + list("expose", exposes) +
			list("use", uses) + "}"
	}
	return files
}

// Whatever the tree, sharing answers changes none of them.
func TestSharingIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files := randomTree(t)
		once := func(all bool) (verify.Summary, []string) {
			tree, err := verify.Open(context.Background(), verify.Config{
				Root: "file:///m0.cml", Builtins: routingtest.Defaults(), Resolvers: map[string]resolver.Resolver{"file": files},
			})
			if err != nil {
				t.Skip(err) // a root that is wrong
			}
			var out []string
			s, err := tree.Check(context.Background(), nil, all, func(r verify.Result) {
				if r.Severity != verify.OK {
					out = append(out, fmt.Sprint(brief(r), r.Err.Pos, r.Err.Hint, r.Err.Hops))
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			return s, out
		}
		few, got := once(false)
		all, want := once(true)
		if d := cmp.Diff(want, got); d != "" || few != all {
			t.Fatalf("%+v, %+v\n%s\n%v", all, few, d, files)
		}
	})
}

// doubling is a tree in which each level has two children of the next: 2ⁿ⁺¹-1 instances of n+1 manifests.
func doubling(levels int) map[string]string {
	files := map[string]string{}
	for i := range levels {
		file := fmt.Sprintf("l%d.cml", i)
		if i == 0 {
			file = "root.cml"
		}
		files[file] = fmt.Sprintf("{ children: [ { name: 'a', url: 'l%d.cml' }, { name: 'b', url: 'l%[1]d.cml' } ],\n"+
			"offer: [ { runner: 'elf', from: 'parent', to: [ '#a', '#b' ] } ] }", i+1)
	}
	files[fmt.Sprintf("l%d.cml", levels)] = "{ use: [ { runner: 'elf' } ], program: { binary: 'b' } }"
	return files
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		levels, limit, instances int
	}{{4, 31, 31}, {4, 30, 31}, {40, 0, 1<<41 - 1}, {100, 0, -1}} {
		cfg := config(lay(t, doubling(c.levels)))
		cfg.Limit = c.limit
		tree, err := verify.Open(t.Context(), cfg)
		limit := &verify.LimitError{}
		switch {
		case c.instances == c.limit:
			if err != nil || tree.Instances != c.instances {
				t.Errorf("%+v: %v", c, err)
				continue
			}
			if s, got := check(t, tree, nil, false); s.Errors != 0 || s.Routes != 31+15*2+16 {
				t.Errorf("%v %v", s, briefs(got))
			}
		case !errors.As(err, &limit) || capabilities.CodeOf(err) != capabilities.Invalid:
			t.Errorf("%+v: %v", c, err)
		case c.instances >= 0 && limit.Instances != c.instances,
			c.instances < 0 && !strings.Contains(err.Error(), "more than 4611686018427387903"):
			t.Errorf("%+v: %d: %v", c, limit.Instances, err)
		}
	}
	// Different places make different classes, and those are counted as they are found.
	files := doubling(30)
	for f, text := range files {
		files[f] = strings.Replace(text, "to: [ '#a', '#b' ]", "to: [ '#a' ]", 1)
	}
	cfg := config(lay(t, files))
	cfg.Limit = 1000
	if _, err := verify.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "more than 1000 instances") {
		t.Error(err)
	}
}

// TestRepeated: a tree of 100,000 instances through one repeated child costs little more than its manifests, and what fails in one
// of them is told of each.
func TestRepeated(t *testing.T) {
	tree, _ := open(t, twins(50_000))
	// twins offers to 50,000 children, each with one below, what comes from nowhere above the root; one child lacks it.
	s, err := tree.Check(t.Context(), nil, false, func(verify.Result) {})
	if err != nil || tree.Instances != 100_003 || tree.Manifests != 3 || s.Errors < 50_000 {
		t.Errorf("%d instances of %d manifests, %+v, %v", tree.Instances, tree.Manifests, s, err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := verify.Open(t.Context(), config(lay(t, doubling(16)))); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("131,071 instances of 17 manifests took %d MiB", used>>20)
	}
}

func TestDeep(t *testing.T) {
	files := map[string]string{}
	for i := range 1010 {
		files[fmt.Sprintf("d%d.cml", i)] = fmt.Sprintf("{ children: [ { name: 'd', url: 'd%d.cml' } ] }", i+1)
	}
	files["root.cml"] = "{ children: [ { name: 'd', url: 'd0.cml' } ] }"
	tree, _ := open(t, files)
	if _, got := check(t, tree, nil, false); len(got) != 1 || !strings.Contains(got[0].Ending(), "more than 1000 levels deep") {
		t.Errorf("%d results", len(got))
	}
}

func TestAllowlist(t *testing.T) {
	dir := lay(t, map[string]string{"allow.json5": `// known
[
  { target: '/c*', protocol: "missing", reason: 'nothing is called so' },
  { target: '/**', protocol: "missing", reason: 'later' },
  { target: '/', protocol: "missing", reason: 'the root, too' },
  { target: '/c1', runner: "missing", reason: 'another kind' },
]`})
	if _, err := verify.ReadAllowlist(dir + "/none"); err == nil {
		t.Error("an allowlist that isn't there")
	}
	file := dir + "/allow.json5"
	if _, err := verify.ReadAllowlist(file); err == nil || !strings.HasPrefix(err.Error(), file+":3:13: allowlist entry") {
		t.Error(err)
	}
	src, _ := os.ReadFile(file)
	_ = os.WriteFile(file, bytes.Replace(src, []byte("/c*"), []byte("/c0/*"), 1), 0o644)
	allow, err := verify.ReadAllowlist(file)
	if err != nil {
		t.Fatal(err)
	}
	tree, _ := open(t, twins(3))
	s, got := check(t, tree, allow, false)
	if s.Errors != 0 || s.Allowed != 7 || len(got) != 7 || got[0].Allowed != "the root, too" || got[4].Allowed != "later" {
		t.Errorf("%+v %q", s, briefs(got))
	}
	want := file + ":3:3: stale: no protocol \"missing\" of /c0/* fails\n  hint: remove the entry\n" +
		file + ":6:3: stale: no runner \"missing\" of /c1 fails\n  hint: remove the entry"
	if got := allow.Stale().Error(); got != want {
		t.Error(cmp.Diff(want, got))
	}
}

func TestAllowlistErrors(t *testing.T) {
	for src, want := range map[string]string{
		"{}":                                 "1:1: must be an array of objects",
		"[1]":                                "1:2: must be an object",
		"[{}]":                               "1:2: the entry lacks \"target\", such as \"/core/net\" or \"/core/**\"",
		"[{,}]":                              "1:3: ",
		"[":                                  "1:2: ",
		"[\n{ target: '/', protocol: 'p' }]": "2:1: the entry lacks \"reason\"",
		"[{ target: '/', reason: 'r' }]":     "1:2: the entry lacks the capability, such as protocol: \"log\"",
		"[{ target: '/', protocol: 'p', runner: 'q', reason: 'r' }]": "1:32: an entry is about one capability, and this is",
		"[{ target: '/', target: '/', protocol: 'p', reason: 'r' }]": "1:17: key \"target\" stands here a second time",
		"[{ target: '/', protocl: 'p', reason: 'r' }]":               "1:17: unknown field `protocl`\n  hint: did you mean",
		"[{ target: 'a', protocol: 'p', reason: 'r' }]":              "1:12: allowlist entry (\"a\") must start with a '/'",
		"[{ target: '/', protocol: ['p'], reason: 'r' }]":            "1:27: \"protocol\" must be a string, and not empty",
		"[{ target: '/', protocol: 'p', reason: '' }]":               "1:40: \"reason\" must be a string, and not empty",
	} {
		file := lay(t, map[string]string{"a.json5": src}) + "/a.json5"
		_, err := verify.ReadAllowlist(file)
		if err == nil || !strings.HasPrefix(err.Error(), file+":"+want) {
			t.Errorf("%s: %v, want %s", src, err, want)
		}
		if _, ok := manifest.AsDiagnostics(err); err != nil && !ok {
			t.Errorf("%s: a %T", src, err)
		}
	}
}

func TestJSON(t *testing.T) {
	tree, dir := open(t, map[string]string{
		"root.cml": "{ children: [\n{ name: 'a', url: 'a.cml' }, { name: 'bad', url: 'bad.cml' } ],\n" +
			"offer: [ { protocol: 'v', from: 'void', to: '#a', availability: 'optional' } ] }",
		"a.cml": "{ use: [ { protocol: 'p' }, { protocol: 'v', availability: 'optional' } ],\n" +
			"program: { runner: 'elf', binary: 'b' } }",
		"bad.cml": "{ usee: [] }",
	})
	allowed := lay(t, map[string]string{"a": "[ { target: '/bad', resolver: 'file', reason: 'known' },\n" +
		"{ target: '/b', resolver: 'file', reason: 'x' } ]"})
	allow, err := verify.ReadAllowlist(allowed + "/a")
	if err != nil {
		t.Fatal(err)
	}
	var j verify.JSON
	s, err := tree.Check(t.Context(), allow, true, func(r verify.Result) { j.Add(&r) })
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := j.Write(&b, tree, s, allow.Stale()); err != nil {
		t.Fatal(err)
	}
	var all struct {
		Results []struct {
			CapabilityType string `json:"capability_type"`
			Results        map[string][]map[string]any
		}
		Stale []map[string]any
	}
	if err := json.Unmarshal(b.Bytes(), &all); err != nil {
		t.Fatal(err, b.String())
	}
	if len(all.Results) != len(manifest.Kinds()) || len(all.Stale) != 1 {
		t.Errorf("%d kinds, %d stale", len(all.Results), len(all.Stale))
	}
	for _, k := range all.Results {
		if got := slices.Sorted(maps.Keys(k.Results)); !slices.Equal(got, []string{"allowed", "errors", "ok", "warnings"}) {
			t.Errorf("%s has %q", k.CapabilityType, got)
		}
		for _, list := range k.Results {
			for _, r := range list {
				keys := slices.DeleteFunc(slices.Sorted(maps.Keys(r)), func(k string) bool { return k == "position" || k == "error" })
				if strings.Join(keys, " ") != "availability capability decl_type hops kind outcome reason source_capability source_moniker "+
					"target_moniker to" {
					t.Errorf("a result has %q", keys)
				}
			}
		}
	}
	text := strings.ReplaceAll(b.String(), dir, "DIR")
	for _, want := range []string{
		`{"root":"file://DIR/root.cml","manifests":2,"instances":3,"routes":7,"errors":1,"warnings":0,"allowed":1,"results":[` +
			`{"capability_type":"protocol","results":{"errors":[{`,
		`{"target_moniker":"/a","decl_type":"use","kind":"protocol","capability":"p","to":"","availability":"required",` +
			`"outcome":"Failed","source_moniker":"","source_capability":"","position":{"file":"DIR/a.cml","line":1,"column":22},` +
			`"error":{"kind":"not_found","moniker":"/a","message":"` + "`p` was not offered to `/a` by parent" +
			`","hint":"add { protocol: \"p\", from: \"self\", to: \"#a\" } to \"offer\" of / (DIR/root.cml), and declare it in`,
		`"hops":[{"moniker":"/a","decl":"use","capability":"p","position":{"file":"DIR/a.cml","line":1,"column":22}}]`,
		`{"target_moniker":"/a","decl_type":"program","kind":"runner","capability":"elf","to":"","availability":"required",` +
			`"outcome":"Success","source_moniker":"<component manager>","source_capability":"elf",`,
		`"decl_type":"use","kind":"protocol","capability":"v","to":"","availability":"optional","outcome":"Void","source_moniker":"",`,
		`"message":"failed to resolve ` + "`/bad`" + `","hint":"","position":{"file":"DIR/root.cml","line":2,"column":38},` +
			`"findings":[{"position":{"file":"DIR/bad.cml","line":1,"column":3},"rule":"unknown-key"`,
		`"reason":"known"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// FuzzAllowlist: a file that is taken has entries that can allow something, and say why; one that is not says where.
func FuzzAllowlist(f *testing.F) {
	f.Add("[ { target: '/a', protocol: 'p', reason: 'r' } ]")
	f.Add("[ { target: '/a/**', runner: 'p', reason: 'r', }, {} ]")
	f.Fuzz(func(t *testing.T, src string) {
		file := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(file, []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
		a, err := verify.ReadAllowlist(file)
		if ds, ok := manifest.AsDiagnostics(err); err != nil && (!ok || len(ds) == 0 || ds[0].Pos.File != file || ds[0].Pos.Line < 1) {
			t.Fatalf("%q: %v", src, err)
		}
		for _, d := range a.Stale() { // nothing was checked, so that these are all
			if d.Pos.Line < 1 || d.Pos.Col < 1 || !strings.HasPrefix(d.Message, "stale: no ") {
				t.Fatalf("%q: %v", src, d)
			}
		}
	})
}

// FuzzWanted: what is read is written as it was read, or means the same.
func FuzzWanted(f *testing.F) {
	f.Add("protocol:log@/core/jobs:a")
	f.Add("log@./a")
	f.Fuzz(func(t *testing.T, s string) {
		w, err := verify.ParseWanted(s)
		if err != nil {
			return
		}
		if again, err := verify.ParseWanted(w.String()); err != nil || again != w || w.Name == "" {
			t.Fatalf("%q: %+v, then %+v, %v", s, w, again, err)
		}
	})
}

// The shape is that of the standard, as far as the parts that are used: §3.13 log, §3.14 run, §3.19 tool, §3.27 result, §3.28
// location, §3.35 suppression.
func TestSARIF(t *testing.T) {
	tree, dir := open(t, map[string]string{
		"root.cml": "{ children: [\n{ name: 'a', url: 'a b/a.cml' }, { name: 'bad', url: 'bad.cml' }," +
			" { name: 'bad2', url: 'bad.cml' }],\n" +
			"offer: [ { protocol: 'p', from: '#a', to: '#bad' } ] }",
		"a b/a.cml": "{ use: [ { protocol: 'p', availability: 'optional' } ] }",
		"bad.cml":   "{ usee: [] }",
		"allow.json5": "[ { target: '/bad', resolver: 'file', reason: 'known' },\n" +
			"{ target: '/b', resolver: 'file', reason: 'x' } ]",
	})
	allow, err := verify.ReadAllowlist(dir + "/allow.json5")
	if err != nil {
		t.Fatal(err)
	}
	s := verify.SARIF{Dir: dir, Version: "1"}
	if _, err := tree.Check(t.Context(), allow, false, func(r verify.Result) { s.Add(&r) }); err != nil {
		t.Fatal(err)
	}
	s.AddFindings(allow.Stale(), "")
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	type location struct {
		PhysicalLocation struct {
			ArtifactLocation struct{ URI, URIBaseID string }
			Region           struct{ StartLine, StartColumn int }
		}
		LogicalLocations []struct{ FullyQualifiedName, Kind string }
		Message          struct{ Text string }
	}
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name, Version string
					Rules         []struct {
						ID               string
						ShortDescription struct{ Text string }
					}
				}
			}
			ColumnKind         string
			OriginalURIBaseIDs map[string]struct{ URI string }
			Results            []struct {
				RuleID              string
				RuleIndex           int
				Level               string
				Message             struct{ Text string }
				Locations           []location
				RelatedLocations    []location
				PartialFingerprints map[string]string
				Suppressions        []struct{ Kind, Justification string }
			}
		}
	}
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	if err := d.Decode(&log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || !strings.Contains(log.Schema, "sarif-2.1.0") || len(log.Runs) != 1 {
		t.Fatalf("%+v", log)
	}
	run := log.Runs[0]
	base := run.OriginalURIBaseIDs["SRCROOT"].URI
	if run.Tool.Driver.Name != "cmgr" || run.ColumnKind != "unicodeCodePoints" || base != "file://"+dir+"/" {
		t.Errorf("%+v", run)
	}
	var got []string
	for _, r := range run.Results {
		l := r.Locations[0].PhysicalLocation
		if run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID || run.Tool.Driver.Rules[r.RuleIndex].ShortDescription.Text == "" ||
			!slices.Contains([]string{"error", "warning", "note"}, r.Level) || r.Message.Text == "" ||
			len(r.PartialFingerprints["cmgr/v1"]) != 32 ||
			len(r.Locations) != 1 || l.ArtifactLocation.URIBaseID != "SRCROOT" || l.Region.StartLine < 1 || l.Region.StartColumn < 1 {
			t.Errorf("%+v", r)
		}
		text, _, _ := strings.Cut(r.Message.Text, "\n")
		if r.RuleID == "unknown-key" {
			text = "" // is tested where it is made
		}
		line := fmt.Sprintf("%s:%d:%d %s %s %s", l.ArtifactLocation.URI, l.Region.StartLine, l.Region.StartColumn, r.Level,
			r.RuleID, text)
		for _, s := range r.Suppressions {
			line += " " + s.Kind + " " + s.Justification
		}
		got = append(got, line)
	}
	want := []string{
		"root.cml:3:22 error route-not_found offer protocol p to #bad: `p` was not exposed to `/` from `#a`",
		"a%20b/a.cml:1:22 warning route-not_found use protocol p: `p` was not offered to `/a` by parent",
		"root.cml:2:42 error unresolved child resolver file: failed to resolve `/bad` external known",
		"bad.cml:1:3 error unknown-key  external known",
		"root.cml:2:75 error unresolved child resolver file: failed to resolve `/bad2`",
		"allow.json5:2:1 error stale-allowance stale: no resolver \"file\" of /b fails",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

const shopRoot = `{
	children: [
		{ name: 'log', url: 'log.cml' }, { name: 'web', url: 'web.cml', environment: '#e' }, { name: 'box', url: 'box.cml' },
		{ name: 'disk', url: 'disk.cml' }, { name: 'many', url: 'many.cml' },
	],
	environments: [ { name: 'e', extends: 'realm', runners: [ { runner: 'fast', from: '#log' } ] } ],
	capabilities: [
		{ dictionary: 'd' },
		{ storage: 'st', from: '#disk', backing_dir: 'data', storage_id: 'static_instance_id_or_moniker' },
	],
	offer: [
		{ protocol: 'log', from: '#log', as: 'syslog', to: '#web' },
		{ protocol: 'log', from: '#log', to: 'self/d' },
		{ dictionary: 'd', from: 'self', to: '#box' },
		{ protocol: 'cmgr.component.StorageAdmin', from: '#st', to: '#many' },
		{ storage: 'st', from: 'self', to: '#box' },
		{ service: 's', from: [ '#log', '#disk' ], to: '#many' },
	],
	expose: [ { protocol: 'log', from: '#log' } ],
}`

var shop = map[string]string{
	"root.cml": shopRoot,
	"log.cml": `{ program: { runner: 'elf', binary: 'b' },
		capabilities: [ { protocol: 'log' }, { runner: 'fast', path: '/svc/r' }, { service: 's' } ],
		expose: [ { protocol: 'log', from: 'self' }, { runner: 'fast', from: 'self' }, { service: 's', from: 'self' } ] }`,
	"web.cml": `{ program: { runner: 'fast' }, use: [ { protocol: 'syslog' } ] }`,
	"box.cml": `{ use: [ { dictionary: 'd', path: '/svc/d' }, { storage: 'st', path: '/data' } ] }`,
	"disk.cml": `{ program: { runner: 'elf', binary: 'b' },
		capabilities: [ { directory: 'data', rights: ['rw*'], path: '/data' }, { service: 's' } ],
		expose: [ { directory: 'data', from: 'self' }, { service: 's', from: 'self' } ] }`,
	"many.cml": `{ use: [ { service: 's' }, { protocol: 'cmgr.component.StorageAdmin' } ] }`,
}

func TestWhoCanReach(t *testing.T) {
	tree, _ := open(t, shop)
	if _, got := check(t, tree, nil, false); len(got) > 0 {
		t.Fatal(briefs(got))
	}
	for _, c := range []struct {
		wanted, near string
		want         []string
	}{
		{"log", "", []string{
			"/ expose protocol log: log of /log over / /log /log",
			"/web use protocol syslog: log of /log over /web / /log /log",
			"/box use dictionary d: log of /log over /box / / / /log /log",
		}},
		{"runner:fast@/log", "", []string{"/web program runner fast: fast of /log over /web / /log /log"}},
		{"runner:fast@/web", "", nil},
		{"directory:data", "", []string{
			"/box use storage st: data of /disk over /box / / /disk /disk",
			"/many use protocol cmgr.component.StorageAdmin: data of /disk over /many / / /disk /disk",
		}},
		{"storage:st", "", []string{
			"/box use storage st: st of / over /box / /",
			"/many use protocol cmgr.component.StorageAdmin: st of / over /many / /",
		}},
		{"cmgr.component.StorageAdmin@/", "", []string{
			"/many use protocol cmgr.component.StorageAdmin: cmgr.component.StorageAdmin of / over /many / /",
		}},
		{"s@/disk", "", []string{"/many use service s: s of /disk over /many / /disk /disk"}},
		{"lgo", "log", nil},
	} {
		w, err := verify.ParseWanted(c.wanted)
		if err != nil {
			t.Fatal(err)
		}
		rs, near, err := tree.WhoCanReach(t.Context(), w)
		var got []string
		for _, r := range rs {
			line := fmt.Sprintf("%s %s: %s of %s over", r.By.Target, r.By.Subject(), r.Source.Name, r.Source)
			for _, h := range r.Hops {
				line += " " + string(h.At)
			}
			got = append(got, line)
		}
		if d := cmp.Diff(c.want, got); d != "" || near != c.near || err != nil || w.String() != c.wanted {
			t.Errorf("%s: %q %v %s", w, near, err, d)
		}
	}
	for _, bad := range []string{"", "protocl:log", "protocol:", "log@web", "a b"} {
		if _, err := verify.ParseWanted(bad); err == nil {
			t.Errorf("%q is a capability", bad)
		}
	}
}

func TestDiff(t *testing.T) {
	before, _ := open(t, shop)
	files := maps.Clone(shop)
	files["root.cml"] = "// a line more\n" + strings.NewReplacer(
		"from: '#log', as: 'syslog'", "from: '#disk', as: 'syslog'",
		"{ storage: 'st', from: 'self', to: '#box' },", "").Replace(shopRoot)
	files["web.cml"] = `{ program: { runner: 'fast' }, use: [ { protocol: 'syslog' }, { protocol: 'syslog', path: '/svc/x' } ] }`
	files["disk.cml"] = strings.NewReplacer("capabilities: [", "capabilities: [ { protocol: 'log' }, ",
		"expose: [", "expose: [ { protocol: 'log', from: 'self' }, ").Replace(shop["disk.cml"])
	files["many.cml"] = "{}"
	after, _ := open(t, files)
	show := func(a, b *verify.Tree) []string {
		cs, err := verify.Diff(t.Context(), a, b)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, c := range cs {
			line := c.Word()
			for _, r := range []*verify.Result{c.Before, c.After} {
				if r != nil {
					line = fmt.Sprintf("%s %s %s:", c.Word(), r.Target, r.Subject())
				}
			}
			for _, r := range []*verify.Result{c.Before, c.After} {
				if r == nil {
					line += " | -"
				} else {
					line += " | " + r.Ending()
				}
			}
			out = append(out, line)
		}
		return out
	}
	want := []string{
		"changed /box use storage st: | st of / | `st` was not offered to `/box` by parent",
		"removed /many use protocol cmgr.component.StorageAdmin: | st of / | -",
		"removed /many use service s: | s of / [/log /disk] | -",
		"changed /web use protocol syslog: | log of /log | log of /disk",
		"added /web use protocol syslog: | - | log of /disk",
	}
	if d := cmp.Diff(want, show(before, after)); d != "" {
		t.Error(d)
	}
	// Lines and directories make no difference.
	files = maps.Clone(shop)
	for f := range files {
		files[f] = "\n\n" + files[f]
	}
	same, _ := open(t, files)
	if got := show(before, same); got != nil {
		t.Error(got)
	}
	gone := map[string]string{"root.cml": "{ children: [ { name: 'gone', url: 'gone.cml' } ] }"}
	a, _ := open(t, gone)
	b, _ := open(t, gone)
	if got := show(a, b); got != nil {
		t.Error(got)
	}
}

func TestShutdownOrder(t *testing.T) {
	tree, _ := open(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: 'log', url: 'log.cml' }, { name: 'web', url: 'web.cml' }, { name: 'free', url: 'leaf.cml' },
				{ name: 'gone', url: 'gone.cml' },
			],
			offer: [ { protocol: 'log', from: '#log', to: '#web' } ], use: [ { protocol: 'log', from: '#log' } ] }`,
		"log.cml": `{ capabilities: [ { protocol: 'log' } ], expose: [ { protocol: 'log', from: 'self' } ],
			program: { runner: 'elf', binary: 'b' } }`,
		"web.cml":  `{ children: [ { name: 'a', url: 'leaf.cml' }, { name: 'b', url: 'leaf.cml' } ], use: [ { protocol: 'log' } ] }`,
		"leaf.cml": `{}`,
	})
	steps, cycles, err := tree.ShutdownOrder(t.Context())
	want := [][]name.Moniker{{"/free", "/gone", "/web/a", "/web/b"}, {"/web"}, {"/"}, {"/log"}}
	if d := cmp.Diff(want, steps); d != "" || cycles != nil || err != nil {
		t.Error(d, cycles, err)
	}
}

// Each thing that a program can touch has its line, and the worst come first.
func TestExposures(t *testing.T) {
	dir := lay(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "nothing", url: "nothing.cml" }, { name: "web", url: "web.cml" }, { name: "writer", url: "writer.cml" },
				{ name: "free", url: "nothing.cml" }, { name: "open", url: "nothing.cml" }, { name: "admin", url: "admin.cml" },
				{ name: "run", url: "run.cml", environment: "#runs" }, { name: "func", url: "func.cml" }, { name: "runner", url: "runner.cml" },
			],
			environments: [ { name: "runs", extends: "realm", runners: [ { runner: "mine", from: "#runner" } ] } ],
			capabilities: [ { directory: "d", path: "/d", rights: [ "rw*", "execute" ] }, { protocol: "p" } ],
			offer: [
				{ protocol: "p", from: "self", to: "#web" },
				{ protocol: [ "linux.Network", "linux.cap.net_bind_service" ], from: "parent", to: "#web" },
				{ protocol: "linux.cap.sys_admin", from: "parent", to: "#admin" },
				{ protocol: "linux.Network", from: "parent", to: "#runner" },
				{ directory: "d", from: "self", to: [ "#writer", "#admin" ], rights: [ "rw*", "execute" ] },
			],
			program: { runner: "elf", binary: "x" },
		}`,
		"nothing.cml": `{ program: { runner: "elf", binary: "x" } }`,
		"web.cml": `{
			program: { runner: "elf", binary: "x" },
			use: [ { protocol: [ "linux.Network", "linux.cap.net_bind_service", "p" ] } ],
		}`,
		"runner.cml": `{
			program: { runner: "elf", binary: "x" }, use: [ { protocol: "linux.Network" } ],
			capabilities: [ { runner: "mine", path: "/r" } ], expose: [ { runner: "mine", from: "self" } ],
		}`,
		"run.cml":    `{ program: { runner: "mine" } }`,
		"func.cml":   `{ program: { runner: "builtin" } }`,
		"writer.cml": `{ program: { runner: "elf", binary: "x" }, use: [ { directory: "d", path: "/d", rights: [ "rw*" ] } ] }`,
		"admin.cml": `{
			program: { runner: "elf", binary: "x" },
			use: [
				{ protocol: [ "linux.cap.sys_admin" ] }, { directory: "d", path: "/d", rights: [ "rw*", "execute" ] },
				{ protocol: "cmgr.component.Realm", from: "framework" },
			],
		}`,
	})
	c := config(dir)
	b := routingtest.Defaults()
	b.Offered[manifest.KindProtocol] = confine.Protocols()
	c.Builtins = b
	tree, err := verify.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	all, err := tree.Exposures(t.Context(), func(m name.Moniker) confine.Grants {
		return confine.Grants{Unconfined: m == "/free", Network: m == "/open"}
	})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, e := range all {
		fmt.Fprintln(&got, e.Score, e.Moniker)
		for _, r := range e.Reasons {
			fmt.Fprintln(&got, strings.TrimSuffix(fmt.Sprintf(" %d %s %s", r.Score, r.What, strings.TrimPrefix(r.Pos.String(), dir+"/")), " "))
		}
	}
	const want = `100 /free
 100 it is not confined, by security_policy.sandbox.unconfined
100 /func
 100 its runner builtin does not confine it func.cml:1:22
75 /admin
 60 linux.cap.sys_admin, which is as good as root admin.cml:4:19
 10 it may write and execute directory d of / admin.cml:4:59
 5 cmgr.component.Realm: it makes children admin.cml:5:17
36 /web
 25 the host's network web.cml:3:25
 10 linux.cap.net_bind_service web.cml:3:42
 1 protocol p of / web.cml:3:72
25 /open
 25 the host's network, by security_policy.sandbox.network
25 /run
 25 what its runner /runner can touch run.cml:1:22
25 /runner
 25 the host's network runner.cml:2:64
4 /writer
 4 it may write directory d of / writer.cml:1:64
0 /
0 /nothing
`
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Error(d)
	}
}

// generate lays a tree of n manifests of the usual kind: each has a program, a log that comes from the root, a capability of its
// own that its parent uses, and up to ten children.
func generate(t testing.TB, n int) string {
	files := map[string]string{}
	for i := range n {
		var children, uses strings.Builder
		var names []string
		for c := 10*i + 1; c <= 10*i+10 && c < n; c++ {
			fmt.Fprintf(&children, "\n        { name: \"c%d\", url: \"%s\", startup: \"eager\" },", c, manifestName(i, c))
			fmt.Fprintf(&uses, "\n        { protocol: \"store\", from: \"#c%d\", path: \"/svc/store-%[1]d\" },", c)
			names = append(names, fmt.Sprintf("\"#c%d\"", c))
		}
		from := "parent"
		declared := ""
		if i == 0 {
			from = "self"
			declared = "\n        { protocol: \"log\" },"
		} else {
			uses.WriteString("\n        { protocol: \"log\" },")
		}
		offers := ""
		if len(names) > 0 {
			to := strings.Join(names, ", ")
			offers = fmt.Sprintf("\n        { runner: \"elf\", from: \"parent\", to: [ %s ] },\n"+
				"        { protocol: \"log\", from: %q, to: [ %[1]s ], dependency: \"weak\" },\n    ", to, from)
		}
		file := "root.cml"
		if i > 0 {
			file = filePath(i)
		}
		files[file] = fmt.Sprintf(`// component %d
{
    program: {
        binary: "bin/server",
        args: [ "--port", "%[1]d" ],
        environ: [ "HOME=/data" ],
    },
    children: [%s
    ],
    capabilities: [%s
        { protocol: "store" },
    ],
    use: [
        { runner: "elf" },%s
    ],
    offer: [%s],
    expose: [
        { protocol: "store", from: "self" },
    ],
}
`, i, children.String(), declared, uses.String(), offers)
	}
	return lay(t, files)
}

// The manifests of the children of one lie in a directory of their own.
func filePath(i int) string { return fmt.Sprintf("d%d/c%d.cml", (i-1)/10, i) }

func manifestName(parent, i int) string {
	if parent == 0 {
		return filePath(i)
	}
	return "../" + filePath(i)
}

func TestGenerated(t *testing.T) {
	cfg := config(generate(t, 111))
	var last [2]int
	cfg.Progress = func(done, total int) { last = [2]int{done, total} }
	tree, err := verify.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, got := check(t, tree, nil, false)
	if tree.Manifests != 111 || tree.Instances != 111 || len(got) != 0 || s.Routes != 773 || last != [2]int{111, 111} {
		t.Errorf("%d manifests, %+v, %v, %q", tree.Manifests, s, last, briefs(got))
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkVerify verifies a tree of 10,000 manifests; cpu-s/op is user and system time of all threads.
func BenchmarkVerify(b *testing.B) {
	dir := generate(b, 10_000)
	b.ReportAllocs()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as `cmgr verify`
	before := cpu()
	for b.Loop() {
		tree, err := verify.Open(b.Context(), config(dir))
		if err != nil {
			b.Fatal(err)
		}
		s, got := check(b, tree, nil, false)
		if tree.Instances != 10_000 || len(got) > 0 || s.Routes < 69_000 {
			b.Fatal(tree.Instances, s, len(got))
		}
	}
	b.ReportMetric((cpu()-before).Seconds()/float64(b.N), "cpu-s/op")
}

// BenchmarkMemory measures what a verified tree keeps, for each of its manifests: it is to stay the same, however many there are.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{1000, 2000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := generate(b, n)
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				cfg := config(dir)
				tree, err := verify.Open(b.Context(), cfg)
				if err != nil {
					b.Fatal(err)
				}
				check(b, tree, nil, false)
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(tree)
				runtime.KeepAlive(cfg)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1024/float64(n), "KiB/manifest")
			}
		})
	}
}

// BenchmarkRepeated verifies trees of about 100,000 instances of few manifests: all children of one, with an error in each, and 2ⁿ
// of n, all well.
func BenchmarkRepeated(b *testing.B) {
	lone := twins(60_000)
	lone["c.cml"] = "{ use: [ { protocol: 'log' }, { protocol: 'nobody-offers' } ] }"
	for word, files := range map[string]map[string]string{"flat": twins(50_000), "lone": lone, "doubling": doubling(16)} {
		b.Run(word, func(b *testing.B) {
			dir := lay(b, files)
			b.ReportAllocs()
			for b.Loop() {
				tree, err := verify.Open(b.Context(), config(dir))
				if err != nil {
					b.Fatal(err)
				}
				s, err := tree.Check(b.Context(), nil, false, func(verify.Result) {})
				if err != nil || tree.Instances < 60_000 || s.Routes < 200_000 {
					b.Fatal(tree.Instances, s, err)
				}
			}
		})
	}
}

// The line to add names the child that exposes what is wanted, though nobody routes it yet.
func TestHintsKnowSiblings(t *testing.T) {
	const log = `{ program: { runner: 'elf', binary: 'b' }, capabilities: [ { protocol: 'log' } ],
		expose: [ { protocol: 'log', from: 'self' } ] }`
	const web = `{ program: { runner: 'elf', binary: 'b' }, use: [ { protocol: 'log' } ] }`
	for root, want := range map[string]string{
		`{ children: [ { name: 'web', url: 'web.cml' }, { name: 'log', url: 'log.cml' } ] }`://
		`add { protocol: "log", from: "#log", to: "#web" } to "offer" of / (DIR/root.cml)`,
		`{ children: [ { name: 'web', url: 'web.cml' }, { name: 'log', url: 'log.cml' } ],
			offer: [ { protocol: 'log', from: 'parent', to: '#web' } ] }`: //
		`above the root there is only cmgr itself; write from: "#log"`,
		`{ children: [ { name: 'web', url: 'web.cml' } ], capabilities: [ { dictionary: 'd' } ],
			offer: [ { protocol: 'log', from: 'parent', to: '#web' } ] }`: //
		`above the root there is only cmgr itself, which has linux.Netwatch: take it from a child, or declare it in "capabilities", ` +
			`or give it the host's by namespace_capabilities of the manager's --config`,
		`{ children: [ { name: 'web', url: 'web.cml' } ] }`: //
		`add { protocol: "log", from: "self", to: "#web" } to "offer" of / (DIR/root.cml), and declare it in "capabilities" there ` +
			`(or offer it from the child that provides it)`,
	} {
		tree, dir := open(t, map[string]string{"root.cml": root, "web.cml": web, "log.cml": log})
		_, found := check(t, tree, nil, false)
		i := slices.IndexFunc(found, func(r verify.Result) bool { return r.Decl == "use" })
		if i < 0 {
			t.Fatal(root, briefs(found))
		}
		if got := strings.ReplaceAll(found[i].Err.Hint, dir, "DIR"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", root, got, want)
		}
	}
}

// A program that the runner elf will refuse is an error, at each instance, under whatever name the runner is known; one for another
// runner is not looked at.
func TestProgramsAreChecked(t *testing.T) {
	tree, dir := open(t, map[string]string{
		"root.cml": `{ children: [ { name: 'a', url: 'a.cml' }, { name: 'a2', url: 'a.cml' }, { name: 'b', url: 'b.cml' },
			{ name: 'c', url: 'c.cml', environment: '#e' }, { name: 'log', url: 'log.cml' } ],
			offer: [ { runner: 'elf', from: 'parent', as: 'native', to: '#b' } ],
			environments: [ { name: 'e', extends: 'realm', runners: [ { runner: 'fast', from: '#log', as: 'elf' } ] } ] }`,
		"a.cml": "{ program: { runner: 'elf', binary: [ 'x' ],\n stop_signa: 'TERM' } }",
		"b.cml": `{ program: { args: [ 'x' ] }, use: [ { runner: 'native' } ] }`,
		"c.cml": `{ program: { runner: 'elf', nothing: 'x' } }`,
		"log.cml": `{ program: { runner: 'elf', binary: 'b' }, capabilities: [ { runner: 'fast', path: '/svc/r' } ],
			expose: [ { runner: 'fast', from: 'self' } ] }`,
	})
	sum, found := check(t, tree, nil, false)
	want := []string{
		"error /a program runner elf: the runner refuses the program of `/a`",
		"error /a2 program runner elf: the runner refuses the program of `/a2` (like 1)",
		"error /b program runner native: the runner refuses the program of `/b`",
	}
	if d := cmp.Diff(want, briefs(found)); d != "" || sum.Errors != 3 {
		t.Fatal(sum, d)
	}
	ds, ok := manifest.AsDiagnostics(found[0].Err.Err)
	if !ok || ds[0].Pos.String() != dir+"/a.cml:1:29" || !strings.Contains(ds[0].Message, "must be a string") {
		t.Error(ds)
	}
	// Whom the runner reaches is another question.
	if reached, _, err := tree.WhoCanReach(t.Context(), verify.Wanted{Kind: manifest.KindRunner, Name: "elf"}); err != nil || len(reached) != 4 {
		t.Error(reached, err)
	}
}
