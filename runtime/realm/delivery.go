package realm

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/protocol"
	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
)

// This file brings what was routed to the program that is started. A route that leads nowhere keeps no program from starting: it
// finds a socket there that refuses, and its log says why (component-runtime.md §1, §4.1).

// A Host is a protocol that the manager itself speaks, or one of the machine's.
type Host struct {
	// Machine says that nobody speaks it: having it means that the runner lets the program have something of the machine
	// (runners.StartInfo.Machine).
	Machine bool
	// Type is that of its sockets: internal/rpc speaks over sock.Packets.
	Type sock.Type
	// Serve has the conversation on one connection, which is its own and blocks. It must return when ctx ends, at the latest.
	Serve func(ctx context.Context, c Caller, conn *os.File)
}

// A Caller is who speaks to a Host, and by which right.
type Caller struct {
	User name.Moniker // the component that has the connection
	// By is what led to the Host: one use, or several where they share a path (event streams).
	By []Delivery
}

// A Delivery is a use and where it leads. Use is nil where somebody else than a program asks (Realm.ConnectExposed).
type Delivery struct {
	Use   *manifest.Use
	Route *capabilities.Route
}

// Hosts are the protocols that the manager speaks. An entry is one without a Host where nobody does.
type Hosts interface {
	// Host is what serves a route of that kind to that source, which is no component.
	Host(k manifest.Kind, s capabilities.Source) (Host, bool)
}

// reasonAccess is the start reason of what a connection has started.
func reasonAccess(capability string) string { return "access to " + capability }

// socketType is that of what a component provides.
func socketType(k manifest.Kind) sock.Type {
	if k == manifest.KindProtocol || k == manifest.KindService {
		return sock.Stream
	}
	return sock.Packets // runners, resolvers and dictionaries speak internal/rpc
}

// heldOf are the capabilities of d whose sockets the manager holds.
func heldOf(d *manifest.Component) (names []string, types []sock.Type) {
	for i := range d.Capabilities {
		c := &d.Capabilities[i]
		switch c.Kind {
		case manifest.KindProtocol, manifest.KindService, manifest.KindRunner, manifest.KindResolver, manifest.KindDictionary:
			if c.Kind == manifest.KindDictionary && c.Path == "" {
				continue
			}
			if c.Activate == manifest.ActivationListen {
				names, types = append(names, c.Name), append(types, socketType(c.Kind))
			}
		}
	}
	return names, types
}

// provider has the sockets of what i provides.
func (i *instance) provider() *protocol.Provider {
	p := i.realm.cfg.Sockets.Provider(func(capability string) {
		i.realm.spawn(func() { i.wanted(capability) })
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.provides == nil {
		i.provides = p
	}
	return i.provides
}

// socket is the one by which c, which i declares, is reached.
func (i *instance) socket(ctx context.Context, c *manifest.Capability) (protocol.End, error) {
	d, err := i.Decl(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case i.realm.cfg.Sockets == nil:
		return nil, i.precondition("connect to", "this manager holds no sockets")
	case d.Program == nil:
		return nil, i.precondition("connect to", "%s %s is declared there, but the component has no program", c.Kind, c.Name)
	case c.Activate == manifest.ActivationBind:
		return i.bound(ctx, c)
	}
	p := i.provider()
	so, err := p.Socket(c.Name, socketType(c.Kind))
	i.mu.Lock()
	_, gone := i.state.(destroyed)
	i.mu.Unlock()
	if gone {
		p.Close() // who destroyed it may not have seen it
		return nil, i.precondition("connect to", "%w", errDestroyed)
	}
	return so, err
}

// bound is what c, whose socket i's program makes, is reached by.
func (i *instance) bound(ctx context.Context, c *manifest.Capability) (*protocol.Bound, error) {
	dir, err := i.outgoing(ctx)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if b := i.bounds[c.Name]; b != nil && b.Path() == c.Path {
		return b, nil
	} else if b != nil {
		i.realm.spawn(b.Close) // of another manifest
	}
	if _, gone := i.state.(destroyed); gone {
		return nil, i.precondition("connect to", "%w", errDestroyed)
	}
	what, patience := c.Name, protocol.BindPatience
	b, err := i.realm.cfg.Sockets.Bound(dir, c.Path, protocol.BoundConfig{
		Wake: func() { i.realm.spawn(func() { i.wanted(what) }) },
		Late: func() {
			i.realm.spawn(func() {
				i.realm.cfg.Sinks.Note(i.moniker, fmt.Sprintf("it has not bound %s%s within %s: connections to %s are refused until it does",
					outgoingPath, c.Path, patience, what))
			})
		},
		Listens: i.listens,
	})
	if err != nil {
		return nil, err
	}
	if i.bounds == nil {
		i.bounds = map[string]*protocol.Bound{}
	}
	i.bounds[what] = b
	return b, nil
}

// listens says whether i's program listens at a socket that it has bound at path in its outgoing directory.
func (i *instance) listens(path string) (t sock.Type, listens, known bool) {
	i.mu.Lock()
	run := i.currentRunLocked()
	i.mu.Unlock()
	if run == nil {
		return 0, false, false
	}
	l, ok := run.program.(runners.ProcessLister)
	if !ok {
		return 0, false, false
	}
	ctx, cancel := context.WithTimeout(i.realm.ctx, time.Second)
	defer cancel()
	pids, err := l.Processes(ctx)
	if err != nil || len(pids) == 0 {
		return 0, false, false
	}
	t, listens, err = sock.Listening(pids[0], path)
	return t, listens, err == nil
}

// boundsNow are those that there are.
func (i *instance) boundsNow() []*protocol.Bound {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Collect(maps.Values(i.bounds))
}

// expect says to users of what i's program binds that it is about to be started.
func (i *instance) expect(ctx context.Context, got *delivery, d *manifest.Component) error {
	for k := range d.Capabilities {
		c := &d.Capabilities[k]
		if c.Kind != manifest.KindProtocol || c.Activate != manifest.ActivationBind {
			continue
		}
		b, err := i.bound(ctx, c)
		if err != nil {
			return err
		}
		got.bounds = append(got.bounds, b)
		if err := b.Expect(); err != nil {
			return err
		}
	}
	return nil
}

// Starts on demand: as many as that within the time, and then one each second, so that a program which ends without accepting
// doesn't keep the machine busy (systemd.socket(5), TriggerLimitBurst=).
const (
	demandBurst  = 20
	demandWithin = 2 * time.Second
	demandPause  = time.Second
)

// wanted starts i, as a connection waits for it.
func (i *instance) wanted(capability string) {
	i.mu.Lock()
	p := i.pastLocked()
	now := time.Now()
	wait := time.Duration(0)
	if now.Sub(p.demandSince) > demandWithin {
		p.demandSince, p.demands = now, 0
	}
	if p.demands++; p.demands > demandBurst || p.lastExit != nil && !p.lastExit.Well() && now.Sub(p.lastExit.Started) < demandPause {
		wait = demandPause
	}
	i.mu.Unlock()
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-i.realm.ctx.Done():
			return
		}
	}
	_ = i.start(i.realm.ctx, reasonAccess(capability)) // it is in i's events and log; see notStarted
}

// notStarted ends the waiting of those who wait for i, which could not be started and won't be by itself.
func (i *instance) notStarted() {
	i.mu.Lock()
	p := i.provides
	waits := i.restart != nil || i.closing // it is started again, or read anew, and then takes them
	i.mu.Unlock()
	if waits {
		return
	}
	for _, b := range i.boundsNow() {
		b.Ended()
		b.Settle()
	}
	if p == nil {
		return
	}
	if n := p.Drop(); n > 0 {
		i.realm.cfg.Sinks.Note(i.moniker, fmt.Sprintf("%d connection(s) that waited for it were dropped, as it could not be started", n))
	}
	p.Watch()
}

// A delivery is what one run has of what was routed to it, and must be given back after it.
type delivery struct {
	view    *protocol.View // nil for none
	follows []follower     // what goes where routes lead
	// bounds are what the program binds.
	bounds []*protocol.Bound
}

func (d *delivery) end() {
	if d == nil {
		return
	}
	for _, f := range d.follows {
		f.end()
	}
	for _, b := range d.bounds {
		b.Ended()
	}
	if d.view != nil {
		_ = d.view.Close() // what remains, the next manager removes
	}
}

// deliver adds to info what d's declaration uses and provides.
func (i *instance) deliver(ctx context.Context, d *manifest.Component, info *runners.StartInfo) (_ *delivery, err error) {
	got := &delivery{}
	if i.realm.cfg.Sockets == nil {
		return got, nil
	}
	defer func() {
		if err != nil {
			got.end()
		}
	}()
	if names, types := heldOf(d); len(names) > 0 {
		p := i.provider()
		p.Quiet()
		ls, err := p.Listeners(names, types)
		if err != nil {
			return got, err
		}
		for _, l := range ls {
			info.Listeners = append(info.Listeners, runners.Listener(l))
		}
	}
	if err := i.expect(ctx, got, d); err != nil {
		return got, err
	}
	return got, i.deliverUses(ctx, got, d, info)
}

// deliverUses is the part of deliver that concerns no one run: what d's declaration uses, and the directory for what it provides.
func (i *instance) deliverUses(ctx context.Context, got *delivery, d *manifest.Component, info *runners.StartInfo) (err error) {
	var done []string // paths
	for k := range d.Uses {
		u := &d.Uses[k]
		switch u.Kind {
		case manifest.KindProtocol:
			err = i.deliverProtocol(ctx, got, []*manifest.Use{u}, info)
		case manifest.KindEventStream:
			if slices.Contains(done, u.TargetPath) {
				continue
			}
			done = append(done, u.TargetPath)
			var by []*manifest.Use
			for n := range d.Uses[k:] {
				if o := &d.Uses[k+n]; o.Kind == u.Kind && o.TargetPath == u.TargetPath {
					by = append(by, o)
				}
			}
			err = i.deliverProtocol(ctx, got, by, info)
		case manifest.KindDirectory, manifest.KindStorage:
			err = i.deliverFiles(ctx, got, u, info)
		case manifest.KindService, manifest.KindDictionary:
			err = i.deliverSet(ctx, got, u, info)
		}
		if err != nil {
			return err
		}
	}
	if err := i.deliverOutgoing(ctx, d, info); err != nil {
		return err
	}
	if len(info.Namespace) > 0 && info.View == "" {
		if _, err := i.see(got, info); err != nil {
			return err
		}
	}
	return i.deliverConfig(ctx, got, d, info)
}

// missing tells, in i's log, why it doesn't get what u says. How loud depends on how much it relies on it.
func (i *instance) missing(u *manifest.Use, err error) {
	if u.Availability == manifest.Transitional {
		return
	}
	at := ""
	if u.Pos.IsValid() {
		at = " (used at " + u.Pos.String() + ")"
	}
	text := fmt.Sprintf("%s %s %s is not available%s: %v", u.Availability, u.Kind, u.SourceName, at, err)
	i.realm.cfg.Sinks.Note(i.moniker, text)
	if u.Availability == manifest.Required {
		i.mu.Lock()
		i.emitLocked(Event{Kind: EventMissing, Text: text})
		i.mu.Unlock()
	}
}

// deliverProtocol puts what the uses name, all at one place, into the namespace.
func (i *instance) deliverProtocol(ctx context.Context, got *delivery, by []*manifest.Use, info *runners.StartInfo) error {
	u, ask := by[0], i.asks(by)
	if u.NumberedHandle == nil {
		return i.place(ctx, got, u, u.TargetPath, ask, info)
	}
	routed, lacks := ask(ctx)
	var f *os.File
	if len(routed) > 0 {
		var err error
		if f, err = i.realm.open(ctx, i.moniker, routed); err != nil {
			lacks = append(lacks, lack{u, err})
		}
	}
	if ctx.Err() != nil {
		if f != nil {
			f.Close()
		}
		return context.Cause(ctx)
	}
	for _, l := range lacks {
		i.missing(l.use, l.err)
	}
	if f != nil {
		info.Handles = append(info.Handles, runners.Handle{Number: *u.NumberedHandle, File: f})
	}
	return nil
}

// placeHosts puts a socket of the host at at.
func (i *instance) placeHosts(v *protocol.View, u *manifest.Use, at, host string, info *runners.StartInfo) error {
	f, err := mnt.Open(host)
	if err != nil {
		i.missing(u, err)
		return i.enter(v, at, v.Refuse(at), info)
	}
	if covered(at, info) {
		err = v.Hold(at, false)
	}
	info.Namespace = append(info.Namespace, runners.NamespaceEntry{Path: at, File: f, Rights: manifest.RightsR})
	return err
}

// hold is the directory that holds what is at p and is in the namespace as a whole, so that its sockets can be replaced while a
// program runs: /svc for nearly all protocols. It is "" where there is more in that directory that the program needs.
func hold(p string) string {
	dir := path.Dir(p)
	switch top, _, _ := strings.Cut(strings.TrimPrefix(dir, "/"), "/"); top {
	case "", "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "opt", "out", "pkg", "proc", "root", "sbin", "sys",
		"tmp", "usr", "var":
		return ""
	}
	return dir
}

// see is i's view.
func (i *instance) see(got *delivery, info *runners.StartInfo) (*protocol.View, error) {
	if got.view == nil {
		v, err := i.realm.cfg.Sockets.View()
		if err != nil {
			return nil, err
		}
		got.view, info.View = v, v.Dir()
	}
	return got.view, nil
}

// seeHolder is see, with the directory that holds the socket at p in the namespace.
func (i *instance) seeHolder(got *delivery, p string, info *runners.StartInfo) (*protocol.View, error) {
	v, err := i.see(got, info)
	dir := hold(p)
	if err != nil || dir == "" || covered(p, info) {
		return v, err
	}
	if err := v.Hold(dir, true); err != nil {
		return nil, err
	}
	for _, e := range info.Namespace { // what is mounted there
		if strings.HasPrefix(e.Path, dir+"/") {
			st, err := e.File.Stat()
			if err == nil {
				err = v.Hold(e.Path, st.IsDir())
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return v, i.entry(dir, v, manifest.RightsR, info)
}

// enter ends the making of what is at p in v: what lies in no directory that the namespace has already has an entry of its own.
func (i *instance) enter(v *protocol.View, p string, err error, info *runners.StartInfo) error {
	if err != nil {
		return fmt.Errorf("place %s: %w", p, err)
	}
	if covered(p, info) {
		return nil
	}
	return i.entry(p, v, manifest.RightsR, info)
}

// covered says whether p lies in a directory that the namespace has.
func covered(p string, info *runners.StartInfo) bool {
	return slices.ContainsFunc(info.Namespace, func(e runners.NamespaceEntry) bool { return strings.HasPrefix(p, e.Path+"/") })
}

func (i *instance) entry(p string, v *protocol.View, r manifest.Rights, info *runners.StartInfo) error {
	f, err := v.File(p)
	if err != nil {
		return err
	}
	info.Namespace = append(info.Namespace, runners.NamespaceEntry{Path: path.Clean(p), File: f, Rights: r})
	return nil
}

// heldSocket is the socket of a component's capability.
func (r *Realm) heldSocket(ctx context.Context, s capabilities.Source) (protocol.End, error) {
	i, err := r.reach(ctx, s.At)
	if err != nil {
		return nil, err
	}
	return i.socket(ctx, s.Capability)
}

// linkSocket puts the socket of a component's capability at at. One that its program makes has to be made: the program is
// started, and not waited for.
func (i *instance) linkSocket(v *protocol.View, at string, s capabilities.Source, so protocol.End) error {
	if err := v.Link(at, so); err != nil {
		return err
	}
	if s.Capability.Activate == manifest.ActivationBind && s.At != i.moniker {
		if p := i.realm.find(s.At); p != nil {
			i.realm.spawn(func() { _ = p.start(i.realm.ctx, reasonAccess(s.Name)) }) // it is in its events and log
		}
	}
	return nil
}

// hostSocket is the path of the host's socket that s is; "" if it is none.
func (r *Realm) hostSocket(s capabilities.Source) string {
	if s.Kind != capabilities.FromBuiltin {
		return ""
	}
	return r.cfg.HostSockets[s.Name]
}

func (r *Realm) host(k manifest.Kind, s capabilities.Source) (Host, bool) {
	if r.cfg.Hosts == nil {
		return Host{}, false
	}
	return r.cfg.Hosts.Host(k, s)
}

// open makes a connection to what by leads to, for user.
func (r *Realm) open(ctx context.Context, user name.Moniker, by []Delivery) (*os.File, error) {
	route := by[0].Route
	switch route.Source.Kind {
	case capabilities.FromComponent:
		so, err := r.heldSocket(ctx, route.Source)
		if err != nil {
			return nil, err
		}
		return so.Dial(ctx)
	case capabilities.FromVoid:
		return nil, &Error{Op: "connect", At: user, Why: capabilities.NotFound, Err: fmt.Errorf("%s is absent on purpose", route.Kind)}
	}
	if route.Source.Kind == capabilities.FromDictionary {
		a, b, err := sock.Connected(sock.Stream)
		if err != nil {
			return nil, err
		}
		r.spawn(func() { r.hand(r.ctx, user, by[0].Use, route.Source, os.NewFile(uintptr(b), "connection")) })
		return os.NewFile(uintptr(a), "connection"), nil
	}
	if at := r.hostSocket(route.Source); at != "" {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", at)
		if err != nil {
			return nil, &Error{Op: "connect", At: user, Why: capabilities.Unavailable, Err: err}
		}
		defer c.Close()
		return c.(*net.UnixConn).File()
	}
	h, ok := r.host(route.Kind, route.Source)
	if !ok || h.Machine {
		return nil, &Error{
			Op: "connect", At: user, Why: capabilities.Unavailable, Err: fmt.Errorf("%s %s: %w", route.Kind, route.Source.Name, errNobody),
		}
	}
	a, b, err := sock.Connected(h.Type)
	if err != nil {
		return nil, err
	}
	conn := os.NewFile(uintptr(b), "connection")
	r.spawn(func() { h.Serve(r.ctx, Caller{User: user, By: by}, conn) })
	return os.NewFile(uintptr(a), "connection"), nil
}

// dial connects to what the component at, which runs, declares.
func (r *Realm) dial(ctx context.Context, at name.Moniker, c *manifest.Capability) (*os.File, error) {
	if r.cfg.Dial != nil {
		return r.cfg.Dial(ctx, at, c)
	}
	so, err := r.heldSocket(ctx, capabilities.Source{At: at, Capability: c})
	if err != nil {
		return nil, err
	}
	return so.Dial(ctx)
}

// Connect makes a connection to a protocol that m declares, and starts m's program first if need be. The connection is a stream,
// blocks and is the caller's. It waits in the kernel until the program accepts it.
func (r *Realm) Connect(ctx context.Context, m name.Moniker, capability string) (*os.File, error) {
	i, err := r.reach(ctx, m)
	if err != nil {
		return nil, err
	}
	d, err := i.Decl(ctx)
	if err != nil {
		return nil, err
	}
	c := d.Capability(manifest.KindProtocol, capability)
	if c == nil {
		var names []string
		for n := range d.Capabilities {
			if d.Capabilities[n].Kind == manifest.KindProtocol {
				names = append(names, d.Capabilities[n].Name)
			}
		}
		e := &Error{Op: "connect to", At: m, Why: capabilities.NotFound, Err: fmt.Errorf("it declares no protocol %q", capability)}
		if near := name.Nearest(capability, names); near != "" {
			e.Hint = fmt.Sprintf("did you mean %q?", near)
		}
		return nil, e
	}
	so, err := i.socket(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := i.start(ctx, reasonAccess(capability)); err != nil {
		return nil, err
	}
	return so.Dial(ctx)
}

// exposedBy is where what m exposes leads to, and whose it is to take it: m's parent, or for the root an operator, who stands for
// it.
func (r *Realm) exposedBy(ctx context.Context, m name.Moniker, k manifest.Kind, capability string) (*capabilities.Route, *instance, error) {
	i, err := r.reach(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	route, err := r.engine.Exposed(ctx, i, k, capability)
	if err != nil {
		return nil, nil, err
	}
	if i.parent != nil {
		i = i.parent
	}
	return route, i, nil
}

// ConnectExposed makes a connection to a protocol that m exposes, wherever it comes from, or to an instance of a service: "" for
// a protocol. It is as if m's parent did; what provides it is started by the connection.
func (r *Realm) ConnectExposed(ctx context.Context, m name.Moniker, capability, inst string) (*os.File, error) {
	k := manifest.KindProtocol
	if inst != "" {
		k = manifest.KindService
	}
	route, user, err := r.exposedBy(ctx, m, k, capability)
	if err != nil {
		return nil, err
	}
	if k == manifest.KindService {
		all := instancesOf(route)
		at := slices.IndexFunc(all, func(s serviceMember) bool { return s.name == inst })
		if at < 0 {
			return nil, &Error{
				Op: "connect to", At: m, Why: capabilities.NotFound, Err: fmt.Errorf("service %s has no instance %q", capability, inst),
			}
		}
		if route, err = all[at].route, all[at].err; err != nil {
			return nil, err
		}
	}
	return r.open(ctx, user.moniker, []Delivery{{Route: route}})
}

// ExposedInstances names the instances of a service that m exposes, sorted.
func (r *Realm) ExposedInstances(ctx context.Context, m name.Moniker, service string) ([]string, error) {
	route, _, err := r.exposedBy(ctx, m, manifest.KindService, service)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range instancesOf(route) {
		if s.err == nil && s.route.Source.Kind != capabilities.FromVoid {
			out = append(out, s.name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// OpenExposed opens a directory that m exposes, as if m's parent did, and starts what provides it. The descriptor is the
// caller's; it leads nowhere else, and has the rights of the route as far as the manager may see to that.
func (r *Realm) OpenExposed(ctx context.Context, m name.Moniker, directory string) (*os.File, error) {
	route, user, err := r.exposedBy(ctx, m, manifest.KindDirectory, directory)
	if err != nil {
		return nil, err
	}
	f, err := r.directory(ctx, user, route, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dir, err := os.Open(mnt.Name(f, ".")) // to be read, too
	if err != nil {
		return nil, err
	}
	return confine.Give(dir, route.Rights)
}

// afterEnd has what i provides watched again, unless a restart that is due will take it.
func (i *instance) afterEnd() {
	i.mu.Lock()
	p := i.provides
	waits := i.restart != nil || i.closing
	i.mu.Unlock()
	if waits {
		return
	}
	if p != nil {
		p.Watch()
	}
	for _, b := range i.boundsNow() {
		b.Settle()
	}
}

// declares tells what i provides that its manifest is now d.
func (i *instance) declares(d *manifest.Component) {
	i.mu.Lock()
	p := i.provides
	var stay, gone []*protocol.Bound
	for n, b := range i.bounds {
		if c := d.Capability(manifest.KindProtocol, n); c != nil && c.Activate == manifest.ActivationBind && b.Path() == c.Path {
			stay = append(stay, b)
		} else {
			gone = append(gone, b)
			delete(i.bounds, n)
		}
	}
	i.mu.Unlock()
	for _, b := range gone {
		b.Close()
	}
	for _, b := range stay {
		b.Settle()
	}
	if p == nil {
		return
	}
	names, _ := heldOf(d)
	p.Keep(names)
	p.Watch()
}

// unprovide closes the sockets of what i provides.
func (i *instance) unprovide() {
	i.mu.Lock()
	p := i.provides
	i.mu.Unlock()
	if p != nil {
		p.Close()
	}
	i.mu.Lock()
	out, bounds := i.out, i.bounds
	i.out, i.outFor, i.bounds = "", nil, nil
	i.mu.Unlock()
	for _, b := range bounds {
		b.Close()
	}
	if out != "" {
		_ = os.RemoveAll(out) // what remains, the next manager removes
	}
}
