package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// svdir is a services directory, and a tree over it.
type svdir struct {
	*tree
	dir string
}

func newSvdir(t *testing.T) *svdir {
	t.Helper()
	needs.Cgroup2(t)
	dir := t.TempDir()
	return &svdir{run(t, write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "sv", url: "sv.cml", startup: "eager" } ],
			offer: [ { runner: "runit", from: "parent", to: "#sv" } ],
		}`,
		"sv.cml": fmt.Sprintf(`{
			program: { runner: "runit", service_dirs: %q },
			collections: [ { name: "services", durability: "transient" } ],
		}`, dir),
	}), "--stay"), dir}
}

// service makes a service directory elsewhere, of scripts by name, and links to it, as people do.
func (d *svdir) service(name string, scripts ...string) (target string) {
	d.t.Helper()
	target = filepath.Join(d.t.TempDir(), name)
	for i := 0; i < len(scripts); i += 2 {
		put(d.t, filepath.Join(target, scripts[i]), "#!/bin/sh\n"+scripts[i+1]+"\n")
	}
	if err := os.Symlink(target, filepath.Join(d.dir, name)); err != nil {
		d.t.Fatal(err)
	}
	return target
}

// sv is what `cmgr sv` says of the services in dir.
func sv(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := exec.Command(binary, append([]string{"sv"}, args...)...)
	c.Env = append(os.Environ(), "SVDIR="+dir)
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out)
}

// content is what is in a file, "" if it isn't there.
func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// running are the children that run.
func (d *svdir) running() string {
	d.t.Helper()
	return strings.ReplaceAll(strings.ReplaceAll(d.must("list", "--only", "running"), "/sv/services:", ""), "\n", " ")
}

func (d *svdir) awaits(want string) {
	d.t.Helper()
	var got string
	d.until("running "+want, func() bool { got = d.running(); return got == want })
}

func (d *svdir) move(from, to string) {
	d.t.Helper()
	if err := os.Rename(filepath.Join(d.dir, from), filepath.Join(d.dir, to)); err != nil {
		d.t.Fatal(err)
	}
}

// TestServices: a services directory as a component: its children come and go with what is in it.
func TestServices(t *testing.T) {
	d := newSvdir(t)
	d.up()
	d.awaits("/ /sv ")
	const idle = "echo up as $CMGR_MONIKER; exec sleep 1000"
	web := d.service("web", "run", idle)
	db := d.service("my db", "run", idle)
	d.awaits("/ /sv my_db web ")
	d.until("the output", func() bool { return strings.Contains(d.out(), "| up as /sv/services:web\n") })

	// sv works on each.
	sv := func(args ...string) string { return sv(t, d.dir, args...) }
	if out := sv("status", "web"); !strings.HasPrefix(out, "run: web: (pid ") {
		t.Errorf("sv status: %q", out)
	}
	if out := sv("down", "web"); out != "" {
		t.Errorf("sv down: %q", out)
	}
	d.until("down", func() bool { return strings.HasPrefix(sv("status", "web"), "down: web: ") })
	sv("-v", "up", "web")
	// As under runsvdir, what is told to exit is supervised again.
	pid := content(t, web+"/supervise/pid")
	sv("exit", "web")
	d.until("another process", func() bool {
		p := content(t, web+"/supervise/pid")
		return p != "" && p != pid
	})

	// Renamed: another child, of the same directory, which has one supervisor at a time.
	d.move("web", "www")
	d.awaits("/ /sv my_db www ")
	d.move("www", ".www")
	d.awaits("/ /sv my_db ")
	d.move(".www", "web")
	d.awaits("/ /sv my_db web ")
	// Replaced by another directory of that name.
	other := filepath.Join(t.TempDir(), "web")
	put(t, other+"/run", "#!/bin/sh\necho another web; exec sleep 1000\n")
	if err := os.Symlink(other, d.dir+"/.new"); err != nil {
		t.Fatal(err)
	}
	d.move(".new", "web")
	d.until("the other", func() bool { return strings.Contains(d.out(), "/sv/services:web | another web\n") })
	if got := content(t, web+"/supervise/stat"); got != "down\n" {
		t.Errorf("the one before is %q", got)
	}
	if err := os.Remove(d.dir + "/my db"); err != nil {
		t.Fatal(err)
	}
	d.awaits("/ /sv web ")
	if got := content(t, db+"/supervise/stat"); got != "down\n" {
		t.Errorf("the one that was removed is %q", got)
	}
	if _, stderr, code := d.cmgr("show", "/sv/services:my_db"); code == 0 || !strings.Contains(stderr, "my_db") {
		t.Errorf("it is still shown: %s", stderr)
	}

	d.must("restart", "/sv")
	d.awaits("/ /sv web ")
	d.must("stop", "/sv")
	d.until("its children gone", func() bool { return !strings.Contains(d.must("list"), "services:") })
	if got := content(t, other+"/supervise/stat"); got != "down\n" {
		t.Errorf("after the stop it is %q", got)
	}
}

// TestServicesOneProcess: no service in the tree has a supervisor process: the manager's children are their programs.
func TestServicesOneProcess(t *testing.T) {
	d := newSvdir(t)
	d.up()
	const n = 20
	want := map[string]int{"sleep": n, "cat": n}
	for i := range n {
		d.service(fmt.Sprintf("s%d", i), "run", "exec sleep 1000", "log/run", "exec cat")
	}
	var got map[string]int
	d.until("only programs", func() bool {
		got = map[string]int{}
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil {
			t.Fatal(err)
		}
		for _, stat := range stats {
			b, err := os.ReadFile(stat) // PID (COMM) STATE PPID …
			if err != nil {
				continue // it has ended
			}
			open, end := strings.IndexByte(string(b), '('), strings.LastIndexByte(string(b), ')')
			if f := strings.Fields(string(b[end+1:])); f[1] == strconv.Itoa(d.cmd.Process.Pid) {
				got[string(b[open+1:end])]++
			}
		}
		return maps.Equal(got, want)
	})
	if code := d.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, d.err())
	}
}

// TestServicesNeedACollection: what is missing in the manifest is told, with its place.
func TestServicesNeedACollection(t *testing.T) {
	needs.Cgroup2(t)
	r := run(t, write(t, map[string]string{
		"root.cml": `{ program: { runner: "runit", service_dirs: "/etc/service" } }`,
	}))
	if code := r.wait(); code != 1 || !strings.Contains(r.err(),
		`root.cml:1:31: program.service_dirs: needs a collection for its services: add collections: [{ name: "services"`) {
		t.Errorf("%d: %s", code, r.err())
	}
}
