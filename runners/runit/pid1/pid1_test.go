package pid1

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
)

func TestMain(m *testing.M) {
	programs := map[string]runittest.Program{"runit": Main, "runit-init": Main, "init": Main}
	os.Exit(runittest.Main(programs, func() int { return leak.Run(m) }))
}

// TestSuite makes ours process no. 1 of PID namespaces.
func TestSuite(t *testing.T) {
	needs.Root(t)
	needs.Tool(t, "runit") // and with it /etc/runit, over which the suite mounts
	runit := runittest.Link(t, "runit")
	runittest.Suite(t, []string{"RUNIT=" + runit, "RUNIT_INIT=" + runittest.Link(t, "runit-init")}, "pid1", "ext/*runit*")
}

// TestSuiteMixed has one of ours work with the other of Debian's.
func TestSuiteMixed(t *testing.T) {
	needs.Root(t)
	needs.Tool(t, "runit")
	runittest.Suite(t, []string{"RUNIT=" + runittest.Link(t, "runit")}, "pid1/init*")
	runittest.Suite(t, []string{"RUNIT_INIT=" + runittest.Link(t, "runit-init")}, "pid1/init*")
}

// TestJobsOfStageOne: what stage 1 leaves in the background goes on in stage 2, as under the original, also where the console is a
// terminal, whose session would otherwise end with it.
func TestJobsOfStageOne(t *testing.T) {
	needs.Root(t)
	needs.Tool(t, "runit")
	runit := runittest.Link(t, "runit")
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, pty) // until it is closed

	dir := t.TempDir()
	for name, script := range map[string]string{
		"1": `(trap 'echo hangup >>"$T"' HUP; : >"$T.ready"; until [ -e "$T.two" ]; do sleep 0.1; done; echo goes on >>"$T") &
			until [ -e "$T.ready" ]; do sleep 0.1; done; test -t 0 && echo has a terminal >>"$T"`,
		"2": `: >"$T.two"; until grep -q goes "$T"; do sleep 0.1; done`,
		"3": `echo ends >>"$T"`,
	} {
		text := "#!/bin/sh\nPATH=/usr/bin:/bin T=" + dir + "/trace\n" + script + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mounts := `mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount --bind "$0" /etc/runit &&
		mount --bind "$1" /dev/console && exec "$2"`
	cmd := exec.Command("/bin/sh", "-c", mounts, dir, fmt.Sprintf("/dev/pts/%d", n), runit)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	_ = cmd.Run() // it is ended by reboot(2)
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v, not a power off", cmd.ProcessState)
	}
	b, err := os.ReadFile(dir + "/trace")
	if want := "has a terminal\ngoes on\nends\n"; string(b) != want || err != nil {
		t.Errorf("trace %q, %v, want %q", b, err, want)
	}
}

// TestMayNotPowerOff: where the end of the machine is not permitted, process no. 1 ends as stage 2 did.
func TestMayNotPowerOff(t *testing.T) {
	needs.Root(t)
	needs.Tool(t, "runit")
	setpriv := needs.Tool(t, "setpriv")
	dir := t.TempDir()
	for name, script := range map[string]string{"1": "exit 0", "2": "exit 3", "3": ": >" + dir + "/three; exit 4"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mounts := `mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount --bind "$0" /etc/runit &&
		mount --bind "$0/console" /dev/console && exec "$1" --bounding-set=-sys_boot --inh-caps=-sys_boot "$2"`
	if err := os.WriteFile(filepath.Join(dir, "console"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", mounts, dir, setpriv, runittest.Link(t, "runit"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	out, _ := cmd.CombinedOutput() // the code tells
	said, err := os.ReadFile(dir + "/console")
	if cmd.ProcessState.ExitCode() != 3 || err != nil || !bytes.HasSuffix(said, []byte("- runit: power off...\n")) {
		t.Errorf("%v, %v: %s%s", cmd.ProcessState, err, out, said)
	}
	if _, err := os.Stat(dir + "/three"); err != nil {
		t.Error("stage 3:", err)
	}
}

func TestNotNumberOne(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"/sbin/runit"}, 111, "- runit: fatal: must be run as process no 1.\n"},
		{[]string{"runit", "0"}, 111, "- runit: fatal: must be run as process no 1.\n"},
		{[]string{"/sbin/init"}, 0, "usage: /sbin/init 0|6\n\n"}, // as the original
		{[]string{"init", "5"}, 0, "usage: init 0|6\n\n"},
	} {
		var says bytes.Buffer
		if code := Main(c.args, nil, &says, &says); code != c.code || says.String() != c.says {
			t.Errorf("%q: %d, %q", c.args, code, says.String())
		}
	}
}

func TestMark(t *testing.T) {
	needs.Root(t) // no one else may write a file of mode 0
	path := filepath.Join(t.TempDir(), "stopit")
	for _, mode := range []os.FileMode{0o100, 0, 0o100} {
		if err := mark(path, mode); err != nil {
			t.Fatal(err)
		}
		if executable(path) != (mode != 0) {
			t.Errorf("%v does not read back", mode)
		}
	}
	link := filepath.Join(t.TempDir(), "link") // Void Linux has them dangle until the first use
	if err := os.Symlink(path+"2", link); err != nil {
		t.Fatal(err)
	}
	if err := mark(link, 0o100); err != nil || !executable(path+"2") || !executable(link) {
		t.Errorf("through a link: %v", err)
	}
}

func TestIsManifest(t *testing.T) {
	for arg, want := range map[string]bool{"root.cml": true, "/etc/root.cm": true, "splash": false, "a=b.cml": true, "first": false} {
		if IsManifest(arg) != want {
			t.Errorf("%s: %v", arg, !want)
		}
	}
}
