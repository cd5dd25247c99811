package confine

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
)

func TestMain(m *testing.M) {
	if os.Args[0] == "/pkg/component" || os.Args[0] == "/opt-bin/setuid" {
		component(os.Args)
	}
	// As an ordinary user these are the tests of what an ordinary user gets.
	reenterErr = Reenter()
	os.Exit(leak.Run(m))
}

var reenterErr error

const bound = 2 * time.Minute

// A rig starts programs in worlds.
type rig struct {
	*Confiner
	launcher *proc.Launcher
}

func newRig(t testing.TB) *rig {
	t.Helper()
	if reenterErr != nil {
		needs.Userns(t)
		t.Fatal(reenterErr)
	}
	c, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	l, err := proc.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return &rig{c, l}
}

// run runs spec in a world with in and returns its output.
func (r *rig) run(t testing.TB, in Contents, spec *proc.Spec) (string, proc.Status) {
	t.Helper()
	out, st, err := r.try(t, in, spec)
	if err != nil {
		t.Fatal(err)
	}
	return out, st
}

func (r *rig) try(t testing.TB, in Contents, spec *proc.Spec) (string, proc.Status, error) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file := spec.Path
	if strings.HasPrefix(spec.Args[0], "/pkg/") {
		file = spec.Args[0]
	}
	w, release, err := r.World(in, file, spec.Dir)
	if err != nil {
		return "", proc.Status{}, err
	}
	defer release()
	spec.World = w
	spec.Files = []int{-1, int(f.Fd()), int(f.Fd())}
	ends := make(chan proc.Status, 1)
	if _, err := r.launcher.Start(spec, func(st proc.Status) { ends <- st }); err != nil {
		return "", proc.Status{}, err
	}
	select {
	case st := <-ends:
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b), st, nil
	case <-time.After(bound):
		t.Fatal("it does not end")
		panic("unreachable")
	}
}

func sh(script string) *proc.Spec {
	return &proc.Spec{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin:/usr/sbin"}}
}

func openDir(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestWorldIsWhatWasGiven(t *testing.T) {
	r := newRig(t)
	pkg, data := t.TempDir(), t.TempDir()
	os.WriteFile(pkg+"/hello", []byte("package\n"), 0o644)
	os.WriteFile(data+"/file", []byte("data\n"), 0o644)
	in := Contents{Package: openDir(t, pkg), Items: []Item{{"/data/deep", openDir(t, data), manifest.RightsRW}}}
	out, st := r.run(t, in, sh("echo $(ls /) : $(ls /dev) : $(cat /pkg/hello /data/deep/file) : $$; echo new > /data/deep/new"))
	want := ": fd full null random shm stderr stdin stdout urandom zero : package data : 1\n"
	if !strings.HasSuffix(out, want) || st != (proc.Status{}) {
		t.Errorf("%q, %+v; want …%q", out, st, want)
	}
	if b, _ := os.ReadFile(data + "/new"); string(b) != "new\n" {
		t.Errorf("it wrote %q", b)
	}
	root, _, _ := strings.Cut(out, " : ")
	for _, d := range strings.Fields(root) {
		if !strings.Contains(" bin data dev etc lib lib32 lib64 libx32 pkg proc sbin tmp usr ", " "+d+" ") {
			t.Errorf("it finds /%s", d)
		}
	}
}
