package term

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The tags of the external term format.
const (
	tagNewFloat     = 70
	tagBitBinary    = 77
	tagCompressed   = 80
	tagSmallInteger = 97
	tagInteger      = 98
	tagFloat        = 99
	tagAtom         = 100
	tagSmallTuple   = 104
	tagLargeTuple   = 105
	tagNil          = 106
	tagString       = 107
	tagList         = 108
	tagBinary       = 109
	tagSmallBig     = 110
	tagLargeBig     = 111
	tagExport       = 113
	tagSmallAtom    = 115
	tagMap          = 116
	tagAtomUTF8     = 118
	tagSmallAtomU8  = 119
	version         = 131
)

// ofNode are the tags of terms that mean something only on the node that made them.
var ofNode = map[byte]string{
	88: "a pid", 89: "a port", 90: "a reference", 101: "a reference", 102: "a port", 103: "a pid", 112: "a local fun",
	114: "a reference", 117: "a local fun", 120: "a port",
}

func floatBits(f Float) uint64 { return math.Float64bits(float64(f)) }

// Encode is t as term_to_binary writes it: up to OTP 25, or with otp26 from OTP 26 on, which has every atom in UTF-8. The order
// of a map of more than 32 keys is ours: Erlang's is that of an internal hash.
func Encode(t Term, otp26 bool) []byte {
	return (&encoder{otp26: otp26, b: []byte{version}}).term(t).b
}

type encoder struct {
	b     []byte
	otp26 bool
}

func (e *encoder) term(t Term) *encoder {
	switch t := t.(type) {
	case Int:
		switch {
		case t >= 0 && t <= 255:
			e.b = append(e.b, tagSmallInteger, byte(t))
		case t >= math.MinInt32 && t <= math.MaxInt32:
			e.b = binary.BigEndian.AppendUint32(append(e.b, tagInteger), uint32(t))
		default:
			e.big(BigInt(t))
		}
	case Big:
		e.big(t.v)
	case Float:
		e.b = binary.BigEndian.AppendUint64(append(e.b, tagNewFloat), floatBits(t))
	case Atom:
		e.atom(string(t))
	case List:
		e.list(t)
	case Tuple:
		if len(t) <= 255 {
			e.b = append(e.b, tagSmallTuple, byte(len(t)))
		} else {
			e.b = binary.BigEndian.AppendUint32(append(e.b, tagLargeTuple), uint32(len(t)))
		}
		for _, el := range t {
			e.term(el)
		}
	case Bits:
		tag := byte(tagBinary)
		if t.Last != 0 {
			tag = tagBitBinary
		}
		e.b = binary.BigEndian.AppendUint32(append(e.b, tag), uint32(len(t.Bytes)))
		if t.Last != 0 {
			e.b = append(e.b, t.Last)
		}
		e.b = append(e.b, t.Bytes...)
	case Map:
		e.b = binary.BigEndian.AppendUint32(append(e.b, tagMap), uint32(len(t)))
		for _, p := range t {
			e.term(p.Key).term(p.Value)
		}
	case Fun:
		e.b = append(e.b, tagExport)
		e.atom(string(t.M))
		e.atom(string(t.F))
		e.b = append(e.b, tagSmallInteger, t.Arity)
	}
	return e
}

func (e *encoder) big(i *big.Int) {
	mag := i.Bytes()
	slices.Reverse(mag)
	if len(mag) <= 255 {
		e.b = append(e.b, tagSmallBig, byte(len(mag)))
	} else {
		e.b = binary.BigEndian.AppendUint32(append(e.b, tagLargeBig), uint32(len(mag)))
	}
	sign := byte(0)
	if i.Sign() < 0 {
		sign = 1
	}
	e.b = append(append(e.b, sign), mag...)
}

func (e *encoder) atom(s string) {
	latin1 := !strings.ContainsFunc(s, func(r rune) bool { return r > 255 })
	switch {
	case latin1 && !e.otp26:
		e.b = binary.BigEndian.AppendUint16(append(e.b, tagAtom), uint16(utf8.RuneCountInString(s)))
		for _, r := range s {
			e.b = append(e.b, byte(r))
		}
	case len(s) <= 255:
		e.b = append(append(e.b, tagSmallAtomU8, byte(len(s))), s...)
	default:
		e.b = append(binary.BigEndian.AppendUint16(append(e.b, tagAtomUTF8), uint16(len(s))), s...)
	}
}

func (e *encoder) list(l List) {
	if l.Elems == nil {
		e.b = append(e.b, tagNil)
		return
	}
	notByte := func(t Term) bool { i, ok := t.(Int); return !ok || i < 0 || i > 255 }
	if l.Tail == nil && len(l.Elems) <= math.MaxUint16 && !slices.ContainsFunc(l.Elems, notByte) {
		e.b = binary.BigEndian.AppendUint16(append(e.b, tagString), uint16(len(l.Elems)))
		for _, el := range l.Elems {
			e.b = append(e.b, byte(el.(Int)))
		}
		return
	}
	e.b = binary.BigEndian.AppendUint32(append(e.b, tagList), uint32(len(l.Elems)))
	for _, el := range l.Elems {
		e.term(el)
	}
	if l.Tail == nil {
		e.b = append(e.b, tagNil)
	} else {
		e.term(l.Tail)
	}
}

// Decode reads the external term at the beginning of b as binary_to_term does: what follows it is not looked at.
func Decode(b []byte) (Term, error) { return DecodeWithin(b, MaxSize) }

// DecodeWithin is Decode for what may be hostile: a compressed term may have at most size bytes when it is expanded.
func DecodeWithin(b []byte, size int) (Term, error) {
	d := decoder{b: b, most: size}
	v, err := d.byte()
	if err == nil && v != version {
		err = fmt.Errorf("the first byte is %d, not %d: no external term", v, version)
	}
	if err == nil && len(d.b) > 0 && d.b[0] == tagCompressed {
		err = d.expand()
	}
	var t Term
	if err == nil {
		t, err = d.term(0)
	}
	if err != nil {
		return nil, fmt.Errorf("byte %d: %w", d.at, err)
	}
	return t, nil
}

type decoder struct {
	b    []byte // what is left
	at   int    // bytes before it
	most int    // the size of a compressed term, expanded
}

var errShort = errors.New("the term is cut off")

func (d *decoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.b)) {
		return nil, errShort
	}
	p := d.b[:n]
	d.b, d.at = d.b[n:], d.at+int(n)
	return p, nil
}

func (d *decoder) byte() (byte, error) {
	p, err := d.take(1)
	if err != nil {
		return 0, err
	}
	return p[0], nil
}

// number reads a big-endian number of size bytes.
func (d *decoder) number(size uint64) (uint64, error) {
	p, err := d.take(size)
	var n uint64
	for _, c := range p {
		n = n<<8 | uint64(c)
	}
	return n, err
}

// count reads the number of things to come, each of at least size bytes.
func (d *decoder) count(width, size uint64) (uint64, error) {
	n, err := d.number(width)
	if err == nil && n*size > uint64(len(d.b)) {
		err = errShort
	}
	return n, err
}

// expand puts a compressed term in the place of its bytes.
func (d *decoder) expand() error {
	d.b, d.at = d.b[1:], d.at+1
	size, err := d.number(4)
	if err != nil {
		return err
	}
	if size > uint64(d.most) {
		return fmt.Errorf("a compressed term of %d bytes; at most %d are read", size, d.most)
	}
	z, err := zlib.NewReader(bytes.NewReader(d.b))
	if err != nil {
		return fmt.Errorf("compressed term: %w", err)
	}
	p, err := io.ReadAll(io.LimitReader(z, int64(size)+1))
	if err != nil {
		return fmt.Errorf("compressed term: %w", err)
	}
	if uint64(len(p)) != size {
		return fmt.Errorf("the compressed term does not have the %d bytes it says", size)
	}
	d.b = p
	return nil
}

func (d *decoder) terms(n uint64, depth int) ([]Term, error) {
	var out []Term
	for range n {
		t, err := d.term(depth)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (d *decoder) term(depth int) (Term, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested more than %d deep", MaxDepth)
	}
	tag, err := d.byte()
	if err != nil {
		return nil, err
	}
	switch tag {
	case tagSmallInteger:
		n, err := d.byte()
		return Int(n), err
	case tagInteger:
		n, err := d.number(4)
		return Int(int32(n)), err
	case tagSmallBig:
		return d.big(1)
	case tagLargeBig:
		return d.big(4)
	case tagNewFloat:
		n, err := d.number(8)
		return finite(math.Float64frombits(n), err)
	case tagFloat:
		p, err := d.take(31)
		if err != nil {
			return nil, err
		}
		f, err := strconv.ParseFloat(strings.TrimRight(string(p), "\x00"), 64)
		if err != nil {
			err = errors.New("a float of no known form")
		}
		return finite(f, err)
	case tagAtom:
		return d.latin1(2)
	case tagSmallAtom:
		return d.latin1(1)
	case tagAtomUTF8:
		return d.utf8(2)
	case tagSmallAtomU8:
		return d.utf8(1)
	case tagSmallTuple, tagLargeTuple:
		width := uint64(1)
		if tag == tagLargeTuple {
			width = 4
		}
		n, err := d.count(width, 1)
		if err != nil {
			return nil, err
		}
		elems, err := d.terms(n, depth+1)
		return Tuple(elems), err
	case tagNil:
		return List{}, nil
	case tagString:
		n, err := d.number(2)
		if err != nil {
			return nil, err
		}
		p, err := d.take(n)
		if err != nil {
			return nil, err
		}
		elems := make([]Term, len(p))
		for i, c := range p {
			elems[i] = Int(c)
		}
		return Cons(elems, nil), nil
	case tagList:
		n, err := d.count(4, 1)
		if err != nil {
			return nil, err
		}
		elems, err := d.terms(n, depth+1)
		if err != nil {
			return nil, err
		}
		tail, err := d.term(depth + 1)
		return Cons(elems, tail), err
	case tagBinary, tagBitBinary:
		return d.bits(tag)
	case tagMap:
		return d.mapping(depth)
	case tagExport:
		return d.fun(depth)
	}
	if what, ok := ofNode[tag]; ok {
		return nil, fmt.Errorf("%s (tag %d), which means nothing outside its node", what, tag)
	}
	return nil, fmt.Errorf("tag %d is no term's", tag)
}

func finite(f float64, err error) (Term, error) {
	if err == nil && (math.IsInf(f, 0) || math.IsNaN(f)) {
		err = errors.New("a float that is not finite")
	}
	return Float(f), err
}

func (d *decoder) big(width uint64) (Term, error) {
	n, err := d.number(width)
	if err != nil {
		return nil, err
	}
	sign, err := d.byte()
	if err != nil {
		return nil, err
	}
	p, err := d.take(n)
	if err != nil {
		return nil, err
	}
	mag := slices.Clone(p)
	slices.Reverse(mag)
	i := new(big.Int).SetBytes(mag)
	if sign != 0 {
		i.Neg(i)
	}
	return Integer(i), nil
}

func (d *decoder) latin1(width uint64) (Term, error) {
	n, err := d.number(width)
	if err != nil {
		return nil, err
	}
	p, err := d.take(n)
	if err != nil {
		return nil, err
	}
	runes := make([]rune, len(p))
	for i, c := range p {
		runes[i] = rune(c)
	}
	return atom(string(runes))
}

func (d *decoder) utf8(width uint64) (Term, error) {
	n, err := d.number(width)
	if err != nil {
		return nil, err
	}
	p, err := d.take(n)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(p) {
		return nil, errors.New("an atom that is not UTF-8")
	}
	return atom(string(p))
}

// atom is the atom s, if it is not too long.
func atom(s string) (Term, error) {
	if n := utf8.RuneCountInString(s); n > maxAtom {
		return nil, fmt.Errorf("an atom of %d characters; it may have %d", n, maxAtom)
	}
	return Atom(s), nil
}

func (d *decoder) bits(tag byte) (Term, error) {
	n, err := d.number(4)
	if err != nil {
		return nil, err
	}
	last := byte(8)
	if tag == tagBitBinary {
		if last, err = d.byte(); err != nil {
			return nil, err
		}
		if n == 0 && last != 0 || n > 0 && (last == 0 || last > 8) {
			return nil, fmt.Errorf("a bitstring of %d bytes with %d bits in the last", n, last)
		}
	}
	p, err := d.take(n)
	if err != nil {
		return nil, err
	}
	if n == 0 || last == 8 {
		return Bits{Bytes: string(p)}, nil
	}
	p = slices.Clone(p)
	p[n-1] &= 0xff << (8 - last)
	return Bits{string(p), last}, nil
}

func (d *decoder) mapping(depth int) (Term, error) {
	n, err := d.count(4, 2)
	if err != nil {
		return nil, err
	}
	var pairs []Pair
	for range n {
		kv, err := d.terms(2, depth+1)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, Pair{kv[0], kv[1]})
	}
	m, twice := MakeMap(pairs)
	if twice {
		return nil, errors.New("a map with one key twice")
	}
	return m, nil
}

func (d *decoder) fun(depth int) (Term, error) {
	mfa, err := d.terms(3, depth+1)
	if err != nil {
		return nil, err
	}
	m, ok1 := mfa[0].(Atom)
	f, ok2 := mfa[1].(Atom)
	a, ok3 := mfa[2].(Int)
	if !ok1 || !ok2 || !ok3 || a < 0 || a > 255 {
		return nil, errors.New("a fun that is not module, function and arity")
	}
	return Fun{m, f, uint8(a)}, nil
}
