package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// A component that prints the events of its children as they come.
const watcher = `#!/usr/bin/env python3
import json, os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ.get("CMGR_NAMESPACE", "") + "/svc/events")
for line in s.makefile():
    e = json.loads(line)
    print(e["kind"], e["moniker"], e.get("exit", {}).get("cause", ""), flush=True)
`

// A component that tries a restricted protocol.
const nosy = `#!/usr/bin/env python3
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    s.connect(os.environ.get("CMGR_NAMESPACE", "") + "/svc/cmgr.component.RealmQuery")
    print("let in", flush=True)
except ConnectionRefusedError:
    print("denied", flush=True)
`

const upper = `#!/usr/bin/env python3
import socket
s = socket.socket(fileno=3)
while True:
    c, _ = s.accept()
    c.sendall(c.makefile("rb").read().upper())
    c.close()
`

// TestFramework: event streams, restricted protocols and cmgr connect, with real processes.
func TestFramework(t *testing.T) {
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "upper", url: "upper.cml" }, { name: "nosy", url: "nosy.cml" }, { name: "watcher", url: "watcher.cml", startup: "eager" },
			],
			offer: [ { event_stream: [ "started", "stopped" ], from: "framework", scope: "#upper", to: "#watcher" } ],
		}`,
		"watcher.cml": `{ program: { runner: "elf", binary: "bin/watcher" },
			use: [ { event_stream: "started", path: "/svc/events" }, { event_stream: "stopped", path: "/svc/events" } ] }`,
		"upper.cml": `{ program: { runner: "elf", binary: "bin/upper" }, capabilities: [ { protocol: "upper" } ] }`,
		"nosy.cml": `{ program: { runner: "elf", binary: "bin/nosy" },
			use: [ { protocol: "cmgr.component.RealmQuery", from: "framework" } ] }`,
		"bin/watcher": watcher, "bin/nosy": nosy, "bin/upper": upper,
	})
	r := run(t, dir)
	r.until("who watches", func() bool { return strings.Contains(r.err(), "/watcher started") })
	c := exec.Command(binary, "connect", "/upper", "upper", "--socket", r.sock)
	c.Env = r.env
	c.Stdin = strings.NewReader("is there anybody?")
	if out, err := c.Output(); string(out) != "IS THERE ANYBODY?" || err != nil {
		t.Errorf("connect: %q, %v", out, err)
	}
	if _, stderr, code := r.cmgr("connect", "/upper", "uper"); code != 1 || !strings.Contains(stderr, "did you mean upper?") {
		t.Errorf("connect to what is not there: %d, %s", code, stderr)
	}
	r.must("stop", "/upper")
	r.must("start", "/nosy")
	for _, want := range []string{"/watcher | started ./upper", "/watcher | stopped ./upper stop", "/nosy | denied"} {
		r.until(want, func() bool { return strings.Contains(r.out(), want) })
	}
	const why = "security policy disallows `cmgr.component.RealmQuery` from `<framework of /nosy>` being used at `/nosy`"
	r.until("the log, which says why", func() bool {
		log := r.must("logs", "/nosy")
		return strings.Contains(log, why) && strings.Contains(log, "security_policy.capability_policy")
	})
	r.stop()
}

// TestRunnerDies: what a runner in another process ran has died with it, and the next start gets a new runner.
func TestRunnerDies(t *testing.T) {
	needs.Tool(t, "python3")
	runner, err := os.ReadFile("../../examples/python-runner/runner.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "python", url: "runner.cml" }, { name: "job", url: "job.cml", startup: "eager", environment: "#e" } ],
			environments: [ { name: "e", extends: "realm", runners: [ { runner: "python", from: "#python" } ] } ],
		}`,
		"runner.cml": `{ program: { runner: "elf", binary: "bin/runner" }, capabilities: [ { runner: "python", path: "/svc/python" } ],
			expose: [ { runner: "python", from: "self" } ] }`,
		"job.cml":    `{ program: { runner: "python", function: "job:main" } }`,
		"bin/runner": string(runner),
	})
	put(t, filepath.Join(dir, "job.py"), "import time\ndef main():\n    print('up', flush=True)\n    time.sleep(10000)\n")
	r := run(t, dir, "--stay")
	r.until("the job runs", func() bool { return strings.Count(r.out(), "/job | up\n") == 1 })
	r.must("kill", "/python")
	r.until("the job has died of its runner", func() bool {
		return strings.Contains(r.must("list", "--json"), `"cause":"runner"`)
	})
	r.must("start", "/job")
	r.until("the job runs again", func() bool { return strings.Count(r.out(), "/job | up\n") == 2 })
	r.stop()
}
