package chpst

import (
	"os"
	"os/signal"
	"syscall"
)

// stage tells a process that newNamespace started, by its environment, what it is.
const stage = "CMGR_CHPST"

const (
	stageInit = "init" // process no. 1 of the namespace
	stageProg = "prog" // its child, to become the program
)

// newNamespace runs the program where all that it starts, double-forked daemons too, ends with it: in a PID namespace with a
// small process no. 1, or with asInit as that. Because the program is to be a child of the namespace's first process, chpst
// starts itself again there, and the original remains, passing on signals (SIGQUIT as SIGKILL) and, at the end, the exit code.
func (c *change) newNamespace(args []string, at string, asInit bool) error {
	switch at {
	case "":
		pid, err := c.again(args, stageInit, syscall.CLONE_NEWPID|syscall.CLONE_NEWNS)
		if err != nil {
			return fatal(err, "unable to make namespace")
		}
		os.Exit(await(pid, pid)) //nolint:forbidigo // as exec, which it stands for, it ends the process
	case stageInit:
		if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
			return fatal(err, "pid1: unable to set root mount propagation")
		}
		if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
			return fatal(err, "pid1: unable to mount /proc")
		}
		if !asInit {
			if _, err := c.again(args, stageProg, 0); err != nil {
				return fatal(err, "pid1: unable to fork")
			}
			os.Exit(await(-1, -1)) //nolint:forbidigo // as above
		}
	}
	return nil
}

// again starts this program with the same arguments for the next stage.
func (c *change) again(args []string, stageName string, clone uintptr) (pid int, err error) {
	return syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{
		Env:   append(c.env[:len(c.env):len(c.env)], stage+"="+stageName),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Cloneflags: clone},
	})
}

// await waits for child (-1: for all there are or will be), passing signals on to target (kill(2)), and returns the exit code of
// the one that ended last, as a shell has it.
func await(child, target int) (code int) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	go func() {
		for s := range signals {
			switch s {
			case syscall.SIGCHLD, syscall.SIGURG: // SIGURG is how Go's runtime interrupts its own threads
			case syscall.SIGQUIT:
				if child > 0 {
					s = syscall.SIGKILL
				}
				fallthrough
			default:
				_ = syscall.Kill(target, s.(syscall.Signal)) // it may have ended
			}
		}
	}()
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(child, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil: // ECHILD: that was the last
			return code
		case status.Signaled():
			code = 128 + int(status.Signal())
		default:
			code = status.ExitStatus()
		}
	}
}
