package sv

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// leastCheck is what a check script may take, also when no time is left for it: of many services, each is looked at once. Tests of
// something else have it longer.
var leastCheck = time.Second

// checks says whether ./check of the service whose directory this is exits 0, or there is none that can be run. One that takes
// too long is killed, with what it has started.
func (c *call) checks(name string) bool {
	if _, err := os.Stat("check"); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return true
		}
		fmt.Fprintf(c.stderr, "warning: unable to stat %s/check: %s\n", name, djb.Text(err))
		return false
	}
	p, err := os.StartProcess("check", []string{"./check"}, &os.ProcAttr{Files: []*os.File{os.Stdin, nil, os.Stderr}})
	if err != nil {
		fmt.Fprintf(c.stderr, "warning: unable to run %s/check: %s\n", name, djb.Text(err))
		return true
	}
	t := time.AfterFunc(max(leastCheck, time.Until(c.deadline)), func() {
		if p.Signal(syscall.SIGSTOP) == nil { // it is there, and so its number is its own
			killTree(p.Pid)
		}
	})
	defer t.Stop()
	state, err := p.Wait()
	if err != nil {
		fmt.Fprintf(c.stderr, "warning: unable to wait for child %s/check: %s\n", name, djb.Text(err))
		return false
	}
	return state.Success()
}

// killTree kills pid and its descendants. They are stopped first, so that none starts another meanwhile.
func killTree(pid int) {
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for child := range strings.FieldsSeq(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			killTree(n)
		}
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}
