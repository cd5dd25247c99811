//go:build amd64 || arm64

package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
)

// verdict runs a filter as the kernel would (Documentation/networking/filter.rst), as far as it is used here.
func verdict(t *testing.T, code []byte, nr, arch uint32, args ...uint64) uint32 {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, nr), arch)
	data = append(data, make([]byte, 8+6*8)...)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; ; pc++ {
		if pc >= len(code)/8 {
			t.Fatalf("system call %d leads out of the filter", nr)
		}
		i := code[8*pc:]
		k := binary.NativeEndian.Uint32(i[4:])
		taken := false
		switch op := binary.NativeEndian.Uint16(i); op {
		case load:
			acc = binary.LittleEndian.Uint32(data[k:])
			continue
		case returned:
			return k
		case jump:
			pc += int(k)
			continue
		case equal:
			taken = acc == k
		case atLeast:
			taken = acc >= k
		case anyBit:
			taken = acc&k != 0
		default:
			t.Fatalf("unknown instruction %#x", op)
		}
		if taken {
			pc += int(i[2])
		} else {
			pc += int(i[3])
		}
	}
}

func TestFilter(t *testing.T) {
	eperm := refuse(unix.EPERM)
	for k := range kinds {
		network := k&withNetwork != 0
		code, first, last := filter(k)
		if n := len(code) / 8; n > 4096 || n == 0 {
			t.Fatalf("%d instructions", n)
		}
		// The two parts are the whole.
		for nr := range uint32(known + 100) {
			for bit := range 33 {
				args := []uint64{1 << bit >> 1, 1 << bit >> 1, 1 << bit >> 1}
				got := verdict(t, first, nr, arch, args...)
				if got == allow {
					got = verdict(t, last, nr, arch, args...)
				}
				if want := verdict(t, code, nr, arch, args...); got != want {
					t.Fatalf("system call %d %x: %#x in two parts, want %#x", nr, args, got, want)
				}
			}
		}
		special := checked(network)
		for nr := range uint32(known + 100) {
			if _, ok := special[nr]; ok {
				continue
			}
			want := eperm
			switch {
			case slices.Contains(allowed, nr) || slices.Contains(legacy, nr):
				want = allow
			case nr > known:
				want = refuse(unix.ENOSYS)
			}
			if got := verdict(t, code, nr, arch); got != want {
				t.Errorf("system call %d: %#x, want %#x", nr, got, want)
			}
		}
		inet := uint32(allow)
		if !network {
			inet = refuse(unix.EAFNOSUPPORT)
		}
		for _, c := range []struct {
			nr   uint32
			args []uint64
			want uint32
		}{
			{unix.SYS_SOCKET, []uint64{unix.AF_UNIX}, allow},
			{unix.SYS_SOCKET, []uint64{unix.AF_INET}, inet},
			{unix.SYS_SOCKET, []uint64{unix.AF_INET6}, inet},
			{unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, 3, unix.NETLINK_ROUTE}, inet},
			{unix.SYS_SOCKET, []uint64{unix.AF_PACKET}, refuse(unix.EAFNOSUPPORT)},
			{unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, refuse(unix.EAFNOSUPPORT)},
			{unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX}, allow},
			{unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, allow},
			{unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER}, eperm},
			{unix.SYS_CLONE, []uint64{unix.CLONE_NEWNET | unix.CLONE_VM}, eperm},
			{unix.SYS_CLONE3, nil, refuse(unix.ENOSYS)},
			{unix.SYS_IOCTL, []uint64{0, unix.TCGETS}, allow},
			{unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI}, eperm},
			// The upper half of the argument is none of the kernel's business, nor must it be of the filter's.
			{unix.SYS_IOCTL, []uint64{0, 1<<32 | unix.TIOCSTI}, eperm},
			{unix.SYS_IOCTL, []uint64{0, unix.TIOCLINUX}, eperm},
			{unix.SYS_MEMFD_CREATE, []uint64{0, unix.MFD_CLOEXEC}, allow},
			{unix.SYS_MEMFD_CREATE, []uint64{0, unix.MFD_EXEC}, refuse(unix.EACCES)},
			{unix.SYS_PERSONALITY, []uint64{0xffffffff}, allow},
			{unix.SYS_PERSONALITY, []uint64{0x0400000}, eperm},
		} {
			if got := verdict(t, code, c.nr, arch, c.args...); got != c.want {
				t.Errorf("network %v, system call %d %x: %#x, want %#x", network, c.nr, c.args, got, c.want)
			}
		}
		if got := verdict(t, code, unix.SYS_READ, unix.AUDIT_ARCH_I386); got != eperm {
			t.Errorf("another architecture's: %#x", got)
		}
	}
}

// The list is as strict as systemd's @system-service: what that refuses is refused here too, but for what is newer than it and
// what is harmless for a reason.
func TestFilterAgainstSystemd(t *testing.T) {
	analyze := needs.Tool(t, "systemd-analyze")
	sets := map[string][]string{}
	out, err := exec.Command(analyze, "syscall-filter", "--no-pager").Output()
	if err != nil {
		t.Skip(err)
	}
	set := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case strings.HasPrefix(line, "@"):
			set = word
		case word != "" && !strings.HasPrefix(word, "#"):
			sets[set] = append(sets[set], word)
		}
	}
	service := map[string]bool{}
	var add func(set string)
	add = func(set string) {
		for _, w := range sets[set] {
			if strings.HasPrefix(w, "@") {
				add(w)
			} else {
				service[w] = true
			}
		}
	}
	add("@system-service")
	add("@default")
	if len(service) < 200 {
		t.Skipf("%d system calls in systemd's list", len(service))
	}
	harmless := map[string]string{
		"landlock_add_rule": "confines oneself", "landlock_create_ruleset": "confines oneself",
		"landlock_restrict_self": "confines oneself",
		"seccomp":                "confines oneself", "pkey_alloc": "of one's own memory", "pkey_free": "of one's own memory",
		"pkey_mprotect": "of one's own memory", "memfd_secret": "of one's own memory", "cachestat": "newer", "futex_wake": "newer",
		"futex_wait": "newer", "futex_requeue": "newer", "fchmodat2": "newer", "map_shadow_stack": "newer", "mseal": "newer",
		"getxattrat": "newer", "setxattrat": "newer", "listxattrat": "newer", "removexattrat": "newer",
		"set_mempolicy_home_node": "newer", "epoll_ctl_old": "never implemented", "epoll_wait_old": "never implemented",
		"futex_waitv": "newer", "get_thread_area": "not implemented here", "set_thread_area": "not implemented here",
	}
	names := systemCallNames(t)
	for _, nr := range slices.Concat(allowed, legacy) {
		if n := names[nr]; n == "" {
			t.Errorf("system call %d has no name", nr)
		} else if !service[n] && harmless[n] == "" {
			t.Errorf("%s is allowed, but not by systemd", n)
		}
	}
	t.Logf("%d allowed, systemd allows %d", len(allowed)+len(legacy), len(service))
}

// systemCallNames reads the names from the kernel's header, by number.
func systemCallNames(t *testing.T) map[uint32]string {
	t.Helper()
	gcc := needs.Tool(t, "gcc")
	c := exec.Command(gcc, "-E", "-dM", "-")
	c.Stdin = strings.NewReader("#include <asm/unistd.h>\n")
	out, err := c.Output()
	if err != nil {
		t.Skip(err)
	}
	// Those newer than the header.
	names := map[uint32]string{
		unix.SYS_FCHMODAT2: "fchmodat2", unix.SYS_MAP_SHADOW_STACK: "map_shadow_stack",
		unix.SYS_FUTEX_WAKE: "futex_wake",
		unix.SYS_FUTEX_WAIT: "futex_wait", unix.SYS_FUTEX_REQUEUE: "futex_requeue",
		unix.SYS_CACHESTAT: "cachestat", unix.SYS_MSEAL: "mseal",
		unix.SYS_SETXATTRAT: "setxattrat", unix.SYS_GETXATTRAT: "getxattrat", unix.SYS_LISTXATTRAT: "listxattrat",
		unix.SYS_REMOVEXATTRAT: "removexattrat", unix.SYS_SET_MEMPOLICY_HOME_NODE: "set_mempolicy_home_node",
	}
	for line := range strings.Lines(string(out)) {
		var name string
		var nr uint32
		if n, _ := fmt.Sscanf(line, "#define __NR_%s %d", &name, &nr); n == 2 {
			names[nr] = name
		}
	}
	return names
}

func TestRights(t *testing.T) {
	const ro, noexec = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOEXEC
	for _, c := range []struct {
		rights manifest.Rights
		attr   uint64
		loose  string
	}{
		{manifest.RightsR, ro | noexec, ""},
		{manifest.RightsRX, ro, ""},
		{manifest.RightsRW, noexec, ""},
		{manifest.RightsRW | manifest.RightExecute, 0, ""},
		{manifest.RightsW, noexec, "read_bytes get_attributes"},
		{manifest.RightsR | manifest.RightWriteBytes, noexec, "update_attributes"},
		{manifest.RightsR | manifest.RightModifyDirectory, noexec, "update_attributes"},
		{manifest.RightsR | manifest.RightUpdateAttributes, ro | noexec, ""},
	} {
		if got := attributes(c.rights); got != c.attr|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV {
			t.Errorf("%v: attributes %#x", c.rights.Names(), got)
		}
		loose := (&Confiner{landlock: 7}).Loose(c.rights).Names()
		want := strings.Fields(c.loose)
		slices.Sort(want)
		if !slices.Equal(loose, want) {
			t.Errorf("%v: loose %v, want %v", c.rights.Names(), loose, want)
		}
	}
	if l := (&Confiner{}).Loose(manifest.RightsR | manifest.RightWriteBytes); !l.Has(manifest.RightModifyDirectory) {
		t.Errorf("without Landlock only %v is loose", l.Names())
	}
}

// Where only one of the rights of writing was given the other is withheld, or Describe says that it isn't: at the world's own paths,
// below them, and below another directory.
func TestOneRightOfWriting(t *testing.T) {
	r := newRig(t)
	bytes, names := manifest.RightsR|manifest.RightWriteBytes, manifest.RightsR|manifest.RightModifyDirectory
	for _, path := range []string{"/data", "/tmp", "/tmp/x", "/dev/shm", "/dev/shm/x", "/outer/x"} {
		for _, rights := range []manifest.Rights{bytes, names} {
			dir, outer := t.TempDir(), t.TempDir()
			if err := errors.Join(os.WriteFile(dir+"/file", []byte("text"), 0o644), os.Mkdir(outer+"/x", 0o755)); err != nil {
				t.Fatal(err)
			}
			places := []Place{{Path: path, Rights: rights}, {Path: "/outer", Rights: manifest.RightsRW}}
			in := Contents{Package: -1, Items: []Item{
				{path, openDir(t, dir), rights}, {"/outer", openDir(t, outer), manifest.RightsRW},
			}}
			// The outer directory and what is the world's own can be written as ever.
			script := "cd " + path + "; echo x >/dev/null && mkdir /outer/d && rmdir /outer/d && echo fine; "
			if path != "/tmp" && !strings.HasPrefix(path, "/dev/shm") {
				script += "echo x >/dev/shm/f && rm /tmp/f || echo no shared memory; "
			}
			out, st := r.run(t, in, sh(script+"(echo new >file) && echo bytes; mkdir d && rmdir d && echo names; exit 0"))
			loose := manifest.Rights(0)
			for _, a := range r.Describe(false, places, Grants{}) {
				if a.Path == path {
					loose = a.Loose
				}
			}
			has := func(word string) bool { return slices.Contains(strings.Fields(out), word) }
			if st != (proc.Status{}) || !has("fine") || has("no") ||
				has("bytes") != (rights|loose).Has(manifest.RightWriteBytes) ||
				has("names") != (rights|loose).Has(manifest.RightModifyDirectory) {
				t.Errorf("%s with %v, said to be loose %v: %+v\n%s", path, rights.Names(), loose.Names(), st, out)
			}
			if below := path == "/tmp/x" || path == "/outer/x"; !below && r.landlock >= landlockRefer && loose&writing != 0 {
				t.Errorf("%s with %v: %v isn't withheld", path, rights.Names(), loose.Names())
			}
		}
	}
}

// Seeds are shared by worlds of the same shape, and no more are kept than maxSeeds.
func TestSeeds(t *testing.T) {
	r := newRig(t)
	shape := func(path string) int {
		t.Helper()
		fd, release, err := r.seed([]point{{path, true}})
		if err != nil {
			t.Fatal(err)
		}
		release()
		return fd
	}
	a := shape("/a")
	if shape("/a") != a || shape("/b") == a {
		t.Error("seeds are mixed up")
	}
	for i := range maxSeeds + 10 {
		shape(fmt.Sprint("/many/", i))
	}
	if n := len(r.seeds); n > maxSeeds {
		t.Errorf("%d seeds are kept", n)
	}
}

func TestDescribe(t *testing.T) {
	r := newRig(t)
	places := []Place{{"/data", "storage", manifest.RightsRW}, {"/svc/log", "protocol", manifest.RightsR}, {"/etc", "directory", manifest.RightsW}}
	all := map[string]Access{}
	for _, a := range r.Describe(true, places, Grants{Capabilities: []string{"CAP_KILL"}}) {
		if _, twice := all[a.Path]; twice {
			t.Errorf("%s stands there twice", a.Path)
		}
		all[a.Path] = a
	}
	for path, want := range map[string]Access{
		"/usr": {May: "r-x", What: "the platform"}, "/pkg": {May: "r-x", What: "its package"}, "/data": {May: "rw-", What: "storage"},
		"/etc":    {May: "rw-", What: "directory", Loose: manifest.RightGetAttributes | manifest.RightReadBytes},
		"network": {What: "none; unix sockets only"}, "capabilities": {What: "CAP_KILL"},
	} {
		if want.Path = path; all[path] != want {
			t.Errorf("%+v, want %+v", all[path], want)
		}
	}
	if _, shows := all["/etc/passwd"]; shows {
		t.Error("the platform's /etc/passwd shows through a routed /etc")
	}
	for _, f := range r.Doctor() {
		if f.Name == "" || f.Value == "" {
			t.Errorf("%+v says nothing", f)
		}
		t.Logf("%+v", f)
	}
}
