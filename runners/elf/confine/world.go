package confine

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
)

// Grants are what of the machine a component may have beyond the rule; the zero value is the rule.
type Grants struct {
	// Unconfined leaves it in the manager's own world: it has all that the manager's user has.
	Unconfined bool
	// Network leaves it in the host's network, with internet sockets.
	Network bool
	// Capabilities are those of Linux that it keeps ("CAP_NET_BIND_SERVICE"; capabilities(7)).
	Capabilities []string
}

// A kind is those of the grants that many programs have alike: what follows from it is made once.
type kind uint8

const (
	withNetwork kind = 1 << iota
	kinds
)

func (g Grants) kind() (k kind) {
	if g.Network {
		k |= withNetwork
	}
	return k
}

// An Item is a directory or a file of the host that a component finds.
type Item struct {
	Path   string // where it finds it
	FD     int    // a descriptor, which may be one of O_PATH; it stays the caller's
	Rights manifest.Rights
}

// Contents are all that a component finds beside the platform.
type Contents struct {
	Package int // a descriptor of its package, found at /pkg; -1: none
	Items   []Item
	Grants  Grants
}

// World prepares the world with those contents, in which the program is at file and begins in dir. release is to be called when
// the start is over.
func (c *Confiner) World(in Contents, file, dir string) (w *proc.World, release func(), err error) {
	items := slices.Clone(in.Items)
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Path, b.Path) })
	var points, inTmp []point
	tmp := true
	for i, it := range items {
		if err := checkPath(it.Path); err != nil {
			return nil, nil, err
		}
		if i > 0 && items[i-1].Path == it.Path {
			return nil, nil, fmt.Errorf("path %s: is given twice", it.Path)
		}
		var st unix.Stat_t
		if err := unix.Fstat(it.FD, &st); err != nil {
			return nil, nil, fmt.Errorf("path %s: %w", it.Path, err)
		}
		p := point{it.Path, st.Mode&unix.S_IFMT == unix.S_IFDIR}
		if tmp = tmp && p.path != "/tmp"; tmp && strings.HasPrefix(p.path, "/tmp/") {
			inTmp = append(inTmp, p)
		} else {
			points = append(points, p)
		}
	}
	keep, err := capabilities(in.Grants.Capabilities)
	if err != nil {
		return nil, nil, err
	}
	seed, release, err := c.seed(points)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	b := builder{w: &proc.World{Flags: unix.CLONE_NEWPID | unix.CLONE_NEWIPC, Path: file, Dir: dir}}
	b.memfd(c.memfd)
	// All that is to be seen of the manager's mounts is taken while it is there.
	type mounted struct {
		path string
		tree proc.Arg
	}
	var mounts []mounted
	if in.Package >= 0 {
		mounts = append(mounts, mounted{"/pkg", b.tree("/pkg", in.Package, attributes(manifest.RightsRX))})
	}
	for _, it := range items {
		mounts = append(mounts, mounted{it.Path, b.tree(it.Path, it.FD, attributes(it.Rights))})
	}
	mounts = append(mounts, mounted{"/proc", b.fs("/proc", "proc", "subset", "pid")})
	if tmp {
		mounts = append(mounts, mounted{"/tmp", b.tmp(inTmp)})
	}
	b.enter("enter mount namespace", "", unix.SYS_SETNS, b.file(seed), proc.Int(unix.CLONE_NEWNS))
	b.enter("copy mount namespace", "", unix.SYS_UNSHARE, proc.Int(unix.CLONE_NEWNS))
	// What is mounted within another comes after that.
	slices.SortStableFunc(mounts, func(a, b mounted) int { return strings.Compare(a.path, b.path) })
	for _, m := range mounts {
		b.enter("mount", m.path, unix.SYS_MOVE_MOUNT, m.tree, proc.Text(""), proc.Int(unix.AT_FDCWD), proc.Text(m.path),
			proc.Int(unix.MOVE_MOUNT_F_EMPTY_PATH))
	}
	if err := c.finish(&b, in, keep); err != nil {
		return nil, nil, err
	}
	return b.w, release, nil
}

// finish adds what follows when the files are in place.
func (c *Confiner) finish(b *builder, in Contents, keep uint64) error {
	k := in.Grants.kind()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.privileges(b, k, keep); err != nil {
		return err
	}
	if err := c.restrict(b, in, k); err != nil {
		return err
	}
	code := c.filter[k].all
	if b.w.Base != nil {
		code = c.filter[k].last
	}
	b.w.Seal = []proc.Step{filterStep(code)}
	return nil
}

func filterStep(code []byte) proc.Step {
	return proc.Step{
		Op: "filter system calls", Trap: unix.SYS_SECCOMP,
		Args: []proc.Arg{proc.Int(unix.SECCOMP_SET_MODE_FILTER), proc.Int(0), proc.Filter(code)},
	}
}

// checkPath says what is wrong with a path as the place of something.
func checkPath(p string) error {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsRune(p, 0):
		return fmt.Errorf("path %q: must be absolute and clean", p)
	case reserved(p):
		return fmt.Errorf("path %s: is the world's own", p)
	}
	return nil
}

// A builder collects steps and the descriptors that they use.
type builder struct{ w *proc.World }

func (b *builder) enter(op, path string, trap uintptr, args ...proc.Arg) proc.Arg {
	b.w.Enter = append(b.w.Enter, proc.Step{Op: op, Path: path, Trap: trap, Args: args})
	return proc.Result(len(b.w.Enter) - 1)
}

func (b *builder) drop(op, path string, trap uintptr, args ...proc.Arg) {
	b.w.Drop = append(b.w.Drop, proc.Step{Op: op, Path: path, Trap: trap, Args: args})
}

func (b *builder) file(fd int) proc.Arg {
	b.w.Files = append(b.w.Files, fd)
	return proc.File(len(b.w.Files) - 1)
}

// tree takes a copy of what fd stands for, with all that is mounted below.
func (b *builder) tree(path string, fd int, attr uint64) proc.Arg {
	t := b.enter("copy mount", path, unix.SYS_OPEN_TREE, b.file(fd), proc.Text(""),
		proc.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE))
	b.enter("set attributes of mount", path, unix.SYS_MOUNT_SETATTR, t, proc.Text(""),
		proc.Int(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), proc.Pointer(words(attr, 0, unix.MS_PRIVATE, 0)), proc.Int(32))
	return t
}

// fs makes a new file system of the kind name.
func (b *builder) fs(path, name, option, value string) proc.Arg {
	op := "make " + name + " for"
	ctx := b.enter(op, path, unix.SYS_FSOPEN, proc.Text(name), proc.Int(unix.FSOPEN_CLOEXEC))
	b.enter(op, path, unix.SYS_FSCONFIG, ctx, proc.Int(unix.FSCONFIG_SET_STRING), proc.Text(option), proc.Text(value), proc.Int(0))
	b.enter(op, path, unix.SYS_FSCONFIG, ctx, proc.Int(unix.FSCONFIG_CMD_CREATE), proc.Int(0), proc.Int(0), proc.Int(0))
	return b.enter(op, path, unix.SYS_FSMOUNT, ctx, proc.Int(unix.FSMOUNT_CLOEXEC),
		proc.Int(unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC))
}

// tmp makes the /tmp with points in it.
func (b *builder) tmp(points []point) proc.Arg {
	tree := b.fs("/tmp", "tmpfs", "mode", "1777")
	made := map[string]bool{}
	for _, p := range points {
		rel := strings.TrimPrefix(p.path, "/tmp/")
		for i, c := range rel + "/" {
			dir := rel[:i]
			if c != '/' || made[dir] {
				continue
			}
			made[dir] = true
			if dir == rel && !p.dir {
				b.enter("make", p.path, unix.SYS_MKNODAT, tree, proc.Text(dir), proc.Int(unix.S_IFREG|0o444), proc.Int(0))
			} else {
				b.enter("make", "/tmp/"+dir, unix.SYS_MKDIRAT, tree, proc.Text(dir), proc.Int(0o755))
			}
		}
	}
	return tree
}

// memfd has no memory file executed in the PID namespace that the process is the first of; where the sysctl can't be set the
// filter refuses at least those that say that they are to be.
func (b *builder) memfd(can bool) {
	if can {
		f := b.enter("open", memfdNoexec, unix.SYS_OPENAT, proc.Int(unix.AT_FDCWD), proc.Text(memfdNoexec),
			proc.Int(unix.O_WRONLY|unix.O_CLOEXEC))
		b.enter("write", memfdNoexec, unix.SYS_WRITE, f, proc.Text("1"), proc.Int(1))
	}
}

// privileges takes the network, unless k has it, and all capabilities but keep, with the means to get any; with c.mu held.
func (c *Confiner) privileges(b *builder, k kind, keep uint64) error {
	var away []proc.Step
	add := func(op, path string, trap uintptr, args ...proc.Arg) {
		away = append(away, proc.Step{Op: op, Path: path, Trap: trap, Args: args})
	}
	zero := proc.Int(0)
	const op = "give up capabilities"
	const noRoot, locked = 1 << 0, 1 << 1 // SECBIT_NOROOT, SECBIT_NOROOT_LOCKED
	if keep != 0 || c.base[k] == nil {
		for i := range c.lastCap + 1 {
			if keep&(1<<i) == 0 {
				add(op, "", unix.SYS_PRCTL, proc.Int(unix.PR_CAPBSET_DROP), proc.Int(i), zero, zero, zero)
			}
		}
		add(op, "", unix.SYS_PRCTL, proc.Int(unix.PR_SET_SECUREBITS), proc.Int(noRoot|locked), zero, zero, zero)
	}
	switch {
	case keep != 0:
		// Over a change of user, to be passed on below; the exec clears it.
		add(op, "", unix.SYS_PRCTL, proc.Int(unix.PR_SET_KEEPCAPS), proc.Int(1), zero, zero, zero)
		if k&withNetwork == 0 {
			net, err := c.network()
			if err != nil {
				return err
			}
			add("enter network namespace", "", unix.SYS_SETNS, b.file(net), proc.Int(unix.CLONE_NEWNET))
		}
		b.w.Enter = append(b.w.Enter, away...)
	case c.base[k] == nil:
		// Who keeps nothing has all of this from birth.
		base := &proc.Base{}
		if k&withNetwork == 0 {
			net, err := c.network()
			if err != nil {
				return err
			}
			add("enter network namespace", "", unix.SYS_SETNS, proc.File(0), proc.Int(unix.CLONE_NEWNET))
			base.Files = []int{net}
		}
		base.Steps = append(away, filterStep(c.filter[k].first))
		c.base[k] = base
	}
	if keep == 0 {
		b.w.Base = c.base[k]
	}
	lo, hi := keep&0xffffffff, keep>>32
	// A header with pid 0; then effective, permitted and inheritable, of 32 bits each, twice (capset(2)).
	b.drop(op, "", unix.SYS_CAPSET, proc.Pointer(words(unix.LINUX_CAPABILITY_VERSION_3)),
		proc.Pointer(words(lo|lo<<32, lo|hi<<32, hi|hi<<32)))
	for i := range c.lastCap + 1 {
		if keep&(1<<i) != 0 {
			b.drop("pass on capability", capabilityNames[i], unix.SYS_PRCTL, proc.Int(unix.PR_CAP_AMBIENT),
				proc.Int(unix.PR_CAP_AMBIENT_RAISE), proc.Int(i), zero, zero)
		}
	}
	b.drop("set no_new_privs", "", unix.SYS_PRCTL, proc.Int(unix.PR_SET_NO_NEW_PRIVS), proc.Int(1), zero, zero, zero)
	return nil
}

// words are numbers one after the other, as they are in this machine's memory.
func words(n ...uint64) (b []byte) {
	for _, w := range n {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}
