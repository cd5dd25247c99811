package proc

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A World is what a new process takes on before it becomes its program: system calls that it makes of itself, in order. They are
// data, made beforehand; the process is born sharing this one's memory (as by vfork(2)) and does nothing but make them. So no
// thread of this process ever has to take on what cannot be put off again, and no second program has to be executed.
//
// A system call may write into memory that it is given, may wait, and may fail: then the process ends, and the start fails with
// an Error that tells the step. As it shares memory, it holds up a garbage collection meanwhile: steps must not wait for
// anything.
type World struct {
	// Flags are the namespaces (CLONE_NEW…, clone(2)) that it is born in.
	Flags uintptr
	// Enter is done first, as whoever this process is. Drop follows once it has its session, limits and credentials. Seal
	// comes last, with the program's descriptors in place and the signals unblocked; only the execve follows.
	Enter, Drop, Seal []Step
	// Files are the descriptors that steps mean by File. They stay the caller's.
	Files []int
	// Base is what many worlds have in common and come into by birth; nil: nothing.
	Base *Base
	// Path is the program as it is found there; Spec.Path tells where this process sees it, for errors. Dir is where the program
	// begins there, unless Spec.DirFD says that; Spec.Dir is not used.
	Path, Dir string
	// TID, if not nil, is 4 bytes in which its process number stands, in the order of this machine, before it makes its first call.
	TID []byte
}

// Worlds says whether there are worlds on this architecture.
const Worlds = canVfork

// A Base is steps that a launching thread of its own takes on once and for all; whoever it makes is born with what came of them.
// The thread must still be able to make processes and lead them into their worlds. Each Base that is used costs a thread, until
// the last Launcher is closed.
type Base struct {
	Steps []Step
	Files []int // must stay open until the first start
	// Once says that it is used once: its thread ends with the start.
	Once bool
}

// take has the calling thread take on b.
func (b *Base) take() error {
	if b == nil {
		return nil
	}
	l := &life{}
	if err := l.add(b.Files, b.Steps...); err != nil {
		return err
	}
	for i, c := range l.calls {
		if c.results != 0 {
			return errors.New("results in a base")
		}
		if _, _, errno := unix.Syscall6(c.trap, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5]); errno != 0 {
			return fmt.Errorf("%s %s: %w", l.steps[i].Op, l.steps[i].Path, errno)
		}
	}
	runtime.KeepAlive(l)
	return nil
}

// A Step is one system call. Op and Path tell in errors what it was for.
type Step struct {
	Op, Path string
	Trap     uintptr
	Args     []Arg // at most six
}

// An Arg is one argument of a Step.
type Arg struct {
	kind argKind
	n    uint64
	b    []byte
}

type argKind uint8

const (
	argInt argKind = iota
	argFile
	argResult
	argPointer
	argFilter
)

// Int is a number.
func Int[N ~int | ~uint | ~uintptr | ~int64 | ~uint64 | ~uint32 | ~int32](n N) Arg {
	return Arg{kind: argInt, n: uint64(n)}
}

// File is the descriptor World.Files[i], by the number that it has for the process.
func File(i int) Arg { return Arg{kind: argFile, n: uint64(i)} }

// Result is what the i-th step of the same list returned.
func Result(i int) Arg { return Arg{kind: argResult, n: uint64(i)} }

// Pointer points to b.
func Pointer(b []byte) Arg { return Arg{kind: argPointer, b: b} }

// Text points to s, ended by NUL.
func Text(s string) Arg { return Pointer(append([]byte(s), 0)) }

// Filter points to the struct sock_fprog of seccomp(2) for the instructions in b.
func Filter(b []byte) Arg { return Arg{kind: argFilter, b: b} }

// files are all descriptors of the world, those of its base last.
func (w *World) files() []int {
	if w.Base == nil {
		return w.Files
	}
	return slices.Concat(w.Files, w.Base.Files)
}

// encode and decodeWorld are the form in which a World goes to a keeper; without Files, and with a base's of the right number
// only.
func (w *World) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(w.Flags))
	text := func(s []byte) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	text([]byte(w.Path))
	text([]byte(w.Dir))
	base := w.Base
	if base == nil {
		base = &Base{}
	}
	b = binary.AppendUvarint(b, uint64(len(base.Files)))
	for _, steps := range [][]Step{base.Steps, w.Enter, w.Drop, w.Seal} {
		b = binary.AppendUvarint(b, uint64(len(steps)))
		for _, s := range steps {
			text([]byte(s.Op))
			text([]byte(s.Path))
			b = binary.AppendUvarint(b, uint64(s.Trap))
			b = binary.AppendUvarint(b, uint64(len(s.Args)))
			for _, a := range s.Args {
				b = binary.AppendUvarint(append(b, byte(a.kind)), a.n)
				text(a.b)
			}
		}
	}
	return b
}

func decodeWorld(b []byte) (*World, error) {
	bad := false
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			bad = true
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() []byte {
		n := number()
		if n > uint64(len(b)) {
			bad = true
			return nil
		}
		s := b[:n:n]
		b = b[n:]
		return s
	}
	w := &World{Flags: uintptr(number()), Path: string(text()), Dir: string(text()), Base: &Base{}}
	if n := number(); n > uint64(len(b)) {
		bad = true
	} else {
		w.Base.Files = make([]int, n)
	}
	for _, steps := range []*[]Step{&w.Base.Steps, &w.Enter, &w.Drop, &w.Seal} {
		for n := number(); n > 0 && !bad; n-- {
			s := Step{Op: string(text()), Path: string(text()), Trap: uintptr(number())}
			for n := number(); n > 0 && !bad; n-- {
				if len(b) == 0 {
					bad = true
					break
				}
				a := Arg{kind: argKind(b[0])}
				b = b[1:]
				a.n, a.b = number(), text()
				s.Args = append(s.Args, a)
			}
			*steps = append(*steps, s)
		}
	}
	if bad || len(b) > 0 {
		return nil, unix.EBADMSG
	}
	return w, nil
}

// A call is a Step made ready.
type call struct {
	trap    uintptr
	args    [6]uintptr
	results uint8 // a set of those args that are an index in life.results
}

// A life is what a child does.
type life struct {
	calls   []call
	results []uintptr
	done    int     // calls that succeeded
	errno   uintptr // of the next

	steps []Step // what each call is
	keep  []any  // what calls point to
	tid   []byte // World.TID
}

// add appends steps; files are the numbers of World.Files.
func (l *life) add(files []int, steps ...Step) error {
	first := len(l.calls)
	for _, s := range steps {
		c := call{trap: s.Trap}
		if len(s.Args) > len(c.args) {
			return fmt.Errorf("%s %s: too many arguments", s.Op, s.Path)
		}
		for i, a := range s.Args {
			switch a.kind {
			case argFile:
				if a.n >= uint64(len(files)) {
					return fmt.Errorf("%s %s: no file %d", s.Op, s.Path, a.n)
				}
				c.args[i] = uintptr(files[a.n])
			case argResult:
				if a.n >= uint64(len(l.calls)-first) {
					return fmt.Errorf("%s %s: no result %d", s.Op, s.Path, a.n)
				}
				c.args[i] = uintptr(first) + uintptr(a.n)
				c.results |= 1 << i
			case argPointer:
				c.args[i] = l.point(a.b)
			case argFilter:
				if len(a.b) == 0 || len(a.b)%unix.SizeofSockFilter != 0 {
					return fmt.Errorf("%s %s: no filter", s.Op, s.Path)
				}
				f := &unix.SockFprog{Len: uint16(len(a.b) / unix.SizeofSockFilter), Filter: (*unix.SockFilter)(unsafe.Pointer(&a.b[0]))}
				l.keep = append(l.keep, f)
				c.args[i] = uintptr(unsafe.Pointer(f))
			default:
				c.args[i] = uintptr(a.n)
			}
		}
		l.calls, l.steps = append(l.calls, c), append(l.steps, s)
	}
	return nil
}

// point is the address of b, which stays as long as l does: Go moves nothing of its heap.
func (l *life) point(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	l.keep = append(l.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// pointers is a list as execve(2) takes it.
func (l *life) pointers(list []string) Arg {
	p := make([]uintptr, len(list)+1)
	for i, s := range list {
		p[i] = l.point(append([]byte(s), 0))
	}
	l.keep = append(l.keep, p)
	return Int(uintptr(unsafe.Pointer(&p[0])))
}

// live is the child: it makes its calls, the last of which does not return. It runs on memory that it shares with its parent, on
// the parent's goroutine and stack: no growth of the stack, no allocation, no lock, nothing that the runtime would notice.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (l *life) live() {
	for i := range l.calls {
		c := &l.calls[i]
		a := c.args
		for j := range a {
			if c.results&(1<<j) != 0 {
				a[j] = l.results[a[j]]
			}
		}
		r, _, errno := syscall.RawSyscall6(c.trap, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 {
			l.errno = uintptr(errno)
			break
		}
		l.results[i] = r
		l.done++
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// begin makes the child. The parent must leave at once: its frame is the child's too until then (syscall.forkAndExecInChild1
// does so for the same reason).
//
//go:noinline
//go:norace
//go:nocheckptr
func (l *life) begin(args *cloneArgs) (pid, errno uintptr) {
	pid, errno = vfork(unsafe.Pointer(args), unsafe.Sizeof(*args))
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	l.live()
	return 0, 0
}

// fork makes a child that lives l; on the launching thread. The error is an *Error, or what execve said; there is no child then.
func (l *life) fork(flags uintptr, cgroup int) (pid int, err error) {
	args := &cloneArgs{
		// Handlers go (CLONE_CLEAR_SIGHAND): in the child they would run Go's own.
		flags:      uint64(flags) | unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND,
		exitSignal: uint64(unix.SIGCHLD),
	}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	if l.tid != nil {
		args.flags |= unix.CLONE_PARENT_SETTID
		args.parentTID = uint64(uintptr(unsafe.Pointer(&l.tid[0])))
	}
	l.results = make([]uintptr, len(l.calls))
	// A signal that comes meanwhile must not be handled in the child, nor on this stack below it.
	var mask unix.Sigset_t
	full := fullSigset
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &full, &mask); err != nil {
		return 0, &Error{Op: "block signals", Err: err}
	}
	p, errno := l.begin(args)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil); err != nil {
		panic(err) // it worked before
	}
	runtime.KeepAlive(l)
	if errno != 0 {
		err := syscall.Errno(errno)
		return 0, &Error{Kind: kindOf(err), Op: opMake, Reason: cloneReason(err, cgroup >= 0), Err: err}
	}
	if l.errno == 0 {
		return int(p), nil
	}
	for {
		if _, err := unix.Wait4(int(p), nil, 0, nil); err != unix.EINTR {
			break // the reaper may have been first
		}
	}
	err = syscall.Errno(l.errno)
	if l.done == len(l.calls)-1 {
		return 0, err
	}
	s := l.steps[l.done]
	e := &Error{Kind: kindOf(err), Op: s.Op, Path: s.Path, Err: err}
	if s.Op == opBecome {
		*e = Error{Kind: Denied, Op: "exec", Reason: "may not become " + s.Path, Err: unix.EPERM} // or EINVAL, in a user namespace
	}
	return 0, e
}

const (
	opBecome = "become"             // the steps that change user and group
	opMake   = "make a process for" // clone3(2) itself
)

func cloneReason(err error, cgroup bool) string {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return "no more processes: a limit on processes of the user, the cgroup or the system is reached"
	case errors.Is(err, unix.EPERM):
		return "may not make the namespaces that confine it"
	case errors.Is(err, unix.ENOSPC):
		return "a limit on namespaces is reached (/proc/sys/user)"
	case cgroup && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.EBADF)):
		return "may not enter its cgroup"
	}
	return err.Error()
}

var fullSigset = func() (s unix.Sigset_t) {
	for i := range s.Val {
		s.Val[i] = ^s.Val[i]
	}
	return s
}()

// enter starts s in its world; on the launching thread, where world is what World.Files became, dir what DirFD; files are the
// program's, by number, with null in place of what must not be missing.
func (s *Spec) enter(files []int, dirFD int, world []int, cgroup int) (pid int, err error) {
	w := s.World
	if !canVfork {
		return 0, &Error{Op: "confine", Path: s.Path, Reason: "not implemented for " + runtime.GOARCH, Err: errors.ErrUnsupported}
	}
	l := &life{tid: w.TID}
	step := func(op, path string, trap uintptr, args ...Arg) Step { return Step{op, path, trap, args} }
	var own []Step
	if !s.Inside {
		own = append(own, step("setsid", "", unix.SYS_SETSID))
	}
	if s.Umask != nil {
		own = append(own, step("umask", "", unix.SYS_UMASK, Int(*s.Umask&0o777)))
	}
	limits := s.Limits
	if n := originalOpenFiles(); n != nil {
		limits = append([]Limit{{"nofile", n.Cur, n.Max}}, limits...)
	}
	for _, lim := range limits {
		r, ok := resources[lim.Resource]
		if !ok {
			return 0, &Error{Kind: Invalid, Op: "setrlimit", Path: lim.Resource, Reason: "no such resource"}
		}
		b := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, lim.Soft), lim.Hard)
		own = append(own, step("setrlimit", lim.Resource, unix.SYS_PRLIMIT64, Int(0), Int(r), Pointer(b), Int(0)))
	}
	chdir := step("chdir", cmp.Or(w.Dir, "/"), unix.SYS_CHDIR, Text(cmp.Or(w.Dir, "/")))
	if s.DirFD != 0 {
		chdir = step("chdir", "", unix.SYS_FCHDIR, Int(dirFD))
	}
	who := func() (steps []Step) {
		c := s.Credential
		if c == nil {
			return nil
		}
		name := fmt.Sprintf("user %d, group %d", c.Uid, c.Gid)
		if !c.NoSetGroups {
			b := []byte{}
			for _, g := range c.Groups {
				b = binary.NativeEndian.AppendUint32(b, g)
			}
			steps = append(steps, step(opBecome, name, unix.SYS_SETGROUPS, Int(len(c.Groups)), Pointer(b)))
		}
		return append(steps, step(opBecome, name, unix.SYS_SETRESGID, Int(c.Gid), Int(c.Gid), Int(c.Gid)),
			step(opBecome, name, unix.SYS_SETRESUID, Int(c.Uid), Int(c.Uid), Int(c.Uid)))
	}()
	mask := Pointer(make([]byte, 8)) // no signal
	last := descriptors(files)
	if s.Terminal {
		last = append(last, step("take terminal", "", unix.SYS_IOCTL, Int(0), Int(unix.TIOCSCTTY), Int(0)))
	}
	last = append(last, step("unblock signals", "", unix.SYS_RT_SIGPROCMASK, Int(unix.SIG_SETMASK), mask, Int(0), Int(8)))
	path := w.Path
	if path == "" {
		path = s.Path
	}
	argv, env := l.pointers(s.argv()), l.pointers(s.Env)
	lists := [...][]Step{
		// The program's directory is entered as the program's user; what that may not see it shall not be in.
		w.Enter, own, who, w.Drop,
		{chdir},
		last, w.Seal,
		{step("exec", s.Path, unix.SYS_EXECVE, Text(path), argv, env)},
	}
	n := 0
	for _, list := range lists {
		n += len(list)
	}
	l.calls, l.steps = make([]call, 0, n), make([]Step, 0, n)
	for _, list := range lists {
		if err := l.add(world, list...); err != nil {
			return 0, &Error{Kind: Invalid, Op: "confine", Path: s.Path, Reason: err.Error()}
		}
	}
	pid, err = l.fork(w.Flags, cgroup)
	if e, ok := errors.AsType[*Error](err); ok && e.Path == "" {
		e.Path = s.Path
	}
	return pid, err
}

// descriptors puts files in their places: files[i] becomes i. What stands where another is to go is moved away first. All others
// are close-on-exec.
func descriptors(files []int) (steps []Step) {
	const op = "pass descriptors"
	moved := make([]int, len(files)) // the step that moved it; -1: it stands where it stood
	for i, fd := range files {
		moved[i] = -1
		if fd >= 0 && fd < len(files) && fd != i {
			moved[i] = len(steps)
			steps = append(steps, Step{op, "", unix.SYS_FCNTL, []Arg{Int(fd), Int(unix.F_DUPFD_CLOEXEC), Int(len(files))}})
		}
	}
	for i, fd := range files {
		switch {
		case moved[i] >= 0:
			steps = append(steps, Step{op, "", unix.SYS_DUP3, []Arg{Result(moved[i]), Int(i), Int(0)}})
		case fd == i:
			steps = append(steps, Step{op, "", unix.SYS_FCNTL, []Arg{Int(fd), Int(unix.F_SETFD), Int(0)}})
		case fd >= 0:
			steps = append(steps, Step{op, "", unix.SYS_DUP3, []Arg{Int(fd), Int(i), Int(0)}})
		}
	}
	return steps
}

// originalOpenFiles is the limit of open files that this program was started with, where Go has raised that and gives it back to
// what it executes; nil where there is nothing to give back. Go tells nobody, so it is read off a child at its exec; on a thread
// that waits for nothing else, with launching held.
var originalOpenFiles = sync.OnceValue(readOpenFiles)

func readOpenFiles() *unix.Rlimit {
	var now, then unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &now) != nil {
		return nil
	}
	// If this process is killed before the child asks to be traced, its next parent would be the tracer, and know nothing of it.
	pid, err := syscall.ForkExec("/proc/self/exe", []string{shimName, "nothing", "0"}, &syscall.ProcAttr{
		Files: []uintptr{math.MaxUint, math.MaxUint, math.MaxUint},
		Sys:   &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return nil
	}
	err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &then)
	_ = unix.Kill(pid, unix.SIGKILL)
	for {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != unix.EINTR && !ws.Stopped() {
			break
		}
	}
	if err != nil || then == now {
		return nil
	}
	return &then
}
