// Package runittest runs runit's programs as programs in tests: each package's test binary is the program that it tests when it
// is called by that name, and the black-box suite beside the checkout is run against it.
package runittest

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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

// Suite runs the conformance suite's groups or GROUP/PATTERNs with env (NAME=program) for the programs under test; others are the
// real ones. A case that fails is an error of t with the suite's own words.
func Suite(t *testing.T, env []string, what ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("the suite takes a while")
	}
	needs.Tool(t, "python3")
	run := func(jobs, scale string, what ...string) (failed []string, out []byte, err error) {
		c := exec.Command(filepath.Join(needs.Shared(t), "conformance", "runit", "conformance.sh"), what...)
		c.Env = append(append(os.Environ(), "JOBS="+jobs, "TIME_SCALE="+scale), env...)
		out, err = c.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if rest, ok := strings.CutPrefix(line, "not ok "); ok {
				failed = append(failed, strings.TrimSpace(rest))
			}
		}
		return failed, out, err
	}
	failed, out, err := run("2", "3", what...)
	if len(failed) > 0 {
		// The suite's bounds are in seconds, and other packages' tests run at the same time: what failed is run again, alone.
		t.Logf("again: %q", failed)
		for i, f := range failed {
			failed[i], _, _ = strings.Cut(f, ":")
		}
		failed, out, err = run("1", "6", failed...)
	}
	for _, f := range failed {
		t.Error(f)
	}
	if err != nil && !t.Failed() {
		t.Fatalf("%v\n%s", err, out)
	}
}
