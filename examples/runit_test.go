package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestRunit is apart from TestExamples because it needs a cgroup v2.
func TestRunit(t *testing.T) {
	needs.Cgroup2(t)
	cmgr := filepath.Join(t.TempDir(), "cmgr")
	if out, err := exec.Command("go", "build", "-o", cmgr, "../cmd/cmgr").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		for _, dir := range []string{"supervise", "log/supervise"} {
			if err := os.RemoveAll(filepath.Join("runit/sv/hello", dir)); err != nil {
				t.Error(err)
			}
		}
	})
	expect(t, cmgr, "runit/output.txt")
}
