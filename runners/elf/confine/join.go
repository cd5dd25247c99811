package confine

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/proc"
)

// Join is World for a program that is to be in the very world that the process pid is in, which has the same contents: it sees
// the same files and processes. What that process may not, it may not either.
func (c *Confiner) Join(pid int, in Contents, file, dir string) (w *proc.World, release func(), err error) {
	var opened []int
	release = func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if c.landlock < landlockScopes {
		// A new process shares this one's memory until it executes its program (CLONE_VM), and what is there could open that.
		return nil, nil, errors.New("what runs there could reach this process (Landlock of Linux 6.12 prevents it)")
	}
	open := func(namespace string) int {
		fd, oerr := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, namespace), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if oerr != nil {
			err = errors.Join(err, fmt.Errorf("the world of process %d: %w", pid, oerr))
			return -1
		}
		opened = append(opened, fd)
		return fd
	}
	mnt, pids, ipc := open("mnt"), open("pid"), open("ipc")
	if err != nil {
		return nil, nil, err
	}
	b := builder{w: &proc.World{Path: file, Dir: dir}}
	b.enter("enter IPC namespace", "", unix.SYS_SETNS, b.file(ipc), proc.Int(unix.CLONE_NEWIPC))
	b.enter("enter mount namespace", "", unix.SYS_SETNS, b.file(mnt), proc.Int(unix.CLONE_NEWNS))
	keep, err := capabilities(in.Grants.Capabilities)
	if err != nil {
		return nil, nil, err
	}
	if err := c.finish(&b, in, keep); err != nil {
		return nil, nil, err
	}
	// A PID namespace is its children's, so a thread that is good for nothing else enters it.
	base := &proc.Base{Once: true}
	if b.w.Base != nil {
		base.Steps, base.Files = slices.Clone(b.w.Base.Steps), slices.Clone(b.w.Base.Files)
	}
	base.Files = append(base.Files, pids)
	base.Steps = append(base.Steps, proc.Step{
		Op: "enter PID namespace", Trap: unix.SYS_SETNS,
		Args: []proc.Arg{proc.File(len(base.Files) - 1), proc.Int(unix.CLONE_NEWPID)},
	})
	b.w.Base = base
	return b.w, release, nil
}
