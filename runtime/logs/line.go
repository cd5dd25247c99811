package logs

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/cmgr/cmgr/internal/tai64n"
	"github.com/cmgr/cmgr/manifest/name"
)

// Stream is where a line comes from.
type Stream uint8

const (
	Stdout  Stream = iota
	Stderr         // the component's own, like Stdout
	Manager        // a line of the manager's about the component
)

func (s Stream) String() string { return [...]string{"stdout", "stderr", "manager"}[s] }

// The marks in a record, for a whole line and for a part of one.
const (
	whole = "OEM"
	part  = "oem"
)

// A Line is one line of a component's output, or a part of one.
type Line struct {
	Time    time.Time    // when it was taken; zero for a line that has none (another program's)
	Moniker name.Moniker // "" only for a line that says how many are not shown
	Stream  Stream
	Text    string // without newline; valid UTF-8: what was none is U+FFFD
	Partial bool   // there was no newline: the stream's next line goes on, or this was its end
}

// parse reads one record as logdir gives it. What has no mark, because svlogd or something else wrote it, is Stdout.
func parse(m name.Moniker, record []byte) Line {
	text, ended := bytes.CutSuffix(record, []byte("\n"))
	line := Line{Moniker: m, Partial: !ended}
	if len(text) > tai64n.Size && text[tai64n.Size] == ' ' {
		if t, err := tai64n.Parse(string(text[:tai64n.Size])); err == nil {
			line.Time = t
			text = text[tai64n.Size+1:]
			if len(text) >= 2 && text[1] == ' ' {
				if s := strings.IndexByte(whole, text[0]); s >= 0 {
					line.Stream, text = Stream(s), text[2:]
				} else if s := strings.IndexByte(part, text[0]); s >= 0 {
					line.Stream, line.Partial, text = Stream(s), true, text[2:]
				}
			}
		}
	}
	line.Text = valid(text)
	return line
}

func valid(text []byte) string { return strings.ToValidUTF8(string(text), "\uFFFD") }

func notShown(n int) Line {
	return Line{Time: time.Now(), Stream: Manager, Text: fmt.Sprintf("… %d lines not shown", n)}
}
