// Package screen shows a running tree to the person, or the program, in front of `cmgr run`: the components' output, each line
// with the moniker it comes from, and one line for each change of state.
//
// Output goes to one writer and changes of state to another (standard output and standard error), so that a pipe gets what the
// components said and nothing else. As JSON all of it goes to the first, one object a line.
package screen

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
)

// Options say how to show.
type Options struct {
	// Terminal: a person's terminal reads it. Control characters that components print are shown instead of obeyed.
	Terminal bool
	// Color: with colours, also those that components print.
	Color   bool
	JSON    bool
	Verbose bool // also what only concerns manifests: discovered, resolved, …
	// Width is how many columns the terminal has on which changes of state are shown; 0, or nil, if it is none that can erase a
	// line.
	Width func() int
}

// A Screen writes; its methods may be called from any goroutine. What they write is seen at Flush.
type Screen struct {
	o Options

	failed atomic.Pointer[error] // the first that could not be written
	taken  atomic.Int64

	// mu guards everything below. It is held while a reader is slow, or for ever if it doesn't read.
	mu       sync.Mutex
	out, err *bufio.Writer
	width    int // of the widest moniker so far, for columns on a terminal
	// boot is how far the boot is that is shown below all else, nil for none; on says that it is to be seen now.
	boot *Boot
	on   bool
}

// maxWidth bounds the column of monikers; longer ones stick out.
const maxWidth = 32

// New shows on out and err.
func New(out, err io.Writer, o Options) *Screen {
	s := &Screen{o: o}
	s.out, s.err = bufio.NewWriterSize(counted{out, s}, 32<<10), bufio.NewWriterSize(counted{err, s}, 8<<10)
	return s
}

// counted is a writer of a Screen's.
type counted struct {
	io.Writer
	s *Screen
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.s.taken.Add(int64(n))
	return n, err
}

// Taken is how many bytes its readers have taken, by which one that is slow is told from one that does not read. It does not wait.
func (s *Screen) Taken() int64 { return s.taken.Load() }

// A Boot is how far a boot is.
type Boot struct {
	Done, Of int    // instructions
	Said     string // its last progress
	Doing    string // the text of the instruction that is being done
	Reached  bool   // the progress is new
}

// Progress shows how far a boot is. On a terminal that is one line below all others, until Progress(nil); elsewhere a line for
// each new progress.
func (s *Screen) Progress(b *Boot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.o.JSON && s.o.Width != nil && s.o.Width() > 0:
		s.erase()
		s.boot = b
	case b == nil || !b.Reached:
	case s.o.JSON:
		s.json("progress", struct {
			Step     int    `json:"step"`
			Steps    int    `json:"steps"`
			Progress string `json:"progress"`
		}{b.Done, b.Of, b.Said})
	default:
		s.say("", fmt.Sprintf("boot: progress %s (%d of %d)", b.Said, b.Done, b.Of))
	}
}

// erase takes the boot's line away, which Flush shows again. Whoever writes a line calls it first.
func (s *Screen) erase() {
	if s.on {
		_, _ = s.err.WriteString("\r\x1b[K")
		_ = s.err.Flush() // before the other writer writes there
		s.on = false
	}
}

// draw shows the boot's line: a bar, if there is room for one and some words, and as many words as fit.
func (s *Screen) draw() {
	if s.boot == nil || s.on {
		return
	}
	const bar = 24
	width := s.o.Width() - 1 // in the last column some terminals begin a new line
	b := s.boot
	text := fmt.Sprintf("%3d%% %s", 100*b.Done/max(b.Of, 1), b.Said)
	if b.Doing != "" {
		text += ": " + b.Doing
	}
	if width >= bar+20 {
		full := bar * b.Done / max(b.Of, 1)
		text = fmt.Sprintf("boot [%s%s] %s", strings.Repeat("=", full), strings.Repeat(" ", bar-full), text)
	}
	if r := []rune(text); len(r) > width {
		text = string(r[:max(width-1, 0)]) + "…"
	}
	if text = harmless(text, false); s.o.Color {
		text = "\x1b[36m" + text + "\x1b[0m"
	}
	_, _ = s.err.WriteString(text)
	s.on = true
}

// Flush brings to the eye what was written.
func (s *Screen) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.out.Flush()
	s.draw()
	if err := cmp.Or(first, s.err.Flush()); err != nil {
		s.failed.CompareAndSwap(nil, &err)
	}
}

// Err is why something could not be written, nil if all was as far as is known; it does not wait. A reader that has gone (EPIPE)
// is no failure.
func (s *Screen) Err() error {
	if err := s.failed.Load(); err != nil && !errors.Is(*err, syscall.EPIPE) {
		return *err
	}
	return nil
}

// json writes one line {key: value}. A message has the fields that the management interface gives it (control.proto).
func (s *Screen) json(key string, value any) {
	var b []byte
	var err error
	if m, ok := value.(proto.Message); ok {
		b, err = control.JSON(m)
	} else {
		b, err = json.Marshal(value)
	}
	if err != nil {
		return // every field is plain data
	}
	fmt.Fprintf(s.out, "{%q:%s}\n", key, b)
}

// Line shows one line of a component's log.
func (s *Screen) Line(l logs.Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.JSON {
		s.json("line", control.LineMessage(l))
		return
	}
	s.erase()
	m, text := l.Moniker, l.Text
	if m == "" { // it says how many are not shown
		s.say("33", text+"; `cmgr logs` has them")
		return
	}
	if l.Stream == logs.Manager {
		return // the same is told as a change of state
	}
	if s.o.Terminal {
		text = harmless(text, s.o.Color)
	}
	if !s.o.Color {
		fmt.Fprintf(s.out, "%s | %s\n", m, text)
		return
	}
	s.width = max(s.width, min(len(m), maxWidth))
	bar := "│"
	if l.Stream == logs.Stderr {
		bar = "\x1b[33m│\x1b[0m"
	}
	// What a component prints must not be able to end a colour that is not its own, or leave one on.
	fmt.Fprintf(s.out, "\x1b[%dm%-*s\x1b[0m %s %s\x1b[0m\n", colour(m), s.width, m, bar, text)
}

// harmless is text in which every control character but the tab is shown as caret and letter (cat -v), so that a component cannot
// move the cursor, set the clipboard or answer for the user. With sgr, sequences that only choose colours (ECMA-48, SGR) stay.
func harmless(text string, sgr bool) string {
	if strings.IndexFunc(text, isControl) < 0 {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if n := selectsColour(text[i:]); n > 0 && sgr {
			b.WriteString(text[i : i+n])
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case !isControl(r):
			b.WriteRune(r)
		case r < 0x80:
			b.WriteString("^" + string(r^0x40))
		default:
			fmt.Fprintf(&b, "<%02X>", r)
		}
		i += n
	}
	return b.String()
}

// isControl says whether a terminal might obey r: C0 but for the tab, DEL, C1 (ECMA-48).
func isControl(r rune) bool { return r < 0x20 && r != '\t' || r >= 0x7f && r < 0xa0 }

// selectsColour is the length of the SGR sequence that s begins with, 0 if it doesn't.
func selectsColour(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	n := 2 + strings.IndexFunc(s[2:], func(r rune) bool { return r != ';' && r != ':' && (r < '0' || r > '9') })
	if n < 2 || s[n] != 'm' {
		return 0
	}
	return n + 1
}

// colour is one of the ten colours that can be read on black and on white and don't mean an error.
func colour(m name.Moniker) int {
	h := fnv.New32a()
	_, _ = io.WriteString(h, string(m))
	return [...]int{32, 33, 34, 35, 36, 92, 93, 94, 95, 96}[h.Sum32()%10]
}

// Lost says that n lines or events came faster than they could be shown.
func (s *Screen) Lost(n uint64, what, where string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.JSON {
		s.json("lost", fmt.Sprintf("%d %s", n, what))
		return
	}
	s.say("33", fmt.Sprintf("%d %s came too fast to be shown; %s", n, what, where))
}

// say writes one line of cmgr's own. ansi is its colour.
func (s *Screen) say(ansi, text string) {
	s.erase()
	_ = s.out.Flush() // keep the order as far as two writers can
	if s.o.Color {
		fmt.Fprintf(s.err, "\x1b[%sm%s\x1b[0m\n", ansi, text)
	} else {
		fmt.Fprintf(s.err, "cmgr: %s\n", text)
	}
}

// Say shows a line of the manager's own.
func (s *Screen) Say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.JSON {
		s.json("manager", text)
		return
	}
	s.say("2", text)
}

// Event shows one change of state.
func (s *Screen) Event(e realm.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.JSON {
		s.json("event", control.EventMessage(e))
		return
	}
	const dim, red, green, yellow = "2", "31", "32", "33"
	m := string(e.Moniker)
	//exhaustive:enforce
	switch e.Kind {
	case realm.EventStarted:
		s.say(green, m+" started"+paren(e.Text))
	case realm.EventStopped:
		switch {
		case e.Exit == nil:
			s.say(dim, m+" stopped")
		case e.Exit.Well():
			s.say(dim, m+" "+e.Exit.String())
		default:
			s.say(red, m+" "+e.Exit.String())
		}
	case realm.EventFailed:
		s.say(red, strings.ReplaceAll(e.Err.Error(), "\n", "\n      "))
	case realm.EventRestarting:
		s.say(yellow, fmt.Sprintf("%s restarts in %s%s", m, e.Delay.Round(time.Millisecond), paren(e.Text)))
	case realm.EventGaveUp:
		s.say(red, fmt.Sprintf("%s is not restarted again%s; `cmgr start %s` tries anew", m, paren(e.Text), m))
	case realm.EventReboot:
		s.say(red, fmt.Sprintf("%s ended and takes the whole tree down%s", m, paren(e.Text)))
	case realm.EventWaiting:
		s.say(yellow, fmt.Sprintf("waiting for %s: %s", m, e.Text))
	case realm.EventMissing:
		s.say(yellow, m+": "+strings.ReplaceAll(e.Text, "\n", "\n      "))
	case realm.EventUnhealthy:
		s.say(red, m+" is unhealthy, and stopped: "+e.Text)
	case realm.EventDisabled:
		s.say(yellow, fmt.Sprintf("%s is disabled%s; `cmgr enable %s` lets it start", m, paren(e.Text), m))
	case realm.EventDestroyed:
		s.say(dim, m+" destroyed")
	case realm.EventDiscovered, realm.EventResolved, realm.EventUnresolved, realm.EventStopping, realm.EventShutdown:
		if s.o.Verbose {
			s.say(dim, m+" "+e.Kind.String()+paren(e.Text))
		}
	}
}

func paren(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
