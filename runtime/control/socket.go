package control

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest/name"
)

// DefaultName is the manager that is meant when none is named.
const DefaultName = "default"

// Dir is where the sockets of this user's managers are: /run/cmgr for root, $XDG_RUNTIME_DIR/cmgr for others, /tmp/cmgr-UID where
// that isn't set. A manager that has made itself root of a user namespace of its own finds the same place as its user outside.
func Dir() string {
	uid := os.Geteuid()
	if uid == 0 && syscall.Access("/run", 2 /* W_OK */) == nil {
		return rootDir
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "cmgr")
	}
	uidMap, _ := os.ReadFile("/proc/self/uid_map")
	return filepath.Join("/tmp", "cmgr-"+strconv.Itoa(outerID(string(uidMap), uid)))
}

// rootDir is where the sockets of root's managers are.
const rootDir = "/run/cmgr"

// outerID is what id is called in the parent user namespace (user_namespaces(7): lines of inside, outside, count); id itself if
// the map doesn't say.
func outerID(idMap string, id int) int {
	for line := range strings.Lines(idMap) {
		var inside, outside, count int
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n == 3 && id >= inside && id-inside < count {
			return outside + id - inside
		}
	}
	return id
}

// Path is the socket of the manager of that name.
func Path(manager string) string { return filepath.Join(Dir(), manager+".sock") }

// ExposedPath is where the sockets of what the root of a manager exposes are, by name, if its own socket is at socket.
func ExposedPath(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".exposed" }

// maxPath is what fits into sun_path with its final zero (unix(7)).
const maxPath = 107

// Listen makes the socket of the manager of that name: at socket, or if that is "" at Path(manager), whose directory is made if
// need be. A socket that a dead manager left is replaced; one that is answered is refused with Precondition. Only this user can
// connect, and the members of group unless that is NoGroup. Closing the listener removes the socket.
func Listen(manager, socket string, group int) (*net.UnixListener, error) {
	if err := name.Check(manager); err != nil {
		return nil, invalid("manager: %v", err)
	}
	dir := filepath.Dir(socket)
	if socket == "" {
		socket, dir = Path(manager), Dir()
		if err := privateDir(dir); err != nil {
			return nil, err
		}
		if group != NoGroup { // what lies in it has a mode of its own
			if err := os.Chmod(dir, 0o711); err != nil {
				return nil, fmt.Errorf("listen %s: %w", socket, err)
			}
		}
	}
	if len(socket) > maxPath {
		return nil, problem(capabilities.Invalid, "choose a shorter one with --socket",
			"listen %s: longer than the %d bytes of a socket's name", socket, maxPath)
	}
	// The directory's lock makes looking at an old socket and replacing it one step among managers that start at once.
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", socket, err)
	}
	defer lock.Close()
	for {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	switch c, err := net.Dial("unix", socket); {
	case err == nil:
		defer c.Close()
		pid := ""
		if u, ok := c.(*net.UnixConn); ok {
			if p, err := sock.PeerOf(u); err == nil {
				pid = fmt.Sprintf(" (pid %d)", p.PID)
			}
		}
		const hint = "give this one another name with --name, or end that one with `cmgr shutdown`"
		return nil, problem(capabilities.Precondition, hint, "a manager named %s is already running%s", manager, pid)
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, syscall.ECONNREFUSED): // a socket (or a file) that nobody listens to
		if i, err := os.Lstat(socket); err == nil && i.Mode().Type() != fs.ModeSocket {
			return nil, invalid("listen %s: it exists and is no socket", socket)
		}
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listen: %w", err)
		}
	default: // it is there, and not ours to judge
		return nil, fmt.Errorf("listen %s: %w", socket, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", socket, errors.Unwrap(err))
	}
	err, mode := error(nil), os.FileMode(0o600)
	if group != NoGroup {
		err, mode = os.Chown(socket, -1, group), 0o660
	}
	if err = cmp.Or(err, os.Chmod(socket, mode)); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// privateDir makes dir for this user only, and refuses one that somebody else made (in /tmp anybody can), or that shows others
// more than what they know the name of (see Listen's group).
func privateDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	i, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := i.Sys().(*syscall.Stat_t)
	if !ok || !i.IsDir() || int(st.Uid) != os.Geteuid() || i.Mode().Perm()&0o066 != 0 {
		return problem(capabilities.Denied, "remove it, or name another socket with --socket",
			"%s must be a directory of user %d with mode 0700", dir, os.Geteuid())
	}
	return nil
}

// Running are the names of this user's managers that answer, sorted.
func Running() []string {
	var out []string
	socks, _ := filepath.Glob(filepath.Join(Dir(), "*.sock"))
	for _, s := range socks {
		if c, err := net.Dial("unix", s); err == nil {
			c.Close()
			out = append(out, strings.TrimSuffix(filepath.Base(s), ".sock"))
		}
	}
	return out
}
