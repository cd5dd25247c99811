package chpst

import (
	"bytes"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// ids are what a process is to be: the first group is its own, all are its supplementary groups.
type ids struct {
	uid  int
	gids []int
}

// maxGroups is runit's.
const maxGroups = 60

// lookupIDs finds out who user[:group…] or :uid:gid[:gid…] is.
func lookupIDs(spec string) (ids, error) {
	if numbers, ok := strings.CutPrefix(spec, ":"); ok {
		u, ok := numericIDs(numbers)
		if !ok {
			return ids{}, fatalf("invalid uid/gids: %s", numbers)
		}
		return u, nil
	}
	user, groups, withGroups := strings.Cut(spec, ":")
	u, ok, err := passwd(user)
	if err == nil && ok && withGroups {
		names := strings.Split(groups, ":")
		u.gids = u.gids[:0]
		ok = len(names) <= maxGroups
		for i := 0; ok && i < len(names); i++ {
			var gid int
			if gid, ok, err = group(names[i]); err != nil {
				break
			}
			u.gids = append(u.gids, gid)
		}
	}
	switch {
	case err != nil:
		return ids{}, fatal(err, "unable to get password/group file entry")
	case !ok:
		return ids{}, fatalf("unknown user/group: %s", spec)
	}
	return u, nil
}

// lookupAccount is lookupIDs for daemontools' names, which have no groups.
func lookupAccount(name string) (ids, error) {
	u, ok, err := passwd(name)
	switch {
	case err != nil:
		return ids{}, fatal(err, "unable to get password file entry")
	case !ok:
		return ids{}, fatalf("unknown account: %s", name)
	}
	return u, nil
}

// numericIDs reads uid:gid[:gid…]. Unlike runit it takes no empty one for 0, which is root.
func numericIDs(s string) (u ids, ok bool) {
	var n []int
	for field := range strings.SplitSeq(s, ":") {
		id, rest := djb.ScanUint(field)
		// The largest means "leave it" to setresuid(2).
		if field == "" || rest != "" || id >= math.MaxUint32 {
			return u, false
		}
		n = append(n, int(id))
	}
	if len(n) < 2 || len(n) > 1+maxGroups {
		return u, false
	}
	return ids{n[0], n[1:]}, true
}

// passwd looks a user up. In /etc/passwd alone: this program is no C library that could ask other sources.
func passwd(name string) (ids, bool, error) {
	f, err := entry("/etc/passwd", name, 4)
	if f == nil {
		return ids{}, false, err
	}
	uid, ok1 := id(f[2])
	gid, ok2 := id(f[3])
	return ids{uid, []int{gid}}, ok1 && ok2, nil
}

// group looks a group up, in /etc/group.
func group(name string) (gid int, ok bool, err error) {
	f, err := entry("/etc/group", name, 3)
	if f == nil {
		return 0, false, err
	}
	gid, ok = id(f[2])
	return gid, ok, nil
}

func id(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n < math.MaxUint32
}

// entry is the fields of the line of file whose first is name, at least n; nil if there is none.
func entry(file, name string, n int) ([]string, error) {
	b, err := os.ReadFile(file)
	for line := range bytes.Lines(b) {
		f := strings.Split(strings.TrimRight(string(line), "\n"), ":")
		if len(f) >= n && f[0] == name && name != "" {
			return f, nil
		}
	}
	return nil, err
}

// setIDs makes the process (all its threads) u's.
func setIDs(u ids, err error) error {
	if err != nil {
		return err
	}
	if err := syscall.Setgroups(u.gids); err != nil {
		return fatal(err, "unable to setgroups")
	}
	if err := syscall.Setgid(u.gids[0]); err != nil {
		return fatal(err, "unable to setgid")
	}
	if err := syscall.Setuid(u.uid); err != nil {
		return fatal(err, "unable to setuid")
	}
	return nil
}
