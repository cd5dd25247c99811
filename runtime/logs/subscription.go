package logs

import (
	"context"
	"os"
	"sync"

	"github.com/cmgr/cmgr/manifest/name"
)

// How much a Subscription holds for a reader that is slower than the lines come, in bytes; a line counts for its text and
// lineCost.
const (
	maxQueuedBytes = 32 << 20
	lineCost       = 96
)

// A Subscription is a queue of lines as they come. It never makes the writers of logs wait: a reader that is far too slow misses
// the oldest lines of the queue, and gets a line that says how many in their place; so it never misses the last ones. Close ends
// it.
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
		case s.missed > 0:
			line := notShown(s.missed)
			s.missed = 0
			s.mu.Unlock()
			return line, nil
		case s.next < len(s.queue):
			line := s.take()
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

// take takes the oldest line; with mu held.
func (s *Subscription) take() Line {
	line := s.queue[s.next]
	s.queue[s.next] = Line{}
	s.bytes -= len(line.Text) + lineCost
	if s.next++; s.next == len(s.queue) {
		s.queue, s.next = s.queue[:0], 0
	}
	return line
}

// put never waits. When there is too much it throws away the oldest quarter, so that the gaps are few.
func (s *Subscription) put(line Line) {
	s.mu.Lock()
	if !s.closed {
		s.queue = append(s.queue, line)
		s.bytes += len(line.Text) + lineCost
		if s.bytes > maxQueuedBytes {
			for s.bytes > maxQueuedBytes*3/4 && len(s.queue)-s.next > 1 {
				s.take()
				s.missed++
			}
			s.queue, s.next = append(s.queue[:0], s.queue[s.next:]...), 0
		}
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
