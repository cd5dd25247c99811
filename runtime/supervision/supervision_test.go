package supervision

import (
	"fmt"
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// ran is the end of a run of that length, which ends at epoch.
func ran(d time.Duration, code int, sig syscall.Signal) runners.Exit {
	return runners.Exit{Code: code, Signal: sig, Started: epoch.Add(-d), Ended: epoch}
}

func TestDecide(t *testing.T) {
	restart := func(r manifest.Restart) Policy { return Policy{OnTerminate: manifest.OnTerminateRestart, Restart: &r} }
	fine, failed, signaled := ran(time.Second, 0, 0), ran(time.Second, 1, 0), ran(time.Second, -1, syscall.SIGSEGV)
	critical := failed
	critical.Critical = true
	none, reboot, always := Policy{}, Policy{OnTerminate: manifest.OnTerminateReboot},
		Policy{OnTerminate: manifest.OnTerminateRestart}
	onFailure := restart(manifest.Restart{When: manifest.RestartFailure})
	for i, test := range []struct {
		policy Policy
		exit   runners.Exit
		asked  bool
		want   Kind
	}{
		{none, fine, false, Nothing},
		{none, failed, false, Nothing},
		{none, critical, false, Reboot},
		{none, critical, true, Reboot},
		{reboot, fine, false, Reboot}, // any end, exit code 0 as well
		{reboot, failed, false, Reboot},
		{reboot, failed, true, Nothing},
		{always, fine, false, Restart},
		{always, failed, false, Restart},
		{always, failed, true, Nothing},
		{always, critical, false, Reboot},
		{onFailure, fine, false, Nothing},
		{onFailure, failed, false, Restart},
		{onFailure, signaled, false, Restart},
		{onFailure, ran(time.Second, -1, 0), false, Restart}, // nobody can know
		{onFailure, signaled, true, Nothing},
	} {
		v, _ := Decide(test.policy, History{}, test.exit, test.asked, epoch)
		if v.Kind != test.want || (v.Reason == "") != (v.Kind == Nothing) {
			t.Errorf("case %d: %+v, want %v", i, v, test.want)
		}
	}
}

// TestSeries: one end after the other, each run as long as said, each restart when it is due.
func TestSeries(t *testing.T) {
	const s = time.Second
	quick := []time.Duration{0, 0, 0, 0, 0, 0}
	for _, test := range []struct {
		name   string
		policy manifest.Restart
		runs   []time.Duration
		want   string // delays; "x" for giving up
	}{
		{"default", manifest.Restart{}, quick, "0s 0s 0s 0s 0s 0s"},
		{"a second between starts", manifest.Restart{DelayMS: 1000, FromStart: true}, quick[:2], "1s 1s"},
		{"constant", manifest.Restart{DelayMS: 500}, quick, "500ms 500ms 500ms 500ms 500ms 500ms"},
		{
			"doubles to its maximum",
			manifest.Restart{DelayMS: 100, MaxDelayMS: 1000, Backoff: "2"},
			quick,
			"100ms 200ms 400ms 800ms 1s 1s",
		},
		{"one and a half", manifest.Restart{DelayMS: 100, Backoff: "1.5"}, quick[:4], "100ms 150ms 225ms 337.5ms"},
		{"grows to an hour", manifest.Restart{DelayMS: 1000, Backoff: "100"}, quick[:4], "1s 1m40s 1h0m0s 1h0m0s"},
		{"a delay of its own beyond an hour", manifest.Restart{DelayMS: 7_200_000, Backoff: "2"}, quick[:2], "2h0m0s 2h0m0s"},
		{"a maximum below the delay", manifest.Restart{DelayMS: 1000, MaxDelayMS: 10}, quick[:2], "10ms 10ms"},
		{"a maximum without growth", manifest.Restart{DelayMS: 10, MaxDelayMS: 1000}, quick[:2], "10ms 10ms"},
		{"nothing grows out of nothing", manifest.Restart{Backoff: "9"}, quick[:3], "0s 0s 0s"},
		{
			"enormous",
			manifest.Restart{DelayMS: math.MaxUint32, MaxDelayMS: math.MaxUint32, Backoff: "1e300"},
			quick[:3],
			"1193h2m47.295s 1193h2m47.295s 1193h2m47.295s",
		},
		{"limit", manifest.Restart{Limit: 3}, quick[:5], "0s 0s 0s x x"},
		{"limit one", manifest.Restart{Limit: 1}, quick[:2], "0s x"},
		{
			"limit in a sliding window",
			manifest.Restart{Limit: 2, WindowMS: 10_000},
			[]time.Duration{0, 6 * s, 5 * s, 4 * s, 0},
			"0s 0s 0s x x",
		},
		{"a delay longer than the window", manifest.Restart{Limit: 1, WindowMS: 1000, DelayMS: 1000}, quick[:3], "1s 1s 1s"},
		{
			"a long run resets the delay",
			manifest.Restart{DelayMS: 100, Backoff: "2", WindowMS: 10_000},
			[]time.Duration{0, 0, 0, 10 * s, 0},
			"100ms 200ms 400ms 100ms 200ms",
		},
		{
			"a run just shorter does not",
			manifest.Restart{DelayMS: 100, Backoff: "2", WindowMS: 10_000},
			[]time.Duration{0, 0, 10*s - 1},
			"100ms 200ms 400ms",
		},
		{"nonsense", manifest.Restart{DelayMS: 100, Backoff: "NaN"}, quick[:2], "100ms 100ms"},
		{"less than one", manifest.Restart{DelayMS: 100, Backoff: "0.5"}, quick[:2], "100ms 100ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, h, now, got := Policy{OnTerminate: manifest.OnTerminateRestart, Restart: &test.policy}, History{}, epoch, ""
			for _, length := range test.runs {
				start := now
				now = now.Add(length)
				var v Verdict
				v, h = Decide(p, h, runners.Exit{Code: 1, Started: start, Ended: now}, false, now)
				if got != "" {
					got += " "
				}
				if v.Kind == GiveUp {
					got += "x"
					continue
				}
				got += v.Delay.String()
				now = now.Add(v.Delay)
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestReason(t *testing.T) {
	p := Policy{OnTerminate: manifest.OnTerminateRestart, Restart: &manifest.Restart{Limit: 2}}
	h, got := History{}, ""
	for range 3 {
		var v Verdict
		v, h = Decide(p, h, ran(0, 1, 0), false, epoch)
		got += fmt.Sprintf("%v: %s; ", v.Kind, v.Reason)
	}
	if want := "restart: 1 of 2 within 1m0s; restart: 2 of 2 within 1m0s; give up: 2 restarts within 1m0s; "; got != want {
		t.Errorf("got %s", got)
	}
}

// An operator's stop ends the series; a restart by hand after giving up is not counted, but what was counted still is.
func TestAfterTheSeries(t *testing.T) {
	p := Policy{OnTerminate: manifest.OnTerminateRestart, Restart: &manifest.Restart{Limit: 1, DelayMS: 100, Backoff: "2"}}
	v, h := Decide(p, History{}, ran(0, 1, 0), false, epoch)
	if _, gone := Decide(p, h, ran(0, 1, 0), true, epoch); gone.series != 0 || gone.starts != nil {
		t.Errorf("after a stop: %+v", gone)
	}
	at := epoch.Add(v.Delay)
	gaveUp, h := Decide(p, h, ran(0, 1, 0), false, at)
	again, h := Decide(p, h, ran(0, 1, 0), false, at.Add(time.Second))
	later, _ := Decide(p, h, ran(0, 1, 0), false, at.Add(time.Minute))
	if gaveUp.Kind != GiveUp || again.Kind != GiveUp || later.Kind != Restart {
		t.Errorf("%v, %v, %v", gaveUp.Kind, again.Kind, later.Kind)
	}
}

// FuzzDecide: whatever the policy and the runs, no delay exceeds its maximum, delays don't shrink within a series, and no window
// holds more restarts than the limit.
func FuzzDecide(f *testing.F) {
	f.Add(uint32(100), uint32(1000), "2", uint32(3), uint32(5000), false, []byte{0, 1, 2, 200, 3, 0, 0, 9})
	f.Add(uint32(0), uint32(0), "", uint32(1), uint32(0), true, []byte{255, 0, 255, 1})
	f.Add(uint32(math.MaxUint32), uint32(0), "1e308", uint32(0), uint32(1), false, []byte{4, 4})
	f.Fuzz(func(t *testing.T, delay, maxDelay uint32, backoff string, limit, window uint32, failure bool, runs []byte) {
		r := manifest.Restart{DelayMS: delay, MaxDelayMS: maxDelay, Backoff: backoff, Limit: limit, WindowMS: window}
		if failure {
			r.When = manifest.RestartFailure
		}
		p := Policy{OnTerminate: manifest.OnTerminateRestart, Restart: &r}
		bound := time.Duration(maxDelay) * time.Millisecond
		if maxDelay == 0 {
			bound = max(DefaultMaxDelay, time.Duration(delay)*time.Millisecond)
		}
		width := time.Duration(window) * time.Millisecond
		if window == 0 {
			width = DefaultWindow
		}
		h, now, last := History{}, epoch, time.Duration(-1)
		var restarts []time.Time
		for _, b := range runs {
			length := width * time.Duration(b>>1) / 64 // up to twice the window
			exit := runners.Exit{Code: int(b & 1), Started: now, Ended: now.Add(length)}
			now = exit.Ended
			before := fmt.Sprint(h)
			v, next := Decide(p, h, exit, false, now)
			if again, _ := Decide(p, h, exit, false, now); again != v || fmt.Sprint(h) != before {
				t.Fatalf("the same end, decided twice: %+v, %+v; history %s, then %v", v, again, before, h)
			}
			if length >= width {
				last = -1
			}
			switch v.Kind {
			case Restart:
				if v.Delay < 0 || v.Delay > bound {
					t.Fatalf("delay %v, at most %v", v.Delay, bound)
				}
				if v.Delay < last {
					t.Fatalf("delay %v after %v in one series", v.Delay, last)
				}
				last = v.Delay
				now = now.Add(v.Delay)
				restarts = append(restarts, now)
			case GiveUp:
				if limit == 0 {
					t.Fatal("gave up without a limit")
				}
			case Nothing:
				if !failure || !exit.OK() {
					t.Fatalf("nothing follows %v", exit)
				}
				last = -1
			case Reboot:
				t.Fatal("reboot")
			}
			h = next
		}
		for i := int(limit); limit > 0 && i < len(restarts); i++ {
			if d := restarts[i].Sub(restarts[i-int(limit)]); d < width {
				t.Fatalf("%d restarts within %v, %d allowed within %v", limit+1, d, limit, width)
			}
		}
	})
}
