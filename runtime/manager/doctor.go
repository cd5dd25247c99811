package manager

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/runtime/control"
)

// doctor says what the manager found on this machine, and what that costs.
func (m *Manager) doctor(context.Context) []control.Check {
	b := m.jobs.Backend()
	jobs := control.Check{Status: control.OK, Key: "Job backend", Value: b.Name + ": " + b.Guarantee}
	if len(b.Missing) > 0 {
		jobs.Status = control.Warn
		jobs.Hint = "not in force: " + strings.Join(b.Missing, "; ")
	}
	checks := []control.Check{jobs}

	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		c := control.Check{Key: "Open files", Value: fmt.Sprintf("up to %d: one for each component with a lifecycle channel", files.Max)}
		if files.Max < 4096 {
			c.Status, c.Hint = control.Warn, "raise the hard limit (ulimit -Hn) for trees of more than a thousand components"
		}
		checks = append(checks, c)
	}
	user := control.Check{Key: "User", Value: fmt.Sprintf("uid %d", os.Geteuid())}
	if os.Geteuid() != 0 {
		user.Status = control.Warn
		user.Hint = "not root: a program block's `user` and `group`, and raising of limits, will be refused"
	}
	return append(checks, user,
		control.Check{Key: "State directory", Value: m.cfg.StateDir},
		control.Check{Key: "Management socket", Value: m.socket.Addr().String()},
	)
}
