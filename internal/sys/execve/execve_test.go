package execve

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary is its own subject: called with one of these words it becomes sh, or says why not.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != "become" {
		os.Exit(m.Run())
	}
	p := Program{
		Paths: []string{"/bin/sh"},
		Args:  []string{"sh", "-c", "ulimit -v; ulimit -n; id -u"},
		Env:   []string{"PATH=/bin:/usr/bin"},
	}
	limit := func(resource int, cur, max uint64) {
		p.Limits = append(p.Limits, Limit{resource, syscall.Rlimit{Cur: cur, Max: max}})
	}
	switch os.Args[2] {
	case "busy":
		fmt.Println(othersRan())
		return
	case "tight": // room for sh, but for no page and no thread of Go's
		limit(unix.RLIMIT_AS, 64<<20, 64<<20)
	case "nobody":
		runtime.LockOSThread()
		p.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	case "failing":
		limit(unix.RLIMIT_AS, 1<<20, unix.RLIM_INFINITY)
		p.Paths = []string{"/nonexistent", "/"}
	case "missing":
		p.Paths = []string{"/nonexistent"}
	case "impossible":
		limit(unix.RLIMIT_FSIZE, 1<<20, 1<<20)
		limit(unix.RLIMIT_CORE, 2, 1)
	}
	err := p.Exec()
	var as syscall.Rlimit
	_ = syscall.Getrlimit(unix.RLIMIT_AS, &as)
	fmt.Println(err, err.Limit, as.Cur == unix.RLIM_INFINITY, errors.Is(err, os.ErrNotExist))
}

func become(t *testing.T, how string) string {
	t.Helper()
	// 100 files, of at most what there may be: a limit that Go raises and that the program is to find as it was.
	c := exec.Command("sh", "-c", `ulimit -Sn 100; exec "$0" become "$1"`, os.Args[0], how)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%.2000s", how, err, out)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", " ")
}

func TestExec(t *testing.T) {
	uid := fmt.Sprint(os.Getuid())
	for how, want := range map[string]string{
		"":           "unlimited 100 " + uid,
		"failing":    "exec: permission denied 1 true false",
		"missing":    "exec: no such file or directory 0 true true",
		"tight":      "65536 100 " + uid,
		"impossible": "setrlimit: invalid argument 1 true false",
	} {
		if got := become(t, how); got != want {
			t.Errorf("%q: %q, want %q", how, got, want)
		}
	}
	if os.Getuid() == 0 {
		if got := become(t, "nobody"); got != "unlimited 100 65534" {
			t.Error(got)
		}
	}
}

// othersRan says whether anything else ran, on the one processor that there is, while steps were taken that last for many times
// what Go otherwise gives to one goroutine.
func othersRan() bool {
	runtime.GOMAXPROCS(1)
	var n int64
	go func() {
		for {
			atomic.AddInt64(&n, 1)
			runtime.Gosched() // for afterwards it could not be interrupted
		}
	}()
	for atomic.LoadInt64(&n) == 0 {
		runtime.Gosched()
	}
	nowhere, _ := syscall.BytePtrFromString("/nonexistent")
	s := steps{paths: slices.Repeat([]*byte{nowhere}, 200_000), argv: []*byte{nil}, env: []*byte{nil}}
	runtime.Gosched() // its time begins
	return s.changed(&n)
}

//go:nosplit
//go:norace
func (s *steps) changed(n *int64) bool {
	before := *n
	s.run()
	return *n != before
}

func TestNothingElseRuns(t *testing.T) {
	if got := become(t, "busy"); got != "false" {
		t.Errorf("did others run? %s", got)
	}
}
