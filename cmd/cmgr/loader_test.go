package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestLoaders runs the conformance suites of loaders: real Erlang nodes boot from our server, we fetch from a real erl_boot_server and from
// misbehaving ones, and from port programs. Each has a network namespace of its own: the boot servers' port is fixed.
func TestLoaders(t *testing.T) {
	suites := filepath.Join(needs.Shared(t), "conformance/erlang")
	for _, tool := range []string{"bash", "python3", "erl", "erlc", "unshare", "gcc"} {
		needs.Tool(t, tool)
	}
	if os.Geteuid() != 0 {
		needs.Userns(t)
	}
	bin := filepath.Join(t.TempDir(), "cmgr")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for suite, env := range map[string]string{
		"boot_from_server.sh": "BOOTSERVER=" + bin + " bootserver",
		"fetch_from_erl.sh":   "FETCH=" + bin + " fetch --loader inet",
		"port_loader/run.sh":  "PORTFETCH=" + bin + " fetch",
	} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "bash", filepath.Join(suites, suite))
			cmd.Env = append(os.Environ(), env, "PYTHONDONTWRITEBYTECODE=1", "WORK="+t.TempDir(), "BOOTROOT="+filepath.Join("/mnt", "cmgr-boot-test"))
			out, err := cmd.CombinedOutput()
			if passed := regexp.MustCompile(`(?m)^[1-9][0-9]* passed, 0 failed$`); err != nil || !passed.Match(out) {
				t.Errorf("%s: %v\n%s", suite, err, regexp.MustCompile(`(?m)^ok .*\n`).ReplaceAll(out, nil))
			}
		})
	}
}
