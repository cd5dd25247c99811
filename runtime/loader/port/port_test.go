package port_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/loadertest"
	"github.com/cmgr/cmgr/runtime/loader/port"
)

// This binary is also the port program: it serves files of the directory that stands in the environment.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "serve" {
		serve(port.Transport(os.Args[2]))
		return
	}
	os.Exit(leak.Run(m))
}

func serve(tr port.Transport) {
	root, err := os.OpenRoot(os.Getenv("PORT_ROOT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	answer := func(req []byte) []byte {
		b, err := root.ReadFile(strings.TrimPrefix(string(req[1:]), "/"))
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			return []byte("zno " + string(req[1:]))
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return append([]byte("y"), b...)
	}
	if tr == port.Raw {
		req, _ := io.ReadAll(os.Stdin)
		_, _ = os.Stdout.Write(answer(req))
		return
	}
	for {
		var l [4]byte
		if _, err := io.ReadFull(os.Stdin, l[:]); err != nil {
			return
		}
		req := make([]byte, binary.BigEndian.Uint32(l[:]))
		_, _ = io.ReadFull(os.Stdin, req)
		b := answer(req)
		_, _ = os.Stdout.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	}
}

func open(t testing.TB, cfg port.Config) *port.Loader {
	t.Helper()
	l, err := port.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestContract(t *testing.T) {
	for _, tr := range []port.Transport{port.Raw, port.Packet4} {
		t.Run(string(tr), func(t *testing.T) {
			loadertest.Run(t, func(t *testing.T, files fstest.MapFS) loader.Loader {
				dir := t.TempDir()
				if err := os.CopyFS(dir, files); err != nil {
					t.Fatal(err)
				}
				t.Setenv("PORT_ROOT", dir)
				t.Setenv("GORACE", "atexit_sleep_ms=0") // else it waits a second before each exit
				return open(t, port.Config{Program: []string{os.Args[0], "serve", string(tr)}, Transport: tr})
			})
		})
	}
}

// script is a port program in shell.
func script(t testing.TB, text string) []string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{p}
}

// Whatever a program does but answer is a failure of the loader, which says what, and nothing of it is left.
func TestFailures(t *testing.T) {
	const slow = 300 * time.Millisecond
	for name, c := range map[string]struct {
		program   string
		transport port.Transport
		says      string
	}{
		"other byte":        {`cat >/dev/null; printf nope`, port.Raw, "begins with byte 110"},
		"no answer":         {`cat >/dev/null`, port.Raw, "without an answer"},
		"status":            {`cat >/dev/null; printf yhalf; exit 3`, port.Raw, "status 3"},
		"signal":            {`cat >/dev/null; printf yhalf; kill -9 $$`, port.Raw, "signal 9"},
		"not found, status": {`cat >/dev/null; printf z; exit 1`, port.Raw, "status 1"},
		"reads nothing":     {`exit 1`, port.Raw, "status 1"},
		"silence":           {`sleep 1000`, port.Raw, "no answer after 300ms"},
		"stays":             {`trap "" TERM; cat >/dev/null; printf yall; exec >&-; sleep 1000`, port.Raw, "no answer after 300ms"},
		"leaves a writer":   {`cat >/dev/null; printf yhalf; (setsid sleep 1000)& exit 0`, port.Raw, "no answer after 300ms"},
		"endless":           {`cat >/dev/null; printf y; cat /dev/zero`, port.Raw, "more than 1048576 bytes"},
		"endless refusal":   {`cat >/dev/null; printf z; cat /dev/zero`, port.Raw, "more than 1048576 bytes"},
		"p4 other byte":     {`printf '\000\000\000\001n'; cat >/dev/null`, port.Packet4, "begins with byte 110"},
		"p4 empty":          {`printf '\000\000\000\000'; cat >/dev/null`, port.Packet4, "empty"},
		"p4 too long":       {`printf '\177\000\000\000y'; cat >/dev/null`, port.Packet4, "more than 1048576"},
		"p4 cut":            {`printf '\000\000\000\011yhalf'; exit 0`, port.Packet4, "status 0"},
		"p4 half a length":  {`printf '\000\000'; exit 7`, port.Packet4, "status 7"},
		"p4 ends":           {`exit 0`, port.Packet4, "status 0"},
		"p4 closes":         {`exec >&-; sleep 1000`, port.Packet4, ""},
		"p4 silence":        {`sleep 1000`, port.Packet4, "no answer after 300ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := time.Duration(0) // the answer, not the clock, ends it
			if strings.Contains(c.says, "no answer after") {
				timeout = slow
			}
			l := open(t, port.Config{Program: script(t, "echo $$ >\"$0.pid\"\n"+c.program), Transport: c.transport, Timeout: timeout, MaxSize: 1 << 20})
			f, err := l.Open(t.Context(), "x")
			if err == nil {
				f.Close()
			}
			if err == nil || errors.Is(err, loader.ErrNotExist) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "open x") {
				t.Errorf("%v, want an error with %q", err, c.says)
			}
		})
	}
}

// Everything that a program started is gone when its request has failed, what has left its session too.
func TestNothingLeft(t *testing.T) {
	note := filepath.Join(t.TempDir(), "pid")
	l := open(t, port.Config{
		Program: script(t, `cat >/dev/null; setsid sh -c 'trap "" TERM; echo $$ >'`+note+`'.new; mv `+note+`.new `+note+`; exec sleep 1000' >&- 2>&- & while [ ! -e `+note+` ]; do sleep 0.01; done; exit 1`),
	})
	if _, err := l.Open(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "status 1") {
		t.Fatal(err)
	}
	var pid int
	b, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

// A process that is kept answers one request after the other; one that has ended, or said something unasked, is replaced.
func TestKept(t *testing.T) {
	const one = `answer() { n=$(dd bs=1 count=4 2>/dev/null | od -An -tu1 | awk '{print $4}'); [ -n "$n" ] || exit 0
dd bs=1 count=$n >/dev/null 2>&1; printf '\000\000\000\003y%s' "$1"; }
echo >>"$0.starts"; echo $$ >"$0.pid"
`
	for name, c := range map[string]struct {
		program, want string
		starts        int
	}{
		"stays":   {`answer a1; answer a2; answer a3; cat >/dev/null`, "a1a2a3", 1},
		"ends":    {`answer a1`, "a1a1a1", 3},
		"babbles": {`answer a1; printf '\000\000\000\003ybb'; echo >>"$0.said"; answer a2; answer a3`, "a1a1a1", 3},
	} {
		t.Run(name, func(t *testing.T) {
			program := script(t, one+c.program)
			l := open(t, port.Config{Program: program, Transport: port.Packet4})
			var got strings.Builder
			for i := range 3 {
				f, err := l.Open(t.Context(), "x")
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(&got, f)
				for said := 0; name == "babbles" && said <= i; time.Sleep(time.Millisecond) { // one newline each time
					b, _ := os.ReadFile(program[0] + ".said")
					said = len(b)
				}
				for pid, _ := os.ReadFile(program[0] + ".pid"); name == "ends"; time.Sleep(time.Millisecond) { // until it is reaped
					if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err != nil {
						break
					}
				}
			}
			starts, _ := os.ReadFile(program[0] + ".starts")
			if got.String() != c.want || len(starts) != c.starts {
				t.Errorf("answers %s by %d processes, want %s by %d", got.String(), len(starts), c.want, c.starts)
			}
		})
	}
}

func TestNotFoundAndLog(t *testing.T) {
	var mu sync.Mutex
	var log strings.Builder
	l := open(t, port.Config{
		Program: script(t, `cat >/dev/null; echo "looked in vain" >&2; printf 'znot in the vault\n'`),
		Log:     slog.New(slog.NewTextHandler(writer(func(p []byte) { mu.Lock(); defer mu.Unlock(); log.Write(p) }), nil)),
	})
	_, err := l.Get(t.Context(), "any name/../at all")
	if !errors.Is(err, loader.ErrNotExist) || !strings.Contains(err.Error(), "not in the vault") {
		t.Errorf("%v", err)
	}
	if mu.Lock(); !strings.Contains(log.String(), "looked in vain") {
		t.Errorf("standard error: %q", log.String())
	}
	mu.Unlock()
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestCancelled(t *testing.T) {
	l := open(t, port.Config{Program: script(t, `sleep 1000`)})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	if _, err := l.Open(ctx, "x"); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

func TestNoProgram(t *testing.T) {
	for _, p := range [][]string{nil, {"/no/such/program"}, {"no-such-program"}} {
		if l, err := port.Open(port.Config{Program: p}); err == nil {
			l.Close()
			t.Errorf("%q: opened", p)
		}
	}
	if _, err := exec.LookPath("true"); err == nil {
		if l, err := port.Open(port.Config{Program: []string{"true"}, Transport: "packet2"}); err == nil {
			l.Close()
			t.Error("an unknown transport")
		}
	}
}
