package cml

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// JSONSchema is a JSON Schema (draft 2020-12) of manifests, made of the tables that Parse goes by: indented, with a newline at
// the end. It refuses what Parse refuses but for what a schema cannot say (a key that stands twice, all of what makes a URL
// valid), and, for each kind of capability, an entry that lacks a key. What depends on other parts of the manifest it accepts.
func JSONSchema() []byte {
	g := schemaMaker{defs: map[string]schema{"dictionary": dictionarySchema}}
	out := g.object(Language())
	out["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	out["title"] = "component manifest (.cml)"
	out["$defs"] = g.defs
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		panic("cml: " + err.Error()) // it holds strings, numbers, slices and maps of them
	}
	return append(b, '\n')
}

type schema = map[string]any

// Regular expressions of the grammars, in the part of the syntax that ECMAScript and RE2 share.
const (
	nameRE     = `[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}`
	relativeRE = nameRE + `(/` + nameRE + `)*`
)

var grammars = map[string]schema{
	"string":        {"type": "string"},
	"name":          pattern(nameRE, name.MaxName),
	"path":          pattern(`(/`+nameRE+`)+`, name.MaxPath),
	"relative path": pattern(`(\.|`+relativeRE+`)`, name.MaxPath),
	"URL scheme":    pattern(`[a-z][a-z0-9+.\-]*`, name.MaxScheme),
	"config key":    pattern(`[a-z]([a-z0-9_]*[a-z0-9])?`, name.MaxConfigKey),
	// Absolute, with a fragment, or the path of a manifest.
	"URL": pattern(`([A-Za-z][A-Za-z0-9+.\-]*:.+|[^#]*#.+|[^:#?\\]+\.cml?)`, name.MaxURL),
}

func pattern(re string, limit int) schema {
	return schema{"type": "string", "pattern": "^" + re + "$", "maxLength": limit}
}

// dictionarySchema is an object as `program`, `facets` and `filter` may be.
var dictionarySchema = schema{
	"type": "object",
	"additionalProperties": schema{"anyOf": []schema{
		{"type": []string{"string", "null"}},
		{"type": "array", "items": schema{"type": "string"}},
		{"type": "array", "items": schema{"$ref": "#/$defs/dictionary"}},
		{"$ref": "#/$defs/dictionary"},
	}},
}

// schemaMaker collects the schemas of objects, by name.
type schemaMaker struct{ defs map[string]schema }

// ref refers to the schema of o.
func (g *schemaMaker) ref(o *Object) schema {
	id := strings.Trim(o.Name[strings.IndexByte(o.Name, ' ')+1:], "`")
	id = strings.ReplaceAll(strings.TrimPrefix(id, "entry of `"), " ", "-")
	if g.defs[id] == nil {
		def := schema{}
		g.defs[id] = def // before its keys: an object may hold itself
		maps.Copy(def, g.object(o))
	}
	return schema{"$ref": "#/$defs/" + id}
}

func (g *schemaMaker) object(o *Object) schema {
	properties, required, keywords, dependent := schema{}, []string{}, []schema{}, schema{}
	for i := range o.Keys {
		k := &o.Keys[i]
		p := g.value(&k.Value)
		if k.Doc != "" {
			p["description"] = k.Doc
		}
		properties[k.Name] = p
		if k.Required {
			required = append(required, k.Name)
		}
		if k.Kind != 0 {
			keywords = append(keywords, schema{"required": []string{k.Name}})
			if k.Needs != nil {
				dependent[k.Name] = k.Needs
			}
		}
	}
	out := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if o.Free {
		maps.Copy(out, dictionarySchema)
	}
	if len(required) > 0 {
		out["required"] = required
	}
	if len(keywords) > 0 {
		out["oneOf"] = keywords
	}
	if len(dependent) > 0 {
		out["dependentRequired"] = dependent
	}
	if o.Key("max_size") != nil {
		of := []string{"type"}
		if o.Section != "" {
			of = append(of, manifest.KindConfig.String())
		}
		out["allOf"] = []schema{ifType(of, "string", "max_size"), ifType(of, "vector", "element", "max_count")}
	}
	return out
}

// ifType says that an object that has the keys of, with that type of a configuration value, needs keys.
func ifType(of []string, word string, keys ...string) schema {
	return schema{
		"if":   schema{"properties": schema{"type": schema{"const": word}}, "required": of},
		"then": schema{"required": keys},
	}
}

func (g *schemaMaker) value(v *Value) schema {
	switch v.Kind {
	case StringValue:
		return stringSchema(v)
	case StringsValue:
		many := schema{"type": "array", "items": stringSchema(v), "uniqueItems": true}
		if !v.Empty {
			many["minItems"] = 1
		}
		if !v.One {
			return many
		}
		one := stringSchema(v)
		if v.Bare != "" {
			one = schema{"anyOf": []schema{{"const": v.Bare}, one}}
		}
		return schema{"anyOf": []schema{one, many}}
	case BoolValue:
		return schema{"type": "boolean"}
	case UintValue:
		return schema{"type": "integer", "minimum": v.Min, "maximum": v.Max}
	case DecimalValue:
		return schema{"anyOf": []schema{{"type": "number", "minimum": 1}, pattern(`0*[1-9][0-9]*(\.[0-9]+)?`, 19)}}
	case ObjectValue:
		return g.ref(v.Object)
	case ListValue:
		return schema{"type": "array", "items": g.ref(v.Object)}
	case MapValue:
		return schema{"type": "object", "propertyNames": stringSchema(v), "additionalProperties": g.ref(v.Object)}
	}
	switch {
	case v.Object == nil:
		return schema{}
	case len(v.Object.Keys) == 0:
		return schema{"$ref": "#/$defs/dictionary"}
	}
	return g.object(v.Object)
}

func stringSchema(v *Value) schema {
	switch {
	case v.Words != nil:
		return schema{"enum": v.Words}
	case v.Refs == nil:
		return maps.Clone(grammars[v.Grammar])
	}
	quote := func(words []string) []string {
		words = slices.Clone(words)
		if i := slices.Index(words, "#"); i >= 0 {
			words[i] = "#" + nameRE
		}
		return words
	}
	forms := quote(v.Refs.Words)
	if v.Refs.Named {
		forms = append(forms, "#"+nameRE)
	}
	if len(v.Refs.Roots) > 0 {
		forms = append(forms, "("+strings.Join(quote(v.Refs.Roots), "|")+")/"+relativeRE)
	}
	return pattern("("+strings.Join(forms, "|")+")", name.MaxPath)
}
