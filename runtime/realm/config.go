package realm

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// configDir is where a program finds its configuration, as config.json.
const configDir = "/config"

// A ConfigValue is one key of a component's configuration, and where its value comes from.
type ConfigValue struct {
	Key    string
	Type   manifest.ConfigType
	Value  any    // as manifest.ConfigValue has it
	Source string // "/net", "<component manager>", "default", …
}

// Config is m's configuration as its next start would find it, sorted by key.
func (r *Realm) Config(ctx context.Context, m name.Moniker) ([]ConfigValue, error) {
	i, err := r.reach(ctx, m)
	if err != nil {
		return nil, err
	}
	return i.config(ctx)
}

// config finds the value of each key: of a use of a config capability that is routed, else its default (cml.md §10).
func (i *instance) config(ctx context.Context) ([]ConfigValue, error) {
	d, err := i.Decl(ctx)
	if err != nil {
		return nil, err
	}
	var out []ConfigValue
	for k := range d.Uses {
		u := &d.Uses[k]
		if u.Kind != manifest.KindConfig {
			continue
		}
		v := ConfigValue{Key: u.Config.Key, Type: u.Config.Type}
		route, err := i.realm.engine.Use(ctx, i, u)
		if err != nil && (u.Availability == manifest.Required || ctx.Err() != nil) {
			return nil, err
		}
		switch {
		case err == nil && route.Source.Capability != nil:
			if have := route.Source.Capability.Config; !have.Type.Equal(v.Type) {
				return nil, &Error{
					Op: "configure", At: i.moniker, Why: capabilities.Invalid,
					Err: fmt.Errorf("%s: key %q is of type %s, and config %s of %s is of type %s", u.Pos, v.Key, v.Type.Kind, route.Source.Name,
						route.Source, have.Type.Kind),
				}
			}
			v.Value, v.Source = route.Source.Capability.Config.Value, string(route.Source.At)
		case u.Config.Default != nil:
			v.Value, v.Source = u.Config.Default, "default"
		default:
			continue // of `config`, if it is there
		}
		if err := v.Type.Check(v.Value); err != nil {
			return nil, &Error{Op: "configure", At: i.moniker, Why: capabilities.Invalid, Err: fmt.Errorf("%s: key %q: %w", u.Pos, v.Key, err)}
		}
		out = append(out, v)
	}
	if d.Config != nil {
		for _, f := range d.Config.Fields {
			if !slices.ContainsFunc(out, func(v ConfigValue) bool { return v.Key == f.Key }) {
				return nil, &Error{
					Op: "configure", At: i.moniker, Why: capabilities.Invalid, Err: fmt.Errorf("%s: key %q has no value", f.Pos, f.Key),
					Hint: fmt.Sprintf("add a use of a config capability with key: %q", f.Key),
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b ConfigValue) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// deliverConfig gives the program its configuration, as JSON: one object, its keys sorted. What it lacks keeps it from starting.
func (i *instance) deliverConfig(ctx context.Context, got *delivery, d *manifest.Component, info *runners.StartInfo) error {
	if d.Config == nil && !slices.ContainsFunc(d.Uses, func(u manifest.Use) bool { return u.Kind == manifest.KindConfig }) {
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
	v, err := i.see(got, "", info)
	if err != nil {
		return err
	}
	if err := v.Write(configDir+"/config.json", append(info.Config, '\n')); err != nil {
		return err
	}
	return i.entry(configDir, v, manifest.RightsR, info)
}
