package fdthread

import (
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// reader collects what comes out of the watched pipes.
type reader struct {
	t     *Thread
	bytes atomic.Int64
	ended chan int
	turns atomic.Int64
}

func (r *reader) Ready(fd int) {
	var buf [4096]byte
	n, err := unix.Read(fd, buf[:])
	if n > 0 {
		r.bytes.Add(int64(n))
		return
	}
	if err == nil {
		r.t.Drop(fd)
		r.ended <- fd
	}
}

func (r *reader) Turn() time.Duration { r.turns.Add(1); return -1 }

func start(t *testing.T) *reader {
	t.Helper()
	r := &reader{ended: make(chan int, 100)}
	th, err := Start(r)
	if err != nil {
		t.Fatal(err)
	}
	r.t = th
	t.Cleanup(func() { th.Close(func() {}) })
	return r
}

// pipe makes a pipe whose reading end is on r's thread only.
func (r *reader) pipe(t *testing.T) (w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	err := r.t.Post(func(fds []int) {
		if len(fds) != 1 {
			t.Errorf("got %d descriptors", len(fds))
			return
		}
		if err := r.t.Watch(fds[0]); err != nil {
			t.Error(err)
		}
	}, p[0])
	if err != nil {
		t.Fatal(err)
	}
	return p[1]
}

// on runs f on r's thread and waits for it.
func (r *reader) on(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	if err := r.t.Post(func([]int) { f(); close(done) }); err != nil {
		t.Fatal(err)
	}
	<-done
}

func open(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, e := range entries {
		if link, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			links = append(links, link)
		}
	}
	return links
}

func TestReadsAndHangsUp(t *testing.T) {
	r := start(t)
	w := r.pipe(t)
	if _, err := unix.Write(w, make([]byte, 10000)); err != nil {
		t.Fatal(err)
	}
	unix.Close(w)
	<-r.ended
	if n := r.bytes.Load(); n != 10000 {
		t.Errorf("read %d bytes, want 10000", n)
	}
}

func TestTablesAreApart(t *testing.T) {
	before := open(t, "/proc/self/fd")
	r := start(t)
	var ws []int
	for range 50 {
		ws = append(ws, r.pipe(t))
	}
	var thread []string
	r.on(t, func() {
		// Not by package os: see the package's comment. The names are enough: they are read from outside.
		thread = append(thread, "/proc/self/task/"+strconv.Itoa(unix.Gettid())+"/fd")
	})
	pipes := func(links []string) (n int) {
		for _, l := range links {
			if strings.HasPrefix(l, "pipe:") {
				n++
			}
		}
		return n
	}
	ours := open(t, "/proc/self/fd")
	// The writing ends and the outer socket.
	if got := len(ours) - len(before); got != 51 {
		t.Errorf("the process has %d descriptors more, want 51: %v", got, ours)
	}
	theirs := open(t, thread[0])
	if pipes(theirs) < 50 || pipes(theirs) > 51 { // standard error may be a pipe
		t.Errorf("the thread has %v", theirs)
	}
	if n := len(theirs); n > 50+6 {
		t.Errorf("the thread has %d descriptors, more than its pipes, standard error, the runtime's poller, its own: %v", n, theirs)
	}
	for _, w := range ws {
		unix.Close(w)
	}
	for range ws {
		<-r.ended
	}
}

// The runtime must be able to use its poller from the thread: garbage collections and timers there, while other goroutines wait
// in the poller.
func TestRuntimePollerWorksFromTheThread(t *testing.T) {
	r := start(t)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, pr) })
	var ws []int
	for range 20 { // numbers that the runtime's descriptors have in the process
		ws = append(ws, r.pipe(t))
	}
	var fired atomic.Int64
	for range 50 {
		r.on(t, func() {
			runtime.GC()
			for range 20 {
				time.AfterFunc(time.Microsecond, func() { fired.Add(1) })
			}
		})
		if _, err := pw.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	pw.Close()
	wg.Wait()
	pr.Close()
	for fired.Load() < 50*20 {
		runtime.Gosched()
	}
	for _, w := range ws {
		unix.Close(w)
	}
	for range ws {
		<-r.ended
	}
	if n := r.bytes.Load(); n != 0 {
		t.Errorf("%d bytes came out of pipes that nobody wrote to", n)
	}
}

func TestClose(t *testing.T) {
	r := &reader{ended: make(chan int, 1)}
	th, err := Start(r)
	if err != nil {
		t.Fatal(err)
	}
	r.t = th
	w := r.pipe(t)
	defer unix.Close(w)
	var order []string
	if err := th.Post(func([]int) { order = append(order, "post") }); err != nil {
		t.Fatal(err)
	}
	th.Close(func() { order = append(order, "last") })
	if !slices.Equal(order, []string{"post", "last"}) {
		t.Errorf("done: %v", order)
	}
	th.Close(nil)
	if err := th.Post(func([]int) {}); err != os.ErrClosed {
		t.Errorf("Post after Close = %v", err)
	}
	// The pipe's only reading end was on the thread.
	if _, err := unix.Write(w, []byte("x")); err != unix.EPIPE {
		t.Errorf("write = %v, want EPIPE", err)
	}
}

func TestManyPostersAndIdle(t *testing.T) {
	r := start(t)
	var n int
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 200 {
				if err := r.t.Post(func([]int) { n++ }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r.on(t, func() {
		if n != 4000 {
			t.Errorf("%d of 4000 posts done", n)
		}
	})
	// Idle: no turn without something that happens. (A turn more may be due for the post above.)
	turns := r.turns.Load()
	time.Sleep(50 * time.Millisecond)
	if more := r.turns.Load() - turns; more > 1 {
		t.Errorf("%d turns while idle", more)
	}
}

// While the thread is busy and its socket full, those who post wait without a thread of the operating system each.
func TestPostersHoldNoThreads(t *testing.T) {
	r := start(t)
	threads := func() int {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(tasks)
	}
	before := threads()
	busy := make(chan struct{})
	if err := r.t.Post(func([]int) { <-busy }); err != nil {
		t.Fatal(err)
	}
	const posters = 1000
	var wg sync.WaitGroup
	for range posters {
		wg.Go(func() {
			if err := r.t.Post(func([]int) {}); err != nil {
				t.Error(err)
			}
		})
	}
	under := func() int { r.t.mu.Lock(); defer r.t.mu.Unlock(); return len(r.t.posts) }
	for deadline := time.Now().Add(time.Minute); under() < posters && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := threads() - before; n > 100 {
		t.Errorf("%d more threads for %d posters", n, posters)
	}
	close(busy)
	wg.Wait()
}

// Where the goroutine is given the main thread, the loop runs on another one.
func TestNeverOnTheMainThread(t *testing.T) {
	for range 50 {
		r := start(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			r.on(t, func() {
				if unix.Gettid() == unix.Getpid() {
					t.Error("on the main thread")
				}
			})
		})
		wg.Wait()
	}
}

func TestFullTable(t *testing.T) {
	r := start(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	got := make(chan []int, 1)
	// The thread's table alone is filled.
	r.on(t, func() {
		for {
			if _, err := unix.Dup(r.t.epfd); err != nil {
				return
			}
		}
	})
	if err := r.t.Post(func(fds []int) { got <- fds }, p[0]); err != nil {
		t.Fatal(err)
	}
	if fds := <-got; len(fds) != 0 {
		t.Errorf("got %v from a full table of %d", fds, limit.Cur)
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Errorf("the process's own table is full too: %v", err)
	} else {
		f.Close()
	}
}
