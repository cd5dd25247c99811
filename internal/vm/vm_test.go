// Package vm boots virtual machines whose process no. 1 is cmgr, and reads what they print on their serial line: what needs a machine of
// its own, such as a power off, and a kernel with all controllers of cgroup v2. It is emulated (TCG), since where tests run there is
// mostly no KVM. `make vm` gets a kernel and runs these tests.
//
// A machine is a directory of testdata: below root, what its initial file system holds beside cmgr and busybox; cmdline, what is
// added to the kernel's; and want, what the serial line must say: its lines in that order, each as part of a line, others between
// them; a line that begins with "! " must not be there at all.
package vm

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// bound is how long a machine may take. Alone it takes about ten seconds, or thirty where the tests are many.
const bound = 10 * time.Minute

// applets are what the machines' scripts use of busybox.
var applets = []string{
	"cat", "chmod", "echo", "env", "grep", "head", "kill", "ln", "ls", "mkdir", "mount", "ps", "sed", "seq", "sh", "sleep", "stat", "tail",
	"test", "touch", "tr", "true", "wc",
}

func TestVM(t *testing.T) {
	kernel := needs.Kernel(t)
	qemu, busybox := needs.Tool(t, "qemu-system-x86_64"), needs.Tool(t, "busybox")
	cmgr := filepath.Join(t.TempDir(), "cmgr")
	build := exec.Command("go", "build", "-o", cmgr, "../../cmd/cmgr")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	machines, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range machines {
		t.Run(m.Name(), func(t *testing.T) {
			dir := filepath.Join("testdata", m.Name())
			initrd := filepath.Join(t.TempDir(), "initrd.gz")
			if err := writeInitrd(initrd, filepath.Join(dir, "root"), cmgr, busybox); err != nil {
				t.Fatal(err)
			}
			cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(dir, "want"))
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			said, err := boot(qemu, kernel, initrd, strings.TrimSpace(string(cmdline)))
			t.Logf("%v; the serial line said\n%s", time.Since(began).Round(time.Second), said)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, said, string(want))
		})
	}
}

// boot runs a machine until it powers off or reboots, and returns what it said on its serial line.
func boot(qemu, kernel, initrd, cmdline string) (string, error) {
	c := exec.Command(qemu, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append",
		"console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off tsc=unstable random.trust_cpu=on lsm=landlock "+cmdline)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		return "", err
	}
	late := time.AfterFunc(bound, func() { _ = c.Process.Kill() })
	err := c.Wait()
	if !late.Stop() {
		err = fmt.Errorf("it did not end within %v", bound)
	}
	return strings.ReplaceAll(said.String(), "\r", ""), err
}

// escapes are what a terminal would take for orders: the firmware clears its screen.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?=]*[A-Za-z]|c)")

func compare(t *testing.T, said, want string) {
	t.Helper()
	said = escapes.ReplaceAllString(said, "")
	rest := said
	for line := range strings.Lines(want) {
		line = strings.TrimSuffix(line, "\n")
		if not, ok := strings.CutPrefix(line, "! "); ok {
			if strings.Contains(said, not) {
				t.Errorf("it must not say %q", not)
			}
			continue
		}
		_, after, ok := strings.Cut(rest, line)
		if !ok {
			t.Errorf("it did not say %q, or too early", line)
			continue
		}
		rest = after
	}
}

// writeInitrd writes an initial file system: root, and cmgr and busybox with their links. /init is cmgr.
func writeInitrd(path, root, cmgr, busybox string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	z, _ := gzip.NewWriterLevel(out, gzip.BestSpeed)
	a := &archive{w: z, made: map[string]bool{".": true}}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "var/lib", "usr", "lib", "root"} {
		a.dir(dir)
	}
	a.file("bin/cmgr", cmgr, 0o755)
	a.file("bin/busybox", busybox, 0o755)
	for _, name := range applets {
		a.link("bin/"+name, "busybox")
	}
	for _, name := range []string{"runsv", "runsvdir", "sv", "svlogd", "chpst", "runit", "init"} {
		a.link("sbin/"+name, "/bin/cmgr")
	}
	a.link("init", "sbin/init")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		a.file(name, path, st.Mode().Perm()|0o444)
		return a.err
	})
	a.entry("TRAILER!!!", 0, nil)
	for _, e := range []error{a.err, z.Close(), out.Close()} {
		if err == nil {
			err = e
		}
	}
	return err
}

// An archive is one of cpio's newc format, which the kernel unpacks (initramfs buffer format).
type archive struct {
	w    io.Writer
	made map[string]bool
	n    int
	err  error
}

func (a *archive) entry(name string, mode uint32, body []byte) {
	if a.err != nil {
		return
	}
	a.n++
	var b bytes.Buffer
	fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.n, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0)
	pad := func() { b.Write(make([]byte, (4-b.Len()%4)%4)) }
	b.WriteString(name + "\x00")
	pad()
	b.Write(body)
	pad()
	_, a.err = a.w.Write(b.Bytes())
}

func (a *archive) dir(name string) {
	if a.made[name] {
		return
	}
	a.dir(filepath.Dir(name))
	a.made[name] = true
	a.entry(name, 0o040755, nil)
}

func (a *archive) link(name, to string) {
	a.dir(filepath.Dir(name))
	a.entry(name, 0o120777, []byte(to))
}

func (a *archive) file(name, from string, mode fs.FileMode) {
	b, err := os.ReadFile(from)
	if err != nil {
		a.err = err
		return
	}
	a.dir(filepath.Dir(name))
	a.entry(name, 0o100000|uint32(mode.Perm()), b)
}
