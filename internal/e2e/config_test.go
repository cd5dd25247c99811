package e2e

import (
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// Configuration from a value file, a route, the creator and an operator, as the program finds it.
func TestConfig(t *testing.T) {
	needs.Tool(t, "python3")
	r := run(t, write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "app", url: "meta/app.cml", startup: "eager" } ],
			collections: [ { name: "jobs", durability: "transient" } ],
			capabilities: [ { config: "level", type: "uint8", value: 3 } ],
			offer: [ { config: "level", from: "self", to: [ "#app", "#jobs" ] } ],
		}`,
		"meta/app.cml": `{
			program: { runner: "elf", binary: "bin/app" },
			config: {
				name: { type: "string", max_size: 20, mutability: [ "parent" ] }, level: { type: "uint8" },
				sizes: { type: "vector", max_count: 3, element: { type: "int64" } },
			},
			use: [ { config: "level", key: "level", type: "uint8" } ],
		}`,
		"meta/app.cvf": `{ name: "filed", level: 1, sizes: [ -1, 2 ] }`,
		"bin/app": `#!/usr/bin/env python3
import json, os
c = json.loads(os.pread(int(os.environ["CMGR_CONFIG_FD"]), 1000, 0))
print("found", c["name"], c["level"], c["sizes"], flush=True)
`,
	}), "--stay")
	found := func(who, want string) {
		t.Helper()
		r.until(want, func() bool { return strings.Contains(r.out(), who+" | found "+want+"\n") })
	}
	found("/app", "filed 3 [-1, 2]")
	r.must("wait", "/app", "--until", "exited")
	r.must("config", "set", "/app", "name=set by hand", "sizes=[7]")
	r.must("config", "set", "/app", "level=9")
	want := `Key    Type             Value          Source
level  uint8            9              override
name   string           "set by hand"  override
sizes  vector of int64  [7]            override
`
	if got := r.must("config", "list", "/app"); got != want {
		t.Errorf("list:\n%swant\n%s", got, want)
	}
	r.must("start", "/app")
	found("/app", "set by hand 9 [7]")
	if _, err, code := r.cmgr("config", "set", "/app", "level=256"); code != 1 || !strings.Contains(err, "256 is out of range for type uint8") {
		t.Errorf("%d, %s", code, err)
	}
	r.must("config", "unset", "/app", "name", "level")
	want = `Key    Type             Value    Source
level  uint8            3        capability of /
name   string           "filed"  package
sizes  vector of int64  [7]      override
`
	if got := r.must("config", "list", "/app"); got != want {
		t.Errorf("list:\n%swant\n%s", got, want)
	}
	r.must("create", "/jobs:a", r.dir+"/meta/app.cml", "--config", "name=made")
	r.must("start", "/jobs:a")
	found("/jobs:a", "made 3 [-1, 2]")
	r.must("create", "/jobs:b", r.dir+"/meta/app.cml", "--config", "level=1")
	if _, err, code := r.cmgr("start", "/jobs:b"); code != 1 || !strings.Contains(err, `its parent may not set key "level"`) {
		t.Errorf("%d, %s", code, err)
	}
	r.stop()
}
