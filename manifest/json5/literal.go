package json5

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"github.com/tailscale/hujson"
)

// Kind is a kind of JSON value.
type Kind uint8

const (
	Invalid Kind = iota // no value, as in the tree of a text that could not be read
	Null
	Bool
	Number
	String
	Array
	Object
)

// String is the word for messages, with its article.
func (k Kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// KindOf tells v's kind.
func KindOf(v hujson.Value) Kind {
	switch lit := v.Value.(type) {
	case *hujson.Object:
		return Object
	case *hujson.Array:
		return Array
	case hujson.Literal:
		switch lit[0] {
		case '"', '\'':
			return String
		case 'n':
			return Null
		case 't', 'f':
			return Bool
		}
		return Number
	}
	return Invalid
}

// Text is the string that v is, escapes decoded; a lone surrogate becomes U+FFFD. It is "" for other kinds. It may alias the
// source.
func Text(v hujson.Value) string {
	lit, ok := v.Value.(hujson.Literal)
	if !ok || lit[0] != '"' && lit[0] != '\'' {
		return ""
	}
	return unescape(lit[1 : len(lit)-1])
}

// Name is the name that v, an ObjectMember's Name, stands for, be it quoted or an identifier. It may alias the source.
func Name(v hujson.Value) string {
	lit, ok := v.Value.(hujson.Literal)
	if !ok || len(lit) == 0 {
		return ""
	}
	if lit[0] == '"' || lit[0] == '\'' {
		lit = lit[1 : len(lit)-1]
	}
	return unescape(lit)
}

// unescape decodes the inside of a string or an identifier, known to be well-formed.
func unescape(b []byte) string {
	i := 0
	for i < len(b) && b[i] != '\\' {
		i++
	}
	if i == len(b) {
		// The tree already aliases the source and neither is changed, so a copy would only cost.
		return unsafe.String(unsafe.SliceData(b), len(b))
	}
	out := append(make([]byte, 0, len(b)), b[:i]...)
	for i < len(b) {
		if b[i] != '\\' {
			out = append(out, b[i])
			i++
			continue
		}
		n, _ := escapeLength(b[i:])
		switch c := b[i+1]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'v':
			out = append(out, '\v')
		case '0':
			out = append(out, 0)
		case '\n', '\r': // a line continuation stands for nothing
		case 'x':
			out = utf8.AppendRune(out, rune(hexValue(b[i+2:i+4])))
		case 'u':
			r, _ := unicodeEscape(b[i:])
			if utf16.IsSurrogate(r) {
				low, ok := unicodeEscape(b[i+n:])
				if r = utf16.DecodeRune(r, low); ok && r != utf8.RuneError {
					n += 6
				} else {
					r = utf8.RuneError
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			if seq := b[i+1 : i+n]; string(seq) != "\u2028" && string(seq) != "\u2029" {
				out = append(out, seq...)
			}
		}
		i += n
	}
	return string(out)
}

// unicodeEscape is the code unit of the \uXXXX at the start of b.
func unicodeEscape(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' || !allHex(b[2:6]) {
		return 0, false
	}
	return rune(hexValue(b[2:6])), true
}

func hexValue(b []byte) uint64 {
	n, _ := strconv.ParseUint(string(b), 16, 64)
	return n
}

// Why a number is not what was asked for.
var (
	ErrNotNumber  = errors.New("not a number")
	ErrNotInteger = errors.New("not an integer")
	ErrRange      = errors.New("out of range")
	ErrNotFinite  = errors.New("NaN and Infinity are not allowed")
)

// Uint is the exact integer that v is: decimal, hexadecimal, or with a fraction or exponent that leaves it whole (1e3, 2.0).
func Uint(v hujson.Value) (uint64, error) {
	neg, n, err := integer(v)
	if err == nil && neg && n != 0 {
		return 0, ErrRange
	}
	return n, err
}

// Int is the exact integer that v is, as Uint.
func Int(v hujson.Value) (int64, error) {
	neg, n, err := integer(v)
	switch {
	case err != nil:
		return 0, err
	case neg && n <= 1<<63:
		return -int64(n), nil
	case !neg && n <= math.MaxInt64:
		return int64(n), nil
	}
	return 0, ErrRange
}

// integer is v's sign and magnitude.
func integer(v hujson.Value) (neg bool, n uint64, err error) {
	if KindOf(v) != Number {
		return false, 0, ErrNotNumber
	}
	s := string(v.Value.(hujson.Literal))
	if s[0] == '+' || s[0] == '-' {
		neg = s[0] == '-'
		s = s[1:]
	}
	switch {
	case s[0] == 'I' || s[0] == 'N':
		return neg, 0, ErrNotFinite
	case isHexNumber(s):
		n, err = strconv.ParseUint(s[2:], 16, 64)
	case strings.ContainsAny(s, ".eE"):
		n, err = whole(s)
	default:
		n, err = strconv.ParseUint(s, 10, 64)
	}
	switch err {
	case nil, ErrNotInteger:
		return neg, n, err
	}
	return neg, 0, ErrRange
}

func isHexNumber(s string) bool { return len(s) > 2 && s[1]|0x20 == 'x' }

// whole is the integer of an unsigned decimal with a fraction or exponent.
func whole(s string) (uint64, error) {
	mantissa, exp := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		var err error
		mantissa = s[:i]
		if exp, err = strconv.Atoi(s[i+1:]); err != nil || exp < -1e6 || exp > 1e6 {
			exp = max(min(exp, 1e6), -1e6)
		}
	}
	left, right, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(left+right, "0")
	if digits == "" {
		return 0, nil
	}
	exp -= len(right)
	for exp < 0 && strings.HasSuffix(digits, "0") {
		digits = digits[:len(digits)-1]
		exp++
	}
	if exp < 0 {
		return 0, ErrNotInteger
	}
	if len(digits)+exp > 20 {
		return 0, ErrRange
	}
	return strconv.ParseUint(digits+strings.Repeat("0", exp), 10, 64)
}

// Float is the number that v is, NaN and the infinities included.
func Float(v hujson.Value) (float64, error) {
	if KindOf(v) != Number {
		return 0, ErrNotNumber
	}
	s := string(v.Value.(hujson.Literal))
	sign := 1.0
	if s[0] == '+' || s[0] == '-' {
		if s[0] == '-' {
			sign = -1
		}
		s = s[1:]
	}
	switch {
	case s == "NaN":
		return math.NaN(), nil
	case s == "Infinity":
		return math.Inf(int(sign)), nil
	case isHexNumber(s):
		n, _ := new(big.Int).SetString(s[2:], 16)
		f, _ := new(big.Float).SetInt(n).Float64()
		return sign * f, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, fmt.Errorf("number %s: %w", clip(s), ErrNotNumber)
	}
	return sign * f, nil
}
