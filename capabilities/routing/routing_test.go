package routing

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A literal is a tree of declarations written out in Go, for what the corpus of routingtest does not reach: sizes, errors from
// outside, declarations that no manifest can say.
type literal struct {
	parent   *literal
	moniker  name.Moniker
	env      string
	decl     *manifest.Component
	err      error // of Decl
	children map[string]*literal
}

func (n *literal) Moniker() name.Moniker           { return n.moniker }
func (n *literal) Environment() string             { return n.env }
func (n *literal) DynamicOffers() []manifest.Offer { return nil }
func (n *literal) Dynamic(string) []Node           { return nil }
func (n *literal) Parent() (Node, bool)            { return n.parent, n.parent != nil }
func (n *literal) Decl(context.Context) (*manifest.Component, error) {
	return n.decl, n.err
}

func (n *literal) Child(_ context.Context, segment string) (Node, bool, error) {
	c, ok := n.children[segment]
	return c, ok, n.err
}

func root(d *manifest.Component) *literal {
	return &literal{moniker: name.Root, decl: d, children: map[string]*literal{}}
}

// child adds a static child to n and its declaration.
func (n *literal) child(segment, env string, d *manifest.Component) *literal {
	n.decl.Children = append(n.decl.Children, manifest.Child{Name: segment, Environment: env})
	c := root(d)
	c.parent, c.moniker, c.env = n, n.moniker.Child(segment), env
	n.children[segment] = c
	return c
}

type builtins map[manifest.Kind][]string

func (b builtins) Has(k manifest.Kind, s string) bool {
	return strings.Contains(strings.Join(b[k], " "), s)
}
func (b builtins) Framework(manifest.Kind, string) bool             { return false }
func (b builtins) InRootEnvironment(k manifest.Kind, s string) bool { return b.Has(k, s) }

var elf = builtins{manifest.KindRunner: {"elf"}, manifest.KindResolver: {"file"}}

var (
	self   = manifest.Ref{Kind: manifest.RefSelf}
	parent = manifest.Ref{Kind: manifest.RefParent}
)

func childRef(s string) manifest.Ref { return manifest.Ref{Kind: manifest.RefChild, Name: s} }

func runs(runner string) *manifest.Component {
	return &manifest.Component{Program: &manifest.Program{Runner: runner}}
}

// line is a line of depth components below the root that each get `use runner` passed on from above.
func line(depth int) *literal {
	n := root(&manifest.Component{})
	for i := range depth {
		n.decl.Offers = []manifest.Offer{{
			Kind: manifest.KindRunner, Source: parent, SourceName: "elf", Target: childRef("c"),
			TargetName: "elf",
		}}
		d := &manifest.Component{}
		if i == depth-1 {
			d.Program = &manifest.Program{}
			d.Uses = []manifest.Use{{Kind: manifest.KindRunner, Source: parent, SourceName: "elf"}}
		}
		n = n.child("c", "", d)
	}
	return n
}

// siblings are n children of the root, each of which is offered a runner.
func siblings(n int) []*literal {
	r := root(&manifest.Component{})
	all := make([]*literal, n)
	for i := range all {
		seg := fmt.Sprintf("c%d", i)
		r.decl.Offers = append(r.decl.Offers,
			manifest.Offer{Kind: manifest.KindRunner, Source: parent, SourceName: "elf", Target: childRef(seg), TargetName: "run"})
		all[i] = r.child(seg, "", &manifest.Component{
			Program: &manifest.Program{},
			Uses:    []manifest.Use{{Kind: manifest.KindRunner, Source: parent, SourceName: "run"}},
		})
	}
	return all
}

func TestRunnerThroughAThousandLevels(t *testing.T) {
	r, err := New(elf).Runner(t.Context(), line(1000))
	if err != nil {
		t.Fatal(err)
	}
	if r.Source.Kind != capabilities.FromBuiltin || r.Source.Name != "elf" || len(r.Hops) != 1002 {
		t.Errorf("source %v %q over %d hops, want the built-in elf over 1002", r.Source, r.Source.Name, len(r.Hops))
	}
}

func TestRunnerAmongNineThousandOffers(t *testing.T) {
	e := New(elf)
	for _, n := range siblings(9000) {
		r, err := e.Runner(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if r.Source.Name != "elf" || len(r.Hops) != 3 {
			t.Fatalf("%s: %v", n.moniker, r.Hops)
		}
	}
	n := siblings(100)[7]
	n.decl.Uses[0].SourceName = "fly"
	if _, err := e.Runner(t.Context(), n); capabilities.CodeOf(err) != capabilities.NotFound {
		t.Errorf("what is not among many offers: %v", err)
	}
}

func TestErrorsFromOutside(t *testing.T) {
	broken := errors.New("no such file")
	r := root(&manifest.Component{Offers: []manifest.Offer{
		{Kind: manifest.KindProtocol, Source: childRef("b"), SourceName: "p", Target: childRef("a"), TargetName: "p"},
	}})
	a := r.child("a", "", runs("elf"))
	b := r.child("b", "", nil)
	b.err = broken
	use := &manifest.Use{Kind: manifest.KindProtocol, Source: parent, SourceName: "p"}

	_, err := New(elf).Use(t.Context(), a, use)
	var f *capabilities.Error
	if !errors.As(err, &f) || f.At != "/b" || f.Reason != "failed to resolve `/b`" || !errors.Is(err, broken) || len(f.Hops) != 2 {
		t.Errorf("a source that cannot be resolved: %#v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = New(elf).Use(ctx, a, use)
	if !errors.Is(err, context.Canceled) || capabilities.CodeOf(err) != capabilities.Unavailable {
		t.Errorf("a question that was given up: %v", err)
	}
	if _, err = New(elf).StopTimeout(ctx, a); !errors.Is(err, context.Canceled) {
		t.Errorf("a question that was given up: %v", err)
	}
	if _, err = New(elf).Runner(t.Context(), b); !errors.Is(err, broken) {
		t.Errorf("the runner of what cannot be resolved: %v", err)
	}
	// The resolver of an instance is asked before it is resolved.
	if route, err := New(elf).Resolver(t.Context(), b, "file"); err != nil || route.Source.Kind != capabilities.FromBuiltin {
		t.Errorf("the resolver of what is not resolved: %v, %v", route, err)
	}
}

func BenchmarkRunnerDepth(b *testing.B) {
	for _, depth := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(depth), func(b *testing.B) {
			n, e := line(depth), New(elf)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Runner(b.Context(), n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(depth), "ns/hop")
		})
	}
}

// One operation is a question of each of 9,000 siblings, as when all of them start.
func BenchmarkRunnerSiblings9000(b *testing.B) {
	all, e := siblings(9000), New(elf)
	b.ReportAllocs()
	for b.Loop() {
		for _, n := range all {
			if _, err := e.Runner(b.Context(), n); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/9000, "ns/question")
}

// The usual question: a protocol of a sibling's, of 9,000, through the parent's offer.
func BenchmarkUse9000(b *testing.B) {
	const n = 9000
	all, e := siblings(n), New(elf)
	d := all[0].parent.decl
	d.Offers = nil
	for i, c := range all {
		next := fmt.Sprintf("c%d", (i+1)%n)
		d.Offers = append(d.Offers, manifest.Offer{
			Kind: manifest.KindProtocol, Source: childRef(next), SourceName: "p", Target: childRef(fmt.Sprintf("c%d", i)), TargetName: "p",
		})
		c.decl.Uses = []manifest.Use{{Kind: manifest.KindProtocol, Source: parent, SourceName: "p"}}
		c.decl.Exposes = []manifest.Expose{{Kind: manifest.KindProtocol, Source: self, SourceName: "p", TargetName: "p"}}
		c.decl.Capabilities = []manifest.Capability{{Kind: manifest.KindProtocol, Name: "p"}}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		c := all[i%n]
		if _, err := e.Use(b.Context(), c, &c.decl.Uses[0]); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "questions/s")
}

// The same for `program.runner` out of the root's environment, which is the usual case.
func BenchmarkRunnerEnvironment(b *testing.B) {
	r, e := root(&manifest.Component{}), New(elf)
	n := r.child("a", "", runs("elf"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Runner(b.Context(), n); err != nil {
			b.Fatal(err)
		}
	}
}

// A declaration that is gone must not leave its index behind, or a manager that reloads would grow for ever.
func TestIndexEndsWithItsDeclaration(t *testing.T) {
	p := func() weak.Pointer[manifest.Component] {
		n := siblings(100)[0]
		if _, err := New(elf).Runner(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		return weak.Make(n.parent.decl)
	}()
	if _, ok := indexes.Load(p); !ok && p.Value() != nil {
		t.Fatal("a large declaration is not indexed")
	}
	for range 100 {
		runtime.GC()
		if _, ok := indexes.Load(p); !ok {
			return
		}
		time.Sleep(10 * time.Millisecond) // cleanups run on a goroutine of the runtime's
	}
	t.Error("the index is still there")
}

// Many ask at once, the first of them for a declaration that is not indexed yet.
func TestConcurrentQuestions(t *testing.T) {
	all, e := siblings(500), New(elf)
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := range all {
				if _, err := e.Runner(t.Context(), all[(i+part*100)%len(all)]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// The first question to a parent pays for its index.
func BenchmarkIndex9000(b *testing.B) {
	d := siblings(9000)[0].parent.decl
	b.ReportAllocs()
	for b.Loop() {
		newIndex(d)
	}
}
