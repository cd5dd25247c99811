// Package needs lets a test say what it needs of the machine: root, a writable cgroup v2, user namespaces, the data beside the
// checkout, a program, a user. Where that is missing the test is skipped with the reason, so that `go test ./...` passes on a
// machine that has only Go.
//
// With CI=true in the environment a skip is a failure, unless the file .ci/skips lists its kind:
//
//	# a comment
//	KIND reason…          may be missing
//	user:KIND reason…     may be missing where the tests don't run as root
//
// The kinds are root, cgroup2, userns, shared, vm, controllers (of the cgroup v2), files (as many open files as the test wants),
// and the names of programs and users.
package needs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Root needs the tests to run as root.
func Root(t testing.TB) {
	t.Helper()
	if !root() {
		Missing(t, "root", errors.New("the test needs root"))
	}
}

// root says whether this process is root of the machine: not of a user namespace, where all other users are missing
// (user_namespaces(7)).
func root() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return os.Geteuid() == 0 && err == nil && strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295"
}

// Cgroup2 needs a cgroup v2 directory of our own that can be given children and has cgroup.kill (Linux 5.14), and returns its
// path: the cgroup that this process is in.
func Cgroup2(t testing.TB) string {
	t.Helper()
	dir, err := cgroup2()
	if err != nil {
		Missing(t, "cgroup2", err)
	}
	return dir
}

// Userns needs user namespaces in which a mount namespace can be made and changed.
func Userns(t testing.TB) {
	t.Helper()
	if err := userns(); err != nil {
		Missing(t, "userns", err)
	}
}

// Shared returns the path of the folder `shared` beside the checkout, which holds vectors, corpora and conformance suites.
func Shared(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(repository(t)), "shared")
	if _, err := os.Stat(dir); err != nil {
		Missing(t, "shared", err)
	}
	return dir
}

// Tool returns the path of the named program.
func Tool(t testing.TB, name string) string {
	t.Helper()
	// Debian keeps daemons where an ordinary user's PATH does not look, and PostgreSQL's where nobody's does.
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	for _, p := range append([]string{name, "/usr/sbin/" + name, "/sbin/" + name}, candidates...) {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	Missing(t, name, fmt.Errorf("the test needs the program %s", name))
	return ""
}

// User is the user of that name.
func User(t testing.TB, name string) *user.User {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		Missing(t, name, err)
	}
	return u
}

// Kernel returns the path of a kernel to boot in a virtual machine, which CMGR_VM_KERNEL has.
func Kernel(t testing.TB) string {
	t.Helper()
	path := os.Getenv("CMGR_VM_KERNEL")
	if path == "" {
		Missing(t, "vm", errors.New("CMGR_VM_KERNEL is not set; `make vm` sets it"))
	}
	return path
}

// Missing skips a test that lacks something of that kind, or fails it where CI must not skip: for what a test finds out by
// itself.
func Missing(t testing.TB, kind string, why error) {
	t.Helper()
	if os.Getenv("CI") != "true" {
		t.Skipf("%s: %v", kind, why)
	}
	skips, err := os.ReadFile(filepath.Join(repository(t), ".ci", "skips"))
	if err != nil {
		t.Fatal(err)
	}
	reason := allowed(string(skips), kind, root())
	if reason == "" {
		t.Fatalf("%s: %v; CI runs everything that .ci/skips does not list", kind, why)
	}
	t.Skipf("%s: %v (.ci/skips: %s)", kind, why, reason)
}

// allowed returns the reason for which skips, the text of .ci/skips, lets kind be missing; "" if it does not.
func allowed(skips, kind string, root bool) string {
	for line := range strings.Lines(skips) {
		k, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		if k == kind || !root && k == "user:"+kind {
			return strings.TrimSpace(reason)
		}
	}
	return ""
}

// repository returns the directory of the go.mod above the test.
func repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == "/" {
			t.Fatal("no go.mod above the test")
		}
	}
}

var cgroup2 = sync.OnceValues(func() (string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	dir := cgroupDir(string(mounts), string(own))
	if dir == "" {
		return "", errors.New("no cgroup v2 is mounted that holds this process")
	}
	probe := filepath.Join(dir, fmt.Sprintf("cmgr-needs-%d", os.Getpid()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		return "", err
	}
	defer os.Remove(probe)
	if _, err := os.Stat(filepath.Join(probe, "cgroup.kill")); err != nil {
		return "", err
	}
	return dir, nil
})

// cgroupDir finds the directory of a process's cgroup v2 from the texts of its mountinfo and cgroup files (proc(5),
// cgroups(7)); "" if there is none.
func cgroupDir(mountinfo, cgroup string) string {
	_, own, ok := strings.Cut("\n"+cgroup, "\n0::")
	if !ok {
		return ""
	}
	own, _, _ = strings.Cut(own, "\n")
	for line := range strings.Lines(mountinfo) {
		// ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE …
		mount, kind, _ := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if len(fields) < 5 || !strings.HasPrefix(kind, "cgroup2 ") {
			continue
		}
		// A mount shows the part of the hierarchy below its root; ".." is a cgroup outside of our namespace.
		if rel, err := filepath.Rel(fields[3], own); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return filepath.Join(fields[4], rel)
		}
	}
	return ""
}

var userns = sync.OnceValue(func() error {
	c := exec.Command("true")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER,
		// With this the child also remounts / as private: AppArmor on some systems allows the namespace but nothing in it.
		Unshareflags: syscall.CLONE_NEWNS,
		UidMappings:  []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings:  []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return c.Run()
})
