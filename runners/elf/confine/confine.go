// Package confine makes the world of a confined program: what it finds is its package, what was routed to it and the platform,
// each read-only unless a right says otherwise, and nothing else: no other file, no network, no other process, no capability of
// Linux, no new privileges, and of the system calls those that an ordinary service needs.
//
// # How
//
// For each shape of world (the platform and the mount points in it) there is a seed: a mount namespace with a read-only tmpfs as
// its root, in which the platform is mounted and the rest is empty mount points. A start copies the seed, which is small however
// many mounts the host has, and puts in what is the component's own. All of it is system calls that the child makes of itself
// (internal/sys/proc.World); this package only prepares them.
//
//   - Files: the mount namespace; mounts are read-only unless writing is granted, and noexec unless executing is; all are nosuid
//     and nodev. Landlock where a right is finer than that.
//   - Processes: a PID namespace, in which the program is no. 1, with a /proc of its own that shows nothing but processes
//     (subset=pid). As no. 1 it is told of the ends of orphans, and cannot end itself by a signal (pid_namespaces(7)); the
//     manager can, by any. Queues and memory with names or keys (mq_overview(7), sysvipc(7)) are in an IPC namespace of its own.
//     Landlock's scopes (ABI 6) keep to the component what has no namespace.
//   - Network: a network namespace without an interface that is up, the same for all who were granted none, and a filter that
//     refuses sockets other than unix ones.
//   - Privileges: no capability, not in the bounding set either, none by being root (SECBIT_NOROOT), no_new_privs.
//   - The kernel: a filter of system calls, after systemd's @system-service; memory that can be executed is no file (memfd).
//
// # As an ordinary user
//
// Making namespaces takes privileges over a user namespace. A manager that is not root calls Reenter first thing: it is executed
// anew, once, as root of a user namespace in which its own user is the only one. Doctor tells what is weaker then.
package confine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/internal/sys/probe"
	"github.com/cmgr/cmgr/internal/sys/proc"
)

// DefaultPlatform is what of the host every program needs: programs and libraries, the loader's cache, users and names, the
// certificates of authorities. Directories are mounted; single files are as they were at the start, or up to a restart before.
var DefaultPlatform = strings.Fields(`
	/usr /bin /sbin /lib /lib32 /lib64 /libx32
	/etc/ld.so.cache /etc/alternatives /etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /etc/host.conf /etc/resolv.conf
	/etc/gai.conf /etc/services /etc/protocols /etc/localtime /etc/timezone /etc/os-release /etc/mime.types
	/etc/ssl/certs /etc/ssl/openssl.cnf /etc/ca-certificates /etc/pki/ca-trust /etc/pki/tls/certs`)

// Options say how to open a Confiner.
type Options struct {
	// Platform are the paths of the host that every program finds; nil: DefaultPlatform. What the host doesn't have is left out.
	Platform []string
}

// A Confiner makes worlds. Its methods may be called from any goroutine.
type Confiner struct {
	platform []string
	landlock int  // ABI; 0: none
	memfd    bool // /proc/sys/vm/memfd_noexec is there and can be set
	lastCap  int

	// Descriptors, made on first use; under mu.
	mu     sync.Mutex
	closed bool
	empty  int               // the network namespace of those without one; -1: not made yet
	base   [kinds]*proc.Base // what worlds begin with, by kind
	scope  [2]int            // Landlock's rulesets for them; -1: not made yet
	filter [kinds]struct{ all, first, last []byte }
	seeds  map[string]*seed
	clock  int // counts uses of seeds
	things []thing
	found  time.Time // when things were
	state  int       // counts changes of things
}

// Open returns a Confiner, or says why nothing can be confined here. Close ends it.
func Open(o Options) (*Confiner, error) {
	c := &Confiner{platform: o.Platform, empty: -1, scope: [2]int{-1, -1}, seeds: map[string]*seed{}, lastCap: lastCap()}
	if c.platform == nil {
		c.platform = DefaultPlatform
	}
	c.landlock, _ = probe.Landlock()
	c.memfd = unix.Access(memfdNoexec, unix.W_OK) == nil
	for k := range kinds {
		f := &c.filter[k]
		f.all, f.first, f.last = filter(k)
	}
	// The seed without anything of a component's own tries most of what can fail.
	if _, release, err := c.seed(nil); err != nil {
		c.Close()
		return nil, explain(err)
	} else {
		release()
	}
	return c, nil
}

// explain says what to do where namespaces are refused.
func explain(err error) error {
	switch {
	case !errors.Is(err, unix.EPERM) || probe.Admin():
		return err
	case notReentered != nil:
		return notReentered
	case os.Geteuid() == 0:
		return fmt.Errorf("%w (root without CAP_SYS_ADMIN, as in many containers)", err)
	}
	return fmt.Errorf("%w (an ordinary user's manager must be in a user namespace of its own: confine.Reenter)", err)
}

// Close gives up what the Confiner holds. Programs go on.
func (c *Confiner) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	for _, s := range c.seeds {
		unix.Close(s.fd)
	}
	clear(c.seeds)
	for _, fd := range append(c.scope[:], c.empty) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// network is the empty network namespace; with mu held.
func (c *Confiner) network() (int, error) {
	if c.empty < 0 {
		fd, err := mnt.Namespace(unix.CLONE_NEWNET, func() error { return nil })
		if err != nil {
			return -1, fmt.Errorf("make an empty network: %w", err)
		}
		c.empty = fd
	}
	return c.empty, nil
}

// fresh is how old the picture of the platform may be.
const fresh = time.Second

// maxSeeds is how many seeds are kept, at a descriptor and 23 KiB each.
const maxSeeds = 64

// A seed is a mount namespace to copy.
type seed struct {
	fd    int
	users int // starts under way
	used  int // when last, by Confiner.clock
}

// A point is a mount point.
type point struct {
	path string
	dir  bool
}

// seed returns the descriptor of a seed with the mount points, in any order; it is the caller's until release.
func (c *Confiner) seed(points []point) (fd int, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return -1, nil, os.ErrClosed
	}
	if now := time.Now(); now.Sub(c.found) > fresh {
		if things := c.findPlatform(); !slices.Equal(things, c.things) {
			c.things = things
			c.state++
		}
		c.found = now
	}
	var key strings.Builder
	fmt.Fprintln(&key, c.state)
	for _, p := range points {
		fmt.Fprintln(&key, p.path, p.dir)
	}
	s := c.seeds[key.String()]
	if s == nil {
		if len(c.seeds) >= maxSeeds {
			c.forget()
		}
		fd, err := plant(without(c.things, points), points)
		if err != nil {
			return -1, nil, err
		}
		s = &seed{fd: fd}
		c.seeds[key.String()] = s
	}
	c.clock++
	s.used = c.clock
	s.users++
	return s.fd, func() {
		c.mu.Lock()
		s.users--
		c.mu.Unlock()
	}, nil
}

// forget gives up the seed that was not used for longest; with mu held.
func (c *Confiner) forget() {
	oldest := ""
	for k, s := range c.seeds {
		if s.users == 0 && (oldest == "" || s.used < c.seeds[oldest].used) {
			oldest = k
		}
	}
	if oldest != "" {
		unix.Close(c.seeds[oldest].fd)
		delete(c.seeds, oldest)
	}
}

// memfdNoexec is the sysctl of each PID namespace that says whether a memory file can be executed (Linux 6.3).
const memfdNoexec = "/proc/sys/vm/memfd_noexec"

// devices are the device nodes that every program finds in /dev, by their minor numbers; their major number is 1
// (Documentation/admin-guide/devices.txt).
var devices = map[string]int{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}

// links are what stands in /dev beside them. Shared memory with a name (shm_overview(7)) goes with /tmp, for the price of one mount.
var links = map[string]string{
	"shm": "/tmp", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
}

// own are the paths that a world always has, and that nothing can be routed to.
var own = []string{
	"/", "/dev", "/dev/fd", "/dev/full", "/dev/null", "/dev/random", "/dev/stderr", "/dev/stdin", "/dev/stdout",
	"/dev/urandom", "/dev/zero", "/pkg", "/proc",
}

// reserved says whether path is the world's own, or within one of those.
func reserved(path string) bool {
	return slices.Contains(own, path) || strings.HasPrefix(path, "/pkg/") || strings.HasPrefix(path, "/proc/")
}
