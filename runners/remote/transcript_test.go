package remote

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
)

// A step is one packet of the transcript in PROTOCOL.md.
type step struct {
	from string   // M: the manager, R: the runner
	fds  int      // descriptors
	hex  []string // a byte each; xx for any
}

func transcript(t *testing.T) (steps []step) {
	t.Helper()
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text2, ok := strings.Cut(string(text), "```transcript\n")
	block, _, ok2 := strings.Cut(text2, "```")
	if !ok || !ok2 {
		t.Fatal("PROTOCOL.md has no transcript")
	}
	for line := range strings.Lines(block) {
		line, _, _ := strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch {
		case words[0] == "M" || words[0] == "R":
			steps = append(steps, step{from: words[0]})
			words = words[1:]
		case strings.HasPrefix(words[0], "+"): // descriptors
			fmt.Sscanf(words[0], "+%d", &steps[len(steps)-1].fds)
			words = nil
		}
		last := &steps[len(steps)-1]
		last.hex = append(last.hex, words...)
	}
	return steps
}

// play plays the other part of the transcript than that of real, over conn. after is called with each packet that has been sent or
// received, as far as it is known: what real does next may have to wait for it.
func play(t *testing.T, conn *net.UnixConn, real string, after func(packet string)) {
	conn.SetDeadline(time.Now().Add(bound))
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Error(err)
		return
	}
	defer null.Close()
	for n, s := range transcript(t) {
		if s.from != real {
			b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(s.hex, ""), "xx", "61"))
			var oob []byte
			if s.fds > 0 {
				fds := make([]int, s.fds)
				for i := range fds {
					fds[i] = int(null.Fd())
				}
				oob = syscall.UnixRights(fds...)
			}
			if err == nil {
				_, _, err = conn.WriteMsgUnix(b, oob, nil)
			}
			if err != nil {
				t.Errorf("packet %d: %v", n+1, err)
				return
			}
			after(s.from + " " + strings.Join(s.hex, " "))
			continue
		}
		buf, oob := make([]byte, rpc.MaxPacket), make([]byte, 1024)
		got, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Errorf("packet %d: %v", n+1, err)
			return
		}
		fds := 0
		if msgs, err := syscall.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) == 1 {
			rights, _ := syscall.ParseUnixRights(&msgs[0])
			for _, fd := range rights {
				syscall.Close(fd)
			}
			fds = len(rights)
		}
		same := got == len(s.hex) && fds == s.fds
		for i := 0; same && i < got; i++ {
			same = s.hex[i] == "xx" || s.hex[i] == fmt.Sprintf("%02x", buf[i])
		}
		if !same {
			t.Errorf("packet %d from %s is % x with %d descriptors, PROTOCOL.md has %s with %d", n+1, real, buf[:got], fds,
				strings.Join(s.hex, " "), s.fds)
			return
		}
		after(s.from + " " + strings.Join(s.hex, " "))
	}
}

// TestTranscriptManager: the manager's end says what PROTOCOL.md has of it, to a runner that says the rest.
func TestTranscriptManager(t *testing.T) {
	a, b := sockets(t)
	var wg sync.WaitGroup
	greeted := make(chan struct{})
	wg.Go(func() {
		play(t, b, "M", func(packet string) {
			if packet == unsupported {
				close(greeted)
			}
		})
		b.Close()
	})
	defer wg.Wait()
	r, err := New(t.Context(), a, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	<-greeted
	p, err := r.Start(t.Context(), runners.StartInfo{
		Moniker: "/hello", URL: "file:///hello.cml",
		Program:   block("args", manifest.Strings{"-v"}, "function", manifest.String("main")),
		Namespace: []runners.NamespaceEntry{{Path: "/data", File: file(t, ""), Rights: manifest.RightsR}},
		Stdout:    file(t, ""), Stderr: file(t, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	x := wait(t, p)
	if x.Code != 3 || x.Cause != runners.ByStop || x.Detail != "interrupted" {
		t.Errorf("exit %v", x)
	}
	if d := p.(runners.Describer).Describe(); len(d) != 1 || d[0] != (runners.Detail{Key: "PID", Value: "42"}) {
		t.Errorf("details %q", d)
	}
}

// Packets of the transcript for which the next one must wait, as nothing else makes it come later.
const (
	unsupported = "R 2a 04 08 01 28 01"
	started     = "R 2a 02 08 02"
	asked       = "R 2a 02 08 03"
)

// A scripted runner has one program, which says what the runner's part of the transcript wants.
type scripted struct {
	runners.Ending
	started chan struct{} // closed when the start was answered
}

func (p *scripted) Start(_ context.Context, info runners.StartInfo) (runners.Program, error) {
	info.Close()
	return p, nil
}

func (p *scripted) Stop(context.Context) error { return nil }

func (p *scripted) Kill(context.Context) error { p.End(runners.Exit{Code: -1}); return nil }

func (p *scripted) Describe() []runners.Detail {
	<-p.started
	return []runners.Detail{{Key: "PID", Value: "42"}}
}

// TestTranscriptRunner: Serve says what PROTOCOL.md has of a runner.
func TestTranscriptRunner(t *testing.T) {
	a, b := sockets(t)
	p := &scripted{started: make(chan struct{})}
	open := sync.OnceFunc(func() { close(p.started) })
	var wg sync.WaitGroup
	wg.Go(func() {
		play(t, b, "R", func(packet string) {
			switch packet {
			case started:
				open()
			case asked:
				p.End(runners.Exit{Code: 3, Cause: runners.ByStop, Detail: "interrupted"})
			}
		})
		open() // however it went
		b.Close()
	})
	if err := Serve(t.Context(), a, p); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
