// Package rpc is messages with descriptors over unix SOCK_SEQPACKET sockets: requests with answers, events, cancellation, both
// ways on one connection. PROTOCOL.md has it byte by byte; which methods and bodies there are is for the protocol that uses it.
//
// The peer is not trusted. Who breaks a rule is dropped: told why in one last packet, and every call that waits for it fails with
// the same words. What it can make this end hold is bounded: by Config for one message, by MaxPending for their number.
//
// A Conn has one goroutine that reads, one for each request being handled, and none when Close has returned.
package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/memfd"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/proto/rpcpb"
)

// Bounds of the protocol.
const (
	// MaxPacket is the longest packet, in bytes.
	MaxPacket = 64 << 10
	// MaxInline is the longest body that travels in its packet; a longer one is in a memfd.
	MaxInline = 32 << 10
	// MaxFDs is how many descriptors a message can carry: as many as the kernel lets a packet, less the one of a long body.
	MaxFDs = sock.MaxFDs - 1
	// MaxPending is how many requests of one end may be without an answer; further ones wait to be sent.
	MaxPending = 1024
	// Who sends more than MaxUnasked packets within UnaskedWindow that are neither requests nor answers is dropped. Each request
	// of either end in that time, as it has its events and cancellations, allows UnaskedEach more.
	MaxUnasked    = 20_000
	UnaskedEach   = 4
	UnaskedWindow = 10 * time.Second
)

// DefaultPatience is Config.Patience where that is 0.
const DefaultPatience = 10 * time.Second

// ErrUnsupported is what Call returns, and a handler may, for a method that is not known.
var ErrUnsupported = errors.New("the other end does not know this method")

// ErrClosed is why a connection ended that Close ended.
var ErrClosed = errors.New("the connection was closed")

// A Message is a body and its descriptors. Sent ones are duplicates: whoever sends keeps its files. Received ones are the
// receiver's to close.
type Message struct {
	Body  []byte
	Files []*os.File
}

// Close closes the message's files.
func (m Message) Close() {
	for _, f := range m.Files {
		f.Close()
	}
}

// Config is one end of a protocol.
type Config struct {
	// Protocol is its name, and Versions are those that this end speaks.
	Protocol string
	Versions []uint32
	// MaxFDs and MaxBody are what a received message may have, in descriptors and bytes; a body of MaxInline bytes is always taken.
	MaxFDs, MaxBody int
	// Patience is how long the other end may take for what it must do at once: the handshake, reading, the answer to a cancelled
	// request. 0 means DefaultPatience.
	Patience time.Duration
	// Handle answers a request, on a goroutine of its own; nil knows no method. It owns m's files; the answer's are closed once
	// they are sent. ctx is done when the request is cancelled (then the answer is due at once) and when the connection has ended.
	Handle func(ctx context.Context, method string, m Message) (Message, error)
	// Event takes an event, in the order sent; nil ignores all. It is called on the reading goroutine: it must not block or call.
	// It owns m's files. An error drops the peer with its words.
	Event func(name string, m Message) error
	// Gone is called once, on the reading goroutine, after the last handler has returned, with why the connection ended.
	Gone func(error)
}

// A Conn is one end of a connection. Its methods may be called from any goroutine.
type Conn struct {
	cfg     Config
	conn    *net.UnixConn
	raw     syscall.RawConn
	version uint32
	ctx     context.Context // of handlers
	cancel  context.CancelCauseFunc
	slots   chan struct{} // one for each call without an answer
	sending chan struct{} // who holds it may send
	ended   chan struct{} // closed when err is set
	done    chan struct{} // closed when no goroutine is left

	handlers sync.WaitGroup

	mu      sync.Mutex // guards what follows; held for no call to anything outside
	err     error
	lastID  uint64                        // ours
	calls   map[uint64]chan answer        // nil for grease: nobody waits, and it must be unsupported
	serving map[uint64]context.CancelFunc // theirs, without an answer
}

type answer struct {
	Message
	err error
}

// Connect takes conn, a SOCK_SEQPACKET connection that this end made, says hello and waits for the welcome, no longer than ctx or
// cfg.Patience. The Conn owns conn; on an error it is closed. An *Error says that the other end refused.
func Connect(ctx context.Context, conn *net.UnixConn, cfg Config) (*Conn, error) {
	return open(ctx, conn, cfg, (*Conn).greet)
}

// Accept is Connect for the end that was connected to: it waits for the hello and welcomes or refuses it.
func Accept(ctx context.Context, conn *net.UnixConn, cfg Config) (*Conn, error) {
	return open(ctx, conn, cfg, (*Conn).welcome)
}

func open(ctx context.Context, conn *net.UnixConn, cfg Config, shake func(*Conn, []byte) error) (*Conn, error) {
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	fail := func(err error) (*Conn, error) {
		conn.Close()
		return nil, fmt.Errorf("rpc %s: %w", cfg.Protocol, err)
	}
	if n := conn.LocalAddr().Network(); n != "unixpacket" {
		return fail(fmt.Errorf("the socket is %s, not a unix SOCK_SEQPACKET", n))
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return fail(err)
	}
	c := &Conn{
		cfg: cfg, conn: conn, raw: raw, slots: make(chan struct{}, MaxPending), sending: make(chan struct{}, 1),
		ended: make(chan struct{}), done: make(chan struct{}),
		calls: map[uint64]chan answer{}, serving: map[uint64]context.CancelFunc{},
	}
	conn.SetReadDeadline(time.Now().Add(cfg.Patience))
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	buf := make([]byte, MaxPacket)
	err = shake(c, buf)
	if !stop() || ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("the other end says nothing for %v", cfg.Patience)
	}
	if err != nil {
		return fail(err)
	}
	conn.SetReadDeadline(time.Time{})
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	go c.read(buf)
	return c, nil
}

// Version is what both ends speak.
func (c *Conn) Version() uint32 { return c.version }

// Done is closed when the connection has ended, every handler has returned and Gone was called.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why the connection ended: io.EOF if the peer closed it, ErrClosed if Close did; nil while it lasts.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and waits for its handlers. It must not be called from a handler, Event or Gone.
func (c *Conn) Close() {
	c.fail(ErrClosed)
	<-c.done
}

// Drop ends the connection for what the peer did: why says it, and is told to it. It does not wait.
func (c *Conn) Drop(why error) { c.end(why, true) }

// fail ends the connection without a word.
func (c *Conn) fail(why error) { c.end(why, false) }

// end ends the connection; the first reason stays, and what the peer does when it is told comes after it.
func (c *Conn) end(why error, tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = why
	close(c.ended)
	c.cancel(why)
	if tell {
		_ = c.refuse(why.Error())
	}
	c.conn.Close() // does not block: the descriptor is in the poller
}

// Call sends a request and returns its answer. m's files stay the caller's. When ctx is done before the answer, the peer is told
// and owes it at once: Call returns what it says, or the peer is dropped when it takes longer than Config.Patience. So an error
// that is not the peer's own says that the connection is gone or that the request was never sent.
//
// Errors are *Errors (what the peer answered), ErrUnsupported, ctx's cause (it was not sent), or why the connection ended.
func (c *Conn) Call(ctx context.Context, method string, m Message) (Message, error) {
	select {
	case c.slots <- struct{}{}:
	case <-c.ended:
		return Message{}, c.Err()
	case <-ctx.Done():
		return Message{}, context.Cause(ctx)
	}
	defer func() { <-c.slots }()
	ch := make(chan answer, 1)
	id, err := c.request(ctx, method, m, ch)
	if err != nil {
		return Message{}, err
	}
	select {
	case a := <-ch:
		return a.Message, a.err
	case <-c.ended:
	case <-ctx.Done():
		c.await(id, ch)
	}
	select {
	case a := <-ch:
		return a.Message, a.err
	default:
		return Message{}, c.Err()
	}
}

// await tells the peer that the request is cancelled and waits until there is an answer in ch or the connection has ended.
func (c *Conn) await(id uint64, ch chan answer) {
	late := time.AfterFunc(c.cfg.Patience, func() {
		c.Drop(fmt.Errorf("does not answer: a cancelled request is %v old", c.cfg.Patience))
	})
	defer late.Stop()
	if c.lock(context.Background()) == nil {
		// An error here is the connection's end.
		_ = c.write(context.Background(), &rpcpb.Packet{Kind: &rpcpb.Packet_Cancel{Cancel: &rpcpb.Cancel{Id: id}}}, nil)
		c.unlock()
	}
	select {
	case a := <-ch:
		ch <- a
	case <-c.ended:
	}
}

// request sends a request whose answer goes to ch.
func (c *Conn) request(ctx context.Context, method string, m Message, ch chan answer) (uint64, error) {
	body, long, files, err := pack(m)
	if err != nil {
		return 0, err
	}
	defer closeLong(long, files)
	if err := c.lock(ctx); err != nil {
		return 0, err
	}
	defer c.unlock()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, c.Err()
	}
	c.lastID++
	id := c.lastID
	c.calls[id] = ch
	c.mu.Unlock()
	err = c.write(ctx, &rpcpb.Packet{Kind: &rpcpb.Packet_Request{
		Request: &rpcpb.Request{Id: id, Method: method, Body: body, LongBody: long},
	}}, files)
	if err != nil {
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
	}
	return id, err
}

// Notify sends an event. m's files stay the caller's. Errors are ctx's cause (it was not sent) or why the connection ended.
func (c *Conn) Notify(ctx context.Context, name string, m Message) error {
	body, long, files, err := pack(m)
	if err != nil {
		return err
	}
	defer closeLong(long, files)
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	return c.write(ctx, &rpcpb.Packet{Kind: &rpcpb.Packet_Event{
		Event: &rpcpb.Event{Name: name, Body: body, LongBody: long},
	}}, files)
}

// pack puts a body that is too long for a packet into a memfd, the first of files.
func pack(m Message) (body []byte, long uint64, files []*os.File, err error) {
	if len(m.Files) > MaxFDs {
		return nil, 0, nil, &Error{
			Why: capabilities.Invalid, Text: fmt.Sprintf("%d descriptors; a message carries no more than %d", len(m.Files), MaxFDs),
		}
	}
	if len(m.Body) <= MaxInline {
		return m.Body, 0, m.Files, nil
	}
	f, err := memfd.New("body", m.Body)
	if err != nil {
		return nil, 0, nil, err
	}
	return nil, uint64(len(m.Body)), append([]*os.File{f}, m.Files...), nil
}

// closeLong closes what pack made.
func closeLong(long uint64, files []*os.File) {
	if long > 0 {
		files[0].Close()
	}
}

// lock takes the right to send.
func (c *Conn) lock(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case c.sending <- struct{}{}:
		return nil
	case <-c.ended:
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Conn) unlock() { <-c.sending }

// write sends one packet, under lock. A peer that does not read in time is dropped; ctx may end the waiting before. Where the
// peer has closed, the reader learns why.
func (c *Conn) write(ctx context.Context, p *rpcpb.Packet, files []*os.File) error {
	b, err := proto.Marshal(p)
	if err != nil {
		return &Error{Why: capabilities.Invalid, Text: err.Error()} // a string that is not UTF-8
	}
	if len(b) > MaxPacket {
		return &Error{Why: capabilities.Invalid, Text: fmt.Sprintf("a packet of %d bytes; %d is the most", len(b), MaxPacket)}
	}
	err = withFDs(files, make([]int, 0, len(files)), func(fds []int) error { return c.transmit(ctx, b, fds) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET):
		// Its last words may still be unread.
		c.conn.SetReadDeadline(time.Now().Add(c.cfg.Patience))
		<-c.ended
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.fail(fmt.Errorf("does not read: a packet could not be sent for %v", c.cfg.Patience))
	case errors.Is(err, net.ErrClosed):
		<-c.ended
	default:
		return err // ours: a closed file, ETOOMANYREFS, ENOMEM
	}
	return c.Err()
}

// transmit is write's system call.
func (c *Conn) transmit(ctx context.Context, b []byte, fds []int) error {
	var serr error
	try := func(fd uintptr) bool {
		serr = sock.Send(int(fd), b, fds...)
		return !errors.Is(serr, syscall.EAGAIN)
	}
	// Nearly always there is room, and no clock is needed.
	if err := c.raw.Write(func(fd uintptr) bool { try(fd); return true }); err != nil || !errors.Is(serr, syscall.EAGAIN) {
		return cmp.Or(err, serr)
	}
	c.conn.SetWriteDeadline(time.Now().Add(c.cfg.Patience))
	set := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(set)
	})
	err := c.raw.Write(try)
	if !stop() {
		<-set // or it would be the next packet's deadline
	}
	c.conn.SetWriteDeadline(time.Time{})
	return cmp.Or(err, serr)
}

// withFDs calls f with the descriptors of files, none of which is closed meanwhile.
func withFDs(files []*os.File, fds []int, f func([]int) error) error {
	if len(files) == 0 {
		return f(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = withFDs(files[1:], append(fds, int(fd)), f) }); err != nil {
		return err
	}
	return ferr
}

// receive returns the next packet and its descriptors.
func (c *Conn) receive(buf []byte) (*rpcpb.Packet, []*os.File, error) {
	var n int
	var fds []int
	var rerr error
	for range 2 {
		if err := c.raw.Read(func(fd uintptr) bool {
			n, fds, rerr = sock.Recv(int(fd), buf, min(c.cfg.MaxFDs, MaxFDs)+1)
			return !errors.Is(rerr, syscall.EAGAIN)
		}); errors.Is(err, os.ErrDeadlineExceeded) && c.ctx != nil {
			return nil, nil, io.EOF // write's deadline: the peer has closed
		} else if err != nil {
			return nil, nil, err
		}
		// The peer closed without having read all. The kernel says that first, and then what the peer had sent before.
		if !errors.Is(rerr, syscall.ECONNRESET) {
			break
		}
	}
	switch {
	case errors.Is(rerr, syscall.ECONNRESET):
		return nil, nil, io.EOF
	case errors.Is(rerr, sock.ErrTruncated):
		return nil, nil, &violation{fmt.Errorf("sends a packet of more than %d bytes or %d descriptors, or than can be opened here",
			MaxPacket, c.cfg.MaxFDs+1)}
	case rerr != nil:
		return nil, nil, rerr
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	p, err := parse(buf[:n], len(fds), max(c.cfg.MaxBody, MaxInline))
	if err == nil && len(files) > c.cfg.MaxFDs && !hasLong(p) {
		err = fmt.Errorf("sends %d descriptors with a message; %d is the most", len(files), c.cfg.MaxFDs)
	}
	if err != nil {
		Message{Files: files}.Close()
		return nil, nil, &violation{err}
	}
	return p, files, nil
}

// A violation is a broken rule.
type violation struct{ error }

func (v *violation) Unwrap() error { return v.error }

func hasLong(p *rpcpb.Packet) bool {
	switch k := p.Kind.(type) {
	case *rpcpb.Packet_Request:
		return k.Request.LongBody > 0
	case *rpcpb.Packet_Answer:
		return k.Answer.LongBody > 0
	case *rpcpb.Packet_Event:
		return k.Event.LongBody > 0
	}
	return false
}

// unpack is the message of m, a body and the descriptors that came with it.
func unpack(m bodied, files []*os.File) (Message, error) {
	if m.GetLongBody() == 0 {
		return Message{Body: m.GetBody(), Files: files}, nil
	}
	body, err := memfd.Read(files[0], int(m.GetLongBody()))
	files[0].Close()
	msg := Message{Body: body, Files: files[1:]}
	if err != nil {
		msg.Close()
		return Message{}, fmt.Errorf("sends a long body that is to be refused: %w", err)
	}
	return msg, nil
}

// read takes packets until the connection ends, and ends it.
func (c *Conn) read(buf []byte) {
	defer close(c.done)
	if err := c.take(buf); errors.As(err, new(*violation)) {
		c.Drop(err)
	} else {
		c.fail(err)
	}
	c.handlers.Wait()
	if c.cfg.Gone != nil {
		c.cfg.Gone(c.Err())
	}
}

func (c *Conn) take(buf []byte) error {
	var theirs uint64 // the last id
	// Of the window: how many packets, how many may be, since when.
	var unasked, may uint64
	var since time.Time
	requests := func() uint64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.lastID
	}
	ours := requests()
	for {
		p, files, err := c.receive(buf)
		if err != nil {
			return err
		}
		switch k := p.Kind.(type) {
		case *rpcpb.Packet_Request:
			if k.Request.Id <= theirs {
				err = fmt.Errorf("sends request %d after request %d", k.Request.Id, theirs)
				break
			}
			theirs = k.Request.Id
			may += UnaskedEach
			err = c.accept(k.Request, files)
			files = nil
		case *rpcpb.Packet_Answer:
			err = c.answered(k.Answer, files)
			files = nil
		case *rpcpb.Packet_Refusal:
			return fromWire(k.Refusal)
		case *rpcpb.Packet_Hello, *rpcpb.Packet_Welcome:
			err = errors.New("greets a second time")
		default:
			if now := time.Now(); now.Sub(since) > UnaskedWindow {
				since, unasked, may, ours = now, 0, MaxUnasked, requests()
			}
			if unasked++; unasked > may && unasked > may+UnaskedEach*(requests()-ours) {
				err = fmt.Errorf("sends more than %d packets within %v that nobody asked for", MaxUnasked, UnaskedWindow)
				break
			}
			err = c.unasked(p, files)
			files = nil
		}
		if err != nil {
			Message{Files: files}.Close()
			return &violation{err}
		}
	}
}

// unasked takes an event, a cancellation, or what is not known.
func (c *Conn) unasked(p *rpcpb.Packet, files []*os.File) error {
	switch k := p.Kind.(type) {
	case *rpcpb.Packet_Event:
		m, err := unpack(k.Event, files)
		if err != nil || c.cfg.Event == nil {
			m.Close()
			return err
		}
		return c.cfg.Event(k.Event.Name, m)
	case *rpcpb.Packet_Cancel:
		c.mu.Lock()
		cancel := c.serving[k.Cancel.Id]
		c.mu.Unlock()
		if cancel != nil { // else it has been answered meanwhile
			cancel()
		}
	}
	return nil
}

// accept has a request handled.
func (c *Conn) accept(r *rpcpb.Request, files []*os.File) error {
	m, err := unpack(r, files)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.mu.Lock()
	n := len(c.serving)
	if n <= MaxPending { // and one for grease
		c.serving[r.Id] = cancel
	}
	c.mu.Unlock()
	if n > MaxPending {
		cancel()
		m.Close()
		return fmt.Errorf("has more than %d requests without an answer", MaxPending)
	}
	c.handlers.Go(func() {
		defer cancel()
		c.handle(ctx, r.Id, r.Method, m)
	})
	return nil
}

// handle answers a request.
func (c *Conn) handle(ctx context.Context, id uint64, method string, m Message) {
	a := &rpcpb.Answer{Id: id}
	var out Message
	err := ErrUnsupported
	if c.cfg.Handle != nil {
		out, err = c.cfg.Handle(ctx, method, m)
	} else {
		m.Close()
	}
	defer out.Close()
	var files []*os.File
	if err == nil {
		a.Body, a.LongBody, files, err = pack(out)
		defer closeLong(a.LongBody, files)
	}
	switch {
	case errors.Is(err, ErrUnsupported):
		a.Unsupported = true
	case err != nil:
		a.Error = toWire(err)
	}
	if c.lock(context.Background()) != nil {
		return
	}
	defer c.unlock()
	// Before it is sent: the peer may send its next request as soon as it has it.
	c.mu.Lock()
	delete(c.serving, id)
	c.mu.Unlock()
	if err := c.write(context.Background(), &rpcpb.Packet{Kind: &rpcpb.Packet_Answer{Answer: a}}, files); err != nil {
		c.fail(fmt.Errorf("answer %s: %w", method, err)) // without effect if it is the connection's end
	}
}

// answered gives an answer to who waits for it.
func (c *Conn) answered(a *rpcpb.Answer, files []*os.File) error {
	m, err := unpack(a, files)
	if err != nil {
		return err
	}
	got := answer{Message: m}
	switch {
	case a.Unsupported:
		got.err = ErrUnsupported
	case a.Error != nil:
		got.err = fromWire(a.Error)
	}
	if got.err != nil {
		m.Close()
		got.Message = Message{}
	}
	c.mu.Lock()
	ch, asked := c.calls[a.Id]
	delete(c.calls, a.Id)
	gone := c.err != nil
	if ch != nil && !gone {
		ch <- got // has room; and Call looks into it after it has seen the end
	}
	c.mu.Unlock()
	if ch != nil && !gone {
		return nil
	}
	got.Close()
	switch {
	case !asked:
		return fmt.Errorf("answers request %d, which has none to come", a.Id)
	case ch == nil && !a.Unsupported:
		return errors.New("answers a request for a method that there is not")
	}
	return nil
}

// begin sends the first packet, one without meaning and a request that nobody can know. A peer that has closed has said why.
func (c *Conn) begin(first *rpcpb.Packet) error {
	c.lastID = 1
	c.calls[c.lastID] = nil
	request := &rpcpb.Packet{Kind: &rpcpb.Packet_Request{Request: &rpcpb.Request{Id: c.lastID, Method: greaseMethod()}}}
	for _, p := range []*rpcpb.Packet{first, {}, request} {
		b, err := proto.Marshal(p)
		if err == nil {
			err = c.transmit(context.Background(), grease(b), nil)
		}
		if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			return err
		}
	}
	return nil
}

// greet is the handshake of who connected.
func (c *Conn) greet(buf []byte) error {
	if err := c.begin(&rpcpb.Packet{Kind: &rpcpb.Packet_Hello{
		Hello: &rpcpb.Hello{Protocol: c.cfg.Protocol, Versions: append([]uint32{greaseVersion()}, c.cfg.Versions...)},
	}}); err != nil {
		return err
	}
	p, err := c.first(buf)
	if err != nil {
		return err
	}
	w, ok := p.Kind.(*rpcpb.Packet_Welcome)
	if !ok {
		return c.refuse("sends something before its welcome")
	}
	if v, ok := choose(c.cfg.Versions, []uint32{w.Welcome.Version}); ok {
		c.version = v
		return nil
	}
	return c.refuse(fmt.Sprintf("welcomes with version %d; this end speaks %v", w.Welcome.Version, c.cfg.Versions))
}

// welcome is the handshake of who was connected to.
func (c *Conn) welcome(buf []byte) error {
	p, err := c.first(buf)
	if err != nil {
		return err
	}
	h, ok := p.Kind.(*rpcpb.Packet_Hello)
	if !ok {
		return c.refuse("sends something before its hello")
	}
	if h.Hello.Protocol != c.cfg.Protocol {
		return c.refuse(fmt.Sprintf("asks for protocol %q; this is %s", cut(h.Hello.Protocol), c.cfg.Protocol))
	}
	if c.version, ok = choose(c.cfg.Versions, h.Hello.Versions); !ok {
		return c.refuse(fmt.Sprintf("no version of %s in common: this end speaks %v", c.cfg.Protocol, c.cfg.Versions))
	}
	return c.begin(&rpcpb.Packet{Kind: &rpcpb.Packet_Welcome{Welcome: &rpcpb.Welcome{Version: c.version}}})
}

// first is the first packet that is known.
func (c *Conn) first(buf []byte) (*rpcpb.Packet, error) {
	for range 16 {
		p, files, err := c.receive(buf)
		if errors.As(err, new(*violation)) {
			return nil, c.refuse(err.Error())
		}
		if err != nil {
			return nil, err
		}
		Message{Files: files}.Close()
		switch k := p.Kind.(type) {
		case nil:
		case *rpcpb.Packet_Refusal:
			return nil, fromWire(k.Refusal)
		default:
			return p, nil
		}
	}
	return nil, c.refuse("sends nothing that is known")
}

// Refuse tells who made conn, a SOCK_SEQPACKET connection, why it is not spoken to, if there is room for that, and closes it.
func Refuse(conn *net.UnixConn, why *Error) {
	defer conn.Close()
	if raw, err := conn.SyscallConn(); err == nil {
		refuse(raw, why)
	}
}

// refuse tells the peer why it is not spoken to, if there is room for the packet, and returns that.
func (c *Conn) refuse(why string) error {
	e := &Error{Why: capabilities.Invalid, Text: why}
	refuse(c.raw, e)
	return e
}

func refuse(raw syscall.RawConn, e *Error) {
	if b, err := proto.Marshal(&rpcpb.Packet{Kind: &rpcpb.Packet_Refusal{Refusal: toWire(e)}}); err == nil {
		// Not by raw.Write, which would wait for who waits for room.
		_ = raw.Control(func(fd uintptr) { _ = sock.Send(int(fd), b) })
	}
}
