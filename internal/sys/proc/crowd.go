package proc

import (
	"encoding/binary"
	"maps"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// manyChildren is up to how many children the kernel may look through at each end (waitid(2), P_ALL): a tenth of a microsecond
// for each. It is a variable for the tests.
var manyChildren = 256

// A crowd is how the reaper hears of the end of one of many. Each child has a pidfd, in the descriptor table of a thread of its
// own, where it takes no number from anybody (RLIMIT_NOFILE is for each table) and no fork copies it. There they are added to an
// epoll instance, which is waited for where there are the descriptors of those who are told.
//
// Orphans have no pidfd. They are looked for among all children when a SIGCHLD has come, several ends at one look.
type crowd struct {
	epoll, event int           // descriptors; event has the reaper look up
	news         chan struct{} // there is something for the thread to do; closed at the end

	// Under reaper.mu.
	joined  []*Process         // who have no pidfd yet
	watched map[int32]*Process // by pidfd
	left    []int32            // pidfds of those who are reaped
	look    bool               // for orphans
	found   bool               // the last look has found one
	failed  bool               // somebody got no pidfd
}

func newCrowd() (*crowd, error) {
	c := &crowd{event: -1, news: make(chan struct{}, 1), watched: map[int32]*Process{}}
	var err error
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if c.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, c.event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *crowd) close() {
	unix.Close(c.epoll)
	if c.event >= 0 {
		unix.Close(c.event)
	}
}

// crowded says whether there are many children.
func (r *reaper) crowded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.users > 0 && len(r.children) > manyChildren && !r.uncrowdable
}

// join has p watched; with reaper.mu held.
func (c *crowd) join(p *Process) {
	if c != nil {
		c.joined = append(c.joined, p)
		c.tell()
	}
}

// tell has the thread do what there is; with reaper.mu held.
func (c *crowd) tell() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// wake has the reaper look up; with reaper.mu held, and not on a launching thread.
func (c *crowd) wake() {
	if c != nil {
		_, _ = unix.Write(c.event, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// watch reaps until there are few children again, or a crowd can't be watched here. Nobody is lost before or after: waitid finds
// who has ended, and so does a pidfd that is opened then.
func (r *reaper) watch() {
	c, err := newCrowd()
	if err == nil {
		defer c.close()
		ended, listening := make(chan error), make(chan struct{})
		r.mu.Lock()
		r.crowd = c
		c.joined = slices.Collect(maps.Values(r.children))
		c.tell()
		r.mu.Unlock()
		OwnThread(func() { ended <- c.thread(r) })
		over := make(chan struct{})
		go func() {
			c.listen(r, over)
			close(listening)
		}()
		err = c.reap(r)
		r.mu.Lock()
		r.crowd = nil
		close(c.news)
		r.mu.Unlock()
		close(over)
		<-listening
		if terr := <-ended; err == nil {
			err = terr
		}
	}
	if err != nil {
		r.mu.Lock()
		r.uncrowdable = true
		r.mu.Unlock()
	}
}

// reap is the reaper's part, until there are few children.
func (c *crowd) reap(r *reaper) error {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(c.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd < 0 {
				var count [8]byte
				_, _ = unix.Read(c.event, count[:])
			} else {
				c.ended(r, e.Fd)
			}
		}
		r.mu.Lock()
		look, over := c.look, c.failed || r.users == 0 || len(r.children) <= manyChildren/2
		c.look = false
		r.mu.Unlock()
		if look {
			found := r.reapAll()
			r.mu.Lock()
			c.found = found
			r.mu.Unlock()
		}
		if over {
			return nil
		}
	}
}

// reapAll takes all who have ended, and says whether there was an orphan.
func (r *reaper) reapAll() (orphan bool) {
	for {
		pid, err := anyZombie(unix.WNOHANG)
		if err != nil || pid == 0 {
			return orphan
		}
		orphan = r.reap(pid) || orphan
	}
}

// ended takes who has pidfd, if it has ended. One that is traced ends for its parent later (ptrace(2)), of which there is another
// event.
func (c *crowd) ended(r *reaper, pidfd int32) {
	r.mu.Lock()
	p := c.watched[pidfd]
	waits := p != nil && p.exited != nil // not found among all children meanwhile
	r.mu.Unlock()
	if waits {
		r.reap(p.pid)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p != nil && p.exited == nil {
		delete(c.watched, pidfd)
		if c.left = append(c.left, pidfd); len(c.left) >= manyChildren {
			c.tell() // otherwise they wait for the next who joins
		}
	}
}

// thread opens and closes the pidfds. With the thread end its table and all that is in it.
func (c *crowd) thread(r *reaper) error {
	err := privateTable(2, c.epoll, c.event)
	for range c.news {
		r.mu.Lock()
		joined, left := c.joined, c.left
		c.joined, c.left = nil, nil
		r.mu.Unlock()
		for _, fd := range left {
			unix.Close(int(fd))
		}
		for _, p := range joined {
			if err == nil {
				err = c.add(r, p)
			}
		}
		if err != nil {
			r.mu.Lock()
			c.failed = true
			c.wake()
			r.mu.Unlock()
		}
	}
	return err
}

// add opens p's pidfd.
func (c *crowd) add(r *reaper, p *Process) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.exited == nil {
		return nil
	}
	fd, err := unix.PidfdOpen(p.pid, 0) // not reaped before mu is free
	if err != nil {
		return err
	}
	c.watched[int32(fd)] = p
	return unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
}

// lookAgain is how long the next look for orphans waits, if the last one has found none.
const lookAgain = 100 * time.Millisecond

// listen has the reaper look for orphans after a SIGCHLD, until over is closed.
func (c *crowd) listen(r *reaper, over <-chan struct{}) {
	heard := make(chan os.Signal, 1)
	for {
		signal.Notify(heard, unix.SIGCHLD)
		r.mu.Lock()
		c.look = true
		c.wake()
		r.mu.Unlock()
		select {
		case <-heard:
		case <-over:
		}
		signal.Stop(heard) // what comes now is worth no more
		r.mu.Lock()
		pause := lookAgain
		if c.found {
			pause = 0 // who leaves one leaves many
		}
		r.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-over:
			return
		}
		select {
		case <-heard:
		default:
		}
	}
}
