package runit_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runit"
	"github.com/cmgr/cmgr/runners/runnertest"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

func newRunner(t *testing.T, backend string) *runit.Runner {
	t.Helper()
	loop, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loop.Close() })
	jobs, err := job.Open(job.Options{Name: "runittest", Backend: backend, Loop: loop})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := jobs.Close(); err != nil {
			t.Error(err)
		}
	})
	r, err := runit.New(runit.Config{Jobs: jobs, Loop: loop})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// service makes a service directory of scripts, by name, in a package of its own.
func service(t *testing.T, scripts ...string) runners.StartInfo {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(scripts); i += 2 {
		path := filepath.Join(dir, "sv", scripts[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+scripts[i+1]+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return runners.StartInfo{Moniker: "/test", Package: runners.Package{Dir: dir}, Program: block("service_dir", "sv")}
}

func block(pairs ...string) (b runners.Block) {
	for i := 0; i < len(pairs); i += 2 {
		b.Info = append(b.Info, manifest.Entry{Key: pairs[i], Value: manifest.String(pairs[i+1])})
	}
	return b
}

func TestContract(t *testing.T) {
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	const wait = "sleep 1000 & wait $!"
	scripts := map[runnertest.Behaviour][]string{
		// A service ends by being told to: it says so itself, as `sv exit` does.
		runnertest.ExitZero:     {"run", "trap 'exit 0' TERM; echo running; printf x >supervise/control; " + wait},
		runnertest.ExitSeven:    {"run", "trap 'exit 7' TERM; echo running; printf x >supervise/control; " + wait},
		runnertest.UntilStopped: {"run", "trap 'exit 0' TERM; echo running; " + wait},
		runnertest.IgnoresStop:  {"run", "trap '' TERM; echo running; while :; do sleep 1000; done"},
		runnertest.Prints: {"run", "trap 'exit 0' TERM; seq -f 'line %.0f' 0 19998; printf 'line 19999'; " +
			"printf x >supervise/control; " + wait},
		runnertest.NeverStarts: {"finish", ":"},
		runnertest.NeverReady:  {"run", "exec sleep 1000", "check", "exit 1"},
	}
	runnertest.Run(t, runnertest.Kit{
		Runner: r,
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			s, ok := scripts[b]
			if !ok {
				return runners.StartInfo{}, false
			}
			return service(t, s...), true
		},
	})
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

// eventually waits until the file has text.
func eventually(t *testing.T, path string, ok func(string) bool) string {
	t.Helper()
	for deadline := time.Now().Add(bound); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if err == nil && ok(string(b)) {
			return string(b)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %q, %v", path, b, err)
		}
	}
}

// TestServiceDirectory: run, finish with its arguments, check, control scripts and the log, a restart, and the end of what has left its
// parent.
func TestServiceDirectory(t *testing.T) {
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	info := service(t,
		"run", `trap 'exit 3' TERM; echo "started as $CMGR_MONIKER"
			{ [ -e daemon ] || setsid sh -c 'echo $$ >daemon.new; mv daemon.new daemon; exec sleep 1000'; } >/dev/null 2>&1 &
			sleep 1000 >/dev/null 2>&1 & wait $!; wait $!`,
		"finish", `echo "finish $*"`,
		"check", `[ -s daemon ]`,
		"control/h", `echo hup >asked; exit 0`,
		"log/run", `exec cat >>../lines`,
	)
	dir := filepath.Join(info.Package.Dir, "sv")
	p, err := r.Start(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(context.Background()); wait(t, p) })
	daemon, err := strconv.Atoi(strings.TrimSpace(eventually(t, filepath.Join(dir, "daemon"), func(string) bool { return true })))
	if err != nil {
		t.Fatalf("started before the check succeeded: %v", err)
	}
	control := func(c string) {
		if err := os.WriteFile(filepath.Join(dir, "supervise/control"), []byte(c), 0); err != nil {
			t.Fatal(err)
		}
	}
	control("h")
	eventually(t, filepath.Join(dir, "asked"), func(s string) bool { return s == "hup\n" })
	control("t")
	lines := filepath.Join(dir, "lines")
	eventually(t, lines, func(s string) bool { return strings.Count(s, "started as /test\n") == 2 })
	if err := syscall.Kill(daemon, 0); err != nil {
		t.Errorf("the restart has killed what runsv leaves: %v", err)
	}
	eventually(t, filepath.Join(dir, "supervise/stat"), func(s string) bool { return s == "run\n" })
	control("x")
	if x := wait(t, p); x.Code != 3 || x.Cause != runners.BySelf || x.Detail != "" {
		t.Errorf("exit %v", x)
	}
	// It is dead by now, but whose child it has become may take its time to reap it.
	for deadline := time.Now().Add(bound); syscall.Kill(daemon, 0) != syscall.ESRCH; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the daemon is left")
		}
	}
	b, err := os.ReadFile(lines)
	if want := strings.Repeat("started as /test\nfinish 3 0\n", 2); string(b) != want || err != nil {
		t.Errorf("log %q, %v, want %q", b, err, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "supervise/stat")); string(b) != "down\n" || err != nil {
		t.Errorf("stat %q, %v", b, err)
	}
}

// TestKilled: the files tell the truth after a kill, and the directory can be started again.
func TestKilled(t *testing.T) {
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	info := service(t, "run", "trap '' TERM; while :; do sleep 1000; done", "log/run", "trap '' TERM; while :; do sleep 1000; done")
	for range 3 {
		p, err := r.Start(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Start(t.Context(), info); err == nil || !strings.Contains(err.Error(), "lock") {
			t.Errorf("a second start: %v", err)
		}
		p.Stop(t.Context())
		p.Kill(t.Context())
		if x := wait(t, p); x.Cause != runners.ByKill {
			t.Errorf("exit %v", x)
		}
		for _, half := range []string{"sv", "sv/log"} {
			b, err := os.ReadFile(filepath.Join(info.Package.Dir, half, "supervise/stat"))
			if string(b) != "down\n" || err != nil {
				t.Errorf("%s: stat %q, %v", half, b, err)
			}
		}
	}
}

// TestEndingByItself: what has ended by itself is not told as killed or stopped where that comes before its end has been written.
func TestEndingByItself(t *testing.T) {
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	for i, end := range []func(runners.Program, context.Context) error{runners.Program.Stop, runners.Program.Kill} {
		info := service(t, "run", "trap 'exit 3' TERM; echo >ready; while :; do sleep 0.01; done", "check", "test -e ready")
		p, err := r.Start(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		var look func()
		look = func() {
			if runit.Over(p) {
				_ = end(p, t.Context())
			} else {
				r.Loop.Do(look)
			}
		}
		r.Loop.Do(look)
		if err := os.WriteFile(filepath.Join(info.Package.Dir, "sv/supervise/control"), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		if x := wait(t, p); x.Cause != runners.BySelf || x.Code != 3 {
			t.Errorf("%d: exit %v", i, x)
		}
	}
}

// TestDown: a service with a file down is started when it is supervised, and can be taken up.
func TestDown(t *testing.T) {
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	info := service(t, "run", "exec sleep 1000", "down", "", "check", "exit 1")
	p, err := r.Start(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	sv := filepath.Join(info.Package.Dir, "sv/supervise")
	eventually(t, filepath.Join(sv, "stat"), func(s string) bool { return s == "down\n" })
	if err := os.WriteFile(filepath.Join(sv, "control"), []byte("u"), 0); err != nil {
		t.Error(err)
	}
	eventually(t, filepath.Join(sv, "stat"), func(s string) bool { return s == "run\n" })
	p.Stop(t.Context())
	if x := wait(t, p); x.Signal != syscall.SIGTERM || x.Cause != runners.ByStop {
		t.Errorf("exit %v", x)
	}
}

func TestRefused(t *testing.T) {
	needs.Cgroup2(t)
	r := newRunner(t, job.Cgroup2)
	for _, c := range []struct {
		block runners.Block
		text  string
		why   capabilities.Code
	}{
		{block(), "service_dir: is missing", capabilities.Invalid},
		{block("service_dir", "sv", "binary", "x"), "program.binary: is not a key", capabilities.Invalid},
		{block("service_dir", "../sv"), "outside of the package", capabilities.Denied},
		{block("service_dir", "sw"), "no such file", capabilities.NotFound},
	} {
		info := service(t, "run", "exec sleep 1000")
		info.Program = c.block
		_, err := r.Start(t.Context(), info)
		if err == nil || !strings.Contains(err.Error(), c.text) || capabilities.CodeOf(err) != c.why {
			t.Errorf("%v: %v (%v)", c.block.Info, err, capabilities.CodeOf(err))
		}
	}
}

func TestWithoutCgroup(t *testing.T) {
	r := newRunner(t, job.Subreaper)
	_, err := r.Start(t.Context(), service(t, "run", "exec sleep 1000"))
	if capabilities.CodeOf(err) != capabilities.Unavailable || !strings.Contains(err.Error(), "cgroup v2") {
		t.Error(err)
	}
}
