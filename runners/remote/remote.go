// Package remote is the runner protocol, by which a runner in another process runs components: New makes a runners.Runner of a
// connection to one, Serve is the other end, for runners written in Go. PROTOCOL.md has it byte by byte, for those written in
// another language.
//
// The runner on the other end is not trusted with more than its own components. When it goes away they end with
// runners.ByRunner; when it does not answer in time, or lies, it is dropped, which is the same for them; and it cannot claim that
// an end was critical, or when it came.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/runnerpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
)

// Protocol is the protocol's name; its socket is /svc/cmgr.component.Runner unless the capability says otherwise.
const Protocol = "cmgr.component.Runner"

// The versions that are spoken here.
var versions = []uint32{1}

// Bounds of what a runner can say; PROTOCOL.md tells of them.
const (
	// MaxStartInfo is the longest StartInfo, in bytes.
	MaxStartInfo = 4 << 20
	// Of diagnostics so many details are kept, and of each text so many bytes.
	maxDetails = 32
	maxText    = 1024
)

// Config is what a Runner needs.
type Config struct {
	// Patience is how long the runner may take for what it must do at once: answer Stop and Kill, end a program after Kill, give
	// up a start that was cancelled. After that it is dropped. 0 means 10 s.
	Patience time.Duration
	// Alone has no directory that the runner is given lead to what is above it, for a runner that is confined. They have no paths
	// there.
	Alone bool
}

// A Runner is the manager's end of a connection to a runner.
type Runner struct {
	patience time.Duration
	alone    bool
	conn     *rpc.Conn

	mu       sync.Mutex // guards what follows; held for no call to anything outside
	last     uint64
	programs map[uint64]*program
	gone     error
}

// Dial connects to the runner that listens on the SOCK_SEQPACKET unix socket at path.
func Dial(ctx context.Context, path string, cfg Config) (*Runner, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, &runners.Error{Op: "connect to runner", At: name.Moniker(path), Why: capabilities.Unavailable, Err: err}
	}
	return New(ctx, conn.(*net.UnixConn), cfg)
}

// New makes a Runner of a connection to one, once it has said that it speaks the protocol; ctx bounds that. The Runner owns conn;
// on an error it is closed.
func New(ctx context.Context, conn *net.UnixConn, cfg Config) (*Runner, error) {
	if cfg.Patience == 0 {
		cfg.Patience = rpc.DefaultPatience
	}
	r := &Runner{patience: cfg.Patience, alone: cfg.Alone, programs: map[uint64]*program{}}
	c, err := rpc.Connect(ctx, conn, rpc.Config{
		Protocol: Protocol, Versions: versions, Patience: cfg.Patience, Event: r.event, Gone: r.over,
	})
	if err != nil {
		return nil, err
	}
	r.conn = c
	return r, nil
}

// Done is closed when the runner has gone and its programs have been told to have ended.
func (r *Runner) Done() <-chan struct{} { return r.conn.Done() }

// Err is why the runner has gone; nil while it is there.
func (r *Runner) Err() error { return goneFor(r.conn.Err()) }

// Close ends the connection. A runner ends the programs of a connection that ends; that is not awaited.
func (r *Runner) Close() { r.conn.Close() }

// goneFor puts the end of a connection in words.
func goneFor(err error) error {
	var e *rpc.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return errors.New("the runner closed its connection")
	case errors.Is(err, rpc.ErrClosed):
		return errors.New("the connection to the runner was closed")
	case errors.As(err, &e):
		return fmt.Errorf("the runner refuses to go on: %v", e)
	default:
		return fmt.Errorf("the runner was dropped: it %v", err)
	}
}

// Start has the runner start a program. A start whose context ends is taken back: the runner has Config.Patience to say that
// nothing of it is left.
func (r *Runner) Start(ctx context.Context, info runners.StartInfo) (runners.Program, error) {
	defer info.Close()
	p := &program{runner: r, moniker: info.Moniker}
	// Nothing of the program exists before it may run, so the runner needs to know nothing of the wait.
	if info.BreakOnStart != nil {
		select {
		case <-info.BreakOnStart:
		case <-ctx.Done():
		case <-r.conn.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, p.fail("start", context.Cause(ctx), capabilities.Unavailable)
	}
	if err := r.add(p); err != nil {
		return nil, p.fail("start", err, capabilities.Unavailable)
	}
	started := false
	defer func() {
		if !started {
			r.remove(p)
		}
	}()
	if r.alone {
		if err := alone(&info); err != nil {
			return nil, p.fail("start", err, capabilities.Unavailable)
		}
	}
	m, dir, err := encode(p.id, info, r.alone)
	if err != nil {
		return nil, p.fail("start", err, capabilities.Invalid)
	}
	if dir != nil {
		defer dir.Close()
	}
	_, err = r.conn.Call(ctx, "Start", m)
	if ctx.Err() != nil {
		if err == nil { // it was too late to cancel
			p.destroy()
		}
		return nil, p.fail("start", context.Cause(ctx), capabilities.Unavailable)
	}
	if err != nil {
		return nil, p.fail("start", err, capabilities.Unavailable)
	}
	started = true
	return p, nil
}

// alone has none of info's directories lead to what is above it.
func alone(info *runners.StartInfo) (err error) {
	give := func(f **os.File, r manifest.Rights) {
		if *f != nil && err == nil {
			*f, err = confine.Give(*f, r)
		}
	}
	for i := range info.Namespace {
		give(&info.Namespace[i].File, info.Namespace[i].Rights)
	}
	for i := range info.Handles {
		give(&info.Handles[i].File, manifest.RightsRW|manifest.RightExecute)
	}
	give(&info.Outgoing, manifest.RightsRW|manifest.RightExecute)
	return err
}

// add gives p its number.
func (r *Runner) add(p *program) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone != nil {
		return r.gone
	}
	r.last++
	p.id, p.started = r.last, time.Now()
	r.programs[p.id] = p
	return nil
}

func (r *Runner) remove(p *program) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.programs, p.id)
}

// event takes what the runner says of its own accord.
func (r *Runner) event(what string, m rpc.Message) error {
	defer m.Close() // it has none: Config.MaxFDs is 0
	switch what {
	case "Exit":
		x := new(runnerpb.Exit)
		if err := proto.Unmarshal(m.Body, x); err != nil {
			return errors.New("sends an Exit that is none")
		}
		return r.exit(x)
	case "Diagnostics":
		d := new(runnerpb.Diagnostics)
		if err := proto.Unmarshal(m.Body, d); err != nil {
			return errors.New("sends Diagnostics that are none")
		}
		r.mu.Lock()
		p, known := r.programs[d.Program], d.Program > 0 && d.Program <= r.last
		r.mu.Unlock()
		switch {
		case p != nil:
			p.publish(d)
		case !known:
			return fmt.Errorf("publishes diagnostics of program %d, which it was never given", d.Program)
		}
	}
	return nil
}

func (r *Runner) exit(x *runnerpb.Exit) error {
	if x.Signal > 64 {
		return fmt.Errorf("says that signal %d ended program %d; there is none", x.Signal, x.Program)
	}
	r.mu.Lock()
	p := r.programs[x.Program]
	delete(r.programs, x.Program)
	r.mu.Unlock()
	if p == nil {
		return fmt.Errorf("tells the end of program %d, which it was not given or which has ended", x.Program)
	}
	e := runners.Exit{
		Code: int(x.Code), Signal: syscall.Signal(x.Signal), CoreDumped: x.CoreDumped && x.Signal != 0, Detail: line(x.Detail),
	}
	if e.Signal != 0 {
		e.Code = -1
	}
	p.end(e, x.Cause)
	return nil
}

// over ends what the runner ran; the connection has ended for why.
func (r *Runner) over(why error) {
	r.mu.Lock()
	r.gone = goneFor(why)
	programs := r.programs
	r.programs = nil
	r.mu.Unlock()
	for _, p := range programs {
		p.end(runners.Exit{Code: -1, Detail: r.gone.Error()}, runnerpb.Cause_CAUSE_RUNNER)
	}
}

// A program is one run, as the manager sees it.
type program struct {
	runners.Ending
	runner  *Runner
	moniker name.Moniker
	id      uint64
	started time.Time

	mu      sync.Mutex // guards what follows
	asked   runners.Cause
	watch   *time.Timer // of a kill
	ended   bool
	details []runners.Detail
}

// fail is an error about p: err in the runner's words, of kind why unless it says another.
func (p *program) fail(op string, err error, why capabilities.Code) error {
	e := &runners.Error{Op: op, At: p.moniker, Why: why, Err: err}
	var told *rpc.Error
	switch gone := p.runner.conn.Err(); {
	case gone != nil && errors.Is(err, gone):
		e.Err = p.runner.Err()
	case errors.As(err, &told):
		e.Why, e.Err, e.Hint = told.Why, errors.New(told.Text), told.Hint
	case errors.Is(err, rpc.ErrUnsupported):
		e.Err = errors.New("the runner does not know how to " + op)
	}
	return e
}

// end tells the end, once.
func (p *program) end(e runners.Exit, cause runnerpb.Cause) {
	p.mu.Lock()
	p.ended = true
	if p.watch != nil {
		p.watch.Stop()
	}
	switch cause {
	case runnerpb.Cause_CAUSE_SELF:
		e.Cause = runners.BySelf
	case runnerpb.Cause_CAUSE_STOP:
		e.Cause = runners.ByStop
	case runnerpb.Cause_CAUSE_KILL:
		e.Cause = runners.ByKill
	case runnerpb.Cause_CAUSE_TIMEOUT:
		e.Cause = runners.ByTimeout
	case runnerpb.Cause_CAUSE_RUNNER:
		e.Cause = runners.ByRunner
	default:
		e.Cause = p.asked
	}
	p.mu.Unlock()
	e.Started, e.Ended = p.started, time.Now()
	p.End(e)
}

// Stop asks the runner to ask the program to end.
func (p *program) Stop(ctx context.Context) error { return p.order(ctx, "Stop", runners.ByStop) }

// Kill has the runner end the program. One that has not ended it within Config.Patience is dropped.
func (p *program) Kill(ctx context.Context) error { return p.order(ctx, "Kill", runners.ByKill) }

func (p *program) order(ctx context.Context, method string, cause runners.Cause) error {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return nil
	}
	p.asked = max(p.asked, cause)
	if cause == runners.ByKill && p.watch == nil {
		p.watch = time.AfterFunc(p.runner.patience, func() {
			p.runner.conn.Drop(fmt.Errorf("does not end program %d: it was killed %v ago", p.id, p.runner.patience))
		})
	}
	p.mu.Unlock()
	body, err := proto.Marshal(&runnerpb.Program{Program: p.id})
	if err != nil {
		return p.fail(strings.ToLower(method), err, capabilities.Internal)
	}
	bounded, cancel := context.WithTimeout(ctx, p.runner.patience)
	defer cancel()
	_, err = p.runner.conn.Call(bounded, method, rpc.Message{Body: body})
	if err == nil {
		return nil
	}
	// The end may have crossed the order; and the end of the runner is, or will be at once, the program's.
	if _, ended := p.Ended(); ended || p.runner.conn.Err() != nil {
		return nil
	}
	return p.fail(strings.ToLower(method), err, capabilities.Unavailable)
}

// destroy kills p and waits until it has ended, or its runner has been dropped for not doing it.
func (p *program) destroy() {
	_ = p.Kill(context.Background()) // whatever it says: Kill's watch sees to the end
	_, _ = p.Wait(context.Background())
}

// publish keeps what the runner says of p.
func (p *program) publish(d *runnerpb.Diagnostics) {
	var details []runners.Detail
	for _, x := range d.Details[:min(len(d.Details), maxDetails)] {
		if k, v := line(x.Key), line(x.Value); k != "" && v != "" {
			details = append(details, runners.Detail{Key: k, Value: v})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.details = details
}

// Describe is what the runner published last.
func (p *program) Describe() []runners.Detail {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.details
}

// line is s as one line of bounded length: tools print it.
func line(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "") // a rune may have been cut
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s))
}
