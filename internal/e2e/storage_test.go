package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// keeper adds its argument to a file of its storage and prints all that is there.
const keeper = `#!/bin/sh
cd "$CMGR_NAMESPACE/kept" || exit 1
echo "$CMGR_MONIKER" >> notes
echo "keeps $(ls | tr '\n' ' ')$(wc -l < notes) $(sort -u notes | tr '\n' ' ')"
`

// admin lists and empties what others keep, by StorageAdmin.
const admin = `#!/usr/bin/env python3
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(os.environ.get("CMGR_NAMESPACE", "") + "/svc/cmgr.component.StorageAdmin")
def field(n, b): return bytes([n << 3 | 2, len(b)]) + b
s.send(field(1, field(1, b"cmgr.component.StorageAdmin") + b"\x10\x01"))
def call(id, method, moniker):
    s.send(field(4, b"\x08" + bytes([id]) + field(2, method) + field(3, field(1, moniker))))
    while True:
        m, fds, _, _ = socket.recv_fds(s, 65536, 2)
        if m[:1] == b"\x2a": return m, fds
m, _ = call(1, b"ListStorageInRealm", b".")
print("lists", b"./app" in m, b"./jobs:a" in m, flush=True)
m, fds = call(2, b"OpenStorage", b"./app")
print("finds", os.listdir(fds[0]), flush=True)
up = os.open("..", os.O_RDONLY, dir_fd=fds[0])
print("above", "kept" if os.geteuid() or os.listdir(up) == ["notes"] else os.listdir(up), flush=True)
m, _ = call(3, b"DeleteComponentStorage", b"./app")
print("deletes", b"keeps nothing" not in m, flush=True)
`

// Storage: each component has its own, under its moniker or its instance id; it goes with a component that is destroyed, unless
// the collection says otherwise; and an operator, or who declares it, can look after it.
func TestStorage(t *testing.T) { testStorage(t) }

// The same for programs that share the manager's world.
func TestStorageUnconfined(t *testing.T) {
	testStorage(t, `{ security_policy: { sandbox: { unconfined: ["/**"] } } }`)
}

func testStorage(t *testing.T, config ...string) {
	needs.Tool(t, "python3")
	id := strings.Repeat("0123456789abcdef", 4)
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "app", url: "app.cml" }, { name: "named", url: "app.cml" }, { name: "strict", url: "strict.cml" },
				{ name: "admin", url: "admin.cml" },
			],
			collections: [ { name: "jobs", durability: "transient" }, { name: "kept", durability: "transient", persistent_storage: true } ],
			capabilities: [
				{ storage: "store", from: "parent", backing_dir: "data", subdir: "s", storage_id: "static_instance_id_or_moniker" },
				{ storage: "ids", from: "parent", backing_dir: "data", subdir: "i", storage_id: "static_instance_id" },
			],
			offer: [
				{ storage: "store", from: "self", to: [ "#app", "#named", "#jobs", "#kept" ] },
				{ storage: "ids", from: "self", to: "#strict", as: "store" },
				{ protocol: "cmgr.component.StorageAdmin", from: "#store", to: "#admin" },
			],
		}`,
		"app.cml":    `{ program: { runner: "elf", binary: "bin/keeper" }, use: [ { storage: "store", path: "/kept" } ] }`,
		"strict.cml": `{ program: { runner: "elf", binary: "bin/keeper" }, use: [ { storage: "store", path: "/kept" } ] }`,
		"admin.cml":  `{ program: { runner: "elf", binary: "bin/admin" }, use: [ { protocol: "cmgr.component.StorageAdmin" } ] }`,
		"bin/keeper": keeper, "bin/admin": admin,
		"ids.json5":  `{ instances: [ { instance_id: "` + id + `", moniker: "/named" } ] }`,
		"ids.config": `{ component_id_index_path: "ids.json5" }`,
	})
	args := []string{"--stay", "--config", filepath.Join(dir, "ids.config")}
	for _, c := range config {
		put(t, filepath.Join(dir, "config"), c)
		args = append(args, "--config", filepath.Join(dir, "config"))
	}
	r := run(t, dir, args...)
	r.up()
	job := filepath.Join(dir, "app.cml")
	r.must("create", "/jobs:a", job)
	r.must("create", "/kept:a", job)
	keeps := func(who, want string) {
		t.Helper()
		r.must("start", who)
		r.must("wait", who, "--until", "exited")
		want = who + " | keeps notes " + want + " " + who + " \n"
		r.until(want, func() bool { return strings.Contains(r.out(), want) })
	}
	for _, n := range []string{"1", "2"} {
		for _, who := range []string{"/app", "/named", "/jobs:a", "/kept:a"} {
			keeps(who, n)
		}
	}
	// What is destroyed loses its storage, unless its collection says otherwise.
	r.must("destroy", "/jobs:a")
	r.must("destroy", "/kept:a")
	if got := r.must("storage", "list", "--json"); strings.Contains(got, "/jobs:a") || !strings.Contains(got, `"moniker":"/kept:a"`) ||
		!strings.Contains(got, `"orphan":true`) || !strings.Contains(got, `"instance_id":"`+id+`"`) {
		t.Errorf("after the destroys: %s", got)
	}
	r.must("create", "/jobs:a", job)
	r.must("create", "/kept:a", job)
	keeps("/jobs:a", "1")
	keeps("/kept:a", "3")
	// Only who has an id has what takes an id.
	r.must("start", "/strict")
	r.until("the reason", func() bool {
		return strings.Contains(r.err(), "/strict: required storage store is not available") &&
			strings.Contains(r.err(), "not in the component id index")
	})
	// An operator.
	if got := r.must("show", id[:20]); !strings.Contains(got, "Moniker: /named\n") || !strings.Contains(got, "Instance ID: "+id) {
		t.Errorf("show by instance id: %s", got)
	}
	to := t.TempDir()
	r.must("storage", "copy", "/app::notes", to)
	if b, err := os.ReadFile(filepath.Join(to, "notes")); string(b) != "/app\n/app\n" || err != nil {
		t.Errorf("copied %q, %v", b, err)
	}
	put(t, filepath.Join(to, "deep/er/new"), "new")
	r.must("storage", "copy", filepath.Join(to, "deep"), "/app::.")
	if got := r.must("storage", "copy", "/app::deep/er/new", "-"); got != "new" {
		t.Errorf("copied %q", got)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(stored(t, r, "/app"), "trap")); err != nil {
		t.Fatal(err)
	}
	if out, err, code := r.cmgr("storage", "copy", "/app::trap", "-"); code != 1 ||
		out != "" || !strings.Contains(err, "/app::trap: path escapes") {
		t.Errorf("a symlink leads out: %d, %s%s", code, out, err)
	}
	if _, err, code := r.cmgr("storage", "copy", "/app::none", to); code != 1 ||
		!strings.Contains(err, "copy /app::none: no such file") {
		t.Errorf("%d, %s", code, err)
	}
	r.must("storage", "delete", "/app")
	keeps("/app", "1")
	if _, err, code := r.cmgr("storage", "delete", "/strict"); code != 1 || !strings.Contains(err, "it keeps nothing") {
		t.Errorf("%d, %s", code, err)
	}
	// Who administers it.
	r.must("start", "/admin")
	for _, want := range []string{"lists True True", "finds ['notes']", "above kept", "deletes True"} {
		r.until(want, func() bool { return strings.Contains(r.out(), "/admin | "+want+"\n") })
	}
	keeps("/app", "1")
	r.stop()
}

// stored is the directory in which who keeps something.
func stored(t *testing.T, r *tree, who string) string {
	t.Helper()
	out := r.must("storage", "list", who, "--json")
	_, dir, _ := strings.Cut(out, `"directory":"`)
	dir, _, ok := strings.Cut(dir, `"`)
	if !ok {
		t.Fatal(out)
	}
	return dir
}
