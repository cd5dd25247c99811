// Package poll is one epoll(7) loop over many descriptors: one goroutine, no thread of its own (the epoll descriptor itself waits
// in Go's poller), no periodic wakeup, and 24 bytes per descriptor beside the caller's closure.
//
// Callbacks run on the loop's goroutine, one at a time, and must not block. A descriptor stays its caller's: the loop never
// closes it. To close one from another goroutine without racing a callback, do both on the loop:
//
//	loop.Do(func() { loop.Remove(fd); unix.Close(fd) })
package poll

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The events of epoll_ctl(2) that callers need. Hangup and error are always reported, asked for or not.
const (
	In    uint32 = unix.EPOLLIN
	Out   uint32 = unix.EPOLLOUT
	RdHup uint32 = unix.EPOLLRDHUP
	Hup   uint32 = unix.EPOLLHUP
	Err   uint32 = unix.EPOLLERR
	Pri   uint32 = unix.EPOLLPRI
	Edge  uint32 = unix.EPOLLET
)

// A Loop is one epoll loop. Its methods may be called from any goroutine, callbacks included, Close excepted.
type Loop struct {
	file *os.File // the epoll descriptor, nonblocking, in Go's poller
	conn syscall.RawConn
	epfd int
	wake int // eventfd(2): there is something in posted
	done chan struct{}

	mu       sync.Mutex
	closed   bool
	asleep   bool      // the loop looks at posted again only when it is woken
	handlers []handler // by descriptor
	posted   []func()
}

// A handler is what to do for one descriptor. gen tells a descriptor from an earlier one of the same number whose event is
// still in the batch being handled.
type handler struct {
	f   func(uint32)
	gen uint32
}

// New starts a loop. Close ends it.
func New() (*Loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		unix.Close(epfd)
		return nil, fmt.Errorf("epoll nonblock: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epfd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l := &Loop{epfd: epfd, wake: wake, file: os.NewFile(uintptr(epfd), "epoll"), done: make(chan struct{})}
	if l.conn, err = l.file.SyscallConn(); err == nil {
		err = l.Add(wake, In, func(uint32) {
			var b [8]byte
			_, _ = unix.Read(wake, b[:])
		})
	}
	if err != nil {
		l.file.Close()
		unix.Close(wake)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	go l.run()
	return l, nil
}

// Add has f called on the loop whenever one of events (or Hup or Err) is there on fd: as long as it is there, unless events
// contains Edge. f gets the events that are there. Regular files cannot be added (EPERM, epoll_ctl(2)).
func (l *Loop) Add(fd int, events uint32, f func(events uint32)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	if fd < 0 {
		return fmt.Errorf("poll descriptor %d: %w", fd, unix.EBADF)
	}
	if n := fd + 1 - len(l.handlers); n > 0 {
		l.handlers = slices.Grow(l.handlers, n)[:fd+1]
	}
	h := &l.handlers[fd]
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(h.gen + 1)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("poll descriptor %d: %w", fd, err)
	}
	h.f, h.gen = f, h.gen+1
	return nil
}

// Modify changes the events that fd's callback is called for; 0 silences it but for Hup and Err.
func (l *Loop) Modify(fd int, events uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.has(fd) {
		return fmt.Errorf("poll descriptor %d: %w", fd, unix.ENOENT)
	}
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(l.handlers[fd].gen)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_MOD, fd, &ev); err != nil {
		return fmt.Errorf("poll descriptor %d: %w", fd, err)
	}
	return nil
}

// Remove takes fd off the loop: no call of its callback begins after Remove has returned. It must come before fd is closed.
// One that is not there is not an error.
func (l *Loop) Remove(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.has(fd) {
		return
	}
	l.handlers[fd].f = nil
	// Can only fail where the caller closed fd before; then the kernel has removed it.
	_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}

// Do has f called on the loop, after the callback that is running. It reports false, and drops f, when the loop is closed.
func (l *Loop) Do(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.posted = append(l.posted, f)
	if l.asleep {
		l.asleep = false
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		// The counter holds a few at most, since it is read at each turn, so this write cannot be refused.
		_, _ = unix.Write(l.wake, one[:])
	}
	return true
}

// Close ends the loop and waits until no callback runs. Descriptors that are still there are simply no longer watched; what was
// given to Do before Close is still done. It must not be called from a callback.
func (l *Loop) Close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		<-l.done
		return nil
	}
	err := l.file.Close()
	<-l.done
	unix.Close(l.wake)
	return err
}

func (l *Loop) has(fd int) bool {
	return !l.closed && fd >= 0 && fd < len(l.handlers) && l.handlers[fd].f != nil
}

func (l *Loop) run() {
	defer close(l.done)
	events := make([]unix.EpollEvent, 128)
	// The function given to Read is called again each time the epoll descriptor becomes readable, until that is closed. Go's
	// poller watches it edge-triggered, so nothing may be left in it when it returns.
	var failed error
	err := l.conn.Read(func(epfd uintptr) bool {
		for {
			l.runPosted()
			n, err := unix.EpollWait(int(epfd), events, 0)
			switch {
			case err == unix.EINTR:
				continue
			case err != nil:
				failed = err
				return true
			case l.isClosed():
				return true
			case n == 0:
				if l.sleeps() {
					return false
				}
			}
			for _, ev := range events[:n] {
				if f := l.handler(ev); f != nil {
					f(ev.Events)
				}
			}
		}
	})
	if err := cmp.Or(failed, err); err != nil && !l.isClosed() {
		panic("poll: epoll_wait: " + err.Error()) // our descriptor was closed by somebody else
	}
	l.runPosted()
}

// sleeps says that there is nothing left to do, and has the next Do wake the loop.
func (l *Loop) sleeps() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asleep = len(l.posted) == 0
	return l.asleep
}

func (l *Loop) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *Loop) handler(ev unix.EpollEvent) func(uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.has(int(ev.Fd)) || l.handlers[ev.Fd].gen != uint32(ev.Pad) {
		return nil
	}
	return l.handlers[ev.Fd].f
}

// runPosted calls what was posted up to now.
func (l *Loop) runPosted() {
	l.mu.Lock()
	fs := l.posted
	l.posted, l.asleep = nil, false
	l.mu.Unlock()
	for _, f := range fs {
		f()
	}
}
