package lifecycle_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/proto/lifecyclepb"
	"github.com/cmgr/cmgr/runners/elf/lifecycle"
)

func TestMain(m *testing.M) {
	if os.Getenv("LIFECYCLE_TEST_PROGRAM") != "" {
		program()
		return
	}
	os.Exit(leak.Run(m))
}

// program is a component: it says ready, waits, and says why it ended by its exit code.
func program() {
	err := lifecycle.Serve(context.Background(), func(ctx context.Context) error {
		lifecycle.Ready()
		lifecycle.Status("waiting")
		<-ctx.Done()
		if os.Getenv(lifecycle.Env) != "" {
			os.Exit(4)
		}
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, lifecycle.ErrStop):
			return cause // a good end
		case errors.Is(cause, lifecycle.ErrGone):
			os.Exit(3)
		}
		return errors.New("neither stopped nor left")
	})
	if err != nil {
		os.Exit(5)
	}
}

// pair is the two ends of a channel.
func pair(t *testing.T) (ours *lifecycle.Channel, theirs *os.File) {
	t.Helper()
	a, b, err := sock.Pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs = os.NewFile(uintptr(a), "runner's end")
	t.Cleanup(func() { theirs.Close() })
	ours, err = lifecycle.New(os.NewFile(uintptr(b), "program's end"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, theirs
}

func read(t *testing.T, f *os.File) []byte {
	t.Helper()
	buf := make([]byte, lifecycle.MaxPacket)
	n, err := f.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// TestBytes: what PROTOCOL.md says, what this package writes and what protobuf makes of it are the same.
func TestBytes(t *testing.T) {
	c, runner := pair(t)
	status := func(s string) *lifecyclepb.Up { return &lifecyclepb.Up{Message: &lifecyclepb.Up_Status{Status: s}} }
	long := strings.Repeat("é", lifecycle.MaxStatus)
	for _, x := range []struct {
		hex  string
		send func() error
		want *lifecyclepb.Up
	}{
		{"0a00", c.Ready, &lifecyclepb.Up{Message: &lifecyclepb.Up_Ready{Ready: &lifecyclepb.Ready{}}}},
		{"12076c6f6164696e67", func() error { return c.Status("loading") }, status("loading")},
		{"12026869", func() error { return c.Status("hi\xff") }, status("hi")},
		{"128002" + hex.EncodeToString([]byte(long[:256])), func() error { return c.Status(long) }, status(long[:256])},
	} {
		if err := x.send(); err != nil {
			t.Fatal(err)
		}
		b := read(t, runner)
		if got := hex.EncodeToString(b); got != x.hex {
			t.Errorf("sent %s, want %s", got, x.hex)
		}
		var up lifecyclepb.Up
		if err := proto.Unmarshal(b, &up); err != nil || !proto.Equal(&up, x.want) {
			t.Errorf("protobuf reads %v (%v), want %v", &up, err, x.want)
		}
	}
	stop, _ := proto.Marshal(&lifecyclepb.Down{Message: &lifecyclepb.Down_Stop{Stop: &lifecyclepb.Stop{}}})
	if !bytes.Equal(stop, []byte{0x0a, 0x00}) {
		t.Errorf("Stop is %x", stop)
	}
}

func TestAwait(t *testing.T) {
	c, runner := pair(t)
	for _, junk := range []string{
		"\x7a\x01\x0a", strings.Repeat("\xff", 12), "z", "\x08\x01", "\x0f", "\x0a\x7f", strings.Repeat("x", 5000),
	} {
		runner.WriteString(junk)
	}
	runner.WriteString("\x78\x05\x0a\x02\x7a\x00") // with unknown fields around and within
	if err := c.Await(); err != lifecycle.ErrStop {
		t.Errorf("await: %v", err)
	}
	runner.Close()
	if err := c.Await(); err != lifecycle.ErrGone {
		t.Errorf("await after the runner closed: %v", err)
	}
	c.Close()
	if err := c.Await(); err == nil || err == lifecycle.ErrGone {
		t.Errorf("await after closing: %v", err)
	}
}

func TestNewRefusesOtherDescriptors(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := lifecycle.New(f); err == nil {
		c.Close()
		t.Error("a device was taken for a channel")
	}
}

func TestProgram(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(runner *os.File)
		code int
	}{
		{"stop", func(r *os.File) { r.Write([]byte{0x7a, 1, 9}); r.Write([]byte{0x0a, 0}) }, 0},
		{"gone", func(r *os.File) { r.Close() }, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b, err := sock.Pair()
			if err != nil {
				t.Fatal(err)
			}
			runner, end := os.NewFile(uintptr(a), "runner's end"), os.NewFile(uintptr(b), "program's end")
			defer runner.Close()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "LIFECYCLE_TEST_PROGRAM=1", lifecycle.Env+"=3")
			cmd.ExtraFiles = []*os.File{end}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			end.Close()
			for _, want := range []string{"\x0a\x00", "\x12\x07waiting"} {
				if got := read(t, runner); string(got) != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			c.do(runner)
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
		})
	}
}

// FuzzStop: what protobuf takes for a Stop, with whatever unknown fields, the program takes for one.
func FuzzStop(f *testing.F) {
	for _, s := range []string{
		"\x0a\x00", "\x7a\x01\x0a", "", "\x0a\x02\x08\x01", "\x0d\x00\x00\x00\x00\x0a\x00", "\x7b\x7c\x0a\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var down lifecyclepb.Down
		err := proto.Unmarshal(b, &down)
		if err == nil && down.GetStop() != nil && !lifecycle.IsStop(b) {
			t.Errorf("%x is a Stop, and was not taken for one", b)
		}
	})
}
