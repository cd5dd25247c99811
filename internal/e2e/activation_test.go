package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// Programs of Debian's that were written for systemd's socket activation run unchanged: they take the sockets of their protocols.
func TestSocketActivation(t *testing.T) {
	agent, dirmngr := needs.Tool(t, "gpg-agent"), needs.Tool(t, "dirmngr")
	home := fmt.Sprintf("/tmp/cmgr-e2e-gnupg-%d", os.Getpid()) // in a /tmp of its own, where there are worlds
	t.Cleanup(func() { os.RemoveAll(home) })
	component := func(binary string) string {
		return `{ program: { runner: "elf", binary: "` + binary + `", args: [ "--supervised" ],
			environ: [ "GNUPGHOME=` + home + `", "HOME=` + home + `" ] }, capabilities: [ { protocol: "std" } ] }`
	}
	r := run(t, write(t, map[string]string{
		"root.cml":    `{ children: [ { name: "agent", url: "agent.cml" }, { name: "dirmngr", url: "dirmngr.cml" } ] }`,
		"agent.cml":   component(agent),
		"dirmngr.cml": component(dirmngr),
	}), "--stay")
	r.up()
	for _, who := range []string{"/agent", "/dirmngr"} {
		c := exec.Command(binary, "connect", who, "std", "--socket", r.sock)
		c.Env = r.env
		c.Stdin = strings.NewReader("GETINFO version\nBYE\n")
		out, err := c.Output()
		if err != nil || !strings.Contains(string(out), "\nD 2.") || !strings.HasSuffix(string(out), "OK closing connection\n") {
			t.Errorf("%s: %v: %s%s", who, err, out, r.err())
		}
		r.until(who+" started by the connection", func() bool {
			return strings.Contains(r.err(), "cmgr: "+who+" started (access to std)\n")
		})
	}
	r.stop()
}

// A provider that takes its time, and when it is told to end answers who it has accepted and nobody else.
const slowServer = `#!/usr/bin/env python3
import select, signal, socket, time
wake, woken = socket.socketpair()
woken.setblocking(False)
signal.set_wakeup_fd(woken.fileno())
signal.signal(signal.SIGTERM, lambda *_: None)
s = socket.socket(fileno=3)
print("up", flush=True)
while True:
    ready, _, _ = select.select([s, wake], [], [])
    if wake in ready: break
    c, _ = s.accept()
    c.sendall(c.recv(100))
    c.close()
    time.sleep(0.002)
`

// A thousand connections at once, and a line when a part of them is answered.
const crowd = `#!/usr/bin/env python3
import os, socket, threading
at = os.environ.get("CMGR_NAMESPACE", "") + "/svc/echo"
threading.stack_size(256 * 1024)
lock, answered, lost = threading.Lock(), 0, []
def ask(n):
    global answered
    try:
        s = socket.socket(socket.AF_UNIX)
        s.connect(at)
        s.sendall(b"%d" % n)
        got = s.recv(100)
        s.close()
    except OSError as e:
        got = str(e)
    with lock:
        if got == b"%d" % n: answered += 1
        else: lost.append(got)
        if answered == 200: print("a part", flush=True)
threads = [threading.Thread(target=ask, args=(n,)) for n in range(1000)]
for t in threads: t.start()
for t in threads: t.join()
print("answered", answered, "lost", lost[:3], flush=True)
`

// Of a thousand connections through a provider's restart none is lost.
func TestThousandConnections(t *testing.T) { testThousand(t) }

func TestThousandConnectionsUnconfined(t *testing.T) { testThousand(t, unconfined(t)...) }

func testThousand(t *testing.T, args ...string) {
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "server", url: "server.cml" }, { name: "crowd", url: "crowd.cml", startup: "eager" } ],
			offer: [ { protocol: "echo", from: "#server", to: "#crowd" } ],
		}`,
		"server.cml": `{ program: { runner: "elf", binary: "bin/server" }, capabilities: [ { protocol: "echo" } ],
			expose: [ { protocol: "echo", from: "self" } ] }`,
		"crowd.cml":  `{ program: { runner: "elf", binary: "bin/crowd" }, use: [ { protocol: "echo" } ] }`,
		"bin/server": slowServer, "bin/crowd": crowd,
	})
	r := run(t, dir, append(args, "--stay")...)
	r.until("a part of them", func() bool { return strings.Contains(r.out(), "/crowd | a part\n") })
	r.must("restart", "/server")
	r.until("the end", func() bool { return strings.Contains(r.out(), "/crowd | answered ") })
	if !strings.Contains(r.out(), "/crowd | answered 1000 lost []\n") || strings.Count(r.out(), "/server | up\n") < 2 {
		t.Errorf("%s%s", r.out(), r.err())
	}
	r.stop()
}
