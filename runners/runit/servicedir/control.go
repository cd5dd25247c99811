package servicedir

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ErrNotRunning says that nobody supervises the service.
var ErrNotRunning = errors.New("runsv not running")

// Read is the status of the service in dir, a descriptor or unix.AT_FDCWD, or of the one whose path from there is prefix, with a
// slash at its end. The error is ErrNotRunning or an *Error.
func Read(dir int, prefix string) (Status, error) {
	fd, err := open(dir, prefix+"supervise/ok", unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return Status{}, notRunning("unable to open supervise/ok", err)
	}
	unix.Close(fd)
	return readStatus(dir, prefix)
}

func readStatus(dir int, prefix string) (Status, error) {
	b, err := readAll(dir, prefix+"supervise/status")
	if err != nil {
		return Status{}, err
	}
	s, err := Decode(b)
	if err != nil {
		return Status{}, &Error{"unable to read supervise/status", err}
	}
	return s, nil
}

// readAll reads a file of supervise/, which all are short.
func readAll(dir int, name string) ([]byte, error) {
	fd, err := open(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &Error{"unable to open " + name, err}
	}
	defer unix.Close(fd)
	var b [128]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return nil, &Error{"unable to read " + name, err}
	}
	return b[:n], nil
}

// Control sends commands, one byte each, to the supervisor of the service in dir, a descriptor or unix.AT_FDCWD. The error is
// ErrNotRunning or an *Error.
func Control(dir int, commands string) error {
	fd, err := open(dir, "supervise/control", unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return notRunning("unable to open supervise/control", err)
	}
	defer unix.Close(fd)
	// Either all of so few bytes are written or none (pipe(7), PIPE_BUF).
	if _, err := unix.Write(fd, []byte(commands)); err != nil {
		return &Error{"unable to write to supervise/control", err}
	}
	return nil
}

func notRunning(op string, err error) error {
	if err == unix.ENXIO { // fifo(7): nobody reads
		return ErrNotRunning
	}
	return &Error{op, err}
}
