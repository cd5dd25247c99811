package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// mark is an argument by which a test finds its own processes among all of the machine's.
func mark(t *testing.T) string {
	return fmt.Sprintf("100%d%d", os.Getpid(), time.Now().UnixNano()%1_000_000)
}

// marked are the live processes that have mark as an argument.
func marked(t *testing.T, mark string) []string {
	t.Helper()
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []string
	for _, f := range all {
		b, _ := os.ReadFile(f)
		for _, a := range strings.Split(string(b), "\x00") {
			if a == mark {
				out = append(out, filepath.Base(filepath.Dir(f)))
			}
		}
	}
	return out
}

// TestHostileComponents: whatever these do, a neighbour runs on, the manager answers, and after the stop nothing of them is left.
func TestHostileComponents(t *testing.T) {
	m := mark(t)
	hostile := map[string]string{
		"daemons":  `(setsid sh -c "setsid sleep $MARK & sleep $MARK" &) ; (setsid sleep $MARK &) ; sleep $MARK`,
		"deaf":     `trap "" TERM INT HUP; while :; do sleep $MARK; done`,
		"bomb":     `i=0; while [ $i -lt 200 ]; do sleep $MARK & i=$((i+1)); done; wait`,
		"flood":    `trap "" TERM; while :; do echo "$MARK all work and no play makes a dull log"; done`,
		"longline": `trap "" TERM; yes | tr -d '\n'`,
		"closes":   `exec <&- >&- 2>&-; exec sleep $MARK`,
		"orphan":   `setsid sleep $MARK & exit 0`,
		"garbage":  `head -c 100000 /dev/urandom >&9 2>/dev/null; head -c 4000 /dev/urandom >&9; sleep $MARK`,
	}
	files := map[string]string{
		"good.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sleep", args: [ "` + m + `" ] } }`,
	}
	children := `{ name: "good", url: "good.cml", startup: "eager" },`
	to := `"#good"`
	for name, script := range hostile {
		lifecycle := ""
		if name == "garbage" {
			lifecycle = `, lifecycle: { stop_event: "notify" }`
		}
		files[name+".cml"] = fmt.Sprintf(`{ use: [ { runner: "elf" } ],
			program: { binary: "/bin/sh", args: [ "-c", %q ], environ: [ "MARK=%s" ] %s } }`, script, m, lifecycle)
		children += fmt.Sprintf(`{ name: %q, url: "%s.cml", startup: "eager", environment: "#short" },`, name, name)
		to += fmt.Sprintf(`, "#%s"`, name)
	}
	files["root.cml"] = `{ children: [` + children + `], offer: [ { runner: "elf", from: "parent", to: [` + to + `] } ],
		environments: [ { name: "short", extends: "realm", __stop_timeout_ms: 300 } ] }`

	r := run(t, write(t, files), "--stay", "--config", filepath.Join(write(t, map[string]string{"c": `{ log: { max_size: 100000, max_files: 2 } }`}), "c"))
	r.up()
	r.until("the bomb", func() bool { return len(marked(t, m)) > 200 })
	r.until("the flood's rotation", func() bool {
		files, _ := filepath.Glob(filepath.Join(r.state, "logs", "flood", "@*"))
		return len(files) >= 2
	})
	if out := r.must("list", "--only", "running"); !strings.Contains(out, "/good\n") {
		t.Errorf("the neighbour does not run:\n%s", out)
	}
	r.must("wait", "/orphan", "--until", "exited")
	for name := range hostile {
		r.must("stop", "/"+name)
	}
	if out := r.must("list", "--only", "running"); strings.TrimSpace(out) != "/\n/good" {
		t.Errorf("these run:\n%s", out)
	}
	// What it starts is for a moment a copy of it.
	r.until("the neighbour's process, and no other", func() bool { return len(marked(t, m)) == 1 })
	var size int64
	files2, _ := filepath.Glob(filepath.Join(r.state, "logs", "flood", "*"))
	for _, f := range files2 {
		if st, err := os.Stat(f); err == nil {
			size += st.Size()
		}
	}
	if size > 600_000 {
		t.Errorf("the flood's log takes %d bytes", size)
	}
	// The deaf ones had to be killed, which is no good end.
	if code := r.stop(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if left := marked(t, m); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestManagerKilled: a manager that dies leaves processes, cgroups and a socket; the next one with its state directory cleans up
// before it starts anything. Without a cgroup the keepers end what they keep when their manager ends.
func TestManagerKilled(t *testing.T) {
	for _, backend := range []string{"cgroup2", "pidns", "subreaper"} {
		t.Run(backend, func(t *testing.T) {
			switch {
			case backend == "cgroup2":
				needs.Root(t)
				needs.Cgroup2(t)
			case backend == "pidns" && os.Geteuid() != 0:
				needs.Userns(t)
			}
			m := mark(t)
			dir := write(t, map[string]string{
				"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ], ` + elf + ` }`,
				"a.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh",
					args: [ "-c", "trap '' TERM HUP INT; (setsid sleep ` + m + ` &); echo up; exec sleep ` + m + `" ] } }`,
			})
			r := run(t, dir, "--job", backend)
			r.until("the processes", func() bool { return len(marked(t, m)) == 2 })
			old := marked(t, m)
			r.until("the output", func() bool { return strings.Contains(r.out(), "/a | up") })
			if err := r.cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			r.wait()
			pid := r.cmd.Process.Pid
			if backend == "cgroup2" && len(marked(t, m)) != 2 {
				t.Fatalf("nothing is left to be cleaned up")
			}
			if _, err, code := r.cmgr("list"); code != 111 || !strings.Contains(err, "no manager") {
				t.Errorf("list without a manager: code %d, %s", code, err)
			}

			r.stdout.Reset()
			r.start("--job", backend)
			r.until("the new processes", func() bool { return strings.Contains(r.out(), "/a | up") && len(marked(t, m)) == 2 })
			for _, p := range marked(t, m) {
				if slices.Contains(old, p) {
					t.Errorf("process %s of the dead manager still runs", p)
				}
			}
			if backend == "cgroup2" {
				if left := cgroups(t, pid); len(left) > 0 {
					t.Errorf("cgroups of the dead manager: %v", left)
				}
			}
			r.must("list")
			if code := r.stop(); code != 1 { // it took no SIGTERM, and had to be killed
				t.Errorf("exit code %d\n%s", code, r.err())
			}
			if left := marked(t, m); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestTwoManagers: a second manager with the same name or the same state directory is refused, and disturbs nothing.
func TestTwoManagers(t *testing.T) {
	dir := write(t, map[string]string{"root.cml": `{}`})
	r := run(t, dir, "--stay")
	r.up()
	for _, args := range [][]string{{"--state", r.state, "--socket", r.sock + "2"}, {"--state", t.TempDir(), "--socket", r.sock}} {
		c := exec.Command(binary, append([]string{"run", filepath.Join(dir, "root.cml")}, args...)...)
		c.Env = r.env
		out, err := c.CombinedOutput()
		if err == nil || c.ProcessState.ExitCode() == 0 {
			t.Errorf("%v: a second manager ran", args)
		}
		if !strings.Contains(string(out), "manager") {
			t.Errorf("%v: it says %s", args, out)
		}
	}
	r.must("list")
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestCritical: a critical component that is not on the list does not start; one that is takes everything down with it, in order.
func TestCritical(t *testing.T) {
	dir := write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" }, { name: "good", url: "good.cml", startup: "eager" } ],
			offer: [ { runner: "elf", from: "parent", to: [ "#a", "#good" ] } ] }`,
		"a.cml":    `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c", "read x <$PWD/gate; exit 3" ], main_process_critical: "true" } }`,
		"good.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c", "trap 'exit 0' TERM; echo up; sleep 1000000 & wait" ] } }`,
		"yes":      `{ security_policy: { job_policy: { main_process_critical: [ "/a" ] } } }`,
	})
	gate := filepath.Join(dir, "gate")
	if err := syscall.Mkfifo(gate, 0o666); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, "--json")
	r.until("the refusal", func() bool { return at(r.events(), "failed", "/a") >= 0 && at(r.events(), "started", "/good") >= 0 })
	if e := r.events()[at(r.events(), "failed", "/a")]; !strings.Contains(e.Error, "main_process_critical") {
		t.Errorf("refused because: %s", e.Error)
	}
	if code := r.stop(); code != 1 {
		t.Errorf("exit code %d", code)
	}

	r = run(t, dir, "--json", "--config", filepath.Join(dir, "yes"))
	r.until("both", func() bool { return at(r.events(), "started", "/a") >= 0 && strings.Contains(r.out(), `"up"`) })
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	es := r.events()
	if at(es, "reboot", "/a") < 0 || at(es, "shutdown", "/") < at(es, "reboot", "/a") {
		t.Errorf("no ordered shutdown after the critical end: %+v", es)
	}
	if i := at(es, "stopped", "/good"); i < 0 || es[i].Exit.Code != 0 {
		t.Errorf("the neighbour was not stopped in order")
	}
	if !strings.Contains(r.err(), "/a") {
		t.Errorf("it does not say whose death it was: %s", r.err())
	}
}

// TestCriticalBeforeReady: a critical component that ends before it is ready, or cannot even be launched, takes everything down too.
func TestCriticalBeforeReady(t *testing.T) {
	for what, program := range map[string]string{
		"not ready": `binary: "/bin/sh", args: [ "-c", "exit 5" ], ready: "lifecycle"`,
		"missing":   `binary: "/no/such/program"`,
	} {
		t.Run(what, func(t *testing.T) {
			dir := write(t, map[string]string{
				"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ], ` + elf + ` }`,
				"a.cml":    `{ use: [ { runner: "elf" } ], program: { ` + program + `, main_process_critical: "true" } }`,
				"yes":      `{ security_policy: { job_policy: { main_process_critical: [ "/a" ] } } }`,
			})
			r := run(t, dir, "--json", "--stay", "--config", filepath.Join(dir, "yes"))
			if code := r.wait(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			if at(r.events(), "reboot", "/a") < 0 {
				t.Errorf("the tree was not taken down: %+v", r.events())
			}
		})
	}
}

// TestReaderThatDoesNotRead: who runs cmgr into a pipe and stops reading can still end it.
func TestReaderThatDoesNotRead(t *testing.T) {
	dir := write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ], ` + elf + ` }`,
		"a.cml":    `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c", "trap 'exit 0' TERM; while :; do echo chatter; done" ] } }`,
	})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := prepare(t, dir)
	c := exec.Command(binary, "run", filepath.Join(dir, "root.cml"), "--socket", p.sock, "--state", p.state)
	c.Stdout, c.Stderr = w, w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	time.Sleep(200 * time.Millisecond) // the pipe fills; a test that comes too early for that is no failure
	_ = c.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(bound):
		_ = c.Process.Kill()
		<-ended
		t.Error("it did not end")
	}
}

// TestReaderThatIsSlow: who takes longer over the last lines than a manager waits for one that does not read gets them all the same.
func TestReaderThatIsSlow(t *testing.T) {
	t.Parallel()
	p := prepare(t, write(t, map[string]string{"root.cml": `{ program: { runner: "elf", binary: "/bin/seq", args: [ "60000" ] } }`}))
	c := exec.Command(binary, "run", filepath.Join(p.dir, "root.cml"), "--socket", p.sock, "--state", p.state)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for err == nil {
		_, err = io.CopyN(&said, out, 50_000)
		time.Sleep(600 * time.Millisecond) // 12 times
	}
	if err := c.Wait(); err != nil || !strings.HasSuffix(said.String(), "\n/ | 60000\n") {
		t.Errorf("%v, after %d bytes", err, said.Len())
	}
}

// TestOutputIsWhole: what a component prints is on standard output to the last line, though it comes at once.
func TestOutputIsWhole(t *testing.T) {
	r := run(t, write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ], ` + elf + ` }`,
		"a.cml":    `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh", args: [ "-c", "seq 100000" ] } }`,
	}))
	if code := r.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSuffix(r.out(), "\n"), "\n")
	if len(lines) != 100000 || lines[99999] != "/a | 100000" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

// TestKeeperKilled: a program that kills the process which keeps its job gains nothing by it.
func TestKeeperKilled(t *testing.T) {
	for _, backend := range []string{"subreaper", "pidns"} {
		t.Run(backend, func(t *testing.T) {
			m := mark(t)
			r := run(t, write(t, map[string]string{
				"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ], ` + elf + ` }`,
				"a.cml": `{ use: [ { runner: "elf" } ], program: { binary: "/bin/sh",
					args: [ "-c", "(setsid sleep ` + m + ` &); kill -9 $PPID; exec sleep ` + m + `" ] } }`,
			}), append(unconfined(t), "--stay", "--job", backend)...) // in a world of its own it has no parent to kill
			r.until("the processes", func() bool { return strings.Contains(r.err(), "/a started") || strings.Contains(r.err(), "/a:") })
			if backend == "subreaper" {
				// It may be killed before it could say that the program runs.
				r.until("the end", func() bool {
					return strings.Contains(r.err(), "/a killed") || strings.Contains(r.err(), "its keeper ended before it began")
				})
				if left := marked(t, m); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			}
			r.stop()
			if left := marked(t, m); len(left) > 0 {
				t.Errorf("left behind after the manager: %v", left)
			}
		})
	}
}
