package pty

import (
	"bufio"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
)

func TestOpen(t *testing.T) {
	master, terminal, err := Open()
	if errors.Is(err, os.ErrNotExist) {
		needs.Missing(t, "devpts", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if _, err := io.WriteString(master, "typed\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(terminal).ReadString('\n'); line != "typed\n" || err != nil {
		t.Errorf("read %q, %v", line, err)
	}
	if err := Resize(master, 97, 31); err != nil {
		t.Fatal(err)
	}
	if size, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ); err != nil || size.Col != 97 || size.Row != 31 {
		t.Errorf("its size is %v, %v", size, err)
	}
	if _, err := io.WriteString(terminal, "written\n"); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	all, err := io.ReadAll(master)
	if string(all) != "typed\r\nwritten\r\n" || !errors.Is(err, unix.EIO) {
		t.Errorf("read %q, %v", all, err)
	}
}
