package sv

import "github.com/cmgr/cmgr/runners/runit/servicedir"

// An order is what sv is to do.
type order struct {
	status   bool   // only tell
	commands string // for the control FIFO
	wait     bool   // until it has taken effect
	check    bool   // wait for what is wanted, whatever that is
	kill     bool   // if it has not taken effect in time
}

// exits says that the supervisor is to end.
func (o order) exits() bool { return o.commands == "x" }

// words are the commands that must be written out.
var words = map[string]order{
	"start":          {commands: "u", wait: true},
	"stop":           {commands: "d", wait: true},
	"shutdown":       {commands: "x", wait: true},
	"restart":        {commands: "tcu", wait: true},
	"try-restart":    {commands: "tc", wait: true},
	"reload":         {commands: "h", wait: true},
	"check":          {check: true, wait: true},
	"force-stop":     {commands: "d", wait: true, kill: true},
	"force-reload":   {commands: "tc", wait: true, kill: true},
	"force-restart":  {commands: "tcu", wait: true, kill: true},
	"force-shutdown": {commands: "x", wait: true, kill: true},
}

// orderOf is what a command means: of those that are not in words only the first letter counts.
func orderOf(word string, lsb bool) (order, bool) {
	if o, ok := words[word]; ok {
		return o, true
	}
	switch letter := word[:min(1, len(word))]; letter {
	case "s":
		return order{status: true}, !lsb || word == "status"
	case "e":
		return order{commands: "x"}, true
	case "x", "u", "d", "o", "t", "p", "c", "h", "a", "i", "k", "q", "1", "2":
		return order{commands: letter}, true
	case "X", "E":
		return words["force-shutdown"], true
	case "D":
		return words["force-stop"], true
	case "T":
		return words["force-reload"], true
	}
	return order{}, false
}

// done says whether the order has taken effect on the service whose directory this is, according to s: each of its commands.
func (c *call) done(name string, s servicedir.Status) bool {
	commands := c.order.commands
	if c.order.check {
		if commands = "u"; s.Want == 'd' {
			commands = "d"
		}
	}
	alive := s.PID != 0
	// Whole seconds, which runit compares, take a process that was started in this second for one that was restarted.
	since := !s.Since.Before(c.start)
	needsCheck := false
	for _, command := range commands {
		switch command {
		case 'x':
			return false // until there's no status
		case 'u':
			if !alive || s.State != servicedir.Run {
				return false
			}
			needsCheck = true
		case 'd':
			if alive || s.State != servicedir.Down {
				return false
			}
		case 't', 'k':
			if !alive && s.Want == 'd' {
				continue
			}
			if !alive || !since || s.Term {
				return false
			}
			needsCheck = true
		case 'o':
			if !alive && !since || alive && s.Want != 'd' {
				return false
			}
		case 'p':
			if alive && !s.Paused {
				return false
			}
		case 'c':
			if alive && s.Paused {
				return false
			}
		}
	}
	return !needsCheck || c.checks(name)
}
