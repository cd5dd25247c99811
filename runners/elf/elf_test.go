package elf

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/elf/lifecycle"
	"github.com/cmgr/cmgr/runners/runnertest"
)

func TestMain(m *testing.M) {
	if what := os.Getenv("ELF_TEST_PROGRAM"); what != "" {
		programs[what]()
		os.Exit(0)
	}
	reenterErr = confine.Reenter()
	os.Exit(leak.Run(m))
}

// reenterErr says why an ordinary user's tests can't confine.
var reenterErr error

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

// programs are what the test binary does as a component.
var programs = map[string]func(){
	"print": func() { os.Stdout.Write(runnertest.Output()) },
	// Everything that it can see of itself, for TestCleanState.
	"state": func() {
		state := func(key string, value any) { fmt.Printf("%s %q\n", key, fmt.Sprint(value)) }
		state("args", os.Args)
		state("env", os.Environ())
		wd, _ := os.Getwd()
		state("cwd", wd)
		mask := syscall.Umask(0)
		state("umask", fmt.Sprintf("%04o", mask))
		groups, _ := os.Getgroups()
		state("ids", []any{os.Getuid(), os.Getgid(), groups})
		var l syscall.Rlimit
		syscall.Getrlimit(syscall.RLIMIT_CORE, &l)
		state("core", []uint64{l.Cur, l.Max})
		sid, _, _ := syscall.Syscall(syscall.SYS_GETSID, 0, 0, 0)
		state("leader", int(sid) == os.Getpid())
		for fd := range 200 {
			var st syscall.Stat_t
			if syscall.Fstat(fd, &st) == nil && fd > 2 {
				l, _ := os.Readlink(fmt.Sprint("/proc/self/fd/", fd))
				// Go's own: its poller, and where it reads its share of processors from.
				if !strings.HasPrefix(l, "anon_inode:") && !strings.Contains(l, "/cpu.") {
					state("fd", fmt.Sprint(fd, " ", st.Mode&syscall.S_IFMT == syscall.S_IFSOCK))
				}
			}
		}
	},
	// A component that behaves.
	"serve": func() {
		err := lifecycle.Serve(context.Background(), func(ctx context.Context) error {
			fmt.Println("serving")
			lifecycle.Status("serving\tnobody\n\x01")
			lifecycle.Ready()
			<-ctx.Done()
			fmt.Println("leaving:", context.Cause(ctx))
			return ctx.Err()
		})
		if err != nil {
			os.Exit(1)
		}
	},
	// A component that closes its channel when it is asked to stop, and stays.
	"close": func() {
		signal.Ignore(syscall.SIGTERM)
		c, _ := lifecycle.Open()
		fmt.Println("serving")
		fmt.Println(c.Await())
		c.Close()
		forever()
	},
	// A component that closes its channel at once, and stays.
	"close-early": func() {
		c, _ := lifecycle.Open()
		c.Close()
		fmt.Println("serving")
		forever()
	},
	// A component that shuts one direction down, as good as closing.
	"shutdown": func() {
		c := raw()
		c.CloseWrite()
		fmt.Println("serving")
		forever()
	},
	// A liar: everything that is no message, then the truth.
	"garbage": func() {
		c := raw()
		for _, s := range []string{"", "\x00", "\xff\xff", "\x0a", "\x0a\x05", "\x12\x01\xff", "hello", "\x7a\x01\x01", "\x18\x01"} {
			c.Write([]byte(s))
		}
		c.Write(bytes.Repeat([]byte{'x'}, 60_000))
		c.WriteMsgUnix([]byte{0x12, 1, 'x'}, syscall.UnixRights(0, 1, 2), nil)
		c.Write(append([]byte{0x12, 0xe8, 0x07}, bytes.Repeat([]byte("é"), 500)...))
		c.Write([]byte{0x0a, 0x00})
		fmt.Println("serving")
		buf := make([]byte, 100)
		for {
			n, err := c.Read(buf)
			if err != nil || n == 2 && buf[0] == 0x0a {
				os.Exit(0)
			}
		}
	},
	// A flooder of the channel.
	"flood": func() {
		c := raw()
		fmt.Println("serving")
		for {
			if _, err := c.Write([]byte{0x12, 1, 'x'}); err != nil {
				os.Exit(9)
			}
		}
	},
	// It makes a mistake, and catches nothing.
	"fault": func() {
		var dfl [4]uintptr
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGSEGV), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
		var p *int
		*p = 1
	},
	// It floods its standard output.
	"flood-stdout": func() {
		b := bytes.Repeat([]byte("x\n"), 4096)
		for {
			if _, err := os.Stdout.Write(b); err != nil {
				os.Exit(9)
			}
		}
	},
}

// forever waits, also where nothing else runs and an empty select would be a deadlock to the runtime.
func forever() {
	for {
		_ = syscall.Pause()
	}
}

// raw is the process's lifecycle channel, without package lifecycle's manners.
func raw() *net.UnixConn {
	fd, _ := strconv.Atoi(os.Getenv(lifecycle.Env))
	c, err := net.FileConn(os.NewFile(uintptr(fd), "channel"))
	if err != nil {
		panic(err)
	}
	return c.(*net.UnixConn)
}

// A rig is a runner over one backend.
type rig struct {
	*Runner
	log  *lockedBuffer
	info runners.StartInfo // what starts begin with
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// newRig makes the rig for a backend, "" for the strongest; "BACKEND confined" for one that confines.
func newRig(t testing.TB, backend string) *rig {
	t.Helper()
	backend, confined := strings.CutSuffix(backend, " confined")
	switch backend {
	case job.Cgroup2:
		needs.Cgroup2(t)
	case job.PIDNS:
		needs.Userns(t)
	}
	loop, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loop.Close() })
	jobs, err := job.Open(job.Options{Name: "elftest", Backend: backend, Loop: loop})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := jobs.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{log: &lockedBuffer{}, info: runners.StartInfo{Moniker: "/test", URL: "file:///test.cml"}}
	cfg := Config{Jobs: jobs, Loop: loop, Log: slog.New(slog.NewTextHandler(r.log, nil)), KillBound: bound}
	if confined {
		if reenterErr != nil {
			needs.Userns(t)
			t.Fatal(reenterErr)
		}
		if cfg.Confine, err = confine.Open(confine.Options{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cfg.Confine.Close() })
	}
	r.Runner = New(cfg)
	t.Cleanup(r.Close)
	return r
}

// strongest is the rig for what doesn't depend on the backend.
func strongest(t *testing.T) *rig { return newRig(t, "") }

// sh is the block of a shell script.
func sh(script string, kv ...any) runners.Block {
	return block(append([]any{"binary", "/bin/sh", "args", []string{"-c", script}}, kv...)...)
}

// self is the block of one of programs.
func self(t *testing.T, what string, kv ...any) runners.Block {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return block(append([]any{"binary", exe, "environ", []string{"ELF_TEST_PROGRAM=" + what}}, kv...)...)
}

// A run is a started program and what it writes.
type run struct {
	runners.Program
	t   *testing.T
	out *bufio.Reader
}

// start starts a program that must start. It is killed, if need be, when the test ends.
func (r *rig) start(t *testing.T, b runners.Block) *run {
	t.Helper()
	p, out, err := r.try(t, t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill(context.Background())
		wait(t, p)
	})
	return &run{p, t, out}
}

// entries are what a start's namespace begins with: where this program lies, so that it can be a component too.
func (r *rig) entries(t testing.TB) []runners.NamespaceEntry {
	t.Helper()
	if r.Confine == nil {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Dir(exe), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	return []runners.NamespaceEntry{{Path: filepath.Dir(exe), File: f, Rights: manifest.RightsRX}}
}

func (r *rig) try(t *testing.T, ctx context.Context, b runners.Block) (runners.Program, *bufio.Reader, error) {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	in.SetReadDeadline(time.Now().Add(bound))
	info := r.info
	info.Program, info.Stdout = b, out
	info.Namespace = append(r.entries(t), info.Namespace...)
	p, err := r.Start(ctx, info)
	return p, bufio.NewReader(in), err
}

func wait(t *testing.T, p runners.Program) runners.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	x, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// line reads one line of what the program writes.
func (r *run) line(want string) {
	r.t.Helper()
	got, err := r.out.ReadString('\n')
	if strings.TrimSuffix(got, "\n") != want {
		r.t.Fatalf("it writes %q (%v), want %q", got, err, want)
	}
}

func (r *run) ask() {
	r.t.Helper()
	if err := r.Stop(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// ends checks how the program ends.
func (r *run) ends(code int, sig syscall.Signal, cause runners.Cause) runners.Exit {
	r.t.Helper()
	x := wait(r.t, r.Program)
	if x.Code != code || x.Signal != sig || x.Cause != cause {
		r.t.Errorf("exit %v (%+v), want code %d, signal %d, by %v", x, x, code, sig, cause)
	}
	return x
}

func eachBackend(t *testing.T, f func(t *testing.T, r *rig)) {
	for _, b := range []string{job.Cgroup2, job.PIDNS, job.Subreaper} {
		for _, b := range []string{b, b + " confined"} {
			t.Run(b, func(t *testing.T) { f(t, newRig(t, b)) })
		}
	}
}

func TestContract(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		for _, event := range []string{"signal", "notify"} {
			t.Run(event, func(t *testing.T) {
				untilStopped := "trap 'exit 0' TERM; echo running; while :; do sleep 1000 & wait; done"
				if event == "notify" {
					untilStopped = `echo running; read -r _ <&$CMGR_LIFECYCLE_FD; exit 0`
				}
				blocks := map[runnertest.Behaviour]runners.Block{
					runnertest.ExitZero:     sh("echo running"),
					runnertest.ExitSeven:    sh("echo running; exit 7"),
					runnertest.UntilStopped: sh(untilStopped),
					runnertest.IgnoresStop:  sh("trap '' TERM; echo running; while :; do sleep 1000; done"),
					runnertest.Prints:       self(t, "print"),
					runnertest.NeverStarts:  block("binary", "/no/such/program"),
					runnertest.NeverReady:   sh("exec sleep 1000", "ready", "lifecycle"),
				}
				runnertest.Run(t, runnertest.Kit{
					Runner: r,
					Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
						p := blocks[b]
						p.Info = append(slices.Clone(p.Info), block("lifecycle.stop_event", event).Info...)
						return runners.StartInfo{Program: p, Namespace: r.entries(t)}, true
					},
				})
			})
		}
	})
}

// TestStopTable is the table of reference/component-runtime.md §7.4, with what Linux adds.
func TestStopTable(t *testing.T) {
	for _, backend := range []string{"", " confined"} {
		t.Run(strings.TrimSpace("strongest"+backend), func(t *testing.T) { testStopTable(t, newRig(t, backend)) })
	}
}

func testStopTable(t *testing.T, r *rig) {
	r.Policy = func(p string, m name.Moniker) bool { return p == MainProcessCritical && m == "/test" }
	const kill = syscall.SIGKILL
	stubborn := "trap '' TERM; echo serving; sleep 1000"
	for _, c := range []struct {
		name     string
		block    runners.Block
		event    string
		critical bool
		stops    int
		code     int
		signal   syscall.Signal
	}{
		{"ignore", sh("trap 'exit 0' TERM; echo serving; sleep 1000"), "ignore", false, 1, -1, kill},
		{"ignore, critical", sh("trap 'exit 0' TERM; echo serving; sleep 1000"), "ignore", true, 1, -1, kill},
		{"signal", sh("trap 'exit 3' TERM; echo serving; sleep 1000 & wait"), "signal", false, 1, 3, 0},
		{
			"signal, of its choice", sh("trap 'exit 3' USR1; echo serving; sleep 1000 & wait", "stop_signal", "USR1"), "signal", false, 1,
			3, 0,
		},
		{"signal, unhandled", sh("echo serving; exec sleep 1000"), "signal", false, 1, -1, syscall.SIGTERM},
		{"signal, critical", sh("trap 'exit 0' TERM; echo serving; sleep 1000 & wait"), "signal", true, 1, 0, 0},
		{"notify", self(t, "serve"), "notify", false, 1, 0, 0},
		{"notify, and stays", self(t, "close"), "notify", false, 1, -1, kill},
		{"notify, closed already", self(t, "close-early"), "notify", false, 1, -1, kill},
		{"notify, shut down already", self(t, "shutdown"), "notify", false, 1, -1, kill},
		{"notify, twice", sh(stubborn), "notify", false, 2, -1, kill},
		{"notify, critical", self(t, "serve"), "notify", true, 1, 0, 0},
		{"notify, critical, closed already", self(t, "close-early"), "notify", true, 1, -1, kill},
		{"notify, critical, twice", sh(stubborn), "notify", true, 2, -1, kill},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.block
			more := block("lifecycle.stop_event", c.event, "main_process_critical", strconv.FormatBool(c.critical))
			b.Info = append(slices.Clone(b.Info), more.Info...)
			p := r.start(t, b)
			p.line("serving")
			for range c.stops {
				p.ask()
			}
			x := p.ends(c.code, c.signal, runners.ByStop)
			if x.Critical != (c.critical && !x.OK()) {
				t.Errorf("critical is %v in %+v", x.Critical, x)
			}
		})
	}
}

// TestStopCriticalAwaitsExit: the channel of a critical program may close; only its exit ends it.
func TestStopCriticalAwaitsExit(t *testing.T) {
	r := strongest(t)
	r.Policy = func(string, name.Moniker) bool { return true }
	p := r.start(t, self(t, "close", "lifecycle.stop_event", "notify", "main_process_critical", "true"))
	p.line("serving")
	p.ask()
	p.line("asked to stop")
	for deadline := time.Now().Add(bound); ; time.Sleep(time.Millisecond) {
		q := p.Program.(*program)
		q.mu.Lock()
		closed := q.channel.fd < 0
		q.mu.Unlock()
		if closed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the channel is not seen to be closed")
		}
	}
	if pids, err := p.Program.(runners.ProcessLister).Processes(t.Context()); err != nil || len(pids) != 1 {
		t.Errorf("processes %v, %v", pids, err)
	}
	p.Kill(t.Context())
	if x := p.ends(-1, syscall.SIGKILL, runners.ByKill); !x.Critical {
		t.Error("its death is not critical")
	}
}

func TestKillDuringStopWins(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		p := r.start(t, sh("echo serving; sleep 1000 & sleep 1000", "lifecycle.stop_event", "notify"))
		p.line("serving")
		p.ask()
		p.Kill(t.Context())
		p.ends(-1, syscall.SIGKILL, runners.ByKill)
	})
}

// TestMainProcessEndsAll: nothing of the job survives the main process, and its output up to then is there.
func TestMainProcessEndsAll(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		p := r.start(t, sh(`trap '' TERM HUP; exec 9>&1; (setsid sh -c 'echo $$; exec sleep 1000 >&9' &) | head -n 1; echo last; exit 5`))
		x := p.ends(5, 0, runners.BySelf)
		out, err := io.ReadAll(p.out) // ends: nobody has the pipe any more
		if err != nil || !strings.HasSuffix(string(out), "last\n") || strings.Count(string(out), "\n") != 2 {
			t.Errorf("output %q, %v", out, err)
		}
		if x.Detail != "" {
			t.Error(x.Detail)
		}
		if pids, err := p.Program.(runners.ProcessLister).Processes(t.Context()); len(pids) > 0 {
			t.Errorf("left: %v, %v", pids, err)
		}
	})
}

func TestCleanState(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	os.MkdirAll(dir+"/bin", 0o755)
	os.MkdirAll(dir+"/data", 0o755)
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/bin/prog", data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("prog", dir+"/bin/called"); err != nil {
		t.Fatal(err)
	}
	r := strongest(t)
	r.info.Package.Dir = dir
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	state := func(b runners.Block) string {
		t.Helper()
		p := r.start(t, b)
		out, _ := io.ReadAll(p.out)
		wait(t, p)
		return string(out)
	}
	groups, _ := os.Getgroups()
	ids := fmt.Sprint([]any{os.Getuid(), os.Getgid(), groups})
	t.Setenv("SECRET", "of the manager")
	own := "CMGR_MONIKER=/test CMGR_URL=file:///test.cml"

	got := state(block("binary", "bin/prog", "environ", []string{"ELF_TEST_PROGRAM=state"}))
	for _, want := range []string{
		`args "[` + dir + `/bin/prog]"`, `env "[ELF_TEST_PROGRAM=state PATH=` + Path + " " + own + `]"`, `cwd "` + dir + `"`,
		`umask "0022"`, `ids "` + ids + `"`, `leader "true"`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "\nfd ") {
		t.Errorf("it has descriptors:\n%s", got)
	}

	r.info.Handles = []runners.Handle{{Number: 9, File: null}}
	got = state(block("binary", "bin/called", "args", []string{"a b", ""}, "cwd", "data", "umask", "077", "limits.core", "0",
		"environ", []string{"ELF_TEST_PROGRAM=state", "PATH=/x"}, "lifecycle.stop_event", "notify"))
	for _, want := range []string{
		`args "[` + dir + `/bin/called a b ]"`, `env "[ELF_TEST_PROGRAM=state PATH=/x ` + own + ` CMGR_LIFECYCLE_FD=3]"`,
		`cwd "` + dir + `/data"`, `umask "0077"`, `core "[0 0]"`, `fd "3 true"`, `fd "9 false"`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Count(got, "\nfd ") != 2 {
		t.Errorf("not exactly two descriptors:\n%s", got)
	}
	r.info.Handles = nil
	got = state(block("binary", "bin/prog", "cwd", "/usr", "environ", []string{"ELF_TEST_PROGRAM=state"},
		"lifecycle.stop_event", "notify"))
	for _, want := range []string{`cwd "/usr"`, `fd "9 true"`} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func TestUserAndGroup(t *testing.T) {
	for _, backend := range []string{"", " confined"} {
		t.Run(strings.TrimSpace("strongest"+backend), func(t *testing.T) { testUserAndGroup(t, newRig(t, backend)) })
	}
}

func testUserAndGroup(t *testing.T, r *rig) {
	b := sh(`echo $(id -u) $(id -g) $(id -G)`, "user", "4711", "group", "4712")
	if !confine.Root() {
		_, _, err := r.try(t, t.Context(), b)
		want := "may not become user 4711, group 4712\n  hint: only root"
		if capabilities.CodeOf(err) != capabilities.Denied || !strings.Contains(err.Error(), want) {
			t.Errorf("another user without root: %v", err)
		}
		return
	}
	p := r.start(t, b)
	p.line("4711 4712 4712")
	p.ends(0, 0, runners.BySelf)
}

func TestStreams(t *testing.T) {
	r := strongest(t)
	p := r.start(t, sh("echo hidden; echo shown >&2; readlink /proc/self/fd/0 >&2", "forward_stdout_to", "none"))
	if out, err := io.ReadAll(p.out); len(out) > 0 || err != nil {
		t.Errorf("stdout has %q, %v", out, err)
	}
	p.ends(0, 0, runners.BySelf)

	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r.info.Stderr = out
	p = r.start(t, sh("echo shown >&2; readlink /proc/self/fd/0 >&2"))
	p.ends(0, 0, runners.BySelf)
	if b, _ := io.ReadAll(in); string(b) != "shown\n/dev/null\n" {
		t.Errorf("stderr has %q", b)
	}
}

func TestRefusals(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"plain": {"#!/bin/sh\n", 0o644}, "empty": {"", 0o755}, "text": {"hello\n", 0o755}, "nointerp": {"#!/no/such/shell\n", 0o755},
		"crlf": {"#!/bin/sh\r\n", 0o755}, "server": {"#!/bin/sh\n", 0o755},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("/bin/sh", dir+"/out")
	r := strongest(t)
	r.info.Package.Dir = dir
	big := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		b    runners.Block
		code capabilities.Code
		want string
	}{
		{
			block("binary", "servr"), capabilities.NotFound,
			"start /test: a.cml:2:5: program.binary: servr in package " + dir + ": no such file\n  hint: did you mean server?",
		},
		{block("binary", "/no/such"), capabilities.NotFound, "a.cml:2:5: program.binary: exec /no/such: no such file"},
		{block("binary", "../x"), capabilities.Denied, "leads outside of the package"},
		{block("binary", "out"), capabilities.Denied, "leads outside of the package"},
		{block("binary", "plain"), capabilities.Invalid, "not executable (mode 0644)"},
		{block("binary", "empty"), capabilities.Invalid, "is empty"},
		{block("binary", "text"), capabilities.Invalid, "neither an ELF program nor a script"},
		{block("binary", "nointerp"), capabilities.NotFound, "no such interpreter /no/such/shell"},
		{block("binary", "crlf"), capabilities.NotFound, "carriage return"},
		{block("binary", "/etc"), capabilities.Invalid, "is a directory"},
		{block("binary", "server", "args", slices.Repeat([]string{big}, 30)), capabilities.Invalid, "too big"},
		{block("binary", "server", "cwd", "nowhere"), capabilities.NotFound, "a.cml:3:5: program.cwd: nowhere in package"},
		{block("binary", "server", "cwd", "/no/such"), capabilities.NotFound, "a.cml:3:5: program.cwd: chdir /no/such: "},
		{
			block("binary", "server", "user", "no-such-user"), capabilities.Invalid,
			`a.cml:3:5: program.user: there is no user "no-such-user"`,
		},
		{ // to setresuid(2) it means that nothing changes
			block("binary", "server", "user", "4294967295", "group", "4294967295"), capabilities.Invalid,
			`a.cml:3:5: program.user: there is no user "4294967295"`,
		},
		{block("binary", "server", "umask", "8"), capabilities.Invalid, `a.cml:3:5: program.umask: must be an octal number`},
		{
			block("binary", "server", "main_process_critical", "true"), capabilities.Denied,
			"a.cml:3:5: program.main_process_critical: violates the policy main_process_critical, which does not list /test\n" +
				`  hint: to allow it, add "/test" to security_policy.job_policy.main_process_critical`,
		},
	} {
		_, _, err := r.try(t, t.Context(), c.b)
		var e *runners.Error
		if err == nil || !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || capabilities.CodeOf(err) != c.code {
			t.Errorf("got  %v (%v)\nwant %v (%v)", err, capabilities.CodeOf(err), c.want, c.code)
		}
	}
}

func TestUnknownKeysAreLogged(t *testing.T) {
	r := strongest(t)
	r.start(t, sh(":", "stop_event", "notify")).ends(0, 0, runners.BySelf)
	if log := r.log.String(); !strings.Contains(log, "program.stop_event") || !strings.Contains(log, "lifecycle.stop_event") {
		t.Errorf("log: %s", log)
	}
}

func TestReady(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		// Ready is the last thing it says before it ends: it must not get lost.
		for range 10 {
			p := r.start(t, sh(`printf '\012\000' >&$CMGR_LIFECYCLE_FD; exit 4`, "ready", "lifecycle"))
			p.ends(4, 0, runners.BySelf)
		}
		p := r.start(t, self(t, "serve", "ready", "lifecycle"))
		p.line("serving") // it was there before Start returned
		want := []runners.Detail{{Key: "Ready", Value: "yes"}, {Key: "Status", Value: "serving nobody"}}
		if d := p.Program.(runners.Describer).Describe(); len(d) != 4 || !slices.Equal(d[2:], want) {
			t.Errorf("details %q", d)
		}
		p.ask() // by signal: the channel is for readiness only
		p.ends(0, 0, runners.ByStop)
	})
}

func TestNotReady(t *testing.T) {
	r := strongest(t)
	for _, c := range []struct {
		b    runners.Block
		want string
	}{
		{sh("echo bad config >&2; exit 3", "ready", "lifecycle"), "start /test: it ended before it was ready: exited code=3"},
		{
			sh(`eval "exec $CMGR_LIFECYCLE_FD>&-"; exec sleep 1000`, "ready", "lifecycle"),
			"start /test: it closed its lifecycle channel before it was ready",
		},
		{sh("sleep 1000 & kill -9 $$", "ready", "lifecycle"), "start /test: it ended before it was ready: killed by SIGKILL"},
	} {
		p, _, err := r.try(t, t.Context(), c.b)
		if p != nil || err == nil || !strings.HasPrefix(err.Error(), c.want) || capabilities.CodeOf(err) != capabilities.Unavailable {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p, _, err := r.try(t, ctx, sh("exec sleep 1000", "ready", "lifecycle"))
	if p != nil || !errors.Is(err, context.DeadlineExceeded) || capabilities.CodeOf(err) != capabilities.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestGarbageOnTheChannel(t *testing.T) {
	r := strongest(t)
	p := r.start(t, self(t, "garbage", "lifecycle.stop_event", "notify", "ready", "lifecycle"))
	p.line("serving")
	d := p.Program.(runners.Describer).Describe()
	if want := strings.Repeat("é", lifecycle.MaxStatus/2); d[len(d)-1].Value != want {
		t.Errorf("status %q", d[len(d)-1].Value)
	}
	p.ask()
	p.ends(0, 0, runners.ByStop)
	if n := strings.Count(r.log.String(), "is no message"); n != 1 {
		t.Errorf("the log tells of it %d times:\n%s", n, r.log)
	}
}

// TestFloodOnTheChannel: a flooder neither stalls others nor keeps the loop busy, and still can be stopped.
func TestFloodOnTheChannel(t *testing.T) {
	r := strongest(t)
	flooder := r.start(t, self(t, "flood", "lifecycle.stop_event", "notify"))
	flooder.line("serving")
	for range 5 {
		p := r.start(t, self(t, "serve", "lifecycle.stop_event", "notify", "ready", "lifecycle"))
		p.ask()
		p.ends(0, 0, runners.ByStop)
	}
	q := flooder.Program.(*program)
	for deadline := time.Now().Add(bound); ; time.Sleep(time.Millisecond) {
		q.mu.Lock()
		muted := q.channel.muted
		q.mu.Unlock()
		if muted {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is listened to for ever")
		}
	}
	if !strings.Contains(r.log.String(), "too many packets") {
		t.Errorf("log: %s", r.log)
	}
	flooder.ask() // it does not listen
	flooder.ask() // so the second one kills
	flooder.ends(-1, syscall.SIGKILL, runners.ByStop)

	// And one that ends by itself is seen to.
	p := r.start(t, sh(`while printf '\022\001x' >&$CMGR_LIFECYCLE_FD; do :; done & sleep 0.3; kill $!; exit 6`,
		"lifecycle.stop_event", "notify"))
	p.ends(6, 0, runners.BySelf)
}

func TestHostileStreams(t *testing.T) {
	r := strongest(t)
	needs.Tool(t, "python3") // Go's runtime doesn't live without its descriptors
	p := r.start(t, sh(`exec python3 -c 'import os, signal; print("serving", flush=True); os.closerange(0, 100); signal.pause()'`,
		"lifecycle.stop_event", "notify"))
	p.line("serving")
	if rest, err := io.ReadAll(p.out); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	p.ask()
	p.ends(-1, syscall.SIGKILL, runners.ByStop)

	// A flood that nobody reads stalls the flooder alone.
	p = r.start(t, self(t, "flood-stdout"))
	p.ask()
	p.ends(-1, syscall.SIGTERM, runners.ByStop)
}

// TestNotify: an end is told once, to late comers too, on a goroutine that may not be kept waiting.
func TestNotify(t *testing.T) {
	r := strongest(t)
	var wg sync.WaitGroup
	const n = 50
	wg.Add(2 * n)
	for range n {
		p := r.start(t, sh("exit 1"))
		told := func(x runners.Exit) {
			if x.Code != 1 {
				t.Errorf("told %+v", x)
			}
			wg.Done()
		}
		p.Program.(runners.Notifier).OnExit(told)
		go func() {
			p.Wait(context.Background())
			p.Program.(runners.Notifier).OnExit(told)
		}()
	}
	wg.Wait()
}

func TestDescribe(t *testing.T) {
	r := newRig(t, job.Cgroup2)
	p := r.start(t, sh("trap 'echo signalled' USR1; sleep 1000 & echo serving; while :; do wait; done"))
	p.line("serving")
	d := p.Program.(runners.Describer).Describe()
	if len(d) != 2 || d[0].Key != "Job ID" || d[1].Key != "Process ID" {
		t.Fatalf("details %q", d)
	}
	if _, err := os.Stat(d[0].Value + "/cgroup.procs"); err != nil {
		t.Error(err)
	}
	pids, err := p.Program.(runners.ProcessLister).Processes(t.Context())
	if err != nil || len(pids) != 2 || strconv.Itoa(pids[0]) != d[1].Value {
		t.Errorf("processes %v, %v; main %s", pids, err, d[1].Value)
	}
	comm, err := os.ReadFile("/proc/" + d[1].Value + "/comm")
	if err != nil || string(comm) != "sh\n" {
		t.Errorf("the process is called %q, %v", comm, err)
	}
	st, err := p.Program.(runners.Measurer).Stats(t.Context())
	if err != nil || st.Processes != 2 || st.Memory <= 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	if err := p.Program.(runners.Signaler).Signal(t.Context(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	p.line("signalled")
	p.Kill(t.Context())
	wait(t, p)
	if _, err := os.Stat(d[0].Value); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the job's directory remains: %v", err)
	}
	if err := p.Program.(runners.Signaler).Signal(t.Context(), syscall.SIGUSR1); err != nil {
		t.Errorf("a signal to nobody: %v", err)
	}
}

// TestCoreAndSignals: the whole truth of an end.
func TestSignalledEnd(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		r.start(t, self(t, "fault", "limits.core", "0")).ends(-1, syscall.SIGSEGV, runners.BySelf)
		if r.Confine == nil { // there it is no. 1 of its PID namespace, which cannot signal itself
			r.start(t, sh("kill -SEGV $$", "limits.core", "0")).ends(-1, syscall.SIGSEGV, runners.BySelf)
		}
		r.start(t, sh("exit 255")).ends(255, 0, runners.BySelf)
	})
}

// TestNothingPerRunningProgram: a running program has no goroutine and one descriptor at most, the channel's.
func TestNothingPerRunningProgram(t *testing.T) {
	r := newRig(t, job.Cgroup2)
	r.start(t, sh("echo x; exit")).ends(0, 0, runners.BySelf)
	fds := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	const n = 20
	r.Close() // waits for the ends under way
	before, goroutines := fds(), runtime.NumGoroutine()
	for i := range n {
		info := r.info
		info.Program = sh("exec sleep 1000")
		if i%2 == 0 {
			info.Program = sh("exec sleep 1000", "lifecycle.stop_event", "notify")
		}
		p, err := r.Start(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Kill(context.Background()); wait(t, p) })
	}
	if got := fds() - before; got != n/2 {
		t.Errorf("%d descriptors for %d programs, half of them with a channel", got, n)
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines more for %d programs", got-goroutines, n)
	}
}

// TestKillThatDoesNotEnd: what remains of a killed job when the patience is over is said, and nobody waits for ever.
func TestKillThatDoesNotEnd(t *testing.T) {
	r := newRig(t, job.Cgroup2)
	r.KillBound = time.Nanosecond // hardly anything dies so fast; but since it may, try until something doesn't
	for range 100 {
		p := r.start(t, sh("i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i+1)); done; echo serving; wait"))
		p.line("serving")
		p.Kill(t.Context())
		x := wait(t, p.Program)
		if x.OK() || x.Cause != runners.ByKill {
			t.Errorf("exit %+v", x)
		}
		if strings.Contains(x.Detail, "not empty: process ") {
			if !strings.Contains(r.log.String(), "something of a killed job remains") {
				t.Errorf("log: %s", r.log)
			}
			return
		}
	}
	t.Error("no exit tells of what remains")
}

// FuzzPacket: whatever a program sends, its status is one short printable line.
func FuzzPacket(f *testing.F) {
	f.Add([]byte("\x12\x03a\nb"))
	f.Add([]byte("\x0a\x00"))
	f.Add(append([]byte{0x12, 0x80, 0x03}, bytes.Repeat([]byte("é"), 192)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c channel
		c.take(b, nil)
		unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
		if len(c.status) > lifecycle.MaxStatus || !utf8.ValidString(c.status) || strings.ContainsFunc(c.status, unprintable) {
			t.Errorf("status %q", c.status)
		}
	})
}

// BenchmarkRun is a program's whole life: start, exit, job gone.
func BenchmarkRun(b *testing.B) {
	loop, err := poll.New()
	if err != nil {
		b.Fatal(err)
	}
	defer loop.Close()
	jobs, err := job.Open(job.Options{Name: "elfbench", Loop: loop})
	if err != nil {
		b.Fatal(err)
	}
	defer jobs.Close()
	r := New(Config{Jobs: jobs, Loop: loop})
	defer r.Close()
	for _, event := range []string{"signal", "notify"} {
		b.Run(event, func(b *testing.B) {
			info := runners.StartInfo{Moniker: "/bench", Program: block("binary", "/bin/true", "lifecycle.stop_event", event)}
			b.ReportAllocs()
			for b.Loop() {
				p, err := r.Start(b.Context(), info)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := p.Wait(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
