package pid1

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

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
