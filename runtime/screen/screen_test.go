package screen

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
)

var news = []realm.Event{
	{Kind: realm.EventDiscovered, Moniker: "/a"},
	{Kind: realm.EventStarted, Moniker: "/a", Text: "eager"},
	{Kind: realm.EventStopped, Moniker: "/a", Exit: &runners.Exit{Code: 3}},
	{Kind: realm.EventRestarting, Moniker: "/a", Delay: 2 * time.Second, Text: "3 of 5 within 1m0s"},
	{Kind: realm.EventGaveUp, Moniker: "/a", Text: "5 restarts within 1m0s"},
	{Kind: realm.EventFailed, Moniker: "/b", Err: errors.New("start /b: no\n  hint: yes")},
	{Kind: realm.EventWaiting, Moniker: "/c", Text: "asked to stop 2s ago"},
	{Kind: realm.EventReboot, Moniker: "/d", Text: "critical"},
	{Kind: realm.EventDestroyed, Moniker: "/e"},
	{Kind: realm.EventStopped, Moniker: "/f"},
}

func show(o Options) (stdout, stderr string) {
	var out, err bytes.Buffer
	s := New(&out, &err, o)
	s.Line(logs.Line{Moniker: "/a", Text: "hello"})
	s.Line(logs.Line{Moniker: "/a", Stream: logs.Manager, Text: "what the events say too"})
	s.Line(logs.Line{Text: "7 lines not shown"})
	for _, e := range news {
		s.Event(e)
	}
	s.Logger(slog.LevelWarn).With("instance", "/a").Warn("odd", "at", "a.cml:1:2", "hint", "")
	s.Logger(slog.LevelWarn).Info("not said")
	s.Flush()
	return out.String(), err.String()
}

func TestPlain(t *testing.T) {
	out, err := show(Options{})
	if out != "/a | hello\n" {
		t.Errorf("standard output: %q", out)
	}
	want := `cmgr: 7 lines not shown; ` + "`cmgr logs`" + ` has them
cmgr: /a started (eager)
cmgr: /a exited code=3
cmgr: /a restarts in 2s (3 of 5 within 1m0s)
cmgr: /a is not restarted again (5 restarts within 1m0s); ` + "`cmgr start /a`" + ` tries anew
cmgr: start /b: no
        hint: yes
cmgr: waiting for /c: asked to stop 2s ago
cmgr: /d ended and takes the whole tree down (critical)
cmgr: /e destroyed
cmgr: /f stopped
cmgr: warning: odd (instance=/a at=a.cml:1:2)
`
	if err != want {
		t.Errorf("standard error:\n%s\nwant:\n%s", err, want)
	}
}

func TestVerbose(t *testing.T) {
	if _, err := show(Options{Verbose: true}); !strings.Contains(err, "cmgr: /a discovered\n") {
		t.Errorf("%s", err)
	}
}

func TestColour(t *testing.T) {
	out, err := show(Options{Color: true})
	if !strings.Contains(out, "hello\x1b[0m\n") || !strings.Contains(err, "\x1b[31m/a exited code=3\x1b[0m\n") {
		t.Errorf("%q\n%q", out, err)
	}
}

func TestJSON(t *testing.T) {
	out, err := show(Options{JSON: true})
	if err != "" {
		t.Errorf("standard error: %q", err)
	}
	kinds := map[string]int{}
	for line := range strings.Lines(out) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil || len(l) != 1 {
			t.Errorf("%v: %s", err, line)
		}
		for k := range l {
			kinds[k]++
		}
	}
	if kinds["line"] != 3 || kinds["event"] != len(news) || kinds["manager"] != 1 {
		t.Errorf("%v in\n%s", kinds, out)
	}
}

func TestHarmless(t *testing.T) {
	for _, c := range []struct {
		text, plain, colour string
	}{
		{"plain\ttext é", "plain\ttext é", "plain\ttext é"},
		{"\x1b[31mred\x1b[0m", "^[[31mred^[[0m", "\x1b[31mred\x1b[0m"},
		{"\x1b[2Jgone", "^[[2Jgone", "^[[2Jgone"},
		{"\x1b]52;c;QQ\a", "^[]52;c;QQ^G", "^[]52;c;QQ^G"},
		{"a\rb\x7f\u009b1m", "a^Mb^?<9B>1m", "a^Mb^?<9B>1m"},
		{"\x1b[31", "^[[31", "^[[31"},
	} {
		if got := harmless(c.text, false); got != c.plain {
			t.Errorf("%q: %q, want %q", c.text, got, c.plain)
		}
		if got := harmless(c.text, true); got != c.colour {
			t.Errorf("%q: %q, want %q", c.text, got, c.colour)
		}
	}
}
