package inet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
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
