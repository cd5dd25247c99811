package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cmgr/cmgr/proto/controlpb"
)

// A screen is how to write on one stream: with colours or not, and how wide.
type screen struct {
	color bool
	width int // in columns; 0: not a terminal, no limit
}

// screen says how to write on w: colours only on a terminal, and not with NO_COLOR (no-color.org) or --no-color.
func (a *app) screen(w io.Writer) screen {
	f := fileOf(w)
	if !isTerminal(f) {
		return screen{}
	}
	s := screen{color: !a.noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil {
		s.width = cmp.Or(width, 80) // a serial line, or script(1), does not know how wide it is
	}
	return s
}

// A sink is standard output that remembers why something could not be written: what is lost must not look as if it was said.
type sink struct {
	io.Writer
	failed error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	s.failed = cmp.Or(s.failed, err)
	return n, err
}

// ReadFrom has a large file go from one descriptor to the other, where the system can do that.
func (s *sink) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(s.Writer, r)
	s.failed = cmp.Or(s.failed, err)
	return n, err
}

// fileOf is the file that w writes to, nil for none.
func fileOf(w io.Writer) *os.File {
	if s, ok := w.(*sink); ok {
		w = s.Writer
	}
	f, _ := w.(*os.File)
	return f
}

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// line is how many columns a line has that is erased and written again; 0: that cannot be done.
func (s screen) line() int {
	if os.Getenv("TERM") == "dumb" {
		return 0
	}
	return s.width
}

func (s screen) paint(code int, text string) string {
	if !s.color || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, text)
}

func (s screen) red(text string) string    { return s.paint(31, text) }
func (s screen) green(text string) string  { return s.paint(32, text) }
func (s screen) yellow(text string) string { return s.paint(33, text) }
func (s screen) dim(text string) string    { return s.paint(2, text) }

// fit is text cut to the columns that are left, so that a terminal doesn't wrap it.
func (s screen) fit(text string, used int) string {
	if s.width == 0 || used+utf8.RuneCountInString(text) <= s.width {
		return text
	}
	room := s.width - used - 1
	if room < 1 {
		return ""
	}
	return string([]rune(text)[:room]) + "…"
}

// A cell is one field of a table.
type cell struct {
	text  string
	color func(string) string // nil for none
}

// table writes rows in columns two blanks apart. A column that is empty below its title is left out, and what doesn't fit on the
// screen is cut at the end.
func (s screen) table(w io.Writer, title []cell, rows [][]cell) {
	widths := make([]int, len(title))
	for _, r := range rows {
		for k, c := range r {
			widths[k] = max(widths[k], utf8.RuneCountInString(c.text))
		}
	}
	for k, c := range title {
		if widths[k] > 0 {
			widths[k] = max(widths[k], utf8.RuneCountInString(c.text))
		}
	}
	for _, r := range slices.Concat([][]cell{title}, rows) {
		var line strings.Builder
		used, blanks := 0, 0
		for k, c := range r {
			if widths[k] == 0 {
				continue
			}
			text := s.fit(c.text, used+blanks)
			if text == "" {
				blanks += widths[k] + 2
				continue
			}
			line.WriteString(strings.Repeat(" ", blanks))
			n := utf8.RuneCountInString(text)
			used += blanks + n
			blanks = widths[k] - n + 2
			if c.color != nil {
				text = c.color(text)
			}
			line.WriteString(text)
		}
		fmt.Fprintln(w, line.String())
	}
}

// excerpt writes a line of a text with a caret under one of its characters, if it fits on the screen.
func (s screen) excerpt(w io.Writer, lines []string, line, col int) {
	if line > len(lines) {
		return
	}
	text := []rune(strings.ReplaceAll(printable(strings.TrimRight(lines[line-1], "\r")), "\t", " "))
	number := fmt.Sprintf("%6d | ", line)
	if strings.TrimSpace(string(text)) == "" || col > len(text)+1 || col+len(number) > s.width {
		return
	}
	fmt.Fprintf(w, "%s%s\n", s.dim(number), s.fit(string(text), len(number)))
	fmt.Fprintf(w, "%s%s%s\n", s.dim("       | "), strings.Repeat(" ", col-1), s.red("^"))
}

// A pair is one row of a key and value table.
type pair struct {
	key    string
	values []string // one line each
}

// pairs writes rows with the keys right-aligned, as `ffx component show` does.
func (s screen) pairs(w io.Writer, rows []pair) {
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(r.key))
	}
	for _, r := range rows {
		for k, v := range r.values {
			key := r.key + ":"
			if k > 0 {
				key = ""
			}
			fmt.Fprintf(w, "%*s %s\n", width+1, key, v)
		}
	}
}

// stateWord is a state as people read it, in the words of the reference: an instance that is not resolved is Stopped.
func stateWord(state string, starting bool) string {
	switch {
	case starting:
		return "Starting"
	case state == "started":
		return "Running"
	case state == "unresolved":
		return "Stopped"
	case state == "":
		return ""
	default:
		return strings.ToUpper(state[:1]) + state[1:]
	}
}

// stateColor is green for what runs, yellow for what could, red for the rest.
func (s screen) stateColor(state string, starting bool) func(string) string {
	switch {
	case state == "started":
		return s.green
	case starting || state == "resolved" || state == "stopping":
		return s.yellow
	default:
		return s.red
	}
}

// lastEnd is how the last run ended, or why there was none, on one line.
func lastEnd(i *controlpb.Instance) string {
	switch {
	case i.GetLastError() != "":
		first, _, _ := strings.Cut(i.GetLastError(), "\n")
		return first
	case i.GetLastExit() != nil:
		return i.GetLastExit().GetText()
	default:
		return ""
	}
}

// badly says whether that was a failure.
func badly(i *controlpb.Instance) bool {
	return i.GetLastError() != "" || i.GetLastExit() != nil && !i.GetLastExit().GetOk()
}

// since is how long ago t is, for people.
func since(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	return span(now.Sub(t.AsTime()))
}

// span is d with its two largest units.
func span(d time.Duration) string {
	d = max(d, 0)
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	default:
		return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
	}
}

// byteWords is n bytes for people.
func byteWords(n float64) string {
	if n < 1024 {
		return fmt.Sprintf("%.0f B", n)
	}
	units := "KMGTPE"
	for n /= 1024; n >= 1024 && len(units) > 1; n /= 1024 {
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", n, units[0])
}

// clock is a time on this day's clock, for lines that follow each other.
func clock(t *timestamppb.Timestamp) string { return t.AsTime().Local().Format("15:04:05.000") }

// printable is text without what could steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, text)
}
