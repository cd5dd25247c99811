package proc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
)

// inWorld is the world of who takes on nothing.
func inWorld(s *Spec) *Spec {
	s.World = &World{Dir: s.Dir}
	return s
}

// What a program finds is the same with and without a world that changes nothing.
func TestWorldStartsAsClean(t *testing.T) {
	l := open(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	umask := uint32(0o27)
	spec := func() *Spec {
		return &Spec{
			Path: exe, Args: []string{"some name", "with args"}, Env: []string{"PROC_TEST_CHILD=state"}, Dir: "/usr", Umask: &umask,
			Files: []int{-1, -1, -1, -1, 2, -1, 1},
		}
	}
	number := regexp.MustCompile(`[0-9]{5,}`) // of temporary files
	want, wst := run(t, l, spec())
	got, gst := run(t, l, inWorld(spec()))
	want, got = number.ReplaceAllString(want, "N"), number.ReplaceAllString(got, "N")
	if got != want || gst != wst || got == "" {
		t.Errorf("in a world:\n%s%+v\notherwise:\n%s%+v", got, gst, want, wst)
	}
}

// Descriptors are exchanged without one being lost under another.
func TestWorldExchangesDescriptors(t *testing.T) {
	l := open(t)
	s := sh("for i in 3 4 5 6 7 8; do cat <&$i; done")
	s.Files = []int{-1, -1, -1}
	for _, text := range []string{"a", "b", "c", "d", "e", "f"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		w.WriteString(text)
		w.Close()
		s.Files = append(s.Files, int(r.Fd()))
	}
	if out, st := run(t, l, inWorld(s)); out != "abcdef" || st.Code != 0 {
		t.Errorf("%q, %+v", out, st)
	}
	// Whatever the numbers are that come to the thread.
	for base := range 12 {
		files := []int{base + 2, base, -1, base + 1, base + 3}
		table := map[int]int{}
		for _, fd := range files {
			table[fd] = fd
		}
		var results []int
		next := 100
		for _, s := range descriptors(files) {
			arg := func(i int) int {
				if s.Args[i].kind == argResult {
					return results[s.Args[i].n]
				}
				return int(s.Args[i].n)
			}
			r := 0
			switch {
			case s.Trap == unix.SYS_DUP3:
				table[arg(1)] = table[arg(0)]
			case arg(1) == unix.F_DUPFD_CLOEXEC:
				r = next
				table[r] = table[arg(0)]
				next++
			}
			results = append(results, r)
		}
		for i, fd := range files {
			if fd >= 0 && table[i] != fd {
				t.Errorf("%v: descriptor %d is %d", files, i, table[i])
			}
		}
	}
}

func TestWorldLimits(t *testing.T) {
	l := open(t)
	s := inWorld(sh("ulimit -n; ulimit -Hn; ulimit -c"))
	s.Limits = []Limit{{"nofile", 100, 200}, {"core", 0, 0}}
	if out, _ := run(t, l, s); out != "100\n200\n0\n" {
		t.Errorf("limits are %q", out)
	}
	s = inWorld(sh("exit"))
	s.Limits = []Limit{{"luck", 0, 0}}
	if _, err := l.Start(s, nil); err == nil || !strings.Contains(err.Error(), "no such resource") {
		t.Error(err)
	}
}

// A step that fails is told by its name, and the process is gone; what execve says is explained as always.
func TestWorldFailures(t *testing.T) {
	l := open(t)
	for _, c := range []struct {
		change func(*Spec)
		kind   Kind
		want   string
	}{
		{func(s *Spec) { s.World.Enter = []Step{{"mount", "/x", unix.SYS_CLOSE, []Arg{Int(-1)}}} }, Other, "mount /x: bad file"},
		{func(s *Spec) { s.World.Drop = []Step{{"drop", "it", unix.SYS_PRCTL, []Arg{Int(-1)}}} }, Invalid, "drop it: invalid argument"},
		{func(s *Spec) { s.World.Seal = []Step{{"filter", "it", unix.SYS_CLOSE, []Arg{Int(-1)}}} }, Other, "filter it: bad file"},
		{func(s *Spec) { s.World.Enter = []Step{{"a", "b", unix.SYS_CLOSE, []Arg{File(0)}}} }, Invalid, "no file 0"},
		{func(s *Spec) { s.World.Enter = []Step{{"a", "b", unix.SYS_CLOSE, []Arg{Result(0)}}} }, Invalid, "no result 0"},
		{func(s *Spec) { s.World.Enter = []Step{{"a", "b", unix.SYS_CLOSE, make([]Arg, 7)}} }, Invalid, "too many arguments"},
		{func(s *Spec) { s.World.Enter = []Step{{"a", "b", unix.SYS_CLOSE, []Arg{Filter(nil)}}} }, Invalid, "no filter"},
		{func(s *Spec) { s.World.Dir = "/nowhere" }, NotFound, "chdir /nowhere: no such file or directory"},
		{func(s *Spec) { s.Path = "/etc/passwd" }, NotExecutable, "not executable (mode 0644)"},
		{func(s *Spec) { s.Path = "/nowhere" }, NotFound, "no such file"},
		{func(s *Spec) { s.Cgroup = "/proc" }, Other, "cgroup"},
		{func(s *Spec) { s.World.Flags = unix.CLONE_FS | unix.CLONE_NEWNS }, Invalid, "make a process for /bin/true"},
	} {
		s := inWorld(&Spec{Path: "/bin/true"})
		c.change(s)
		_, err := l.Start(s, func(Status) { t.Error("it ended, but was never there") })
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(err.Error(), c.want) || e.Kind != c.kind && c.kind != Other {
			t.Errorf("%v (%+v), want %q of kind %d", err, e, c.want, c.kind)
		}
	}
}

// A result goes from one step to another, and memory that a step writes is memory of this process.
func TestWorldResults(t *testing.T) {
	l := open(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := inWorld(&Spec{Path: "/bin/true"})
	dir := make([]byte, 64)
	s.World.Files = []int{int(w.Fd())}
	s.World.Enter = []Step{
		{"getcwd", "", unix.SYS_GETCWD, []Arg{Pointer(dir), Int(len(dir))}},
		{"dup", "", unix.SYS_DUP, []Arg{File(0)}},
		{"write", "", unix.SYS_WRITE, []Arg{Result(1), Text("hello"), Int(5)}},
	}
	ends := make(chan Status, 1)
	if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
		t.Fatal(err)
	}
	w.Close()
	await(t, ends)
	b := make([]byte, 10)
	if n, _ := r.Read(b); string(b[:n]) != "hello" || string(dir[:2]) != "/\x00" {
		t.Errorf("%q, %q", b[:n], dir)
	}
}

// Before its first call the process knows its number, and it begins in DirFD.
func TestWorldNumberAndDirectory(t *testing.T) {
	l := open(t)
	dir, err := os.Open("/usr/bin")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s := inWorld(sh(`pwd; echo $$`))
	tid, seen := make([]byte, 4), make([]byte, 4)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s.DirFD, s.World.TID, s.World.Files = int(dir.Fd()), tid, []int{int(w.Fd())}
	s.World.Enter = []Step{{"write", "", unix.SYS_WRITE, []Arg{File(0), Pointer(tid), Int(4)}}}
	out, _ := run(t, l, s)
	if _, err := r.Read(seen); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("/usr/bin\n%d\n", binary.NativeEndian.Uint32(seen)); out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

// blocks is a program that blocks SIGTERM, says so, and goes on with more.
func blocks(before, more string) string {
	return `exec python3 -c 'import ctypes, os, time
from signal import *
pthread_sigmask(SIG_BLOCK, [SIGTERM])
` + before + `
print(flush=True)
` + more + `' # echo`
}

// Process no. 1 of a PID namespace ends by the signals that end others.
func TestWorldSignals(t *testing.T) {
	needs.Root(t)
	l := open(t)
	for _, c := range []struct {
		script string
		sig    syscall.Signal
		want   Status
	}{
		{"exec sleep 1000", unix.SIGTERM, Status{Code: -1, Signal: unix.SIGTERM}},
		{"exec sleep 1000", unix.SIGUSR1, Status{Code: -1, Signal: unix.SIGUSR1}},
		{"exec sleep 1000", unix.SIGKILL, Status{Code: -1, Signal: unix.SIGKILL}},
		{"trap 'exit 7' TERM; echo; while :; do sleep 0.01; done", unix.SIGTERM, Status{Code: 7}},
		{"trap '' TERM; trap 'exit 8' USR1; echo; while :; do kill -USR1 $$; sleep 1; done", unix.SIGTERM, Status{Code: 8}},
		{
			blocks("", "while SIGTERM not in sigpending(): time.sleep(0.01)\npthread_sigmask(SIG_UNBLOCK, [SIGTERM])\ntime.sleep(1000)"),
			unix.SIGTERM,
			Status{Code: -1, Signal: unix.SIGTERM},
		},
		{
			blocks("fd = ctypes.CDLL(None).signalfd(-1, (1 << 14).to_bytes(128, \"little\"), 0)",
				"os.read(fd, 128)\npthread_sigmask(SIG_UNBLOCK, [SIGTERM])\ntime.sleep(1)\nos._exit(9)"),
			unix.SIGTERM,
			Status{Code: 9},
		},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		s := inWorld(sh(c.script))
		s.World.Flags = unix.CLONE_NEWPID
		s.Files = []int{-1, int(w.Fd())}
		ends := make(chan Status, 1)
		p, err := l.Start(s, func(st Status) { ends <- st })
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		if strings.Contains(c.script, "echo") {
			r.Read(make([]byte, 1)) // its traps are set
		}
		if err := p.Signal(c.sig); err != nil && err != os.ErrProcessDone {
			t.Error(err)
		}
		if st := await(t, ends); st != c.want {
			t.Errorf("%s, signal %d: %+v, want %+v", c.script, c.sig, st, c.want)
		}
	}
}

// While the collector runs all the time, worlds and others start side by side.
func TestWorldAndCollector(t *testing.T) {
	l := open(t)
	stop := make(chan struct{})
	var gc, wg sync.WaitGroup
	gc.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				s := &Spec{Path: "/bin/true"}
				if i%2 == 0 {
					inWorld(s)
				}
				ends := make(chan Status, 1)
				if _, err := l.Start(s, func(st Status) { ends <- st }); err != nil {
					t.Error(err)
					return
				}
				if st := <-ends; st != (Status{}) {
					t.Error(st)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	gc.Wait()
}

// What the thread of a base took on its children have, and no others.
func TestWorldBase(t *testing.T) {
	l := open(t)
	const script = "grep NoNewPrivs /proc/self/status"
	base := &Base{Steps: []Step{{"set", "it", unix.SYS_PRCTL, []Arg{Int(unix.PR_SET_NO_NEW_PRIVS), Int(1), Int(0), Int(0), Int(0)}}}}
	for i := range 4 {
		s := inWorld(sh(script))
		s.World.Base = base
		if i == 3 { // its thread ends at once, which the search for leaks sees
			s.World.Base = &Base{Steps: base.Steps, Once: true}
		}
		if out, _ := run(t, l, s); out != "NoNewPrivs:\t1\n" {
			t.Errorf("with the base: %q", out)
		}
		if out, _ := run(t, l, inWorld(sh(script))); out != "NoNewPrivs:\t0\n" {
			t.Errorf("without: %q", out)
		}
	}
	s := inWorld(sh("exit"))
	s.World.Base = &Base{Steps: []Step{{"set", "it", unix.SYS_PRCTL, []Arg{Int(-1)}}}}
	if _, err := l.Start(s, nil); err == nil || !strings.Contains(err.Error(), "set it: invalid argument") {
		t.Error(err)
	}
}

func FuzzWorldCode(f *testing.F) {
	w := World{Flags: unix.CLONE_NEWPID, Path: "/a", Seal: []Step{{"op", "path", 7, []Arg{Int(-1), File(3), Text("x")}}}}
	f.Add(w.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := decodeWorld(b)
		if err != nil {
			return
		}
		again, err := decodeWorld(w.encode())
		if err != nil || !reflect.DeepEqual(w, again) {
			t.Errorf("%+v (%v), want %+v", again, err, w)
		}
	})
}
