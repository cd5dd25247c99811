package elf

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
)

// explore starts script as an exploration of the component of b, and returns it with what it says.
func (r *rig) explore(t *testing.T, b runners.Block, beside runners.Program, script string) (runners.Program, *os.File) {
	t.Helper()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	errs, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tools, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tools.Name()+"/hello", []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	info := r.info
	info.Program, info.Namespace, info.View = b, r.entries(t), t.TempDir()
	p, err := r.Explore(t.Context(), info, runners.Exploration{
		Command: []string{"/bin/sh", "-c", script}, Env: []string{"TERM=xyz"}, Files: [3]*os.File{in, w, errs}, Tools: tools, Beside: beside,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, out
}

func TestExplore(t *testing.T) {
	eachBackend(t, func(t *testing.T, r *rig) {
		b := sh("echo up; exec sleep 1000", "environ", []string{"A=b", "TERM=dumb"}, "umask", "077", "limits.nofile", "77:99")
		p, out := r.explore(t, b, nil, "echo $A $TERM; umask; ulimit -n; hello; exit 3")
		said, err := io.ReadAll(out)
		if string(said) != "b xyz\n0077\n77\nhello\n" || err != nil {
			t.Errorf("it says %q, %v", said, err)
		}
		if x := wait(t, p); x.Code != 3 || x.Cause != runners.BySelf {
			t.Errorf("it ended by %v", x)
		}

		main := r.start(t, b)
		main.line("up")
		p, out = r.explore(t, b, main.Program, "echo in; exec sleep 1000")
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		if r.Jobs.Backend().Name == job.Cgroup2 {
			pids, err := p.(runners.ProcessLister).Processes(t.Context())
			all, err2 := main.Program.(runners.ProcessLister).Processes(t.Context())
			if err != nil || err2 != nil || len(pids) != 1 || !slices.Contains(all, pids[0]) || all[0] == pids[0] {
				t.Errorf("its processes are %v, %v, the component's %v, %v", pids, err, all, err2)
			}
		} else { // whoever gave the order ends it
			_ = p.Kill(context.Background())
		}
		_ = main.Kill(context.Background())
		main.ends(-1, 9, runners.ByKill)
		if x := wait(t, p); x.Signal != 9 || r.Jobs.Backend().Name == job.Cgroup2 && !strings.Contains(x.Detail, "the component has ended") {
			t.Errorf("it ended by %v", x)
		}
	})
}

// Beside a run it is in that one's world: the same mounts, private files, and processes, under the same limits.
func TestExploreJoins(t *testing.T) {
	needs.Cgroup2(t)
	r := newRig(t, job.Cgroup2+" confined")
	b := sh("echo kept >/tmp/note; readlink /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/ipc /proc/self/ns/net; echo up; exec sleep 1000")
	main := r.start(t, b)
	var theirs string
	for {
		line, err := main.out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "up\n" {
			break
		}
		theirs += line
	}
	info := r.info
	info.Program, info.Namespace = b, r.entries(t)
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	const look = `readlink /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/ipc /proc/self/ns/net; cat /tmp/note /proc/1/comm
		grep -E '^(CapBnd|CapEff|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2 | tr '\n' ' '; kill -9 1 2>/dev/null || echo no`
	p, err := r.Explore(t.Context(), info, runners.Exploration{
		Command: []string{"/bin/sh", "-c", look}, Files: [3]*os.File{in, w}, Beside: main.Program,
	})
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(out)
	if want := theirs + "kept\nsleep\n0000000000000000 0000000000000000 1 2 no\n"; string(said) != want || err != nil {
		t.Errorf("it says\n%s, want\n%s(%v)", said, want, err)
	}
	if x := wait(t, p); !x.OK() {
		t.Errorf("it ended by %v", x)
	}
}

func TestExploreErrors(t *testing.T) {
	r := strongest(t)
	for _, c := range []struct {
		block   runners.Block
		command string
		want    string
	}{
		{sh("exit"), "/no/shell", "explore /test: exec /no/shell"},
		{block("binary", manifest.String("")), "/bin/sh", "binary"},
	} {
		info := r.info
		info.Program = c.block
		in, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Explore(t.Context(), info, runners.Exploration{Command: []string{c.command}, Files: [3]*os.File{in}}); err == nil ||
			!strings.HasPrefix(err.Error(), "explore /test: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
