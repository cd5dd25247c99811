package sv

import (
	"time"

	"golang.org/x/sys/unix"
)

// A watcher wakes sv when the status of one of its services is replaced or a supervisor goes away. Where that can't be watched
// (a directory that the user can't read), sv wakes up by itself.
type watcher struct {
	fd    int // inotify(7); -1: none
	known map[string]bool
}

func newWatcher() *watcher {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		fd = -1
	}
	return &watcher{fd, map[string]bool{}}
}

// add watches the service in whose directory we are. What changes from now on is seen.
func (w *watcher) add(name string) {
	if w.fd < 0 || w.known[name] {
		return
	}
	w.known[name] = true
	_, _ = unix.InotifyAddWatch(w.fd, "supervise", unix.IN_MOVED_TO)
	// Only the supervisor has it open for reading.
	_, _ = unix.InotifyAddWatch(w.fd, "supervise/ok", unix.IN_CLOSE_NOWRITE)
}

// wait returns when something has changed, at last after most.
func (w *watcher) wait(most time.Duration) {
	fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}} // a negative descriptor is ignored (poll(2))
	n, _ := unix.Poll(fds, int((most+time.Millisecond-1)/time.Millisecond))
	if n > 0 {
		var buf [4096]byte
		for n := 1; n > 0; {
			n, _ = unix.Read(w.fd, buf[:])
		}
	}
}

func (w *watcher) close() {
	if w.fd >= 0 {
		unix.Close(w.fd)
	}
}
