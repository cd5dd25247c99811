package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// A provider that echoes, and serves twice before it ends of itself.
const echoServer = `#!/usr/bin/env python3
import os, socket
assert int(os.environ["LISTEN_PID"]) == os.getpid() and os.environ["LISTEN_FDS"] == "1", os.environ
assert os.environ["LISTEN_FDNAMES"] == "echo"
s = socket.socket(fileno=3)
print("up", flush=True)
for _ in range(2):
    c, _ = s.accept()
    c.sendall(c.recv(100))
    c.close()
`

const echoClient = `#!/usr/bin/env python3
import os, socket
svc = os.environ.get("CMGR_NAMESPACE", "") + "/svc/"
for _ in range(6):
    s = socket.socket(socket.AF_UNIX)
    s.connect(svc + "sound")
    s.sendall(b"hello")
    assert s.recv(100) == b"hello"
    s.close()
try:
    socket.socket(socket.AF_UNIX).connect(svc + "absent")
except ConnectionRefusedError:
    print("refused")
`

// A protocol's provider is started by the first connection, and again by one that came while it ended; a route that leads nowhere
// refuses, and says why in the log of whoever uses it.
func TestProtocol(t *testing.T) { testProtocol(t) }

// The same for programs in worlds of their own.
func TestProtocolConfined(t *testing.T) {
	needs.Root(t)
	config := filepath.Join(t.TempDir(), "config.json5")
	put(t, config, confined)
	testProtocol(t, "--config", config)
}

func testProtocol(t *testing.T, args ...string) {
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "server", url: "server.cml" }, { name: "client", url: "client.cml", startup: "eager" } ],
			offer: [ { protocol: "echo", from: "#server", to: "#client", as: "sound" } ],
		}`,
		"server.cml": `{ program: { runner: "elf", binary: "bin/server" }, capabilities: [ { protocol: "echo" } ],
			expose: [ { protocol: "echo", from: "self" } ] }`,
		"client.cml": `{ program: { runner: "elf", binary: "bin/client" }, use: [ { protocol: "sound" }, { protocol: "absent" } ] }`,
		"bin/server": echoServer, "bin/client": echoClient,
	})
	r := run(t, dir, args...)
	if code := r.wait(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
	if got := strings.Count(r.out(), "/server | up\n"); got != 3 {
		t.Errorf("the server was started %d times, want 3\n%s", got, r.out())
	}
	if !strings.Contains(r.out(), "/client | refused\n") {
		t.Errorf("the client was not refused\n%s", r.out())
	}
	if !strings.Contains(r.err(), "/client: required protocol absent is not available (used at ") ||
		!strings.Contains(r.err(), `hint: add { protocol: "absent"`) {
		t.Errorf("nobody is told why\n%s", r.err())
	}
}
