package runners

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

var signals = [...]string{
	1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1", 11: "SEGV",
	12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT", 17: "CHLD", 18: "CONT", 19: "STOP", 20: "TSTP",
	21: "TTIN", 22: "TTOU", 23: "URG", 24: "XCPU", 25: "XFSZ", 26: "VTALRM", 27: "PROF", 28: "WINCH", 29: "IO", 30: "PWR",
	31: "SYS",
}

// SignalName is "SIGTERM" for 15 (signal(7), the numbers of x86 and ARM).
func SignalName(s syscall.Signal) string {
	if s > 0 && int(s) < len(signals) {
		return "SIG" + signals[s]
	}
	return fmt.Sprintf("signal %d", int(s))
}

// ParseSignal reads "SIGTERM", "TERM", "term" or "15".
func ParseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	w := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for i, n := range signals {
		if n != "" && n == w {
			return syscall.Signal(i), nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}
