// Package runsvdir is runsvdir(8): it has each subdirectory of a services directory supervised.
//
// What supervises them depends on the runsv in PATH. Another program, such as runit's own, is started for each. If it is this
// very binary, or there is none, one process supervises them all (keeper.go), a child of runsvdir, so that runsvdir can end and
// leave them running as runit's does.
//
// One goroutine owns the services. What it hears of (signals, changes of directories, ends, the log pipe) comes to it through
// channels; it sleeps while there is nothing, and polls only where inotify(7) is not to be had.
package runsvdir

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/tai64n"
	"github.com/cmgr/cmgr/runners/runit/djb"
)

// The exit codes: told by TERM, by HUP.
const (
	exitTerm  = 0
	exitUsage = 1
	exitFatal = 100
	exitHup   = 111
)

// maxServices is runit's.
const maxServices = 1000

const (
	// pause is the least time from one scan to the next that starts again what has ended.
	pause = time.Second
	// settle is for a directory that somebody makes in place: mkdir, then the files. A service that is started without its run
	// would have to wait a second for the next try.
	settle = 100 * time.Millisecond
	// lookEach is how often a directory that cannot be watched is looked at.
	lookEach = 5 * time.Second
	// dots is after what time a log that tells something gets a dot, so that in the end it tells nothing.
	dots = 15 * time.Minute
)

// Main is the program. It returns when it was told to end.
func Main(args []string, _ io.Reader, _, stderr io.Writer) int {
	rest := args[1:]
	sessions := false
	if len(rest) > 0 && (strings.HasPrefix(rest[0], "-P") || strings.HasPrefix(rest[0], "--")) {
		sessions = rest[0][1] == 'P'
		rest = rest[1:]
	}
	if len(rest) == 0 {
		fmt.Fprintf(stderr, "usage: %s [-P] dir\n\n", args[0])
		return exitUsage
	}
	r := &runsvdir{name: rest[0], stderr: stderr, sessions: sessions}
	if len(rest) > 1 {
		t, why := newTitle(rest[1])
		if t == nil {
			r.warn(why)
			r.warn("log service disabled.")
		} else {
			defer t.close()
			r.title = t
		}
	}
	code, err := r.run()
	if err != nil {
		r.say("fatal", err.Error())
		return exitFatal
	}
	return code
}

type runsvdir struct {
	name     string // of the services directory, as given
	stderr   io.Writer
	sessions bool
	title    *title // nil: none

	wd       int // where we were started
	via      supervisor
	services []*service
	lastID   int

	look    *looker
	scanned time.Time
}

// A service is a directory, whatever its name.
type service struct {
	dev, ino uint64
	id       int
	running  bool
	gone     bool // in the scan that goes on: not seen yet
}

// A supervisor has services supervised.
type supervisor interface {
	// begin is called before the starts of one scan with the open services directory, end after them.
	begin(dir int) error
	end()
	start(s *service, name string) error
	stop(s *service)
	stopAll()
	// ended is the numbers of what has ended since the last call: after SIGCHLD, and when events tells.
	ended() []int
	events() <-chan struct{}
	close()
}

func (r *runsvdir) say(kind, text string) {
	fmt.Fprintf(r.stderr, "runsvdir %s: %s: %s\n", r.name, kind, text)
}

func (r *runsvdir) warn(text string) { r.say("warning", text) }

func (r *runsvdir) warnErr(what string, err error) { r.warn(what + ": " + djb.Text(err)) }

func (r *runsvdir) run() (code int, err error) {
	if r.wd, err = unix.Open(".", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return 0, fmt.Errorf("unable to open current directory: %s", djb.Text(err))
	}
	defer unix.Close(r.wd)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGALRM)
	defer signal.Stop(signals)
	children := make(chan os.Signal, 1) // one that waits stands for all
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	r.via = r.supervisor()
	defer r.via.close()
	r.look = newLooker(r.name)
	defer r.look.close()
	dot := time.NewTimer(dots)
	defer dot.Stop()

	for {
		select {
		case s := <-signals:
			switch s {
			case unix.SIGTERM:
				return exitTerm, nil
			case unix.SIGHUP:
				r.via.stopAll()
				return exitHup, nil
			case unix.SIGALRM:
				r.scan()
				r.forced()
			}
		case c := <-r.look.changes:
			r.look.changed(c)
		case <-children:
			r.collect()
		case <-r.via.events():
			r.collect()
		case <-r.look.timer.C:
			r.scan()
		case b := <-r.title.input():
			r.title.add(b)
			dot.Reset(dots)
		case <-dot.C:
			if r.title.dot() {
				dot.Reset(dots)
			}
		}
	}
}

// collect notes what has ended.
func (r *runsvdir) collect() {
	for _, id := range r.via.ended() {
		if i := slices.IndexFunc(r.services, func(s *service) bool { return s.id == id }); i >= 0 {
			r.services[i].running = false
			r.look.at(r.scanned.Add(pause))
		}
	}
}

// scan starts what has come and what has ended, and stops what has gone.
func (r *runsvdir) scan() {
	r.scanned = time.Now()
	if err := r.look.look(); err != nil {
		r.warnErr(cannotWatch(r.name), err)
	}
	dir, err := unix.Openat(r.wd, r.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		r.warnErr("unable to stat "+r.name, err)
		return
	}
	if err != nil {
		what := "unable to change directory to "
		if unix.Faccessat(r.wd, r.name, unix.X_OK, unix.AT_EACCESS) == nil && err == unix.EACCES {
			what = "unable to open directory "
		}
		r.warnErr(what+r.name, err)
		return
	}
	f := os.NewFile(uintptr(dir), r.name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err == nil {
		err = r.via.begin(dir)
	}
	if err != nil {
		r.warnErr("unable to read directory "+r.name, err)
		r.look.at(r.scanned.Add(pause))
		return
	}
	defer r.via.end()
	for _, s := range r.services {
		s.gone = true
	}
	for _, name := range names {
		if !strings.HasPrefix(name, ".") {
			r.see(dir, name)
		}
	}
	r.services = slices.DeleteFunc(r.services, func(s *service) bool {
		if s.gone && s.running {
			r.via.stop(s)
		}
		return s.gone
	})
}

// see deals with one name in the services directory.
func (r *runsvdir) see(dir int, name string) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, 0); err != nil {
		r.warnErr("unable to stat "+name, err)
		return
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	i := slices.IndexFunc(r.services, func(s *service) bool { return s.ino == st.Ino && s.dev == st.Dev })
	if i < 0 {
		if len(r.services) >= maxServices {
			r.warn("unable to start runsv " + name + ": too many services.")
			return
		}
		i = len(r.services)
		r.services = append(r.services, &service{dev: st.Dev, ino: st.Ino})
	}
	s := r.services[i]
	s.gone = false
	if s.running {
		return
	}
	// A new number: the end of what ran before must not be taken for that of what runs now.
	r.lastID++
	s.id = r.lastID
	if err := r.via.start(s, name); err != nil {
		r.say("fatal", "unable to start runsv "+name+": "+djb.Text(err))
		r.look.at(r.scanned.Add(pause))
		return
	}
	s.running = true
}

// forced tells who sent SIGALRM that its scan is over, as Debian's runsvdir does.
func (r *runsvdir) forced() {
	dir, err := unix.Openat(r.wd, r.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // scan has said so
	}
	defer unix.Close(dir)
	const name = ".forced-rescan"
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err == nil {
		_, err = unix.Write(fd, tai64n.Append(nil, time.Now()))
		unix.Close(fd)
	}
	if err != nil {
		r.warnErr("unable to write "+name, err)
	}
}
