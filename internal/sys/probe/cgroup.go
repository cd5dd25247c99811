// Package probe finds out what this machine lets this process do, by trying it: kernel features differ by version,
// configuration, sandbox and policy, and a version number tells none of that.
package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is the directory of the cgroup v2 that this process is in, as far as it is mounted here: /sys/fs/cgroup or below, or on
// hybrid hosts /sys/fs/cgroup/unified or below.
func Cgroup() (string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	if dir := cgroupDir(string(mounts), string(own)); dir != "" {
		return dir, nil
	}
	return "", errors.New("no cgroup v2 file system is mounted that shows this process")
}

// cgroupDir finds the directory of a process's cgroup v2 from its mountinfo and cgroup files (proc(5), cgroups(7)), or "".
func cgroupDir(mountinfo, cgroup string) string {
	_, own, ok := strings.Cut("\n"+cgroup, "\n0::")
	if !ok {
		return ""
	}
	own, _, _ = strings.Cut(own, "\n")
	for line := range strings.Lines(mountinfo) {
		// ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE …
		mount, kind, _ := strings.Cut(line, " - ")
		f := strings.Fields(mount)
		if len(f) < 5 || !strings.HasPrefix(kind, "cgroup2 ") {
			continue
		}
		// A mount shows what is below its root. "/.." leads out of our cgroup namespace.
		rel, ok := strings.CutPrefix(own, strings.TrimSuffix(unescape(f[3]), "/"))
		if ok && (rel == "" || rel[0] == '/') && !strings.HasPrefix(rel, "/..") {
			return filepath.Join(unescape(f[4]), rel)
		}
	}
	return ""
}

// unescape undoes mountinfo's octal escapes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// JobCgroup says whether jobs can be made in the cgroup dir, by making and removing one: nil, or why not.
func JobCgroup(dir string) error {
	probe, err := os.MkdirTemp(dir, "cmgr-probe-")
	if err != nil {
		return err
	}
	defer os.Remove(probe)
	if _, err := os.Stat(probe + "/cgroup.kill"); err != nil {
		return errors.New("cgroup.kill is missing (Linux 5.14 or later has it)")
	}
	// Who starts a process in another cgroup must be allowed to write the common ancestor's cgroup.procs (cgroups(7)).
	if err := unix.Faccessat(unix.AT_FDCWD, dir+"/cgroup.procs", unix.W_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("write %s/cgroup.procs: %w", dir, err)
	}
	if _, err := clone3(); err != nil {
		return fmt.Errorf("clone3: %w", err)
	}
	return nil
}
