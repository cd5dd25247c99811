package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// looker says what it can reach: a secret of the host, loopback, its parent, and as whom.
const looker = `#!/usr/bin/env python3
import os, socket, sys
def tells(what, f):
    try:
        f()
        print(what, "yes", flush=True)
    except OSError:
        print(what, "no", flush=True)
tells("secret", lambda: open(sys.argv[1]).close())
tells("network", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 60).close())
tells("own", lambda: open("/tmp/own", "w").close())
print("uid", os.getuid(), "at", os.getcwd())
print("capable", [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")][0])
`

// lookers is a tree of three of them: one that is routed nothing, one that is routed the network, and one more.
func lookers(t *testing.T) string {
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "plain", url: "a.cml", startup: "eager" },
				{ name: "net", url: "b.cml", startup: "eager" },
				{ name: "free", url: "a.cml", startup: "eager" },
			],
			offer: [ { protocol: "linux.Network", from: "parent", to: "#net" } ],
		}`,
		"secret":   "of the host",
		"bin/look": looker,
	})
	port := listen(t)
	args := `args: [ "` + filepath.Join(dir, "secret") + `", "` + strconv.Itoa(port) + `" ]`
	put(t, filepath.Join(dir, "a.cml"), `{ program: { runner: "elf", binary: "bin/look", `+args+` } }`)
	put(t, filepath.Join(dir, "b.cml"), `{ program: { runner: "elf", binary: "bin/look", `+args+` }, use: [ { protocol: "linux.Network" } ] }`)
	return dir
}

// Programs are confined unless the configuration says otherwise, and have of the machine what was routed to them; whoever the manager is.
func TestConfinedByDefault(t *testing.T) {
	if os.Geteuid() != 0 {
		needs.Userns(t)
	}
	r := run(t, lookers(t), configured(t, `{ security_policy: { sandbox: { unconfined: [ "/free" ] } } }`)...)
	if code := r.wait(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
	uid := strconv.Itoa(os.Getuid())
	for _, want := range []string{
		"/plain | secret no\n", "/plain | network no\n", "/plain | own yes\n", "/plain | uid " + uid + " at /pkg\n", "/plain | capable 0000000000000000\n",
		"/net | secret no\n", "/net | network yes\n", "/net | capable 0000000000000000\n",
		"/free | secret yes\n", "/free | network yes\n", "/free | uid " + uid + " at " + r.dir + "\n",
	} {
		if !strings.Contains(r.out(), want) {
			t.Errorf("nobody said %q", want)
		}
	}
	if os.Geteuid() != 0 && !strings.Contains(r.out(), "/free | capable 0000000000000000\n") {
		t.Error("an unconfined program of an ordinary user has capabilities")
	}
	os.Remove("/tmp/own") // of the unconfined one
	if t.Failed() {
		t.Logf("%s%s", r.out(), r.err())
	}
}

// Where user namespaces are forbidden an ordinary user's programs run unconfined: one line warns, and doctor says why. A configuration
// that requires confinement is refused then.
func TestWithoutUserNamespaces(t *testing.T) {
	needs.Userns(t)
	setpriv := needs.Tool(t, "setpriv")
	// The user's manager is in a user namespace that allows none within it, and without its capabilities.
	forbid := func(r *tree, args ...string) {
		script := `echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"`
		all := slices.Concat([]string{
			"-c", script, "sh", setpriv, "--ambient-caps=-all", "--inh-caps=-all", binary, "run",
			filepath.Join(r.dir, "root.cml"), "--socket", r.sock, "--state", r.state,
		}, args)
		r.begin(exec.Command("/bin/sh", all...), func(c *exec.Cmd) {
			ids := func(id int) []syscall.SysProcIDMap {
				return []syscall.SysProcIDMap{{ContainerID: 1000, HostID: id, Size: 1}}
			}
			caps := []uintptr{24} // CAP_SYS_RESOURCE
			c.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid()), AmbientCaps: caps,
			}
		})
	}
	dir := write(t, map[string]string{
		"root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ] }`,
		"a.cml":    `{ program: { runner: "elf", binary: "/bin/echo", args: [ "Hello" ] } }`,
	})
	run, err := os.MkdirTemp("/tmp", "r") // short, and not that of another user who was 1000 for a moment
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	t.Setenv("XDG_RUNTIME_DIR", run)
	r := prepare(t, dir)
	forbid(r, "--stay")
	r.until("the program", func() bool { return strings.Contains(r.out(), "/a | Hello\n") && strings.Contains(r.err(), "warning") })
	const why = "user namespaces are forbidden here, or too many"
	if n := strings.Count(r.err(), "warning"); n != 1 || !strings.Contains(r.err(), "components are not confined") || !strings.Contains(r.err(), why) {
		t.Errorf("%d warnings:\n%s", n, r.err())
	}
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
	r = prepare(t, dir)
	forbid(r, configured(t, `{ security_policy: { sandbox: { required: true } } }`)...)
	if code := r.wait(); code == 0 || !strings.Contains(r.err(), "components cannot be confined here: ") || !strings.Contains(r.err(), why) {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
}

// TestOpenFiles shows that a confined component that is the first one to be started has the limit of open files that cmgr was started
// with, and not the one that Go has raised for itself.
func TestOpenFiles(t *testing.T) {
	r := prepare(t, write(t, map[string]string{"root.cml": sh("ulimit -Sn; ulimit -Hn")}))
	r.begin(exec.Command("sh", "-c", `ulimit -Sn 1000; exec "$0" "$@"`, binary, "run", filepath.Join(r.dir, "root.cml"), "--socket", r.sock,
		"--state", r.state), nil)
	var hard syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &hard); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("1000\n%d\n", hard.Max)
	var got string
	r.until("its limits", func() bool {
		got = ""
		for line := range strings.Lines(r.out()) {
			words := strings.Fields(line)
			if len(words) > 0 {
				got += words[len(words)-1] + "\n"
			}
		}
		return strings.Count(got, "\n") == 2
	})
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
