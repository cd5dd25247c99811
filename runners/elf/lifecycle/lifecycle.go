// Package lifecycle is for programs written in Go that run as components under the ELF runner: it takes the lifecycle channel
// that the runner gives them, if it does, and says when to end. PROTOCOL.md beside it has the bytes.
//
//	func main() {
//		ctx, stop := lifecycle.Notify(context.Background())
//		defer stop()
//		…open what is to be opened…
//		lifecycle.Ready()
//		<-ctx.Done()
//		…close it…
//	}
//
// The same program runs outside of a manager too: Notify also listens to SIGTERM and SIGINT, and Ready and Status do nothing
// where there is no channel.
package lifecycle

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// Env is the environment variable that has the channel's descriptor number, in decimal.
const Env = "CMGR_LIFECYCLE_FD"

// MaxPacket is the longest packet that is read, in bytes.
const MaxPacket = 4096

// MaxStatus is how much of a status is kept, in bytes.
const MaxStatus = 256

// Why Notify's context is done (context.Cause), when it is neither a signal nor the parent's cause.
var (
	// ErrStop says that the runner has asked the program to end.
	ErrStop = errors.New("asked to stop")
	// ErrGone says that the runner has gone, and the program should too.
	ErrGone = errors.New("the runner has gone")
)

// A Channel is the program's end. Its methods may be called from any goroutine.
type Channel struct{ conn net.Conn }

// take is the process's channel: there is one, and the variable is taken out of the environment so that no child believes that
// it has it too.
var take = sync.OnceValues(func() (*Channel, error) {
	s, ok := os.LookupEnv(Env)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(Env)
	fd, err := strconv.Atoi(s)
	if err != nil || fd < 0 {
		return nil, fmt.Errorf("lifecycle: %s is %q, not a descriptor number", Env, s)
	}
	return New(os.NewFile(uintptr(fd), "lifecycle"))
})

// Open returns this process's channel, the same at each call; nil without an error if it has none.
func Open() (*Channel, error) { return take() }

// New makes a Channel of the program's end f, which it closes.
func New(f *os.File) (*Channel, error) {
	c, err := net.FileConn(f) // a duplicate, close-on-exec
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("lifecycle: %w", err)
	}
	if n := c.LocalAddr().Network(); n != "unixpacket" {
		c.Close()
		return nil, fmt.Errorf("lifecycle: the descriptor is a %s socket, not a unix SOCK_SEQPACKET", n)
	}
	return &Channel{c}, nil
}

// Ready tells the runner that the program now does what it was started for.
func (c *Channel) Ready() error {
	_, err := c.conn.Write([]byte{0x0a, 0x00})
	return err
}

// Status tells the runner what the program is doing: one line for people. It is cut to MaxStatus bytes.
func (c *Channel) Status(text string) error {
	b := append([]byte{0x12}, binary.AppendUvarint(nil, uint64(len(cut(text))))...)
	_, err := c.conn.Write(append(b, cut(text)...))
	return err
}

// cut returns the longest prefix of s that is UTF-8 and no longer than MaxStatus.
func cut(s string) string {
	for i, r := range s {
		if r == utf8.RuneError || i+utf8.RuneLen(r) > MaxStatus {
			return s[:i]
		}
	}
	return s
}

// Await returns ErrStop when the runner asks the program to end, ErrGone when the runner has gone, and another error when the
// channel was closed or fails. Only one goroutine may be in it.
func (c *Channel) Await() error {
	buf := make([]byte, MaxPacket)
	for {
		n, err := c.conn.Read(buf)
		switch {
		case n > 0 && isStop(buf[:n]):
			return ErrStop
		case err != nil && n == 0:
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			return ErrGone
		}
	}
}

// isStop says whether the packet holds a Stop: field 1, length-delimited, whatever else there is.
func isStop(b []byte) bool {
	stop := false
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 {
			return false
		}
		b = b[n:]
		var skip uint64
		switch tag & 7 {
		case 0: // varint
			_, n := binary.Uvarint(b)
			if n <= 0 {
				return false
			}
			skip = uint64(n)
		case 1: // 64 bits
			skip = 8
		case 2: // length-delimited
			l, n := binary.Uvarint(b)
			if n <= 0 || l > uint64(len(b)) {
				return false
			}
			skip = uint64(n) + l
			stop = stop || tag>>3 == 1
		case 5: // 32 bits
			skip = 4
		case 3, 4: // a group's begin and end, with fields in between
		default:
			return false
		}
		if skip > uint64(len(b)) {
			return false
		}
		b = b[skip:]
	}
	return stop
}

// Close tells the runner that the program is done, and may be killed if it has been asked to stop.
func (c *Channel) Close() error { return c.conn.Close() }

// Ready is Channel.Ready of this process's channel; nothing without one.
func Ready() error {
	c, err := Open()
	if c == nil {
		return err
	}
	return c.Ready()
}

// Status is Channel.Status of this process's channel; nothing without one.
func Status(text string) error {
	c, err := Open()
	if c == nil {
		return err
	}
	return c.Status(text)
}

// Notify returns a context that is done when the program is to end: by Stop, because the runner has gone, or by SIGTERM or
// SIGINT; context.Cause says which. stop takes the context and the signals back. It leaves the channel open: that closes when
// the process exits, while a program that closes it and then exits may be killed in between. A channel that cannot be used
// counts as none; Ready returns why.
func Notify(parent context.Context) (ctx context.Context, stop func()) {
	ctx, unnotify := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	c, _ := Open()
	if c == nil {
		return ctx, unnotify
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(c.Await()) })
	return ctx, sync.OnceFunc(func() {
		c.conn.SetReadDeadline(time.Unix(1, 0))
		wg.Wait()
		c.conn.SetReadDeadline(time.Time{})
		cancel(nil)
		unnotify()
	})
}

// Serve calls f with Notify's context and returns f's error; the context's own counts as none. It is a whole main function:
//
//	func main() {
//		if err := lifecycle.Serve(context.Background(), run); err != nil {
//			log.Fatal(err)
//		}
//	}
func Serve(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := Notify(ctx)
	defer stop()
	err := f(ctx)
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}
