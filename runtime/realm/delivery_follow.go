package realm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/protocol"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// What a program finds in its namespace follows the tree while it runs: a route is asked again when what it may lead to has come,
// gone or changed, and the next connection goes where it leads then. Directories and storage stay what they were at the start.

// A follower is a place in the view of one run that goes where routes lead.
type follower interface {
	// fill makes the place what the routes say.
	fill(ctx context.Context) error
	// end says that the run is over.
	end()
	// of is whose run it is, and of which use.
	of() (*instance, *manifest.Use)
}

// turn says whether a follower is being filled.
type turn uint8

const (
	idle  turn = iota
	fills      // it is
	again      // it is, and must be once more
)

// follow has f filled whenever dynamic children have come or gone, until it ends.
func (r *Realm) follow(f follower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.follows == nil {
		r.follows = map[follower]turn{}
	}
	r.follows[f] = idle
}

func (r *Realm) unfollow(f follower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.follows, f)
}

// refresh says that dynamic children have come or gone.
func (r *Realm) refresh() { r.refill(func(follower) bool { return true }) }

// refill has those filled for whom who is true: each by one goroutine, however often that is asked for.
func (r *Realm) refill(who func(follower) bool) {
	var now []follower
	r.mu.Lock()
	for f, t := range r.follows {
		switch {
		case !who(f):
		case t == idle:
			r.follows[f], now = fills, append(now, f)
		default:
			r.follows[f] = again
		}
	}
	r.mu.Unlock()
	for _, f := range now {
		r.spawn(func() {
			for more := true; more; {
				r.fill(f)
				r.mu.Lock()
				t, there := r.follows[f]
				if more = t == again; there {
					r.follows[f] = t - 1
				}
				r.mu.Unlock()
			}
		})
	}
}

// refreshAll says that manifests are not what they were.
func (r *Realm) refreshAll() {
	var all []follower
	var walk func(i *instance)
	walk = func(i *instance) {
		i.mu.Lock()
		if run := i.currentRunLocked(); run != nil && run.has != nil {
			all = append(all, run.has.follows...)
		}
		kids := i.childrenLocked()
		i.mu.Unlock()
		for _, c := range kids {
			walk(c)
		}
	}
	walk(r.root)
	r.spawn(func() {
		r.exposing.Lock()
		if r.exposed != nil {
			all = append(all, r.exposed.follows...)
		}
		r.exposing.Unlock()
		for _, f := range all {
			r.fill(f)
		}
	})
}

func (r *Realm) fill(f follower) {
	if err := f.fill(r.ctx); err != nil && r.ctx.Err() == nil {
		i, u := f.of()
		r.cfg.Log.Warn("what a component uses could not be brought up to date", "instance", i.moniker, "capability", u.SourceName,
			"error", err)
	}
}

// passing says whether what i uses may soon lead elsewhere without a reload: it leads, or would lead, over dynamic children that
// can come and go while i stays. err says why it leads nowhere, if it does.
func (i *instance) passing(route *capabilities.Route, err error) bool {
	leaves := func(at name.Moniker) bool {
		m := name.Root
		for _, seg := range at.Segments() {
			if m = m.Child(seg); strings.Contains(seg, ":") && !m.Contains(i.moniker) {
				return true
			}
		}
		return false
	}
	var hops []capabilities.Hop
	if err == nil {
		if hops = route.Hops; route.Source.Kind == capabilities.FromCollection || leaves(route.Source.At) {
			return true
		}
	} else {
		if f, ok := errors.AsType[*capabilities.Error](err); ok {
			if hops = f.Hops; leaves(f.At) {
				return true
			}
		}
		for n := i; n != nil; n = n.parent { // it may be offered what a sibling has that is not there
			for k := range n.decl.offers {
				if strings.Contains(n.decl.offers[k].Source.Name, ":") {
					return true
				}
			}
		}
	}
	return slices.ContainsFunc(hops, func(h capabilities.Hop) bool { return leaves(h.At) })
}

// A lack is a use that leads nowhere.
type lack struct {
	use *manifest.Use
	err error
}

// asks gives a function that asks for uses which are all at one place.
func (i *instance) asks(by []*manifest.Use) func(context.Context) ([]Delivery, []lack) {
	return func(ctx context.Context) (routed []Delivery, lacks []lack) {
		for _, u := range by {
			switch r, err := i.realm.engine.Use(ctx, i, u); {
			case err != nil:
				lacks = append(lacks, lack{u, err})
			case r.Source.Kind != capabilities.FromVoid:
				routed = append(routed, Delivery{u, r})
			}
		}
		return routed, lacks
	}
}

// A placed protocol, or event streams, is what one run finds at one path.
type placed struct {
	i    *instance
	use  *manifest.Use // the first
	view *protocol.View
	at   string
	ask  func(context.Context) ([]Delivery, []lack)

	asking sync.Mutex // held over fill: who asked last must show last
	mu     sync.Mutex // held over show
	shows  shown
	lacks  string // what has been told to be missing
	over   bool
}

// shown is what a placed shows: the zero value nothing yet.
type shown struct {
	end  protocol.End // of a component's
	text string       // of what the manager speaks itself
}

func (p *placed) of() (*instance, *manifest.Use) { return p.i, p.use }

func (p *placed) end() {
	p.i.realm.unfollow(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
}

func (p *placed) fill(ctx context.Context) error {
	p.asking.Lock()
	defer p.asking.Unlock()
	routed, lacks := p.ask(ctx)
	return p.show(ctx, routed, lacks)
}

var (
	errNobody = errors.New("nobody in this manager serves it")
	errLate   = errors.New("it is a socket of the host, which the program has from its next start on")
)

// show shows what routed leads to: a socket that refuses, if that is nowhere.
func (p *placed) show(ctx context.Context, routed []Delivery, lacks []lack) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return nil
	}
	r, v := p.i.realm, p.view
	want, put := shown{text: "nothing"}, func() error { return v.Refuse(p.at) }
	if len(routed) > 0 {
		src := routed[0].Route.Source
		h, hosts := r.host(routed[0].Route.Kind, src)
		var err error
		switch {
		case src.Kind == capabilities.FromComponent:
			var so protocol.End
			if so, err = r.heldSocket(ctx, src); err == nil {
				want, put = shown{end: so}, func() error { return p.i.linkSocket(v, p.at, src, so) }
			}
		case src.Kind == capabilities.FromDictionary:
			want.text = fmt.Sprintf("%s of %s of %s", src.Name, src.Capability.Name, src.At)
			use, user := p.use, p.i.moniker
			put = func() error {
				return v.Serve(p.at, sock.Stream, r.spawn, func(conn *os.File) { r.hand(r.ctx, user, use, src, conn) })
			}
		case r.hostSocket(src) != "":
			err = errLate
		case !hosts:
			err = errNobody
		default:
			want.text = ""
			for _, d := range routed {
				want.text += fmt.Sprintf("%d %s %s %v\n", d.Route.Source.Kind, d.Route.Source.At, d.Route.Source.Name, d.Route.Scope)
			}
			c := Caller{User: p.i.moniker, By: routed}
			put = func() error {
				return v.Serve(p.at, h.Type, r.spawn, func(conn *os.File) { h.Serve(r.ctx, c, conn) })
			}
		}
		if err != nil {
			lacks = append(lacks, lack{p.use, err})
		}
	}
	p.tell(lacks)
	if want == p.shows {
		return nil
	}
	if err := put(); err != nil {
		return err
	}
	p.shows = want
	return nil
}

// tell tells what is missing, once.
func (p *placed) tell(lacks []lack) {
	text := ""
	for _, l := range lacks {
		text += l.err.Error() + "\n"
	}
	if text == p.lacks {
		return
	}
	p.lacks = text
	if text == "" {
		p.i.realm.cfg.Sinks.Note(p.i.moniker, fmt.Sprintf("%s %s is available now", p.use.Kind, p.use.SourceName))
	}
	for _, l := range lacks {
		p.i.missing(l.use, l.err)
	}
}

// place puts what routed leads to at at, and has it follow the routes. u is the first of the uses that are there.
func (i *instance) place(
	ctx context.Context, got *delivery, u *manifest.Use, at string, ask func(context.Context) ([]Delivery, []lack),
	info *runners.StartInfo,
) error {
	routed, lacks := ask(ctx)
	if len(routed)+len(lacks) == 0 {
		return nil // absent on purpose
	}
	if len(routed) == 1 {
		src := routed[0].Route.Source
		if h, ok := i.realm.host(u.Kind, src); ok && src.Kind == capabilities.FromBuiltin && h.Machine {
			info.Machine = append(info.Machine, src.Name)
			return nil
		}
	}
	v, err := i.seeHolder(got, at, info)
	if err != nil {
		return err
	}
	if len(routed) > 0 {
		if host := i.realm.hostSocket(routed[0].Route.Source); host != "" {
			return i.placeHosts(v, u, at, host, info)
		}
	}
	p := &placed{i: i, use: u, view: v, at: at, ask: ask}
	got.follows = append(got.follows, p)
	if slices.ContainsFunc(routed, func(d Delivery) bool { return i.passing(d.Route, nil) }) ||
		slices.ContainsFunc(lacks, func(l lack) bool { return i.passing(nil, l.err) }) {
		i.realm.follow(p)
		return i.enter(v, at, p.fill(ctx), info) // what has come since was not told
	}
	return i.enter(v, at, p.show(ctx, routed, lacks), info)
}
