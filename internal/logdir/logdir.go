// Package logdir writes and reads log directories in svlogd's format, so that svlogd(8) and every tool that knows it can work on
// them before, between and after.
//
//	current          what is being written. Mode 0644 while in use or left by a crash, 0744 when closed cleanly
//	@LABEL.s         an old file, mode 0744; LABEL (package tai64n) says when it was put aside
//	@LABEL.u         an old file that was found as a crash left it, or that svlogd's processor has not finished
//	lock             mode 0600, flock(2)ed by the writer
//
// Names and modes are svlogd's exactly. Where this writer chooses: a record is never split between two files, so files end up to
// one record short of the limit (svlogd rotates between 1,000 bytes short of the limit and the limit); and all files above the
// number to keep are removed at a rotation (svlogd removes one). It runs no processor and reads no config file.
package logdir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/tai64n"
)

// svlogd's defaults.
const (
	DefaultSize = 1_000_000 // bytes in a file
	DefaultKeep = 10        // old files beside current
)

// ErrLocked says that another process (or another Writer) has the directory.
var ErrLocked = errors.New("in use by another logger")

// Options say how large a directory may grow: about Size × (Keep + 1).
type Options struct {
	Size int64 // current is put aside before it gets larger; 0 never. A record that is larger alone gets a file alone
	Keep int   // how many old files are kept; 0 all
	Sync bool  // fsync(2) a file before it is put aside or closed, as svlogd does
}

// A Writer writes one directory. It is not for concurrent use. It may be used on a thread with a table of descriptors of its own
// (fdthread), and so has none of package os's files: they may be closed from elsewhere, and in tests package os has a log of
// what is opened and looked at.
type Writer struct {
	dir  string
	opt  Options
	lock int
	fd   int // current; -1 if a rotation could not open a new one
	size int64
}

// Open locks dir, which must exist, and opens current to append to it. If that was left by a crash it is put aside first. A
// directory that another logger has is an ErrLocked.
func Open(dir string, opt Options) (*Writer, error) {
	w := &Writer{dir: dir, opt: opt, fd: -1}
	if err := w.flock(); err != nil {
		return nil, err
	}
	if err := w.openCurrent(); err != nil {
		syscall.Close(w.lock)
		return nil, err
	}
	return w, nil
}

func (w *Writer) flock() error {
	lock, err := open(filepath.Join(w.dir, "lock"), 0o600)
	if err != nil {
		return err
	}
	if err := retry(func() error { return syscall.Flock(lock, syscall.LOCK_EX|syscall.LOCK_NB) }); err != nil {
		syscall.Close(lock)
		if err == syscall.EWOULDBLOCK {
			err = ErrLocked
		}
		return fmt.Errorf("lock %s: %w", w.dir, err)
	}
	w.lock = lock
	return nil
}

// Write appends records, each ending with a newline, and rotates between them where the size says so. It returns how many bytes
// are in files: after an error (a full disk) the rest may be tried again with the same or a new Writer, and continues even a
// record that was written in part.
func (w *Writer) Write(records []byte) (n int, err error) {
	for n < len(records) {
		if w.fd < 0 {
			if err := w.openCurrent(); err != nil {
				return n, err
			}
		}
		b := w.fitting(records[n:])
		if b == nil {
			if err := w.Rotate(); err != nil {
				return n, err
			}
			continue
		}
		var m int
		err := retry(func() (err error) { m, err = syscall.Write(w.fd, b); return err })
		n, w.size = n+max(m, 0), w.size+int64(max(m, 0))
		if err != nil {
			return n, &os.PathError{Op: "write", Path: w.current(), Err: err}
		}
	}
	return n, nil
}

// fitting is how much of b may go to current; nil if none. b is not empty.
func (w *Writer) fitting(b []byte) []byte {
	room := w.opt.Size - w.size
	if w.opt.Size <= 0 || int64(len(b)) <= room {
		return b
	}
	if end := bytes.LastIndexByte(b[:max(room, 0)], '\n') + 1; end > 0 {
		return b[:end]
	}
	if w.size > 0 {
		return nil
	}
	if end := bytes.IndexByte(b, '\n') + 1; end > 0 {
		return b[:end]
	}
	return b
}

// Rotate puts current aside, unless it is empty, opens a new one, and removes what is too old.
func (w *Writer) Rotate() error {
	if w.fd >= 0 {
		if w.size == 0 {
			return nil
		}
		if err := w.clean(); err != nil {
			return err
		}
		if err := w.putAside(".s"); err != nil {
			return err
		}
	}
	if err := w.openCurrent(); err != nil {
		return err
	}
	return w.prune()
}

// Close marks current as cleanly closed and unlocks the directory. The Writer is gone, whatever the error.
func (w *Writer) Close() error {
	var err error
	if w.fd >= 0 {
		err = w.clean()
		syscall.Close(w.fd)
	}
	syscall.Close(w.lock)
	w.fd, w.lock = -1, -1
	return err
}

// Remove removes dir and the files in it, unless another logger has it (ErrLocked) or there is a directory in it.
func Remove(dir string) error {
	w := &Writer{dir: dir, fd: -1}
	if err := w.flock(); err != nil {
		return err
	}
	defer w.Close()
	names, err := list(dir)
	for _, name := range names {
		err = errors.Join(err, remove(filepath.Join(dir, name)))
	}
	if err != nil {
		return err
	}
	if err := syscall.Rmdir(dir); err != nil {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

func (w *Writer) current() string { return filepath.Join(w.dir, "current") }

// openCurrent opens current, new or left clean; what a crash left is put aside.
func (w *Writer) openCurrent() error {
	for {
		fd, err := open(w.current(), 0o644)
		if err != nil {
			return err
		}
		w.fd = fd
		var st syscall.Stat_t
		if err = syscall.Fstat(fd, &st); err == nil && st.Size > 0 && st.Mode&syscall.S_IXUSR == 0 {
			if err = w.putAside(".u"); err == nil {
				err = w.prune()
			}
			if err == nil {
				continue
			}
		}
		if err == nil {
			err = syscall.Fchmod(fd, 0o644)
		}
		if err != nil {
			syscall.Close(fd)
			w.fd = -1
			return &os.PathError{Op: "open", Path: w.current(), Err: err}
		}
		w.size = st.Size
		return nil
	}
}

// clean marks current as complete.
func (w *Writer) clean() error {
	if w.opt.Sync {
		if err := retry(func() error { return syscall.Fsync(w.fd) }); err != nil {
			return &os.PathError{Op: "fsync", Path: w.current(), Err: err}
		}
	}
	if err := syscall.Fchmod(w.fd, 0o744); err != nil {
		return &os.PathError{Op: "chmod", Path: w.current(), Err: err}
	}
	return nil
}

// putAside renames current to a label that is free and closes it.
func (w *Writer) putAside(suffix string) error {
	for {
		name := filepath.Join(w.dir, tai64n.Format(time.Now())+suffix)
		var st syscall.Stat_t
		if syscall.Lstat(name, &st) == nil {
			continue // rotations within one tick of the clock
		}
		if err := syscall.Rename(w.current(), name); err != nil {
			return &os.LinkError{Op: "rename", Old: w.current(), New: name, Err: err}
		}
		syscall.Close(w.fd)
		w.fd, w.size = -1, 0
		return nil
	}
}

// prune removes what a processor left half done and the oldest files that are too many.
func (w *Writer) prune() error {
	if w.opt.Keep <= 0 {
		return nil
	}
	names, err := list(w.dir)
	if err != nil {
		return err
	}
	var old []string
	for _, name := range names {
		switch {
		case !isOld(name):
		case name[tai64n.Size:] == ".t":
			err = errors.Join(err, remove(filepath.Join(w.dir, name)))
		default:
			old = append(old, name)
		}
	}
	slices.Sort(old)
	for _, name := range old[:max(len(old)-w.opt.Keep, 0)] {
		err = errors.Join(err, remove(filepath.Join(w.dir, name)))
	}
	return err
}

// isOld says whether name is that of a file that was put aside. svlogd goes by length and first byte alone.
func isOld(name string) bool { return len(name) == tai64n.Size+2 && name[0] == '@' }

// list is the names in a directory, in no order.
func list(dir string) (names []string, err error) {
	var fd int
	err = retry(func() error {
		fd, err = syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer syscall.Close(fd)
	buf := make([]byte, 4096)
	for {
		n, err := syscall.ReadDirent(fd, buf)
		if err != nil {
			return nil, &os.PathError{Op: "getdents", Path: dir, Err: err}
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = syscall.ParseDirent(buf[:n], -1, names)
	}
}

func remove(path string) error {
	if err := syscall.Unlink(path); err != nil {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

func open(path string, mode uint32) (fd int, err error) {
	err = retry(func() error {
		// Not blocking, as in svlogd: a FIFO in the file's place must not stop us.
		fd, err = syscall.Open(path, syscall.O_WRONLY|syscall.O_APPEND|syscall.O_CREAT|syscall.O_NONBLOCK|syscall.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

func retry(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
