package pid1

import (
	"os"
	stdpath "path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// hostPIDs is the identity of the machine's own PID namespace (PROC_PID_INIT_INO of the kernel's proc_ns.h).
const hostPIDs = "pid:[4026531836]"

// isHost says whether this is the machine's process no. 1, not that of a container.
func isHost() bool {
	ns, _ := os.Readlink("/proc/self/ns/pid")
	return ns == hostPIDs
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// kernelMounts are what programs and the manager expect to find mounted, in this order.
var kernelMounts = []struct {
	at, kind string
	flags    uintptr
	options  string
	magic    int64 // of statfs(2), where it is there already
}{
	{"/proc", "proc", quiet, "", unix.PROC_SUPER_MAGIC},
	{"/sys", "sysfs", quiet, "", unix.SYSFS_MAGIC},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", unix.TMPFS_MAGIC},
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5", unix.DEVPTS_SUPER_MAGIC},
	{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", unix.TMPFS_MAGIC},
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", unix.TMPFS_MAGIC},
	{"/sys/fs/cgroup", "cgroup2", quiet, "", unix.CGROUP2_SUPER_MAGIC},
}

// mountAll mounts what stage 1 has not: a tree needs no stage 1. A container's process no. 1 finds everything mounted.
func mountAll() {
	for i, m := range kernelMounts {
		if i > 0 && !isHost() {
			return // only with /proc can it be known
		}
		var st unix.Statfs_t
		if unix.Statfs(m.at, &st) == nil && st.Type == m.magic && isMountPoint(m.at) {
			continue
		}
		if m.at == "/sys/fs/cgroup" && st.Type == unix.TMPFS_MAGIC {
			continue // stage 1 has mounted the first version's controllers there
		}
		_ = os.MkdirAll(m.at, 0o755)
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.options); err != nil {
			say("warning: unable to mount " + m.at + ": " + djb.Text(err))
		}
	}
	// devtmpfs leaves these to user space.
	for name, to := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		_ = os.Symlink("/proc/self/fd"+to, "/dev/"+name)
	}
}

func isMountPoint(path string) bool {
	var here, above unix.Stat_t
	return unix.Stat(path, &here) == nil && unix.Stat(stdpath.Dir(path), &above) == nil && here.Dev != above.Dev
}

// remountReadOnly has the file systems of disks written and marked clean.
func remountReadOnly() {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	lines := slices.Collect(strings.Lines(string(b)))
	for _, line := range slices.Backward(lines) {
		f := strings.Fields(line)
		if len(f) < 3 || !strings.HasPrefix(f[0], "/dev/") {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[1])
		if at == "/" || unix.Unmount(at, 0) != nil {
			_ = unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	unix.Sync()
}
