// Package logs takes what components write to standard output and standard error and keeps it: for each instance one directory
// in svlogd's format (package logdir), made when the first byte comes.
//
// # Records
//
// One record is one line: a TAI64N label as of svlogd -t, a blank, a mark, a blank, the text.
//
//	@400000006b00bf2e0216b0dc O listening on port 80
//
// The mark is O for standard output, E for standard error, M for a line of the manager's about the component, so that none can be
// taken for another whatever the component prints. A small letter (o, e) says that there was no newline: the line goes on in the
// next record of the same stream, or that was its end. It stands where a line is longer than 64 KiB, at the end of a run, and
// where all components together have more than 8 MiB of lines begun. Otherwise a line that was written in pieces is held until
// its newline comes.
//
// Files have the bytes as they were written; a Line that is read is valid UTF-8. Labels say when a line was complete, and grow
// within a directory; between the two streams of a component their order is about that of writing.
//
// # What is lost and when
//
// Once a program has ended, drained returns after all that it wrote is in the file. A record is written when it was read, and not
// synced: it survives the death of the manager, not the loss of power. While a directory can't be written (a full disk, somebody
// else's lock) 64 KiB for each component and 8 MiB for all wait in memory and are tried every second; what is more is lost, and
// a line of the manager's says in its place how many lines. So components never wait for a disk that is full; for one that is
// slow they do, once their pipes are. A line whose newline has not come is lost if the manager is killed with SIGKILL.
//
// # How
//
// One thread with a table of descriptors of its own (package fdthread) has all reading ends, one epoll, one buffer. A quiet
// component costs its two pipes in the kernel and about 250 bytes here, no file, no directory, no goroutine.
package logs

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/logdir"
	"github.com/cmgr/cmgr/internal/sys/fdthread"
	"github.com/cmgr/cmgr/manifest/name"
)

// Config says where logs are kept and how much.
type Config struct {
	Dir  string // made if missing, mode 0700
	Size int64  // bytes of a file before a new one is begun; 0: logdir.DefaultSize
	Keep int    // old files beside the current one; 0: logdir.DefaultKeep
}

// Logs is the logs of all instances of a manager. Its methods may be called from any goroutine. Close ends it.
type Logs struct {
	dir      string
	options  logdir.Options
	thread   *fdthread.Thread
	loop     *loop        // of the thread
	pipes    atomic.Int64 // reading ends the thread has or is about to get
	maxPipes int64
}

// New opens the logs in cfg.Dir.
func New(cfg Config) (*Logs, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	l := &Logs{
		dir:     dir,
		options: logdir.Options{Size: cmp.Or(cfg.Size, logdir.DefaultSize), Keep: cmp.Or(cfg.Keep, logdir.DefaultKeep)},
		// The thread's other descriptors: two for each open directory, and what the runtime and the loop have.
		maxPipes: max(0, int64(min(files.Cur, 1<<30))-2*maxOpen-32),
	}
	removed, err := removals(dir)
	if err != nil {
		return nil, err
	}
	l.loop = &loop{Logs: l, instances: map[name.Moniker]*instance{}, removed: removed, in: make([]byte, readSize)}
	if l.thread, err = fdthread.Start(l.loop); err != nil {
		return nil, err
	}
	return l, nil
}

// Close stores what is in the pipes and ends everything; who still writes gets EPIPE.
func (l *Logs) Close() error {
	l.thread.Close(l.loop.shutdown)
	return nil
}

// Open makes the pipes of one run of m. The caller owns their writing ends and closes them once the program has them. drained
// waits until all that was written is stored, at the latest until ctx ends, and then ends the pipes, though somebody outside may
// still have a writing end; it is to be called when the run's processes are gone. The error is that of pipe2(2), says that the
// thread has as many pipes as RLIMIT_NOFILE allows, or is os.ErrClosed.
func (l *Logs) Open(m name.Moniker) (stdout, stderr *os.File, drained func(ctx context.Context), err error) {
	if l.pipes.Add(2) > l.maxPipes {
		l.pipes.Add(-2)
		return nil, nil, nil, fmt.Errorf("open log of %s: %d log pipes are open and RLIMIT_NOFILE allows no more", m, l.maxPipes)
	}
	var files [2]*os.File
	var readers [2]int
	for i := range files {
		if readers[i], files[i], err = pipe(); err != nil {
			l.pipes.Add(-2)
			if i == 1 {
				syscall.Close(readers[0])
				files[0].Close()
			}
			return nil, nil, nil, fmt.Errorf("open log of %s: %w", m, err)
		}
	}
	r := new(run)
	r.live.Store(2)
	err = l.thread.Post(func(fds []int) { l.loop.attach(m, r, fds) }, readers[:]...)
	syscall.Close(readers[0])
	syscall.Close(readers[1])
	if err != nil {
		l.pipes.Add(-2)
		files[0].Close()
		files[1].Close()
		return nil, nil, nil, fmt.Errorf("open log of %s: %w", m, err)
	}
	return files[0], files[1], func(ctx context.Context) {
		if r.live.Load() == 0 {
			return
		}
		l.wait(ctx, func() {
			l.loop.drain(r, 0)
			l.loop.drain(r, 1)
		})
	}, nil
}

// pipe makes a pipe whose reading end does not block: another reader, should the component make itself one, must not stop us.
func pipe() (r int, w *os.File, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return -1, nil, os.NewSyscallError("pipe2", err)
	}
	if err := syscall.SetNonblock(p[0], true); err != nil {
		syscall.Close(p[0])
		syscall.Close(p[1])
		return -1, nil, os.NewSyscallError("fcntl", err)
	}
	return p[0], os.NewFile(uintptr(p[1]), "log pipe"), nil
}

// wait has f called on the thread and waits for it, at the latest until ctx ends. Where the thread has ended it does nothing.
func (l *Logs) wait(ctx context.Context, f func()) {
	done := make(chan struct{})
	if l.thread.Post(func([]int) { f(); close(done) }) != nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Note stores a line of the manager's about m. It does not wait.
func (l *Logs) Note(m name.Moniker, text string) {
	_ = l.thread.Post(func([]int) { l.loop.note(m, text) }) // closed: there is no log
}

// Remove says that m is destroyed. Its log stays among those of the last 1,000 destroyed instances, and for good if m comes back.
func (l *Logs) Remove(m name.Moniker) {
	_ = l.thread.Post(func([]int) { l.loop.remove(m) }) // closed: it is one more directory for the next manager
}

// Read returns the last n lines of m's log, oldest first; all that are kept if n is negative. It includes what was noted or
// drained before. An instance without a log has no lines.
func (l *Logs) Read(m name.Moniker, n int) ([]Line, error) {
	l.wait(context.Background(), func() {})
	return l.read(m, n)
}

func (l *Logs) read(m name.Moniker, n int) ([]Line, error) {
	records, err := logdir.Last(filepath.Join(l.dir, dirName(m)), n)
	if err != nil {
		return nil, fmt.Errorf("read log of %s: %w", m, err)
	}
	lines := make([]Line, len(records))
	for i, record := range records {
		lines[i] = parse(m, record)
	}
	return lines, nil
}

// Subscribe gives the lines that come from now on, of the instances that filter wants. filter is called on the thread that all
// logs wait for: it must decide by the moniker alone, at once. Close the Subscription.
func (l *Logs) Subscribe(filter func(name.Moniker) bool) *Subscription {
	s, _ := l.subscribe(filter)
	return s
}

// subscribe also returns the time that divides the lines before from those that the Subscription gets; zero if it gets none.
func (l *Logs) subscribe(filter func(name.Moniker) bool) (*Subscription, time.Time) {
	s := &Subscription{logs: l, filter: filter, wake: make(chan struct{}, 1)}
	var since time.Time
	registered := false
	l.wait(context.Background(), func() {
		l.loop.subs = append(l.loop.subs, s)
		since = l.loop.now()
		registered = true
	})
	if !registered {
		s.close()
		return s, time.Time{}
	}
	return s, since
}

// maxHistory is how many bytes of old lines Follow gathers to put them in order.
const maxHistory = 64 << 20

// Follow gives the last n lines of each instance that filter wants (all that are kept if n is negative), those of all instances
// in order of time, and then lines as they come, until ctx or the Logs ends, none twice and none left out (but those that a full
// disk has kept in memory). Where there is more than Follow can gather or the caller takes, a line says how many are not shown.
// An error is that of reading old lines; new ones follow all the same. filter is as in Subscribe.
func (l *Logs) Follow(ctx context.Context, filter func(name.Moniker) bool, n int) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		s, since := l.subscribe(filter)
		defer s.Close()
		for line, err := range l.history(filter, n, since) {
			if ctx.Err() != nil || !yield(line, err) {
				return
			}
		}
		for {
			line, err := s.Next(ctx)
			if err != nil || !yield(line, nil) {
				return
			}
		}
	}
}

// History gives the last n lines of each instance that filter wants, as Follow does, and ends.
func (l *Logs) History(filter func(name.Moniker) bool, n int) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		l.wait(context.Background(), func() {})
		l.history(filter, n, time.Time{})(yield)
	}
}

// history leaves out the lines that came since, if since is not zero.
func (l *Logs) history(filter func(name.Moniker) bool, n int, since time.Time) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		if n == 0 {
			return
		}
		monikers, err := stored(l.dir)
		if err != nil && !yield(Line{}, err) {
			return
		}
		var all []Line
		size, dropped := 0, 0
		for _, m := range monikers {
			if !filter(m) {
				continue
			}
			lines, err := l.read(m, n)
			if err != nil && !yield(Line{}, err) {
				return
			}
			// A time in the future is from before the clock was set back.
			future := time.Now().Add(time.Second)
			for _, line := range lines {
				if !since.IsZero() && line.Time.After(since) && line.Time.Before(future) {
					break
				}
				all = append(all, line)
				size += lineSize(line)
			}
			if size > maxHistory {
				// The oldest half goes.
				slices.SortStableFunc(all, byTime)
				i := 0
				for ; size > maxHistory/2; i++ {
					size -= lineSize(all[i])
				}
				dropped += i
				all = slices.Clone(all[i:])
			}
		}
		slices.SortStableFunc(all, byTime)
		if dropped > 0 && !yield(notShown(dropped), nil) {
			return
		}
		for _, line := range all {
			if !yield(line, nil) {
				return
			}
		}
	}
}

func byTime(a, b Line) int { return a.Time.Compare(b.Time) }

func lineSize(l Line) int { return 100 + len(l.Text) }
