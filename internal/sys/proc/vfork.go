//go:build amd64 || arm64

package proc

import "unsafe"

// canVfork says that vfork is there for this architecture.
const canVfork = true

// vfork makes a child with the arguments of clone3(2), CLONE_VM and CLONE_VFORK among them: it returns a first time in the child,
// on the same stack, and in the parent when the child has executed its program or ended.
//
//go:noescape
func vfork(args unsafe.Pointer, size uintptr) (pid, errno uintptr)
