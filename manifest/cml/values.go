package cml

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// ParseValues reads a value file: one object with values for keys of c, in types as manifest.ConfigValue has them. It is nil
// after errors.
func ParseValues(file string, src []byte, c *manifest.Config) (map[string]any, manifest.Diagnostics) {
	d := newDecoder(file, src)
	var all Free
	if d.source.Tree.Root.Value != nil {
		freeForm{object: true}.decode(d, &d.source.Tree.Root, &all)
	}
	k := compiler{diagnostics: d.findings()}
	out := make(map[string]any, len(all.Members))
	for i := range all.Members {
		m := &all.Members[i]
		if t := k.typeOf(c, m); t != nil {
			out[m.Name] = k.constant(*t, &m.Value)
		}
	}
	if found := arrange(k.diagnostics); found.Err() != nil {
		return nil, found
	}
	return out, nil
}

// typeOf is the type of the key m; nil if there is no such key.
func (k *compiler) typeOf(c *manifest.Config, m *Member) *manifest.ConfigType {
	keys := make([]string, len(c.Fields))
	for i := range c.Fields {
		if keys[i] = c.Fields[i].Key; keys[i] == m.Name {
			return &c.Fields[i].Type
		}
	}
	hint := ""
	if near := name.Nearest(m.Name, keys); near != "" {
		hint = "did you mean `" + near + "`?"
	}
	k.report(m.At, "unknown-key", hint, "the manifest's config has no key `%s`", m.Name)
	return nil
}

// ParseValue reads a value of type t as people type it: JSON5, where a string needs no quotes.
func ParseValue(t manifest.ConfigType, text string) (any, error) {
	if t.Kind == manifest.ConfigString && !strings.HasPrefix(text, `"`) && !strings.HasPrefix(text, "'") {
		return text, t.Check(text)
	}
	d := newDecoder("", []byte(text))
	k := compiler{diagnostics: d.findings()}
	var f Free
	if d.source.Tree.Root.Value != nil {
		d.free(&d.source.Tree.Root, &f)
	}
	if k.diagnostics.Err() != nil {
		return nil, fmt.Errorf("%q is not a value of type %s", text, t.Kind)
	}
	v := k.constant(t, &f)
	if len(k.diagnostics) > 0 {
		return nil, errors.New(k.diagnostics[0].Message)
	}
	return v, nil
}
