package manifest

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A stored form has no places, and its strings have not been checked by anybody: Validate is the only gate.
func TestValidateStoredForm(t *testing.T) {
	ms := uint32(5)
	for _, c := range []struct {
		name string
		c    Component
		want []string // what the messages hold, in no order; nil for a valid declaration
	}{
		{"empty", Component{}, nil},
		{"runner twice, the same and from the environment", Component{
			Program: &Program{Runner: "elf"},
			Uses:    []Use{{Kind: KindRunner, SourceName: "elf", Source: Ref{Kind: RefEnvironment}}},
		}, nil},
		{"runner twice, another", Component{
			Program: &Program{Runner: "elf"},
			Uses:    []Use{{Kind: KindRunner, SourceName: "wasm", Source: Ref{Kind: RefEnvironment}}},
		}, []string{"conflicting runners"}},
		{"no runner", Component{Program: &Program{}}, []string{"doesn't specify a `runner`"}},
		{"bad runner name", Component{Program: &Program{Runner: "a/b"}}, []string{`"a/b"`}},
		{"nameless child", Component{Children: []Child{{URL: "#a"}}}, []string{"invalid length 0"}},
		{"bad url", Component{Children: []Child{{Name: "a", URL: "a"}}}, []string{"a valid URL"}},
		{
			"restart without its rule",
			Component{Children: []Child{{Name: "a", URL: "#a", OnTerminate: OnTerminateRestart}}},
			[]string{"belong together"},
		},
		{
			"unknown environments",
			Component{
				Children:    []Child{{Name: "a", URL: "#a", Environment: "e"}},
				Collections: []Collection{{Name: "b", Environment: "f"}},
			},
			[]string{`"#e"`, `"#f"`},
		},
		{"environment that nothing bounds", Component{Environments: []Environment{{Name: "e"}}}, []string{"__stop_timeout_ms"}},
		{
			"environment",
			Component{Environments: []Environment{{
				Name: "e", StopTimeoutMS: &ms,
				Runners: []Registration{{Kind: KindRunner, Name: "r", As: "r", Source: Ref{Kind: RefSelf}}, {
					Kind: KindRunner, Name: "s",
					As: "r", Source: Ref{Kind: RefFramework},
				}},
				Debug: []Registration{{Kind: KindProtocol, Name: "p", As: "p", Source: Ref{Kind: RefVoid}}, {
					Kind: KindProtocol, Name: "q",
					As: "p", Source: Ref{Kind: RefParent},
				}},
			}}},
			[]string{`Runner "r" registered`, "Duplicate runners", `source "framework"`, "cannot come from void", "duplicate debug"},
		},
		{
			"capabilities that lack what they need",
			Component{Capabilities: []Capability{
				{Kind: KindDirectory, Name: "d"},
				{Kind: KindProtocol, Name: "p"},
				{Kind: KindStorage, Name: "s"},
				{Kind: KindRunner, Name: "r", Path: "svc"},
				{Kind: KindEventStream, Name: "e"},
			}},
			[]string{
				`"path" should be present with "directory"`, `"rights" should`, `"path" should be present with "protocol"`,
				`"backing_dir" should`, "leading `/`", "manager's own",
			},
		},
		{
			"config value",
			Component{Capabilities: []Capability{{
				Kind: KindConfig, Name: "c",
				Config: &ConfigValue{Type: ConfigType{Kind: ConfigInt8}, Value: int64(200)},
			}}},
			[]string{"out of range"},
		},
		{"a directory and a dictionary of one name", Component{Capabilities: []Capability{{
			Kind: KindDirectory, Name: "d", Path: "/d",
			Rights: RightsR,
		}, {Kind: KindDictionary, Name: "d"}}}, nil},
		{
			"a protocol and a service of one name",
			Component{Capabilities: []Capability{
				{Kind: KindProtocol, Name: "d", Path: "/d"},
				{Kind: KindService, Name: "d", Path: "/e"},
			}},
			[]string{`duplicate "capability"`},
		},
		{
			"storage and an event stream of one name",
			Component{Capabilities: []Capability{
				{Kind: KindStorage, Name: "d", Storage: &StorageDecl{BackingDir: "x", Source: Ref{Kind: RefParent}}}, {
					Kind: KindEventStream,
					Name: "d",
				},
			}},
			[]string{`duplicate "capability"`, "manager's own"},
		},
		{
			"uses",
			Component{Uses: []Use{
				{Kind: KindResolver, SourceName: "r", Source: Ref{Kind: RefParent}},
				{Kind: KindProtocol, SourceName: "p", Source: Ref{Kind: RefVoid}},
				{Kind: KindDirectory, SourceName: "d", Source: Ref{Kind: RefParent}},
				{Kind: KindProtocol, SourceName: "q", Source: Ref{Kind: RefParent}, TargetPath: "x"},
			}},
			[]string{
				"resolver cannot be used", `cannot come from "void"`, "either a path or", `"path" should be present for`,
				"requires a `rights`", `"x"`,
			},
		},
		{
			"offer to nobody",
			Component{Offers: []Offer{{
				Kind: KindProtocol, SourceName: "p", TargetName: "p",
				Source: Ref{Kind: RefParent}, Target: Ref{Kind: RefParent},
			}}},
			[]string{`cannot go to "parent"`},
		},
		{
			"expose of storage",
			Component{Exposes: []Expose{{
				Kind: KindStorage, SourceName: "p", TargetName: "p",
				Source: Ref{Kind: RefFramework}, Target: Ref{Kind: RefParent},
			}}},
			[]string{"storage cannot be exposed"},
		},
		{
			"storage from nowhere good",
			Component{Children: []Child{{Name: "a", URL: "#a"}}, Offers: []Offer{
				{Kind: KindStorage, SourceName: "p", TargetName: "p", Source: Ref{Kind: RefFramework}, Target: Ref{
					Kind: RefChild,
					Name: "a",
				}},
			}},
			[]string{`storage cannot come from "framework"`},
		},
		{
			"aggregate of two names",
			Component{Children: []Child{{Name: "a", URL: "#a"}}, Offers: []Offer{
				{Kind: KindService, SourceName: "p", TargetName: "s", Source: Ref{Kind: RefParent}, Target: Ref{Kind: RefChild, Name: "a"}},
				{Kind: KindService, SourceName: "p", TargetName: "s", Source: Ref{Kind: RefFramework}, Target: Ref{Kind: RefChild, Name: "a"}},
				{Kind: KindService, SourceName: "q", TargetName: "s", Source: Ref{Kind: RefParent}, Target: Ref{Kind: RefChild, Name: "a"}},
			}},
			[]string{"Invalid aggregate"},
		},
		{"config of no type", Component{
			Uses:         []Use{{Kind: KindConfig, SourceName: "c", Source: Ref{Kind: RefParent}}},
			Capabilities: []Capability{{Kind: KindConfig, Name: "c"}},
		}, []string{"neither key nor type", "no value"}},
		{
			"config types",
			Component{Config: &Config{Fields: []ConfigField{
				{Key: "a", Type: ConfigType{Kind: ConfigString}},
				{
					Key:  "b",
					Type: ConfigType{Kind: ConfigVector, MaxCount: 1},
				},
				{Key: "c", Type: ConfigType{Kind: ConfigVector, MaxCount: 1, Element: &ConfigType{Kind: ConfigVector}}},
				{
					Key:  "d",
					Type: ConfigType{Kind: 99},
				},
			}}},
			[]string{"needs a max_size", "needs a max_count", "cannot hold vectors", "unknown config type"},
		},
		{"optional config without a value to fall back on", Component{Uses: []Use{{
			Kind: KindConfig, SourceName: "c",
			Source:       Ref{Kind: RefParent},
			Availability: Optional, Config: &UseConfig{Key: "k"},
		}}}, []string{"requires a matching 'config' section"}},
		{
			"event stream from the framework",
			Component{Uses: []Use{{
				Kind: KindEventStream, SourceName: "e", TargetPath: "/svc/e",
				Source: Ref{Kind: RefFramework},
			}}},
			[]string{"only be used from parent or a child"},
		},
		{"config keys", Component{Config: &Config{Fields: []ConfigField{{Key: "a"}, {Key: "a"}, {Key: "B"}}}}, []string{
			"defined twice",
			`"B"`,
		}},
	} {
		v, ds := Validate(&c.c, ValidateOptions{})
		if v.IsZero() == (c.want == nil) || v.IsZero() == (len(ds.Errors()) == 0) {
			t.Errorf("%s: %v", c.name, ds)
		}
		for _, w := range c.want {
			if !slices.ContainsFunc(ds, func(d Diagnostic) bool { return strings.Contains(d.Message, w) }) {
				t.Errorf("%s: nothing says %q in\n%v", c.name, w, ds)
			}
		}
		if len(c.want) > 0 && len(ds) != len(c.want) {
			t.Errorf("%s: %d findings, want %d:\n%v", c.name, len(ds), len(c.want), ds)
		}
	}
}

// A declaration of a source with errors never becomes valid, even if no rule objects.
func TestValidatePartial(t *testing.T) {
	c := &Component{Children: []Child{{Name: "", URL: ""}}}
	if v, ds := Validate(c, ValidateOptions{Partial: true}); !v.IsZero() || len(ds) > 0 {
		t.Errorf("%v %v", v, ds)
	}
}

func TestUsedPaths(t *testing.T) {
	use := func(k Kind, path string) Use {
		return Use{Kind: k, SourceName: "x", Source: Ref{Kind: RefParent}, TargetPath: path, Rights: RightsR}
	}
	for _, c := range []struct {
		uses []Use
		want string // rules
	}{
		{[]Use{use(KindProtocol, "/svc/a"), use(KindService, "/svc/b"), use(KindDirectory, "/data"), use(KindStorage, "/data.b")}, ""},
		{[]Use{use(KindProtocol, "/svc/a"), use(KindProtocol, "/svc/a")}, "duplicate-target"},
		{[]Use{use(KindProtocol, "/svc/a"), use(KindProtocol, "/svc/a/b")}, "path-overlap"},
		{[]Use{use(KindDirectory, "/a/b"), use(KindProtocol, "/a/b/c/d")}, "path-overlap"},
		{[]Use{use(KindProtocol, "/a/b/c"), use(KindDirectory, "/a/b")}, "path-overlap"},
		{[]Use{use(KindDirectory, "/a"), use(KindDirectory, "/a.b"), use(KindDirectory, "/a/b")}, "path-overlap"},
		{
			[]Use{use(KindDirectory, "/a"), use(KindStorage, "/a/b"), use(KindStorage, "/a/b/c")},
			"path-overlap path-overlap path-overlap",
		},
		{
			[]Use{use(KindDictionary, "/svc"), use(KindProtocol, "/svc/a"), use(KindDictionary, "/svc/d"), use(KindProtocol, "/svc/e")},
			"",
		},
		{[]Use{use(KindDictionary, "/svc"), use(KindDictionary, "/svc")}, ""},
		{[]Use{use(KindDirectory, "/svc"), use(KindDictionary, "/svc/d")}, "path-overlap"},
		{[]Use{use(KindProtocol, "/svc/a"), use(KindDictionary, "/svc/a/d")}, "path-overlap"},
		{[]Use{use(KindEventStream, "/svc/e"), use(KindEventStream, "/svc/e"), use(KindProtocol, "/svc/p")}, ""},
		{[]Use{use(KindDirectory, "/pkg"), use(KindDirectory, "/pkgs")}, "protected-path"},
	} {
		_, ds := Validate(&Component{Uses: c.uses}, ValidateOptions{})
		var rules []string
		for _, d := range ds {
			rules = append(rules, d.Rule)
		}
		if got := strings.Join(rules, " "); got != c.want {
			var paths []string
			for _, u := range c.uses {
				paths = append(paths, u.Kind.String()+" "+u.TargetPath)
			}
			t.Errorf("%v: %q, want %q\n%v", paths, got, c.want, ds)
		}
	}
}

// offer is an offer of a protocol from one child to another.
func offer(from, to string) Offer {
	return Offer{
		Kind: KindProtocol, SourceName: from, TargetName: from, Source: Ref{Kind: RefChild, Name: from},
		Target: Ref{Kind: RefChild, Name: to},
	}
}

func children(n int) []Child {
	out := make([]Child, n)
	for i := range out {
		out[i] = Child{Name: fmt.Sprintf("c%05d", i), URL: "#a"}
	}
	return out
}

func TestCycles(t *testing.T) {
	c := &Component{Children: children(4)}
	for _, e := range [][2]int{{0, 1}, {1, 2}, {2, 0}, {1, 3}, {3, 1}} {
		c.Offers = append(c.Offers, offer(c.Children[e[0]].Name, c.Children[e[1]].Name))
	}
	_, ds := Validate(c, ValidateOptions{})
	want := "Cycles: {{#c00000 -> #c00001 -> #c00002 -> #c00000}, {#c00001 -> #c00003 -> #c00001}}"
	if len(ds) != 1 || !strings.Contains(ds[0].Message, want) {
		t.Errorf("%v\nwant %s", ds, want)
	}
	// What the environment, a dictionary and storage add.
	ms := uint32(1)
	c = &Component{
		Children: []Child{{Name: "a", URL: "#a", Environment: "env"}},
		Environments: []Environment{{Name: "env", StopTimeoutMS: &ms, Runners: []Registration{{
			Kind: KindRunner, Name: "r", As: "r",
			Source: Ref{Kind: RefChild, Name: "a"},
		}}}},
		Capabilities: []Capability{
			{Kind: KindDictionary, Name: "d", Path: "/d"},
			{Kind: KindStorage, Name: "s", Storage: &StorageDecl{Source: Ref{Kind: RefChild, Name: "a"}, BackingDir: "b"}},
		},
		Offers: []Offer{
			{Kind: KindDictionary, SourceName: "d", TargetName: "d", Source: Ref{Kind: RefSelf}, Target: Ref{Kind: RefChild, Name: "a"}},
			{Kind: KindProtocol, SourceName: "p", TargetName: "p", Source: Ref{Kind: RefCapability, Name: "s"}, Target: Ref{
				Kind: RefChild,
				Name: "a",
			}},
		},
		Uses: []Use{{Kind: KindProtocol, SourceName: "q", Source: Ref{Kind: RefChild, Name: "a"}, TargetPath: "/svc/q"}},
	}
	_, ds = Validate(c, ValidateOptions{})
	want = "Cycles: {{#a -> #env -> #a}, {#a -> #s -> #a}, {#a -> self -> #d -> #a}}"
	if len(ds) != 1 || !strings.Contains(ds[0].Message, want) {
		t.Errorf("%v\nwant %s", ds, want)
	}
}

// The number of cycles can be exponential, and one cycle as long as the manifest.
func TestCyclesAreBounded(t *testing.T) {
	dense := &Component{Children: children(60)}
	for i := range dense.Children {
		for j := range dense.Children {
			if i != j {
				o := offer(dense.Children[i].Name, dense.Children[j].Name)
				dense.Offers = append(dense.Offers, o)
			}
		}
	}
	if _, ds := Validate(dense, ValidateOptions{}); len(ds) != 1 || strings.Count(ds[0].Message, "{#") != 10 ||
		!strings.HasSuffix(ds[0].Hint, "there are more cycles than these 10") {
		t.Errorf("dense: %d findings", len(ds))
	}
	const n = 20_000
	ring := &Component{Children: children(n)}
	for i := range n {
		ring.Offers = append(ring.Offers, offer(ring.Children[i].Name, ring.Children[(i+1)%n].Name))
	}
	if _, ds := Validate(ring, ValidateOptions{}); len(ds) != 1 || !strings.Contains(ds[0].Message,
		"#c00019 -> … 19977 more … -> #c19997 -> ") {
		t.Errorf("ring: %v", ds)
	}
	ring.Offers = ring.Offers[:n-1]
	if v, ds := Validate(ring, ValidateOptions{}); v.IsZero() {
		t.Errorf("chain: %v", ds[0])
	}
}

// A declaration that is wrong everywhere is refused in time that grows with its length.
func TestManyErrors(t *testing.T) {
	const n = 20_000
	c := &Component{Children: children(n)}
	for i := range n {
		c.Offers = append(c.Offers, offer(fmt.Sprintf("d%05d", i), fmt.Sprintf("e%05d", i)))
		c.Uses = append(c.Uses, Use{
			Kind: KindProtocol, SourceName: "x", Source: Ref{Kind: RefParent},
			TargetPath: fmt.Sprintf("/svc/%d", i),
		},
			Use{Kind: KindDirectory, SourceName: "x", Source: Ref{Kind: RefParent}, Rights: RightsR, TargetPath: "/svc" +
				strings.Repeat("/x", i%1000)})
	}
	if v, ds := Validate(c, ValidateOptions{}); !v.IsZero() || len(ds) != maxFindings+1 ||
		!regexp.MustCompile(`^there are [45]\d{4} more errors$`).MatchString(ds[maxFindings].Message) {
		t.Errorf("%d findings, %v", len(ds), ds[len(ds)-1])
	}
}

func TestConfigTypeCheck(t *testing.T) {
	vector := ConfigType{Kind: ConfigVector, MaxCount: 2, Element: &ConfigType{Kind: ConfigString, MaxSize: 3}}
	for _, c := range []struct {
		t  ConfigType
		v  any
		ok bool
	}{
		{ConfigType{Kind: ConfigBool}, true, true},
		{ConfigType{Kind: ConfigBool}, "true", false},
		{ConfigType{Kind: ConfigUint8}, uint64(255), true},
		{ConfigType{Kind: ConfigUint8}, uint64(256), false},
		{ConfigType{Kind: ConfigUint8}, int64(1), false},
		{ConfigType{Kind: ConfigUint32}, uint64(math.MaxUint32), true},
		{ConfigType{Kind: ConfigUint32}, uint64(math.MaxUint32 + 1), false},
		{ConfigType{Kind: ConfigUint64}, uint64(math.MaxUint64), true},
		{ConfigType{Kind: ConfigInt8}, int64(-128), true},
		{ConfigType{Kind: ConfigInt8}, int64(-129), false},
		{ConfigType{Kind: ConfigInt16}, int64(32768), false},
		{ConfigType{Kind: ConfigInt64}, int64(math.MinInt64), true},
		{ConfigType{Kind: ConfigString, MaxSize: 3}, "abc", true},
		{ConfigType{Kind: ConfigString, MaxSize: 3}, "äb", true},
		{ConfigType{Kind: ConfigString, MaxSize: 3}, "äää", false},
		{vector, []any{"a", "b"}, true},
		{vector, []any{"a", "b", "c"}, false},
		{vector, []any{"abcd"}, false},
		{vector, []any{true}, false},
		{vector, nil, false},
	} {
		if err := c.t.Check(c.v); (err == nil) != c.ok {
			t.Errorf("%s %v: %v", c.t.Kind, c.v, err)
		}
	}
	if !vector.Equal(vector) || vector.Equal(ConfigType{Kind: ConfigVector, MaxCount: 2}) ||
		vector.Equal(ConfigType{Kind: ConfigVector, MaxCount: 2, Element: &ConfigType{}}) {
		t.Error("Equal")
	}
}

func TestIsBackoff(t *testing.T) {
	for s, want := range map[string]bool{
		"1": true, "1.5": true, "100.25": true, "0.5": false, "": false, "1.": false, ".5": false,
		"-1": false, "1e3": false, "01": true, "1234567890": false,
	} {
		if IsBackoff(s) != want {
			t.Errorf("%q", s)
		}
	}
}

func TestParseRights(t *testing.T) {
	for token, want := range map[string]Rights{"r*": RightsR, "rw*": RightsRW, "write_bytes": RightWriteBytes, "rx*": RightsRX} {
		if got, ok := ParseRights(token); got != want || !ok {
			t.Errorf("%s: %v", token, got.Names())
		}
	}
	if _, ok := ParseRights("rwx*"); ok {
		t.Error("there is no rwx*")
	}
}
