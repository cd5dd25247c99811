package proc

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

// A Keeper is a small process (the shim of this binary) that starts one program and keeps what comes of it together, where no
// cgroup can: as process no. 1 of a PID namespace, whose death is the death of everything in it (pid_namespaces(7)), or as a
// subreaper (prctl(2)) that walks its descendants and kills them one by one. It ends when nothing of the program is left, and
// kills everything when this process ends.
//
// The wire is a SOCK_SEQPACKET pair, one message a packet. Up: "s PID" the program runs, "e KIND ERRNO OP NUL PATH NUL REASON" it
// doesn't, "x CODE SIGNAL CORE" it has ended. Down: "s SIGNAL" for the program. The end of what comes down means kill all.
type Keeper struct {
	process   *Process
	main      int
	namespace bool
	loop      *poll.Loop
	sock      int // read and closed on the loop

	mu      sync.Mutex // also: held while sock is written
	exited  func(Status)
	gone    bool
	waiting []chan struct{}
}

// KeepOptions say how to keep.
type KeepOptions struct {
	Loop *poll.Loop
	// Namespace makes it a PID namespace; for an ordinary user in a user namespace, in which only this user and group exist.
	Namespace bool
	// Hold is a descriptor that the keeper holds open as long as it lives; -1: none.
	Hold int
}

// cloneflags are the namespaces of a keeper whose program comes into a World, which it makes itself, or not.
func (o KeepOptions) cloneflags(world bool) uintptr {
	switch {
	case !o.Namespace:
		return 0
	case os.Geteuid() == 0 || world && slices.Contains(permitted(), unix.CAP_SYS_ADMIN):
		return unix.CLONE_NEWPID
	}
	return unix.CLONE_NEWPID | unix.CLONE_NEWUSER
}

// CanKeep says whether keepers work here, by starting one that does nothing: nil, or why not.
func (l *Launcher) CanKeep(o KeepOptions) error {
	if _, err := childrenOf(os.Getpid()); err != nil {
		return fmt.Errorf("list children: %w", err) // without CONFIG_PROC_CHILDREN, or without /proc
	}
	ends := make(chan Status, 1)
	s := &Spec{Path: "/proc/self/exe", Args: []string{shimName, "nothing", "0"}, cloneflags: o.cloneflags(false)}
	if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
		if cause := errors.Unwrap(err); o.Namespace && cause != nil {
			return fmt.Errorf("make a PID namespace: %w", cause)
		}
		return err
	}
	if st := <-ends; st != (Status{}) {
		return fmt.Errorf("keeper: ended with code %d, signal %d", st.Code, st.Signal)
	}
	return nil
}

// Keep starts s, which may not have DirFD or Inside, under a keeper. exited is called once with the end of the program, on the
// loop: it must not block. Errors are as Launcher.Start's.
func (l *Launcher) Keep(s *Spec, o KeepOptions, exited func(Status)) (*Keeper, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if s.DirFD != 0 || s.Inside {
		return nil, &Error{Kind: Invalid, Op: "keep", Path: s.Path, Reason: "a keeper has a session of its own and takes no DirFD"}
	}
	ours, theirs, err := sock.Pair()
	if err != nil {
		return nil, &Error{Kind: kindOf(err), Op: "exec", Path: s.Path, Err: err}
	}
	k := &Keeper{namespace: o.Namespace, loop: o.Loop, sock: ours, exited: exited}
	started := make(chan error, 1)
	if err := o.Loop.Add(ours, poll.In, func(uint32) { k.receive(started) }); err != nil {
		unix.Close(ours)
		unix.Close(theirs)
		return nil, &Error{Kind: kindOf(err), Op: "exec", Path: s.Path, Err: err}
	}
	shim := *s
	shim.cloneflags, shim.ambient = o.cloneflags(s.World != nil), s.World != nil && os.Geteuid() != 0
	k.process, err = launch.startShim(&shim, "keep", theirs, o.Hold, func(Status) {
		k.onLoop(func() {
			// Everything that the keeper said is in the socket now; take it before the end is told.
			k.receive(started)
			answer(started, &Error{Op: "exec", Path: s.Path, Reason: "its keeper ended before it began"})
			k.end()
		})
	})
	unix.Close(theirs)
	if err != nil {
		k.onLoop(k.end)
		return nil, err
	}
	if err := <-started; err != nil {
		k.wait(nil)
		return nil, err
	}
	return k, nil
}

// onLoop calls f on the loop, or here when that is closed and nothing runs there any more.
func (k *Keeper) onLoop(f func()) {
	if !k.loop.Do(f) {
		f()
	}
}

// answer gives the first answer to who waits for one.
func answer(started chan<- error, err error) {
	select {
	case started <- err:
	default:
	}
}

// receive takes what the keeper says; on the loop. started gets nil or the error once.
func (k *Keeper) receive(started chan<- error) {
	buf := make([]byte, 16<<10)
	for {
		n, _, err := sock.Recv(k.sock, buf, 0)
		if err != nil {
			if err != unix.EAGAIN {
				k.loop.Remove(k.sock) // the end comes through the reaper
			}
			return
		}
		what, rest, _ := strings.Cut(string(buf[:n]), " ")
		switch what {
		case "s":
			k.main, _ = strconv.Atoi(rest)
			answer(started, nil)
		case "e":
			answer(started, errorOf(rest))
		case "x":
			var st Status
			var sig, core int
			if _, err := fmt.Sscan(rest, &st.Code, &sig, &core); err == nil {
				st.Signal, st.Core = syscall.Signal(sig), core == 1
				k.tell(st)
			}
		}
	}
}

// tell tells the program's end, once.
func (k *Keeper) tell(st Status) {
	k.mu.Lock()
	exited := k.exited
	k.exited = nil
	k.mu.Unlock()
	if exited != nil && k.main != 0 {
		exited(st)
	}
}

// end is the keeper's own end; on the loop.
func (k *Keeper) end() {
	k.loop.Remove(k.sock)
	k.mu.Lock()
	untold := k.exited != nil
	k.mu.Unlock()
	if untold && !k.namespace {
		// It was killed, perhaps by the program itself, and what it kept is ours now.
		reap.killStrays()
	}
	// If the program's end was not told, its keeper was killed, and it with it.
	k.tell(Status{Code: -1, Signal: unix.SIGKILL})
	k.mu.Lock()
	defer k.mu.Unlock()
	unix.Close(k.sock)
	k.gone = true
	for _, c := range k.waiting {
		close(c)
	}
	k.waiting = nil
}

// PID is the keeper's process number.
func (k *Keeper) PID() int { return k.process.pid }

// Main is the program's process number, as seen from here; -1 if it had ended before that could be told.
func (k *Keeper) Main() int { return k.main }

// Gone says whether the keeper has ended: then nothing of the program is left.
func (k *Keeper) Gone() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.gone
}

// Signal sends sig to the program; os.ErrProcessDone says that it has ended.
func (k *Keeper) Signal(sig syscall.Signal) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone || k.exited == nil {
		return os.ErrProcessDone
	}
	err := sock.Send(k.sock, fmt.Appendf(nil, "s %d", sig))
	if err == unix.EPIPE {
		return os.ErrProcessDone
	}
	return err
}

// Kill has everything killed and waits until nothing is left, or until done is closed: false.
func (k *Keeper) Kill(done <-chan struct{}) bool {
	if k.namespace {
		_ = k.process.Signal(unix.SIGKILL) // it has ended, if not
	} else {
		k.mu.Lock()
		if !k.gone {
			_ = unix.Shutdown(k.sock, unix.SHUT_WR)
		}
		k.mu.Unlock()
	}
	return k.wait(done)
}

func (k *Keeper) wait(done <-chan struct{}) bool {
	c := make(chan struct{})
	k.mu.Lock()
	if k.gone {
		k.mu.Unlock()
		return true
	}
	k.waiting = append(k.waiting, c)
	k.mu.Unlock()
	select {
	case <-c:
		return true
	case <-done:
		k.mu.Lock()
		defer k.mu.Unlock()
		k.waiting = slices.DeleteFunc(k.waiting, func(w chan struct{}) bool { return w == c })
		return k.gone
	}
}

// Processes are the numbers of all processes that it keeps.
func (k *Keeper) Processes() []int {
	if k.Gone() {
		return nil
	}
	return descendants(k.process.pid)
}

// errorOf is an *Error from its form on the wire, and wireOf that form.
func errorOf(s string) error {
	e := &Error{}
	var errno int
	head, rest, _ := strings.Cut(s, "\x00")
	_, _ = fmt.Sscan(head, &e.Kind, &errno)
	if f := strings.SplitN(rest, "\x00", 3); len(f) == 3 {
		e.Op, e.Path, e.Reason = f[0], f[1], f[2]
	}
	if errno != 0 {
		e.Err = syscall.Errno(errno)
	} else if e.Reason == "" {
		e.Reason = "unknown report of the keeper"
	}
	return e
}

func wireOf(err error) []byte {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Op: "exec", Reason: err.Error()}
	}
	errno := 0
	if e.Err != nil {
		errno = int(errnoOf(e.Err))
	}
	return fmt.Appendf(nil, "e %d %d\x00%s\x00%s\x00%s", e.Kind, errno, e.Op, e.Path, e.Reason)
}

// keep is the keeper's life. It returns only an error that kept it from taking up its work.
func keep(control int) error {
	o, err := readOrders(control + 1)
	if err != nil {
		return err
	}
	if o.hold {
		unix.CloseOnExec(control + 2)
	}
	namespace := os.Getpid() == 1
	_ = os.WriteFile("/proc/self/comm", []byte("cmgr-keeper"), 0) // for ps; in place of "exe"
	// Whoever signals the keeper in place of the program: no. Caught, not ignored, so that the program doesn't inherit it.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)

	// The program's descriptors must not stay open here, or no pipe of it would ever end.
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s := &Spec{
		Path: o.path, Args: o.args, Env: o.env, Dir: o.dir, Umask: o.umask, Credential: o.credential, Limits: o.limits,
		TellPID:  o.tellPID,
		Terminal: o.terminal,
	}
	if o.world != nil {
		s.World = o.world
		number := control + 3
		for _, files := range [][]int{o.world.Files, o.world.Base.Files} {
			for i := range files {
				files[i] = number
				unix.CloseOnExec(number)
				number++
			}
		}
	}
	s.Files = make([]int, control)
	for i := range s.Files {
		s.Files[i] = -1
		if !slices.Contains(o.given, i) {
			continue
		}
		if s.Files[i], err = unix.FcntlInt(uintptr(i), unix.F_DUPFD_CLOEXEC, control+3); err != nil {
			return err
		}
		if i < 3 {
			err = unix.Dup3(null, i, 0)
		} else {
			err = unix.Close(i)
		}
		if err != nil {
			return err
		}
	}
	unix.Close(null)

	l, err := Open()
	if err != nil {
		return err
	}
	up := make(chan Status, 1)
	p, err := l.Start(s, func(st Status) { up <- st })
	for _, fd := range s.Files {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if err != nil {
		_ = sock.Send(control, wireOf(err))
		unix.Exit(111)
	}
	seen := p.pid
	if namespace {
		seen = seenFromOutside(seen)
		reap.mu.Lock()
		if p.first != 0 {
			p.first = seen
		}
		reap.mu.Unlock()
	}
	_ = sock.Send(control, fmt.Appendf(nil, "s %d", seen))

	// From here on two things end it: nothing is left, or an order.
	ended, _ := reap.leave()
	reap.poke()
	go func() {
		buf := make([]byte, 64)
		for {
			n, _, err := sock.Recv(control, buf, 0)
			what, rest, _ := strings.Cut(string(buf[:n]), " ")
			if err == nil && what == "s" {
				sig, _ := strconv.Atoi(rest)
				_ = p.Signal(syscall.Signal(sig))
				continue
			}
			if err == nil {
				continue
			}
			if namespace {
				unix.Exit(0)
			}
			killAll(ended)
			return
		}
	}()
	st := <-up
	core := 0
	if st.Core {
		core = 1
	}
	_ = sock.Send(control, fmt.Appendf(nil, "x %d %d %d", st.Code, st.Signal, core))
	<-ended
	unix.Exit(0)
	return nil
}

// seenFromOutside is the manager's number for this process's child pid, or -1 when that has ended already. /proc is the
// manager's: it tells all numbers as they are there, and in NSpid also as they are here (proc(5)).
func seenFromOutside(pid int) int {
	children, _ := childrenOf(0)
	for _, c := range children {
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(c) + "/status")
		_, line, _ := strings.Cut(string(b), "\nNSpid:")
		line, _, _ = strings.Cut(line, "\n")
		// A program in a World may be in a PID namespace further in; that number comes after ours.
		if f := strings.Fields(line); len(f) > 0 && f[min(1, len(f)-1)] == strconv.Itoa(pid) {
			return c
		}
	}
	return -1
}

// killAll kills all descendants, again and again, until ended is closed: there is no child any more.
func killAll(ended <-chan struct{}) {
	pause := time.Duration(0)
	killed := map[int]bool{}
	for {
		news := false
		for _, pid := range descendants(0) {
			news = news || !killed[pid]
			killed[pid] = true
			killDescendant(pid)
		}
		if pause = min(2*pause+100*time.Microsecond, 50*time.Millisecond); news {
			pause = 0
		}
		select {
		case <-ended:
			return
		case <-time.After(pause):
		}
	}
}

// killDescendant kills pid if that is still a descendant. In a storm of forks numbers are soon used again, perhaps by a stranger.
func killDescendant(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	// What pid means now, fd means, or that has ended.
	for p, i := pid, 0; p > 1 && i < 1000; i++ {
		if p = parentOf(p); p == os.Getpid() {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			return
		}
	}
}

func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}

// childrenOf are the children of pid, 0 for this process itself, as /proc sees their numbers (proc(5), children).
func childrenOf(pid int) ([]int, error) {
	self := "self"
	if pid != 0 {
		self = strconv.Itoa(pid)
	}
	lists := glob("/proc/"+self+"/", "task/*/children")
	if len(lists) == 0 {
		return nil, os.ErrNotExist
	}
	var pids []int
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
		for s := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(s); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids, nil
}

// descendants are the children of pid (0: this process), theirs, and so on.
func descendants(pid int) []int {
	all, _ := childrenOf(pid)
	seen := map[int]bool{}
	for i := 0; i < len(all); i++ {
		if !seen[all[i]] {
			seen[all[i]] = true
			more, _ := childrenOf(all[i])
			all = append(all, more...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
