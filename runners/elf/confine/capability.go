package confine

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// capabilityNames are all, by number (linux/capability.h).
var capabilityNames = strings.Fields(`
	CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP
	CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE
	CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE
	CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE
	CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE`)

// Network is the protocol whose user keeps the host's network. Those of Protocols that begin with capProtocol keep one of Linux's
// capabilities each: linux.cap.net_bind_service is CAP_NET_BIND_SERVICE. Nobody speaks them; they are offered to the root and go on by
// routes.
const (
	Network     = "linux.Network"
	capProtocol = "linux.cap."
)

// Protocols are the protocols that mean something of the machine.
func Protocols() []string {
	all := []string{Network}
	for _, c := range capabilityNames {
		all = append(all, capProtocol+strings.ToLower(strings.TrimPrefix(c, "CAP_")))
	}
	return all
}

// Add adds what a protocol means, if it is one of Protocols.
func (g *Grants) Add(protocol string) {
	if protocol == Network {
		g.Network = true
	} else if c, ok := strings.CutPrefix(protocol, capProtocol); ok && slices.Contains(Protocols(), protocol) {
		g.Capabilities = append(slices.Clone(g.Capabilities), "CAP_"+strings.ToUpper(c))
	}
}

// capabilities is the set with those names.
func capabilities(names []string) (set uint64, err error) {
	for _, n := range names {
		i := slices.Index(capabilityNames, n)
		if i < 0 {
			return 0, fmt.Errorf("there is no capability %q", n)
		}
		set |= 1 << i
	}
	return set, nil
}

// lastCap is the highest capability that the kernel knows.
func lastCap() int {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if n, aerr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && aerr == nil && n < 64 {
		return n
	}
	return len(capabilityNames) - 1
}
