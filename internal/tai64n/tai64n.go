// Package tai64n writes and reads external TAI64N labels as daemontools and runit use them: "@" and 24 hexadecimal digits, in
// them 8 bytes of seconds and 4 of nanoseconds, big endian. Labels of the same length sort as text in the order of time.
//
// Seconds are 2^62 + 10 + Unix seconds. The 10 is a constant: runit has no table of leap seconds, and neither have we, so that
// tai64nlocal and svlogd agree with us about every label.
package tai64n

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Size is the length of a label in bytes, the "@" included.
const Size = 25

// epoch is the TAI64 label of 1970-01-01 00:00:00 UTC, as runit counts.
const epoch = 1<<62 + 10

// Append appends the label of t.
func Append(dst []byte, t time.Time) []byte {
	b := Pack(t)
	return hex.AppendEncode(append(dst, '@'), b[:])
}

// Pack is t in the 12 bytes of TAI64N, as they stand in a status of supervise.
func Pack(t time.Time) (b [12]byte) {
	binary.BigEndian.PutUint64(b[:], uint64(t.Unix()+epoch))
	binary.BigEndian.PutUint32(b[8:], uint32(t.Nanosecond()))
	return b
}

// Unpack is the time in b, in UTC. It takes any bytes, also what Parse calls out of range, since who keeps such a status can't be
// asked to correct it.
func Unpack(b [12]byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(b[:]))-epoch, int64(binary.BigEndian.Uint32(b[8:]))).UTC()
}

// Format is the label of t.
func Format(t time.Time) string { return string(Append(nil, t)) }

// Parse reads a label: exactly Size bytes, lower-case digits (all that tai64nlocal takes), seconds below 2^63 (what is above is
// reserved by TAI64), nanoseconds below 10^9. The time is in UTC.
func Parse(label string) (time.Time, error) {
	if len(label) != Size || label[0] != '@' {
		return time.Time{}, fmt.Errorf("tai64n label %q: not @ and 24 digits", label)
	}
	var sec, nsec uint64
	for i := 1; i < Size; i++ {
		var digit byte
		switch c := label[i]; {
		case c >= '0' && c <= '9':
			digit = c - '0'
		case c >= 'a' && c <= 'f':
			digit = c - 'a' + 10
		default:
			return time.Time{}, fmt.Errorf("tai64n label %q: %q is no lower-case hexadecimal digit", label, c)
		}
		if i <= 16 {
			sec = sec<<4 | uint64(digit)
		} else {
			nsec = nsec<<4 | uint64(digit)
		}
	}
	if sec >= 1<<63 || nsec >= 1e9 {
		return time.Time{}, fmt.Errorf("tai64n label %q: out of range", label)
	}
	return time.Unix(int64(sec)-epoch, int64(nsec)).UTC(), nil
}
