package elf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
)

// What a service directory of runit has beside ./run, a program block has as keys: finish, check and log name programs, as a path
// or as a list with arguments. They are of the component as its main program is, with the same environment, user, limits and
// world, each in a job of its own.

// commands are those keys; nil: there is none.
type commands struct{ finish, check, log []string }

const (
	keyFinish = "finish"
	keyCheck  = "check"
	keyLog    = "log"
)

func (c *commands) any() bool { return c.finish != nil || c.check != nil || c.log != nil }

func parseCommands(b runners.Block) (c commands, errs []error) {
	for i, to := range []*[]string{&c.finish, &c.check, &c.log} {
		key := [...]string{keyFinish, keyCheck, keyLog}[i]
		e, ok := b.Info.Get(key)
		if !ok {
			continue
		}
		var cmd []string
		switch v := e.Value.(type) {
		case manifest.String:
			cmd = []string{string(v)}
		case manifest.Strings:
			cmd = v
		case manifest.Null:
			continue
		}
		switch {
		case len(cmd) == 0 || cmd[0] == "":
			errs = append(errs, b.Errorf(key, "must be the path of a program, or an array of that and its arguments"))
		case slices.ContainsFunc(cmd, func(s string) bool { return strings.ContainsRune(s, 0) }):
			errs = append(errs, b.Errorf(key, "holds a NUL"))
		default:
			*to = cmd
		}
	}
	if s, _, err := b.String("forward_stdout_to"); err == nil && s == "none" && c.log != nil {
		errs = append(errs, b.Errorf(keyLog, `has nothing to read where forward_stdout_to is "none"`))
	}
	return c, errs
}

// A service is one run of a component that has some of them: the main program, and what goes with it. Its end is the main
// program's, then that of finish, then that of the log, which has read everything.
type service struct {
	runners.Ending
	commands
	runner  *Runner
	info    runners.StartInfo // what all programs get; its files are kept for those that are still to come
	main    runners.Program
	pipe    [2]*os.File   // from the main program to its log; nil without one
	closed  chan struct{} // closed when nothing will be written to the pipe any more
	tended  chan struct{} // closed when the log has ended; nil without one
	checked chan struct{} // closed when no check is made any more
	over    chan struct{} // closed when the end has been reported

	// mu guards what follows. It is held for no call to another package.
	mu      sync.Mutex
	beside  map[string]runners.Program // those that run, but for the main one, by key
	ending  bool                       // the main program has ended
	hurried bool                       // a kill was ordered since
}

// startService is Start for a block with commands.
func (r *Runner) startService(ctx context.Context, c commands, info runners.StartInfo) (_ runners.Program, err error) {
	s := &service{
		runner: r, commands: c, info: info, beside: map[string]runners.Program{},
		closed: make(chan struct{}), checked: make(chan struct{}), over: make(chan struct{}),
	}
	s.info.Listeners, s.info.Handles, s.info.Outgoing, s.info.Launched, s.info.BreakOnStart = nil, nil, nil, nil, nil
	launched := sync.OnceFunc(func() {
		if info.Launched != nil {
			info.Launched()
		}
	})
	main := info
	main.Namespace, main.Stdout, main.Stderr, main.Launched = nil, nil, nil, launched
	if s.main, err = s.startMain(ctx, main); err != nil {
		s.giveUp()
		return nil, err
	}
	s.main.(runners.Notifier).OnExit(func(x runners.Exit) { r.wg.Go(func() { s.end(x) }) })
	if c.check != nil {
		launched()
		err = s.awaitCheck(ctx)
	}
	close(s.checked)
	if err == nil {
		return s, nil
	}
	_ = s.Kill(ctx)
	<-s.over
	if err == errEnded {
		x, _ := s.Ended()
		err = &endedEarly{fmt.Errorf("it ended before its check succeeded: %v", x), x}
	}
	if _, ok := errors.AsType[*runners.Error](err); !ok {
		err = failure(&info, err)
	}
	return nil, err
}

// startMain starts the log and the main program. It owns main's files.
func (s *service) startMain(ctx context.Context, main runners.StartInfo) (runners.Program, error) {
	if s.log != nil {
		if err := s.openLog(ctx); err != nil {
			main.Close()
			return nil, err
		}
	}
	own, err := s.shared(s.stdout())
	if err != nil {
		main.Close()
		return nil, failure(&main, err)
	}
	main.Namespace, main.Stdout, main.Stderr = own.Namespace, own.Stdout, own.Stderr
	main.Program.Info = without(main.Program.Info, keyFinish, keyCheck, keyLog)
	return s.runner.Start(ctx, main)
}

// giveUp is the end where there was no main program.
func (s *service) giveUp() {
	s.mu.Lock()
	s.ending, s.hurried = true, true
	log := s.beside[keyLog]
	s.mu.Unlock()
	s.closePipe()
	if log != nil {
		_ = log.Kill(context.Background())
	}
	s.closeLog()
	s.info.Close()
}

func without(d manifest.Dictionary, keys ...string) manifest.Dictionary {
	return slices.DeleteFunc(slices.Clone(d), func(e manifest.Entry) bool { return slices.Contains(keys, e.Key) })
}

// notBeside are the keys that are the main program's alone.
var notBeside = []string{
	keyFinish, keyCheck, keyLog, "binary", "args", "lifecycle.stop_event", "stop_signal", "ready", "main_process_critical",
	"forward_stdout_to",
	healthExec, "health.interval_ms", "health.timeout_ms", "health.retries", "health.start_ms",
}

// stdout is where the main program and finish write.
func (s *service) stdout() *os.File {
	if s.pipe[1] != nil {
		return s.pipe[1]
	}
	return s.info.Stdout
}

// shared is s.info with descriptors of its own, and another standard output.
func (s *service) shared(stdout *os.File) (info runners.StartInfo, err error) {
	info = s.info
	info.Namespace, info.Stdout, info.Stderr = nil, nil, nil
	dup := func(f *os.File) *os.File {
		if f == nil || err != nil {
			return nil
		}
		f, err = duplicate(f)
		return f
	}
	for _, e := range s.info.Namespace {
		if e.File = dup(e.File); e.File != nil {
			info.Namespace = append(info.Namespace, e)
		}
	}
	info.Stdout, info.Stderr = dup(stdout), dup(s.info.Stderr)
	if err != nil {
		info.Close()
	}
	return info, err
}

// duplicate is another descriptor of f, above those of the standard streams.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, &unavailable{fmt.Errorf("duplicate descriptor: %w", err)}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// start starts the program of key, with more arguments, its input a pipe or nothing.
func (s *service) start(
	ctx context.Context, key string, cmd []string, stdin, stdout *os.File, more ...string,
) (runners.Program, error) {
	info, err := s.shared(stdout)
	if err != nil {
		return nil, err
	}
	e, _ := s.info.Program.Info.Get(key)
	info.Program.Info = append(without(info.Program.Info, notBeside...),
		manifest.Entry{Key: "binary", Pos: e.Pos, Value: manifest.String(cmd[0])},
		manifest.Entry{Key: "args", Pos: e.Pos, Value: slices.Concat(manifest.Strings(cmd[1:]), more)},
		manifest.Entry{Key: "lifecycle.stop_event", Pos: e.Pos, Value: manifest.String("ignore")})
	if stdin != nil {
		f, err := duplicate(stdin)
		if err != nil {
			info.Close()
			return nil, err
		}
		info.Handles = []runners.Handle{{Number: 0, File: f}}
	}
	p, err := s.runner.Start(ctx, info)
	if err != nil {
		if e, ok := errors.AsType[*runners.Error](err); ok {
			c := *e
			c.Err = fmt.Errorf("%s: %w", key, e.Err)
			err = &c
		}
		return nil, err
	}
	s.mu.Lock()
	s.beside[key] = p
	hurried := s.hurried
	s.mu.Unlock()
	if hurried {
		_ = p.Kill(ctx)
	}
	return p, nil
}

// await waits until p, the program of key, has ended; at the end of ctx it is killed.
func (s *service) await(ctx context.Context, key string, p runners.Program) runners.Exit {
	x, err := p.Wait(ctx)
	if err != nil {
		_ = p.Kill(context.Background())
		x, _ = p.Wait(context.Background()) // KillBound bounds it
	}
	s.mu.Lock()
	delete(s.beside, key)
	s.mu.Unlock()
	return x
}

// checkPause is how long after a check that failed the next is made, as in runners/runit.
const checkPause = 250 * time.Millisecond

var errEnded = errors.New("it ended")

// awaitCheck waits until the check succeeds; errEnded says that the main program has ended.
func (s *service) awaitCheck(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.main.(runners.Notifier).OnExit(func(runners.Exit) { cancel(errEnded) })
	for {
		p, err := s.start(ctx, keyCheck, s.check, nil, nil)
		if err == nil {
			if s.await(ctx, keyCheck, p).OK() && ctx.Err() == nil {
				return nil
			}
			select {
			case <-time.After(checkPause):
				continue
			case <-ctx.Done():
			}
		}
		switch {
		case context.Cause(ctx) == errEnded:
			return errEnded
		case ctx.Err() != nil:
			return &unavailable{fmt.Errorf("its check has not succeeded yet: %w", context.Cause(ctx))}
		}
		return err
	}
}

// restartPause is the least time from one start of a log to the next, as in runsv.
const restartPause = time.Second

// openLog makes the pipe and starts what reads from it.
func (s *service) openLog(ctx context.Context) (err error) {
	if s.pipe[0], s.pipe[1], err = os.Pipe(); err != nil {
		return failure(&s.info, &unavailable{err})
	}
	began := time.Now()
	p, err := s.start(ctx, keyLog, s.log, s.pipe[0], s.info.Stdout)
	if err != nil {
		return err
	}
	s.tended = make(chan struct{})
	s.runner.wg.Go(func() {
		defer close(s.tended)
		s.tend(p, began)
	})
	return nil
}

// tend keeps the log running. What was written while none ran is in the pipe, for the next.
func (s *service) tend(p runners.Program, began time.Time) {
	for {
		if p != nil {
			x := s.await(context.Background(), keyLog, p)
			if !s.isClosed() {
				s.runner.Log.Warn("the log has ended, and is started again", "instance", s.info.Moniker, "exit", x)
			}
		}
		select {
		case <-s.closed:
			if s.isHurried() || !s.unread() {
				return
			}
		case <-time.After(time.Until(began.Add(restartPause))):
		}
		began = time.Now()
		var err error
		if p, err = s.start(context.Background(), keyLog, s.log, s.pipe[0], s.info.Stdout); err != nil {
			s.runner.Log.Error("the log cannot be started", "instance", s.info.Moniker, "err", err)
			if s.isClosed() {
				return
			}
		}
	}
}

func (s *service) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *service) isHurried() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hurried
}

// unread says whether something is left in the pipe.
func (s *service) unread() bool {
	n, err := unix.IoctlGetInt(int(s.pipe[0].Fd()), unix.TIOCINQ)
	return err == nil && n > 0
}

// closeLog waits for the end of the log.
func (s *service) closeLog() {
	if s.tended != nil {
		<-s.tended
	}
	if s.pipe[0] != nil {
		s.pipe[0].Close()
	}
}

// closePipe has the log come to the end of its input.
func (s *service) closePipe() {
	if s.pipe[1] != nil && !s.isClosed() {
		s.pipe[1].Close()
		close(s.closed)
	}
}

// afterKill is how long finish and the log may take once the main program was killed on demand; whoever gave the order waits.
const afterKill = 3 * time.Second

// end is what follows the main program's end.
func (s *service) end(x runners.Exit) {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if x.Cause == runners.ByKill {
		time.AfterFunc(afterKill, cancel)
	}
	if s.finish != nil {
		status := int(x.Signal)
		if x.CoreDumped {
			status |= 0x80
		}
		p, err := s.start(ctx, keyFinish, s.finish, nil, s.stdout(), strconv.Itoa(x.Code), strconv.Itoa(status))
		if err == nil {
			s.await(ctx, keyFinish, p)
		} else {
			s.runner.Log.Error("cannot run what is to follow the end", "instance", s.info.Moniker, "err", err)
		}
	}
	s.closePipe()
	if s.tended != nil {
		if x.Cause != runners.ByKill {
			time.AfterFunc(s.runner.KillBound, cancel) // all that wrote to it is gone, so it has read all by then, or never will
		}
		select {
		case <-s.tended:
		case <-ctx.Done():
			_ = s.Kill(context.Background())
		}
	}
	s.closeLog()
	<-s.checked
	s.info.Close()
	x.Ended = time.Now()
	s.End(x)
	close(s.over)
}

// Stop is the main program's. What follows its end, follows.
func (s *service) Stop(ctx context.Context) error { return s.main.Stop(ctx) }

// Kill ends the main program; one that follows now, it ends.
func (s *service) Kill(ctx context.Context) error {
	s.mu.Lock()
	var now []runners.Program
	if s.hurried = s.ending; s.ending {
		for _, p := range s.beside {
			now = append(now, p)
		}
	}
	s.mu.Unlock()
	errs := []error{s.main.Kill(ctx)}
	for _, p := range now {
		errs = append(errs, p.Kill(ctx))
	}
	return errors.Join(errs...)
}

// OnUnhealthy is the main program's.
func (s *service) OnUnhealthy(f func(why string)) { s.main.(runners.HealthNotifier).OnUnhealthy(f) }

// Signal goes to the main program.
func (s *service) Signal(ctx context.Context, sig syscall.Signal) error {
	return s.main.(runners.Signaler).Signal(ctx, sig)
}

// programs are those that run, the main one first.
func (s *service) programs() []runners.Program {
	all := []runners.Program{s.main}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range []string{keyLog, keyCheck, keyFinish} {
		if p := s.beside[key]; p != nil {
			all = append(all, p)
		}
	}
	return all
}

// Stats is what all of them use now.
func (s *service) Stats(ctx context.Context) (sum runners.Stats, err error) {
	for _, p := range s.programs() {
		st, e := p.(runners.Measurer).Stats(ctx)
		sum.CPU += st.CPU
		sum.Memory += st.Memory
		sum.Processes += st.Processes
		err = errors.Join(err, e)
	}
	return sum, err
}

// Processes are the main program's, then those of the others.
func (s *service) Processes(ctx context.Context) (all []int, err error) {
	for _, p := range s.programs() {
		pids, e := p.(runners.ProcessLister).Processes(ctx)
		all = append(all, pids...)
		err = errors.Join(err, e)
	}
	return all, err
}

// Describe is the main program's, and where the log is.
func (s *service) Describe() []runners.Detail {
	d := s.main.(runners.Describer).Describe()
	s.mu.Lock()
	p := s.beside[keyLog]
	s.mu.Unlock()
	if p != nil {
		for _, own := range p.(runners.Describer).Describe()[:2] {
			d = append(d, runners.Detail{Key: "Log " + own.Key, Value: own.Value})
		}
	}
	return d
}
