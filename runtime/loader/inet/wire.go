package inet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"unicode/utf8"

	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/loader/spool"
)

// The wire (erlang.md a): discovery by UDP, "EBOOTQ" and a version; "EBOOTR", a priority, a TCP port and a version come back.
// Over TCP a frame is a length of 4 bytes, the highest first, and one external term.
const (
	// Port is the UDP port of boot servers.
	Port = 4368
	// Version is what cmgr's own loader asks for in place of an ERTS version.
	Version = "cmgr/1"

	query      = "EBOOTQ"
	answer     = "EBOOTR"
	maxVersion = 64
	// maxRequest bounds a request in bytes: a name of PATH_MAX characters, in its longest form, and something to spare.
	maxRequest = 64 << 10
	// maxTerm bounds an answer in bytes that has to be read as a term: a listing, or a file that came compressed.
	maxTerm = term.MaxSize
)

// The commands.
const (
	cmdGet      term.Atom = "get"
	cmdListDir  term.Atom = "list_dir"
	cmdFileInfo term.Atom = "read_file_info"
	cmdLinkInfo term.Atom = "read_link_info"
	cmdCwd      term.Atom = "get_cwd"
)

var reasons = []struct {
	atom  term.Atom
	errno syscall.Errno
}{
	{"enoent", syscall.ENOENT},
	{"enotdir", syscall.ENOTDIR},
	{"eisdir", syscall.EISDIR},
	{"eacces", syscall.EACCES},
	{"enametoolong", syscall.ENAMETOOLONG},
	{"eloop", syscall.ELOOP},
	{"eperm", syscall.EPERM},
	{"emfile", syscall.EMFILE},
	{"enfile", syscall.ENFILE},
	{"enomem", syscall.ENOMEM},
	{"eio", syscall.EIO},
	{"einval", syscall.EINVAL},
}

// A Reason is why a boot server has no answer, in its own word: "enoent", "eisdir", …, or "badarg" for a name that is none.
type Reason string

// Error is the word, and what it means where that is known.
func (r Reason) Error() string {
	if errno := r.errno(); errno != 0 {
		return fmt.Sprintf("%s (%v)", string(r), errno)
	}
	return string(r)
}

func (r Reason) errno() syscall.Errno {
	for _, k := range reasons {
		if string(k.atom) == string(r) {
			return k.errno
		}
	}
	return 0
}

// Is says that enoent and enotdir mean fs.ErrNotExist, and eacces and eperm fs.ErrPermission.
func (r Reason) Is(target error) bool {
	errno := r.errno()
	return errno != 0 && (errno.Is(target) || target == errno) || errno == syscall.ENOTDIR && target == fs.ErrNotExist
}

// reasonOf is the word for an error of the disk.
func reasonOf(err error) term.Atom {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		for _, k := range reasons {
			if k.errno == errno {
				return k.atom
			}
		}
		return "eio"
	}
	if errors.Is(err, fs.ErrInvalid) {
		return "badarg"
	}
	return "enoent" // os.Root's only error that is no errno: it leads outside, of which nothing is told
}

// frame is t as a frame.
func frame(t term.Term) []byte {
	b := term.Encode(t, false)
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
}

// request is the frame that asks for name.
func request(cmd term.Atom, name string) ([]byte, error) {
	if !utf8.ValidString(name) {
		return nil, errors.New("a name that is not UTF-8 cannot be asked for")
	}
	b := frame(term.Tuple{cmd, term.String(name)})
	if len(b) > maxRequest {
		return nil, syscall.ENAMETOOLONG
	}
	return b, nil
}

// readFrame reads a frame of at most most bytes. It believes no length before the bytes are there.
func readFrame(r io.Reader, most int64) ([]byte, error) {
	n, err := readLength(r)
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("a frame of %d bytes; at most %d are read", n, most)
	}
	return readBody(r, n)
}

func readLength(r io.Reader) (int64, error) {
	var l [4]byte
	if _, err := io.ReadFull(r, l[:]); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint32(l[:])), nil
}

func readBody(r io.Reader, n int64) ([]byte, error) {
	var b bytes.Buffer
	if n <= 4096 {
		b.Grow(int(n) + bytes.MinRead)
	}
	if _, err := io.CopyN(&b, r, n); err != nil {
		return nil, noEOF(err)
	}
	return b.Bytes(), nil
}

// noEOF says of an end in the middle that it is one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// errProtocol is the error of an answer that is none.
var errProtocol = errors.New("no answer of a boot server")

// readGet reads the answer to a get into s; copyBody takes so many bytes of what comes. A Reason is what the server answered;
// after it, as after no error, the connection can be used again.
func readGet(r *bufio.Reader, s *spool.Spool, copyBody func(s *spool.Spool, size int64) error) error {
	n, err := readLength(r)
	if err != nil {
		return err
	}
	size, head, err := binaryAhead(r, n)
	if err != nil {
		return err
	}
	if head == 0 { // not the usual form: a refusal, or a compressed term
		t, err := readTerm(r, n)
		if err != nil {
			return err
		}
		v, err := result(t, cmdGet)
		if err != nil {
			return err
		}
		b, ok := v.(term.Bits)
		if !ok || b.Last != 0 {
			return fmt.Errorf("%w: {ok,…} with no binary in it", errProtocol)
		}
		_, err = io.WriteString(s, b.Bytes)
		return err
	}
	if err := copyBody(s, size); err != nil {
		return err
	}
	// binary_to_term looks at nothing behind the term.
	_, err = io.CopyN(io.Discard, r, n-head-size)
	return noEOF(err)
}

// binaryAhead reads the beginning of {get,{ok,Binary}} if that is what comes in a frame of n bytes: the binary's size, and how
// many bytes of the frame are read. Otherwise nothing is read, and head is 0.
func binaryAhead(r *bufio.Reader, n int64) (size, head int64, err error) {
	const least = 4 + 4 + 3 // 131, a tuple of 2, the shortest atoms
	want := min(n, 32)
	p, err := r.Peek(int(want))
	if err != nil {
		return 0, 0, noEOF(err)
	}
	rest, ok := p, len(p) >= least
	tuple := func(with string) {
		if ok = ok && bytes.HasPrefix(rest, []byte{104, 2}); !ok {
			return
		}
		rest = rest[2:]
		for _, tag := range []string{"d\x00" + string(rune(len(with))), "w" + string(rune(len(with))), "s" + string(rune(len(with)))} {
			if bytes.HasPrefix(rest, []byte(tag+with)) {
				rest = rest[len(tag)+len(with):]
				return
			}
		}
		ok = false
	}
	if ok = ok && rest[0] == 131; ok {
		rest = rest[1:]
	}
	tuple("get")
	tuple("ok")
	if !ok || len(rest) < 5 || rest[0] != 109 {
		return 0, 0, nil
	}
	size = int64(binary.BigEndian.Uint32(rest[1:5]))
	head = int64(len(p) - len(rest) + 5)
	if head+size > n {
		return 0, 0, fmt.Errorf("%w: a binary of %d bytes in a frame of %d", errProtocol, size, n)
	}
	_, err = r.Discard(int(head))
	return size, head, err
}

// readTerm reads the n bytes of a frame as a term.
func readTerm(r io.Reader, n int64) (term.Term, error) {
	if n > maxTerm {
		return nil, fmt.Errorf("%w: a term of %d bytes; at most %d are read", errProtocol, n, maxTerm)
	}
	b, err := readBody(r, n)
	if err != nil {
		return nil, err
	}
	t, err := term.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	return t, nil
}

// result is V of {Cmd,{ok,V}}, or the Reason of {Cmd,{error,Reason}}.
func result(t term.Term, cmd term.Atom) (term.Term, error) {
	pair := func(t term.Term) (term.Atom, term.Term) {
		if p, ok := t.(term.Tuple); ok && len(p) == 2 {
			a, _ := p[0].(term.Atom)
			return a, p[1]
		}
		return "", nil
	}
	head, r := pair(t)
	switch how, v := pair(r); {
	case head == cmd && how == "ok":
		return v, nil
	case head == cmd && how == "error":
		if a, ok := v.(term.Atom); ok {
			return nil, Reason(a)
		}
		return nil, Reason(clip(v))
	case head == "error":
		return nil, Reason(clip(r)) // {error,unknown_command}
	case head != "" && head != cmd:
		return nil, fmt.Errorf("%w: it is for %s, asked was %s", errProtocol, head, cmd)
	}
	return nil, fmt.Errorf("%w: %s", errProtocol, clip(t))
}

// clip is the text of a term, as far as it fits in a message.
func clip(t term.Term) string {
	if t == nil {
		return "nothing"
	}
	s := term.Text(t)
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return s
}
