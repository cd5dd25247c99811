package inet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/loader/spool"
)

// FuzzAnswer reads answers as the loader does. The law: what the short way reads, {get,{ok,Binary}} straight from the wire, is what the
// term reader finds in the frame, and no frame gives more than it has.
func FuzzAnswer(f *testing.F) {
	for _, t := range []term.Term{
		term.Tuple{cmdGet, term.Tuple{term.Atom("ok"), term.Bits{Bytes: "contents"}}},
		term.Tuple{cmdGet, term.Tuple{term.Atom("error"), term.Atom("enoent")}},
		term.Tuple{term.Atom("error"), term.Atom("unknown_command")},
	} {
		f.Add(frame(t))
		b := term.Encode(t, true)
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	}
	f.Add([]byte("\xff\xff\xff\xff\x83"))
	f.Add([]byte("\x00\x00\x00\x1a\x83h\x02d\x00\x03geth\x02d\x00\x02okm\xff\xff\xff\xffxxx"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := spool.New(1 << 20)
		defer s.Discard()
		r := bufio.NewReader(bytes.NewReader(b))
		err := readGet(r, s, func(s *spool.Spool, size int64) error { return s.CopyN(r, size) })
		if len(b) < 5 {
			if err == nil {
				t.Error("an answer from nothing")
			}
			return
		}
		n := int64(binary.BigEndian.Uint32(b))
		if n > int64(len(b)-4) {
			if err == nil {
				t.Error("a whole answer from a part of a frame")
			}
			return
		}
		want, derr := term.Decode(b[4 : 4+n])
		var got string
		if err == nil {
			file, ferr := s.File()
			if ferr != nil {
				t.Fatal(ferr)
			}
			all, _ := io.ReadAll(file)
			got = string(all)
		}
		v, rerr := term.Term(nil), derr
		if derr == nil {
			v, rerr = result(want, cmdGet)
		}
		bits, _ := v.(term.Bits)
		whole := rerr == nil && bits.Last == 0 && term.Compare(v, bits) == 0
		if (err == nil) != whole || err == nil && got != bits.Bytes {
			t.Errorf("read %q, %v; the term is %v, %v", got, err, v, rerr)
		}
	})
}

// A datagram is an answer only from whom was asked, and only if it is whole.
func FuzzDatagram(f *testing.F) {
	f.Add([]byte("EBOOTR\x00\xd5\xf313.1.5"), uint16(4368))
	f.Add([]byte("EBOOTR"), uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, port uint16) {
		a := netip.MustParseAddr("10.0.0.1")
		hosts := []asked{{addr: netip.AddrPortFrom(a, Port)}}
		s, ok := parseAnswer(b, netip.AddrPortFrom(a, port), hosts)
		switch {
		case ok && (port != Port || len(b) < 9 || !bytes.HasPrefix(b, []byte(answer))):
			t.Errorf("taken: %q from port %d", b, port)
		case ok && (s.addr.Addr() != a || s.addr.Port() != uint16(b[7])<<8|uint16(b[8]) || s.priority != b[6]):
			t.Errorf("%q is %v", b, s)
		}
		hosts[0].broadcast = true
		if _, ok2 := parseAnswer(b, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port), hosts); ok && !ok2 {
			t.Errorf("%q not taken after everybody was asked", b)
		}
	})
}

// What is told of a file is read as it was.
func FuzzInfo(f *testing.F) {
	f.Add(term.Encode(term.Tuple{
		term.Atom("file_info"), term.Int(6), term.Atom("regular"), term.Atom("read"), term.Atom("undefined"),
		term.Tuple{term.Tuple{term.Int(2001), term.Int(2), term.Int(3)}, term.Tuple{term.Int(4), term.Int(5), term.Int(6)}},
		term.Atom("undefined"), term.Int(0o100640), term.Int(1), term.Int(2), term.Int(0), term.Int(3), term.Int(0), term.Int(0),
	}, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := term.Decode(b)
		if err != nil {
			return
		}
		if i, ok := parseInfo("x", v); ok && (i.Size() < 0 || int64(v.(term.Tuple)[1].(term.Int)) != i.Size()) {
			t.Errorf("%s is %+v", term.Text(v), i)
		}
	})
}

// TestMalformedFrames: an answer that is none is told as what it is, and costs no more than its bytes.
func TestMalformedFrames(t *testing.T) {
	enc := func(t term.Term) string { return string(frame(t)) }
	whole := func(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }
	get := func(v term.Term) term.Term { return term.Tuple{cmdGet, v} }
	for _, c := range []struct{ name, frame, want string }{
		{"nothing", "", "EOF"},
		{"half of a length", "\x00\x00", "unexpected EOF"},
		{"a length alone", "\x00\x00\x00\x20", "unexpected EOF"},
		{"4 GB announced", "\xff\xff\xff\xff\x83", "unexpected EOF"},
		{"cut off", enc(get(term.Tuple{term.Atom("ok"), term.Bits{Bytes: "contents"}}))[:20], "unexpected EOF"},
		{"an empty frame", whole(""), "no answer of a boot server"},
		{"no term", whole("hello, I am HTTP"), "no answer of a boot server"},
		{"a term cut off", whole("\x83h\x02d\x00\x03getd"), "no answer of a boot server"},
		{"a binary larger than its frame", whole("\x83h\x02d\x00\x03geth\x02d\x00\x02okm\xff\xff\xff\xffxxx"), "a binary of 4294967295 bytes in a frame of 24"},
		{"a list of 4 G", whole("\x83h\x02d\x00\x03getl\xff\xff\xff\xffa\x01"), "no answer of a boot server"},
		{"compressed to 4 G", whole("\x83P\xff\xff\xff\xff" + "xxxxxxxxxxxx"), "no answer of a boot server"},
		{"an atom", enc(term.Atom("get")), "no answer of a boot server: get"},
		{"another command", enc(term.Tuple{cmdListDir, term.Tuple{term.Atom("ok"), term.List{}}}), "it is for list_dir, asked was get"},
		{"ok with a list", enc(get(term.Tuple{term.Atom("ok"), term.String("text")})), "{ok,…} with no binary in it"},
		{"ok with bits", enc(get(term.Tuple{term.Atom("ok"), term.Bits{Bytes: "x", Last: 3}})), "{ok,…} with no binary in it"},
		{"three elements", enc(term.Tuple{cmdGet, term.Atom("ok"), term.Bits{}}), "no answer of a boot server: {get,ok,<<>>}"},
		{"no reason", enc(get(term.Tuple{term.Atom("error"), term.List{}})), "[]"},
		{"nested without end", whole("\x83" + strings.Repeat("h\x01", 1<<20)), "no answer of a boot server"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s := spool.New(1 << 20)
		r := bufio.NewReader(strings.NewReader(c.frame))
		err := readGet(r, s, func(s *spool.Spool, size int64) error { return s.CopyN(r, size) })
		s.Discard()
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("%s: %d bytes were allocated for %d", c.name, used, len(c.frame))
		}
	}
}
