package servicedir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func TestStatusBytes(t *testing.T) {
	s := Status{Since: time.Unix(0x6b00bf24, 0x0216b0dc), PID: 0x01020304, Paused: true, Want: 'd', Term: true, State: Finish}
	const want = "\x40\x00\x00\x00\x6b\x00\xbf\x2e\x02\x16\xb0\xdc\x04\x03\x02\x01\x01d\x01\x02"
	if b := s.Encode(); string(b[:]) != want {
		t.Errorf("Encode = %q, want %q", b, want)
	}
	for _, n := range []int{0, 18, 19, 21} {
		if _, err := Decode(make([]byte, n)); err == nil {
			t.Errorf("%d bytes are decoded", n)
		}
	}
}

func TestText(t *testing.T) {
	for want, c := range map[string]struct {
		Status
		exit bool
	}{
		"down\n":                             {Status{Want: 'd'}, false},
		"down, paused\n":                     {Status{Want: 'u', Paused: true}, true},
		"run\n":                              {Status{Want: 'u', State: Run}, false},
		"run, paused, got TERM\n":            {Status{Want: 'u', State: Run, Paused: true, Term: true}, false},
		"run, got TERM, want exit\n":         {Status{Want: 'd', State: Run, Term: true}, true},
		"finish, want down\n":                {Status{Want: 'd', State: Finish}, false},
		"run, paused, got TERM, want down\n": {Status{Want: 'd', State: Run, Paused: true, Term: true}, false},
	} {
		if got := c.Text(c.exit); got != want {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
}

// FuzzStatus: a status survives its file, and 20 bytes of any kind are one.
func FuzzStatus(f *testing.F) {
	f.Add([]byte("\x40\x00\x00\x00\x6b\x00\xbf\x2e\x02\x16\xb0\xdc\x04\x03\x02\x01\x01d\x01\x02"))
	f.Add([]byte(strings.Repeat("\xff", Size)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if (err == nil) != (len(b) == Size) {
			t.Fatalf("Decode(%q): %v", b, err)
		}
		if err != nil {
			return
		}
		_ = s.Text(true)
		e := s.Encode()
		again, err := Decode(e[:])
		if err != nil || again != s {
			t.Fatalf("%+v became %+v (%v)", s, again, err)
		}
	})
}

func hold(t *testing.T, dir string, log bool) (*Held, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	h, err := Hold(fd, log, nil)
	if err == nil {
		t.Cleanup(h.Close)
	}
	return h, err
}

func TestSupervisorAndReader(t *testing.T) {
	dir := t.TempDir()
	for _, log := range []bool{false, true} {
		at := dir
		if log {
			at += "/log"
			if err := os.Mkdir(at, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if _, err := Read(fd, ""); err == nil || err.Error() != "unable to open supervise/ok: file does not exist" {
			t.Errorf("Read of nothing: %v", err)
		}
		h, err := hold(t, dir, log)
		if err != nil {
			t.Fatal(err)
		}
		fifo, err := h.OpenControl()
		if err != nil {
			t.Fatal(err)
		}
		want := Status{Since: time.Unix(1700000000, 500).UTC(), PID: 77, Want: 'u', State: Run}
		if err := h.Write(want, false); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(h.MakeOK(), h.OpenOK()); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(fd, ""); err != nil || got != want {
			t.Errorf("Read = %+v, %v, want %+v", got, err, want)
		}
		for name, want := range map[string]string{"pid": "77\n", "stat": "run\n"} {
			if got, err := os.ReadFile(at + "/supervise/" + name); err != nil || string(got) != want {
				t.Errorf("%s = %q, %v", name, got, err)
			}
		}
		if err := Control(fd, "tcu"); err != nil {
			t.Fatal(err)
		}
		var b [9]byte
		if n, err := unix.Read(fifo, b[:]); err != nil || string(b[:n]) != "tcu" {
			t.Errorf("control got %q, %v", b[:max(n, 0)], err)
		}
		h.Close()
		if _, err := Read(fd, ""); !errors.Is(err, ErrNotRunning) {
			t.Errorf("Read without supervisor: %v", err)
		}
		if err := Control(fd, "d"); !errors.Is(err, ErrNotRunning) {
			t.Errorf("Control without supervisor: %v", err)
		}
	}
}

// What a supervisor leaves, the next one finds.
func TestMark(t *testing.T) {
	dir := t.TempDir()
	want := Status{Since: time.Unix(1700000000, 500).UTC(), PID: 77, Want: 'd', State: Finish}
	if err := os.Mkdir(dir+"/supervise", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", dir+"/supervise/mark"); err != nil { // it is not followed
		t.Fatal(err)
	}
	for i, text := range []string{"", "one", "two"} {
		h, err := hold(t, dir, false)
		if err != nil {
			t.Fatal(err)
		}
		mark, err := h.Mark()
		if err != nil {
			t.Fatal(err)
		}
		var b [10]byte
		if n, err := unix.Pread(mark, b[:], 0); err != nil || string(b[:n]) != text {
			t.Errorf("mark %q, want %q; %v", b[:n], text, err)
		}
		if s, exit, err := h.Read(); (err == nil) != (i > 0) || err == nil && (s != want || exit != (i == 1)) {
			t.Errorf("%+v, %v, %v", s, exit, err)
		}
		if err := h.Write(want, i == 0); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Pwrite(mark, []byte([]string{"one", "two", "x"}[i]), 0); err != nil {
			t.Fatal(err)
		}
		// Who has a copy of the descriptor has the lock.
		other, err := unix.Dup(mark)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(mark)
		free := make(chan error)
		go func() {
			again, err := h.Mark()
			unix.Close(again)
			free <- err
		}()
		select {
		case err := <-free:
			t.Fatalf("two have the lock: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		unix.Close(other)
		if err := <-free; err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
}

// Owner and mode of what is there say who may control the service.
func TestKeepsModes(t *testing.T) {
	dir := t.TempDir()
	h, err := hold(t, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	open := func() {
		t.Helper()
		if _, err := h.OpenControl(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(h.MakeOK(), h.OpenOK()); err != nil {
			t.Fatal(err)
		}
	}
	open()
	modes := map[string]os.FileMode{"supervise": 0o755, "supervise/control": 0o620, "supervise/ok": 0o644}
	for name, mode := range modes {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	if h, err = hold(t, dir, false); err != nil {
		t.Fatal(err)
	}
	open()
	for name, mode := range modes {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestDanglingLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/log", 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"supervise": "one", "log/supervise": "../two"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, log := range []bool{false, true} {
		if _, err := hold(t, dir, log); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"one", "two"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := t.TempDir()
	if err := os.Symlink(strings.Repeat("x/", 128), long+"/supervise"); err != nil {
		t.Fatal(err)
	}
	if _, err := hold(t, long, false); err == nil || err.Error() != "unable to readlink ./supervise: name too long" {
		t.Errorf("a long link: %v", err)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/supervise", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/supervise/control", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := hold(t, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold(t, dir, false); err == nil || err.Error() != "unable to lock supervise/lock: temporary failure" {
		t.Errorf("second lock: %v", err)
	}
	if _, err := h.OpenControl(); err == nil || err.Error() != "supervise/control exists but is not a fifo" {
		t.Errorf("a control that is a file: %v", err)
	}
	if err := os.MkdirAll(dir+"/log/supervise/control", 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := hold(t, dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.OpenControl(); err == nil || err.Error() != "log/supervise/control exists but is not a fifo" {
		t.Errorf("a control that is a directory: %v", err)
	}
	if err := os.RemoveAll(dir + "/supervise"); err != nil {
		t.Fatal(err)
	}
	err = h.Write(Status{}, false)
	if err == nil || err.Error() != "unable to open supervise/pid.new: file does not exist" {
		t.Errorf("Write without a directory: %v", err)
	}
}
