package resolver

import (
	"io/fs"
	"os"
	"syscall"
	"time"
)

// A mark is what a path led to when it was looked at. Two equal ones mean that nothing changed between.
type mark struct {
	path string
	as   aspect
	id   identity
	// young is a file that had changed just before it was looked at: it could change again without its times telling.
	young bool
}

// aspect is what of a path counts.
type aspect uint8

const (
	itself  aspect = iota // the file, or the symlink
	content               // the file, through symlinks
	sameDir               // that it is the same directory, whatever is put into it
)

// identity is zero for what isn't there.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// tick is more than the steps in which any usual file system counts time (10 ms with HZ=100).
const tick = 50 * time.Millisecond

func look(path string, as aspect) mark {
	stat := os.Lstat
	if as == content {
		stat = os.Stat
	}
	info, err := stat(path)
	if err != nil {
		return mark{path: path, as: as}
	}
	return see(path, as, info)
}

// see is the mark of what a look at path has found.
func see(path string, as aspect, info fs.FileInfo) mark {
	m := mark{path: path, as: as}
	s, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		m.young = true
	case as == sameDir:
		m.id = identity{dev: s.Dev, ino: s.Ino}
	default:
		m.id = identity{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
		age := time.Since(info.ModTime())
		m.young = age > -tick && age < tick
	}
	return m
}

// hold says whether nothing changed since marks were made.
func hold(marks []mark) bool {
	for _, m := range marks {
		if m.young || look(m.path, m.as).id != m.id {
			return false
		}
	}
	return true
}
