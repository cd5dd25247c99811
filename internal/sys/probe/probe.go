package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Feature is something that this machine may let this process do.
type Feature struct {
	Name string
	// Without says what cmgr does where it is missing.
	Without string
	try     func() (detail string, err error)
}

// Try tries it out now: with a detail to show (a path, a version), or why it can't be had.
func (f Feature) Try() (detail string, err error) { return f.try() }

// Features are all, in the order in which tools show them. Trying one leaves nothing behind.
func Features() []Feature {
	return []Feature{
		{"cgroup2", "components are contained by PID namespaces or subreapers, which cost a process each", cgroup2},
		{"controllers", "no limits on memory, processes or CPU of a component", controllers},
		{"pid namespace", "without cgroup2 too, components are contained by subreapers: best effort", pidNamespace},
		{"user namespace", "an ordinary user cannot have namespaces", userNamespace},
		{"children in /proc", "no containment without cgroup2", procChildren},
		{"clone3", "components cannot be started in their cgroup", clone3},
		{"close_range", "no component can be started", closeRange},
		{"pidfd", "only the cgroup2 backend ends a component's processes without mistaking one for another", pidfd},
		{"landlock", "no confinement by Landlock", landlock},
		{"seccomp", "no confinement by system call filters", seccomp},
		{"mount API", "no confinement by mount namespaces", mountAPI},
		{"open files", "as many components as half of the limit", openFiles},
	}
}

func cgroup2() (string, error) {
	dir, err := Cgroup()
	if err != nil {
		return "", err
	}
	return dir, JobCgroup(dir)
}

func controllers() (string, error) {
	dir, err := Cgroup()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		return "", err
	}
	have := strings.Fields(string(b))
	var missing []string
	for _, c := range []string{"memory", "pids", "cpu", "io"} {
		if !strings.Contains(" "+strings.Join(have, " ")+" ", " "+c+" ") {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return strings.Join(have, " "), fmt.Errorf("%s has no %s", dir, strings.Join(missing, ", "))
	}
	return strings.Join(have, " "), nil
}

// namespaces tries to make namespaces: a child in them executes nothing, "", so that ENOENT says that it got there.
func namespaces(clone, unshare uintptr) error {
	sys := &syscall.SysProcAttr{Cloneflags: clone, Unshareflags: unshare}
	if clone&unix.CLONE_NEWUSER != 0 {
		sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
	_, err := syscall.ForkExec("", nil, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Sys: sys})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func pidNamespace() (string, error) {
	if Admin() {
		return "without a user namespace", namespaces(unix.CLONE_NEWPID, 0)
	}
	return "in a user namespace", namespaces(unix.CLONE_NEWPID|unix.CLONE_NEWUSER, 0)
}

// Admin says whether this process has CAP_SYS_ADMIN over the user namespace that it is in, and so may make namespaces.
func Admin() bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	return unix.Capget(&h, &d[0]) == nil && d[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// userNamespace also makes a mount namespace in it and changes that: some systems (AppArmor) allow the one without the other.
func userNamespace() (string, error) {
	return "", namespaces(unix.CLONE_NEWUSER, unix.CLONE_NEWNS)
}

func procChildren() (string, error) {
	_, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	return "", err
}

func clone3() (string, error) {
	// Without its argument: EINVAL where it exists; a container's filter may say something else.
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.EINVAL {
		return "", errno
	}
	return "", nil
}

func closeRange() (string, error) {
	const last = 1<<31 - 1 // no descriptor has that number
	return "", unix.CloseRange(last, last, 0)
}

func pidfd() (string, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return "", unix.PidfdSendSignal(fd, 0, nil, 0)
}

// Landlock returns the version of Landlock's ABI here (landlock_create_ruleset(2)); 0 with an error if there is none.
func Landlock() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		return int(abi), nil
	case unix.EOPNOTSUPP:
		return 0, errors.New("disabled at boot")
	}
	return 0, errno
}

func landlock() (string, error) {
	abi, err := Landlock()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("ABI %d", abi), nil
}

func seccomp() (string, error) {
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return "", errno
	}
	return "", nil
}

func mountAPI() (string, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", err
	}
	return "", unix.Close(fd)
}

func openFiles() (string, error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return "", err
	}
	detail := fmt.Sprintf("at most %d", lim.Max)
	if lim.Max < 4096 {
		return detail, errors.New(detail)
	}
	return detail, nil
}
