package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/proto/declpb"
)

// maxDepth bounds how deep messages lie in each other; a manifest's text may be 200 deep, and each object costs four messages.
const maxDepth = 1000

// Decode reads what Encode wrote. It is no Validate: what it returns is well-formed, and may mean nothing. Empty slices come back
// as nil ones, but for the empty Strings.
func Decode(data []byte) (*manifest.Component, error) {
	switch {
	case !Is(data):
		return nil, errors.New("not a compiled manifest")
	case len(data) > MaxSize:
		return nil, fmt.Errorf("compiled manifest of %d bytes: no more than %d allowed", len(data), MaxSize)
	case len(data) < header:
		return nil, errors.New("compiled manifest: cut off")
	case data[len(magic)] != version:
		return nil, fmt.Errorf("compiled manifest of version %d: only version %d is known", data[len(magic)], version)
	}
	body := data[header:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(data[len(magic)+1:]) {
		return nil, errors.New("compiled manifest: damaged or cut off (its checksum is wrong)")
	}
	m := &declpb.Component{}
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("compiled manifest: %w", err)
	}
	c, err := fromMessage(m)
	if err != nil {
		return nil, fmt.Errorf("compiled manifest: %w", err)
	}
	return c, nil
}

// Load decodes and validates data. Findings without a place of their own are at file.
func Load(file string, data []byte) (manifest.Validated, manifest.Diagnostics) {
	c, err := Decode(data)
	if err != nil {
		return manifest.Validated{}, manifest.Diagnostics{{
			Pos: manifest.Pos{File: file}, Rule: "stored-form", Message: err.Error(),
			Hint: "compile it again from its source: cmgr compile",
		}}
	}
	v, ds := manifest.Validate(c, manifest.ValidateOptions{})
	for i := range ds {
		if !ds[i].Pos.IsValid() {
			ds[i].Pos.File = file
		}
	}
	return v, ds
}

func fromMessage(m *declpb.Component) (*manifest.Component, error) {
	d := decoder{files: m.GetFiles()}
	d.noUnknown(m.ProtoReflect(), 0)
	if d.err != nil {
		return nil, d.err // deep nesting is refused before anything walks down
	}
	c := &manifest.Component{
		Children:     each(m.GetChildren(), d.child),
		Collections:  each(m.GetCollections(), d.collection),
		Environments: each(m.GetEnvironments(), d.environment),
		Capabilities: each(m.GetCapabilities(), d.capability),
		Uses:         each(m.GetUses(), d.use),
		Offers:       each(m.GetOffers(), d.offer),
		Exposes:      each(m.GetExposes(), d.expose),
		Facets:       each(m.GetFacets(), d.entry),
		Sources:      m.GetSources(),
	}
	if p := m.GetProgram(); p != nil {
		c.Program = &manifest.Program{Pos: d.pos(p.Pos), Runner: p.Runner, RunnerPos: d.pos(p.RunnerPos), Info: each(p.Info, d.entry)}
	}
	if g := m.GetConfig(); g != nil {
		c.Config = &manifest.Config{Pos: d.pos(g.Pos), Fields: each(g.Fields, d.configField), FromCapabilities: g.FromCapabilities}
	}
	if d.err != nil {
		return nil, d.err
	}
	return c, nil
}

// A decoder keeps the first thing that is wrong, and goes on.
type decoder struct {
	files []string
	err   error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

// noUnknown refuses fields that this version doesn't know, anywhere in m.
func (d *decoder) noUnknown(m protoreflect.Message, depth int) {
	if depth > maxDepth {
		d.fail("nested too deep")
	}
	if len(m.GetUnknown()) > 0 {
		d.fail("unknown field in %s", m.Descriptor().Name())
	}
	if d.err != nil {
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				d.noUnknown(v.List().Get(i).Message(), depth+1)
			}
		default:
			d.noUnknown(v.Message(), depth+1)
		}
		return d.err == nil
	})
}

// enum reads an enum whose values are those of T, from lowest on.
func enum[T ~uint8, E protoreflect.Enum](d *decoder, e E, lowest T) T {
	n := e.Number()
	if e.Descriptor().Values().ByNumber(n) == nil || n < protoreflect.EnumNumber(lowest) {
		d.fail("unknown %s %d", e.Descriptor().Name(), n)
		return lowest
	}
	return T(n)
}

// required are the enums of which 0 stands for nothing.
const required = 1

func (d *decoder) pos(m *declpb.Pos) manifest.Pos {
	if m == nil {
		return manifest.Pos{}
	}
	p := manifest.Pos{Line: m.Line, Col: m.Col}
	switch {
	case int64(m.File) > int64(len(d.files)):
		d.fail("a place in file %d of %d", m.File, len(d.files))
	case m.Line < 0 || m.Col < 0:
		d.fail("a place at line %d, column %d", m.Line, m.Col)
	case m.File > 0:
		p.File = d.files[m.File-1]
	}
	return p
}

func (d *decoder) entry(m **declpb.Entry) manifest.Entry {
	e := manifest.Entry{Key: (*m).Key, Pos: d.pos((*m).Pos)}
	switch v := (*m).GetValue().GetKind().(type) {
	case *declpb.Value_Null:
		e.Value = manifest.Null{}
	case *declpb.Value_String_:
		e.Value = manifest.String(v.String_)
	case *declpb.Value_Strings:
		e.Value = append(manifest.Strings{}, v.Strings.GetValues()...)
	case *declpb.Value_Objects:
		e.Value = manifest.Objects(each(v.Objects.GetValues(),
			func(o **declpb.Object) manifest.Dictionary { return each((*o).Entries, d.entry) }))
	default:
		d.fail("key %q without a value", e.Key)
	}
	return e
}

func (d *decoder) child(p **declpb.Child) manifest.Child {
	m := *p
	c := manifest.Child{
		Pos: d.pos(m.Pos), Name: m.Name, URL: m.Url, Startup: enum[manifest.Startup](d, m.Startup, 0),
		OnTerminate: enum[manifest.OnTerminate](d, m.OnTerminate, 0), Environment: m.Environment,
	}
	if r := m.Restart; r != nil {
		c.Restart = &manifest.Restart{
			When: enum[manifest.RestartWhen](d, r.When, 0), DelayMS: r.DelayMs, FromStart: r.FromStart, MaxDelayMS: r.MaxDelayMs,
			Backoff: r.Backoff, Limit: r.Limit, WindowMS: r.WindowMs,
		}
	}
	return c
}

func (d *decoder) collection(p **declpb.Collection) manifest.Collection {
	m := *p
	return manifest.Collection{
		Pos: d.pos(m.Pos), Name: m.Name, Durability: enum[manifest.Durability](d, m.Durability, 0), Environment: m.Environment,
		DynamicOffers: m.DynamicOffers, AllowLongNames: m.AllowLongNames, PersistentStorage: m.PersistentStorage,
	}
}

func (d *decoder) environment(p **declpb.Environment) manifest.Environment {
	m := *p
	return manifest.Environment{
		Pos: d.pos(m.Pos), Name: m.Name, ExtendsRealm: m.ExtendsRealm, StopTimeoutMS: m.StopTimeoutMs,
		Runners: each(m.Runners, d.registration), Resolvers: each(m.Resolvers, d.registration), Debug: each(m.Debug, d.registration),
	}
}

func (d *decoder) registration(p **declpb.Registration) manifest.Registration {
	m := *p
	return manifest.Registration{Pos: d.pos(m.Pos), Kind: d.kind(m.Kind), Source: d.ref(&m.Source), Name: m.Name, As: m.As}
}

func (d *decoder) kind(k declpb.Kind) manifest.Kind { return enum[manifest.Kind](d, k, required) }

func (d *decoder) ref(m **declpb.Ref) manifest.Ref {
	if *m == nil {
		return manifest.Ref{}
	}
	return manifest.Ref{Kind: enum[manifest.RefKind](d, (*m).Kind, required), Name: (*m).Name, Dictionary: (*m).Dictionary}
}

func (d *decoder) rights(n uint32) manifest.Rights {
	if all := manifest.RightsRW | manifest.RightsX; n > math.MaxUint16 || !all.Has(manifest.Rights(n)) {
		d.fail("unknown rights %#x", n)
	}
	return manifest.Rights(n)
}

func (d *decoder) capability(p **declpb.Capability) manifest.Capability {
	m := *p
	c := manifest.Capability{
		Pos: d.pos(m.Pos), Kind: d.kind(m.Kind), Name: m.Name, Path: m.Path, Rights: d.rights(m.Rights),
		Delivery: enum[manifest.Delivery](d, m.Delivery, 0), Activate: enum[manifest.Activation](d, m.Activate, 0),
	}
	if s := m.Storage; s != nil {
		c.Storage = &manifest.StorageDecl{
			Source: d.ref(&s.Source), BackingDir: s.BackingDir, Subdir: s.Subdir, StaticIDOnly: s.StaticIdOnly,
		}
	}
	if v := m.Config; v != nil {
		c.Config = &manifest.ConfigValue{Type: d.configType(v.Type), Value: d.configData(v.Value)}
		if c.Config.Value == nil {
			d.fail("config %q without a value", c.Name)
		}
	}
	return c
}

func (d *decoder) use(p **declpb.Use) manifest.Use {
	m := *p
	u := manifest.Use{
		Pos: d.pos(m.Pos), Kind: d.kind(m.Kind), Source: d.ref(&m.Source), SourceName: m.SourceName, TargetPath: m.TargetPath,
		Rights: d.rights(m.Rights), Subdir: m.Subdir, Scope: each(m.Scope, d.ref), Filter: each(m.Filter, d.entry),
		Dependency: enum[manifest.DependencyType](d, m.Dependency, 0), Availability: enum[manifest.Availability](d, m.Availability, 0),
	}
	if m.NumberedHandle != nil {
		n := uint8(*m.NumberedHandle)
		if uint32(n) != *m.NumberedHandle {
			d.fail("numbered handle %d", *m.NumberedHandle)
		}
		u.NumberedHandle = &n
	}
	if c := m.Config; c != nil {
		u.Config = &manifest.UseConfig{Key: c.Key, Type: d.configType(c.Type), Default: d.configData(c.Default)}
	}
	return u
}

func (d *decoder) offer(p **declpb.Offer) manifest.Offer {
	m := *p
	return manifest.Offer{
		Pos: d.pos(m.Pos), Kind: d.kind(m.Kind), Source: d.ref(&m.Source), SourceName: m.SourceName, Target: d.ref(&m.Target),
		TargetName: m.TargetName, Rights: d.rights(m.Rights), Subdir: m.Subdir, Scope: each(m.Scope, d.ref),
		Dependency: enum[manifest.DependencyType](d, m.Dependency, 0), Availability: enum[manifest.Availability](d, m.Availability, 0),
	}
}

func (d *decoder) expose(p **declpb.Expose) manifest.Expose {
	m := *p
	return manifest.Expose{
		Pos: d.pos(m.Pos), Kind: d.kind(m.Kind), Source: d.ref(&m.Source), SourceName: m.SourceName, Target: d.ref(&m.Target),
		TargetName: m.TargetName, Rights: d.rights(m.Rights), Subdir: m.Subdir, Scope: each(m.Scope, d.ref),
		Availability: enum[manifest.Availability](d, m.Availability, 0),
	}
}

func (d *decoder) configField(p **declpb.ConfigField) manifest.ConfigField {
	m := *p
	return manifest.ConfigField{Pos: d.pos(m.Pos), Key: m.Key, Type: d.configType(m.Type), MutableByParent: m.MutableByParent}
}

func (d *decoder) configType(m *declpb.ConfigType) manifest.ConfigType {
	if m == nil {
		d.fail("a value without a type")
		return manifest.ConfigType{}
	}
	t := manifest.ConfigType{Kind: enum[manifest.ConfigKind](d, m.Kind, 0), MaxSize: m.MaxSize, MaxCount: m.MaxCount}
	if m.Element != nil {
		if m.Element.Element != nil {
			d.fail("a vector of vectors")
			return t
		}
		element := d.configType(m.Element)
		t.Element = &element
	}
	return t
}

// configData is nil for none.
func (d *decoder) configData(m *declpb.ConfigData) any {
	switch v := m.GetKind().(type) {
	case *declpb.ConfigData_Bool:
		return v.Bool
	case *declpb.ConfigData_Unsigned:
		return v.Unsigned
	case *declpb.ConfigData_Signed:
		return v.Signed
	case *declpb.ConfigData_String_:
		return v.String_
	case *declpb.ConfigData_List:
		list := make([]any, len(v.List.GetValues()))
		for i, e := range v.List.GetValues() {
			if e.GetList() != nil {
				d.fail("a list of lists")
				return nil
			}
			if list[i] = d.configData(e); list[i] == nil {
				d.fail("a list with nothing in it")
			}
		}
		return list
	}
	if m != nil {
		d.fail("a value that is none")
	}
	return nil
}
