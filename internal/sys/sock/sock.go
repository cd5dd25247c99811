// Package sock is packets with descriptors over unix sockets (unix(7)): SOCK_SEQPACKET pairs, SCM_RIGHTS, and who is at the
// other end of a connection.
package sock

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxFDs is how many descriptors one packet can carry (SCM_MAX_FD, unix(7)).
const MaxFDs = 253

// ErrTruncated is what Recv returns for a packet that is longer than its buffer or carries more descriptors than it takes (or
// than this process may still open). The packet is lost and its descriptors are closed.
var ErrTruncated = errors.New("packet truncated")

// Pair makes a connected pair of SOCK_SEQPACKET sockets, both close-on-exec. ours is nonblocking, for an event loop; theirs
// blocks, as a program that finds it expects.
func Pair() (ours, theirs int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("socketpair: %w", err)
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return -1, -1, fmt.Errorf("socketpair: %w", err)
	}
	return p[0], p[1], nil
}

// Send sends one packet with duplicates of fds. On a nonblocking socket it fails with EAGAIN when the peer has not read enough;
// EPIPE says that the peer has closed (SIGPIPE is never raised). A packet is sent whole or not at all.
func Send(fd int, packet []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(fd, packet, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// Recv receives one packet into buf and at most maxFDs descriptors, which are close-on-exec and the caller's. It returns io.EOF
// when the peer has closed; a packet of length zero without descriptors cannot be told from that, so don't send one. On a
// nonblocking socket it fails with EAGAIN when there is none. ErrTruncated: see there.
func Recv(fd int, buf []byte, maxFDs int) (n int, fds []int, err error) {
	var oob []byte
	if maxFDs > 0 {
		oob = make([]byte, unix.CmsgSpace(4*maxFDs))
	}
	var oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, nil, err
	}
	if fds, err = rights(oob[:oobn]); err != nil {
		return 0, nil, err
	}
	// CmsgSpace rounds up, so one more than maxFDs may have fitted.
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(fds) > maxFDs {
		closeAll(fds)
		return 0, nil, ErrTruncated
	}
	if n == 0 && len(fds) == 0 {
		return 0, nil, io.EOF
	}
	return n, fds, nil
}

// rights are the descriptors in a control message.
func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		f, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("control message: %w", err)
		}
		fds = append(fds, f...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// A Peer is who made a connection, as the kernel recorded it at connect (SO_PEERCRED, unix(7)). The process may since have ended.
type Peer struct {
	PID      int
	UID, GID uint32
}

// PeerOf is the peer of a unix connection, such as a *net.UnixConn.
func PeerOf(c syscall.Conn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = cmp.Or(err, cerr); err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	return Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, nil
}

// PeerInGroup says whether the peer of a unix connection was in a group when it connected, be it by its own group or by one of
// its supplementary groups (SO_PEERGROUPS, Linux 4.13; before that only by its own).
func PeerInGroup(c syscall.Conn, gid uint32) (bool, error) {
	p, err := PeerOf(c)
	if err != nil || p.GID == gid {
		return err == nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("peer groups: %w", err)
	}
	groups := make([]uint32, 64)
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		for {
			size := uint32(4 * len(groups))
			_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
			if n := int(size) / 4; errno == unix.ERANGE && n > len(groups) {
				groups = make([]uint32, n)
				continue
			} else if errno == 0 {
				groups = groups[:n]
			}
			return
		}
	})
	switch {
	case err != nil:
		return false, fmt.Errorf("peer groups: %w", err)
	case errno == unix.ENOPROTOOPT:
		return false, nil
	case errno != 0:
		return false, fmt.Errorf("peer groups: %w", errno)
	}
	return slices.Contains(groups, gid), nil
}

// PeerEnded says whether the process that PeerOf names has ended, so that its number may be another's by now: who looks something
// up by the number asks afterwards. Kernels before Linux 6.5 cannot tell; there it is never said.
func PeerEnded(c syscall.Conn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	ended := true
	_ = raw.Control(func(fd uintptr) {
		pidfd, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if err != nil {
			ended = err != unix.ENOPROTOOPT
			return
		}
		ended = unix.PidfdSendSignal(pidfd, 0, nil, 0) == unix.ESRCH
		unix.Close(pidfd)
	})
	return ended
}
