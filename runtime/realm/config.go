package realm

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// configDir is where a program finds its configuration, as config.json.
const configDir = "/config"

// A ConfigValue is one key of a component's configuration, and where its value comes from.
type ConfigValue struct {
	Key    string
	Type   manifest.ConfigType
	Value  any // as manifest.ConfigValue has it
	Source ConfigSource
	From   string // SourceCapability: whose, "/net"; SourceDefault: the place of the use; else ""
}

// ConfigSource is where a value comes from. A later one is preferred to those before it.
type ConfigSource uint8

const (
	SourceDefault    ConfigSource = iota // `default` of a use whose route is void, or that is not required
	SourcePackage                        // the value file beside the manifest
	SourceCapability                     // a config capability that is routed
	SourceParent                         // who created the component, where `mutability` lets it
	SourceOverride                       // an operator, or ConfigOverride
)

var configSources = [...]string{"default", "package", "capability", "parent", "override"}

func (s ConfigSource) String() string { return configSources[s] }

// String is the source as tools show it.
func (v ConfigValue) String() string {
	if v.Source == SourceCapability {
		return v.Source.String() + " of " + v.From
	}
	return v.Source.String()
}

// Text is the value as JSON.
func (v ConfigValue) Text() string {
	b, err := json.Marshal(v.Value)
	if err != nil {
		return fmt.Sprint(v.Value)
	}
	return string(b)
}

// Config is m's configuration as its next start would find it, sorted by key.
func (r *Realm) Config(ctx context.Context, m name.Moniker) ([]ConfigValue, error) {
	i, err := r.reach(ctx, m)
	if err != nil {
		return nil, err
	}
	return i.config(ctx)
}

// SetConfig overrides values of m's configuration from its next start on, until UnsetConfig or the manager's end. The values are
// written as in a value file; a string needs no quotes. All are set or none.
func (r *Realm) SetConfig(ctx context.Context, m name.Moniker, values map[string]string) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	d, err := i.Decl(ctx)
	if err != nil {
		return err
	}
	if d.Config == nil {
		return i.misconfigured("it has no configuration")
	}
	fields := d.Config.Fields
	parsed := make(map[string]any, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		f, err := i.field(fields, key)
		if err != nil {
			return err
		}
		if parsed[key], err = cml.ParseValue(f.Type, values[key]); err != nil {
			return i.misconfigured("key %q: %w", key, err)
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.overrides == nil {
		i.overrides = map[string]any{}
	}
	maps.Copy(i.overrides, parsed)
	return nil
}

// UnsetConfig takes back what SetConfig has set: those keys of m, or all of its if none are named.
func (r *Realm) UnsetConfig(ctx context.Context, m name.Moniker, keys ...string) error {
	i, err := r.reach(ctx, m)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(keys) == 0 {
		i.overrides = nil
		return nil
	}
	for _, k := range keys {
		if _, ok := i.overrides[k]; !ok {
			return &Error{
				Op: "configure", At: i.moniker, Why: capabilities.NotFound, Err: fmt.Errorf("key %q is not overridden", k),
				Hint: fmt.Sprintf("`cmgr config list %s` shows where values come from", i.moniker),
			}
		}
	}
	for _, k := range keys {
		delete(i.overrides, k)
	}
	return nil
}

// field is the field of that key.
func (i *instance) field(fields []manifest.ConfigField, key string) (*manifest.ConfigField, error) {
	keys := make([]string, len(fields))
	for k := range fields {
		if keys[k] = fields[k].Key; keys[k] == key {
			return &fields[k], nil
		}
	}
	e := &Error{Op: "configure", At: i.moniker, Why: capabilities.NotFound, Err: fmt.Errorf("its configuration has no key %q", key)}
	e.Hint = "it has " + strings.Join(keys, ", ")
	if near := name.Nearest(key, keys); near != "" {
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	}
	return nil, e
}

func (i *instance) misconfigured(format string, args ...any) *Error {
	return &Error{Op: "configure", At: i.moniker, Why: capabilities.Invalid, Err: fmt.Errorf(format, args...)}
}

// config finds the value of each key (cml.md §10).
func (i *instance) config(ctx context.Context) ([]ConfigValue, error) {
	res, err := i.resolve(ctx)
	if err != nil {
		return nil, err
	}
	d := res.Decl.Decl()
	if d.Config == nil {
		return nil, nil
	}
	i.mu.Lock()
	overrides := maps.Clone(i.overrides)
	i.mu.Unlock()
	fields := d.Config.Fields
	byKey := make(map[string]ConfigValue, len(fields))
	set := func(v ConfigValue) {
		if old, ok := byKey[v.Key]; !ok || v.Source >= old.Source {
			byKey[v.Key] = v
		}
	}
	for k, v := range res.Values {
		set(ConfigValue{Key: k, Value: v, Source: SourcePackage})
	}
	for k := range d.Uses {
		u := &d.Uses[k]
		if u.Kind != manifest.KindConfig {
			continue
		}
		route, err := i.realm.engine.Use(ctx, i, u)
		if err != nil && (u.Availability == manifest.Required || ctx.Err() != nil) {
			return nil, err
		}
		switch {
		case err == nil && route.Source.Capability != nil:
			if have := route.Source.Capability.Config; !have.Type.Equal(u.Config.Type) {
				return nil, i.misconfigured("%s: key %q is of type %s, and config %s of %s is of type %s", u.Pos, u.Config.Key,
					u.Config.Type.Kind, route.Source.Name, route.Source, have.Type.Kind)
			}
			set(ConfigValue{
				Key: u.Config.Key, Value: route.Source.Capability.Config.Value, Source: SourceCapability, From: route.Source.String(),
			})
		case u.Config.Default != nil:
			set(ConfigValue{Key: u.Config.Key, Value: u.Config.Default, Source: SourceDefault, From: u.Pos.String()})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(i.decl.config)) {
		f, err := i.field(fields, key)
		if err != nil {
			return nil, err
		}
		if !f.MutableByParent {
			e := i.misconfigured("%s: its parent may not set key %q", f.Pos, key)
			e.Why, e.Hint = capabilities.Denied, `add mutability: [ "parent" ] to the key`
			return nil, e
		}
		v, err := cml.ParseValue(f.Type, i.decl.config[key])
		if err != nil {
			return nil, i.misconfigured("key %q, as its parent sets it: %w", key, err)
		}
		set(ConfigValue{Key: key, Value: v, Source: SourceParent})
	}
	for key, v := range overrides {
		set(ConfigValue{Key: key, Value: v, Source: SourceOverride})
	}
	out := make([]ConfigValue, 0, len(fields))
	for k := range fields {
		f := &fields[k]
		v, ok := byKey[f.Key]
		if !ok {
			e := i.misconfigured("%s: key %q has no value", f.Pos, f.Key)
			e.Hint = fmt.Sprintf("write one into the value file beside the manifest, or add a use of a config capability with key: %q",
				f.Key)
			return nil, e
		}
		if v.Type = f.Type; v.Type.Check(v.Value) != nil { // what was right may have become wrong with another manifest
			e := i.misconfigured("%s: key %q from %s: %w", f.Pos, f.Key, v, v.Type.Check(v.Value))
			if v.Source == SourceOverride {
				e.Hint = fmt.Sprintf("`cmgr config unset %s %s` takes the override back", i.moniker, f.Key)
			}
			return nil, e
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b ConfigValue) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// deliverConfig gives the program its configuration, as JSON: one object, its keys sorted. What it lacks keeps it from starting.
func (i *instance) deliverConfig(ctx context.Context, got *delivery, d *manifest.Component, info *runners.StartInfo) error {
	if d.Config == nil {
		return nil
	}
	values, err := i.config(ctx)
	if err != nil {
		return err
	}
	object := make(map[string]any, len(values))
	for _, v := range values {
		object[v.Key] = v.Value
	}
	if info.Config, err = json.Marshal(object); err != nil {
		return err
	}
	v, err := i.see(got, info)
	if err != nil {
		return err
	}
	if err := v.Write(configDir+"/config.json", append(info.Config, '\n')); err != nil {
		return err
	}
	return i.entry(configDir, v, manifest.RightsR, info)
}
