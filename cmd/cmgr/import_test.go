package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// services makes a directory of service directories, as a person has them.
func services(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), `a "service" dir`)
	for path, script := range map[string]string{
		"web/run":    "trap 'exit 0' TERM; echo web is up; printf x >supervise/control; sleep 60 >/dev/null & wait",
		"web/finish": "echo finish $*",
		"my db/run":  "sv start web || exit 1",
		".off/run":   "exit 1",
		"empty/conf": "",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestImport(t *testing.T) {
	dir, out := services(t), filepath.Join(t.TempDir(), "out")
	files := []string{out + "/root.cml", out + "/my_db.cml", out + "/web.cml"}
	code, stdout, stderr := run("import", "runit", dir, "-o", out)
	if code != exitFine || stdout != strings.Join(files, "\n")+"\n" || stderr != "" {
		t.Fatalf("%d %q %q", code, stdout, stderr)
	}
	if code, stdout, stderr := run(append([]string{"check"}, files...)...); code != exitFine || !strings.Contains(stdout, "0 warnings") {
		t.Errorf("check: %d %q %q", code, stdout, stderr)
	}
	if code, stdout, stderr := run(append([]string{"fmt", "--check"}, files...)...); code != exitFine || stdout+stderr != "" {
		t.Errorf("fmt --check: %d %q %q", code, stdout, stderr)
	}
	for file, want := range map[string][]string{
		"root.cml":  {`"empty" is left out: it has no run`, "is not noticed", `name: "web"`},
		"my_db.cml": {`Its name "my db" cannot be`, "run calls sv"},
	} {
		b, err := os.ReadFile(filepath.Join(out, file))
		for _, w := range want {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s, %v, has no %q:\n%s", file, err, w, b)
			}
		}
	}
	if code, _, stderr := run("import", "runit", dir, "-o", out); code != exitFailed || !strings.Contains(stderr, "root.cml is there already") {
		t.Errorf("again: %d %q", code, stderr)
	}
	if code, _, stderr := run("import", "runit", out); code != exitFailed || !strings.Contains(stderr, "no service directory") {
		t.Errorf("nothing to import: %d %q", code, stderr)
	}
	if code, _, stderr := run("import", "s6", dir); code != exitUsage || !strings.Contains(stderr, "only runit") {
		t.Errorf("s6: %d %q", code, stderr)
	}
}

// TestImportedRuns: what was written for one service directory runs, as a process of its own, since a manager reaps all children.
func TestImportedRuns(t *testing.T) {
	needs.Cgroup2(t)
	dir, tmp := services(t), t.TempDir()
	if code, _, stderr := run("import", "runit", filepath.Join(dir, "web"), "-o", tmp); code != exitFine {
		t.Fatalf("%d %q", code, stderr)
	}
	cmgr := filepath.Join(tmp, "cmgr")
	if out, err := exec.Command("go", "build", "-o", cmgr, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(cmgr, "--name", "importtest", "--socket", tmp+"/socket", "run", "--state", tmp+"/state", tmp+"/root.cml")
	out, err := cmd.Output()
	if want := "/web | web is up\n/web | finish 0 0\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}
