// Package sv is sv(8): it tells how services are and has their supervisors do something. Called by another name than sv it is the
// LSB init script of the service of that name.
//
// What it writes, sends and returns is runit 2.1.2's (reference: runit.md §4, runit's sv.c), `check` and the LSB codes 2.3.0's;
// runners/runit/DIFFERENCES.md tells where it differs.
package sv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/djb"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// The exit codes, besides the number of services with trouble.
const (
	exitMost     = 99
	exitUsage    = 100
	exitUsageLSB = 2
	exitDown     = 3 // LSB status
	exitUnknown  = 4
	exitFatal    = 100
	exitFatalLSB = 151
)

const (
	defaultWait = 7
	// again is how long the status is waited for at most before it is looked at once more, since a check script may have changed
	// its mind, and not all that changes can be watched.
	again = 420 * time.Millisecond
)

// defaultDirs is where services are found without SVDIR: Debian's, Void's and upstream's directory, the first that is there.
var defaultDirs = []string{"/etc/service/", "/var/service/", "/service/"}

// A call is one call of sv.
type call struct {
	stdout   *bufio.Writer // flushed before a wait
	stderr   io.Writer
	lsb      bool
	home     int    // the working directory at the start
	dir      string // SVDIR
	start    time.Time
	deadline time.Time
	late     bool // the deadline was over when this look at the services began
	order    order
	trouble  int // how many services had any
}

// Main is the program. It changes the working directory of the process, and back.
func Main(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	name := path.Base(args[0])
	c := &call{stdout: bufio.NewWriter(stdout), stderr: stderr, lsb: name != "sv", start: time.Now()}
	var ok bool
	if c.dir, ok = os.LookupEnv("SVDIR"); !ok {
		c.dir = defaultDir()
	}
	wait, verbose := uint64(defaultWait), false
	if s, ok := os.LookupEnv("SVWAIT"); ok {
		wait, _ = djb.ScanUint(s)
	}
	o := djb.Options{Spec: "w:vV", Name: name, Stderr: stderr, Words: args[1:]}
	for opt := o.Next(); opt != 0; opt = o.Next() {
		switch opt {
		case 'w':
			wait, _ = djb.ScanUint(o.Arg)
			verbose = true
		case 'v':
			verbose = true
		default:
			if opt == 'V' {
				fmt.Fprintln(stderr, "$Id: cmgr $")
			}
			return c.usage(name)
		}
	}
	if len(o.Words) == 0 {
		return c.usage(name)
	}
	services := o.Words[1:]
	if c.lsb {
		services = []string{name}
	}
	if c.order, ok = orderOf(o.Words[0], c.lsb); !ok || len(services) == 0 {
		return c.usage(name)
	}
	c.order.wait = c.order.wait || verbose
	c.deadline = c.start.Add(max(again, time.Duration(min(wait, 1<<32))*time.Second)) // runit looks twice at least

	var err error
	if c.home, err = unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return c.fatal("unable to open current directory", err)
	}
	defer unix.Close(c.home)
	defer unix.Fchdir(c.home)
	defer c.stdout.Flush()
	return c.run(services)
}

func defaultDir() string {
	for _, dir := range defaultDirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return defaultDirs[0]
}

// run does the order for each service, then waits for all.
func (c *call) run(services []string) int {
	pending := make([]string, 0, len(services))
	var known []string
	if c.order.status && !c.lsb {
		known = c.statuses(services)
	}
	for i, name := range services {
		if known != nil && known[i] != "" {
			c.say(known[i])
		} else if err := c.enter(name); err != nil {
			c.say(c.lost(name, err))
		} else if c.order.status {
			if code := c.status(name); c.lsb && code >= 0 {
				return code
			}
		} else if c.send(name, c.order.commands) {
			pending = append(pending, name)
		}
	}
	if c.order.wait && !c.order.status {
		c.await(pending)
	}
	return min(c.trouble, exitMost)
}

// await waits for the services and prints what became of them, in rounds as runit does: those of a round in their order.
func (c *call) await(services []string) {
	w := newWatcher()
	defer w.close()
	c.stdout.Flush()
	looked := false
	for left := len(services); left > 0; {
		results := make([]string, len(services))
		round := time.Now()
		if looked { // what is so already is told at once
			round = round.Add(again)
		}
		for {
			if looked {
				w.wait(max(0, min(time.Until(round), time.Until(c.deadline))))
			}
			// As under runit the first look finds nothing too late, however long it takes, and each treats all services alike.
			c.late = looked && !time.Now().Before(c.deadline)
			looked = true
			for i, name := range services {
				if name == "" {
					continue
				}
				if err := c.enter(name); err != nil {
					results[i] = c.lost(name, err)
				} else {
					w.add(name)
					results[i] = c.settled(name)
				}
				if results[i] != "" {
					services[i] = ""
					left--
				}
			}
			if left == 0 || c.late || !time.Now().Before(round) {
				break
			}
		}
		for _, line := range results {
			if line != "" {
				c.say(line)
			}
		}
		c.stdout.Flush()
	}
}

// enter changes to the service's directory: below SVDIR, unless its name begins or ends like a path.
func (c *call) enter(name string) error {
	path := name
	if inDir(name) {
		if c.dir == "" {
			return unix.ENOENT
		}
		path = c.dir + "/" + name
	}
	if !strings.HasPrefix(path, "/") {
		if err := unix.Fchdir(c.home); err != nil {
			return err
		}
	}
	return unix.Chdir(path)
}

// inDir says whether a service is looked for below SVDIR.
func inDir(name string) bool {
	return name != "" && name[0] != '/' && name[0] != '.' && !strings.HasSuffix(name, "/")
}

// status prints how the service is whose directory this is, and its log, and returns the code of LSB; -1: that of sv.
func (c *call) status(name string) int {
	s, err := servicedir.Read(unix.AT_FDCWD, "")
	if err != nil {
		c.say(c.absent(name, err))
		if errors.Is(err, servicedir.ErrNotRunning) {
			return -1
		}
		return exitUnknown
	}
	line := c.describe(name, name, s)
	if err := unix.Chdir("log"); err == nil {
		if log, err := servicedir.Read(unix.AT_FDCWD, ""); err == nil {
			line += "; " + c.describe(name+"/log", "log", log)
		} else {
			line += "; " + c.absent(name+"/log", err)
		}
	} else if err != unix.ENOENT {
		c.trouble++
		line += fmt.Sprintf("; warning: %s/log: unable to change directory: %s", name, djb.Text(err))
	}
	c.say(line)
	if s.PID == 0 {
		return exitDown
	}
	return 0
}

// describe is s in words, as what is called shown, for the service whose directory this is.
func (c *call) describe(name, shown string, s servicedir.Status) string {
	down, err := isDown(unix.AT_FDCWD, "")
	if err != nil {
		fmt.Fprintf(c.stderr, "warning: unable to stat %s/down: %s\n", name, djb.Text(err))
		return ""
	}
	return inWords(shown, s, down)
}

// isDown says whether the service in dir, at prefix, is one that is normally down.
func isDown(dir int, prefix string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, prefix+"down", &st, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil, err
}

func inWords(shown string, s servicedir.Status, down bool) string {
	alive := s.PID != 0
	var b strings.Builder
	if s.State <= servicedir.Finish {
		b.WriteString(s.State.String() + ": ")
	}
	b.WriteString(shown + ": ")
	if s.State != servicedir.Down {
		b.WriteString("(pid " + strconv.FormatUint(uint64(s.PID), 10) + ") ")
	}
	b.WriteString(strconv.FormatInt(max(0, time.Now().Unix()-s.Since.Unix()), 10) + "s")
	for _, note := range []struct {
		is   bool
		text string
	}{
		{alive && down, "normally down"},
		{!alive && !down, "normally up"},
		{alive && s.Paused, "paused"},
		{!alive && s.Want == 'u', "want up"},
		{alive && s.Want == 'd', "want down"},
		{alive && s.Term, "got TERM"},
	} {
		if note.is {
			b.WriteString(", " + note.text)
		}
	}
	return b.String()
}

// send sends commands to the service whose directory this is. It reports whether it may be waited for.
func (c *call) send(name, commands string) bool {
	_, err := servicedir.Read(unix.AT_FDCWD, "")
	if err == nil && commands != "" {
		err = servicedir.Control(unix.AT_FDCWD, commands)
	}
	if err != nil {
		c.say(c.absent(name, err))
	}
	return err == nil
}

// settled is what became of the service whose directory this is; "": it must be waited for.
func (c *call) settled(name string) string {
	s, err := servicedir.Read(unix.AT_FDCWD, "")
	switch {
	case err != nil:
		return c.absent(name, err)
	case c.done(name, s):
		return "ok: " + c.describe(name, name, s)
	case !c.late:
		return ""
	}
	c.trouble++
	if !c.order.kill {
		return "timeout: " + c.describe(name, name, s)
	}
	line := "kill: " + c.describe(name, name, s)
	c.send(name, "k")
	return line
}

// absent is what is said about a service without status. When it was to exit that is no trouble.
func (c *call) absent(name string, err error) string {
	word := "warning"
	if errors.Is(err, servicedir.ErrNotRunning) {
		if word = "fail"; c.order.exits() {
			return "ok: " + name + ": " + err.Error()
		}
	}
	c.trouble++
	return word + ": " + name + ": " + err.Error()
}

func (c *call) say(line string) { c.stdout.WriteString(line + "\n") }

// lost is what is said about a service whose directory cannot be entered.
func (c *call) lost(name string, err error) string {
	c.trouble++
	return "fail: " + name + ": unable to change to service directory: " + djb.Text(err)
}

func (c *call) usage(name string) int {
	if c.lsb {
		fmt.Fprintf(c.stderr, "usage: %s [-w sec] command\n\n", name)
		return exitUsageLSB
	}
	fmt.Fprintf(c.stderr, "usage: %s [-v] [-w sec] command service ...\n\n", name)
	return exitUsage
}

func (c *call) fatal(what string, err error) int {
	fmt.Fprintf(c.stderr, "fatal: %s: %s\n", what, djb.Text(err))
	if c.lsb {
		return exitFatalLSB
	}
	return exitFatal
}
