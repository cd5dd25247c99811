// Package runners is the door to running programs: what a runner is given, what it must give back, and how an end is told. The
// rooms behind it (elf, builtin, remote, runit) implement it; runners/runnertest holds the cases that all of them pass.
package runners

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A Runner runs programs of one kind.
type Runner interface {
	// Start returns once the program runs (and is ready, where the program block asks for that), or an error if it never
	// will: then nothing of it is left. ctx bounds the starting, not the running. The runner owns info's files from the
	// call on, whether or not it succeeds.
	Start(ctx context.Context, info StartInfo) (Program, error)
}

// A Program is one run of a component. Its methods may be called from any goroutine, in any order, any number of times.
type Program interface {
	// Stop asks it to end and returns once it has been asked. A program that has ended is not an error. ctx bounds the asking.
	Stop(ctx context.Context) error
	// Kill ends it, whatever it does, and everything that it started. It returns once the order is given; Wait tells when it
	// is done.
	Kill(ctx context.Context) error
	// Wait returns how it ended, once nothing of it is left and its output has been written; or ctx's error.
	Wait(ctx context.Context) (Exit, error)
}

// StartInfo is all that a runner learns of the component it starts.
type StartInfo struct {
	Moniker name.Moniker
	URL     string // resolved
	Program Block
	Package Package
	// Namespace is what the program finds, by path. An entry may lie within another.
	Namespace []NamespaceEntry
	// View is a directory of this run's own that holds, by path, what of Namespace the manager made for it: sockets, and empty
	// places for the rest. It is for programs that share the manager's file system; "" for none.
	View string
	// Listeners are the sockets of the protocols that the program provides: it accepts from them.
	Listeners []Listener
	// Outgoing is the directory in which the program provides what it exposes; nil for none.
	Outgoing *os.File
	// Handles are descriptors that the program finds under numbers.
	Handles []Handle
	// Machine names what of the machine itself was routed to the component: protocols of the manager that nobody speaks, such as
	// linux.Network (runners/elf/confine.Protocols). A runner that confines nothing may leave it.
	Machine []string
	// Config is the structured configuration, a JSON object; nil for none.
	Config []byte
	// Stdout and Stderr are where output goes: writing ends that the runner gives to the program or writes to. nil: nowhere.
	Stdout, Stderr *os.File
	// Launched, if not nil, is called once the program's process exists, when Start goes on to wait until it is ready. It must
	// not block.
	Launched func()
	// BreakOnStart, if not nil, holds the program before its first instruction of its own until it is closed.
	BreakOnStart <-chan struct{}
}

// Close closes every file of info: what a runner does with those that it didn't hand on.
func (info *StartInfo) Close() {
	for _, e := range info.Namespace {
		closeFile(e.File)
	}
	for _, h := range info.Handles {
		closeFile(h.File)
	}
	for _, l := range info.Listeners {
		closeFile(l.File)
	}
	closeFile(info.Outgoing)
	closeFile(info.Stdout)
	closeFile(info.Stderr)
	info.Listeners = nil
	info.Namespace, info.Handles, info.Outgoing, info.Stdout, info.Stderr = nil, nil, nil, nil, nil
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// Package is the component's package: a directory on this machine.
type Package struct {
	Dir string // absolute, symlinks resolved; "" for a component without one
}

// A NamespaceEntry is one directory or socket at one path of the program's world.
type NamespaceEntry struct {
	Path   string
	File   *os.File // an O_PATH descriptor
	Rights manifest.Rights
	// Own says that the directory is this component's alone: it is to belong to whomever its program runs as.
	Own bool
}

// A Listener is a listening unix socket of a protocol (SOCK_STREAM) or of a runner or resolver (SOCK_SEQPACKET) that the
// component declares. It blocks, and the manager has it too: what nobody accepts waits for the next run.
type Listener struct {
	Name string // the capability's
	File *os.File
}

// A Handle is a descriptor that the program finds under a number.
type Handle struct {
	Number uint8
	File   *os.File
}

// Exit is how a run ended: the whole truth, nothing folded.
type Exit struct {
	// Code is what the program returned; -1 when a signal ended it or nobody can know.
	Code int
	// Signal is what ended it; 0 when it exited by itself.
	Signal     syscall.Signal
	CoreDumped bool
	Cause      Cause
	// Critical says that this end must take the whole tree down (main_process_critical).
	Critical bool
	// Detail is more to say, such as what a runner reported; "" for nothing.
	Detail         string
	Started, Ended time.Time
}

// Cause is who ended a run.
type Cause uint8

const (
	BySelf    Cause = iota // the program ended without being asked
	ByStop                 // it ended after it was asked to stop
	ByKill                 // it was killed on demand
	ByTimeout              // it did not stop in time and was killed
	ByRunner               // its runner went away
	ByHealth               // its health checks failed, and so it was stopped
)

var causes = [...]string{"self", "stop", "kill", "timeout", "runner", "health"}

func (c Cause) String() string { return causes[c] }

// OK says whether the program ended with exit code 0, and not for want of health.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == 0 && e.Cause != ByHealth }

// Well says whether nothing is wrong with the end: exit code 0, or one that was asked for and came in time.
func (e Exit) Well() bool { return e.OK() || e.Cause == ByStop || e.Cause == ByKill }

// String is one line: "exited code=1 after=3s", "killed by SIGKILL after=2m0s (did not stop in time)".
func (e Exit) String() string {
	var b strings.Builder
	switch {
	case e.Signal != 0:
		fmt.Fprintf(&b, "killed by %s", SignalName(e.Signal))
		if e.CoreDumped {
			b.WriteString(" (core dumped)")
		}
	case e.Code < 0:
		b.WriteString("ended")
	default:
		fmt.Fprintf(&b, "exited code=%d", e.Code)
	}
	if !e.Started.IsZero() && !e.Ended.IsZero() {
		fmt.Fprintf(&b, " after=%s", e.Ended.Sub(e.Started).Round(time.Millisecond))
	}
	switch e.Cause {
	case ByTimeout:
		b.WriteString(" (did not stop in time)")
	case ByKill:
		b.WriteString(" (killed on demand)")
	case ByRunner:
		b.WriteString(" (its runner went away)")
	case ByStop:
		b.WriteString(" (asked to stop)")
	case ByHealth:
		b.WriteString(" (unhealthy)")
	case BySelf:
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

// An Error is why a program was not started, stopped or killed.
type Error struct {
	Op   string // "start", "stop", …
	At   name.Moniker
	Why  capabilities.Code
	Err  error
	Hint string
	// Exit is how a program ended that was launched but not ready yet; nil if there was none. With Critical it takes the tree
	// down as any critical end does.
	Exit *Exit
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.At, e.Err)
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Code is the error's kind.
func (e *Error) Code() capabilities.Code { return e.Why }

// The rest a Program may have; ask by type assertion.

// A Notifier calls f once, soon after the program's end, on a goroutine of its own choice; f must not block. A manager of
// thousands of programs uses it in place of a goroutine each in Wait. If the program has already ended, f is called at once.
type Notifier interface{ OnExit(f func(Exit)) }

// A HealthNotifier calls f, at most once, when it finds that the program does not do its work any more, though it runs. f must
// not block. Whoever asks is expected to stop the program, whose Exit then has the cause ByHealth.
type HealthNotifier interface{ OnUnhealthy(f func(why string)) }

// A Measurer knows what the program uses.
type Measurer interface {
	Stats(ctx context.Context) (Stats, error)
}

// Stats is what a program uses now. A negative number is not known.
type Stats struct {
	CPU       time.Duration // used since the start, all processes
	Memory    int64         // bytes resident, all processes
	Processes int
}

// A ProcessLister knows the program's processes, the main one first.
type ProcessLister interface {
	Processes(ctx context.Context) ([]int, error)
}

// A Signaler passes a signal to the program's main process.
type Signaler interface {
	Signal(ctx context.Context, sig syscall.Signal) error
}

// An Explorer is a Runner that can run an operator's program in the place of a component's own: with the same user, environment,
// directory and limits, and in a world like its own. info is what the component's program would get, without what it provides.
// The Exploration's files are the runner's from the call on, as info's are.
type Explorer interface {
	Explore(ctx context.Context, info StartInfo, x Exploration) (Program, error)
}

// An Exploration is an operator's program.
type Exploration struct {
	Command []string // the path of the program, and its arguments
	Env     []string // "NAME=value": what it has in its environment beside the component's own
	// Files are its standard input, output and error. Terminal says that they are a terminal, which is to be its own.
	Files    [3]*os.File
	Terminal bool
	// Tools is a directory with more programs, which are found first; nil for none.
	Tools *os.File
	// Launched, if not nil, is called once it runs, by whoever called Explore.
	Launched func()
	// Beside is the run that it belongs to: it is accounted to that, and ends with it. nil: the component does not run.
	Beside Program
}

// Close closes the files of x.
func (x *Exploration) Close() {
	for _, f := range append(x.Files[:], x.Tools) {
		closeFile(f)
	}
	x.Files, x.Tools = [3]*os.File{}, nil
}

// A Describer tells what tools show of a running program: ("Job ID", "/sys/fs/cgroup/…"), ("Process ID", "1234").
type Describer interface{ Describe() []Detail }

// A Detail is one line of what tools show.
type Detail struct{ Key, Value string }
