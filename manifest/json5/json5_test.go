package json5

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestOfficialSuite decides every case of github.com/json5/json5-tests: .json and .json5 are JSON5, .js and .txt are not.
func TestOfficialSuite(t *testing.T) {
	root := filepath.Join(needs.Shared(t), "vectors", "json5")
	cases := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		ext := filepath.Ext(path)
		want := ext == ".json" || ext == ".json5"
		if !want && ext != ".js" && ext != ".txt" {
			if ext != ".errorSpec" && ext != ".md" && ext != ".editorconfig" && ext != ".gitattributes" { // no cases
				t.Errorf("%s is neither a case nor known to be none", path)
			}
			return nil
		}
		cases++
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		tree, err := Parse(src, Options{})
		if (err == nil) != want {
			t.Errorf("%s: valid %v, got %v", path, want, err)
		}
		if err != nil {
			return nil
		}
		if got := tree.Root.Pack(); !bytes.Equal(got, src) {
			t.Errorf("%s: packs as %q", path, got)
		}
		if out, err := ToJSON(&tree); err == nil && !json.Valid(out) {
			t.Errorf("%s: ToJSON gives %s", path, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if cases != 113 {
		t.Errorf("%d cases, want 113", cases)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ src, want, fixed string }{
		{"{\n  a: { b: 1 }\n  \"use\": []\n}", "2:14: missing comma between `}` and `\"use\"`", "{\n  a: { b: 1 },\n  \"use\": []\n}"},
		{"{a: 1 b: 2}", "1:6: missing comma between `1` and `b`", "{a: 1, b: 2}"},
		{"['x' 'y']", "1:5: missing comma between `'` and `'y'`", "['x', 'y']"},
		{"[1, 2", "1:6: missing `]`: the `[` of 1:1 is not closed", "[1, 2]"},
		{"{'ä' 'b'}", "1:5: missing colon after the name 'ä'", "{'ä': 'b'}"},
		{"{a = 1; b: 2}", "1:4: found `=` where a colon should be\n1:7: found `;` where a comma should be", "{a : 1, b: 2}"},
		{"[1,,2]", "1:4: a comma with no value before it", "[1,2]"},
		{"{a: 1]", "1:6: found `]` where `}` should close the `{` of line 1", "{a: 1}"},
		{"[1}", "1:3: found `}` where `]` should close the `[` of line 1", "[1]"},
		{"[{a: 1]}", "1:7: found `]` where `}` should close the `{` of line 1", ""}, // which of the two?
		{"{a: [1, 2 } // c", "1:10: missing `]`: the `[` of 1:5 is not closed", "{a: [1, 2] } // c"},
		{"{a: [1, 2, /* c */ }", "1:10: missing `]`: the `[` of 1:5 is not closed", "{a: [1, 2], /* c */ }"},
		{"{a: [ }", "1:6: missing `]`: the `[` of 1:5 is not closed", "{a: [] }"},
		{
			"{\n  use: [\n    { a: 1 },\n  offer: [ 'x' ]\n}", "3:13: missing `]`: the `[` of 2:8 is not closed",
			"{\n  use: [\n    { a: 1 }],\n  offer: [ 'x' ]\n}",
		},
		{
			"{a: [1 'b': 2, c: 'x'}", "1:7: missing `]`: the `[` of 1:5 is not closed\n1:7: missing comma between `1` and `'b'`",
			"{a: [1], 'b': 2, c: 'x'}",
		},
		{"{a: [1, 'b': 2}", "1:7: missing `]`: the `[` of 1:5 is not closed", "{a: [1], 'b': 2}"},
		{"[{a: 1, {a: 2}]", "1:7: missing `}`: the `{` of 1:2 is not closed", "[{a: 1}, {a: 2}]"},
		{
			"[{a: 1 {a: 2}]", "1:7: missing `}`: the `{` of 1:2 is not closed\n1:7: missing comma between `1` and `{`",
			"[{a: 1}, {a: 2}]",
		},
		{"[{a: 1, b: {c: 2], 3]", "1:17: found `]` where `}` should close the `{` of line 1", ""},
		{"{a: [{b: 1 ], c: 2}", "1:11: missing `}`: the `{` of 1:6 is not closed", "{a: [{b: 1} ], c: 2}"},
		{"{a: 1}}", "1:7: superfluous `}`", "{a: 1}"},
		{"{a: 1} ] // c\n}", "1:8: superfluous `]`\n2:1: superfluous `}`", "{a: 1}  // c\n"},
		{"{a: {b: 1}}, c: 2}", "1:11: superfluous `}`", "{a: {b: 1}, c: 2}"},
		{"{a: {b: 1}, }, c: 2}", "1:13: superfluous `}`\n1:14: a comma with no value before it", "{a: {b: 1},  c: 2}"},
		{"{a: 1}\nb: 2}", "1:6: missing comma between `1` and `b`\n1:6: superfluous `}`", "{a: 1,\nb: 2}"},
		{"[{a: 1}}, {b: 2}]", "1:8: superfluous `}`", "[{a: 1}, {b: 2}]"},
		{"[1, 2], 3]", "1:6: superfluous `]`", "[1, 2, 3]"},
		{"{a: [1]], b: 2}", "1:8: superfluous `]`", "{a: [1], b: 2}"},
		{"{a: [1, ], ], b: 2}", "1:12: superfluous `]`\n1:13: a comma with no value before it", "{a: [1, ],  b: 2}"},
		{"{a: '}', b: [ '[' /* ] */ }", "1:18: missing `]`: the `[` of 1:13 is not closed", "{a: '}', b: [ '[' ]/* ] */ }"},
		{"", "1:1: expected a value, found end of file", ""},
		{"{a: elf}", "1:5: unexpected word `elf`; a string needs quotes", `{a: "elf"}`},
		{"{a: bin/x-1 // c\n}", "1:5: unexpected word `bin/x-1`; a string needs quotes", "{a: \"bin/x-1\" // c\n}"},
		{
			"{a: elf , b: [x]}", "1:5: unexpected word `elf`; a string needs quotes\n1:15: unexpected word `x`; a string needs quotes",
			`{a: "elf", b: ["x"]}`,
		},
		{"[#net]", "1:2: unexpected word `#net`; a string needs quotes", `["#net"]`},
		{"{a: elf b: 1}", "1:5: unexpected word `elf`; a string needs quotes", ""},
		{"{a: http://x}", "1:5: unexpected word `http`; a string needs quotes", ""},
		{
			"{a: True, b: [NULL]}", "1:5: unexpected word `True`; it is written `true`\n" +
				"1:15: unexpected word `NULL`; it is written `null`", "{a: true, b: [null]}",
		},
		{"{a: None}", "1:5: unexpected word `None`; a string needs quotes", ""},
		{"{a: @}", "1:5: expected a value, found `@`", ""},
		{"{fuchsia.test: {}}", "1:2: the name `fuchsia.test` needs quotes", `{"fuchsia.test": {}}`},
		{"{a: 'elf,\n b: 1}", "1:9: missing `'`: the string of 1:5 is not closed", "{a: 'elf',\n b: 1}"},
		{"{a: \"x", "1:7: missing `\"`: the string of 1:5 is not closed\n1:7: missing `}`: the `{` of 1:1 is not closed", `{a: "x"}`},
		{"{a: 'x, b: 1\n}", "1:5: string is not closed on its line", ""},
		{"{5: 1}", "1:2: expected a name (an identifier or a string), found `5`", ""},
		{"'abc d\nef'", "1:1: string is not closed on its line", ""},
		{"'abc\ndef'", "1:5: missing `'`: the string of 1:1 is not closed\n2:1: unexpected `d` after the end of the value", ""},
		{`'\x4g'`, "1:2: `\\x` needs 2 hexadecimal digits; a backslash itself is written `\\\\`", ""},
		{`"\u12"`, "1:2: `\\u` needs 4 hexadecimal digits; a backslash itself is written `\\\\`", ""},
		{`'\01'`, "1:2: octal escapes are not allowed", ""},
		{"010", "1:1: a number may not start with 0 (octal numbers are not allowed)", ""},
		{"1.5.2", "1:4: unexpected `.` within a number", ""},
		{"0x1g", "1:4: unexpected `g` within a number", ""},
		{"/* x", "1:1: comment is not closed: `*/` is missing", ""},
		{
			"# c\n{ a: 1, # d\n b: 2 }", "1:1: a comment begins with `//`, not with `#`\n" +
				"2:9: a comment begins with `//`, not with `#`", "// c\n{ a: 1, // d\n b: 2 }",
		},
		{"{a: [1 # c\n, 2 #\n}", "1:8: a comment begins with `//`, not with `#`\n2:4: missing `]`: the `[` of 1:5 is not closed\n" +
			"2:5: a comment begins with `//`, not with `#`", "{a: [1 // c\n, 2] //\n}"},
		{
			"{ a: 1 # c", "1:8: a comment begins with `//`, not with `#`\n" +
				"1:11: missing `}`: the `{` of 1:1 is not closed", "{ a: 1 // c\n}",
		},
		{"{a: #b}", "1:5: unexpected word `#b`; a string needs quotes", `{a: "#b"}`},
		{
			"{“a”: ‘b c’, d: [„e“]}", "1:2: found `“`; quotes must be straight\n" +
				"1:7: found `‘`; quotes must be straight\n1:18: found `„`; quotes must be straight", `{"a": "b c", d: ["e"]}`,
		},
		{"{a: “b\"”}", "1:5: expected a value, found `“`", ""},
		{"{a: 'b\"}", "1:7: found `\"`: the string of 1:5 begins with `'`", "{a: 'b'}"},
		{"{\"b': 1}", "1:4: found `'`: the string of 1:2 begins with `\"`", "{\"b\": 1}"},
		{"{a: [1, 2), b: (3)}", "1:10: found `)` where `]` should close the `[` of line 1\n1:16: expected a value, found `(`", ""},
		{"{a: [1, 2), b: 3}", "1:10: found `)` where `]` should close the `[` of line 1", "{a: [1, 2], b: 3}"},
		{"{a: {b: 1)}", "1:10: found `)` where `}` should close the `{` of line 1", "{a: {b: 1}}"},
		{"{a: [1]), b: 2}", "1:8: superfluous `)`", "{a: [1], b: 2}"},
		{"{a: 1},", "1:7: superfluous `,`", "{a: 1}"},
		{"{a: 1};\n", "1:7: superfluous `;`", "{a: 1}\n"},
		{"a: 1, b: 2", "1:1: a name and its value stand outside of braces: the text must begin with `{` and end with `}`", ""},
		{"/* c */ 'a': {}", "1:9: a name and its value stand outside of braces: the text must begin with `{` and end with `}`", ""},
		{"1 2", "1:3: unexpected `2` after the end of the value", ""},
		{"é\"\xff\"", "1:3: invalid UTF-8: byte 0xff", ""},
		{"\uFEFF{a:1 b:2}", "1:5: missing comma between `1` and `b`", "\uFEFF{a:1, b:2}"},
		{"{a\\u0020b: 1}", "1:3: `\\` in a name must begin a \\uXXXX that is a letter", ""},
	} {
		tree, err := Parse([]byte(c.src), Options{})
		var es Errors
		if !errors.As(err, &es) || es.Error() != c.want {
			t.Errorf("%q:\n got %v\nwant %s", c.src, err, c.want)
			continue
		}
		if es.Repairable() != (c.fixed != "") {
			t.Errorf("%q: repairable %v", c.src, es.Repairable())
		}
		if c.fixed == "" {
			continue
		}
		// `{a:1 b:2}` gets its comma right after the value, so compare meanings and the repaired text without blanks.
		fixed := es.Apply([]byte(c.src))
		if squeeze(string(fixed)) != squeeze(c.fixed) {
			t.Errorf("%q: repaired to %q, want %q", c.src, fixed, c.fixed)
		}
		again, err := Parse(fixed, Options{})
		if err != nil {
			t.Errorf("%q: repaired to %q: %v", c.src, fixed, err)
			continue
		}
		a, _ := ToJSON(&tree)
		if b, _ := ToJSON(&again); !bytes.Equal(a, b) {
			t.Errorf("%q: tree says %s, repaired text %s", c.src, a, b)
		}
	}
}

func squeeze(s string) string { return strings.ReplaceAll(s, " ", "") }

func TestLimits(t *testing.T) {
	if _, err := Parse([]byte(strings.Repeat("[", 5)+strings.Repeat("]", 5)), Options{MaxDepth: 5}); err != nil {
		t.Errorf("depth 5 of 5: %v", err)
	}
	_, err := Parse([]byte(strings.Repeat("[", 1e6)), Options{})
	if err == nil || err.Error() != "1:201: nested more than 200 deep" {
		t.Errorf("deep: %v", err)
	}
	_, err = Parse(make([]byte, DefaultMaxBytes+1), Options{})
	if err == nil || err.Error() != "1:1: source of 4194305 bytes: no more than 4194304 allowed" {
		t.Errorf("long: %v", err)
	}
	_, err = Parse([]byte("["+strings.Repeat("1 ", 1e5)+"]"), Options{})
	var es Errors
	if !errors.As(err, &es) || len(es) != maxErrors+1 || es.Repairable() {
		t.Errorf("many slips: %d", len(es))
	}
}

func TestPosition(t *testing.T) {
	src := "ä\r\nbé\rc\n" + strings.Repeat("日", 5000) + "x"
	tree, _ := Parse([]byte(src), Options{})
	for _, c := range []struct {
		of   string
		want Position
	}{
		{"ä", Position{0, 1, 1, 1}},
		{"\r\n", Position{2, 1, 2, 3}},
		{"b", Position{4, 2, 1, 1}},
		{"é", Position{5, 2, 2, 2}},
		{"c", Position{8, 3, 1, 1}},
		{"日", Position{10, 4, 1, 1}},
		{"x", Position{15010, 4, 5001, 15001}},
	} {
		if got := tree.Position(strings.Index(src, c.of)); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.of, got, c.want)
		}
	}
	if got := tree.Position(1 << 30); got.Offset != len(src) {
		t.Errorf("beyond the end: %+v", got)
	}
}

func TestDuplicates(t *testing.T) {
	tree, err := Parse([]byte(`{a: 1, "b": {x: 1, 'x': 2}, '\u0061': 3, "a": 4}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Duplicate{{"x", 13, 19}, {"a", 1, 28}, {"a", 1, 41}}
	if d := cmp.Diff(want, tree.Duplicates); d != "" {
		t.Error(d)
	}
	out, err := ToJSON(&tree)
	if err != nil || string(out) != `{"a":4,"b":{"x":2}}` {
		t.Errorf("%s %v", out, err)
	}
	var wide strings.Builder
	for i := range 20 {
		wide.WriteString("k" + string(rune('a'+i)) + ": 1,")
	}
	if tree, _ := Parse([]byte("{"+wide.String()+"ka: 2}"), Options{}); len(tree.Duplicates) != 1 || tree.Duplicates[0].First != 1 {
		t.Errorf("wide object: %v", tree.Duplicates)
	}
}

func TestStrings(t *testing.T) {
	for src, want := range map[string]string{
		`"plain"`:                  "plain",
		`'it\'s "so"'`:             `it's "so"`,
		`'\b\f\n\r\t\v\0\\\/\a'`:   "\b\f\n\r\t\v\x00\\/a",
		`'\x41\u00e9\u65e5'`:       "Aé日",
		`'\ud83d\ude00'`:           "😀",
		`'\ud83d x \ude00\ud83d'`:  "\uFFFD x \uFFFD\uFFFD",
		"'a\\\nb\\\r\nc\\\rd'":     "abcd",
		"'a\\\u2028b\\\u2029c\\é'": "abcé",
		"'raw \u2028 \t tab'":      "raw \u2028 \t tab",
	} {
		tree, err := Parse([]byte(src), Options{})
		if err != nil || KindOf(tree.Root) != String || Text(tree.Root) != want {
			t.Errorf("%s: %q, want %q (%v)", src, Text(tree.Root), want, err)
		}
	}
	for src, want := range map[string]string{
		"{ünïcödé: 1}": "ünïcödé", "{$_a1: 1}": "$_a1", `{\u0061b: 1}`: "ab",
		"{'a b': 1}": "a b", "{ka\u200C: 1}": "ka\u200C",
	} {
		tree, err := Parse([]byte(src), Options{})
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if got := Name(tree.Root.Value.(*hujson.Object).Members[0].Name); got != want {
			t.Errorf("%s: %q, want %q", src, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	num := func(s string) hujson.Value { return hujson.Value{Value: hujson.Literal(s)} }
	for _, c := range []struct {
		src     string
		uint    uint64
		uintErr error
		int     int64
		intErr  error
		float   float64
	}{
		{"0", 0, nil, 0, nil, 0},
		{"-0", 0, nil, 0, nil, math.Copysign(0, -1)},
		{"+12", 12, nil, 12, nil, 12},
		{"18446744073709551615", math.MaxUint64, nil, 0, ErrRange, math.MaxUint64},
		{"18446744073709551616", 0, ErrRange, 0, ErrRange, 18446744073709551616},
		{"-9223372036854775808", 0, ErrRange, math.MinInt64, nil, math.MinInt64},
		{"-9223372036854775809", 0, ErrRange, 0, ErrRange, math.MinInt64},
		{"0xFFFFFFFFFFFFFFFF", math.MaxUint64, nil, 0, ErrRange, math.MaxUint64},
		{"-0x10", 0, ErrRange, -16, nil, -16},
		{"1e3", 1000, nil, 1000, nil, 1000},
		{"2.50e1", 25, nil, 25, nil, 25},
		{"5.", 5, nil, 5, nil, 5},
		{".5", 0, ErrNotInteger, 0, ErrNotInteger, 0.5},
		{"1e-1", 0, ErrNotInteger, 0, ErrNotInteger, 0.1},
		{"1e99", 0, ErrRange, 0, ErrRange, 1e99},
		{"0e99999999999", 0, nil, 0, nil, 0},
		{"1e99999999999", 0, ErrRange, 0, ErrRange, math.Inf(1)},
		{"-Infinity", 0, ErrNotFinite, 0, ErrNotFinite, math.Inf(-1)},
	} {
		if got, err := Uint(num(c.src)); got != c.uint || !errors.Is(err, c.uintErr) {
			t.Errorf("Uint(%s) = %v, %v", c.src, got, err)
		}
		if got, err := Int(num(c.src)); got != c.int || !errors.Is(err, c.intErr) {
			t.Errorf("Int(%s) = %v, %v", c.src, got, err)
		}
		if got, err := Float(num(c.src)); got != c.float || err != nil {
			t.Errorf("Float(%s) = %v, %v", c.src, got, err)
		}
	}
	if f, err := Float(num("-NaN")); !math.IsNaN(f) || err != nil {
		t.Errorf("NaN: %v %v", f, err)
	}
	if _, err := Uint(num("true")); err != ErrNotNumber {
		t.Errorf("true: %v", err)
	}
}

func TestToJSON(t *testing.T) {
	tree, err := Parse([]byte("{a: [+1, .5, 5., -5.e3, 0x1F, -0xff, null,], 'b\\x41': 'it\\'s\\\n', /* c */ c: true}"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := ToJSON(&tree)
	if want := `{"a":[1,0.5,5,-5e3,31,-255,null],"bA":"it's","c":true}`; err != nil || string(out) != want {
		t.Errorf("%s %v\nwant %s", out, err, want)
	}
	tree, _ = Parse([]byte("[1,\n -Infinity, NaN]"), Options{})
	if _, err := ToJSON(&tree); err == nil ||
		err.Error() != "2:2: Infinity cannot be written as JSON\n2:13: NaN cannot be written as JSON" {
		t.Errorf("not finite: %v", err)
	}
}

// FuzzParse states: what hujson accepts, Parse accepts, with the same meaning; what Parse accepts packs to its source;
// what it repairs, parses when repaired, with the meaning of the tree; positions are within the source.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"a": [1, -2.5e3, true, null, "x\u0041"], /* c */ "b": {}, }`, "{a: 'b\\\n', \\u0061: +.5, c: 0xF, d: -Infinity,}// x",
		"{a: 1 b: [1 2], c 'd'", "[1,,;]", "\uFEFF\u00a0[\u2028]", "{a:{a:1 a:2}", "[1;2}", "'\\ud800'",
		"{a: [1, 'b': 2}", "[{a: 1 {a: 2}]", "{a: [1,}}", "{a: 1}, b: 2}]", "[{a: 1]]", "[[1,,}/**/,]", "{a: [b c: [1}",
		"{a: [x\nb: 1}", "{a: {b: 'c }, d: [e}", "# c\n{a: [1 # d\n, 'b': 2} #",
		"{“a”: ‘b’, 'c\": TRUE}", "{a: [1), b: {c: (1)},", "a: 1",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		tree, err := Parse(src, Options{})
		if err == nil {
			if got := tree.Root.Pack(); !bytes.Equal(got, src) {
				t.Fatalf("%q packs as %q", src, got)
			}
			for v := range tree.Root.All() {
				Name(*v)
				Text(*v)
				Int(*v)
				Float(*v)
			}
			if out, err := ToJSON(&tree); err == nil && !json.Valid(out) {
				t.Fatalf("%q becomes %q, which is no JSON", src, out)
			}
		}
		var es Errors
		if errors.As(err, &es) {
			for _, e := range es {
				if e.Line < 1 || e.Col < 1 || e.ByteCol < e.Col || e.Offset > len(src) {
					t.Fatalf("%q: position %+v", src, e)
				}
			}
			if es.Repairable() {
				again, err := Parse(es.Apply(src), Options{})
				if err != nil {
					t.Fatalf("%q repaired to %q: %v", src, es.Apply(src), err)
				}
				a, errA := ToJSON(&tree)
				b, errB := ToJSON(&again)
				if !bytes.Equal(a, b) || (errA == nil) != (errB == nil) {
					t.Fatalf("%q: %q in the tree, %q when repaired", src, a, b)
				}
			}
		}
		// hujson takes invalid UTF-8 within strings, and nests as deep as it likes; its comments end only with a line feed.
		if bytes.ContainsAny(src, "\r\u2028\u2029") {
			return
		}
		if want, herr := hujson.Parse(bytes.Clone(src)); herr == nil && utf8.Valid(src) {
			if err != nil {
				if strings.Contains(err.Error(), "nested more than") {
					return
				}
				t.Fatalf("hujson takes %q: %v", src, err)
			}
			want.Standardize()
			var a, b any
			out, err := ToJSON(&tree)
			if err != nil {
				t.Fatal(err)
			}
			errA, errB := json.Unmarshal(want.Pack(), &a), json.Unmarshal(out, &b)
			if d := cmp.Diff(a, b); d != "" || (errA == nil) != (errB == nil) {
				t.Fatalf("%q: hujson and json5 differ: %s %v %v", src, d, errA, errB)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	src := []byte(strings.Repeat(`{"name": "echo", "url": "echo#meta/echo.cm", "startup": "eager", "args": ["Hello", `+
		`"world!", 12, true]},`, 1000))
	src = append(append([]byte("["), src[:len(src)-1]...), ']')
	b.Run("json5", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Parse(src, Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		b.ReportAllocs()
		for b.Loop() {
			var v any
			if err := json.Unmarshal(src, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}
