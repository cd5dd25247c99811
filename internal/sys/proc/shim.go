package proc

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/execve"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

// The shim is this program executed once more (/proc/self/exe), recognised by its first argument, for what can only be done by a
// process to itself: resource limits are a process's, not a thread's. Any program that links this package can be it, tests
// included. It finds two descriptors of numbers above all that the program is to get: the report (a pipe), then a memory file
// with what to do. It says on the report why it failed; that the report closes without a word says that the program runs.
const shimName = "cmgr-shim"

// shimMain is the shim; in any other process it returns. It ends by unix.Exit: nothing of Go has to be ended.
func shimMain() {
	if len(os.Args) != 3 || os.Args[0] != shimName {
		return
	}
	// The program's credentials are set on one thread, from which it is executed.
	runtime.LockOSThread()
	report, err := strconv.Atoi(os.Args[2])
	if err != nil {
		unix.Exit(111)
	}
	if os.Args[1] == "nothing" {
		unix.Exit(0)
	}
	unix.CloseOnExec(report)
	if os.Args[1] == "keep" {
		runtime.UnlockOSThread()
		err := keep(report)
		_ = sock.Send(report, wireOf(&Error{Op: "keep", Reason: err.Error(), Err: errnoOf(err)}))
		unix.Exit(111)
	}
	op, err := execShim(report)
	_, _ = unix.Write(report, fmt.Appendf(nil, "%d %s", errnoOf(err), op))
	unix.Exit(111)
}

// execShim takes on what the orders say and becomes the program.
func execShim(report int) (op string, err error) {
	o, err := readOrders(report + 1)
	if err != nil {
		return "read orders", err
	}
	if o.tellPID != "" {
		o.env = append(o.env, o.tellPID+"="+strconv.Itoa(os.Getpid()))
	}
	p := execve.Program{Paths: []string{o.path}, Args: o.args, Env: o.env, Credential: o.credential}
	for _, l := range o.limits {
		p.Limits = append(p.Limits, execve.Limit{Resource: resources[l.Resource], Rlimit: syscall.Rlimit{Cur: l.Soft, Max: l.Hard}})
	}
	failed := p.Exec()
	if failed.Op == "setrlimit" {
		failed.Op += " " + o.limits[failed.Limit].Resource
	}
	return failed.Op, failed.Err
}

// orders are what the shim does.
type orders struct {
	path       string
	args, env  []string
	limits     []Limit
	credential *syscall.Credential
	tellPID    string
	// What follows is the keeper's alone; the launch thread does it for the other.
	dir   string
	umask *uint32
	given []int // the program's descriptors
	hold  bool  // there is a descriptor to hold after the orders
	// terminal is Spec.Terminal.
	terminal bool
	world    *World
}

// write puts o into a memory file, as strings each ended by NUL, which occurs in none; lists are preceded by their length.
func (o *orders) write() (fd int, err error) {
	b := append([]byte(o.path), 0)
	list := func(l []string) {
		b = append(strconv.AppendInt(b, int64(len(l)), 10), 0)
		for _, s := range l {
			b = append(append(b, s...), 0)
		}
	}
	list(o.args)
	list(o.env)
	var limits, ids []string
	for _, l := range o.limits {
		limits = append(limits, l.Resource, strconv.FormatUint(l.Soft, 10), strconv.FormatUint(l.Hard, 10))
	}
	if c := o.credential; c != nil {
		for _, id := range append([]uint32{c.Uid, c.Gid}, c.Groups...) {
			ids = append(ids, strconv.FormatUint(uint64(id), 10))
		}
		ids = append(ids, strconv.FormatBool(c.NoSetGroups))
	}
	list(limits)
	list(ids)
	var given []string
	for _, n := range o.given {
		given = append(given, strconv.Itoa(n))
	}
	list(given)
	umask := ""
	if o.umask != nil {
		umask = strconv.FormatUint(uint64(*o.umask), 10)
	}
	own := []string{o.dir, umask, strconv.FormatBool(o.hold), o.tellPID, strconv.FormatBool(o.terminal)}
	if o.world != nil {
		own = append(own, hex.EncodeToString(o.world.encode()), strconv.Itoa(len(o.world.Files)))
	}
	list(own)
	fd, err = unix.MemfdCreate("cmgr-orders", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for off := 0; off < len(b); {
		n, err := unix.Pwrite(fd, b[off:], int64(off))
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		off += n
	}
	return fd, nil
}

// readOrders reads what write wrote and closes fd.
func readOrders(fd int) (*orders, error) {
	f := os.NewFile(uintptr(fd), "orders")
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		return nil, err
	}
	rest := string(b)
	bad := false
	next := func() string {
		s, r, ok := strings.Cut(rest, "\x00")
		bad = bad || !ok
		rest = r
		return s
	}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		bad = bad || err != nil
		return n
	}
	list := func() []string {
		n := number(next())
		if n > uint64(len(rest)) {
			bad = true
			return nil
		}
		l := make([]string, n)
		for i := range l {
			l[i] = next()
		}
		return l
	}
	o := &orders{path: next(), args: list(), env: list()}
	limits, ids, given, own := list(), list(), list(), list()
	for _, n := range given {
		o.given = append(o.given, int(number(n)))
	}
	if len(own) != 5 && len(own) != 7 {
		return nil, unix.EBADMSG
	}
	if len(own) == 7 {
		b, err := hex.DecodeString(own[5])
		if err != nil {
			return nil, unix.EBADMSG
		}
		if o.world, err = decodeWorld(b); err != nil {
			return nil, err
		}
		o.world.Files = make([]int, number(own[6]))
	}
	o.dir, o.hold, o.tellPID, o.terminal = own[0], own[2] == "true", own[3], own[4] == "true"
	if own[1] != "" {
		u := uint32(number(own[1]))
		o.umask = &u
	}
	for i := 0; i+2 < len(limits); i += 3 {
		o.limits = append(o.limits, Limit{limits[i], number(limits[i+1]), number(limits[i+2])})
	}
	if n := len(ids); n >= 3 {
		o.credential = &syscall.Credential{NoSetGroups: ids[n-1] == "true"}
		for i, id := range ids[:n-1] {
			switch v := uint32(number(id)); i {
			case 0:
				o.credential.Uid = v
			case 1:
				o.credential.Gid = v
			default:
				o.credential.Groups = append(o.credential.Groups, v)
			}
		}
	}
	if bad {
		return nil, unix.EBADMSG
	}
	return o, nil
}

// shimmed starts s through the shim.
func (l *launcher) shimmed(s *Spec, exited func(Status)) (*Process, error) {
	for _, lim := range s.Limits {
		if _, ok := resources[lim.Resource]; !ok {
			return nil, &Error{Kind: Invalid, Op: "setrlimit", Path: lim.Resource, Reason: "no such resource"}
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, &Error{Kind: kindOf(err), Op: "exec", Path: s.Path, Err: err}
	}
	defer r.Close()
	ends := make(chan Status, 1)
	p, err := l.startShim(s, "exec", int(w.Fd()), -1, func(st Status) { ends <- st })
	w.Close()
	if err != nil {
		return nil, err
	}
	said, _ := io.ReadAll(r)
	if len(said) == 0 {
		if !reap.replace(p, exited) {
			exited(<-ends)
		}
		return p, nil
	}
	<-ends
	return nil, s.shimError(string(said))
}

// startShim starts the shim in the place of s, with hold, if not -1, as a third descriptor.
func (l *launcher) startShim(s *Spec, mode string, report, hold int, exited func(Status)) (*Process, error) {
	o := orders{path: s.Path, args: s.argv(), env: s.Env, limits: s.Limits, credential: s.Credential, tellPID: s.TellPID}
	shim := *s
	shim.Path, shim.Env, shim.Credential, shim.TellPID = "/proc/self/exe", nil, nil, ""
	if mode == "keep" {
		o.dir, o.umask, o.hold, o.world, o.terminal = s.Dir, s.Umask, hold >= 0, s.World, s.Terminal
		shim.Dir, shim.Umask, shim.World, shim.Terminal = "", nil, nil, false
		for i := range max(3, len(s.Files)) {
			if i < 3 || s.Files[i] >= 0 {
				o.given = append(o.given, i)
			}
		}
	}
	memory, err := o.write()
	if err != nil {
		return nil, &Error{Kind: kindOf(err), Op: "exec", Path: s.Path, Err: err}
	}
	defer unix.Close(memory)
	n := max(3, len(s.Files))
	shim.Files = make([]int, n+3)
	for i := range shim.Files {
		shim.Files[i] = -1
	}
	copy(shim.Files, s.Files)
	shim.Files[n], shim.Files[n+1], shim.Files[n+2] = report, memory, hold
	if s.World != nil {
		shim.Files = append(shim.Files, s.World.files()...)
	}
	shim.Args = []string{shimName, mode, strconv.Itoa(n)}
	p, err := l.start(&shim, exited)
	if _, ok := errors.AsType[*Error](err); err != nil && !ok {
		err = &Error{Kind: kindOf(err), Op: "exec", Path: s.Path, Reason: "cannot execute the shim: " + err.Error(), Err: err}
	}
	return p, err
}

// shimError is what the shim's report means.
func (s *Spec) shimError(said string) error {
	number, op, _ := strings.Cut(said, " ")
	n, perr := strconv.Atoi(number)
	err := syscall.Errno(n)
	if perr != nil || n <= 0 {
		return &Error{Op: "exec", Path: s.Path, Reason: fmt.Sprintf("unknown report %q of the shim", said)}
	}
	what, name, _ := strings.Cut(op, " ")
	switch what {
	case "exec":
		return s.explain(err)
	case "setuid":
		return s.explain(unix.EPERM)
	case "setrlimit":
		for _, l := range s.Limits {
			if l.Resource != name {
				continue
			}
			var now unix.Rlimit
			_ = unix.Getrlimit(resources[name], &now)
			reason := fmt.Sprintf("%d:%d: %v", l.Soft, l.Hard, err)
			if err == unix.EPERM {
				reason = fmt.Sprintf("may not raise the limit to %d: the hard limit is %d", l.Hard, now.Max)
			} else if l.Soft > l.Hard {
				reason = fmt.Sprintf("the soft limit %d exceeds the hard limit %d", l.Soft, l.Hard)
			}
			return &Error{Kind: kindOf(err), Op: "setrlimit", Path: name, Reason: reason, Err: err}
		}
	}
	return &Error{Kind: kindOf(err), Op: op, Path: s.Path, Err: err}
}
