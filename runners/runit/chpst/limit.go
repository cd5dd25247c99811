package chpst

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/execve"
)

// limits are the soft limits to set, by resource. What is larger than the hard limit, or hardLimit, means the hard limit.
type limits [16]struct {
	set bool
	to  uint64
}

// hardLimit is softlimit's "=".
const hardLimit = math.MaxUint64

var chpstLimits = map[byte]int{
	'd': unix.RLIMIT_DATA, 'o': unix.RLIMIT_NOFILE, 'p': unix.RLIMIT_NPROC, 'f': unix.RLIMIT_FSIZE, 'c': unix.RLIMIT_CORE,
	'r': unix.RLIMIT_RSS, 't': unix.RLIMIT_CPU,
}

var softlimitLimits = map[byte]int{
	'a': unix.RLIMIT_AS, 'c': unix.RLIMIT_CORE, 'd': unix.RLIMIT_DATA, 'f': unix.RLIMIT_FSIZE, 'l': unix.RLIMIT_MEMLOCK,
	'o': unix.RLIMIT_NOFILE, 'p': unix.RLIMIT_NPROC, 'r': unix.RLIMIT_RSS, 's': unix.RLIMIT_STACK, 't': unix.RLIMIT_CPU,
}

func (l *limits) set(resource int, to uint64) {
	l[resource].set, l[resource].to = true, to
}

// memory is -m: all kinds of it.
func (l *limits) memory(to uint64) {
	for _, r := range []int{unix.RLIMIT_DATA, unix.RLIMIT_STACK, unix.RLIMIT_MEMLOCK, unix.RLIMIT_AS} {
		l.set(r, to)
	}
}

// list is what there is to set.
func (l *limits) list() (all []execve.Limit, err error) {
	for resource, want := range l {
		if !want.set {
			continue
		}
		var r syscall.Rlimit
		if err := syscall.Getrlimit(resource, &r); err != nil {
			return nil, fatal(err, "unable to getrlimit()")
		}
		r.Cur = min(want.to, r.Max)
		all = append(all, execve.Limit{Resource: resource, Rlimit: r})
	}
	return all, nil
}
