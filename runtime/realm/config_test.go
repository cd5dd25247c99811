package realm

import (
	"strings"
	"testing"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/name"
)

// configured is a tree whose /a and /jobs:… have each key from as many sources as the key's name says.
func configured() files {
	const schema = `{ program: { runner: "fake" }, config: {
			file: { type: "uint8" }, routed: { type: "uint8" }, fallback: { type: "uint8" },
			made: { type: "uint8", mutability: [ "parent" ] }, set: { type: "uint8", mutability: [ "parent" ] },
		}, use: [
			{ config: "n", key: "routed", type: "uint8" },
			{ config: "n", key: "made", type: "uint8" },
			{ config: "n", key: "set", type: "uint8" },
			{ config: "absent", key: "fallback", type: "uint8", availability: "optional", default: 1 },
			{ config: "absent", key: "file", type: "uint8", availability: "optional", default: 1 },
		] }`
	return files{
		"root": `{ children: [ { name: "a", url: "mem:///a" } ],
			collections: [ { name: "jobs", durability: "transient" } ],
			capabilities: [ { config: "n", type: "uint8", value: 3 } ],
			offer: [ { config: "n", from: "self", to: [ "#a", "#jobs" ] }, { config: "absent", from: "void", to: [ "#a", "#jobs" ], availability: "optional" } ] }`,
		"a": schema, "a.cvf": `{ file: 2, routed: 2, made: 2, set: 2 }`,
	}
}

func TestConfigSources(t *testing.T) {
	w := newWorld(t, configured())
	show := func(m name.Moniker) string {
		t.Helper()
		values, err := w.Config(t.Context(), m)
		w.must(err)
		var out []string
		for _, v := range values {
			out = append(out, v.Key+"="+v.Text()+" "+v.String())
		}
		return strings.Join(out, ", ")
	}
	w.must(w.SetConfig(t.Context(), "/a", map[string]string{"set": "5"}))
	want := "fallback=1 default, file=2 package, made=3 capability of /, routed=3 capability of /, set=5 override"
	if got := show("/a"); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	m, err := w.Create(t.Context(), name.Root, "jobs", ChildDecl{Name: "x", URL: "mem:///a", Config: map[string]string{"made": "4", "set": "4"}})
	w.must(err)
	w.must(w.SetConfig(t.Context(), m, map[string]string{"set": "5", "fallback": "6"}))
	want = "fallback=6 override, file=2 package, made=4 parent, routed=3 capability of /, set=5 override"
	if got := show(m); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	w.must(w.UnsetConfig(t.Context(), m, "set"))
	want = "fallback=6 override, file=2 package, made=4 parent, routed=3 capability of /, set=4 parent"
	if got := show(m); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	w.must(w.UnsetConfig(t.Context(), m))
	if got := show(m); !strings.HasPrefix(got, "fallback=1 default") {
		t.Error(got)
	}
}

// What is wrong keeps everything as it was, and says what to do.
func TestConfigErrors(t *testing.T) {
	f := configured()
	f["b"] = `{ program: { runner: "fake" }, config: { need: { type: "uint8" } } }`
	f["none"] = `{ program: { runner: "fake" } }`
	f["root"] = strings.Replace(f["root"], "children: [", `children: [ { name: "b", url: "mem:///b" }, { name: "none", url: "mem:///none" },`, 1)
	w := newWorld(t, f)
	fails := func(err error, code capabilities.Code, want string) {
		t.Helper()
		if err == nil || capabilities.CodeOf(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %v, %s", err, code, want)
		}
	}
	set := func(m name.Moniker, values map[string]string) error { return w.SetConfig(t.Context(), m, values) }
	config := func(m name.Moniker) error { _, err := w.Config(t.Context(), m); return err }
	fails(set("/a", map[string]string{"set": "9", "file": "256"}), capabilities.Invalid, `key "file": 256 is out of range for type uint8`)
	fails(set("/a", map[string]string{"sett": "1"}), capabilities.NotFound, `did you mean "set"?`)
	fails(set("/none", map[string]string{"x": "1"}), capabilities.Invalid, "it has no configuration")
	fails(set("/nobody", nil), capabilities.NotFound, "")
	fails(w.UnsetConfig(t.Context(), "/a", "set"), capabilities.NotFound, `key "set" is not overridden`)
	fails(config("/b"), capabilities.Invalid, `key "need" has no value`)
	w.must(set("/b", map[string]string{"need": "1"}))
	w.must(config("/b"))
	for _, c := range []struct {
		values map[string]string
		code   capabilities.Code
		want   string
	}{
		{map[string]string{"file": "1"}, capabilities.Denied, `its parent may not set key "file"`},
		{map[string]string{"made": "x"}, capabilities.Invalid, `key "made", as its parent sets it`},
		{map[string]string{"mad": "1"}, capabilities.NotFound, `did you mean "made"?`},
	} {
		m, err := w.Create(t.Context(), name.Root, "jobs", ChildDecl{Name: "x", URL: "mem:///a", Config: c.values})
		w.must(err)
		fails(config(m), c.code, c.want)
		w.must(w.Destroy(t.Context(), m))
	}
}
