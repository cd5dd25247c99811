package cml

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// A checker validates values against a JSON Schema. It knows the keywords that JSONSchema uses, and refuses others.
type checker struct {
	root     map[string]any
	patterns map[string]*regexp.Regexp
}

func newChecker(t testing.TB) *checker {
	c := &checker{patterns: map[string]*regexp.Regexp{}}
	decode(t, JSONSchema(), &c.root)
	return c
}

func decode(t testing.TB, src []byte, into any) {
	d := json.NewDecoder(bytes.NewReader(src))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v: %s", err, src)
	}
}

// check says why v does not follow s; "" if it does.
func (c *checker) check(v any, s map[string]any, at string) string {
	object, isObject := v.(map[string]any)
	array, isArray := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(json.Number)
	n, _ := strconv.ParseFloat(string(number), 64)
	all := func(list any) (good int, why string) {
		for _, sub := range list.([]any) {
			if w := c.check(v, sub.(map[string]any), at); w == "" {
				good++
			} else {
				why += w + "; "
			}
		}
		return good, why
	}
	for keyword, arg := range s {
		bad := ""
		switch keyword {
		case "$schema", "$defs", "title", "description", "then", "additionalProperties":
		case "$ref":
			name := strings.TrimPrefix(arg.(string), "#/$defs/")
			bad = c.check(v, c.root["$defs"].(map[string]any)[name].(map[string]any), at)
		case "type":
			types, ok := arg.([]any)
			if !ok {
				types = []any{arg}
			}
			if !slices.ContainsFunc(types, func(t any) bool {
				switch t {
				case "object":
					return isObject
				case "array":
					return isArray
				case "string":
					return isText
				case "null":
					return v == nil
				case "boolean":
					_, ok := v.(bool)
					return ok
				case "integer":
					return isNumber && n == float64(int64(n))
				case "number":
					return isNumber
				}
				return false
			}) {
				bad = fmt.Sprintf("is no %v", arg)
			}
		case "enum":
			if !slices.Contains(arg.([]any), v) {
				bad = fmt.Sprintf("is none of %v", arg)
			}
		case "const":
			if v != arg {
				bad = fmt.Sprintf("is not %v", arg)
			}
		case "pattern":
			re := c.patterns[arg.(string)]
			if re == nil {
				re = regexp.MustCompile(arg.(string))
				c.patterns[arg.(string)] = re
			}
			if isText && !re.MatchString(text) {
				bad = fmt.Sprintf("%q does not match %s", text, arg)
			}
		case "maxLength", "minimum", "maximum", "minItems":
			limit, _ := strconv.ParseFloat(string(arg.(json.Number)), 64)
			if keyword == "maxLength" && isText && float64(utf8.RuneCountInString(text)) > limit ||
				keyword == "minimum" && isNumber && n < limit || keyword == "maximum" && isNumber && n > limit ||
				keyword == "minItems" && isArray && float64(len(array)) < limit {
				bad = keyword
			}
		case "uniqueItems":
			for i, e := range array {
				if slices.ContainsFunc(array[:i], func(o any) bool { return reflect.DeepEqual(e, o) }) {
					bad = "has an item twice"
				}
			}
		case "items":
			for i, e := range array {
				bad += c.check(e, arg.(map[string]any), fmt.Sprintf("%s[%d]", at, i))
			}
		case "properties":
			for k, sub := range arg.(map[string]any) {
				if e, ok := object[k]; ok {
					bad += c.check(e, sub.(map[string]any), at+"."+k)
				}
			}
		case "propertyNames":
			for k := range object {
				bad += c.check(k, arg.(map[string]any), at+"."+k)
			}
		case "required":
			for _, k := range arg.([]any) {
				if _, ok := object[k.(string)]; isObject && !ok {
					bad = fmt.Sprintf("lacks %s", k)
				}
			}
		case "dependentRequired":
			for k, list := range arg.(map[string]any) {
				if _, ok := object[k]; ok {
					bad += c.check(v, map[string]any{"required": list}, at)
				}
			}
		case "allOf":
			if good, why := all(arg); good < len(arg.([]any)) {
				bad = why
			}
		case "anyOf":
			if good, why := all(arg); good == 0 {
				bad = why
			}
		case "oneOf":
			if good, why := all(arg); good != 1 {
				bad = fmt.Sprintf("%d of oneOf: %s", good, why)
			}
		case "if":
			if c.check(v, arg.(map[string]any), at) == "" {
				bad = c.check(v, s["then"].(map[string]any), at)
			}
		default:
			return "unknown keyword " + keyword
		}
		if bad != "" {
			return at + " " + bad
		}
	}
	known, _ := s["properties"].(map[string]any)
	for k, e := range object {
		switch rest := s["additionalProperties"].(type) {
		case bool:
			if known[k] == nil && !rest {
				return at + " has " + k
			}
		case map[string]any:
			if known[k] == nil {
				if why := c.check(e, rest, at+"."+k); why != "" {
					return why
				}
			}
		}
	}
	return ""
}

// checkSource checks a manifest's text; ok is false if it is no JSON5.
func (c *checker) checkSource(t *testing.T, src string) (why string, ok bool) {
	tree, err := json5.Parse([]byte(src), json5.Options{})
	if err != nil {
		return "", false
	}
	b, err := json5.ToJSON(&tree)
	if err != nil {
		return "", false
	}
	var v any
	decode(t, b, &v)
	return c.check(v, c.root, "$"), true
}

// beyond are the rules of Parse that the schema cannot state.
var beyond = []string{"duplicate-key", "bad-url"}

// agrees checks that the schema accepts a valid manifest, and refuses one that Parse refuses.
func agrees(t *testing.T, c *checker, file, src string, valid bool) {
	t.Helper()
	_, ds := Parse(file, []byte(src))
	why, ok := c.checkSource(t, src)
	stated := slices.ContainsFunc(ds.Errors(), func(d manifest.Diagnostic) bool { return !slices.Contains(beyond, d.Rule) })
	switch {
	case !ok:
	case valid && why != "":
		t.Errorf("%s is valid, but the schema says: %s\n%s", file, why, src)
	case stated && why == "":
		t.Errorf("%s: the schema accepts what Parse refuses: %v\n%s", file, ds, src)
	}
}

func TestSchemaAgreesWithVectors(t *testing.T) {
	c := newChecker(t)
	for _, pattern := range []string{"validate_*.json", "parse_only.json", "merge.json", "canonicalize.json"} {
		for file, vs := range readVectors(t, pattern) {
			agreesWith(t, c, file, vs)
		}
	}
}

func agreesWith(t *testing.T, c *checker, file string, vs []vector) {
	for _, v := range vs {
		doc, ds := Parse(v.Name, []byte(v.CML))
		doc.Include = Texts{}
		_, more := doc.load(options(v), false)
		agrees(t, c, file+" "+v.Name, v.CML, len(append(ds, more...).Errors()) == 0)
	}
}

func TestSchemaAgreesWithCorpus(t *testing.T) {
	c := newChecker(t)
	dir, index := corpus(t)
	for _, f := range index {
		src, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			t.Fatal(err)
		}
		agrees(t, c, f.File, string(src), f.NewestKeys)
	}
}

// TestSchemaNeeds: without any key that the schema demands of a kind the manifest is refused, and with all of them accepted.
func TestSchemaNeeds(t *testing.T) {
	c := newChecker(t)
	entries := map[string][]map[string]any{
		"capabilities": {
			{"directory": "d", "path": "/d", "rights": []any{"r*"}},
			{"storage": "s", "from": "self", "backing_dir": "d", "storage_id": "static_instance_id"},
			{"runner": "r", "path": "/r"},
			{"resolver": "q", "path": "/q"},
			{"config": "c", "type": "bool", "value": true},
			{"config": "e", "type": "string", "max_size": 3, "value": "a"},
			{"config": "f", "type": "vector", "max_count": 3, "element": map[string]any{"type": "bool"}, "value": []any{}},
			{"protocol": "p"},
			{"service": "t"},
			{"dictionary": "u"},
		},
		"use": {
			{"directory": "d", "path": "/d", "rights": []any{"r*"}},
			{"storage": "s", "path": "/s"},
			{"config": "c", "key": "c", "type": "bool"},
			{"runner": "elf"},
			{"protocol": "p"},
			{"protocol": "n", "numbered_handle": 7},
		},
		"offer":  {{"protocol": "p", "from": "parent", "to": "#a"}},
		"expose": {{"protocol": "p", "from": "#a"}},
	}
	verdict := func(section string, e map[string]any) (loads bool, why string) {
		doc := map[string][]any{
			"children": {map[string]any{"name": "a", "url": "a.cml"}}, section: {e},
		}
		if section != "capabilities" || e["directory"] == nil {
			doc["capabilities"] = append(doc["capabilities"], map[string]any{"directory": "d", "path": "/d", "rights": []any{"r*"}})
		}
		if e["runner"] == nil || section != "use" {
			doc["use"] = append(doc["use"], map[string]any{"runner": "elf"})
		}
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		b = append([]byte(`{"program":{"binary":"x"},`), b[1:]...)
		v, _ := Load("a.cml", b, Options{})
		why, _ = c.checkSource(t, string(b))
		return !v.IsZero(), why
	}
	for section, list := range entries {
		for _, e := range list {
			if loads, why := verdict(section, e); !loads || why != "" {
				t.Errorf("%s %v: loads %v, schema says %q", section, e, loads, why)
			}
			for key, value := range e {
				delete(e, key)
				if loads, why := verdict(section, e); loads != (why == "") {
					t.Errorf("%s %v without %s: loads %v, schema says %q", section, e, key, loads, why)
				}
				e[key] = value
			}
		}
	}
}
