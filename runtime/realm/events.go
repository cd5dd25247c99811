package realm

import (
	"context"
	"sync"
	"time"
)

// keptEvents bounds what a late or slow subscriber can still read.
const keptEvents = 8192

// eventLog holds the latest events. Writing never waits for a reader.
type eventLog struct {
	// mu guards everything below; it is a leaf: nothing is called under it.
	mu   sync.Mutex
	ring []Event
	seq  uint64        // of the latest event; 0: none yet
	more chan struct{} // closed at the next event; nil while nobody waits
	shut bool
}

func (l *eventLog) add(e Event) {
	e.Time = time.Now()
	l.mu.Lock()
	l.seq++
	e.Seq = l.seq
	if len(l.ring) < keptEvents {
		l.ring = append(l.ring, e)
	} else {
		l.ring[(e.Seq-1)%keptEvents] = e
	}
	l.wake()
	l.mu.Unlock()
}

func (l *eventLog) wake() {
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

func (l *eventLog) close() {
	l.mu.Lock()
	l.shut = true
	l.wake()
	l.mu.Unlock()
}

// A Subscription reads events in their order. It is for one goroutine.
type Subscription struct {
	log  *eventLog
	next uint64 // the seq to read next
}

// Subscribe reads the events from seq since+1 on, as far as they are still kept; 0 for all, the last event's Seq for only new
// ones.
func (r *Realm) Subscribe(since uint64) *Subscription {
	return &Subscription{log: &r.events, next: since + 1}
}

// LastEvent is the Seq of the latest event.
func (r *Realm) LastEvent() uint64 {
	r.events.mu.Lock()
	defer r.events.mu.Unlock()
	return r.events.seq
}

// Next waits for the next event. lost counts those that were thrown away because the reader was too slow. After the realm's end
// it returns what is left, then ErrClosed.
func (s *Subscription) Next(ctx context.Context) (e Event, lost uint64, err error) {
	l := s.log
	for {
		l.mu.Lock()
		if oldest := l.seq - uint64(len(l.ring)) + 1; s.next < oldest {
			lost += oldest - s.next
			s.next = oldest
		}
		if s.next <= l.seq {
			e = l.ring[(s.next-1)%keptEvents]
			s.next++
			l.mu.Unlock()
			return e, lost, nil
		}
		if l.shut {
			l.mu.Unlock()
			return Event{}, lost, ErrClosed
		}
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return Event{}, lost, context.Cause(ctx)
		}
	}
}
