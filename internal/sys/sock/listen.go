package sock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Type is how a unix socket carries what is written to it.
type Type uint8

const (
	Stream  Type = iota // bytes (SOCK_STREAM)
	Packets             // packets, with their bounds (SOCK_SEQPACKET)
)

func (t Type) kernel() int {
	if t == Packets {
		return unix.SOCK_SEQPACKET
	}
	return unix.SOCK_STREAM
}

// backlog is how many connections may wait; the kernel cuts it down to net.core.somaxconn (4,096 where nobody has changed it).
const backlog = 1 << 16

// address is the place of a socket in the directory dir. It fits into sun_path however deep dir lies, if file is short.
func address(dir *os.File, file string) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), file)}
}

// Listen makes a listening socket, to which everybody who reaches file (of at most 80 bytes) in dir can connect. It blocks, as a
// program that finds it expects, and is close-on-exec and the caller's.
func Listen(dir *os.File, file string, t Type) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, t.kernel()|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	at := address(dir, file)
	if err = unix.Bind(fd, at); err == nil {
		if err = unix.Chmod(at.Name, 0o666); err == nil { // whatever the umask is
			err = unix.Listen(fd, backlog)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen at %s/%s: %w", dir.Name(), file, err)
	}
	return fd, nil
}

// Unheard makes a socket file that refuses every connection: nobody listens there.
func Unheard(dir *os.File, file string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	at := address(dir, file)
	if err = unix.Bind(fd, at); err == nil {
		err = unix.Chmod(at.Name, 0o666)
	}
	if err != nil {
		return fmt.Errorf("bind %s/%s: %w", dir.Name(), file, err)
	}
	return nil
}

// ErrBusy is what Dial returns where as many connections wait as may.
var ErrBusy = errors.New("too many connections wait there")

// Dial connects to a socket in a directory, without waiting. The descriptor blocks, and is close-on-exec and the caller's.
func Dial(dir *os.File, file string, t Type) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, t.kernel()|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Connect(fd, address(dir, file)); err == nil {
		if err = unix.SetNonblock(fd, false); err == nil {
			return fd, nil
		}
	}
	unix.Close(fd)
	if err == unix.EAGAIN {
		err = ErrBusy
	}
	return -1, err
}

// Accept takes the next connection that waits at fd, a listening socket that nobody else accepts from meanwhile; ok is false if none
// waits. The connection blocks, and is close-on-exec and the caller's. The socket itself blocks before and after.
func Accept(fd int) (conn int, ok bool, err error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, false, err
	}
	defer unix.SetNonblock(fd, false)
	for {
		switch conn, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC); err {
		case nil:
			return conn, true, nil
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EAGAIN:
			return -1, false, nil
		default:
			return -1, false, err
		}
	}
}

// Connected makes a connected pair of sockets, both blocking and close-on-exec.
func Connected(t Type) (a, b int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, t.kernel()|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("socketpair: %w", err)
	}
	return p[0], p[1], nil
}

// Dup is another descriptor of the same open socket, close-on-exec.
func Dup(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3) }
