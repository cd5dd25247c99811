package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// namespace_capabilities: a directory and a socket of the host, offered to the root, reach who they are routed to; a right that
// is not given is not to be had.
func TestHostCapabilities(t *testing.T) {
	testHostCapabilities(t, `security_policy: { sandbox: { unconfined: ["/**"] } },`)
}

func TestHostCapabilitiesConfined(t *testing.T) {
	needs.Root(t)
	testHostCapabilities(t, "")
}

func testHostCapabilities(t *testing.T, more string) {
	needs.Tool(t, "python3")
	short, err := os.MkdirTemp("", "cmgr") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	put(t, filepath.Join(short, "files/word"), "from the host")
	l, err := net.Listen("unix", filepath.Join(short, "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("host's socket"))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "app", url: "app.cml" }, { name: "greedy", url: "greedy.cml" } ],
			offer: [
				{ protocol: "bus", from: "parent", to: "#app" },
				{ directory: "files", from: "parent", to: [ "#app", "#greedy" ] },
			],
		}`,
		"app.cml": `{ program: { runner: "elf", binary: "bin/app" }, use: [
			{ protocol: "bus" }, { protocol: "bus", path: "/else/where" }, { directory: "files", path: "/files", rights: [ "r*" ] },
		] }`,
		"greedy.cml": `{ program: { runner: "elf", binary: "bin/app" }, use: [ { directory: "files", path: "/files", rights: [ "rw*" ] } ] }`,
		"bin/app": `#!/usr/bin/env python3
import os, socket
ns = os.environ.get("CMGR_NAMESPACE", "")
for at in "/svc/bus", "/else/where":
    s = socket.socket(socket.AF_UNIX)
    s.connect(ns + at)
    print(at, "is the", s.recv(100).decode(), flush=True)
print("word", open(ns + "/files/word").read(), flush=True)
`,
		"config": `{ ` + more + ` namespace_capabilities: [
			{ protocol: "bus", path: "` + short + `/s" }, { directory: "files", path: "` + short + `/files", rights: [ "r*" ] } ] }`,
	})
	r := run(t, dir, "--stay", "--config", filepath.Join(dir, "config"))
	r.up()
	r.must("start", "/app")
	for _, want := range []string{"/svc/bus is the host's socket", "/else/where is the host's socket", "word from the host"} {
		r.until(want, func() bool { return strings.Contains(r.out(), "/app | "+want+"\n") })
	}
	r.must("start", "/greedy")
	want := `requested rights (rw*) greater than provided rights (r*) at "<component manager>"`
	r.until("the refusal", func() bool { return strings.Contains(r.err(), want) })
	r.stop()
}

// A program that shares the host's files and runs as another user reaches its namespace, however long the name of the state
// directory is.
func TestOtherUser(t *testing.T) {
	needs.Root(t)
	needs.Tool(t, "python3")
	r := prepare(t, write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "namer", url: "namer.cml" }, { name: "other", url: "other.cml", startup: "eager" } ],
			offer: [ { protocol: "a.protocol.with.a.name.that.is.long.enough", from: "#namer", to: "#other" } ],
		}`,
		"namer.cml": `{ program: { runner: "elf", binary: "bin/namer" },
			capabilities: [ { protocol: "a.protocol.with.a.name.that.is.long.enough" } ],
			expose: [ { protocol: "a.protocol.with.a.name.that.is.long.enough", from: "self" } ] }`,
		"other.cml": `{ program: { runner: "elf", binary: "bin/lister", args: [ "/svc" ], user: "nobody" },
			use: [ { protocol: "a.protocol.with.a.name.that.is.long.enough" } ] }`,
		"bin/namer": namer, "bin/lister": lister,
	}))
	r.state = filepath.Join(r.state, strings.Repeat("deep/", 20), "state")
	if err := os.MkdirAll(filepath.Dir(r.state), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(r.dir), 0o755); err != nil { // of all that are t.TempDir's
		t.Fatal(err)
	}
	r.start("--stay")
	const name = "a.protocol.with.a.name.that.is.long.enough"
	r.until("the answer", func() bool { return strings.Contains(r.out(), "/other | sees: "+name+"=/namer "+name+"\n") })
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
