package proc

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crowdFrom has more than n children be many.
func crowdFrom(t *testing.T, n int) {
	t.Helper()
	was := manyChildren
	manyChildren = n
	t.Cleanup(func() { manyChildren = was })
}

// until waits until f is true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// watching says how many children have a pidfd; -1: there is no crowd.
func watching() int {
	reap.mu.Lock()
	defer reap.mu.Unlock()
	if reap.crowd == nil {
		return -1
	}
	return len(reap.crowd.watched)
}

// crowdOf starts n that end with 7 when they are released.
func crowdOf(t *testing.T, l *Launcher, n int) (release func(), ends chan Status) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ends = make(chan Status, n)
	for range n {
		s := sh("read x; exit 7")
		s.Files = []int{int(r.Fd())}
		if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
			t.Fatal(err)
		}
	}
	run(t, l, sh("exit 0")) // at an end the reaper looks how many there are
	var once sync.Once
	release = func() { once.Do(func() { w.Close() }) }
	t.Cleanup(release)
	return release, ends
}

// Many and few, in turns: each end is told once, with its status.
func TestCrowd(t *testing.T) {
	crowdFrom(t, 8)
	l := open(t)
	for range 3 {
		release, ends := crowdOf(t, l, 40)
		until(t, "a pidfd for each", func() bool { return watching() == 40 })
		for code := range 20 {
			if _, st := run(t, l, sh(fmt.Sprint("exit ", code))); st.Code != code {
				t.Errorf("ended %+v, not with %d", st, code)
			}
		}
		release()
		for range 40 {
			if st := await(t, ends); st.Code != 7 {
				t.Errorf("ended %+v", st)
			}
		}
		until(t, "no crowd", func() bool { return watching() == -1 })
	}
	if reap.uncrowdable {
		t.Error("a pidfd was not to be had")
	}
}

// Who comes to us as an orphan is reaped among many, too, and the last of them by the time that there are few.
func TestCrowdReapsOrphans(t *testing.T) {
	crowdFrom(t, 8)
	l := open(t)
	crowdOf(t, l, 20)
	out, _ := run(t, l, sh("for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.0$i & echo $!); done"))
	if n := len(strings.Fields(out)); n != 9 {
		t.Fatalf("%d orphans: %s", n, out)
	}
	until(t, "all reaped", func() bool {
		for pid := range strings.FieldsSeq(out) {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return false
			}
		}
		return true
	})
	if watching() < 0 {
		t.Error("there was no crowd")
	}
}

// A child that another process traces ends for us when that lets go of it.
func TestCrowdAwaitsTracer(t *testing.T) {
	crowdFrom(t, 8)
	l := open(t)
	crowdOf(t, l, 20)
	ends := make(chan Status, 1)
	p, err := l.Start(sh("exec sleep 1000"), func(st Status) { ends <- st })
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tracer, err := l.Start(&Spec{
		Path: exe, Env: []string{"PROC_TEST_CHILD=tracer", "PID=" + strconv.Itoa(p.PID())}, Files: []int{-1, int(w.Fd()), 2},
	}, func(Status) {})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(r).ReadString('\n'); said != "traced\n" {
		t.Fatal(said, err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "a zombie", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		return strings.Contains(string(b), ") Z")
	})
	run(t, l, sh("exit 0")) // whose end was told after the other's would be
	select {
	case st := <-ends:
		t.Errorf("ended %+v for us, with its tracer there", st)
	default:
	}
	if err := tracer.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if st := await(t, ends); st.Signal != unix.SIGKILL {
		t.Errorf("ended %+v", st)
	}
}

// Where pidfds are not to be had, the end of each is told all the same.
func TestCrowdWithoutPidfds(t *testing.T) {
	crowdFrom(t, 8)
	t.Cleanup(func() { reap.uncrowdable = false })
	l := open(t)
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	release, ends := crowdOf(t, l, 20)
	until(t, "a pidfd for each", func() bool { return watching() == 20 })
	back := func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &now) }
	t.Cleanup(back)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 16, Max: now.Max}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Start(sh("exit 0"), func(Status) {}); err != nil {
		t.Fatal(err)
	}
	until(t, "no crowd", func() bool { return watching() == -1 })
	back()
	release()
	for range 20 {
		if st := await(t, ends); st.Code != 7 {
			t.Errorf("ended %+v", st)
		}
	}
}
