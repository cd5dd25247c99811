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
	l := newLooker(name)
	defer l.close()
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-l.changes:
			l.changed(c)
		case <-l.timer.C:
			if err := l.look(); err != nil {
				warn(cannotWatch(name) + ": " + djb.Text(err))
			}
			scan()
		}
	}
}

// A looker says when a services directory is to be looked at: whenever its timer fires, and at first at once.
type looker struct {
	name    string
	changes chan change
	watch   *watch // nil: it could not be made
	stale   bool   // what is watched is no longer what should be
	timer   *time.Timer
	due     time.Time // of timer; zero: it doesn't run
}

func newLooker(name string) *looker {
	return &looker{name: name, changes: make(chan change), stale: true, timer: time.NewTimer(0), due: time.Now()}
}

// at has the directory looked at at t, if it would not be before that.
func (l *looker) at(t time.Time) {
	if l.due.IsZero() || t.Before(l.due) {
		l.due = t
		l.timer.Reset(time.Until(t))
	}
}

// changed is called with what comes from changes.
func (l *looker) changed(c change) {
	l.stale = l.stale || c == moved
	if c == growing {
		l.at(time.Now().Add(settle))
	} else {
		l.at(time.Now())
	}
}

// look is called before the directory is looked at, for whatever reason. After an error the timer runs in place of a watch.
func (l *looker) look() (err error) {
	l.timer.Stop()
	l.due = time.Time{}
	if !l.stale {
		return nil
	}
	// The new one sees whatever happens from now on, and what happened before is seen by this look.
	old := l.watch
	l.watch, err = newWatch(l.name, l.changes)
	old.close()
	if l.stale = err != nil; l.stale {
		l.at(time.Now().Add(lookEach))
	}
	return err
}

func (l *looker) close() {
	l.timer.Stop()
	l.watch.close()
}

func cannotWatch(name string) string {
	return "unable to watch " + name + ", looking each five seconds"
}
