package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// erlang is where Erlang's own programs are, which are in no PATH.
func erlang(t *testing.T) string {
	t.Helper()
	needs.Tool(t, "erl")
	out, err := exec.Command("erl", "-noshell", "-eval", `io:format("~s/erts-~s/bin",[code:root_dir(),erlang:system_info(version)]),halt().`).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// childCalled is the child of process pid whose command line begins with these words; 0 if there is none.
func childCalled(pid int, words string) int {
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range children {
		b, _ := os.ReadFile(f)
		for _, child := range strings.Fields(string(b)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if strings.HasPrefix(strings.ReplaceAll(string(line), "\x00", " "), words) {
				n, _ := strconv.Atoi(child)
				return n
			}
		}
	}
	return 0
}

// appears waits until the file is there, whatever has become of the manager.
func appears(t *testing.T, r *tree, file string) {
	t.Helper()
	for end := time.Now().Add(bound); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %s; the manager said\n%s%s", file, r.out(), r.err())
		}
	}
}

// TestHeart ends managers in all ways, watched by our watchdog and by Erlang's: the command is run unless the manager was told to end, or
// its tree has ended well.
func TestHeart(t *testing.T) {
	t.Parallel()
	kill := func(sig syscall.Signal) func(*testing.T, *tree) {
		return func(t *testing.T, r *tree) {
			if err := r.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	const waits = "while :; do sleep 0.1; done"
	ways := []struct {
		name, program string
		end           func(*testing.T, *tree)
		code          int
		command       bool
	}{
		{"told by a signal", waits, kill(syscall.SIGTERM), 0, false},
		{"told over the socket", waits, func(_ *testing.T, r *tree) { r.must("shutdown") }, 0, false},
		{"ended well", "read x <go", func(t *testing.T, r *tree) { put(t, filepath.Join(r.dir, "go"), "\n") }, 0, false},
		{"failed", "read x <go; exit 3", func(t *testing.T, r *tree) { put(t, filepath.Join(r.dir, "go"), "\n") }, 1, true},
		{"killed", waits, kill(syscall.SIGKILL), -1, true},
		{"hangs", waits, kill(syscall.SIGSTOP), -1, true},
	}
	for _, of := range []string{"cmgr's", "Erlang's"} {
		for _, way := range ways {
			t.Run(of+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				timeout := "11" // Erlang's takes no less; a manager that is merely slow must be faster
				args := []string{"--heart", "echo $0 runs >&2; touch " + filepath.Join(dir, "mark")}
				if of != "cmgr's" {
					args = append(args, "--heart-program", filepath.Join(erlang(t), "heart"))
				}
				if way.name != "hangs" {
					timeout = "600"
				}
				if err := syscall.Mkfifo(filepath.Join(dir, "go"), 0o600); err != nil {
					t.Fatal(err)
				}
				put(t, filepath.Join(dir, "root.cml"),
					fmt.Sprintf(`{ program: { runner: "elf", binary: "/bin/sh", args: ["-c", %q] } }`, way.program)) // in its package, which is dir
				r := run(t, dir, append(args, "--heart-timeout", timeout)...)
				r.until("the tree", func() bool { return strings.Contains(r.err(), "/ started") })
				watchdog := childCalled(r.cmd.Process.Pid, "heart -pid "+strconv.Itoa(r.cmd.Process.Pid)+" -ht "+timeout)
				if watchdog == 0 {
					t.Fatal("no watchdog")
				}
				way.end(t, r)
				if code := r.wait(); code != way.code {
					t.Errorf("exit code %d, want %d\n%s", code, way.code, r.err())
				}
				mark := filepath.Join(dir, "mark")
				if way.command {
					appears(t, r, mark)
				} else if _, err := os.Stat(mark); err == nil {
					t.Error("the command was run")
				} else if err := syscall.Kill(watchdog, 0); !errors.Is(err, syscall.ESRCH) {
					t.Errorf("the watchdog is still there: %v", err)
				}
				// What a manager that was killed left, the next one removes.
				if way.code < 0 {
					put(t, filepath.Join(dir, "root.cml"), sh("true"))
					next := &tree{t: t, dir: dir, state: r.state, sock: r.sock, env: r.env}
					next.start()
					if next.wait() != 0 {
						t.Error(next.err())
					}
				}
			})
		}
	}
}

// TestHeartNext: the command starts the next manager, which takes over; a watchdog that is killed is followed by another one.
func TestHeartNext(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"root.cml": sh("while :; do sleep 0.1; done")})
	r := prepare(t, dir)
	next := fmt.Sprintf("exec %s run %s --socket %s --state %s", binary, filepath.Join(dir, "root.cml"), r.sock, r.state)
	r.start("--heart", next, "--heart-timeout", "600")
	r.up()
	first := childCalled(r.cmd.Process.Pid, "heart ")
	if first == 0 {
		t.Fatal("no watchdog")
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("the next watchdog", func() bool {
		n := childCalled(r.cmd.Process.Pid, "heart ")
		return n != 0 && n != first
	})
	if !strings.Contains(r.err(), "the watchdog has ended") {
		t.Errorf("it said\n%s", r.err())
	}
	_ = r.cmd.Process.Kill()
	for end := time.Now().Add(bound); ; time.Sleep(20 * time.Millisecond) {
		if _, _, code := r.cmgr("shutdown"); code == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no manager follows\n%s", r.err())
		}
	}
	if code := r.wait(); code != -1 { // its output has ended with the next one's
		t.Errorf("exit code %d", code)
	}
}

// TestHeartFlags: what cannot be is said before anything is started, and a watchdog that isn't one ends the manager.
func TestHeartFlags(t *testing.T) {
	dir := write(t, map[string]string{"root.cml": sh("true")})
	for _, c := range []struct {
		want string
		code int
		args []string
	}{
		{"--heart-timeout is for --heart", 100, []string{"--heart-timeout", "20"}},
		{"1 to 65535 seconds", 100, []string{"--heart", "x", "--heart-timeout", "70000"}},
		{"11 to 65535 seconds", 100, []string{"--heart", "x", "--heart-program", "/bin/true", "--heart-timeout", "5"}},
		{"1 to 2046 bytes", 100, []string{"--heart", ""}},
		{"exit code 0", 111, []string{"--heart", "x", "--heart-program", "/bin/true"}},
		{"not found", 111, []string{"--heart", "x", "--heart-program", "no-such-watchdog"}},
	} {
		r := run(t, dir, c.args...)
		if code := r.wait(); code != c.code || !strings.Contains(r.err(), c.want) {
			t.Errorf("%v: exit code %d, want %d and %q\n%s", c.args, code, c.code, c.want, r.err())
		}
	}
}

// TestHeartOfErlang: a real emulator is watched by our watchdog, in the place of Erlang's.
func TestHeartOfErlang(t *testing.T) {
	t.Parallel()
	real := erlang(t)
	bin := t.TempDir()
	programs, err := os.ReadDir(real)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		to := filepath.Join(real, p.Name())
		if p.Name() == "heart" {
			to = binary
		}
		if err := os.Symlink(to, filepath.Join(bin, p.Name())); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, eval string
		command    string // "": none, else what is in the mark
	}{
		{"stop", `init:stop()`, ""},
		{"reboot", `init:reboot()`, "env"},
		{"halt", `halt(0)`, "env"},
		{"set", `ok=heart:set_cmd("echo set >$MARK"),{ok,"echo set >$MARK"}=heart:get_cmd(),init:reboot()`, "set"},
		{"clear", `ok=heart:set_cmd("echo set >$MARK"),ok=heart:clear_cmd(),init:reboot()`, "env"},
		{"killed", `os:cmd("kill -9 "++os:getpid())`, "env"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mark := filepath.Join(t.TempDir(), "mark")
			cmd := exec.Command(filepath.Join(bin, "erlexec"), "-heart", "-noshell", "-noinput", "+S", "1:1", "-eval", c.eval+".")
			cmd.Env = append(os.Environ(), "ROOTDIR="+filepath.Dir(filepath.Dir(real)), "BINDIR="+bin, "EMU=beam", "PROGNAME=erl",
				"HEART_COMMAND=echo env >$MARK; echo end >&2", "MARK="+mark, "ERL_CRASH_DUMP_SECONDS=0")
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			// The watchdog, and its command, have the output, too: Run returns once they have ended.
			_ = cmd.Run()
			got, _ := os.ReadFile(mark)
			if strings.TrimSpace(string(got)) != c.command {
				t.Errorf("the command was %q, want %q\n%s", got, c.command, said.String())
			}
			if !strings.Contains(said.String(), "heart: running") != (c.command == "") {
				t.Errorf("our watchdog was not asked, or ran something\n%s", said.String())
			}
		})
	}
}
