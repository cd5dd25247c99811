package term

import (
	"math/big"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// terms are any terms, at most depth deep.
func terms(depth int) *rapid.Generator[Term] {
	name := rapid.Map(rapid.StringN(0, 20, -1), func(s string) Atom { return Atom(strings.ToValidUTF8(s, "?")) })
	of := []*rapid.Generator[Term]{
		rapid.Map(name, func(a Atom) Term { return a }),
		rapid.Map(rapid.Int64(), func(i int64) Term { return Int(i) }),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) Term { return Integer(new(big.Int).SetBytes(b)) }),
		rapid.Map(rapid.Float64(), func(f float64) Term { return Float(f) }).Filter(func(t Term) bool {
			_, err := finite(float64(t.(Float)), nil)
			return err == nil
		}),
		rapid.Map(rapid.String(), func(s string) Term { return String(strings.ToValidUTF8(s, "?")) }),
		rapid.Custom(func(t *rapid.T) Term {
			b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
			last := uint8(rapid.IntRange(0, 7).Draw(t, "last"))
			if len(b) == 0 {
				last = 0
			}
			if last != 0 {
				b[len(b)-1] &= 0xff << (8 - last)
			}
			return Bits{string(b), last}
		}),
		rapid.Custom(func(t *rapid.T) Term { return Fun{name.Draw(t, "m"), name.Draw(t, "f"), rapid.Byte().Draw(t, "a")} }),
	}
	if depth > 0 {
		some := rapid.SliceOfN(terms(depth-1), 0, 4)
		of = append(of,
			rapid.Map(some, func(e []Term) Term { return Tuple(e) }),
			rapid.Map(some, func(e []Term) Term { return Cons(e, nil) }),
			rapid.Custom(func(t *rapid.T) Term { return Cons(some.Draw(t, "elems"), terms(depth-1).Draw(t, "tail")) }),
			rapid.Custom(func(t *rapid.T) Term {
				var pairs []Pair
				for _, k := range some.Draw(t, "keys") {
					pairs = append(pairs, Pair{k, terms(depth-1).Draw(t, "value")})
				}
				m, _ := MakeMap(pairs)
				return m
			}))
	}
	return rapid.OneOf(of...)
}

// roundTrips fails unless t survives both forms.
func roundTrips(t interface{ Fatalf(string, ...any) }, want Term) {
	for _, otp26 := range []bool{false, true} {
		b := Encode(want, otp26)
		got, err := Decode(b)
		if err != nil || Compare(got, want) != 0 || string(Encode(got, otp26)) != string(b) {
			t.Fatalf("Decode(Encode(%s)) = %v, %v", Text(want), got, err)
		}
	}
	text := Text(want)
	got, err := Parse("x", []byte(text+"."))
	if err != nil || string(JSON(got)) != string(JSON(want)) {
		t.Fatalf("Parse(%s) = %v, %v", text, got, err)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { roundTrips(t, terms(3).Draw(t, "term")) })
}

// What is read from any bytes is a term that both forms hold.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{131, 116, 0, 0, 0, 1, 97, 1, 107, 0, 1, 65})
	f.Add([]byte{131, 77, 0, 0, 0, 1, 3, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Decode(b); err == nil {
			roundTrips(t, got)
		}
	})
}

// The same of any text.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`#{1 => [a|"b"], 'A' => {-1.5e3, <<1:4, "x"/utf8, 2.0:32/little-float>>}, 16#f_f => fun m:f/1}.`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Parse("x", b); err == nil {
			roundTrips(t, got)
		}
	})
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"{a,\n  B}.", "x:2:3: a variable; only terms are read"},
		{"[a", "x:1:3: the file ends where ']' was expected"},
		{"{a b}.", `x:1:4: "b" where '}' was expected`},
		{"{a,end}.", "x:1:4: the reserved word end where a term was expected"},
		{`"abc`, `x:1:1: the '"' is never closed`},
		{"\"\\x{110000}\".", `x:1:1: the \x is no Unicode character`},
		{"a\n. <<0:999999999>>.", ""},
		{"<<0:999999999>>.", "x:1:5: a number where a size of at most 8388608 was expected"},
		{"--1.", `x:1:1: "--" where a term was expected`},
		{strings.Repeat("[", MaxDepth+2), "x:1:10002: nested more than 10000 deep"},
	} {
		_, err := Parse("x", []byte(c.src))
		if got := ""; err != nil && err.Error() != c.want || err == nil && got != c.want {
			t.Errorf("%.40s: %v, want %s", c.src, err, c.want)
		}
	}
}
