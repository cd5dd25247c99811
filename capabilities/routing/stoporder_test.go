package routing

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cmgr/cmgr/manifest"
)

// batches drives the stops to their end, all that may stop at once in one step, and writes the steps down.
func batches(g *Graph) (steps []string, err error) {
	s, ready, err := g.Stops()
	for len(ready) > 0 {
		var names []string
		var next []Vertex
		for _, v := range ready {
			names = append(names, g.Name(v))
			next = append(next, s.Done(v)...)
			if again := s.Done(v); again != nil {
				return nil, fmt.Errorf("%s stopped twice releases %v", g.Name(v), again)
			}
		}
		slices.Sort(names)
		steps = append(steps, strings.Join(names, " "))
		ready = next
	}
	if s.Left() != 0 {
		return steps, fmt.Errorf("%d never stop", s.Left())
	}
	return steps, err
}

func strong(from, to manifest.Ref) manifest.Offer {
	return manifest.Offer{Kind: manifest.KindProtocol, Source: from, SourceName: "p", Target: to, TargetName: "p"}
}

func weakly(from, to manifest.Ref) manifest.Offer {
	o := strong(from, to)
	o.Dependency = manifest.Weak
	return o
}

func TestStopOrder(t *testing.T) {
	collection := func(s string) manifest.Ref { return manifest.Ref{Kind: manifest.RefCollection, Name: s} }
	own := func(s string) manifest.Ref { return manifest.Ref{Kind: manifest.RefSelf, Dictionary: s} }
	children := func(names ...string) (cs []manifest.Child) {
		for _, n := range names {
			cs = append(cs, manifest.Child{Name: n})
		}
		return cs
	}
	useOf := func(r manifest.Ref) manifest.Use {
		return manifest.Use{Kind: manifest.KindProtocol, Source: r, SourceName: "p"}
	}
	weakUse := useOf(childRef("a"))
	weakUse.Dependency = manifest.Weak

	for _, c := range []struct {
		what    string
		decl    manifest.Component
		dynamic []Dynamic
		want    []string
		cycle   string
	}{
		{what: "nobody", want: []string{"self"}},
		{what: "children before self", decl: manifest.Component{Children: children("a", "b")}, want: []string{"#a #b", "self"}},
		{
			what: "targets before sources",
			decl: manifest.Component{
				Children: children("a", "b", "c"),
				Offers: []manifest.Offer{strong(childRef("a"), childRef("b")), strong(childRef("b"), childRef("c")), strong(parent,
					childRef("a"))},
			},
			want: []string{"#c", "#b", "#a", "self"},
		},
		{
			what: "weak offers order nothing",
			decl: manifest.Component{Children: children("a", "b"), Offers: []manifest.Offer{
				weakly(childRef("a"), childRef("b")),
				weakly(childRef("b"), childRef("a")),
			}},
			want: []string{"#a #b", "self"},
		},
		{
			what: "a child that self uses, and what that relies on, stop after self",
			decl: manifest.Component{
				Children: children("a", "b", "c"), Uses: []manifest.Use{useOf(childRef("b"))},
				Offers: []manifest.Offer{strong(childRef("a"), childRef("b"))},
			},
			want: []string{"#c", "self", "#b", "#a"},
		},
		{
			what: "weak uses order nothing",
			decl: manifest.Component{Children: children("a"), Uses: []manifest.Use{weakUse}},
			want: []string{"#a", "self"},
		},
		{
			what: "storage stands between its users and its backing",
			decl: manifest.Component{
				Children: children("disk", "user"),
				Capabilities: []manifest.Capability{{
					Kind: manifest.KindStorage, Name: "data",
					Storage: &manifest.StorageDecl{Source: childRef("disk"), BackingDir: "d"},
				}},
				Offers: []manifest.Offer{{
					Kind: manifest.KindStorage, Source: self, SourceName: "data",
					Target: childRef("user"), TargetName: "data",
				}},
			},
			want: []string{"#user", "#disk", "self"},
		},
		{
			what: "storage admin",
			decl: manifest.Component{
				Children: children("disk", "admin"),
				Capabilities: []manifest.Capability{{
					Kind: manifest.KindStorage, Name: "data",
					Storage: &manifest.StorageDecl{Source: childRef("disk"), BackingDir: "d"},
				}},
				Offers: []manifest.Offer{strong(manifest.Ref{Kind: manifest.RefCapability, Name: "data"}, childRef("admin"))},
			},
			want: []string{"#admin", "#disk", "self"},
		},
		{
			what: "environments stand between their runners and the children in them",
			decl: manifest.Component{
				Children:    []manifest.Child{{Name: "wasm"}, {Name: "a", Environment: "e"}, {Name: "b"}},
				Collections: []manifest.Collection{{Name: "jobs", Environment: "e"}},
				Environments: []manifest.Environment{{Name: "e", Runners: []manifest.Registration{{
					Kind:   manifest.KindRunner,
					Source: childRef("wasm"), Name: "wasm", As: "wasm",
				}}}},
			},
			dynamic: []Dynamic{{Segment: "jobs:1"}},
			want:    []string{"#a #b #jobs:1", "#wasm", "self"},
		},
		{
			what: "dictionaries, by whole and by item",
			decl: manifest.Component{
				Children:     children("log", "a", "b"),
				Capabilities: []manifest.Capability{{Kind: manifest.KindDictionary, Name: "d"}},
				Offers: []manifest.Offer{
					strong(childRef("log"), own("d")), strong(own("d"), childRef("a")),
					{Kind: manifest.KindDictionary, Source: self, SourceName: "d", Target: childRef("b"), TargetName: "d"},
				},
				Uses: []manifest.Use{useOf(own("d"))},
			},
			want: []string{"#a #b", "self", "#log"},
		},
		{
			what: "what self makes a dictionary of",
			decl: manifest.Component{
				Children:     children("a"),
				Capabilities: []manifest.Capability{{Kind: manifest.KindDictionary, Name: "d", Path: "/d"}},
				Offers:       []manifest.Offer{strong(own("d"), childRef("a"))},
			},
			want: []string{"#a", "self"},
		},
		{
			what: "collections: offered to, and provided from",
			decl: manifest.Component{
				Children: children("a", "z"), Collections: []manifest.Collection{{Name: "jobs"}},
				Offers: []manifest.Offer{strong(childRef("a"), collection("jobs")), strong(collection("jobs"), childRef("z"))},
			},
			dynamic: []Dynamic{{Segment: "jobs:1"}, {Segment: "jobs:2"}},
			want:    []string{"#z", "#jobs:1 #jobs:2", "#a", "self"},
		},
		{
			what: "dynamic offers between siblings",
			decl: manifest.Component{Collections: []manifest.Collection{{Name: "jobs"}}},
			dynamic: []Dynamic{
				{Segment: "jobs:1", Offers: []manifest.Offer{strong(childRef("jobs:2"), manifest.Ref{})}},
				{Segment: "jobs:2"},
			},
			want: []string{"#jobs:1", "#jobs:2", "self"},
		},
		{
			what: "a cycle does not keep the rest from its order",
			decl: manifest.Component{
				Children: children("a", "b", "c", "d"),
				Offers: []manifest.Offer{
					strong(childRef("b"), childRef("a")), strong(childRef("a"), childRef("b")),
					strong(childRef("a"), childRef("c")), strong(childRef("c"), childRef("d")),
				},
			},
			want:  []string{"#b #d", "#c", "#a self"},
			cycle: "#a -> #b -> #a",
		},
		{
			what: "self and a child rely on each other",
			decl: manifest.Component{
				Children: children("a"), Offers: []manifest.Offer{strong(self, childRef("a"))},
				Uses: []manifest.Use{useOf(childRef("a"))},
			},
			want:  []string{"#a self"},
			cycle: "#a -> self -> #a",
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := batches(Dependencies(&c.decl, c.dynamic))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			var cycle *CycleError
			switch {
			case c.cycle == "" && err != nil:
				t.Error(err)
			case c.cycle != "" && (!errors.As(err, &cycle) || strings.Join(cycle.Path, " -> ") != c.cycle):
				t.Errorf("%v, want %s", err, c.cycle)
			}
		})
	}
}

// Whatever the dependencies are, and whoever is slow, everything stops once, and nothing before all that rely on it.
func TestStopOrderLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 8).Draw(t, "children")
		d := &manifest.Component{}
		for i := range n {
			d.Children = append(d.Children, manifest.Child{Name: fmt.Sprint(i)})
		}
		// relies[a][b]: a relies on b; 0 is self. Kept transitive.
		relies := make([][]bool, n+1)
		for i := range relies {
			relies[i] = make([]bool, n+1)
		}
		for range rapid.IntRange(0, 12).Draw(t, "edges") {
			from, to := rapid.IntRange(0, n).Draw(t, "from"), rapid.IntRange(0, n).Draw(t, "to")
			if from == to {
				continue
			}
			relies[to][from] = true
			ref := self
			if from > 0 {
				ref = childRef(fmt.Sprint(from - 1))
			}
			if to == 0 {
				d.Uses = append(d.Uses, manifest.Use{Kind: manifest.KindProtocol, Source: ref, SourceName: "p"})
			} else {
				d.Offers = append(d.Offers, strong(ref, childRef(fmt.Sprint(to-1))))
			}
		}
		transitive := func() {
			for k := range relies {
				for i := range relies {
					for j := range relies {
						relies[i][j] = relies[i][j] || relies[i][k] && relies[k][j]
					}
				}
			}
		}
		transitive()
		for c := 1; c <= n; c++ {
			if !relies[0][c] {
				relies[c][0] = true // the child stops before self
			}
		}
		transitive()
		cyclic := false
		for i := range relies {
			cyclic = cyclic || relies[i][i]
		}

		s, ready, err := Dependencies(d, nil).Stops()
		if cyclic != (err != nil) {
			t.Fatalf("cyclic %v, error %v", cyclic, err)
		}
		stopped := make([]bool, n+1)
		for len(ready) > 0 {
			i := rapid.IntRange(0, len(ready)-1).Draw(t, "next")
			v := ready[i]
			ready = slices.Delete(ready, i, i+1)
			if stopped[v] {
				t.Fatalf("%d stops twice", v)
			}
			for target := range relies {
				if relies[target][v] && !relies[v][target] && !stopped[target] && !cyclic {
					t.Fatalf("%d stops before %d, which relies on it", v, target)
				}
			}
			stopped[v] = true
			ready = append(ready, s.Done(v)...)
		}
		if slices.Contains(stopped, false) || s.Left() != 0 {
			t.Fatalf("stopped %v, left %d", stopped, s.Left())
		}
	})
}

func BenchmarkStopOrder9000(b *testing.B) {
	d := siblings(9000)[0].parent.decl
	b.ReportAllocs()
	for b.Loop() {
		g := Dependencies(d, nil)
		s, ready, err := g.Stops()
		if err != nil {
			b.Fatal(err)
		}
		for len(ready) > 0 {
			v := ready[len(ready)-1]
			ready = append(ready[:len(ready)-1], s.Done(v)...)
		}
		if s.Left() != 0 {
			b.Fatal(s.Left())
		}
	}
}
