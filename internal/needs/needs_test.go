package needs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func TestAllowed(t *testing.T) {
	const skips = "# why\nshared the checkout stands alone\nuser:cgroup2 nothing was delegated\n"
	for _, test := range []struct {
		kind string
		root bool
		want string
	}{
		{"shared", true, "the checkout stands alone"},
		{"shared", false, "the checkout stands alone"},
		{"cgroup2", false, "nothing was delegated"},
		{"cgroup2", true, ""},
		{"gcc", false, ""},
	} {
		if got := allowed(skips, test.kind, test.root); got != test.want {
			t.Errorf("allowed(%q, root=%t) = %q, want %q", test.kind, test.root, got, test.want)
		}
	}
}

func TestCgroupDir(t *testing.T) {
	const hybrid = "28 25 0:26 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids\n" +
		"36 25 0:30 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
	for _, test := range []struct{ name, mounts, own, want string }{
		{"hybrid, in the root", hybrid, "12:pids:/x\n0::/\n", "/sys/fs/cgroup/unified"},
		{"hybrid, below", hybrid, "0::/user.slice/me\n", "/sys/fs/cgroup/unified/user.slice/me"},
		{"mounted in part", "1 2 0:30 /docker/a /sys/fs/cgroup ro - cgroup2 c ro\n", "0::/docker/a/b\n", "/sys/fs/cgroup/b"},
		{"outside of the mount", "1 2 0:30 /docker/a /sys/fs/cgroup ro - cgroup2 c ro\n", "0::/docker/c\n", ""},
		{"version 1 only", "28 25 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n", "12:pids:/x\n", ""},
	} {
		if got := cgroupDir(test.mounts, test.own); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestCgroup2IsOurs(t *testing.T) {
	if _, err := os.ReadFile(filepath.Join(Cgroup2(t), "cgroup.procs")); err != nil {
		t.Error(err)
	}
}

func TestUserns(t *testing.T) { Userns(t) }

func TestShared(t *testing.T) {
	if _, err := os.Stat(filepath.Join(Shared(t), "README.md")); err != nil {
		t.Error(err)
	}
}

func TestTool(t *testing.T) {
	if got := Tool(t, "sh"); !filepath.IsAbs(got) {
		t.Errorf("Tool = %q", got)
	}
}
