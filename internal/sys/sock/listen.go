package sock

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

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
	return listen(dir, file, t, backlog)
}

// ListenOne is Listen for streams with room for one connection: who comes after that waits in connect(2).
func ListenOne(dir *os.File, file string) (fd int, err error) { return listen(dir, file, Stream, 0) }

func listen(dir *os.File, file string, t Type, backlog int) (fd int, err error) {
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

// Accept takes the next connection that waits at fd, a listening socket that nobody else accepts from meanwhile; ok is false if
// none waits. The connection blocks, and is close-on-exec and the caller's. The socket itself blocks before and after.
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

// Listening says whether a socket listens that was bound at a path ending with path, or at its last part alone, in the network
// namespace of the process pid; and of which type it is.
func Listening(pid int, path string) (t Type, ok bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid))
	if err != nil {
		return 0, false, err
	}
	base := path[strings.LastIndexByte(path, '/')+1:]
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.Fields(line) // Num RefCount Protocol Flags Type St Inode Path
		if len(f) < 8 || !strings.HasSuffix(line, path) && f[7] != base {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 32); err != nil || flags&acceptCon == 0 {
			continue
		}
		if f[4] == "0005" {
			return Packets, true, nil
		}
		return Stream, true, nil
	}
	return 0, false, nil
}

// acceptCon is the kernel's __SO_ACCEPTCON.
const acceptCon = 1 << 16
