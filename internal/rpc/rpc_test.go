package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

// sockets are two connected ends.
func sockets(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	x, y, err := sock.Pair()
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	a, b = conn(x), conn(y)
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// connect joins two ends that speak protocol test, version 1.
func connect(t testing.TB, client, server Config) (c, s *Conn) {
	t.Helper()
	for _, cfg := range []*Config{&client, &server} {
		cfg.Protocol, cfg.Versions = "test", []uint32{1}
	}
	a, b := sockets(t)
	var wg sync.WaitGroup
	var cerr, serr error
	wg.Go(func() { c, cerr = Connect(t.Context(), a, client) })
	wg.Go(func() { s, serr = Accept(t.Context(), b, server) })
	wg.Wait()
	if err := errors.Join(cerr, serr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c, s
}

// echo answers with what it gets.
func echo(_ context.Context, method string, m Message) (Message, error) {
	switch method {
	case "echo":
		return m, nil
	case "fail":
		m.Close()
		return Message{}, &Error{Why: capabilities.Denied, Text: "not today", Hint: "tomorrow"}
	}
	m.Close()
	return Message{}, ErrUnsupported
}

func file(t testing.TB, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestBothWays(t *testing.T) {
	cfg := Config{Handle: echo, MaxFDs: MaxFDs, MaxBody: 1 << 20}
	c, s := connect(t, cfg, cfg)
	if c.Version() != 1 || s.Version() != 1 {
		t.Errorf("versions %d and %d", c.Version(), s.Version())
	}
	for _, conn := range []*Conn{c, s} {
		for _, size := range []int{0, 1, MaxInline, MaxInline + 1, 1 << 20} {
			for _, n := range []int{0, 1, 16, MaxFDs} {
				out := Message{Body: bytes.Repeat([]byte("x"), size), Files: slices.Repeat([]*os.File{file(t, "hello")}, n)}
				in, err := conn.Call(t.Context(), "echo", out)
				if err != nil {
					t.Fatalf("%d bytes, %d descriptors: %v", size, n, err)
				}
				if !bytes.Equal(in.Body, out.Body) || len(in.Files) != n {
					t.Errorf("%d bytes and %d descriptors became %d and %d", size, n, len(in.Body), len(in.Files))
				}
				for _, f := range in.Files {
					text := make([]byte, 5)
					if _, err := f.ReadAt(text, 0); err != nil || string(text) != "hello" {
						t.Errorf("a descriptor that came back: %q, %v", text, err)
					}
				}
				in.Close()
			}
		}
	}
}

func TestErrors(t *testing.T) {
	c, _ := connect(t, Config{}, Config{Handle: echo, MaxFDs: 1})
	_, err := c.Call(t.Context(), "fail", Message{})
	var e *Error
	if !errors.As(err, &e) || *e != (Error{capabilities.Denied, "not today", "tomorrow"}) {
		t.Errorf("error %#v", err)
	}
	if _, err := c.Call(t.Context(), "nonsense", Message{Files: []*os.File{file(t, "")}}); err != ErrUnsupported {
		t.Errorf("an unknown method: %v", err)
	}
	if _, err := c.Call(t.Context(), "\xff", Message{}); capabilities.CodeOf(err) != capabilities.Invalid {
		t.Errorf("a method that is not UTF-8: %v", err)
	}
	f := file(t, "")
	_, err = c.Call(t.Context(), "echo", Message{Files: slices.Repeat([]*os.File{f}, MaxFDs+1)})
	if capabilities.CodeOf(err) != capabilities.Invalid {
		t.Errorf("too many descriptors: %v", err)
	}
	f.Close()
	if _, err := c.Call(t.Context(), "echo", Message{Files: []*os.File{f}}); err == nil || c.Err() != nil {
		t.Errorf("a closed file: %v", err)
	}
	if _, err := c.Call(t.Context(), "echo", Message{Body: []byte("x")}); err != nil {
		t.Errorf("the connection did not survive: %v", err)
	}
}

func TestLongErrorsAreCut(t *testing.T) {
	c, _ := connect(t, Config{}, Config{Handle: func(_ context.Context, method string, _ Message) (Message, error) {
		if method != "x" {
			return Message{}, ErrUnsupported
		}
		return Message{}, errors.New(strings.Repeat("ü", 100_000) + "\xff")
	}})
	_, err := c.Call(t.Context(), "x", Message{})
	if want := strings.Repeat("ü", maxText/2); err == nil || err.Error() != want {
		t.Errorf("an error of %d bytes, want %d: %.100v", len(err.Error()), len(want), err)
	}
}

func TestEventsInOrder(t *testing.T) {
	got := make(chan string, 2000)
	c, _ := connect(t, Config{}, Config{MaxFDs: 1, MaxBody: 1 << 20, Event: func(name string, m Message) error {
		m.Close()
		got <- fmt.Sprint(name, len(m.Body), len(m.Files))
		return nil
	}})
	f := file(t, "")
	for i := range 1000 {
		if err := c.Notify(t.Context(), "e", Message{Body: make([]byte, i*100), Files: []*os.File{f}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		select {
		case g := <-got:
			if want := fmt.Sprint("e", i*100, 1); g != want {
				t.Fatalf("got %s, want %s", g, want)
			}
		case <-time.After(bound):
			t.Fatal("an event is missing")
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	cfg := Config{Handle: echo, MaxFDs: 4, MaxBody: 1 << 20}
	c, s := connect(t, cfg, cfg)
	f := file(t, "")
	var wg sync.WaitGroup
	for i := range 3 * MaxPending {
		conn := []*Conn{c, s}[i%2]
		wg.Go(func() {
			want := bytes.Repeat([]byte{byte(i)}, i*13%(40<<10))
			m, err := conn.Call(t.Context(), "echo", Message{Body: want, Files: slices.Repeat([]*os.File{f}, i%5)})
			if err != nil || !bytes.Equal(m.Body, want) || len(m.Files) != i%5 {
				t.Errorf("call %d: %d bytes, %d descriptors, %v", i, len(m.Body), len(m.Files), err)
			}
			m.Close()
		})
	}
	wg.Wait()
}

func TestCancel(t *testing.T) {
	began := make(chan struct{})
	c, _ := connect(t, Config{}, Config{Handle: func(ctx context.Context, method string, _ Message) (Message, error) {
		if method != "wait" {
			return Message{}, ErrUnsupported
		}
		close(began)
		<-ctx.Done()
		return Message{Body: []byte("as far as it came")}, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	m, err := c.Call(ctx, "wait", Message{})
	if err != nil || string(m.Body) != "as far as it came" {
		t.Errorf("%q, %v", m.Body, err)
	}
	if _, err := c.Call(ctx, "wait", Message{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a call with a cancelled context: %v", err)
	}
}

func TestCloseEndsAll(t *testing.T) {
	var gone error
	began, ended := make(chan struct{}), make(chan struct{})
	c, s := connect(t, Config{Gone: func(err error) { gone = err }}, Config{
		Handle: func(ctx context.Context, method string, _ Message) (Message, error) {
			if method != "wait" {
				return Message{}, ErrUnsupported
			}
			close(began)
			<-ctx.Done()
			close(ended)
			return Message{}, nil
		},
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Call(t.Context(), "wait", Message{}); !errors.Is(err, io.EOF) {
			t.Errorf("a call when the other end closes: %v", err)
		}
	})
	<-began
	s.Close()
	select {
	case <-ended:
	default:
		t.Error("Close returned before the handler")
	}
	wg.Wait()
	<-c.Done()
	if !errors.Is(gone, io.EOF) || c.Err() != gone || s.Err() != ErrClosed {
		t.Errorf("gone: %v, errors %v and %v", gone, c.Err(), s.Err())
	}
	if _, err := c.Call(t.Context(), "x", Message{}); !errors.Is(err, io.EOF) {
		t.Errorf("a call afterwards: %v", err)
	}
	if err := c.Notify(t.Context(), "x", Message{}); !errors.Is(err, io.EOF) {
		t.Errorf("an event afterwards: %v", err)
	}
}

// An answer's files that nobody takes any more are closed: leak.Run looks for them.
func TestAnswersAtTheEnd(t *testing.T) {
	for range 50 {
		c, s := connect(t, Config{MaxFDs: 8}, Config{Handle: echo, MaxFDs: 8})
		f := file(t, "")
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				m, err := c.Call(t.Context(), "echo", Message{Files: slices.Repeat([]*os.File{f}, 8)})
				if err == nil {
					m.Close()
				}
			})
		}
		wg.Go(s.Close)
		wg.Wait()
	}
}

func TestHandshakeRefuses(t *testing.T) {
	for _, test := range []struct {
		name           string
		client, server Config
		want           string
	}{
		{
			"protocol",
			Config{Protocol: "a", Versions: []uint32{1}},
			Config{Protocol: "b", Versions: []uint32{1}},
			`asks for protocol "a"; this is b`,
		},
		{
			"version",
			Config{Protocol: "a", Versions: []uint32{2, 3}},
			Config{Protocol: "a", Versions: []uint32{1}},
			"no version of a in common: this end speaks [1]",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := sockets(t)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := Accept(t.Context(), b, test.server); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("accept: %v", err)
				}
			})
			_, err := Connect(t.Context(), a, test.client)
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("connect: %v, want %q", err, test.want)
			}
			wg.Wait()
		})
	}
}

func TestHighestVersion(t *testing.T) {
	a, b := sockets(t)
	go func() {
		c, err := Connect(context.Background(), a, Config{Protocol: "a", Versions: []uint32{4, 1, 3}})
		if err == nil {
			c.Close()
		}
	}()
	s, err := Accept(t.Context(), b, Config{Protocol: "a", Versions: []uint32{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if s.Version() != 3 {
		t.Errorf("version %d", s.Version())
	}
}

func TestHandshakeIsBounded(t *testing.T) {
	a, _ := sockets(t)
	_, err := Connect(t.Context(), a, Config{Patience: time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "says nothing for 1ms") {
		t.Errorf("connect to the silent: %v", err)
	}
	_, b := sockets(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Accept(ctx, b, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("accept from the silent, cancelled: %v", err)
	}
}

func TestStreamsAreRefused(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = Connect(t.Context(), c.(*net.UnixConn), Config{})
	if err == nil || !strings.Contains(err.Error(), "not a unix SOCK_SEQPACKET") {
		t.Errorf("a stream: %v", err)
	}
}

func BenchmarkCall(b *testing.B) {
	cfg := Config{Handle: echo, MaxFDs: MaxFDs, MaxBody: 1 << 20}
	c, _ := connect(b, cfg, cfg)
	f := file(b, "")
	for _, n := range []int{0, 1, 16} {
		b.Run(fmt.Sprintf("descriptors=%d", n), func(b *testing.B) { call(b, c, Message{Files: slices.Repeat([]*os.File{f}, n)}) })
	}
	for _, size := range []int{100, 4 << 10, MaxInline, MaxInline + 1, 1 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) { call(b, c, Message{Body: make([]byte, size)}) })
	}
}

func call(b *testing.B, c *Conn, m Message) {
	b.ReportAllocs()
	b.SetBytes(int64(len(m.Body)))
	for b.Loop() {
		got, err := c.Call(b.Context(), "echo", m)
		if err != nil {
			b.Fatal(err)
		}
		got.Close()
	}
}
