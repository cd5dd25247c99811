//go:build amd64 || arm64

package confine

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// The system call filter (seccomp(2)) is an allow-list, modelled on systemd's @system-service (systemd.exec(5)) without what
// makes, joins or inspects more than a program needs of itself: keyrings, io_uring (whose requests no filter sees), namespaces,
// other processes' memory, userfaultfd. What is not on the list fails with EPERM, and with ENOSYS what this list has never heard
// of, as if the kernel were older.

// allowed are the system calls that are allowed whatever their arguments, of all architectures. Those of one alone are in legacy.
var allowed = []uint32{
	// @default, @basic-io
	unix.SYS_BRK, unix.SYS_CLOCK_GETRES, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX, unix.SYS_FUTEX_WAITV, unix.SYS_FUTEX_WAKE, unix.SYS_FUTEX_WAIT,
	unix.SYS_FUTEX_REQUEUE, unix.SYS_GETEGID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETGROUPS, unix.SYS_GETPGID,
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETRANDOM, unix.SYS_GETRESGID, unix.SYS_GETRESUID, unix.SYS_GETSID,
	unix.SYS_GETTID, unix.SYS_GETTIMEOFDAY, unix.SYS_GETUID, unix.SYS_GET_ROBUST_LIST, unix.SYS_MEMBARRIER, unix.SYS_MMAP,
	unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MSEAL, unix.SYS_MUNMAP, unix.SYS_NANOSLEEP, unix.SYS_PRLIMIT64,
	unix.SYS_RESTART_SYSCALL, unix.SYS_RSEQ, unix.SYS_RT_SIGRETURN, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_YIELD,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_SET_TID_ADDRESS, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_DUP, unix.SYS_DUP3,
	unix.SYS_LSEEK, unix.SYS_PREAD64, unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_PWRITEV2,
	unix.SYS_READ, unix.SYS_READV, unix.SYS_WRITE, unix.SYS_WRITEV,
	// @aio without io_uring
	unix.SYS_IO_CANCEL, unix.SYS_IO_DESTROY, unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS, unix.SYS_IO_SETUP, unix.SYS_IO_SUBMIT,
	// @chown, @file-system
	unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_CHDIR, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_FALLOCATE,
	unix.SYS_FCHDIR, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCNTL, unix.SYS_FGETXATTR,
	unix.SYS_FLISTXATTR, unix.SYS_FREMOVEXATTR, unix.SYS_FSETXATTR, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_FTRUNCATE,
	unix.SYS_GETCWD, unix.SYS_GETDENTS64, unix.SYS_GETXATTR, unix.SYS_GETXATTRAT, unix.SYS_INOTIFY_ADD_WATCH,
	unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_RM_WATCH, unix.SYS_LGETXATTR, unix.SYS_LINKAT, unix.SYS_LISTXATTR,
	unix.SYS_LISTXATTRAT, unix.SYS_LLISTXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_LSETXATTR, unix.SYS_MKDIRAT, unix.SYS_MKNODAT,
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_READLINKAT, unix.SYS_REMOVEXATTR, unix.SYS_REMOVEXATTRAT, unix.SYS_RENAMEAT,
	unix.SYS_RENAMEAT2, unix.SYS_SETXATTR, unix.SYS_SETXATTRAT, unix.SYS_STATFS, unix.SYS_STATX, unix.SYS_SYMLINKAT,
	unix.SYS_TRUNCATE, unix.SYS_UMASK, unix.SYS_UNLINKAT, unix.SYS_UTIMENSAT, unix.SYS_COPY_FILE_RANGE, unix.SYS_FADVISE64,
	unix.SYS_FLOCK, unix.SYS_READAHEAD, unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_TEE, unix.SYS_VMSPLICE,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_CACHESTAT,
	// @io-event
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
	unix.SYS_PSELECT6,
	// @ipc without other processes' memory; memfd_create is in checked
	unix.SYS_PIPE2,
	// @memlock, and what a program may say of its own memory
	unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MLOCKALL, unix.SYS_MUNLOCK, unix.SYS_MUNLOCKALL, unix.SYS_MADVISE,
	unix.SYS_GET_MEMPOLICY, unix.SYS_SET_MEMPOLICY, unix.SYS_SET_MEMPOLICY_HOME_NODE, unix.SYS_MBIND, unix.SYS_MEMFD_SECRET,
	unix.SYS_PKEY_ALLOC, unix.SYS_PKEY_FREE, unix.SYS_PKEY_MPROTECT, unix.SYS_REMAP_FILE_PAGES, unix.SYS_MAP_SHADOW_STACK,
	// @network-io; socket and socketpair are in checked
	unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_BIND, unix.SYS_CONNECT, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKNAME,
	unix.SYS_GETSOCKOPT, unix.SYS_LISTEN, unix.SYS_RECVFROM, unix.SYS_RECVMMSG, unix.SYS_RECVMSG, unix.SYS_SENDMMSG,
	unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_SETSOCKOPT, unix.SYS_SHUTDOWN,
	// @process without namespaces and others' descriptors; clone is in checked
	unix.SYS_CAPGET, unix.SYS_CAPSET, unix.SYS_GETRUSAGE, unix.SYS_KILL, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL,
	unix.SYS_PRCTL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_TGKILL, unix.SYS_TIMES, unix.SYS_TKILL,
	unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_SETPGID, unix.SYS_SETSID, unix.SYS_GETCPU, unix.SYS_SYSINFO, unix.SYS_UNAME,
	// @resources without moving others' memory
	unix.SYS_IOPRIO_GET, unix.SYS_IOPRIO_SET, unix.SYS_GETPRIORITY, unix.SYS_SETPRIORITY, unix.SYS_GETRLIMIT, unix.SYS_SETRLIMIT,
	unix.SYS_SCHED_GETATTR, unix.SYS_SCHED_GETPARAM, unix.SYS_SCHED_GETSCHEDULER, unix.SYS_SCHED_GET_PRIORITY_MAX,
	unix.SYS_SCHED_GET_PRIORITY_MIN, unix.SYS_SCHED_RR_GET_INTERVAL, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SCHED_SETATTR,
	unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETSCHEDULER,
	// @setuid, @signal, @sync, @timer
	unix.SYS_SETFSGID, unix.SYS_SETFSUID, unix.SYS_SETGID, unix.SYS_SETGROUPS, unix.SYS_SETREGID, unix.SYS_SETRESGID,
	unix.SYS_SETRESUID, unix.SYS_SETREUID, unix.SYS_SETUID, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPENDING,
	unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGSUSPEND, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SIGALTSTACK, unix.SYS_SIGNALFD4,
	unix.SYS_FDATASYNC, unix.SYS_FSYNC, unix.SYS_MSYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE,
	unix.SYS_GETITIMER, unix.SYS_SETITIMER, unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_GETTIME, unix.SYS_TIMERFD_SETTIME,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_DELETE, unix.SYS_TIMER_GETOVERRUN, unix.SYS_TIMER_GETTIME, unix.SYS_TIMER_SETTIME,
	// @sandbox: a program may confine itself further
	unix.SYS_LANDLOCK_ADD_RULE, unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_SECCOMP,
	// @ipc: queues, semaphores and memory that have names or keys in an IPC namespace, of which each program has its own
	unix.SYS_MQ_GETSETATTR, unix.SYS_MQ_NOTIFY, unix.SYS_MQ_OPEN, unix.SYS_MQ_TIMEDRECEIVE, unix.SYS_MQ_TIMEDSEND,
	unix.SYS_MQ_UNLINK, unix.SYS_MSGCTL, unix.SYS_MSGGET, unix.SYS_MSGRCV, unix.SYS_MSGSND, unix.SYS_SEMCTL,
	unix.SYS_SEMGET, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SHMDT, unix.SYS_SHMGET,
}

// known is the highest number of a system call that this list was made with.
const known = unix.SYS_LISTNS

// What a filter returns (seccomp(2)).
const allow = unix.SECCOMP_RET_ALLOW

func refuse(err unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(err) }

// An instruction is a struct sock_filter of the kernel's (classic BPF, Documentation/networking/filter.rst).
type instruction = unix.SockFilter

const (
	load     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	atLeast  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	anyBit   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	jump     = unix.BPF_JMP | unix.BPF_JA
	returned = unix.BPF_RET | unix.BPF_K
)

// Offsets in struct seccomp_data.
const (
	nrAt   = 0
	archAt = 4
)

// argAt is the offset of the lower half of argument i, on the little-endian machines that there are filters for.
func argAt(i int) uint32 { return uint32(16 + 8*i) }

func ret(k uint32) []instruction { return []instruction{{Code: returned, K: k}} }

// when is: if test holds for k, then, otherwise otherwise. Both return.
func when(test uint16, k uint32, then, otherwise []instruction) []instruction {
	head := []instruction{{Code: test, K: k, Jf: uint8(len(then))}}
	if len(then) > 255 {
		head = []instruction{{Code: test, K: k, Jf: 1}, {Code: jump, K: 1}, {Code: jump, K: uint32(len(then))}}
	}
	return slices.Concat(head, then, otherwise)
}

func argument(i int, then []instruction) []instruction {
	return slices.Concat([]instruction{{Code: load, K: argAt(i)}}, then)
}

// checked are the system calls that are allowed with some arguments only.
func checked(network bool) map[uint32][]instruction {
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
		unix.CLONE_NEWPID | unix.CLONE_NEWNET
	family := ret(refuse(unix.EAFNOSUPPORT))
	if network {
		// Of netlink routing alone, by which addresses are listed.
		route := argument(2, when(equal, unix.NETLINK_ROUTE, ret(allow), ret(refuse(unix.EPROTONOSUPPORT))))
		family = when(equal, unix.AF_NETLINK, route, family)
		family = when(equal, unix.AF_INET, ret(allow), when(equal, unix.AF_INET6, ret(allow), family))
	}
	socket := argument(0, when(equal, unix.AF_UNIX, ret(allow), family))
	const noRandomize = 0x0040000 // ADDR_NO_RANDOMIZE (personality(2))
	return map[uint32][]instruction{
		unix.SYS_CLONE: argument(0, when(anyBit, namespaces, ret(refuse(unix.EPERM)), ret(allow))),
		// Its flags are in memory, where no filter sees them; the C libraries go on with clone.
		unix.SYS_CLONE3:     ret(refuse(unix.ENOSYS)),
		unix.SYS_SOCKET:     socket,
		unix.SYS_SOCKETPAIR: socket,
		// Both put characters into a terminal's input.
		unix.SYS_IOCTL: argument(1, when(equal, unix.TIOCSTI, ret(refuse(unix.EPERM)),
			when(equal, unix.TIOCLINUX, ret(refuse(unix.EPERM)), ret(allow)))),
		unix.SYS_MEMFD_CREATE: argument(1, when(anyBit, unix.MFD_EXEC, ret(refuse(unix.EACCES)), ret(allow))),
		unix.SYS_PERSONALITY: argument(0, when(equal, 0xffffffff, ret(allow),
			when(anyBit, ^uint32(noRandomize), ret(refuse(unix.EPERM)), ret(allow)))),
	}
}

// entering are the system calls by which a process is made and comes into its world, as far as a program is refused them. A
// step of a world that makes another such call adds it here.
var entering = []uint32{
	unix.SYS_CLONE3, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_MOUNT_SETATTR,
}

// filter is the filter for components of a kind. The kernel takes up to 90 µs to make a program of it and to try each number on
// it. So it is also there in two parts that together are the same: first, which the thread that makes processes has put on once
// and for all, and last, which refuses what is needed to come into a world.
func filter(k kind) (all, first, last []byte) {
	special := checked(k&withNetwork != 0)
	decide := func(nr uint32) []instruction {
		switch code, ok := special[nr]; {
		case ok:
			return code
		case slices.Contains(allowed, nr) || slices.Contains(legacy, nr):
			return ret(allow)
		case nr > known:
			return ret(refuse(unix.ENOSYS))
		}
		return ret(refuse(unix.EPERM))
	}
	all = program(decide)
	first = program(func(nr uint32) []instruction {
		if slices.Contains(entering, nr) {
			return ret(allow)
		}
		return decide(nr)
	})
	last = program(func(nr uint32) []instruction {
		if slices.Contains(entering, nr) {
			return decide(nr)
		}
		return ret(allow)
	})
	return all, first, last
}

// program is a filter, as the kernel reads it, that does what decide says of each system call of this architecture.
func program(decide func(nr uint32) []instruction) []byte {
	// Runs of numbers with the same decision, by their first.
	type run struct {
		first uint32
		code  []instruction
	}
	var runs []run
	for nr := range uint32(known + 2) {
		if code := decide(nr); len(runs) == 0 || !slices.Equal(runs[len(runs)-1].code, code) {
			runs = append(runs, run{nr, code})
		}
	}
	// A balanced tree of comparisons: the kernel tries every number once at each start (its cache of those always allowed).
	var tree func(runs []run) []instruction
	tree = func(runs []run) []instruction {
		if len(runs) == 1 {
			return runs[0].code
		}
		half := len(runs) / 2
		return when(atLeast, runs[half].first, tree(runs[half:]), tree(runs[:half]))
	}
	code := slices.Concat([]instruction{{Code: load, K: archAt}},
		when(equal, arch, slices.Concat([]instruction{{Code: load, K: nrAt}}, tree(runs)), ret(refuse(unix.EPERM))))
	b := make([]byte, 0, len(code)*unix.SizeofSockFilter)
	for _, i := range code {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}
