package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners/runit/djb"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// A supervisor that was killed leaves its processes behind. The next one takes them over instead of starting a second copy: it
// watches them by pidfd, and gets the pipe between service and log back from a process that still has it.
//
// Which processes those are stands in supervise/mark, written by the process itself before it executes ./run or ./finish: its
// number, and two times between which it began, by which it is told from another that got its number later. So there is no
// moment at which ./run runs and the mark doesn't say so. Nor is there one at which the next supervisor reads the mark before a
// process that is about to begin has written it: that one holds the mark's lock, which it inherits, until the moment of its exec.

// A mark is what a process leaves of itself.
type mark struct {
	end    Kind   // RunEnd or FinishEnd, as the process will end
	pid    int    // as its supervisor sees it
	before int64  // nanoseconds since the boot, before it began
	after  int64  // the same, after
	boot   string // the boot's identity
}

// The bytes of a mark, numbers in the order of this machine: markMagic, the end (1), 3 zeros, pid (4), before (8), after (8 seconds,
// 8 nanoseconds), boot (bootSize).
const (
	markMagic  = "cmgrrun1"
	markEnd    = 8
	markPID    = 12
	markBefore = 16
	markAfter  = 24
	markBoot   = 40
	bootSize   = 36
	markSize   = markBoot + bootSize
)

func (m mark) encode() []byte {
	b := make([]byte, markSize)
	copy(b, markMagic)
	b[markEnd] = byte(m.end)
	binary.NativeEndian.PutUint32(b[markPID:], uint32(m.pid))
	binary.NativeEndian.PutUint64(b[markBefore:], uint64(m.before))
	binary.NativeEndian.PutUint64(b[markAfter:], uint64(m.after/1e9))
	binary.NativeEndian.PutUint64(b[markAfter+8:], uint64(m.after%1e9))
	copy(b[markBoot:], m.boot)
	return b
}

func decodeMark(b []byte) (m mark, ok bool) {
	if len(b) != markSize || string(b[:len(markMagic)]) != markMagic {
		return m, false
	}
	m.end = Kind(b[markEnd])
	m.pid = int(int32(binary.NativeEndian.Uint32(b[markPID:])))
	m.before = int64(binary.NativeEndian.Uint64(b[markBefore:]))
	m.after = int64(binary.NativeEndian.Uint64(b[markAfter:]))*1e9 + int64(binary.NativeEndian.Uint64(b[markAfter+8:]))
	m.boot = string(b[markBoot:])
	return m, m.pid > 0 && (m.end == RunEnd || m.end == FinishEnd)
}

var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(b[:min(bootSize, len(b))])
})

// sinceBoot is the clock of the kernel's start times.
func sinceBoot() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // it is always there
	return now.Nano()
}

// opMark is the steps by which a process marks itself.
const opMark = "write supervise/mark"

// marking makes spec's process write the mark in the file fd, whose lock it holds until its exec.
func marking(spec *proc.Spec, fd int, end Kind) {
	b := mark{end: end, before: sinceBoot(), boot: bootID()}.encode()
	spec.World = &proc.World{TID: b[markPID : markPID+4], Files: []int{fd}, Seal: []proc.Step{
		{Op: opMark, Trap: unix.SYS_CLOCK_GETTIME, Args: []proc.Arg{proc.Int(unix.CLOCK_BOOTTIME), proc.Pointer(b[markAfter:])}},
		{Op: opMark, Trap: unix.SYS_PWRITE64, Args: []proc.Arg{proc.File(0), proc.Pointer(b), proc.Int(len(b)), proc.Int(0)}},
	}}
}

// startMarked starts spec, and has its process mark itself before. That this can't be is no reason not to start.
func (h *half) startMarked(spec *proc.Spec, end Kind, ended func(proc.Status)) (*proc.Process, error) {
	fd, err := h.held.Mark()
	if err != nil {
		return h.cfg.Launcher.Start(spec, ended)
	}
	defer unix.Close(fd)
	if proc.Worlds {
		marking(spec, fd, end)
		p, err := h.cfg.Launcher.Start(spec, ended)
		e, ok := errors.AsType[*proc.Error](err)
		if !ok || e.Op != opMark && !errors.Is(e, unix.ENOSYS) {
			return p, err
		}
		spec.World = nil
		if e.Op == opMark {
			return h.cfg.Launcher.Start(spec, ended)
		}
	}
	// No worlds on this architecture, or no clone3(2), as in some containers: then there is a moment.
	m := mark{end: end, before: sinceBoot(), boot: bootID()}
	p, err := h.cfg.Launcher.Start(spec, ended)
	if err == nil {
		m.pid, m.after = p.PID(), sinceBoot()
		_, _ = unix.Pwrite(fd, m.encode(), 0)
	}
	return p, err
}

// lastMark is what the last process that was started left. It waits for one that is about to begin.
func (h *half) lastMark() (m mark, ok bool) {
	fd, err := h.held.Mark()
	if err != nil {
		return m, false
	}
	defer unix.Close(fd)
	var b [markSize + 1]byte
	n, _ := unix.Pread(fd, b[:], 0)
	m, ok = decodeMark(b[:max(n, 0)])
	return m, ok && m.boot == bootID()
}

// tick is the unit of the kernel's start times: 1/USER_HZ, which is 100 everywhere (proc_pid_stat(5)).
const tick = 1e7

// startOf is when process pid began, in ticks since the boot.
func startOf(pid int) (ticks int64, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // from field 3 on
	if len(f) < 20 {
		return 0, false
	}
	ticks, err = strconv.ParseInt(f[19], 10, 64)
	return ticks, err == nil
}

// hasEnded says whether the process of a pidfd has; its first thread may have ended before.
func hasEnded(pidfd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// isIn says whether the working directory of process pid is h's.
func (h *half) isIn(pid int) bool {
	var here, there unix.Stat_t
	return unix.Fstatat(h.dir, h.name("."), &here, 0) == nil &&
		unix.Stat(fmt.Sprintf("/proc/%d/cwd", pid), &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino
}

// takeOver makes h's machine go on where the last supervision was killed, if anything of it is left.
func (h *half) takeOver() {
	m, marked := h.lastMark()
	s, exit, err := h.held.Read()
	if err != nil && !marked {
		return
	}
	var since time.Time // of the mark
	if marked {
		since = time.Now().Add(-time.Duration(sinceBoot() - m.after))
	}
	others := !marked || int(s.PID) != m.pid && s.Since.After(since) // another's runsv was last, which leaves no mark
	if others {
		m = mark{end: RunEnd, pid: int(s.PID), after: math.MaxInt64}
		if s.State == servicedir.Finish {
			m.end = FinishEnd
		}
	}
	if m.pid <= 0 {
		return
	}
	// The descriptor first: if the number is still of the process that is meant now, the descriptor is too.
	fd, err := unix.PidfdOpen(m.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return
	}
	start, ok := startOf(m.pid)
	if !ok || start < m.before/tick || start > m.after/tick || others && !h.isIn(m.pid) || hasEnded(fd) {
		unix.Close(fd)
		return
	}
	h.process, h.pidfd, h.unheld = adopted{m.pid, fd}, fd, h.isLog
	h.m.Phase = Run
	path := "./run"
	if m.end == FinishEnd {
		h.m.Phase, path = Finish, "./finish"
	}
	switch {
	case int(s.PID) == m.pid:
		h.m.Since, h.m.Paused, h.m.Term = s.Since, s.Paused, s.Term
	case m.end == FinishEnd && s.State == servicedir.Run:
		h.m.Since = s.Since
	default: // killed before it wrote the status
		h.m.Since = since
	}
	switch {
	case exit || s.Want == 0: // this time it isn't to
	case s.Want == 'd':
		h.m.Want = WantDown
	default:
		h.m.Want = WantUp
	}
	h.report(fmt.Sprintf("warning: took over process %d of %s, whose supervisor was killed", m.pid, h.name(path)))
}

// watchAdopted has the end of what was taken over told. Nobody but its parent can know how it ended.
func (h *half) watchAdopted() {
	end := RunEnd
	if h.m.Phase == Finish {
		end = FinishEnd
	}
	err := h.cfg.Loop.Add(h.pidfd, poll.In, func(uint32) {
		h.dropAdopted()
		h.ended(end, proc.Status{Code: -1})
	})
	if err != nil {
		h.report("warning: unable to watch process: " + djb.Text(err))
	}
}

func (h *half) dropAdopted() {
	if h.pidfd >= 0 {
		h.cfg.Loop.Remove(h.pidfd)
		unix.Close(h.pidfd)
		h.pidfd = -1
	}
}

// adopted is a process of which this one is not the parent.
type adopted struct{ pid, fd int }

func (a adopted) PID() int { return a.pid }

func (a adopted) Signal(sig syscall.Signal) error { return unix.PidfdSendSignal(a.fd, sig, nil, 0) }

// oldPipe is the pipe to the log that a process which was taken over still has: the log at its standard input, or the service at
// its standard output. What is in it is not lost then.
func (s *Service) oldPipe() (pipe [2]int, ok bool) {
	for _, end := range []struct {
		h  *half
		fd int
	}{{s.log, 0}, {s.main, 1}} {
		if end.h.process == nil {
			continue
		}
		path := fmt.Sprintf("/proc/%d/fd/%d", end.h.process.PID(), end.fd)
		var st unix.Stat_t
		target, _ := os.Readlink(path)
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO || !strings.HasPrefix(target, "pipe:") {
			continue
		}
		if pipe, err := openPipe(path); err == nil {
			return pipe, true
		}
	}
	return pipe, false
}
