package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/logdir"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest/name"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("LOGS_TEST_VICTIM"); dir != "" {
		victim(dir)
	}
	os.Exit(leak.Run(m))
}

func everything(name.Moniker) bool { return true }

func newLogs(t testing.TB, cfg Config) *Logs {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "logs")
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A component is the writing side of one run.
type component struct {
	t        testing.TB
	out, err *os.File
	drained  func(context.Context)
}

func open(t testing.TB, l *Logs, m name.Moniker) *component {
	t.Helper()
	out, err, drained, e := l.Open(m)
	if e != nil {
		t.Fatal(e)
	}
	return &component{t, out, err, drained}
}

func (c *component) print(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.out, s); err != nil {
		c.t.Fatal(err)
	}
}

// end is what the manager does when the run is over.
func (c *component) end() {
	c.t.Helper()
	c.out.Close()
	c.err.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if c.drained(ctx); ctx.Err() != nil {
		c.t.Fatal("not drained")
	}
}

func read(t testing.TB, l *Logs, m name.Moniker, n int) []Line {
	t.Helper()
	lines, err := l.Read(m, n)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// show is a line without its time.
func show(l Line) string {
	s := fmt.Sprintf("%s %s: %s", l.Moniker, l.Stream, l.Text)
	if l.Partial {
		s += "…"
	}
	return s
}

func wantLines(t testing.TB, got []Line, want ...string) {
	t.Helper()
	var shown []string
	for _, l := range got {
		shown = append(shown, show(l))
	}
	if !slices.Equal(shown, want) {
		t.Errorf("lines:\n got %q\nwant %q", shown, want)
	}
}

// joined is what m's stream wrote, as far as it is stored.
func joined(t testing.TB, l *Logs, m name.Moniker, s Stream) string {
	t.Helper()
	var b strings.Builder
	for _, line := range read(t, l, m, -1) {
		if line.Stream == s {
			b.WriteString(line.Text)
			if !line.Partial {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

func TestRecords(t *testing.T) {
	l := newLogs(t, Config{})
	before := time.Now()
	c := open(t, l, "/core/net")
	c.print("one\n\ntwo\nO spoofed M\nbytes \xff\x00\xc3\n")
	l.Read("/core/net", 0)
	fmt.Fprint(c.err, "oh\n")
	c.print("un")
	c.print("finished")
	c.end()
	l.Note("/core/net", "exited\nwith 1")
	got := read(t, l, "/core/net", -1)
	slices.SortStableFunc(got, func(a, b Line) int { return int(a.Stream) - int(b.Stream) }) // the streams' order is not certain
	wantLines(t, got, "/core/net stdout: one", "/core/net stdout: ", "/core/net stdout: two", "/core/net stdout: O spoofed M",
		"/core/net stdout: bytes \uFFFD\x00\uFFFD", "/core/net stdout: unfinished…", "/core/net stderr: oh",
		"/core/net manager: exited", "/core/net manager: with 1")
	for _, line := range got {
		if line.Time.Before(before) || line.Time.After(time.Now()) {
			t.Errorf("%v is not a time of this test", line.Time)
		}
	}
	file, err := os.ReadFile(filepath.Join(l.dir, "core+net", "current"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" O bytes \xff\x00\xc3\n", " o unfinished\n", " E oh\n", " M exited\n@"} {
		if !bytes.Contains(file, []byte(want)) {
			t.Errorf("no %q in the file:\n%q", want, file)
		}
	}
	wantLines(t, read(t, l, "/core/net", 1), "/core/net manager: with 1")
	wantLines(t, read(t, l, "/none", 5))
}

// What a program wrote just before it ended is there when drained returns.
func TestLastLinesOfAProgram(t *testing.T) {
	l := newLogs(t, Config{})
	sh := needs.Tool(t, "sh")
	for i := range 5 {
		m := name.Moniker("/p" + strconv.Itoa(i))
		c := open(t, l, m)
		line := strings.Repeat("x", 500)
		cmd := exec.Command(sh, "-c", `i=0; while [ $i -lt 2000 ]; do echo "$i $0"; i=$((i+1)); done; printf last; echo err >&2`, line)
		cmd.Stdout, cmd.Stderr = c.out, c.err
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		c.end()
		got := joined(t, l, m, Stdout)
		if !strings.HasSuffix(got, "\nlast") || strings.Count(got, "\n") != 2000 || len(got) < 1_000_000 {
			t.Errorf("%d bytes, %d lines, end %q", len(got), strings.Count(got, "\n"), got[max(len(got)-10, 0):])
		}
		if got := joined(t, l, m, Stderr); got != "err\n" {
			t.Errorf("stderr %q", got)
		}
	}
}

// Somebody outside keeps a writing end: drained does not wait for it, and takes all that was written before.
func TestDrainWithAWriterLeft(t *testing.T) {
	l := newLogs(t, Config{})
	c := open(t, l, "/a")
	fd, err := syscall.Dup(int(c.out.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	left := os.NewFile(uintptr(fd), "left")
	defer left.Close()
	c.print(strings.Repeat("0123456789\n", 5000) + "end")
	c.end()
	if got := joined(t, l, "/a", Stdout); got != strings.Repeat("0123456789\n", 5000)+"end" {
		t.Errorf("%d bytes", len(got))
	}
	if _, err := left.WriteString("late"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("late write = %v, want EPIPE", err)
	}
	// And one who floods: what comes while it is read is not waited for.
	c = open(t, l, "/b")
	if fd, err = syscall.Dup(int(c.out.Fd())); err != nil {
		t.Fatal(err)
	}
	flood := os.NewFile(uintptr(fd), "flood")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := flood.Write(make([]byte, 100_000)); err != nil {
				return
			}
		}
	})
	c.end()
	wg.Wait()
	flood.Close()
}

func TestQuietComponentsHaveNoDirectory(t *testing.T) {
	l := newLogs(t, Config{})
	c := open(t, l, "/quiet")
	c.end()
	l.Remove("/quiet")
	if entries, err := os.ReadDir(l.dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestLogsOfTheDestroyedAreBounded(t *testing.T) {
	dir := t.TempDir()
	job := func(i int) name.Moniker { return name.Moniker("/jobs:" + strconv.Itoa(i)) }
	have := func(i int) bool {
		_, err := os.Stat(filepath.Join(dir, dirName(job(i))))
		return err == nil
	}
	l := newLogs(t, Config{Dir: dir})
	for i := range maxRemoved {
		l.Note(job(i), "x")
		l.Remove(job(i))
	}
	l.Remove("/never/wrote")
	open(t, l, job(1)).end() // it came back
	open(t, l, job(2)).end() // came back and went
	l.Remove(job(2))
	l.Close()
	l = newLogs(t, Config{Dir: dir})
	for i := range 5 {
		m := job(maxRemoved + i)
		l.Note(m, "x")
		l.Remove(m)
	}
	l.Close()
	// 999 were there, 1 not among them; 5 more came: 0, 3, 4, 5 had to go.
	for i := range maxRemoved + 5 {
		if want := i != 0 && (i < 3 || i > 5); have(i) != want {
			t.Errorf("the log of job %d is there: %v", i, have(i))
		}
	}
}

func TestRotationIsBounded(t *testing.T) {
	l := newLogs(t, Config{Size: 10_000, Keep: 3})
	c := open(t, l, "/a")
	for i := range 5000 {
		c.print(fmt.Sprintf("line %d\n", i))
	}
	c.end()
	entries, err := os.ReadDir(filepath.Join(l.dir, "a"))
	if err != nil || len(entries) != 5 { // 3 old, current, lock
		t.Errorf("%v, %v", entries, err)
	}
	lines := read(t, l, "/a", -1)
	for i, line := range lines {
		if want := fmt.Sprintf("line %d", 5000-len(lines)+i); line.Text != want {
			t.Fatalf("line %q, want %q", line.Text, want)
		}
	}
	if len(lines) < 700 {
		t.Errorf("%d lines kept", len(lines))
	}
}

func TestSecondManagerContinues(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		l := newLogs(t, Config{Dir: dir})
		c := open(t, l, "/a")
		c.print(fmt.Sprintf("run %d\n", i))
		c.end()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l := newLogs(t, Config{Dir: dir})
	wantLines(t, read(t, l, "/a", -1), "/a stdout: run 0", "/a stdout: run 1", "/a stdout: run 2")
	entries, _ := os.ReadDir(filepath.Join(dir, "a"))
	if len(entries) != 2 { // current, lock
		t.Errorf("%v", entries)
	}
}

func TestManyDirectoriesFewOpen(t *testing.T) {
	l := newLogs(t, Config{})
	const n = 5 * maxOpen
	var cs []*component
	for i := range n {
		cs = append(cs, open(t, l, name.Moniker("/c"+strconv.Itoa(i))))
	}
	for round := range 3 {
		for i, c := range cs {
			c.print(fmt.Sprintf("%d in round %d\n", i, round))
		}
	}
	for i := range n { // all was read
		cs[i].print("x\n")
	}
	subscribed := l.Subscribe(everything)
	defer subscribed.Close()
	var opened, writers int
	l.wait(t.Context(), func() {
		opened = len(l.loop.open)
		for _, in := range l.loop.instances {
			if in.w != nil {
				writers++
			}
		}
	})
	if opened > maxOpen || opened != writers {
		t.Errorf("%d open, %d writers", opened, writers)
	}
	for i, c := range cs {
		c.end()
		m := name.Moniker("/c" + strconv.Itoa(i))
		want := fmt.Sprintf("%d in round 0\n%d in round 1\n%d in round 2\nx\n", i, i, i)
		if got := joined(t, l, m, Stdout); got != want {
			t.Errorf("%s has %q", m, got)
		}
		if files, _ := os.ReadDir(filepath.Join(l.dir, dirName(m))); len(files) != 2 {
			t.Errorf("%s: %v", m, files)
		}
	}
	l.wait(t.Context(), func() {
		if len(l.loop.open)+len(l.loop.instances) > 0 {
			t.Errorf("%d open, %d instances left", len(l.loop.open), len(l.loop.instances))
		}
	})
}

// One that writes as fast as it can does not keep another's line.
func TestFloodIsFair(t *testing.T) {
	yes := needs.Tool(t, "yes")
	l := newLogs(t, Config{})
	var floods []*exec.Cmd
	for i := range 4 {
		c := open(t, l, name.Moniker("/flood"+strconv.Itoa(i)))
		cmd := exec.Command(yes, strings.Repeat("y", 100))
		cmd.Stdout, cmd.Stderr = c.out, c.err
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		floods = append(floods, cmd)
		defer c.end()
	}
	c := open(t, l, "/quiet")
	defer c.end()
	sub := l.Subscribe(func(m name.Moniker) bool { return m == "/quiet" })
	defer sub.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var worst time.Duration
	for i := range 50 {
		start := time.Now()
		c.print(strconv.Itoa(i) + "\n")
		line, err := sub.Next(ctx)
		if err != nil || line.Text != strconv.Itoa(i) {
			t.Fatalf("%v, %v", line, err)
		}
		worst = max(worst, time.Since(start))
	}
	t.Logf("worst latency beside 4 floods: %v", worst)
	for _, cmd := range floods {
		cmd.Process.Kill()
		cmd.Wait()
	}
	size := int64(0)
	files, _ := os.ReadDir(filepath.Join(l.dir, "flood0"))
	for _, f := range files {
		if st, err := f.Info(); err == nil {
			size += st.Size()
		}
	}
	if limit := int64(logdir.DefaultSize * (logdir.DefaultKeep + 1)); size > limit {
		t.Errorf("the flood has %d bytes on disk, more than %d", size, limit)
	}
}

func TestLongLines(t *testing.T) {
	l := newLogs(t, Config{})
	want := strings.Repeat("long", 100_000) + "\n" + strings.Repeat("a", maxLine) + "\n" + strings.Repeat("b", maxLine+1) +
		"\nshort\n"
	c := open(t, l, "/a")
	c.print(want)
	c.end()
	if got := joined(t, l, "/a", Stdout); got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	for _, line := range read(t, l, "/a", -1) {
		if len(line.Text) > maxLine {
			t.Errorf("a record of %d bytes", len(line.Text))
		}
	}
	l.wait(t.Context(), func() {
		if l.loop.held != 0 {
			t.Errorf("%d bytes held", l.loop.held)
		}
	})
}

// Lines begun by many components do not fill memory.
func TestHeldIsBounded(t *testing.T) {
	l := newLogs(t, Config{})
	const n = maxHeld/60_000 + 20
	var cs []*component
	for i := range n {
		c := open(t, l, name.Moniker("/c"+strconv.Itoa(i)))
		c.print(strings.Repeat("x", 60_000))
		cs = append(cs, c)
	}
	for _, c := range cs {
		c.print("y") // the pipe has room for more than is there: this waits for nothing
	}
	l.wait(t.Context(), func() {
		if l.loop.held > maxHeld {
			t.Errorf("%d bytes held", l.loop.held)
		}
	})
	for i, c := range cs {
		c.print("z\n")
		c.end()
		if got := joined(t, l, name.Moniker("/c"+strconv.Itoa(i)), Stdout); got != strings.Repeat("x", 60_000)+"yz\n" {
			t.Errorf("c%d: %d bytes", i, len(got))
		}
	}
}

// limitFiles lets no file of this process grow beyond size until the returned function is called.
func limitFiles(t *testing.T, size uint64) (restore func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ) // so that the write fails only
	limit := old
	limit.Cur = size
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	}
}

func TestFullDisk(t *testing.T) {
	l := newLogs(t, Config{})
	sub := l.Subscribe(everything)
	defer sub.Close()
	next := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		line, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return show(line)
	}
	a, b := open(t, l, "/a"), open(t, l, "/b")
	a.print("before\n")
	if got := next(); got != "/a stdout: before" {
		t.Error(got)
	}
	restore := limitFiles(t, 50) // within the second record of /a
	a.print("second\n")
	if got := next(); got != "/a stdout: second" {
		t.Error(got)
	}
	if got := next(); !strings.HasPrefix(got, "/a manager: log not written: write ") {
		t.Error(got)
	}
	// More than is kept, without waiting; and others go on.
	for i := range 2000 {
		a.print(fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 95)))
	}
	b.print("b is here\n")
	for got := ""; got != "/b stdout: b is here"; {
		got = next()
	}
	restore()
	b.print("b after\n")
	for got := ""; !strings.HasPrefix(got, "/a manager: "); { // the retry's
		got = next()
	}
	a.print("after\n")
	a.end()
	b.end()
	lines := read(t, l, "/a", -1)
	kept := len(lines) - 4
	wantLines(t, lines[:2], "/a stdout: before", "/a stdout: second")
	for i, line := range lines[2 : 2+kept] {
		if !strings.HasPrefix(line.Text, strconv.Itoa(i)+" x") {
			t.Fatalf("line %d kept is %q", i, line.Text)
		}
	}
	if kept < 400 || kept > 600 {
		t.Errorf("%d lines kept", kept)
	}
	lost := lines[len(lines)-2]
	if want := fmt.Sprintf("%d lines lost: ", 2000-kept); lost.Stream != Manager || !strings.HasPrefix(lost.Text, want) {
		t.Errorf("%q, want %q", lost.Text, want)
	}
	wantLines(t, lines[len(lines)-1:], "/a stdout: after")
	wantLines(t, read(t, l, "/b", -1), "/b stdout: b is here", "/b stdout: b after")
	l.wait(t.Context(), func() {
		if len(l.loop.stuck)+l.loop.backlogs+len(l.loop.instances) != 0 {
			t.Errorf("left: %d stuck, %d bytes, %d instances", len(l.loop.stuck), l.loop.backlogs, len(l.loop.instances))
		}
	})
}

// A directory that somebody else has: what is noted about a component that does not run waits, and is not made twice.
func TestLockedDirectory(t *testing.T) {
	l := newLogs(t, Config{})
	path := filepath.Join(l.dir, "a")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	other, err := logdir.Open(path, logdir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		l.Note("/a", "note "+strconv.Itoa(i))
	}
	c := open(t, l, "/a")
	c.print("text\n")
	c.end()
	wantLines(t, read(t, l, "/a", -1))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // tries it a last time
		t.Fatal(err)
	}
	wantLines(t, read(t, l, "/a", -1), "/a manager: note 0", "/a manager: note 1", "/a manager: note 2", "/a stdout: text")
}

// A component makes itself a reader of its own pipe; what it takes is its loss, the loop goes on.
func TestThief(t *testing.T) {
	l := newLogs(t, Config{})
	c := open(t, l, "/thief")
	thief, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", c.out.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, thief) })
	other := open(t, l, "/other")
	for range 2000 {
		c.print("x\n")
	}
	other.print("here\n")
	other.end()
	wantLines(t, read(t, l, "/other", -1), "/other stdout: here")
	c.end()
	wg.Wait()
	thief.Close()
}

// A reader that is far too slow misses the oldest lines, is told how many, and gets the last ones.
func TestSlowReaderMissesLines(t *testing.T) {
	l := newLogs(t, Config{})
	sub := l.Subscribe(everything)
	c := open(t, l, "/a")
	text := strings.Repeat("x", 10_000)
	const n = maxQueuedBytes / 10_000 * 2
	for i := range n {
		c.print(strconv.Itoa(i) + text + "\n")
	}
	c.end()
	line, err := sub.Next(t.Context())
	if err != nil || line.Stream != Manager || line.Moniker != "" {
		t.Fatalf("%+v, %v", line, err)
	}
	var missed int
	if _, err := fmt.Sscanf(line.Text, "… %d lines not shown", &missed); err != nil || missed < n/4 || missed > n {
		t.Fatalf("%q", line.Text)
	}
	for i := missed; i < n; i++ {
		line, err := sub.Next(t.Context())
		if err != nil || line.Text != strconv.Itoa(i)+text {
			t.Fatalf("%.20s, %v, want %d", line.Text, err, i)
		}
	}
	l.Note("/a", "new")
	if line, err := sub.Next(t.Context()); err != nil || line.Text != "new" {
		t.Errorf("%v, %v", line, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sub.Next(ctx); err != context.Canceled {
		t.Errorf("Next = %v", err)
	}
	sub.Close()
	if _, err := sub.Next(t.Context()); err != os.ErrClosed {
		t.Errorf("Next = %v", err)
	}
}

// Followers that begin at any moment get each line once.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	earlier := newLogs(t, Config{Dir: dir})
	earlier.Note("/a", "earlier")
	earlier.Note("/b", "b earlier")
	earlier.Note("/not", "asked for")
	earlier.Close()
	l := newLogs(t, Config{Dir: dir})
	const n = 3000
	var wg sync.WaitGroup
	begun := make(chan int, 1000)
	wg.Go(func() {
		for i := range n {
			l.Note("/a", strconv.Itoa(i))
			if i%50 == 0 {
				begun <- i
			}
		}
		close(begun)
	})
	filter := func(m name.Moniker) bool { return m == "/a" || m == "/b" }
	for range begun {
		wg.Go(func() {
			next := -2
			for line, err := range l.Follow(t.Context(), filter, -1) {
				want := strconv.Itoa(next)
				switch next {
				case -2:
					want = "earlier"
				case -1:
					want = "b earlier"
				}
				if err != nil || line.Text != want {
					t.Errorf("line %q, %v, want %q", line.Text, err, want)
					return
				}
				if next++; next == n {
					return
				}
			}
			t.Error("ended")
		})
	}
	wg.Wait()
	// The last of each, in order of time; and the end when the Logs end.
	ended := make(chan []Line)
	got := make(chan struct{}, 10)
	go func() {
		var lines []Line
		for line := range l.Follow(context.Background(), filter, 1) {
			lines = append(lines, line)
			got <- struct{}{}
		}
		ended <- lines
	}()
	<-got
	<-got
	l.Note("/b", "new")
	<-got
	l.Close()
	wantLines(t, <-ended, "/b manager: b earlier", "/a manager: "+strconv.Itoa(n-1), "/b manager: new")
	var history []Line
	for line := range l.History(filter, 1) {
		history = append(history, line)
	}
	wantLines(t, history, "/a manager: "+strconv.Itoa(n-1), "/b manager: new")
}

func TestClose(t *testing.T) {
	l := newLogs(t, Config{})
	c := open(t, l, "/a")
	c.print("in the pipe\nand the end")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.end()
	wantLines(t, read(t, l, "/a", -1), "/a stdout: in the pipe", "/a stdout: and the end…")
	if _, _, _, err := l.Open("/a"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Open = %v", err)
	}
	l.Note("/a", "nothing")
	l.Remove("/a")
	if _, err := l.Subscribe(everything).Next(t.Context()); err != os.ErrClosed {
		t.Errorf("Next = %v", err)
	}
}

// victim is the process that TestKilled kills: it writes numbered lines to many directories for ever.
func victim(dir string) {
	l, err := New(Config{Dir: dir, Size: 20_000})
	if err != nil {
		panic(err)
	}
	var outs []*os.File
	for i := range 2 * maxOpen {
		out, _, _, err := l.Open(name.Moniker("/c" + strconv.Itoa(i)))
		if err != nil {
			panic(err)
		}
		outs = append(outs, out)
	}
	for i := 0; ; i++ {
		for _, out := range outs {
			fmt.Fprintf(out, "%d %s\n", i, strings.Repeat("x", i%300))
		}
		if i == 1000 { // more than the pipes hold is stored
			fmt.Println("well under way")
		}
	}
}

// A manager that is killed leaves nothing that the next cannot take over.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "LOGS_TEST_VICTIM="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, err = out.Read(make([]byte, 10))
		cmd.Process.Kill()
		cmd.Wait()
		if err != nil {
			t.Fatal(err)
		}
		l := newLogs(t, Config{Dir: dir, Size: 20_000})
		for i := range 2 * maxOpen {
			m := name.Moniker("/c" + strconv.Itoa(i))
			c := open(t, l, m)
			c.print("next\n")
			c.end()
			lines := read(t, l, m, -1)
			if len(lines) < 100 {
				t.Fatalf("%s has %d lines", m, len(lines))
			}
			// Each line follows the one before, but where a run ended or the oldest were removed.
			last := -1
			for _, line := range lines {
				if line.Text == "next" {
					last = -1
					continue
				}
				number, xs, _ := strings.Cut(line.Text, " ")
				n, err := strconv.Atoi(number)
				if err != nil || last >= 0 && n != last+1 || !line.Partial && xs != strings.Repeat("x", n%300) {
					t.Fatalf("%s: line %q after %d", m, line.Text, last)
				}
				last = n
			}
			if last := lines[len(lines)-1]; last.Text != "next" {
				t.Errorf("%s: last line %q", m, last.Text)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The real svlogd takes a directory over, and we take it back.
func TestSvlogdTakesOver(t *testing.T) {
	svlogd := needs.Tool(t, "svlogd")
	l := newLogs(t, Config{})
	run := func(text string) {
		c := open(t, l, "/a")
		c.print(text)
		c.end()
	}
	run("ours\n")
	cmd := exec.Command(svlogd, "-t", filepath.Join(l.dir, "a"))
	cmd.Stdin = strings.NewReader("theirs\n")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	run("ours again\n")
	lines := read(t, l, "/a", -1)
	wantLines(t, lines, "/a stdout: ours", "/a stdout: theirs", "/a stdout: ours again")
	if !lines[0].Time.Before(lines[1].Time) || !lines[1].Time.Before(lines[2].Time) {
		t.Errorf("times %v", lines)
	}
	if files, _ := os.ReadDir(filepath.Join(l.dir, "a")); len(files) != 2 {
		t.Errorf("%v", files)
	}
}

// 9,000 attached quiet components (fewer where RLIMIT_NOFILE is low) and what each costs this process.
func TestQuietComponentsCostLittle(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := int(min(9000, limit.Cur/2-200))
	if n < 400 {
		needs.Missing(t, "files", fmt.Errorf("RLIMIT_NOFILE is %d", limit.Cur))
	}
	l := newLogs(t, Config{})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	monikers := make([]name.Moniker, n)
	for i := range monikers {
		monikers[i] = name.Moniker("/collection:component-" + strconv.Itoa(i))
	}
	drained := make([]func(context.Context), n)
	writers := make([]int, 0, 2*n) // the programs' ends, here without an os.File
	before := heap()
	for i, m := range monikers {
		c := open(t, l, m)
		for _, f := range []*os.File{c.out, c.err} {
			fd, err := syscall.Dup(int(f.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			writers = append(writers, fd)
			f.Close()
		}
		drained[i] = c.drained
	}
	l.wait(t.Context(), func() {})
	each := (heap() - before) / uint64(n)
	t.Logf("%d quiet components: %d bytes of heap each", n, each)
	if each > 300 {
		t.Errorf("%d bytes of heap for each quiet component, want 300 at most", each)
	}
	// The process's own table has the writing ends only.
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if len(fds) > 2*n+30 {
		t.Errorf("%d descriptors for %d components", len(fds), n)
	}
	if n == int(limit.Cur/2-200) {
		t.Logf("RLIMIT_NOFILE is %d", limit.Cur)
	}
	for i := range drained {
		syscall.Close(writers[2*i])
		syscall.Close(writers[2*i+1])
		drained[i](t.Context())
	}
	l.wait(t.Context(), func() {
		if len(l.loop.instances) != 0 || l.pipes.Load() != 0 {
			t.Errorf("%d instances, %d pipes left", len(l.loop.instances), l.pipes.Load())
		}
	})
	runtime.KeepAlive(monikers)
}

func TestTooManyPipes(t *testing.T) {
	l := newLogs(t, Config{})
	l.maxPipes = 3
	c := open(t, l, "/a")
	if _, _, _, err := l.Open("/b"); err == nil || !strings.HasPrefix(err.Error(), "open log of /b: 3 log pipes are open") {
		t.Errorf("Open = %v", err)
	}
	c.end()
	open(t, l, "/b").end()
}

func TestIdleDoesNothing(t *testing.T) {
	l := newLogs(t, Config{})
	c := open(t, l, "/a")
	c.print("x\n")
	c.print("no newline")
	defer c.end()
	l.wait(t.Context(), func() {
		if d := l.loop.Turn(); d >= 0 {
			t.Errorf("would wake up after %v", d)
		}
	})
}

// FuzzBytes: what is written to the two streams, in whatever pieces, is what the records of each give together.
func FuzzBytes(f *testing.F) {
	f.Add([]byte("a\nb\xff\n\nc"), []byte("e\n"), uint8(2))
	f.Fuzz(func(t *testing.T, out, err []byte, piece uint8) {
		l := newLogs(t, Config{Size: 200, Keep: 1 << 20})
		c := open(t, l, "/a")
		for p := range slices.Chunk(out, int(piece)+1) {
			if _, err := c.out.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.err.Write(err); err != nil {
			t.Fatal(err)
		}
		c.end()
		l.Close()
		var got [3][]byte
		for record, err := range logdir.Lines(filepath.Join(l.dir, "a")) {
			if err != nil {
				t.Fatal(err)
			}
			line := parse("/a", record)
			text := record[len("@")+24+len(" O ") : len(record)-1]
			if valid(text) != line.Text {
				t.Fatalf("%q read as %q", record, line.Text)
			}
			got[line.Stream] = append(got[line.Stream], text...)
			if !line.Partial {
				got[line.Stream] = append(got[line.Stream], '\n')
			}
		}
		if !bytes.Equal(got[Stdout], out) || !bytes.Equal(got[Stderr], err) || len(got[Manager]) > 0 {
			t.Fatalf("wrote %q and %q, stored %q", out, err, got)
		}
	})
}

// FuzzDirName: every moniker has a directory name of its own, which is a file name and leads back.
func FuzzDirName(f *testing.F) {
	f.Add("/core/net", "/core+net")
	f.Add("/", "/+")
	f.Add("/"+strings.Repeat("a", 255)+"/b:c", "/"+strings.Repeat("a", 255)+"/b:d")
	f.Fuzz(func(t *testing.T, a, b string) {
		ma, err := name.ParseMoniker(a)
		if err != nil {
			return
		}
		dir := dirName(ma)
		if len(dir) > maxDirName || strings.ContainsAny(dir, "/\x00") || dir == "." || dir == ".." {
			t.Fatalf("%q has directory %q", a, dir)
		}
		path := filepath.Join(t.TempDir(), dir)
		if err := makeDir(path, ma); err != nil {
			t.Fatal(err)
		}
		if m, ok := dirMoniker(path); !ok || m != ma {
			t.Fatalf("%q came back as %q, %v", a, m, ok)
		}
		if mb, err := name.ParseMoniker(b); err == nil && ma != mb && dirName(mb) == dir {
			t.Fatalf("%q and %q have one directory", a, b)
		}
	})
}
