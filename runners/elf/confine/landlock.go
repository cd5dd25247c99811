package confine

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/proc"
)

// The versions of Landlock's ABI that first had what is used here (landlock(7)).
const (
	landlockRefer  = 2
	landlockTrunc  = 3
	landlockTCP    = 4
	landlockScopes = 6
)

const (
	scopeAll = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	allTCP   = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
)

// ruleset is what landlock_create_ruleset(2) takes, as far as this kernel knows it.
func (c *Confiner) ruleset(fs uint64, network bool) (attr []byte) {
	if c.landlock < landlockTrunc {
		fs &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	attr = words(fs)
	if c.landlock >= landlockTCP {
		tcp := uint64(allTCP)
		if network {
			tcp = 0
		}
		attr = append(attr, words(tcp)...)
	}
	if c.landlock >= landlockScopes {
		attr = append(attr, words(scopeAll)...)
	}
	return attr
}

// restrict adds Landlock's part; with c.mu held.
func (c *Confiner) restrict(b *builder, in Contents, k kind) error {
	handled := uint64(0)
	for _, it := range in.Items {
		handled |= withheld(it.Rights)
	}
	switch {
	case handled != 0 && c.landlock >= landlockRefer:
		c.restrictFiles(b, in, handled)
		return nil
	case c.landlock < landlockScopes:
		return nil
	}
	// What concerns no file is the same for all.
	if c.scope[k&withNetwork] < 0 {
		attr := c.ruleset(0, in.Grants.Network)
		fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)), 0)
		if errno != 0 {
			return fmt.Errorf("make a Landlock ruleset: %w", errno)
		}
		unix.CloseOnExec(int(fd))
		c.scope[k&withNetwork] = int(fd)
	}
	b.drop("restrict by Landlock", "", unix.SYS_LANDLOCK_RESTRICT_SELF, b.file(c.scope[k&withNetwork]), proc.Int(0))
	return nil
}

// ruleFD is the number that a rule's directory gets meanwhile: it stands in memory that was written before.
const ruleFD = 255

// restrictFiles withholds rights that mounts can't. As Landlock withholds everywhere what it handles, each other place that can
// be written gets it back.
func (c *Confiner) restrictFiles(b *builder, in Contents, handled uint64) {
	const op = "restrict by Landlock"
	handled |= unix.LANDLOCK_ACCESS_FS_REFER // always withheld, unless a rule gives it
	attr := c.ruleset(handled, in.Grants.Network)
	handled = binary.NativeEndian.Uint64(attr)
	set := b.enter(op, "", unix.SYS_LANDLOCK_CREATE_RULESET, proc.Pointer(attr), proc.Int(len(attr)), proc.Int(0))
	allow := func(path string, access uint64) {
		f := b.enter(op, path, unix.SYS_OPENAT, proc.Int(unix.AT_FDCWD), proc.Text(path), proc.Int(unix.O_PATH|unix.O_CLOEXEC))
		b.enter(op, path, unix.SYS_DUP3, f, proc.Int(ruleFD), proc.Int(unix.O_CLOEXEC))
		rule := binary.NativeEndian.AppendUint32(words(access), ruleFD)
		b.enter(op, path, unix.SYS_LANDLOCK_ADD_RULE, set, proc.Int(unix.LANDLOCK_RULE_PATH_BENEATH), proc.Pointer(rule), proc.Int(0))
	}
	// A rule holds for what is mounted below, too: so none for all of /dev, where else only links are.
	if access := handled & changeFiles; access != 0 {
		for name := range devices {
			allow("/dev/"+name, access)
		}
	}
	allow("/proc", handled)
	if !slices.ContainsFunc(in.Items, func(it Item) bool { return it.Path == "/tmp" }) {
		allow("/tmp", handled)
	}
	for _, it := range in.Items {
		if access := handled &^ withheld(it.Rights); it.Rights&writing != 0 && access != 0 {
			allow(it.Path, access)
		}
	}
	// Before the credentials change: it takes no_new_privs, or CAP_SYS_ADMIN, which is there now.
	b.enter(op, "", unix.SYS_LANDLOCK_RESTRICT_SELF, set, proc.Int(0))
}
