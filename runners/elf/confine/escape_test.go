package confine

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/probe"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
)

// A stage is a component's package and directories, and the world outside that it must not reach.
type stage struct {
	*rig
	dir   string
	in    Contents
	facts facts
}

// ownCopy makes path a copy of this program, which everybody may execute.
func ownCopy(t testing.TB, path string) {
	t.Helper()
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, exe); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func newStage(t *testing.T) *stage {
	s := &stage{rig: newRig(t), dir: t.TempDir()}
	path := func(name string) string { return filepath.Join(s.dir, name) }
	file := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path(name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"pkg", "data", "ro", "bytes", "names", "bin"} {
		if err := os.Mkdir(path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ownCopy(t, path("pkg/component"))
	file("secret", "secret of the host\n", 0o644)
	for _, d := range []string{"ro", "bytes", "names"} {
		file(d+"/file", "text\n", 0o644)
	}
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	file("data/program", string(program), 0o755)
	file("data/private", "private\n", 0o600)
	file("bin/setuid", "", 0o755)
	os.Remove(path("bin/setuid"))
	ownCopy(t, path("bin/setuid"))
	if !inUserNamespace() {
		for name, uid := range map[string]int{"data/private": 12345, "bin/setuid": 12345} {
			if err := os.Chown(path(name), uid, uid); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mknod(path("data/device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	} else {
		os.Chmod(path("data/private"), 0) // nobody's file is the user's own, so only the mode keeps it
	}
	if err := os.Chmod(path("bin/setuid"), 0o6755|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	s.in = Contents{Package: openDir(t, path("pkg")), Items: []Item{
		{"/data", openDir(t, path("data")), manifest.RightsRW},
		{"/ro", openDir(t, path("ro")), manifest.RightsR},
		{"/bytes", openDir(t, path("bytes")), manifest.RightsR | manifest.RightWriteBytes},
		{"/names", openDir(t, path("names")), manifest.RightsR | manifest.RightModifyDirectory},
		{"/opt-bin", openDir(t, path("bin")), manifest.RightsRX},
	}}
	cgroup, err := probe.Cgroup()
	if err != nil {
		cgroup = "/sys/fs/cgroup"
	}
	s.facts = facts{
		Secret: path("secret"), Manager: os.Getpid(), Unix: path("socket"), SHM: 0x636d6772, Shm: fmt.Sprint("cmgr-test-", os.Getpid()),
		Cgroup: cgroup, Setuid: "/opt-bin/setuid", Abstract: fmt.Sprint("@cmgr-test-", os.Getpid()),
		Sibling2: fmt.Sprint("@cmgr-sibling-", os.Getpid()),
	}
	listen := func(network, address string) string {
		t.Helper()
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	s.facts.TCP = listen("tcp", "127.0.0.1:0")
	listen("unix", s.facts.Unix)
	listen("unix", s.facts.Abstract)
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	s.facts.UDP = u.LocalAddr().String()
	if id, _, errno := unix.Syscall(unix.SYS_SHMGET, uintptr(s.facts.SHM), 4096, unix.IPC_CREAT|0o666); errno == 0 {
		t.Cleanup(func() { unix.Syscall(unix.SYS_SHMCTL, id, unix.IPC_RMID, 0) })
	}
	if err := os.WriteFile("/dev/shm/"+s.facts.Shm, nil, 0o666); err == nil {
		t.Cleanup(func() { os.Remove("/dev/shm/" + s.facts.Shm) })
	}
	tmp, err := os.CreateTemp("/tmp", "cmgr-test")
	if err != nil {
		t.Fatal(err)
	}
	tmp.Close()
	t.Cleanup(func() { os.Remove(tmp.Name()) })
	s.facts.TmpFile = tmp.Name()
	return s
}

// sibling starts another component, with the same grants, which listens on an abstract socket.
func (s *stage) sibling(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	world, release, err := s.World(s.in, "/pkg/component", "/")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ends := make(chan proc.Status, 1)
	p, err := s.launcher.Start(&proc.Spec{
		Path: s.dir + "/pkg/component", Args: []string{"/pkg/component", "sibling"}, Env: []string{"ABSTRACT=" + s.facts.Sibling2},
		Files: []int{-1, int(w.Fd())}, World: world,
	}, func(st proc.Status) { ends <- st })
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Signal(unix.SIGKILL)
		<-ends
	})
	if line, _ := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the sibling says %q", line)
	}
	s.facts.Sibling = p.PID()
}

// weaker are the attempts that succeed where the kernel, or an ordinary user, has less.
func (s *stage) weaker() map[string]string {
	w := map[string]string{}
	if !s.memfd {
		w[memfdAttempt] = "vm.memfd_noexec cannot be set"
	}
	if len(s.in.Grants.Capabilities) > 0 {
		w["have any capability"] = "one is granted"
	}
	if s.Confiner.landlock < landlockScopes {
		w[siblingAttempt] = "no Landlock scopes"
		if s.in.Grants.Network {
			w[abstractAttempt] = "no Landlock scopes"
		}
	}
	if s.Confiner.landlock < landlockRefer {
		for _, a := range attempts {
			if strings.Contains(a.name, "only bytes may") || strings.Contains(a.name, "only names may") {
				w[a.name] = "no Landlock"
			}
		}
	}
	return w
}

func (s *stage) escape(t *testing.T) {
	s.facts.Network = s.in.Grants.Network
	text, err := json.Marshal(s.facts)
	if err != nil {
		t.Fatal(err)
	}
	nice := func(pid int) int {
		n, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	manager, sibling := nice(0), nice(s.facts.Sibling)
	out, st := s.run(t, s.in, &proc.Spec{
		Path: s.dir + "/pkg/component", Args: []string{"/pkg/component", "attempts"}, Env: []string{"FACTS=" + string(text)},
	})
	if b, err := os.ReadFile(s.facts.TmpFile); err != nil || len(b) > 0 {
		t.Errorf("the host's /tmp was changed: %q, %v", b, err)
	}
	if nice(0) != manager || nice(s.facts.Sibling) != sibling {
		t.Error("others of the user were slowed down")
	}
	var outcomes []outcome
	if err := json.Unmarshal([]byte(out), &outcomes); err != nil || len(outcomes) != len(attempts) || st.Code != 0 {
		t.Fatalf("%v, %+v:\n%s", err, st, out)
	}
	weaker := s.weaker()
	for _, o := range outcomes {
		why, weak := weaker[o.Name]
		switch {
		case o.Escaped == "":
			t.Logf("%s: %s", o.Name, o.How)
		case weak:
			t.Logf("%s: %s (weaker here: %s)", o.Name, o.Escaped, why)
		default:
			t.Errorf("%s: %s", o.Name, o.Escaped)
		}
	}
	t.Logf("%d attempts, landlock %d", len(outcomes), s.Confiner.landlock)
}

func TestEscapes(t *testing.T) {
	s := newStage(t)
	s.sibling(t)
	for _, g := range []Grants{{}, {Network: true}, {Capabilities: []string{"CAP_NET_BIND_SERVICE"}}} {
		s.in.Grants = g
		t.Run(fmt.Sprintf("%+v", g), s.escape)
	}
	// The attempts must be ones that succeed without confinement, or they would show nothing. Not all do for everybody, and some
	// are no joke, so these.
	t.Run("unconfined", func(t *testing.T) {
		for name, err := range map[string]error{
			"read a file of the host": reads(func(f *facts) string { return f.Secret })(&s.facts),
			"connect by TCP":          dials("tcp", func(f *facts) string { return f.TCP })(&s.facts),
			"connect to a socket":     dials("unix", func(f *facts) string { return f.Unix })(&s.facts),
			"abstract socket":         dials("unix", func(f *facts) string { return f.Abstract })(&s.facts),
			"signal the manager":      unix.Kill(s.facts.Manager, 0),
			"signal the sibling":      unix.Kill(s.facts.Sibling, 0),
		} {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// As root these tests run once more as an ordinary user.
func TestAsOrdinaryUser(t *testing.T) {
	needs.Root(t)
	needs.Userns(t)
	dir, err := os.MkdirTemp("/tmp", "cmgr-user") // not t.TempDir, above which others may not look
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	ownCopy(t, dir+"/test")
	c := exec.Command(dir+"/test", "-test.v", "-test.count=1", "-test.run=^Test[^A]")
	c.Dir = dir
	c.Env = []string{"TMPDIR=" + dir, "PATH=" + os.Getenv("PATH")}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	t.Logf("%s", out)
	if !strings.Contains(string(out), "PASS") {
		t.Error("it did not pass")
	}
}
