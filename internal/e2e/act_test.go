package e2e

import (
	"strings"
	"testing"
)

// TestSeveralAtOnce: what acts on instances takes several and patterns, and a signal reaches the program and nobody else.
func TestSeveralAtOnce(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "a", url: "w.cml" }, { name: "b", url: "w.cml" }, { name: "idle", url: "w.cml" } ],
			offer: [ { runner: "elf", from: "parent", to: [ "#a", "#b", "#idle" ] } ],
		}`,
		"w.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c",
			"trap 'echo hup' HUP; trap 'kill $!; exit 3' USR1; echo up; while :; do sleep 1000 & wait $!; done" ] } }`,
	}), "--stay")
	r.up()
	if out := r.must("start", "/a", "b"); !strings.Contains(out, "/a: Running\n/b: Running\n") {
		t.Errorf("start of two: %s", out)
	}
	lines := func(word string) int { return strings.Count(r.out(), "| "+word) }
	r.until("two programs", func() bool { return lines("up") == 2 })
	r.must("signal", "hup", "/*") // the root has no program, idle does not run
	r.until("two signals", func() bool { return lines("hup") == 2 })
	r.must("kill", "-s", "USR1", "/a")
	r.must("wait", "/a", "--until", "stopped")
	if out := r.must("show", "/a"); !strings.Contains(out, "exited code=3") {
		t.Errorf("after its own end by a signal: %s", out)
	}
	if _, stderr, code := r.cmgr("signal", "hup", "/a", "/b"); code != 1 || !strings.Contains(stderr, "/a: no program of it runs") {
		t.Errorf("signal to what does not run: %d, %s", code, stderr)
	}
	r.until("the other's signal", func() bool { return lines("hup") == 3 })
	if _, stderr, code := r.cmgr("stop", "/b", "/nobody"); code != 1 || !strings.Contains(stderr, "/nobody") {
		t.Errorf("stop of what is not there: %d, %s", code, stderr)
	}
	if out := r.must("list", "--only", "running"); out != "/\n/b\n" {
		t.Errorf("running after a stop that was refused: %q", out)
	}
	if out := r.must("stop", "/*"); !strings.Contains(out, "/b: Stopped: ") || !strings.Contains(out, "/idle: Unresolved\n") {
		t.Errorf("stop of all: %s", out)
	}
	if code := r.stop(); code != 1 || !strings.Contains(r.err(), "did not end well: /a\n") {
		t.Errorf("exit code %d: %s", code, r.err())
	}
}

// TestRestartOfTheLast: a manager that ends when nothing runs any more outlives the moment in which its only program is restarted.
func TestRestartOfTheLast(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "a", url: "a.cml", startup: "eager" } ],
			capabilities: [ { config: "n", type: "uint8", value: 1 } ],
			offer: [ { config: "n", from: "self", to: "#a" } ],
		}`,
		"a.cml": `{
			program: { runner: "elf", binary: "/bin/sh", args: [ "-c", "trap 'kill $!; exit' TERM; echo up; while :; do sleep 1000 & wait $!; done" ] },
			use: [ { config: "n", key: "n", type: "uint8" } ],
		}`,
	}))
	up := func(n int) {
		t.Helper()
		r.until("another start", func() bool { return strings.Count(r.out(), "| up") == n })
	}
	up(1)
	r.must("restart", "/a")
	up(2)
	r.must("config", "set", "/a", "n=2", "--reload")
	up(3)
	r.must("stop", "/a")
	if code := r.wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, r.err())
	}
}

// TestDisable: what is disabled does not start, in the next run neither.
func TestDisable(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" }, { name: "b", url: "a.cml", startup: "eager" } ],
			offer: [ { runner: "elf", from: "parent", to: [ "#a", "#b" ] } ] }`,
		"a.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c", "echo up; exec sleep 1000" ] } }`,
	}), "--stay")
	both := func() bool { return strings.Contains(r.out(), "/a | up") && strings.Contains(r.out(), "/b | up") }
	r.until("both", both)
	if out := r.must("disable", "/a"); !strings.Contains(out, "Stopped: killed by SIGTERM") {
		t.Errorf("it says %s", out)
	}
	if _, stderr, code := r.cmgr("start", "/a"); code != 1 || !strings.Contains(stderr, "it is disabled") ||
		!strings.Contains(stderr, "hint: `cmgr enable /a` lets it start") {
		t.Errorf("a start: %d, %s", code, stderr)
	}
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}

	next := prepare(t, r.dir)
	next.state = r.state
	next.start("--stay")
	next.until("the other one", func() bool { return strings.Contains(next.out(), "/b | up") })
	next.until("being told", func() bool {
		return strings.Contains(next.err(), "/a is disabled (eager); `cmgr enable /a` lets it start")
	})
	if out := next.must("list", "-v"); !strings.Contains(out, "Disabled  /a") {
		t.Errorf("the list: %s", out)
	}
	if out := next.must("show", "/a"); !strings.Contains(out, "Stopped (disabled)") {
		t.Errorf("the instance: %s", out)
	}
	if strings.Contains(next.out(), "/a | up") {
		t.Error("it runs")
	}
	next.must("enable", "/a")
	next.until("it", func() bool { return strings.Contains(next.out(), "/a | up") })
	if code := next.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, next.err())
	}
}
