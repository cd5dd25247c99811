package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/pty"
)

// cmgr explore: a shell in the place of a component's program.
func TestExplore(t *testing.T) { testExplore(t, "") }

func TestExploreUnconfined(t *testing.T) { testExplore(t, `sandbox: { unconfined: [ "/**" ] },`) }

func testExplore(t *testing.T, sandbox string) {
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "app", url: "app.cml", startup: "eager" }, { name: "idle", url: "app.cml" }, { name: "empty", url: "empty.cml" },
				{ name: "secret", url: "app.cml" }, { name: "broken", url: "broken.cml" },
			],
			capabilities: [ { storage: "store", from: "parent", backing_dir: "data", storage_id: "static_instance_id_or_moniker" } ],
			offer: [ { storage: "store", from: "self", to: [ "#app", "#idle", "#secret" ] } ],
		}`,
		"app.cml": `{
			program: { runner: "elf", binary: "bin/app", environ: [ "COLOUR=red" ], limits: { nofile: "77" }, umask: "077" },
			use: [ { storage: "store", path: "/data" } ],
		}`,
		"empty.cml":    `{}`,
		"broken.cml":   `{ program: { runner: "elf", binary: "bin/app", user: "nobody at all" } }`,
		"bin/app":      "#!/bin/sh\necho ready\nexec sleep 1000\n",
		"tools/greet":  "#!/bin/sh\necho greetings\n",
		"config.json5": `{ security_policy: { ` + sandbox + ` operator_policy: { explore: [ "/app", "/idle", "/empty", "/broken" ] } } }`,
	})
	r := run(t, dir, "--config", filepath.Join(dir, "config.json5"))
	r.until("ready", func() bool { return strings.Contains(r.out(), "/app | ready\n") })

	// One that runs, and one that doesn't and is not started by it.
	for _, who := range []string{"app", "idle"} {
		out := r.must("explore", who, "-c", `cd "$CMGR_NAMESPACE/data" && echo `+who+` >note && cat note; echo $COLOUR $CMGR_MONIKER; umask; ulimit -n`)
		if want := who + "\nred /" + who + "\n0077\n77\n"; out != want {
			t.Errorf("%s: %q, want %q", who, out, want)
		}
	}
	if out := r.must("list", "--only", "running"); out != "/\n/app\n" {
		t.Errorf("run: %q", out)
	}
	if out := r.must("logs", "idle"); !strings.Contains(out, "explored by user ") || !strings.Contains(out, "cat note") {
		t.Errorf("its log: %q", out)
	}
	if out := r.must("explore", "app", "--tools", filepath.Join(dir, "tools"), "-c", "greet"); out != "greetings\n" {
		t.Errorf("with tools: %q", out)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"app", "-c", "echo oh >&2; exit 7"}, 7, "oh\n"},
		{[]string{"app", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"nobody"}, 1, "no matching component instance"},
		{[]string{"empty"}, 1, "it has no program"},
		{[]string{"broken"}, 1, `there is no user "nobody at all"`},
		{[]string{"secret"}, 1, `add "/secret" to security_policy.operator_policy.explore`},
		{[]string{"app", "--tools", filepath.Join(dir, "bin/app")}, 100, "is no directory"},
		{[]string{"app", "-c", ""}, 100, "empty"},
		{[]string{}, 100, "argument is missing"},
	} {
		out, stderr, code := r.cmgr(append([]string{"explore"}, c.args...)...)
		if out != "" || code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("explore %q: %d, %q%q", c.args, code, out, stderr)
		}
	}

	// Commands from a pipe; a client that is killed leaves nothing behind.
	mark := mark(t)
	cmd := exec.Command(binary, "explore", "idle", "--socket", r.sock)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := filepath.Join(dir, "said")
	out, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("export MARK=" + mark + "\nsleep 1000 & echo begun\nsleep 1000\n")); err != nil {
		t.Fatal(err)
	}
	r.until("begun", func() bool { b, _ := os.ReadFile(said); return string(b) == "begun\n" })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	r.until("its end", func() bool { return len(marked(t, mark)) == 0 })
	r.stop()
}

// A screen is a terminal with somebody before it.
type screen struct {
	t        *testing.T
	r        *tree
	master   *os.File
	terminal *os.File
	cmd      *exec.Cmd
	before   string // how the terminal was set
	mu       sync.Mutex
	shown    bytes.Buffer
}

// explore runs cmgr explore on a terminal.
func (r *tree) explore(t *testing.T, args ...string) *screen {
	t.Helper()
	master, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, r: r, master: master, terminal: terminal}
	t.Cleanup(func() { master.Close(); terminal.Close() })
	s.resize(91, 23)
	s.cmd = exec.Command(binary, append([]string{"explore", "--socket", r.sock}, args...)...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = terminal, terminal, terminal
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s.cmd.Env = append(os.Environ(), "TERM=vt100")
	s.before = s.state()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			s.mu.Lock()
			s.shown.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) resize(columns, rows int) {
	if err := pty.Resize(s.master, columns, rows); err != nil {
		s.t.Fatal(err)
	}
}

// types types text and waits until want appears after it.
func (s *screen) types(text, want string) {
	s.t.Helper()
	s.mu.Lock()
	s.shown.Reset()
	s.mu.Unlock()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
	s.awaits(want)
}

func (s *screen) awaits(want string) {
	s.t.Helper()
	for deadline := time.Now().Add(bound); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		shown := s.shown.String()
		s.mu.Unlock()
		if strings.Contains(shown, want) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%q does not appear; there is %q", want, shown)
		}
	}
}

// state is how the terminal is set.
func (s *screen) state() string {
	s.t.Helper()
	cmd := exec.Command("stty", "-g")
	cmd.Stdin = s.terminal
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

func (s *screen) ends(code int) {
	s.t.Helper()
	_ = s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Errorf("exit code %d, want %d; on the screen is %q", got, code, s.shown.String())
	}
}

// waits is a program that an interrupt ends; dash loses one while it forks or execs, and Python a signal just before it sleeps.
const waits = `python3 -c 'import os, signal, time; say = lambda text: os.write(1, text); ` +
	`signal.signal(signal.SIGCONT, lambda *_: say(b"goes "+b"on\n")); say(b"be"+b"gun\n"); [time.sleep(0.05) for _ in range(20000)]'`

// On a terminal: its size, interrupts, job control, its state afterwards.
func TestExploreTerminal(t *testing.T) { testExploreTerminal(t) }

func TestExploreTerminalUnconfined(t *testing.T) { testExploreTerminal(t, unconfined(t)...) }

func testExploreTerminal(t *testing.T, args ...string) {
	needs.Tool(t, "bash")
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [
				{ name: "app", url: "app.cml", startup: "eager" }, { name: "idle", url: "app.cml" },
				{ name: "stuck", url: "stuck.cml" }, { name: "slow", url: "slow.cml" },
			],
			offer: [ { directory: "d", from: "#slow", to: "#stuck" } ],
		}`,
		"stuck.cml": `{ program: { runner: "elf", binary: "bin/app" }, use: [ { directory: "d", rights: [ "r*" ], path: "/d" } ] }`,
		"slow.cml": `{
			program: { runner: "elf", binary: "bin/app", ready: "lifecycle", lifecycle: { stop_event: "ignore" } },
			capabilities: [ { directory: "d", rights: [ "r*" ], path: "/d" } ], expose: [ { directory: "d", from: "self" } ],
		}`,
		"app.cml": `{ program: { runner: "elf", binary: "bin/app" } }`,
		"bin/app": "#!/bin/sh\necho ready\nexec sleep 1000\n",
	})
	r := run(t, dir, append(args, "--stay")...)
	r.until("ready", func() bool { return strings.Contains(r.out(), "/app | ready\n") })
	for _, who := range []string{"/app", "/idle"} {
		s := r.explore(t, who)
		s.awaits("[" + who + "] ")
		s.types("stty size; echo $TERM\r", "23 91\r\nvt100\r\n")
		s.resize(101, 42)
		s.types("while [ \"$(stty size)\" != '42 101' ]; do sleep 0.05; done; echo re\"\"sized\r", "resized\r\n")
		busy := waits + "\r"
		s.types(busy, "begun\r\n")
		s.types("\x03", "["+who+"] ")
		s.types("echo code $?\r", "code 130\r\n")
		s.types(busy, "begun\r\n")
		s.types("\x1a", "Stopped")
		s.types("fg\r", "goes on\r\n") // the terminal is its own again
		s.types("\x03", "["+who+"] ")
		s.types("echo code $?\r", "code 130\r\n")
		s.types("exit 5\r", "exit")
		s.ends(5)
		if after := s.state(); after != s.before {
			t.Errorf("the terminal was %s, is %s", s.before, after)
		}
	}

	// Who waits for a shell can give up, a command can be interrupted, and a shell ends with its component.
	s := r.explore(t, "/stuck")
	r.until("the provider", func() bool { return strings.Contains(r.out(), "/slow | ready\n") })
	s.types("\x03", "^C")
	s.ends(-1)
	s = r.explore(t, "/idle", "-c", waits)
	s.awaits("begun\r\n")
	s.types("\x03", "")
	s.ends(130)
	s = r.explore(t, "/idle", "-c", "seq 30000")
	s.ends(0)
	s.awaits("\r\n29999\r\n30000\r\n") // all has come, though nobody waited for it
	s = r.explore(t, "/app")
	s.awaits("[/app] ")
	r.must("stop", "/app")
	s.awaits("explore: the component has ended")
	s.ends(1)
	s = r.explore(t, "/idle")
	s.awaits("[/idle] ")
	r.must("unresolve", "/idle")
	s.ends(1)
	s = r.explore(t, "/idle")
	s.awaits("[/idle] ")
	r.stop()
	s.ends(1)
}
