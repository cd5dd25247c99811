package proc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/sock"
)

// DefaultUmask is what a program gets unless its Spec says otherwise.
const DefaultUmask = 0o022

// A Spec is what to start, and all that it is started with.
type Spec struct {
	Path string   // absolute; with DirFD it may also be relative to that directory
	Args []string // Args[0] included; nil: only the path
	Env  []string // "NAME=value"; nil: empty
	Dir  string   // absolute; "": /
	// DirFD, if not 0, is the directory it starts in, instead of Dir: a descriptor, which stays the caller's. It may be one of
	// O_PATH.
	DirFD int
	// Inside has it stay in the session and process group of this process.
	Inside bool
	// Terminal makes Files[0], a terminal that is nobody's yet, the controlling one of its session; not with Inside.
	Terminal bool
	// Umask is the file mode creation mask; nil: DefaultUmask.
	Umask *uint32
	// Files are the descriptors that the program finds, by number: Files[i], one of this process, as i. -1 is none, but for 0, 1
	// and 2 /dev/null. They stay the caller's. With DirFD at most 250 (a packet of unix(7) carries 253, of which the shim may
	// need three).
	Files []int
	// Credential is whom it runs as; nil: as this process.
	Credential *syscall.Credential
	// Limits are set before the program is executed. Without a World a start with limits costs a second exec.
	Limits []Limit
	// TellPID names a variable that Env gets, which tells the program its own process number; "": none. Without a World it costs
	// a second exec; with one it must be "": there the number is 1, or of no use.
	TellPID string
	// Cgroup is the directory of the cgroup v2 that it starts in; "": this process's own.
	Cgroup string
	// World is what it takes on first; nil: it shares this process's.
	World *World

	cloneflags uintptr // namespaces
	ambient    bool    // it has the capabilities of this process
}

// A Launcher starts processes. All open ones share the launching thread and the reaper.
type Launcher struct{ closed sync.Once }

// Open returns a Launcher. Close ends it.
func Open() (*Launcher, error) {
	if err := adopt(); err != nil {
		return nil, err
	}
	launch.mu.Lock()
	defer launch.mu.Unlock()
	if launch.users == 0 {
		if err := launch.begin(); err != nil {
			return nil, err
		}
	}
	launch.users++
	reap.acquire()
	return &Launcher{}, nil
}

// Close gives the launcher up. Processes that it started go on and are still reaped. With the last one the thread ends.
func (l *Launcher) Close() {
	l.closed.Do(func() {
		launch.mu.Lock()
		if launch.users--; launch.users == 0 {
			launch.end()
			for b, l := range launch.based {
				l.mu.Lock()
				l.users = 0
				l.end()
				l.mu.Unlock()
				delete(launch.based, b)
			}
		}
		launch.mu.Unlock()
		reap.release()
	})
}

// Start starts a process. exited is called once when it has ended, possibly before Start returns, by the
// reaper: it must not block. Where Start fails, with an *Error, no process is left and exited is not called.
func (l *Launcher) Start(s *Spec, exited func(Status)) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if (len(s.Limits) > 0 || s.TellPID != "") && s.World == nil {
		return launch.shimmed(s, exited)
	}
	p, err := launch.start(s, exited)
	if err != nil {
		return nil, s.explain(err)
	}
	return p, nil
}

// on is the launcher whose thread has taken on base.
func (l *launcher) on(base *Base) (*launcher, error) {
	if base == nil {
		return l, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.based[base]
	if b == nil && l.users > 0 {
		b = &launcher{base: base, users: 1}
		if err := b.begin(); err != nil {
			return nil, err
		}
		if base.Once {
			return b, nil
		}
		if l.based == nil {
			l.based = map[*Base]*launcher{}
		}
		l.based[base] = b
	}
	if b == nil {
		return l, nil // closed, which start will find
	}
	return b, nil
}

func (s *Spec) check() error {
	switch {
	case !path.IsAbs(s.Path) && (s.DirFD == 0 || s.Path == ""):
		return &Error{Kind: Invalid, Op: "exec", Path: s.Path, Reason: "not an absolute path"}
	case s.Dir != "" && !path.IsAbs(s.Dir):
		return &Error{Kind: Invalid, Op: "chdir", Path: s.Dir, Reason: "not an absolute path"}
	case len(s.passed())+3 > sock.MaxFDs: // three for the shim
		return &Error{Kind: Invalid, Op: "exec", Path: s.Path, Reason: "too many descriptors"}
	}
	hasNUL := func(s string) bool { return strings.IndexByte(s, 0) >= 0 }
	if hasNUL(s.Path) || hasNUL(s.Dir) || slices.ContainsFunc(s.Args, hasNUL) || slices.ContainsFunc(s.Env, hasNUL) {
		return &Error{Kind: Invalid, Op: "exec", Path: s.Path, Reason: "NUL in path, argument or environment"}
	}
	return nil
}

// passed are the descriptors that go to the thread: the files that are not -1, then the directory, then those of the world.
func (s *Spec) passed() []int {
	fds := slices.DeleteFunc(slices.Clone(s.Files), func(fd int) bool { return fd < 0 })
	if s.DirFD != 0 {
		fds = append(fds, s.DirFD)
	}
	if s.World != nil {
		fds = append(fds, s.World.Files...)
	}
	return fds
}

func (s *Spec) argv() []string {
	if s.Args == nil {
		return []string{s.Path}
	}
	return s.Args
}

// launcher is the launching thread.
type launcher struct {
	mu       sync.Mutex // guards what follows, and keeps packets and requests in one order
	users    int
	tx       int // our end of the socket pair over which descriptors go to the thread
	requests chan request
	ended    chan struct{} // closed as the thread's last act

	base  *Base               // what the thread has taken on, if anything
	based map[*Base]*launcher // of the one without a base: the others
}

type request struct {
	spec   *Spec
	exited func(Status)
	result chan result // has room for it
}

type result struct {
	process *Process
	err     error
}

var launch launcher

// queued is how many starts may wait: so the thread goes from one to the next without sleeping in between.
const queued = 64

// begin starts the thread.
func (l *launcher) begin() error {
	tx, rx, err := sock.Pair()
	if err != nil {
		return err
	}
	l.tx, l.requests, l.ended = tx, make(chan request, queued), make(chan struct{})
	ready := make(chan error)
	OwnThread(func() { l.thread(rx, ready) })
	err = <-ready
	unix.Close(rx) // the thread has its own
	if err != nil {
		unix.Close(tx)
		return fmt.Errorf("launch thread: %w", err)
	}
	return nil
}

func (l *launcher) end() {
	close(l.requests)
	<-l.ended
	unix.Close(l.tx)
}

// OwnThread runs f on a goroutine locked to a thread other than the main one, and which ends with f. It does not wait for f.
func OwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// Hold the main thread until the other goroutine has found another.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

// thread is the launching thread, from its birth to its end. Here only raw system calls touch descriptors: the numbers mean
// others than everywhere else.
func (l *launcher) thread(rx int, ready chan<- error) {
	requests, ended := l.requests, l.ended
	defer close(ended)
	null := -1
	if l.base != nil { // which may forbid to look for it
		reap.launching.RLock()
		originalOpenFiles()
		reap.launching.RUnlock()
	}
	err := l.base.take()
	if err == nil && os.Geteuid() != 0 {
		// An ordinary user's process may have capabilities in a user namespace of its own; they are not for programs.
		err = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	}
	if err == nil {
		rx, null, err = privateWorld(rx)
	}
	ready <- err
	if err != nil {
		return
	}
	// The thread ends with this goroutine, and its table with it.
	for r := range requests {
		p, err := r.run(rx, null)
		r.result <- result{p, err}
	}
}

// privateWorld gives the calling thread a file system state and a descriptor table of its own, in which there are 0, 1, 2, Go's
// poller, rx and /dev/null; the numbers of the last two are returned. It has no signal blocked, umask DefaultUmask and is in /.
func privateWorld(rx int) (newRX, null int, err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 0, 0, fmt.Errorf("unshare: %w", err)
	}
	if err := privateTable(2, rx); err != nil {
		return 0, 0, err
	}
	// The lowest numbers, since a child's table is as long as the highest.
	if newRX, err = unix.FcntlInt(uintptr(rx), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return 0, 0, fmt.Errorf("dup: %w", err)
	}
	unix.Close(rx)
	// A process no. 1 starts what mounts /dev.
	if null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil && err != unix.ENOENT {
		return 0, 0, fmt.Errorf("open /dev/null: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return 0, 0, fmt.Errorf("chdir /: %w", err)
	}
	unix.Umask(DefaultUmask)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		return 0, 0, fmt.Errorf("empty signal mask: %w", err)
	}
	return newRX, null, nil
}

// privateTable gives the calling thread a descriptor table of its own, in which there are those to keep, all below the lowest of
// them, and Go's poller.
func privateTable(keep ...int) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	// What is to stay, and all between is closed.
	keep = slices.Sorted(slices.Values(append(keep, runtimeFDs...)))
	for i, fd := range keep {
		last := uint(math.MaxInt32)
		if i+1 < len(keep) {
			last = uint(keep[i+1]) - 1
		}
		if first := uint(fd) + 1; first <= last {
			if err := unix.CloseRange(first, last, 0); err != nil {
				return fmt.Errorf("close_range: %w", err)
			}
		}
	}
	return nil
}

// start has the thread start s. The error is as the system gave it, or an *Error.
func (l *launcher) start(s *Spec, exited func(Status)) (*Process, error) {
	if s.World != nil {
		var err error
		if l, err = l.on(s.World.Base); err != nil {
			return nil, &Error{Kind: kindOf(err), Op: "confine", Path: s.Path, Err: err}
		}
		if l.base != nil && l.base.Once {
			defer l.end()
		}
	}
	r := request{s, exited, make(chan result, 1)}
	if err := l.queue(r); err != nil {
		return nil, err
	}
	got := <-r.result
	return got.process, got.err
}

func (l *launcher) queue(r request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == 0 {
		return &Error{Op: "exec", Path: r.spec.Path, Reason: "the launcher is closed", Err: os.ErrClosed}
	}
	if err := sock.Send(l.tx, []byte{0}, r.spec.passed()...); err != nil {
		return &Error{Kind: kindOf(err), Op: "pass descriptors to", Path: r.spec.Path, Err: err}
	}
	l.requests <- r
	return nil
}

// run starts one process; on the thread.
func (r request) run(rx, null int) (*Process, error) {
	s := r.spec
	var b [1]byte
	_, fds, err := sock.Recv(rx, b[:], len(s.passed()))
	if err != nil {
		if errors.Is(err, sock.ErrTruncated) {
			err = unix.EMFILE // the packet had room for all of them
		}
		return nil, &Error{Kind: kindOf(err), Op: "pass descriptors to", Path: s.Path, Err: err}
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	files := make([]uintptr, max(3, len(s.Files)))
	next := 0
	for i := range files {
		switch {
		case i < len(s.Files) && s.Files[i] >= 0:
			files[i] = uintptr(fds[next])
			next++
		case i < 3:
			if null < 0 {
				if null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
					return nil, &Error{Kind: kindOf(err), Op: "open", Path: "/dev/null", Err: err}
				}
				defer unix.Close(null)
			}
			files[i] = uintptr(null)
		default:
			files[i] = ^uintptr(0)
		}
	}
	dir := -1
	if s.DirFD != 0 {
		dir = fds[next]
		next++
	}
	if s.World != nil {
		return r.enter(files, dir, fds[next:])
	}
	if Worlds && s.cloneflags == 0 && !s.ambient {
		// Cheaper by a tenth than syscall.ForkExec, which makes a pipe for the child's error and has each signal's handler reset.
		bare := *s
		bare.World, bare.Limits = &World{Dir: s.Dir}, nil // limits are for the shim
		r.spec = &bare
		p, err := r.enter(files, dir, nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Op != opMake {
			return p, err
		}
		// clone3(2) is not to be had on an old kernel or in some containers; clone may be.
	}
	sys := &syscall.SysProcAttr{Setsid: !s.Inside, Setctty: s.Terminal, Credential: s.Credential, Cloneflags: s.cloneflags}
	if s.ambient {
		sys.AmbientCaps = permitted()
	}
	if s.cloneflags&unix.CLONE_NEWUSER != 0 {
		sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
	if s.Cgroup != "" {
		fd, err := s.openCgroup()
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		sys.UseCgroupFD, sys.CgroupFD = true, fd
	}
	switch {
	case s.DirFD != 0:
		err = unix.Fchdir(dir)
	case s.Dir != "":
		err = unix.Chdir(s.Dir)
	}
	if err != nil {
		return nil, &Error{Kind: kindOf(err), Op: "chdir", Path: s.Dir, Err: err}
	}
	defer func() { _ = unix.Chdir("/") }() // not to hold a file system busy
	if s.Umask != nil && *s.Umask != DefaultUmask {
		unix.Umask(int(*s.Umask & 0o777))
		defer unix.Umask(DefaultUmask)
	}
	reap.launching.RLock()
	defer reap.launching.RUnlock()
	pid, err := syscall.ForkExec(s.Path, s.argv(), &syscall.ProcAttr{Env: s.Env, Files: files, Sys: sys})
	if err != nil {
		return nil, err
	}
	return reap.add(pid, false, r.exited), nil
}

// permitted are the numbers of the capabilities that the calling thread has.
func permitted() (caps []uintptr) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if unix.Capget(&h, &d[0]) != nil {
		return nil
	}
	for i := range uintptr(64) {
		if d[i/32].Permitted&(1<<(i%32)) != 0 {
			caps = append(caps, i)
		}
	}
	return caps
}

func (s *Spec) openCgroup() (int, error) {
	fd, err := unix.Open(s.Cgroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{Kind: kindOf(err), Op: "enter cgroup", Path: s.Cgroup, Err: err}
	}
	return fd, nil
}

// enter starts one process in its world; on the thread.
func (r request) enter(files []uintptr, dir int, world []int) (*Process, error) {
	cgroup := -1
	if r.spec.Cgroup != "" {
		var err error
		if cgroup, err = r.spec.openCgroup(); err != nil {
			return nil, err
		}
		defer unix.Close(cgroup)
	}
	fds := make([]int, len(files))
	for i, fd := range files {
		fds[i] = int(fd)
	}
	reap.launching.RLock()
	defer reap.launching.RUnlock()
	pid, err := r.spec.enter(fds, dir, world, cgroup)
	if err != nil {
		return nil, err
	}
	return reap.add(pid, r.spec.World.Flags&unix.CLONE_NEWPID != 0, r.exited), nil
}
