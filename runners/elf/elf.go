// Package elf is the ELF runner: it runs programs as processes, each component's in a job of its own (runners/elf/job), hands
// them a lifecycle channel (runners/elf/lifecycle), and ends what is left of the job when the main process has ended.
//
// The fields of the program block, what a stop does and the order of a start are Fuchsia's (src/sys/lib/elf_runner), with what
// Linux adds: asking by a signal, which is the default, and user, group, cwd, umask, limits and ready.
package elf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/memfd"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/elf/lifecycle"
)

// Path is the PATH of programs whose environment declares none.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ownVariables are the environment variables that the runner sets and a manifest must not.
var ownVariables = []string{
	"CMGR_MONIKER", "CMGR_URL", namespaceEnv, configFD, "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", lifecycle.Env,
}

// Config is what a Runner needs.
type Config struct {
	// Jobs makes the jobs, and Loop watches the lifecycle channels. Both stay the caller's, and must outlive the runner.
	Jobs *job.Manager
	Loop *poll.Loop
	// Policy says whether the manager's configuration allows m what a policy (MainProcessCritical, …) guards; nil allows nothing.
	Policy func(policy string, m name.Moniker) bool
	// Confine makes the worlds that programs run in; it stays the caller's. nil: they run in the manager's own. Grants says what
	// a program may have beyond the rule, its freedom included; nil: nothing.
	Confine *confine.Confiner
	Grants  func(m name.Moniker) confine.Grants
	// Log is told of what no caller can be told; nil for nobody.
	Log *slog.Logger
	// KillBound is how long the end of a killed job is waited for before the program's end is reported with what remains in
	// its Detail; 0 means 10 seconds.
	KillBound time.Duration
}

// A Runner runs ELF programs, and whatever else execve(2) takes.
type Runner struct {
	Config
	buf    [lifecycle.MaxPacket]byte // of the loop's goroutine
	ending chan struct{}             // a token for each job that is being ended; see program.end
	wg     sync.WaitGroup            // of all program.end
}

// New returns a runner.
func New(cfg Config) *Runner {
	if cfg.KillBound == 0 {
		cfg.KillBound = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{Config: cfg, ending: make(chan struct{}, 32)}
}

// Close waits until the ends that are under way have been reported. It ends no program.
func (r *Runner) Close() { r.wg.Wait() }

// Start runs info's program in a job of its own. With `ready: "lifecycle"` it returns when the program is ready. A confined
// program finds its package at /pkg and what Namespace says at the paths there; one that shares the manager's file system finds
// it at the same paths below $CMGR_NAMESPACE. Listeners are passed as systemd does (sd_listen_fds(3)). The outgoing directory is
// closed.
func (r *Runner) Start(ctx context.Context, info runners.StartInfo) (runners.Program, error) {
	if c, errs := parseCommands(info.Program); len(errs) == 0 && c.any() {
		return r.startService(ctx, c, info)
	}
	defer info.Close() // the program has duplicates
	p, err := r.start(ctx, &info)
	if err != nil {
		return nil, failure(&info, err)
	}
	return p, nil
}

func (r *Runner) start(ctx context.Context, info *runners.StartInfo) (_ *program, err error) {
	s, errs := parse(info.Program)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err := deniedBy(r.Policy, info.Moniker, info.Program); err != nil {
		return nil, err
	}
	if s.critical {
		defer func() {
			if _, told := errors.AsType[*endedEarly](err); err != nil && !told && ctx.Err() == nil {
				// What must not end must not fail to begin either (component manager panics there).
				err = &endedEarly{err, runners.Exit{Code: -1, Critical: true, Detail: err.Error()}}
			}
		}()
	}
	for _, d := range warnings(info.Program) {
		r.Log.Warn(d.Message, "instance", info.Moniker, "at", d.Pos, "hint", d.Hint)
	}
	return r.begin(ctx, s, info, place{})
}

// A place is where a program runs: in a job of its own, as the zero value says.
type place struct {
	explores bool
	beside   *program // the one in whose job it runs; nil for none
	terminal bool
}

// begin starts what s says.
func (r *Runner) begin(ctx context.Context, s settings, info *runners.StartInfo, in place) (*program, error) {
	spec, err := s.spec(info)
	if err != nil {
		return nil, err
	}
	if info.BreakOnStart != nil {
		select {
		case <-info.BreakOnStart:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, &unavailable{context.Cause(ctx)}
	}
	if err := r.provide(info, spec); err != nil {
		return nil, err
	}
	release, err := r.confine(&s, info, spec)
	if err != nil {
		return nil, err
	}
	spec.Terminal = in.terminal
	p := &program{
		runner: r, moniker: info.Moniker, stop: s.stop, stopSignal: s.stopSignal, critical: s.critical, channel: channel{fd: -1},
		resources: s.resources, place: in,
	}
	var ready chan struct{}
	if s.ready {
		ready = make(chan struct{})
		p.ready = ready
	}
	if p.watch, err = p.newWatch(&s, info); err == nil {
		err = p.launch(spec, s.ready || s.stop == stopByNotify, info)
	}
	release()
	if err != nil {
		p.watch.end()
		return nil, err
	}
	if ready == nil {
		return p, nil
	}
	if info.Launched != nil {
		info.Launched()
	}
	return p, p.awaitReady(ctx, ready)
}

// spec is the process that the settings ask for.
func (s *settings) spec(info *runners.StartInfo) (*job.Spec, error) {
	spec := &job.Spec{Path: filepath.Clean(s.binary), Umask: &s.umask, Limits: s.limits, Dir: info.Package.Dir}
	argv0 := spec.Path
	var err error
	if !filepath.IsAbs(s.binary) {
		if spec.Path, err = info.Package.Path(s.binary); err != nil {
			return nil, at(info, s.key, err)
		}
		argv0 = filepath.Join(info.Package.Dir, s.binary) // symlinks unresolved: some programs do what they are called
	}
	spec.Args = append([]string{argv0}, s.args...)
	switch {
	case filepath.IsAbs(s.cwd):
		spec.Dir = s.cwd
	case s.cwd != "":
		if spec.Dir, err = info.Package.Path(s.cwd); err != nil {
			return nil, at(info, "cwd", err)
		}
	}
	if spec.Credential, err = lookup(info.Program, s.user, s.group); err != nil {
		return nil, err
	}
	spec.Env = slices.Clone(s.environ)
	if !slices.ContainsFunc(s.environ, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		spec.Env = append(spec.Env, "PATH="+Path)
	}
	spec.Env = append(spec.Env, "CMGR_MONIKER="+string(info.Moniker), "CMGR_URL="+info.URL)

	spec.Files = []int{-1, -1, -1}
	if s.stdout && info.Stdout != nil {
		spec.Files[1] = int(info.Stdout.Fd()) // which makes it block, as programs expect
	}
	if s.stderr && info.Stderr != nil {
		spec.Files[2] = int(info.Stderr.Fd())
	}
	for _, l := range info.Listeners {
		grant(spec, max(len(spec.Files), firstListener), int(l.File.Fd()))
	}
	for _, h := range info.Handles {
		n := int(h.Number)
		if n < len(spec.Files) && n >= firstListener && len(info.Listeners) > 0 {
			return nil, &conflict{fmt.Errorf("numbered_handle %d: the sockets of what it provides are descriptors %d to %d",
				n, firstListener, firstListener+len(info.Listeners)-1)}
		}
		grant(spec, n, int(h.File.Fd()))
	}
	if n := len(info.Listeners); n > 0 {
		names := make([]string, n)
		for i, l := range info.Listeners {
			names[i] = l.Name
		}
		spec.Env = append(spec.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return spec, nil
}

// provide gives the program its configuration in a memory file, and what is its own to whomever it runs as. The file is added to
// info, to be closed with it.
func (r *Runner) provide(info *runners.StartInfo, spec *job.Spec) error {
	if info.Config != nil {
		f, err := memfd.New("config", info.Config)
		if err != nil {
			return &unavailable{err}
		}
		n := len(spec.Files)
		if n == channelNumber {
			n++
		}
		grant(spec, n, int(f.Fd()))
		spec.Env = append(spec.Env, configFD+"="+strconv.Itoa(n))
		info.Handles = append(info.Handles, runners.Handle{File: f})
	}
	if spec.Credential == nil {
		return nil
	}
	for _, e := range info.Namespace {
		if !e.Own {
			continue
		}
		uid, gid := int(spec.Credential.Uid), int(spec.Credential.Gid)
		if err := unix.Fchownat(int(e.File.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return &unavailable{fmt.Errorf("path %s: give it to user %d: %w", e.Path, uid, err)}
		}
	}
	return nil
}

// configFD is the variable that tells which descriptor has the configuration.
const configFD = "CMGR_CONFIG_FD"

// firstListener is the number of the first of the sockets (sd_listen_fds(3), SD_LISTEN_FDS_START).
const firstListener = 3

// conflict is an error of the manifest.
type conflict struct{ error }

func (e *conflict) Unwrap() error { return e.error }

// Code is Invalid.
func (*conflict) Code() capabilities.Code { return capabilities.Invalid }

// grant makes fd the program's descriptor number.
func grant(spec *job.Spec, number, fd int) {
	for len(spec.Files) <= number {
		spec.Files = append(spec.Files, -1)
	}
	spec.Files[number] = fd
}

// at says which key of the program block err is about.
func at(info *runners.StartInfo, key string, err error) error {
	e, ok := info.Program.Info.Get(key)
	if !ok || !e.Pos.IsValid() {
		return fmt.Errorf("program.%s: %w", key, err)
	}
	return fmt.Errorf("%s: program.%s: %w", e.Pos, key, err)
}

// failure is why a start failed, as the contract wants it.
func failure(info *runners.StartInfo, err error) error {
	e := &runners.Error{Op: "start", At: info.Moniker, Err: err, Why: capabilities.CodeOf(err)}
	if ee, ok := errors.AsType[*endedEarly](err); ok {
		e.Exit = &ee.exit
	}
	if pe, ok := errors.AsType[*PolicyError](err); ok {
		e.Hint = fmt.Sprintf("to allow it, add %q to security_policy.job_policy.%s of the manager's configuration",
			info.Moniker, pe.Policy)
	}
	if me, ok := errors.AsType[*job.MissingError](err); ok {
		e.Hint = strings.TrimLeft(me.Hint+"; or name it in resources.optional", "; ")
	}
	if se, ok := errors.AsType[*proc.Error](err); ok {
		switch {
		case se.Op == "chdir":
			e.Err = at(info, "cwd", err)
		case se.Op == "setrlimit":
			e.Err = at(info, "limits."+se.Path, err)
		case se.Op == "exec" && se.Kind == proc.NotFound && strings.HasSuffix(se.Reason, unix.ENOENT.Error()):
			e.Err = at(info, "binary", err)
			e.Hint = "it is there for the manager, but not in the component's world: put it into its package, route its directory to " +
				"it, or have the manager's configuration add its directory to security_policy.sandbox.platform or the component to " +
				"security_policy.sandbox.unconfined"
		case se.Op == "exec" && se.Kind == proc.Denied:
			e.Hint = "only root can start a program as another user"
		case se.Op == "exec" && se.Kind != proc.Exhausted && se.Kind != proc.Other:
			e.Err = at(info, "binary", err)
		}
	}
	return e
}
