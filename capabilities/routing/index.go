package routing

import (
	"runtime"
	"sync"
	"weak"

	"github.com/cmgr/cmgr/manifest"
)

// A parent of 9,000 children has 9,000 offers, and each of its children asks for one of them. So a large declaration is indexed
// the first time it is asked; a small one, the usual case, is read from top to bottom, which is faster and costs no memory.
const indexFrom = 24

// indexes holds the index of each large declaration that is still alive. An index holds positions only, so that it doesn't keep
// its declaration alive.
var indexes sync.Map // weak.Pointer[manifest.Component] → *index

// An index finds entries by what a route question knows of them. Entries with equal keys (a service put together of several
// sources) are chained in their order.
type index struct {
	offers    map[offerKey]int32
	offerNext []int32 // the next entry with the same key, -1 for none
	exposes   map[capKey]int32
	expNext   []int32
	caps      map[capKey]int32

	// For hints, made when the first route fails: if one does, as many may as there are children.
	hints sync.Once
	to    map[offerTo][]int32 // offers
	named map[capKey][]int32  // offers
}

type offerTo struct {
	target manifest.RefKind
	kind   manifest.Kind
	to     string
}

type offerKey struct {
	target manifest.RefKind // RefChild, RefCollection, or RefSelf for one of the own dictionaries
	kind   manifest.Kind
	to     string
	name   string
}

type capKey struct {
	kind manifest.Kind
	name string
}

func indexOf(d *manifest.Component) *index {
	if max(len(d.Offers), len(d.Exposes), len(d.Capabilities)) < indexFrom {
		return nil
	}
	p := weak.Make(d)
	if x, ok := indexes.Load(p); ok {
		return x.(*index)
	}
	x, loaded := indexes.LoadOrStore(p, newIndex(d))
	if !loaded {
		runtime.AddCleanup(d, func(p weak.Pointer[manifest.Component]) { indexes.Delete(p) }, p)
	}
	return x.(*index)
}

func newIndex(d *manifest.Component) *index {
	x := &index{
		offers:    make(map[offerKey]int32, len(d.Offers)),
		offerNext: make([]int32, len(d.Offers)),
		exposes:   make(map[capKey]int32, len(d.Exposes)),
		expNext:   make([]int32, len(d.Exposes)),
		caps:      make(map[capKey]int32, len(d.Capabilities)),
	}
	// Backwards, so that a chain runs forwards.
	for i := len(d.Offers) - 1; i >= 0; i-- {
		k := keyOf(&d.Offers[i])
		x.offerNext[i] = chain(x.offers, k, int32(i))
	}
	for i := len(d.Exposes) - 1; i >= 0; i-- {
		if e := &d.Exposes[i]; e.Target.Kind != manifest.RefFramework {
			x.expNext[i] = chain(x.exposes, capKey{e.Kind, e.TargetName}, int32(i))
		}
	}
	for i := len(d.Capabilities) - 1; i >= 0; i-- {
		x.caps[capKey{d.Capabilities[i].Kind, d.Capabilities[i].Name}] = int32(i)
	}
	return x
}

func chain[K comparable](first map[K]int32, k K, i int32) (next int32) {
	next = -1
	if n, ok := first[k]; ok {
		next = n
	}
	first[k] = i
	return next
}

func keyOf(o *manifest.Offer) offerKey {
	k := offerKey{target: o.Target.Kind, kind: o.Kind, to: o.Target.Name, name: o.TargetName}
	if k.target == manifest.RefSelf {
		k.to = o.Target.Dictionary
	}
	return k
}

// offersOf returns the offers of d with that key: nearly always none or one.
func offersOf(d *manifest.Component, k offerKey) (first *manifest.Offer, more []*manifest.Offer) {
	if x := indexOf(d); x != nil {
		i, ok := x.offers[k]
		if !ok {
			return nil, nil
		}
		first = &d.Offers[i]
		for i = x.offerNext[i]; i >= 0; i = x.offerNext[i] {
			more = append(more, &d.Offers[i])
		}
		return first, more
	}
	for i := range d.Offers {
		switch o := &d.Offers[i]; {
		case o.TargetName != k.name || keyOf(o) != k:
		case first == nil:
			first = o
		default:
			more = append(more, o)
		}
	}
	return first, more
}

// offersTo are the offers of d of one kind to one child or collection, by position.
func offersTo(d *manifest.Component, k offerTo) []int32 {
	if x := indexOf(d); x != nil {
		x.forHints(d)
		return x.to[k]
	}
	return positions(d, func(o *manifest.Offer) bool { return toOf(o) == k })
}

// offersNamed are the offers of d of one kind and under one name, to whomever, by position.
func offersNamed(d *manifest.Component, k capKey) []int32 {
	if x := indexOf(d); x != nil {
		x.forHints(d)
		return x.named[k]
	}
	return positions(d, func(o *manifest.Offer) bool { return o.Kind == k.kind && o.TargetName == k.name })
}

func positions(d *manifest.Component, is func(*manifest.Offer) bool) (out []int32) {
	for i := range d.Offers {
		if is(&d.Offers[i]) {
			out = append(out, int32(i))
		}
	}
	return out
}

func (x *index) forHints(d *manifest.Component) {
	x.hints.Do(func() {
		x.to, x.named = make(map[offerTo][]int32), make(map[capKey][]int32)
		for i := range d.Offers {
			o := &d.Offers[i]
			to, named := toOf(o), capKey{o.Kind, o.TargetName}
			x.to[to], x.named[named] = append(x.to[to], int32(i)), append(x.named[named], int32(i))
		}
	})
}

func toOf(o *manifest.Offer) offerTo { return offerTo{o.Target.Kind, o.Kind, o.Target.Name} }

// exposesOf returns what d exposes to its parent under that kind and name: nearly always none or one.
func exposesOf(d *manifest.Component, kind manifest.Kind, capability string) (first *manifest.Expose, more []*manifest.Expose) {
	if x := indexOf(d); x != nil {
		i, ok := x.exposes[capKey{kind, capability}]
		if !ok {
			return nil, nil
		}
		first = &d.Exposes[i]
		for i = x.expNext[i]; i >= 0; i = x.expNext[i] {
			more = append(more, &d.Exposes[i])
		}
		return first, more
	}
	for i := range d.Exposes {
		switch e := &d.Exposes[i]; {
		case e.Kind != kind || e.TargetName != capability || e.Target.Kind == manifest.RefFramework:
		case first == nil:
			first = e
		default:
			more = append(more, e)
		}
	}
	return first, more
}

// capabilityOf returns what d declares under that kind and name, or nil.
func capabilityOf(d *manifest.Component, kind manifest.Kind, capability string) *manifest.Capability {
	if x := indexOf(d); x != nil {
		if i, ok := x.caps[capKey{kind, capability}]; ok {
			return &d.Capabilities[i]
		}
		return nil
	}
	return d.Capability(kind, capability)
}
