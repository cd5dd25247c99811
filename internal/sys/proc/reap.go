package proc

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper is the one that waits for children. It runs while there is an open Launcher or a child.
type reaper struct {
	// launching is held (shared) from a fork until the child is in children, so that the reaper, which meets a process that it
	// doesn't know, can wait until it would know it.
	launching sync.RWMutex

	mu       sync.Mutex
	children map[int]*Process // not yet reaped
	users    int
	ended    chan struct{} // closed at the end of the run; nil: doesn't run

	wake chan struct{} // there may be a child again, or no user any more

	crowd       *crowd // while there are many children, unless:
	uncrowdable bool   // that failed
}

var reap = reaper{children: map[int]*Process{}, wake: make(chan struct{}, 1)}

// A Process is a child of this process, not yet or no longer running.
type Process struct {
	pid    int
	exited func(Status) // nil once reaped; under reaper.mu

	// first, if not 0, says that it is process no. 1 of a PID namespace, and is its number in /proc. instead is the signal that
	// it was killed in place of, if not 0. Both under reaper.mu.
	first   int
	instead syscall.Signal
}

// PID is the process number. It may mean another process once this one has ended.
func (p *Process) PID() int { return p.pid }

// Signal sends sig to p; os.ErrProcessDone says that it has ended. It never reaches another process that got p's number.
//
// As process no. 1 of a PID namespace a program would not end by a signal that it does nothing about (pid_namespaces(7)), as
// everywhere else it would. So it is killed then, and its Status tells of sig. One that blocks sig gets it; if it lets go of it
// without having taken it, where the kernel drops what ends others, it is killed too.
func (p *Process) Signal(sig syscall.Signal) error {
	reap.mu.Lock()
	defer reap.mu.Unlock()
	if p.exited == nil {
		return os.ErrProcessDone
	}
	if p.first == 0 || !ends(sig) {
		return unix.Kill(p.pid, sig)
	}
	switch f := fateOf(p.first, sig); {
	case f.handled:
	case !f.blocked:
		return p.killFor(sig)
	case !takes(p.first, sig):
		p.follow(sig, time.Millisecond)
	}
	return unix.Kill(p.pid, sig)
}

func (r *reaper) acquire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	if r.ended == nil {
		r.ended = make(chan struct{})
		go r.run(r.ended)
	}
}

// release gives back one acquire. The last one waits for the reaper's end, but not for children that go on: those it gives a
// second to end and be reaped.
func (r *reaper) release() {
	ended, last := r.leave()
	if !last {
		return
	}
	r.poke()
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	select {
	case <-ended:
	case <-timeout.C:
	}
}

// leave is release without the wait. It says what the end closes, and whether this was the last one.
func (r *reaper) leave() (ended chan struct{}, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
	r.crowd.wake() // without a user it is over
	return r.ended, r.users == 0
}

func (r *reaper) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// add registers a child that was just started, with launching held. first says that it is no. 1 of a PID namespace.
func (r *reaper) add(pid int, first bool, exited func(Status)) *Process {
	p := &Process{pid: pid, exited: exited}
	if first {
		p.first = pid
	}
	r.mu.Lock()
	r.children[pid] = p
	r.crowd.join(p)
	r.mu.Unlock()
	r.poke()
	return p
}

// replace gives p another function, and reports false when it has been reaped: then the old one has been or is about to be
// called.
func (r *reaper) replace(p *Process, exited func(Status)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.exited == nil {
		return false
	}
	p.exited = exited
	return true
}

// killStrays kills the children that nobody started here, and whatever they leave behind, until there are none: what a keeper
// kept that is no more. It gives up after a second, when something forks faster than that.
func (r *reaper) killStrays() {
	for range 1000 {
		r.launching.Lock() // so that every child that somebody has started is known
		r.mu.Lock()
		pids, _ := childrenOf(os.Getpid())
		strays := 0
		for _, pid := range pids {
			if r.children[pid] == nil {
				_ = unix.Kill(pid, unix.SIGKILL) // not reaped before mu is free
				strays++
			}
		}
		r.mu.Unlock()
		r.launching.Unlock()
		if strays == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *reaper) run(ended chan struct{}) {
	for {
		if r.crowded() {
			r.watch()
		}
		pid, err := anyZombie(0)
		switch err {
		case nil:
			r.reap(pid)
		case unix.EINTR:
		default: // ECHILD. No descendant can come to us either: all of them have an ancestor that is our child.
			r.mu.Lock()
			// Since ECHILD there may have been a start, and after that the last user may have gone.
			over := r.users == 0 && len(r.children) == 0
			if over {
				r.ended = nil
				close(ended)
			}
			r.mu.Unlock()
			if over {
				return
			}
			<-r.wake
		}
	}
}

// reap takes the zombie pid away and tells who started it, or returns true: nobody here. While it is in children it is not
// reaped, so its number is its own.
func (r *reaper) reap(pid int) (orphan bool) {
	exited, st, ok := r.take(pid, false)
	if !ok {
		r.launching.Lock()
		//lint:ignore SA2001 it waits for launches under way, no more
		r.launching.Unlock() //nolint:staticcheck // the same
		exited, st, _ = r.take(pid, true)
	}
	if exited != nil {
		exited(st)
	}
	return exited == nil
}

// take reaps pid if it is known, or in any case if orphan is set.
func (r *reaper) take(pid int, orphan bool) (func(Status), Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.children[pid]
	if p == nil && !orphan {
		return nil, Status{}, false
	}
	var ws unix.WaitStatus
	// ECHILD is possible: ForkExec waits itself for a child that could not exec.
	if got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil); err != nil || got != pid || p == nil {
		return nil, Status{}, true
	}
	delete(r.children, pid)
	exited := p.exited
	p.exited = nil
	st := statusOf(ws)
	if st.Signal == unix.SIGKILL && p.instead != 0 {
		st.Signal = p.instead
	}
	return exited, st, true
}

// anyZombie returns the number of a child that has ended, without reaping it. It blocks until there is one; with WNOHANG in
// options it returns 0 instead.
func anyZombie(options int) (int, error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|options, nil); err != nil {
		return 0, err
	}
	// si_pid is the first member of siginfo_t's union, which has the alignment of a pointer (sigaction(2)).
	word := unsafe.Sizeof(uintptr(0))
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), (12+word-1)/word*word))), nil
}
