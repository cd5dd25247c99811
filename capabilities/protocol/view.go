package protocol

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

// A View is a directory that holds the sockets that one run of a component finds, at their paths in its namespace.
type View struct {
	s   *Sockets
	dir string

	mu     sync.Mutex
	hosted map[string]*hosted // by path
	bounds map[string]*Bound  // likewise
	closed bool
}

// View makes an empty one.
func (s *Sockets) View() (*View, error) {
	v := &View{s: s, dir: filepath.Join(s.dir, "v", secret()), hosted: map[string]*hosted{}, bounds: map[string]*Bound{}}
	if err := os.Mkdir(v.dir, 0o755); err != nil {
		return nil, err
	}
	return v, os.Chmod(v.dir, 0o755)
}

// Dir is the directory.
func (v *View) Dir() string { return v.dir }

// File is an O_PATH descriptor of what is at path.
func (v *View) File(path string) (*os.File, error) { return mnt.Open(filepath.Join(v.dir, path)) }

// place makes room for path.
func (v *View) place(path string) (string, error) {
	path = filepath.Join(v.dir, path)
	return path, os.MkdirAll(filepath.Dir(path), 0o755)
}

// leave ends what is at path and below, before it is removed or something else takes its place in one step.
func (v *View) leave(path string) {
	in := func(p string) bool { return p == path || strings.HasPrefix(p, path+"/") }
	bounds := map[string]*Bound{}
	v.mu.Lock()
	for p, h := range v.hosted {
		if in(p) {
			h.close(v)
			delete(v.hosted, p)
		}
	}
	for p, b := range v.bounds {
		if in(p) {
			bounds[p] = b
			delete(v.bounds, p)
		}
	}
	v.mu.Unlock()
	for p, b := range bounds {
		b.leave(place{v, p})
	}
}

// Link puts e at path, in the place of what was there.
func (v *View) Link(path string, e End) error {
	v.leave(path)
	return e.link(v, path)
}

// Refuse puts a socket at path that refuses every connection, in the place of what was there.
func (v *View) Refuse(path string) error {
	v.leave(path)
	at, err := v.place(path)
	if err != nil {
		return err
	}
	n := v.s.name()
	if err := sock.Unheard(v.s.sock, n); err != nil {
		return err
	}
	return os.Rename(v.s.path(n), at)
}

// Hold makes an empty file, or directory, at path, for something to be mounted on.
func (v *View) Hold(path string, dir bool) error {
	at, err := v.place(path)
	if err != nil {
		return err
	}
	if dir {
		return os.MkdirAll(at, 0o755)
	}
	return os.WriteFile(at, nil, 0o644)
}

// Remove removes what is at path.
func (v *View) Remove(path string) error {
	v.leave(path)
	return os.RemoveAll(filepath.Join(v.dir, path))
}

// Write puts a file with text at path.
func (v *View) Write(path string, text []byte) error {
	at, err := v.place(path)
	if err != nil {
		return err
	}
	return os.WriteFile(at, text, 0o444)
}

// atOnce is how many connections to one hosted protocol one component may have; further ones wait.
const atOnce = 64

// hosted is a socket of a protocol that the manager itself speaks.
type hosted struct {
	fd int
	// Under View.mu.
	serving int
	closed  bool
}

// close closes the socket. v.mu must be held.
func (h *hosted) close(v *View) {
	h.closed = true
	v.s.loop.Remove(h.fd)
	syscall.Close(h.fd)
}

// Serve puts a socket at path, in the place of what was there, whose connections are given to serve, each on a goroutine of its
// own, of which there are 64 at most. run starts such a goroutine; the connection is serve's, and blocks.
func (v *View) Serve(path string, t sock.Type, run func(func()), serve func(conn *os.File)) error {
	v.leave(path)
	at, err := v.place(path)
	if err != nil {
		return err
	}
	n := v.s.name()
	h := &hosted{}
	if h.fd, err = sock.Listen(v.s.sock, n, t); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		err = os.ErrClosed
	} else {
		err = v.s.loop.Add(h.fd, poll.In, func(uint32) { v.accept(h, run, serve) })
	}
	if err == nil {
		err = os.Rename(v.s.path(n), at)
	}
	if err != nil {
		h.close(v)
		os.Remove(v.s.path(n))
		return err
	}
	v.hosted[path] = h
	return nil
}

// accept takes one connection; on the loop.
func (v *View) accept(h *hosted, run func(func()), serve func(*os.File)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h.closed {
		return
	}
	fd, ok, err := sock.Accept(h.fd)
	if err != nil { // out of descriptors, most likely
		_ = v.s.loop.Modify(h.fd, 0)
		time.AfterFunc(time.Second, func() { v.listen(h) })
		return
	}
	if !ok {
		return
	}
	if h.serving++; h.serving == atOnce {
		_ = v.s.loop.Modify(h.fd, 0)
	}
	run(func() {
		serve(os.NewFile(uintptr(fd), "connection"))
		v.mu.Lock()
		h.serving--
		v.mu.Unlock()
		v.listen(h)
	})
}

// listen goes on accepting.
func (v *View) listen(h *hosted) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !h.closed && h.serving < atOnce {
		_ = v.s.loop.Modify(h.fd, poll.In)
	}
}

// Close ends the view: nobody can connect by it any more. Connections that are there go on.
func (v *View) Close() error {
	v.mu.Lock()
	v.closed = true
	for _, h := range v.hosted {
		h.close(v)
	}
	bounds := v.bounds
	v.hosted, v.bounds = nil, nil
	v.mu.Unlock()
	for p, b := range bounds {
		b.leave(place{v, p})
	}
	if err := os.RemoveAll(v.dir); err != nil {
		return fmt.Errorf("remove what a component saw: %w", err)
	}
	return nil
}
