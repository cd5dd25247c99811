package supervise

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners/runit/djb"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// A supervisor that was killed leaves its processes behind. The next one takes them over instead of starting a second copy: it
// watches them by pidfd, and gets the pipe between service and log back from a process that still has it.
//
// Which process is meant is in the status, but its number may belong to another one by now, and between fork and the new status
// there is a moment. So before each start the supervisor leaves a mark: what is started, when, and how the status began then. The
// process of the status is the one meant if it began just after the mark; if the status is still that of the mark, the process is
// searched: it began just after the mark in the service's directory.

// tick is the unit of the kernel's start times: 1/USER_HZ, which is 100 everywhere (proc_pid_stat(5)).
const tick = 1e7

// soon is how many ticks after the mark a process can begin, on a machine that has much else to do.
const soon = 500

// A mark is what is left before a start.
type mark struct {
	boot   string // the first digits of the boot's identity: start times are its own
	end    Kind   // RunEnd or FinishEnd, as the process will end
	at     uint64 // ticks since the boot
	status string // the start of the status that was there
}

func (m mark) String() string { return fmt.Sprintf("%s %d %d %s", m.boot, m.end, m.at, m.status) }

func parseMark(s string) (m mark, ok bool) {
	n, _ := fmt.Sscanf(s, "%s %d %d %s", &m.boot, &m.end, &m.at, &m.status)
	return m, n == 4 && (m.end == RunEnd || m.end == FinishEnd)
}

// marked is the part of a status that a mark holds: time and process.
func marked(s servicedir.Status) string {
	b := s.Encode()
	return fmt.Sprintf("%x", b[4:16]) // the first four bytes are those of all times
}

var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(b[:min(8, len(b))])
})

// leaveMark is called before a start. That it can't be written is no reason not to start.
func (h *half) leaveMark(end Kind) {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil && bootID() != "" {
		_ = h.held.Mark(mark{bootID(), end, uint64(now.Nano()) / tick, marked(h.held.Last())}.String())
	}
}

// A process is what of it is in /proc/PID/stat.
type process struct {
	pid, parent int
	started     uint64 // ticks since the boot
}

// look is the process pid, if it is alive.
func look(pid int) (p process, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, false
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // from field 3 on
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return p, false
	}
	p.pid = pid
	p.parent, _ = strconv.Atoi(f[1])
	p.started, err = strconv.ParseUint(f[19], 10, 64)
	return p, err == nil
}

func (m mark) fits(p process) bool { return p.started+1 >= m.at && p.started <= m.at+soon }

// isIn says whether the working directory of p is h's.
func (h *half) isIn(p process) bool {
	var here, there unix.Stat_t
	return unix.Fstatat(h.dir, h.name("."), &here, 0) == nil &&
		unix.Stat(fmt.Sprintf("/proc/%d/cwd", p.pid), &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino
}

// survivor is what is left of h's last supervision: a process, and how it will end.
func (h *half) survivor(s servicedir.Status) (p process, end Kind, ok bool) {
	end = RunEnd
	if s.State == servicedir.Finish {
		end = FinishEnd
	}
	m, isMarked := parseMark(h.held.LastMark())
	if !isMarked { // it was another's runsv
		p, ok = look(int(s.PID))
		return p, end, ok && s.PID != 0 && h.isIn(p)
	}
	if m.boot != bootID() {
		return p, end, false
	}
	if m.status != marked(s) {
		p, ok = look(int(s.PID))
		return p, end, ok && s.PID != 0 && m.fits(p)
	}
	var found []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := look(pid); ok && m.fits(p) && h.isIn(p) {
				found = append(found, p)
			}
		}
	}
	for _, p := range found {
		if !slices.ContainsFunc(found, func(q process) bool { return q.pid == p.parent }) {
			return p, m.end, true
		}
	}
	return p, end, false
}

// takeOver makes h's machine go on where the last supervision was killed, if anything of it is left.
func (h *half) takeOver() {
	s, exit, err := h.held.Read()
	if err != nil {
		return
	}
	p, end, ok := h.survivor(s)
	if !ok {
		return
	}
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return
	}
	if again, ok := look(p.pid); !ok || again.started != p.started {
		unix.Close(fd)
		return
	}
	h.process, h.pidfd = adopted{p.pid, fd}, fd
	h.m.Since, h.m.Paused, h.m.Term, h.m.Phase = s.Since, s.Paused, s.Term, Run
	if end == FinishEnd {
		h.m.Phase = Finish
	}
	switch {
	case exit: // this time it isn't to
	case s.Want == 'd':
		h.m.Want = WantDown
	default:
		h.m.Want = WantUp
	}
	h.report(fmt.Sprintf("warning: took over process %d of %s, whose supervisor was killed", p.pid, h.name("./"+s.State.String())))
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
		// Opening anew makes descriptions of our own; they must block, for the log and the service get them.
		r, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		w, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			unix.Close(r)
			continue
		}
		_ = unix.SetNonblock(r, false)
		_ = unix.SetNonblock(w, false)
		return [2]int{r, w}, true
	}
	return pipe, false
}
