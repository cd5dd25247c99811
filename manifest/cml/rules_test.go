package cml

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
)

// A ruleCase is one case of testdata/rules.txt.
type ruleCase struct {
	ids   []string
	words []string          // of the header, behind the ids
	line  int               // of rules.txt
	files map[string]string // "m.cml" is the one that is loaded; without the marks
	marks []manifest.Pos    // where the marks stood, in the order of the files and places
	want  []wantFinding
}

type wantFinding struct{ rule, say, hint string }

var repeated = regexp.MustCompile(`<(.)\*(\d+)>`)

// ruleCases reads testdata/rules.txt, which says itself how.
func ruleCases(t *testing.T) []ruleCase {
	f, err := os.Open("testdata/rules.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []ruleCase
	var c *ruleCase
	file, at := "", 0
	for s, n := bufio.NewScanner(f), 1; s.Scan(); n++ {
		line := repeated.ReplaceAllStringFunc(s.Text(), func(x string) string {
			m := repeated.FindStringSubmatch(x)
			count, _ := strconv.Atoi(m[2])
			return strings.Repeat(m[1], count)
		})
		ids, isHeader := strings.CutPrefix(line, "= ")
		finding, isFinding := strings.CutPrefix(line, "! ")
		hint, isHint := strings.CutPrefix(line, "? ")
		name, isFile := strings.CutPrefix(line, "-- ")
		switch {
		case strings.HasPrefix(line, "#") || line == "":
		case isHeader:
			out = append(out, ruleCase{line: n, files: map[string]string{}})
			c, file, at = &out[len(out)-1], "m.cml", 0
			for _, w := range strings.Fields(ids) {
				if ruleID.MatchString(w) {
					c.ids = append(c.ids, w)
				} else {
					c.words = append(c.words, w)
				}
			}
		case isFinding:
			rule, say, _ := strings.Cut(finding, ": ")
			c.want = append(c.want, wantFinding{rule: rule, say: say})
		case isHint:
			w := &c.want[len(c.want)-1]
			w.hint = strings.TrimPrefix(w.hint+"\n"+hint, "\n")
		case isFile:
			file, at = strings.TrimSuffix(name, " --"), 0
		default:
			at++
			for {
				before, after, ok := strings.Cut(line, "^")
				if !ok {
					break
				}
				c.marks = append(c.marks, manifest.Pos{File: file, Line: int32(at), Col: int32(len([]rune(before)) + 1)})
				line = before + after
			}
			c.files[file] += line + "\n"
		}
	}
	return out
}

// load reads the case's main file with the options that its header names.
func (c *ruleCase) load(t *testing.T, main string, files map[string]string) (manifest.Validated, manifest.Diagnostics) {
	o := Options{Includes: &Includes{Open: func(file string) ([]byte, error) {
		if src, ok := files[file]; ok {
			return []byte(src), nil
		}
		return nil, fs.ErrNotExist
	}}}
	for _, w := range c.words {
		switch option, value, _ := strings.Cut(w, "="); option {
		case "restrict":
			o.Restrict = true
		case "feature":
			o.Restrict, o.Features = true, append(o.Features, value)
		case "must-offer-protocol":
			o.MustOfferProtocols = append(o.MustOfferProtocols, value)
		case "must-offer-dictionary":
			o.MustOfferDictionaries = append(o.MustOfferDictionaries, value)
		case "must-use-protocol":
			o.MustUseProtocols = append(o.MustUseProtocols, value)
		case "main": // only as the main file: the place is the file's as a whole
		default:
			t.Fatalf("rules.txt:%d: unknown word %q", c.line, w)
		}
	}
	return Load(main, []byte(files[main]), o)
}

// check compares what was found with what the case wants, the marks being in the files that rename says. Warnings count only where
// the case wants one.
func (c *ruleCase) check(t *testing.T, how string, v manifest.Validated, ds manifest.Diagnostics, rename func(string) string) {
	t.Helper()
	if !slices.ContainsFunc(c.want, func(w wantFinding) bool { return w.rule == "no-effect" }) {
		ds = ds.Errors()
	}
	if v.IsZero() != (len(ds.Errors()) > 0) {
		t.Errorf("rules.txt:%d: %v %s: valid %v with\n%v", c.line, c.ids, how, !v.IsZero(), ds)
	}
	if len(ds) != len(c.want) || len(c.marks) != len(c.want) {
		t.Errorf("rules.txt:%d: %v %s: %d findings and %d marks, want %d:\n%v", c.line, c.ids, how, len(ds), len(c.marks), len(c.want), ds)
		return
	}
	for i, w := range c.want {
		d := ds[i]
		at := c.marks[i]
		at.File = rename(at.File)
		hint := regexp.MustCompile(`\bm\.cml:`).ReplaceAllString(w.hint, rename("m.cml")+":")
		if d.Pos != at || d.Rule != w.rule || !strings.Contains(d.Message, w.say) || (d.Hint == "") != (hint == "") ||
			!strings.Contains(d.Hint, hint) {
			t.Errorf("rules.txt:%d: %v %s: got\n%s [%s]\nwant %s, %s: %s\n  hint: %s", c.line, c.ids, how, d.Error(), d.Rule, at, w.rule, w.say,
				hint)
		}
	}
}

var ruleID = regexp.MustCompile(`^([PVRNO]\d+|§\d+(\.\d+)?)$`)

// TestRules: each case of testdata/rules.txt is found fault with at its marks, by name, in its words, with its hints; and the same
// where all of it comes in through an include, in the file that has it.
func TestRules(t *testing.T) {
	cases := ruleCases(t)
	for i := range cases {
		c := &cases[i]
		v, ds := c.load(t, "m.cml", c.files)
		c.check(t, "itself", v, ds, func(f string) string { return f })
		if slices.Contains(c.words, "main") || len(c.files) > 1 {
			continue
		}
		files := map[string]string{"root.cml": "{\n  include: [ \"dir/p.cml\" ]\n}", "dir/p.cml": c.files["m.cml"]}
		v, ds = c.load(t, "root.cml", files)
		c.check(t, "included", v, ds, func(f string) string { return "dir/p.cml" })
		for _, d := range ds {
			if d.IncludedAt.String() != "root.cml:2:14" {
				t.Errorf("rules.txt:%d: %v included: included at %v: %v", c.line, c.ids, d.IncludedAt, d)
			}
		}
	}
}

// ruleIDs are the rules of the reference: P parsing, V validation, R restricted features, N what is found while compiling, O what
// the validator of the compiled form adds (numbered in the order of the reference's lines), and the sections of the language's
// reference that have rules.
func ruleIDs() []string {
	var out []string
	for _, r := range []struct {
		letter string
		n      int
	}{{"P", 17}, {"V", 75}, {"R", 3}, {"N", 4}, {"O", 23}} {
		for i := range r.n {
			out = append(out, fmt.Sprintf("%s%d", r.letter, i+1))
		}
	}
	for _, s := range []string{
		"2", "3", "4", "5", "6", "7", "8", "8.1", "8.2", "8.3", "8.4", "9", "10", "11", "12", "13", "14",
	} {
		out = append(out, "§"+s)
	}
	return out
}

// storedOnly are the rules that no source can break, with the test that breaks them in the stored form.
var storedOnly = map[string]string{
	"O15": "what is built in is not declared by a manifest here",
	"O20": "dynamic children: runtime/host TestHostile",
	"O21": "dynamic offers: runtime/host TestRealmRefuses",
	"O22": "no field of the stored form can be missing, and unknown values are refused: manifest/codec TestEnums",
}

// TestRuleCoverage: each rule has a case that breaks it, and each case a rule that there is.
func TestRuleCoverage(t *testing.T) {
	broken := map[string]bool{}
	for _, c := range ruleCases(t) {
		if len(c.ids) == 0 {
			t.Errorf("rules.txt:%d: no rule", c.line)
		}
		for _, id := range c.ids {
			if !slices.Contains(ruleIDs(), id) {
				t.Errorf("rules.txt:%d: there is no rule %s", c.line, id)
			}
			broken[id] = broken[id] || len(c.want) > 0
		}
	}
	for _, id := range ruleIDs() {
		if _, stored := storedOnly[id]; broken[id] == stored {
			t.Errorf("rule %s: broken by a case %v, listed as of the stored form only %v", id, broken[id], stored)
		}
	}
	page, err := os.ReadFile(filepath.Join(needs.Shared(t), "reference", "cml-validation.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^(?:\| |## L.*\()([PVR]\d+)\b`).FindAllStringSubmatch(string(page), -1) {
		if !slices.Contains(ruleIDs(), m[1]) {
			t.Errorf("the reference names %s, which is not in the list", m[1])
		}
	}
}

// TestKeywords: each section takes the keywords that the reference's table gives it, with one name or with several.
func TestKeywords(t *testing.T) {
	const no, one, many = 0, 1, 2
	entry := map[string]string{
		"capabilities": `capabilities: [{ %s: %s%s }]`,
		"use":          `use: [{ %s: %s%s }]`,
		"offer":        `children: [{ name: "x", url: "#x" }], offer: [{ %s: %s, from: "framework", to: "#x"%s }]`,
		"expose":       `expose: [{ %s: %s, from: "framework"%s }]`,
	}
	more := map[string]string{
		"capabilities directory": `, path: "/d", rights: ["r*"]`, "use directory": `, path: "/d", rights: ["r*"]`,
		"capabilities storage": `, from: "parent", backing_dir: "d", storage_id: "static_instance_id"`, "use storage": `, path: "/s"`,
		"capabilities runner": `, path: "/svc/r"`, "capabilities resolver": `, path: "/svc/r"`,
		"capabilities config": `, type: "bool", value: true`, "use config": `, key: "k", type: "bool"`,
	}
	for keyword, takes := range map[string][4]int{
		"protocol":     {many, many, many, many},
		"service":      {many, many, many, many},
		"directory":    {one, one, many, many},
		"storage":      {one, one, many, no},
		"runner":       {one, one, many, many},
		"resolver":     {one, no, many, many},
		"event_stream": {many, many, many, many},
		"dictionary":   {one, many, many, many},
		"config":       {one, one, many, many},
	} {
		for i, section := range []string{"capabilities", "use", "offer", "expose"} {
			for count, names := range map[int]string{one: `"a"`, many: `["a", "b"]`} {
				src := fmt.Sprintf("{ "+entry[section]+" }", keyword, names, more[section+" "+keyword])
				_, ds := Parse("m.cml", []byte(src))
				if got, want := len(ds) == 0, count <= takes[i]; got != want {
					t.Errorf("%s: taken %v, want %v: %v", src, got, want, ds)
				}
				// What only validation forbids: storage comes from no framework, and no component declares event streams.
				if _, ds := Load("m.cml", []byte(src), Options{}); count <= takes[i] && ds.Err() != nil &&
					section+keyword != "offerstorage" && section+keyword != "capabilitiesevent_stream" {
					t.Errorf("%s: %v", src, ds)
				}
			}
		}
	}
}
