package heart

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// TestWatch says to a watchdog what Erlang's heart.erl says, and what nobody should.
func TestWatch(t *testing.T) {
	t.Setenv(commandEnv, "env")
	const ack = "\x00\x01\x01"
	for _, c := range []struct {
		name, said, answers, command string
		shut                         bool
	}{
		{"end of file", "", "", "env", false},
		{"beats", "\x00\x01\x02\x00\x01\x02\x00\x01\x08", "", "env", false},
		{"shut down", "\x00\x01\x02\x00\x01\x03\x00\x01\x02", "", "", true},
		{"set", "\x00\x04\x04abc\x00\x01\x06", ack + "\x00\x04\x07abc", "abc", false},
		{"clear", "\x00\x04\x04abc\x00\x01\x05\x00\x01\x06", ack + ack + "\x00\x04\x07env", "env", false},
		{"unknown", "\x00\x02\x63x\x00\x00\x00\x01\x06", "\x00\x04\x07env", "env", false},
		{"longest", "\xff\xff\x04" + strings.Repeat("x", 65534) + "\x00\x01\x03", ack, "", true},
		{"cut off", "\x00\x05\x03ab", "", "env", false},
	} {
		var answers bytes.Buffer
		command, shut := watch(strings.NewReader(c.said), &answers, time.Hour, t.Logf)
		if command != c.command || shut != c.shut || answers.String() != c.answers {
			t.Errorf("%s: %q %t, want %q %t; answers %q, want %q", c.name, command, shut, c.command, c.shut, answers.String(), c.answers)
		}
	}
}

// TestLate: time without a beat ends the watch, and other messages are no beats.
func TestLate(t *testing.T) {
	r, w := io.Pipe()
	over := make(chan struct{})
	talked := make(chan struct{})
	go func() {
		defer close(talked)
		for {
			select {
			case <-over:
				return
			default:
				_ = send(w, getCmd, "")
			}
		}
	}()
	if command, shut := watch(r, io.Discard, 100*time.Millisecond, t.Logf); shut || command != "" {
		t.Errorf("%q, %t", command, shut)
	}
	close(over)
	r.Close()
	<-talked
}

// TestFrames: what is sent is received.
func TestFrames(t *testing.T) {
	var b bytes.Buffer
	for _, s := range []string{"", "a", strings.Repeat("é", 1000)} {
		if err := send(&b, setCmd, s); err != nil {
			t.Fatal(err)
		}
		if op, got, err := receive(&b); op != setCmd || got != s || err != nil {
			t.Errorf("%d %q %v", op, got, err)
		}
	}
}
