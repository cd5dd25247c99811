// Package examples holds trees to run, each with its README. This test runs those that say in expect.txt what they print.
package examples

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// bound is how long an example may take on a busy machine.
const bound = 2 * time.Minute

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("*/expect.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	cmgr := filepath.Join(t.TempDir(), "cmgr")
	if out, err := exec.Command("go", "build", "-o", cmgr, "../cmd/cmgr").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	manifests, _ := filepath.Glob("*/*.cml")
	if out, err := exec.Command(cmgr, append([]string{"fmt", "--check"}, manifests...)...).CombinedOutput(); err != nil {
		t.Errorf("cmgr fmt --check: %v\n%s", err, out)
	}
	for _, file := range files {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			t.Parallel()
			if d := filepath.Dir(file); slices.Contains([]string{"diagnostics", "echo", "python-runner", "resolver"}, d) {
				needs.Tool(t, "python3")
			}
			expect(t, cmgr, file)
		})
	}
}

// expect runs the example of an expect.txt. The file holds the lines that the components print, sorted: several components print
// in no order, and one that prints several lines numbers them. Where it begins with "# It stays" the example runs until it is
// interrupted. Either way cmgr must end by itself then, with 0.
func expect(t *testing.T, cmgr, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stays := bytes.HasPrefix(text, []byte("# It stays"))
	var want []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			want = append(want, strings.TrimSuffix(line, "\n"))
		}
	}
	root := filepath.Join(filepath.Dir(file), "root.cml")
	c := exec.CommandContext(t.Context(), cmgr, "run", root, "--name", "example-"+filepath.Dir(file), "--state", t.TempDir())
	c.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
	var stderr bytes.Buffer
	c.Stderr = &stderr
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(bound, func() { c.Process.Kill() })
	defer late.Stop()
	var got []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		got = append(got, lines.Text())
		if stays && len(got) == len(want) {
			c.Process.Signal(syscall.SIGINT)
		}
	}
	if err := c.Wait(); err != nil {
		t.Errorf("cmgr run %s: %v", root, err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("it printed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if t.Failed() {
		t.Logf("cmgr said\n%s", stderr.Bytes())
	}
}
