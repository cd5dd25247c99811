package resolver

import (
	"os"
	"syscall"
	"time"
)

// A mark is what a path led to when it was looked at. Two equal ones mean that nothing changed between.
type mark struct {
	path string
	dir  bool // only that it is the same directory counts
	id   identity
	// young is a file that had changed just before it was looked at: it could change again without its times telling.
	young bool
}

// identity is zero for what isn't there.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// tick is more than the steps in which any usual file system counts time (10 ms with HZ=100).
const tick = 50 * time.Millisecond

// look marks a file; a symlink is marked itself.
func look(path string) mark {
	m := mark{path: path}
	info, err := os.Lstat(path)
	if err != nil {
		return m
	}
	age := time.Since(info.ModTime())
	m.young = age > -tick && age < tick
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		m.id = identity{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
	}
	return m
}

// lookDir marks a directory, whatever is put into it.
func lookDir(path string) mark {
	m := look(path)
	return mark{path: path, dir: true, id: identity{dev: m.id.dev, ino: m.id.ino}}
}

// hold says whether nothing changed since marks were made.
func hold(marks []mark) bool {
	for _, m := range marks {
		now := look
		if m.dir {
			now = lookDir
		}
		if m.young || now(m.path).id != m.id {
			return false
		}
	}
	return true
}
