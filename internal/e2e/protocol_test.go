package e2e

import (
	"fmt"
	"os"
	"os/exec"
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

// BenchmarkConnect has a component connect to a protocol's provider and, by turns, to a socket that the provider made itself:
// connect, one byte from the other end.
func BenchmarkConnect(b *testing.B) {
	dir := b.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "bin", "connect"), "./testdata/connect").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	const shared = `{ directory: "data", path: "/shared", rights: [ "rw*" ] }`
	for name, text := range map[string]string{
		"root.cml": `{
			children: [ { name: "server", url: "server.cml" }, { name: "client", url: "client.cml", startup: "eager" } ],
			offer: [
				{ protocol: "bench", from: "#server", to: "#client" },
				{ directory: "data", from: "parent", to: [ "#server", "#client" ] },
			],
		}`,
		"server.cml": `{ program: { runner: "elf", binary: "bin/connect", args: [ "serve" ] }, use: [ ` + shared + ` ], capabilities: [ { protocol: "bench" } ],
			expose: [ { protocol: "bench", from: "self" } ] }`,
		"client.cml": `{ program: { runner: "elf", binary: "bin/connect", args: [ "20000" ] }, use: [ { protocol: "bench" }, ` + shared + ` ] }`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		cmd := exec.Command(binary, "run", filepath.Join(dir, "root.cml"), "--socket", filepath.Join(b.TempDir(), "s"), "--state", b.TempDir())
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		var routed, bare float64
		_, err = fmt.Fscanf(out, "/client | median %g %g\n", &routed, &bare)
		cmd.Process.Signal(os.Interrupt)
		if ended := cmd.Wait(); err != nil || ended != nil {
			b.Fatal(err, ended)
		}
		b.ReportMetric(routed, "routed-ns")
		b.ReportMetric(bare, "bare-ns")
		b.ReportMetric(routed/bare, "routed/bare")
	}
}
