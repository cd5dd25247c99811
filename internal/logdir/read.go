package logdir

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
)

// Lines gives all lines of dir, oldest first, each with its newline; a line without one is the last of a file that a crash left,
// or is being written. The bytes are valid until the next. After an error there is no more. A directory without a log file, or
// that does not exist, has no lines.
func Lines(dir string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		current, older, err := snapshot(dir)
		if err != nil {
			yield(nil, err)
			return
		}
		if current != nil {
			defer current.Close()
		}
		for _, name := range older {
			f, err := os.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // pruned meanwhile
			}
			if err != nil {
				yield(nil, err)
				return
			}
			more := lines(f, yield)
			f.Close()
			if !more {
				return
			}
		}
		if current != nil {
			lines(current, yield)
		}
	}
}

func lines(f *os.File, yield func([]byte, error) bool) (more bool) {
	r := bufio.NewReaderSize(f, 64<<10)
	var long []byte
	for {
		line, err := r.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			long = append(long, line...)
			continue
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		if len(line) > 0 && !yield(line, nil) {
			return false
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			yield(nil, err)
			return false
		}
		long = long[:0]
	}
}

// Last returns the last n lines of dir, oldest first, as Lines gives them, all if n is negative. It reads from the end: no more
// than holds n lines, and a block.
func Last(dir string, n int) ([][]byte, error) {
	current, older, err := snapshot(dir)
	if err != nil {
		return nil, err
	}
	var last [][]byte // newest first
	if current != nil {
		defer current.Close()
		if last, err = appendLast(nil, current, n); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Backward(older) {
		if n >= 0 && len(last) >= n {
			break
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		last, err = appendLast(last, f, n)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	slices.Reverse(last)
	return last, nil
}

// appendLast appends f's last lines, newest first, until there are n.
func appendLast(last [][]byte, f *os.File, n int) ([][]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	start := int64(0)
	if n >= 0 {
		if start, err = lastStart(f, st.Size(), n-len(last)); err != nil {
			return nil, err
		}
	}
	tail := make([]byte, st.Size()-start)
	if _, err := f.ReadAt(tail, start); err != nil && err != io.EOF {
		return nil, err
	}
	for len(tail) > 0 {
		i := bytes.LastIndexByte(tail[:len(tail)-1], '\n') + 1
		last = append(last, tail[i:])
		tail = tail[:i]
	}
	return last, nil
}

// lastStart is where the last n lines of f's first size bytes begin.
func lastStart(f *os.File, size int64, n int) (int64, error) {
	if n <= 0 {
		return size, nil
	}
	buf := make([]byte, min(32<<10, size))
	// The newline at the very end ends the last line; the one before line n from the end is what is looked for.
	end := size - 1
	for end > 0 {
		block := buf[:min(int64(len(buf)), end)]
		at := end - int64(len(block))
		if _, err := f.ReadAt(block, at); err != nil {
			return 0, err
		}
		for {
			i := bytes.LastIndexByte(block, '\n')
			if i < 0 {
				break
			}
			if n--; n == 0 {
				return at + int64(i) + 1, nil
			}
			block = block[:i]
		}
		end = at
	}
	return 0, nil
}

// A Tail follows a directory across rotations. It reads when asked and never waits.
type Tail struct {
	dir  string
	f    *os.File // nil before there is a file
	rest []byte   // read, not given
	buf  []byte
}

// Follow begins at the present end of dir, after the last complete line.
func Follow(dir string) (*Tail, error) {
	t := &Tail{dir: dir, buf: make([]byte, 32<<10)}
	current, _, err := snapshot(dir)
	if err != nil || current == nil {
		return t, err
	}
	t.f = current
	size, err := current.Seek(0, io.SeekEnd)
	if err == nil {
		var start int64
		if start, err = lastStart(current, size, 1); err == nil {
			t.rest = make([]byte, size-start)
			_, err = current.ReadAt(t.rest, start)
		}
	}
	if err != nil {
		current.Close()
		return nil, err
	}
	if bytes.HasSuffix(t.rest, []byte("\n")) {
		t.rest = nil
	}
	return t, nil
}

// Next returns the next line, or io.EOF if there is none now; it may be asked again later. A line without newline is the last of
// a file that a crash left. The bytes are valid until the next call. Lines of files that were pruned before they were read are
// skipped.
func (t *Tail) Next() ([]byte, error) {
	ended := false // t.f is no longer current, so what is at its end stays its end
	for {
		if i := bytes.IndexByte(t.rest, '\n') + 1; i > 0 {
			line := t.rest[:i]
			t.rest = t.rest[i:]
			return line, nil
		}
		if t.f != nil {
			n, err := t.f.Read(t.buf)
			if n > 0 {
				t.rest = append(t.rest, t.buf[:n]...)
				continue
			}
			if err != io.EOF {
				return nil, err
			}
		}
		next, err := t.successor()
		if err != nil {
			return nil, err
		}
		if next == nil {
			return nil, io.EOF
		}
		if t.f != nil && !ended {
			next.Close()
			ended = true
			continue
		}
		if t.f != nil {
			t.f.Close()
		}
		t.f, ended = next, false
		if torn := t.rest; len(torn) > 0 {
			t.rest = nil
			return torn, nil
		}
	}
}

// Close closes what the Tail has open.
func (t *Tail) Close() error {
	if t.f == nil {
		return nil
	}
	return t.f.Close()
}

// successor opens the file after t.f; nil if there is none.
func (t *Tail) successor() (*os.File, error) {
	current, older, err := snapshot(t.dir)
	if err != nil {
		return nil, err
	}
	if t.f == nil {
		return first(older, current)
	}
	own, err := t.f.Stat()
	if err != nil {
		return nil, errors.Join(err, closeFile(current))
	}
	if current != nil {
		if st, err := current.Stat(); err != nil || os.SameFile(own, st) {
			return nil, errors.Join(err, closeFile(current))
		}
	}
	for i, name := range older {
		if st, err := os.Lstat(name); err == nil && os.SameFile(own, st) {
			return first(older[i+1:], current)
		}
	}
	return first(older, current) // ours was pruned
}

// first opens the first of names that is still there, otherwise returns current.
func first(names []string, current *os.File) (*os.File, error) {
	for _, name := range names {
		f, err := os.Open(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, errors.Join(err, closeFile(current))
		}
	}
	return current, nil
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// snapshot opens current (nil if there is none) and names the files that were put aside before it, oldest first.
func snapshot(dir string) (current *os.File, older []string, err error) {
	// In this order: what is current at the opening may be among the listed, with newer ones, but no file can be missed.
	current, err = os.Open(filepath.Join(dir, "current"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errors.Join(err, closeFile(current))
	}
	var own os.FileInfo
	if current != nil {
		if own, err = current.Stat(); err != nil {
			return nil, nil, errors.Join(err, closeFile(current))
		}
	}
	for _, e := range entries {
		// A processor's .t is the copy of a .u.
		if name := e.Name(); isOld(name) && name[len(name)-2:] != ".t" {
			path := filepath.Join(dir, name)
			if st, err := os.Lstat(path); err == nil && own != nil && os.SameFile(own, st) {
				break
			}
			older = append(older, path)
		}
	}
	return current, older, nil
}
