package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestServiceKeys: what a service directory has, an elf component has by its manifest, here with restarts.
func TestServiceKeys(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "web", url: "web.cml", startup: "eager", on_terminate: "restart", restart: { delay_ms: 1, limit: 2 } },
				{ name: "db", url: "db.cml", startup: "eager" },
				{ name: "down", url: "db.cml" },
			],
			offer: [ { runner: "elf", from: "parent", to: [ "#web", "#db", "#down" ] } ],
		}`,
		"web.cml": `{ use: [ { runner: "elf" } ], program: { binary: "bin/run", finish: "bin/finish", log: [ "bin/log", "web" ] } }`,
		"db.cml": `{ use: [ { runner: "elf" } ], program: {
			binary: "/bin/sleep", args: [ "1000" ], check: [ "bin/check", "db" ] } }`,
		"bin/run":    "#!/bin/sh\necho up\nexit 5\n",
		"bin/finish": "#!/bin/sh\necho \"finish $*\"\n",
		"bin/check":  "#!/bin/sh\necho \"check $*\" >&2\n",
		"bin/log":    "#!/bin/sh\nsed \"s/^/$1: /\"\n",
	}))
	r.until("the last restart, and the check", func() bool {
		return strings.Contains(r.err(), "2 restarts within") && strings.Contains(r.must("list", "--only", "running"), "/db\n")
	})
	if code := r.stop(); code != 1 || !strings.Contains(r.err(), "did not end well: /web\n") {
		t.Errorf("exit code %d: %s", code, r.err())
	}
	for line, want := range map[string]int{
		"/web | web: up\n": 3, "/web | web: finish 5 0\n": 3, "/db | check db\n": 1, "/down": 0,
	} {
		if got := strings.Count(r.out(), line); got != want {
			t.Errorf("%d × %q, want %d:\n%s", got, line, want, r.out())
		}
	}
}

// TestChpstAsBinary: what chpst has and no key of a manifest is, a component gets with chpst as its binary (cml(5)).
func TestChpstAsBinary(t *testing.T) {
	dir := write(t, map[string]string{
		"root.cml": `{ program: {
			runner: "elf", binary: "chpst",
			args: [ "-n", "3", "-e", "env", "-m", "943718400", "sh", "-c", "nice; echo $KEY; ulimit -v" ],
		} }`,
		"env/KEY": "secret\n",
	})
	b, err := os.ReadFile(binary)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "chpst"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	nice, err := exec.Command("nice", "-n", "3", "nice").Output()
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, dir)
	<-r.exited
	if want := "/ | " + string(nice) + "/ | secret\n/ | 921600\n"; r.out() != want || r.code != 0 {
		t.Errorf("%q, exit %d, %s", r.out(), r.code, r.err())
	}
}
