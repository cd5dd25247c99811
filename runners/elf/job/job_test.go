package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/proc"
)

const bound = 2 * time.Minute

func TestMain(m *testing.M) {
	switch what := os.Getenv("JOB_TEST_CHILD"); what {
	case "":
		os.Exit(leak.Run(m))
	case "manager":
		deadManager()
	case "limiter":
		limiter()
	default:
		hostile(what)
	}
}

// open opens a Manager of the named backend, or skips the test where this machine doesn't let it.
func open(t testing.TB, backend string) *Manager {
	t.Helper()
	if os.Getenv("JOB_TEST_USER") == "" {
		switch {
		case backend == Cgroup2:
			needs.Cgroup2(t)
		case backend == PIDNS && os.Geteuid() != 0:
			needs.Userns(t)
		}
	}
	m, err := Open(Options{Name: "jobtest", Backend: backend})
	if err != nil {
		if os.Getenv("JOB_TEST_USER") != "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func newJob(t testing.TB, m *Manager, name string) *Job {
	t.Helper()
	j, err := m.New(name)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	return ctx
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

// eventually waits for what nobody tells: states in /proc.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(bound); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// marked are the processes whose environment has the mark.
func marked(mark string) []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		env, err := os.ReadFile(d + "/environ")
		if err == nil && slices.Contains(strings.Split(string(env), "\x00"), mark) {
			cmd, _ := os.ReadFile(d + "/cmdline")
			found = append(found, filepath.Base(d)+" "+strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return found
}

// zombies are the children of this process that nobody reaped.
func zombies() []int {
	var z []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		if f, err := stat(pid); err == nil && f[1] == "Z" && f[2] == strconv.Itoa(os.Getpid()) {
			z = append(z, pid)
		}
	}
	return z
}

var backends = []string{Cgroup2, PIDNS, Subreaper}

func eachBackend(t *testing.T, f func(t *testing.T, m *Manager)) {
	for _, b := range backends {
		t.Run(b, func(t *testing.T) { f(t, open(t, b)) })
	}
}

func sh(script string) Spec {
	return Spec{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

func TestExit(t *testing.T) {
	eachBackend(t, func(t *testing.T, m *Manager) {
		for script, want := range map[string]Status{
			"exit 0":        {},
			"exit 3":        {Code: 3},
			"exit 255":      {Code: 255},
			"kill -TERM $$": {Code: -1, Signal: syscall.SIGTERM},
			"kill -KILL $$": {Code: -1, Signal: syscall.SIGKILL},
			"kill -ABRT $$": {Code: -1, Signal: syscall.SIGABRT},
		} {
			j := newJob(t, m, "/exit")
			ends := make(chan Status, 2)
			s := sh(script)
			s.Limits = []Limit{{Resource: "core"}}
			if _, err := j.Start(s, func(st Status) { ends <- st }); err != nil {
				t.Fatal(err)
			}
			if st := await(t, ends); st != want {
				t.Errorf("%s: %+v, want %+v", script, st, want)
			}
			if err := j.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("Signal after the end: %v", err)
			}
			if err := j.Kill(within(t)); err != nil {
				t.Error(err)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
			if len(ends) > 0 {
				t.Errorf("%s: told twice", script)
			}
		}
	})
}

func TestSignalReachesTheMainProcess(t *testing.T) {
	eachBackend(t, func(t *testing.T, m *Manager) {
		j := newJob(t, m, "/signalled")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ends := make(chan Status, 1)
		s := sh("trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done")
		s.Files = []int{-1, int(w.Fd())}
		pid, err := j.Start(s, func(st Status) { ends <- st })
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		r.Read(make([]byte, 10))
		if comm, _ := describe(pid); comm != "sh" {
			t.Errorf("process %d is %s, want sh", pid, comm)
		}
		if err := j.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if st := await(t, ends); st.Code != 42 {
			t.Errorf("ended %+v", st)
		}
		if err := errors.Join(j.Kill(within(t)), j.Close(), j.Close(), j.Kill(within(t))); err != nil {
			t.Error(err)
		}
	})
}

// The default of an unhandled SIGTERM is death, as process no. 1 of a namespace too.
func TestUnhandledTermKills(t *testing.T) {
	eachBackend(t, func(t *testing.T, m *Manager) {
		j := newJob(t, m, "/plain")
		ends := make(chan Status, 1)
		if _, err := j.Start(Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}, func(st Status) { ends <- st }); err != nil {
			t.Fatal(err)
		}
		if err := j.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if st := await(t, ends); st.Signal != syscall.SIGTERM {
			t.Errorf("ended %+v", st)
		}
		if err := errors.Join(j.Kill(within(t)), j.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestFailedStartLeavesNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, m *Manager) {
		dir := t.TempDir()
		text := filepath.Join(dir, "text")
		if err := os.WriteFile(text, []byte("echo\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		os.Chmod(dir, 0o755)
		for _, c := range []struct {
			spec Spec
			code capabilities.Code
			want string
		}{
			{Spec{Path: dir + "/none"}, capabilities.NotFound, "no such file"},
			{Spec{Path: text}, capabilities.Invalid, "neither an ELF program nor a script"},
			{Spec{Path: "/bin/true", Dir: dir + "/none"}, capabilities.NotFound, "chdir"},
			{Spec{Path: "/bin/true", Limits: []Limit{{Resource: "core", Soft: 2, Hard: 1}}}, capabilities.Invalid, "soft limit 2 exceeds"},
		} {
			j := newJob(t, m, "/failing")
			_, err := j.Start(c.spec, func(Status) { t.Error("exited was called") })
			if err == nil || capabilities.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start = %v (%v), want …%s… (%v)", err, capabilities.CodeOf(err), c.want, c.code)
			}
			// The job can still be used.
			ends := make(chan Status, 1)
			if _, err := j.Start(sh("exit 9"), func(st Status) { ends <- st }); err != nil {
				t.Fatal(err)
			}
			if st := await(t, ends); st.Code != 9 {
				t.Errorf("ended %+v", st)
			}
			if err := errors.Join(j.Kill(within(t)), j.Close()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestListAndMeasure(t *testing.T) {
	eachBackend(t, func(t *testing.T, m *Manager) {
		j := newJob(t, m, "/measured")
		if pids, err := j.Processes(); err != nil || len(pids) != 0 {
			t.Errorf("Processes of an empty job = %v, %v", pids, err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		s := sh("sleep 1000 & sleep 1000 & i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo; wait")
		s.Files = []int{-1, int(w.Fd())}
		pid, err := j.Start(s, func(Status) {})
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		r.Read(make([]byte, 1))
		pids, err := j.Processes()
		if err != nil || len(pids) != 3 || pids[0] != pid {
			t.Errorf("Processes = %v, %v; want %d and two more", pids, err, pid)
		}
		st, err := j.Stats()
		if err != nil || st.Processes != 3 || st.Memory < 1<<16 || st.CPU < 10*time.Millisecond || st.CPU > time.Minute {
			t.Errorf("Stats = %+v, %v", st, err)
		}
		if j.Path() == "" {
			t.Error("no path")
		}
		var remain *RemainError
		if err := j.Close(); !errors.As(err, &remain) || !strings.Contains(err.Error(), fmt.Sprintf("process %d (sh, ", pid)) {
			t.Errorf("Close of a living job = %v", err)
		}
		if err := errors.Join(j.Kill(within(t)), j.Close()); err != nil {
			t.Error(err)
		}
	})
}

// hostile is this test program as one that does not want to end.
func hostile(what string) {
	again := func(what string, files []uintptr, setsid bool) {
		env := append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "JOB_TEST_CHILD=") }),
			"JOB_TEST_CHILD="+what)
		if _, err := syscall.ForkExec("/proc/self/exe", []string{what},
			&syscall.ProcAttr{Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: setsid}}); err != nil {
			panic(err)
		}
	}
	here := func() { unix.Write(3, []byte("x")) }
	files := []uintptr{0, 1, 2, 3}
	switch what {
	case "setsid":
		for range 5 {
			again("sleep", files, true)
		}
		here()
		time.Sleep(time.Hour)
	case "doublefork":
		for range 5 {
			again("middle", files, true)
		}
		here()
		time.Sleep(time.Hour)
	case "middle":
		again("sleep", files, true)
	case "sleep":
		here()
		time.Sleep(time.Hour)
	}
	unix.Exit(0) // at once, with the race detector too
}

// The trees of reference/linux.md §3, bounded in number and time. Each process writes one byte to descriptor 3 when it is there.
var hostiles = []struct {
	name    string
	script  string // "" for hostile(name)
	arrived int
}{
	{"setsid", "", 6},
	{"doublefork", "", 6},
	{"storm", "i=0; while [ $i -lt 200 ]; do (echo -n x >&3; exec sleep 1000) & i=$((i+1)); done; wait", 200},
	{"ignored SIGTERM", "trap '' HUP INT QUIT TERM USR1 USR2; (echo -n x >&3; sleep 1000) & echo -n x >&3; " +
		"while :; do sleep 1000; done", 2},
	{"reparented", "f() { if [ $1 -gt 0 ]; then (f $(($1-1))) & else echo -n x >&3; exec sleep 1000; fi; }; f 10; exit 0", 1},
	{"comets", `for c in 1 2 3 4 5; do sh -c 'echo -n x >&3; [ $1 -lt 1500 ] && sh -c "$0" "$0" $(($1+1)) &' ` +
		`'echo -n x >&3; [ $1 -lt 1500 ] && sh -c "$0" "$0" $(($1+1)) &' 0 & done; wait; sleep 1000`, 40},
}

func TestHostile(t *testing.T) {
	eachBackend(t, func(t *testing.T, m *Manager) {
		for i, h := range hostiles {
			t.Run(h.name, func(t *testing.T) {
				mark := fmt.Sprintf("JOB_TEST_MARK=%d-%s-%d", os.Getpid(), m.Backend().Name, i)
				s := sh(h.script)
				if h.script == "" {
					s = Spec{Path: "/proc/self/exe", Args: []string{"hostile"}, Env: []string{"JOB_TEST_CHILD=" + h.name}}
				}
				s.Env = append(s.Env, mark)
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				s.Files = []int{-1, -1, -1, int(w.Fd())}
				j := newJob(t, m, "/hostile")
				ends := make(chan Status, 1)
				_, err = j.Start(s, func(st Status) { ends <- st })
				w.Close()
				if err != nil {
					t.Fatal(err)
				}
				r.SetReadDeadline(time.Now().Add(bound))
				for n, b := 0, make([]byte, 256); n < h.arrived; {
					k, err := r.Read(b)
					if n += k; err != nil {
						t.Fatalf("%d of %d processes came: %v", n, h.arrived, err)
					}
				}
				// A process in the middle of execve shows an empty environment.
				eventually(t, "the test cannot see the tree's processes", func() bool { return len(marked(mark)) > 0 })
				began := time.Now()
				if err := j.Kill(within(t)); err != nil {
					t.Fatal(err)
				}
				t.Logf("killed in %v", time.Since(began))
				await(t, ends)
				// What the kernel has killed may still be on its way out, no more.
				eventually(t, "the tree survives", func() bool { return len(marked(mark)) == 0 })
				eventually(t, "zombies remain", func() bool { return len(zombies()) == 0 })
				if pids, err := j.Processes(); err != nil || len(pids) > 0 {
					t.Errorf("Processes = %v, %v", pids, err)
				}
				if err := j.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// The same as nobody, where this is root: without a cgroup, and in one that was delegated (cgroups(7), by chown).
func TestOrdinaryUser(t *testing.T) {
	needs.Root(t)
	t.Run("no cgroup", func(t *testing.T) { asNobody(t, "", "/(pidns|subreaper)$") })
	t.Run("delegated", func(t *testing.T) {
		dir := filepath.Join(needs.Cgroup2(t), fmt.Sprintf("cmgr-jobtest-delegated-%d", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := clearCgroup(dir); err != nil {
				t.Error(err)
			}
		}()
		for _, f := range []string{"", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"} {
			if err := os.Chown(dir+f, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
		asNobody(t, dir, "/cgroup2$")
	})
}

// asNobody runs this package's tests again, as an ordinary user in the cgroup.
func asNobody(t *testing.T, cgroup, backends string) {
	l, err := proc.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ends := make(chan Status, 1)
	if _, err := l.Start(&proc.Spec{
		Path:       "/proc/self/exe",
		Args:       []string{"job.test", "-test.v", "-test.run=^Test(Exit|Signal.*|Unhandled.*|Failed.*|List.*|Hostile)$" + backends},
		Env:        []string{"JOB_TEST_USER=1", "PATH=/usr/bin:/bin"},
		Files:      []int{-1, int(out.Fd()), int(out.Fd())},
		Credential: &syscall.Credential{Uid: 65534, Gid: 65534},
		Cgroup:     cgroup,
	}, func(st Status) { ends <- st }); err != nil {
		t.Fatal(err)
	}
	st := await(t, ends)
	text, _ := os.ReadFile(out.Name())
	if st != (Status{}) {
		t.Errorf("ended %+v\n%s", st, text)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "--- ") || strings.Contains(line, "killed in") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func BenchmarkStart(b *testing.B) {
	for _, backend := range backends {
		for _, held := range []int{0, 5000} {
			b.Run(fmt.Sprintf("%s/held=%d", backend, held), func(b *testing.B) {
				for range held {
					fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
					if err != nil {
						b.Skip(err)
					}
					defer unix.Close(fd)
				}
				m := open(b, backend)
				ends := make(chan Status, 1)
				ctx := context.Background()
				for b.Loop() {
					j, err := m.New("/bench")
					if err != nil {
						b.Fatal(err)
					}
					if _, err := j.Start(Spec{Path: "/bin/true"}, func(st Status) { ends <- st }); err != nil {
						b.Fatal(err)
					}
					<-ends
					if err := errors.Join(j.Kill(ctx), j.Close()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// deadManager is a manager that will be killed: it starts a tree in a job and says so.
func deadManager() {
	m, err := Open(Options{Name: "jobtest", State: os.Getenv("JOB_TEST_STATE"), Backend: os.Getenv("JOB_TEST_BACKEND")})
	if err != nil {
		panic(err)
	}
	j, err := m.New("/left")
	if err != nil {
		panic(err)
	}
	s := sh("trap '' TERM HUP; (sleep 1000) & echo ready; sleep 1000")
	s.Env = append(s.Env, os.Getenv("JOB_TEST_MARK"))
	s.Files = []int{-1, 1}
	if _, err := j.Start(s, func(Status) {}); err != nil {
		panic(err)
	}
	select {}
}

func TestRecovery(t *testing.T) {
	for _, b := range backends {
		t.Run(b, func(t *testing.T) {
			open(t, b).Close() // or skip
			state := t.TempDir()
			mark := fmt.Sprintf("%d-recovery-%s", os.Getpid(), b)
			l, err := proc.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			ends := make(chan Status, 1)
			p, err := l.Start(&proc.Spec{
				Path:  "/proc/self/exe",
				Env:   []string{"JOB_TEST_CHILD=manager", "JOB_TEST_STATE=" + state, "JOB_TEST_BACKEND=" + b, "JOB_TEST_MARK=MARK=" + mark},
				Files: []int{-1, int(w.Fd()), 2},
			}, func(st Status) { ends <- st })
			w.Close()
			if err != nil {
				t.Fatal(err)
			}
			r.SetReadDeadline(time.Now().Add(bound))
			if n, err := r.Read(make([]byte, 10)); n == 0 {
				t.Fatal("the manager did not start its tree:", err)
			}
			o := Options{Name: "jobtest", State: state, Backend: b}
			if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "another manager that lives") {
				t.Fatalf("Open of a living manager's state = %v", err)
			}
			if len(marked("MARK="+mark)) == 0 {
				t.Fatal("the living manager's tree was touched")
			}
			if err := p.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			await(t, ends)
			m, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			// Killed is not yet gone from /proc; a cgroup is empty when its processes can do nothing any more.
			eventually(t, "the dead manager's tree is left", func() bool { return len(marked("MARK="+mark)) == 0 })
			if b == Cgroup2 {
				left, _ := filepath.Glob(filepath.Join(filepath.Dir(m.backend.(*cgroups).root), fmt.Sprintf("cmgr-jobtest-%d*", p.PID())))
				if len(left) > 0 {
					t.Errorf("cgroups are left: %v", left)
				}
			}
		})
	}
}

// A record that names what is not ours is not followed.
func TestRecordIsNotTrusted(t *testing.T) {
	for _, text := range []string{"/", "/tmp", "/sys/fs/cgroup", "relative"} {
		state := t.TempDir()
		if err := os.WriteFile(filepath.Join(state, "jobs.lock"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := Open(Options{State: state}); err == nil {
			// Only what isn't there is passed over.
			if _, serr := os.Stat(text); serr == nil {
				t.Errorf("%q was accepted", text)
			}
			m.Close()
		}
	}
}

// Kill of what does not die in time says who remains.
func TestKillSaysWhoRemains(t *testing.T) {
	m := open(t, Cgroup2)
	j := newJob(t, m, "/slow")
	ends := make(chan Status, 1)
	pid, err := j.Start(sh("sleep 1000"), func(st Status) { ends <- st })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("no time"))
	// Waiting alone, without the order to kill, is as waiting for a process that no signal reaches.
	err = m.backend.(*cgroups).wait(ctx, j)
	var remain *RemainError
	if !errors.As(err, &remain) || !slices.Contains(remain.PIDs, pid) || !strings.Contains(err.Error(), "no time") {
		t.Errorf("wait = %v, want process %d named", err, pid)
	}
	if err := errors.Join(j.Kill(within(t)), j.Close()); err != nil {
		t.Error(err)
	}
	await(t, ends)
}

func TestNames(t *testing.T) {
	m := open(t, Cgroup2)
	var jobs []*Job
	paths := map[string]bool{}
	long := "/a/" + strings.Repeat("x/", 300)
	for _, name := range []string{"/", "/core/net", "/core/net", "/cgroup.procs", long, "..", "/jobs:import-7"} {
		j := newJob(t, m, name)
		if filepath.Dir(j.Path()) != m.backend.(*cgroups).root || paths[j.Path()] {
			t.Errorf("%q has path %s", name, j.Path())
		}
		paths[j.Path()] = true
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A closed job does nothing to its successor of the same name.
func TestClosedJobIsHarmless(t *testing.T) {
	eachBackend(t, func(t *testing.T, m *Manager) {
		old := newJob(t, m, "/same")
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		j := newJob(t, m, "/same")
		ends := make(chan Status, 1)
		if _, err := j.Start(Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}, func(st Status) { ends <- st }); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(old.Kill(within(t)), old.Close()); err != nil {
			t.Error(err)
		}
		if err := old.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("Signal = %v", err)
		}
		if _, err := old.Start(sh("exit 0"), func(Status) {}); err == nil {
			t.Error("a closed job started something")
		}
		if pids, err := j.Processes(); err != nil || len(pids) != 1 || len(ends) > 0 {
			t.Errorf("Processes = %v, %v; want one", pids, err)
		}
		if err := errors.Join(j.Kill(within(t)), j.Close()); err != nil {
			t.Error(err)
		}
	})
}

// A component may make cgroups of its own in its job.
func TestNestedCgroups(t *testing.T) {
	m := open(t, Cgroup2)
	j := newJob(t, m, "/nester")
	ends := make(chan Status, 1)
	inner := j.Path() + "/a/b"
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Cgroup: inner}
	p, err := m.launcher.Start(s, func(st Status) { ends <- st })
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := j.Processes(); err != nil || !slices.Equal(pids, []int{p.PID()}) {
		t.Errorf("Processes = %v, %v; want %d", pids, err, p.PID())
	}
	if err := errors.Join(j.Kill(within(t)), j.Close()); err != nil {
		t.Error(err)
	}
	await(t, ends)
	if _, err := os.Stat(j.Path()); !os.IsNotExist(err) {
		t.Errorf("%s: %v", j.Path(), err)
	}
}
