package realm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/remote"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// What components provide to the realm itself: runners and resolvers. The provider is started when it is needed, one connection
// serves all that need it, and when it has ended the next need makes a new one.

// A linkKey is a runner or resolver that a component declares.
type linkKey struct {
	at   name.Moniker
	kind manifest.Kind
	name string
}

// A link is the connection to one provider.
type link[C peer] struct {
	making chan struct{} // has room for who makes it
	mu     sync.Mutex    // guards what follows
	conn   C
	there  bool
}

// A peer is the other end of a link.
type peer interface {
	Done() <-chan struct{}
	Err() error
	Close()
}

// links are all links to providers of one kind.
type links[C peer] struct {
	mu     sync.Mutex
	all    map[linkKey]*link[C]
	closed bool
}

func (ls *links[C]) get(k linkKey) (*link[C], error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return nil, ErrClosed
	}
	if ls.all == nil {
		ls.all = map[linkKey]*link[C]{}
	}
	l := ls.all[k]
	if l == nil {
		l = &link[C]{making: make(chan struct{}, 1)}
		ls.all[k] = l
	}
	return l, nil
}

// close ends all connections. None can be made any more.
func (ls *links[C]) close() {
	ls.mu.Lock()
	ls.closed = true
	all := ls.all
	ls.all = nil
	ls.mu.Unlock()
	for _, l := range all {
		l.mu.Lock()
		conn, there := l.conn, l.there
		l.mu.Unlock()
		if there {
			conn.Close()
		}
	}
}

// linkTo is the connection to what the component at the source of the route of asker provides; dial makes it if there is none.
func linkTo[C peer](
	ctx context.Context, r *Realm, asker name.Moniker, route *capabilities.Route, ls *links[C],
	dial func(context.Context, *net.UnixConn) (C, error),
) (C, error) {
	var none C
	src := route.Source
	fail := func(err error) (C, error) {
		return none, &Error{
			Op: "start", At: asker, Why: capabilities.Unavailable,
			Err: fmt.Errorf("%s %s: comes from %s: %w", route.Kind, src.Name, src.At, err),
		}
	}
	p := r.find(src.At)
	if p == nil {
		return fail(errors.New("it is gone"))
	}
	// The connection alone would start it too, but not say why it can't be. What is waited for after this needs no other instance.
	if err := p.start(ctx, fmt.Sprintf("%s requested capability %q", asker, src.Name)); err != nil {
		return fail(err)
	}
	l, err := ls.get(linkKey{src.At, route.Kind, src.Name})
	if err != nil {
		return none, err
	}
	select {
	case l.making <- struct{}{}:
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	defer func() { <-l.making }()
	l.mu.Lock()
	conn, there := l.conn, l.there
	l.mu.Unlock()
	if there && conn.Err() == nil { // it may have ended and not be done: who was told of that comes here before
		select {
		case <-conn.Done():
		default:
			return conn, nil
		}
	}
	f, err := r.dial(ctx, src.At, src.Capability)
	if err != nil {
		return fail(err)
	}
	c, err := socketOf(f)
	if err != nil {
		return fail(err)
	}
	if conn, err = dial(ctx, c); err != nil {
		r.cfg.Sinks.Note(src.At, fmt.Sprintf("%s %s: %v", route.Kind, src.Name, err))
		return fail(err)
	}
	l.mu.Lock()
	l.conn, l.there = conn, true
	l.mu.Unlock()
	r.wg.Go(func() {
		<-conn.Done()
		if err := conn.Err(); err != nil && r.ctx.Err() == nil {
			r.cfg.Sinks.Note(src.At, fmt.Sprintf("%s %s: %v", route.Kind, src.Name, err))
		}
	})
	ls.mu.Lock()
	closed := ls.closed
	ls.mu.Unlock()
	if closed {
		conn.Close()
		return none, ErrClosed
	}
	return conn, nil
}

func socketOf(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("the connection is no unix socket")
	}
	return u, nil
}

// runner is what route, the answer to which runner runs i's program, leads to.
func (r *Realm) runner(ctx context.Context, i *instance, route *capabilities.Route) (runners.Runner, error) {
	switch route.Source.Kind {
	case capabilities.FromBuiltin:
		if b := r.cfg.Runners[route.Source.Name]; b != nil {
			return b, nil
		}
	case capabilities.FromComponent:
		return linkTo(ctx, r, i.moniker, route, &r.remoteRunners, func(ctx context.Context, c *net.UnixConn) (*remote.Runner, error) {
			return remote.New(ctx, c, remote.Config{Alone: r.cfg.Confined != nil && r.cfg.Confined(route.Source.At)})
		})
	}
	return nil, fmt.Errorf("runner %s: not in this manager", route.Source.Name)
}

// resolver is what route, the answer to which resolver resolves the URL of asker, leads to.
func (r *Realm) resolver(ctx context.Context, asker name.Moniker, route *capabilities.Route) (resolver.Resolver, error) {
	switch route.Source.Kind {
	case capabilities.FromBuiltin:
		if b := r.cfg.Resolvers[route.Source.Name]; b != nil {
			return b, nil
		}
	case capabilities.FromComponent:
		return linkTo(ctx, r, asker, route, &r.remoteResolvers, func(ctx context.Context, c *net.UnixConn) (*resolver.Remote, error) {
			return resolver.NewRemote(ctx, c, r.packageOf(route.Source.At))
		})
	}
	return nil, fmt.Errorf("resolver %s: not in this manager", route.Source.Name)
}

// packageOf is the directory of the package of m.
func (r *Realm) packageOf(m name.Moniker) string {
	i, _ := r.Instance(m)
	return i.PackageDir
}

// waits says which instances' actions wait for which others', where one needs another to be resolved or started that was found by
// a route: what waits in a circle would wait for ever.
type waits struct {
	mu sync.Mutex // a leaf
	on map[*instance]map[*instance]int
}

// within marks ctx as that of an action of i.
func within(ctx context.Context, i *instance) context.Context {
	return context.WithValue(ctx, waiter{}, i)
}

type waiter struct{}

// await says that the action of ctx will wait for one of i, until done is called. It is refused if that waits, over others, for
// the first.
func (i *instance) await(ctx context.Context, op string) (done func(), err error) {
	from, _ := ctx.Value(waiter{}).(*instance)
	if from == nil || from == i {
		return func() {}, nil
	}
	w := &i.realm.waits
	w.mu.Lock()
	defer w.mu.Unlock()
	if way := w.way(i, from, map[*instance]bool{}); way != nil {
		names := make([]string, 0, len(way)+1)
		for _, n := range append([]*instance{from}, way...) {
			names = append(names, "`"+string(n.moniker)+"`")
		}
		return nil, &Error{
			Op: op, At: i.moniker, Why: capabilities.Invalid, Err: fmt.Errorf("a cycle: %s", strings.Join(names, " needs ")),
			Hint: "give one of them a runner or resolver that does not need the others",
		}
	}
	if w.on == nil {
		w.on = map[*instance]map[*instance]int{}
	}
	if w.on[from] == nil {
		w.on[from] = map[*instance]int{}
	}
	w.on[from][i]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.on[from][i]--; w.on[from][i] == 0 {
			delete(w.on[from], i)
		}
		if len(w.on[from]) == 0 {
			delete(w.on, from)
		}
	}, nil
}

// way is how a waits for b, over others; nil if it doesn't.
func (w *waits) way(a, b *instance, seen map[*instance]bool) []*instance {
	if a == b {
		return []*instance{a}
	}
	seen[a] = true
	for n := range w.on[a] {
		if !seen[n] {
			if rest := w.way(n, b, seen); rest != nil {
				return append([]*instance{a}, rest...)
			}
		}
	}
	return nil
}
