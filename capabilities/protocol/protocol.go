// Package protocol holds the sockets of protocols.
//
// For a protocol that a component declares the manager makes the listening socket (Socket) and keeps it, whether the component
// runs or not. A component that uses the protocol finds a hard link of the socket's file in a directory of its own (View), so
// that it connects to the very socket that the provider accepts from: nothing stands between. The first connection that waits
// wakes the provider (Provider), which is given the socket; while it starts, or starts again, connections wait in the kernel.
//
// A protocol whose provider makes the socket itself (Bound) is shown to its users as soon as it is there.
//
// A protocol of the manager's own has a socket for each component that uses it: so the manager knows who speaks.
package protocol

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/cmgr/cmgr/internal/sys/poll"
)

// Sockets are all sockets of one manager, in a directory of its own.
type Sockets struct {
	dir  string // as programs are told it: an alias of what Open was given, perhaps
	real string
	loop *poll.Loop
	sock *os.File // the directory of the sockets' files, which have numbers for names

	mu      sync.Mutex
	next    uint64
	watches watches
}

// Open empties dir, which is made if need be, and puts sockets there from then on. loop watches them; it stays the caller's and
// must outlive them all.
func Open(dir string, loop *poll.Loop) (*Sockets, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("sockets: %w", err)
	}
	// Whoever knows the name of a view gets in; the names are secret, and the directories cannot be listed.
	for _, d := range []string{"", "v", "sock", "out"} {
		mode := os.FileMode(0o711)
		if d == "sock" {
			mode = 0o700
		}
		d = filepath.Join(dir, d)
		if err := os.MkdirAll(d, mode); err != nil {
			return nil, fmt.Errorf("sockets: %w", err)
		}
		if err := os.Chmod(d, mode); err != nil {
			return nil, fmt.Errorf("sockets: %w", err)
		}
	}
	f, err := os.Open(filepath.Join(dir, "sock"))
	if err != nil {
		return nil, fmt.Errorf("sockets: %w", err)
	}
	return &Sockets{dir: dir, real: dir, loop: loop, sock: f}, nil
}

// longest is how long the name of the directory may be: a program finds sockets below it at v/SECRET/svc/NAME, and a path to a
// socket has at most 107 bytes (unix(7)).
const longest = 40

// Alias makes a symbolic link to the directory in the directory short, if the directory's own name is long, and has programs told
// that.
func (s *Sockets) Alias(short string) error {
	if len(s.real) <= longest {
		return nil
	}
	sum := sha256.Sum256([]byte(s.real)) // the next one of this directory takes its place
	alias := filepath.Join(short, hex.EncodeToString(sum[:6]))
	if err := os.Remove(alias); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sockets: %w", err)
	}
	if err := os.Symlink(s.real, alias); err != nil {
		return fmt.Errorf("sockets: %w", err)
	}
	s.dir = alias
	return nil
}

// Close removes the directory. All that was made here must have been closed.
func (s *Sockets) Close() error {
	if s.watches.fd != 0 {
		s.loop.Remove(s.watches.fd)
		syscall.Close(s.watches.fd)
	}
	errs := []error{s.sock.Close(), os.RemoveAll(s.real)}
	if s.dir != s.real {
		errs = append(errs, os.Remove(s.dir))
	}
	return errors.Join(errs...)
}

// name is one that no socket has had.
func (s *Sockets) name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return strconv.FormatUint(s.next, 36)
}

// path is that of the socket's file.
func (s *Sockets) path(name string) string { return filepath.Join(s.sock.Name(), name) }

// secret is a name that nobody guesses. It is short, as all names here: a path to a socket has at most 107 bytes (unix(7)).
func secret() string {
	var b [12]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Outgoing makes a directory for what a component provides by paths. It is the caller's to remove.
func (s *Sockets) Outgoing() (dir string, err error) {
	dir = filepath.Join(s.dir, "out", secret())
	if err := os.Mkdir(dir, 0o777); err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o777)
}
