// Package djb has what runit's programs take from Dan Bernstein's library and their users meet: the words for system errors
// (scripts grep for "file does not exist"), the scanning of options, and of numbers.
package djb

import (
	"errors"
	"io"
	"math"
	"strings"
	"syscall"
)

// words are error_str.c's. Where strerror(3) says the same there is no line.
var words = map[syscall.Errno]string{
	syscall.EINTR:           "interrupted system call",
	syscall.ENOMEM:          "out of memory",
	syscall.ENOENT:          "file does not exist",
	syscall.ETXTBSY:         "text busy",
	syscall.EIO:             "input/output error",
	syscall.EEXIST:          "file already exists",
	syscall.ETIMEDOUT:       "timed out",
	syscall.EINPROGRESS:     "operation in progress",
	syscall.EAGAIN:          "temporary failure",
	syscall.EPERM:           "permission denied",
	syscall.EACCES:          "access denied",
	syscall.ENXIO:           "device not configured",
	syscall.EBADF:           "file descriptor not open",
	syscall.EDEADLK:         "operation would cause deadlock",
	syscall.ENOTBLK:         "not a block device",
	syscall.EBUSY:           "device busy",
	syscall.EXDEV:           "cross-device link",
	syscall.ENODEV:          "device does not support operation",
	syscall.ENFILE:          "system cannot open more files",
	syscall.EMFILE:          "process cannot open more files",
	syscall.ENOTTY:          "not a tty",
	syscall.EFBIG:           "file too big",
	syscall.ENOSPC:          "out of disk space",
	syscall.ESPIPE:          "unseekable descriptor",
	syscall.EROFS:           "file system is read-only",
	syscall.EDOM:            "input out of range",
	syscall.ERANGE:          "output out of range",
	syscall.EALREADY:        "operation already in progress",
	syscall.ENOTSOCK:        "not a socket",
	syscall.EPROTOTYPE:      "incorrect protocol type",
	syscall.EOPNOTSUPP:      "operation not supported",
	syscall.EAFNOSUPPORT:    "address family not supported",
	syscall.EADDRINUSE:      "address already used",
	syscall.EADDRNOTAVAIL:   "address not available",
	syscall.ENETDOWN:        "network down",
	syscall.ENETUNREACH:     "network unreachable",
	syscall.ENETRESET:       "network reset",
	syscall.ECONNABORTED:    "connection aborted",
	syscall.ENOBUFS:         "out of buffer space",
	syscall.EISCONN:         "already connected",
	syscall.ENOTCONN:        "not connected",
	syscall.ESHUTDOWN:       "socket shut down",
	syscall.ETOOMANYREFS:    "too many references",
	syscall.ELOOP:           "symbolic link loop",
	syscall.EHOSTDOWN:       "host down",
	syscall.EHOSTUNREACH:    "host unreachable",
	syscall.ESTALE:          "stale NFS file handle",
	syscall.ENOSYS:          "system call not available",
	syscall.EPROTONOSUPPORT: "protocol not supported",
}

// Text is what a runit program says of err after the last ": ".
func Text(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	if s, ok := words[errno]; ok {
		return s
	}
	return errno.Error()
}

// ScanUint reads the decimal digits that s begins with, and returns the rest. Without digits the number is 0; one that is too
// large is the largest.
func ScanUint(s string) (n uint64, rest string) {
	for s != "" && s[0] >= '0' && s[0] <= '9' {
		d := uint64(s[0] - '0')
		if n > (math.MaxUint64-d)/10 {
			n = math.MaxUint64
		} else {
			n = n*10 + d
		}
		s = s[1:]
	}
	return n, s
}

// Options scans options as sgetopt does: bundled or not, arguments attached or in the next word, up to "--" (or any word that
// begins so), a lone "-", or the first word that is no option.
type Options struct {
	Spec   string    // the letters; one that has an argument is followed by ":"
	Name   string    // the program as it was called; its last part is what complaints begin with
	Stderr io.Writer // for complaints
	Words  []string  // what is left to scan; after the end, the program's operands
	Arg    string    // the argument of the option that Next returned

	pos int // in Words[0]; 0: at its beginning
}

// Next returns the next option, '?' after a complaint about one that is unknown or lacks its argument, 0 at the end.
func (o *Options) Next() byte {
	o.Arg = ""
	if o.pos > 0 && o.pos == len(o.Words[0]) {
		o.Words, o.pos = o.Words[1:], 0
	}
	if len(o.Words) == 0 {
		return 0
	}
	word := o.Words[0]
	if o.pos == 0 {
		if len(word) < 2 || word[0] != '-' {
			return 0
		}
		if word[1] == '-' {
			o.Words = o.Words[1:]
			return 0
		}
		o.pos = 1
	}
	c := word[o.pos]
	o.pos++
	i := strings.IndexByte(o.Spec, c)
	switch {
	case i < 0 || c == ':':
		return o.complain("illegal option", c)
	case i+1 == len(o.Spec) || o.Spec[i+1] != ':':
		return c
	}
	o.Arg = word[o.pos:]
	o.Words, o.pos = o.Words[1:], 0
	if o.Arg == "" {
		if len(o.Words) == 0 {
			return o.complain("option requires an argument", c)
		}
		o.Arg, o.Words = o.Words[0], o.Words[1:]
	}
	return c
}

func (o *Options) complain(what string, c byte) byte {
	io.WriteString(o.Stderr, o.Name[strings.LastIndexByte(o.Name, '/')+1:]+": "+what+" -- "+string([]byte{c})+"\n")
	return '?'
}
