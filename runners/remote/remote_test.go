package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/builtin"
	"github.com/cmgr/cmgr/runners/elf"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runnertest"
)

func TestMain(m *testing.M) {
	switch os.Getenv("REMOTE_TEST") {
	case "elf", "builtin":
		if err := serve(os.Getenv("REMOTE_TEST")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "print":
		os.Stdout.Write(runnertest.Output())
		os.Exit(0)
	}
	os.Exit(leak.Run(m))
}

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

// serve is a process that serves a runner on descriptor 3.
func serve(what string) error {
	f := os.NewFile(3, "connection")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return err
	}
	if what == "builtin" {
		return Serve(context.Background(), conn.(*net.UnixConn), builtin.New(builtin.Config{Funcs: funcs}))
	}
	loop, err := poll.New()
	if err != nil {
		return err
	}
	defer loop.Close()
	jobs, err := job.Open(job.Options{Name: "remotetest", Loop: loop})
	if err != nil {
		return err
	}
	r := elf.New(elf.Config{Jobs: jobs, Loop: loop})
	err = Serve(context.Background(), conn.(*net.UnixConn), r)
	r.Close()
	return errors.Join(err, jobs.Close())
}

// sockets are two connected ends.
func sockets(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	x, y, err := sock.Pair()
	if err != nil {
		t.Fatal(err)
	}
	var c [2]*net.UnixConn
	for i, fd := range []int{x, y} {
		f := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		c[i] = conn.(*net.UnixConn)
	}
	return c[0], c[1]
}

// over is r, spoken to over a socket.
func over(t testing.TB, r runners.Runner) *Runner {
	t.Helper()
	a, b := sockets(t)
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), b, r) }()
	m, err := New(t.Context(), a, Config{Patience: bound, Alone: os.Geteuid() == 0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return m
}

func block(kv ...any) runners.Block {
	var b runners.Block
	for i := 0; i < len(kv); i += 2 {
		b.Info = append(b.Info, manifest.Entry{Key: kv[i].(string), Value: kv[i+1].(manifest.Value)})
	}
	return b
}

type code int

func (c code) Error() string { return fmt.Sprintf("code %d", int(c)) }
func (c code) ExitCode() int { return int(c) }

// funcs behave as the kit's programs.
var funcs = map[string]builtin.Func{
	string(runnertest.ExitZero): func(_ context.Context, e *builtin.Env) error {
		_, err := io.WriteString(e.Stdout, runnertest.Greeting)
		return err
	},
	string(runnertest.ExitSeven): func(_ context.Context, e *builtin.Env) error {
		io.WriteString(e.Stdout, runnertest.Greeting)
		return code(7)
	},
	string(runnertest.UntilStopped): func(ctx context.Context, e *builtin.Env) error {
		io.WriteString(e.Stdout, runnertest.Greeting)
		<-ctx.Done()
		return ctx.Err()
	},
	string(runnertest.IgnoresStop): func(_ context.Context, e *builtin.Env) error {
		io.WriteString(e.Stdout, runnertest.Greeting)
		<-e.Killed
		return nil
	},
	string(runnertest.Prints): func(_ context.Context, e *builtin.Env) error {
		_, err := e.Stdout.Write(runnertest.Output())
		return err
	},
}

func TestContractBuiltin(t *testing.T) {
	runnertest.Run(t, runnertest.Kit{
		Runner: over(t, builtin.New(builtin.Config{Funcs: funcs})),
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			return runners.StartInfo{Program: block("function", manifest.String(b))}, b != runnertest.NeverReady
		},
	})
}

// eachItsOwn gives a second program of one moniker a Fake of its own, as the kit runs several side by side.
type eachItsOwn struct{ f *runnertest.Fake }

func (e eachItsOwn) Start(ctx context.Context, info runners.StartInfo) (runners.Program, error) {
	if len(e.f.Running()) > 0 {
		return runnertest.NewFake().Start(ctx, info)
	}
	return e.f.Start(ctx, info)
}

func TestContractFake(t *testing.T) {
	f := runnertest.NewFake()
	r := over(t, eachItsOwn{f})
	t.Cleanup(f.Wait)
	runnertest.Run(t, runnertest.Kit{
		Runner: r,
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			f.Behave("/kit", b)
			return runners.StartInfo{}, true
		},
	})
}

// process is a runner in a process of its own.
func process(t *testing.T, what string) (*Runner, *exec.Cmd) {
	t.Helper()
	a, b := sockets(t)
	f, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), "REMOTE_TEST="+what)
	c.ExtraFiles = []*os.File{f}
	c.Stderr = os.Stderr
	err = c.Start()
	f.Close()
	b.Close()
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(t.Context(), a, Config{Patience: bound})
	if err != nil {
		c.Process.Kill()
		c.Wait()
		t.Fatal(err)
	}
	return r, c
}

func sh(script string, kv ...any) runners.Block {
	return block(append([]any{"binary", manifest.String("/bin/sh"), "args", manifest.Strings{"-c", script}}, kv...)...)
}

func TestContractELFInAnotherProcess(t *testing.T) {
	r, c := process(t, "elf")
	t.Cleanup(func() {
		r.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("the runner's process: %v", err)
		}
	})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[runnertest.Behaviour]runners.Block{
		runnertest.ExitZero:     sh("echo running"),
		runnertest.ExitSeven:    sh("echo running; exit 7"),
		runnertest.UntilStopped: sh("trap 'exit 0' TERM; echo running; while :; do sleep 1000 & wait; done"),
		runnertest.IgnoresStop:  sh("trap '' TERM; echo running; while :; do sleep 1000; done"),
		runnertest.Prints:       block("binary", manifest.String(exe), "environ", manifest.Strings{"REMOTE_TEST=print"}),
		runnertest.NeverStarts:  block("binary", manifest.String("/no/such/program")),
		runnertest.NeverReady:   sh("exec sleep 1000", "ready", manifest.String("lifecycle")),
	}
	runnertest.Run(t, runnertest.Kit{
		Runner: r,
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			return runners.StartInfo{Program: blocks[b]}, true
		},
	})
}

// TestRunnerIsKilled: the programs of a runner that dies have died, as far as the manager knows.
func TestRunnerIsKilled(t *testing.T) {
	r, c := process(t, "builtin")
	defer r.Close()
	p, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/a", Program: block("function", manifest.String(runnertest.UntilStopped))})
	if err != nil {
		t.Fatal(err)
	}
	c.Process.Kill()
	c.Wait()
	x := wait(t, p)
	if x.OK() || x.Code != -1 || x.Cause != runners.ByRunner || x.Detail != "the runner closed its connection" {
		t.Errorf("exit %v", x)
	}
	if err := errors.Join(p.Stop(t.Context()), p.Kill(t.Context())); err != nil {
		t.Errorf("orders to what has ended: %v", err)
	}
	_, err = r.Start(t.Context(), runners.StartInfo{Moniker: "/b"})
	if capabilities.CodeOf(err) != capabilities.Unavailable || err.Error() != "start /b: the runner closed its connection" {
		t.Errorf("a start afterwards: %v", err)
	}
}

func wait(t testing.TB, p runners.Program) runners.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	x, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A catcher is a runner that shows what it is given, and refuses it.
type catcher struct {
	seen func(runners.StartInfo)
	err  error
}

func (c catcher) Start(_ context.Context, info runners.StartInfo) (runners.Program, error) {
	if c.seen != nil {
		c.seen(info)
	}
	info.Close()
	return nil, c.err
}

func file(t testing.TB, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestEverythingArrives(t *testing.T) {
	pkg := t.TempDir()
	at := manifest.Pos{File: "core.cml", Line: 3, Col: 4}
	info := runners.StartInfo{
		Moniker: "/core/net:1", URL: "file:///net.cml",
		Program: runners.Block{Pos: at, Info: manifest.Dictionary{
			{Key: "a", Pos: at, Value: manifest.String("text")},
			{Key: "b.c", Value: manifest.Strings{"x", "", "ü"}},
			{Key: "b.d", Value: manifest.Strings{}},
			{Key: "e", Value: manifest.Null{}},
			{Key: "f", Value: manifest.Objects{{{Key: "g", Value: manifest.String("")}}, nil}},
		}},
		Package: runners.Package{Dir: pkg},
		Namespace: []runners.NamespaceEntry{
			{Path: "/data", File: file(t, "data"), Rights: manifest.RightsRW},
			{Path: "/svc/x", File: file(t, "x"), Rights: manifest.RightConnect},
		},
		Outgoing: file(t, "outgoing"),
		Handles:  []runners.Handle{{Number: 0, File: file(t, "zero")}, {Number: 255, File: file(t, "last")}},
		Config:   bytes.Repeat([]byte{1, 0, 2}, 100_000),
		Stdout:   file(t, "stdout"), Stderr: file(t, "stderr"),
	}
	// show is info with its files' texts.
	show := func(info runners.StartInfo) any {
		text := func(f *os.File) string {
			b := make([]byte, 100)
			n, _ := f.ReadAt(b, 0)
			return string(b[:n])
		}
		out := []any{
			info.Moniker, info.URL, info.Program, info.Package, string(info.Config),
			text(info.Outgoing), text(info.Stdout), text(info.Stderr),
		}
		for _, e := range info.Namespace {
			out = append(out, e.Path, e.Rights, text(e.File))
		}
		for _, h := range info.Handles {
			out = append(out, h.Number, text(h.File))
		}
		return out
	}
	want := show(info)
	seen := make(chan any, 1)
	r := over(t, catcher{func(info runners.StartInfo) { seen <- show(info) }, errors.New("seen")})
	_, err := r.Start(t.Context(), info)
	if err == nil || err.Error() != "start /core/net:1: seen" {
		t.Error(err)
	}
	// An empty array and nil are the same in a manifest.
	same := cmp.Comparer(func(a, b manifest.Strings) bool { return slices.Equal(a, b) })
	if d := cmp.Diff(want, <-seen, same); d != "" {
		t.Error(d)
	}
}

// A runner that is confined gets directories of which ".." is themselves, and with no more rights than those said.
func TestDirectoriesLeadNowhere(t *testing.T) {
	needs.Root(t)
	dir := func() *os.File {
		f, err := mnt.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	r := over(t, catcher{func(info runners.StartInfo) {
		files := []*os.File{info.Outgoing, info.Handles[0].File}
		for _, e := range info.Namespace {
			files = append(files, e.File)
		}
		for i, f := range files {
			here, err := f.Stat()
			if err != nil {
				t.Error(err)
				continue
			}
			at := fmt.Sprintf("/proc/self/fd/%d/", f.Fd())
			if up, err := os.Stat(at + "../.."); err != nil || !os.SameFile(here, up) {
				t.Errorf("%d: .. leads to %v, %v", i, up, err)
			}
			if err := os.Mkdir(at+"new", 0o755); errors.Is(err, syscall.EROFS) != (i == 3) {
				t.Errorf("%d: mkdir: %v", i, err)
			}
		}
	}, errors.New("seen")})
	_, err := r.Start(t.Context(), runners.StartInfo{
		Moniker: "/", Outgoing: dir(), Handles: []runners.Handle{{Number: 3, File: dir()}},
		Namespace: []runners.NamespaceEntry{
			{Path: "/rw", File: dir(), Rights: manifest.RightsRW}, {Path: "/r", File: dir(), Rights: manifest.RightsR},
		},
	})
	if err == nil || err.Error() != "start /: seen" {
		t.Error(err)
	}
}

func TestNothingArrivesAsNothing(t *testing.T) {
	seen := make(chan runners.StartInfo, 1)
	r := over(t, catcher{func(info runners.StartInfo) { seen <- info }, errors.New("seen")})
	for _, config := range [][]byte{nil, {}} {
		_, _ = r.Start(t.Context(), runners.StartInfo{Moniker: "/", Config: config})
		if d := cmp.Diff(runners.StartInfo{Moniker: "/", Config: config}, <-seen); d != "" {
			t.Error(d)
		}
	}
}

func TestStartErrors(t *testing.T) {
	why := &runners.BlockError{Pos: manifest.Pos{File: "a.cml", Line: 2, Col: 3}, Key: "size", What: "is too large"}
	for _, test := range []struct {
		err  error
		code capabilities.Code
		want string
	}{
		{errors.New("boom"), capabilities.Internal, "start /x: boom"},
		{why, capabilities.Invalid, "start /x: a.cml:2:3: program.size: is too large"},
		{
			&runners.Error{Op: "start", At: "/elsewhere", Why: capabilities.NotFound, Err: why, Hint: "less"}, capabilities.NotFound,
			"start /x: a.cml:2:3: program.size: is too large\n  hint: less",
		},
		{context.DeadlineExceeded, capabilities.Internal, "start /x: context deadline exceeded"},
	} {
		r := over(t, catcher{err: test.err})
		_, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/x"})
		if err == nil || err.Error() != test.want || capabilities.CodeOf(err) != test.code {
			t.Errorf("%v (%v), want %v (%v)", err, capabilities.CodeOf(err), test.want, test.code)
		}
	}
}

func TestTooMuch(t *testing.T) {
	r := over(t, catcher{err: errors.New("it came through")})
	handles := func() (hs []runners.Handle) {
		for range rpc.MaxFDs + 1 {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			hs = append(hs, runners.Handle{File: f})
		}
		return hs
	}
	for want, info := range map[string]runners.StartInfo{
		"4194304 is the most":                  {Config: make([]byte, MaxStartInfo)},
		"253 descriptors":                      {Handles: handles()},
		"package: open /no/such: no such file": {Package: runners.Package{Dir: "/no/such"}},
		"invalid UTF-8":                        {URL: "\xff"},
		"it came through":                      {Config: make([]byte, MaxStartInfo-100)},
	} {
		info.Moniker = "/x"
		_, err := r.Start(t.Context(), info)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if !strings.Contains(want, "came") && capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("%v is %v", err, capabilities.CodeOf(err))
		}
	}
}

func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner")
	if _, err := Dial(t.Context(), path, Config{}); capabilities.CodeOf(err) != capabilities.Unavailable {
		t.Errorf("nobody listens: %v", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := l.AcceptUnix(); err == nil {
			err = Serve(t.Context(), c, catcher{err: errors.New("hello")})
			if err != nil {
				t.Error(err)
			}
		}
	})
	r, err := Dial(t.Context(), path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/x"}); err == nil || !strings.Contains(err.Error(), "hello") {
		t.Error(err)
	}
	r.Close()
	wg.Wait()
	if err := r.Err(); err == nil || err.Error() != "the connection to the runner was closed" {
		t.Error(err)
	}
}

// TestServeEndsPrograms: when the manager goes, or Serve is to end, no program is left.
func TestServeEndsPrograms(t *testing.T) {
	for _, how := range []string{"manager goes", "context ends"} {
		t.Run(how, func(t *testing.T) {
			a, b := sockets(t)
			f := runnertest.NewFake()
			f.Behave("/deaf", runnertest.IgnoresStop)
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- Serve(ctx, b, f) }()
			r, err := New(t.Context(), a, Config{})
			if err != nil {
				t.Fatal(err)
			}
			var all []runners.Program
			for _, m := range []name.Moniker{"/deaf", "/other"} {
				p, err := r.Start(t.Context(), runners.StartInfo{Moniker: m})
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, p)
			}
			if how == "manager goes" {
				r.Close()
			} else {
				cancel()
			}
			err = <-served
			if how == "manager goes" && err != nil || how != "manager goes" && !errors.Is(err, context.Canceled) {
				t.Errorf("serve: %v", err)
			}
			if left := f.Running(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			for _, p := range all {
				if x := wait(t, p); x.Cause != runners.ByRunner || x.OK() {
					t.Errorf("exit %v", x)
				}
			}
			f.Wait()
			r.Close()
			cancel()
		})
	}
}

func BenchmarkStart(b *testing.B) {
	r := over(b, builtin.New(builtin.Config{Funcs: map[string]builtin.Func{
		"nothing": func(context.Context, *builtin.Env) error { return nil },
	}}))
	for _, n := range []int{0, 1, 16} {
		b.Run(fmt.Sprintf("descriptors=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				info := runners.StartInfo{Moniker: "/bench", Program: block("function", manifest.String("nothing"))}
				for i := range n {
					f, err := os.Open(os.DevNull)
					if err != nil {
						b.Fatal(err)
					}
					info.Handles = append(info.Handles, runners.Handle{Number: uint8(i), File: f})
				}
				p, err := r.Start(b.Context(), info)
				if err != nil {
					b.Fatal(err)
				}
				wait(b, p)
			}
		})
	}
}
