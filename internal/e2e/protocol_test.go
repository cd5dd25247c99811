package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
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

// The same for programs that share the manager's world.
func TestProtocolUnconfined(t *testing.T) { testProtocol(t, unconfined(t)...) }

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

// BenchmarkRoutes asks a manager of 1,000 components for the routes of one after the other, over its socket: ten each, of protocols
// of a sibling's. One that asks waits for each answer; ten do not wait for each other.
func BenchmarkRoutes(b *testing.B) {
	const components, each = 1000, 10
	dir := b.TempDir()
	file := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	names := `"p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"`
	file("c.cml", `{ use: [ { protocol: [ `+names+` ] } ], capabilities: [ { protocol: [ `+names+` ] } ],
		expose: [ { protocol: [ `+names+` ], from: "self" } ] }`)
	var children, offers strings.Builder
	for n := range components {
		fmt.Fprintf(&children, "{ name: \"c%d\", url: \"c.cml\", startup: \"eager\" },", n)
		fmt.Fprintf(&offers, "{ protocol: [ %s ], from: \"#c%d\", to: \"#c%d\", dependency: \"weak\" },", names, (n+1)%components, n)
	}
	children.WriteString(`{ name: "up", url: "up.cml", startup: "eager" },`) // or the manager would have nothing to wait for
	file("root.cml", "{ children: ["+children.String()+"], offer: ["+offers.String()+"] }")
	file("up.cml", `{ program: { runner: "elf", binary: "/bin/sleep", args: [ "1000" ] } }`)
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(binary, "run", filepath.Join(dir, "root.cml"), "--socket", socket, "--state", filepath.Join(dir, "state"))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	}()
	var client *control.Client
	for end := time.Now().Add(bound); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if client, err = control.Dial(b.Context(), "", socket); err == nil {
			break
		} else if time.Now().After(end) {
			b.Fatal(err)
		}
	}
	defer client.Close()
	ask := func(i int64) error {
		r, err := client.Route(b.Context(), &controlpb.RouteRequest{Query: fmt.Sprintf("/c%d", i%components), Filters: []string{"use:p"}})
		if err == nil && (len(r.GetRoutes()) != each || r.GetRoutes()[0].GetOutcome() != "Success") {
			err = fmt.Errorf("routes: %v", r)
		}
		return err
	}
	for i := range int64(components) { // each is resolved by the first question
		if err := ask(i); err != nil {
			b.Fatal(err)
		}
	}
	for _, callers := range []int{1, 10} {
		b.Run(fmt.Sprintf("%d callers", callers), func(b *testing.B) {
			var next atomic.Int64
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						if err := ask(i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N*each)/b.Elapsed().Seconds(), "questions/s")
		})
	}
}
