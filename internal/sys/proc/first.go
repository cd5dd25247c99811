package proc

import (
	"cmp"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file is about signals to process no. 1 of a PID namespace, which the kernel drops where they would end any other process.

// killFor kills p in place of sig; with reaper.mu held.
func (p *Process) killFor(sig syscall.Signal) error {
	p.instead = cmp.Or(p.instead, sig)
	return unix.Kill(p.pid, unix.SIGKILL)
}

// followFor is how long a signal that is blocked is followed. Shells and posix_spawn(3) block signals for the time of a fork.
const followFor = 2 * time.Second

// follow looks after a while what became of sig, which p blocked.
func (p *Process) follow(sig syscall.Signal, after time.Duration) {
	time.AfterFunc(after, func() {
		reap.mu.Lock()
		defer reap.mu.Unlock()
		if p.exited == nil {
			return
		}
		switch f := fateOf(p.first, sig); {
		case f.pending && after < followFor:
			p.follow(sig, 2*after)
		case !f.pending && !f.handled && !f.blocked:
			_ = p.killFor(sig) // it ends, if it has not already
		}
	})
}

// ends says whether sig by default ends a process (signal(7)).
func ends(sig syscall.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
		unix.SIGKILL:
		return false
	}
	return true
}

// A fate is what a process does about a signal.
type fate struct {
	handled bool // caught or ignored
	blocked bool // by all of its threads
	pending bool
}

// looked is how many threads and descriptors of a process are looked at: it may have any number.
const looked = 256

// fateOf is the fate of sig in process pid; handled where that can't be read, so that nobody is killed for it.
func fateOf(pid int, sig syscall.Signal) (f fate) {
	in := signalSets("/proc/"+strconv.Itoa(pid)+"/status", sig)
	if in == nil {
		return fate{handled: true}
	}
	f = fate{handled: in["SigIgn"] || in["SigCgt"], blocked: in["SigBlk"], pending: in["ShdPnd"]}
	if !f.handled && f.blocked {
		for _, status := range someOf(pid, "task", "/status") {
			if in := signalSets(status, sig); in != nil {
				f.blocked = f.blocked && in["SigBlk"]
			}
		}
	}
	return f
}

// takes says whether process pid waits for sig, which it blocks: by signalfd(2) or by sigwait(3).
func takes(pid int, sig syscall.Signal) bool {
	for _, info := range someOf(pid, "fdinfo", "") {
		if signalSets(info, sig)["sigmask"] {
			return true
		}
	}
	for _, call := range someOf(pid, "task", "/syscall") {
		b, _ := os.ReadFile(call)
		if n, _, _ := strings.Cut(string(b), " "); n == strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT) {
			return true
		}
	}
	return false
}

// someOf are files of process pid: DIR/*FILE.
func someOf(pid int, dir, file string) []string {
	d, err := os.Open("/proc/" + strconv.Itoa(pid) + "/" + dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(looked) // no more are read
	for i := range names {
		names[i] = d.Name() + "/" + names[i] + file
	}
	return names
}

// glob is filepath.Glob of dir+pattern; path/filepath is what this package does without, as runit's programs do
// (runners/runit/early).
func glob(dir, pattern string) []string {
	files, _ := fs.Glob(os.DirFS(dir), pattern)
	for i := range files {
		files[i] = dir + files[i]
	}
	return files
}

// signalSets says of each set of signals in a file of proc(5) whether sig is in it; nil: it can't be read.
func signalSets(file string, sig syscall.Signal) map[string]bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	in := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		key, set, _ := strings.Cut(line, ":")
		if n, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64); err == nil {
			in[key] = n>>(sig-1)&1 == 1
		}
	}
	return in
}
