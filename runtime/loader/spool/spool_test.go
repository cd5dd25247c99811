package spool_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"

	"github.com/cmgr/cmgr/runtime/loader/spool"
)

// What goes in comes out, wherever the memory ends and in whatever pieces it comes.
func TestRoundTrip(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	for _, n := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		for name, put := range map[string]func(*spool.Spool) error{
			"at once": func(s *spool.Spool) error { _, err := s.Write(big[:n]); return err },
			"pieces": func(s *spool.Spool) error {
				_, err := io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{bytes.NewReader(big[:n])})
				return err
			},
			"read": func(s *spool.Spool) error {
				_, err := s.ReadFrom(iotest.HalfReader(bytes.NewReader(big[:n])))
				return err
			},
			"counted": func(s *spool.Spool) error {
				r := bytes.NewReader(big)
				return errors.Join(s.CopyN(r, int64(n/3)), s.CopyN(r, int64(n-n/3)))
			},
		} {
			s := spool.New(int64(n))
			if err := put(s); err != nil {
				t.Errorf("%s, %d bytes: %v", name, n, err)
			}
			f, err := s.File()
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(f)
			if err != nil || !bytes.Equal(got, big[:n]) || f.Size() != int64(n) {
				t.Errorf("%s: %d of %d bytes, size %d, %v", name, len(got), n, f.Size(), err)
			}
			f.Close()
			if n == 0 {
				continue
			}
			s = spool.New(int64(n - 1))
			if err := put(s); !errors.Is(err, spool.ErrTooLong) {
				t.Errorf("%s, one byte more than %d: %v", name, n-1, err)
			}
			s.Discard()
		}
	}
	s := spool.New(10)
	if err := s.CopyN(bytes.NewReader(big[:5]), 6); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("five bytes for six: %v", err)
	}
	s.Discard()
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}
