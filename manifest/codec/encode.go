package codec

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/proto/declpb"
)

// MaxSize is the greatest length of a stored manifest in bytes.
const MaxSize = 16 << 20

const (
	magic   = "\xffcm\x00"
	version = 1
	header  = len(magic) + 1 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Is says whether data starts as a stored manifest does, of whatever version.
func Is(data []byte) bool { return len(data) >= len(magic) && string(data[:len(magic)]) == magic }

// Encode is c in its stored form, with the places and names of its sources, so that what goes wrong at run time can be said with
// file and line. It refuses a declaration that Decode would not read.
func Encode(c *manifest.Component) ([]byte, error) { return encode(c, false) }

// EncodeStripped is Encode without places and sources: the same bytes wherever and however the source was laid out.
func EncodeStripped(c *manifest.Component) ([]byte, error) { return encode(c, true) }

func encode(c *manifest.Component, strip bool) ([]byte, error) {
	e := encoder{strip: strip, numbers: map[string]uint32{}}
	m := e.component(c)
	if _, err := fromMessage(m); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if len(body) > MaxSize-header {
		return nil, fmt.Errorf("encode: %d bytes, no more than %d allowed", header+len(body), MaxSize)
	}
	return frame(body), nil
}

func frame(body []byte) []byte {
	out := append(make([]byte, 0, header+len(body)), magic...)
	out = append(out, version)
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(body, castagnoli))
	return append(out, body...)
}

type encoder struct {
	strip   bool
	files   []string
	numbers map[string]uint32 // of a file, from 1
}

func each[A, B any](in []A, f func(*A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i := range in {
		out[i] = f(&in[i])
	}
	return out
}

func (e *encoder) component(c *manifest.Component) *declpb.Component {
	m := &declpb.Component{
		Children:     each(c.Children, e.child),
		Collections:  each(c.Collections, e.collection),
		Environments: each(c.Environments, e.environment),
		Capabilities: each(c.Capabilities, e.capability),
		Uses:         each(c.Uses, e.use),
		Offers:       each(c.Offers, e.offer),
		Exposes:      each(c.Exposes, e.expose),
		Facets:       each(c.Facets, e.entry),
	}
	if p := c.Program; p != nil {
		m.Program = &declpb.Program{Pos: e.pos(p.Pos), Runner: p.Runner, RunnerPos: e.pos(p.RunnerPos), Info: each(p.Info, e.entry)}
	}
	if g := c.Config; g != nil {
		m.Config = &declpb.Config{Pos: e.pos(g.Pos), Fields: each(g.Fields, e.configField), FromCapabilities: g.FromCapabilities}
	}
	if !e.strip {
		m.Sources = c.Sources
	}
	m.Files = e.files
	return m
}

func (e *encoder) pos(p manifest.Pos) *declpb.Pos {
	if e.strip || p == (manifest.Pos{}) {
		return nil
	}
	m := &declpb.Pos{Line: p.Line, Col: p.Col}
	if p.File != "" {
		m.File = e.numbers[p.File]
		if m.File == 0 {
			e.files = append(e.files, p.File)
			m.File = uint32(len(e.files))
			e.numbers[p.File] = m.File
		}
	}
	return m
}

func (e *encoder) entry(n *manifest.Entry) *declpb.Entry {
	m := &declpb.Entry{Key: n.Key, Pos: e.pos(n.Pos)}
	switch v := n.Value.(type) {
	case manifest.String:
		m.Value = &declpb.Value{Kind: &declpb.Value_String_{String_: string(v)}}
	case manifest.Strings:
		m.Value = &declpb.Value{Kind: &declpb.Value_Strings{Strings: &declpb.Strings{Values: v}}}
	case manifest.Objects:
		m.Value = &declpb.Value{Kind: &declpb.Value_Objects{Objects: &declpb.Objects{
			Values: each(v, func(d *manifest.Dictionary) *declpb.Object { return &declpb.Object{Entries: each(*d, e.entry)} }),
		}}}
	case manifest.Null:
		m.Value = &declpb.Value{Kind: &declpb.Value_Null{Null: &declpb.Null{}}}
	}
	return m
}

func (e *encoder) child(c *manifest.Child) *declpb.Child {
	m := &declpb.Child{
		Pos: e.pos(c.Pos), Name: c.Name, Url: c.URL, Startup: declpb.Startup(c.Startup), OnTerminate: declpb.OnTerminate(c.OnTerminate),
		Environment: c.Environment,
	}
	if r := c.Restart; r != nil {
		m.Restart = &declpb.Restart{
			When: declpb.RestartWhen(r.When), DelayMs: r.DelayMS, FromStart: r.FromStart, MaxDelayMs: r.MaxDelayMS, Backoff: r.Backoff,
			Limit:    r.Limit,
			WindowMs: r.WindowMS,
		}
	}
	return m
}

func (e *encoder) collection(c *manifest.Collection) *declpb.Collection {
	return &declpb.Collection{
		Pos: e.pos(c.Pos), Name: c.Name, Durability: declpb.Durability(c.Durability), Environment: c.Environment,
		DynamicOffers: c.DynamicOffers, AllowLongNames: c.AllowLongNames, PersistentStorage: c.PersistentStorage,
	}
}

func (e *encoder) environment(n *manifest.Environment) *declpb.Environment {
	return &declpb.Environment{
		Pos: e.pos(n.Pos), Name: n.Name, ExtendsRealm: n.ExtendsRealm, StopTimeoutMs: n.StopTimeoutMS,
		Runners: each(n.Runners, e.registration), Resolvers: each(n.Resolvers, e.registration), Debug: each(n.Debug, e.registration),
	}
}

func (e *encoder) registration(r *manifest.Registration) *declpb.Registration {
	return &declpb.Registration{Pos: e.pos(r.Pos), Kind: declpb.Kind(r.Kind), Source: ref(&r.Source), Name: r.Name, As: r.As}
}

func ref(r *manifest.Ref) *declpb.Ref {
	if *r == (manifest.Ref{}) {
		return nil
	}
	return &declpb.Ref{Kind: declpb.RefKind(r.Kind), Name: r.Name, Dictionary: r.Dictionary}
}

func (e *encoder) capability(c *manifest.Capability) *declpb.Capability {
	m := &declpb.Capability{
		Pos: e.pos(c.Pos), Kind: declpb.Kind(c.Kind), Name: c.Name, Path: c.Path, Rights: uint32(c.Rights),
		Delivery: declpb.Delivery(c.Delivery), Activate: declpb.Activation(c.Activate),
	}
	if s := c.Storage; s != nil {
		m.Storage = &declpb.Storage{Source: ref(&s.Source), BackingDir: s.BackingDir, Subdir: s.Subdir, StaticIdOnly: s.StaticIDOnly}
	}
	if v := c.Config; v != nil {
		m.Config = &declpb.ConfigValue{Type: configType(&v.Type), Value: configData(v.Value)}
	}
	return m
}

func (e *encoder) use(u *manifest.Use) *declpb.Use {
	m := &declpb.Use{
		Pos: e.pos(u.Pos), Kind: declpb.Kind(u.Kind), Source: ref(&u.Source), SourceName: u.SourceName, TargetPath: u.TargetPath,
		Rights: uint32(u.Rights), Subdir: u.Subdir, Scope: each(u.Scope, ref), Filter: each(u.Filter, e.entry),
		Dependency: declpb.Dependency(u.Dependency), Availability: declpb.Availability(u.Availability),
	}
	if u.NumberedHandle != nil {
		m.NumberedHandle = proto.Uint32(uint32(*u.NumberedHandle))
	}
	if c := u.Config; c != nil {
		m.Config = &declpb.UseConfig{Key: c.Key, Type: configType(&c.Type), Default: configData(c.Default)}
	}
	return m
}

func (e *encoder) offer(o *manifest.Offer) *declpb.Offer {
	return &declpb.Offer{
		Pos: e.pos(o.Pos), Kind: declpb.Kind(o.Kind), Source: ref(&o.Source), SourceName: o.SourceName, Target: ref(&o.Target),
		TargetName: o.TargetName, Rights: uint32(o.Rights), Subdir: o.Subdir, Scope: each(o.Scope, ref),
		Dependency: declpb.Dependency(o.Dependency), Availability: declpb.Availability(o.Availability),
	}
}

func (e *encoder) expose(x *manifest.Expose) *declpb.Expose {
	return &declpb.Expose{
		Pos: e.pos(x.Pos), Kind: declpb.Kind(x.Kind), Source: ref(&x.Source), SourceName: x.SourceName, Target: ref(&x.Target),
		TargetName: x.TargetName, Rights: uint32(x.Rights), Subdir: x.Subdir, Scope: each(x.Scope, ref),
		Availability: declpb.Availability(x.Availability),
	}
}

func (e *encoder) configField(f *manifest.ConfigField) *declpb.ConfigField {
	return &declpb.ConfigField{Pos: e.pos(f.Pos), Key: f.Key, Type: configType(&f.Type), MutableByParent: f.MutableByParent}
}

func configType(t *manifest.ConfigType) *declpb.ConfigType {
	m := &declpb.ConfigType{Kind: declpb.ConfigKind(t.Kind), MaxSize: t.MaxSize, MaxCount: t.MaxCount}
	if t.Element != nil {
		m.Element = configType(t.Element)
	}
	return m
}

func configData(v any) *declpb.ConfigData {
	switch v := v.(type) {
	case bool:
		return &declpb.ConfigData{Kind: &declpb.ConfigData_Bool{Bool: v}}
	case uint64:
		return &declpb.ConfigData{Kind: &declpb.ConfigData_Unsigned{Unsigned: v}}
	case int64:
		return &declpb.ConfigData{Kind: &declpb.ConfigData_Signed{Signed: v}}
	case string:
		return &declpb.ConfigData{Kind: &declpb.ConfigData_String_{String_: v}}
	case []any:
		return &declpb.ConfigData{Kind: &declpb.ConfigData_List{List: &declpb.ConfigList{
			Values: each(v, func(a *any) *declpb.ConfigData { return configData(*a) }),
		}}}
	default: // nil; other types are not a manifest's
		return nil
	}
}
