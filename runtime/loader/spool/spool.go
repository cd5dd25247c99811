// Package spool holds what a medium answers until it is known to be whole, so that nobody ever reads half of a file: in memory
// while it is small, else in a temporary file without a name, which is gone with the process that has it.
package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cmgr/cmgr/runtime/loader"
)

// inMemory is the length in bytes up to which an answer is held in memory.
const inMemory = 1 << 20

// ErrTooLong is the error of a Spool that was given more than its limit.
var ErrTooLong = errors.New("too long")

// A Spool takes bytes. End it with File or Discard.
type Spool struct {
	limit, size int64
	mem         bytes.Buffer
	file        *os.File // nil while it is in memory
}

// New makes a Spool for at most limit bytes.
func New(limit int64) *Spool { return &Spool{limit: limit} }

// Size is the number of bytes taken.
func (s *Spool) Size() int64 { return s.size }

// Write takes p. It fails with ErrTooLong, or because there is no room on the disk.
func (s *Spool) Write(p []byte) (int, error) {
	n, err := s.ReadFrom(bytes.NewReader(p))
	return int(n), err
}

// Grow prepares for n bytes more, which somebody else has announced: only so much of them is believed as costs little.
func (s *Spool) Grow(n int64) error {
	switch {
	case n > s.limit-s.size:
		return s.tooLong()
	case s.size+n > inMemory:
		return s.spill()
	}
	s.mem.Grow(int(n) + bytes.MinRead)
	return nil
}

// CopyN takes n bytes of r, or fails with io.ErrUnexpectedEOF.
func (s *Spool) CopyN(r io.Reader, n int64) error {
	if err := s.Grow(n); err != nil {
		return err
	}
	var got int64
	var err error
	if l := (&io.LimitedReader{R: r, N: n}); s.file != nil {
		got, err = s.file.ReadFrom(l) // from a TCP connection the kernel splices
	} else {
		got, err = s.mem.ReadFrom(l)
	}
	s.size += got
	if err == nil && got < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// ReadFrom takes what r has, until its end.
func (s *Spool) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for s.file == nil {
		room := inMemory - s.size
		n, err := s.mem.ReadFrom(io.LimitReader(r, min(room, s.limit-s.size)+1))
		s.size, total = s.size+n, total+n
		switch {
		case err != nil:
			return total, err
		case s.size > s.limit:
			return total, s.tooLong()
		case s.size <= inMemory:
			return total, nil
		}
		if err := s.spill(); err != nil {
			return total, err
		}
	}
	n, err := s.file.ReadFrom(io.LimitReader(r, s.limit-s.size+1))
	s.size, total = s.size+n, total+n
	if err == nil && s.size > s.limit {
		err = s.tooLong()
	}
	return total, err
}

func (s *Spool) tooLong() error { return fmt.Errorf("%w: more than %d bytes", ErrTooLong, s.limit) }

// spill moves what is there into a file.
func (s *Spool) spill() error {
	if s.file != nil {
		return nil
	}
	f, err := os.CreateTemp("", "cmgr-*")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return err
	}
	if _, err := f.Write(s.mem.Bytes()); err != nil {
		f.Close()
		return err
	}
	s.file, s.mem = f, bytes.Buffer{}
	return nil
}

// File ends the spool and gives what it took, from the beginning.
func (s *Spool) File() (loader.File, error) {
	if s.file == nil {
		return memory{bytes.NewReader(s.mem.Bytes())}, nil
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		s.file.Close()
		return nil, err
	}
	return file{s.file, s.size}, nil
}

// Discard ends the spool and forgets what it took.
func (s *Spool) Discard() {
	if s.file != nil {
		s.file.Close()
	}
}

// memory is an answer in memory; Size is bytes.Reader's, the length of all.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }
