package runsvdir

import (
	"encoding/binary"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A change is what a watch tells.
type change int

const (
	within  change = iota // something came to the directory or went
	growing               // somebody made a subdirectory and will fill it
	moved                 // the path may mean another directory now
)

// A watch sees, by inotify(7), what changes in the directory that a path means, and when the path comes to mean another: because
// a link on the way, or a link in that link, is replaced, a directory is renamed, or what did not exist is made. Other things
// that happen near the path wake nobody, except where a link or a gap makes it necessary to watch the directory that it is in.
type watch struct {
	file   *os.File
	fd     int
	dir    int32                     // watch descriptor of the directory; -1: it isn't there
	on     map[int32]map[string]bool // by watch descriptor: names on the way
	events chan<- change
	done   chan struct{}
	wg     sync.WaitGroup
}

const (
	selfMask  = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	entryMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
	// ended is what says that a watched directory is no longer where it was.
	ended = selfMask | unix.IN_IGNORED | unix.IN_UNMOUNT
)

func newWatch(name string, events chan<- change) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	w := &watch{
		file: os.NewFile(uintptr(fd), "inotify"), fd: fd, dir: -1, on: map[int32]map[string]bool{},
		events: events, done: make(chan struct{}),
	}
	if err := w.walk(name); err != nil {
		w.file.Close()
		return nil, err
	}
	w.wg.Go(w.read)
	return w, nil
}

// close ends the watch. That of a nil watch is nothing.
func (w *watch) close() {
	if w != nil {
		close(w.done)
		w.file.Close()
		w.wg.Wait()
	}
}

// walk follows name as the kernel does, and watches what is on the way.
func (w *watch) walk(name string) error {
	at := "."
	if strings.HasPrefix(name, "/") {
		at = "/"
	}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		next := at + "/" + part
		var st unix.Stat_t
		if unix.Lstat(next, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if _, err := w.add(next, selfMask); err != nil && err != unix.ENOENT {
				return err
			}
			at = next
			continue
		}
		wd, err := w.add(at, entryMask|selfMask)
		if err != nil {
			return err
		}
		if w.on[wd] == nil {
			w.on[wd] = map[string]bool{}
		}
		w.on[wd][part] = true
		// Only now: a change from here on is seen.
		target, err := os.Readlink(next)
		switch {
		case err == nil && links < 40: // as many as the kernel follows
			links++
			if path.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		case unix.Lstat(next, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			at = next // made in between
		default:
			return nil // it is not there, or no directory
		}
	}
	wd, err := w.add(at, entryMask|selfMask)
	if err == nil {
		w.dir = wd
	} else if err == unix.ENOENT {
		return nil // gone in between, which is seen
	}
	return err
}

func (w *watch) add(path string, mask uint32) (int32, error) {
	wd, err := unix.InotifyAddWatch(w.fd, path, mask|unix.IN_MASK_ADD|unix.IN_ONLYDIR)
	return int32(wd), err
}

func (w *watch) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(b)
		if err != nil {
			return // closed
		}
		for rest := b[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			// struct inotify_event of inotify(7): wd, mask, cookie, len, name.
			wd, mask := int32(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint32(rest[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:end]), "\x00")
			rest = rest[end:]
			if c, ok := w.tell(wd, mask, name); ok {
				select {
				case w.events <- c:
				case <-w.done:
					return
				}
			}
		}
	}
}

// tell is what an event means; ok is false if nothing.
func (w *watch) tell(wd int32, mask uint32, name string) (c change, ok bool) {
	switch {
	case mask&(ended|unix.IN_Q_OVERFLOW) != 0, w.on[wd][name]:
		return moved, true
	case wd != w.dir || strings.HasPrefix(name, "."):
		return 0, false
	case mask&(unix.IN_CREATE|unix.IN_ISDIR) == unix.IN_CREATE|unix.IN_ISDIR:
		return growing, true
	}
	return within, true
}
