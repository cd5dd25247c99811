package sock

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func pair(t *testing.T) (ours, theirs int) {
	t.Helper()
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(a)
		unix.Close(b)
	})
	return a, b
}

func openFDs(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func TestPacketsKeepTheirBounds(t *testing.T) {
	a, b := pair(t)
	for _, s := range []string{"one", "second", "3"} {
		if err := Send(a, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 64)
	for _, want := range []string{"one", "second", "3"} {
		n, fds, err := Recv(b, buf, 0)
		if err != nil || string(buf[:n]) != want || fds != nil {
			t.Fatalf("Recv = %q, %v, %v; want %q", buf[:n], fds, err, want)
		}
	}
	if _, _, err := Recv(a, buf, 0); err != unix.EAGAIN {
		t.Errorf("Recv on our empty end: %v, want EAGAIN", err)
	}
}

func TestDescriptors(t *testing.T) {
	a, b := pair(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Send(a, []byte("take"), int(f.Fd()), int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, fds, err := Recv(b, buf, 2)
	if err != nil || string(buf[:n]) != "take" || len(fds) != 2 {
		t.Fatalf("Recv = %q, %v, %v", buf[:n], fds, err)
	}
	for _, fd := range fds {
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d: flags %x, %v; want close-on-exec", fd, fl, err)
		}
		name, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if name != f.Name() {
			t.Errorf("descriptor %d is %s, want %s", fd, name, f.Name())
		}
		unix.Close(fd)
	}
}

func TestTruncatedLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name        string
		fds, buf, n int
	}{
		{"too many descriptors", 3, 64, 1},
		{"one more than asked fits the buffer", 2, 64, 1},
		{"descriptors not expected", 1, 64, 0},
		{"packet too long", 1, 2, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			fds := make([]int, c.fds)
			for i := range fds {
				fds[i] = a
			}
			if err := Send(a, []byte("packet"), fds...); err != nil {
				t.Fatal(err)
			}
			before := openFDs(t)
			if _, got, err := Recv(b, make([]byte, c.buf), c.n); err != ErrTruncated || got != nil {
				t.Errorf("Recv = %v, %v; want ErrTruncated", got, err)
			}
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
		})
	}
}

func TestClosedPeer(t *testing.T) {
	a, b := pair(t)
	if err := Send(b, []byte("last")); err != nil {
		t.Fatal(err)
	}
	unix.Shutdown(b, unix.SHUT_RDWR)
	buf := make([]byte, 8)
	if n, _, err := Recv(a, buf, 0); err != nil || string(buf[:n]) != "last" {
		t.Errorf("Recv = %q, %v; want the last packet", buf[:n], err)
	}
	if _, _, err := Recv(a, buf, 0); err != io.EOF {
		t.Errorf("Recv = %v, want EOF", err)
	}
	if err := Send(a, []byte("x")); err != unix.EPIPE {
		t.Errorf("Send = %v, want EPIPE", err)
	}
}

func TestFullSocketSaysAgain(t *testing.T) {
	a, _ := pair(t)
	for range 100_000 {
		if err := Send(a, make([]byte, 1024)); err != nil {
			if err != unix.EAGAIN {
				t.Errorf("Send = %v, want EAGAIN", err)
			}
			return
		}
	}
	t.Error("100 MB were accepted without a reader")
}

func TestPeerOf(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p, err := PeerOf(s.(*net.UnixConn))
	want := Peer{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if err != nil || p != want {
		t.Errorf("PeerOf = %+v, %v; want %+v", p, err, want)
	}
}
