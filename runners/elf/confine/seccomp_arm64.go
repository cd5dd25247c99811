package confine

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_AARCH64

// legacy are the allowed system calls that this architecture calls otherwise.
var legacy = []uint32{unix.SYS_FSTATAT}
