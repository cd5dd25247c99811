package logs

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest/name"
)

// What one read takes, in lines of 100 bytes.
var chunk = []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 655))

// BenchmarkPipes measures megabytes of text per second of the thread's CPU, which no producer's time is in.
func BenchmarkPipes(b *testing.B) {
	for _, pipes := range []int{1, 20, 1000} {
		b.Run(strconv.Itoa(pipes), func(b *testing.B) {
			l := newLogs(b, Config{})
			cs := make([]*component, pipes)
			for i := range cs {
				cs[i] = open(b, l, name.Moniker("/c"+strconv.Itoa(i)))
			}
			write(b, cs, pipes) // makes the directories
			start := threadTime(b, l)
			b.SetBytes(int64(len(chunk)))
			b.ResetTimer()
			write(b, cs, b.N)
			for _, c := range cs {
				c.end()
			}
			used := threadTime(b, l) - start
			b.ReportMetric(float64(b.N)*float64(len(chunk))/1e6/used.Seconds(), "MB/cpu-s")
		})
	}
}

// BenchmarkSvlogd is the same for Debian's svlogd -tt, one process for one pipe.
func BenchmarkSvlogd(b *testing.B) {
	svlogd := needs.Tool(b, "svlogd")
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(svlogd, "-tt", b.TempDir())
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	r.Close()
	b.SetBytes(int64(len(chunk)))
	write(b, []*component{{t: b, out: w}}, b.N)
	w.Close()
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	b.ReportMetric(float64(b.N)*float64(len(chunk))/1e6/used.Seconds(), "MB/cpu-s")
}

// write writes n chunks to cs in turn, from a few goroutines.
func write(b *testing.B, cs []*component, n int) {
	var wg sync.WaitGroup
	const writers = 4
	for g := range writers {
		wg.Go(func() {
			for i := g; i < n; i += writers {
				if _, err := cs[i%len(cs)].out.Write(chunk); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func threadTime(b *testing.B, l *Logs) (used time.Duration) {
	const rusageThread = 1 // RUSAGE_THREAD, getrusage(2)
	l.wait(b.Context(), func() { used = cpuTime(b, rusageThread) })
	return used
}

func cpuTime(b *testing.B, who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Error(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRun is what a run of a quiet component costs: its pipes and their end.
func BenchmarkRun(b *testing.B) {
	l := newLogs(b, Config{})
	b.ReportAllocs()
	start := cpuTime(b, syscall.RUSAGE_SELF)
	for b.Loop() {
		open(b, l, "/a").end()
	}
	b.ReportMetric(float64((cpuTime(b, syscall.RUSAGE_SELF)-start).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkRead is the last lines of a full directory.
func BenchmarkRead(b *testing.B) {
	l := newLogs(b, Config{})
	c := open(b, l, "/a")
	for i := range 200 {
		c.print(fmt.Sprintf("%d\n", i))
		c.print(string(chunk))
	}
	c.end()
	for _, n := range []int{10, 1000, -1} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				read(b, l, "/a", n)
			}
		})
	}
}
