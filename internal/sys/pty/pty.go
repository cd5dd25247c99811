// Package pty makes pseudo-terminals (pty(7)).
package pty

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open makes a pair: what is written to master is typed at terminal, and what programs write to terminal is read from master,
// which fails with EIO once nobody has terminal open any more. Both are the caller's, whose controlling terminal it does not
// become.
func Open() (master, terminal *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	err = ioctl(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		// Not by its name, which stands for something else where another devpts is mounted.
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		terminal = os.NewFile(peer, "terminal")
		return nil
	})
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	return master, terminal, nil
}

// Resize tells a terminal its size, and who is in its foreground that it has changed (SIGWINCH).
func Resize(terminal *os.File, columns, rows int) error {
	return ioctl(terminal, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: uint16(rows)})
	})
}

// ioctl calls do with the descriptor of f, which stays as it is: File.Fd would make it block.
func ioctl(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := c.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
