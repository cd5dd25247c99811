// Package runnertest holds what every runners.Runner must do: Run puts a runner through the cases of the contract in package
// runners. Fake is a runner in memory that keeps the contract, for tests of what stands above.
package runnertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// A Behaviour is what a test program does.
type Behaviour string

// What test programs do. Each but the last four writes Greeting to its standard output first.
const (
	// ExitZero ends at once, with code 0.
	ExitZero Behaviour = "exits with 0"
	// ExitSeven ends at once, with code 7.
	ExitSeven Behaviour = "exits with 7"
	// UntilStopped runs until it is asked to stop, then ends with code 0.
	UntilStopped Behaviour = "runs until stopped"
	// IgnoresStop runs until it is killed.
	IgnoresStop Behaviour = "ignores stop"
	// Prints writes Output to its standard output and ends with code 0.
	Prints Behaviour = "prints"
	// NeverStarts cannot be started.
	NeverStarts Behaviour = "never starts"
	// NeverReady does not come to the point where Start would return. A runner without readiness has no such program.
	NeverReady Behaviour = "never ready"
	// SurvivesKill is a program of Fake's only, the one that a runner cannot get rid of: Kill returns and it does not end.
	SurvivesKill Behaviour = "survives kill"
)

// Greeting is the line by which a test program says that it runs.
const Greeting = "running\n"

// Output is what Prints writes: 20,000 numbered lines, several times what a pipe holds, the last without its newline.
func Output() []byte {
	var b bytes.Buffer
	for i := range 20_000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// A Kit is the runner under test, and programs for it.
type Kit struct {
	Runner runners.Runner
	// Info is the program block and the package of a program that behaves as b; Run adds the rest. ok is false where the
	// runner has no such program: the cases that need it are skipped.
	Info func(t *testing.T, b Behaviour) (info runners.StartInfo, ok bool)
}

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

// Run puts the kit's runner through every case, each as a subtest.
func Run(t *testing.T, k Kit) {
	cases := []struct {
		name string
		f    func(*testing.T, Kit)
	}{
		{"exit", testExit},
		{"exit before start returns", testExitAtOnce},
		{"stop", testStop},
		{"stop twice", testStopTwice},
		{"stop and kill after the end", testAfterEnd},
		{"stop is ignored", testStopIgnored},
		{"kill", testKill},
		{"kill during stop", testKillDuringStop},
		{"kill from many", testKillFromMany},
		{"wait from many", testWaitFromMany},
		{"wait gives up", testWaitGivesUp},
		{"on exit", testOnExit},
		{"output is complete", testOutput},
		{"no streams", testNoStreams},
		{"start fails", testStartFails},
		{"start cancelled before", testStartCancelledBefore},
		{"start cancelled while held", testStartCancelledHeld},
		{"start cancelled before ready", testStartCancelledNotReady},
		{"break on start", testBreakOnStart},
		{"start outlives its context", testStartContext},
		{"restart", testRestart},
		{"side by side", testSideBySide},
		{"extras", testExtras},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := held(t)
			if t.Run("once", func(t *testing.T) { c.f(t, k) }) && before.left(t, time.Second/2) != "" {
				// It may be what the runner keeps for all: a loop, a table. What is left each time is a leak.
				before = held(t)
				t.Run("again", func(t *testing.T) { c.f(t, k) })
				if left := before.left(t, bound); left != "" {
					t.Error("left: ", left)
				}
			}
		})
	}
}

// A started is one start, with the reading ends of its streams.
type started struct {
	runners.Program
	began  time.Time
	out    *bytes.Buffer
	files  []*os.File    // what the runner was given
	greet  chan struct{} // closed when the first line has been read
	eof    chan struct{} // closed when no writer is left
	reader *os.File
}

// info is a program's whole StartInfo, with every kind of file in it.
func info(t *testing.T, k Kit, b Behaviour) (runners.StartInfo, *started) {
	t.Helper()
	in, ok := k.Info(t, b)
	if !ok {
		t.Skipf("this runner has no program that %s", b)
	}
	in.Moniker = name.Moniker("/kit")
	in.URL = "file:///kit/program.cml"
	s := &started{out: new(bytes.Buffer), greet: make(chan struct{}), eof: make(chan struct{}), began: time.Now()}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.reader, in.Stdout = r, w
	in.Stderr = open(t, os.DevNull)
	in.Outgoing = open(t, t.TempDir())
	in.Handles = []runners.Handle{{Number: 9, File: open(t, os.DevNull)}}
	in.Namespace = append(in.Namespace, runners.NamespaceEntry{Path: "/data", File: open(t, t.TempDir())})
	s.files = []*os.File{in.Stdout, in.Stderr, in.Outgoing, in.Handles[0].File}
	for _, e := range in.Namespace {
		s.files = append(s.files, e.File)
	}
	go s.read()
	t.Cleanup(func() {
		within(t, s.eof, "the end of the program's output")
		r.Close()
	})
	return in, s
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (s *started) read() {
	defer close(s.eof)
	greeted := false
	buf := make([]byte, 32<<10)
	for {
		n, err := s.reader.Read(buf)
		s.out.Write(buf[:n])
		if !greeted && bytes.HasPrefix(s.out.Bytes(), []byte(Greeting)) {
			greeted = true
			close(s.greet)
		}
		if err != nil {
			return
		}
	}
}

// run starts a program that must start; it is killed, if it still runs, when the test ends.
func run(t *testing.T, k Kit, b Behaviour) *started {
	t.Helper()
	in, s := info(t, k, b)
	p, err := k.Runner.Start(t.Context(), in)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	s.keep(t, p)
	return s
}

func (s *started) keep(t *testing.T, p runners.Program) {
	s.Program = p
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		if err := p.Kill(ctx); err != nil {
			t.Errorf("kill: %v", err)
		}
		if _, err := p.Wait(ctx); err != nil {
			t.Errorf("wait after kill: %v", err)
		}
		s.closed(t)
	})
}

// greeted waits until the program has said that it runs.
func (s *started) greeted(t *testing.T) {
	t.Helper()
	select {
	case <-s.greet:
	case <-s.eof:
		select {
		case <-s.greet:
		default:
			t.Fatalf("the program ended without its greeting; it wrote %q", s.out)
		}
	case <-time.After(bound):
		t.Fatal("no greeting")
	}
}

// closed checks that the runner has closed all that it was given.
func (s *started) closed(t *testing.T) {
	t.Helper()
	for _, f := range s.files {
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the runner left %s open (close: %v)", f.Name(), err)
		}
	}
}

func within[T any](t *testing.T, c <-chan T, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(bound):
		t.Errorf("waited %v for %s", bound, what)
	}
}

// wait waits for the end and checks what every end must say.
func (s *started) wait(t *testing.T) runners.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	e, err := s.Wait(ctx)
	if err != nil {
		t.Fatalf("wait: %v", err)
	}
	// Nothing of it is left: so nobody can write any more.
	within(t, s.eof, "the end of its output, although Wait had returned")
	if e.Started.Before(s.began) || e.Ended.Before(e.Started) || e.Ended.After(time.Now()) {
		t.Errorf("times: began %v, started %v, ended %v, now %v", s.began, e.Started, e.Ended, time.Now())
	}
	if e.Signal != 0 && e.Code != -1 {
		t.Errorf("signal %v and code %d", e.Signal, e.Code)
	}
	if e.Critical {
		t.Error("the end of an ordinary program is critical")
	}
	return e
}

func (s *started) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func (s *started) kill(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	if err := s.Kill(ctx); err != nil {
		t.Errorf("kill: %v", err)
	}
}

// ended checks code and cause of an end that came without a signal.
func ended(t *testing.T, e runners.Exit, code int, cause runners.Cause) {
	t.Helper()
	if e.Code != code || e.Signal != 0 || e.Cause != cause || e.OK() != (code == 0) {
		t.Errorf("exit is %v (%+v), want code %d by %v", e, e, code, cause)
	}
}

// killed checks an end by Kill: never a good one.
func killed(t *testing.T, e runners.Exit) {
	t.Helper()
	if e.OK() || e.Code != -1 || e.Cause != runners.ByKill {
		t.Errorf("exit is %v (%+v), want an end by a kill, with code -1", e, e)
	}
}

// A holding is what this process has.
type holding struct {
	descriptors []string
	goroutines  int
}

func held(t *testing.T) holding { return holding{descriptors(t), runtime.NumGoroutine()} }

// left says what there is more than in h; what is about to go is given patience.
func (h holding) left(t *testing.T, patience time.Duration) string {
	deadline := time.Now().Add(patience)
	for {
		now := held(t)
		more := slices.DeleteFunc(now.descriptors, func(s string) bool { return slices.Contains(h.descriptors, s) })
		if len(more) == 0 && now.goroutines <= h.goroutines {
			return ""
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			return fmt.Sprintf("descriptors %q; %d goroutines\n%s", more, now.goroutines-h.goroutines, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}

// descriptors are this process's open descriptors, with what they lead to.
func descriptors(t *testing.T) []string {
	t.Helper()
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		// The descriptor of this listing is gone by now, and so has no link.
		if l, err := os.Readlink(dir + e.Name()); err == nil {
			out = append(out, e.Name()+" "+l)
		}
	}
	return out
}

func testExit(t *testing.T, k Kit) {
	s := run(t, k, ExitZero)
	ended(t, s.wait(t), 0, runners.BySelf)
	ended(t, s.wait(t), 0, runners.BySelf) // and says so again
	s.greeted(t)
	ended(t, run(t, k, ExitSeven).wait(t), 7, runners.BySelf)
}

func testExitAtOnce(t *testing.T, k Kit) {
	for range 20 {
		ended(t, run(t, k, ExitSeven).wait(t), 7, runners.BySelf)
	}
}

func testStop(t *testing.T, k Kit) {
	s := run(t, k, UntilStopped)
	s.greeted(t)
	s.stop(t)
	ended(t, s.wait(t), 0, runners.ByStop)
}

func testStopTwice(t *testing.T, k Kit) {
	s := run(t, k, UntilStopped)
	s.greeted(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { s.stop(t) })
	}
	wg.Wait()
	if e := s.wait(t); e.Cause != runners.ByStop {
		t.Errorf("exit is %v (%+v), want an end by stop", e, e)
	}
}

func testAfterEnd(t *testing.T, k Kit) {
	s := run(t, k, ExitSeven)
	want := s.wait(t)
	s.stop(t)
	s.kill(t)
	s.stop(t)
	if got := s.wait(t); got != want {
		t.Errorf("the exit was %+v and became %+v", want, got)
	}
}

func testStopIgnored(t *testing.T, k Kit) {
	s := run(t, k, IgnoresStop)
	s.greeted(t)
	s.stop(t) // returns: it asks only
	s.kill(t)
	killed(t, s.wait(t))
}

func testKill(t *testing.T, k Kit) {
	for _, b := range []Behaviour{UntilStopped, IgnoresStop} {
		s := run(t, k, b)
		s.greeted(t)
		s.kill(t)
		killed(t, s.wait(t))
	}
	// And one that has hardly begun.
	s := run(t, k, IgnoresStop)
	s.kill(t)
	killed(t, s.wait(t))
}

func testKillDuringStop(t *testing.T, k Kit) {
	for range 10 {
		s := run(t, k, IgnoresStop)
		s.greeted(t)
		var wg sync.WaitGroup
		wg.Go(func() { s.stop(t) })
		wg.Go(func() { s.kill(t) })
		wg.Wait()
		killed(t, s.wait(t))
	}
}

func testKillFromMany(t *testing.T, k Kit) {
	s := run(t, k, IgnoresStop)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { s.kill(t) })
	}
	wg.Wait()
	killed(t, s.wait(t))
}

func testWaitFromMany(t *testing.T, k Kit) {
	s := run(t, k, UntilStopped)
	s.greeted(t)
	var wg sync.WaitGroup
	exits := make([]runners.Exit, 20)
	for i := range exits {
		wg.Go(func() { exits[i], _ = s.Wait(context.Background()) })
	}
	s.stop(t)
	wg.Wait()
	want := s.wait(t)
	ended(t, want, 0, runners.ByStop)
	for i, e := range exits {
		if e != want {
			t.Errorf("waiter %d was told %+v, another %+v", i, e, want)
		}
	}
}

func testWaitGivesUp(t *testing.T, k Kit) {
	s := run(t, k, UntilStopped)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if e, err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with a cancelled context: %v, %v", e, err)
	}
	s.greeted(t)
	s.stop(t)
	ended(t, s.wait(t), 0, runners.ByStop) // the waiter's context was not the program's
}

func testOnExit(t *testing.T, k Kit) {
	s := run(t, k, UntilStopped)
	n, ok := s.Program.(runners.Notifier)
	if !ok {
		t.Skip("its programs are no Notifiers")
	}
	calls := make(chan runners.Exit, 10)
	n.OnExit(func(e runners.Exit) { calls <- e })
	s.greeted(t)
	if len(calls) != 0 {
		t.Error("told of an end while the program runs")
	}
	s.stop(t)
	want := s.wait(t)
	n.OnExit(func(e runners.Exit) { calls <- e }) // too late, and told all the same
	for range 2 {
		select {
		case e := <-calls:
			if e != want {
				t.Errorf("told %+v, Wait %+v", e, want)
			}
		case <-time.After(bound):
			t.Fatal("not told of the end")
		}
	}
	s.kill(t)
	s.stop(t)
	if len(calls) != 0 {
		t.Error("told of the end twice")
	}
}

func testOutput(t *testing.T, k Kit) {
	s := run(t, k, Prints)
	ended(t, s.wait(t), 0, runners.BySelf)
	if want := Output(); !bytes.Equal(s.out.Bytes(), want) {
		t.Errorf("got %d bytes of output, want %d; ends %q", s.out.Len(), len(want), s.out.Bytes()[max(0, s.out.Len()-40):])
	}
}

func testNoStreams(t *testing.T, k Kit) {
	in, s := info(t, k, ExitSeven)
	in.Close()
	p, err := k.Runner.Start(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	s.keep(t, p)
	ended(t, s.wait(t), 7, runners.BySelf)
}

func testStartFails(t *testing.T, k Kit) {
	in, s := info(t, k, NeverStarts)
	s.refused(t, k, t.Context(), in)
}

// refused checks a start that must fail.
func (s *started) refused(t *testing.T, k Kit, ctx context.Context, in runners.StartInfo) error {
	t.Helper()
	p, err := k.Runner.Start(ctx, in)
	if err == nil {
		s.keep(t, p)
		t.Fatal("it started")
	}
	if p != nil {
		t.Errorf("an error and a program: %v", err)
	}
	s.closed(t)
	within(t, s.eof, "the end of its output, although the start had failed")
	return err
}

func testStartCancelledBefore(t *testing.T, k Kit) {
	in, s := info(t, k, UntilStopped)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.refused(t, k, ctx, in); !errors.Is(err, context.Canceled) {
		t.Errorf("start with a cancelled context: %v", err)
	}
}

// errEnough is the cause of a cancelled start: it must be found in the error.
var errEnough = errors.New("enough")

func cancelled(t *testing.T, k Kit, in runners.StartInfo, s *started) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	timer := time.AfterFunc(20*time.Millisecond, func() { cancel(errEnough) })
	defer timer.Stop()
	if err := s.refused(t, k, ctx, in); !errors.Is(err, errEnough) && !errors.Is(err, context.Canceled) {
		t.Errorf("a start cancelled half way: %v", err)
	}
}

func testStartCancelledHeld(t *testing.T, k Kit) {
	in, s := info(t, k, UntilStopped)
	in.BreakOnStart = make(chan struct{})
	cancelled(t, k, in, s)
	if s.out.Len() > 0 {
		t.Errorf("a program that was held has written %q", s.out)
	}
}

func testStartCancelledNotReady(t *testing.T, k Kit) {
	in, s := info(t, k, NeverReady)
	cancelled(t, k, in, s)
}

func testBreakOnStart(t *testing.T, k Kit) {
	in, s := info(t, k, UntilStopped)
	hold := make(chan struct{})
	in.BreakOnStart = hold
	timer := time.AfterFunc(20*time.Millisecond, func() {
		select {
		case <-s.greet:
			t.Error("a program that was held has run")
		default:
		}
		close(hold)
	})
	defer timer.Stop()
	p, err := k.Runner.Start(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	s.keep(t, p)
	s.greeted(t)
}

func testStartContext(t *testing.T, k Kit) {
	in, s := info(t, k, UntilStopped)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := k.Runner.Start(ctx, in)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	s.keep(t, p)
	s.greeted(t)
	s.stop(t)
	ended(t, s.wait(t), 0, runners.ByStop)
}

func testRestart(t *testing.T, k Kit) {
	var last time.Time
	for range 5 {
		s := run(t, k, UntilStopped)
		s.greeted(t)
		s.stop(t)
		e := s.wait(t)
		ended(t, e, 0, runners.ByStop)
		if e.Started.Before(last) {
			t.Errorf("a run began at %v, before the one before it ended at %v", e.Started, last)
		}
		last = e.Ended
	}
}

func testSideBySide(t *testing.T, k Kit) {
	var all []*started
	for range 10 {
		all = append(all, run(t, k, UntilStopped))
	}
	for _, s := range all {
		s.greeted(t)
	}
	all[3].kill(t)
	killed(t, all[3].wait(t))
	for i, s := range all {
		if i != 3 {
			s.stop(t)
			ended(t, s.wait(t), 0, runners.ByStop)
		}
	}
}

func testExtras(t *testing.T, k Kit) {
	s := run(t, k, UntilStopped)
	s.greeted(t)
	ctx := t.Context()
	if m, ok := s.Program.(runners.Measurer); ok {
		st, err := m.Stats(ctx)
		if err != nil || st.Processes == 0 {
			t.Errorf("stats of a running program: %+v, %v", st, err)
		}
	}
	if l, ok := s.Program.(runners.ProcessLister); ok {
		pids, err := l.Processes(ctx)
		if err != nil || len(pids) == 0 {
			t.Errorf("processes of a running program: %v, %v", pids, err)
		}
	}
	if d, ok := s.Program.(runners.Describer); ok {
		for _, x := range d.Describe() {
			if x.Key == "" || x.Value == "" {
				t.Errorf("a detail without text: %q", x)
			}
		}
	}
	s.stop(t)
	s.wait(t)
	// And of one that has ended: an answer or an error, but no panic.
	if m, ok := s.Program.(runners.Measurer); ok {
		m.Stats(ctx)
	}
	if l, ok := s.Program.(runners.ProcessLister); ok {
		if pids, _ := l.Processes(ctx); len(pids) > 0 {
			t.Errorf("an ended program has processes %v", pids)
		}
	}
	if d, ok := s.Program.(runners.Describer); ok {
		d.Describe()
	}
}
