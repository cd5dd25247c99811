// Package runit is the runner of runit's service directories: each is a component.
//
//	program: { runner: "runit", service_dir: "sv/web" }
//
// What runsv does for a service directory this process does (runners/runit/supervise), with the files of supervise/ in place, so
// that sv works on it. The component starts when ./run is up, or, with a ./check, when that succeeds, or, with a file down, when the
// directory is supervised. A stop is runsv's TERM, or `sv exit`, by whomever: ./run gets TERM, ./finish follows, the log is read to
// its end. How ./run last ended is the component's exit. All processes are in one cgroup v2, which is killed at the end: so what
// has left its parent ends, too.
//
//	program: { runner: "runit", service_dirs: "/etc/service" }
//
// is runsvdir: each service directory in that directory is a child of the component, as long as it is there.
package runit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
	"github.com/cmgr/cmgr/runners/runit/supervise"
)

// Config is what a Runner needs.
type Config struct {
	// Jobs makes the jobs, and Loop is where services are supervised. Both stay the caller's, and must outlive the runner.
	Jobs *job.Manager
	Loop *poll.Loop
	// Tree is where the services of service_dirs become components; nil: there are no such components.
	Tree Tree
	// Log is told what runsv would write to its standard error; nil for nobody.
	Log *slog.Logger
	// KillBound is how long the end of a killed job is waited for before the component's end is reported with what remains in its
	// Detail; 0 means 10 seconds.
	KillBound time.Duration
}

// A Runner runs service directories.
type Runner struct {
	Config
	launcher *proc.Launcher
	wg       sync.WaitGroup // of all program.end
}

// New returns a runner. Close ends it.
func New(cfg Config) (*Runner, error) {
	if cfg.KillBound == 0 {
		cfg.KillBound = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l, err := proc.Open()
	if err != nil {
		return nil, fmt.Errorf("open runit runner: %w", err)
	}
	return &Runner{Config: cfg, launcher: l}, nil
}

// Close waits until the ends that are under way have been reported. It ends no component.
func (r *Runner) Close() {
	r.wg.Wait()
	r.launcher.Close()
}

// A program is one run: a service directory under supervision. What changes is the loop's; the rest is set before it begins.
type program struct {
	runners.Ending
	runner  *Runner
	moniker name.Moniker
	dir     string
	started time.Time
	job     *job.Job
	service *supervise.Service
	config  supervise.Config
	streams []*os.File
	up      chan struct{} // closed when ./run is up, isn't wanted up, or can't be started
	over    chan struct{} // closed when the end has been reported

	// The loop's.
	isUp   bool
	cause  runners.Cause
	now    servicedir.Status
	last   proc.Status
	broken error // why ./run could not be started; set before up is closed
}

// Start has the service directory supervised. The service finds the component's output as its standard output and error, unless
// it has a log of its own; the rest of info is closed. The error is a *runners.Error.
func (r *Runner) Start(ctx context.Context, info runners.StartInfo) (runners.Program, error) {
	defer info.Close()
	var p runners.Program
	var err error
	if _, ok := info.Program.Info.Get(keyDirs); ok {
		p, err = r.startDirectory(ctx, &info)
	} else {
		p, err = r.start(ctx, &info)
	}
	if err == nil {
		return p, nil
	}
	e := &runners.Error{Op: "start", At: info.Moniker, Err: err, Why: capabilities.Unavailable}
	if c, ok := errors.AsType[interface {
		error
		Code() capabilities.Code
	}](err); ok {
		e.Why = c.Code()
	}
	if early, ok := errors.AsType[*endedEarly](err); ok {
		e.Exit = &early.exit
	}
	if errors.Is(err, errNoCgroup) {
		e.Hint = "`cmgr doctor` says why there is none"
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK) {
		e.Hint = "another supervisor has it, such as runsv; end that first: sv exit"
	}
	return nil, e
}

// errNoCgroup: what keeps one process and its children together cannot keep a service, whose processes follow each other.
var errNoCgroup = errors.New("the runner runit needs a cgroup v2 that this manager may write")

// endedEarly is the end of a service that was not ready yet.
type endedEarly struct {
	exit runners.Exit
	why  string
}

func (e *endedEarly) Error() string { return e.why }

func (r *Runner) start(ctx context.Context, info *runners.StartInfo) (*program, error) {
	dir, err := serviceDir(info)
	if err != nil {
		return nil, err
	}
	if err := hold(ctx, info); err != nil {
		return nil, err
	}
	if r.Jobs.Backend().Name != job.Cgroup2 {
		return nil, errNoCgroup
	}
	p := &program{
		runner: r, moniker: info.Moniker, dir: dir, started: time.Now(), up: make(chan struct{}), over: make(chan struct{}),
	}
	if p.job, err = r.Jobs.New(string(info.Moniker)); err != nil {
		return nil, err
	}
	p.config = supervise.Config{
		Loop: r.Loop, Launcher: r.launcher, Umask: proc.DefaultUmask, Cgroup: p.job.Path(), Files: []int{-1, -1, -1}, Changed: p.changed,
		Env: []string{"PATH=" + elf.Path, "CMGR_MONIKER=" + string(info.Moniker), "CMGR_URL=" + info.URL},
	}
	// Restarts need them as long as it runs.
	for i, f := range []*os.File{info.Stdout, info.Stderr} {
		if f != nil {
			p.config.Files[i+1] = int(f.Fd())
			p.streams = append(p.streams, f)
		}
	}
	if p.service, err = p.config.Open(dir, p.report, p.done); err != nil {
		return nil, errors.Join(fmt.Errorf("service directory %s: %w", dir, err), p.job.Close())
	}
	info.Stdout, info.Stderr = nil, nil // p's now
	if err := p.await(ctx, info.Launched); err != nil {
		_ = p.Kill(ctx)
		<-p.over // KillBound bounds it
		return nil, err
	}
	return p, nil
}

// hold waits as long as the program is to be held before its start.
func hold(ctx context.Context, info *runners.StartInfo) error {
	if info.BreakOnStart != nil {
		select {
		case <-info.BreakOnStart:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// serviceDir is the directory that the program block names.
func serviceDir(info *runners.StartInfo) (string, error) {
	for _, e := range info.Program.Unknown("runner", keyDir) {
		return "", info.Program.Errorf(e.Key, "is not a key of the runner runit, which has service_dir or service_dirs")
	}
	return pathAt(info, keyDir, "it names a service directory")
}

// pathAt is the path that the program block has at key: absolute, or in the package.
func pathAt(info *runners.StartInfo, key, what string) (string, error) {
	dir, ok, err := info.Program.String(key)
	switch {
	case err != nil:
		return "", err
	case !ok || dir == "":
		return "", info.Program.Errorf(key, "is missing; %s in the package, or is absolute", what)
	case filepath.IsAbs(dir):
		return filepath.Clean(dir), nil
	}
	path, err := info.Package.Path(dir)
	if err != nil {
		return "", fmt.Errorf("program.%s: %w", key, err)
	}
	return path, nil
}

// checkPause is how long after a ./check that failed the next is made.
const checkPause = 250 * time.Millisecond

// await waits until the service is up and its ./check succeeds.
func (p *program) await(ctx context.Context, launched func()) error {
	select {
	case <-p.up:
	case <-p.over:
		return p.early()
	case <-ctx.Done():
		return fmt.Errorf("./run was not up yet: %w", context.Cause(ctx))
	}
	if p.broken != nil {
		return p.broken
	}
	check := filepath.Join(p.dir, "check")
	if st, err := os.Stat(check); err != nil || st.Mode()&0o111 == 0 || p.isDown() {
		return nil
	}
	if launched != nil {
		launched()
	}
	for {
		answer := make(chan bool, 1)
		spec := &proc.Spec{
			Path: check, Args: []string{"./check"}, Env: p.config.Env, Dir: p.dir, Umask: &p.config.Umask, Cgroup: p.config.Cgroup,
			Files: []int{-1, -1, p.config.Files[2]},
		}
		if _, err := p.runner.launcher.Start(spec, func(st proc.Status) { answer <- st.Code == 0 }); err != nil {
			return fmt.Errorf("./check: %w", err)
		}
		var again <-chan time.Time
		for next := false; !next; {
			select {
			case ok := <-answer:
				if ok {
					return nil
				}
				again = time.After(checkPause)
			case <-again:
				next = true
			case <-p.over:
				return p.early()
			case <-ctx.Done():
				return fmt.Errorf("./check has not succeeded yet: %w", context.Cause(ctx))
			}
		}
	}
}

// isDown says whether the service isn't wanted up.
func (p *program) isDown() bool {
	down := make(chan bool, 1)
	return p.runner.Loop.Do(func() { down <- p.now.Want == 'd' }) && <-down
}

func (p *program) early() error {
	x, _ := p.Ended()
	return &endedEarly{x, fmt.Sprintf("it ended before it was ready: %v", x)}
}

// report takes what runsv would write to its standard error; on the loop.
func (p *program) report(what string) {
	p.runner.Log.Warn(what, "instance", p.moniker, "service_dir", p.dir)
	if strings.HasPrefix(what, "fatal: unable to start ./run") {
		if !p.isUp {
			p.broken = errors.New(strings.TrimPrefix(what, "fatal: "))
			p.beUp()
		}
	}
}

// changed is the service's news; on the loop, or before it begins.
func (p *program) changed(now servicedir.Status, last proc.Status) {
	p.now, p.last = now, last
	if !p.isUp && p.cause != runners.ByKill && (now.State == servicedir.Run && now.PID != 0 || now.Want == 'd') {
		p.beUp()
	}
}

// beUp lets Start go on.
func (p *program) beUp() {
	p.isUp = true
	close(p.up)
}

// done is the end of supervision; on the loop.
func (p *program) done() {
	x := runners.Exit{Code: p.last.Code, Signal: p.last.Signal, CoreDumped: p.last.Core, Cause: p.cause, Started: p.started}
	if p.cause == runners.ByKill {
		x = runners.Exit{Code: -1, Signal: syscall.SIGKILL, Cause: p.cause, Started: p.started}
	}
	p.runner.wg.Go(func() { p.end(x) })
}

// end kills what is left and reports the end.
func (p *program) end(x runners.Exit) {
	ctx, cancel := context.WithTimeout(context.Background(), p.runner.KillBound)
	defer cancel()
	err := p.job.Kill(ctx)
	if cerr := p.job.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		x.Detail = err.Error()
		p.runner.Log.Error("something of a killed job remains", "instance", p.moniker, "job", p.job.Path(), "err", err)
	}
	for _, f := range p.streams {
		f.Close()
	}
	x.Ended = time.Now()
	p.End(x)
	close(p.over)
}

// Stop does what TERM does to runsv.
func (p *program) Stop(context.Context) error {
	p.runner.Loop.Do(func() {
		if p.service.Over() { // by itself, even if nobody has been told yet
			return
		}
		if p.cause == runners.BySelf {
			p.cause = runners.ByStop
		}
		p.service.Exit()
	})
	return nil
}

// Kill ends supervision, and every process of the service and its log.
func (p *program) Kill(context.Context) error {
	p.runner.Loop.Do(func() {
		if !p.service.Over() { // as in Stop
			p.cause = runners.ByKill
			p.service.Abandon()
		}
	})
	return nil
}

// Stats is what the job uses.
func (p *program) Stats(context.Context) (runners.Stats, error) { return p.job.Stats() }

// Processes are the job's, in ascending order.
func (p *program) Processes(context.Context) ([]int, error) { return p.job.Processes() }

// Describe names the job and the service directory.
func (p *program) Describe() []runners.Detail {
	return []runners.Detail{{Key: "Job ID", Value: p.job.Path()}, {Key: "Service directory", Value: p.dir}}
}
