package cml

import (
	"fmt"
	"slices"
	"strings"
)

// Reference is the reference of the language as Markdown: every key of every object, what it may hold, and what cml(5) says of
// it. It is made of the tables that Parse goes by.
func Reference() []byte {
	var b strings.Builder
	b.WriteString("# Manifests (`.cml`)\n\nA manifest is JSON5. cml(5) explains the language; this is what each key may hold.\n")
	seen := map[*Object]bool{}
	queue := []*Object{Language()}
	for len(queue) > 0 {
		o := queue[0]
		queue = queue[1:]
		if seen[o] {
			continue
		}
		seen[o] = true
		title := o.Name[:1]
		if title != "`" {
			title = strings.ToUpper(title)
		}
		fmt.Fprintf(&b, "\n## %s%s\n", title, o.Name[1:])
		for i := range o.Keys {
			k := &o.Keys[i]
			if v := k.Value.Object; v != nil && len(v.Keys) > 0 {
				queue = append(queue, v)
			}
			fmt.Fprintf(&b, "\n### `%s`\n\n", k.Name)
			about := []string{k.Value.describe()}
			if k.Required {
				about = append(about, "required")
			}
			if k.Needs != nil {
				about = append(about, "with "+codeList(k.Needs, " and "))
			}
			if k.Of != nil {
				var of []string
				for _, kind := range k.Of {
					of = append(of, kind.String())
				}
				about = append(about, "for "+codeList(of, ", "))
			}
			about = slices.DeleteFunc(about, func(s string) bool { return s == "" })
			if len(about) > 0 {
				fmt.Fprintf(&b, "*%s*\n\n", strings.Join(about, "; "))
			}
			fmt.Fprintln(&b, strings.TrimSpace(k.Doc))
		}
	}
	return []byte(b.String())
}

func codeList(words []string, between string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = "`" + w + "`"
	}
	return strings.Join(out, between)
}

// describe says what a value may be, "" if it may be anything.
func (v *Value) describe() string {
	text := "a " + v.Grammar
	switch {
	case v.Words != nil:
		text = "one of " + codeList(v.Words, ", ")
	case v.Refs != nil:
		text = "one of " + codeList(v.Refs.forms(), ", ")
	}
	switch v.Kind {
	case StringValue:
		return text
	case StringsValue:
		if v.Bare != "" {
			text = "`" + v.Bare + "`; or " + text
		}
		if v.One {
			return text + "; or an array of these"
		}
		return "an array, each " + text
	case BoolValue:
		return "`true` or `false`"
	case UintValue:
		return fmt.Sprintf("an integer from %d to %d", v.Min, v.Max)
	case DecimalValue:
		return "a decimal of at least 1"
	case ObjectValue:
		return v.Object.Name
	case ListValue:
		return "an array, each " + v.Object.Name
	case MapValue:
		return fmt.Sprintf("an object; each key is a %s, each value %s", v.Grammar, v.Object.Name)
	}
	if v.Object != nil {
		return "an object"
	}
	return ""
}

// forms are what a reference may look like.
func (r *Refs) forms() []string {
	named := func(words []string, rest string) []string {
		out := make([]string, len(words))
		for i, w := range words {
			if w == "#" {
				w = "#NAME"
			}
			out[i] = w + rest
		}
		return out
	}
	out := named(r.Words, "")
	if r.Named {
		out = append(out, "#NAME")
	}
	return append(out, named(r.Roots, "/DICTIONARY")...)
}
