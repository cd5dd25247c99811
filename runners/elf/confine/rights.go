package confine

import (
	"golang.org/x/sys/unix"

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

// Loose says which rights of a directory are not given and yet not withheld where r is: there are no means to.
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
