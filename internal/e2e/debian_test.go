package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestDebianPackage: the service directory that Debian's package git-daemon-run ships, as it is, is imported and serves, with users,
// a log and supervise directories behind links of its own. It has a network and the directories that it writes to for itself.
func TestDebianPackage(t *testing.T) {
	needs.Root(t)
	needs.Cgroup2(t)
	const service = "/etc/sv/git-daemon"
	if _, err := os.Stat(service + "/run"); err != nil {
		needs.Missing(t, "git-daemon-run", errors.New("the package git-daemon-run is not installed"))
	}
	for _, tool := range []string{"git", "unshare", "nsenter", "mount", "ip", "chpst", "svlogd", "sv"} {
		needs.Tool(t, tool)
	}
	dir := filepath.Join(t.TempDir(), "imported")
	if out, err := exec.Command(binary, "import", "runit", service, "-o", dir).CombinedOutput(); err != nil {
		t.Fatalf("import: %v\n%s", err, out)
	}
	r := prepare(t, dir)
	git := func(args ...string) {
		t.Helper()
		c := exec.Command("git", args...)
		c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@b")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	repository := filepath.Join(t.TempDir(), "hello.git")
	git("init", "-q", "-b", "main", repository)
	git("-C", repository, "commit", "-q", "--allow-empty", "-m", "hello")
	put(t, repository+"/.git/git-daemon-export-ok", "")

	script := `set -e
		ip link set lo up
		for d in /var/lib/git /var/log /run; do mount -t tmpfs -o mode=755 tmpfs $d; done
		mkdir -p /run/runit/supervise
		cp -r "$1" /var/lib/git/hello.git && chown -R gitdaemon /var/lib/git/hello.git
		shift; exec "$@"`
	r.begin(exec.Command("unshare", "--mount", "--net", "sh", "-c", script, "sh", repository,
		binary, "run", dir+"/root.cml", "--socket", r.sock, "--state", r.state, "--name", filepath.Base(filepath.Dir(r.sock))), nil)
	r.up()
	inside := func(args ...string) string {
		c := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(r.cmd.Process.Pid), "--mount", "--net"}, args...)...)
		out, _ := c.CombinedOutput()
		return string(out)
	}
	var out string
	r.until("the server", func() bool {
		out = inside("git", "ls-remote", "git://127.0.0.1/git/hello.git")
		return strings.Contains(out, "\trefs/heads/main\n")
	})
	// Its log is svlogd's, run by its own user.
	r.until("its log", func() bool {
		out = inside("cat", "/var/log/git-daemon/current")
		return strings.Contains(out, "Request upload-pack for '/git/hello.git'")
	})
	if !regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\.\d{5} git-daemon starting\.$`).MatchString(out) {
		t.Errorf("its log: %s", out)
	}
	if out := inside("stat", "-c", "%U", "/var/log/git-daemon/current"); out != "gitlog\n" {
		t.Errorf("the log belongs to %s", out)
	}
	// Debian's own sv sees and controls it.
	if out := inside("sv", "status", service); !regexp.MustCompile(`^run: \S+: \(pid \d+\) \d+s; run: log: \(pid \d+\)`).MatchString(out) {
		t.Errorf("status: %s", out)
	}
	if out := inside("ps", "-o", "user=", "-C", "git-daemon"); !strings.HasPrefix(out, "gitdaem") {
		t.Errorf("it runs as %s", out)
	}
	if out := inside("sv", "-w", "60", "restart", service); !strings.HasPrefix(out, "ok: run: ") {
		t.Errorf("restart: %s", out)
	}
	r.until("the server after the restart", func() bool {
		return strings.Contains(inside("git", "ls-remote", "git://127.0.0.1/git/hello.git"), "\trefs/heads/main\n")
	})
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, r.err())
	}
	if out, _ := exec.Command("pgrep", "-u", "gitdaemon,gitlog").Output(); len(out) > 0 {
		t.Errorf("processes are left: %s", out)
	}
}
