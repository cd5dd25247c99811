package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/memfd"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/proto/rpcpb"
)

// A liar is a peer without manners: it sends what a test says.
type liar struct {
	t    *testing.T
	conn *net.UnixConn
}

// send sends one packet; false if the other end has closed.
func (l *liar) send(b []byte, files ...*os.File) bool {
	l.t.Helper()
	raw, err := l.conn.SyscallConn()
	if err != nil {
		l.t.Fatal(err)
	}
	var serr error
	err = withFDs(files, nil, func(fds []int) error {
		return raw.Write(func(fd uintptr) bool {
			serr = sock.Send(int(fd), b, fds...)
			return !errors.Is(serr, syscall.EAGAIN)
		})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	if errors.Is(serr, syscall.EPIPE) || errors.Is(serr, syscall.ECONNRESET) {
		return false
	}
	if serr != nil {
		l.t.Fatal(serr)
	}
	return true
}

func (l *liar) packet(p *rpcpb.Packet, files ...*os.File) bool {
	l.t.Helper()
	return l.send(packet(l.t, p), files...)
}

func packet(t testing.TB, p *rpcpb.Packet) []byte {
	t.Helper()
	b, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func request(r *rpcpb.Request) *rpcpb.Packet {
	return &rpcpb.Packet{Kind: &rpcpb.Packet_Request{Request: r}}
}

func reply(a *rpcpb.Answer) *rpcpb.Packet {
	return &rpcpb.Packet{Kind: &rpcpb.Packet_Answer{Answer: a}}
}

func event(e *rpcpb.Event) *rpcpb.Packet { return &rpcpb.Packet{Kind: &rpcpb.Packet_Event{Event: e}} }

// refusal is the last word of the other end, after whatever it says before.
func (l *liar) refusal() string {
	l.t.Helper()
	l.conn.SetReadDeadline(time.Now().Add(bound))
	buf := make([]byte, MaxPacket)
	for range 100_000 {
		n, err := l.conn.Read(buf)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // what was sent before comes next
		}
		if err != nil || n == 0 {
			return ""
		}
		p := new(rpcpb.Packet)
		if err := proto.Unmarshal(buf[:n], p); err != nil {
			l.t.Fatal(err)
		}
		if r := p.GetRefusal(); r != nil {
			return r.Message
		}
	}
	l.t.Fatal("it goes on and on")
	return ""
}

// against is a connection of ours whose peer is a liar that has shaken hands.
func against(t *testing.T, cfg Config) (*Conn, *liar) {
	t.Helper()
	a, b := sockets(t)
	cfg.Protocol, cfg.Versions = "test", []uint32{1}
	l := &liar{t, b}
	l.packet(&rpcpb.Packet{Kind: &rpcpb.Packet_Welcome{Welcome: &rpcpb.Welcome{Version: 1}}})
	c, err := Connect(t.Context(), a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, l
}

func sealed(t *testing.T, size int) *os.File {
	t.Helper()
	f, err := memfd.New("test", make([]byte, size))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func descriptors(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// TestLiars: who breaks a rule is dropped with a clear word, here and there, and leaves nothing.
func TestLiars(t *testing.T) {
	f := file(t, "plain")
	files := func(n int) []*os.File { return slices.Repeat([]*os.File{f}, n) }
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, test := range []struct {
		name, want string
		lie        func(l *liar)
	}{
		{"no message", "what is no message", func(l *liar) { l.send([]byte("hello")) }},
		{"half a message", "what is no message", func(l *liar) { l.send([]byte{0x22, 0x7f, 0x08}) }},
		{"not UTF-8", "what is no message", func(l *liar) { l.send([]byte{0x22, 0x05, 0x08, 0x01, 0x12, 0x01, 0xff}) }},
		{"unknown answer", "answers request 77, which has none to come", func(l *liar) { l.packet(reply(&rpcpb.Answer{Id: 77})) }},
		{"answer twice", "answers request 1, which has none to come", func(l *liar) {
			l.packet(reply(&rpcpb.Answer{Id: 1, Unsupported: true}))
			l.packet(reply(&rpcpb.Answer{Id: 1, Unsupported: true}))
		}},
		{"answer 0", "answers request 0", func(l *liar) { l.packet(reply(&rpcpb.Answer{})) }},
		{"knows everything", "a method that there is not", func(l *liar) {
			l.packet(reply(&rpcpb.Answer{Id: 1, Body: []byte("yes")}))
		}},
		{"request 0", "without id or method", func(l *liar) { l.packet(request(&rpcpb.Request{Method: "echo"})) }},
		{"no method", "without id or method", func(l *liar) { l.packet(request(&rpcpb.Request{Id: 1})) }},
		{"id again", "request 5 after request 5", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 5, Method: "echo"}))
			l.packet(request(&rpcpb.Request{Id: 5, Method: "echo"}))
		}},
		{"id backwards", "request 4 after request 5", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 5, Method: "echo"}))
			l.packet(request(&rpcpb.Request{Id: 4, Method: "echo"}))
		}},
		{"event without a name", "an event without a name", func(l *liar) { l.packet(event(&rpcpb.Event{})) }},
		{"hello again", "greets a second time", func(l *liar) {
			l.packet(&rpcpb.Packet{Kind: &rpcpb.Packet_Hello{Hello: &rpcpb.Hello{}}})
		}},
		{"welcome again", "greets a second time", func(l *liar) {
			l.packet(&rpcpb.Packet{Kind: &rpcpb.Packet_Welcome{Welcome: &rpcpb.Welcome{}}})
		}},
		{"huge packet", "more than 65536 bytes or 3 descriptors", func(l *liar) { l.send(make([]byte, MaxPacket+1)) }},
		{"many descriptors", "more than 65536 bytes or 3 descriptors", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo"}), files(4)...)
		}},
		{"as many as the kernel takes", "more than 65536 bytes or 3 descriptors", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo"}), files(sock.MaxFDs)...)
		}},
		{"one descriptor more", "3 descriptors with a message; 2 is the most", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo"}), files(3)...)
		}},
		{"descriptors with a cancellation", "descriptors with a packet that has none", func(l *liar) {
			l.packet(&rpcpb.Packet{Kind: &rpcpb.Packet_Cancel{Cancel: &rpcpb.Cancel{Id: 1}}}, f)
		}},
		{"descriptors with nothing", "descriptors with a packet that has none", func(l *liar) { l.send([]byte{0x7a, 0x01, 0x00}, f) }},
		{"descriptors with an unasked answer", "answers request 9", func(l *liar) { l.packet(reply(&rpcpb.Answer{Id: 9}), f) }},
		{"long body without a descriptor", "a long body without its descriptor", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo", LongBody: 10}))
		}},
		{"two bodies", "two bodies", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo", Body: []byte("x"), LongBody: 10}), sealed(l.t, 10))
		}},
		{"body too long", "a body of 1048577 bytes; 1048576 is the most", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo", LongBody: 1<<20 + 1}), sealed(l.t, 1<<20+1))
		}},
		{"body of 2^64-1 bytes", "a body of 18446744073709551615 bytes", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo", LongBody: 1<<64 - 1}), sealed(l.t, 1))
		}},
		{"body shorter than said", "unexpected EOF", func(l *liar) {
			l.packet(request(&rpcpb.Request{Id: 1, Method: "echo", LongBody: 11}), sealed(l.t, 10), f)
		}},
		{"body in a file", "not a sealed memfd", func(l *liar) { l.packet(event(&rpcpb.Event{Name: "e", LongBody: 5}), f) }},
		{"body in a pipe that nobody writes", "not a sealed memfd", func(l *liar) {
			l.packet(event(&rpcpb.Event{Name: "e", LongBody: 5}), r)
		}},
		{"event that the protocol forbids", "a bad event", func(l *liar) { l.packet(event(&rpcpb.Event{Name: "bad"}), f) }},
		{"flood of requests", "more than 1024 requests without an answer", func(l *liar) {
			for i := range uint64(MaxPending + 2) {
				if !l.packet(request(&rpcpb.Request{Id: i + 1, Method: "wait"}), f) {
					break
				}
			}
		}},
		{"flood of events", "more than 20000 packets", func(l *liar) {
			b := packet(l.t, event(&rpcpb.Event{Name: "e"}))
			for range 2 * MaxUnasked {
				if !l.send(b, f) {
					break
				}
			}
		}},
		{"flood of nothing", "more than 20000 packets", func(l *liar) {
			for range 2 * MaxUnasked {
				if !l.send([]byte{0x7a, 0x01, 0x00}) {
					break
				}
			}
		}},
		{"flood of cancellations", "more than 20000 packets", func(l *liar) {
			b := packet(l.t, &rpcpb.Packet{Kind: &rpcpb.Packet_Cancel{Cancel: &rpcpb.Cancel{Id: 1}}})
			for range 2 * MaxUnasked {
				if !l.send(b) {
					break
				}
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := descriptors(t)
			c, l := against(t, Config{
				MaxFDs: 2, MaxBody: 1 << 20,
				Handle: func(ctx context.Context, method string, m Message) (Message, error) {
					if method == "wait" {
						<-ctx.Done()
					}
					return m, nil
				},
				Event: func(name string, m Message) error {
					m.Close()
					if name == "bad" {
						return errors.New("sends a bad event")
					}
					return nil
				},
			})
			waits := make(chan error)
			go func() {
				_, err := c.Call(context.Background(), "never", Message{})
				waits <- err
			}()
			test.lie(l)
			select {
			case <-c.Done():
			case <-time.After(bound):
				t.Fatal("it was not dropped")
			}
			if err := c.Err(); !strings.Contains(err.Error(), test.want) {
				t.Errorf("dropped for %q, want %q", err, test.want)
			}
			if err := <-waits; err != c.Err() {
				t.Errorf("a call that waited: %v", err)
			}
			// A flood may have filled the socket, so that there was no room for the last word.
			if got := l.refusal(); !strings.Contains(got, test.want) && !strings.Contains(test.name, "flood") {
				t.Errorf("it was told %q, want %q", got, test.want)
			}
			l.conn.Close()
			// The test's own memfds are closed after it.
			if n := descriptors(t); n > before+1 {
				t.Errorf("%d descriptors, %d before", n, before)
			}
		})
	}
}

// TestTruncatedControlData: descriptors that this process has no room for are lost, and the peer with them; none stays.
func TestTruncatedControlData(t *testing.T) {
	c, l := against(t, Config{MaxFDs: 16})
	f := file(t, "")
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = uint64(descriptors(t)) + 4
	b := packet(t, request(&rpcpb.Request{Id: 1, Method: "x"}))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	l.send(b, slices.Repeat([]*os.File{f}, 16)...)
	<-c.Done()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := c.Err(); !strings.Contains(err.Error(), "than can be opened here") {
		t.Errorf("dropped for %v", err)
	}
}

// What is not known is not a lie.
func TestUnknownIsIgnored(t *testing.T) {
	got := make(chan string, 10)
	c, l := against(t, Config{Handle: echo, Event: func(name string, m Message) error { got <- name; return nil }})
	l.send(grease(nil))
	l.send([]byte{0xfa, 0x3f, 0x03, 'a', 'b', 'c'})                                                   // field 1023
	l.packet(&rpcpb.Packet{Kind: &rpcpb.Packet_Cancel{Cancel: &rpcpb.Cancel{Id: 99}}})                // long answered
	l.send(append(packet(t, event(&rpcpb.Event{Name: "e"})), 0x7a, 0x01, 0x00))                       // and beside what is known
	l.send([]byte{0x32, 0x06, 0x0a, 0x01, 'e', 0x7a, 0x01, 0x00})                                     // and within
	l.send(append(packet(t, request(&rpcpb.Request{Id: 3, Method: "echo"})), 0xfd, 0x3f, 1, 2, 3, 4)) // fixed32
	for range 2 {
		select {
		case name := <-got:
			if name != "e" {
				t.Errorf("event %q", name)
			}
		case <-time.After(bound):
			t.Fatal("no event")
		}
	}
	buf := make([]byte, MaxPacket)
	for {
		l.conn.SetReadDeadline(time.Now().Add(bound))
		n, err := l.conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		p := new(rpcpb.Packet)
		if err := proto.Unmarshal(buf[:n], p); err != nil {
			t.Fatal(err)
		}
		if a := p.GetAnswer(); a != nil {
			if a.Id != 3 || a.Unsupported || a.Error != nil {
				t.Errorf("answer %v", a)
			}
			break
		}
	}
	if err := c.Err(); err != nil {
		t.Errorf("dropped for %v", err)
	}
}

func TestLyingWelcome(t *testing.T) {
	for _, test := range []struct {
		name, want string
		b          []byte
	}{
		{
			"version", "welcomes with version 9; this end speaks [1]",
			packet(t, &rpcpb.Packet{Kind: &rpcpb.Packet_Welcome{Welcome: &rpcpb.Welcome{Version: 9}}}),
		},
		{"event first", "something before its welcome", packet(t, event(&rpcpb.Event{Name: "e"}))},
		{"no message", "what is no message", []byte("ssh-2.0")},
		{"refusal", "go away", packet(t, &rpcpb.Packet{Kind: &rpcpb.Packet_Refusal{Refusal: &rpcpb.Error{Message: "go away"}}})},
		{"nothing that is known", "nothing that is known", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := sockets(t)
			l := &liar{t, b}
			if test.b != nil {
				l.send(test.b)
			} else {
				for range 20 {
					l.send(grease(nil))
				}
			}
			_, err := Connect(t.Context(), a, Config{Protocol: "test", Versions: []uint32{1}})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if got := l.refusal(); test.name != "refusal" && !strings.Contains(got, test.want) {
				t.Errorf("it was told %q", got)
			}
		})
	}
}

func TestPeerThatDoesNotRead(t *testing.T) {
	c, _ := against(t, Config{Patience: 50 * time.Millisecond})
	for {
		if err := c.Notify(t.Context(), "e", Message{Body: make([]byte, MaxInline)}); err != nil {
			if !strings.Contains(err.Error(), "does not read: a packet could not be sent for 50ms") {
				t.Error(err)
			}
			return
		}
	}
}

// A context ends the waiting for room, and nothing else.
func TestSendIsCancelled(t *testing.T) {
	c, l := against(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	sent := 0
	for ; ; sent++ {
		if err := c.Notify(ctx, "e", Message{Body: make([]byte, MaxInline)}); err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
	}
	go func() {
		for l.conn.SetReadDeadline(time.Now().Add(bound)) == nil {
			if _, err := l.conn.Read(make([]byte, MaxPacket)); err != nil {
				return
			}
		}
	}()
	for range sent + 1 {
		if err := c.Notify(t.Context(), "e", Message{Body: make([]byte, MaxInline)}); err != nil {
			t.Fatalf("after a cancelled event: %v", err)
		}
	}
	c.Close()
}

func TestPeerThatDoesNotAnswer(t *testing.T) {
	c, l := against(t, Config{Patience: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // cancels the request that has come, after the hello
		for range 2 {
			_, _ = l.conn.Read(make([]byte, MaxPacket))
		}
		cancel()
	}()
	if _, err := c.Call(ctx, "x", Message{}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v", err)
	}
}

func TestPeerThatDies(t *testing.T) {
	c, l := against(t, Config{})
	l.conn.Close() // without having read the hello: the kernel says ECONNRESET first
	<-c.Done()
	if err := c.Err(); err != io.EOF {
		t.Errorf("%v", err)
	}
}

func TestLastWordsAreHeard(t *testing.T) {
	c, l := against(t, Config{})
	l.packet(&rpcpb.Packet{Kind: &rpcpb.Packet_Refusal{
		Refusal: &rpcpb.Error{Code: rpcpb.Code_CODE_DENIED, Message: "enough", Hint: "rest"},
	}})
	l.conn.Close()
	<-c.Done()
	var e *Error
	if !errors.As(c.Err(), &e) || *e != (Error{capabilities.Denied, "enough", "rest"}) {
		t.Errorf("%v", c.Err())
	}
}

// FuzzFrame: what parse takes means the same after it was written again, and with what nobody knows added; and no body is longer
// than allowed.
func FuzzFrame(f *testing.F) {
	for _, p := range []*rpcpb.Packet{
		{},
		{Kind: &rpcpb.Packet_Hello{Hello: &rpcpb.Hello{Protocol: "test", Versions: []uint32{1, greaseVersion()}}}},
		{Kind: &rpcpb.Packet_Welcome{Welcome: &rpcpb.Welcome{Version: 1}}},
		{Kind: &rpcpb.Packet_Refusal{Refusal: &rpcpb.Error{Code: 3, Message: "no", Hint: "yes"}}},
		request(&rpcpb.Request{Id: 1, Method: "m", Body: []byte("b")}),
		request(&rpcpb.Request{Id: 1, Method: "m", LongBody: 100_000}),
		reply(&rpcpb.Answer{Id: 1, Unsupported: true}),
		event(&rpcpb.Event{Name: "e", Body: []byte("b")}),
		{Kind: &rpcpb.Packet_Cancel{Cancel: &rpcpb.Cancel{Id: 300}}},
	} {
		f.Add(packet(f, p), 1)
	}
	const maxBody = 1 << 20
	f.Fuzz(func(t *testing.T, b []byte, nfds int) {
		p, err := parse(b, nfds, maxBody)
		if err != nil {
			return
		}
		for _, again := range [][]byte{packet(t, p), grease(bytes.Clone(b)), append(grease(nil), b...)} {
			q, err := parse(again, nfds, maxBody)
			if err != nil {
				t.Fatalf("%x was taken, %x was not: %v", b, again, err)
			}
			p, q := proto.CloneOf(p), proto.CloneOf(q)
			p.ProtoReflect().SetUnknown(nil)
			q.ProtoReflect().SetUnknown(nil)
			if !proto.Equal(p, q) {
				t.Fatalf("%v became %v", p, q)
			}
		}
		if hasLong(p) && nfds == 0 {
			t.Fatalf("%v without a descriptor", p)
		}
		for _, m := range []bodied{p.GetRequest(), p.GetAnswer(), p.GetEvent()} {
			if m.GetLongBody() > maxBody {
				t.Fatalf("%v was taken", p)
			}
		}
	})
}
