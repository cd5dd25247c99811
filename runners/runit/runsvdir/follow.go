package runsvdir

import (
	"context"
	"time"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// MaxServices is how many services there may be in a directory of them, as in runit.
const MaxServices = maxServices

// Follow looks after the services directory that name means as runsvdir does: it calls scan at once, and again whenever something
// has come to the directory or gone, or name means another one, until ctx ends. What hinders it, it tells by warn.
func Follow(ctx context.Context, name string, scan func(), warn func(string)) {
	var w *watch
	defer func() { w.close() }()
	changes := make(chan change)
	stale := true
	next := time.NewTimer(0)
	defer next.Stop()
	due := time.Now()
	at := func(t time.Time) {
		if due.IsZero() || t.Before(due) {
			due = t
			next.Reset(time.Until(t))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-changes:
			stale = stale || c == moved
			if c == growing {
				at(time.Now().Add(settle))
			} else {
				at(time.Now())
			}
		case <-next.C:
			due = time.Time{}
			if stale {
				// As in runsvdir.scan.
				old := w
				var err error
				if w, err = newWatch(name, changes); err != nil {
					warn("unable to watch " + name + ", looking each five seconds: " + djb.Text(err))
				}
				old.close()
				if stale = err != nil; stale {
					at(time.Now().Add(lookEach))
				}
			}
			scan()
		}
	}
}
