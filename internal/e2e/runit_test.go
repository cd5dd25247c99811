package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runners/runit/runittest"
)

// suitePrograms are runit's programs by the names of the suite's variables.
var suitePrograms = map[string]string{"RUNSV": "runsv", "RUNSVDIR": "runsvdir", "SV": "sv", "SVLOGD": "svlogd", "CHPST": "chpst"}

// runitSuite runs groups of the suite with our programs in place of runit's, but for those that are named: they are runit's.
func runitSuite(t *testing.T, theirs []string, groups ...string) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "cmgr-suite") // other users must get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", binary, dir+"/cmgr").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	var env []string
	for variable, program := range suitePrograms {
		path := filepath.Join(dir, program)
		if err := os.Symlink("cmgr", path); err != nil {
			t.Fatal(err)
		}
		for _, p := range theirs {
			if p == program {
				path = needs.Tool(t, program)
			}
		}
		env = append(env, variable+"="+path)
	}
	runittest.Suite(t, env, groups...)
}

// TestAddressSpace shows limits that chpst itself can live with.
func TestAddressSpace(t *testing.T) {
	for _, limit := range []string{"-v 3000000", "-d 300000"} {
		out, err := exec.Command("sh", "-c", "ulimit "+limit+`; exec "$0" chpst -n 1 echo fine`, binary).CombinedOutput()
		if string(out) != "fine\n" || err != nil {
			t.Errorf("ulimit %s: %q, %v", limit, out, err)
		}
	}
}

// TestEarly has a program of runit's run before what only cmgr needs is initialised: runners/runit/early.
func TestEarly(t *testing.T) {
	for _, name := range []string{"sv", "svlogd", "runsv", "runsvdir", "chpst", "runit-init"} {
		c := exec.Command(binary, name)
		c.Env = []string{"GODEBUG=inittrace=1"}
		out, _ := c.CombinedOutput() // its usage
		if !strings.Contains(string(out), "init github.com/cmgr/cmgr/runners/runit/sv @") {
			t.Fatalf("no trace: %s", out)
		}
		for _, late := range []string{"main", "net/http", "github.com/cmgr/cmgr/proto/", "google.golang.org/protobuf/proto"} {
			if strings.Contains(string(out), "\ninit "+late) {
				t.Errorf("%s is initialised before %s runs", late, name)
			}
		}
	}
}

// TestRunit has every program be ours, the whole binary called by five names.
func TestRunit(t *testing.T) {
	runitSuite(t, nil, "runsv", "sv", "svlogd", "chpst", "runsvdir", "interop", "ext/v2*chpst*", "ext/v2*_sv_*",
		"ext/*runsvdir*", "better")
}

// TestRunitMixed has some of the programs be Debian's. Theirs writes pid before it writes status, so that its ./finish is seen to be
// no. 0 for a moment; the case of that is not run on it.
func TestRunitMixed(t *testing.T) {
	all := []string{"interop"}
	onTheirs := []string{"interop/[!s]*", "interop/s[!t]*", "interop/start*", "interop/stop*", "interop/status_[!i]*"}
	for name, mix := range map[string]struct{ theirs, cases []string }{
		"their sv on ours":                  {[]string{"sv"}, all},
		"our sv on theirs":                  {[]string{"runsv", "runsvdir", "svlogd", "chpst"}, onTheirs},
		"our runsvdir over their runsv":     {[]string{"runsv"}, onTheirs},
		"their runsvdir over our runsv":     {[]string{"runsvdir", "sv"}, all},
		"their svlogd and chpst under ours": {[]string{"svlogd", "chpst"}, all},
		"our svlogd and chpst under theirs": {[]string{"runsv", "runsvdir", "sv"}, []string{"interop/*svlogd*", "interop/log_*"}},
	} {
		t.Run(name, func(t *testing.T) { runitSuite(t, mix.theirs, mix.cases...) })
	}
}
