package cml

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHugeManifests: what is much longer than anybody writes is decided in seconds, whatever its form.
func TestHugeManifests(t *testing.T) {
	repeat := func(head, form, tail string, n int) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range n {
			b.WriteString(strings.ReplaceAll(form, "%", fmt.Sprint(i)))
		}
		b.WriteString(tail)
		return b.String()
	}
	const n = 5_000
	for name, src := range map[string]string{
		"names in an array": repeat(`{ use: [{ protocol: [`, `"n%",`, `] }] }`, 8*n),
		"equal names":       repeat(`{ use: [{ protocol: [`, `"n",`, `] }] }`, 8*n),
		"config fields":     repeat(`{ config: {`, `k%: { type: "bool" },`, `} }`, 4*n),
		"facets":            repeat(`{ facets: {`, `k%: "x",`, `} }`, 8*n),
		"facets in facets":  repeat(`{ facets: {`, `"k%.a.b": "x",`, `} }`, 8*n),
		"facets twice":      repeat(`{ facets: {`, `k%: "x", k%: "y",`, `} }`, 4*n),
		"unknown keys":      repeat(`{`, `chldren%: 1,`, `}`, 8*n),
		"offers to all": repeat(`{ offer: [`,
			`{ protocol: "p%", from: "parent", to: "all" }, { protocol: "p%", from: "parent", to: "#a" },`,
			`], children: [{ name: "a", url: "a.cml" }] }`, n),
		"offers to all, of many": repeat(`{ offer: [{ protocol: [`, `"p%",`, `], from: "parent", to: "all" }], children: [`, n) +
			repeat(``, `{ name: "c%", url: "#a" },`, `] }`, n),
		"names × targets": repeat(`{ offer: [{ protocol: [`, `"p%",`, `], from: "parent", to: [`, n) + repeat(``, `"#c%",`,
			`] }] }`, n),
		"children and offers": repeat(`{ children: [`, `{ name: "c%", url: "#a" },`, `], offer: [`, n) + repeat(``,
			`{ runner: "elf", from: "parent", to: "#c%" },`, `] }`, n),
		"dangling": repeat(`{ children: [`, `{ name: "c%", url: "#a" },`, `], offer: [`, n) + repeat(``,
			`{ runner: "elf", from: "#d%", to: "#e%" },`, `] }`, n),
		"uses":                   repeat(`{ use: [`, `{ protocol: "p%" },`, `] }`, 2*n),
		"one line of characters": repeat(`{ facets: {`, `"ä%": 1,`, `} }`, 4*n),
		"depth":                  `{ facets: ` + strings.Repeat(`{ a: [`, 500_000),
		"missing commas":         repeat(`{ use: [`, `{ protocol: "p%" }`, `] }`, 2*n),
	} {
		start := time.Now()
		doc, _ := Parse(name, []byte(src))
		again, _ := Parse(name, []byte(src))
		doc.Merge(again)
		doc.Canonicalize()
		v, ds := Load(name, []byte(src), Options{})
		if !v.IsZero() {
			Decompile(v.Decl())
		}
		if fixed, _ := Repair(name, []byte(src)); fixed != nil {
			Format(name, fixed)
		}
		d := time.Since(start)
		t.Logf("%s: %d bytes, %d findings, %v", name, len(src), len(ds), d.Round(time.Millisecond))
		if d > 30*time.Second {
			t.Errorf("%s: %d bytes take %v", name, len(src), d)
		}
	}
}
