package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/needs"
)

func TestListenModeAndRemoval(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen("a", socket, NoGroup)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(socket); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", i, err)
	}
	l.Close()
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestListenRefusesALiveManagerAndReplacesADeadOne(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen("a", socket, NoGroup)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Listen("a", socket, NoGroup)
	want := fmt.Sprintf("a manager named a is already running (pid %d)", os.Getpid())
	if p := ProblemOf(err); p.GetMessage() != want || p.GetKind() != "precondition" {
		t.Errorf("second manager: %v, want %q", p, want)
	}
	// As a killed process does, leave the socket behind.
	l.SetUnlinkOnClose(false)
	l.Close()
	l, err = Listen("a", socket, NoGroup)
	if err != nil {
		t.Fatalf("after a dead manager: %v", err)
	}
	l.Close()
}

func TestListenLeavesFilesAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("a", file, NoGroup); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "x" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

func TestListenSaysWhatIsWrongWithAPath(t *testing.T) {
	for what, c := range map[string]struct{ manager, socket, want string }{
		"name":   {"a/b", "", "[A-Za-z0-9_.-]"},
		"length": {"a", filepath.Join(t.TempDir(), strings.Repeat("x", 120)), "longer than the 107 bytes"},
		"dir":    {"a", filepath.Join(t.TempDir(), "none", "s"), "no such file"},
	} {
		if _, err := Listen(c.manager, c.socket, NoGroup); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", what, err, c.want)
		}
	}
}

func TestOneOfManyThatStartAtOnceWins(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	dead, err := Listen("a", socket, NoGroup)
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []net.Listener
	for range 8 {
		wg.Go(func() {
			if l, err := Listen("a", socket, NoGroup); err == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, l)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d managers got the socket", len(won))
	}
	for _, l := range won {
		l.Close()
	}
}

func TestPrivateDirRefusesWhatOthersCanEnter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "cmgr")
	for range 2 { // made, and found
		if err := privateDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", i, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := privateDir(dir); capabilities.CodeOf(err) != capabilities.Denied {
		t.Errorf("mode 0755: %v", err)
	}
}

func TestNamedManagers(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root's sockets are in /run/cmgr, which is not this test's")
	}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	l, err := Listen("a", "", NoGroup)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := Running(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("running: %v", got)
	}
	_, err = Dial(t.Context(), "b", "")
	if p := ProblemOf(err); !strings.Contains(p.GetHint(), "(running: a)") {
		t.Errorf("hint: %q", p.GetHint())
	}
}

func TestDialWithoutAManager(t *testing.T) {
	dir := t.TempDir()
	_, err := Dial(t.Context(), "default", filepath.Join(dir, "none"))
	if p := ProblemOf(err); !strings.HasPrefix(p.GetMessage(), "no manager listens at ") || p.GetKind() != "unavailable" {
		t.Errorf("got %v", p)
	}
}

func TestOuterID(t *testing.T) {
	for _, c := range []struct {
		idMap string
		want  int
	}{
		{"         0          0 4294967295\n", 0},
		{"         0       1000          1\n", 1000},
		{"1 100000 65535\n0 1000 1\n", 1000},
		{"5 5 5\n", 0},
		{"", 0},
	} {
		if got := outerID(c.idMap, 0); got != c.want {
			t.Errorf("outerID(%q) = %d, want %d", c.idMap, got, c.want)
		}
	}
}

func TestCurl(t *testing.T) {
	curl := needs.Tool(t, "curl")
	_, _, socket := serve(t, shop(t))
	call := func(method, body string) map[string]any {
		t.Helper()
		out, err := exec.Command(curl, "-s", "--unix-socket", socket, "-H", "Content-Type: application/json", "-d", body,
			"http://cmgr/cmgr.control.v1.Control/"+method).Output()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		return got
	}
	if got := call("List", "{}")["instances"].([]any); len(got) != 3 || got[1].(map[string]any)["moniker"] != "/core" {
		t.Errorf("List: %v", got)
	}
	got := call("Start", `{"query": "netstack", "unknown": 1}`)["instance"].(map[string]any)
	if got["state"] != "started" || got["start_reason"] != operator || got["gave_up"] != false {
		t.Errorf("Start: %v", got)
	}
	got = call("Start", `{"query": "/cor"}`)
	if got["code"] != "not_found" || !strings.HasPrefix(got["message"].(string), "find /cor: ") {
		t.Errorf("Start of nothing: %v", got)
	}
}

// The main thread stays with the main goroutine, so that none that becomes another user is the one that /proc/self shows.
func init() { runtime.LockOSThread() }

// asUser runs f on a thread that has become that user, in those groups beside the one of this process, and ends with it.
func asUser(uid int, f func(), groups ...uint32) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: nobody else may get this thread
		var first *uint32
		if len(groups) > 0 {
			first = &groups[0]
		}
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0); e != 0 {
			panic(e)
		}
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			panic(e)
		}
		f()
	}()
	<-done
}

// reachable lets all users into the directories that lead to socket.
func reachable(t *testing.T, socket string) {
	t.Helper()
	for dir := filepath.Dir(socket); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// ask asks for the list of instances by one HTTP request.
func ask(socket string) (answer []byte, err error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	const body = `{}`
	fmt.Fprintf(c, "POST /cmgr.control.v1.Control/List HTTP/1.1\r\nHost: cmgr\r\nConnection: close\r\nContent-Type: "+
		"application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return io.ReadAll(c)
}

func TestOtherUsersAreRefused(t *testing.T) {
	needs.Root(t)
	const nobody = 65534
	_, _, socket := serve(t, shop(t))
	reachable(t, socket) // not even by somebody who got around the mode of the socket
	var answer []byte
	var err error
	asUser(nobody, func() { answer, err = ask(socket) })
	if err == nil {
		t.Errorf("nobody could connect to a socket of mode 0600: %s", answer)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	asUser(nobody, func() { answer, err = ask(socket) })
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 403")) || !bytes.Contains(answer,
		[]byte("user 65534 may not manage components of user 0")) {
		t.Errorf("nobody got %s, %v", answer, err)
	}
	if answer, err = ask(socket); err != nil || !bytes.Contains(answer, []byte("/core")) {
		t.Errorf("root got %s, %v", answer, err)
	}
}

// Members of the group that the configuration names may manage, by their first group or another, and others still may not.
func TestGroupMayManage(t *testing.T) {
	needs.Root(t)
	const nobody, group = 65534, 4321
	_, _, socket := serve(t, shop(t), func(cfg *Config) { cfg.Group = group })
	reachable(t, socket)
	i, err := os.Stat(socket)
	if err != nil || i.Mode().Perm() != 0o660 || i.Sys().(*syscall.Stat_t).Gid != group {
		t.Errorf("%v, %v; want mode 0660", i, err)
	}
	var answer []byte
	asUser(nobody, func() { answer, err = ask(socket) }, 7, group)
	if err != nil || !bytes.Contains(answer, []byte("/core")) {
		t.Errorf("a member got %s, %v", answer, err)
	}
	many := make([]uint32, 1000)
	for n := range many {
		many[n] = uint32(100_000 + n)
	}
	many[999] = group
	asUser(nobody, func() { answer, err = ask(socket) }, many...)
	if err != nil || !bytes.Contains(answer, []byte("/core")) {
		t.Errorf("a member of many groups got %s, %v", answer, err)
	}
	asUser(nobody, func() { answer, err = ask(socket) }, 7)
	if err == nil {
		t.Errorf("nobody could connect to a socket of mode 0660: %s", answer)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	asUser(nobody, func() { answer, err = ask(socket) }, 7)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 403")) {
		t.Errorf("nobody got %s, %v", answer, err)
	}
}
