//go:build !amd64 && !arm64

package proc

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const canVfork = false

func vfork(unsafe.Pointer, uintptr) (pid, errno uintptr) { return 0, uintptr(unix.ENOSYS) }
