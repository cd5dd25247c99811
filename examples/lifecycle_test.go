package examples

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestSessions runs the examples that have a session.txt: what one sees who runs them and, at the line ^C, interrupts. They are
// built as their READMEs say, but beside the checkout.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob("*/session.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	cmgr := filepath.Join(t.TempDir(), "cmgr")
	command(t, "go", "build", "-o", cmgr, "../cmd/cmgr")
	for _, file := range files {
		name := filepath.Dir(file)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), name)
			if err := os.CopyFS(dir, os.DirFS(name)); err != nil {
				t.Fatal(err)
			}
			program := filepath.Join(dir, "bin", "serve")
			switch name {
			case "lifecycle-go":
				command(t, "go", "build", "-o", program, "./"+name)
			case "lifecycle-c":
				if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
					t.Fatal(err)
				}
				command(t, needs.Tool(t, "gcc"), "-Wall", "-Werror", "-o", program, filepath.Join(name, "serve.c"))
			case "lifecycle-python":
				needs.Tool(t, "python3")
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			session(t, cmgr, filepath.Join(dir, "root.cml"), string(want))
		})
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// session runs root and interrupts when what is before ^C has been printed. cmgr must end with 0.
func session(t *testing.T, cmgr, root, want string) {
	before, after, _ := strings.Cut(want, "^C\n")
	// Root's managers share /run/cmgr, so each needs a name of its own.
	c := exec.CommandContext(t.Context(), cmgr, "run", root, "--name", "session-"+filepath.Base(filepath.Dir(root)), "--state", t.TempDir())
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
	got := ""
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		got += lines.Text() + "\n"
		if got == before {
			c.Process.Signal(syscall.SIGINT)
		}
	}
	if err := c.Wait(); err != nil || got != before+after {
		t.Errorf("cmgr run %s: %v; it printed\n%s\nwant\n%s\ncmgr said\n%s", root, err, got, before+after, stderr.Bytes())
	}
}
