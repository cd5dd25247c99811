package supervise

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners/runit/djb"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// A Config is what services have in common.
type Config struct {
	// Loop is where everything happens, and Launcher starts the processes. Both stay the caller's and must outlive the services.
	Loop     *poll.Loop
	Launcher *proc.Launcher
	Env      []string
	Umask    uint32
	// Inside has the processes stay in this process's session and process group, as runsv does.
	Inside bool
	// Cgroup is the directory of the cgroup v2 that all processes start in; "": this process's own.
	Cgroup string
	// Files are the descriptors 0, 1 and 2 of programs, but for the pipe to the log, as in proc.Spec; nil: this process's.
	Files []int
	// Changed, if not nil, is called after each change of a service (not of its log) as report is: its status, and how its ./run
	// last ended.
	Changed func(now servicedir.Status, last proc.Status)
	// Wait, if not nil, is called in Open where somebody else has the lock of the log: to call lock, which waits for it.
	Wait func(lock func() error) error

	hurry bool // for tests: what is to wait doesn't
}

// A Service is a service directory under supervision, with its log service if it has one.
type Service struct {
	cfg    *Config
	dir    int
	report func(string)
	done   func()
	main   *half
	log    *half  // nil: none
	pipe   [2]int // from the service to its log; -1: closed, or there is none
}

// A half is a service without its log, or the log. All its methods but open are called on the loop.
type half struct {
	*Service
	isLog bool
	held  *servicedir.Held
	fifo  int
	muted bool // the loop doesn't watch the FIFO
	open  bool // others have been shown that there is a supervisor
	hush  bool // what changes while the process goes on is not published

	m       Machine
	process interface { // ./run or ./finish; nil: none
		PID() int
		Signal(syscall.Signal) error
	}
	pidfd  int         // of a process that was taken over; -1: none
	unheld bool        // it is a log that was taken over: its pipe may have come to its end while nobody held it
	status proc.Status // how ./run ended
	timer  *time.Timer
	later  []Event // until the control script has ended
	left   bool
}

// Open takes the service directory path under supervision and begins, unless somebody else supervises it. report is given what a
// user should know, beginning with "warning: " or, where a program could not be started, "fatal: "; done is called once supervision
// has ended: nothing of the service is left then but what has left it. Both are called on the loop, report also before Open
// returns. The error is a *servicedir.Error.
func (c *Config) Open(path string, report func(string), done func()) (*Service, error) {
	s := &Service{cfg: c, dir: -1, report: report, done: done, pipe: [2]int{-1, -1}}
	if err := s.open(path); err != nil {
		s.close()
		return nil, err
	}
	if !c.Loop.Do(s.begin) {
		s.close()
		return nil, &servicedir.Error{Op: "unable to begin", Err: os.ErrClosed}
	}
	return s, nil
}

// open is everything before the first start, in runit's order.
func (s *Service) open(path string) (err error) {
	// By its own name in it, for which one must be allowed to enter it.
	if s.dir, err = unix.Open(path+"/.", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return &servicedir.Error{Op: "unable to change to directory", Err: err}
	}
	s.main = s.half(false)
	var st unix.Stat_t
	switch err := unix.Fstatat(s.dir, "log", &st, 0); {
	case err == unix.ENOENT:
	case err != nil:
		s.report("warning: unable to stat() ./log: : " + djb.Text(err))
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		s.report("warning: ./log: not a directory.")
	default:
		s.log = s.half(true)
	}
	for _, h := range s.halves() {
		if h.held, err = servicedir.Hold(s.dir, h.isLog, s.cfg.Wait); err != nil {
			return err
		}
		h.takeOver()
	}
	if s.log != nil {
		if err := s.makePipe(); err != nil {
			return &servicedir.Error{Op: "unable to create log pipe", Err: err}
		}
	}
	for _, h := range s.halves() {
		if h.fifo, err = h.held.OpenControl(); err != nil {
			return err
		}
		if err := h.held.MakeOK(); err != nil {
			return err
		}
	}
	return nil
}

// makePipe makes the pipe to the log, or finds the old one.
func (s *Service) makePipe() error {
	if pipe, ok := s.oldPipe(); ok {
		s.pipe = pipe
		return nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	var err error
	if s.pipe, err = openPipe(fmt.Sprintf("/proc/self/fd/%d", pipe[0])); err != nil {
		s.pipe = pipe // there is no /proc, nor will there be anything to be taken over
		return nil
	}
	unix.Close(pipe[0])
	unix.Close(pipe[1])
	return nil
}

// openPipe opens both ends of a pipe anew. The service's end can be read, too: so it is not ended by SIGPIPE, and what it has written
// is not lost, where neither this process is there, since it was killed, nor the log, since that is just being started again.
func openPipe(path string) (pipe [2]int, err error) {
	if pipe[0], err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return [2]int{-1, -1}, err
	}
	if pipe[1], err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		unix.Close(pipe[0])
		return [2]int{-1, -1}, err
	}
	return pipe, unix.SetNonblock(pipe[0], false) // it was only for the opening not to wait
}

// halves are the service and its log, if any.
func (s *Service) halves() []*half {
	if s.log == nil {
		return []*half{s.main}
	}
	return []*half{s.main, s.log}
}

func (s *Service) half(log bool) *half {
	h := &half{Service: s, isLog: log, fifo: -1, pidfd: -1, m: Machine{Since: time.Now()}}
	if unix.Faccessat(s.dir, h.name("down"), unix.F_OK, 0) == nil {
		h.m.Want = WantDown
	}
	return h
}

// begin has the log started first, even if the service is down.
func (s *Service) begin() {
	for _, h := range s.halves() {
		if err := s.cfg.Loop.Add(h.fifo, poll.In, func(uint32) { h.read(aTurn) }); err != nil {
			s.report("warning: unable to watch supervise/control: " + djb.Text(err))
		}
		if h.pidfd >= 0 {
			h.watchAdopted()
		}
	}
	if s.log != nil {
		s.log.feed(Event{Kind: Begin})
	}
	s.main.feed(Event{Kind: Begin})
}

// Exit does what TERM does to runsv: ends the service, then its log by closing the pipe, then supervision. What was written to
// the control FIFO before is done before. It returns at once.
func (s *Service) Exit() {
	s.cfg.Loop.Do(func() { s.main.exit() })
}

// lull is how long a service that was told to exit may take for it before others are told that it is about to. Most take less,
// and at a shutdown of a thousand the two files that this saves each are half the work.
const lull = 50 * time.Millisecond

func (h *half) exit() {
	h.hush = true
	h.take(Event{Kind: TERM})
	h.hush = false
	if h.m.Phase == Run && h.process != nil {
		h.timer = time.AfterFunc(lull, func() { h.cfg.Loop.Do(h.publish) })
	} else {
		h.publish()
	}
}

// Over says whether supervision is at its end: done has been called or soon is, whatever comes. It is called on the loop.
func (s *Service) Over() bool { return s.main.left }

// Abandon ends supervision at once and leaves the processes to the caller, who kills them. It is called on the loop, and calls done.
// Where supervision has ended it does nothing.
func (s *Service) Abandon() {
	if s.Over() {
		return
	}
	for _, h := range s.halves() {
		h.process, h.m = nil, Machine{Phase: Gone, Want: WantExit, Since: time.Now()}
		h.publish()
	}
	s.close()
	s.done()
}

// close ends supervision.
func (s *Service) close() {
	s.leave()
	s.closeFiles()
}

// leave has nothing happen any more.
func (s *Service) leave() {
	if s.main == nil {
		return
	}
	for _, h := range s.halves() {
		h.left = true
		if h.timer != nil {
			h.timer.Stop()
		}
		h.dropAdopted()
		if h.held != nil {
			s.cfg.Loop.Remove(h.fifo)
		}
	}
}

func (s *Service) closeFiles() {
	if s.main != nil {
		for _, h := range s.halves() {
			if h.held != nil {
				h.held.Close()
			}
		}
	}
	for _, fd := range append(s.pipe[:], s.dir) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// enders bounds how many services end at once.
var enders = make(chan struct{}, 4)

// end is the end of supervision. What is left to be written and closed is so beside the loop: at a shutdown of a thousand services
// that is most of the work, and there is more than one CPU for it.
func (s *Service) end() {
	s.leave()
	status, exit := s.main.m.Status(0)
	go func() {
		enders <- struct{}{}
		err := s.main.held.Write(status, exit)
		s.closeFiles()
		<-enders
		s.cfg.Loop.Do(func() {
			s.main.published(status, err)
			s.done()
		})
	}()
}

// name is a file's name from the service directory.
func (h *half) name(file string) string {
	if h.isLog {
		return "log/" + file
	}
	return file
}

// aTurn is how many commands are taken at once, so that who floods a FIFO does not keep other services waiting; allThere is more
// than a FIFO holds (pipe(7)).
const (
	aTurn    = 64
	allThere = 1 << 16
)

// read takes commands from the FIFO until it is empty, or one must wait for its control script, but most at most.
func (h *half) read(most int) {
	var b [1]byte
	for ; most > 0 && !h.left; most-- {
		if h.m.Phase == Asking {
			h.muted = h.cfg.Loop.Modify(h.fifo, 0) == nil
			return
		}
		if n, err := unix.Read(h.fifo, b[:]); err == unix.EINTR {
			continue
		} else if n != 1 {
			return
		}
		kind := Kind(strings.IndexByte(commands, b[0]))
		if int(kind) < len(commands) && !(h.isLog && kind == Exit) {
			h.feed(Event{Kind: kind})
		}
	}
}

// take is feed for what is not a command.
func (h *half) take(e Event) {
	if e.Kind == TERM {
		// An `u` that is still in the FIFO, say the last byte of a restart, is older than e and must not undo it.
		h.read(allThere)
	}
	h.feed(e)
}

// feed has e happen.
func (h *half) feed(e Event) {
	if h.left {
		return
	}
	if (e.Kind == RunEnd || e.Kind == FinishEnd) && h.m.Phase != Asking {
		h.process = nil
	}
	for _, f := range h.m.Step(e, time.Now()) {
		h.perform(f, e)
	}
	h.publish()
}

// publish tells others how things are. The first time that is the last step of beginning: ./run has been started by then, if it
// is to be, which saves the files of a state that lasts no time.
func (h *half) publish() {
	if h.left || h.hush && h.process != nil {
		return
	}
	pid := 0
	if h.process != nil {
		pid = h.process.PID()
	}
	status, exit := h.m.Status(pid)
	err := h.held.Write(status, exit)
	if !h.open {
		h.open = true
		if err := h.held.OpenOK(); err != nil {
			h.report("fatal: " + err.Error())
			h.Exit()
		}
	}
	h.published(status, err)
}

// published tells what came of writing status.
func (h *half) published(status servicedir.Status, err error) {
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			h.report("warning: " + line)
		}
	}
	if h.cfg.Changed != nil && !h.isLog {
		h.cfg.Changed(status, h.status)
	}
}

func (h *half) perform(f Effect, e Event) {
	switch f.Act {
	case Later:
		h.later = append(h.later, e)
	case Ask:
		h.ask(f.C)
	case Send:
		if h.process != nil {
			// That it has ended meanwhile is told to us anyway; that it is not ours to signal, runit doesn't tell either.
			_ = h.process.Signal(f.Signal)
		}
	case StartRun:
		h.start(RunEnd, "./run")
	case StartFinish:
		h.start(FinishEnd, "./finish", h.finishArgs()...)
	case SetTimer:
		after := f.After
		if h.cfg.hurry {
			after = 0
		}
		h.timer = time.AfterFunc(after, func() { h.cfg.Loop.Do(func() { h.feed(Event{Kind: Timer}) }) })
	case CloseLog:
		if h.log == nil {
			h.feed(Event{Kind: LogEnd})
			return
		}
		h.publish()
		unix.Close(h.pipe[1])
		h.pipe[1] = -1
		h.log.feed(Event{Kind: Closed})
	case Leave:
		if !h.isLog {
			h.Service.end()
			return
		}
		h.publish()
		h.main.feed(Event{Kind: LogEnd})
	}
}

// finishArgs are how ./run ended, as ./finish is told: the exit code, or -1, and the low byte of wait(2)'s status.
func (h *half) finishArgs() []string {
	status := int(h.status.Signal)
	if h.status.Core {
		status |= 0x80
	}
	return []string{strconv.Itoa(h.status.Code), strconv.Itoa(status)}
}

// start starts path; its end is an event of the kind end.
func (h *half) start(end Kind, path string, args ...string) {
	p, err := h.launch(end, path, args, func(st proc.Status) { h.ended(end, st) })
	if err == nil {
		h.process = p
		return
	}
	if e, ok := errors.AsType[*proc.Error](err); ok && e.Kind == proc.Exhausted {
		h.report("warning: unable to fork, sleeping: " + djb.Text(err))
		h.feed(Event{Kind: NoFork})
		return
	}
	h.report("fatal: unable to start " + h.name(path) + ": " + djb.Text(err))
	h.ended(end, proc.Status{Code: 111})
}

func (h *half) ended(end Kind, st proc.Status) {
	if h.left {
		return // abandoned meanwhile
	}
	e := Event{Kind: end}
	if end == RunEnd {
		h.status = st
		e.AtOnce, h.unheld = h.unheld, false
		if !h.isLog {
			fd, err := unix.Openat(h.dir, "finish", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if e.Finish = err == nil; e.Finish {
				unix.Close(fd)
			}
		}
	}
	h.feed(e)
}

// launch starts a program of the service: RunEnd, FinishEnd, or Answer for a control script. ended is called on the loop.
func (h *half) launch(end Kind, path string, args []string, ended func(proc.Status)) (*proc.Process, error) {
	s := &proc.Spec{
		Path: path, Args: append([]string{path}, args...), Env: h.cfg.Env,
		DirFD: h.dir, Inside: h.cfg.Inside, Umask: &h.cfg.Umask, Files: []int{0, 1, 2},
		Cgroup: h.cfg.Cgroup,
	}
	if h.cfg.Files != nil {
		copy(s.Files, h.cfg.Files)
	}
	switch {
	case h.isLog:
		dir, err := unix.Openat(h.dir, "log", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(dir)
		s.DirFD, s.Files[0] = dir, h.pipe[0]
	case h.pipe[1] >= 0:
		s.Files[1] = h.pipe[1]
	}
	over := func(st proc.Status) { h.cfg.Loop.Do(func() { ended(st) }) }
	if end == Answer {
		return h.cfg.Launcher.Start(s, over)
	}
	return h.startMarked(s, end, over)
}

// ask runs the control script of the command c, if the service has one.
func (h *half) ask(c byte) {
	path := "control/" + string(c)
	if !h.isLog {
		var st unix.Stat_t
		switch err := unix.Fstatat(h.dir, path, &st, 0); {
		case err == nil && st.Mode&unix.S_IXUSR != 0:
			_, err := h.launch(Answer, path, nil, func(st proc.Status) { h.answered(st.Code == 0) })
			if err == nil {
				return
			}
			h.report("fatal: unable to run " + path + ": " + djb.Text(err))
		case err != nil && err != unix.ENOENT:
			h.report("warning: unable to stat " + path + ": " + djb.Text(err))
		}
	}
	h.feed(Event{Kind: Answer})
}

// answered goes on after a control script.
func (h *half) answered(yes bool) {
	h.feed(Event{Kind: Answer, Yes: yes})
	for h.m.Phase != Asking && len(h.later) > 0 {
		e := h.later[0]
		h.later = h.later[1:]
		h.take(e)
	}
	if h.muted && h.m.Phase != Asking && !h.left {
		h.muted = h.cfg.Loop.Modify(h.fifo, poll.In) != nil
	}
}
