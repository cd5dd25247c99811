package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/probe"
	"github.com/cmgr/cmgr/runners"
)

// subtreePrefix begins the name of a Manager's own cgroup.
const subtreePrefix = "cmgr-"

// cgroups is the cgroup2 backend: one directory, root, below the cgroup that the manager was started in, and in it one for each
// job. Nothing is kept per job but its name.
type cgroups struct {
	m       *Manager
	root    string
	inotify int // -1 until somebody waits for the first time
	// kernel has a token for each call under way that takes the kernel's one lock over all cgroups. They come by the thousand when a
	// tree is shut down, and a goroutine that waits for the kernel holds a thread, of which Go has 10,000.
	kernel chan struct{}

	mu      sync.Mutex
	watches map[int]*watch // by inotify's number

	// enabling guards what follows: what was done so that jobs get files of controllers.
	enabling sync.Mutex
	self     string   // the cgroup that this process moved into; "": it didn't
	passed   []string // the controllers that the cgroup above root passes down for us
}

// A watch is on one job's cgroup.events, while somebody waits for the job to be empty.
type watch struct {
	number  int
	waiting []chan struct{}
}

func openCgroups(m *Manager, o Options) (backend, error) {
	own, err := probe.Cgroup()
	if err == nil {
		err = probe.JobCgroup(own)
	}
	if err != nil {
		return nil, err
	}
	c := &cgroups{m: m, inotify: -1, kernel: make(chan struct{}, 8), watches: map[int]*watch{}}
	if c.root, err = makeDir(filepath.Join(own, fmt.Sprintf("%s%s-%d", subtreePrefix, fileName(o.Name), os.Getpid()))); err != nil {
		return nil, err
	}
	if m.record != nil {
		if err := m.record.write(c.root); err != nil {
			os.Remove(c.root)
			return nil, &stateError{err}
		}
	}
	return c, nil
}

// makeDir makes the directory path, or if that is there path~2, and so on, and returns what it made.
func makeDir(path string) (string, error) {
	try := path
	for i := 2; ; i++ {
		err := os.Mkdir(try, 0o755)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return try, err
		}
		try = path + "~" + strconv.Itoa(i)
	}
}

func (c *cgroups) dir(j *Job) string { return c.root + "/" + j.name }

func (c *cgroups) path(j *Job) string { return c.dir(j) }

// enter waits for a token of kernel; leave returns it.
func (c *cgroups) enter() { c.kernel <- struct{}{} }
func (c *cgroups) leave() { <-c.kernel }

func (c *cgroups) make(j *Job) error {
	c.enter()
	defer c.leave()
	dir, err := makeDir(c.dir(j))
	if err != nil {
		return err
	}
	j.name = strings.TrimPrefix(dir, c.root+"/")
	return nil
}

func (c *cgroups) start(j *Job, s *Spec, exited func(Status)) (int, error) {
	s.Cgroup = c.dir(j)
	p, err := c.m.launcher.Start(s, func(st Status) {
		// The kernel may tell of emptiness up to 10 ms late (CGROUP_FILE_NOTIFY_MIN_INTV); this is a good moment to look.
		c.wake(j)
		exited(st)
	})
	if err != nil {
		return 0, err
	}
	j.mu.Lock()
	j.process = p
	j.mu.Unlock()
	return p.PID(), nil
}

func (c *cgroups) signal(j *Job, sig syscall.Signal) error {
	j.mu.Lock()
	p := j.process
	j.mu.Unlock()
	if p == nil {
		return os.ErrProcessDone
	}
	return p.Signal(sig)
}

func (c *cgroups) kill(ctx context.Context, j *Job) error {
	if closed, err := c.killNow(j); closed || err != nil {
		return err
	}
	return c.wait(ctx, j)
}

// killNow kills what is in j, and says whether j is closed instead.
func (c *cgroups) killNow(j *Job) (closed bool, err error) {
	c.enter()
	defer c.leave()
	// Mostly the main process was all there was, and has ended: a directory that can be removed needs no more. From then on its
	// name may be another job's.
	j.mu.Lock()
	j.closed = j.closed || unix.Rmdir(c.dir(j)) == nil
	closed = j.closed
	j.mu.Unlock()
	if closed {
		return true, nil
	}
	if err := killCgroup(c.dir(j)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		return false, fmt.Errorf("kill job %s: %w", j.name, err)
	}
	return false, nil
}

// killCgroup kills all processes below dir (cgroup v2 documentation, cgroup.kill).
func killCgroup(dir string) error { return write(dir+"/cgroup.kill", "1") }

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// populated says whether a process that isn't a zombie is in dir or below.
func populated(dir string) (bool, error) {
	b, err := os.ReadFile(dir + "/cgroup.events")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return strings.Contains(string(b), "populated 1"), err
}

// full is populated, in turn: while a cgroup is made, killed or removed, the kernel keeps those who look waiting too.
func (c *cgroups) full(dir string) (bool, error) {
	c.enter()
	defer c.leave()
	return populated(dir)
}

// wait waits until j is empty.
func (c *cgroups) wait(ctx context.Context, j *Job) error {
	dir := c.dir(j)
	if full, err := c.full(dir); !full || err != nil {
		return err
	}
	changed, err := c.watch(j)
	if err != nil {
		return fmt.Errorf("watch job %s: %w", j.name, err)
	}
	defer c.unwatch(j, changed)
	for {
		// Between the look before and the watch it may have become empty without an event.
		if full, err := c.full(dir); !full || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.enter()
			pids, _ := processesIn(dir)
			c.leave()
			return &RemainError{Job: j.name, PIDs: pids, Err: context.Cause(ctx)}
		}
	}
}

// watch returns a channel that gets a value when j's population may have changed.
func (c *cgroups) watch(j *Job) (chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inotify < 0 {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, err
		}
		if err := c.m.loop.Add(fd, poll.In, func(uint32) { c.events(fd) }); err != nil {
			unix.Close(fd)
			return nil, err
		}
		c.inotify = fd
	}
	if j.watch == nil {
		n, err := unix.InotifyAddWatch(c.inotify, c.dir(j)+"/cgroup.events", unix.IN_MODIFY)
		if err != nil {
			return nil, err
		}
		j.watch = &watch{number: n}
		c.watches[n] = j.watch
	}
	changed := make(chan struct{}, 1)
	j.watch.waiting = append(j.watch.waiting, changed)
	return changed, nil
}

func (c *cgroups) unwatch(j *Job, changed chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := j.watch
	w.waiting = slices.DeleteFunc(w.waiting, func(ch chan struct{}) bool { return ch == changed })
	if len(w.waiting) == 0 {
		delete(c.watches, w.number)
		j.watch = nil
		// Fails where the directory is gone, and with it the watch.
		_, _ = unix.InotifyRmWatch(c.inotify, uint32(w.number))
	}
}

// wake has those look who wait for j.
func (c *cgroups) wake(j *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.watch != nil {
		j.watch.tell()
	}
}

func (w *watch) tell() {
	for _, ch := range w.waiting {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// events takes what inotify has to say; on the loop.
func (c *cgroups) events(fd int) {
	var buf [4096]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for off := 0; off+unix.SizeofInotifyEvent <= n; {
		ev := (*unix.InotifyEvent)(unsafe.Pointer(&buf[off]))
		off += unix.SizeofInotifyEvent + int(ev.Len)
		if ev.Mask&unix.IN_Q_OVERFLOW != 0 {
			for _, w := range c.watches {
				w.tell()
			}
		} else if w := c.watches[int(ev.Wd)]; w != nil {
			w.tell()
		}
	}
}

// processesIn are the processes in dir and below.
func processesIn(dir string) ([]int, error) {
	var pids []int
	err := eachCgroup(dir, func(dir string) error {
		b, err := os.ReadFile(dir + "/cgroup.procs")
		if err != nil {
			return err
		}
		for s := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(s); err == nil && pid > 0 { // 0 is a process of another PID namespace
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// eachCgroup calls f for dir and every cgroup below, children first. What vanishes meanwhile is passed over.
func eachCgroup(dir string, f func(dir string) error) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			if err := eachCgroup(dir+"/"+e.Name(), f); err != nil {
				return err
			}
		}
	}
	if err == nil {
		err = f(dir)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (c *cgroups) processes(j *Job) ([]int, error) { return processesIn(c.dir(j)) }

func (c *cgroups) stats(j *Job) (runners.Stats, error) {
	dir := c.dir(j)
	pids, err := processesIn(dir)
	if err != nil {
		return runners.Stats{}, err
	}
	st := runners.Stats{CPU: -1, Memory: -1, Processes: len(pids)}
	b, err := os.ReadFile(dir + "/cpu.stat")
	if err != nil {
		return st, err
	}
	if _, s, ok := strings.Cut("\n"+string(b), "\nusage_usec "); ok {
		s, _, _ = strings.Cut(s, "\n")
		if us, err := strconv.ParseInt(s, 10, 64); err == nil {
			st.CPU = time.Duration(us) * time.Microsecond
		}
	}
	if b, err := os.ReadFile(dir + "/memory.current"); err == nil { // only where the memory controller was delegated to us
		st.Memory, _ = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	} else {
		st.Memory = resident(pids)
	}
	return st, nil
}

func (c *cgroups) remove(j *Job) error {
	c.enter()
	defer c.leave()
	dir := c.dir(j)
	err := removeCgroup(dir)
	if errors.Is(err, unix.EBUSY) {
		pids, _ := processesIn(dir)
		return &RemainError{Job: j.name, PIDs: pids}
	}
	if err != nil {
		return fmt.Errorf("remove job %s: %w", j.name, err)
	}
	return nil
}

// removeCgroup removes dir and, where a component has made cgroups of its own in it, those.
func removeCgroup(dir string) error {
	rmdir := func(dir string) error {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			return err
		}
		return nil
	}
	if err := rmdir(dir); err != unix.EBUSY {
		return err
	}
	return eachCgroup(dir, rmdir)
}

// clearCgroup kills all below dir and removes it; it gives that closeTimeout.
func clearCgroup(dir string) error {
	if err := killCgroup(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	// This happens once in a manager's life, before its loop runs or at its end: no watch, a few looks.
	for deadline := time.Now().Add(closeTimeout); ; time.Sleep(time.Millisecond) {
		full, err := populated(dir)
		if err != nil {
			return err
		}
		if !full {
			break
		}
		if time.Now().After(deadline) {
			pids, _ := processesIn(dir)
			return &RemainError{Job: filepath.Base(dir), PIDs: pids}
		}
	}
	return removeCgroup(dir)
}

func (c *cgroups) close() error {
	err := clearCgroup(c.root)
	c.enabling.Lock()
	c.moveBack()
	c.enabling.Unlock()
	if c.inotify >= 0 {
		closed := make(chan struct{})
		if c.m.loop.Do(func() { c.m.loop.Remove(c.inotify); unix.Close(c.inotify); close(closed) }) {
			<-closed
		} else {
			unix.Close(c.inotify)
		}
	}
	if err == nil && c.m.record != nil {
		err = c.m.record.write("")
	}
	return err
}
