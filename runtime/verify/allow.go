package verify

import (
	"fmt"
	"os"
	"slices"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
	"github.com/cmgr/cmgr/manifest/name"
)

// An Allowlist is the failures that are known. It is a JSON5 file:
//
//	[
//	  // who, what, and why nobody minds: all three are needed
//	  { target: "/core/net", protocol: "log", reason: "arrives with the next release" },
//	  { target: "/lab/**", directory: "data", reason: "the lab has no disk" },
//	  { target: "/gone", resolver: "file", reason: "its package is built elsewhere" },
//	]
//
// The target is a moniker pattern (see name.Pattern). The capability's kind is the key, as in a manifest, and its name is that by
// which the target's declaration calls it; a child that does not resolve fails to get the resolver of its scheme.
type Allowlist struct {
	entries []*allowance
	known   map[capability][]*allowance
}

type capability struct {
	kind manifest.Kind
	name string
}

type allowance struct {
	capability
	target name.Pattern
	reason string
	pos    manifest.Pos
	used   bool
}

// ReadAllowlist reads a file; the error of one that is wrong is manifest.Diagnostics.
func ReadAllowlist(file string) (*Allowlist, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("allowlist: %w", err)
	}
	return parseAllowlist(file, src)
}

func parseAllowlist(file string, src []byte) (*Allowlist, error) {
	tree, err := json5.Parse(src, json5.Options{})
	r := allowReader{file: file, tree: &tree}
	if errs, ok := err.(json5.Errors); ok { //nolint:errorlint // the only error that Parse returns
		for _, e := range errs {
			r.complain(e.Offset, "syntax", "", "%s", e.Message)
		}
		return nil, r.found
	}
	for _, d := range tree.Duplicates {
		r.complain(d.Second, "duplicate-key", "", "key %q stands here a second time", d.Name)
	}
	a := &Allowlist{known: map[capability][]*allowance{}}
	list, ok := tree.Root.Value.(*hujson.Array)
	if !ok {
		r.complain(tree.Root.StartOffset, "wrong-type", "", "must be an array of objects")
		return nil, r.found
	}
	for _, v := range list.Elements {
		if e := r.entry(v); e != nil {
			a.entries = append(a.entries, e)
			a.known[e.capability] = append(a.known[e.capability], e)
		}
	}
	if err := r.found.Err(); err != nil {
		return nil, err
	}
	return a, nil
}

// An allowReader collects what is wrong with a file.
type allowReader struct {
	file  string
	tree  *json5.Tree
	found manifest.Diagnostics
}

func (r *allowReader) pos(offset int) manifest.Pos {
	p := r.tree.Position(offset)
	return manifest.Pos{File: r.file, Line: int32(p.Line), Col: int32(p.Col)}
}

func (r *allowReader) complain(offset int, rule, hint, format string, args ...any) {
	r.found = append(r.found, manifest.Diagnostic{Pos: r.pos(offset), Rule: rule, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// entry is one entry, nil if it is wrong.
func (r *allowReader) entry(v hujson.Value) *allowance {
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		r.complain(v.StartOffset, "wrong-type", "", "must be an object")
		return nil
	}
	before := len(r.found)
	e := &allowance{pos: r.pos(v.StartOffset)}
	keys := []string{"target", "reason"}
	kinds := map[string]manifest.Kind{}
	for _, k := range manifest.Kinds() {
		kinds[k.String()] = k
		keys = append(keys, k.String())
	}
	target := ""
	for _, m := range o.Members {
		key, at := json5.Name(m.Name), m.Name.StartOffset
		if !slices.Contains(keys, key) {
			hint := ""
			if near := name.Nearest(key, keys); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			r.complain(at, "unknown-key", hint, "unknown field `%s`", key)
			continue
		}
		if json5.KindOf(m.Value) != json5.String || json5.Text(m.Value) == "" {
			r.complain(m.Value.StartOffset, "wrong-type", "", "%q must be a string, and not empty", key)
			continue
		}
		text := json5.Text(m.Value)
		switch key {
		case "target":
			var err error
			target = text
			if e.target, err = name.ParsePattern(text); err != nil {
				r.complain(m.Value.StartOffset, "pattern", "", "%v", err)
			}
		case "reason":
			e.reason = text
		default:
			if e.kind != 0 {
				r.complain(at, "two-capabilities", "write two entries", "an entry is about one capability, and this is about a %s already",
					e.kind)
			}
			e.capability = capability{kinds[key], text}
		}
	}
	if len(r.found) > before {
		return nil
	}
	for _, missing := range []struct {
		is   bool
		what string
	}{
		{target == "", `"target", such as "/core/net" or "/core/**"`},
		{e.kind == 0, `the capability, such as protocol: "log"`},
		{e.reason == "", `"reason"`},
	} {
		if missing.is {
			r.complain(v.StartOffset, "missing-key", "", "the entry lacks %s", missing.what)
		}
	}
	if len(r.found) > before {
		return nil
	}
	return e
}

// reason is why r, which is not OK, is allowed; "" if it is not.
func (a *Allowlist) reason(r *Result) (reason string) {
	if a == nil {
		return ""
	}
	for _, e := range a.known[capability{r.Kind, r.Name}] {
		if e.target.Match(r.Target) {
			e.used, reason = true, e.reason
		}
	}
	return reason
}

// Stale are the entries that no Check had a use for: what they allow does not fail any more.
func (a *Allowlist) Stale() manifest.Diagnostics {
	if a == nil {
		return nil
	}
	var out manifest.Diagnostics
	for _, e := range a.entries {
		if !e.used {
			out = append(out, manifest.Diagnostic{
				Pos: e.pos, Rule: "stale-allowance", Hint: "remove the entry",
				Message: fmt.Sprintf("stale: no %s %q of %s fails", e.kind, e.name, e.target),
			})
		}
	}
	return out
}
