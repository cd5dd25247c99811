package runsvdir

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/runsv"
)

// askTime is how long a script may take to show what it leads to. Tests have it longer.
var askTime = 2 * time.Second

// leadsHere tells whether path, a script named runsv, does nothing but run the runsv of this very binary: then there is no need
// of a process for each service. It is run without a service, which any runsv takes for an error in usage; ours answers with what
// it is and in what state it was started. A script that changes the environment, a limit or the user is not for nothing.
func leadsHere(path string) bool {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return false
	}
	defer r.Close()
	p, err := os.StartProcess(path, []string{"runsv"}, &os.ProcAttr{
		Env: append(os.Environ(), roleEnv+"="+roleAsked), Files: []*os.File{null, w, null},
	})
	w.Close()
	if err != nil {
		return false
	}
	timeout := time.AfterFunc(askTime, func() {
		_ = p.Kill()                           // it may have ended
		_ = r.SetReadDeadline(time.Unix(1, 0)) // a pipe has deadlines
	})
	out, rerr := io.ReadAll(r)
	end, err := p.Wait()
	timeout.Stop()
	return err == nil && rerr == nil && end.Success() && string(out) == state()
}

// Runsv is runsv.Main that also answers leadsHere, and is the keeper.
func Runsv(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	switch role := os.Getenv(roleEnv); {
	case role == roleAsked && len(args) == 1:
		io.WriteString(stdout, state())
		return 0
	case role != "" && role != roleAsked:
		return keep(role, stderr)
	}
	return runsv.Main(args, stdin, stdout, stderr)
}

// state is this program and what a service inherits from it, but for the variables that any shell sets.
func state() string {
	var b strings.Builder
	var st syscall.Stat_t
	err := syscall.Stat("/proc/self/exe", &st)
	cwd, _ := syscall.Getwd()
	groups, _ := os.Getgroups()
	nice, _ := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	umask := unix.Umask(0)
	unix.Umask(umask)
	sid, _ := unix.Getsid(0)
	fmt.Fprintln(&b, st.Dev, st.Ino, err, cwd, nice, umask, sid, unix.Getpgrp())
	fmt.Fprintln(&b, os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid(), groups)
	for resource := range 16 {
		var r unix.Rlimit
		_ = unix.Getrlimit(resource, &r)
		fmt.Fprintln(&b, resource, r.Cur, r.Max)
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains([]string{roleEnv, "PWD", "OLDPWD", "SHLVL", "_"}, name)
	})
	slices.Sort(env)
	fmt.Fprintf(&b, "%q\n", env)
	return b.String()
}
