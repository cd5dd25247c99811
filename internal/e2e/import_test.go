package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestImported: what was a directory of services runs as a tree of components, and behaves as it did.
func TestImported(t *testing.T) {
	needs.Cgroup2(t)
	for _, tool := range []string{"chpst", "svlogd"} {
		needs.Tool(t, tool)
	}
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	for path, text := range map[string]string{
		"web/run":          "#!/bin/sh\nexec 2>&1\nexec chpst -e ./env sh -c 'echo \"$0 says $GREETING\"; : >up; exec sleep 1000' web\n",
		"web/env/GREETING": "hello\n",
		"web/finish":       "#!/bin/sh\nrm up; echo \"finish $*\"\n",
		"web/check":        "#!/bin/sh\nexec test -e up\n",
		"web/control/h":    "#!/bin/sh\necho hup >asked\n",
		"web/log/run":      "#!/bin/sh\nexec svlogd -tt ./main\n",
		"web/log/main/x":   "",
		"db/run":           "#!/bin/sh\nexec sleep 1000\n",
		"db/down":          "",
	} {
		put(t, filepath.Join(dir, path), text)
	}
	if b, err := exec.Command(binary, "import", "runit", dir, "-o", out).CombinedOutput(); err != nil {
		t.Fatalf("import: %v\n%s", err, b)
	}
	r := run(t, out, "--stay")
	r.up()
	r.until("both", func() bool { return r.must("list", "--only", "running") == "/\n/db\n/web\n" })
	said := func(want string) func() bool {
		return func() bool {
			return regexp.MustCompile(`(?m)^\S+_\S+ ` + want + `$`).MatchString(content(t, dir+"/web/log/main/current"))
		}
	}
	r.until("its log, with the environment of env", said("web says hello"))
	status := func(service, want string) func() bool {
		return func() bool { return regexp.MustCompile(want).MatchString(sv(t, dir, "status", service)) }
	}
	r.until("web and its log", status("web", `^run: web: \(pid \d+\) \d+s; run: log: \(pid \d+\) \d+s\n$`))
	if got := sv(t, dir, "status", "db"); !strings.HasPrefix(got, "down: db: ") {
		t.Errorf("db, which is to be down: %s", got)
	}
	sv(t, dir, "up", "db")
	r.until("db", status("db", `^run: db: \(pid \d+\) \d+s, normally down\n$`))
	if got := sv(t, dir, "-w", "60", "check", "web"); !strings.HasPrefix(got, "ok: run: web: ") {
		t.Errorf("check: %s", got)
	}
	sv(t, dir, "hup", "web") // sleep would end of it
	r.until("the control script", func() bool { return content(t, dir+"/web/asked") == "hup\n" })
	before := content(t, dir+"/web/supervise/pid")
	sv(t, dir, "exit", "web")
	r.until("web again, as under runsvdir", func() bool {
		pid := content(t, dir+"/web/supervise/pid")
		return pid != "" && pid != before
	})
	r.until("its finish", said("finish -1 15"))
	r.until("both again", func() bool { return r.must("list", "--only", "running") == "/\n/db\n/web\n" })
	r.must("stop", "/web")
	if got := content(t, dir+"/web/supervise/stat"); got != "down\n" {
		t.Errorf("after the stop it is %q", got)
	}
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, r.err())
	}
}
