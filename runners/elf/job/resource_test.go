package job

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
)

// limits are, for each controller, a limit that changes nothing.
var limits = map[string]Resource{
	"memory": {"memory.max", "max"}, "pids": {"pids.max", "max"}, "hugetlb": {"hugetlb.2MB.max", "max"}, "misc": {}, "cpu": {"cpu.weight", "100"},
}

// TestLimitMoves has a manager in a cgroup that is not the root get a controller's files for its jobs: it has to leave that cgroup
// for one below, and at its end everything is as before. With another process in that cgroup it can't be done, and is undone.
func TestLimitMoves(t *testing.T) {
	needs.Root(t)
	own := needs.Cgroup2(t)
	b, err := os.ReadFile(own + "/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	var limit Resource
	for c := range strings.FieldsSeq(string(b)) {
		if limits[c].File != "" {
			limit = limits[c]
		}
	}
	if limit.File == "" {
		needs.Missing(t, "controllers", fmt.Errorf("no controller with a known limit is in %s", own))
	}
	controller := limit.controller()
	// Tests of another checkout may do the same at the same time.
	lock, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	before := has(own+"/cgroup.subtree_control", controller)
	if !before {
		if err := write(own+"/cgroup.subtree_control", "+"+controller); err != nil {
			needs.Missing(t, "controllers", fmt.Errorf("the tests' own cgroup passes none down: %w", err))
		}
		t.Cleanup(func() { _ = write(own+"/cgroup.subtree_control", "-"+controller) })
	}
	for _, crowded := range []bool{false, true} {
		t.Run(fmt.Sprint("crowded=", crowded), func(t *testing.T) {
			dir := fmt.Sprintf("%s/cmgr-test-limit-%d", own, os.Getpid())
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = killCgroup(dir)
				eventually(t, dir+" can't be removed", func() bool { return os.Remove(dir) == nil })
			})
			f, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			in := func(c *exec.Cmd) *exec.Cmd {
				c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
				return c
			}
			if crowded {
				sleep := in(exec.Command("sleep", "1000"))
				if err := sleep.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
			}
			c := in(exec.Command(os.Args[0]))
			c.Env = append(os.Environ(), "JOB_TEST_CHILD=limiter", "JOB_TEST_LIMIT="+limit.File+" "+limit.Text)
			out, err := c.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			want := "limited, then moved to +self\nback in " + filepath.Base(dir) + "\n"
			if crowded {
				want = "holds other processes"
			}
			if !strings.Contains(string(out), want) || !strings.Contains(string(out), "back in "+filepath.Base(dir)+"\n") {
				t.Errorf("it said\n%s", out)
			}
			if left, _ := filepath.Glob(dir + "/*/"); len(left) > 0 {
				t.Errorf("it left %q", left)
			}
			if has(dir+"/cgroup.subtree_control", controller) {
				t.Errorf("it left the controller passed down")
			}
		})
	}
}

// limiter is the manager of TestLimitMoves.
func limiter() {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	where := func() string {
		b, _ := os.ReadFile("/proc/self/cgroup")
		_, own, _ := strings.Cut("\n"+string(b), "\n0::")
		own, _, _ = strings.Cut(own, "\n")
		return filepath.Base(own)
	}
	m, err := Open(Options{Name: "limiter", Backend: Cgroup2})
	fail(err)
	j, err := m.New("limited")
	fail(err)
	file, text, _ := strings.Cut(os.Getenv("JOB_TEST_LIMIT"), " ")
	err = j.Limit(Resource{file, text})
	if missing, ok := errors.AsType[*MissingError](err); ok {
		fmt.Println(missing, missing.Hint)
	} else {
		fail(err)
		ended := make(chan Status, 1)
		_, err = j.Start(Spec{Path: "/bin/true"}, func(st Status) { ended <- st })
		fail(err)
		if st := <-ended; st.Code != 0 {
			fmt.Println(st)
		}
		fmt.Printf("limited, then moved to %s\n", where()[strings.Index(where(), "+"):])
	}
	fail(j.Close())
	fail(m.Close())
	fmt.Printf("back in %s\n", where())
	os.Exit(0)
}
