package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// The two manifests of the ELF runner's documentation, as they are printed there: each lacks a comma after the program block.
const (
	docEcho = `{
    "program": {
        "binary": "bin/echo",
        "args": [
            "Hello",
            "world!"
        ]
    }
    "use": [
        { "runner": "elf" }
    ]
}
`
	docLifecycle = `{
    "program": {
        "binary": "bin/echo",
        "lifecycle": { "stop_event": "notify" }
    }
    "use": [
        { "runner": "elf" }
    ]
}
`
)

// mend adds the comma.
func mend(manifest string) string {
	return strings.Replace(manifest, "    }\n    \"use\"", "    },\n    \"use\"", 1)
}

func TestDocumentedManifests(t *testing.T) {
	const root = `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ], ` + elf + ` }`
	for name, c := range map[string]struct{ manifest, at string }{
		"echo": {docEcho, "a.cml:8:6"}, "lifecycle": {docLifecycle, "a.cml:5:6"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{
				"root.cml": root, "a.cml": c.manifest,
				"bin/echo": "#!/bin/sh\necho \"${*:-no arguments}\"\n",
			})
			r := run(t, dir)
			if code := r.wait(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range []string{c.at, "comma"} {
				if !strings.Contains(r.err(), want) {
					t.Errorf("it does not say %q:\n%s", want, r.err())
				}
			}
			if r.out() != "" {
				t.Errorf("something ran: %s", r.out())
			}

			put(t, filepath.Join(dir, "a.cml"), mend(c.manifest))
			r = run(t, dir)
			if code := r.wait(); code != 0 {
				t.Errorf("mended: exit code %d\n%s", code, r.err())
			}
			want := map[string]string{"echo": "/a | Hello world!\n", "lifecycle": "/a | no arguments\n"}[name]
			if r.out() != want {
				t.Errorf("it printed %q, want %q", r.out(), want)
			}
		})
	}
}

// TestFortyComponents is a tree of 4 levels with renamed runners, environments and a collection.
func TestFortyComponents(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../examples/tree")); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, "--json", "--stay")
	r.until("40 components", func() bool { return count(r.events(), "started") >= 40 })

	var all []struct{ Moniker, State string }
	if err := json.Unmarshal([]byte(r.must("list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 40 {
		t.Errorf("%d instances are listed, want 40", len(all))
	}
	for _, i := range all {
		if i.State != "started" {
			t.Errorf("%s is %s", i.Moniker, i.State)
		}
	}
	r.must("stop", "/north/coast/rain")
	running := func() string { return r.must("list", "--only", "running") }
	if out := running(); strings.Contains(out, "/north/coast/rain\n") || !strings.Contains(out, "/north/coast/sun\n") {
		t.Errorf("one was stopped, this runs:\n%s", out)
	}
	r.must("unresolve", "/north/coast")
	if out := running(); strings.Contains(out, "/north/coast") || strings.Count(out, "\n") != 36 {
		t.Errorf("a subtree was stopped, this runs:\n%s", out)
	}
	r.must("start", "/north/coast")
	r.until("40 components again", func() bool { return strings.Count(running(), "\n") == 40 })

	r.until("being told of all starts", func() bool { return count(r.events(), "started") == 44 })

	// One of the sensors gets a manifest of its own: no other is disturbed.
	began := len(r.events())
	sensor, err := os.ReadFile(filepath.Join(dir, "sensor.cml"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "better.cml"), string(sensor))
	put(t, filepath.Join(dir, "coast.cml"), edit(t, filepath.Join(dir, "site.cml"), `"sensor.cml"`, `"better.cml"`))
	put(t, filepath.Join(dir, "region.cml"), edit(t, filepath.Join(dir, "region.cml"), `"site.cml"`, `"coast.cml"`))
	want := "/north updated\n/north/coast replaced: what its parent says of it changed"
	if out := r.must("reload", "/north"); !strings.Contains(out, want) || strings.Contains(out, "/north/hill") {
		t.Errorf("the reload says %s", out)
	}
	job := r.must("run", "/jobs:once", "file://"+filepath.Join(dir, "job.cml"))
	if !strings.Contains(job, "/jobs:once") {
		t.Errorf("it says %q", job)
	}
	r.until("the job's end", func() bool { return at(r.events(), "destroyed", "/jobs:once") >= 0 })
	es := slices.DeleteFunc(r.events()[began:], func(e event) bool { return e.Moniker == "/jobs:once" })
	if at(es, "started", "/north/coast/sun") < 0 || count(es, "started") != 4 || count(es, "stopped") != 4 {
		t.Errorf("after a reload of one site of 4: %v", es)
	}

	before := len(r.events())
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
	es = r.events()[before:]
	// Every child is shut down before its parent.
	for _, i := range all {
		m := i.Moniker
		if m == "/" {
			continue
		}
		parent := m[:max(1, strings.LastIndex(m, "/"))]
		if at(es, "shutdown", m) < 0 || at(es, "shutdown", m) > at(es, "shutdown", parent) {
			t.Errorf("%s is not shut down before %s", m, parent)
		}
	}
}

// edit is the text of a file with the first old replaced by new.
func edit(t *testing.T, file, old, new string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %s", file, old)
	}
	return strings.Replace(string(text), old, new, 1)
}

// TestReload: what did not change has the same process afterwards.
func TestReload(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" }, { name: "b", url: "b.cml", startup: "eager" } ],
			offer: [ { runner: "elf", from: "parent", to: [ "#a", "#b" ] } ] }`,
		"a.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c", "echo a1 $$; exec sleep 1000" ] } }`,
		"b.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c", "echo b1 $$; exec sleep 1000" ] } }`,
	}))
	r.until("both", func() bool { return strings.Count(r.out(), "\n") == 2 })
	before := r.out()
	if out := r.must("reload"); !strings.Contains(out, "Nothing has changed.") {
		t.Errorf("a reload of what is as it was: %s", out)
	}
	put(t, filepath.Join(r.dir, "b.cml"), "{\n\tprogram: nothing }")
	if _, stderr, code := r.cmgr("reload"); code != 1 || !strings.Contains(stderr, "b.cml:2:11") || !strings.Contains(stderr, "nothing was changed") {
		t.Errorf("a reload of what is wrong: %d, %s", code, stderr)
	}
	put(t, filepath.Join(r.dir, "b.cml"), edit(t, filepath.Join(r.dir, "a.cml"), "a1", "b2"))
	if out := r.must("reload", "--dry-run"); !strings.Contains(out, "/b would be restarted: its program changed (") {
		t.Errorf("a dry run: %s", out)
	}
	if out := r.out(); out != before {
		t.Errorf("after nothing but a dry run:\n%s", out)
	}
	if out := r.must("reload"); !strings.Contains(out, "/b restarted: its program changed (") || strings.Contains(out, "/a") {
		t.Errorf("a reload: %s", out)
	}
	r.until("the new b", func() bool { return strings.Contains(r.out(), "/b | b2 ") })
	if n := strings.Count(r.out(), "\n"); n != 3 {
		t.Errorf("one program was started anew, but\n%s", r.out())
	}
	put(t, filepath.Join(r.dir, "b.cml"), edit(t, filepath.Join(r.dir, "a.cml"), "/bin/sh", "/nowhere"))
	out, stderr, code := r.cmgr("reload")
	if code != 1 || !strings.Contains(out, "/b restarted: its program changed (") || !strings.Contains(stderr, "/nowhere: no such file") {
		t.Errorf("a reload whose start fails: %d, %s%s", code, out, stderr)
	}
	put(t, filepath.Join(r.dir, "b.cml"), edit(t, filepath.Join(r.dir, "b.cml"), "/nowhere", "/neither"))
	if _, stderr, _ := r.cmgr("reload", "--json"); !strings.Contains(stderr, `"changes":[{"moniker":"/b","kind":"started"`) {
		t.Errorf("the same as JSON: %s", stderr)
	}
	put(t, filepath.Join(r.dir, "b.cml"), edit(t, filepath.Join(r.dir, "a.cml"), "a1", "b3"))
	r.must("reload")
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
}

// TestShutdownFollowsDependencies has a chain of clients and servers beside each other: each client must be gone before its server
// is asked to go.
func TestShutdownFollowsDependencies(t *testing.T) {
	const n = 6
	var children, offers []string
	for i := range n {
		children = append(children, fmt.Sprintf(`{ name: "s%d", url: "s.cml", startup: "eager" }`, i))
		offers = append(offers, fmt.Sprintf(`{ runner: "elf", from: "parent", to: "#s%d" }`, i))
		if i > 0 {
			offers = append(offers, fmt.Sprintf(`{ protocol: "p", from: "#s%d", to: "#s%d", as: "q" }`, i-1, i))
		}
	}
	r := run(t, write(t, map[string]string{
		"root.cml": "{ children: [" + strings.Join(children, ",") + "], offer: [" + strings.Join(offers, ",") + "] }",
		"s.cml": `{ program: { binary: "/bin/sh", args: [ "-c", "trap 'exit 0' TERM; sleep 1000000 & wait" ] }, use: [ { runner: "elf" } ],
			capabilities: [ { protocol: "p" } ], expose: [ { protocol: "p", from: "self" } ] }`,
	}), "--json")
	r.until("all started", func() bool { return count(r.events(), "started") == n+1 })
	r.stop()
	es := r.events()
	for i := 1; i < n; i++ {
		client, server := fmt.Sprintf("/s%d", i), fmt.Sprintf("/s%d", i-1)
		if at(es, "stopped", client) < 0 || at(es, "stopped", client) > at(es, "stopping", server) {
			t.Errorf("%s was asked to stop before %s was gone", server, client)
		}
	}
}

// TestMany starts, lists and stops trees of 1,000 and 9,000 processes. Each has its pipes, its job, and a lifecycle channel.
func TestMany(t *testing.T) {
	needs.Root(t)
	needs.Cgroup2(t)
	if testing.Short() {
		t.Skip("it takes a while")
	}
	for _, n := range []int{1000, 9000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var b strings.Builder
			b.WriteString("{ children: [\n")
			for i := range n {
				fmt.Fprintf(&b, "{ name: \"c%d\", url: \"c.cml\", startup: \"eager\" },\n", i)
			}
			b.WriteString("], environments: [ { name: \"e\", extends: \"realm\", __stop_timeout_ms: 100 } ] }")
			r := run(t, write(t, map[string]string{
				"root.cml": b.String(),
				"c.cml":    `{ program: { runner: "elf", binary: "/bin/sleep", args: [ "1000000" ], lifecycle: { stop_event: "notify" } } }`,
			}))
			r.until("all started", func() bool { return strings.Count(r.err(), " started (eager)\n") == n })
			if got := strings.Count(r.must("list", "--only", "running"), "\n"); got != n+1 {
				t.Errorf("%d run, want %d", got, n+1)
			}
			if rss := rss(t, r.cmd.Process.Pid); n == 9000 && rss > 120<<20 {
				t.Errorf("the manager takes %d MiB", rss>>20)
			}
			// They don't listen to the channel: the second interrupt kills them all.
			_ = r.cmd.Process.Signal(os.Interrupt)
			r.until("the shutdown", func() bool { return strings.Contains(r.err(), "shutting down") })
			code := r.stop()
			if left := cgroups(t, r.cmd.Process.Pid); len(left) > 0 {
				said := r.err()
				t.Errorf("cgroups are left: %v, after exit code %d and the words %s", left[:1], code, said[max(0, strings.Index(said, "fatal error")-300):][:3000])
			}
		})
	}
}

func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	fmt.Sscan(string(b), &size, &resident)
	return resident * os.Getpagesize()
}

// cgroups are the directories that a manager of that pid has made.
func cgroups(t *testing.T, pid int) []string {
	t.Helper()
	var out []string
	all, _ := filepath.Glob(filepath.Join(needs.Cgroup2(t), "*"))
	for _, d := range all {
		if strings.Contains(filepath.Base(d), fmt.Sprintf("-%d", pid)) {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// TestNothingStarted: who forgot that children are lazy is told.
func TestNothingStarted(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml" } ], ` + elf + ` }`,
		"a.cml":    `{ use: [ { runner: "elf" } ], program: { binary: "/bin/true" } }`,
	}))
	if code := r.wait(); code != 0 || !strings.Contains(r.err(), `nothing was started: /a waits to be used`) {
		t.Errorf("exit code %d: %s", code, r.err())
	}
}

// TestOutputThatCannotBeWritten is a failure.
func TestOutputThatCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	dir := write(t, map[string]string{"root.cml": `{ program: { runner: "elf", binary: "/bin/echo", args: [ "lost" ] } }`})
	r := prepare(t, dir)
	c := exec.Command(binary, "run", filepath.Join(dir, "root.cml"), "--socket", r.sock, "--state", r.state)
	c.Stdout = full
	if _ = c.Run(); c.ProcessState.ExitCode() == 0 {
		t.Error("its output is lost, and it says that all is well")
	}
}

// TestSecondInterrupt: the first one names who is waited for, the second kills, and what was killed so did not end well.
func TestSecondInterrupt(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager", environment: "#slow" } ], ` + elf + `,
			environments: [ { name: "slow", extends: "realm", __stop_timeout_ms: 3600000 } ] }`,
		"a.cml": `{ use: [ { runner: "elf" } ],
			program: { binary: "/bin/sh", args: [ "-c", "trap '' TERM; echo up; while :; do sleep 1000; done" ] } }`,
	}))
	r.until("its program", func() bool { return strings.Contains(r.out(), "/a | up") })
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r.until("being told who is waited for", func() bool { return strings.Contains(r.err(), "waiting for /a: asked to stop ") })
	code := r.stop()
	for _, want := range []string{"killing what is left", "/a killed by SIGKILL", "1 component did not end well: /a"} {
		if !strings.Contains(r.err(), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if t.Failed() {
		t.Log(r.err())
	}
}
