package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWorkers: a component makes others by cmgr.component.Realm, starts them, knows how they ended, and takes them out again.
func TestWorkers(t *testing.T) {
	dir := t.TempDir()
	cmgr := filepath.Join(dir, "cmgr")
	command(t, "go", "build", "-o", cmgr, "../cmd/cmgr")
	example := filepath.Join(dir, "workers")
	if err := os.CopyFS(example, os.DirFS("workers")); err != nil {
		t.Fatal(err)
	}
	command(t, "go", "build", "-o", filepath.Join(example, "bin", "serve"), "./workers")
	c := exec.CommandContext(t.Context(), cmgr, "run", filepath.Join(example, "root.cml"), "--state", filepath.Join(dir, "state"),
		"--socket", filepath.Join(dir, "s"))
	var stderr strings.Builder
	c.Stderr = &stderr
	late := time.AfterFunc(bound, func() { c.Process.Kill() })
	defer late.Stop()
	out, err := c.Output()
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(got)
	want := []string{
		"/ | 0 are left", "/ | ann has ended with code 0", "/ | bob has ended with code 0",
		"/ | staff: create /staff:eve: `/` does not have collection `#staff`", "/workers:ann | at work", "/workers:bob | at work",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("it printed %q\nwant %q\n(%v)\n%s", got, want, err, stderr.String())
	}
}
