package cml

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmgr/cmgr/manifest"
)

func schemaOf(t *testing.T) *manifest.Config {
	t.Helper()
	v, ds := Load("a.cml", []byte(`{ config: {
		on: { type: "bool" }, small: { type: "uint8" }, below: { type: "int16" }, large: { type: "uint64" },
		word: { type: "string", max_size: 5 }, words: { type: "vector", max_count: 2, element: { type: "string", max_size: 3 } },
	} }`), Options{})
	if ds.Err() != nil {
		t.Fatal(ds)
	}
	return v.Decl().Config
}

func TestParseValues(t *testing.T) {
	c := schemaOf(t)
	got, ds := ParseValues("a.cvf", []byte(`{ // JSON5
		on: true, small: 255, below: -5, large: 18446744073709551615, word: 'five5', "words": ["a", "b"], }`), c)
	want := map[string]any{
		"on": true, "small": uint64(255), "below": int64(-5), "large": uint64(1<<64 - 1), "word": "five5", "words": []any{"a", "b"},
	}
	if d := cmp.Diff(want, got); d != "" || ds != nil {
		t.Errorf("%v\n%s", ds, d)
	}
	for src, want := range map[string]string{
		"{ small: 256 }":            "a.cvf:1:10: 256 is out of range for type uint8",
		`{ small: "1" }`:            `a.cvf:1:10: string "1" is not a value of type uint8`,
		"{\n word: 'sixsix' }":      "a.cvf:2:8: a string of 6 bytes: max_size is 5",
		`{ words: ["a","b","c"] }`:  "a.cvf:1:10: a vector of 3 elements: max_count is 2",
		`{ words: ["a", 1] }`:       "a.cvf:1:16: 1 is not a value of type string",
		`{ smal: 1 }`:               "a.cvf:1:3: the manifest's config has no key `smal`",
		`{ small: 1, small: 2 }`:    "occurs twice",
		`[1]`:                       "expected a map",
		`{ small: `:                 "a.cvf:1:",
		`{ on: null }`:              "not a value of type bool",
		`{ below: 40000, on: "x" }`: "40000 is out of range for type int16",
	} {
		got, ds := ParseValues("a.cvf", []byte(src), c)
		if err := ds.Err(); err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%s: %v, want %s", src, err, want)
		}
	}
}

func TestParseValue(t *testing.T) {
	for _, c := range []struct {
		key, text string
		want      any
	}{
		{"word", "hey", "hey"},
		{"word", "'hey'", "hey"},
		{"word", "", ""},
		{"word", "5", "5"},
		{"small", "7", uint64(7)},
		{"small", "0x10", uint64(16)},
		{"below", "-7", int64(-7)},
		{"on", "false", false},
		{"words", "['a',\"b\"]", []any{"a", "b"}},
		{"words", "[]", []any{}},
		{"small", "-1", nil},
		{"small", "", nil},
		{"small", "{", nil},
		{"on", "yes", nil},
		{"word", "'hey", nil},
		{"word", "longer", nil},
		{"words", "a", nil},
	} {
		for _, f := range schemaOf(t).Fields {
			if f.Key != c.key {
				continue
			}
			got, err := ParseValue(f.Type, c.text)
			if (err == nil) != (c.want != nil) || c.want != nil && !cmp.Equal(got, c.want) {
				t.Errorf("%s=%s: %#v, %v", c.key, c.text, got, err)
			}
		}
	}
}
