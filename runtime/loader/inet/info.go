package inet

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// The record file_info (kernel's file.hrl):
// {file_info,Size,Type,Access,ATime,MTime,CTime,Mode,Links,MajorDevice,MinorDevice,Inode,Uid,Gid}.
const infoFields = 14

// infoTerm is what is told of a file. The times are in local time, which is not said; access is that of this process, which only
// reads.
func infoTerm(st fs.FileInfo) term.Term {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		sys = &syscall.Stat_t{}
	}
	kind := term.Atom("other")
	switch m := st.Mode(); {
	case m.IsRegular():
		kind = "regular"
	case m.IsDir():
		kind = "directory"
	case m&fs.ModeSymlink != 0:
		kind = "symlink"
	case m&fs.ModeDevice != 0:
		kind = "device"
	}
	access := term.Atom("none")
	if readable(sys) {
		access = "read"
	}
	local := func(t syscall.Timespec) term.Term {
		at := time.Unix(t.Unix()).Local()
		return term.Tuple{
			term.Tuple{term.Int(at.Year()), term.Int(at.Month()), term.Int(at.Day())},
			term.Tuple{term.Int(at.Hour()), term.Int(at.Minute()), term.Int(at.Second())},
		}
	}
	return term.Tuple{
		term.Atom("file_info"), term.Int(st.Size()), kind, access, local(sys.Atim), local(sys.Mtim), local(sys.Ctim), term.Int(sys.Mode),
		term.Int(sys.Nlink), term.Int(sys.Dev), term.Int(0), term.Int(sys.Ino), term.Int(sys.Uid), term.Int(sys.Gid),
	}
}

// readable says whether the mode lets this process read the file.
func readable(st *syscall.Stat_t) bool {
	switch {
	case os.Geteuid() == 0:
		return true
	case int(st.Uid) == os.Geteuid():
		return st.Mode&0o400 != 0
	case int(st.Gid) == os.Getegid():
		return st.Mode&0o040 != 0
	}
	return st.Mode&0o004 != 0
}

// info is a file_info that a server has told.
type info struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.mtime }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

// parseInfo reads the record. Erlang may tell undefined for a time.
func parseInfo(name string, t term.Term) (info, bool) {
	r, ok := t.(term.Tuple)
	if !ok || len(r) < infoFields || r[0] != term.Atom("file_info") {
		return info{}, false
	}
	size, ok1 := r[1].(term.Int)
	kind, ok2 := r[2].(term.Atom)
	mode, ok3 := r[7].(term.Int)
	if !ok1 || !ok2 || !ok3 || size < 0 {
		return info{}, false
	}
	i := info{name: name, size: int64(size), mode: fs.FileMode(mode & 0o777)}
	switch kind {
	case "regular":
	case "directory":
		i.mode |= fs.ModeDir
	case "symlink":
		i.mode |= fs.ModeSymlink
	default:
		i.mode |= fs.ModeIrregular
	}
	if n, ok := numbers(r[5]); ok {
		i.mtime = time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], 0, time.Local)
	}
	return i, true
}

// numbers are those of {{Y,M,D},{H,Mi,S}}.
func numbers(t term.Term) (n [6]int, ok bool) {
	two, ok := t.(term.Tuple)
	if !ok || len(two) != 2 {
		return n, false
	}
	for k, part := range two {
		three, ok := part.(term.Tuple)
		if !ok || len(three) != 3 {
			return n, false
		}
		for j, v := range three {
			i, ok := v.(term.Int)
			if !ok {
				return n, false
			}
			n[3*k+j] = int(i)
		}
	}
	return n, true
}
