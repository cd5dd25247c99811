package elf

import (
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/proto/lifecyclepb"
	"github.com/cmgr/cmgr/runners/elf/lifecycle"
)

// Bounds of what a program can make the loop do; PROTOCOL.md tells of them.
const (
	// A program's turn on the loop ends after so many packets: others wait.
	packetsPerTurn = 16
	// Who sends more than maxPackets within packetWindow is no longer listened to.
	maxPackets   = 1000
	packetWindow = 10 * time.Second
)

// A channel is the runner's end of a program's lifecycle channel.
type channel struct {
	fd     int  // -1: none, or closed
	asked  bool // Stop was sent
	muted  bool // too many packets: only its closing is of interest
	junk   bool // a packet that is no message was logged
	ready  bool
	count  uint16    // packets since
	since  time.Time // the beginning of the window
	status string    // the last one
}

// stopPackets are what is sent for a Stop: one packet without meaning, so that no program takes whatever comes for a Stop, and
// the Stop itself.
func stopPackets() [2][]byte {
	return [2][]byte{{0x7a, 0x01, byte(rand.Uint32())}, {0x0a, 0x00}}
}

// send asks the program to stop.
func (c *channel) send() error {
	for _, b := range stopPackets() {
		if err := sock.Send(c.fd, b); err != nil {
			return err
		}
	}
	c.asked = true
	return nil
}

// heard takes what has come, at most a turn's worth; buf is for its use. It reports whether the program's end is closed.
func (c *channel) heard(events uint32, buf []byte, warn func(string, ...any)) (closed bool) {
	gone := events&(poll.Hup|poll.RdHup|poll.Err) != 0
	if c.muted {
		return gone
	}
	for range packetsPerTurn {
		n, _, err := sock.Recv(c.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return gone
		case errors.Is(err, io.EOF):
			// Without the event it is a packet without a byte.
			if gone {
				return true
			}
		case errors.Is(err, sock.ErrTruncated):
		case err != nil:
			return true // ECONNRESET: it was closed before it had read all
		}
		if c.full(time.Now()) {
			c.muted = true
			warn("too many packets on the lifecycle channel; they are ignored from now on",
				"limit", maxPackets, "within", packetWindow)
			return gone
		}
		if !c.take(buf[:n], err) && !c.junk {
			c.junk = true
			warn("a packet on the lifecycle channel is no message; it is ignored, and so are others", "bytes", n)
		}
	}
	return false // and if there is more, the loop calls again
}

// full counts a packet and reports whether it is one too many.
func (c *channel) full(now time.Time) bool {
	if now.Sub(c.since) > packetWindow {
		c.since, c.count = now, 0
	}
	c.count++
	return c.count > maxPackets
}

// take acts on one packet, or reports false.
func (c *channel) take(b []byte, err error) bool {
	var up lifecyclepb.Up
	if err != nil || len(b) == 0 || proto.Unmarshal(b, &up) != nil {
		return false
	}
	switch m := up.Message.(type) {
	case *lifecyclepb.Up_Ready:
		c.ready = true
	case *lifecyclepb.Up_Status:
		c.status = line(m.Status)
	case nil: // a message of a later version
	}
	return true
}

// line is s, which is UTF-8, as one line of bounded length.
func line(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), lifecycle.MaxStatus)], "") // a rune may have been cut
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s))
}
