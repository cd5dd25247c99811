package protocol

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/sys/sock"
)

type boundWorld struct {
	*Bound
	t     *testing.T
	at    string // where the program binds
	view  string // where it is used
	woken chan struct{}
	late  chan struct{}
}

func newBound(t *testing.T) *boundWorld {
	t.Helper()
	s := open(t)
	out, err := s.Outgoing()
	if err != nil {
		t.Fatal(err)
	}
	w := &boundWorld{t: t, at: filepath.Join(out, "svc/x"), woken: make(chan struct{}, 9), late: make(chan struct{}, 9)}
	if err := os.Mkdir(filepath.Join(out, "svc"), 0o777); err != nil {
		t.Fatal(err)
	}
	w.Bound, err = s.Bound(out, "/svc/x", BoundConfig{
		Wake: func() { w.woken <- struct{}{} }, Late: func() { w.late <- struct{}{} },
		Listens: func(path string) (sock.Type, bool, bool) {
			kind, ok, err := sock.Listening(os.Getpid(), w.at)
			return kind, ok, err == nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Bound.Close)
	v, err := s.View()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	if err := v.Link("/svc/x", w.Bound); err != nil {
		t.Fatal(err)
	}
	w.view = filepath.Join(v.Dir(), "svc/x")
	return w
}

// ask connects as programs do that wait, and says what it is told.
func (w *boundWorld) ask() (string, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: w.view}); err != nil {
		return "", err
	}
	var b [9]byte
	n, err := syscall.Read(fd, b[:])
	return string(b[:max(n, 0)]), err
}

// bind is the program: it tells its name to whoever connects, until stop is called.
func (w *boundWorld) bind(name string) (stop func()) {
	w.t.Helper()
	l, err := net.Listen("unix", w.at)
	if err != nil {
		w.t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as one that was killed
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(name))
			c.Close()
		}
	}()
	return func() { l.Close(); <-done }
}

// Who connects before the program has bound its socket waits for it, and so does who connects while it is started again.
func TestBoundWaits(t *testing.T) {
	w := newBound(t)
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	asks := func(n int) (answers func(want string)) {
		var wg sync.WaitGroup
		got := make(chan string, n)
		for range n {
			wg.Go(func() {
				s, err := w.ask()
				if err != nil {
					s = err.Error()
				}
				got <- s
			})
		}
		return func(want string) {
			t.Helper()
			wg.Wait()
			for range n {
				if s := <-got; s != want {
					t.Errorf("%q, want %q", s, want)
				}
			}
		}
	}
	first := asks(50)
	stop := w.bind("one")
	first("one")
	asks(50)("one")
	stop()
	w.Ended()
	second := asks(50)
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	stop = w.bind("two")
	defer stop()
	second("two")
	if len(w.woken) > 0 {
		t.Error("a program was woken that was there")
	}
	f, err := w.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// While nothing runs, the first connection wakes the program. It is closed in the end, and those after it wait.
func TestBoundWakes(t *testing.T) {
	w := newBound(t)
	first := make(chan error)
	go func() {
		_, err := w.ask()
		first <- err
	}()
	<-w.woken
	second := make(chan string)
	go func() {
		s, err := w.ask()
		if err != nil {
			s = err.Error()
		}
		second <- s
	}()
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	stop := w.bind("me")
	defer stop()
	if err := <-first; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the first: %v", err)
	}
	if s := <-second; s != "me" {
		t.Errorf("the second: %q", s)
	}
}

// A program that ends for good lets nobody wait; what is no socket, or does not listen, is nothing.
func TestBoundEnds(t *testing.T) {
	w := newBound(t)
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	waits := make(chan error)
	go func() {
		_, err := w.ask()
		waits <- err
	}()
	if err := os.WriteFile(w.at, []byte("no socket"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(w.at)
	if err := os.Symlink("/run/some.sock", w.at); err != nil {
		t.Fatal(err)
	}
	os.Remove(w.at)
	dir, err := os.Open(filepath.Dir(w.at))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := sock.Unheard(dir, "x"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-waits:
		t.Fatalf("somebody got through: %v", err)
	case <-time.After(20 * time.Millisecond): // long enough for some looks; if it is not, nothing fails that should not
	}
	w.Ended()
	w.Settle()
	select {
	case err = <-waits: // refused
	case <-w.woken: // it came late, and so to what wakes
		w.Close()
		err = <-waits
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who waited: %v", err)
	}
	w.Close()
	if _, err := w.ask(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := w.Dial(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// After events that were lost, all look: the kernel tells so behind those that it still had room for.
func TestBoundOverflow(t *testing.T) {
	w := newBound(t)
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	w.s.mu.Lock() // what comes is told of another directory
	wd := int32(w.watched)
	w.s.watches.on[wd+1] = w.s.watches.on[wd]
	delete(w.s.watches.on, wd)
	w.s.mu.Unlock()
	defer w.bind("me")()
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, e := range []syscall.InotifyEvent{{Wd: wd, Mask: syscall.IN_CREATE}, {Wd: -1, Mask: syscall.IN_Q_OVERFLOW}} {
		if err := binary.Write(wr, binary.NativeEndian, e); err != nil {
			t.Fatal(err)
		}
	}
	wr.Close()
	w.s.news(int(r.Fd()))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != bound {
		t.Errorf("its state is %d: it did not look", w.state)
	}
}

// However often something comes into the directory, a socket that does not listen is asked by one chain of probes; what has taken
// its place is not mistaken for it.
func TestBoundProbesOnce(t *testing.T) {
	w := newBound(t)
	var listens atomic.Bool
	w.cfg.Listens = func(string) (sock.Type, bool, bool) { return sock.Stream, listens.Load(), true }
	dir, err := os.Open(filepath.Dir(w.at))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	// links are how many names a bound socket has: one is the program's, and each chain has one.
	links := func() uint64 {
		var st syscall.Stat_t
		if err := syscall.Stat(w.at, &st); err != nil {
			t.Fatal(err)
		}
		return uint64(st.Nlink)
	}
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"x", "y"} {
		if err := sock.Unheard(dir, n); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir.Name(), n), w.at); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			w.arrived()
		}
		w.mu.Lock()
		if n := links(); n > 2 {
			t.Errorf("%d chains of probes", n-1)
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	listens.Store(true)
	if w.probing == "" {
		w.look() // this took longer than one is given
	}
	for w.state != bound {
		changed := w.changed
		w.mu.Unlock()
		<-changed
		w.mu.Lock()
	}
	if st, err := os.Lstat(w.at); err != nil || !w.same(st, w.name) {
		t.Errorf("not what is there now (%v)", err)
	}
}

// What was asked of a run that has ended is not asked of the next.
func TestBoundProbeEnds(t *testing.T) {
	w := newBound(t)
	var asked atomic.Int32
	w.cfg.Listens = func(string) (sock.Type, bool, bool) { asked.Add(1); return 0, false, true }
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(filepath.Dir(w.at))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := sock.Unheard(dir, "x"); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir.Name(), "old")
	if err := os.Link(w.at, old); err != nil {
		t.Fatal(err)
	}
	w.arrived()
	w.Ended()
	asked.Store(0)
	if err := w.Expect(); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	for st.Nlink != 1 { // until the chain has ended
		time.Sleep(time.Millisecond)
		if err := syscall.Stat(old, &st); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("asked %d times after its end", n)
	}
}
