package supervise

import (
	"fmt"
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
	up := servicedir.Status{Since: time.Unix(1700000001, 0), Want: 'u', PID: 1, State: servicedir.Run}
	now := up
	now.Since = time.Unix(time.Now().Unix(), 0)
	same := func(m mark) []byte { return m.encode() }
	for name, test := range map[string]struct {
		status servicedir.Status   // with PID 1: that of the process
		mark   func(m mark) []byte // nil: there is none
		dir    string              // where the process is; "": in the service directory
		want   bool
	}{
		"status and mark":                           {up, same, "/", true},
		"killed before the status was written":      {down, same, "", true},
		"the same, and the process went elsewhere":  {down, same, "/", true},
		"before the boot":                           {down, func(m mark) []byte { m.boot = "another"; return m.encode() }, "", false},
		"another process had the number before":     {up, func(m mark) []byte { m.before = m.after + tick; return m.encode() }, "", false},
		"another process got the number later":      {up, func(m mark) []byte { m.after = m.before - tick; return m.encode() }, "", false},
		"another's runsv":                           {up, nil, "", true},
		"another's runsv, another process":          {up, nil, "/", false},
		"another's runsv, down":                     {down, nil, "", false},
		"another's runsv, after one of ours":        {now, func(m mark) []byte { m.pid, m.after = 1, 0; return m.encode() }, "", true},
		"a broken mark":                             {up, func(mark) []byte { return []byte("x") }, "", true},
		"a broken mark, and the process is another": {up, func(mark) []byte { return []byte("x") }, "/", false},
	} {
		t.Run(name, func(t *testing.T) {
			x := newSite(t, map[string]string{"run": "exec sleep 1000", "finish": "echo $1 $2 >> ended"})
			fd, err := unix.Open(x.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			held, err := servicedir.Hold(fd, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			spec := &proc.Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Dir: x.dir}
			if test.dir != "" {
				spec.Dir = test.dir
			}
			over := make(chan struct{})
			h := &half{Service: &Service{cfg: c, dir: fd}, held: held}
			if spec.DirFD = fd; test.dir != "" {
				if spec.DirFD, err = unix.Open(test.dir, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
					t.Fatal(err)
				}
				defer unix.Close(spec.DirFD)
			}
			p, err := h.startMarked(spec, RunEnd, func(proc.Status) { close(over) })
			if err != nil {
				t.Fatal(err)
			}
			m, ok := h.lastMark()
			if !ok || m.pid != p.PID() || m.after < m.before || m.end != RunEnd {
				t.Fatalf("mark %+v of process %d", m, p.PID())
			}
			path := x.dir + "/supervise/mark"
			if test.mark == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, test.mark(m), 0o600)
			}
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
				if s := x.status(""); test.status.PID != 0 && !s.Since.Equal(test.status.Since) {
					t.Errorf("since %v, want %v", s.Since, test.status.Since)
				} else if test.status.PID == 0 && time.Since(s.Since) > time.Minute {
					t.Errorf("since %v", s.Since)
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

// Where the mark cannot be written the service starts all the same.
func TestStartsWithoutMark(t *testing.T) {
	c := newConfig(t)
	x := newSite(t, map[string]string{"run": "exec sleep 1000", "supervise/mark/file": ""})
	x.open(c)
	x.running(0)
	x.exit()
	// A file that is full of itself: no byte can be written.
	x = newSite(t, map[string]string{"run": "exec sleep 1000"})
	if err := os.Mkdir(x.dir+"/supervise", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(x.dir+"/supervise/mark", 0o600); err != nil { // pwrite(2): ESPIPE
		t.Fatal(err)
	}
	x.open(c)
	x.running(0)
	x.exit()
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
	held, err := servicedir.Hold(fd, false, nil)
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
	f.Add(mark{end: FinishEnd, pid: 77, before: 1, after: 2e9 + 5, boot: bootID()}.encode())
	// What is read as a mark is written alike.
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := decodeMark(b); ok {
			if again, ok := decodeMark(m.encode()); !ok || again != m && m.after >= 0 {
				t.Fatalf("%x: %+v, then %+v", b, m, again)
			}
		}
	})
}

func TestStartOf(t *testing.T) {
	before, ok := startOf(1)
	start, ok2 := startOf(os.Getpid())
	if !ok || !ok2 || start < before || start > sinceBoot()/tick {
		t.Errorf("started at %d, no. 1 at %d, now it is %d", start, before, sinceBoot()/tick)
	}
	if _, ok := startOf(0); ok {
		t.Error("there is a process 0")
	}
}

// A service may write while its log is being started again and its supervisor has been killed.
func TestPipeOutlivesItsReaders(t *testing.T) {
	s := Service{main: &half{}, log: &half{}}
	if err := s.makePipe(); err != nil {
		t.Fatal(err)
	}
	unix.Close(s.pipe[0])
	if _, err := unix.Write(s.pipe[1], []byte("kept\n")); err != nil {
		t.Fatal(err)
	}
	again, err := openPipe(fmt.Sprintf("/proc/self/fd/%d", s.pipe[1]))
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(s.pipe[1])
	unix.Close(again[1])
	var b [10]byte
	if n, err := unix.Read(again[0], b[:]); err != nil || string(b[:n]) != "kept\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if n, err := unix.Read(again[0], b[:]); n != 0 || err != nil {
		t.Errorf("no end: %d, %v", n, err)
	}
	unix.Close(again[0])
}
