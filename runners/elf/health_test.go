package elf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// slow is the timeout in ms of a check whose answer counts, however busy the machine is.
const slow = "120000"

// checkedPackage makes a package whose bin/check is that script.
func checkedPackage(t *testing.T, r *rig, check string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/check"), []byte("#!/bin/sh\n"+check+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.info.Package.Dir = dir
	return dir
}

// told is what OnUnhealthy says.
func told(p runners.Program) <-chan string {
	why := make(chan string, 1)
	p.(runners.HealthNotifier).OnUnhealthy(func(s string) { why <- s })
	return why
}

func awaitTold(t *testing.T, why <-chan string) string {
	t.Helper()
	select {
	case s := <-why:
		return s
	case <-time.After(bound):
		t.Fatal("nobody says that it is unhealthy")
		return ""
	}
}

func TestHealth(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		dir := checkedPackage(t, r, `echo "I am $CMGR_MONIKER in $(pwd) with $A"; echo " not $1 "; echo; [ -e ok ] || exit 3`)
		ok := filepath.Join(dir, "ok")
		if err := os.WriteFile(ok, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		p := r.start(t, sh("trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done", "environ", []string{"A=a b"},
			"health.exec", []string{"bin/check", "ok"}, "health.interval_ms", "20", "health.retries", "2", "health.timeout_ms", slow))
		p.line("up")
		passing := runners.Detail{Key: "Health", Value: "passing"}
		for end := time.Now().Add(bound); !slices.Contains(p.Program.(runners.Describer).Describe(), passing); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it is described as %q", p.Program.(runners.Describer).Describe())
			}
		}
		why := told(p.Program)
		if err := os.Remove(ok); err != nil {
			t.Fatal(err)
		}
		const want = "2 health checks failed in a row: exited code=3: not ok"
		if got := awaitTold(t, why); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
		if got := awaitTold(t, told(p.Program)); got != want {
			t.Errorf("who asks late is told %q", got)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if x := wait(t, p); x.Cause != runners.ByHealth || x.Code != 0 || x.OK() || x.Well() || x.Detail != want {
			t.Errorf("it ended as %v", x)
		}
	})
}

// A check that hangs is ended with all that it has started, and so is one when the program ends.
func TestHealthCheckHangs(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		mark := fmt.Sprintf("1000.%d%d", os.Getpid(), time.Now().UnixNano())
		checkedPackage(t, r, "setsid sleep "+mark+" & echo hanging; sleep "+mark)
		exec := []any{"health.exec", []string{"bin/check"}, "health.interval_ms", "1", "health.start_ms", "0", "health.retries", "1"}
		p := r.start(t, sh("exec sleep 1000", append(exec, "health.timeout_ms", "300")...))
		const want = "its health check failed: no answer within 300ms" // and what it had said by then
		if got := awaitTold(t, told(p.Program)); !strings.HasPrefix(got, want) {
			t.Errorf("it says %q, want %q", got, want)
		}
		if left := withArgument(mark); len(left) > 0 {
			t.Errorf("of the check %v are left", left)
		}
		if err := p.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if x := wait(t, p); x.Cause != runners.ByHealth || x.Critical {
			t.Errorf("it ended as %v", x)
		}

		p = r.start(t, sh("exec sleep 1000", append(exec, "health.timeout_ms", "3600000")...))
		for end := time.Now().Add(bound); len(withArgument(mark)) < 2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("there is no check")
			}
		}
		if err := p.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if x := wait(t, p); x.Cause != runners.ByKill {
			t.Errorf("it ended as %v", x)
		}
		if left := withArgument(mark); len(left) > 0 {
			t.Errorf("after the program's end %v of its check are left", left)
		}
	})
}

// withArgument are the processes with an argument that is arg.
func withArgument(arg string) (pids []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.Contains("\x00"+string(b), "\x00"+arg+"\x00") {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// What is unhealthy before it is ready does not start.
func TestHealthNotReady(t *testing.T) {
	r := strongest(t)
	r.Policy = func(string, name.Moniker) bool { return true }
	b := sh("exec sleep 1000", "ready", "lifecycle", "health.exec", []string{"/bin/false"}, "health.retries", "2",
		"health.timeout_ms", slow, "health.start_ms", "0", "health.interval_ms", "1", "main_process_critical", "true")
	p, _, err := r.try(t, t.Context(), b)
	e, ok := errors.AsType[*runners.Error](err)
	if p != nil || !ok || err.Error() != "start /test: it was not ready: 2 health checks failed in a row: exited code=1" {
		t.Fatalf("got %v", err)
	}
	if e.Exit == nil || e.Exit.Cause != runners.ByHealth || !e.Exit.Critical {
		t.Errorf("it ended as %v", e.Exit)
	}
	b = sh("exec sleep 1000", "health.exec", []string{"bin/none"})
	p, _, err = r.try(t, t.Context(), b)
	if p != nil || err == nil || !strings.Contains(err.Error(), "program.health.exec: bin/none in ") {
		t.Errorf("a check that is not there: %v", err)
	}

	// While it starts, failures don't count; a start that is given up leaves nothing.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	b = sh("exec sleep 1000", "ready", "lifecycle", "health.exec", []string{"/bin/false"}, "health.retries", "1",
		"health.interval_ms", "1", "health.start_ms", "3600000")
	if p, _, err := r.try(t, ctx, b); p != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestLastLine(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for said, want := range map[string]string{
		"": "", "\n\n": "", "a\nb": "b", "a\nb\n\n": "b", "a\r\n": "a", "\x1b[31mred\x07": "[31mred",
		strings.Repeat("line\n", 5000) + "end\n": "end", long: long[:200],
	} {
		got := lastLine(strings.NewReader(said))
		if got != want && (said != long || len(got) == 0 || len(got) > 1000 || strings.Trim(got, "x") != "") {
			t.Errorf("of %.20q… it takes %q, want %q", said, got, want)
		}
	}
}

// What has a check, a finish or a log is checked as any other, and only its main program is.
func TestHealthOfService(t *testing.T) {
	r := strongest(t)
	dir := checkedPackage(t, r, "exit 1")
	p := r.start(t, sh("exec sleep 1000", "check", "/bin/true", "finish", []string{"/bin/sh", "-c", "echo $2 >" + dir + "/finished", "-"},
		"health.exec", []string{"bin/check"}, "health.interval_ms", "1", "health.retries", "3", "health.start_ms", "0", "health.timeout_ms", slow))
	const want = "3 health checks failed in a row: exited code=1"
	if got := awaitTold(t, told(p.Program)); got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x := wait(t, p); x.Cause != runners.ByHealth || x.Detail != want {
		t.Errorf("it ended as %v", x)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "finished")); err != nil || string(b) != "15\n" {
		t.Errorf("what is to follow its end found %q, %v", b, err)
	}
}
