package probe

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func TestCgroupDir(t *testing.T) {
	const hybrid = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
		"31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"32 30 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
	for _, c := range []struct{ name, mountinfo, cgroup, want string }{
		{
			"unified", "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			"0::/user.slice/user-1000.slice\n", "/sys/fs/cgroup/user.slice/user-1000.slice",
		},
		{"hybrid", hybrid, "9:memory:/a\n0::/b\n", "/sys/fs/cgroup/unified/b"},
		{"hybrid root", hybrid, "9:memory:/a\n0::/\n", "/sys/fs/cgroup/unified"},
		{"v1 alone", "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "9:memory:/a\n", ""},
		{"not mounted", "31 30 0:27 / /proc rw - proc proc rw\n", "0::/b\n", ""},
		{"part mounted", "30 25 0:26 /a /cg rw - cgroup2 none rw\n", "0::/a/b\n", "/cg/b"},
		{"other part mounted", "30 25 0:26 /x /cg rw - cgroup2 none rw\n", "0::/a/b\n", ""},
		{"similar part mounted", "30 25 0:26 /a /cg rw - cgroup2 none rw\n", "0::/ab\n", ""},
		{"outside the namespace", "30 25 0:26 / /cg rw - cgroup2 none rw\n", "0::/../b\n", ""},
		{"outer mount", "30 25 0:26 /.. /cg rw - cgroup2 none rw\n", "0::/../b\n", "/cg/b"},
		{"space", `30 25 0:26 / /my\040cg rw - cgroup2 none rw` + "\n", "0::/b\n", "/my cg/b"},
		{"empty", "", "", ""},
	} {
		if got := cgroupDir(c.mountinfo, c.cgroup); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What needs finds by its own means is found here too, and the other way round.
func TestAgreesWithNeeds(t *testing.T) {
	t.Run("cgroup2", func(t *testing.T) {
		want := needs.Cgroup2(t)
		got, err := Cgroup()
		if err != nil || got != want {
			t.Errorf("Cgroup = %q, %v; want %q", got, err, want)
		}
		if err := JobCgroup(got); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(got + "/cmgr-probe-*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("userns", func(t *testing.T) {
		needs.Userns(t)
		if _, err := userNamespace(); err != nil {
			t.Error(err)
		}
	})
}

// Whatever the machine, each feature is either there or there is a reason.
func TestFeatures(t *testing.T) {
	for _, f := range Features() {
		detail, err := f.Try()
		t.Logf("%s: %q, %v", f.Name, detail, err)
		if f.Name == "" || f.Without == "" {
			t.Errorf("%+v: incomplete", f)
		}
		if err != nil && err.Error() == "" {
			t.Errorf("%s: no reason", f.Name)
		}
	}
	// Go itself needs these of any kernel that it runs on here.
	if _, err := pidfd(); err != nil {
		t.Error(err)
	}
}

func TestJobCgroupElsewhere(t *testing.T) {
	if err := JobCgroup(t.TempDir()); err == nil {
		t.Error("an ordinary directory passed for a cgroup")
	}
	if err := JobCgroup("/nonexistent"); err == nil {
		t.Error("no directory passed for a cgroup")
	}
}
