package verify_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runtime/verify"
)

// sarifObjects are the objects of SARIF 2.1.0 that are written, with all that its JSON schema allows in them of what is used and
// demands (a key with "!"): the kind of each value is another object, in an array with "[]" and in a map with "{}", or "string",
// "uri", "count" (an integer from 1) or "index" (one from 0), or one of some words.
var sarifObjects = map[string]map[string]string{
	"log": {"version!": "2.1.0", "runs!": "[]run", "$schema": "uri"},
	"run": {
		"tool!": "tool", "results": "[]result", "columnKind": "utf16CodeUnits|unicodeCodePoints", "originalUriBaseIds": "{}artifactLocation",
	},
	"tool":                {"driver!": "toolComponent"},
	"toolComponent":       {"name!": "string", "version": "string", "informationUri": "uri", "rules": "[]reportingDescriptor"},
	"reportingDescriptor": {"id!": "string", "shortDescription": "multiformatMessage"},
	"multiformatMessage":  {"text!": "string"},
	"message":             {"text": "string"},
	"location":            {"physicalLocation": "physicalLocation", "logicalLocations": "[]logicalLocation", "message": "message"},
	"physicalLocation":    {"artifactLocation": "artifactLocation", "region": "region"},
	"artifactLocation":    {"uri": "uri", "uriBaseId": "string"},
	"region":              {"startLine": "count", "startColumn": "count"},
	"logicalLocation":     {"fullyQualifiedName": "string", "kind": "string"},
	"suppression":         {"kind!": "inSource|external", "justification": "string"},
	"partialFingerprint":  {},
	"result": {
		"message!": "message", "ruleId": "string", "ruleIndex": "index", "level": "none|note|warning|error", "locations": "[]location",
		"relatedLocations": "[]location", "partialFingerprints": "{}string", "suppressions": "[]suppression",
	},
}

// conforms says what of v is not as the schema of SARIF has it.
func conforms(at, kind string, v any) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, at+": "+fmt.Sprintf(format, args...)) }
	if inner, ok := strings.CutPrefix(kind, "[]"); ok {
		list, ok := v.([]any)
		if !ok {
			bad("is no array")
		}
		for i, x := range list {
			wrong = append(wrong, conforms(fmt.Sprintf("%s[%d]", at, i), inner, x)...)
		}
		return wrong
	}
	object, isObject := v.(map[string]any)
	if inner, ok := strings.CutPrefix(kind, "{}"); ok {
		if !isObject {
			bad("is no object")
		}
		for k, x := range object {
			wrong = append(wrong, conforms(at+"."+k, inner, x)...)
		}
		return wrong
	}
	if keys := sarifObjects[kind]; keys != nil {
		if !isObject {
			bad("is no object")
		}
		for k, inner := range keys {
			name, required := strings.CutSuffix(k, "!")
			x, has := object[name]
			if required && !has {
				bad("lacks %s", name)
			}
			if has {
				wrong = append(wrong, conforms(at+"."+name, inner, x)...)
			}
		}
		for k := range object {
			if keys[k] == "" && keys[k+"!"] == "" {
				bad("has %s", k)
			}
		}
		return wrong
	}
	text, isText := v.(string)
	number, isNumber := v.(float64)
	switch kind {
	case "string":
		if !isText || text == "" {
			bad("is no text: %v", v)
		}
	case "uri":
		if _, err := url.Parse(text); err != nil || !isText || text == "" || strings.ContainsAny(text, " <>\"{}|\\^`") {
			bad("is no URI: %v", v)
		}
	case "count", "index":
		least := map[string]float64{"count": 1, "index": 0}[kind]
		if !isNumber || number < least || number != float64(int(number)) {
			bad("is no %s: %v", kind, v)
		}
	default:
		if !slices.Contains(strings.Split(kind, "|"), text) {
			bad("is %v, not one of %s", v, kind)
		}
	}
	return wrong
}

// sarif is a log as its schema has it, and as the text of the standard demands beyond that: rules have different ids, ruleIndex
// is that of the rule, a base is a directory that is listed (§3.14.14, §3.27.6, §3.4.4).
func sarif(t *testing.T, src []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(src, &v); err != nil {
		t.Fatalf("%v: %s", err, src)
	}
	for _, w := range conforms("log", "log", v) {
		t.Error(w)
	}
	var log struct {
		Runs []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			OriginalURIBaseIDs map[string]struct{ URI string }
			Results            []struct {
				RuleID    string
				RuleIndex int
			}
		}
	}
	if err := json.Unmarshal(src, &log); err != nil {
		t.Fatal(err)
	}
	for _, run := range log.Runs {
		rules := map[string]bool{}
		for _, r := range run.Tool.Driver.Rules {
			if rules[r.ID] {
				t.Errorf("rule %s stands there twice", r.ID)
			}
			rules[r.ID] = true
		}
		for _, r := range run.Results {
			if r.RuleIndex >= len(run.Tool.Driver.Rules) || run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID {
				t.Errorf("ruleIndex %d is not that of %s", r.RuleIndex, r.RuleID)
			}
		}
		for id, base := range run.OriginalURIBaseIDs {
			if u, err := url.Parse(base.URI); err != nil || !u.IsAbs() || !strings.HasSuffix(base.URI, "/") {
				t.Errorf("base %s: %s", id, base.URI)
			}
		}
		for _, part := range bytes.Split(src, []byte(`"uriBaseId": "`))[1:] {
			id, _, _ := bytes.Cut(part, []byte(`"`))
			if _, ok := run.OriginalURIBaseIDs[string(id)]; !ok {
				t.Errorf("base %s is not listed", id)
			}
		}
	}
}

// TestSARIFConforms: whatever is found, in files of whatever name, near or far, the log is as the standard has it.
func TestSARIFConforms(t *testing.T) {
	tree, dir := open(t, map[string]string{
		"root.cml": `{ children: [ { name: 'a', url: 'ä b%/a.cml' }, { name: 'bad', url: 'bad.cml' }, { name: 'x', url: 'x.cml' } ],
			offer: [ { protocol: 'p', from: 'parent', to: [ '#a', '#x' ] }, { service: 's', from: [ '#x', '#a' ], to: '#bad' } ] }`,
		"ä b%/a.cml": `{ program: { runner: 'elf', binary: 'b' },
			use: [ { protocol: 'p' }, { protocol: "q", availability: 'optional' } ] }`,
		"bad.cml": "{ usee: [], \n",
		"x.cml": `{ program: { runner: 'elf', binary: 'b' }, capabilities: [ { service: 's' } ],
			expose: [ { service: 's', from: 'self' } ], use: [ { protocol: 'p' } ] }`,
		"allow.json5": "[ { target: '/x', protocol: 'p', reason: '<known & \"said\">' }, { target: '/none', protocol: 'p', reason: 'x' } ]",
	})
	for _, d := range []string{dir, dir + "/ä b%", "/", "/elsewhere"} {
		allow, err := verify.ReadAllowlist(dir + "/allow.json5")
		if err != nil {
			t.Fatal(err)
		}
		s := verify.SARIF{Dir: d, Version: "1"}
		sum, err := tree.Check(t.Context(), allow, false, func(r verify.Result) { s.Add(&r) })
		if err != nil || sum.Errors < 3 || sum.Warnings < 1 || sum.Allowed < 1 {
			t.Fatal(sum, err)
		}
		s.AddFindings(allow.Stale(), "")
		s.AddFindings(manifest.Diagnostics{{Pos: manifest.Pos{File: "whole.cml"}, Message: "no rule, no line"}}, "")
		var b bytes.Buffer
		if err := s.Write(&b); err != nil {
			t.Fatal(err)
		}
		sarif(t, b.Bytes())
		if d == dir && !strings.Contains(b.String(), `"uri": "%C3%A4%20b%25/a.cml"`) {
			t.Errorf("names are not escaped: %s", b.String())
		}
	}
	var empty bytes.Buffer
	if err := (&verify.SARIF{Dir: dir}).Write(&empty); err != nil {
		t.Fatal(err)
	}
	sarif(t, empty.Bytes())
}
