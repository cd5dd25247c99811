package cml

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml/cmltest"
	"github.com/cmgr/cmgr/manifest/json5"
)

func TestWholeIsValid(t *testing.T) {
	v, ds := Load("whole.cml", []byte(cmltest.Valid), Options{})
	if len(ds) > 0 || v.IsZero() {
		t.Fatal(ds)
	}
}

func TestMalformedGenerated(t *testing.T) {
	cases := cmltest.Broken()
	if len(cases) < 200 {
		t.Errorf("only %d malformed manifests", len(cases))
	}
	t.Logf("%d malformed manifests", len(cases))
	for _, c := range cases {
		v, ds := Load("m.cml", []byte(c.Src), Options{})
		errs := ds.Errors()
		if len(errs) == 0 || !v.IsZero() {
			t.Errorf("%s: no error", c.What)
			continue
		}
		checkPlaces(t, c.What, c.Src, ds)
		if c.Offset < 0 && c.Say == "" {
			continue
		}
		want := manifest.Pos{}
		if c.Offset >= 0 {
			tree, _ := json5.Parse([]byte(c.Src), json5.Options{})
			p := tree.Position(c.Offset)
			want = manifest.Pos{File: "m.cml", Line: int32(p.Line), Col: int32(p.Col)}
		}
		if !slices.ContainsFunc(errs, func(d manifest.Diagnostic) bool {
			return (c.Offset < 0 || d.Pos == want) && strings.Contains(d.Message+d.Hint, c.Say)
		}) {
			t.Errorf("%s: want %q at %v, got\n%v", c.What, c.Say, want, errs)
		}
		if c.Say == "missing comma" && len(errs) != 1 {
			t.Errorf("%s: %d errors, the comma is the only one:\n%v", c.What, len(errs), errs)
		}
	}
}

// TestMalformed: people are told all that they need to mend what they wrote by mistake.
func TestMalformed(t *testing.T) {
	for _, c := range cmltest.Slips() {
		_, ds := Load("m.cml", []byte(c.Src), Options{})
		if got := ds.Errors().Error(); got != c.Want {
			t.Errorf("%s\n got %s\nwant %s", c.Src, got, c.Want)
		}
	}
}

// However many warnings there are, the error behind them counts.
func TestWarningsHideNoError(t *testing.T) {
	src := "{ use: [" + strings.Repeat(`{ protocol: "p", numbered_handle: 1, subdir: "x" },`, 2000)
	if v, ds := Load("m.cml", []byte(src+"] }"), Options{}); v.IsZero() || len(ds) != maxWarnings+1 ||
		ds[maxWarnings].Message != "there are 1900 more warnings" {
		t.Errorf("%d findings, %v, %v", len(ds), ds.Err(), ds[len(ds)-1])
	}
	v, ds := Load("m.cml", []byte(src+`{ directory: "d", path: "/d", rights: ["r*", "connect"] }] }`), Options{})
	if !v.IsZero() || len(ds.Errors()) != 1 {
		t.Errorf("%d errors of %d findings", len(ds.Errors()), len(ds))
	}
}

// TestTooManyErrors: each stage says how many errors it keeps to itself.
func TestTooManyErrors(t *testing.T) {
	for src, want := range map[string]string{
		"{ children: [" + strings.Repeat(`{ nme: "a", name: "a", url: "#a" },`, 1500) + "] }":              "there are 500 more errors",
		"{ use: [" + strings.Repeat(`{ directory: "d", path: "/d", rights: ["r*", "r*"] },`, 1500) + "] }": "there are 500 more errors",
		"{ offer: [" + strings.Repeat(`{ protocol: "p", from: "void", to: "#a" },`, 1500) + "] }":          "there are 3499 more errors",
	} {
		_, ds := Load("m.cml", []byte(src), Options{})
		i := slices.IndexFunc(ds, func(d manifest.Diagnostic) bool { return d.Rule == "too-many" })
		if i < 0 || ds[i].Message != want || ds[i].Warning || ds[i].Pos != ds[i-1].Pos {
			t.Errorf("%.40s…: %d findings: %v", src, len(ds), ds[max(i, 0)])
		}
	}
}

// TestAllErrorsAtOnce: one reading finds what is wrong in every stage.
func TestAllErrorsAtOnce(t *testing.T) {
	_, ds := Load("m.cml", []byte(`{
    program: { runner: "elf", flag: true }
    children: [{ name: "a", ulr: "a.cml" }],
    use: [{ protocol: "x", from: "#b" }],
    offer: [{ protocol: "x", from: "self", to: "#a", to: "#a" }],
}`), Options{})
	var rules []string
	for _, d := range ds.Errors() {
		rules = append(rules, fmt.Sprintf("%d %s", d.Pos.Line, d.Rule))
	}
	want := []string{
		"2 bad-value", "2 syntax", "3 missing-key", "3 unknown-key", "4 unknown-source", "5 undeclared",
		"5 duplicate-key",
	}
	if !slices.Equal(rules, want) {
		t.Errorf("%v\nwant %v", ds, want)
	}
}
