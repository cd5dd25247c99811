package proc

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/pty"
)

const bound = 2 * time.Minute

func TestMain(m *testing.M) {
	if what := os.Getenv("PROC_TEST_CHILD"); what != "" {
		child(what)
	}
	os.Exit(leak.Run(m))
}

// child is the test program as a started process.
func child(what string) {
	switch what {
	case "state":
		state()
	case "ignorer":
		ignorer()
	case "setup":
		setup()
	case "tracer":
		tracer()
	case "open files":
		runtime.LockOSThread()
		for {
			readOpenFiles()
		}
	}
	unix.Exit(0)
}

// TestKilledWhileItReadsOpenFiles shows that nothing stands still that nobody knows to trace.
func TestKilledWhileItReadsOpenFiles(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	for range 100 {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), "PROC_TEST_CHILD=open files")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10_000+rand.IntN(10_000)) * time.Microsecond)
		_ = c.Process.Kill()
		_ = c.Wait()
		for end := time.Now().Add(bound); ; time.Sleep(time.Millisecond) {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				break
			}
			if pid == 0 && time.Now().After(end) {
				left, _ := childrenOf(os.Getpid())
				t.Fatalf("processes %v are left", left)
			}
		}
	}
}

// tracer traces $PID until it is killed.
func tracer() {
	runtime.LockOSThread()
	pid, _ := strconv.Atoi(os.Getenv("PID"))
	if err := unix.PtraceSeize(pid); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("traced")
	for {
		unix.Pause()
	}
}

func open(t testing.TB) *Launcher {
	t.Helper()
	l, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// run starts s with its output to a file and returns that and how it ended.
func run(t testing.TB, l *Launcher, s *Spec) (string, Status) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for len(s.Files) < 3 {
		s.Files = append(s.Files, -1)
	}
	s.Files[1], s.Files[2] = int(f.Fd()), int(f.Fd())
	ends := make(chan Status, 1)
	if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
		t.Fatal(err)
	}
	st := await(t, ends)
	out, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(out), st
}

func await[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(bound):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func sh(script string) *Spec { return &Spec{Path: "/bin/sh", Args: []string{"sh", "-c", script}} }

func TestExitIsWhole(t *testing.T) {
	l := open(t)
	for script, want := range map[string]Status{
		"exit 0":        {},
		"exit 3":        {Code: 3},
		"exit 255":      {Code: 255},
		"kill -TERM $$": {Code: -1, Signal: syscall.SIGTERM},
		"kill -KILL $$": {Code: -1, Signal: syscall.SIGKILL},
	} {
		if _, st := run(t, l, sh(script)); st != want {
			t.Errorf("%s: %+v, want %+v", script, st, want)
		}
	}
}

// state prints what the process was born with.
func state() {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if k, v, _ := strings.Cut(line, ":"); k == "SigBlk" || k == "Umask" {
			fmt.Println(k, strings.TrimSpace(v))
		}
	}
	stat, _ := os.ReadFile("/proc/self/stat")
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest) // state ppid pgrp session tty
	fmt.Println("leader", f[2] == strconv.Itoa(os.Getpid()) && f[3] == f[2], "tty", f[4])
	wd, _ := os.Getwd()
	fmt.Println("cwd", wd)
	fmt.Println("args", os.Args)
	fmt.Println("env", os.Environ())
	for fd := range 40 {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			fmt.Println("fd", fd, filepath.Base(target))
		}
	}
}

func TestCleanState(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// Things in this process that must not be seen there: an inheritable descriptor, a blocked signal on some thread, a umask.
	var p [2]int
	if err := unix.Pipe2(p[:], 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	defer unix.Umask(unix.Umask(0o027))
	given, err := os.Create(filepath.Join(dir, "given"))
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	l := open(t)
	umask := uint32(0o077)
	for _, c := range []struct {
		name   string
		change func(*Spec)
		dir    string
		umask  string
	}{
		{"default", func(*Spec) {}, "/", "0022"},
		{"chosen", func(s *Spec) { s.Dir, s.Umask = dir, &umask }, dir, "0077"},
		{"default again", func(*Spec) {}, "/", "0022"},
		{"with limits", func(s *Spec) { s.Dir, s.Umask, s.Limits = dir, &umask, []Limit{{"core", 0, 0}} }, dir, "0077"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := os.Create(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			s := &Spec{Path: "/proc/self/exe", Args: []string{"me", "a b", ""}, Env: []string{"PROC_TEST_CHILD=state", "X=1"}}
			s.Files = []int{-1, int(out.Fd()), -1, -1, -1, -1, -1, int(given.Fd()), -1, int(given.Fd())}
			c.change(s)
			ends := make(chan Status, 1)
			if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
				t.Fatal(err)
			}
			if st := await(t, ends); st != (Status{}) {
				t.Errorf("ended %+v", st)
			}
			got, _ := os.ReadFile(out.Name())
			want := "Umask " + c.umask + "\nSigBlk 0000000000000000\nleader true tty 0\ncwd " + c.dir + "\nargs [me a b ]\n" +
				"env [PROC_TEST_CHILD=state X=1]\nfd 0 null\nfd 1 out\nfd 2 null\nfd 7 given\nfd 9 given\n"
			if string(got) != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// ignorer is a manager that was started with signals ignored and blocked; it prints what its child is born with.
func ignorer() {
	l, err := Open()
	if err != nil {
		panic(err)
	}
	ends := make(chan Status, 1)
	s := &Spec{Path: "/bin/sh", Args: []string{"sh", "-c", "grep -E 'SigIgn|SigBlk' /proc/self/status"}, Files: []int{-1, 1, 2}}
	if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
		panic(err)
	}
	<-ends
	// It still ignores what it ignored.
	unix.Kill(os.Getpid(), unix.SIGHUP)
	l.Close()
	fmt.Println("alive")
}

func TestIgnoredSignalsAreDefaultAgain(t *testing.T) {
	l := open(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := sh("trap '' HUP INT TERM TSTP USR1 PIPE; PROC_TEST_CHILD=ignorer exec " + exe)
	out, st := run(t, l, s)
	if want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nalive\n"; st != (Status{}) || out != want {
		t.Errorf("%+v\n%swant\n%s", st, out, want)
	}
}

func TestDirFDAndInside(t *testing.T) {
	l := open(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/run", []byte("#!/bin/sh\necho $0; pwd; cut -d' ' -f5,6 /proc/$$/stat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sid, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	s := &Spec{Path: "./run", DirFD: int(f.Fd()), Inside: true}
	want := fmt.Sprintf("./run\n%s\n%d %d\n", dir, unix.Getpgrp(), sid)
	if out, _ := run(t, l, s); out != want {
		t.Errorf("%q, want %q", out, want)
	}
	if err := os.Chmod(dir+"/run", 0o644); err != nil {
		t.Fatal(err)
	}
	s.Files = nil // run's
	_, err = l.Start(s, func(Status) {})
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != NotExecutable || !strings.HasPrefix(e.Reason, "not executable (mode 0644)") {
		t.Errorf("Start = %v", err)
	}
}

func TestFailures(t *testing.T) {
	l := open(t)
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	foreign := slices.Clone(exe[:4096])
	foreign[18], foreign[19] = 183, 0 // EM_AARCH64
	here := "x86_64"
	if runtime.GOARCH == "arm64" {
		foreign[18] = 62
		here = "aarch64"
	}
	os.Symlink("nowhere", filepath.Join(dir, "dangling"))
	many := make([]string, 1<<16)
	for i := range many {
		many[i] = strings.Repeat("x", 100)
	}
	for _, c := range []struct {
		name string
		spec *Spec
		kind Kind
		want string
	}{
		{"missing", &Spec{Path: dir + "/none"}, NotFound, "exec " + dir + "/none: no such file"},
		{"below a file", &Spec{Path: file("f", "x", 0o644) + "/x"}, NotFound, "not a directory"},
		{"dangling", &Spec{Path: dir + "/dangling"}, NotFound, "is a symbolic link to nowhere, which does not exist"},
		{"directory", &Spec{Path: dir}, NotExecutable, "is a directory"},
		{"mode", &Spec{Path: file("m", "#!/bin/sh\n", 0o644)}, NotExecutable, "not executable (mode 0644)"},
		{"empty", &Spec{Path: file("e", "", 0o755)}, WrongFormat, "is empty"},
		{"text", &Spec{Path: file("t", "echo hello\n", 0o755)}, WrongFormat, "neither an ELF program nor a script"},
		{"no interpreter", &Spec{Path: file("s", "#!/usr/bin/nosuch -x\n", 0o755)}, NotFound, "no such interpreter /usr/bin/nosuch"},
		{"carriage return", &Spec{Path: file("cr", "#!/bin/sh\r\n", 0o755)}, NotFound, "ends with a carriage return"},
		{"foreign", &Spec{Path: file("a", string(foreign), 0o755)}, WrongFormat, "this machine is " + here},
		{"damaged", &Spec{Path: file("d", string(exe[:100]), 0o755)}, WrongFormat, "is a damaged ELF file"},
		{"relative", &Spec{Path: "bin/true"}, Invalid, "not an absolute path"},
		{"NUL", &Spec{Path: "/bin/true", Args: []string{"a\x00b"}}, Invalid, "NUL"},
		{"too big", &Spec{Path: "/bin/true", Args: many}, TooBig, "too big (6619136 bytes)"},
		{"directory missing", &Spec{Path: "/bin/true", Dir: dir + "/no"}, NotFound, "chdir " + dir + "/no: no such file or directory"},
		{"directory is a file", &Spec{Path: "/bin/true", Dir: dir + "/m"}, NotFound, "chdir " + dir + "/m: not a directory"},
		{"cgroup missing", &Spec{Path: "/bin/true", Cgroup: dir + "/no"}, NotFound, "enter cgroup"},
		{"limit unknown", &Spec{Path: "/bin/true", Limits: []Limit{{"colour", 1, 1}}}, Invalid, "no such resource"},
		{"limit order", &Spec{Path: "/bin/true", Limits: []Limit{{"core", 2, 1}}}, Invalid, "soft limit 2 exceeds the hard limit 1"},
		{"limits, missing", &Spec{Path: dir + "/none", Limits: []Limit{{"core", 0, 0}}}, NotFound, "no such file"},
		{"limits, text", &Spec{Path: dir + "/t", Limits: []Limit{{"core", 0, 0}}}, WrongFormat, "neither an ELF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := l.Start(c.spec, func(Status) { t.Error("exited was called") })
			e, ok := errors.AsType[*Error](err)
			if !ok || p != nil {
				t.Fatalf("Start = %v, %v; want an *Error", p, err)
			}
			if e.Kind != c.kind || !strings.Contains(e.Error(), c.want) {
				t.Errorf("kind %d: %v\nwant kind %d: …%s…", e.Kind, e, c.kind, c.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	l := open(t)
	s := sh("ulimit -S -n; ulimit -H -n; ulimit -c; exit 7")
	s.Limits = []Limit{{"nofile", 100, 200}, {"core", 0, 0}}
	if out, st := run(t, l, s); out != "100\n200\n0\n" || st.Code != 7 {
		t.Errorf("%q, %+v", out, st)
	}
	plain, _ := run(t, l, sh("ulimit -S -n"))
	other := sh("ulimit -S -n")
	other.Limits = []Limit{{"core", 0, 0}}
	if out, _ := run(t, l, other); out != plain {
		t.Errorf("soft limit of open files is %q with other limits, %q without", out, plain)
	}
}

// setup is a manager that inherited a descriptor, and a soft limit that Go raised for it.
func setup() {
	if err := Setup(); err != nil {
		panic(err)
	}
	flags, err := unix.FcntlInt(7, unix.F_GETFD, 0)
	fmt.Println("descriptor 7:", flags, err)
	l, err := Open()
	if err != nil {
		panic(err)
	}
	ends := make(chan Status, 1)
	s := sh("ulimit -S -n; ls /proc/self/fd")
	s.Env = []string{"PATH=/usr/bin:/bin"}
	s.Files = []int{-1, 1, 2}
	if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
		panic(err)
	}
	<-ends
}

func TestSetup(t *testing.T) {
	l := open(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := sh("ulimit -S -n 300; PROC_TEST_CHILD=setup exec " + exe + " 7</dev/null")
	out, st := run(t, l, s)
	if want := "descriptor 7: 1 <nil>\n300\n0\n1\n2\n3\n"; st != (Status{}) || out != want {
		t.Errorf("%+v\n%swant\n%s", st, out, want) // 3 is ls's own
	}
}

func TestClosed(t *testing.T) {
	l, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := l.Start(sh("exit 0"), func(Status) {}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Start = %v", err)
	}
}

func TestManyDescriptors(t *testing.T) {
	l := open(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := sh("echo hello >/proc/self/fd/255") // >&255 is not for every shell
	s.Files = make([]int, 256)
	for i := range s.Files {
		s.Files[i] = -1
	}
	s.Files[255] = int(f.Fd())
	if _, st := run(t, l, s); st != (Status{}) {
		t.Errorf("ended %+v", st)
	}
	if b, _ := os.ReadFile(f.Name()); string(b) != "hello\n" {
		t.Errorf("got %q", b)
	}
	for i := range s.Files {
		s.Files[i] = int(f.Fd())
	}
	if _, err := l.Start(s, func(Status) {}); err == nil || !strings.Contains(err.Error(), "too many descriptors") {
		t.Errorf("Start = %v", err)
	}
}

func TestCredential(t *testing.T) {
	l := open(t)
	s := sh("id -u; id -g; id -G")
	s.Credential = &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{7}}
	if os.Geteuid() != 0 {
		_, err := l.Start(s, func(Status) {})
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != Denied || !strings.Contains(e.Error(), "may not become user 65534") {
			t.Errorf("Start = %v", err)
		}
		return
	}
	private := filepath.Join(t.TempDir(), "private")
	if err := os.WriteFile(private, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := l.Start(&Spec{Path: private, Credential: s.Credential}, func(Status) {})
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != NotExecutable || !strings.HasSuffix(e.Error(), "permission denied (as user 65534)") {
		t.Errorf("Start = %v", err)
	}
	const want = "65534\n65534\n65534 7\n"
	if out, _ := run(t, l, s); out != want {
		t.Errorf("%q, want %q", out, want)
	}
	s = sh("id -u; id -g; id -G")
	s.Credential = &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{7}}
	s.Limits = []Limit{{"core", 0, 0}}
	if out, _ := run(t, l, s); out != want {
		t.Errorf("with limits: %q, want %q", out, want)
	}
}

func TestSignal(t *testing.T) {
	l := open(t)
	ends := make(chan Status, 1)
	p, err := l.Start(&Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}, func(st Status) { ends <- st })
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if st := await(t, ends); st.Signal != syscall.SIGTERM {
		t.Errorf("ended %+v", st)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal to the reaped: %v", err)
	}
}

// Every start's end is told once, although many end before their start returns.
func TestManyShortLives(t *testing.T) {
	l := open(t)
	const n = 400
	var wg, starters sync.WaitGroup
	wg.Add(n)
	for range 4 {
		starters.Go(func() {
			for range n / 4 {
				if _, err := l.Start(&Spec{Path: "/bin/true"}, func(st Status) {
					if st != (Status{}) {
						t.Errorf("ended %+v", st)
					}
					wg.Done()
				}); err != nil {
					t.Error(err)
					wg.Done()
				}
			}
		})
	}
	starters.Wait()
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	await(t, done)
}

// An orphan comes to us and is reaped: when the pipe it held closes it is a zombie or gone, and the reaper's end means gone.
func TestOrphansAreReaped(t *testing.T) {
	l := open(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := sh("(sleep 0.2; echo orphan of $(cut -d' ' -f4 /proc/self/stat)) & exit 0")
	s.Files = []int{-1, int(w.Fd())}
	ends := make(chan Status, 1)
	if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
		t.Fatal(err)
	}
	w.Close()
	await(t, ends)
	r.SetReadDeadline(time.Now().Add(bound))
	b := make([]byte, 100)
	if n, err := r.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "orphan") {
		t.Errorf("%q, %v", b[:n], err)
	}
	// That no zombie is left is leak's to say.
}

// The launching thread lives with Go's collector: stops of the world that end there use Go's poller.
func TestCollectorOnTheThread(t *testing.T) {
	l := open(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	big := make([]string, 2000)
	for i := range big {
		big[i] = "X=" + strings.Repeat("y", 200)
	}
	for range 50 {
		ends := make(chan Status, 1)
		if _, err := l.Start(&Spec{Path: "/bin/true", Env: big}, func(st Status) { ends <- st }); err != nil {
			t.Fatal(err)
		}
		await(t, ends)
	}
	close(stop)
	wg.Wait()
}

// The reaper outlives its last user as long as there is a child, a child of this very moment too.
func TestCloseRightAfterStart(t *testing.T) {
	for range 100 {
		l, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		ends := make(chan Status, 1)
		if _, err := l.Start(&Spec{Path: "/bin/true"}, func(st Status) { ends <- st }); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if st := await(t, ends); st != (Status{}) {
			t.Errorf("ended %+v", st)
		}
	}
}

func TestReopen(t *testing.T) {
	for range 5 {
		l, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, st := run(t, l, sh("exit 5")); st.Code != 5 {
			t.Errorf("ended %+v", st)
		}
		l.Close()
		l.Close()
	}
}

func BenchmarkStart(b *testing.B) {
	for _, held := range []int{0, 5000} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			for range held {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					b.Skip(err)
				}
				defer unix.Close(fd)
			}
			l, err := Open()
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			ends := make(chan Status, 1)
			for b.Loop() {
				if _, err := l.Start(&Spec{Path: "/bin/true"}, func(st Status) { ends <- st }); err != nil {
					b.Fatal(err)
				}
				<-ends
			}
		})
	}
}

func TestTerminal(t *testing.T) {
	l := open(t)
	loop, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	for _, c := range []struct {
		name string
		spec Spec
		kept bool
	}{
		{name: "as it is"},
		{name: "by the shim", spec: Spec{TellPID: "PID"}},
		{name: "by a keeper", kept: true},
		{name: "into a world", spec: Spec{World: &World{}}},
		{name: "into a world, by a keeper", spec: Spec{World: &World{}}, kept: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.spec.World != nil && !Worlds {
				needs.Missing(t, "worlds", errors.New("not on "+runtime.GOARCH))
			}
			master, terminal, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer master.Close()
			fd := int(terminal.Fd())
			s := &c.spec
			s.Path, s.Args = "/bin/sh", []string{"sh", "-c", "echo mine >/dev/tty; read -r line; echo $line"}
			s.Files, s.Terminal = []int{fd, fd, fd}, true
			ends := make(chan Status, 1)
			exited := func(st Status) { ends <- st }
			if c.kept {
				_, err = l.Keep(s, KeepOptions{Loop: loop, Hold: -1}, exited)
			} else {
				_, err = l.Start(s, exited)
			}
			terminal.Close()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := master.WriteString("typed\n"); err != nil {
				t.Fatal(err)
			}
			if st := await(t, ends); st != (Status{}) {
				t.Errorf("ended with %+v", st)
			}
			out, _ := io.ReadAll(master)
			if got := strings.ReplaceAll(string(out), "\r", ""); strings.Count(got, "typed\n") != 2 || !strings.Contains(got, "mine\n") {
				t.Errorf("on the terminal is %q", got)
			}
		})
	}
}
