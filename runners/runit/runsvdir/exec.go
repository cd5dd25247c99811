package runsvdir

import (
	"bytes"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// supervisor chooses what supervises the services.
func (r *runsvdir) supervisor() supervisor {
	path, err := lookPath("runsv")
	if err != nil || isUs(path) {
		return newKeeper(r.name, r.sessions)
	}
	return &execs{path: path, sessions: r.sessions, wd: r.wd, pids: map[int]int{}}
}

// lookPath is where a program is found, as an absolute path.
func lookPath(name string) (string, error) {
	found, err := djb.Search(name)
	if err != nil || path.IsAbs(found) {
		return found, err
	}
	wd, err := os.Getwd()
	return path.Join(wd, found), err
}

// isUs tells whether the program path is this binary, or a script that does nothing but run it.
func isUs(path string) bool {
	self, err1 := os.Stat("/proc/self/exe")
	other, err2 := os.Stat(path)
	if err1 != nil || err2 != nil {
		return false
	}
	if os.SameFile(self, other) {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 2)
	if _, err := f.Read(b); err != nil || !bytes.Equal(b, []byte("#!")) {
		return false
	}
	return leadsHere(path)
}

// execs runs a runsv for each service.
type execs struct {
	path     string
	sessions bool
	wd       int         // where runsvdir was started
	pids     map[int]int // service numbers
}

// begin makes the services directory that of this process, for that is where a runsv begins.
func (e *execs) begin(dir int) error { return unix.Fchdir(dir) }

func (e *execs) end() { _ = unix.Fchdir(e.wd) } // it is open

func (e *execs) start(s *service, name string) error {
	pid, err := syscall.ForkExec(e.path, []string{"runsv", name}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: e.sessions},
	})
	if err == nil {
		e.pids[pid] = s.id
	}
	return err
}

func (e *execs) stop(s *service) {
	for pid, id := range e.pids {
		if id == s.id {
			_ = unix.Kill(pid, unix.SIGTERM) // it is our child, not reaped yet
		}
	}
}

func (e *execs) stopAll() {
	for pid := range e.pids {
		_ = unix.Kill(pid, unix.SIGTERM) // as above
	}
}

func (e *execs) events() <-chan struct{} { return nil } // SIGCHLD tells

func (e *execs) ended() (ids []int) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return ids
		}
		if id, ok := e.pids[pid]; ok {
			ids = append(ids, id)
			delete(e.pids, pid)
		}
	}
}

func (e *execs) close() {}
