package svlogd

import (
	"math"
	"math/bits"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// A config is what a log directory's file of that name says.
type config struct {
	maxSize   uint64 // s: rotate before current gets larger; 0 never
	keep      uint64 // n: old files to keep; 0 all
	keepFull  uint64 // N: old files to keep when the disk is full
	age       time.Duration
	processor string
	prefix    string
	udp       *unix.SockaddrInet4
	udpOnly   bool
	rules     []rule
}

// A rule selects (+) or deselects (-) lines for the log, or selects (e) or deselects (E) them for standard error.
type rule struct {
	what    byte
	pattern string
}

// defaults are runit's. With n above 10 and no N, 10 old files stay on a full disk.
func defaults() config { return config{maxSize: 1_000_000, keep: 10, keepFull: 10} }

// parseConfig reads a config file's text. What it does not know it ignores, as runit does; what it cannot use is a warning.
func parseConfig(text string) (c config, warnings []string) {
	c = defaults()
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "\x00") // a string ends there in C
		if line == "" {
			continue
		}
		value := line[1:]
		switch line[0] {
		case '+', '-', 'e', 'E':
			c.rules = append(c.rules, rule{line[0], value})
		case 's':
			n, unit := djb.ScanUint(value)
			c.maxSize = times(n, unit, "k", 1<<10, "m", 1<<20)
		case 'n':
			c.keep, _ = djb.ScanUint(value)
		case 'N':
			c.keepFull, _ = djb.ScanUint(value)
		case 't':
			n, unit := djb.ScanUint(value)
			c.age = time.Duration(min(times(n, unit, "m", 60, "h", 3600), math.MaxInt64/uint64(time.Second))) * time.Second
		case '!':
			if value != "" {
				c.processor = value
			}
		case 'p':
			if value != "" {
				c.prefix = value
			}
		case 'u', 'U':
			addr, bad := parseAddr(value)
			if bad != "" {
				warnings = append(warnings, bad)
				continue
			}
			c.udp, c.udpOnly = addr, c.udpOnly || line[0] == 'U'
		}
	}
	return c, warnings
}

// times is n in the unit that the text after the number begins with.
func times(n uint64, unit, name1 string, factor1 uint64, name2 string, factor2 uint64) uint64 {
	factor := uint64(1)
	switch {
	case strings.HasPrefix(unit, name1):
		factor = factor1
	case strings.HasPrefix(unit, name2):
		factor = factor2
	}
	high, low := bits.Mul64(n, factor)
	if high > 0 {
		return math.MaxUint64
	}
	return low
}

// parseAddr reads a.b.c.d[:port]; bad is the warning if it cannot.
func parseAddr(s string) (addr *unix.SockaddrInet4, bad string) {
	addr = &unix.SockaddrInet4{Port: 514}
	rest := s
	for i := range addr.Addr {
		if i > 0 {
			if !strings.HasPrefix(rest, ".") {
				return nil, "unable to scan ip address: " + s
			}
			rest = rest[1:]
		}
		n, after := djb.ScanUint(rest)
		if len(after) == len(rest) || n > 255 {
			return nil, "unable to scan ip address: " + s
		}
		addr.Addr[i], rest = byte(n), after
	}
	if port, ok := strings.CutPrefix(rest, ":"); ok {
		n, _ := djb.ScanUint(port)
		if n == 0 || n > 65535 {
			return nil, "unable to scan port number: " + port
		}
		addr.Port = int(n)
	}
	return addr, ""
}
