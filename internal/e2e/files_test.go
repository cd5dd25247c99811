package e2e

import (
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// Directories, storage and configuration reach a program; storage is still there in the next run of the tree.
func TestFiles(t *testing.T) { testFiles(t) }

// The same for programs that share the manager's world.
func TestFilesUnconfined(t *testing.T) { testFiles(t, unconfined(t)...) }

func testFiles(t *testing.T, args ...string) {
	needs.Tool(t, "python3")
	r := prepare(t, write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "giver", url: "giver.cml" }, { name: "taker", url: "taker.cml", startup: "eager" } ],
			capabilities: [
				{ storage: "kept", from: "parent", backing_dir: "data", storage_id: "static_instance_id_or_moniker" },
				{ config: "greeting", type: "string", max_size: 20, value: "hello" },
			],
			offer: [
				{ directory: "gift", from: "#giver", to: "#taker", rights: ["r*"], subdir: "deep" },
				{ storage: "kept", from: "self", to: "#taker" },
				{ config: "greeting", from: "self", to: "#taker" },
			],
		}`,
		"giver.cml": `{
			program: { runner: "elf", binary: "bin/giver", ready: "lifecycle", lifecycle: { stop_event: "notify" } },
			capabilities: [ { directory: "gift", path: "/gift", rights: ["rw*"] } ],
			expose: [ { directory: "gift", from: "self" } ],
		}`,
		"taker.cml": `{
			program: { runner: "elf", binary: "bin/taker" },
			use: [
				{ directory: "gift", path: "/gift", rights: ["r*"] },
				{ storage: "kept", path: "/kept" },
				{ directory: "pkg", from: "framework", path: "/mine", rights: ["r*"] },
				{ config: "greeting", key: "greeting", type: "string", max_size: 20 },
				{ config: "absent", key: "size", type: "uint8", availability: "optional", default: 7 },
			],
		}`,
		"bin/giver": `#!/usr/bin/env python3
import os, socket
out = os.environ.get("CMGR_NAMESPACE", "") + "/out/gift/deep"
os.makedirs(out, exist_ok=True)
open(out + "/word", "w").write("present")
s = socket.socket(fileno=int(os.environ["CMGR_LIFECYCLE_FD"]))
s.send(b"\x0a\x00")
s.recv(100)
`,
		"bin/taker": `#!/usr/bin/env python3
import json, os
ns = os.environ.get("CMGR_NAMESPACE", "")
print("gift", open(ns + "/gift/word").read())
print("mine", "taker.cml" in os.listdir(ns + "/mine"))
with open(ns + "/kept/count", "a") as f:
    f.write("x")
print("count", len(open(ns + "/kept/count").read()))
config = json.loads(os.pread(int(os.environ["CMGR_CONFIG_FD"]), 1000, 0))
assert config == json.load(open(ns + "/config/config.json")), config
print("config", config["greeting"], config["size"])
`,
	}))
	for _, count := range []string{"count 1\n", "count 2\n"} {
		r.start(args...)
		r.until("taker is done", func() bool { return strings.Contains(r.out(), count) && strings.HasSuffix(r.out(), "config hello 7\n") })
		r.stop()
		for _, want := range []string{"gift present\n", "mine True\n", count, "config hello 7\n"} {
			if !strings.Contains(r.out(), "/taker | "+want) {
				t.Errorf("it did not print %q\n%s%s", want, r.out(), r.err())
			}
		}
	}
}
