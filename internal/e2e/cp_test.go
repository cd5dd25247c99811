package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cmgr cp: files from and to what a program sees, and nothing else.
func TestCp(t *testing.T) { testCp(t) }

func TestCpUnconfined(t *testing.T) { testCp(t, unconfined(t)...) }

func testCp(t *testing.T, args ...string) {
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "app", url: "app.cml", startup: "eager" }, { name: "idle", url: "app.cml" } ],
			capabilities: [ { storage: "store", from: "parent", backing_dir: "data", storage_id: "static_instance_id_or_moniker" } ],
			offer: [ { storage: "store", from: "self", to: [ "#app", "#idle" ] } ],
		}`,
		"app.cml": `{ program: { runner: "elf", binary: "bin/app" }, use: [ { storage: "store", path: "/data" } ] }`,
		"bin/app": "#!/bin/sh\ncd \"$CMGR_NAMESPACE/data\" && echo kept > note && ln -s /etc/hostname trap && echo ready && exec sleep 1000\n",
	})
	r := run(t, dir, args...)
	r.until("ready", func() bool { return strings.Contains(r.out(), "/app | ready\n") })
	if got := r.must("cp", "/app:/data/note", "-"); got != "kept\n" {
		t.Errorf("copied %q", got)
	}
	if got := r.must("cp", "app:/pkg/app.cml", "-"); !strings.Contains(got, "bin/app") {
		t.Errorf("copied %q", got)
	}
	to := t.TempDir()
	put(t, filepath.Join(to, "tree/leaf"), "green")
	r.must("cp", filepath.Join(to, "tree"), "/app:/data")
	r.must("cp", "/app:/data/tree", filepath.Join(to, "back"))
	if b, err := os.ReadFile(filepath.Join(to, "back/leaf")); string(b) != "green" || err != nil {
		t.Errorf("there and back: %q, %v", b, err)
	}
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"/app:/data/trap", "-"}, "/app:/data/trap: path escapes", 1},
		{[]string{"/app:/none/at/all", "-"}, "/app", 1},
		{[]string{"/idle:/data/note", "-"}, "no process of it runs", 1},
		{[]string{"/app:/data/note", "/app:/data/other"}, "one side must be a component's", 100},
		{[]string{"a", "b"}, "one side must be a component's", 100},
	} {
		out, stderr, code := r.cmgr(append([]string{"cp"}, c.args...)...)
		if out != "" || code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("cp %v: %d, %s%s", c.args, code, out, stderr)
		}
	}
	r.stop()
}
