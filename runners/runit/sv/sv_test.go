package sv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

func TestMain(m *testing.M) {
	// The suite's init script is called web.
	os.Exit(runittest.Main(map[string]runittest.Program{"sv": Main, "web": Main}, func() int { return leak.Run(m) }))
}

func TestSuite(t *testing.T) {
	runittest.Suite(t, []string{"SV=" + runittest.Link(t, "sv")}, "sv", "ext/*_sv_*", "better/sv_*")
}

// With the original's runsv, runsvdir, svlogd and chpst.
func TestInterop(t *testing.T) {
	for _, tool := range []string{"runsv", "runsvdir", "svlogd", "chpst"} {
		needs.Tool(t, tool)
	}
	runittest.Suite(t, []string{"SV=" + runittest.Link(t, "sv")}, "interop")
}

// A fake is a service whose supervisor is the test.
type fake struct {
	t    *testing.T
	dir  string
	held *servicedir.Held
	fifo int
}

func newFake(t *testing.T, dir string, s servicedir.Status) *fake {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	f := &fake{t: t, dir: dir}
	if f.held, err = servicedir.Hold(fd, false, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.held.Close)
	if f.fifo, err = f.held.OpenControl(); err != nil {
		t.Fatal(err)
	}
	f.set(s)
	if err := errors.Join(f.held.MakeOK(), f.held.OpenOK()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fake) set(s servicedir.Status) {
	f.t.Helper()
	if err := f.held.Write(s, false); err != nil {
		f.t.Fatal(err)
	}
}

// got is what was sent.
func (f *fake) got() string {
	var b [64]byte
	n, _ := unix.Read(f.fifo, b[:])
	return string(b[:max(n, 0)])
}

// sv runs Main in dir.
func sv(t *testing.T, dir string, args ...string) (code int, out, errs string) {
	t.Chdir(dir)
	var stdout, stderr bytes.Buffer
	code = Main(append([]string{"sv"}, args...), os.Stdin, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func running(since time.Time) servicedir.Status {
	return servicedir.Status{Since: since, PID: 12, Want: 'u', State: servicedir.Run}
}

// Every status, with and without ./down, is told as the original tells it; and trouble of all kinds.
func TestSaysWhatTheOriginalSays(t *testing.T) {
	original := needs.Tool(t, "sv")
	dir := t.TempDir()
	f := newFake(t, dir+"/f", running(time.Now()))
	for _, d := range []string{"none", "nolog", "badlog", "nosup"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	newFake(t, dir+"/nolog", running(time.Now().Add(-time.Hour)))
	if err := os.WriteFile(dir+"/nolog/log", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	short := newFake(t, dir+"/short", running(time.Now()))
	if err := os.WriteFile(short.dir+"/supervise/status", []byte("too short"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	age := regexp.MustCompile(`\b\d+s\b`)
	compare := func(args ...string) {
		t.Helper()
		c := exec.Command(original, args...)
		var stdout, stderr bytes.Buffer
		c.Stdout, c.Stderr = &stdout, &stderr
		_ = c.Run()
		theirs := f.got()
		var out, errs bytes.Buffer
		code := Main(append([]string{"sv"}, args...), os.Stdin, &out, &errs)
		ours := f.got()
		mask := func(s string) string { return age.ReplaceAllString(s, "Ns") }
		got := fmt.Sprintf("%d, %q, %q, sent %q", code, mask(out.String()), &errs, ours)
		want := fmt.Sprintf("%d, %q, %q, sent %q", c.ProcessState.ExitCode(), mask(stdout.String()), &stderr, theirs)
		if got != want {
			t.Errorf("sv %s: %s\noriginal: %s", strings.Join(args, " "), got, want)
		}
	}
	for i := range 3 * 2 * 3 * 2 * 2 * 2 {
		pick := func(n int) (k int) { k = i % n; i /= n; return k }
		s := servicedir.Status{
			Since: time.Now().Add(-90 * time.Second), State: servicedir.State(pick(3)), PID: uint32(pick(2) * 4321),
			Want: "ud\x00"[pick(3)], Paused: pick(2) == 1, Term: pick(2) == 1,
		}
		if pick(2) == 1 {
			if err := os.WriteFile("f/down", nil, 0o644); err != nil {
				t.Fatal(err)
			}
		} else {
			os.Remove("f/down")
		}
		f.set(s)
		compare("status", "./f")
	}
	f.set(running(time.Now().Add(-90 * time.Second)))
	newFake(t, dir+"/logged", running(time.Now().Add(-time.Hour)))
	newFake(t, dir+"/logged/log", servicedir.Status{Since: time.Now().Add(-time.Hour), Want: 'd'})
	some := []string{"./f", "./logged", "./logged/log", dir + "/f", "./nolog", "./none", "f"}
	compare(append([]string{"status"}, slices.Repeat(some, 40)...)...)
	for _, args := range [][]string{
		{"status", "./none", "./nope", "./file", "", "f", "f/"},
		{"status", "./nolog"},
		{"status", "./short"},
		{"-v", "hup", "./f", "./nope", "./none"},
		{"-w", "3", "cont", "./f"},
		{"-vw3", "1", "./f"},
		{"-w3", "once", "./none"},
		{"-w1", "check", "./f"},
		{"stat", "--", "./f"},
		{"--", "-x", "./f"},
		{},
		{"-v"},
		{"-w"},
		{"-q", "status", "./f"},
		{"resta", "./f"},
		{"force-", "./f"},
		{"", "./f"},
		{"shut", "./f"},
		{"startle", "./f"},
		{"check-it", "./f"},
		{"try", "./f"},
	} {
		compare(args...)
	}
}

func TestVersion(t *testing.T) {
	code, out, errs := sv(t, t.TempDir(), "-V", "status", "x")
	if lines := strings.Split(errs, "\n"); code != 100 || out != "" || lines[0] != "$Id: cmgr $" || !strings.HasPrefix(lines[1], "usage: sv ") {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
}

// The original reports the process that is about to be ended as the new one.
func TestRestartInTheSameSecond(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir+"/f", running(time.Now()))
	code, out, _ := sv(t, dir, "-w", "1", "restart", "./f")
	if code != 1 || !strings.HasPrefix(out, "timeout: run: ./f: (pid 12) ") || f.got() != "tcu" {
		t.Errorf("%d, %q", code, out)
	}
	f.set(running(time.Now().Add(time.Second)))
	if code, out, _ := sv(t, dir, "-w", "1", "restart", "./f"); code != 0 || !strings.HasPrefix(out, "ok: ") {
		t.Errorf("%d, %q", code, out)
	}
}

// In the wait, the original looks for a name that ends with a slash in SVDIR.
func TestTrailingSlash(t *testing.T) {
	dir := t.TempDir()
	newFake(t, dir+"/f", running(time.Now()))
	t.Setenv("SVDIR", "/nowhere")
	if code, out, _ := sv(t, dir, "-v", "up", "f/"); code != 0 || !strings.HasPrefix(out, "ok: run: f/: ") {
		t.Errorf("%d, %q", code, out)
	}
}

// The original takes what the status says for what is still true when the command is read.
func TestAlwaysSends(t *testing.T) {
	dir := t.TempDir()
	f := newFake(t, dir+"/f", running(time.Now()))
	if code, _, _ := sv(t, dir, "up", "./f"); code != 0 || f.got() != "u" {
		t.Error("up was not sent")
	}
}

// The original adds a second line, with the service's status for the log's.
func TestLogWithoutSupervisor(t *testing.T) {
	dir := t.TempDir()
	newFake(t, dir+"/f", running(time.Now()))
	if err := os.Mkdir(dir+"/f/log", 0o755); err != nil {
		t.Fatal(err)
	}
	code, out, _ := sv(t, dir, "status", "./f")
	want := regexp.MustCompile(`^run: \./f: \(pid 12\) \d+s; warning: \./f/log: unable to open supervise/ok: file does not exist\n$`)
	if code != 1 || !want.MatchString(out) {
		t.Errorf("%d, %q", code, out)
	}
}

func TestInitScriptWithLog(t *testing.T) {
	dir := t.TempDir()
	newFake(t, dir+"/web", running(time.Now()))
	newFake(t, dir+"/web/log", servicedir.Status{Since: time.Now(), Want: 'd'})
	t.Setenv("SVDIR", dir)
	var out bytes.Buffer
	if code := Main([]string{"/etc/init.d/web", "status"}, os.Stdin, &out, &out); code != 0 {
		t.Errorf("%d, %q", code, &out)
	}
}

func TestDefaultDirectory(t *testing.T) {
	defer func(dirs []string) { defaultDirs = dirs }(defaultDirs)
	there := t.TempDir()
	defaultDirs = []string{there + "/none", there, t.TempDir()}
	if got := defaultDir(); got != there {
		t.Error(got)
	}
	defaultDirs = []string{"/none/1", "/none/2"}
	if got := defaultDir(); got != "/none/1" {
		t.Error(got)
	}
}

// What is over in the same round is told in the order of the arguments, and at once when all is over.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	a, b := newFake(t, dir+"/a", running(time.Now())), newFake(t, dir+"/b", running(time.Now()))
	ordered := regexp.MustCompile(`^ok: down: \./a: .*\nok: down: \./b: .*\n$`)
	// That a round ends between the end of the one and that of the other is the scheduler's choice; never always.
	for try := 1; ; try++ {
		a.set(running(time.Now()))
		b.set(running(time.Now()))
		over := make(chan struct{})
		go func() {
			for _, f := range []*fake{b, a} {
				for f.got() == "" {
					time.Sleep(time.Millisecond)
				}
				f.set(servicedir.Status{Since: time.Now(), Want: 'd'})
			}
			close(over)
		}()
		start := time.Now()
		code, out, _ := sv(t, dir, "-w", "600", "stop", "./a", "./b")
		<-over
		if took := time.Since(start); code != 0 || took > 5*time.Minute {
			t.Fatalf("%d, %q, took %v", code, out, took)
		}
		if ordered.MatchString(out) {
			return
		} else if try == 20 {
			t.Fatalf("%q", out)
		}
	}
}

// A check that fails is made again each 0.42 s, not more often.
func TestChecksOnceARound(t *testing.T) {
	dir := t.TempDir()
	newFake(t, dir+"/f", running(time.Now()))
	if err := os.WriteFile(dir+"/f/check", []byte("#!/bin/sh\necho >> made\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for seconds := 2; ; seconds *= 4 { // how long one takes is the machine's choice
		os.Remove(dir + "/f/made")
		if code, out, _ := sv(t, dir, "-w", fmt.Sprint(seconds), "check", "./f"); code != 1 || !strings.HasPrefix(out, "timeout: ") {
			t.Errorf("%d, %q", code, out)
		}
		made, err := os.ReadFile(dir + "/f/made")
		most := 2 + int(time.Duration(seconds)*time.Second/again)
		if len(made) > most || len(made) < 2 && seconds > 100 {
			t.Fatalf("%d checks in %d seconds, %v; want 2 to %d", len(made), seconds, err, most)
		} else if len(made) >= 2 {
			return
		}
	}
}

func TestHangingCheckIsKilledWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	newFake(t, dir+"/f", running(time.Now()))
	script := fmt.Sprintf("#!/bin/sh\nsleep 1000 & echo $! > %s/pid\nwait\n", dir)
	if err := os.WriteFile(dir+"/f/check", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var pid []byte
	for seconds := 1; len(pid) == 0; seconds *= 4 { // on a busy machine the script may not come so far
		if seconds > 300 {
			t.Fatal("the script does not begin")
		}
		if code, out, _ := sv(t, dir, "-w", fmt.Sprint(seconds), "check", "./f"); code != 1 || !strings.HasPrefix(out, "timeout: ") {
			t.Errorf("%d, %q", code, out)
		}
		pid, _ = os.ReadFile(dir + "/pid")
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		// The kernel ends it after kill has returned.
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("process %s still runs", pid)
}
