package elf

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
)

// tiny makes a program in dir that exits at once and needs nothing, not even a loader.
func tiny(b *testing.B, dir string) {
	b.Helper()
	gcc := needs.Tool(b, "gcc")
	c := exec.Command(gcc, "-O2", "-static", "-nostdlib", "-x", "c", "-o", filepath.Join(dir, "tiny"), "-")
	exit := map[string]string{"x86_64": "mov $60,%eax; xor %edi,%edi; syscall", "aarch64": "mov x8,#93; mov x0,#0; svc #0"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		b.Fatal(err)
	}
	code := exit[unix.ByteSliceToString(u.Machine[:])]
	if code == "" {
		b.Skip("no program for this machine")
	}
	c.Stdin = strings.NewReader(`void _start(void) { __asm__ volatile("` + code + `"); }`)
	if out, err := c.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

// used is the CPU time of this process and its children so far.
func used(b *testing.B) time.Duration {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		if err := unix.Getrusage(who, &r); err != nil {
			b.Fatal(err)
		}
		sum += r.Utime.Nano() + r.Stime.Nano()
	}
	return time.Duration(sum)
}

// BenchmarkConfined starts and ends a tiny program in turns bare and confined in several ways, each in its job, so that the
// ratios hold on a busy machine too; and apart from that, since what it leaves to be cleaned up would be the next one's, by
// bubblewrap. It reports µs of CPU, and the wall time of the start alone and to the end.
func BenchmarkConfined(b *testing.B) {
	free := confine.Grants{Unconfined: true}
	r := newRig(b, " confined")
	grants := free
	r.Grants = func(name.Moniker) confine.Grants { return grants }
	dir, data := b.TempDir(), b.TempDir()
	tiny(b, dir)
	r.info.Package.Dir = dir
	type way struct {
		name    string
		grants  confine.Grants
		entries []string
		block   runners.Block
	}
	compare := func(ways ...way) func(b *testing.B) {
		return func(b *testing.B) {
			cpu, wall, run := make([]time.Duration, len(ways)), make([]time.Duration, len(ways)), make([]time.Duration, len(ways))
			for b.Loop() {
				for i, w := range ways {
					grants = w.grants
					info := r.info
					info.Program = w.block
					for _, path := range w.entries {
						info.Namespace = append(info.Namespace, entry(b, path, data, manifest.RightsRW))
					}
					before, now := used(b), time.Now()
					p, err := r.Start(b.Context(), info)
					wall[i] += time.Since(now)
					if err != nil {
						b.Fatal(err)
					}
					x, err := p.Wait(b.Context())
					if err != nil || !x.OK() {
						b.Fatal(w.name, x, err)
					}
					run[i] += time.Since(now)
					cpu[i] += used(b) - before
				}
			}
			for i, w := range ways {
				b.ReportMetric(float64(cpu[i].Microseconds())/float64(b.N), w.name+"-cpu-µs")
				b.ReportMetric(float64(wall[i].Microseconds())/float64(b.N), w.name+"-start-µs")
				b.ReportMetric(float64(run[i].Microseconds())/float64(b.N), w.name+"-run-µs")
			}
			if len(ways) > 1 {
				b.ReportMetric(float64(cpu[1])/float64(cpu[0]), "confined/bare")
			}
		}
	}
	program := block("binary", "tiny")
	eight := strings.Fields("/a /b /c /d /svc/e /svc/f /svc/g /svc/h")
	b.Run("bare and confined", compare(way{"bare", free, nil, program}, way{"confined", confine.Grants{}, nil, program}))
	b.Run("all", compare(way{"bare", free, nil, program}, way{"confined", confine.Grants{}, nil, program},
		way{"8-routed", confine.Grants{}, eight, program}, way{"network", confine.Grants{Network: true}, nil, program}))
	b.Run("bwrap", func(b *testing.B) {
		args := strings.Fields("--unshare-pid --unshare-ipc --unshare-net --cap-drop ALL --ro-bind /usr /usr --symlink usr/lib /lib " +
			"--symlink usr/lib64 /lib64 --symlink usr/bin /bin --ro-bind " + dir + " /pkg --dev /dev --proc /proc /pkg/tiny")
		compare(way{"bwrap", free, nil, block("binary", needs.Tool(b, "bwrap"), "args", args)})(b)
	})
}
