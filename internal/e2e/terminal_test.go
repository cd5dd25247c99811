package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/sys/pty"
)

// A terminal is one as far as cmgr uses it: lines that are wrapped, written again from their beginning, and erased.
type terminal struct {
	master, tty *os.File
	over        chan struct{}

	mu    sync.Mutex
	width int
	lines []string // the last is the one that is being written
	at    int      // the cursor's column in it
	was   []string // what the last line has been, whenever it was written anew
}

func newTerminal(t *testing.T, width int) *terminal {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	v := &terminal{master: master, tty: tty, over: make(chan struct{}), lines: []string{""}}
	v.resize(t, width)
	go func() {
		defer close(v.over)
		in := bufio.NewReader(master)
		for {
			r, _, err := in.ReadRune()
			if err != nil {
				return // EIO: nobody has it open any more
			}
			var escape string
			if r == '\x1b' {
				for escape = "\x1b"; !regexp.MustCompile(`^\x1b\[[0-9;]*[A-Za-z]$`).MatchString(escape); {
					r, _, _ := in.ReadRune()
					escape += string(r)
				}
			}
			v.write(r, escape)
		}
	}()
	t.Cleanup(func() { tty.Close(); <-v.over; master.Close() })
	return v
}

func (v *terminal) resize(t *testing.T, width int) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.width = width
	if err := pty.Resize(v.tty, width, 24); err != nil {
		t.Fatal(err)
	}
}

func (v *terminal) write(r rune, escape string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	last := &v.lines[len(v.lines)-1]
	line := []rune(*last)
	switch {
	case escape == "\x1b[K":
		v.was = append(v.was, *last)
		line = line[:v.at]
	case escape != "": // colours
	case r == '\r':
		v.at = 0
	case r == '\n':
		v.lines, v.at = append(v.lines, ""), 0
		return
	default:
		if v.at == v.width {
			v.lines, v.at = append(v.lines, string(r)), 1
			return
		}
		line = append(line[:v.at], append([]rune{r}, line[min(v.at+1, len(line)):]...)...)
		v.at++
	}
	*last = string(line)
}

// text is what is to be seen, and erased what was, in lines that were written anew.
func (v *terminal) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.lines, "\n")
}

func (v *terminal) erased() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.was)
}

func (v *terminal) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: waited in vain; the terminal shows\n%s\nand showed\n%s", what, v.text(), strings.Join(v.erased(), "\n"))
		}
	}
}

// TestBootOnTerminal: how far a boot is stands in one line below all others, as wide as the terminal is, and is gone at its end.
func TestBootOnTerminal(t *testing.T) {
	dir := write(t, map[string]string{
		"c/one.cml": sh("echo one runs; while ! [ -e go1 ]; do sleep 0.05; done; echo one ends"),
		"c/two.cml": sh("echo two runs; while ! [ -e go2 ]; do sleep 0.05; done"),
	})
	script(t, dir, "site", `{path,["$ROOT/c"]},{primLoad,[one,two]},{progress,loaded},{apply,{component,run,[one]}},{progress,half},
		{apply,{component,run,[two]}},{apply,{cmgr,log,["nearly"]}},{progress,started}`)
	v := newTerminal(t, 78)
	r := prepare(t, dir)
	cmd := exec.Command(binary, "boot", "--socket", r.sock, "--state", r.state, filepath.Join(dir, "site"))
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "TERM=xterm")
	cmd.Stdout, cmd.Stderr = v.tty, v.tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	// A change of state may be told before or after what the program prints.
	shows := func(line, last string) func() bool {
		return func() bool { return strings.Contains(v.text(), line) && strings.HasSuffix(v.text(), "\n"+last) }
	}
	// Done are 3 of 8: the bar has room for 24.
	v.until(t, "one", shows("/one | one runs\n", "boot [=========               ]  37% loaded: {apply,{component,run,[one]}}"))
	v.resize(t, 30)
	put(t, filepath.Join(dir, "c/go1"), "") // in their package
	v.until(t, "two", shows("/two | two runs\n", " 62% half: {apply,{component…"))
	put(t, filepath.Join(dir, "c/go2"), "")
	if err := <-ended; err != nil {
		t.Errorf("%v", err)
	}
	v.until(t, "the end", shows("", ""))
	if text := v.text(); strings.Contains(text, "%") || !strings.Contains(text, "cmgr: boot: nearly\n") || strings.Count(text, "one runs") != 1 {
		t.Errorf("at the end the terminal shows\n%s", text)
	}
	if first := v.erased()[0]; first != "boot [                        ]   0% starting: what it loads is resolved" {
		t.Errorf("at first it showed %q", first)
	}
	for _, line := range v.erased() {
		if line != "" && !strings.Contains(line, "%") {
			t.Errorf("erased was %q", line)
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFetchOnTerminal: what has come of a file stands in one line, is gone at its end, and is not in the file.
func TestFetchOnTerminal(t *testing.T) {
	dir := write(t, map[string]string{
		"large": strings.Repeat("0123456789abcdef", 1<<20),
		"slow.sh": `#!/bin/sh
cat >/dev/null; printf y; head -c 300000 /dev/zero; while ! [ -e "$GO" ]; do sleep 0.05; done; head -c 5 /dev/zero
`,
	})
	t.Setenv("GO", filepath.Join(dir, "go"))
	for _, c := range []struct {
		name, want string
		width      int
		args       []string
		size       int64
		during     func(v *terminal)
	}{
		{
			"of a known size", `^large \d+ [KM]iB of 16 MiB \[=* *\] \d+%( \d+ [KM]iB/s)?$`, 80,
			[]string{"--loader", "inet", "--hosts", bootServer(t, dir), "/large"},
			16 << 20, func(*terminal) {},
		},
		{
			"narrow", `^large \d+ [KM]iB of 16 M…$`, 22,
			[]string{"--loader", "inet", "--hosts", bootServer(t, dir), "/large"},
			16 << 20, func(*terminal) {},
		},
		{
			"of an unknown size", `^x \d+ [KM]?i?B( \d+ [KM]iB/s)?$`, 80,
			[]string{"--loader", filepath.Join(dir, "slow.sh"), "x"},
			300005, func(v *terminal) {
				v.until(t, "all but the end", func() bool { return strings.HasPrefix(v.text(), "x 292 KiB ") })
				put(t, filepath.Join(dir, "go"), "")
			},
		},
		{
			"several", `^[0-2] of 2 files, \d+ (KiB|B) \[=* *\] \d+%( \d+ [KM]iB/s)?$`, 80,
			[]string{"--loader", filepath.Join(dir, "slow.sh"), "--outdir", dir, "x", "y"},
			10, func(v *terminal) {
				v.until(t, "the first", func() bool { return strings.HasPrefix(v.text(), "0 of 2 files, 292 KiB [          ") })
				put(t, filepath.Join(dir, "go"), "")
			},
		},
	} {
		os.Remove(filepath.Join(dir, "go"))
		v := newTerminal(t, c.width)
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary, append([]string{"fetch"}, c.args...)...)
		cmd.Env = append(os.Environ(), "TERM=xterm")
		cmd.Stdout, cmd.Stderr = out, v.tty
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.during(v)
		err = cmd.Wait()
		st, _ := out.Stat()
		out.Close()
		fmt.Fprint(v.tty, "over\n")
		v.until(t, "all of it", func() bool { return strings.HasSuffix(v.text(), "over\n") })
		if text := v.text(); err != nil || text != "over\n" || st.Size() != c.size {
			t.Errorf("%s: %v, %d bytes, and the terminal shows\n%s", c.name, err, st.Size(), text)
		}
		shown := slices.DeleteFunc(v.erased(), func(s string) bool { return s == "" })
		for _, line := range shown {
			if !regexp.MustCompile(c.want).MatchString(line) {
				t.Errorf("%s: it showed %q", c.name, line)
			}
		}
		if len(shown) == 0 {
			t.Errorf("%s: it showed nothing", c.name)
		}
	}
}
