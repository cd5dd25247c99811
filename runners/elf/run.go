package elf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/elf/lifecycle"
)

// channelNumber is the channel's descriptor in the program, if that is free: the highest that every shell can name (dash knows
// one digit), so that those from 3 on are left for sockets passed as systemd does.
const channelNumber = 9

// A program is one run: a job whose first process is the main one. Its end begins with the end of the main process or with an
// order to kill, and is one goroutine's work (end): kill the job, wait until it is empty, remove it, say so. Before that a
// running program has no goroutine, and one descriptor at most.
type program struct {
	runners.Ending
	runner     *Runner
	moniker    name.Moniker
	stop       stopEvent
	stopSignal syscall.Signal
	critical   bool
	started    time.Time
	place      place
	job        *job.Job
	resources  []resource
	pid        int
	watch      *watch // nil without health checks

	// mu guards what follows. It is held for no call to the job (whose signals may wait) or to whom Ending calls.
	mu      sync.Mutex
	exited  bool // the main process has ended, as status says
	status  job.Status
	ended   time.Time     // when
	reaped  chan struct{} // from the beginning of end on; closed when exited
	cause   runners.Cause
	channel channel
	ready   chan struct{} // Start waits for it; nil when it doesn't
	health  string        // what the last health check found
	failed  string        // why it is unhealthy
	// onUnhealthy wants to be told of that.
	onUnhealthy func(why string)
}

// launch starts the program in a new job. On an error nothing is left.
func (p *program) launch(spec *job.Spec, channel bool, info *runners.StartInfo) (err error) {
	if channel {
		ours, theirs, err := sock.Pair()
		if err != nil {
			return &unavailable{err}
		}
		defer unix.Close(theirs)
		p.channel.fd = ours
		n := channelNumber
		if n < len(spec.Files) && spec.Files[n] >= 0 {
			if n = slices.Index(spec.Files[3:], -1) + 3; n < 3 {
				n = len(spec.Files)
			}
		}
		grant(spec, n, theirs)
		spec.Env = append(spec.Env, lifecycle.Env+"="+strconv.Itoa(n))
	}
	defer func() {
		if err != nil {
			p.hangUp()
		}
	}()
	if p.job, err = p.newJob(); err != nil {
		return &unavailable{err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.job.Close())
		}
	}()
	if err := p.runner.limit(p.job, p.resources, info); err != nil {
		return err
	}
	p.started = time.Now()
	if p.channel.fd >= 0 {
		// Before the program is there, nothing can come.
		if err := p.runner.Loop.Add(p.channel.fd, poll.In|poll.RdHup, p.heard); err != nil {
			return &unavailable{err}
		}
	}
	pid, err := p.job.Start(*spec, p.onExit)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
	switch {
	case p.exited:
		p.beginEnd()
	case channel && p.channel.fd < 0:
		p.onClosed()
	}
	if p.reaped == nil {
		p.watch.begin()
	}
	return nil
}

// newJob makes p's job.
func (p *program) newJob() (*job.Job, error) {
	switch in := p.place; {
	case in.beside != nil:
		return p.runner.Jobs.Within(in.beside.job, exploring)
	case in.explores:
		return p.runner.Jobs.New(string(p.moniker) + "#" + exploring)
	}
	return p.runner.Jobs.New(string(p.moniker))
}

// unavailable is an error that has nothing to do with what the manifest says.
type unavailable struct{ error }

func (e *unavailable) Unwrap() error { return e.error }

// Code is Unavailable.
func (*unavailable) Code() capabilities.Code { return capabilities.Unavailable }

// endedEarly is the end of a program that was not ready yet.
type endedEarly struct {
	error
	exit runners.Exit
}

func (e *endedEarly) Unwrap() error { return e.error }

// Code is that of what kept it from starting, else Unavailable.
func (e *endedEarly) Code() capabilities.Code {
	if c, ok := errors.AsType[interface {
		error
		Code() capabilities.Code
	}](e.error); ok {
		return c.Code()
	}
	return capabilities.Unavailable
}

// onExit is the main process's end; called by the reaper.
func (p *program) onExit(st job.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exited, p.status, p.ended = true, st, time.Now()
	switch {
	case p.reaped != nil:
		close(p.reaped)
	case p.pid != 0:
		p.beginEnd()
	}
}

// beginEnd has the program ended, if it isn't yet; with mu held.
func (p *program) beginEnd() {
	if p.reaped != nil {
		return
	}
	p.reaped = make(chan struct{})
	if p.exited {
		close(p.reaped)
	}
	p.runner.wg.Go(p.end)
}

// quick is how long the end of a job usually takes at most.
const quick = 100 * time.Millisecond

// end kills the job and reports the program's end when nothing of it is left, or when KillBound is over.
func (p *program) end() {
	r := p.runner
	p.watch.end()
	exhausted := ""
	if len(p.resources) > 0 {
		exhausted = p.job.Exhausted()
	}
	// When thousands end at once, each in system calls, Go would make a thread for each. So they take turns, but for those that
	// take long.
	r.ending <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), r.KillBound)
	defer cancel()
	qctx, qcancel := context.WithTimeout(ctx, quick)
	err := p.job.Kill(qctx)
	qcancel()
	<-r.ending
	if _, ok := errors.AsType[*job.RemainError](err); ok {
		err = p.job.Kill(ctx)
	}
	select {
	case <-p.reaped:
	case <-ctx.Done():
	}
	if cerr := p.job.Close(); err == nil {
		err = cerr
	}
	p.mu.Lock()
	x := runners.Exit{Code: -1, Cause: p.cause, Started: p.started, Ended: time.Now()}
	if p.exited {
		x.Code, x.Signal, x.CoreDumped, x.Ended = p.status.Code, p.status.Signal, p.status.Core, p.ended
	} else if err == nil {
		err = fmt.Errorf("process %d: killed, and has not ended after %v", p.pid, r.KillBound)
	}
	if err != nil {
		x.Detail = err.Error()
		r.Log.Error("something of a killed job remains", "instance", p.moniker, "job", p.job.Path(), "err", err)
	}
	if exhausted != "" && !x.Well() {
		x.Detail = strings.Trim(exhausted+"; "+x.Detail, "; ")
	}
	if p.cause == runners.ByHealth {
		x.Detail = strings.Trim(p.failed+"; "+x.Detail, "; ")
	}
	if b := p.place.beside; b != nil && b.isEnding() {
		x.Cause, x.Detail = runners.ByRunner, "the component has ended"
	}
	x.Critical = p.critical && !x.OK()
	p.hearReady()
	p.hangUp()
	p.tellReady()
	p.mu.Unlock()
	p.End(x)
}

// isEnding says whether the end of p has begun. Of a PID namespace the first process is the last one that is heard of.
func (p *program) isEnding() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reaped != nil || p.pid > 0 && exiting(p.pid)
}

// hearReady looks whether Ready has come and the loop has not got to it yet, if Start waits for it; with mu held.
func (p *program) hearReady() {
	if p.ready == nil || p.channel.fd < 0 {
		return
	}
	buf := make([]byte, lifecycle.MaxPacket)
	for range maxPackets / packetsPerTurn {
		if p.channel.heard(poll.Hup, buf, p.warn) || p.channel.ready {
			return
		}
	}
}

// hangUp closes our end of the channel; with mu held.
func (p *program) hangUp() {
	if p.channel.fd >= 0 {
		// A call of heard that is waiting for mu finds the channel closed.
		p.runner.Loop.Remove(p.channel.fd)
		unix.Close(p.channel.fd)
		p.channel.fd = -1
	}
}

// tellReady lets Start go on, once; with mu held.
func (p *program) tellReady() {
	if p.ready != nil {
		close(p.ready)
		p.ready = nil
	}
}

// heard takes what the program says; on the loop.
func (p *program) heard(events uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.channel.fd < 0 {
		return
	}
	muted := p.channel.muted
	closed := p.channel.heard(events, p.runner.buf[:], p.warn)
	if p.channel.muted && !muted {
		_ = p.runner.Loop.Modify(p.channel.fd, poll.RdHup) // it only spares turns of the loop
	}
	if p.channel.ready {
		p.tellReady()
	}
	if closed {
		p.hangUp()
		if p.pid != 0 {
			p.onClosed()
		}
	}
}

// closeGrace is how long a program that has closed its channel after Stop may take to exit before it is killed.
const closeGrace = 200 * time.Millisecond

// onClosed is the end of the channel, seen when the process is known; with mu held.
func (p *program) onClosed() {
	if p.exited || exiting(p.pid) {
		return // that tells more, and the exit code is to be its own, not the kill's
	}
	p.tellReady()
	if p.channel.asked && !p.critical { // for a critical program only its exit counts
		// Many a program closes the channel a little before it exits by itself, and its exit code is worth that little.
		time.AfterFunc(closeGrace, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.beginEnd()
		})
	}
}

// exiting says whether our child pid is at its end: PF_EXITING in the flags of /proc/pid/stat (proc(5), linux/sched.h), which
// the kernel sets before it closes the process's descriptors.
func exiting(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) // reaped
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 7 {
		return false
	}
	flags, _ := strconv.ParseUint(f[6], 10, 64)
	return flags&0x4 != 0
}

// warn logs something about the program.
func (p *program) warn(text string, args ...any) {
	p.runner.Log.Warn(text, append([]any{"instance", p.moniker}, args...)...)
}

// awaitReady waits until the program is ready. If it won't be, its end is awaited.
func (p *program) awaitReady(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.hearReady()
	isReady, exited, unhealthy := p.channel.ready, p.exited, p.failed
	if !isReady {
		p.beginEnd()
	}
	p.mu.Unlock()
	if isReady {
		return nil
	}
	x, _ := p.Wait(context.Background()) // KillBound bounds it
	switch {
	case exited:
		return &endedEarly{fmt.Errorf("it ended before it was ready: %v", x), x}
	case unhealthy != "":
		return &endedEarly{errors.New("it was not ready: " + unhealthy), x}
	case ctx.Err() != nil:
		return &unavailable{fmt.Errorf("it was not ready yet: %w", context.Cause(ctx))}
	default:
		return &endedEarly{errors.New("it closed its lifecycle channel before it was ready"), x}
	}
}

// Stop asks the program to end, in the way that its manifest says.
func (p *program) Stop(context.Context) error {
	p.mu.Lock()
	if p.exited || p.reaped != nil {
		p.mu.Unlock()
		return nil
	}
	if p.cause == runners.BySelf {
		p.cause = runners.ByStop
	}
	p.watch.leave()
	if p.stop != stopBySignal {
		// Who is to be asked on the channel and has closed it, or is asked again, can only be killed.
		if p.stop == stopByKill || p.channel.fd < 0 || p.channel.asked || p.channel.send() != nil {
			if p.critical && p.stop == stopByKill {
				p.warn("a stop kills a critical program, which ends everything")
			}
			p.beginEnd()
		}
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	err := p.Signal(context.Background(), p.stopSignal)
	if err == nil {
		err = p.Signal(context.Background(), syscall.SIGCONT) // one that is stopped would never take it
	}
	return err
}

// Kill ends the job.
func (p *program) Kill(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.exited {
		if p.cause != runners.ByHealth { // that is why it is killed
			p.cause = runners.ByKill
		}
		p.beginEnd()
	}
	return nil
}

// Signal sends sig to the main process. One that has ended is not an error.
func (p *program) Signal(_ context.Context, sig syscall.Signal) error {
	if err := p.job.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return &runners.Error{Op: "signal", At: p.moniker, Why: capabilities.CodeOf(err), Err: err}
	}
	return nil
}

// Stats is what the job uses.
func (p *program) Stats(context.Context) (runners.Stats, error) { return p.job.Stats() }

// Processes are the job's.
func (p *program) Processes(context.Context) ([]int, error) { return p.job.Processes() }

// Describe names the job and the main process, and what the program last said of itself.
func (p *program) Describe() []runners.Detail {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := []runners.Detail{{Key: "Job ID", Value: p.job.Path()}, {Key: "Process ID", Value: strconv.Itoa(p.pid)}}
	d = append(d, describeResources(p.resources)...)
	if p.channel.ready {
		d = append(d, runners.Detail{Key: "Ready", Value: "yes"})
	}
	if p.health != "" {
		d = append(d, runners.Detail{Key: "Health", Value: p.health})
	}
	if p.channel.status != "" {
		d = append(d, runners.Detail{Key: "Status", Value: p.channel.status})
	}
	return d
}
