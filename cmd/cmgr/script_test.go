package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestBootScripts runs the conformance suite of boot scripts, whose files and answers come from the real Erlang.
func TestBootScripts(t *testing.T) {
	suite := filepath.Join(needs.Shared(t), "conformance/erlang/scripts/run.py")
	python := needs.Tool(t, "python3")
	bin := filepath.Join(t.TempDir(), "cmgr")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), python, suite)
	// The time limit is for what hangs, not for what is slow on a busy machine.
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "LIMIT_S=120",
		"SCRIPT_DUMP="+bin+" script dump --json", "SCRIPT_CHECK="+bin+" script check",
		"SCRIPT_BOOT="+bin+" systools script2boot", "SCRIPT_BOOT26="+bin+" systools script2boot --otp26")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", suite, err, out)
	}

	suite = filepath.Join(needs.Shared(t), "conformance/erlang/make_script/run.sh")
	needs.Tool(t, "escript") // one case is of the installed Erlang, and it reads what all make
	cmd = exec.CommandContext(t.Context(), needs.Tool(t, "bash"), suite)
	cmd.Env = append(os.Environ(), "MAKE_SCRIPT="+bin+" systools make-script --json", "TMPDIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", suite, err, out)
	}
}
