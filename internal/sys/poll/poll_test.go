package poll

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

const bound = 2 * time.Minute

func newLoop(t testing.TB) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func pipe(t testing.TB) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

func await[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(bound):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestReadinessAndHangup(t *testing.T) {
	l := newLoop(t)
	r, w := pipe(t)
	defer unix.Close(r)
	got := make(chan string, 10)
	err := l.Add(r, In, func(ev uint32) {
		var b [64]byte
		n, _ := unix.Read(r, b[:])
		if n <= 0 {
			l.Remove(r)
			got <- "EOF"
			return
		}
		got <- string(b[:n])
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"one", "two"} {
		unix.Write(w, []byte(s))
		if g := await(t, got); g != s {
			t.Fatalf("got %q, want %q", g, s)
		}
	}
	unix.Close(w)
	if g := await(t, got); g != "EOF" {
		t.Fatalf("got %q, want EOF", g)
	}
}

// What is level-triggered is reported until it is taken, although the loop itself waits edge-triggered.
func TestLevelTriggered(t *testing.T) {
	l := newLoop(t)
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	got := make(chan byte, 10)
	if err := l.Add(r, In, func(uint32) {
		var b [1]byte
		if n, _ := unix.Read(r, b[:]); n == 1 {
			got <- b[0]
		}
	}); err != nil {
		t.Fatal(err)
	}
	unix.Write(w, []byte("abcde"))
	for _, want := range []byte("abcde") {
		if g := await(t, got); g != want {
			t.Fatalf("got %c, want %c", g, want)
		}
	}
}

func TestNoCallAfterRemove(t *testing.T) {
	l := newLoop(t)
	var pipes [64][2]int
	var calls atomic.Int32
	for i := range pipes {
		r, w := pipe(t)
		pipes[i] = [2]int{r, w}
		defer unix.Close(r)
		defer unix.Close(w)
	}
	done := make(chan struct{})
	// All become ready in one batch; the first callback removes all of them.
	l.Do(func() {
		for _, p := range pipes {
			unix.Write(p[1], []byte("x"))
			if err := l.Add(p[0], In, func(uint32) {
				calls.Add(1)
				for _, p := range pipes {
					l.Remove(p[0])
				}
				l.Do(func() { close(done) })
			}); err != nil {
				t.Error(err)
			}
		}
	})
	await(t, done)
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// An event of a closed descriptor is not given to a new one of the same number.
func TestReusedNumber(t *testing.T) {
	l := newLoop(t)
	r1, w1 := pipe(t)
	r2, w2 := pipe(t)
	defer func() {
		for _, fd := range []int{r1, w1, r2, w2} {
			unix.Close(fd)
		}
	}()
	quiet, w3 := pipe(t)
	defer unix.Close(quiet)
	defer unix.Close(w3)
	done := make(chan struct{})
	var wrong atomic.Bool
	swap := func(mine, other int) func(uint32) {
		return func(uint32) {
			l.Remove(mine)
			l.Remove(other)
			// other's event is in this very batch; its number now means a pipe with nothing in it.
			if err := unix.Dup3(quiet, other, unix.O_CLOEXEC); err != nil {
				t.Error(err)
			}
			if err := l.Add(other, In, func(uint32) { wrong.Store(true) }); err != nil {
				t.Error(err)
			}
			l.Do(func() { close(done) })
		}
	}
	l.Do(func() {
		unix.Write(w1, []byte("x"))
		unix.Write(w2, []byte("x"))
		if err := l.Add(r1, In, swap(r1, r2)); err != nil {
			t.Error(err)
		}
		if err := l.Add(r2, In, swap(r2, r1)); err != nil {
			t.Error(err)
		}
	})
	await(t, done)
	if wrong.Load() {
		t.Error("the new descriptor got the old one's event")
	}
}

func TestModify(t *testing.T) {
	l := newLoop(t)
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	got := make(chan struct{}, 1)
	if err := l.Add(r, 0, func(uint32) {
		l.Remove(r)
		got <- struct{}{}
	}); err != nil {
		t.Fatal(err)
	}
	unix.Write(w, []byte("x"))
	settled := make(chan struct{})
	l.Do(func() { close(settled) })
	await(t, settled)
	select {
	case <-got:
		t.Fatal("called without interest")
	default:
	}
	if err := l.Modify(r, In); err != nil {
		t.Fatal(err)
	}
	await(t, got)
	if err := l.Modify(r, In); err == nil {
		t.Error("Modify of a removed descriptor succeeded")
	}
}

func TestClose(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	var ran atomic.Int32
	for range 10 {
		l.Do(func() { ran.Add(1) })
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if ran.Load() != 10 {
		t.Errorf("%d of 10 posted functions ran", ran.Load())
	}
	if l.Do(func() { t.Error("ran after Close") }) {
		t.Error("Do after Close said true")
	}
	if err := l.Add(0, In, func(uint32) {}); err != os.ErrClosed {
		t.Errorf("Add after Close: %v", err)
	}
	l.Remove(0)
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestRefused(t *testing.T) {
	l := newLoop(t)
	if err := l.Add(-1, In, func(uint32) {}); err == nil {
		t.Error("Add(-1) succeeded")
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := l.Add(int(f.Fd()), In, func(uint32) {}); err == nil {
		t.Error("a regular file was accepted")
	}
}

func BenchmarkPipe(b *testing.B) {
	l := newLoop(b)
	r, w := pipe(b)
	defer unix.Close(r)
	defer unix.Close(w)
	defer l.Close()
	got := make(chan struct{}, 1)
	if err := l.Add(r, In, func(uint32) {
		var buf [8]byte
		unix.Read(r, buf[:])
		got <- struct{}{}
	}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		unix.Write(w, []byte("x"))
		<-got
	}
}
