package sv

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// few is how many services are looked at before it is worth another thread.
const few = 50

// statuses are the lines of services with which there is no trouble, "" for others: of these status has more to say. They are
// read by several threads, for which no service's directory can be that of the process.
func (c *call) statuses(services []string) []string {
	dir, err := unix.Openat(c.home, c.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(dir)
	lines := make([]string, len(services))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(4, 1+len(services)/few) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(services)); i = next.Add(1) - 1 {
				if name := services[i]; inDir(name) {
					lines[i] = line(dir, name)
				} else if name != "" {
					lines[i] = line(c.home, name)
				}
			}
		})
	}
	group.Wait()
	return lines
}

// line is the line of the service that is called name in dir, "" if something about it is unusual.
func line(dir int, name string) string {
	main := inShort(dir, name+"/", name)
	if main == "" {
		return ""
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, name+"/log", &st, 0); err {
	case unix.ENOENT:
		return main
	case nil:
		if log := inShort(dir, name+"/log/", "log"); log != "" {
			return main + "; " + log
		}
	}
	return ""
}

func inShort(dir int, prefix, shown string) string {
	s, err := servicedir.Read(dir, prefix)
	if err != nil {
		return ""
	}
	down, err := isDown(dir, prefix)
	if err != nil {
		return ""
	}
	return inWords(shown, s, down)
}
