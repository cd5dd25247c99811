package manager

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/cmgr/cmgr/internal/sys/probe"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/loader/cache"
)

// Machine says what this machine has of all that a manager would use, found out by trying, and what the lack of it costs.
func Machine() []control.Check {
	var checks []control.Check
	for _, f := range probe.Features() {
		c := control.Check{Key: f.Name}
		detail, err := f.Try()
		if c.Value = detail; err != nil {
			c.Status, c.Value, c.Hint = control.Warn, err.Error(), "without it: "+f.Without
		} else if detail == "" {
			c.Value = "works"
		}
		checks = append(checks, c)
	}
	user := control.Check{Key: "user", Value: fmt.Sprintf("uid %d", os.Geteuid())}
	if os.Geteuid() != 0 {
		user.Status = control.Warn
		user.Hint = "not root: a program block's `user` and `group`, and raising of limits, will be refused"
	}
	return append(checks, user)
}

// doctor says what the manager found on this machine, and what of it is in force.
func (m *Manager) doctor(context.Context) []control.Check {
	b := m.jobs.Backend()
	jobs := control.Check{Status: control.OK, Key: "job backend", Value: b.Name + ": " + b.Guarantee}
	if len(b.Missing) > 0 {
		jobs.Status = control.Warn
		jobs.Hint = "not in force: " + strings.Join(b.Missing, "; ")
	}
	checks := []control.Check{jobs}
	if m.confiner == nil {
		checks = append(checks, control.Check{
			Status: control.Warn, Key: "confinement", Value: "none: programs have all that the manager's user has",
			Hint: "not in force: " + m.weak.Error(),
		})
	} else {
		for _, f := range m.confiner.Doctor() {
			c := control.Check{Status: control.OK, Key: f.Name, Value: f.Value, Hint: f.Weaker}
			if f.Weaker != "" {
				c.Status = control.Warn
			}
			checks = append(checks, c)
		}
	}
	checks = append(append(checks, Machine()...), control.Check{Key: "state directory", Value: m.cfg.StateDir})
	if m.loaders.cache != nil {
		checks = append(checks, packageCache(m.loaders.cache))
	}
	return append(checks,
		control.Check{Key: "management socket", Value: m.socket.Addr().String()},
	)
}

func packageCache(c *cache.Cache) control.Check {
	check := control.Check{Status: control.OK, Key: "package cache"}
	bytes, packages, err := c.Size()
	if err != nil {
		check.Status, check.Value = control.Warn, err.Error()
		return check
	}
	check.Value = fmt.Sprintf("%d packages, %d KiB of at most %d KiB", packages, bytes>>10, c.MaxSize()>>10)
	if bytes > c.MaxSize() {
		check.Status, check.Hint = control.Warn, "all of it is in use; allow more by cache.max_size of the manager's --config"
	}
	return check
}
