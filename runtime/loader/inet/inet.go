// Package inet fetches files from boot servers on other hosts, and is one: both sides of what Erlang's erl_prim_loader speaks
// with erl_boot_server. A Loader fetches from a real one or from a Server, and a Server serves real nodes (erl -loader inet
// -hosts … -id …).
//
// Trust. Nothing of this is encrypted, and a server is believed because it answers at the address that was asked: who can send
// from there, or sits between, can hand out anything. Erlang's cookie and id never travel. Between cmgr and cmgr a cookie
// proves at the beginning of a connection that both ends know it, and no more. So use it on networks that are
// trusted, or through a tunnel (WireGuard, ssh -L), and accept only packages whose hash or signature is known (runtime/resolver's
// Trust).
package inet

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/spool"
)

// Config says whom to ask, and how.
type Config struct {
	// Hosts are the boot servers in order of preference: addresses, names, or either with a UDP port ("10.0.0.1", "boot:4369"). An
	// address may be a broadcast address. "unix:/svc/bootserver" is a socket, on which a server is without being searched for.
	Hosts []string
	// ID is what this machine is called in the log of a cmgr server.
	ID string
	// Cookie is a secret shared with cmgr's servers; "" for none. An Erlang server never gets it, nor asks for it.
	Cookie string
	// Version is the ERTS version that an Erlang server must have ("13.1.5"); "" is Version, to which only cmgr's own answer.
	Version string
	// Dir is the directory of the servers that Open's paths are relative to; "" is /.
	Dir string
	// Idle is how long a server may be silent in the middle of a request before the next one is asked; 0 is 5 s.
	Idle time.Duration
	// Timeout bounds how long a request waits for any server at all to answer the search for one; 0 is 15 s.
	Timeout time.Duration
	// MaxSize bounds a file in bytes; 0 is 4 GiB, all that a frame can carry.
	MaxSize int64
	// Progress is called with what has come of a file, and of how many bytes; nil is nobody. It must not block.
	Progress func(name string, done, total int64)
	// Log is told of servers that fail; nil is silence.
	Log *slog.Logger
}

// A Loader fetches files. It keeps a few connections between requests, and no goroutines.
type Loader struct {
	cfg Config
	dir string

	// searching is held, by a value in it, by who asks for servers.
	searching chan struct{}
	// mu guards what is below it.
	mu      sync.Mutex
	closed  bool
	servers []server // those that have answered and not failed since, best first
	idle    []*conn
}

// maxIdle is how many connections are kept.
const maxIdle = 8

var (
	_ loader.Loader = (*Loader)(nil)
	_ loader.Lister = (*Loader)(nil)
	_ loader.Stater = (*Loader)(nil)
	_ loader.Getter = (*Loader)(nil)
)

// Open makes a loader. Nobody is asked before the first request.
func Open(cfg Config) (*Loader, error) {
	if len(cfg.Hosts) == 0 {
		return nil, errors.New("loader inet: no hosts given")
	}
	if slices.ContainsFunc(cfg.Hosts, func(h string) bool { return strings.TrimSpace(strings.TrimPrefix(h, unixHost)) == "" }) {
		return nil, errors.New("loader inet: a host without a name")
	}
	for _, h := range cfg.Hosts {
		if strings.HasPrefix(h, unixHost) {
			continue
		}
		if _, _, err := splitHost(h); err != nil {
			return nil, fmt.Errorf("loader inet: host %w", err)
		}
	}
	cfg.Version = cmp.Or(cfg.Version, Version)
	if len(cfg.ID) > 255 {
		return nil, errors.New("loader inet: an id of more than 255 bytes")
	}
	if len(cfg.Version) > maxVersion {
		return nil, fmt.Errorf("loader inet: a version of more than %d bytes", maxVersion)
	}
	cfg.Idle = cmp.Or(cfg.Idle, 5*time.Second)
	cfg.Timeout = cmp.Or(cfg.Timeout, 15*time.Second)
	cfg.MaxSize = cmp.Or(cfg.MaxSize, 1<<32)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Loader{cfg: cfg, dir: path.Clean("/" + cfg.Dir), searching: make(chan struct{}, 1)}, nil
}

// Open fetches the file at p below Config.Dir.
func (l *Loader) Open(ctx context.Context, p string) (loader.File, error) {
	if err := loader.Check("open", p); err != nil {
		return nil, err
	}
	return l.get(ctx, "open", p, path.Join(l.dir, p))
}

// Get fetches the file that the server calls name.
func (l *Loader) Get(ctx context.Context, name string) (loader.File, error) {
	return l.get(ctx, "get", name, name)
}

func (l *Loader) get(ctx context.Context, op, p, name string) (loader.File, error) {
	var out loader.File
	err := l.ask(ctx, op, p, cmdGet, name, func(c *conn) error {
		s := spool.New(l.cfg.MaxSize)
		err := readGet(c.in, s, func(s *spool.Spool, size int64) error { return c.copyBody(s, size, l.progress(p, size)) })
		if err == nil {
			out, err = s.File()
		} else {
			s.Discard()
		}
		return err
	})
	return out, err
}

func (l *Loader) progress(name string, total int64) func(int64) {
	if l.cfg.Progress == nil {
		return func(int64) {}
	}
	return func(done int64) { l.cfg.Progress(name, done, total) }
}

// List is the directory at p, sorted by name. It costs a question for each entry, of which some are asked at one time.
func (l *Loader) List(ctx context.Context, p string) ([]fs.DirEntry, error) {
	if err := loader.Check("list", p); err != nil {
		return nil, err
	}
	v, err := l.askTerm(ctx, "list", p, cmdListDir, path.Join(l.dir, p))
	if err != nil {
		return nil, err
	}
	terms, ok := term.Proper(v)
	if !ok {
		return nil, &fs.PathError{Op: "list", Path: p, Err: fmt.Errorf("%w: no list of names", errProtocol)}
	}
	names := make([]string, len(terms))
	for i, n := range terms {
		name, ok := term.IsString(n)
		if !ok || name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return nil, &fs.PathError{Op: "list", Path: p, Err: fmt.Errorf("%w: %s is no name", errProtocol, clip(n))}
		}
		names[i] = name
	}
	slices.Sort(names)
	out := make([]fs.DirEntry, len(names))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var asking sync.WaitGroup
	for range min(maxIdle, len(names)) {
		asking.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(names) && ctx.Err() == nil; i = next.Add(1) - 1 {
				info, err := l.info(ctx, "list", path.Join(p, names[i]))
				switch {
				case err == nil:
					out[i] = fs.FileInfoToDirEntry(info)
				case !errors.Is(err, loader.ErrNotExist): // that is gone meanwhile, or a symlink that leads nowhere
					cancel(err)
				}
			}
		})
	}
	asking.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out, func(e fs.DirEntry) bool { return e == nil }), nil
}

// Stat is what lies at p. Times have seconds only, and are taken for local ones: the server doesn't say its time zone.
func (l *Loader) Stat(ctx context.Context, p string) (fs.FileInfo, error) {
	if err := loader.Check("stat", p); err != nil {
		return nil, err
	}
	return l.info(ctx, "stat", p)
}

func (l *Loader) info(ctx context.Context, op, p string) (fs.FileInfo, error) {
	v, err := l.askTerm(ctx, op, p, cmdFileInfo, path.Join(l.dir, p))
	if err != nil {
		return nil, err
	}
	info, ok := parseInfo(path.Base(p), v)
	if !ok {
		return nil, &fs.PathError{Op: op, Path: p, Err: fmt.Errorf("%w: no file_info: %s", errProtocol, clip(v))}
	}
	return info, nil
}

// Close closes the connections.
func (l *Loader) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.idle {
		c.Close()
	}
	l.idle = nil
	return nil
}

// askTerm asks what is answered by a term.
func (l *Loader) askTerm(ctx context.Context, op, p string, cmd term.Atom, name string) (term.Term, error) {
	var v term.Term
	err := l.ask(ctx, op, p, cmd, name, func(c *conn) error {
		n, err := readLength(c.in)
		if err != nil {
			return err
		}
		t, err := readTerm(c.in, n)
		if err == nil {
			v, err = result(t, cmd)
		}
		return err
	})
	return v, err
}

// tries is how often all servers are gone through before a request is given up.
const tries = 3

// ask sends a request to one server after the other until one has answered: requests change nothing, so each may be repeated. A
// Reason is an answer.
func (l *Loader) ask(ctx context.Context, op, p string, cmd term.Atom, name string, read func(*conn) error) error {
	req, err := request(cmd, name)
	if err == nil {
		err = l.askAll(ctx, name, req, read)
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: p, Err: err}
	}
	return nil
}

func (l *Loader) askAll(ctx context.Context, name string, req []byte, read func(*conn) error) error {
	var bad []server // have failed in this round
	var failed error // the last failure
	for round := 1; ; {
		c, err := l.connect(ctx, &bad)
		if err != nil {
			switch {
			case errors.Is(err, errAllBad) && round < tries:
				round++
				bad = nil
				continue
			case failed != nil && errors.Is(err, errAllBad):
				return failed
			case failed != nil && !errors.Is(err, fs.ErrClosed):
				return fmt.Errorf("%w; before: %w", err, failed)
			}
			return err
		}
		err = c.roundTrip(ctx, req, read)
		var reason Reason
		if err == nil || errors.As(err, &reason) {
			l.keep(c)
			return err
		}
		c.Close()
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("boot server %s: %w (%w)", c.server, cause, err)
		}
		if errors.Is(err, spool.ErrTooLong) {
			return err
		}
		if c.used && !c.heard && !timedOut(err) {
			continue // the server had ended the connection before; it hasn't seen the request
		}
		failed = fmt.Errorf("boot server %s: %w", c.server, err)
		l.drop(c.server, name, err)
		bad = append(bad, c.server)
	}
}

func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// errAllBad is the error of connect where all servers that answer have failed.
var errAllBad = errors.New("all boot servers have failed")

// connect gives a connection to the best server that is not bad; those that it cannot reach it adds to bad.
func (l *Loader) connect(ctx context.Context, bad *[]server) (*conn, error) {
	var failed error
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, fs.ErrClosed
		}
		if n := len(l.idle); n > 0 {
			c := l.idle[n-1]
			l.idle = l.idle[:n-1]
			l.mu.Unlock()
			c.used, c.heard = true, false
			return c, nil
		}
		l.mu.Unlock()
		s, err := l.search(ctx, *bad)
		if errors.Is(err, errAllBad) && failed != nil {
			return nil, fmt.Errorf("%w: %w", err, failed)
		}
		if err != nil {
			return nil, err
		}
		c, err := l.dial(ctx, s)
		if err == nil {
			return c, nil
		}
		failed = err
		l.drop(s, "", err)
		*bad = append(*bad, s)
	}
}

// search gives the best server that is not bad, of those that are known or else of those that answer.
func (l *Loader) search(ctx context.Context, bad []server) (server, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.Timeout, fmt.Errorf("given up after %v", l.cfg.Timeout))
	defer cancel()
	select {
	case l.searching <- struct{}{}:
		defer func() { <-l.searching }()
	case <-ctx.Done():
		return server{}, context.Cause(ctx)
	}
	good := func(s server) bool { return !slices.Contains(bad, s) }
	l.mu.Lock()
	known := l.servers
	l.mu.Unlock()
	if i := slices.IndexFunc(known, good); i >= 0 {
		return known[i], nil
	}
	found, err := l.discover(ctx, good)
	if err != nil {
		return server{}, err
	}
	l.mu.Lock()
	l.servers = found
	l.mu.Unlock()
	if i := slices.IndexFunc(found, good); i >= 0 {
		return found[i], nil
	}
	return server{}, errAllBad
}

// drop forgets a server that has failed, until servers are searched again, and the connections to it.
func (l *Loader) drop(s server, file string, err error) {
	l.cfg.Log.Warn("boot server failed", "server", s, "file", file, "error", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	without := make([]server, 0, len(l.servers)) // others may be reading the old one
	for _, o := range l.servers {
		if o != s {
			without = append(without, o)
		}
	}
	l.servers = without
	l.idle = slices.DeleteFunc(l.idle, func(c *conn) bool {
		if c.server == s {
			c.Close()
		}
		return c.server == s
	})
}

// keep puts a connection back whose last answer is read to its end.
func (l *Loader) keep(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || c.cut || len(l.idle) >= maxIdle {
		c.Close()
		return
	}
	l.idle = append(l.idle, c)
}

// A conn is a connection to a server, used by one request at a time.
type conn struct {
	net.Conn
	server server
	in     *bufio.Reader
	idle   time.Duration
	used   bool // by an earlier request
	heard  bool // something came in answer to this one
	cut    bool // by the end of this one's context
}

func (l *Loader) dial(ctx context.Context, s server) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.Idle, os.ErrDeadlineExceeded)
	defer cancel()
	var d net.Dialer
	network, at := "tcp", s.addr.String()
	if s.path != "" {
		network, at = "unix", s.path
	}
	nc, err := d.DialContext(ctx, network, at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New(err.Error()) // there is no socket: that says nothing of the file
	}
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, server: s, idle: l.cfg.Idle}
	c.in = bufio.NewReaderSize(reader{c}, 64<<10)
	if l.cfg.Version == Version {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		if err := c.greet(l.cfg.ID, l.cfg.Cookie); err != nil {
			c.Close()
			if ctx.Err() != nil { // which has closed the connection
				err = context.Cause(ctx)
			}
			return nil, fmt.Errorf("boot server %s: %w", s, err)
		}
	}
	c.heard = false
	return c, nil
}

// reader reads from a connection and sees that something comes.
type reader struct{ c *conn }

func (r reader) Read(p []byte) (int, error) {
	n, err := r.c.Conn.Read(p)
	r.c.heard = r.c.heard || n > 0
	return n, err
}

// roundTrip sends a request and has the answer read. Silence, or the end of ctx, is its end.
func (c *conn) roundTrip(ctx context.Context, req []byte, read func(*conn) error) error {
	_ = c.SetDeadline(time.Now().Add(c.idle))
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer func() { c.cut = !stop() }()
	if _, err := c.Write(req); err != nil {
		return err
	}
	return read(c)
}

// step is after how many bytes the patience with a server begins anew.
const step = 256 << 10

// copyBody takes size bytes into s.
func (c *conn) copyBody(s *spool.Spool, size int64, progress func(done int64)) error {
	have := min(size, int64(c.in.Buffered()))
	if err := s.Grow(size); err != nil {
		return err
	}
	if err := s.CopyN(c.in, have); err != nil {
		return err
	}
	progress(have)
	for have < size {
		_ = c.SetDeadline(time.Now().Add(c.idle))
		n := min(size-have, step)
		if err := s.CopyN(c.Conn, n); err != nil {
			return err
		}
		have += n
		progress(have)
	}
	return nil
}
