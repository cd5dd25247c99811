package logs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/logdir"
	"github.com/cmgr/cmgr/internal/sys/fdthread"
	"github.com/cmgr/cmgr/internal/tai64n"
	"github.com/cmgr/cmgr/manifest/name"
)

// Everything in this file runs on the thread, where descriptors are others than elsewhere: see fdthread.

const (
	readSize    = 64 << 10 // of one pipe, before others get their turn
	maxLine     = 64 << 10 // bytes of text in one record
	maxHeld     = 8 << 20  // bytes of lines whose newline has not come, of all components
	maxBacklog  = 64 << 10 // bytes that wait for a disk, of one component
	maxBacklogs = 8 << 20  // of all
	maxOpen     = 64       // directories open at a time
	maxRemoved  = 1000     // destroyed instances whose directories are kept
	retryAfter  = time.Second
)

// loop is the state of the thread. Ready and Turn are its fdthread.Handler.
type loop struct {
	*Logs
	instances map[name.Moniker]*instance // those with a pipe, an open directory or a backlog
	runs      []*run                     // by descriptor
	open      []*instance                // with a Writer
	stuck     []*instance                // with a backlog
	retry     time.Time                  // when stuck are tried again
	held      int                        // bytes
	backlogs  int                        // bytes
	uses      uint64                     // counts uses of Writers
	removed   []removal                  // the oldest first
	subs      []*Subscription
	matching  []*Subscription // those that want the lines being taken
	last      int64           // what now returned last, in Unix nanoseconds
	time      time.Time       // of the records being made
	stamp     []byte          // time's label and a blank
	in, out   []byte
}

type instance struct {
	moniker name.Moniker
	w       *logdir.Writer // nil if not open
	used    uint64         // when w was used
	backlog *backlog       // nil if none
	pipes   int
}

// A run is the two pipes of one run.
type run struct {
	of      *instance
	live    atomic.Int32 // streams that have not ended
	streams [2]struct {  // Stdout, Stderr
		fd   int // -1 when it has ended
		tail []byte
	}
}

// A backlog is what could not be written.
type backlog struct {
	records []byte
	lost    int // lines after records
	err     error
}

// instance finds or makes m's.
func (l *loop) instance(m name.Moniker) *instance {
	in := l.instances[m]
	if in == nil {
		in = &instance{moniker: m}
		l.instances[m] = in
	}
	return in
}

// attach takes over the reading ends of a run.
func (l *loop) attach(m name.Moniker, r *run, fds []int) {
	if len(l.removed) > 0 { // it may be one of these
		_ = syscall.Unlink(filepath.Join(l.dir, dirName(m), removedFile))
	}
	r.of = l.instance(m)
	r.of.pipes += len(fds)
	for s := range r.streams {
		if s >= len(fds) {
			r.streams[s].fd = -1 // a full table: Open keeps count so that it never is
			r.live.Add(-1)
			l.pipes.Add(-1)
			continue
		}
		fd := fds[s]
		r.streams[s].fd = fd
		if n := fd + 1 - len(l.runs); n > 0 {
			l.runs = slices.Grow(l.runs, n)[:fd+1]
		}
		l.runs[fd] = r
		if err := l.thread.Watch(fd); err != nil {
			l.end(r, s)
		}
	}
}

// Ready reads once, so that a pipe that is always full gets no more than its turn.
func (l *loop) Ready(fd int) {
	r := l.runs[fd]
	s := 0
	if r.streams[s].fd != fd {
		s = 1
	}
	n, err := syscall.Read(fd, l.in)
	switch {
	case n > 0:
		l.take(r, s, l.in[:n])
	case err == syscall.EAGAIN || err == syscall.EINTR:
		// The component can open the pipe for reading (/proc/self/fd/1) and take from it; its loss.
	default:
		l.end(r, s)
	}
}

// drain reads what is in the pipe now and ends it, though somebody may still have its writing end.
func (l *loop) drain(r *run, s int) {
	fd := r.streams[s].fd
	if fd < 0 {
		return
	}
	queued, err := fdthread.Queued(fd)
	for err == nil && queued > 0 {
		var n int
		if n, err = syscall.Read(fd, l.in[:min(len(l.in), queued)]); n > 0 {
			l.take(r, s, l.in[:n])
			queued -= n
		} else if err == syscall.EINTR {
			err = nil
		} else {
			break
		}
	}
	l.end(r, s)
}

// end is the end of a stream: what it wrote after its last newline is its last line.
func (l *loop) end(r *run, s int) {
	st := &r.streams[s]
	if len(st.tail) > 0 {
		l.begin(r.of)
		l.held -= len(st.tail)
		l.text(r.of, Stream(s), st.tail, nil, true)
		l.flush(r.of)
		st.tail = nil
	}
	l.runs[st.fd] = nil
	l.thread.Drop(st.fd)
	st.fd = -1
	r.live.Add(-1)
	l.pipes.Add(-1)
	if r.of.pipes--; r.of.pipes == 0 {
		l.shut(r.of)
	}
}

// take makes records of what was read and stores them.
func (l *loop) take(r *run, s int, data []byte) {
	st := &r.streams[s]
	l.begin(r.of)
	for {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			break
		}
		l.held -= len(st.tail)
		l.text(r.of, Stream(s), st.tail, data[:end], false)
		st.tail = st.tail[:0]
		data = data[end+1:]
	}
	switch {
	case len(st.tail)+len(data) > maxLine || l.held+len(data) > maxHeld:
		l.held -= len(st.tail)
		l.text(r.of, Stream(s), st.tail, data, true)
		st.tail = nil
	case len(data) > 0:
		st.tail = append(st.tail, data...)
		l.held += len(data)
	case len(st.tail) == 0:
		st.tail = nil
	}
	l.flush(r.of)
}

// note stores a text of the manager's.
func (l *loop) note(m name.Moniker, text string) {
	in := l.instance(m)
	l.begin(in)
	for line := range strings.Lines(text) {
		l.text(in, Manager, []byte(strings.TrimSuffix(line, "\n")), nil, false)
	}
	l.flush(in)
}

// now is a time after every other it returned, so that it divides what came before from what comes after; unless the clock is set
// back by more than a second.
func (l *loop) now() time.Time {
	now := time.Now().UnixNano()
	if ahead := l.last - now; ahead >= 0 && ahead < int64(time.Second) {
		now = l.last + 1
	}
	l.last = now
	return time.Unix(0, now).UTC()
}

// begin is what is common to the records that follow: their time, and who wants them.
func (l *loop) begin(in *instance) {
	l.time = l.now()
	l.stamp = append(tai64n.Append(l.stamp[:0], l.time), ' ')
	l.matching = l.matching[:0]
	for _, s := range l.subs {
		if s.filter(in.moniker) {
			l.matching = append(l.matching, s)
		}
	}
}

// text makes records of the text a+b: one, or more if it is long. The last is a part where partial.
func (l *loop) text(in *instance, s Stream, a, b []byte, partial bool) {
	for {
		n := min(len(a)+len(b), maxLine)
		cut := partial || n < len(a)+len(b)
		marks := whole
		if cut {
			marks = part
		}
		m := min(len(a), n)
		start := len(l.out) + len(l.stamp) + 2
		l.out = append(l.out, l.stamp...)
		l.out = append(l.out, marks[s], ' ')
		l.out = append(l.out, a[:m]...)
		l.out = append(l.out, b[:n-m]...)
		if len(l.matching) > 0 {
			line := Line{Time: l.time, Moniker: in.moniker, Stream: s, Text: valid(l.out[start:]), Partial: cut}
			for _, sub := range l.matching {
				sub.put(line)
			}
		}
		l.out = append(l.out, '\n')
		if len(l.out) >= readSize {
			l.flush(in)
		}
		if a, b = a[m:], b[n-m:]; len(a)+len(b) == 0 {
			return
		}
	}
}

// flush stores the records made.
func (l *loop) flush(in *instance) {
	if len(l.out) == 0 {
		return
	}
	records := l.out
	l.out = l.out[:0]
	if in.backlog == nil {
		n, err := l.write(in, records)
		if err == nil {
			return
		}
		in.backlog = &backlog{err: err}
		l.instances[in.moniker] = in // again: it may have been forgotten when it was shut
		if len(l.stuck) == 0 {
			l.retry = time.Now().Add(retryAfter)
		}
		l.stuck = append(l.stuck, in)
		line := Line{
			Time: l.time, Moniker: in.moniker, Stream: Manager,
			Text: fmt.Sprintf("log not written: %v; the next %d KiB are kept in memory", err, maxBacklog>>10),
		}
		for _, sub := range l.matching {
			sub.put(line)
		}
		// What was begun on disk must go on there, however full the backlogs are.
		records = records[n:]
		if n > 0 {
			end := bytes.IndexByte(records, '\n') + 1
			in.backlog.records = append(in.backlog.records, records[:end]...)
			l.backlogs += end
			records = records[end:]
		}
	}
	l.keep(in.backlog, records)
}

// keep adds the records that there is room for. After one that is lost all are, so that the gap is one.
func (l *loop) keep(b *backlog, records []byte) {
	for len(records) > 0 {
		end := bytes.IndexByte(records, '\n') + 1
		if b.lost > 0 || len(b.records)+end > maxBacklog || l.backlogs+end > maxBacklogs {
			b.lost += bytes.Count(records, []byte("\n"))
			return
		}
		b.records = append(b.records, records[:end]...)
		l.backlogs += end
		records = records[end:]
	}
}

// write writes records to in's directory, which is opened if need be.
func (l *loop) write(in *instance, records []byte) (int, error) {
	if in.w == nil {
		if len(l.open) >= maxOpen {
			l.shut(slices.MinFunc(l.open, func(a, b *instance) int { return cmp.Compare(a.used, b.used) }))
		}
		path := filepath.Join(l.dir, dirName(in.moniker))
		w, err := logdir.Open(path, l.options)
		if errors.Is(err, fs.ErrNotExist) {
			if err = makeDir(path, in.moniker); err == nil {
				w, err = logdir.Open(path, l.options)
			}
		}
		if err != nil {
			return 0, err
		}
		in.w = w
		l.open = append(l.open, in)
	}
	l.uses++
	in.used = l.uses
	n, err := in.w.Write(records)
	if err != nil {
		l.shut(in) // the directory may be another when it is tried again
	}
	return n, err
}

// shut closes in's directory if it is open, and forgets in if nothing else needs it.
func (l *loop) shut(in *instance) {
	if in.w != nil {
		_ = in.w.Close() // fails where the mark "clean" can't be made; the next to open it then puts the file aside
		in.w = nil
		l.open = slices.DeleteFunc(l.open, func(o *instance) bool { return o == in })
	}
	if in.pipes == 0 && in.backlog == nil {
		delete(l.instances, in.moniker)
	}
}

// Turn tries again what could not be written.
func (l *loop) Turn() time.Duration {
	if len(l.stuck) == 0 {
		return -1
	}
	if wait := time.Until(l.retry); wait > 0 {
		return wait
	}
	// A full disk is full for all: a few are enough to see it.
	for range min(len(l.stuck), 32) {
		in := l.stuck[0]
		l.stuck = l.stuck[1:]
		if !l.unstick(in) {
			l.stuck = append(l.stuck, in)
		} else if in.pipes == 0 {
			l.shut(in)
		}
	}
	l.retry = time.Now().Add(retryAfter)
	if len(l.stuck) == 0 {
		l.stuck = nil
		return -1
	}
	return retryAfter
}

// unstick writes in's backlog, and a line that says what was lost.
func (l *loop) unstick(in *instance) bool {
	b := in.backlog
	n, err := l.write(in, b.records)
	l.backlogs -= n
	b.records = b.records[n:]
	if err != nil {
		b.err = err
		return false
	}
	in.backlog = nil
	if b.lost > 0 {
		l.note(in.moniker, fmt.Sprintf("%d lines lost: %v", b.lost, b.err))
	}
	return true
}

// remove marks the directory of a destroyed instance, if it has one, and removes the one that was marked first if there are too
// many.
func (l *loop) remove(m name.Moniker) {
	if in := l.instances[m]; in != nil && in.pipes == 0 {
		l.shut(in)
	}
	mark := filepath.Join(l.dir, dirName(m), removedFile)
	fd, err := syscall.Open(mark, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return
	}
	var st syscall.Stat_t
	if syscall.Fstat(fd, &st) == nil {
		l.removed = append(l.removed, removal{m, st.Mtim})
	}
	syscall.Close(fd)
	for len(l.removed) > maxRemoved {
		oldest := l.removed[0]
		l.removed = l.removed[1:]
		path := filepath.Join(l.dir, dirName(oldest.moniker))
		// The mark is gone or newer if the instance came back.
		if syscall.Lstat(filepath.Join(path, removedFile), &st) == nil && st.Mtim == oldest.at {
			_ = logdir.Remove(path) // what can't be removed now is tried again by the next manager
		}
	}
}

func (l *loop) unsubscribe(s *Subscription) {
	l.subs = slices.DeleteFunc(l.subs, func(o *Subscription) bool { return o == s })
}

// end of everything: what is in the pipes is stored, directories are closed.
func (l *loop) shutdown() {
	for _, r := range l.runs {
		if r != nil {
			l.drain(r, 0)
			l.drain(r, 1)
		}
	}
	for _, in := range l.stuck {
		l.unstick(in)
	}
	for len(l.open) > 0 {
		l.shut(l.open[0])
	}
	for _, s := range l.subs {
		s.close()
	}
	l.subs = nil
}
