package supervise

import (
	"syscall"
	"time"

	"github.com/cmgr/cmgr/runners/runit/servicedir"
)

// Throttle is how long what ran less than that stays down before it is started again.
const Throttle = time.Second

// Refork is how long after a fork that failed the next is tried.
const Refork = 5 * time.Second

// A Phase is where a service or a log service is.
type Phase uint8

// The phases.
const (
	Idle   Phase = iota // no process, and none is started before a command
	Wait                // no process; a start must wait for the timer
	Asking              // a control script runs; what happens meanwhile is put off until it has ended
	Run                 // ./run runs
	Finish              // ./finish runs
	Drain               // down for good; its log is to end by itself
	Gone                // nothing will happen any more
	phases
)

// A Want is what somebody asked for.
type Want uint8

// What can be wanted.
const (
	WantUp   Want = iota
	WantDown      // no restart
	WantExit      // no restart, then the end of supervision
	WantEnd       // of a log whose pipe was closed: as WantExit, and nobody can take it back
)

// A Kind is what kind of thing happened.
type Kind uint8

// The kinds of events. Up to USR2 they are the commands of the control FIFO.
const (
	Up Kind = iota
	Down
	Once
	Exit
	Term
	Kill
	Pause
	Cont
	Hup
	Alarm
	Int
	Quit
	USR1
	USR2
	Begin     // supervision begins
	TERM      // the supervisor itself was told to exit
	RunEnd    // ./run has ended, or could not be executed
	FinishEnd // ./finish has
	LogEnd    // of a service: its log has come to its end, or there is none
	Closed    // of a log: nothing will be written to its pipe any more
	Timer     // what SetTimer set has passed
	Answer    // the control script has ended, or there is none
	NoFork    // Start failed for now
	kinds
)

// commands are the bytes of the control FIFO, in the order of the kinds.
const commands = "udoxtkpchaiq12"

// An Event is something that happened to a service.
type Event struct {
	Kind
	// Finish says, with RunEnd, that there is a ./finish to be started.
	Finish bool
	// AtOnce says, with RunEnd, that the next start need not wait: the end was not its own fault.
	AtOnce bool
	// Yes is the answer of a control script: it exited 0, so the signal is not to be sent.
	Yes bool
}

// An Act is what kind of thing is to be done.
type Act uint8

// The acts.
const (
	Later       Act = iota // keep the event until after the Answer, in order
	Ask                    // run control/C if it is there, and feed its Answer
	Send                   // send the process Signal
	StartRun               // start ./run; if that can't be done, feed RunEnd or NoFork
	StartFinish            // start ./finish, or feed FinishEnd or NoFork
	SetTimer               // feed Timer after After
	CloseLog               // of a service: close the log's pipe, feed the log Closed; without a log feed LogEnd
	Leave                  // supervision has ended
)

// An Effect is something to be done.
type Effect struct {
	Act
	C      byte           // of Ask
	Signal syscall.Signal // of Send
	After  time.Duration  // of SetTimer
}

// A Machine is what is remembered of one service, or of one log service: the same rules hold for both. Nothing in it knows of
// processes, files or clocks.
type Machine struct {
	Phase Phase
	Want  Want
	// Since is when ./run was last started, or, without a process, since when it's down.
	Since        time.Time
	Paused, Term bool // as in servicedir.Status

	once bool // start it, though it isn't wanted up
	ask  byte // in Asking: whose answer is awaited
}

// Status is what others are told about m, whose process is pid.
func (m *Machine) Status(pid int) (s servicedir.Status, exit bool) {
	s = servicedir.Status{Since: m.Since, PID: uint32(pid), Paused: m.Paused, Want: 'u', Term: m.Term}
	if m.Want != WantUp {
		s.Want = 'd'
	}
	switch {
	case m.Phase == Run, m.Phase == Asking && m.ask != 'u':
		s.State = servicedir.Run
	case m.Phase == Finish:
		s.State = servicedir.Finish
	}
	return s, m.Want >= WantExit
}

// Step is what follows from e, at the time now. The effects are to be done in their order.
func (m *Machine) Step(e Event, now time.Time) []Effect {
	t := turn{Machine: m, Event: e, now: now}
	table[m.Phase][e.Kind](&t)
	return t.effects
}

// A turn is one step under way.
type turn struct {
	*Machine
	Event
	now     time.Time
	effects []Effect
}

func (t *turn) do(e Effect) { t.effects = append(t.effects, e) }

func (t *turn) want(w Want) {
	if t.Want != WantEnd {
		t.Want = w
	}
}

func (t *turn) begin() {
	if t.Want == WantUp || t.once {
		t.askFor('u')
	} else {
		t.Phase = Idle
	}
}

func (t *turn) askFor(c byte) {
	t.Phase, t.ask = Asking, c
	t.do(Effect{Act: Ask, C: c})
}

// leave: the service is down and is to exit.
func (t *turn) leave() {
	t.Phase, t.once = Drain, false
	t.do(Effect{Act: CloseLog})
}

func (t *turn) gone() {
	t.Phase = Gone
	t.do(Effect{Act: Leave})
}

// downed: the last process of a round has ended.
func (t *turn) downed() {
	young := t.now.Sub(t.Since) < Throttle && !t.AtOnce
	t.Since, t.Paused, t.Term = t.now, false, false
	switch {
	case t.Want == WantExit:
		t.leave()
	case t.Want == WantEnd:
		t.gone()
	case young:
		t.wait(Throttle)
	default:
		t.begin()
	}
}

func (t *turn) wait(d time.Duration) {
	t.Phase = Wait
	t.do(Effect{Act: SetTimer, After: d})
}

// The rules. A row of the table is one of these.

func nothing(*turn) {}

func later(t *turn) { t.do(Effect{Act: Later}) }

func wantUp(t *turn)   { t.want(WantUp) }
func wantDown(t *turn) { t.want(WantDown); t.once = false }
func wantExit(t *turn) { t.want(WantExit) }
func wantEnd(t *turn)  { t.want(WantEnd) }

// runit notes a pause even where nothing runs.
func paused(t *turn)    { t.Paused = true }
func continued(t *turn) { t.Paused = false }

func begin(t *turn)     { t.begin() }
func up(t *turn)        { t.want(WantUp); t.begin() }
func once(t *turn)      { t.want(WantDown); t.once = true; t.begin() }
func onceLater(t *turn) { t.want(WantDown); t.once = true }
func leave(t *turn)     { t.want(WantExit); t.leave() }
func gone(t *turn)      { t.gone() }

func stop(t *turn) { t.want(WantDown); t.askFor('t') }
func exit(t *turn) { t.want(WantExit); t.askFor('t') }
func ask(t *turn)  { t.askFor(commands[t.Kind]) }

// lastRound: what is in the pipe is still to be read.
func lastRound(t *turn) {
	if t.once = t.once || t.Want == WantUp; !t.once {
		t.gone()
	}
	t.want(WantEnd)
}

func ended(t *turn) {
	if !t.Finish {
		t.downed()
		return
	}
	t.Phase = Finish
	startFinish(t)
}

func startFinish(t *turn) {
	t.Paused, t.Term = false, false
	t.do(Effect{Act: StartFinish})
}

func downed(t *turn) { t.downed() }

func refork(t *turn) {
	t.once = t.once || t.Want != WantUp
	t.wait(Refork)
}

func reforkFinish(t *turn) { t.do(Effect{Act: SetTimer, After: Refork}) }

var signals = map[byte]syscall.Signal{
	't': syscall.SIGTERM, 'k': syscall.SIGKILL, 'p': syscall.SIGSTOP, 'c': syscall.SIGCONT, 'h': syscall.SIGHUP,
	'a': syscall.SIGALRM, 'i': syscall.SIGINT, 'q': syscall.SIGQUIT, '1': syscall.SIGUSR1, '2': syscall.SIGUSR2,
}

// answered goes on where a control script was asked first.
func answered(t *turn) {
	c := t.ask
	if c == 'u' { // whatever it answered
		t.Phase, t.once = Run, false
		t.Since, t.Paused, t.Term = t.now, false, false
		t.do(Effect{Act: StartRun})
		return
	}
	t.Phase = Run
	if sig := signals[c]; sig != 0 && !t.Yes {
		t.do(Effect{Act: Send, Signal: sig})
	}
	switch c {
	case 'p':
		t.Paused = true
	case 'c':
		t.Paused = false
	case 't':
		t.Term = t.Term || !t.Yes
		if t.Want != WantUp {
			// It can't end of TERM while it is stopped. control/c isn't asked.
			t.do(Effect{Act: Send, Signal: syscall.SIGCONT})
			if t.Want == WantDown {
				t.askFor('d')
			} else {
				t.askFor('x')
			}
		}
	}
}

// A rule is what an event means in a phase.
type rule func(*turn)

// table has a row for every phase and every kind of event.
var table = [phases][kinds]rule{
	Idle: {
		Up: up, Down: wantDown, Once: once, Exit: leave, TERM: leave, Pause: paused, Cont: continued,
		Term: nothing, Kill: nothing, Hup: nothing, Alarm: nothing, Int: nothing, Quit: nothing, USR1: nothing, USR2: nothing,
		Begin: begin, RunEnd: nothing, FinishEnd: nothing, LogEnd: nothing, Closed: lastRound,
		Timer: nothing, Answer: nothing, NoFork: nothing,
	},
	Wait: {
		Up: wantUp, Down: wantDown, Once: onceLater, Exit: leave, TERM: leave, Pause: paused, Cont: continued,
		Term: nothing, Kill: nothing, Hup: nothing, Alarm: nothing, Int: nothing, Quit: nothing, USR1: nothing, USR2: nothing,
		Begin: nothing, RunEnd: nothing, FinishEnd: nothing, LogEnd: nothing, Closed: lastRound,
		Timer: begin, Answer: nothing, NoFork: nothing,
	},
	Asking: {
		Up: later, Down: later, Once: later, Exit: later, TERM: later, Pause: later, Cont: later,
		Term: later, Kill: later, Hup: later, Alarm: later, Int: later, Quit: later, USR1: later, USR2: later,
		Begin: nothing, RunEnd: later, FinishEnd: nothing, LogEnd: nothing, Closed: later,
		Timer: nothing, Answer: answered, NoFork: nothing,
	},
	Run: {
		Up: wantUp, Down: stop, Once: wantDown, Exit: exit, TERM: exit, Pause: ask, Cont: ask,
		Term: ask, Kill: ask, Hup: ask, Alarm: ask, Int: ask, Quit: ask, USR1: ask, USR2: ask,
		Begin: nothing, RunEnd: ended, FinishEnd: nothing, LogEnd: nothing, Closed: wantEnd,
		Timer: nothing, Answer: nothing, NoFork: refork,
	},
	Finish: {
		Up: wantUp, Down: wantDown, Once: wantDown, Exit: wantExit, TERM: wantExit, Pause: paused, Cont: continued,
		Term: nothing, Kill: nothing, Hup: nothing, Alarm: nothing, Int: nothing, Quit: nothing, USR1: nothing, USR2: nothing,
		Begin: nothing, RunEnd: nothing, FinishEnd: downed, LogEnd: nothing, Closed: wantEnd,
		Timer: startFinish, Answer: nothing, NoFork: reforkFinish,
	},
	Drain: {
		Up: nothing, Down: nothing, Once: nothing, Exit: nothing, TERM: nothing, Pause: nothing, Cont: nothing,
		Term: nothing, Kill: nothing, Hup: nothing, Alarm: nothing, Int: nothing, Quit: nothing, USR1: nothing, USR2: nothing,
		Begin: nothing, RunEnd: nothing, FinishEnd: nothing, LogEnd: gone, Closed: nothing,
		Timer: nothing, Answer: nothing, NoFork: nothing,
	},
	Gone: {
		Up: nothing, Down: nothing, Once: nothing, Exit: nothing, TERM: nothing, Pause: nothing, Cont: nothing,
		Term: nothing, Kill: nothing, Hup: nothing, Alarm: nothing, Int: nothing, Quit: nothing, USR1: nothing, USR2: nothing,
		Begin: nothing, RunEnd: nothing, FinishEnd: nothing, LogEnd: nothing, Closed: nothing,
		Timer: nothing, Answer: nothing, NoFork: nothing,
	},
}
