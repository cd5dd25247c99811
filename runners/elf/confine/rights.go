package confine

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/manifest"
)

// What writing is made of: without either of these a directory is mounted read-only.
const writing = manifest.RightWriteBytes | manifest.RightModifyDirectory

// attributes are those of a mount with rights.
func attributes(r manifest.Rights) uint64 {
	a := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if r&writing == 0 {
		a |= unix.MOUNT_ATTR_RDONLY
	}
	if !r.Has(manifest.RightExecute) {
		a |= unix.MOUNT_ATTR_NOEXEC
	}
	return a
}

// Alone returns for the descriptor of a directory another one, of the same directory with rights r and without anything above it: ".."
// of the one given leads through all of the manager's files. For any other descriptor it returns -1.
func Alone(fd int, r manifest.Rights) (int, error) {
	var st unix.Stat_t
	if fd < 0 || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, nil
	}
	tree, err := mnt.Tree(fd, "", attributes(r))
	if err != nil {
		return -1, err
	}
	defer unix.Close(tree) // the mount stays as long as somebody has it open
	return unix.Openat(tree, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// Give is Alone for what is given to another process, which may be confined: f itself where Alone has nothing to do, or where this
// process may not mount and so nobody is confined. f is closed unless it is returned.
func Give(f *os.File, r manifest.Rights) (*os.File, error) {
	fd := -1
	conn, err := f.SyscallConn() // f.Fd would have it block
	if err == nil {
		if e := conn.Control(func(n uintptr) { fd, err = Alone(int(n), r) }); e != nil {
			err = e
		}
	}
	if errors.Is(err, unix.EPERM) || fd < 0 && err == nil {
		return f, nil
	}
	f.Close()
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// What Landlock is to withhold where only one of the rights of writing is there.
const (
	changeFiles = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	changeNames = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_REFER
)

// withheld is what of Landlock's rights a mount with r that can be written must not have.
func withheld(r manifest.Rights) uint64 {
	switch r & writing {
	case manifest.RightWriteBytes:
		return changeNames
	case manifest.RightModifyDirectory:
		return changeFiles
	}
	return 0
}

// Loose says which rights of a directory are not given and yet not withheld where r is: there are no means to. Below a place that
// can be written Describe finds more.
func (c *Confiner) Loose(r manifest.Rights) manifest.Rights {
	// Whoever has a directory can traverse it and see attributes; and no mount can be written or listed but not read.
	loose := manifest.RightsR &^ r
	if r&writing != 0 {
		loose |= manifest.RightUpdateAttributes &^ r
		if withheld(r) != 0 && c.landlock < landlockRefer {
			loose |= writing &^ r
		}
	}
	return loose
}
