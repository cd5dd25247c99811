package memfd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

func TestRoundTrip(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	f, err := New("test", data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{len(data), 10, 0} {
		if got, err := Read(f, n); err != nil || !bytes.Equal(got, data[:n]) {
			t.Errorf("Read of %d: %d bytes, %v", n, len(got), err)
		}
	}
	if _, err := Read(f, len(data)+1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read of more than there is: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be written")
	}
	if err := f.Truncate(1); err == nil {
		t.Error("it can be cut")
	}
}

// What could block, or change while it is read, is not read.
func TestRefuses(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("open", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	unsealed := os.NewFile(uintptr(fd), "open")
	fd, err = unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	opath := os.NewFile(uintptr(fd), "/")
	for name, f := range map[string]*os.File{
		"file": file, "pipe": r, "its other end": w, "unsealed memfd": unsealed, "O_PATH": opath,
	} {
		if _, err := Read(f, 1); !errors.Is(err, ErrUnsealed) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
		if _, err := Read(f, 1); err == nil {
			t.Errorf("closed %s: no error", name)
		}
	}
}
