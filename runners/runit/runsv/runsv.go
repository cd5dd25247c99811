// Package runsv is runsv(8): it supervises one service directory.
package runsv

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
	"github.com/cmgr/cmgr/runners/runit/supervise"
)

// The exit codes.
const (
	exitTold  = 0
	exitUsage = 1
	exitFatal = 111
)

// Main is the program. It makes the service directory the working directory of the process, whose descriptors 0, 1 and 2 the
// service inherits, and returns when it was told to exit and the service and its log have ended.
func Main(args []string, _ io.Reader, _, stderr io.Writer) int {
	if len(args) != 2 {
		fmt.Fprintf(stderr, "usage: %s dir\n\n", args[0])
		return exitUsage
	}
	dir := args[1]
	say := func(what string) { fmt.Fprintf(stderr, "runsv %s: %s\n", dir, what) }
	if err := run(dir, say); err != nil {
		say("fatal: " + err.Error())
		return exitFatal
	}
	return exitTold
}

func run(dir string, say func(string)) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	defer signal.Stop(term)
	// Who reads our messages may have gone; that is no reason to end.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	defer signal.Stop(pipe)

	if err := unix.Chdir(dir); err != nil {
		return &servicedir.Error{Op: "unable to change to directory", Err: err}
	}
	loop, err := poll.New()
	if err != nil {
		return err
	}
	defer loop.Close()
	launcher, err := Launcher()
	if err != nil {
		return err
	}
	defer launcher.Close()

	umask := unix.Umask(0)
	unix.Umask(umask)
	c := &supervise.Config{Loop: loop, Launcher: launcher, Env: os.Environ(), Umask: uint32(umask), Inside: true}
	done := make(chan struct{})
	service, err := c.Open(".", say, func() { close(done) })
	if err != nil {
		return err
	}
	for {
		select {
		case <-term:
			service.Exit()
		case <-done:
			return nil
		}
	}
}

// Launcher opens a launcher without what it does for a manager of many: as with the original, orphans of the service go to process
// no. 1, and it finds hangups and interrupts ignored if we do (nohup).
func Launcher() (*proc.Launcher, error) {
	var ignored []os.Signal
	for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGINT} {
		if signal.Ignored(s) {
			ignored = append(ignored, s)
		}
	}
	l, err := proc.Open()
	if err != nil {
		return nil, err
	}
	if len(ignored) > 0 {
		signal.Ignore(ignored...)
	}
	return l, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
}
