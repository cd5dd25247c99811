package routing

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
)

// What validation keeps out of a tree must still get its error, as the stored form of a manifest may come from elsewhere.
func TestDeclarationsThatNoManifestCanSay(t *testing.T) {
	ref := func(k manifest.RefKind, s string) manifest.Ref { return manifest.Ref{Kind: k, Name: s} }
	use := func(k manifest.Kind, r manifest.Ref) manifest.Use {
		return manifest.Use{Kind: k, Source: r, SourceName: "x", Pos: manifest.Pos{File: "a.cml", Line: 1, Col: 1}}
	}
	inDictionary := manifest.Ref{Kind: manifest.RefParent, Dictionary: "d"}
	const protocol = manifest.KindProtocol
	for _, c := range []struct {
		what  string
		use   manifest.Use
		decl  manifest.Component // of /a
		root  manifest.Component
		above manifest.Offer // from the root to /a
		code  capabilities.Code
		want  string
	}{
		{what: "self", use: use(protocol, self), want: "`x` was not declared as a capability by `/a`"},
		{
			what: "offer from self", use: use(protocol, parent), above: manifest.Offer{Source: self, SourceName: "y"},
			want: "cannot offer `y` because was not declared as a capability by `/`",
		},
		{
			what: "expose from self", use: use(protocol, parent), above: manifest.Offer{Source: childRef("a"), SourceName: "y"},
			decl: manifest.Component{Exposes: []manifest.Expose{{Kind: protocol, Source: self, SourceName: "z", TargetName: "y"}}},
			want: "unable to expose `z` because it was not declared as a capability by `/a`",
		},
		{what: "child", use: use(protocol, childRef("c")), want: "`/a` does not have child `#c`"},
		{
			what: "offer from child", use: use(protocol, parent), above: manifest.Offer{Source: childRef("c"), SourceName: "x"},
			want: "`/` does not have child `#c`",
		},
		{
			what: "collection", use: use(manifest.KindService, ref(manifest.RefCollection, "c")),
			want: "`/a` does not have collection `#c`",
		},
		{
			what: "storage admin of nothing", use: use(protocol, ref(manifest.RefCapability, "c")),
			want: "`c` was not declared as a capability by `/a`",
		},
		{
			what: "no admin", use: use(protocol, ref(manifest.RefCapability, "c")),
			decl: manifest.Component{Capabilities: []manifest.Capability{{Kind: manifest.KindStorage, Name: "c"}}},
			want: "`x` is not a framework capability (at component `/a`)",
		},
		{
			what: "no rights", use: use(manifest.KindDirectory, self),
			decl: manifest.Component{Capabilities: []manifest.Capability{{Kind: manifest.KindDirectory, Name: "x"}}},
			want: `directory routes must end at source with a rights declaration, it's missing at "/a"`,
		},
		{
			what: "storage in a dictionary", use: use(manifest.KindStorage, inDictionary), code: capabilities.Invalid,
			want: "dictionaries are not yet supported for storage capabilities at component `/a`",
		},
		{
			what: "events in a dictionary", use: use(manifest.KindEventStream, inDictionary), code: capabilities.Invalid,
			want: "dictionaries are not yet supported for event_stream capabilities at component `/a`",
		},
		{
			what: "a runner from nobody", use: use(manifest.KindRunner, parent),
			above: manifest.Offer{Source: ref(manifest.RefVoid, ""), SourceName: "x"},
			want:  "offer uses void source, but target requires the capability at `/`",
		},
		{
			what: "no source", use: use(protocol, manifest.Ref{}), code: capabilities.Invalid,
			want: "`/a` does not say where `x` comes from",
		},
		{
			what: "no environment", use: use(protocol, ref(manifest.RefDebug, "")), code: capabilities.Internal,
			want: "could not be routed",
		},
		{
			what: "storage without a declaration of its backing", use: use(manifest.KindStorage, manifest.Ref{}),
			above: manifest.Offer{Source: self, SourceName: "s"},
			root: manifest.Component{Capabilities: []manifest.Capability{
				{Kind: manifest.KindStorage, Name: "s", Storage: &manifest.StorageDecl{Source: self, BackingDir: "blocks"}},
			}},
			want: "`blocks` was not declared as a capability by `/`",
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := root(&c.root)
			if c.above.SourceName != "" {
				o := c.above
				o.Kind, o.Target, o.TargetName = c.use.Kind, childRef("a"), "x"
				r.decl.Offers = append(r.decl.Offers, o)
			}
			env := ""
			if c.use.Source.Kind == manifest.RefDebug {
				env = "missing"
			}
			_, err := New(elf).Use(t.Context(), r.child("a", env, &c.decl), &c.use)
			var f *capabilities.Error
			if !errors.As(err, &f) {
				t.Fatalf("%v, want an error", err)
			}
			want := c.code
			if want == 0 && c.what != "no environment" {
				want = capabilities.NotFound
			}
			if f.Reason != c.want || f.Why != want || f.Name != "x" || f.Target != "/a" {
				t.Errorf("%s %q for %s of %s, want %s %q", f.Why, f.Reason, f.Name, f.Target, want, c.want)
			}
		})
	}

	a := root(&manifest.Component{}).child("a", "", &manifest.Component{Program: &manifest.Program{}})
	if _, err := New(elf).Runner(t.Context(), a); capabilities.CodeOf(err) != capabilities.Invalid {
		t.Errorf("a program without a runner: %v", err)
	}
}

// In a tree of whatever declarations, every walk ends, and what it ends at is there.
func TestEveryWalkEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SampledFrom([]manifest.Kind{
			manifest.KindProtocol, manifest.KindService, manifest.KindDictionary,
			manifest.KindRunner,
		})
		names := rapid.SampledFrom([]string{"p", "q"})
		ref := rapid.Custom(func(t *rapid.T) manifest.Ref {
			r := manifest.Ref{
				Kind: rapid.SampledFrom([]manifest.RefKind{
					manifest.RefParent, manifest.RefParent, manifest.RefSelf,
					manifest.RefChild, manifest.RefChild,
				}).Draw(t, "ref"),
				Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "child"),
			}
			if rapid.Bool().Draw(t, "in a dictionary") {
				r.Dictionary = rapid.SampledFrom([]string{"p", "q", "p/q"}).Draw(t, "dictionary")
			}
			return r
		})
		target := rapid.Custom(func(t *rapid.T) manifest.Ref {
			if rapid.Bool().Draw(t, "to a dictionary") {
				return manifest.Ref{Kind: manifest.RefSelf, Dictionary: names.Draw(t, "dictionary")}
			}
			return childRef(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "target"))
		})
		r := root(&manifest.Component{})
		nodes := []*literal{r, r.child("a", "", &manifest.Component{}), r.child("b", "", &manifest.Component{})}
		nodes = append(nodes, nodes[1].child("a", "", &manifest.Component{}))
		for _, n := range nodes {
			for range rapid.IntRange(0, 8).Draw(t, "offers") {
				n.decl.Offers = append(n.decl.Offers, manifest.Offer{
					Kind: kinds.Draw(t, "kind"), Source: ref.Draw(t, "source"),
					SourceName: names.Draw(t, "name"),
					Target:     target.Draw(t, "target"), TargetName: names.Draw(t, "as"),
				})
			}
			for range rapid.IntRange(0, 6).Draw(t, "exposes") {
				n.decl.Exposes = append(n.decl.Exposes, manifest.Expose{
					Kind: kinds.Draw(t, "kind"), Source: ref.Draw(t, "source"),
					SourceName: names.Draw(t, "name"),
					Target:     parent, TargetName: names.Draw(t, "as"),
				})
			}
			for range rapid.IntRange(0, 3).Draw(t, "capabilities") {
				c := manifest.Capability{Kind: kinds.Draw(t, "kind"), Name: names.Draw(t, "name")}
				n.decl.Capabilities = append(n.decl.Capabilities, c)
			}
		}
		u := manifest.Use{Kind: kinds.Draw(t, "kind"), Source: ref.Draw(t, "source"), SourceName: names.Draw(t, "name")}
		for _, n := range nodes {
			route, err := New(elf).Use(t.Context(), n, &u)
			var f *capabilities.Error
			switch {
			case err != nil && (!errors.As(err, &f) || f.Why == capabilities.Internal || f.Reason == ""):
				t.Fatalf("%#v", err)
			case err == nil && route.Source.Kind == capabilities.FromComponent:
				last, c := route.Hops[len(route.Hops)-1], route.Source.Capability
				if c.Kind != u.Kind || last.Decl != "capability" || last.At != route.Source.At || last.Name != c.Name {
					t.Fatalf("source %v of a %s, over %v", route.Source, u.Kind, route.Hops)
				}
			}
		}
	})
}

func service(from manifest.Ref, to manifest.Ref) manifest.Offer {
	return manifest.Offer{Kind: manifest.KindService, Source: from, SourceName: "s", Target: to, TargetName: "s"}
}

var useService = manifest.Use{Kind: manifest.KindService, Source: parent, SourceName: "s"}

// Each level doubles the sources: 2⁴⁰ walks.
func TestServiceOfTooManySources(t *testing.T) {
	n := root(&manifest.Component{})
	for range 40 {
		n.decl.Offers = []manifest.Offer{service(parent, childRef("c")), service(parent, childRef("c"))}
		n = n.child("c", "", &manifest.Component{})
	}
	route, err := New(builtins{manifest.KindService: {"s"}}).Use(t.Context(), n, &useService)
	if err != nil || len(route.Members) != 2 {
		t.Fatalf("%v: the first of the sources can be had", err)
	}
	last := route
	for last.Members[1].Err == nil {
		last = last.Members[1].Route
	}
	if err := last.Members[1].Err; capabilities.CodeOf(err) != capabilities.Invalid {
		t.Errorf("%v", err)
	}
}

func TestServiceOutOfItself(t *testing.T) {
	r := root(&manifest.Component{Offers: []manifest.Offer{
		service(childRef("b"), childRef("a")), service(childRef("b"), childRef("a")),
		service(childRef("b"), childRef("b")), service(childRef("b"), childRef("b")),
	}})
	box := manifest.Ref{Kind: manifest.RefSelf, Dictionary: "box"}
	r.child("b", "", &manifest.Component{
		Capabilities: []manifest.Capability{{Kind: manifest.KindDictionary, Name: "box"}},
		Offers:       []manifest.Offer{service(parent, box)},
		Exposes:      []manifest.Expose{{Kind: manifest.KindService, Source: box, SourceName: "s", Target: parent, TargetName: "s"}},
	})
	_, err := New(elf).Use(t.Context(), r.child("a", "", &manifest.Component{}), &useService)
	if capabilities.CodeOf(err) != capabilities.Invalid {
		t.Errorf("%v, want a cycle", err)
	}
}
