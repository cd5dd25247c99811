package codec

import (
	"bytes"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/proto/declpb"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden has each field of each type set somewhere; TestGolden sees to that.
func golden() *manifest.Component {
	at := func(line, col int32) manifest.Pos { return manifest.Pos{File: "dir/golden.cml", Line: line, Col: col} }
	included := manifest.Pos{File: "dir/part.shard.cml", Line: 2, Col: 3}
	parent, self, net := manifest.Ref{Kind: manifest.RefParent}, manifest.Ref{Kind: manifest.RefSelf},
		manifest.Ref{Kind: manifest.RefChild, Name: "net"}
	timeout, handle := uint32(0), uint8(0)
	vector := manifest.ConfigType{
		Kind: manifest.ConfigVector, MaxCount: 3,
		Element: &manifest.ConfigType{Kind: manifest.ConfigString, MaxSize: 9},
	}
	return &manifest.Component{
		Program: &manifest.Program{Pos: at(2, 3), Runner: "elf", RunnerPos: at(2, 15), Info: manifest.Dictionary{
			{Key: "args", Pos: at(3, 1), Value: manifest.Strings{"a", ""}},
			{
				Key: "binary", Pos: at(4, 1),
				Value: manifest.String("bin/x"),
			},
			{Key: "environ", Value: manifest.Strings{}},
			{Key: "none", Value: manifest.Null{}},
			{Key: "objects", Pos: included, Value: manifest.Objects{{{Key: "k", Value: manifest.Objects{{}}}}, nil}},
		}},
		Children: []manifest.Child{
			{Pos: at(5, 5), Name: "net", URL: "#meta/net.cm", Startup: manifest.Eager, Environment: "env"},
			{Pos: at(6, 5), Name: "log", URL: "log.cml", OnTerminate: manifest.OnTerminateRestart, Restart: &manifest.Restart{
				When: manifest.RestartFailure, DelayMS: 100, FromStart: true, MaxDelayMS: 5000, Backoff: "1.5", Limit: 5, WindowMS: 30_000,
			}},
		},
		Collections: []manifest.Collection{{
			Pos: at(7, 5), Name: "jobs", Durability: manifest.SingleRun, Environment: "env", DynamicOffers: true,
			AllowLongNames:    true,
			PersistentStorage: true,
		}},
		Environments: []manifest.Environment{{
			Pos: at(8, 5), Name: "env", ExtendsRealm: true, StopTimeoutMS: &timeout,
			Runners: []manifest.Registration{{
				Pos: at(8, 9), Kind: manifest.KindRunner, Source: parent, Name: "elf",
				As: "elves",
			}},
			Resolvers: []manifest.Registration{{Kind: manifest.KindResolver, Source: net, Name: "pkg", As: "fuchsia-pkg"}},
			Debug:     []manifest.Registration{{Kind: manifest.KindProtocol, Source: self, Name: "dbg", As: "dbg"}},
		}},
		Capabilities: []manifest.Capability{
			{
				Pos: included, Kind: manifest.KindProtocol, Name: "p", Path: "/svc/p", Delivery: manifest.DeliverOnReadable,
				Activate: manifest.ActivationBind,
			},
			{Kind: manifest.KindDirectory, Name: "d", Path: "/data", Rights: manifest.RightsRW | manifest.RightsX},
			{Kind: manifest.KindStorage, Name: "st", Storage: &manifest.StorageDecl{
				Source: self, BackingDir: "d",
				Subdir: "sub", StaticIDOnly: true,
			}},
			{Kind: manifest.KindConfig, Name: "bool", Config: &manifest.ConfigValue{Value: true}},
			{
				Kind: manifest.KindConfig, Name: "u64",
				Config: &manifest.ConfigValue{
					Type:  manifest.ConfigType{Kind: manifest.ConfigUint64},
					Value: uint64(math.MaxUint64),
				},
			},
			{
				Kind: manifest.KindConfig, Name: "i64",
				Config: &manifest.ConfigValue{
					Type:  manifest.ConfigType{Kind: manifest.ConfigInt64},
					Value: int64(math.MinInt64),
				},
			},
			{Kind: manifest.KindConfig, Name: "vector", Config: &manifest.ConfigValue{Type: vector, Value: []any{"x", ""}}},
		},
		Uses: []manifest.Use{
			{
				Pos: at(9, 5), Kind: manifest.KindEventStream, Source: parent, SourceName: "capability_requested",
				TargetPath: "/svc/events",
				Scope:      []manifest.Ref{net}, Filter: manifest.Dictionary{{Key: "name", Value: manifest.String("p")}},
			},
			{
				Kind: manifest.KindProtocol, Source: net, SourceName: "q", NumberedHandle: &handle,
				Dependency: manifest.Weak, Availability: manifest.Transitional,
			},
			{
				Kind: manifest.KindDirectory, Source: parent, SourceName: "etc", TargetPath: "/etc",
				Rights: manifest.RightsR, Subdir: "x/y",
			},
			{Kind: manifest.KindStorage, SourceName: "data", TargetPath: "/var"},
			{Kind: manifest.KindConfig, Source: parent, SourceName: "c", Config: &manifest.UseConfig{
				Key:  "k",
				Type: vector, Default: []any{},
			}},
		},
		Offers: []manifest.Offer{
			{
				Pos: at(10, 5), Kind: manifest.KindProtocol, Source: manifest.Ref{
					Kind:       manifest.RefParent,
					Dictionary: "bundle/sub",
				}, SourceName: "p", Target: net,
				TargetName: "pp", Dependency: manifest.Weak, Availability: manifest.SameAsTarget,
			},
			{
				Kind: manifest.KindDirectory, Source: self, SourceName: "d", Target: manifest.Ref{
					Kind:       manifest.RefSelf,
					Dictionary: "dict",
				}, TargetName: "d",
				Rights: manifest.RightsR, Subdir: "a", Scope: []manifest.Ref{net},
			},
		},
		Exposes: []manifest.Expose{{
			Pos: at(11, 5), Kind: manifest.KindDirectory, Source: self, SourceName: "d",
			Target: manifest.Ref{Kind: manifest.RefFramework}, TargetName: "e",
			Rights: manifest.RightsR, Subdir: "b", Scope: []manifest.Ref{net}, Availability: manifest.Optional,
		}},
		Facets: manifest.Dictionary{{Key: "a.b", Pos: at(12, 5), Value: manifest.String("c")}},
		Config: &manifest.Config{Pos: at(13, 5), FromCapabilities: true, Fields: []manifest.ConfigField{
			{Pos: at(13, 9), Key: "names", Type: vector, MutableByParent: true},
		}},
		Sources: []string{"dir/golden.cml", "dir/part.shard.cml"},
	}
}

// unset collects the fields of v's types into a map, and marks as true those that are not zero.
func unset(v reflect.Value, fields map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			unset(v.Elem(), fields)
		}
	case reflect.Slice:
		for i := range v.Len() {
			unset(v.Index(i), fields)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			key := v.Type().Name() + "." + v.Type().Field(i).Name
			fields[key] = fields[key] || !v.Field(i).IsZero()
			unset(v.Field(i), fields)
		}
	}
}

// same compares but for the difference between empty and nil. It takes twice as long for each level of depth.
func same(t interface{ Fatalf(string, ...any) }, got, want *manifest.Component) {
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("decoded differs (-encoded +decoded):\n%s", diff)
	}
}

// TestGolden: what this version writes is what it always wrote, and what it once wrote it still reads.
func TestGolden(t *testing.T) {
	c := golden()
	fields := map[string]bool{}
	unset(reflect.ValueOf(c), fields)
	for f, set := range fields {
		if !set {
			t.Errorf("%s is nowhere set: the golden file does not show how it is stored", f)
		}
	}
	data, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "v1.cm")
	if *update {
		if err := os.WriteFile(file, data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("other bytes than those in %s: a change of the stored form needs a new version", file)
	}
	got, err := Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, c)
}

const source = `{
  program: { binary: "bin/x", args: ["a"], lifecycle: { stop_event: "notify" } },
  use: [{ runner: "elf" }, { protocol: ["p", "q"] }],
  children: [{ name: "net", url: "net.cml" }],
  offer: [{ protocol: "p", from: "parent", to: "#net" }],
}`

func compile(t *testing.T, file, src string) *manifest.Component {
	t.Helper()
	doc, parsed := cml.Parse(file, []byte(src))
	c, compiled := cml.Compile(doc)
	if err := append(parsed, compiled...).Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoad(t *testing.T) {
	c := compile(t, "dir/a.cml", source)
	data, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	v, ds := Load("x.cm", data)
	if v.IsZero() || ds.Err() != nil {
		t.Fatal(ds)
	}
	same(t, v.Decl(), c)
}

func TestStripped(t *testing.T) {
	a, b := compile(t, "dir/a.cml", source), compile(t, "elsewhere.cml", "// a comment\n"+strings.ReplaceAll(source, "  ",
		"\t\t\t"))
	one, err1 := EncodeStripped(a)
	two, err2 := EncodeStripped(b)
	if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Errorf("differently laid out: %d and %d bytes, %v, %v", len(one), len(two), err1, err2)
	}
	got, err := Decode(one)
	if err != nil {
		t.Fatal(err)
	}
	if full, _ := Encode(got); !bytes.Equal(full, one) {
		t.Error("a place is still there")
	}
}

// components are any that the types allow, as far as the enums are known.
func components() *rapid.Generator[*manifest.Component] {
	types := map[reflect.Type]*rapid.Generator[any]{}
	str := rapid.StringN(0, 8, -1)
	enumOf(types, manifest.Eager)
	enumOf(types, manifest.OnTerminateRestart)
	enumOf(types, manifest.RestartFailure)
	enumOf(types, manifest.SingleRun)
	enumOf(types, manifest.KindConfig)
	enumOf(types, manifest.ActivationBind)
	enumOf(types, manifest.DeliverOnReadable)
	enumOf(types, manifest.Weak)
	enumOf(types, manifest.SameAsTarget)
	types[reflect.TypeFor[string]()] = str.AsAny()
	types[reflect.TypeFor[manifest.Rights]()] = rapid.Custom(func(t *rapid.T) manifest.Rights {
		return manifest.Rights(rapid.IntRange(0, 1<<9-1).Draw(t, "rights"))
	}).AsAny()
	types[reflect.TypeFor[manifest.Pos]()] = rapid.Custom(func(t *rapid.T) manifest.Pos {
		return manifest.Pos{
			File: rapid.SampledFrom([]string{"", "a.cml", "b.cml"}).Draw(t, "file"), Line: rapid.Int32Range(0,
				1<<30).Draw(t, "line"),
			Col: rapid.Int32Range(0, 99).Draw(t, "col"),
		}
	}).AsAny()
	types[reflect.TypeFor[manifest.Ref]()] = rapid.Custom(func(t *rapid.T) manifest.Ref {
		return manifest.Ref{
			Kind: manifest.RefKind(rapid.IntRange(1, int(manifest.RefEnvironment)).Draw(t, "ref")),
			Name: str.Draw(t, "name"), Dictionary: str.Draw(t, "dictionary"),
		}
	}).AsAny()
	var value func(t *rapid.T, depth int) manifest.Value
	dictionary := func(t *rapid.T, depth int) manifest.Dictionary {
		var d manifest.Dictionary
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			d = append(d, manifest.Entry{Key: str.Draw(t, "key"), Value: value(t, depth)})
		}
		return d
	}
	value = func(t *rapid.T, depth int) manifest.Value {
		switch rapid.IntRange(0, min(3, depth)).Draw(t, "value") {
		case 0:
			return manifest.Null{}
		case 1:
			return manifest.String(str.Draw(t, "string"))
		case 2:
			return manifest.Strings(rapid.SliceOfN(str, 0, 3).Draw(t, "strings"))
		default:
			var o manifest.Objects
			for range rapid.IntRange(0, 2).Draw(t, "objects") {
				o = append(o, dictionary(t, depth-1))
			}
			return o
		}
	}
	types[reflect.TypeFor[manifest.Dictionary]()] = rapid.Custom(func(t *rapid.T) manifest.Dictionary {
		return dictionary(t,
			5)
	}).AsAny()
	configType := func(t *rapid.T) manifest.ConfigType {
		c := manifest.ConfigType{
			Kind:    manifest.ConfigKind(rapid.IntRange(0, int(manifest.ConfigVector)).Draw(t, "kind")),
			MaxSize: rapid.Uint32().Draw(t, "size"), MaxCount: rapid.Uint32().Draw(t, "count"),
		}
		if rapid.Bool().Draw(t, "vector") {
			c.Element = &manifest.ConfigType{Kind: manifest.ConfigString, MaxSize: rapid.Uint32().Draw(t, "element")}
		}
		return c
	}
	types[reflect.TypeFor[manifest.ConfigType]()] = rapid.Custom(configType).AsAny()
	scalar := rapid.OneOf(rapid.Bool().AsAny(), rapid.Uint64().AsAny(), rapid.Int64().AsAny(), str.AsAny())
	data := rapid.OneOf(scalar, rapid.SliceOfN(scalar, 0, 3).AsAny())
	types[reflect.TypeFor[manifest.ConfigValue]()] = rapid.Custom(func(t *rapid.T) manifest.ConfigValue {
		return manifest.ConfigValue{Type: configType(t), Value: data.Draw(t, "value")}
	}).AsAny()
	types[reflect.TypeFor[manifest.UseConfig]()] = rapid.Custom(func(t *rapid.T) manifest.UseConfig {
		u := manifest.UseConfig{Key: str.Draw(t, "key"), Type: configType(t)}
		if rapid.Bool().Draw(t, "has default") {
			u.Default = data.Draw(t, "default")
		}
		return u
	}).AsAny()
	return rapid.MakeCustom[*manifest.Component](rapid.MakeConfig{Types: types})
}

// enumOf generates values up to last; from 1 where 0 stands for nothing.
func enumOf[T ~uint8](types map[reflect.Type]*rapid.Generator[any], last T) {
	first := 0
	if reflect.TypeFor[T]() == reflect.TypeFor[manifest.Kind]() {
		first = required
	}
	types[reflect.TypeFor[T]()] = rapid.Custom(func(t *rapid.T) T {
		return T(rapid.IntRange(first, int(last)).Draw(t,
			"enum"))
	}).AsAny()
}

func TestRoundTrip(t *testing.T) {
	gen := components()
	rapid.Check(t, func(t *rapid.T) {
		c := gen.Draw(t, "component")
		if c == nil {
			return
		}
		data, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, c)
		if again, err := Encode(c); err != nil || !bytes.Equal(again, data) {
			t.Fatal("not the same bytes the second time")
		}
		if again, err := Encode(got); err != nil || !bytes.Equal(again, data) {
			t.Fatal("other bytes after decoding")
		}
	})
}

// The numbers of the stored form are those of the types, name by name.
func TestEnums(t *testing.T) {
	for _, test := range []struct {
		stored protoreflect.EnumDescriptor
		first  int
		ours   func(int) string
		prefix string
	}{
		{declpb.Startup(0).Descriptor(), 0, func(i int) string { return manifest.Startup(i).String() }, ""},
		{declpb.OnTerminate(0).Descriptor(), 0, func(i int) string { return manifest.OnTerminate(i).String() }, "ON_TERMINATE_"},
		{declpb.RestartWhen(0).Descriptor(), 0, func(i int) string { return manifest.RestartWhen(i).String() }, ""},
		{declpb.Durability(0).Descriptor(), 0, func(i int) string { return manifest.Durability(i).String() }, ""},
		{declpb.Kind(0).Descriptor(), 1, func(i int) string { return manifest.Kind(i).String() }, ""},
		{declpb.RefKind(0).Descriptor(), 1, refName, "REF_"},
		{declpb.Activation(0).Descriptor(), 0, func(i int) string { return manifest.Activation(i).String() }, ""},
		{declpb.Delivery(0).Descriptor(), 0, func(i int) string { return manifest.Delivery(i).String() }, ""},
		{declpb.Dependency(0).Descriptor(), 0, func(i int) string { return manifest.DependencyType(i).String() }, ""},
		{declpb.Availability(0).Descriptor(), 0, func(i int) string { return manifest.Availability(i).String() }, ""},
		{declpb.ConfigKind(0).Descriptor(), 0, func(i int) string { return manifest.ConfigKind(i).String() }, ""},
	} {
		n := test.stored.Values().Len()
		for i := test.first; i < n; i++ {
			stored := string(test.stored.Values().ByNumber(protoreflect.EnumNumber(i)).Name())
			if got := strings.ToLower(strings.TrimPrefix(stored, test.prefix)); got != test.ours(i) {
				t.Errorf("%s %d is %s, ours is %s", test.stored.Name(), i, got, test.ours(i))
			}
		}
		func() {
			defer func() { _ = recover() }() // the tables of names end there
			if extra := test.ours(n); extra != "" {
				t.Errorf("%s lacks %s", test.stored.Name(), extra)
			}
		}()
	}
}

func refName(i int) string {
	switch k := manifest.RefKind(i); k {
	case manifest.RefChild:
		return "child"
	case manifest.RefCollection:
		return "collection"
	case manifest.RefCapability:
		return "capability"
	case manifest.RefEnvironment + 1:
		return ""
	default:
		return manifest.Ref{Kind: k}.String()
	}
}

func TestRefusals(t *testing.T) {
	data, err := Encode(golden())
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if c, err := Decode(data[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted: %v", n, len(data), c)
		}
		flipped := bytes.Clone(data)
		flipped[n] ^= 0x20
		if c, err := Decode(flipped); err == nil {
			t.Fatalf("a change of byte %d was accepted: %v", n, c)
		}
	}
	for _, test := range []struct {
		data []byte
		want string
	}{
		{nil, "not a compiled manifest"},
		{[]byte("{}"), "not a compiled manifest"},
		{data[:6], "cut off"},
		{append(bytes.Clone(data), 0), "checksum"},
		{[]byte(magic + "\x02...."), "version 2: only version 1"},
		{append([]byte(magic), make([]byte, MaxSize)...), "no more than"},
		{frame([]byte{0xff}), "compiled manifest: "},
		{frame([]byte("\x5a\x01\xff")), "UTF-8"},
		{frame([]byte("\xf8\x07\x01")), "unknown field in Component"},
		{nested(3000), "compiled manifest: "},
		{stored(&declpb.Component{Children: []*declpb.Child{{Startup: 2}}}), "unknown Startup 2"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{}}}), "unknown Kind 0"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 10}}}), "unknown Kind 10"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: -1}}}), "unknown Kind -1"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 257}}}), "unknown Kind 257"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 1, Source: &declpb.Ref{}}}}), "unknown RefKind 0"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 1, NumberedHandle: proto.Uint32(256)}}}), "numbered handle 256"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 1, Rights: 1 << 9}}}), "unknown rights 0x200"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 1, Rights: 1 << 16}}}), "unknown rights 0x10000"},
		{stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 9, Config: &declpb.UseConfig{}}}}), "without a type"},
		{stored(&declpb.Component{Program: &declpb.Program{Pos: &declpb.Pos{File: 1}}}), "file 1 of 0"},
		{stored(&declpb.Component{Program: &declpb.Program{Pos: &declpb.Pos{Line: -1}}}), "line -1"},
		{stored(&declpb.Component{Facets: []*declpb.Entry{{Key: "k"}}}), `key "k" without a value`},
		{stored(&declpb.Component{Capabilities: []*declpb.Capability{{
			Kind: 9, Name: "c",
			Config: &declpb.ConfigValue{Type: &declpb.ConfigType{}},
		}}}), "without a value"},
		{
			stored(value(&declpb.ConfigType{Element: &declpb.ConfigType{Element: &declpb.ConfigType{}}}, boolean)),
			"vector of vectors",
		},
		{stored(value(&declpb.ConfigType{}, list(list(boolean)))), "list of lists"},
		{stored(value(&declpb.ConfigType{}, list(&declpb.ConfigData{}))), "that is none"},
	} {
		if _, err := Decode(test.data); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.40q: %v, want %s", test.data, err, test.want)
		}
	}
	if _, err := Encode(&manifest.Component{Uses: []manifest.Use{{Kind: 99}}}); err == nil {
		t.Error("a kind that there is not was encoded")
	}
	if _, err := Encode(&manifest.Component{Facets: manifest.Dictionary{{Key: "\xff", Value: manifest.Null{}}}}); err == nil {
		t.Error("what is no UTF-8 was encoded")
	}
}

var boolean = &declpb.ConfigData{Kind: &declpb.ConfigData_Bool{}}

func list(values ...*declpb.ConfigData) *declpb.ConfigData {
	return &declpb.ConfigData{Kind: &declpb.ConfigData_List{List: &declpb.ConfigList{Values: values}}}
}

func value(t *declpb.ConfigType, v *declpb.ConfigData) *declpb.Component {
	return &declpb.Component{Capabilities: []*declpb.Capability{{Kind: 9, Config: &declpb.ConfigValue{Type: t, Value: v}}}}
}

func stored(m *declpb.Component) []byte {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return frame(body)
}

// nested is a facet of objects n deep.
func nested(n int) []byte {
	e := &declpb.Entry{Value: &declpb.Value{Kind: &declpb.Value_Null{}}}
	for range n / 4 {
		e = &declpb.Entry{Value: &declpb.Value{Kind: &declpb.Value_Objects{Objects: &declpb.Objects{
			Values: []*declpb.Object{{Entries: []*declpb.Entry{e}}},
		}}}}
	}
	return stored(&declpb.Component{Facets: []*declpb.Entry{e}})
}

// What the source language allows in depth, the stored form takes.
func TestDepth(t *testing.T) {
	const depth = 90 // arrays and objects are counted one by one, 200 at most
	src := "{ facets: { a: " + strings.Repeat("[{ a: ", depth) + "'x'" + strings.Repeat("}]", depth) + " } }"
	c := compile(t, "deep.cml", src)
	data, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = Decode(data); err != nil {
		t.Fatal(err)
	}
	for range depth {
		o, ok := c.Facets[0].Value.(manifest.Objects)
		if !ok {
			t.Fatalf("the nest ends early: %v", c.Facets)
		}
		c.Facets = o[0]
	}
	if c.Facets[0].Value != manifest.Value(manifest.String("x")) {
		t.Errorf("in the nest is %v", c.Facets)
	}
}

// Load validates: a stored form can say anything.
func TestLoadValidates(t *testing.T) {
	c := &manifest.Component{Offers: []manifest.Offer{{
		Kind: manifest.KindProtocol, Source: manifest.Ref{Kind: manifest.RefParent}, SourceName: "p",
		Target: manifest.Ref{Kind: manifest.RefChild, Name: "nobody"}, TargetName: "p",
	}}}
	for _, pos := range []manifest.Pos{{}, {File: "src.cml", Line: 3, Col: 5}} {
		c.Offers[0].Pos = pos
		data, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		want := "x.cm"
		if pos.IsValid() {
			want = pos.String()
		}
		v, ds := Load("x.cm", data)
		if !v.IsZero() || ds.Err() == nil || !strings.HasPrefix(ds.Error(), want+": ") || !strings.Contains(ds.Error(),
			"nobody") {
			t.Errorf("with place %q: %v", pos, ds)
		}
	}
	if v, ds := Load("x.cm", []byte("{}")); !v.IsZero() || len(ds) != 1 || !strings.HasPrefix(ds[0].Error(),
		"x.cm: not a compiled manifest\n  hint: ") {
		t.Errorf("text: %v", ds)
	}
}

// FuzzDecode: what is accepted encodes again, to what is accepted and encodes to the same bytes. Bodies are framed here, as no
// fuzzer guesses a checksum.
func FuzzDecode(f *testing.F) {
	data, err := Encode(golden())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[header:])
	f.Add(data)
	f.Add(stored(&declpb.Component{Uses: []*declpb.Use{{Kind: 1}}})[header:])
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = Decode(body)
		c, err := Decode(frame(body))
		if err != nil {
			return
		}
		data, err := Encode(c)
		if err != nil {
			t.Fatalf("decoded, but does not encode: %v", err)
		}
		again, err := Decode(data)
		if err != nil {
			t.Fatalf("encoded, but does not decode: %v", err)
		}
		if twice, err := Encode(again); err != nil || !bytes.Equal(twice, data) {
			t.Fatalf("other bytes the second time (%v)", err)
		}
		if v, ds := Load("x.cm", data); v.IsZero() == (ds.Err() == nil) {
			t.Fatalf("valid and not: %v", ds)
		}
	})
}

// FuzzCompiled states: every valid manifest is stored and read back as it was, with its places, and is valid still; and without its
// places the bytes are the same however it was laid out.
func FuzzCompiled(f *testing.F) {
	f.Add(`{ program: { runner: "elf", binary: "b", args: [], o: { p: [{ q: null }] } }, use: [{ protocol: "a", numbered_handle: 1 }] }`)
	f.Add(`{ capabilities: [{ config: "c", type: "vector", max_count: 2, element: { type: "string", max_size: 3 }, value: ["é"] }] }`)
	f.Add(`{ children: [{ name: "a", url: "#a", on_terminate: "restart", restart: { backoff: 1.5 } }], offer: [{ protocol: "p", ` +
		`from: "parent/d", to: "all", availability: "optional" }], facets: { "": "" } }`)
	f.Fuzz(func(t *testing.T, src string) {
		v, _ := cml.Load("f.cml", []byte(src), cml.Options{})
		if v.IsZero() {
			return
		}
		data, err := Encode(v.Decl())
		if err != nil {
			t.Fatalf("%q: %v", src, err)
		}
		w, ds := Load("f.cm", data)
		if w.IsZero() {
			t.Fatalf("%q: no longer valid: %v", src, ds)
		}
		if strings.Count(src, "[") < 10 {
			same(t, w.Decl(), v.Decl())
		}
		if twice, err := Encode(w.Decl()); err != nil || !bytes.Equal(twice, data) {
			t.Fatalf("%q: other bytes the second time (%v)", src, err)
		}
		doc, _ := cml.Parse("g.cml", []byte(src))
		u, ds := cml.Load("g.cml", doc.JSON(), cml.Options{})
		if u.IsZero() {
			t.Fatalf("%q: its print is not valid: %v", src, ds)
		}
		a, errA := EncodeStripped(v.Decl())
		b, errB := EncodeStripped(u.Decl())
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Fatalf("%q: other bytes in another layout (%v, %v)", src, errA, errB)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data, err := Encode(golden())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}
