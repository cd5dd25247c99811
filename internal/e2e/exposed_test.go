package e2e

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// What the root exposes is found by this machine's programs, and starts who provides it.
func TestExposed(t *testing.T) { testExposed(t) }

func TestExposedUnconfined(t *testing.T) { testExposed(t, unconfined(t)...) }

func testExposed(t *testing.T, args ...string) {
	needs.Tool(t, "python3")
	const server = `#!/usr/bin/env python3
import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
s = socket.socket(fileno=3) if "LISTEN_FDS" in os.environ else socket.socket(socket.AF_UNIX)
if "LISTEN_FDS" not in os.environ:
    s.bind(os.environ.get("CMGR_NAMESPACE", "") + "/out/bound")
    s.listen()
while True:
    c, _ = s.accept()
    c.sendall(os.environ["CMGR_MONIKER"].encode())
    c.close()
`
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "held", url: "held.cml" }, { name: "bound", url: "bound.cml" } ],
			expose: [
				{ protocol: "p", from: "#held", as: "one" }, { protocol: "p", from: "#bound", as: "two" },
				{ protocol: "nothing", from: "#held", as: "three" },
			],
		}`,
		"held.cml": `{
			program: { runner: "elf", binary: "bin/server" }, capabilities: [ { protocol: "p" } ], expose: [ { protocol: "p", from: "self" } ],
		}`,
		"bound.cml": `{
			program: { runner: "elf", binary: "bin/server" },
			capabilities: [ { protocol: "p", path: "/bound", activation: "bind" } ], expose: [ { protocol: "p", from: "self" } ],
		}`,
		"bin/server": server,
	})
	r := run(t, dir, append(args, "--stay")...)
	at := r.sock + ".exposed"
	ask := func(name string) string {
		c, err := net.Dial("unix", filepath.Join(at, name))
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(bound))
		buf := make([]byte, 100)
		n, _ := c.Read(buf)
		return string(buf[:n])
	}
	r.until("what is exposed", func() bool { _, err := os.Stat(filepath.Join(at, "three")); return err == nil })
	if strings.Contains(r.err(), "/held started") {
		t.Error("who provides it has been started")
	}
	r.until("what binds its socket itself", func() bool { return ask("two") == "/bound" })
	for name, want := range map[string]string{"one": "/held", "three": "connection refused"} {
		if got := ask(name); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", name, got, want)
		}
	}
	r.until("the root's log", func() bool { return strings.Contains(r.must("logs", "/"), "protocol three is not available") })
	if st, err := os.Stat(at); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	root := filepath.Join(dir, "root.cml")
	put(t, root, edit(t, root, `as: "one"`, `as: "four"`))
	r.must("reload")
	r.until("another name", func() bool { return ask("four") == "/held" })
	if got := ask("one"); !strings.Contains(got, "no such file") {
		t.Errorf("the name that was: %q", got)
	}
	r.must("restart", "/held")
	if got := ask("four"); got != "/held" {
		t.Errorf("after a restart: %q", got)
	}
	r.stop()
	if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the manager's end: %v", err)
	}
}
