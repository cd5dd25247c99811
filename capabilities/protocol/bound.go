package protocol

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

// An End is what connections to a protocol go to: a Socket or a Bound.
type End interface {
	// Dial connects. It waits for a Bound to be there, and never for whoever accepts.
	Dial(ctx context.Context) (*os.File, error)
	link(v *View, path string) error
}

// A Bound is a protocol of a component whose program makes the socket itself, in its outgoing directory. While there is none, a
// socket of the manager's stands in its place, with room for one connection. Who connects then waits in connect(2), and when the
// place is taken by the program's socket the kernel looks there again: nobody is lost, and nothing is between. (A connect that
// does not wait gets EAGAIN.) While the program does not run either, the first connection wakes it. That one has got through, and
// is closed in the end.
type Bound struct {
	s         *Sockets
	dir, path string // the outgoing directory, and the socket's path in it
	cfg       BoundConfig

	mu      sync.Mutex // guards what follows; above Sockets.mu
	state   boundState
	views   map[place]struct{}
	name    string        // of what the views have, below Sockets.sock; "" where it refuses
	fd      int           // of the socket in its place; -1 for none
	filler  *os.File      // the connection that fills that
	watched int           // descriptor of the watch, -1 for none
	timer   *time.Timer   // while it is expected
	probing string        // of the program's socket that is asked whether it listens; "" for none
	kind    sock.Type     // once there
	changed chan struct{} // closed with the next change of state
}

// place is where a View has something.
type place struct {
	v    *View
	path string
}

// boundState is how a Bound stands.
type boundState uint8

const (
	absent   boundState = iota // nothing runs; a connection wakes
	expected                   // the program starts, or runs and has not bound it: connections wait
	bound                      // connections go to the program
	overdue                    // the program runs and does not bind it: connections are refused
	over                       // the program has ended, and what follows is not known: connections wait
	gone                       // closed
)

// BindPatience is how long connections wait for a program that runs to bind its socket.
const BindPatience = 30 * time.Second

// How long a socket that has been bound is given to listen, and how long where nobody can tell whether it does.
const (
	listenPatience  = 10 * time.Second
	unknownPatience = time.Second
	listenStep      = 5 * time.Millisecond
)

// BoundConfig is what a Bound needs of its owner. None of it may block, nor call the Bound.
type BoundConfig struct {
	// Wake is called when a connection waits while nothing runs.
	Wake func()
	// Late is called when connections begin to be refused because a program that runs doesn't bind.
	Late func()
	// Listens says whether the program listens at a socket that it has bound at that path in its outgoing directory, and of which
	// type that is; known is false where that cannot be told.
	Listens func(path string) (t sock.Type, listens, known bool)
}

// Bound makes one for the socket at path in the outgoing directory dir.
func (s *Sockets) Bound(dir, path string, cfg BoundConfig) (*Bound, error) {
	b := &Bound{s: s, dir: dir, path: path, cfg: cfg, fd: -1, watched: -1}
	b.views, b.changed = map[place]struct{}{}, make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.stand(absent); err != nil {
		return nil, err
	}
	return b, nil
}

// Path is the socket's path in the outgoing directory.
func (b *Bound) Path() string { return b.path }

// to changes the state. b.mu must be held.
func (b *Bound) to(s boundState) {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	b.state = s
	close(b.changed)
	b.changed = make(chan struct{})
}

// stand puts a socket of the manager's in the place: one at which connections wait, and which is full unless the state is absent.
// b.mu must be held.
func (b *Bound) stand(s boundState) error {
	n := b.s.name()
	fd, err := sock.ListenOne(b.s.sock, n)
	if err != nil {
		return err
	}
	var filler *os.File
	if s == absent {
		err = b.s.loop.Add(fd, poll.In, func(uint32) { b.knock(fd) })
	} else {
		filler, err = b.fill(n)
	}
	if err != nil {
		syscall.Close(fd)
		os.Remove(b.s.path(n))
		return err
	}
	b.replace(n)
	b.fd, b.filler = fd, filler
	b.to(s)
	return nil
}

func (b *Bound) fill(n string) (*os.File, error) {
	fd, err := sock.Dial(b.s.sock, n, sock.Stream)
	if errors.Is(err, sock.ErrBusy) {
		return nil, nil // by somebody else
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "filler"), nil
}

// replace has all views show what is called n below the sockets, or with "" what refuses, and ends what was there before: who
// waits for that looks again. b.mu must be held.
func (b *Bound) replace(n string) {
	old, fd, filler := b.name, b.fd, b.filler
	b.name, b.fd, b.filler = n, -1, nil
	for p := range b.views {
		_ = b.show(p) // a view that goes meanwhile shows nothing
	}
	if fd >= 0 {
		b.s.loop.Remove(fd)
		syscall.Close(fd)
	}
	if filler != nil {
		filler.Close()
	}
	if old != "" {
		os.Remove(b.s.path(old))
	}
}

// show puts what there is at p, in one step.
func (b *Bound) show(p place) error {
	n := b.s.name()
	if b.name == "" {
		if err := sock.Unheard(b.s.sock, n); err != nil {
			return err
		}
	} else if err := os.Link(b.s.path(b.name), b.s.path(n)); err != nil {
		return err
	}
	if err := os.Rename(b.s.path(n), filepath.Join(p.v.dir, p.path)); err != nil {
		os.Remove(b.s.path(n))
		return err
	}
	return nil
}

// knock takes note of the first connection at fd; on the loop.
func (b *Bound) knock(fd int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != absent || b.fd != fd {
		return
	}
	_ = b.s.loop.Modify(fd, 0) // only a closed loop refuses
	b.to(expected)
	b.cfg.Wake()
}

// Expect says that the program is started: connections wait for it.
func (b *Bound) Expect() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case gone:
		return ErrClosed
	case absent:
		if err := b.hold(); err != nil {
			return err
		}
	}
	b.to(expected)
	if err := b.watch(); err != nil {
		return err
	}
	b.timer = time.AfterFunc(BindPatience, b.overdue)
	b.look()
	return nil
}

// hold has connections wait, without waking anybody. b.mu must be held, and the state be absent.
func (b *Bound) hold() (err error) {
	if b.fd < 0 {
		return b.stand(expected)
	}
	_ = b.s.loop.Modify(b.fd, 0) // only a closed loop refuses
	b.filler, err = b.fill(b.name)
	return err
}

func (b *Bound) overdue() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != expected {
		return
	}
	b.replace("")
	b.to(overdue)
	b.cfg.Late()
}

// watch has look called when something comes into the directory of the socket. b.mu must be held.
func (b *Bound) watch() error {
	if b.watched >= 0 {
		return nil
	}
	dir, err := b.parent()
	if err != nil {
		return err
	}
	defer dir.Close()
	b.watched, err = b.s.watch(dir, b)
	return err
}

// parent is the directory of the program's socket.
func (b *Bound) parent() (*os.File, error) {
	top, err := mnt.Open(b.dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return mnt.Beneath(top, path.Dir(b.path)[1:])
}

// arrived is look for who does not have b.mu.
func (b *Bound) arrived() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look()
}

// look finds the program's socket, and when it listens has connections go there. b.mu must be held.
func (b *Bound) look() {
	if b.state != expected && b.state != overdue && b.state != bound {
		return
	}
	dir, err := b.parent()
	if err != nil {
		return // it took the directory away
	}
	defer dir.Close()
	n := b.s.name()
	at := mnt.Name(dir, path.Base(b.path))
	if os.Link(at, b.s.path(n)) != nil { // never through a symlink
		return
	}
	st, err := os.Lstat(b.s.path(n))
	if err != nil || st.Mode().Type() != os.ModeSocket || b.probing != "" && b.same(st, b.probing) {
		os.Remove(b.s.path(n))
		return
	}
	if b.state == bound && b.same(st, b.name) {
		b.probing = ""
		os.Remove(b.s.path(n))
		return
	}
	b.probing = n
	b.probe(n, time.Now())
}

// same says whether st is what is called n below the sockets.
func (b *Bound) same(st os.FileInfo, n string) bool {
	had, err := os.Lstat(b.s.path(n))
	return err == nil && os.SameFile(st, had)
}

// probe asks whether what is called n listens, again and again as long as it does not and b.probing is n: nothing tells, and a
// connection made to see would be one that the program has to deal with. b.mu must be held.
func (b *Bound) probe(n string, since time.Time) {
	kind, listens, known := b.cfg.Listens(b.path)
	if known && listens || !known && time.Since(since) > unknownPatience {
		b.there(n, kind)
		return
	}
	if time.Since(since) > listenPatience {
		b.probing = ""
		os.Remove(b.s.path(n))
		return
	}
	time.AfterFunc(listenStep, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.probing != n {
			os.Remove(b.s.path(n))
			return
		}
		b.probe(n, since)
	})
}

// there has connections go to what is called n. b.mu must be held.
func (b *Bound) there(n string, kind sock.Type) {
	_ = os.Chmod(b.s.path(n), 0o666) // as that of a socket which the manager makes: who sees it may connect
	b.replace(n)
	b.probing, b.kind = "", kind
	b.to(bound)
}

// Ended says that the program has ended, or could not be started. Connections wait until Expect or Settle.
func (b *Bound) Ended() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == gone || b.state == absent {
		return
	}
	b.probing = ""
	if dir, err := b.parent(); err == nil {
		at := mnt.Name(dir, path.Base(b.path))
		if st, err := os.Lstat(at); err == nil && st.Mode().Type() == os.ModeSocket {
			os.Remove(at) // the next run could not bind
		}
		dir.Close()
	}
	if b.state == expected || b.state == over {
		b.to(over)
		return
	}
	if b.stand(over) != nil {
		b.replace("")
		b.to(over)
	}
}

// Settle says that the program, which has ended, is not about to be started: who waits is refused, and the next connection wakes
// it.
func (b *Bound) Settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != over {
		return
	}
	b.replace("")
	if b.stand(absent) != nil {
		b.to(absent) // it refuses, and goes on so until somebody else starts it
	}
}

// Dial connects to the program's socket once it is there.
func (b *Bound) Dial(ctx context.Context) (*os.File, error) {
	for {
		b.mu.Lock()
		state, n, kind, changed := b.state, b.name, b.kind, b.changed
		if state == absent {
			if err := b.hold(); err != nil {
				b.mu.Unlock()
				return nil, err
			}
			b.to(expected)
			changed = b.changed
			b.cfg.Wake()
		}
		b.mu.Unlock()
		switch state {
		case bound:
			fd, err := sock.Dial(b.s.sock, n, kind)
			if errors.Is(err, syscall.ENOENT) {
				break // it has been replaced in this moment
			}
			if err != nil {
				return nil, err
			}
			return os.NewFile(uintptr(fd), "connection"), nil
		case overdue:
			return nil, errors.New("its program runs and does not bind the socket")
		case gone:
			return nil, ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (b *Bound) link(v *View, path string) error {
	if _, err := v.place(path); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == gone {
		return ErrClosed
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return os.ErrClosed
	}
	p := place{v, path}
	if err := b.show(p); err != nil {
		return err
	}
	b.views[p], v.bounds[path] = struct{}{}, b
	return nil
}

// leave has b no more show anything at p.
func (b *Bound) leave(p place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.views, p)
}

// Close ends it: connections are refused.
func (b *Bound) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == gone {
		return
	}
	b.replace("")
	b.probing = ""
	b.to(gone)
	b.s.unwatch(b.watched, b)
	b.watched = -1
}
