// Package chpst is chpst(8): it changes the state of its process and becomes another program. It knows the options of runit 2.1.2
// (as Debian has it), of 2.2.0 and 2.3.0 (-C, -t), and of the unreleased version after that (-A, -F, -I, -N), and it is envdir,
// envuidgid, pgrphack, setlock, setuidgid or softlimit of daemontools when called so.
//
// The order of the steps is runit's and part of what users rely on: new session, environment, root, directory, niceness, users
// (looked up in the new root), lock (taken as the new user), descriptors, limits, program.
package chpst

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/execve"
	"github.com/cmgr/cmgr/runners/runit/djb"
	"github.com/cmgr/cmgr/runners/runit/ignored"
)

// Exit codes, as runit's and daemontools' programs have them.
const (
	exitUsage = 100
	exitFatal = 111
)

// Names are those under which Main is the program of that name. One "d" before each is allowed.
var Names = []string{"chpst", "envdir", "envuidgid", "pgrphack", "setlock", "setuidgid", "softlimit"}

const usage = " [-vVP012N] [-u user[:group]] [-U user[:group]] [-b argv0] [-e dir] [-/ root] [-C pwd] [-n nice] [-l|-L lock]" +
	" [-m n] [-d n] [-o n] [-p n] [-f n] [-c n] [-r n] [-t n] [-A n] [-F|-I] prog"

// Version is what -V prints.
var Version = "cmgr"

// Main is chpst, or what the last part of args[0] says. It returns only if it fails.
func Main(args []string, _ io.Reader, _, stderr io.Writer) int {
	// Niceness belongs to a thread; it is execve's caller whose is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name := strings.TrimPrefix(args[0][strings.LastIndexByte(args[0], '/')+1:], "d")
	c := &change{stderr: stderr, name: name, env: os.Environ()}
	main := (*change).chpst
	if alias, ok := aliases[name]; ok {
		main = alias
	}
	err := main(c, args)
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		io.WriteString(c.stderr, text+"\n")
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFatal
}

// A usageError is the text that follows "usage: ", without complaint a line of its own.
type usageError string

func (e usageError) Error() string { return "usage: " + string(e) + "\n" }

func fatalf(format string, args ...any) error { return fmt.Errorf("chpst: fatal: "+format, args...) }

// fatal is "chpst: fatal: WHAT: … : ERROR".
func fatal(err error, what ...string) error {
	return fatalf("%s: %s", strings.Join(what, ": "), djb.Text(err))
}

// A change is what is to be done to the process, in part done already.
type change struct {
	stderr io.Writer
	name   string
	env    []string
	limits limits
	alarm  *uint64 // seconds; 0 takes back one that is set
}

func (c *change) chpst(args []string) error {
	var (
		setUser, envUser, argv0, envDir, root, pwd, lock string
		pgrp, wait, null, verbose                        bool
		closes                                           [3]bool
		nice                                             int
	)
	usage := usageError(c.name + usage)
	given := map[byte]bool{} // an argument that is empty is one: -u "$NOTHING" is not to run the program as root
	at := os.Getenv(stage)
	c.setEnv(stage, "", false)
	o := djb.Options{
		Spec: "u:U:b:e:m:d:o:p:f:c:r:t:/:C:n:l:L:A:vP012NFIV",
		Name: args[0], Stderr: c.stderr, Words: args[1:],
	}
	for opt := o.Next(); opt != 0; opt = o.Next() {
		if given['l'] && (opt == 'l' || opt == 'L') {
			return usage
		}
		given[opt] = true
		switch opt {
		case 'u':
			setUser = o.Arg
		case 'U':
			envUser = o.Arg
		case 'b':
			argv0 = o.Arg
		case 'e':
			envDir = o.Arg
		case '/':
			root = o.Arg
		case 'C':
			pwd = o.Arg
		case 'n':
			digits := strings.TrimPrefix(o.Arg, "-")
			if digits == o.Arg {
				digits = strings.TrimPrefix(o.Arg, "+")
			}
			n, rest := djb.ScanUint(digits)
			if rest != "" {
				return usage
			}
			nice = int(min(n, 1000)) // the whole range is 40
			if strings.HasPrefix(o.Arg, "-") {
				nice = -nice
			}
		case 'l', 'L':
			lock, wait = o.Arg, opt == 'l'
			given['l'] = true
		case 'm', 'd', 'o', 'p', 'f', 'c', 'r', 't', 'A':
			n, rest := djb.ScanUint(o.Arg)
			if rest != "" {
				return usage
			}
			switch opt {
			case 'A':
				c.alarm = &n
			case 'm':
				c.limits.memory(n)
			default:
				c.limits.set(chpstLimits[opt], n)
			}
		case 'v':
			verbose = true
		case 'P':
			pgrp = true
		case '0', '1', '2':
			closes[opt-'0'] = true
		case 'N':
			null = true
		case 'F', 'I': // F wins
		case 'V':
			fmt.Fprintln(c.stderr, Version)
			return usage
		default:
			return usage
		}
	}
	prog := o.Words
	if len(prog) == 0 {
		return usage
	}
	if given['F'] || given['I'] {
		if err := c.newNamespace(args, at, !given['F']); err != nil {
			return err
		}
	}
	if pgrp {
		_, _ = syscall.Setsid() // the leader of a group cannot; runit does not mind
	}
	if given['e'] {
		if err := c.envDir(envDir, true, verbose); err != nil {
			return err
		}
	}
	if given['/'] {
		if err := syscall.Chdir(root); err != nil {
			return fatal(err, "unable to change directory", root)
		}
		if err := syscall.Chroot("."); err != nil {
			return fatal(err, "unable to change root directory")
		}
	}
	if given['C'] {
		if err := syscall.Chdir(pwd); err != nil {
			return fatal(err, "unable to change directory", pwd)
		}
	}
	if nice != 0 {
		if err := addNice(nice); err != nil {
			return fatal(err, "unable to set nice level")
		}
	}
	if given['U'] {
		if err := c.envIDs(lookupIDs(envUser)); err != nil {
			return err
		}
	}
	if given['u'] {
		if err := setIDs(lookupIDs(setUser)); err != nil {
			return err
		}
	}
	if given['l'] {
		if err := takeLock(lock, wait); err != nil {
			return err
		}
	}
	for fd, name := range []string{"stdin", "stdout", "stderr"} {
		if closes[fd] {
			if err := c.closeStd(fd, null); err != nil {
				return fatal(err, "unable to close "+name)
			}
		}
	}
	file := prog[0]
	if given['b'] {
		prog = append([]string{argv0}, prog[1:]...)
	}
	return c.exec(file, prog)
}

// addNice is nice(3), for this thread.
func addNice(inc int) error {
	// The system call returns 20 - nice, so that it is never negative.
	n, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	err = syscall.Setpriority(syscall.PRIO_PROCESS, 0, max(-20, min(19, 20-n+inc)))
	if err == syscall.EACCES {
		err = syscall.EPERM // as nice(2) has it
	}
	return err
}

// takeLock opens and locks name; the descriptor stays open for the program: that is the lock.
func takeLock(name string, wait bool) error {
	fd, err := syscall.Open(name, syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_APPEND|syscall.O_CREAT, 0o600)
	if err != nil {
		return fatal(err, "unable to open lock", name)
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		switch err := syscall.Flock(fd, how); err {
		case nil:
			return nil
		case syscall.EINTR:
		default:
			return fatal(err, "unable to lock", name)
		}
	}
}

// closeStd has the program find descriptor fd closed, or open on /dev/null. What is to be said if there is no program goes to the
// old standard error in any case.
func (c *change) closeStd(fd int, null bool) error {
	if fd == 2 {
		if !null {
			_, err := unix.FcntlInt(2, unix.F_SETFD, unix.FD_CLOEXEC)
			return err
		}
		old, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		c.stderr = os.NewFile(uintptr(old), "stderr")
	}
	if !null {
		return syscall.Close(fd)
	}
	n, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return syscall.Dup3(n, fd, 0)
}

// exec becomes file, with argv, searched in the PATH that this program got (not in one of the new environment).
func (c *change) exec(file string, argv []string) error {
	paths := []string{file}
	if !strings.Contains(file, "/") {
		path, ok := os.LookupEnv("PATH")
		if !ok {
			path = "/bin:/usr/bin"
		}
		paths = paths[:0]
		for _, dir := range strings.Split(path, ":") {
			if dir == "" {
				dir = "."
			}
			paths = append(paths, dir+"/"+file)
		}
	}
	ignored.Restore()
	limits, err := c.limits.list()
	if err != nil {
		return err
	}
	if c.alarm != nil {
		it := unix.Itimerval{Value: unix.Timeval{Sec: int64(min(*c.alarm, math.MaxInt32))}}
		if _, err := unix.Setitimer(unix.ITIMER_REAL, it); err != nil {
			return fatal(err, "unable to set alarm")
		}
	}
	p := execve.Program{Paths: paths, Args: argv, Env: c.env, Limits: limits}
	failed := p.Exec()
	if failed.Op == "setrlimit" {
		return fatal(failed.Err, "unable to setrlimit()")
	}
	return fatal(failed.Err, "unable to run", argv[0])
}
