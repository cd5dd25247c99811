package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// namer tells each connection on each of its sockets which component it is and what the socket is called.
const namer = `#!/usr/bin/env python3
import os, select, socket
names = os.environ["LISTEN_FDNAMES"].split(":")
socks = {socket.socket(fileno=3 + k): n for k, n in enumerate(names)}
while True:
    for s in select.select(list(socks), [], [])[0]:
        c, _ = s.accept()
        c.sendall((os.environ["CMGR_MONIKER"] + " " + socks[s]).encode())
        c.close()
`

// lister connects to all sockets below a directory and says what they are; with a second argument again whenever that has
// changed.
const lister = `#!/usr/bin/env python3
import os, socket, stat, sys, time
top = os.environ.get("CMGR_NAMESPACE", "") + sys.argv[1]
def look():
    out = []
    for dir, dirs, files in os.walk(top, followlinks=True):
        for f in files:
            p = os.path.join(dir, f)
            if not stat.S_ISSOCK(os.stat(p).st_mode):
                out.append(os.path.relpath(p, top) + "=" + open(p).read().strip())
                continue
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(p)
                out.append(os.path.relpath(p, top) + "=" + s.recv(100).decode())
            except ConnectionRefusedError:
                out.append(os.path.relpath(p, top) + "=refused")
    return " ".join(sorted(out))
last = None
while True:
    try:
        now = look()
    except OSError:
        continue # it has gone under our eyes
    if now != last:
        print("sees:", now, flush=True)
    last = now
    if len(sys.argv) < 3: break
    time.sleep(0.1)
`

// Dictionaries and services are directories of sockets, nested as they are; the instances of a service come and go with the
// children of a collection.
func TestSets(t *testing.T) { testSets(t) }

// The same for programs that share the manager's world.
func TestSetsUnconfined(t *testing.T) { testSets(t, unconfined(t)...) }

func testSets(t *testing.T, args ...string) {
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "a", url: "a.cml" }, { name: "b", url: "a.cml" }, { name: "pack", url: "pack.cml" }, { name: "dict", url: "dict.cml" },
				{ name: "item", url: "item.cml" }, { name: "all", url: "all.cml", startup: "eager" }, { name: "two", url: "all.cml" },
				{ name: "one", url: "all.cml" },
			],
			collections: [ { name: "jobs", durability: "transient" } ],
			capabilities: [ { dictionary: "d" }, { dictionary: "inner" } ],
			offer: [
				{ protocol: "p", from: "#a", to: "self/d", as: "first" },
				{ protocol: "p", from: "#b", to: "self/inner", as: "second" },
				{ protocol: "missing", from: "#b", to: "self/inner", as: "third" },
				{ service: "s", from: [ "#a", "#b" ], to: "self/inner" },
				{ directory: "pkg", from: "framework", to: "self/inner", subdir: "pub" },
				{ dictionary: "inner", from: "self", to: "self/d" },
				{ dictionary: "d", from: "self", to: [ "#dict", "#item" ] },
				{ protocol: "second", from: "self/inner", to: "#item", as: "own" },
				{ protocol: "p", from: "#pack/x", to: "#item", as: "packed" },
				{ service: "s", from: "#jobs", to: "#all" },
				{ service: "s", from: [ "#a", "#b" ], to: "#two" },
				{ service: "s", from: "#a", to: "#one" },
			],
		}`,
		"a.cml": `{ program: { runner: "elf", binary: "bin/namer" }, capabilities: [ { protocol: "p" }, { service: "s" } ],
			expose: [ { protocol: "p", from: "self" }, { service: "s", from: "self" } ] }`,
		"pack.cml": `{ program: { runner: "elf", binary: "bin/namer" }, capabilities: [ { protocol: "p" }, { dictionary: "x" } ],
			offer: [ { protocol: "p", from: "self", to: "self/x" } ], expose: [ { dictionary: "x", from: "self" } ] }`,
		"dict.cml": `{ program: { runner: "elf", binary: "bin/lister", args: [ "/svc/got" ] }, use: [ { dictionary: "d", path: "/svc/got" } ] }`,
		"item.cml": `{ program: { runner: "elf", binary: "bin/lister", args: [ "/in" ] }, use: [
			{ protocol: "own", path: "/in/own" }, { protocol: "packed", path: "/in/packed" },
			{ protocol: "first", from: "parent/d", path: "/in/direct" },
			{ protocol: "second", from: "parent/d/inner", path: "/in/deep" },
		] }`,
		"all.cml":   `{ program: { runner: "elf", binary: "bin/lister", args: [ "/svc/s", "on" ] }, use: [ { service: "s" } ] }`,
		"bin/namer": namer, "bin/lister": lister,
		"pub/text": "read me\n",
	})
	r := run(t, dir, append(args, "--stay")...)
	r.up()
	sees := func(who, want string) {
		t.Helper()
		want = who + " | sees: " + want + "\n"
		r.until(want, func() bool { return strings.Contains(r.out(), want) })
	}
	r.must("start", "/dict")
	sees("/dict", "first=/a p inner/pkg/text=read me inner/s/a/s=/a s inner/s/b/s=/b s inner/second=/b p inner/third=refused")
	r.until("being told of the item that leads nowhere", func() bool {
		return strings.Contains(r.err(), "/dict: required dictionary d is not available") && strings.Contains(r.err(), "`missing`")
	})
	r.must("start", "/item")
	sees("/item", "deep=/b p direct=/a p own=/b p packed=/pack p")
	r.must("start", "/two")
	sees("/two", "a/s=/a s b/s=/b s")
	r.must("start", "/one")
	sees("/one", "default/s=/a s")
	sees("/all", "")
	r.must("create", "/jobs:x", filepath.Join(dir, "a.cml"))
	sees("/all", "x/s=/jobs:x s")
	r.must("create", "/jobs:y", filepath.Join(dir, "a.cml"))
	sees("/all", "x/s=/jobs:x s y/s=/jobs:y s")
	r.must("destroy", "/jobs:x")
	sees("/all", "y/s=/jobs:y s")
	r.stop()
}
