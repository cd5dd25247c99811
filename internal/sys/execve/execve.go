// Package execve makes this process another program under limits that Go's runtime itself might not live with: where it may not
// have a page or a thread more it aborts, and whether it wants one just then depends on how busy the machine is.
package execve

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Program is what to become, and as whom.
type Program struct {
	// Paths are tried in turn, as execvp(3) does: the next one where a file does not exist or may not be executed.
	Paths      []string
	Args, Env  []string
	Limits     []Limit
	Credential *syscall.Credential // of the calling thread, which must be locked; set after the limits. nil: as it is
}

// A Limit is what setrlimit(2) is to set. Resource is its number there.
type Limit struct {
	Resource int
	syscall.Rlimit
}

// An Error is why the process is still what it was. Its limits are then as they were.
type Error struct {
	Op    string // "setrlimit", "setuid" or "exec"
	Limit int    // which of Program.Limits could not be set
	Err   error
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Exec executes p in place of this process. It returns only if that fails.
func (p *Program) Exec() *Error {
	// With nothing to execute this only puts back the limit of open files, which Go raised when it started and remembers.
	_ = syscall.Exec("", nil, nil)

	s := steps{old: make([]syscall.Rlimit, len(p.Limits)), limits: p.Limits}
	var err error
	for _, path := range p.Paths {
		var ptr *byte
		if ptr, err = syscall.BytePtrFromString(path); err != nil {
			return &Error{Op: "exec", Err: err}
		}
		s.paths = append(s.paths, ptr)
	}
	if s.argv, err = syscall.SlicePtrFromStrings(p.Args); err != nil {
		return &Error{Op: "exec", Err: err}
	}
	if s.env, err = syscall.SlicePtrFromStrings(p.Env); err != nil {
		return &Error{Op: "exec", Err: err}
	}
	if c := p.Credential; c != nil {
		s.become, s.setGroups = true, !c.NoSetGroups
		s.uid, s.gid = uintptr(c.Uid), uintptr(c.Gid)
		s.groups = append(append(s.groups, c.Groups...), 0) // one more, so that there is a first
	}
	op, limit, errno := s.run()
	runtime.KeepAlive(&s)
	return &Error{op, limit, errno}
}

// steps are what is to be done, as the kernel wants it.
type steps struct {
	paths, argv, env  []*byte
	limits            []Limit
	old               []syscall.Rlimit
	become, setGroups bool
	uid, gid          uintptr
	groups            []uint32
}

// run takes the steps. While it does, the runtime does nothing on its own: it does not learn of these system calls, and cannot
// interrupt run, for SIGURG, by which it does that, gets its default here, which is to be ignored, and nosplit leaves out all the
// other places where it could.
//
//go:nosplit
//go:norace
func (s *steps) run() (op string, limit int, errno syscall.Errno) {
	var action [8]uintptr // struct sigaction of rt_sigaction(2); all zero is the default
	syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGURG), 0, uintptr(unsafe.Pointer(&action)), 8, 0, 0)
	if action[0] != 1 { // what is ignored stays so
		action = [8]uintptr{}
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGURG), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
	for limit < len(s.limits) {
		l := &s.limits[limit]
		_, _, errno = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(&l.Rlimit)),
			uintptr(unsafe.Pointer(&s.old[limit])), 0, 0)
		if errno != 0 {
			op = "setrlimit"
			break
		}
		limit++
	}
	set := limit
	if errno == 0 && s.become {
		op = "setuid"
		if s.setGroups {
			_, _, errno = syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(s.groups)-1), uintptr(unsafe.Pointer(&s.groups[0])), 0)
		}
		if errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_SETRESGID, s.gid, s.gid, s.gid)
		}
		if errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, s.uid, s.uid, s.uid)
		}
	}
	if errno == 0 {
		op, errno = "exec", unix.ENOENT
		for _, path := range s.paths {
			_, _, err := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)),
				uintptr(unsafe.Pointer(&s.argv[0])), uintptr(unsafe.Pointer(&s.env[0])))
			if err == unix.ENOENT {
				continue
			}
			errno = err
			if err != unix.EACCES && err != unix.EPERM && err != unix.EISDIR {
				break
			}
		}
	}
	for set > 0 {
		set--
		syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(s.limits[set].Resource), uintptr(unsafe.Pointer(&s.old[set])), 0, 0, 0)
	}
	return op, limit, errno
}
