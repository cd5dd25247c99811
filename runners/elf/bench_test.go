package elf

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// tiny makes a program in dir that says a byte to its standard output, waits for one from there and exits, and that needs nothing,
// not even a loader.
func tiny(b *testing.B, dir string) {
	b.Helper()
	gcc := needs.Tool(b, "gcc")
	c := exec.Command(gcc, "-O2", "-static", "-nostdlib", "-x", "c", "-o", filepath.Join(dir, "tiny"), "-")
	call := map[string]string{
		"x86_64": `register long a __asm__("rax") = nr; register long b __asm__("rdi") = x; register long c __asm__("rsi") = y;
			register long d __asm__("rdx") = z; __asm__ volatile("syscall" : "+r"(a) : "r"(b), "r"(c), "r"(d) : "rcx", "r11", "memory");`,
		"aarch64": `register long a __asm__("x8") = nr; register long b __asm__("x0") = x; register long c __asm__("x1") = y;
			register long d __asm__("x2") = z; __asm__ volatile("svc #0" : "+r"(b) : "r"(a), "r"(c), "r"(d) : "memory");`,
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		b.Fatal(err)
	}
	code := call[unix.ByteSliceToString(u.Machine[:])]
	if code == "" {
		b.Skip("no program for this machine")
	}
	c.Stdin = strings.NewReader(`
		#include <asm/unistd.h>
		static inline void call(long nr, long x, long y, long z) { ` + code + ` }
		void _start(void) {
			char c = 0;
			call(__NR_write, 1, (long)&c, 1);
			call(__NR_read, 1, (long)&c, 1);
			for (;;) call(__NR_exit, 0, 0, 0);
		}`)
	if out, err := c.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

// used is the CPU time of this process and of its children that have ended, so far.
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

// usedBy is the CPU time of the running process pid (clock_getcpuclockid(3)).
func usedBy(b *testing.B, pid int) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

func median[T cmp.Ordered](v []T) T { return slices.Sorted(slices.Values(v))[len(v)/2] }

// BenchmarkConfined starts and ends a tiny program in turns bare and confined in several ways, each in its job, so that the
// ratios hold on a busy machine too; and apart from that, since what it leaves to be cleaned up would be the next one's, by
// bubblewrap. It reports medians of µs: CPU and wall time of the start alone, which is over when the program has said its byte,
// and (cpu, run) of start and end; and of the ratios of each two that stood side by side.
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
	measures := []string{"startcpu", "start", "cpu", "run"}
	one := func(b *testing.B, w way) (took [4]time.Duration) {
		grants = w.grants
		info := r.info
		info.Program = w.block
		for _, path := range w.entries {
			info.Namespace = append(info.Namespace, entry(b, path, data, manifest.RightsRW))
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		info.Stdout = os.NewFile(uintptr(fds[1]), "stdout")
		byte := make([]byte, 1)
		before, now := used(b), time.Now()
		p, err := r.Start(b.Context(), info)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := unix.Read(fds[0], byte); n != 1 {
			b.Fatal(w.name, n, err)
		}
		took[1] = time.Since(now)
		took[0] = used(b) - before + usedBy(b, p.(*program).pid)
		unix.Close(fds[0])
		x, err := p.Wait(b.Context())
		if err != nil || !x.OK() {
			b.Fatal(w.name, x, err)
		}
		took[3] = time.Since(now)
		took[2] = used(b) - before
		return took
	}
	compare := func(ways ...way) func(b *testing.B) {
		return func(b *testing.B) {
			took := make([][4][]float64, len(ways)) // by way and measure, in µs
			for b.Loop() {
				for i, w := range ways {
					for m, d := range one(b, w) {
						took[i][m] = append(took[i][m], float64(d.Nanoseconds())/1e3)
					}
				}
			}
			for m, measure := range measures {
				for i, w := range ways {
					b.ReportMetric(median(took[i][m]), w.name+"-"+measure+"-µs")
				}
				if len(ways) > 1 {
					ratios := slices.Clone(took[1][m])
					for i := range ratios {
						ratios[i] /= took[0][m][i]
					}
					b.ReportMetric(median(ratios), ways[1].name+"/"+ways[0].name+"-"+measure)
				}
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
