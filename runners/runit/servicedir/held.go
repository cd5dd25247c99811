package servicedir

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Held is a supervise directory of which this process is the supervisor: it holds the lock. Its methods are not for use from
// several goroutines at once.
type Held struct {
	dir    int    // the service directory; stays the caller's
	prefix string // "" or "log/"
	lock   int
	fifo   int // control, for reading and writing: so it never ends
	ok     int

	last           Status
	text           string
	wrote, wrotePD bool
}

// Hold takes the lock of the supervise directory of the service in dir, a descriptor, or with log that of its log service; there
// it waits for whoever has it, and has wait, if not nil, do so by calling lock. It makes the directory if need be, also behind a
// dangling link. The next steps are OpenControl, Write and, when everything is ready, OpenOK. Close it in the end.
func Hold(dir int, log bool, wait func(lock func() error) error) (*Held, error) {
	h := &Held{dir: dir, lock: -1, fifo: -1, ok: -1}
	if log {
		h.prefix = "log/"
	}
	if err := h.mkdir(); err != nil {
		return nil, err
	}
	name := h.prefix + "supervise/lock"
	var err error
	if h.lock, err = open(dir, name, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NONBLOCK, 0o600); err != nil {
		return nil, &Error{"unable to open " + name, err}
	}
	err = flock(h.lock, unix.LOCK_EX|unix.LOCK_NB)
	if log && err == unix.EWOULDBLOCK {
		lock := func() error { return flock(h.lock, unix.LOCK_EX) }
		if wait != nil {
			err = wait(lock)
		} else {
			err = lock()
		}
	}
	if err != nil {
		h.Close()
		return nil, &Error{"unable to lock " + name, err}
	}
	return h, nil
}

// mkdir makes the supervise directory. What stands in its way is told by the first file that isn't found.
func (h *Held) mkdir() error {
	name := h.prefix + "supervise"
	if err := unix.Mkdirat(h.dir, name, 0o700); err == nil {
		return nil
	}
	var buf [256]byte // runit takes no longer links either
	n, err := unix.Readlinkat(h.dir, name, buf[:])
	switch {
	case err == unix.EINVAL || err == unix.ENOENT: // it's no link; it can't be made
		return nil
	case err != nil:
		return &Error{"unable to readlink ./" + name, err}
	case n == len(buf):
		return &Error{Op: "unable to readlink ./" + name + ": name too long"}
	}
	at := h.dir
	if h.prefix != "" {
		// The text of the link counts from log/.
		if at, err = open(h.dir, "log", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return &Error{"unable to change directory to ./log", err}
		}
		defer unix.Close(at)
	}
	_ = unix.Mkdirat(at, string(buf[:n]), 0o700)
	return nil
}

// OpenControl makes the FIFO of commands if it isn't there, and opens it. An existing one keeps its owner and mode: they say who
// may control the service. The descriptor is non-blocking, never at its end, and stays h's.
func (h *Held) OpenControl() (fifo int, err error) {
	name := h.prefix + "supervise/control"
	_ = unix.Mkfifoat(h.dir, name, 0o600)
	var st unix.Stat_t
	if err := unix.Fstatat(h.dir, name, &st, 0); err != nil {
		return -1, &Error{"unable to stat " + name, err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return -1, &Error{Op: name + " exists but is not a fifo"}
	}
	if h.fifo, err = open(h.dir, name, unix.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return -1, &Error{"unable to open " + name, err}
	}
	return h.fifo, nil
}

// MakeOK makes the FIFO by which others see that there is a supervisor if it isn't there, for OpenOK.
func (h *Held) MakeOK() error {
	name := h.prefix + "supervise/ok"
	_ = unix.Mkfifoat(h.dir, name, 0o600)
	if err := unix.Faccessat(h.dir, name, unix.R_OK, 0); err != nil {
		return &Error{"unable to read " + name, err}
	}
	return nil
}

// OpenOK opens the FIFO of MakeOK. It is the last step: commands are taken and the status is there.
func (h *Held) OpenOK() (err error) {
	name := h.prefix + "supervise/ok"
	if h.ok, err = open(h.dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return &Error{"unable to read " + name, err}
	}
	return nil
}

// Write replaces pid, stat and status, in this order and each at once, as far as s differs from what is there. exit says that
// the service is to exit. After an error what wasn't written is written by the next Write.
func (h *Held) Write(s Status, exit bool) error {
	// That of a log that is down from the beginning is not there until there is a process.
	if !h.wrotePD && s.PID == 0 && s.Want == 'd' && h.prefix != "" {
		h.wrotePD = unix.Faccessat(h.dir, h.prefix+"supervise/pid", unix.F_OK, 0) == unix.ENOENT
	}
	if !h.wrotePD || s.PID != h.last.PID {
		text := ""
		if s.PID != 0 {
			text = strconv.FormatUint(uint64(s.PID), 10) + "\n"
		}
		if err := h.replace("pid", []byte(text)); err != nil {
			return err
		}
		h.wrotePD = true
	}
	text, encoded := s.Text(exit), s.Encode()
	if h.wrote && text == h.text && s == h.last {
		return nil
	}
	h.last, h.text = s, text
	err := errors.Join(h.replace("stat", []byte(text)), h.replace("status", encoded[:]))
	h.wrote = err == nil
	return err
}

// Read is the status that the last supervisor left, and whether the service was to exit.
func (h *Held) Read() (s Status, exit bool, err error) {
	if s, err = readStatus(h.dir, h.prefix); err != nil {
		return s, false, err
	}
	text, err := readAll(h.dir, h.prefix+"supervise/stat")
	return s, strings.Contains(string(text), "want exit"), err
}

// Mark opens the file supervise/mark, which is for the supervisor that comes after this one if this one is killed, and makes it if
// need be. It is locked (flock(2)) as long as the descriptor, which is the caller's, or a copy of it is open; Mark waits until the
// lock is free.
func (h *Held) Mark() (int, error) {
	name := h.prefix + "supervise/mark"
	fd, err := open(h.dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err == unix.ELOOP { // the mark of an early version
		_ = unix.Unlinkat(h.dir, name, 0)
		fd, err = open(h.dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	}
	if err != nil {
		return -1, &Error{"unable to open " + name, err}
	}
	if err := flock(fd, unix.LOCK_EX); err != nil {
		unix.Close(fd)
		return -1, &Error{"unable to lock " + name, err}
	}
	return fd, nil
}

func (h *Held) replace(name string, content []byte) error {
	path := h.prefix + "supervise/" + name
	fd, err := open(h.dir, path+".new", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return &Error{"unable to open " + path + ".new", err}
	}
	n, err := unix.Write(fd, content)
	unix.Close(fd)
	if err != nil || n < len(content) {
		_ = unix.Unlinkat(h.dir, path+".new", 0)
		if err == nil {
			return &Error{Op: "unable to write " + path + ".new: partial write."}
		}
		return &Error{"unable to write " + path + ".new", err}
	}
	if err := unix.Renameat(h.dir, path+".new", h.dir, path); err != nil {
		return &Error{fmt.Sprintf("unable to rename %s.new to %s", name, path), err}
	}
	return nil
}

// Close gives everything up. The files stay as they are.
func (h *Held) Close() {
	for _, fd := range []int{h.fifo, h.ok, h.lock} { // the lock last: who gets it finds no other supervisor
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	h.fifo, h.ok, h.lock = -1, -1, -1
}

func flock(fd, how int) (err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(fd, how)
	}
	return err
}

func open(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
