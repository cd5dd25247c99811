package protocol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

// A Socket is what connections to one protocol of a component come in by.
type Socket struct {
	s    *Sockets
	name string
	kind sock.Type
	fd   int
}

func (s *Sockets) listen(t sock.Type) (*Socket, error) {
	n := s.name()
	fd, err := sock.Listen(s.sock, n, t)
	if err != nil {
		return nil, err
	}
	return &Socket{s: s, name: n, kind: t, fd: fd}, nil
}

// Dial connects to the socket, without waiting for whoever accepts. sock.ErrBusy says that too many wait.
func (so *Socket) Dial(context.Context) (*os.File, error) {
	fd, err := sock.Dial(so.s.sock, so.name, so.kind)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "connection"), nil
}

func (so *Socket) link(v *View, path string) error {
	at, err := v.place(path)
	if err != nil {
		return err
	}
	if err := os.Link(v.s.path(so.name), at); !errors.Is(err, fs.ErrExist) {
		return err
	}
	n := v.s.path(v.s.name())
	if err := os.Link(v.s.path(so.name), n); err != nil {
		return err
	}
	defer os.Remove(n) // which is still there if that is what at was already
	return os.Rename(n, at)
}

func (so *Socket) close() {
	so.s.loop.Remove(so.fd)
	syscall.Close(so.fd)
	os.Remove(so.s.path(so.name))
}

// A Provider has the sockets of one component. Until it is told that the component runs, it watches them.
type Provider struct {
	s    *Sockets
	wake func(protocol string)

	mu      sync.Mutex
	sockets map[string]*Socket
	quiet   bool // nothing is watched
	closed  bool
}

// ErrClosed is the error of a Provider whose component is gone.
var ErrClosed = errors.New("the component is gone")

// Provider makes a Provider without a socket, which watches. Once a connection waits it calls wake, on the loop, with the
// protocol's name, and is quiet from then on.
func (s *Sockets) Provider(wake func(protocol string)) *Provider {
	return &Provider{s: s, wake: wake, sockets: map[string]*Socket{}}
}

// Socket is the socket of a protocol, made if need be.
func (p *Provider) Socket(protocol string, t sock.Type) (*Socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if so := p.sockets[protocol]; so != nil {
		return so, nil
	}
	so, err := p.s.listen(t)
	if err != nil {
		return nil, err
	}
	events := poll.In
	if p.quiet {
		events = 0
	}
	err = p.s.loop.Add(so.fd, events, func(ev uint32) {
		if ev&poll.In != 0 && p.Quiet() {
			p.wake(protocol)
		}
	})
	if err != nil {
		so.close()
		return nil, err
	}
	p.sockets[protocol] = so
	return so, nil
}

// Quiet stops watching, and tells whether it had been watching.
func (p *Provider) Quiet() (was bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet || p.closed {
		return false
	}
	p.quiet = true
	p.watch(0)
	return true
}

// Watch begins to watch again: wake is called for connections that wait already, too.
func (p *Provider) Watch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet && !p.closed {
		p.quiet = false
		p.watch(poll.In)
	}
}

func (p *Provider) watch(events uint32) {
	for _, so := range p.sockets {
		_ = p.s.loop.Modify(so.fd, events) // only a closed loop refuses
	}
}

// A Listener is a listening socket and the protocol's name.
type Listener struct {
	Name string
	File *os.File
}

// Listeners are duplicates of the sockets of the protocols, which are made if need be, for the program that accepts from them.
func (p *Provider) Listeners(protocols []string, types []sock.Type) (ls []Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range ls {
				l.File.Close()
			}
		}
	}()
	for i, n := range protocols {
		so, err := p.Socket(n, types[i])
		if err != nil {
			return ls, err
		}
		fd, err := sock.Dup(so.fd)
		if err != nil {
			return ls, fmt.Errorf("protocol %s: %w", n, err)
		}
		ls = append(ls, Listener{n, os.NewFile(uintptr(fd), n)})
	}
	return ls, nil
}

// Drop ends all connections that wait, and returns how many there were. It must not be called while a program has the sockets.
func (p *Provider) Drop() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, so := range p.sockets {
		for {
			fd, ok, err := sock.Accept(so.fd)
			if !ok || err != nil {
				break
			}
			syscall.Close(fd)
			n++
		}
	}
	return n
}

// Keep closes the sockets of all protocols but those.
func (p *Provider) Keep(protocols []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, so := range p.sockets {
		if !slices.Contains(protocols, n) {
			so.close()
			delete(p.sockets, n)
		}
	}
}

// Close closes all sockets: whoever waits is disconnected, and further connections are refused.
func (p *Provider) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for n, so := range p.sockets {
		so.close()
		delete(p.sockets, n)
	}
}
