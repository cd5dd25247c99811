package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestFirstTree: what cmgr init writes runs, and ends as its README says.
func TestFirstTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "first")
	if out, err := exec.Command(binary, "init", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r := run(t, dir)
	r.until("the greeting", func() bool { return strings.Contains(r.out(), "/hello | Hello from /hello\n") })
	if list := r.must("list", "-v"); !strings.Contains(list, "Running") {
		t.Errorf("list -v:\n%s", list)
	}
	if code := r.stop(); code != 0 {
		t.Errorf("exit %d\n%s", code, r.err())
	}
}
