package examples

import (
	"os/exec"
	"strings"
	"testing"
)

// TestConfig does what the README of config says.
func TestConfig(t *testing.T) {
	m := newManager(t, "config/root.cml")
	m.start()
	const by = `{"greeting":"good day","times":`
	prints := func(lines string) {
		t.Helper()
		m.until(lines, func() bool { return m.do("logs", "/greeter") == lines })
	}
	prints(by + "3}\n")
	m.do("config", "set", "greeter", "times=5", "--reload")
	prints(by + "3}\n" + by + "5}\n")
	if list := m.do("config", "list", "greeter"); !strings.Contains(list, "override") || !strings.Contains(list, "capability") {
		t.Errorf("where values come from: %s", list)
	}
	m.do("config", "unset", "greeter", "--reload")
	prints(by + "3}\n" + by + "5}\n" + by + "3}\n")
	out, err := exec.Command(m.cmgr, "config", "set", "greeter", "times=500", "--socket", m.socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "uint8") {
		t.Errorf("a value of another type: %v, %s", err, out)
	}
	m.stop()
}
