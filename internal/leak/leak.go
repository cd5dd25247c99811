// Package leak fails a test run that leaves something behind: a goroutine, a file descriptor or a child process.
//
// Every package that owns any of them says
//
//	func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }
package leak

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.uber.org/goleak"
)

// patience is for a busy machine: whatever ends has ended long before.
var patience = time.Minute

// Run runs m's tests (m is a *testing.M) and returns the exit code of the process: m's own, or 1 where the tests passed but
// left a goroutine, a descriptor or a child; what is left is named on standard error. Goroutines that are about to end are
// given some time; descriptors and children are expected to be gone by then.
func Run(m interface{ Run() int }) int {
	start := descriptors()
	if code := m.Run(); code != 0 {
		return code // a failed test may leave anything; its own message is the one to read
	}
	var left []string
	err := goleak.Find() // which waits for about a second
	for begun := time.Now(); err != nil && time.Since(begun) < patience; {
		err = goleak.Find()
	}
	if err != nil {
		left = append(left, err.Error())
	}
	end := descriptors()
	for _, fd := range slices.Sorted(maps.Keys(end)) {
		if start[fd] != end[fd] {
			left = append(left, fmt.Sprintf("descriptor %s: %s", fd, end[fd]))
		}
	}
	left = append(left, children()...)
	for _, l := range left {
		fmt.Fprintln(os.Stderr, "leak:", l)
	}
	return min(len(left), 1)
}

// descriptors says what each open descriptor of this process stands for.
func descriptors() map[string]string {
	// The first pollable file makes the Go runtime open its epoll and eventfd descriptors for good. Have them in both counts.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	open := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		// The descriptor of the listing itself is gone by now, and so not found.
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open[e.Name()] = target
		}
	}
	return open
}

// children names the processes whose parent is this one. A zombie counts: somebody owes it a wait.
func children() []string {
	// wait4 is the sure answer (ECHILD: there is none); /proc gives the names. A reaped zombie is reported by its number.
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err != nil {
		return nil
	}
	var left []string
	if pid > 0 {
		left = append(left, fmt.Sprintf("child %d: ended, never waited for", pid))
	}
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		pids, _ := os.ReadFile(list)
		for pid := range strings.FieldsSeq(string(pids)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			left = append(left, fmt.Sprintf("child %s: %s", pid, strings.TrimSpace(string(name))))
		}
	}
	if left == nil {
		left = []string{"a child process is left"}
	}
	return left
}
