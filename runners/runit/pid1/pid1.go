// Package pid1 is process no. 1: runit(8), which takes a system through its three stages, and runit-init(8), which asks it to end.
//
//	1  /etc/runit/1, with the console: what has to be done once
//	2  /etc/runit/2, until the system is to go down; or in its place a tree of components, in a manager of its own
//	3  /etc/runit/3: what has to be done in the end; then everything is killed, and the machine powered off or rebooted
//
// Files, signals, words on the console and exit codes are runit's. It is one process that starts few others and forgets the rest:
// what supervises services is another, which may crash and is started again then. Orphans are reaped by internal/sys/proc.
package pid1

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners/runit/djb"
)

const (
	dir        = "/etc/runit/"
	ctrlAltDel = dir + "ctrlaltdel"
	noSync     = dir + "nosync"
)

// TreeEnv is in the environment of the manager that is stage 2.
const TreeEnv = "CMGR_INIT"

const (
	// grace is how long stage 2 may take to end when it is told to.
	grace = 5 * time.Second
	// pause is how long after a crash stage 2 is started again.
	pause = 5 * time.Second
)

// exitFatal is the exit code of what cannot do its work.
const exitFatal = 111

// IsManifest says whether arg names a tree: what takes the place of stage 2.
func IsManifest(arg string) bool {
	return strings.HasSuffix(arg, ".cml") || strings.HasSuffix(arg, ".cm")
}

// Main is runit or, under any other name, runit-init, which as process no. 1 is runit too. The arguments that the kernel hands to
// process no. 1 mean nothing to it (they are words of the boot line), but for those of a tree: if one names a manifest, they are
// all for `cmgr run`.
func Main(args []string, _ io.Reader, _, stderr io.Writer) int {
	switch {
	case os.Getpid() == 1:
		return boot(args[1:])
	case path.Base(args[0]) == "runit":
		fmt.Fprint(stderr, "- runit: fatal: must be run as process no 1.\n")
		return exitFatal
	}
	return ask(args, stderr)
}

// An init is process no. 1.
type initProcess struct {
	launcher *proc.Launcher
	signals  chan os.Signal
	tree     []string // arguments of `cmgr run`; nil: stage 2 is /etc/runit/2
	pressed  int      // how often the tree was told to end
}

func boot(args []string) int {
	// Before anything else: what this program does nothing about would end it, and with it the machine.
	signals := make(chan os.Signal, 64)
	for sig := syscall.Signal(1); sig < 32; sig++ {
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG: // URG is of Go's own use
		default:
			signal.Notify(signals, sig)
		}
	}
	_, _ = unix.Setsid()
	openConsole()
	// Ctrl-Alt-Del is a signal from now on, not a reboot at once. In a PID namespace it is neither.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	p := &initProcess{signals: signals}
	for i, a := range args {
		if IsManifest(a) {
			p.tree = args
			if !path.IsAbs(a) { // the kernel starts it in /
				p.tree[i] = "/" + a
			}
			break
		}
	}
	say("booting.")
	var err error
	for p.launcher == nil {
		if p.launcher, err = proc.Open(); err != nil {
			say("warning: unable to start programs, pausing: " + djb.Text(err))
			time.Sleep(pause)
		}
	}
	return p.stages()
}

// openConsole makes the console standard input, output and error, if there is one.
func openConsole() {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for i := range 3 {
		_ = unix.Dup3(fd, i, 0)
	}
	unix.Close(fd)
}

func say(text string) { fmt.Fprintf(os.Stderr, "- runit: %s\n", text) }

// stages takes the system through its life. It returns only where there is nothing to power off: in a container.
func (p *initProcess) stages() int {
	skip := false
	if p.tree == nil || exists(dir+"1") {
		// In our session: with one of its own, its end would be that of what it leaves in the background.
		st := p.once(dir+"1", &proc.Spec{Path: dir + "1", Inside: true})
		skip = st.Code == 100 || st.Signal != 0
	}
	var last proc.Status
	if skip {
		say("warning: skipping stage 2...")
	} else {
		last = p.two()
	}
	if p.tree == nil || exists(dir+"3") {
		p.once(dir+"3", &proc.Spec{Path: dir + "3"})
	}
	say("sending KILL signal to all processes...")
	_ = unix.Kill(-1, unix.SIGKILL)
	end(p.tree != nil)
	return max(last.Code, 0)
}

// start starts the program of a stage. The error has been told, as runit's child tells it, which then ends as if all was well.
func (p *initProcess) start(name string, s *proc.Spec, ended chan<- proc.Status) *proc.Process {
	s.Env, s.Files = append(os.Environ(), s.Env...), []int{0, 1, 2}
	say("enter stage: " + name)
	process, err := p.launcher.Start(s, func(st proc.Status) { ended <- st })
	if err != nil {
		say("fatal: unable to start child: " + name + ": " + djb.Text(err))
		ended <- proc.Status{}
	}
	return process
}

// once runs a program to its end; nothing else can be asked for meanwhile.
func (p *initProcess) once(name string, s *proc.Spec) proc.Status {
	ended := make(chan proc.Status, 1)
	p.start(name, s, ended)
	warned := name == ctrlAltDel // that is stage 2, and goes on as if a signal had come
	for {
		select {
		case st := <-ended:
			tellEnd(name, st)
			say("leave stage: " + name)
			return st
		case sig := <-p.signals:
			if isAsking(sig) && !warned {
				warned = true
				say("warning: signals only work in stage 2.")
			}
		}
	}
}

func tellEnd(name string, st proc.Status) {
	switch {
	case st.Signal != 0:
		say("warning: child crashed: " + name)
	case st.Code != 0:
		say("warning: child failed: " + name)
	}
}

// isAsking says whether a signal would mean something in stage 2.
func isAsking(sig os.Signal) bool {
	return sig == unix.SIGCONT || sig == unix.SIGINT || sig == unix.SIGPWR
}

// two is stage 2, until the system is to go down.
func (p *initProcess) two() proc.Status {
	name, spec := dir+"2", proc.Spec{Path: dir + "2"}
	if p.tree != nil {
		mountAll()
		name = "cmgr run " + strings.Join(p.tree, " ")
		spec = proc.Spec{
			Path: "/proc/self/exe", Args: append([]string{"cmgr", "run", "--stay"}, p.tree...), Env: []string{TreeEnv + "=1"},
		}
	}
	for {
		s := spec
		ended := make(chan proc.Status, 1)
		process := p.start(name, &s, ended)
		st, down := p.until(process, ended)
		if !down {
			tellEnd(name, st)
		}
		if down || st.Signal == 0 && st.Code != exitFatal {
			say("leave stage: " + name)
			return st
		}
		say("warning: killing all processes in stage 2...")
		if process != nil {
			_ = unix.Kill(-process.PID(), unix.SIGKILL)
		}
		again := time.After(pause)
		for waiting := true; waiting; {
			select {
			case <-again:
				waiting = false
			case sig := <-p.signals:
				if p.asked(sig) {
					say("leave stage: " + name)
					return st
				}
			}
		}
		say("warning: restarting.")
	}
}

// until waits until stage 2 has ended; down says that it was told to.
func (p *initProcess) until(process *proc.Process, ended <-chan proc.Status) (st proc.Status, down bool) {
	var bound <-chan time.Time
	for {
		select {
		case st := <-ended:
			return st, down
		case <-bound:
			say("warning: stage 2 not terminated, sending sigkill...")
			_ = process.Signal(unix.SIGKILL)
		case sig := <-p.signals:
			switch {
			case !p.asked(sig) || process == nil:
			case p.tree == nil:
				if !down {
					bound = time.After(grace)
					_ = process.Signal(unix.SIGTERM)
				}
				down = true
			default:
				// A tree goes down in order, and its environments say how long that may take. Who asks again doesn't want to wait:
				// the manager then kills what is left. Who asks a third time gets what runit does.
				down = true
				if p.pressed++; p.pressed > 2 {
					say("warning: stage 2 not terminated, sending sigkill...")
					_ = process.Signal(unix.SIGKILL)
				} else {
					_ = process.Signal(unix.SIGTERM)
				}
			}
		}
	}
}

// asked says whether the system is to go down after sig came in stage 2.
func (p *initProcess) asked(sig os.Signal) bool {
	switch sig {
	case unix.SIGPWR:
		return true
	case unix.SIGTERM:
		return p.tree != nil // how a container is stopped
	case unix.SIGINT:
		switch {
		case executable(ctrlAltDel):
			say("ctrl-alt-del request...")
			p.once(ctrlAltDel, &proc.Spec{Path: ctrlAltDel})
		case p.tree != nil && !exists(ctrlAltDel):
			say("ctrl-alt-del request...")
			return mark(flag("reboot"), 0o100) == nil
		default:
			return false
		}
	case unix.SIGCONT:
	default:
		return false
	}
	stop := flag("stopit")
	if !executable(stop) {
		return false
	}
	_ = os.Chmod(stop, 0)
	return true
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// executable says whether path has the execute bit of its owner, which is a message here: not whether it could be executed.
func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&0o100 != 0
}

// flag is the file of that name that says what is to be done: in /run, as Debian has them, or in /etc/runit, where the original
// and Void Linux (as links) have them, if one is there.
func flag(name string) string {
	if path := "/run/runit." + name; exists(path) || !exists(dir+name) {
		return path
	}
	return dir + name
}

// mark makes path if need be, and its mode the message.
func mark(path string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chmod(mode)
}

// AskReboot has process no. 1 reboot once stage 2, which calls it, has ended.
func AskReboot() error { return mark(flag("reboot"), 0o100) }

// ask is runit-init for others than process no. 1: `init 0` powers off, `init 6` reboots.
func ask(args []string, stderr io.Writer) int {
	word := ""
	if len(args) > 1 {
		word = args[1]
	}
	var reboot os.FileMode
	switch word {
	case "0":
	case "6":
		reboot = 0o100
	default:
		fmt.Fprintf(stderr, "usage: %s 0|6\n\n", args[0])
		return 0
	}
	stop, again := flag("stopit"), flag("reboot")
	err := mark(stop, 0o100)
	if err != nil {
		return fatal(stderr, "unable to create "+stop, err)
	}
	if reboot == 0 {
		if err = os.Chmod(again, 0); os.IsNotExist(err) {
			err = nil
		}
	} else {
		err = mark(again, reboot)
	}
	if err != nil {
		return fatal(stderr, "unable to chmod "+again, err)
	}
	if err := unix.Kill(1, unix.SIGCONT); err != nil {
		return fatal(stderr, "unable to signal process no 1", err)
	}
	return 0
}

func fatal(stderr io.Writer, what string, err error) int {
	fmt.Fprintf(stderr, "init: fatal: %s: %s\n", what, djb.Text(err))
	return exitFatal
}

// end ends the machine, or the PID namespace. It returns where that is not allowed, as in most containers.
func end(tree bool) {
	if !exists(noSync) {
		unix.Sync()
	}
	if tree && isHost() && !exists(dir+"3") {
		remountReadOnly()
	}
	how, what := unix.LINUX_REBOOT_CMD_POWER_OFF, "power off..."
	if executable(flag("reboot")) {
		how, what = unix.LINUX_REBOOT_CMD_RESTART, "system reboot."
	}
	say(what)
	err := reboot(how)
	if isHost() {
		// A machine that can't be powered off.
		say("system halt.")
		err = cmp.Or(reboot(unix.LINUX_REBOOT_CMD_HALT), err)
		for isHost() {
			time.Sleep(time.Hour) // the end of process no. 1 would be a panic of the kernel
		}
	}
	if err != unix.EPERM {
		say("warning: unable to end: " + djb.Text(err))
	}
}

// reboot makes the call on a thread of its own, since the kernel ends the one that it is made on.
func reboot(how int) error {
	err := make(chan error, 1)
	go func() { err <- unix.Reboot(how) }()
	select {
	case err := <-err:
		return err
	case <-time.After(time.Minute):
		return unix.ETIMEDOUT
	}
}
