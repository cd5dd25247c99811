// Package e2e runs the whole program: real trees of real processes, driven from outside as people drive it.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
)

// bound is how long anything may take on a busy machine before the test gives up.
const bound = 3 * time.Minute

var binary string

func TestMain(m *testing.M) { os.Exit(leak.Run(built{m})) }

// built builds cmgr, runs the tests, and removes it.
type built struct{ m *testing.M }

func (b built) Run() int {
	dir, err := os.MkdirTemp("", "cmgr-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "cmgr")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/cmgr").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return b.m.Run()
}

// A tree is a running manager.
type tree struct {
	t     *testing.T
	dir   string // of manifests
	state string
	sock  string
	env   []string
	cmd   *exec.Cmd

	mu             sync.Mutex
	stdout, stderr bytes.Buffer
	exited         chan struct{}
	code           int

	said func() string // what is on the console, where the tree is process no. 1
}

// write lays out files below a new directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		put(t, filepath.Join(dir, name), text)
	}
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(text, "#!") {
		mode = 0o755
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// configured are the arguments for a manager with that configuration.
func configured(t *testing.T, text string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json5")
	put(t, file, text)
	return []string{"--config", file}
}

// unconfined are those for one whose components share the machine's world: where a test is about what they do to that.
func unconfined(t *testing.T) []string {
	return configured(t, `{ security_policy: { sandbox: { unconfined: ["/**"] } } }`)
}

// prepare makes a tree's directories without running it.
func prepare(t *testing.T, dir string) *tree {
	t.Helper()
	sock, err := os.MkdirTemp("", "cmgr") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sock) })
	return &tree{t: t, dir: dir, state: t.TempDir(), sock: filepath.Join(sock, "s"), env: append(os.Environ(), "NO_COLOR=1")}
}

// run starts cmgr run dir/root.cml.
func run(t *testing.T, dir string, args ...string) *tree {
	t.Helper()
	r := prepare(t, dir)
	r.start(args...)
	return r
}

type buffer struct {
	r *tree
	b *bytes.Buffer
}

func (b buffer) Write(p []byte) (int, error) {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	return b.b.Write(p)
}

func (r *tree) start(args ...string) {
	r.t.Helper()
	r.begin(exec.Command(binary, append([]string{"run", filepath.Join(r.dir, "root.cml"), "--socket", r.sock, "--state", r.state}, args...)...), nil)
}

// begin starts cmd, which is the manager or above it, after change.
func (r *tree) begin(cmd *exec.Cmd, change func(*exec.Cmd)) {
	r.t.Helper()
	r.cmd = cmd
	if change != nil {
		change(cmd)
	}
	r.cmd.Env = r.env
	r.cmd.Stdout, r.cmd.Stderr = buffer{r, &r.stdout}, buffer{r, &r.stderr}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.exited = make(chan struct{})
	exited := r.exited
	go func() {
		err := cmd.Wait()
		r.code = cmd.ProcessState.ExitCode()
		if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
			r.code = -2
		}
		close(exited)
	}()
	r.t.Cleanup(func() {
		select {
		case <-exited:
		default:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-exited:
			case <-time.After(bound):
				_ = cmd.Process.Kill()
				<-exited
				r.t.Error("cmgr did not end when it was told to")
			}
		}
	})
}

// out and err are what the manager has printed.
func (r *tree) out() string { r.mu.Lock(); defer r.mu.Unlock(); return r.stdout.String() }
func (r *tree) err() string { r.mu.Lock(); defer r.mu.Unlock(); return r.stderr.String() }

// wait waits for the manager's end and returns its exit code.
func (r *tree) wait() int {
	r.t.Helper()
	select {
	case <-r.exited:
		return r.code
	case <-time.After(bound):
		r.t.Fatalf("cmgr still runs; it said\n%s%s", r.out(), r.err())
		return 0
	}
}

// stop interrupts the manager, if it has not ended, and waits.
func (r *tree) stop() int {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Fatal(err)
	}
	return r.wait()
}

// cmgr runs a client command.
func (r *tree) cmgr(args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	c := exec.Command(binary, append(args, "--socket", r.sock)...)
	c.Env = r.env
	var out, err bytes.Buffer
	c.Stdout, c.Stderr = &out, &err
	if e := c.Run(); e != nil && c.ProcessState == nil {
		r.t.Fatal(e)
	}
	return out.String(), err.String(), c.ProcessState.ExitCode()
}

// must is cmgr that has to succeed.
func (r *tree) must(args ...string) string {
	r.t.Helper()
	out, err, code := r.cmgr(args...)
	if code != 0 {
		r.t.Fatalf("cmgr %s: exit code %d\n%s%s\nthe manager said\n%s", strings.Join(args, " "), code, out, err, r.err())
	}
	return out
}

// until waits until ok, polling; what says for what.
func (r *tree) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%s: waited in vain; the manager said\n%s%s", what, r.out(), r.err())
		}
		select {
		case <-r.exited:
			if !ok() {
				r.t.Fatalf("%s: the manager ended with %d, having said\n%s%s", what, r.code, r.out(), r.err())
			}
			return
		default:
		}
	}
}

// up waits until the manager answers.
func (r *tree) up() {
	r.t.Helper()
	r.until("the management socket", func() bool { _, _, code := r.cmgr("list"); return code == 0 })
}

// An event is a line of `cmgr run --json` or `cmgr events --json`.
type event struct {
	Kind    string
	Moniker string
	Text    string
	Error   string
	Exit    *struct {
		Code   int
		Signal string
		Cause  string
	}
}

// events are the changes of state in the output of run --json.
func (r *tree) events() []event {
	r.t.Helper()
	var out []event
	for line := range strings.Lines(r.out()) {
		if !strings.HasSuffix(line, "\n") {
			break // the rest of it has not come yet
		}
		var l struct{ Event *event }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			r.t.Fatalf("not JSON: %v: %s", err, line)
		}
		if l.Event != nil {
			out = append(out, *l.Event)
		}
	}
	return out
}

func count(es []event, kind string) int {
	n := 0
	for _, e := range es {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// at is the index of the first such event, -1 if there is none.
func at(es []event, kind, moniker string) int {
	for i, e := range es {
		if e.Kind == kind && e.Moniker == moniker {
			return i
		}
	}
	return -1
}

// elf offers the runner to all children.
const elf = `offer: [ { runner: "elf", from: "parent", to: "#a" } ]`
