package supervise

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// newConfig is a loop and a launcher until the end of the test.
func newConfig(t testing.TB) *Config {
	loop, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	l, err := proc.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); loop.Close() })
	return &Config{Loop: loop, Launcher: l, Env: os.Environ(), Umask: 0o022}
}

// A site is a service directory, and its service once it has begun.
type site struct {
	t    testing.TB
	dir  string
	s    *Service
	done chan struct{}
	end  string // what was there when done was called
	mu   sync.Mutex
	said []string
}

// newSite makes a service directory with files of these names, which are shell scripts unless empty.
func newSite(t testing.TB, files map[string]string) *site {
	t.Helper()
	x := &site{t: t, dir: t.TempDir(), done: make(chan struct{})}
	for name, body := range files {
		path := filepath.Join(x.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if body != "" {
			body = "#!/bin/sh\n" + body + "\n"
		}
		// Not open for writing while another test forks: that would be ETXTBSY.
		tmp := path + ".tmp"
		if err := os.WriteFile(tmp, []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, path); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func (x *site) open(c *Config) *site {
	x.t.Helper()
	say := func(s string) { x.mu.Lock(); x.said = append(x.said, s); x.mu.Unlock() }
	s, err := c.Open(x.dir, say, func() { x.end = x.left(); close(x.done) })
	if err != nil {
		x.t.Fatal(err)
	}
	x.s = s
	begun := make(chan struct{})
	c.Loop.Do(func() { close(begun) })
	<-begun
	return x
}

// left is what stat and pid say, and whether the lock is free.
func (x *site) left() string {
	lock, err := unix.Open(x.dir+"/supervise/lock", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB)
		unix.Close(lock)
	}
	return fmt.Sprintf("%q %q, lock: %v", x.read("supervise/stat"), x.read("supervise/pid"), err)
}

func (x *site) status(log string) servicedir.Status {
	x.t.Helper()
	fd, err := unix.Open(x.dir+log, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	defer unix.Close(fd)
	s, err := servicedir.Read(fd, "")
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

func (x *site) send(log, commands string) {
	x.t.Helper()
	fd, err := unix.Open(x.dir+log, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := servicedir.Control(fd, commands); err != nil {
		x.t.Fatal(err)
	}
}

// until waits for cond.
func (x *site) until(what string, cond func() bool) {
	x.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.t.Fatalf("%s: never; status %+v, said %q", what, x.status(""), x.said)
		}
	}
}

func (x *site) running(not uint32) (pid uint32) {
	x.t.Helper()
	x.until("running", func() bool {
		s := x.status("")
		pid = s.PID
		return s.State == servicedir.Run && pid != 0 && pid != not
	})
	return pid
}

func (x *site) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(x.dir, name))
	return string(b)
}

func (x *site) exit() {
	x.t.Helper()
	x.s.Exit()
	select {
	case <-x.done:
	case <-time.After(3 * time.Minute):
		x.t.Fatalf("no end; said %q", x.said)
	}
}

// A state that lasts no time is not written; one that lasts is, even where TERM is about to end it.
func TestWritesWhatLasts(t *testing.T) {
	c := newConfig(t)
	x := newSite(t, map[string]string{"run": "trap '' TERM; echo > ready; while :; do sleep 0.01; done"})
	if err := os.Mkdir(filepath.Join(x.dir, "supervise"), 0o700); err != nil {
		t.Fatal(err)
	}
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, filepath.Join(x.dir, "supervise"), unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	x.open(c)
	x.until("ready", func() bool { return x.read("ready") != "" })
	b := make([]byte, 1<<16)
	n, err := unix.Read(watch, b)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(b[:n]), "status\x00"); got != 1 {
		t.Errorf("the status was written %d times until ./run ran: %q", got, b[:n])
	}
	x.s.Exit()
	x.until("TERM", func() bool { return x.read("supervise/stat") == "run, got TERM, want exit\n" })
	x.send("", "k")
	x.exit()
}

// Many services need one process, and no goroutine or thread of their own.
func TestManyServices(t *testing.T) {
	c := newConfig(t)
	const n = 100
	sites := make([]*site, n)
	before := runtime.NumGoroutine()
	for i := range sites {
		sites[i] = newSite(t, map[string]string{"run": "exec sleep 1000", "log/run": "exec cat >/dev/null"}).open(c)
	}
	for _, x := range sites {
		x.running(0)
	}
	if now := runtime.NumGoroutine(); now > before+2 {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) > 20 {
		t.Errorf("%d threads, %v", len(threads), err)
	}
	for _, x := range sites {
		x.s.Exit()
	}
	for _, x := range sites {
		x.exit()
		// All is written by then, and it can be supervised anew.
		if want := `"down\n" "", lock: <nil>`; x.end != want {
			t.Errorf("at the end: %s, want %s", x.end, want)
		}
	}
}

// A control script holds back its own service, but no other and not its log.
func TestHangingControlScript(t *testing.T) {
	c := newConfig(t)
	hung := newSite(t, map[string]string{
		"run": "exec sleep 1000", "control/h": "exec cat hold", "log/run": "exec cat",
	})
	if err := unix.Mkfifo(hung.dir+"/hold", 0o600); err != nil {
		t.Fatal(err)
	}
	hung.open(c)
	other := newSite(t, map[string]string{"run": "exec sleep 1000"}).open(c)
	pid := hung.running(0)
	hung.send("", "h"+strings.Repeat("1", 1000)+"2")
	// Opens once the script is there.
	hold, err := os.OpenFile(hung.dir+"/hold", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	before := other.running(0)
	other.send("", "t")
	other.running(before)
	log := hung.status("/log").PID
	hung.send("/log", "k")
	hung.until("the log again", func() bool { s := hung.status("/log"); return s.PID != 0 && s.PID != log })
	if s := hung.status(""); s.PID != pid || s.State != servicedir.Run {
		t.Errorf("%+v", s)
	}
	hold.Close()
	hung.running(pid) // USR1 ended it
	hung.exit()
	other.exit()
}

// What was written to the FIFO before TERM is done before, also by a control script that takes its time.
func TestTermComesAfterWhatWasWritten(t *testing.T) {
	c := newConfig(t)
	for range 20 {
		x := newSite(t, map[string]string{"run": "exec sleep 1000", "control/t": "exit 1", "log/run": "exec cat"}).open(c)
		x.running(0)
		x.send("", "tcu")
		x.exit()
	}
}

func TestRenamedDirectory(t *testing.T) {
	c := newConfig(t)
	x := newSite(t, map[string]string{"run": "exec sleep 1000", "finish": "pwd >> ended"}).open(c)
	pid := x.running(0)
	old := x.dir
	x.dir += ".new"
	if err := os.Rename(old, x.dir); err != nil {
		t.Fatal(err)
	}
	x.send("", "t")
	x.running(pid)
	if got := x.read("ended"); got != x.dir+"\n" {
		t.Errorf("finish was in %q", got)
	}
	x.exit()
}

// The log gets every line, also when both halves die again and again and the service is told to exit meanwhile.
func TestNoLineIsLost(t *testing.T) {
	c := newConfig(t)
	x := newSite(t, map[string]string{
		"run":     "trap '' TERM; n=$(cat n 2>/dev/null || echo 0); echo line $n; echo $((n + 1)) > n; kill -9 $$",
		"finish":  "echo finish",
		"log/run": "i=0; while read x; do echo $x >> ../got; i=$((i + 1)); test $i = 3 -a ! -e ../last && kill -9 $$; done",
	})
	// A shell reads byte by byte, so what it leaves stays in the pipe.
	x.open(c)
	x.until("three rounds", func() bool { return strings.Count(x.read("got"), "line") >= 3 })
	if err := os.WriteFile(x.dir+"/last", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	x.exit()
	var want strings.Builder
	var runs int
	if _, err := fmt.Sscan(x.read("n"), &runs); err != nil {
		t.Fatal(err)
	}
	for i := range runs {
		fmt.Fprintf(&want, "line %d\nfinish\n", i)
	}
	if got := x.read("got"); got != want.String() {
		t.Errorf("got %q, want %q", got, want.String())
	}
}

func TestWhatCannotBeStarted(t *testing.T) {
	c := newConfig(t)
	x := newSite(t, map[string]string{"finish": "echo $1 $2 >> ended"})
	if err := os.WriteFile(x.dir+"/log", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	x.open(c)
	x.until("an end", func() bool { return x.read("ended") != "" })
	x.exit()
	if got, _, _ := strings.Cut(x.read("ended"), "\n"); got != "111 0" {
		t.Errorf("finish was told %q", got)
	}
	const want = "warning: ./log: not a directory.\nfatal: unable to start ./run: file does not exist"
	if got := strings.Join(x.said[:2], "\n"); got != want {
		t.Errorf("said %q", x.said)
	}
}

func TestOpenFails(t *testing.T) {
	c := newConfig(t)
	_, err := c.Open(t.TempDir()+"/none", nil, nil)
	if err == nil || err.Error() != "unable to change to directory: file does not exist" {
		t.Error(err)
	}
	x := newSite(t, map[string]string{"run": "exec sleep 1000"}).open(c)
	if _, err = c.Open(x.dir, nil, nil); err == nil || err.Error() != "unable to lock supervise/lock: temporary failure" {
		t.Error(err)
	}
	x.exit()
}

var crashes = flag.Int("crashes", 2000, "how often TestCrashes has ./run crash; a day of them is 86400")

// A service that crashes all day, its finish and its log with it, leaves no process, descriptor, file, goroutine or memory behind.
func TestCrashes(t *testing.T) {
	c := newConfig(t)
	c.hurry = true
	x := newSite(t, map[string]string{"run": "echo $$; kill -9 $$", "finish": "exit 3", "log/run": "read a; read b; exit 1"})
	type state struct {
		descriptors, goroutines, children int
		files                             string
		heap                              uint64
	}
	states := make(chan state)
	var last uint32
	runs, settled := 0, min(200, *crashes/2)
	c.Changed = func(now servicedir.Status, _ proc.Status) {
		if now.State != servicedir.Run || now.PID == 0 || now.PID == last {
			return
		}
		last = now.PID
		if runs++; runs != settled && runs != *crashes {
			return
		}
		var s state
		fds, _ := os.ReadDir("/proc/self/fd")
		tasks, _ := filepath.Glob("/proc/self/task/*/children")
		for _, f := range tasks {
			b, _ := os.ReadFile(f)
			s.children += len(strings.Fields(string(b)))
		}
		for _, dir := range []string{"", "/log"} {
			all, _ := os.ReadDir(x.dir + dir + "/supervise")
			for _, f := range all {
				s.files += f.Name() + " "
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s.descriptors, s.goroutines, s.heap = len(fds), runtime.NumGoroutine(), m.HeapAlloc
		states <- s // on the loop: nothing goes on meanwhile
	}
	x.open(c)
	before, after := <-states, <-states
	// A launch that is under way has a few descriptors, and the log may be there or not.
	if after.descriptors > before.descriptors+6 || after.goroutines > before.goroutines+4 || after.children > 3 {
		t.Errorf("after %d crashes: %+v, after %d: %+v", settled, before, *crashes, after)
	}
	if strings.ReplaceAll(after.files, ".new", "") != strings.ReplaceAll(before.files, ".new", "") {
		t.Errorf("files %q, then %q", before.files, after.files)
	}
	if after.heap > before.heap+1<<20 {
		t.Errorf("heap of %d bytes, then %d", before.heap, after.heap)
	}
	x.exit()
	if pids, _ := filepath.Glob("/proc/self/task/*/children"); len(pids) > 0 {
		for _, f := range pids {
			if b, _ := os.ReadFile(f); len(strings.Fields(string(b))) > 0 {
				t.Errorf("a child is left: %s", b)
			}
		}
	}
}
