package svlogd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/runittest"
)

// differ tells where two texts part.
func differ(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	near := func(s string) string { return s[max(0, i-60):min(len(s), i+60)] }
	t.Errorf("%s: %d bytes, want %d; at %d %q, want %q", what, len(got), len(want), i, near(got), near(want))
}

// TestKilledAtAnyMoment kills svlogd with -9, again and again, while its pipe, which is held as a supervisor holds it, is written
// to: at the end each line is in each directory, once and in order.
func TestKilledAtAnyMoment(t *testing.T) {
	kills := 200
	if testing.Short() {
		kills = 20
	}
	for name, c := range map[string]struct {
		configs []string
		args    []string
		burst   int // lines at once, at most
		longest int
	}{
		"one by one":    {[]string{"s3000\nn0\n"}, []string{"-l", "50", "-b", "60"}, 1, 40},
		"rotating":      {[]string{"s2000\nn0\n", "s700\nn0\n"}, []string{"-l", "50", "-b", "60"}, 20, 150},
		"a busy stream": {[]string{"s200000\nn0\n", "s1000000\nn0\n"}, nil, 3000, 2000},
		"a processor":   {[]string{"s8000\nn0\n!cat\n"}, nil, 10, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(len(name)), 1))
			var dirs []string
			for _, config := range c.configs {
				dirs = append(dirs, logDir(t, config))
			}
			in, out, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			program, args := runittest.Link(t, "svlogd"), append(c.args, dirs...)
			start := func() *exec.Cmd {
				cmd := exec.Command(program, args...)
				cmd.Stdin, cmd.Stderr = in, os.Stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				return cmd
			}

			var want bytes.Buffer
			stop, stopped := make(chan bool), make(chan error, 1)
			go func(r *rand.Rand) {
				stopped <- func() error {
					for n := 0; ; {
						select {
						case <-stop:
							return out.Close()
						default:
						}
						var lines []byte
						for range 1 + r.IntN(c.burst) {
							n++
							switch r.IntN(4) {
							case 0:
								lines = append(lines, "the same\n"...)
							case 1:
								lines = fmt.Appendf(lines, "%d %s\xff\x00\n", n, strings.Repeat("x", r.IntN(c.longest)))
							default:
								lines = fmt.Appendf(lines, "line %d\n", n)
							}
						}
						want.Write(lines)
						for len(lines) > 0 { // in pieces, so that reads end in lines
							k := min(len(lines), 1+r.IntN(1+2*len(lines)))
							if _, err := out.Write(lines[:k]); err != nil {
								return err
							}
							lines = lines[k:]
							if r.IntN(3) == 0 {
								time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
							}
						}
					}
				}()
			}(rand.New(rand.NewPCG(7, 7)))

			for range kills {
				cmd := start()
				time.Sleep(time.Duration(r.IntN(60_000)) * time.Microsecond)
				if r.IntN(3) == 0 { // it opens all again, or rotates; a signal that comes before it is ready kills, too
					_ = cmd.Process.Signal([]os.Signal{unix.SIGHUP, unix.SIGALRM}[r.IntN(2)])
					time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond)
				}
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
			for _, dir := range dirs { // a processor that is just being started has it until it is executed
				until(t, "the lock", func() bool {
					lock, err := os.Open(filepath.Join(dir, "lock"))
					if errors.Is(err, fs.ErrNotExist) { // on a busy machine none came so far
						return true
					} else if err != nil {
						t.Fatal(err)
					}
					defer lock.Close()
					return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
				})
			}
			cmd := start()
			close(stop)
			if err := <-stopped; err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, dir := range dirs {
				differ(t, dir, strings.Join(files(t, dir), ""), want.String())
				if st, err := os.Stat(filepath.Join(dir, "lock")); err != nil || st.Size() != 0 {
					t.Errorf("lock: %v, %v", st, err)
				}
			}
			t.Logf("%d bytes", want.Len())
		})
	}
}

// lasting is the system calls between which something has changed that outlives a process.
var lasting = []uint64{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_OPENAT, unix.SYS_CLOSE, unix.SYS_RENAMEAT, unix.SYS_FCHMOD, unix.SYS_FSYNC,
	unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_IOCTL, unix.SYS_UNLINKAT,
}

// killAt runs svlogd until the n-th time that one of its threads enters or leaves a lasting call, beginning with the lock of its
// first directory, and kills it there. It reports false if it ended before. said is which one it was.
func killAt(t *testing.T, n int, in *os.File, program string, args ...string) (killed bool, said string) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stderr = in, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	main := cmd.Process.Pid
	begun, threads := false, map[int]bool{}
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-main, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal("wait:", err)
		}
		if ws.Exited() || ws.Signaled() {
			if tid != main {
				continue
			}
			_ = cmd.Process.Release()
			if !killed && ws.ExitStatus() != 0 {
				t.Fatalf("svlogd exits %d", ws.ExitStatus())
			}
			return killed, said
		}
		signal := 0
		switch {
		case !threads[tid]: // it begins with a stop
			threads[tid] = true
			if tid == main {
				const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
				if err := unix.PtraceSetOptions(main, options); err != nil {
					t.Fatal(err)
				}
			}
		case ws.StopSignal() == unix.SIGTRAP|0x80:
			var info [88]byte // struct ptrace_syscall_info
			if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), uintptr(len(info)),
				uintptr(unsafe.Pointer(&info)), 0, 0); e != 0 && e != unix.ESRCH {
				t.Fatal(e)
			}
			call := binary.NativeEndian.Uint64(info[24:])
			begun = begun || info[0] == unix.PTRACE_SYSCALL_INFO_ENTRY && call == unix.SYS_FLOCK
			if begun && slices.Contains(lasting, call) {
				n--
			}
			if n == 0 && !killed {
				killed, said = true, fmt.Sprintf("syscall %d, stop %d", call, info[0])
				_ = unix.Kill(main, unix.SIGKILL)
			}
		case ws.TrapCause() < 0:
			signal = int(ws.StopSignal())
		}
		_ = unix.PtraceSyscall(tid, signal) // it may have been killed
	}
}

// TestKilledAtEachCall kills svlogd at each system call that it makes, before and after it. The next one, which is called and
// configured otherwise, may be killed, too.
func TestKilledAtEachCall(t *testing.T) {
	program := runittest.Link(t, "svlogd")
	const begin = "one\n\nthe same\nthe same\na line that is longer than -l, and than s says of one file: 0123456789 0123456789\n" +
		"two\nthree\na line whose end is not there"
	const end = " yet\nthe same\nlast\n"
	added := regexp.MustCompile(`(?m)^(@[0-9a-f]{24} )?([AB][^:]?: )?`)
	notSentLine := regexp.MustCompile(`(?m)^` + notSent[2] + `.*\n`)
	r := rand.New(rand.NewPCG(1, 2))
	n := 0
	for killed := true; killed; {
		n++
		if testing.Short() {
			n += r.IntN(20)
		}
		a, b, c := logDir(t, "s60\nn0\n"), logDir(t, "pA\xe4: \n"), logDir(t, "u255.255.255.255\n") // no line may be sent there
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		_, err = out.WriteString(begin)
		go func() { // the rest, once that was read
			for there := 1; there > 0 && err == nil; time.Sleep(time.Millisecond) {
				there, err = unix.IoctlGetInt(int(in.Fd()), unix.TIOCINQ)
			}
			if err == nil {
				_, err = out.WriteString(end)
			}
			out.Close()
			written <- err
		}()
		var said, later string
		killed, said = killAt(t, n, in, program, "-t", "-l", "10", "-b", "20", a, b, c)
		for name, config := range map[string]string{a: "s100\nn0\n", b: "pB\xe4: \n"} {
			if err := os.WriteFile(filepath.Join(name, "config"), []byte(config), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		lineMax := []string{"20", "20", "20", "5"}[r.IntN(4)]
		for again, dead := n%2 == 0, killed; dead; again = false {
			at := -1 // never
			if again {
				at = 1 + r.IntN(100)
			}
			dead, later = killAt(t, at, in, program, "-l", lineMax, "-b", "30", a, b, c)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{a, b, c} {
			got := strings.Join(files(t, dir), "")
			want := begin + end
			if warned := notSentLine.FindAllString(got, -1); dir == c && len(warned) != strings.Count(want, "\n") && lineMax != "5" {
				t.Errorf("killed at %d: %q", n, warned)
			}
			got = added.ReplaceAllString(notSentLine.ReplaceAllString(got, ""), "")
			if lineMax == "5" { // a line that was read in part by one with more is ended
				got, want = strings.ReplaceAll(got, "\n", ""), strings.ReplaceAll(want, "\n", "")
			}
			differ(t, fmt.Sprintf("killed at %d (%s; %s): %s", n, said, later, filepath.Base(filepath.Dir(dir))), got, want)
			if st, err := os.Stat(filepath.Join(dir, "lock")); err != nil || st.Size() != 0 {
				t.Errorf("lock: %v, %v", st, err)
			}
		}
		in.Close()
		os.RemoveAll(filepath.Dir(a))
		os.RemoveAll(filepath.Dir(b))
		os.RemoveAll(filepath.Dir(c))
	}
	t.Logf("%d moments", n)
}

// A line whose end was not read goes on if the next svlogd has the same pipe, and ends otherwise.
func TestKilledWithinALine(t *testing.T) {
	program, dir := runittest.Link(t, "svlogd"), logDir(t, "")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	for _, part := range []string{"one, ", "two, ", "three"} {
		cmd := exec.Command(program, "-r", "_", dir)
		cmd.Stdin, cmd.Stderr = in, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.WriteString(part); err != nil {
			t.Fatal(err)
		}
		until(t, "the input to be read", func() bool { n, err := unix.IoctlGetInt(int(in.Fd()), unix.TIOCINQ); return n == 0 && err == nil })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	once(t, program, "four\n", dir)
	if got := strings.Join(files(t, dir), ""); got != "one, two, three\nfour\n" {
		t.Errorf("%q", got)
	}
}

// An svlogd that ends has emptied its lock file before it lets another one have the directory.
func TestEndsBesideTheNext(t *testing.T) {
	program := runittest.Link(t, "svlogd")
	a, b := logDir(t, ""), logDir(t, "s20\n!while [ ! -e ../go ]; do sleep 0.1; done; cat\n")
	start := func(dirs ...string) (*exec.Cmd, *os.File) {
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd := exec.Command(program, dirs...)
		cmd.Stdin, cmd.Stderr = in, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	has := func(what string) func() bool {
		return func() bool {
			b, _ := os.ReadFile(filepath.Join(a, "current"))
			return strings.HasSuffix(string(b), what)
		}
	}
	first, out := start(a, b)
	if _, err := out.WriteString("a line that is longer than s\n"); err != nil {
		t.Fatal(err)
	}
	until(t, "the line", has("than s\n"))
	out.Close()
	var next *exec.Cmd
	until(t, "the directory", func() bool { // the first one has let it go, and waits for its processor
		next, out = start(a)
		if _, err := out.WriteString("one\n"); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- next.Wait() }()
		for {
			select {
			case <-ended:
				out.Close()
				return false
			case <-time.After(20 * time.Millisecond):
				if has("one\n")() {
					return true
				}
			}
		}
	})
	defer out.Close()
	size := func() int64 {
		st, err := os.Stat(filepath.Join(a, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	was := size()
	if err := next.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "another journal", func() bool { return size() != was })
	was = size()
	if err := os.WriteFile(filepath.Join(b, "../go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	if now := size(); now != was {
		t.Errorf("the journal has %d bytes, and had %d", now, was)
	}
	if _, err := out.WriteString("two\n"); err != nil {
		t.Fatal(err)
	}
	until(t, "the last line", has("two\n"))
	_ = next.Process.Signal(unix.SIGTERM)
}

// What a lock file may contain: a read that was cut short by a kill, and any damage.
func TestJournal(t *testing.T) {
	name := logDir(t, "")
	s := &server{stderr: os.Stderr, lineMax: 10, wd: unix.AT_FDCWD, udp: -1, table: replacing('_', "")}
	s.dirs = []*dir{{s: s, name: name, fd: -1, lock: -1, current: -1}}
	if !s.reopen() {
		t.Fatal("no directory")
	}
	j := s.journal
	for _, n := range []int{1, 5, pageSize, pageSize + 3, 3*pageSize + 100, len(j.buf)} {
		for _, got := range []int{0, n / pageSize * pageSize, n} {
			j.expect(n)
			copy(j.buf, bytes.Repeat([]byte("x"), got))
			if back := j.arrived(); back != got {
				t.Errorf("%d of %d arrived, and %d were found", got, n, back)
			}
		}
	}
	j.expect(0)
	slot := bytes.LastIndexByte(j.mem[:len(j.mem)-len(j.buf)], '}') + 1 // or a little after it
	lock := filepath.Join(name, "lock")
	good, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	s.close()

	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r := rand.New(rand.NewPCG(3, 3))
	found := 0
	for n := range 500 {
		b := bytes.Clone(good)
		for range n % 5 {
			at := []int{0, pageSize, pageSize + howAt, pageSize + slot}[r.IntN(4)] + r.IntN(64)
			b[at] = byte(r.IntN(256))
		}
		if err := os.WriteFile(lock, b[:len(b)-max(0, r.IntN(4)-2)*r.IntN(len(b))], 0o600); err != nil {
			t.Fatal(err)
		}
		if j := openJournal(&dir{fd: fd}); j != nil {
			found++
			if got, ok := j.load(); ok && (got.have > len(j.buf) || len(got.places) != len(j.dirs)) {
				t.Fatalf("%+v", got)
			}
			j.drop()
		}
	}
	if found < 100 {
		t.Errorf("%d of 500 were found", found)
	}
}
