package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// asInit starts `cmgr init dir/root.cml` as process no. 1 of a PID namespace, with a /run of its own.
func asInit(t *testing.T, dir string, args ...string) *tree {
	t.Helper()
	needs.Root(t)
	needs.Cgroup2(t)
	r := prepare(t, dir)
	console := filepath.Join(r.state, "console")
	put(t, console, "")
	script := `mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mkdir /run/none && mount --bind /run/none /etc/runit &&
		mount --bind $0 /dev/console && exec "$@"`
	args = append([]string{"-c", script, console, binary, "init", "--socket", r.sock, "--state", r.state, "--job", "cgroup2"}, args...)
	r.begin(exec.Command("/bin/sh", append(args, filepath.Join(dir, "root.cml"))...), func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	})
	r.said = func() string {
		b, err := os.ReadFile(console)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return r
}

const initTree = `{
	children: [
		{ name: "a", url: "a.cml", startup: "eager" },
		{ name: "b", url: "b.cml", startup: "eager"%s },
	],
	offer: [
		{ runner: "elf", from: "parent", to: [ "#a", "#b" ] },
		{ protocol: "p", from: "#a", to: "#b" },
	],
}`

var initFiles = map[string]string{
	"a.cml": `{ program: { runner: "elf", binary: "/bin/sh", args: [ "-c", "trap 'echo a ends; exit' TERM; (sleep 0.1 &); echo a runs; while :; do sleep 0.1; done", "DIR" ] },
		capabilities: [ { protocol: "p", path: "/svc/p" } ], expose: [ { protocol: "p", from: "self" } ] }`,
	"b.cml": `{ program: { runner: "elf", binary: "/bin/sh", args: [ "-c", "trap 'echo b ends; exit' TERM; echo b runs; while :; do sleep 0.1; done" ] },
		use: [ { protocol: "p" } ] }`,
}

func initDir(t *testing.T, rest, b string) string {
	t.Helper()
	dir := write(t, initFiles)
	put(t, filepath.Join(dir, "a.cml"), strings.Replace(initFiles["a.cml"], "DIR", dir, 1)) // by which its process is known
	put(t, filepath.Join(dir, "root.cml"), strings.Replace(initTree, "%s", rest, 1))
	if b != "" {
		put(t, filepath.Join(dir, "b.cml"), b)
	}
	return dir
}

// TestInitTree boots a tree as process no. 1: it goes down in the order of its dependencies, and then the namespace ends, which
// the kernel tells by SIGINT for a power off and by SIGHUP for a reboot (reboot(2)).
func TestInitTree(t *testing.T) {
	r := asInit(t, initDir(t, "", ""))
	r.until("the tree", func() bool { return strings.Contains(r.said(), "a runs") && strings.Contains(r.said(), "b runs") })
	r.up()
	if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil { // without /run/runit.stopit it means nothing
		t.Fatal(err)
	}
	r.must("list")
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.wait()
	if ws := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v, not a power off", r.cmd.ProcessState)
	}
	said := r.said()
	inOrder(t, r.said(), "- runit: booting.", "- runit: enter stage: cmgr run", "- runit: leave stage: cmgr run", "- runit: power off...")
	inOrder(t, r.said(), "b ends", "a ends")
	if strings.Contains(said, "/etc/runit") || strings.Contains(said, "warning") {
		t.Errorf("a tree needs no stages:\n%s", said)
	}
}

// TestInitReboots has the end of a component reboot the machine.
func TestInitReboots(t *testing.T) {
	dir := initDir(t, `, on_terminate: "reboot"`, `{ program: { runner: "elf", binary: "/bin/sh", args: [ "-c", "while ! [ -e go ]; do sleep 0.05; done; exit 3" ] } }`)
	put(t, filepath.Join(dir, "cmgr.json5"), `{ security_policy: { child_policy: { reboot_on_terminate: [ "/b" ] } } }`)
	r := asInit(t, dir, "--config", filepath.Join(dir, "cmgr.json5"))
	r.until("the other", func() bool { return strings.Contains(r.said(), "a runs") })
	put(t, filepath.Join(dir, "go"), "")
	r.wait()
	if ws := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGHUP {
		t.Errorf("it ended with %v, not a reboot:\n%s", r.cmd.ProcessState, r.said())
	}
	inOrder(t, r.said(), "/b took the tree down", "- runit: leave stage: cmgr run", "- runit: system reboot.")
	inOrder(t, r.said(), "a ends")
}

// TestInitManagerDies kills the manager: process no. 1 starts another, and no process of the first one's tree is left.
func TestInitManagerDies(t *testing.T) {
	r := asInit(t, initDir(t, "", ""))
	runs := func(n int) func() bool { return func() bool { return strings.Count(r.said(), "a runs") == n } }
	r.until("the tree", runs(1))
	r.up()
	// Its number on this side of the namespace.
	out, err := exec.Command("pgrep", "-f", "^cmgr run --stay --socket "+r.sock).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("kill", "-9", strings.TrimSpace(string(out))).Run(); err != nil {
		t.Fatal(err)
	}
	r.until("another tree", runs(2))
	r.up()
	// A shell that is about to execute sleep is a second one for a moment.
	r.until("an end of the first /a", func() bool {
		ps, _ := exec.Command("pgrep", "-c", "-f", "echo a runs.*"+r.dir).Output()
		return strings.TrimSpace(string(ps)) == "1"
	})
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.wait()
	inOrder(t, r.said(), "- runit: warning: child crashed: cmgr run", "- runit: warning: restarting.", "- runit: power off...")
}

// inOrder wants the parts in text, one after the other.
func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, p := range parts {
		var ok bool
		if _, rest, ok = strings.Cut(rest, p); !ok {
			t.Errorf("no %q, or too early, in\n%s", p, text)
			return
		}
	}
}

func TestInitElsewhere(t *testing.T) {
	r := prepare(t, t.TempDir())
	if _, err, code := r.cmgr("init", "root.cml"); code != 100 || !strings.Contains(err, "cmgr run root.cml") {
		t.Errorf("exit code %d\n%s", code, err)
	}
}
