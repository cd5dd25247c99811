// Package fdthread is an epoll(7) loop on an OS thread that has a table of descriptors of its own (CLONE_FILES undone by
// close_range(2)). What the loop holds counts neither against the process's own table nor is it copied when another thread
// forks, which is what descriptors by the thousand cost most (a fork copies the whole table).
//
// On the thread a number means another file than everywhere else. Functions that run there (Post's and Handler's) must not
// touch an os.File, a net.Conn or a descriptor number from outside, must not call code that may (a logger), and must give no
// number away; path names, memory, channels and the system calls of package syscall are fine. Of package os nothing that opens
// or looks at files, either: in tests it has a log of that, which is a file.
//
// Go's runtime itself may use its poller from any thread (netpollBreak when a timer is set, netpoll when a garbage collection
// ends) and kills the process where that fails. So the runtime's own epoll and eventfd descriptors keep their numbers in the new
// table; everything else is closed there, except that standard error stays for the runtime's last words.
package fdthread

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/sock"
)

// A Handler gets what happens to watched descriptors. Its methods run on the thread.
type Handler interface {
	// Ready is called for each watched descriptor that can be read or has hung up, again as long as it is.
	Ready(fd int)
	// Turn is called after each round of Ready and posted functions, and returns how long the loop may sleep if nothing
	// happens: forever if negative. It is then called again.
	Turn() time.Duration
}

// A Thread is a running loop.
type Thread struct {
	handler Handler
	ctl     int // the outer end of the socket that posts travel on; blocking
	done    chan struct{}
	sending sync.Mutex // held where ctl may block: the kernel keeps a thread of who waits there, and Go dies of 10,000 threads

	// Of the thread alone.
	epfd  int
	inner int // the inner end

	mu     sync.Mutex
	closed bool
	posts  map[uint64]func(fds []int) // on their way through the socket
	next   uint64
	users  sync.WaitGroup // of ctl
}

// maxPostFDs is how many descriptors one post may carry.
const maxPostFDs = 4

// Start starts the thread. Close ends it.
func Start(h Handler) (*Thread, error) {
	keep, err := runtimePoller()
	if err != nil {
		return nil, fmt.Errorf("start descriptor thread: %w", err)
	}
	inner, outer, err := sock.Pair()
	if err != nil {
		return nil, fmt.Errorf("start descriptor thread: %w", err)
	}
	t := &Thread{handler: h, ctl: outer, inner: inner, done: make(chan struct{}), posts: map[uint64]func([]int){}}
	up := make(chan error)
	go t.run(up, append(keep, 2, inner))
	err = <-up
	// The thread has its own reference now.
	unix.Close(inner)
	if err != nil {
		unix.Close(outer)
		return nil, fmt.Errorf("start descriptor thread: %w", err)
	}
	return t, nil
}

// Post has f called on the thread, with duplicates of fds (4 at most), which are then f's; the caller keeps its own. f gets none
// where the thread's table is full (RLIMIT_NOFILE). Posts of one goroutine are done in order. An error (the thread is closed)
// means that f will not be called.
func (t *Thread) Post(f func(fds []int), fds ...int) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return os.ErrClosed
	}
	key := t.next
	t.next++
	t.posts[key] = f
	t.users.Add(1)
	t.mu.Unlock()
	defer t.users.Done()
	// This blocks while the socket is full, without the lock, which the thread needs to take from it.
	return t.send(key, fds...)
}

func (t *Thread) send(key uint64, fds ...int) error {
	var msg [8]byte
	binary.NativeEndian.PutUint64(msg[:], key)
	t.sending.Lock()
	err := sock.Send(t.ctl, msg[:], fds...)
	t.sending.Unlock()
	if err != nil {
		t.mu.Lock()
		delete(t.posts, key)
		t.mu.Unlock()
		return fmt.Errorf("send to descriptor thread: %w", err)
	}
	return nil
}

// Close has last called on the thread, after everything that was posted before, and ends the thread. All descriptors that are
// still open there are closed with it. A second Close waits for the first.
func (t *Thread) Close(last func()) {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	t.mu.Unlock()
	if closed {
		<-t.done
		return
	}
	t.users.Wait()
	t.mu.Lock()
	key := t.next
	t.posts[key] = func([]int) { last(); t.epfd = -1 }
	t.mu.Unlock()
	if err := t.send(key); err != nil {
		panic("fdthread: " + err.Error()) // the other end is open as long as the thread runs
	}
	<-t.done
	unix.Close(t.ctl)
}

// Watch has Ready called for fd, a descriptor of the thread. To be called on the thread.
func (t *Thread) Watch(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(t.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// Drop closes fd, a watched descriptor of the thread. To be called on the thread, for the descriptor that Ready was called for
// or from a post: not for another descriptor from Ready, as an event for it may be on the way.
func (t *Thread) Drop(fd int) {
	// close(2) alone leaves it in the epoll set where another table still refers to the same open file.
	_ = unix.EpollCtl(t.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	unix.Close(fd)
}

// Queued is how many bytes can be read from the pipe fd at once. To be called on the thread.
func Queued(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }

func (t *Thread) run(up chan<- error, keep []int) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		t.loop(up, keep)
		return // locked: the runtime ends the thread
	}
	// The main thread's table is what /proc/self and pidfds show, and Go never ends that thread. While this goroutine holds it,
	// another gets another.
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(locked)
		t.loop(up, keep)
	}()
	<-locked
	runtime.UnlockOSThread()
}

func (t *Thread) loop(up chan<- error, keep []int) {
	defer close(t.done)
	slices.Sort(keep)
	last := keep[len(keep)-1]
	if err := unix.CloseRange(uint(last+1), math.MaxUint32, unix.CLOSE_RANGE_UNSHARE); err != nil {
		up <- fmt.Errorf("close_range: %w", err) // the table is still everybody's
		return
	}
	closeBetween(keep)
	defer func() {
		// The thread may outlive done for a moment; its descriptors must not.
		unix.Close(t.inner)
		closeBetween(keep)
		_ = unix.CloseRange(uint(last+1), math.MaxUint32, 0)
	}()

	var err error
	if t.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		err = t.Watch(t.inner)
	}
	up <- err
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 64)
	for epfd := t.epfd; t.epfd == epfd; {
		n, err := unix.EpollWait(epfd, events, milliseconds(t.handler.Turn()))
		if err != nil && err != unix.EINTR {
			panic("fdthread: epoll_wait: " + err.Error())
		}
		// Posts last: they may Drop any descriptor, and its number may come again at once.
		posted := false
		for _, ev := range events[:max(n, 0)] {
			if fd := int(ev.Fd); fd == t.inner {
				posted = true
			} else {
				t.handler.Ready(fd)
			}
		}
		if posted {
			t.takePosts()
		}
	}
}

// takePosts does what is waiting in the socket, but not for ever.
func (t *Thread) takePosts() {
	var msg [8]byte
	for range 64 {
		_, fds, err := sock.Recv(t.inner, msg[:], maxPostFDs)
		if err == unix.EAGAIN {
			return
		}
		// A truncated packet's bytes are there; its descriptors are closed.
		if err != nil && err != sock.ErrTruncated {
			panic("fdthread: " + err.Error())
		}
		key := binary.NativeEndian.Uint64(msg[:])
		t.mu.Lock()
		f := t.posts[key]
		delete(t.posts, key)
		t.mu.Unlock()
		f(fds)
	}
}

func milliseconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int((d + time.Millisecond - 1) / time.Millisecond)
}

// closeBetween closes everything below the last of keep but those in keep, which are sorted.
func closeBetween(keep []int) {
	next := 0
	for _, fd := range keep {
		if fd > next {
			_ = unix.CloseRange(uint(next), uint(fd-1), 0)
		}
		next = fd + 1
	}
}

// runtimePoller is the descriptors of the runtime's own poller: the epoll instance in which a pipe of package os is found, and
// the eventfds that it watches.
func runtimePoller() ([]int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	conn, err := r.SyscallConn()
	if err != nil {
		return nil, err
	}
	var pipe string
	if err := conn.Control(func(fd uintptr) { pipe = strconv.Itoa(int(fd)) }); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		targets := epollTargets(e.Name())
		if !slices.Contains(targets, pipe) {
			continue
		}
		epfd, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		keep := []int{epfd}
		for _, target := range targets {
			if link, _ := os.Readlink("/proc/self/fd/" + target); link == "anon_inode:[eventfd]" {
				fd, err := strconv.Atoi(target)
				if err != nil {
					return nil, err
				}
				keep = append(keep, fd)
			}
		}
		return keep, nil
	}
	return nil, errors.New("the runtime's poller is not to be found in /proc/self/fdinfo")
}

// epollTargets is what the descriptor watches if it is an epoll instance: lines "tfd: N events: …" (proc(5)).
func epollTargets(fd string) (targets []string) {
	info, _ := os.ReadFile("/proc/self/fdinfo/" + fd) // gone again: another goroutine's
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "tfd:" {
			targets = append(targets, f[1])
		}
	}
	return targets
}
