package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// facts are what the attempts are told of the world outside, more than a program could know.
type facts struct {
	Secret   string // a file of the host
	Manager  int    // process numbers, as they are outside
	Sibling  int    // of another component
	TCP      string // a listener on loopback
	UDP      string
	Unix     string // a socket in the file system
	Abstract string // one without a name there; and the same for a sibling's
	Sibling2 string
	SHM      int    // the key of a System V segment of the host
	Shm      string // a name in the host's /dev/shm
	TmpFile  string // a file in the host's /tmp
	Cgroup   string // the host's cgroup directory
	Setuid   string // a program in a routed directory that belongs to another user and has its set-user-ID bit
	Network  bool   // it was granted
}

// An attempt is something that must not succeed. try returns nil if it did.
type attempt struct {
	name string
	try  func(f *facts) error
}

type outcome struct{ Name, How, Escaped string }

// errRefused is for attempts that fail without an error of the system.
var errRefused = errors.New("not there")

func refusedIf(ok bool) error {
	if ok {
		return errRefused
	}
	return nil
}

// reads is an attempt to read the host's secret by a path.
func reads(path func(f *facts) string) func(*facts) error {
	return func(f *facts) error {
		b, err := os.ReadFile(path(f))
		if err == nil && !strings.Contains(string(b), "secret of the host") {
			return errRefused
		}
		return err
	}
}

func opens(path string, flags int) func(*facts) error {
	return func(*facts) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func call(trap uintptr, args ...uintptr) func(*facts) error {
	return func(*facts) error { return raw(trap, args...) }
}

func raw(trap uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// joins is an attempt to make a socket. With the network granted some may be had.
func sockets(family, kind, protocol int) func(*facts) error {
	return func(f *facts) error {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func dials(network string, address func(*facts) string) func(*facts) error {
	return func(f *facts) error {
		c, err := net.Dial(network, address(f))
		if err == nil {
			c.Close()
		}
		return err
	}
}

// others are numbers that a process outside may have here: none should.
func others(f *facts) []int { return []int{f.Manager, f.Sibling} }

func toEach(f *facts, try func(pid int) error) (err error) {
	for _, pid := range others(f) {
		if err = try(pid); err == nil {
			return nil
		}
	}
	return err
}

var attempts = []attempt{
	// Paths.
	{"read a file of the host", reads(func(f *facts) string { return f.Secret })},
	{"read it through ..", reads(func(f *facts) string { return "/pkg/../../../../../.." + f.Secret })},
	{"read it through .. of a routed directory", reads(func(f *facts) string { return "/data/../" + filepath.Base(f.Secret) })},
	{"read it through /proc/1/root", reads(func(f *facts) string { return "/proc/1/root" + f.Secret })},
	{"read it through /proc/self/cwd", reads(func(f *facts) string { return "/proc/self/cwd/../../../.." + f.Secret })},
	{"read it through a symlink", func(f *facts) error {
		os.Symlink(f.Secret, "/data/link")
		return reads(func(*facts) string { return "/data/link" })(f)
	}},
	{"read it through a relative symlink", func(f *facts) error {
		os.Symlink("../"+filepath.Base(f.Secret), "/data/link2")
		return reads(func(*facts) string { return "/data/link2" })(f)
	}},
	{"read it from a directory descriptor", func(f *facts) error {
		fd, err := unix.Open("/data", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		g, err := unix.Openat(fd, "../"+filepath.Base(f.Secret), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(g)
		}
		return err
	}},
	{"read it by fchdir and ..", func(f *facts) error {
		defer os.Chdir("/")
		if err := os.Chdir("/data"); err != nil {
			return err
		}
		return reads(func(*facts) string { return "../" + filepath.Base(f.Secret) })(f)
	}},
	{"hard link it", func(f *facts) error { return os.Link(f.Secret, "/data/hard") }},
	{"hard link the package's program", func(*facts) error { return os.Link("/pkg/component", "/data/hard") }},
	{"link a file by its descriptor", func(*facts) error {
		f, err := os.Open("/pkg/component")
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprint("/proc/self/fd/", f.Fd()), unix.AT_FDCWD, "/data/hard", unix.AT_SYMLINK_FOLLOW)
	}},
	{"open by file handle", func(*facts) error {
		h, id, err := unix.NameToHandleAt(unix.AT_FDCWD, "/data", 0)
		if err != nil {
			return err
		}
		_ = id
		fd, err := unix.Open("/data", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		g, err := unix.OpenByHandleAt(fd, h, unix.O_RDONLY)
		if err == nil {
			unix.Close(g)
		}
		return err
	}},
	{"chroot", func(*facts) error { return unix.Chroot("/data") }},
	{"pivot_root", func(*facts) error { return unix.PivotRoot("/data", "/data") }},
	{"see the host's mounts", func(f *facts) error {
		b, err := os.ReadFile("/proc/self/mountinfo")
		return errors.Join(err, refusedIf(!strings.Contains(string(b), " /sys ") && !strings.Contains(string(b), "cgroup")))
	}},
	{"list the host's root", func(*facts) error {
		for _, d := range []string{"/root", "/home", "/var", "/run", "/boot", "/sys", "/mnt", "/opt"} {
			if _, err := os.Lstat(d); err == nil {
				return nil
			}
		}
		return os.ErrNotExist
	}},
	{"read /etc/shadow", opens("/etc/shadow", unix.O_RDONLY)},

	// Writing where there is no right to.
	{"write to the package", func(*facts) error { return os.WriteFile("/pkg/new", nil, 0o644) }},
	{"write to the package's program", opens("/pkg/component", unix.O_WRONLY)},
	{"write to /proc/self/exe", opens("/proc/self/exe", unix.O_WRONLY)},
	{"write to the platform", func(*facts) error { return os.WriteFile("/usr/new", nil, 0o644) }},
	{"write to the platform's programs", opens("/bin/sh", unix.O_WRONLY)},
	{"write to /etc", opens("/etc/passwd", unix.O_WRONLY)},
	{"write to the root", func(*facts) error { return os.Mkdir("/new", 0o755) }},
	{"write to /dev", func(*facts) error { return os.WriteFile("/dev/new", nil, 0o644) }},
	{"find what is in the host's /tmp", func(f *facts) error { return opens(f.TmpFile, unix.O_RDONLY)(f) }},
	{"leave something in the host's /tmp", func(f *facts) error {
		if err := os.WriteFile(f.TmpFile, []byte("changed"), 0o644); err != nil {
			return err
		}
		return errRefused // in its own; the host's is looked at afterwards
	}},
	{"write to a read-only directory", func(*facts) error { return os.WriteFile("/ro/new", nil, 0o644) }},
	{"write to a file in it", opens("/ro/file", unix.O_WRONLY)},
	{"change the mode of a file in it", func(*facts) error { return os.Chmod("/ro/file", 0o777) }},
	{"remove a file in it", func(*facts) error { return os.Remove("/ro/file") }},
	{"reopen it for writing", func(*facts) error {
		f, err := os.Open("/ro/file")
		if err != nil {
			return err
		}
		defer f.Close()
		return opens(fmt.Sprint("/proc/self/fd/", f.Fd()), unix.O_WRONLY)(nil)
	}},
	{"map it for writing", func(*facts) error {
		f, err := os.Open("/ro/file")
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)
		return err
	}},
	{"rename where only bytes may be written", func(*facts) error { return os.Rename("/bytes/file", "/bytes/other") }},
	{"make a file where only bytes may be written", func(*facts) error { return os.WriteFile("/bytes/new", nil, 0o644) }},
	{"remove a file where only bytes may be written", func(*facts) error { return os.Remove("/bytes/file") }},
	{"write bytes where only names may be changed", opens("/names/file", unix.O_WRONLY)},
	{"truncate where only names may be changed", func(*facts) error { return os.Truncate("/names/file", 0) }},
	{"read another user's file", opens("/data/private", unix.O_RDONLY)},
	{"remount for writing", func(*facts) error {
		return unix.Mount("", "/ro", "", unix.MS_REMOUNT|unix.MS_BIND, "")
	}},
	{"clear a mount's attributes", func(*facts) error {
		return unix.MountSetattr(unix.AT_FDCWD, "/ro", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
	}},
	{"mount a tmpfs", func(*facts) error { return unix.Mount("none", "/data", "tmpfs", 0, "") }},
	{"mount a proc", func(*facts) error { return unix.Mount("none", "/data", "proc", 0, "") }},
	{"bind-mount", func(*facts) error { return unix.Mount("/usr", "/data", "", unix.MS_BIND, "") }},
	{"unmount what hides something", func(*facts) error { return unix.Unmount("/pkg", unix.MNT_DETACH) }},
	{"open_tree", func(*facts) error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err }},
	{"move_mount", func(*facts) error {
		return unix.MoveMount(unix.AT_FDCWD, "/data", unix.AT_FDCWD, "/pkg", 0)
	}},
	{"fsopen", func(*facts) error { _, err := unix.Fsopen("tmpfs", 0); return err }},
	{"statmount", call(unix.SYS_STATMOUNT)},
	{"listmount", call(unix.SYS_LISTMOUNT)},

	// Executing what was not given as a program.
	{"execute from a directory without that right", func(*facts) error { return run("/data/program") }},
	{"execute it by the loader", func(*facts) error {
		loaders, _ := filepath.Glob("/lib*/ld-linux*")
		if len(loaders) == 0 {
			return errRefused
		}
		return run(loaders[0], "/data/program")
	}},
	{"execute it by its descriptor", func(*facts) error {
		f, err := os.Open("/data/program")
		if err != nil {
			return err
		}
		defer f.Close()
		return run(fmt.Sprint("/proc/self/fd/", f.Fd()))
	}},
	{"map it as code", func(*facts) error {
		f, err := os.Open("/data/program")
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
		return err
	}},
	{"execute from a tmpfs", func(f *facts) error {
		b, err := os.ReadFile("/data/program")
		if err != nil {
			return err
		}
		if err := os.WriteFile("/tmp/program", b, 0o755); err != nil {
			return err
		}
		return run("/tmp/program")
	}},
	{"make memory that is to be executed", func(*facts) error {
		fd, err := unix.MemfdCreate("x", unix.MFD_EXEC)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
	{memfdAttempt, func(*facts) error {
		fd, err := unix.MemfdCreate("x", 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		unix.Fchmod(fd, 0o755)
		if _, err := unix.Write(fd, []byte("#!/bin/true\n")); err != nil {
			return err
		}
		return run(fmt.Sprint("/proc/self/fd/", fd))
	}},

	// Devices and the kernel's files.
	{"make a block device", func(*facts) error { return unix.Mknod("/data/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))) }},
	{"make a character device", func(*facts) error { return unix.Mknod("/data/mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))) }},
	{"open a device of a routed directory", opens("/data/device", unix.O_RDONLY)},
	{"open a disk", opens("/dev/vda", unix.O_RDONLY)},
	{"open /dev/mem", opens("/dev/mem", unix.O_RDONLY)},
	{"open /dev/kmsg", opens("/dev/kmsg", unix.O_RDONLY)},
	{"open /dev/tty", opens("/dev/tty", unix.O_RDWR)},
	{"make a terminal", opens("/dev/ptmx", unix.O_RDWR)},
	{"open /dev/fuse", opens("/dev/fuse", unix.O_RDWR)},
	{"open /dev/kvm", opens("/dev/kvm", unix.O_RDWR)},
	{"write core_pattern", opens("/proc/sys/kernel/core_pattern", unix.O_WRONLY)},
	{"write a sysctl", opens("/proc/sys/vm/overcommit_memory", unix.O_WRONLY)},
	{"write sysrq-trigger", opens("/proc/sysrq-trigger", unix.O_WRONLY)},
	{"read kcore", opens("/proc/kcore", unix.O_RDONLY)},
	{"read kallsyms", opens("/proc/kallsyms", unix.O_RDONLY)},
	{"read the keys of others", opens("/proc/keys", unix.O_RDONLY)},
	{"write a cgroup", func(f *facts) error { return os.WriteFile(f.Cgroup+"/cgroup.procs", []byte("0"), 0) }},
	{"see /sys", func(*facts) error { _, err := os.Stat("/sys/kernel"); return err }},
	{"quotactl", call(unix.SYS_QUOTACTL)},

	// Other processes.
	{"signal the manager", func(f *facts) error { return toEach(f, func(pid int) error { return unix.Kill(pid, 0) }) }},
	{"kill another's thread", func(f *facts) error { return toEach(f, func(pid int) error { return unix.Tgkill(pid, pid, 0) }) }},
	{"signal everybody", func(*facts) error { return unix.Kill(-1, 0) }},
	{"signal the parent", func(*facts) error {
		if os.Getppid() == 0 {
			return unix.ESRCH
		}
		return unix.Kill(os.Getppid(), 0)
	}},
	{"have the manager sent a signal", func(f *facts) error {
		var p [2]int
		if err := unix.Pipe2(p[:], 0); err != nil {
			return err
		}
		defer unix.Close(p[0])
		defer unix.Close(p[1])
		_, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETOWN, f.Manager)
		return err
	}},
	{"open another's pidfd", func(f *facts) error {
		return toEach(f, func(pid int) error { _, err := unix.PidfdOpen(pid, 0); return err })
	}},
	{"take another's descriptor", func(f *facts) error {
		fd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
	{"ptrace another", func(f *facts) error {
		return toEach(f, func(pid int) error { return raw(unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(pid)) })
	}},
	{"ptrace no. 1", call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1)},
	{"be traced", call(unix.SYS_PTRACE, unix.PTRACE_TRACEME)},
	{"read another's memory", func(f *facts) error {
		return toEach(f, func(pid int) error { return raw(unix.SYS_PROCESS_VM_READV, uintptr(pid)) })
	}},
	{"write another's memory", func(f *facts) error {
		return toEach(f, func(pid int) error { return raw(unix.SYS_PROCESS_VM_WRITEV, uintptr(pid)) })
	}},
	{"read another's environment", func(f *facts) error {
		return toEach(f, func(pid int) error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); return err })
	}},
	{"follow another's root", func(f *facts) error {
		return toEach(f, func(pid int) error { _, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid)); return err })
	}},
	{"follow another's descriptors", func(f *facts) error {
		return toEach(f, func(pid int) error { _, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); return err })
	}},
	{"see other processes", func(*facts) error {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if exe, _ := os.Readlink("/proc/" + e.Name() + "/exe"); strings.Trim(e.Name(), "0123456789") == "" && exe != "/pkg/component" {
				return nil
			}
		}
		return errRefused
	}},
	{"limit another", func(f *facts) error {
		return toEach(f, func(pid int) error { return unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{}) })
	}},
	{"slow another down", func(f *facts) error {
		return toEach(f, func(pid int) error { return unix.Setpriority(unix.PRIO_PROCESS, pid, 19) })
	}},
	{"slow all of the user's down", func(f *facts) error {
		// It may, but that must reach nobody but itself; the test looks from outside.
		return errors.Join(unix.Setpriority(unix.PRIO_USER, 0, 3), errRefused)
	}},
	{"pin another", func(f *facts) error {
		var set unix.CPUSet
		set.Set(0)
		return toEach(f, func(pid int) error { return unix.SchedSetaffinity(pid, &set) })
	}},
	{"reschedule another", func(f *facts) error {
		var param int32
		return toEach(f, func(pid int) error {
			return raw(unix.SYS_SCHED_SETSCHEDULER, uintptr(pid), unix.SCHED_IDLE, uintptr(unsafe.Pointer(&param)))
		})
	}},
	{"change another's I/O priority", func(f *facts) error {
		return toEach(f, func(pid int) error { return raw(unix.SYS_IOPRIO_SET, 1, uintptr(pid), 3<<13) })
	}},
	{"move another's pages", func(f *facts) error {
		return toEach(f, func(pid int) error { return raw(unix.SYS_MIGRATE_PAGES, uintptr(pid)) })
	}},
	{"compare with another", func(f *facts) error { return raw(unix.SYS_KCMP, uintptr(f.Manager), 1) }},
	{"become real-time", func(*facts) error {
		param := int32(1)
		return raw(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param)))
	}},
	{"raise its priority", func(*facts) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) }},
	{"raise a hard limit", func(*facts) error {
		var l unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return err
		}
		l.Max++
		return unix.Prlimit(0, unix.RLIMIT_NOFILE, &l, nil)
	}},
	{"be spared by the OOM killer", func(*facts) error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) }},
	{"hear of the manager's death", func(*facts) error {
		// The request may be made, but it is about nobody: whoever is its parent is not in its world.
		return errors.Join(unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGUSR1), 0, 0, 0), refusedIf(os.Getppid() == 0))
	}},

	// Namespaces.
	{"unshare a user namespace", func(*facts) error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"unshare a mount namespace", func(*facts) error { return unix.Unshare(unix.CLONE_NEWNS) }},
	{"unshare a network namespace", func(*facts) error { return unix.Unshare(unix.CLONE_NEWNET) }},
	{"clone a user namespace", func(*facts) error {
		p, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if p == 0 {
			unix.Exit(0)
		}
		return nil
	}},
	{"clone3 a user namespace", func(*facts) error {
		args := [11]uint64{0: unix.CLONE_NEWUSER, 4: uint64(unix.SIGCHLD)}
		p, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		if errno != 0 {
			return errno
		}
		if p == 0 {
			unix.Exit(0)
		}
		return nil
	}},
	{"enter another's namespaces", func(f *facts) error {
		for _, pid := range append(others(f), 1) {
			for _, ns := range []string{"mnt", "net", "pid_for_children", "user", "ipc"} {
				fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					continue
				}
				err = unix.Setns(fd, 0)
				unix.Close(fd)
				if err == nil {
					return nil
				}
			}
		}
		return unix.EPERM
	}},
	{"open the parent namespace", func(*facts) error {
		for _, ns := range []string{"pid", "user"} {
			fd, err := unix.Open("/proc/self/ns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			defer unix.Close(fd)
			if err := raw(unix.SYS_IOCTL, uintptr(fd), unix.NS_GET_PARENT); err == nil {
				return nil
			}
		}
		return unix.EPERM
	}},

	// The kernel.
	{"bpf", call(unix.SYS_BPF)},
	{"perf_event_open", call(unix.SYS_PERF_EVENT_OPEN)},
	{"userfaultfd", call(unix.SYS_USERFAULTFD)},
	{"add_key", call(unix.SYS_ADD_KEY)},
	{"request_key", call(unix.SYS_REQUEST_KEY)},
	{"keyctl", call(unix.SYS_KEYCTL)},
	{"io_uring", call(unix.SYS_IO_URING_SETUP, 1)},
	{"init_module", call(unix.SYS_INIT_MODULE)},
	{"finit_module", call(unix.SYS_FINIT_MODULE)},
	{"kexec", call(unix.SYS_KEXEC_LOAD)},
	{"reboot", call(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_CAD_ON)},
	{"swapon", call(unix.SYS_SWAPON)},
	{"acct", call(unix.SYS_ACCT)},
	{"sethostname", func(*facts) error { return unix.Sethostname([]byte("x")) }},
	{"set the clock", func(*facts) error { return unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Sec: 1}) }},
	{"adjust the clock", func(*facts) error { _, err := unix.Adjtimex(&unix.Timex{Modes: 1}); return err }},
	{"read the kernel's log", func(*facts) error { _, err := unix.Klogctl(3, make([]byte, 100)); return err }},
	{"fanotify", call(unix.SYS_FANOTIFY_INIT)},
	{"vhangup", call(unix.SYS_VHANGUP)},
	{"personality that makes data executable", call(unix.SYS_PERSONALITY, 0x0400000)},
	{"a system call of another ABI", func(*facts) error {
		if runtime.GOARCH != "amd64" {
			return errRefused
		}
		return raw(0x40000000 + 39) // x32's getpid
	}},
	{"a system call of the future", func(*facts) error {
		if err := raw(4000); err != unix.ENOSYS {
			return nil
		}
		return unix.ENOSYS
	}},

	// Privileges.
	{"become another user", func(*facts) error { return raw(unix.SYS_SETUID, 12345) }},
	{"become another group", func(*facts) error { return raw(unix.SYS_SETGID, 12345) }},
	{"join groups", func(*facts) error { g := uint32(12345); return raw(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&g))) }},
	{"give a file away", func(*facts) error {
		os.WriteFile("/data/mine", nil, 0o644)
		return os.Chown("/data/mine", 12345, 12345)
	}},
	{"have any capability", func(*facts) error {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "Cap") && strings.Trim(line[strings.Index(line, ":")+1:], "0\t\n ") != "" {
				return nil
			}
		}
		return errRefused
	}},
	{"raise a capability", func(*facts) error {
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		d := [2]unix.CapUserData{{Effective: 1, Permitted: 1}}
		return unix.Capset(&h, &d[0])
	}},
	{"raise an ambient capability", func(*facts) error {
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, 0, 0, 0)
	}},
	{"change securebits", func(*facts) error { return unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0) }},
	{"clear no_new_privs", func(*facts) error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) }},
	{"take the filter off", func(*facts) error { return unix.Prctl(unix.PR_SET_SECCOMP, 0, 0, 0, 0) }},
	{"gain a user by a set-user-ID program", func(f *facts) error {
		out, err := exec.Command(f.Setuid, "id").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return refusedIf(string(out) == fmt.Sprintf("%d %d\n", os.Getuid(), os.Getuid()))
	}},
	{"gain one with LD_PRELOAD", func(f *facts) error {
		c := exec.Command(f.Setuid, "id")
		c.Env = []string{"LD_PRELOAD=/data/program"}
		out, err := c.Output()
		if err != nil {
			return err
		}
		return refusedIf(string(out) == fmt.Sprintf("%d %d\n", os.Getuid(), os.Getuid()))
	}},

	// The network.
	{"connect by TCP", func(f *facts) error {
		if f.Network {
			return errRefused
		}
		return dials("tcp", func(f *facts) string { return f.TCP })(f)
	}},
	{"send by UDP", func(f *facts) error {
		if f.Network {
			return errRefused
		}
		return dials("udp", func(f *facts) string { return f.UDP })(f)
	}},
	{"make an IPv6 socket", func(f *facts) error {
		if f.Network {
			return errRefused
		}
		return sockets(unix.AF_INET6, unix.SOCK_STREAM, 0)(f)
	}},
	{"listen by TCP", func(f *facts) error {
		if f.Network {
			return errRefused
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			l.Close()
		}
		return err
	}},
	{"see the host's network", func(f *facts) error {
		if f.Network {
			return errRefused
		}
		b, err := os.ReadFile("/proc/self/net/route")
		if err != nil {
			return err
		}
		return refusedIf(strings.Count(string(b), "\n") <= 1)
	}},
	{"make a raw socket", sockets(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
	{"make a packet socket", sockets(unix.AF_PACKET, unix.SOCK_RAW, 0)},
	{"make a netlink socket", sockets(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)},
	{"make a netfilter socket", sockets(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)},
	{"make a vsock socket", sockets(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
	{"make a crypto socket", sockets(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
	{"make a Bluetooth socket", sockets(unix.AF_BLUETOOTH, unix.SOCK_RAW, 1)},
	{"make an XDP socket", sockets(unix.AF_XDP, unix.SOCK_RAW, 0)},
	{"make a pair of internet sockets", func(*facts) error {
		_, err := unix.Socketpair(unix.AF_INET, unix.SOCK_STREAM, 0)
		return err
	}},
	{"connect to a socket of the host", dials("unix", func(f *facts) string { return f.Unix })},
	{abstractAttempt, dials("unix", func(f *facts) string { return f.Abstract })},
	{siblingAttempt, dials("unix", func(f *facts) string { return f.Sibling2 })},

	// Memory and queues that have names.
	{"attach a shared memory segment of the host", func(f *facts) error {
		_, _, errno := unix.Syscall(unix.SYS_SHMGET, uintptr(f.SHM), 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}},
	{"open the host's /dev/shm", func(f *facts) error { return opens("/dev/shm/"+f.Shm, unix.O_RDONLY)(f) }},
	{"mount the host's message queues", func(*facts) error { return unix.Mount("none", "/data", "mqueue", 0, "") }},

	// Terminals and descriptors.
	{"type into a terminal", func(*facts) error {
		c := byte('x')
		if err := raw(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c))); err != unix.EPERM {
			return nil // ENOTTY: the filter has not seen it
		}
		return unix.EPERM
	}},
	{"paste into a console", func(*facts) error {
		if err := raw(unix.SYS_IOCTL, 0, unix.TIOCLINUX); err != unix.EPERM {
			return nil
		}
		return unix.EPERM
	}},
	{"find a descriptor of the manager", func(*facts) error {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return err
		}
		for _, e := range entries {
			l, _ := os.Readlink("/proc/self/fd/" + e.Name())
			// Go's poller is its own, and the listing.
			if e.Name() > "2" && l != "" && !strings.HasPrefix(l, "anon_inode:[event") && !strings.HasPrefix(l, "/proc/") {
				return nil
			}
		}
		return errRefused
	}},
	{"find the manager's environment", func(*facts) error {
		return refusedIf(!slices.ContainsFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "HOME=") }))
	}},
	{"lead out by a descriptor's ..", func(f *facts) error {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		g, err := unix.Openat(fd, "../../"+f.Secret, unix.O_RDONLY, 0)
		if err == nil {
			unix.Close(g)
		}
		return err
	}},
}

// Attempts that depend on what the kernel has.
const (
	memfdAttempt    = "execute memory"
	abstractAttempt = "connect to an abstract socket of the host"
	siblingAttempt  = "connect to an abstract socket of a sibling"
)

func run(path string, args ...string) error {
	out, err := exec.Command(path, append(args, "nothing")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// component is the test program in a world.
func component(args []string) {
	switch {
	case len(args) == 2 && args[1] == "id":
		fmt.Println(os.Getuid(), os.Geteuid())
	case len(args) == 2 && args[1] == "attempts":
		var f facts
		if err := json.Unmarshal([]byte(os.Getenv("FACTS")), &f); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		var outcomes []outcome
		for _, a := range attempts {
			o := outcome{Name: a.name}
			if err := a.try(&f); err == nil {
				o.Escaped = "it succeeded"
			} else {
				o.How = err.Error()
			}
			outcomes = append(outcomes, o)
		}
		if err := json.NewEncoder(os.Stdout).Encode(outcomes); err != nil {
			os.Exit(1)
		}
	case len(args) == 2 && args[1] == "sibling":
		l, err := net.Listen("unix", os.Getenv("ABSTRACT"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		defer l.Close()
		fmt.Println("ready")
		select {}
	}
	os.Exit(0)
}
