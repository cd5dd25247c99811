package protocol

import (
	"encoding/binary"
	"os"
	"slices"
	"syscall"

	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/internal/sys/poll"
)

// watches are the directories in which programs bind sockets: one inotify(7) descriptor for all, made when there is one to watch.
type watches struct {
	fd int // 0 until then
	on map[int32][]*Bound
}

// watch has b look when something comes into dir.
func (s *Sockets) watch(dir *os.File, b *Bound) (wd int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches.fd == 0 {
		fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
		if err != nil {
			return -1, os.NewSyscallError("inotify_init1", err)
		}
		if err := s.loop.Add(fd, poll.In, func(uint32) { s.news(fd) }); err != nil {
			syscall.Close(fd)
			return -1, err
		}
		s.watches = watches{fd: fd, on: map[int32][]*Bound{}}
	}
	wd, err = syscall.InotifyAddWatch(s.watches.fd, mnt.Name(dir, "."), syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_ONLYDIR)
	if err != nil {
		return -1, os.NewSyscallError("inotify_add_watch", err)
	}
	s.watches.on[int32(wd)] = append(s.watches.on[int32(wd)], b)
	return wd, nil
}

func (s *Sockets) unwatch(wd int, b *Bound) {
	if wd < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := slices.DeleteFunc(s.watches.on[int32(wd)], func(x *Bound) bool { return x == b })
	if len(rest) > 0 {
		s.watches.on[int32(wd)] = rest
		return
	}
	delete(s.watches.on, int32(wd))
	_, _ = syscall.InotifyRmWatch(s.watches.fd, uint32(wd)) // the directory may have gone already
}

// news reads what has come; on the loop.
func (s *Sockets) news(fd int) {
	buf := make([]byte, 4096)
	for {
		n, err := syscall.Read(fd, buf)
		if n <= 0 || err != nil {
			return
		}
		look := map[*Bound]bool{} // once, however often they were told
		s.mu.Lock()
		for rest := buf[:n]; len(rest) >= syscall.SizeofInotifyEvent; {
			// struct inotify_event of inotify(7): wd, mask, cookie, len, name.
			wd := int32(binary.NativeEndian.Uint32(rest))
			for _, b := range s.watches.on[wd] {
				look[b] = true
			}
			if binary.NativeEndian.Uint32(rest[4:])&syscall.IN_Q_OVERFLOW != 0 { // what came after all others is lost
				for _, all := range s.watches.on {
					for _, b := range all {
						look[b] = true
					}
				}
			}
			rest = rest[syscall.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:])):]
		}
		s.mu.Unlock()
		for b := range look {
			b.arrived()
		}
	}
}
