package runsv

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
)

func TestMain(m *testing.M) {
	os.Exit(runittest.Main(map[string]runittest.Program{"runsv": Main}, func() int { return leak.Run(m) }))
}

func TestSuite(t *testing.T) {
	runittest.Suite(t, []string{"RUNSV=" + runittest.Link(t, "runsv")}, "runsv", "better/runsv_*")
}

// With the original's sv, runsvdir, svlogd and chpst.
func TestInterop(t *testing.T) {
	for _, tool := range []string{"sv", "runsvdir", "svlogd", "chpst"} {
		needs.Tool(t, tool)
	}
	runittest.Suite(t, []string{"RUNSV=" + runittest.Link(t, "runsv")}, "interop")
}

// What goes wrong at the start is told, with the same code, as the original tells it.
func TestSaysWhatTheOriginalSays(t *testing.T) {
	original := needs.Tool(t, "runsv")
	dir := t.TempDir()
	for _, d := range []string{"fifo/supervise/control", "ok/supervise/ok", "nolock/supervise/lock"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"long": strings.Repeat("x/", 128), "nowhere": "a/b/c",
	} {
		if err := os.Mkdir(filepath.Join(dir, link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, link, "supervise")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ours := runittest.Link(t, "runsv")
	for _, args := range [][]string{{}, {"a", "b"}, {"none"}, {"file"}, {"fifo"}, {"nolock"}, {"long"}, {"nowhere"}, {""}} {
		run := func(path string) (string, int) {
			c := exec.Command(path, args...)
			c.Args[0], c.Dir = "runsv", dir
			var out bytes.Buffer
			c.Stderr = &out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			end := time.AfterFunc(3*time.Minute, func() { c.Process.Kill() })
			defer end.Stop()
			c.Wait()
			return out.String(), c.ProcessState.ExitCode()
		}
		want, wantCode := run(original)
		if got, code := run(ours); got != want || code != wantCode {
			t.Errorf("runsv %q: %q, %d, want %q, %d", args, got, code, want, wantCode)
		}
	}
}

// start starts our runsv in a service directory with this ./run, which must write to the file ready.
func start(t *testing.T, script string, prepare func(*exec.Cmd)) (*exec.Cmd, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/run", []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(runittest.Link(t, "runsv"), dir)
	if prepare != nil {
		prepare(c)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		end := time.AfterFunc(3*time.Minute, func() { c.Process.Kill() })
		defer end.Stop()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(dir + "/ready"); err == nil && len(b) > 0 {
			return c, strings.TrimSpace(string(b))
		}
		if time.Now().After(end) {
			t.Fatal("./run was not started")
		}
	}
}

// nohup runsv: what it ignores its services ignore too.
func TestIgnoredHangup(t *testing.T) {
	runittest.Unignore(t)
	for what, want := range map[string]string{"trap '' HUP INT; ": "0000000000000003", "": "0000000000000000"} {
		_, got := start(t, "grep SigIgn /proc/$$/status > ready; exec sleep 1000", func(c *exec.Cmd) {
			c.Args = []string{"sh", "-c", what + `exec "$0" "$1"`, c.Path, c.Args[1]}
			c.Path = "/bin/sh"
		})
		if _, got, _ = strings.Cut(got, "\t"); got != want {
			t.Errorf("with %q ignored: %s, want %s", what, got, want)
		}
	}
}

var kills = flag.Int("kills", 200, "how often TestKilled kills runsv")

// However often runsv is killed, at whatever moment: there is never a second copy of the service, no line is lost or comes twice,
// and the next runsv controls what the last one started.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	dir := t.TempDir()
	runittest.Counter(t, dir)
	reap := runittest.Subreaper(t)
	path := runittest.Link(t, "runsv")
	begin := func() int {
		p, err := os.StartProcess(path, []string{"runsv", dir}, &os.ProcAttr{Files: []*os.File{nil, nil, nil}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release()
		return p.Pid
	}
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range *kills {
		pid := begin()
		// Half of them hit the first moments, when everything is started.
		time.Sleep(time.Duration(random.IntN([]int{20_000, 300_000}[random.IntN(2)])) * time.Microsecond)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		reap(pid)
	}
	pid := begin()
	time.Sleep(1500 * time.Millisecond) // a restart or two
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	reap(pid)
	reap(0)
	runittest.Counted(t, dir)
}

// Orphans of a service are not runsv's children.
func TestOrphansGoToTheirReaper(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	c, pid := start(t, "(sleep 1000 & echo $! > ready); exec sleep 1000", nil)
	stat, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(stat), "\nPPid:\t"+strconv.Itoa(c.Process.Pid)+"\n") {
		t.Errorf("it is: %s", stat)
	}
	orphan, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Kill(orphan, unix.SIGKILL)
	_, _ = unix.Wait4(orphan, nil, 0, nil)
}
