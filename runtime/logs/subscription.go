package logs

import (
	"context"
	"os"
	"sync"

	"github.com/cmgr/cmgr/manifest/name"
)

// How much a Subscription holds for a reader that is slower than the lines come.
const (
	maxQueued      = 8192
	maxQueuedBytes = 4 << 20
)

// A Subscription is a queue of lines as they come. It never makes the writers of logs wait: a reader that is too slow misses
// lines, and gets a line that says how many in their place. Close ends it.
type Subscription struct {
	logs   *Logs
	filter func(name.Moniker) bool
	wake   chan struct{}

	mu     sync.Mutex
	queue  []Line
	next   int // of queue
	bytes  int // of the texts in queue
	missed int
	closed bool
}

// Next waits for a line. The error is ctx's, or os.ErrClosed when the Logs or the Subscription is closed and all was read.
func (s *Subscription) Next(ctx context.Context) (Line, error) {
	for {
		s.mu.Lock()
		switch {
		case s.next < len(s.queue):
			line := s.queue[s.next]
			s.queue[s.next] = Line{}
			s.bytes -= len(line.Text)
			if s.next++; s.next == len(s.queue) {
				s.queue, s.next = s.queue[:0], 0
			}
			s.mu.Unlock()
			return line, nil
		case s.missed > 0:
			line := notShown(s.missed)
			s.missed = 0
			s.mu.Unlock()
			return line, nil
		case s.closed:
			s.mu.Unlock()
			return Line{}, os.ErrClosed
		}
		s.mu.Unlock()
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Line{}, ctx.Err()
		}
	}
}

// Close ends the Subscription; Next gives what is in it and then os.ErrClosed.
func (s *Subscription) Close() {
	_ = s.logs.thread.Post(func([]int) { s.logs.loop.unsubscribe(s) }) // closed: there is nothing to take it out of
	s.close()
}

func (s *Subscription) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
}

// put never waits. After the first line that does not fit all are counted until the reader has taken what is there, so that
// the gap is one and the count stands where it is.
func (s *Subscription) put(line Line) {
	s.mu.Lock()
	switch {
	case s.closed:
	case s.missed > 0 || len(s.queue) >= maxQueued || s.bytes+len(line.Text) > maxQueuedBytes && len(s.queue) > 0:
		s.missed++
	default:
		s.queue = append(s.queue, line)
		s.bytes += len(line.Text)
	}
	s.mu.Unlock()
	s.signal()
}

func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
