package proc

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// Infinity is no limit.
const Infinity = ^uint64(0)

// A Limit is one resource limit (setrlimit(2)). Resource is a name of Resources; the unit is the kernel's (bytes, seconds,
// count). Soft may not exceed Hard, and only a process with CAP_SYS_RESOURCE may raise Hard.
type Limit struct {
	Resource   string
	Soft, Hard uint64
}

var resources = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// Resources are the names that a Limit can have, sorted: those of setrlimit(2) in lower case without RLIMIT_.
func Resources() []string { return slices.Sorted(maps.Keys(resources)) }
