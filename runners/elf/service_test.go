package elf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runnertest"
)

// shell is a command of a block: a shell script.
func shell(script string) []string { return []string{"/bin/sh", "-c", script, "sh"} }

// TestServiceContract: a program with a check, a log and what follows its end keeps the contract.
func TestServiceContract(t *testing.T) {
	for _, backend := range []string{job.Cgroup2, job.Subreaper, job.Cgroup2 + " confined"} {
		t.Run(backend, func(t *testing.T) {
			r := newRig(t, backend)
			blocks := map[runnertest.Behaviour]runners.Block{
				runnertest.ExitZero:     sh("echo running"),
				runnertest.ExitSeven:    sh("echo running; exit 7"),
				runnertest.UntilStopped: sh("trap 'exit 0' TERM; echo running; while :; do sleep 1000 & wait; done"),
				runnertest.IgnoresStop:  sh("trap '' TERM; echo running; while :; do sleep 1000; done"),
				runnertest.Prints:       self(t, "print"),
				runnertest.NeverStarts:  block("binary", "/no/such/program"),
				runnertest.NeverReady:   sh("exec sleep 1000", "check", "/bin/false"),
			}
			runnertest.Run(t, runnertest.Kit{
				Runner: r,
				Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
					p := blocks[b]
					p.Info = append(slices.Clone(p.Info), block("log", "/bin/cat", "finish", []string{"/bin/true"}).Info...)
					if b == runnertest.UntilStopped || b == runnertest.IgnoresStop {
						p.Info = append(p.Info, block("check", "/bin/true").Info...)
					}
					return runners.StartInfo{Program: p, Namespace: r.entries(t)}, true
				},
			})
		})
	}
}

// TestService: the end of a run, with finish told how it was, and all of the output through the log.
func TestService(t *testing.T) {
	for _, c := range []struct {
		script, finish string
		code           int
		signal         syscall.Signal
	}{
		{"echo up; exit 3", "finish 3 0", 3, 0},
		{"echo up; kill -9 $$", "finish -1 9", -1, syscall.SIGKILL},
	} {
		r := strongest(t)
		p := r.start(t, sh(c.script, "finish", shell(`echo "finish $*"`), "log", shell("sed 's/^/log: /'")))
		p.line("log: up")
		p.line("log: " + c.finish)
		p.ends(c.code, c.signal, runners.BySelf)
	}
}

// TestServiceStop: a stop is the main program's, and finish follows it; a kill is followed by it too.
func TestServiceStop(t *testing.T) {
	r := strongest(t)
	script := "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 1000 & wait; done"
	p := r.start(t, sh(script, "finish", shell(`echo "finish $*"`)))
	p.line("up")
	p.ask()
	p.line("bye")
	p.line("finish 4 0")
	p.ends(4, 0, runners.ByStop)

	p = r.start(t, sh(script, "finish", shell(`echo "finish $*"`)))
	p.line("up")
	p.Kill(t.Context())
	p.line("finish -1 9")
	p.ends(-1, syscall.SIGKILL, runners.ByKill)
}

// TestServiceKill: a second kill, or one that comes while finish runs, ends that; what finish started does not outlive it.
func TestServiceKill(t *testing.T) {
	r := strongest(t)
	p := r.start(t, sh("echo up", "finish", shell("sleep 1000 & echo finishing; wait"), "log", shell("cat; exec sleep 1000")))
	p.line("up")
	p.line("finishing")
	p.Kill(t.Context())
	p.ends(0, 0, runners.BySelf)
	if rest, err := io.ReadAll(p.out); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	pids, err := p.Program.(runners.ProcessLister).Processes(t.Context())
	if len(pids) > 0 || err != nil {
		t.Errorf("processes %v, %v", pids, err)
	}
}

// TestServiceCheck: it has started when its check succeeds, and its own end before is told with how it ended.
func TestServiceCheck(t *testing.T) {
	r := strongest(t)
	file := filepath.Join(t.TempDir(), "ready")
	r.start(t, sh(fmt.Sprintf("sleep 0.3; : >%q; exec sleep 1000", file), "check", []string{"/usr/bin/test", "-e", file}))
	if _, err := os.Stat(file); err != nil {
		t.Errorf("started before its check can have succeeded: %v", err)
	}
}

func TestServiceCheckRefused(t *testing.T) {
	r := strongest(t)
	_, _, err := r.try(t, t.Context(), sh("sleep 0.1; exit 5", "check", "/bin/false"))
	var e *runners.Error
	if !errors.As(err, &e) || e.Exit == nil || e.Exit.Code != 5 || !strings.Contains(err.Error(), "before its check succeeded") {
		t.Errorf("%v", err)
	}
	_, _, err = r.try(t, t.Context(), sh("exec sleep 1000", "check", "/no/such/check"))
	if capabilities.CodeOf(err) != capabilities.NotFound || !strings.Contains(err.Error(), "start /test: check: ") {
		t.Errorf("%v", err)
	}
	_, _, err = r.try(t, t.Context(), sh("exec sleep 1000", "log", "/no/such/log"))
	if capabilities.CodeOf(err) != capabilities.NotFound || !strings.Contains(err.Error(), "start /test: log: ") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := filepath.Join(t.TempDir(), "asked")
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if _, err := os.Stat(asked); err == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, _, err = r.try(t, ctx, sh("exec sleep 1000", "check", shell(": >"+asked+"; exit 1")))
	cancel()
	if capabilities.CodeOf(err) != capabilities.Unavailable || !strings.Contains(err.Error(), "its check has not succeeded yet") {
		t.Errorf("%v", err)
	}
}

// TestServiceLogRestarts: a log that ends is started again, and nothing that was written meanwhile is lost.
func TestServiceLogRestarts(t *testing.T) {
	r := strongest(t)
	// Its log takes one line at a time, byte by byte, and ends.
	p := r.start(t, sh("for i in 1 2 3; do echo $i; done; exec sleep 1000", "log", shell(`read -r l; echo "log: $l"`)))
	for i := range 3 {
		p.line(fmt.Sprint("log: ", i+1))
	}
	p.Kill(t.Context())
	wait(t, p)
	if !strings.Contains(r.log.String(), "the log has ended, and is started again") {
		t.Errorf("told: %s", r.log)
	}
}

// TestServiceLogEnds: what the log had not read when the main program ended, it reads before the end.
func TestServiceLogEnds(t *testing.T) {
	r := strongest(t)
	p := r.start(t, sh("for i in 1 2 3; do echo $i; done", "log", shell(`read -r l; echo "log: $l"`)))
	p.ends(0, 0, runners.BySelf)
	all, err := io.ReadAll(p.out)
	if string(all) != "log: 1\nlog: 2\nlog: 3\n" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}

// TestServiceProcesses: all its programs are its own, the main one first.
func TestServiceProcesses(t *testing.T) {
	needs.Cgroup2(t)
	r := newRig(t, job.Cgroup2)
	p := r.start(t, sh("echo $$; exec sleep 1000", "log", "/bin/cat"))
	pids, err := p.Program.(runners.ProcessLister).Processes(t.Context())
	if len(pids) != 2 || err != nil {
		t.Fatalf("processes %v, %v", pids, err)
	}
	p.line(fmt.Sprint(pids[0]))
	st, err := p.Program.(runners.Measurer).Stats(t.Context())
	if st.Processes != 2 || st.Memory <= 0 || err != nil {
		t.Errorf("stats %+v, %v", st, err)
	}
	var keys []string
	for _, d := range p.Program.(runners.Describer).Describe() {
		keys = append(keys, d.Key)
	}
	if want := []string{"Job ID", "Process ID", "Log Job ID", "Log Process ID"}; !slices.Equal(keys, want) {
		t.Errorf("describes %q, want %q", keys, want)
	}
	if err := p.Program.(runners.Signaler).Signal(t.Context(), syscall.SIGUSR1); err != nil {
		t.Error(err)
	}
	p.ends(-1, syscall.SIGUSR1, runners.BySelf)
}

// TestServiceConfined: its other programs are in a world like the main one's, and find what was routed.
func TestServiceConfined(t *testing.T) {
	r := newRig(t, job.Cgroup2+" confined")
	dir := t.TempDir()
	r.info.Namespace = []runners.NamespaceEntry{entry(t, "/data", dir, manifest.RightsRW)}
	p := r.start(t, sh("echo up >/data/state; exit 6",
		"finish", shell(`echo "$1 $(cat /data/state)"; ls /root /home 2>&1 | grep -c .; echo $$`)))
	p.line("6 up")
	p.line("2")
	p.line("1")
	p.ends(6, 0, runners.BySelf)
	if b, err := os.ReadFile(dir + "/state"); string(b) != "up\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
