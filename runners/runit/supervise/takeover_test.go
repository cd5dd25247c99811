package supervise

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// A supervisor that was killed left a status, a mark perhaps, and a process. Is that taken over?
func TestTakeOver(t *testing.T) {
	c := newConfig(t)
	down := servicedir.Status{Since: time.Unix(1700000000, 0), Want: 'u'}
	for name, test := range map[string]struct {
		status servicedir.Status // with PID 1: that of the process
		mark   func(now mark) string
		dir    string // where the process is; "": in the service directory
		want   bool
	}{
		"status and mark": {
			servicedir.Status{Since: time.Unix(1700000001, 0), Want: 'u', PID: 1, State: servicedir.Run}, mark.String, "/", true,
		},
		"killed before the status was written":   {down, mark.String, "", true},
		"the same, but the process is elsewhere": {down, mark.String, "/", false},
		"before the boot": {
			servicedir.Status{Since: time.Unix(1700000001, 0), Want: 'u', PID: 1, State: servicedir.Run},
			func(m mark) string { m.boot = "00000000"; return m.String() }, "", false,
		},
		"another process has the number": {
			servicedir.Status{Since: time.Unix(1700000001, 0), Want: 'u', PID: 1, State: servicedir.Run},
			func(m mark) string { m.at -= 2 * soon; return m.String() }, "", false,
		},
		"another's runsv": {
			servicedir.Status{Since: time.Unix(1700000001, 0), Want: 'u', PID: 1, State: servicedir.Run}, nil, "", true,
		},
		"another's runsv, another process": {
			servicedir.Status{Since: time.Unix(1700000001, 0), Want: 'u', PID: 1, State: servicedir.Run}, nil, "/", false,
		},
		"another's runsv, down": {down, nil, "", false},
		"a broken mark": {
			servicedir.Status{Since: time.Unix(1700000001, 0), Want: 'u', PID: 1, State: servicedir.Run},
			func(mark) string { return "x 1 2 3" }, "", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newSite(t, map[string]string{"run": "exec sleep 1000", "finish": "echo $1 $2 >> ended"})
			fd, err := unix.Open(x.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			held, err := servicedir.Hold(fd, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := held.Write(down, false); err != nil {
				t.Fatal(err)
			}
			if test.mark != nil {
				h := &half{held: held}
				h.leaveMark(RunEnd)
				m, ok := parseMark(held.LastMark())
				if !ok {
					t.Fatalf("mark %q", held.LastMark())
				}
				if err := held.Mark(test.mark(m)); err != nil {
					t.Fatal(err)
				}
			}
			spec := &proc.Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Dir: x.dir}
			if test.dir != "" {
				spec.Dir = test.dir
			}
			over := make(chan struct{})
			p, err := c.Launcher.Start(spec, func(proc.Status) { close(over) })
			if err != nil {
				t.Fatal(err)
			}
			if test.status.PID == 1 {
				test.status.PID = uint32(p.PID())
			}
			if err := held.Write(test.status, false); err != nil {
				t.Fatal(err)
			}
			held.Close()

			x.open(c)
			pid := x.running(0)
			if got := pid == uint32(p.PID()); got != test.want {
				t.Errorf("process %d runs, %d was left; taken over: %v, want %v", pid, p.PID(), got, test.want)
			}
			if test.want {
				if s := x.status(""); !s.Since.Equal(test.status.Since) {
					t.Errorf("since %v, want %v", s.Since, test.status.Since)
				}
				x.send("", "t")
				x.running(pid)
				if got := x.read("ended"); got != "-1 0\n" {
					t.Errorf("finish was told %q", got)
				}
			} else {
				_ = p.Signal(unix.SIGKILL)
			}
			<-over
			x.exit()
		})
	}
}

// The log of a service gets its pipe back, with what is in it.
func TestPipeIsTakenOver(t *testing.T) {
	c := newConfig(t)
	x := newSite(t, map[string]string{"run": "echo new; exec sleep 1000", "log/run": "exec cat >> ../got"})
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(x.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	held, err := servicedir.Hold(fd, false)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	sleep := &proc.Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, DirFD: fd, Files: []int{-1, pipe[1], 2}}
	p, err := c.Launcher.Start(sleep, func(proc.Status) { close(over) })
	if err != nil {
		t.Fatal(err)
	}
	s := servicedir.Status{Since: time.Unix(1700000000, 0), PID: uint32(p.PID()), Want: 'u', State: servicedir.Run}
	if err := held.Write(s, false); err != nil {
		t.Fatal(err)
	}
	held.Close()
	if _, err := unix.Write(pipe[1], []byte("old\n")); err != nil {
		t.Fatal(err)
	}
	for _, fd := range pipe { // now only the service has it
		unix.Close(fd)
	}
	x.open(c)
	x.until("old", func() bool { return x.read("got") == "old\n" })
	x.send("", "t")
	<-over
	x.until("new", func() bool { return x.read("got") == "old\nnew\n" })
	x.exit()
}

func FuzzMark(f *testing.F) {
	f.Add("0123abcd 15 123456789 6655c7660b0a0000000000ab")
	// What is read as a mark is written alike.
	f.Fuzz(func(t *testing.T, s string) {
		if m, ok := parseMark(s); ok {
			if again, ok := parseMark(m.String()); !ok || again != m {
				t.Fatalf("%q: %+v, then %+v", s, m, again)
			}
		}
	})
}

func TestLook(t *testing.T) {
	p, ok := look(os.Getpid())
	if !ok || p.pid != os.Getpid() || p.parent != os.Getppid() {
		t.Errorf("%+v, %v", p, ok)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil || p.started > uint64(now.Nano())/tick {
		t.Errorf("started at %d of %d", p.started, uint64(now.Nano())/tick)
	}
	if _, ok := look(0); ok {
		t.Error("there is a process 0")
	}
}
