// Package svlogd is svlogd(8): it copies lines from its standard input to log directories that rotate by themselves, with
// timestamps, selected by patterns, through processors, and over UDP.
//
// A directory is runit's, file by file: current (mode 0744 once closed cleanly, 0644 while in use or after a crash), old files
// @TAI64N.s, @TAI64N.u while a processor has not finished with one (or as a crash left it), @TAI64N.t while it works, lock, state
// and newstate, config.
//
// It reads whatever is there, up to 64 KiB, and writes that with one write(2) to each directory: while lines come one by one each
// is in the file before the next read, and when they come in floods there is one read and one write for hundreds of them. Runit's
// does a write for each line. One stamp is made for all lines that begin in what one read brought.
//
// What it has read is in a file until it is in the logs, so that a kill -9 has nothing lost or written twice: see journal.
//
// One goroutine does everything, blocking where runit's process would; beside it are one that waits for signals and one for each
// running processor, and both only tell that one.
package svlogd

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/tai64n"
	"github.com/cmgr/cmgr/runners/runit/djb"
)

const usage = " [-ttv] [-r c] [-R abc] [-l len] [-b buflen] dir ..."

const exitFatal = 111

// Version is what -V prints.
var Version = "cmgr"

// Main is svlogd. stdin is a file (an *os.File). It returns the exit code: 0 at the end of the input or after SIGTERM, 111 else.
func Main(args []string, stdin io.Reader, _, stderr io.Writer) int {
	s, names, code := parseArgs(args, stderr)
	if s == nil {
		return code
	}
	in, ok := stdin.(*os.File)
	if !ok {
		return s.fatal("standard input is not a file")
	}
	s.in = int(in.Fd())
	return s.main(names)
}

// A server is one running svlogd.
type server struct {
	stderr  io.Writer
	verbose bool
	stamps  int        // the number of -t, at most 3
	lineMax int        // -l
	bufMin  int        // -b
	table   *[256]byte // what each byte is replaced by; nil: none is

	in   int  // standard input
	pipe bool // it is one, or a socket
	wake int  // eventfd(2) that ends a wait
	wd   int  // the directory we were started in
	udp  int  // socket; -1 while there is none
	dirs []*dir

	term, alarm, hangup atomic.Bool

	journal *journal   // nil: there is none
	found   []*journal // by recover; keep drops them
	buf     []byte     // what is read
	have    int        // bytes of it that are being taken
	count   uint64     // lines of these that have been handed to the directories
	line    line
	before  line // as it was before them
	// stamp is for the lines that begin in the current chunk of input; empty: not made yet.
	stamp []byte
	echo  []byte // for standard error
}

// A line is one whose end has not been read.
type line struct {
	begun bool
	stamp []byte
	head  []byte // its first bytes, as long as there are fewer than lineMax
	long  bool   // head has been handed to the directories, and more follows
}

func (l *line) set(from *line) {
	l.begun, l.long = from.begun, from.long
	l.stamp, l.head = append(l.stamp[:0], from.stamp...), append(l.head[:0], from.head...)
}

func parseArgs(args []string, stderr io.Writer) (s *server, dirs []string, code int) {
	s = &server{stderr: stderr, udp: -1}
	var repl byte
	var chars string
	var lineMax, bufMin uint64
	wrong := func() (*server, []string, int) {
		io.WriteString(stderr, "usage: "+args[0]+usage+"\n\n")
		return nil, nil, exitFatal
	}
	o := djb.Options{Spec: "R:r:l:b:tvV", Name: args[0], Stderr: stderr, Words: args[1:]}
	for opt := o.Next(); opt != 0; opt = o.Next() {
		switch opt {
		case 'R':
			chars = o.Arg
			if repl == 0 {
				repl = '_'
			}
		case 'r':
			if len(o.Arg) != 1 {
				return wrong()
			}
			repl = o.Arg[0]
		case 'l':
			lineMax, _ = djb.ScanUint(o.Arg)
		case 'b':
			bufMin, _ = djb.ScanUint(o.Arg)
		case 't':
			s.stamps = min(s.stamps+1, 3)
		case 'v':
			s.verbose = true
		case 'V':
			fmt.Fprintln(stderr, Version)
			return wrong()
		default:
			return wrong()
		}
	}
	if lineMax == 0 {
		lineMax = 1000
	}
	if bufMin == 0 {
		bufMin = 1024
	}
	if len(o.Words) == 0 || bufMin <= lineMax {
		return wrong()
	}
	s.lineMax, s.bufMin = int(min(lineMax, math.MaxInt32)), int(min(bufMin, 1<<24))
	if repl != 0 {
		s.table = replacing(repl, chars)
	}
	return s, o.Words, 0
}

// replacing is the table for -r and -R: what is not printable ASCII, and chars, become repl. Newlines stay.
func replacing(repl byte, chars string) *[256]byte {
	var t [256]byte
	for c := range t {
		t[c] = byte(c)
		if c < 32 || c > 126 {
			t[c] = repl
		}
	}
	for _, c := range []byte(chars) {
		t[c] = repl
	}
	t['\n'] = '\n'
	return &t
}

func (s *server) main(names []string) int {
	var err error
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return s.fatal("unable to make eventfd: " + djb.Text(err))
	}
	defer unix.Close(s.wake)
	if s.wd, err = unix.Open(".", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return s.fatal("unable to open current working directory: " + djb.Text(err))
	}
	defer unix.Close(s.wd)
	defer func() {
		if s.udp >= 0 {
			unix.Close(s.udp)
		}
	}()
	// As runit's; but whoever shares the input with us (a terminal's shell) gets it back as it was.
	if flags, err := unix.FcntlInt(uintptr(s.in), unix.F_GETFL, 0); err == nil && flags&unix.O_NONBLOCK == 0 {
		_ = unix.SetNonblock(s.in, true)
		defer unix.SetNonblock(s.in, false)
	}
	defer s.catch()()

	for _, name := range names {
		s.dirs = append(s.dirs, &dir{s: s, name: name, fd: -1, lock: -1, current: -1})
	}
	_, st := fileOf(s.in)
	s.pipe = st.Mode&unix.S_IFMT == unix.S_IFIFO || st.Mode&unix.S_IFMT == unix.S_IFSOCK
	s.recover()
	if !s.reopen() || !s.copy() {
		return exitFatal
	}
	s.close()
	return 0
}

func (s *server) close() {
	if s.journal != nil { // as long as its directory is ours; all is written
		s.journal.drop()
		s.journal = nil
	}
	for _, d := range s.dirs {
		if d.job != nil {
			d.job.await()
		}
		d.close()
	}
}

// catch has signals noted, until the function that it returns is called.
func (s *server) catch() (stop func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGALRM, unix.SIGHUP)
	var wg sync.WaitGroup
	wg.Go(func() {
		for sig := range signals {
			switch sig {
			case unix.SIGTERM:
				s.info("sigterm received.")
				s.term.Store(true)
			case unix.SIGALRM:
				s.info("sigalarm received.")
				s.alarm.Store(true)
			case unix.SIGHUP:
				s.info("sighangup received.")
				s.hangup.Store(true)
			}
			s.notify()
		}
	})
	return func() {
		signal.Stop(signals)
		close(signals)
		wg.Wait()
	}
}

// notify ends a wait that goes on, or else the next one.
func (s *server) notify() {
	one := [8]byte{1} // any number but 0
	_, _ = unix.Write(s.wake, one[:])
}

// wait waits until there is input (if the caller wants to know), or something was noted, or the time is over (negative: never).
func (s *server) wait(input bool, limit time.Duration) {
	fds := []unix.PollFd{{Fd: int32(s.wake), Events: unix.POLLIN}, {Fd: int32(s.in), Events: unix.POLLIN}}
	if !input {
		fds = fds[:1]
	}
	ms := -1
	if limit >= 0 {
		// Rounded up, so that it is over then.
		ms = int(min((limit+time.Millisecond-1)/time.Millisecond, math.MaxInt32))
	}
	// An error (EINTR) is a reason to look.
	if _, err := unix.Poll(fds, ms); err == nil && fds[0].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(s.wake, b[:])
	}
}

// copy reads until the end of the input, or SIGTERM and the end of a line. It reports false if no directory is left.
func (s *server) copy() bool {
	drained := false // there was nothing to read a moment ago
	for {
		if !s.act() {
			return false
		}
		room := s.buf
		if s.term.Load() {
			if !s.line.begun {
				return true
			}
			room = s.buf[:1] // what follows the newline is the next svlogd's
		}
		if drained {
			s.wait(true, s.untilDue())
			drained = false
			continue
		}
		n, err := s.read(room)
		switch err {
		case nil:
		case unix.EAGAIN:
			drained = true
			continue
		case unix.EINTR:
			continue
		default:
			s.warn("unable to read standard input", djb.Text(err))
		}
		if n <= 0 {
			s.end()
			return true
		}
		s.take(room[:n])
		// A read that brought less than it might has emptied the pipe, most likely. Asking again would be one call more.
		drained = n < len(room)
	}
}

// read reads what there is, of which the journal knows from then on.
func (s *server) read(room []byte) (int, error) {
	if s.journal != nil && s.pipe {
		there, err := unix.IoctlGetUint32(s.in, unix.TIOCINQ)
		if err != nil || there == 0 {
			there = 1 // or the end, or none
		}
		room = room[:min(uint64(there), uint64(len(room)))]
		s.journal.expect(len(room))
	}
	n, err := unix.Read(s.in, room)
	if n > 0 {
		s.have = n
		s.makeStamp()
		s.save()
		if s.journal != nil {
			s.journal.expect(0)
		}
	}
	return n, err
}

// act does what was asked for by signals and what is due. It reports false if no directory is left.
func (s *server) act() bool {
	if s.alarm.Swap(false) {
		for _, d := range s.dirs {
			d.rotate()
		}
	}
	if s.hangup.Swap(false) && !s.reopen() {
		return false
	}
	for _, d := range s.dirs {
		if d.age > 0 && d.fd >= 0 && !time.Now().Before(d.due) {
			d.rotate()
		}
		if d.job != nil {
			d.job.poll()
		}
	}
	return true
}

// untilDue is how long there is nothing to do but what comes from outside; negative: for ever.
func (s *server) untilDue() time.Duration {
	var first time.Time
	sooner := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, d := range s.dirs {
		if d.age > 0 && d.fd >= 0 {
			sooner(d.due)
		}
		if d.job != nil && d.job.done == nil {
			sooner(d.job.retry)
		}
	}
	if first.IsZero() {
		return -1
	}
	return max(0, time.Until(first))
}

// reopen closes the directories that are open and opens all. It reports false, having said so, if there is none.
func (s *server) reopen() bool {
	any := false
	for _, d := range s.dirs {
		d.close()
		any = d.open() || any
	}
	if !any {
		s.fatal("no functional log directories.")
		return false
	}
	s.keep()
	return true
}

// take hands what was read to the directories, and has them write it.
func (s *server) take(b []byte) {
	if s.table != nil {
		for i, c := range b {
			b[i] = s.table[c]
		}
	}
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			s.part(b)
			break
		}
		if !s.line.begun {
			s.makeStamp()
			s.whole(s.stamp, b[:i])
		} else {
			s.part(b[:i])
			s.finish()
		}
		b = b[i+1:]
	}
	s.flush()
	s.have, s.count, s.stamp = 0, 0, s.stamp[:0]
	if s.before.begun = s.line.begun; s.line.begun {
		s.before.set(&s.line)
	}
	for _, d := range s.dirs {
		d.place, d.skip = place{ino: d.ino, start: int64(d.size)}, 0
	}
	s.save()
}

// part adds b, which contains no newline, to the line that is being read.
func (s *server) part(b []byte) {
	l := &s.line
	if !l.begun {
		s.makeStamp()
		l.begun, l.long, l.head = true, false, l.head[:0]
		l.stamp = append(l.stamp[:0], s.stamp...)
	}
	if !l.long {
		n := min(len(b), s.lineMax-len(l.head))
		l.head = append(l.head, b[:n]...)
		if len(l.head) < s.lineMax {
			return
		}
		// That is all that patterns are matched with. The rest of the line goes where they say as it comes.
		b, l.long = b[n:], true
		s.count++
		for _, d := range s.dirs {
			d.begin(l.stamp, l.head)
		}
	}
	for _, d := range s.dirs {
		d.add(b)
	}
}

// finish ends the line that is being read.
func (s *server) finish() {
	l := &s.line
	l.begun = false
	if !l.long {
		s.whole(l.stamp, l.head)
		return
	}
	for _, d := range s.dirs {
		d.add(newline)
	}
}

var newline = []byte("\n")

// whole hands one line without its newline to the directories.
func (s *server) whole(stamp, b []byte) {
	head := b[:min(len(b), s.lineMax)]
	s.count++
	for _, d := range s.dirs {
		if d.begin(stamp, head) {
			d.out = append(append(d.out, b[len(head):]...), '\n')
			if len(d.out) >= maxOut {
				d.flush()
			}
		}
	}
}

// end is the end of the input: a last line without a newline gets one.
func (s *server) end() {
	if s.line.begun {
		s.have = copy(s.buf, newline)
		s.makeStamp()
		s.save()
		s.take(s.buf[:s.have])
	}
}

// flush writes all that is ready to be.
func (s *server) flush() {
	if len(s.echo) > 0 {
		_, _ = s.stderr.Write(s.echo) // there is nobody to tell
		s.echo = s.echo[:0]
	}
	for _, d := range s.dirs {
		d.flush()
	}
}

// makeStamp makes the stamp for lines that begin now.
func (s *server) makeStamp() {
	if s.stamps == 0 || len(s.stamp) > 0 {
		return
	}
	switch now := time.Now().UTC(); s.stamps {
	case 1:
		s.stamp = tai64n.Append(s.stamp, micro(now))
	case 2:
		s.stamp = now.AppendFormat(s.stamp, "2006-01-02_15:04:05.00000")
	case 3:
		s.stamp = now.AppendFormat(s.stamp, "2006-01-02T15:04:05.00000")
	}
	s.stamp = append(s.stamp, ' ')
}

// micro is t as runit's clock gives it: microseconds, and 500 nanoseconds.
func micro(t time.Time) time.Time { return t.Truncate(time.Microsecond).Add(500 * time.Nanosecond) }

// maxStamp is room for any stamp.
const maxStamp = 32

// notSent is what is logged before a line that could not be sent.
var notSent = [4]string{1: "warning: no udp socket available: ", 2: "warning: failure sending through udp: "}

// sendUDP sends a line. It returns the reason, an index of notSent, if it cannot.
func (s *server) sendUDP(to *unix.SockaddrInet4, packet []byte) (why uint64) {
	if s.udp < 0 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return 1
		}
		s.udp = fd
	}
	if err := unix.Sendto(s.udp, packet, 0, to); err != nil {
		return 2
	}
	return 0
}

func (s *server) say(kind, text string) { io.WriteString(s.stderr, "svlogd: "+kind+": "+text+"\n") }

// warn says WHAT: OF[: …].
func (s *server) warn(what string, of ...string) {
	for _, o := range of {
		what += ": " + o
	}
	s.say("warning", what)
}

func (s *server) info(text string) {
	if s.verbose {
		s.say("info", text)
	}
}

func (s *server) fatal(text string) int {
	s.say("fatal", text)
	return exitFatal
}

// must does what cannot be done without: after an error it says so, and does it again each three seconds, for as long as it
// takes. Meanwhile nothing is read, so that nothing is lost.
func (s *server) must(what string, d *dir, f func() error) {
	for {
		err := f()
		if err == nil {
			return
		}
		if err != unix.EINTR {
			s.pause(what, d, err)
		}
	}
}

func (s *server) pause(what string, d *dir, err error) {
	s.say("pausing", what+": "+d.name+": "+djb.Text(err))
	<-time.After(3 * time.Second)
}
