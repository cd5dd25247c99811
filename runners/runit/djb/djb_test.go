package djb

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestText(t *testing.T) {
	for err, want := range map[error]string{
		&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}: "file does not exist",
		fmt.Errorf("lock: %w", syscall.EWOULDBLOCK):               "temporary failure",
		syscall.ENOTDIR:         "not a directory", // as strerror(3)
		syscall.Errno(4000):     "errno 4000",
		fmt.Errorf("something"): "something",
	} {
		if got := Text(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// What Debian's chpst and svlogd do with these words was observed.
func TestOptions(t *testing.T) {
	for line, want := range map[string]string{
		"-vP x -v":     "v P | x -v",
		"-n1 -- -x":    "n=1 | -x",
		"-n 1 x":       "n=1 | x",
		"-vn1 x":       "v n=1 | x",
		"-n":           "? | |p: option requires an argument -- n",
		"-vZv":         "v ? |p: illegal option -- Z",
		"-":            "| -",
		"--anything x": "| x",
		"-n -- x":      "n=-- | x",
		"-:":           "? |p: illegal option -- :",
		"":             "|",
	} {
		var said strings.Builder
		o := Options{Spec: "vPn:", Name: "/bin/p", Stderr: &said, Words: strings.Fields(line)}
		var got strings.Builder
		for c := o.Next(); c != 0; c = o.Next() {
			got.WriteByte(c)
			if o.Arg != "" {
				got.WriteString("=" + o.Arg)
			}
			got.WriteByte(' ')
			if c == '?' {
				break
			}
		}
		got.WriteByte('|')
		if said.Len() > 0 {
			if !strings.HasSuffix(want, "|"+strings.TrimSuffix(said.String(), "\n")) {
				t.Errorf("%q: said %q, want %q", line, said.String(), want)
			}
			continue
		}
		for _, w := range o.Words {
			got.WriteString(" " + w)
		}
		if got.String() != want {
			t.Errorf("%q: %q, want %q", line, got.String(), want)
		}
	}
}

func FuzzScanUint(f *testing.F) {
	for _, s := range []string{"", "0", "12k", "18446744073709551616", "-1", "007x"} {
		f.Add(s)
	}
	// What was read and the rest make up the whole, and a number that fits is read as Go reads it.
	f.Fuzz(func(t *testing.T, s string) {
		n, rest := ScanUint(s)
		digits := strings.TrimSuffix(s, rest)
		if digits+rest != s || strings.Trim(digits, "0123456789") != "" || rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			t.Fatalf("%q: %d, rest %q", s, n, rest)
		}
		digits = strings.TrimLeft(digits, "0")
		if len(digits) < 20 {
			if want := digits; fmt.Sprint(n) != want && (want != "" || n != 0) {
				t.Fatalf("%q: %d", s, n)
			}
		}
	})
}
