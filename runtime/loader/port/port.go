// Package port is the loader that asks a user's program: what erl_prim_loader's manual calls a port program. The program reads
// requests from standard input and answers on standard output:
//
//	to the program    'f' (102), then the name of a file, in UTF-8
//	from the program  'y' (121), then what is in the file; or 'z' (122) if there is no such file, then perhaps why, for the log
//	end of file       the program ends
//
// Erlang's manual doesn't say where a message ends, and what Erlang made of that gave out half files (erlang.md b.2). So a
// message has one of two transports. Raw is the manual's own bytes: one process for each request, whose standard input ends
// behind the name; the answer ends with the end of its standard output and counts only if the program then exits with status 0.
// In Packet4 the process stays, and before each message stands its length in 4 bytes, the highest first.
//
// Whatever else a program does, other bytes, an end in the middle, silence, data without end, is a failure of the loader and
// never "does not exist". Nothing of such an answer is used, and the program is killed with all its descendants. What it says on
// standard error is logged.
package port

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/spool"
)

// A Transport says where messages end.
type Transport string

const (
	Raw     Transport = "raw"
	Packet4 Transport = "packet4"
)

// Config says what program to ask, and how.
type Config struct {
	// Program is the program, looked for in PATH if it has no slash, and its arguments.
	Program []string
	// Transport is Raw or Packet4; "" is Raw.
	Transport Transport
	// Dir stands before Open's paths; "" is /.
	Dir string
	// Timeout bounds a request; 0 is 60 s.
	Timeout time.Duration
	// MaxSize bounds a file in bytes; 0 is 4 GiB, all that Packet4 can carry.
	MaxSize int64
	// Progress is called with what has come of a file, and of how many bytes, -1 if that is unknown; nil is nobody. It must not
	// block.
	Progress func(name string, done, total int64)
	// Log gets what the program says on standard error; nil is silence.
	Log *slog.Logger
}

// A Loader asks a program. It holds a thread for its starts, which it shares with whatever else starts processes, and with
// Packet4 the process.
type Loader struct {
	cfg      Config
	path     string // of the program, absolute
	launcher *proc.Launcher
	loop     *poll.Loop
	// slots bounds the requests under way: Raw's processes, or the one of Packet4.
	slots chan struct{}
	// kept is Packet4's process between two requests, nil if there is none; who is in the slot has it.
	kept *program

	// mu guards closed; requests add to wg under it.
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// parallel is how many processes of Raw run at one time.
const parallel = 8

var (
	_ loader.Loader = (*Loader)(nil)
	_ loader.Getter = (*Loader)(nil)
)

// The bytes of messages.
const (
	msgFile = 'f'
	msgYes  = 'y'
	msgNo   = 'z'
	maxWhy  = 4096 // bytes of a diagnosis that are shown
	maxLine = 4096 // bytes of a line of standard error
	maxName = 64 << 10
)

// Open makes a loader. The program is not started before the first request.
func Open(cfg Config) (*Loader, error) {
	if len(cfg.Program) == 0 {
		return nil, errors.New("port program: none given")
	}
	switch cfg.Transport {
	case "":
		cfg.Transport = Raw
	case Raw, Packet4:
	default:
		return nil, fmt.Errorf("port program: transport %q: there are %s and %s", cfg.Transport, Raw, Packet4)
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, time.Minute)
	cfg.MaxSize = min(cmp.Or(cfg.MaxSize, 1<<32-2), 1<<32-2)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	at, err := exec.LookPath(cfg.Program[0]) // only looks
	if err != nil {
		return nil, fmt.Errorf("port program: %w", err)
	}
	if at, err = filepath.Abs(at); err != nil {
		return nil, err
	}
	l := &Loader{cfg: cfg, path: at, slots: make(chan struct{}, parallel)}
	if cfg.Transport == Packet4 {
		l.slots = make(chan struct{}, 1)
	}
	if l.loop, err = poll.New(); err != nil {
		return nil, err
	}
	if l.launcher, err = proc.Open(); err != nil {
		l.loop.Close()
		return nil, err
	}
	return l, nil
}

// Open asks for the file at p below Config.Dir.
func (l *Loader) Open(ctx context.Context, p string) (loader.File, error) {
	err := loader.Check("open", p)
	if err == nil && path.Clean(p) == "." {
		err = &fs.PathError{Op: "open", Path: p, Err: errors.New("is a directory")}
	}
	if err != nil {
		return nil, err
	}
	return l.get(ctx, "open", p, path.Join("/", l.cfg.Dir, p))
}

// Get asks for the file that the program calls name.
func (l *Loader) Get(ctx context.Context, name string) (loader.File, error) {
	return l.get(ctx, "get", name, name)
}

// Close ends the program and waits for requests under way.
func (l *Loader) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.wg.Wait()
	if l.kept != nil {
		l.kept.end()
		l.kept = nil
	}
	l.launcher.Close()
	return l.loop.Close()
}

func (l *Loader) get(ctx context.Context, op, p, name string) (loader.File, error) {
	f, err := l.request(ctx, name)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: p, Err: err}
	}
	return f, nil
}

func (l *Loader) request(ctx context.Context, name string) (loader.File, error) {
	if name == "" || !utf8.ValidString(name) || len(name) > maxName {
		return nil, errors.New("a name that cannot be asked for")
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, fs.ErrClosed
	}
	l.wg.Add(1)
	l.mu.Unlock()
	defer l.wg.Done()
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.Timeout, fmt.Errorf("port program %s: no answer after %v", l.path, l.cfg.Timeout))
	defer cancel()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s := spool.New(l.cfg.MaxSize)
	ask := l.raw
	if l.cfg.Transport == Packet4 {
		ask = l.packet4
	}
	err := ask(ctx, name, s)
	if err != nil {
		s.Discard()
		var no notFound
		if cause := context.Cause(ctx); cause != nil && !errors.As(err, &no) {
			return nil, cause
		}
		return nil, err
	}
	return s.File()
}

// A notFound is the program's 'z', and what it said behind it.
type notFound string

func (n notFound) Error() string {
	if n == "" {
		return "no such file, the port program says"
	}
	return "no such file, the port program says: " + string(n)
}

func (notFound) Is(target error) bool { return target == loader.ErrNotExist }

func refusal(why []byte) error {
	return notFound(bytes.TrimSpace(why[:min(len(why), maxWhy)]))
}

// failed is an error of the program's.
func (l *Loader) failed(format string, args ...any) error {
	return fmt.Errorf("port program %s: "+format, append([]any{l.path}, args...)...)
}

// raw asks a process of its own.
func (l *Loader) raw(ctx context.Context, name string, s *spool.Spool) error {
	p, err := l.start()
	if err != nil {
		return err
	}
	defer p.kill()
	defer context.AfterFunc(ctx, p.interrupt)()
	p.write(append([]byte{msgFile}, name...))
	p.in.Close()
	tag, err := p.out.ReadByte()
	var why []byte
	switch {
	case err == io.EOF: // its exit says more
	case err != nil:
		return err
	case tag == msgYes:
		if err := l.copyAll(p.out, name, s); err != nil {
			return l.tooLong(err)
		}
	case tag == msgNo:
		if why, err = io.ReadAll(io.LimitReader(p.out, maxWhy)); err == nil {
			_, err = s.ReadFrom(p.out) // what is too much is too much here, too
		}
		if err != nil {
			return l.tooLong(err)
		}
	default:
		return l.failed("its answer begins with byte %d, neither 121 (y) nor 122 (z)", tag)
	}
	st, err := p.wait(ctx)
	switch {
	case err != nil:
		return l.failed("its output ended, but it did not: %w", err)
	case st != proc.Status{}:
		return l.failed("%s; an answer counts only with exit status 0", ending(st))
	case tag == 0:
		return l.failed("it ended without an answer")
	case tag == msgNo:
		return refusal(why)
	}
	return nil
}

// copyAll takes what comes, to the end.
func (l *Loader) copyAll(r io.Reader, name string, s *spool.Spool) error {
	if l.cfg.Progress == nil {
		_, err := s.ReadFrom(r)
		return err
	}
	_, err := s.ReadFrom(&counting{r: r, tell: func(n int64) { l.cfg.Progress(name, n, -1) }})
	return err
}

type counting struct {
	r    io.Reader
	n    int64
	tell func(int64)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

func (l *Loader) tooLong(err error) error {
	if errors.Is(err, spool.ErrTooLong) {
		return l.failed("its answer is %w", err)
	}
	return err
}

func ending(st proc.Status) string {
	if st.Signal != 0 {
		return fmt.Sprintf("it was ended by signal %d (%v)", st.Signal, st.Signal)
	}
	return fmt.Sprintf("it exited with status %d", st.Code)
}

// packet4 asks the process that is kept, or a new one.
func (l *Loader) packet4(ctx context.Context, name string, s *spool.Spool) error {
	for {
		reused := l.kept != nil
		if reused && !l.kept.quiet() {
			l.kept.kill()
			l.kept, reused = nil, false
		}
		if !reused {
			p, err := l.start()
			if err != nil {
				return err
			}
			l.kept = p
		}
		p := l.kept
		stop := context.AfterFunc(ctx, p.interrupt)
		begun, err := l.exchange(ctx, p, name, s)
		var no notFound
		if intact := stop(); intact && (err == nil || errors.As(err, &no)) {
			return err
		}
		p.kill()
		l.kept = nil
		if err == nil || errors.As(err, &no) {
			return err // the answer came in the last moment
		}
		if reused && !begun && context.Cause(ctx) == nil {
			continue // it had ended after its last answer
		}
		return err
	}
}

// exchange sends one request and reads the answer; begun says that something of one came.
func (l *Loader) exchange(ctx context.Context, p *program, name string, s *spool.Spool) (begun bool, err error) {
	req := binary.BigEndian.AppendUint32(nil, uint32(1+len(name)))
	p.write(append(append(req, msgFile), name...))
	if _, err := p.out.Peek(1); err != nil {
		return false, l.died(ctx, p, err)
	}
	var head [4]byte
	if _, err := io.ReadFull(p.out, head[:]); err != nil {
		return true, l.died(ctx, p, err)
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n == 0 {
		return true, l.failed("its answer is empty")
	}
	if n-1 > l.cfg.MaxSize {
		return true, l.failed("its answer is %w: %d bytes, more than %d", spool.ErrTooLong, n-1, l.cfg.MaxSize)
	}
	tag, err := p.out.ReadByte()
	if err != nil {
		return true, l.died(ctx, p, err)
	}
	n--
	switch tag {
	case msgYes:
		for have := int64(0); have < n; {
			k := min(n-have, 256<<10)
			if err := s.CopyN(p.out, k); err != nil {
				return true, l.died(ctx, p, err)
			}
			have += k
			if l.cfg.Progress != nil {
				l.cfg.Progress(name, have, n)
			}
		}
	case msgNo:
		why, err := io.ReadAll(io.LimitReader(p.out, min(n, maxWhy)))
		if err == nil {
			_, err = io.CopyN(io.Discard, p.out, n-int64(len(why)))
		}
		if err != nil {
			return true, l.died(ctx, p, err)
		}
		return true, refusal(why)
	default:
		return true, l.failed("its answer begins with byte %d, neither 121 (y) nor 122 (z)", tag)
	}
	return true, nil
}

// died is why an answer could not be read.
func (l *Loader) died(ctx context.Context, p *program, err error) error {
	if err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	brief, cancel := context.WithTimeout(ctx, time.Second) // its output has ended: so has it, or soon
	defer cancel()
	if st, werr := p.wait(brief); werr == nil {
		return l.failed("no whole answer: %s", ending(st))
	}
	return l.failed("no whole answer: it closed its output")
}
