// Package memfd is bytes in a descriptor (memfd_create(2)): made once, sealed against every change, and given away.
package memfd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// seals are all that there are against a change: of the size, of the bytes, and of the seals.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// ErrUnsealed is what Read returns for a descriptor that is no sealed memfd: its reading could block, or its bytes change.
var ErrUnsealed = errors.New("not a sealed memfd")

// New returns a sealed memfd that holds data, close-on-exec. name shows in /proc only.
func New(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.WriteAt(data, 0); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("memfd %s: %w", name, err)
	}
	return f, nil
}

// Read returns the first size bytes of f, which stays open, wherever its offset stands. It fails with ErrUnsealed, without
// reading, where f is not sealed against every change, and with io.ErrUnexpectedEOF where it is shorter.
func Read(f *os.File, size int) ([]byte, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var have int
	var serr error
	if err := c.Control(func(fd uintptr) { have, serr = unix.FcntlInt(fd, unix.F_GET_SEALS, 0) }); err != nil {
		return nil, err
	}
	// Only memfds and their kin know F_GET_SEALS; all others fail with EINVAL (fcntl(2)), an O_PATH descriptor with EBADF.
	if serr != nil || have&seals != seals {
		return nil, ErrUnsealed
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); n < size {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return data, nil
}
