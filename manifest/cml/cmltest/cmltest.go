// Package cmltest holds a manifest that says nearly everything, and hundreds that are wrong, for whoever reads manifests to
// refuse.
package cmltest

import (
	"strings"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest/json5"
)

// Valid uses every section and nearly every key. It is valid; Broken breaks it in one place at a time.
const Valid = `{
    program: {
        runner: "elf",
        binary: "bin/echo",
        args: ["Hello", 'world!'],
        environ: [],
        lifecycle: { stop_event: "notify" }
    },
    children: [
        { name: "log", url: "log.cml", startup: "eager", on_terminate: "reboot" },
        { name: "net", url: "pkg://host/net#meta/net.cm", environment: "#env" },
        {
            name: "web", url: "#meta/web.cm", on_terminate: "restart",
            restart: { when: "failure", delay_ms: 10, max_delay_ms: 1000, backoff: "1.5", limit: 5, window_ms: 60000 }
        }
    ],
    collections: [
        { name: "jobs", durability: "single_run", environment: "#env", allowed_offers: "static_only",
            allow_long_names: false, persistent_storage: true }
    ],
    environments: [
        {
            name: "env", extends: "realm", __stop_timeout_ms: 2000,
            runners: [{ runner: "wasm", from: "parent", as: "web" }],
            resolvers: [{ resolver: "pkg", from: "parent", scheme: "pkg" }],
            debug: [{ protocol: ["trace", "dump"], from: "parent" }]
        }
    ],
    capabilities: [
        { protocol: ["echo", "admin"], delivery: "on_readable", activation: "bind" },
        { service: "fonts", path: "/svc/fonts" },
        { directory: "data", path: "/data", rights: ["rw*"] },
        { storage: "cache", from: "parent", backing_dir: "disk", subdir: "a/b", storage_id: "static_instance_id" },
        { runner: "own", path: "/svc/runner" },
        { resolver: "res", path: "/svc/resolver" },
        { dictionary: "dict" },
        { config: "answer", type: "uint8", value: 42 },
        { config: "names", type: "vector", max_count: 3, element: { type: "string", max_size: 8 }, value: ["a", "b"] }
    ],
    use: [
        { protocol: "clock", from: "parent", availability: "optional", dependency: "strong" },
        { protocol: "stdout", numbered_handle: 0x3D },
        { protocol: "web", from: "#web", path: "/svc/web", dependency: "weak" },
        { directory: "etc", path: "/etc", rights: ["connect", "read_bytes"], subdir: "app" },
        { storage: "cache", path: "/cache" },
        { event_stream: ["started", "stopped"], from: "parent", scope: ["#log", "#jobs"], filter: { name: "echo" } },
        { config: "level", key: "level", type: "string", max_size: 10, availability: "optional", default: "info" },
        { config: "verbose", key: "verbose", type: "bool", availability: "optional", default: false },
        {
            config: "tags", key: "tags", type: "vector", max_count: 10, element: { type: "string", max_size: 50 },
            availability: "optional", default: ["a"]
        }
    ],
    offer: [
        { protocol: "echo", from: "self", to: "all" },
        { protocol: "socket", from: "#net", to: ["#web", "#jobs"], as: "tcp", availability: "same_as_target" },
        { service: "fonts", from: ["self", "#jobs"], to: "#web" },
        { directory: "data", from: "self", to: "#net", rights: ["r*"], subdir: "net" },
        { protocol: "extra", from: "#gone", to: "#log", source_availability: "unknown" },
        { protocol: "nothing", from: "void", to: "#log", availability: "optional" },
        { protocol: "log", from: "#log", to: "self/dict" }
    ],
    expose: [
        { protocol: "admin", from: "self", to: "framework" },
        { protocol: "tcp", from: "#net", as: "net" },
        { dictionary: "dict", from: "self" }
    ],
    facets: { team: "core", tags: [{ name: "x" }] },
    config: {
        verbose: { type: "bool", mutability: ["parent"] },
        tags: { type: "vector", max_count: 10, element: { type: "string", max_size: 50 } }
    }
}`

// A Malformed is a manifest with one slip.
type Malformed struct {
	What   string // what was done to it
	Src    string
	Offset int    // where an error must be; -1 for anywhere
	Say    string // what the message of that error, or its hint, must hold
}

// Broken are made from Valid, by category: each leaves out, doubles or replaces one thing, wherever there is such a thing.
func Broken() []Malformed {
	tree, err := json5.Parse([]byte(Valid), json5.Options{})
	if err != nil {
		panic(err) // it is constant
	}
	var out []Malformed
	add := func(what string, at, end int, with string, offset int, say string) {
		out = append(out, Malformed{what, Valid[:at] + with + Valid[end:], offset, say})
	}
	var walk func(v *hujson.Value, free bool, path string)
	walk = func(v *hujson.Value, free bool, path string) {
		switch x := v.Value.(type) {
		case *hujson.Object:
			for i := range x.Members {
				m := &x.Members[i]
				key := json5.Name(m.Name)
				inFree := free || key == "program" || key == "facets" || key == "filter"
				p := path + "." + key
				if i > 0 {
					end := x.Members[i-1].Value.EndOffset
					add("no comma before "+p, end, end+1, "", end, "missing comma")
					add("key twice "+p, end, end, ", "+key+": 1, "+key+": 1", end+len(", "+key+": 1, "), "twice")
				}
				add("no colon "+p, m.Name.EndOffset, m.Name.EndOffset+1, "", -1, "")
				if !inFree && path != ".config" && len(key) > 3 {
					typo := key[:2] + key[3:]
					add("typing error in "+p, m.Name.StartOffset, m.Name.EndOffset, typo, m.Name.StartOffset, "did you mean `"+key+"`")
				}
				if key != "value" && key != "backoff" {
					add("wrong type of "+p, m.Value.StartOffset, m.Value.EndOffset, "12.5", m.Value.StartOffset, "")
				}
				walk(&m.Value, inFree, p)
			}
		case *hujson.Array:
			for i := range x.Elements {
				if i > 0 {
					end := x.Elements[i-1].EndOffset
					add("no comma in "+path, end, end+1, "", end, "missing comma")
				}
				walk(&x.Elements[i], free, path)
			}
		case hujson.Literal:
			if json5.KindOf(*v) != json5.String || free {
				return
			}
			text := json5.Text(*v)
			add("unclosed string "+path, v.EndOffset-1, v.EndOffset, "", -1, "")
			switch {
			case strings.HasSuffix(path, ".source_availability"), strings.HasSuffix(path, ".value"), strings.HasSuffix(path, ".default"),
				strings.HasSuffix(path, ".backoff"):
			case strings.HasPrefix(text, "#") && text != "#gone" && !strings.Contains(text, "/"):
				if path != ".use.scope" { // events may be about children of others
					add("dangling "+path, v.StartOffset, v.EndOffset, `"#nowhere"`, -1, "nowhere")
				}
				add("bad reference "+path, v.StartOffset, v.EndOffset, `"#no where"`, v.StartOffset, "")
			case !strings.HasSuffix(path, ".url"):
				add("bad string "+path, v.StartOffset, v.EndOffset, `"/no/../where "`, v.StartOffset, "")
			}
		}
	}
	walk(&tree.Root, false, "")
	return out
}

// Slips are what people write by mistake in a file called m.cml, with all that they must be told.
func Slips() []struct{ Src, Want string } {
	return []struct{ Src, Want string }{
		{``, "m.cml:1:1: expected a value, found end of file\n  hint: a manifest that says nothing is {}"},
		{`[]`, "m.cml:1:1: invalid type: array, expected a map"},
		{"{\n  chidren: []\n}", "m.cml:2:3: unknown field `chidren`\n  hint: did you mean `children`?"},
		{`{ children: [{ name: "a", url: "a" }] }`, "m.cml:1:32: invalid value: string \"a\", expected a valid URL\n" +
			"  hint: a relative URL has a fragment (\"#meta/x.cm\") or is the path of a manifest (\"x.cml\")"},
		{
			`{ children: [{ name: "a", url: "#meta/a.cml" }] }`,
			"m.cml:1:32: child URL ends in .cml instead of .cm, which is almost certainly a mistake: #meta/a.cml\n" +
				"  hint: did you mean \"#meta/a.cm\"?",
		},
		{
			`{ children: [{ name: "a", url: "a.cml" }, { name: "a", url: "b.cml" }] }`,
			"m.cml:1:51: identifier \"a\" is defined twice, once in \"children\" and once in \"children\"\n  hint: the first one is at " +
				"m.cml:1:22",
		},
		{
			`{ program: { runner: "elf", main_process_critical: true } }`,
			"m.cml:1:52: value must be string, list of strings, or list of objects: true\n" +
				"  hint: write it as the string \"true\"",
		},
		{
			`{ program: { binary: "bin/x" } }`,
			"m.cml:1:12: Component has a `program` block defined, but doesn't specify a `runner`. Components need to use a runner to " +
				"actually execute code.\n  hint: add runner: \"elf\" to the program",
		},
		{
			`{ program: { runner: "elf" }, use: [{ runner: "elf" }] }`,
			"m.cml:1:47: Component has conflicting runners in `program` block and `use` block.\n" +
				"  hint: remove one of them; `program.runner` is at m.cml:1:22",
		},
		{
			`{ use: [{ runner: "elf" }, { runner: "wasm" }] }`,
			"m.cml:1:38: `use runner` should occur at most once.\n  hint: the first one is at m.cml:1:19",
		},
		{`{ runner: "elf" }`, "m.cml:1:3: unknown field `runner`, expected one of `include`, `program`, `children`, `collections`, " +
			"`environments`, " +
			"`capabilities`, `use`, `offer`, `expose`, `facets`, `config`\n  hint: write the runner within \"program\": program: { " +
			"runner: \"elf\" }"},
		{
			`{ offer: [{ protocol: "x", from: "parent", to: "child" }], children: [{ name: "child", url: "c.cml" }] }`,
			"m.cml:1:48: invalid value: string \"child\", expected \"#<child-name>\", \"#<collection-name>\", or \"self/<dictionary>\"\n" +
				"  hint: a reference starts with #: did you mean \"#child\"?",
		},
		{
			`{ offer: [{ protocol: "x", from: "#childd", to: "#child" }], children: [{ name: "child", url: "c.cml" }] }`,
			"m.cml:1:34: \"offer\" source \"#childd\" does not appear in \"children\" or \"capabilities\"\n  hint: did you mean " +
				"\"#child\"?",
		},
		{
			`{ offer: [{ runner: "x", from: "self", to: "#c" }], capabilities: [{ protocol: "x" }], children: [{ name: "c", ` +
				`url: "c.cml" }] }`,
			"m.cml:1:32: runner \"x\" is offered from self, so it must be declared as a \"runner\" in \"capabilities\"\n  hint: it is " +
				"declared as a \"protocol\"",
		},
		{
			`{ children: [{ name: "a", url: "a.cml", environment: "#evn" }], environments: [{ name: "env", extends: "realm" }] }`,
			"m.cml:1:54: environment \"#evn\" does not appear in \"environments\"\n  hint: did you mean \"#env\"?",
		},
		{
			`{ children: [{ name: "a", url: "a.cml", restart: { limit: 1 } }] }`,
			"m.cml:1:50: `restart` needs on_terminate: \"restart\"\n  hint: write on_terminate: \"restart\"",
		},
		{
			`{ children: [{ name: "a", url: "a.cml", on_terminate: "restart", restart: { delay_ms: 9, max_delay_ms: 8 } }] }`,
			"m.cml:1:75: restart: max_delay_ms (8) is less than delay_ms (9)",
		},
		{
			`{ children: [{ name: "a", url: "a.cml", on_terminate: "restart", restart: { backoff: 0.5 } }] }`,
			"m.cml:1:86: invalid value: number `0.5`, expected a decimal of at least 1, such as 2 or \"1.5\"",
		},
		{
			`{ use: [{ protocol: "a", path: "/svc/x" }, { protocol: "b", path: "/svc/x" }] }`,
			"m.cml:1:67: \"/svc/x\" is a duplicate \"use\" target protocol\n" +
				"  hint: the first one is at m.cml:1:21",
		},
		{
			`{ use: [{ protocol: "a", path: "svc/x" }] }`,
			"m.cml:1:32: invalid value: string \"svc/x\", expected a path with leading `/` and non-empty segments, where each " +
				"segment is no more than fuchsia.io/MAX_NAME_LENGTH bytes in length, cannot be . or .., and cannot contain embedded NULs\n " +
				" hint: did you mean \"/svc/x\"?",
		},
		{
			"{ children: [{ name: 'a', url: 'a.cml' }, { name: 'b', url: 'b.cml' }],\n  offer: [\n    { protocol: 'x', from: '#a', to: " +
				"'#b' },\n" +
				"    { protocol: 'y', from: '#b', to: '#a' },\n  ] }",
			"m.cml:3:17: Strong dependency cycles were found. Break the cycle by removing a dependency or marking an offer as weak. " +
				"Cycles: {{#a -> #b -> #a}}\n" +
				"  hint: where they come from:\n    #a -> #b: offer of protocol \"x\" at m.cml:3:17\n    #b -> #a: offer of protocol " +
				"\"y\" at m.cml:4:17",
		},
		{`{ include: ["x.cml"] }`, "m.cml:1:13: includes cannot be resolved here"},
		{
			`{ use: [{ config: "c", key: "k", type: "string", availability: "optional", default: "x" }] }`,
			"m.cml:1:19: Config 'c' is type String but is missing field 'max_size'\n  hint: add `max_size`: the most bytes of a string",
		},
		{`{ capabilities: [{ config: "c", type: "int8", value: 128 }] }`, "m.cml:1:54: 128 is out of range for type int8"},
		{`{ capabilities: [{ config: "c", type: "uint8", value: NaN }] }`, "m.cml:1:55: NaN is not a value of type uint8"},
		{
			`{ capabilities: [{ event_stream: "started" }] }`,
			"m.cml:1:34: event streams are the manager's own: a component cannot declare one\n" +
				"  hint: offer or use it from framework or parent",
		},
		{
			`{ use: [{ directory: "d", path: "/d" }] }`,
			"m.cml:1:22: This use statement requires a `rights` field.\n  hint: for instance rights: [\"r*\"]",
		},
		{
			`{ offer: [{ protocol: "p", from: "parent", to: [{ dest: "#a" }] }] }`,
			"m.cml:1:49: invalid type: object, expected one or an array of \"#<child-name>\", " +
				"\"#<collection-name>\", or \"self/<dictionary>\", with unique elements\n  hint: objects such as { dest: \"#a\", as: \"b\" " +
				"} are an older dialect; write \"#a\" here and \"as\" beside \"to\"",
		},
	}
}
