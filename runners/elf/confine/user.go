package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/probe"
)

// Reenter makes the manager of an ordinary user one that can confine: it executes this program anew, as the same process of the
// same user with the same arguments, environment and descriptors, in a user namespace and a mount namespace of its own, over which it
// has all capabilities. It is to be called before anything else, does nothing for root nor the second time, and returns only if it
// need not or cannot.
//
// In the namespace this user and group are the only ones. All others look like nobody, so no program can be run as one of them,
// supplementary groups can't be changed, and over the machine itself the capabilities give nothing. A program that is not confined
// is given none of them (internal/sys/proc). A multi-threaded program can't enter a user namespace (unshare(2)), and Go's are from the
// start: so it executes a tiny one in between, which does and executes this one.
func Reenter() error {
	if os.Geteuid() == 0 || probe.Admin() {
		return nil
	}
	fail := func(err error) error {
		switch {
		case errors.Is(err, unix.ENOSPC):
			err = fmt.Errorf("user namespaces are forbidden here, or too many (/proc/sys/user/max_user_namespaces): %w", err)
		case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
			err = fmt.Errorf("user namespaces are forbidden here, by the system or by a container's rules: %w", err)
		}
		notReentered = fmt.Errorf("enter a user namespace: %w", err)
		return notReentered
	}
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return fail(fmt.Errorf("not implemented for %s", runtime.GOARCH))
	}
	for _, f := range probe.Features() {
		// The tiny program has no words for what it meets.
		if f.Name == "user namespace" {
			if _, err := f.Try(); err != nil {
				return fail(err)
			}
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	if _, err := os.Stat(exe); err != nil {
		return fail(err)
	}
	fd, err := unix.MemfdCreate("cmgr", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("cmgr", unix.MFD_CLOEXEC) // before Linux 6.3
	}
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), "reentry")
	defer f.Close()
	program := reentryProgram([3][2]string{
		{"/proc/self/setgroups", "deny"}, // else the next could not be written (user_namespaces(7))
		{"/proc/self/gid_map", fmt.Sprintf("%[1]d %[1]d 1\n", os.Getegid())},
		{"/proc/self/uid_map", fmt.Sprintf("%[1]d %[1]d 1\n", os.Geteuid())},
	}, exe)
	if _, err := f.Write(program); err != nil {
		return fail(err)
	}
	return fail(syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), os.Args, os.Environ()))
}

// notReentered is why Reenter failed, for Open to tell.
var notReentered error

// Root says whether this process is root of the machine itself. In a user namespace the number 0 doesn't say so: what is root's
// alone, such as paths in /run and other users, is not to be had there (user_namespaces(7)).
func Root() bool { return os.Geteuid() == 0 && !inUserNamespace() }

// inUserNamespace says whether this process is in a user namespace that is not the machine's own.
var inUserNamespace = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
})
