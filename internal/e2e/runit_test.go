package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
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

// TestRunit has every program be ours, the whole binary called by five names.
func TestRunit(t *testing.T) {
	runitSuite(t, nil, "runsv", "sv", "svlogd", "chpst", "runsvdir", "interop", "ext/v2*chpst*", "ext/v2*_sv_*",
		"ext/*runsvdir*", "better")
}

// TestRunitMixed has some of the programs be Debian's.
func TestRunitMixed(t *testing.T) {
	for name, theirs := range map[string][]string{
		"their sv on ours":                  {"sv"},
		"our sv on theirs":                  {"runsv", "runsvdir", "svlogd", "chpst"},
		"our runsvdir over their runsv":     {"runsv"},
		"their runsvdir over our runsv":     {"runsvdir", "sv"},
		"their svlogd and chpst under ours": {"svlogd", "chpst"},
		"our svlogd and chpst under theirs": {"runsv", "runsvdir", "sv"},
	} {
		t.Run(name, func(t *testing.T) { runitSuite(t, theirs, "interop") })
	}
}
