package runsvdir

import (
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A title is the end of what was written to standard error, kept in the memory of an argument of this process, where ps(1) shows
// it.
type title struct {
	text []byte // of the argument, after the first five bytes
	pipe *os.File
	in   chan []byte
	done chan struct{}
}

// keepBytes is how much of the argument's beginning stays: "log: ".
const keepBytes = 5

// newTitle makes a title of arg and directs standard error, of this process and of those that it starts, there. If it cannot it
// returns nil and the reason.
func newTitle(arg string) (t *title, why string) {
	if len(arg) < keepBytes+2 {
		return nil, "log must have at least seven characters."
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, "unable to create pipe for log."
	}
	_ = unix.SetNonblock(p[0], true) // of a pipe it can't fail
	err := syscall.Dup3(p[1], 2, 0)
	unix.Close(p[1])
	if err != nil {
		unix.Close(p[0])
		return nil, "unable to set filedescriptor for log."
	}
	t = &title{
		text: memory(arg)[keepBytes:], pipe: os.NewFile(uintptr(p[0]), "log"),
		in: make(chan []byte), done: make(chan struct{}),
	}
	go t.read()
	t.dot()
	return t, ""
}

// memory is arg's own memory if that is one of the arguments that the kernel has given us (Go's os.Args are not copied), or else
// a copy, which nobody sees.
func memory(arg string) []byte {
	for _, a := range os.Args {
		if len(a) == len(arg) && unsafe.StringData(a) == unsafe.StringData(arg) {
			return unsafe.Slice(unsafe.StringData(arg), len(arg))
		}
	}
	return []byte(arg)
}

func (t *title) read() {
	defer close(t.in)
	for {
		b := make([]byte, 512)
		n, err := t.pipe.Read(b)
		if err != nil {
			return // closed by us: we have the other end as well
		}
		select {
		case t.in <- b[:n]:
		case <-t.done:
			return
		}
	}
}

// input is what was written. A nil title has none.
func (t *title) input() <-chan []byte {
	if t == nil {
		return nil
	}
	return t.in
}

// add scrolls b in.
func (t *title) add(b []byte) {
	for _, c := range b {
		if c != 0 {
			copy(t.text, t.text[1:])
			t.text[len(t.text)-1] = c
		}
	}
}

// dot scrolls a dot in, and reports whether there is anything else left.
func (t *title) dot() bool {
	if t == nil {
		return false
	}
	t.add([]byte("."))
	return strings.Trim(string(t.text), ".") != ""
}

func (t *title) close() {
	close(t.done)
	t.pipe.Close()
	for range t.in {
	}
}
