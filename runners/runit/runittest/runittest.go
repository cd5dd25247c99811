// Package runittest runs runit's programs as programs in tests: each package's test binary is the program that it tests when it
// is called by that name, and the black-box suite beside the checkout is run against it.
package runittest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
)

// A Program is one that the test binary can be. It returns the exit code.
type Program func(args []string, stdin io.Reader, stdout, stderr io.Writer) int

// Main is for TestMain: the program that this process was called as (the test binary through a link, see Link), or run, which
// runs the tests. It returns the exit code.
func Main(programs map[string]Program, run func() int) int {
	if p, ok := programs[filepath.Base(os.Args[0])]; ok {
		return p(os.Args, os.Stdin, os.Stdout, os.Stderr)
	}
	return run()
}

// Unignore has what t starts find hangups and interrupts as usual, although this process may have been started with them ignored
// (nohup, a shell's background).
func Unignore(t testing.TB) {
	t.Helper()
	// What is caught goes back to its default in who is executed.
	c := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(c, s)
			t.Cleanup(func() { signal.Ignore(s) })
		}
	}
}

// Link makes the test binary callable as name, by every user, and returns the path.
func Link(t testing.TB, name string) string {
	t.Helper()
	// Go keeps both the test binary and t.TempDir in directories that are its user's alone.
	dir, err := os.MkdirTemp("", "runittest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Link(exe, filepath.Join(dir, "program"))
	}
	if err == nil {
		err = os.Symlink("program", filepath.Join(dir, name))
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// Same runs shell scripts with our program and with theirs, each in a directory of its own that prepare, a script too, fills.
// By names, which are links in PATH, they find one or the other. Exit code, output and errors must be the same.
func Same(t *testing.T, ours, theirs string, names []string, prepare string, scripts ...string) {
	t.Helper()
	var bins [2]string
	for i, program := range []string{ours, theirs} {
		bins[i] = filepath.Join(t.TempDir(), "bin")
		if err := os.Mkdir(bins[i], 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := os.Symlink(program, filepath.Join(bins[i], name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, script := range scripts {
		var got [2]string
		for i, bin := range bins {
			dir := t.TempDir()
			c := exec.Command("/bin/sh", "-c", prepare+"\n"+script)
			c.Dir, c.Env = dir, []string{"PATH=" + bin + ":/usr/bin:/bin", "LC_ALL=C", "USER=me"}
			var out, errs strings.Builder
			c.Stdout, c.Stderr = &out, &errs
			_ = c.Run() // how it ended is compared
			got[i] = fmt.Sprintf("exit %d, output %q, errors %q", c.ProcessState.ExitCode(), out.String(), errs.String())
			got[i] = strings.NewReplacer(dir, "DIR", bin, "BIN").Replace(got[i])
		}
		if got[0] != got[1] {
			t.Errorf("%s\n%s\nwant %s", script, got[0], got[1])
		}
	}
}

// tooSlow is how the suite says of a case that what it waits for came, but too late; also in an age in seconds, as in [34]s. And its
// recorder of signals notes CONT before TERM, which was sent first, if that comes while it is about to.
var tooSlow = regexp.MustCompile(`\btook [0-9.]+s|^slow\b|\b(started|stage 3) after [0-9.]+s|not acted on within|` +
	`^timestamp is [0-9.]+s after|does not match .*\[\d+\]s|got \['ready', 'CONT'.* want \['ready', 'TERM'`)

// Suite runs the conformance suite's groups or GROUP/PATTERNs with env (NAME=program) for the programs under test; others are the
// real ones. A case that fails is an error of t with the suite's own words; one that was too slow is run again by itself, a few
// times, for the processor may have been another's.
func Suite(t *testing.T, env []string, what ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("the suite takes a while")
	}
	needs.Tool(t, "python3")
	// Some cases demand that things are done within a second or less. Beside the tests of other packages that holds only with
	// priority over them. Who may not have it goes on without, by nice(1); .ci/run runs the ordinary user's suites by themselves.
	script := filepath.Join(needs.Shared(t), "conformance", "runit", "conformance.sh")
	for try := 1; ; try++ {
		c := exec.Command("nice", append([]string{"-n", "-15", script}, what...)...)
		// The scale is of how long the suite waits for what should happen: where it does that costs nothing, however busy it is.
		c.Env = append(append(os.Environ(), "JOBS=3", "TIME_SCALE=20"), env...)
		out, err := c.CombinedOutput()
		if err == nil {
			return
		}
		what = nil
		for line := range strings.Lines(string(out)) {
			if rest, ok := strings.CutPrefix(line, "not ok "); ok {
				name, why, _ := strings.Cut(strings.TrimSpace(rest), ": ")
				if try < 6 && tooSlow.MatchString(why) {
					t.Logf("%s: %s; once more", name, why)
					what = append(what, name)
				} else {
					t.Errorf("%s: %s", name, why)
				}
			}
		}
		if len(what) == 0 {
			if !t.Failed() {
				t.Fatalf("%v\n%s", err, out)
			}
			return
		}
		time.Sleep(time.Duration(try) * time.Second)
	}
}

// Counter makes a service directory at dir that tells whether supervisors that are killed leave anything wrong: its ./run counts
// in lines, each of which must reach the log once, and notices a second copy of itself, as do ./finish and log/run.
func Counter(t testing.TB, dir string) {
	t.Helper()
	for name, text := range map[string]string{
		"run": `#!/bin/sh
mkdir running || echo "two copies" >> bad
stop=; trap 'stop=1' TERM
read n < n; end=$((n + 80))
while test -z "$stop" -a $n -lt $end; do echo $n; n=$((n + 1)); echo $n > n; sleep 0.005; done
rmdir running
`,
		"finish":  "#!/bin/sh\nmkdir finishing || echo 'two copies of finish' >> bad; sleep 0.02; rmdir finishing\n",
		"log/run": "#!/bin/sh\nmkdir running || echo 'two logs' >> ../bad; cat >> ../got; rmdir running\n",
		"n":       "0\n",
	} {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Counted checks what a Counter that has ended did.
func Counted(t testing.TB, dir string) {
	t.Helper()
	if bad, err := os.ReadFile(dir + "/bad"); err == nil {
		t.Errorf("%s: %s", dir, bad)
	}
	got, _ := os.ReadFile(dir + "/got")
	lines := strings.Fields(string(got))
	for i, line := range lines {
		if line != fmt.Sprint(i) {
			t.Fatalf("%s: line %d is %s", dir, i, line)
		}
	}
	n, _ := os.ReadFile(dir + "/n")
	if want := strings.TrimSpace(string(n)); fmt.Sprint(len(lines)) != want {
		t.Errorf("%s: %d lines, want %s", dir, len(lines), want)
	}
	t.Logf("%d lines", len(lines))
}

// Subreaper has what killed supervisors leave come to this process. The function that it returns reaps until process pid has
// ended, or with 0 until there are no more.
func Subreaper(t testing.TB) (reap func(pid int)) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	return func(pid int) {
		for {
			got, err := unix.Wait4(-1, nil, 0, nil)
			if got == pid && pid > 0 || err == unix.ECHILD && pid == 0 {
				return
			}
			if err != nil && err != unix.EINTR {
				t.Fatalf("wait: %v", err)
			}
		}
	}
}
