package elf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
)

// health is how a running program is checked: by another program, which says so by its exit code.
type health struct {
	exec     []string // nil: not at all
	interval time.Duration
	timeout  time.Duration
	retries  int
	start    time.Duration // until then failures don't count, if no check has passed yet
}

// healthKeys are the keys of health, and what their values are where nothing is said.
var healthKeys = []struct {
	key, value  string
	least, most int64
}{
	{"health.interval_ms", "10000", 1, maxMS},
	{"health.timeout_ms", "5000", 1, maxMS},
	{"health.retries", "3", 1, 1000},
	{"health.start_ms", "30000", 0, maxMS},
}

const (
	healthExec = "health.exec"
	maxMS      = 24 * 60 * 60 * 1000
)

// parseHealth reads the keys of health.
func parseHealth(b runners.Block) (h health, errs []error) {
	if _, ok := b.Info.Get("health"); ok { // an object would be there as its keys
		errs = append(errs, b.Errorf("health", `must be an object, such as { exec: [ "bin/check" ] }`))
	}
	exec, err := b.Strings(healthExec)
	if err == nil && exec != nil && (len(exec) == 0 || exec[0] == "" || strings.ContainsRune(strings.Join(exec, ""), 0)) {
		err = b.Errorf(healthExec, "must be a program and its arguments")
	}
	if err != nil {
		errs = append(errs, err)
	}
	h.exec = exec
	var numbers [4]int64
	for i, k := range healthKeys {
		text, said, err := b.String(k.key)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case !said:
			text = k.value
		case exec == nil:
			errs = append(errs, b.Errorf(k.key, "has no meaning without %s", healthExec))
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < k.least || n > k.most {
			errs = append(errs, b.Errorf(k.key, "is %q, must be a whole number from %d to %d", text, k.least, k.most))
		}
		numbers[i] = n
	}
	h.interval, h.timeout, h.start = ms(numbers[0]), ms(numbers[1]), ms(numbers[3])
	h.retries = int(numbers[2])
	return h, errs
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// A watch checks a running program, on a goroutine of its own that ends with the program. Each check is a process in a job of its
// own, so that one that hangs ends with all that it started, and otherwise as the program: its user, environment, directory,
// limits and world.
type watch struct {
	p    *program
	h    health
	s    settings // the program's, with the check in its place
	info runners.StartInfo
	// confined: a check gets a world like the program's, made of what is duplicated in info.
	confined bool

	quit  chan struct{} // closed when nothing is to be checked any more
	over  sync.Once     // closes quit
	gone  chan struct{} // closed at the goroutine's end
	begun bool          // there is a goroutine; guarded by p.mu
}

// newWatch prepares the checks of p, which s and info describe; nil if there are none.
func (p *program) newWatch(s *settings, info *runners.StartInfo) (*watch, error) {
	if s.health.exec == nil {
		return nil, nil
	}
	w := &watch{
		p: p, h: s.health, s: *s, quit: make(chan struct{}), gone: make(chan struct{}),
		info: runners.StartInfo{
			Moniker: info.Moniker, URL: info.URL, Program: info.Program, Package: info.Package, View: info.View, Machine: info.Machine,
		},
	}
	w.s.key, w.s.binary, w.s.args = healthExec, s.health.exec[0], s.health.exec[1:]
	if _, err := w.s.spec(&w.info); err != nil { // the check is not there
		return nil, err
	}
	if w.confined = !p.runner.grants(info.Moniker, info.Machine).Unconfined; !w.confined {
		return w, nil
	}
	for _, e := range info.Namespace {
		f, err := duplicate(e.File)
		if err != nil {
			w.info.Close()
			return nil, err
		}
		w.info.Namespace = append(w.info.Namespace, runners.NamespaceEntry{Path: e.Path, File: f, Rights: e.Rights})
	}
	return w, nil
}

// begin begins the checks; with p.mu held.
func (w *watch) begin() {
	if w != nil {
		w.begun = true
		go w.run()
	}
}

// leave has no further check begin. It does not wait.
func (w *watch) leave() {
	if w != nil {
		w.over.Do(func() { close(w.quit) })
	}
}

// end ends the checks, kills the one under way, and frees what they had; without p.mu held.
func (w *watch) end() {
	if w == nil {
		return
	}
	w.leave()
	w.p.mu.Lock()
	begun := w.begun
	w.p.mu.Unlock()
	if begun {
		<-w.gone
	}
	w.info.Close()
}

func (w *watch) run() {
	defer close(w.gone)
	began, failures, passed := time.Now(), 0, false
	timer := time.NewTimer(w.h.interval)
	defer timer.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-timer.C:
		}
		why := w.check()
		switch {
		case why == "":
			failures, passed = 0, true
			w.p.checked("passing")
		case !passed && time.Since(began) < w.h.start:
			w.p.checked("not passing yet: " + why)
		default:
			failures++
			w.p.checked(fmt.Sprintf("%d of %d failed: %s", failures, w.h.retries, why))
		}
		if failures == w.h.retries {
			said := "its health check failed: "
			if failures > 1 {
				said = fmt.Sprintf("%d health checks failed in a row: ", failures)
			}
			w.p.unhealthy(said + why)
			return
		}
		timer.Reset(w.h.interval)
	}
}

// check is one check: why it failed, "" if it passed.
func (w *watch) check() string {
	r := w.p.runner
	spec, err := w.s.spec(&w.info)
	if err != nil {
		return err.Error()
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err.Error()
	}
	defer out.Close()
	defer in.Close()
	spec.Files[1], spec.Files[2] = int(in.Fd()), int(in.Fd())
	release := func() {}
	if w.confined {
		if release, err = r.confine(&w.s, &w.info, spec); err != nil {
			return err.Error()
		}
	} else if w.info.View != "" {
		spec.Env = append(spec.Env, namespaceEnv+"="+w.info.View)
	}
	j, err := r.Jobs.New(string(w.info.Moniker) + "#check")
	if err != nil {
		release()
		return err.Error()
	}
	ended := make(chan job.Status, 1)
	_, err = j.Start(*spec, func(st job.Status) { ended <- st })
	release()
	in.Close()
	if err != nil {
		return errors.Join(err, j.Close()).Error()
	}
	said := make(chan string, 1)
	go func() { said <- lastLine(out) }()
	timer := time.NewTimer(w.h.timeout)
	defer timer.Stop()
	var exit runners.Exit
	why := ""
	select {
	case st := <-ended:
		exit.Code, exit.Signal, exit.CoreDumped = st.Code, st.Signal, st.Core
		if !exit.OK() {
			why = exit.String()
		}
	case <-timer.C:
		why = fmt.Sprintf("no answer within %v", w.h.timeout)
	case <-w.quit:
		why = "given up"
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.KillBound)
	defer cancel()
	if err := errors.Join(j.Kill(ctx), j.Close()); err != nil {
		r.Log.Error("something of a health check remains", "instance", w.info.Moniker, "job", j.Path(), "err", err)
	}
	_ = out.SetReadDeadline(time.Now().Add(quick)) // whoever has left the job may have the other end still
	if text := <-said; why != "" && text != "" {
		why += ": " + text
	}
	return why
}

// lastLine is the last line that is not empty of what comes from r, of bounded length. All is read, so that nobody waits.
func lastLine(r io.Reader) string {
	var kept []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		kept = append(kept, buf[:n]...)
		if over := len(kept) - len(buf); over > 0 {
			kept = append(kept[:0], kept[over:]...)
		}
		if err != nil {
			break
		}
	}
	text := strings.TrimSpace(string(kept))
	return line(strings.ToValidUTF8(text[strings.LastIndexByte(text, '\n')+1:], ""))
}

// checked takes in what a check has found.
func (p *program) checked(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.health = text
}

// unhealthy tells that the program does not do its work any more; what follows is up to whoever is told.
func (p *program) unhealthy(why string) {
	p.mu.Lock()
	if p.exited || p.reaped != nil || p.cause != runners.BySelf {
		p.mu.Unlock()
		return // it is on its way out
	}
	p.cause, p.failed = runners.ByHealth, why
	p.tellReady()
	tell := p.onUnhealthy
	p.mu.Unlock()
	if tell != nil {
		tell(why)
	}
}

// OnUnhealthy calls f once, if the program's health checks find that it does not do its work any more.
func (p *program) OnUnhealthy(f func(why string)) {
	p.mu.Lock()
	if p.watch == nil {
		p.mu.Unlock()
		return
	}
	p.onUnhealthy = f
	why := p.failed
	p.mu.Unlock()
	if why != "" {
		f(why)
	}
}
