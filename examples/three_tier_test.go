package examples

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// A manager of an example that runs until it is told to end.
type manager struct {
	t       *testing.T
	cmgr    string // the program
	socket  string
	command []string
	run     *exec.Cmd
	said    bytes.Buffer // to be read after the end
}

func newManager(t *testing.T, args ...string) *manager {
	t.Helper()
	cmgr := filepath.Join(t.TempDir(), "cmgr")
	if out, err := exec.Command("go", "build", "-o", cmgr, "../cmd/cmgr").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "cmgr") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &manager{t: t, cmgr: cmgr, socket: filepath.Join(dir, "s")}
	m.command = append([]string{"run", "--stay", "--socket", m.socket, "--state", filepath.Join(t.TempDir(), "state")}, args...)
	return m
}

func (m *manager) start() {
	m.t.Helper()
	m.run = exec.Command(m.cmgr, m.command...)
	m.run.Stdout, m.run.Stderr = &m.said, &m.said
	if err := m.run.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { m.run.Process.Kill(); m.run.Wait() })
	m.until("the manager", func() bool { _, err := os.Stat(m.socket); return err == nil })
}

// stop ends it; it must end well.
func (m *manager) stop() {
	m.t.Helper()
	_ = m.run.Process.Signal(syscall.SIGINT)
	if err := m.run.Wait(); err != nil {
		m.t.Errorf("%v; it said\n%s", err, m.said.Bytes())
	}
}

// do runs a client command that must succeed.
func (m *manager) do(args ...string) string {
	m.t.Helper()
	out, err := exec.Command(m.cmgr, append(args, "--socket", m.socket)...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("cmgr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// until waits until ok.
func (m *manager) until(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(3 * bound); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("waited for %s in vain", what)
		}
	}
}

// TestThreeTier puts a web server, an application and a database through a crash and a restart each, while somebody writes: what was
// acknowledged is there in the end, once and in its order, and also for the next manager.
func TestThreeTier(t *testing.T) {
	for _, tool := range []string{"python3", "nginx", "postgres", "initdb", "curl"} {
		needs.Tool(t, tool)
	}
	command := []string{"three-tier/user.cml"}
	confined := os.Getuid() == 0
	if confined {
		needs.User(t, "www-data")
		needs.User(t, "postgres")
		command = []string{"three-tier/root.cml"}
	}
	m := newManager(t, command...)
	curl := func(args ...string) (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		out, err := exec.CommandContext(ctx, "curl", append(args, "--silent", "--fail", "--unix-socket", m.socket+".exposed/http")...).Output()
		return string(out), err == nil
	}
	m.start()
	m.until("the web server", func() bool { _, ok := curl("http://book/"); return ok })

	var written atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			n := written.Load()
			select {
			case <-stop:
				return
			default:
			}
			if out, ok := curl("--data", fmt.Sprint("note ", n), fmt.Sprint("http://book/", n)); ok && out == "thanks\n" {
				written.Add(1)
			} else {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}()
	more := func() {
		t.Helper()
		before := written.Load()
		m.until("more notes", func() bool { return written.Load() >= before+3 })
	}
	for _, tier := range []string{"/db", "/app", "/web"} {
		more()
		m.do("signal", "KILL", tier)
		more()
		m.do("restart", tier)
	}
	more()
	close(stop)
	<-stopped

	var want strings.Builder
	for n := range written.Load() {
		fmt.Fprintf(&want, "note %d\n", n)
	}
	if got, _ := curl("http://book/"); got != want.String() {
		t.Errorf("the book has\n%swant\n%s", got, want.String())
	}
	if confined {
		const look = `ls -A /sql /svc /data; cat /etc/shadow; id -un`
		out, _ := exec.Command(m.cmgr, "explore", "/app", "-c", look, "--socket", m.socket).CombinedOutput()
		for _, part := range []string{".s.PGSQL.5432\n", "'/svc': No such file", "'/data': No such file", "/etc/shadow: No such file", "nobody\n"} {
			if !strings.Contains(string(out), part) {
				t.Errorf("the application sees %s, want %q", out, part)
			}
		}
	}
	m.stop()
	m.start()
	m.until("the book", func() bool { got, ok := curl("http://book/"); return ok && got == want.String() })
	m.stop()
}
