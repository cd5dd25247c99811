package protocol

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func open(t *testing.T) *Sockets {
	t.Helper()
	loop, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(t.TempDir(), "run"), loop)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), loop.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Connections that nobody has accepted wait: the first wakes, once, and the next run gets them all, by the view of whoever made them.
func TestConnectionsWait(t *testing.T) {
	const n = 1000
	s := open(t)
	woken := make(chan string, n)
	p := s.Provider(func(protocol string) { woken <- protocol })
	defer p.Close()
	so, err := p.Socket("echo", sock.Stream)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.Link("/svc/echo", so); err != nil {
		t.Fatal(err)
	}
	for range n {
		c, err := net.Dial("unix", v.Dir()+"/svc/echo")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got := <-woken; got != "echo" {
		t.Errorf("%q wakes", got)
	}
	ls, err := p.Listeners([]string{"echo"}, []sock.Type{sock.Stream})
	if err != nil {
		t.Fatal(err)
	}
	accept := func(n int) {
		for range n {
			fd, ok, err := sock.Accept(int(ls[0].File.Fd()))
			if !ok || err != nil {
				t.Fatalf("a connection is lost: %v", err)
			}
			syscall.Close(fd)
		}
	}
	accept(n / 2)
	ls[0].File.Close() // the first run ends
	p.Watch()
	<-woken
	if ls, err = p.Listeners([]string{"echo"}, []sock.Type{sock.Stream}); err != nil {
		t.Fatal(err)
	}
	accept(n / 2)
	ls[0].File.Close()
	if len(woken) != 0 {
		t.Errorf("woken %d times too often", len(woken))
	}
	if got := p.Drop(); got != 0 {
		t.Errorf("%d connections are left", got)
	}
}

// What leads nowhere refuses, and so does what is gone.
func TestRefuse(t *testing.T) {
	s := open(t)
	v, err := s.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p := s.Provider(func(string) {})
	so, err := p.Socket("echo", sock.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Refuse("/svc/nothing"), v.Link("/svc/gone", so)); err != nil {
		t.Fatal(err)
	}
	p.Close()
	for _, path := range []string{"/svc/nothing", "/svc/gone"} {
		if _, err := net.Dial("unix", v.Dir()+path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What is removed, or could not be put there, keeps no descriptor and no file.
func TestRemove(t *testing.T) {
	s := open(t)
	v, err := s.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	have := func() (n int) {
		for _, dir := range []string{"/proc/self/fd", s.sock.Name()} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			n += len(entries)
		}
		return n
	}
	serve := func(path string) error {
		return v.Serve(path, sock.Stream, func(f func()) { go f() }, func(conn *os.File) { conn.Close() })
	}
	before := have()
	if err := errors.Join(serve("/set/a"), serve("/set/b"), v.Remove("/set/a"), v.Remove("/set")); err != nil {
		t.Error(err)
	}
	if err := v.Hold("/dir/full", true); err != nil {
		t.Fatal(err)
	}
	if err := serve("/dir"); err == nil {
		t.Error("a directory that is not empty is replaced")
	}
	if now := have(); now != before {
		t.Errorf("%d descriptors and files, before %d", now, before)
	}
}
