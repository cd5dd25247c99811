package supervise

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// For every phase and every kind of event there is a row.
func TestTableIsFull(t *testing.T) {
	rows := 0
	for phase, row := range table {
		for kind, rule := range row {
			if rule == nil {
				t.Errorf("phase %d has no row for event %d", phase, kind)
			} else {
				rows++
			}
		}
	}
	if want := 7 * (len(commands) + 9); rows != want {
		t.Errorf("%d rows, want %d", rows, want)
	}
	if len(commands) != int(Begin) {
		t.Errorf("%d bytes for %d commands", len(commands), Begin)
	}
}

// A world does what a machine wants, with processes, scripts and timers that are only noted. It fails the test when the machine
// wants what makes no sense.
type world struct {
	t       testing.TB
	m       Machine
	now     time.Time
	process Kind // RunEnd or FinishEnd, by which it will end; 0: none
	dead    bool // it has ended, but the machine puts that off
	script  byte
	timer   time.Duration
	closing bool // the log's end is awaited
	left    bool
	later   []Event
	noFork  int // so many starts fail
	said    []string
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, now: time.Unix(1000, 0)}
	w.m.Since = w.now
	return w
}

func (w *world) say(what string) { w.said = append(w.said, what) }

func (w *world) feed(e Event) {
	if (e.Kind == RunEnd || e.Kind == FinishEnd) && w.m.Phase != Asking {
		w.process, w.dead = 0, false
	}
	for _, f := range w.m.Step(e, w.now) {
		if w.left {
			w.t.Fatalf("%+v after the end", f)
		}
		switch f.Act {
		case Later:
			w.later = append(w.later, e)
		case Ask:
			if w.script != 0 {
				w.t.Fatal("two control scripts at a time")
			}
			w.script = f.C
			w.say("control/" + string(f.C))
		case Send:
			if w.process != RunEnd {
				w.t.Fatalf("%v without ./run", f.Signal)
			}
			w.say(f.Signal.String())
		case StartRun:
			w.start(RunEnd, "run")
		case StartFinish:
			w.start(FinishEnd, "finish")
		case SetTimer:
			if w.timer != 0 {
				w.t.Fatal("two timers at a time")
			}
			w.timer = f.After
			w.say("wait " + f.After.String())
		case CloseLog:
			w.closing = true
			w.say("close log")
		case Leave:
			w.left = true
			w.say("leave")
		}
	}
	s, _ := w.m.Status(1)
	if settled := !w.left && w.script == 0 && len(w.later) == 0; settled && (s.State == servicedir.Run) != (w.process == RunEnd) {
		w.t.Fatalf("state %v, process %d", s.State, w.process)
	}
}

func (w *world) start(end Kind, name string) {
	if w.process != 0 {
		w.t.Fatalf("./%s beside another process", name)
	}
	if w.noFork > 0 {
		w.noFork--
		w.feed(Event{Kind: NoFork})
		return
	}
	w.process = end
	w.say(name)
}

func (w *world) answer(yes bool) {
	w.script = 0
	w.feed(Event{Kind: Answer, Yes: yes})
	for w.m.Phase != Asking && len(w.later) > 0 {
		e := w.later[0]
		w.later = w.later[1:]
		w.feed(e)
	}
}

// do has the events of a script happen: a command byte; "+" a second passes; "." the process ends, ";" and has a ./finish; "*" the
// timer; "T" TERM; "L" the log's end; "C" the log's pipe is closed; "B" the beginning; "y" and "n" an answer; "f" no fork for
// once. Control scripts that nobody answers don't exist.
func (w *world) do(script string) {
	for i, c := range []byte(script) {
		switch kind := strings.IndexByte(commands, c); {
		case kind >= 0:
			w.feed(Event{Kind: Kind(kind)})
		case c == '+':
			w.now = w.now.Add(time.Second)
		case c == '.' || c == ';':
			if w.process != 0 {
				w.feed(Event{Kind: w.process, Finish: c == ';' && w.process == RunEnd})
			}
		case c == '*':
			if w.timer != 0 {
				w.now, w.timer = w.now.Add(w.timer), 0
				w.feed(Event{Kind: Timer})
			}
		case c == 'T':
			w.feed(Event{Kind: TERM})
		case c == 'L':
			if w.closing {
				w.feed(Event{Kind: LogEnd})
			}
		case c == 'C':
			w.feed(Event{Kind: Closed})
		case c == 'B':
			w.feed(Event{Kind: Begin})
		case c == 'f':
			w.noFork = 1
		case (c == 'y' || c == 'n') && w.script != 0:
			w.answer(c == 'y')
		}
		for w.script != 0 && (i+1 == len(script) || !strings.ContainsRune("yn", rune(script[i+1]))) {
			w.answer(false)
		}
	}
}

func TestRules(t *testing.T) {
	for script, want := range map[string]string{
		"B":         "control/u run",
		"B+.":       "control/u run control/u run",
		"B.":        "control/u run wait 1s",
		"B.*":       "control/u run wait 1s control/u run",
		"B;.*":      "control/u run finish wait 1s control/u run",
		"B;+.":      "control/u run finish control/u run",
		"Bt+.":      "control/u run control/t terminated control/u run",
		"Bty":       "control/u run control/t",
		"Bd+.":      "control/u run control/t terminated continued control/d",
		"Bdy+.":     "control/u run control/t continued control/d",
		"Bdu+.":     "control/u run control/t terminated continued control/d control/u run",
		"Bo+.":      "control/u run",
		"B+.o+.":    "control/u run control/u run",
		"Bd.*":      "control/u run control/t terminated continued control/d wait 1s",
		"Bd.u*":     "control/u run control/t terminated continued control/d wait 1s control/u run",
		"Bd.o*+.":   "control/u run control/t terminated continued control/d wait 1s control/u run",
		"Bd.od*":    "control/u run control/t terminated continued control/d wait 1s",
		"Bx.L":      "control/u run control/t terminated continued control/x close log leave",
		"BT;.L":     "control/u run control/t terminated continued control/x finish close log leave",
		"B.xL":      "control/u run wait 1s close log leave",
		"B.x*uL":    "control/u run wait 1s close log leave",
		"Bxu+.":     "control/u run control/t terminated continued control/x control/u run",
		"B;k.*":     "control/u run finish wait 1s control/u run",
		"Bk;":       "control/u run control/k killed finish",
		"Bhaiq":     "control/u run control/h hangup control/a alarm clock control/i interrupt control/q quit",
		"B12y":      "control/u run control/1 user defined signal 1 control/2",
		"Bpc":       "control/u run control/p stopped (signal) control/c continued",
		"B;tkhd":    "control/u run finish",
		"fB*":       "control/u wait 5s control/u run",
		"Bf+;*":     "control/u run wait 5s finish",
		"C":         "control/u run", // never begun: a last round
		"BC.":       "control/u run leave",
		"B.C*.":     "control/u run wait 1s control/u run leave",
		"B.dC":      "control/u run wait 1s leave",
		"BCuo.":     "control/u run leave",
		"BCd.":      "control/u run control/t terminated continued control/x leave",
		"Bd.C*":     "control/u run control/t terminated continued control/d wait 1s leave",
		"B+.tn+;+.": "control/u run control/u run control/t terminated finish control/u run",
	} {
		w := newWorld(t)
		if script == "C" {
			w.m.Phase = Wait // of a log whose first start failed
			w.timer = Refork
			script = "C*"
		}
		w.do(script)
		if got := strings.Join(w.said, " "); got != want {
			t.Errorf("%s: %s\nwant %s", script, got, want)
		}
	}
}

// While a control script runs, everything else is put off in order.
func TestScriptHoldsEverythingBack(t *testing.T) {
	w := newWorld(t)
	w.do("B")
	w.feed(Event{Kind: Term})
	for _, k := range []Kind{Down, Hup, TERM} {
		w.feed(Event{Kind: k})
	}
	w.now = w.now.Add(time.Second)
	w.feed(Event{Kind: RunEnd})
	if want := "control/u run control/t"; strings.Join(w.said, " ") != want {
		t.Errorf("while it runs: %q", w.said)
	}
	for w.script != 0 {
		w.answer(true)
	}
	const want = "control/u run control/t control/t continued control/d control/h control/t continued control/x close log"
	if got := strings.Join(w.said, " "); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestStatusOfMachine(t *testing.T) {
	for script, want := range map[string]string{
		"":      "down\n",
		"B":     "run\n",
		"Bo":    "run, want down\n",
		"Bd":    "run, got TERM, want down\n",
		"Bdy":   "run, want down\n",
		"Bx":    "run, got TERM, want exit\n",
		"Bp":    "run, paused\n",
		"Bpy":   "run, paused\n",
		"Bpc":   "run\n",
		"Bpt":   "run, paused, got TERM\n",
		"Bp+.":  "run\n",
		"Bpk;":  "finish\n",
		"Bpkd.": "down\n", // the original: down, paused
		"B;":    "finish\n",
		"B;d":   "finish, want down\n",
		"B;x":   "finish, want exit\n",
		"B.":    "down\n",
		"p":     "down, paused\n",
	} {
		w := newWorld(t)
		w.do(script)
		s, exit := w.m.Status(1)
		if got := s.Text(exit); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	w := newWorld(t)
	start := w.now.Add(time.Second)
	w.do("+B+;+")
	if s, _ := w.m.Status(1); !s.Since.Equal(start) {
		t.Errorf("in finish since %v, want the start of run %v", s.Since, start)
	}
	w.do("d.")
	if s, _ := w.m.Status(0); !s.Since.Equal(w.now) {
		t.Errorf("down since %v, want %v", s.Since, w.now)
	}
}

// FuzzStep: whatever happens, never are there two processes, scripts or timers, no signal goes where ./run isn't; and once it is
// told to exit, a service is gone as soon as what it has started has ended.
func FuzzStep(f *testing.F) {
	for _, s := range []string{"B.*;.xL", "Btcu+.T", "BfpC.*", "Bd;ouy.n*k"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		w := newWorld(t)
		for _, c := range []byte(script) {
			kind := strings.IndexByte(commands, c)
			switch {
			case kind >= 0:
				w.feed(Event{Kind: Kind(kind)})
			case (c == 'y' || c == 'n') && w.script != 0:
				w.answer(c == 'y')
			case (c == '.' || c == ';') && w.script != 0 && w.process != 0 && !w.dead:
				w.dead = true
				w.feed(Event{Kind: w.process, Finish: c == ';'})
			case w.script == 0 && (c != 'B' || w.m.Phase == Idle && w.m.Want == WantUp):
				w.do(string(c))
			}
		}
		w.noFork = 0
		for w.script != 0 {
			w.answer(false)
		}
		w.feed(Event{Kind: TERM})
		for range 10 {
			for w.script != 0 {
				w.answer(false)
			}
			w.do("*.L")
		}
		if !w.left {
			t.Fatalf("%q: still there, phase %d want %d", script, w.m.Phase, w.m.Want)
		}
	})
}

func TestSignals(t *testing.T) {
	for _, c := range []byte("tkpchaiq12") {
		if signals[c] == syscall.Signal(0) {
			t.Errorf("%c sends nothing", c)
		}
	}
}
