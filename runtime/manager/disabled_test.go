package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/manifest/name"
)

func TestDisabled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disabled")
	d, err := readDisabled(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"/b", "/a/c", "/x"} {
		if err := d.Set(name.Moniker(s), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Set("/x", false); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "/a/c\n/b\n" {
		t.Errorf("%q, %v", b, err)
	}
	again, err := readDisabled(path)
	if err != nil || !again.Has("/b") || !again.Has("/a/c") || again.Has("/x") || again.Has("/a") {
		t.Errorf("%v, %v", again, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	// What could not be kept is not in force.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := d.Set("/y", true); err == nil || d.Has("/y") {
		t.Errorf("without a directory: %v", err)
	}

	broken := filepath.Join(t.TempDir(), "disabled")
	if err := os.WriteFile(broken, []byte("/a\n\nb c\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readDisabled(broken); err == nil || !strings.Contains(err.Error(), broken+":3: ") {
		t.Errorf("a broken file: %v", err)
	}
}
