package e2e

import (
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// A provider that binds its socket itself, late, and serves twice before it ends; it is killed by nothing and cleans nothing up.
const binder = `#!/usr/bin/env python3
import os, socket, time
s = socket.socket(socket.AF_UNIX)
time.sleep(0.2)
s.bind(os.environ.get("CMGR_NAMESPACE", "") + "/out/svc/echo")
time.sleep(0.2)
s.listen(10)
print("up", flush=True)
served = 0
while served < 2:
    c, _ = s.accept()
    b = c.recv(100)
    c.sendall(b)
    c.close()
    served += b == b"hello" # who only looks whether somebody listens is not counted
`

// A user that wants an answer each time. While a server ends, or what wakes it, is refused or closed: it tries again.
const binderUser = `#!/usr/bin/env python3
import os, socket, sys
at = os.environ.get("CMGR_NAMESPACE", "") + "/svc/sound"
for k in range(6):
    while True:
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(at)
            s.sendall(b"hello")
            b = s.recv(100)
        except OSError:
            b = b""
        s.close()
        if b == b"hello": break
print("answered", k + 1, flush=True)
`

// A protocol with activation "bind": its users wait for the program, which is started for them, and again when it has ended.
func TestBind(t *testing.T) { testBind(t) }

func TestBindUnconfined(t *testing.T) { testBind(t, unconfined(t)...) }

func testBind(t *testing.T, args ...string) {
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "server", url: "server.cml" }, { name: "client", url: "client.cml", startup: "eager" } ],
			offer: [ { protocol: "echo", from: "#server", to: "#client", as: "sound" } ],
		}`,
		"server.cml": `{ program: { runner: "elf", binary: "bin/server" }, capabilities: [ { protocol: "echo", activation: "bind" } ],
			expose: [ { protocol: "echo", from: "self" } ] }`,
		"client.cml": `{ program: { runner: "elf", binary: "bin/client" }, use: [ { protocol: "sound" } ] }`,
		"bin/server": binder, "bin/client": binderUser,
	})
	r := run(t, dir, append(args, "--stay")...)
	r.until("all answers", func() bool { return strings.Contains(r.out(), "/client | answered 6\n") })
	r.until("the end of the server", func() bool { return strings.Count(r.err(), "/server exited code=0") == 3 })
	r.until("all that it said", func() bool { return strings.Count(r.out(), "/server | up\n") >= 3 })
	if got := strings.Count(r.out(), "/server | up\n"); got != 3 {
		t.Errorf("the server was started %d times, want 3\n%s%s", got, r.out(), r.err())
	}
	r.stop()
}
