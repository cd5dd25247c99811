// Package supervision says what follows an end: nothing, a start after a delay, giving up, or the end of the whole tree. It is
// arithmetic only, without a clock, a process or a goroutine: what it knows of the past is handed in and out.
package supervision

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
)

// A Policy is what a child's declaration says of its ends.
type Policy struct {
	OnTerminate manifest.OnTerminate
	Restart     *manifest.Restart // for OnTerminateRestart; nil is the zero Restart
}

// Bounds where the manifest says nothing.
const (
	DefaultWindow   = time.Minute
	DefaultMaxDelay = time.Hour
)

// Kind is a kind of verdict.
type Kind uint8

const (
	Nothing Kind = iota // it stays stopped
	Restart             // it is started again after Delay
	GiveUp              // it would be, but it has been so often enough
	Reboot              // the whole tree shuts down
)

var kinds = [...]string{"nothing", "restart", "give up", "reboot"}

func (k Kind) String() string { return kinds[k] }

// A Verdict is what follows an end.
type Verdict struct {
	Kind   Kind
	Delay  time.Duration // Restart: from now to the start
	Reason string        // for people: "3 of 5 within 1m0s"; "" for Nothing
}

// A History is what is remembered of an instance's restarts. The zero History remembers none. It is a value: Decide changes none
// that it was given.
type History struct {
	// delay is that of the last restart of the series, in milliseconds; it grows before the next one.
	delay  float64
	series int // restarts in this series
	// starts are when the restarts were due that still count for the limit, the oldest first; none are kept without a limit.
	starts []time.Time
}

// Decide says what follows exit, and what is to be remembered of it. asked says that somebody asked for the end, by stop, kill
// or shutdown: then no policy applies. now is the time of the decision.
//
// An end that was asked for, and one that no restart follows, end the series of delays; the first also forgets what was counted.
//
// A critical end (see runners.Exit) ends the tree, asked for or not, as the runner has decided that. The restarts of one policy
// never come more often than its limit within its window, wherever in time the window is laid.
func Decide(p Policy, h History, exit runners.Exit, asked bool, now time.Time) (Verdict, History) {
	switch {
	case exit.Critical:
		return Verdict{Kind: Reboot, Reason: "its main process is critical"}, History{}
	case asked:
		return Verdict{}, History{}
	}
	//exhaustive:enforce
	switch p.OnTerminate {
	case manifest.OnTerminateReboot:
		return Verdict{Kind: Reboot, Reason: "on_terminate is reboot"}, History{}
	case manifest.OnTerminateRestart:
		var r manifest.Restart
		if p.Restart != nil {
			r = *p.Restart
		}
		return restart(r, h, exit, now)
	case manifest.OnTerminateNone:
	}
	return Verdict{}, History{}
}

func restart(r manifest.Restart, h History, exit runners.Exit, now time.Time) (Verdict, History) {
	if r.When == manifest.RestartFailure && exit.OK() {
		return Verdict{}, History{starts: h.starts}
	}
	window := DefaultWindow
	if r.WindowMS > 0 {
		window = time.Duration(r.WindowMS) * time.Millisecond
	}
	if exit.Ended.Sub(exit.Started) >= window {
		h = History{starts: h.starts}
	}

	next := History{series: h.series + 1, delay: float64(r.DelayMS)}
	if h.series > 0 {
		next.delay = h.delay * backoff(r.Backoff)
	}
	next.delay = min(next.delay, maxDelay(r))
	delay := time.Duration(next.delay * float64(time.Millisecond))
	if r.FromStart {
		delay = max(0, delay-max(0, exit.Ended.Sub(exit.Started)))
	}
	if r.Limit == 0 {
		return Verdict{Kind: Restart, Delay: delay, Reason: "restart " + strconv.Itoa(next.series)}, next
	}

	due := now.Add(delay)
	// What lies a whole window back no longer counts. A clock that was set back makes ages negative: they count.
	next.starts = slices.DeleteFunc(slices.Clone(h.starts), func(t time.Time) bool { return due.Sub(t) >= window })
	if uint64(len(next.starts)) >= uint64(r.Limit) {
		// It does not start now, so nothing is added; what counted goes on counting should somebody start it by hand.
		h.starts = next.starts
		return Verdict{Kind: GiveUp, Reason: fmt.Sprintf("%d restarts within %s", r.Limit, window)}, h
	}
	next.starts = append(next.starts, due)
	return Verdict{Kind: Restart, Delay: delay, Reason: fmt.Sprintf("%d of %d within %s", len(next.starts), r.Limit, window)}, next
}

// backoff is the factor as a number, 1 where it is none that validation would accept.
func backoff(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 1) || math.IsInf(f, 0) {
		return 1
	}
	return f
}

// maxDelay is in milliseconds.
func maxDelay(r manifest.Restart) float64 {
	if r.MaxDelayMS > 0 {
		return float64(r.MaxDelayMS)
	}
	return max(float64(r.DelayMS), float64(DefaultMaxDelay.Milliseconds()))
}
