// Package proc starts processes and sees their ends: the launcher, one thread that forks and execs, and the reaper, the one
// place of a process that waits for children.
//
// # Launching
//
// fork copies the caller's whole descriptor table, and with thousands of components that copy is the largest cost of a start. So
// one locked OS thread with a descriptor table, umask and working directory of its own does all starts; the few descriptors that
// a program is to get are passed to it in a packet (SCM_RIGHTS, unix(7)). It is never the main thread, it holds no signal
// blocked, and no process asks for its parent's death (PR_SET_PDEATHSIG means the thread's, prctl(2)).
//
// A program starts with exactly the arguments, environment and descriptors of its Spec, as leader of a session of its own
// without a terminal (but for Spec.Inside and Spec.Terminal), with default signal dispositions, an empty signal mask, and the
// umask and directory of its Spec. Its resource limits are those that this program was started with (Go raises its own soft limit
// of open files; the program does not get that), but for Spec.Limits.
//
// A Spec may have a World: system calls that the child makes of itself between the fork and the exec, such as those that put it
// into namespaces. They happen in the child alone (as by vfork(2), in this package's own few lines of assembly), so that no
// thread of this process has to take on what it can't put off.
//
// # Reaping
//
// One goroutine waits for whatever child ends (waitid(2), P_ALL) and hands its status to who started it; orphans come here too
// (PR_SET_CHILD_SUBREAPER) and are reaped. It sleeps in the kernel, or without children on a channel: nothing polls. Of more than
// a few hundred children, through all of which the kernel would look each time, each that was started here gets a pidfd
// (pidfd_open(2)) in another thread's descriptor table, and what is told is independent of how many they are. Therefore
// nothing else in a process that uses this package may wait for children: os/exec's Run and Wait would lose theirs.
//
// Lock order: launching, then mu.
package proc

import (
	"fmt"
	"math"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Status is how a process ended.
type Status struct {
	// Code is what it returned; -1 when a signal ended it, or when nobody can know.
	Code int
	// Signal is what ended it; 0 when it exited.
	Signal syscall.Signal
	// Core says that it left a core dump.
	Core bool
}

func statusOf(ws unix.WaitStatus) Status {
	if ws.Signaled() {
		return Status{Code: -1, Signal: ws.Signal(), Core: ws.CoreDump()}
	}
	return Status{Code: ws.ExitStatus()}
}

// runtimeFDs are the descriptors of Go's own poller. The launcher's private table must have them at the same numbers: Go polls
// on whichever thread ends a stop of the world.
var runtimeFDs []int

func init() {
	// Make Go open its poller now if it has not yet. Whatever is close-on-exec at this moment was opened by this program itself,
	// since its exec closed all others; that needs no /proc, which a process no. 1 may not have yet.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	for fd := 3; fd < 64 || len(runtimeFDs) < 2 && fd < 4096; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC != 0 {
			runtimeFDs = append(runtimeFDs, fd)
		}
	}
	shimMain()
}

// Setup makes the calling process a manager of others, once: descriptors that it inherited (3 and above) are no longer passed
// on, it adopts orphaned descendants, and signals that it was started with as ignored are no longer ignored in its children. A
// program that takes over descriptors from its own starter must have done so before, or simply keep their numbers: they stay
// open.
func Setup() error {
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("set inherited descriptors close-on-exec: %w", err)
	}
	return adopt()
}

// adopt is the part of Setup without which children are not started clean or orphans are lost.
var adopt = sync.OnceValue(func() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	// An ignored signal stays ignored across exec; a caught one goes back to its default. So catch what was ignored, into a
	// channel that nobody reads: for this process nothing changes.
	var ignored []os.Signal
	for s := syscall.Signal(1); s <= 64; s++ {
		// struct sigaction of rt_sigaction(2) begins with the handler; SIG_IGN is 1.
		var act [8]uintptr
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&act)), 8, 0, 0)
		if errno != 0 || act[0] != 1 {
			continue
		}
		if s == 32 || s == 33 {
			// Go leaves these two to the C library and cannot catch them; nothing here sends them.
			act = [8]uintptr{}
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
			continue
		}
		ignored = append(ignored, s)
	}
	if len(ignored) > 0 {
		signal.Notify(make(chan os.Signal, 1), ignored...)
	}
	return nil
})
