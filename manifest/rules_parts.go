package manifest

import (
	"fmt"
	"strings"

	"github.com/cmgr/cmgr/manifest/name"
)

// program checks that exactly one clause names the runner (V59, V60, "Multiple runners used").
func (v *validator) program() {
	var first *Use
	for i := range v.c.Uses {
		u := &v.c.Uses[i]
		if u.Kind != KindRunner {
			continue
		}
		if first != nil {
			v.report(here(u.Pos), "many-runners", at("the first one", first.Pos), "`use runner` should occur at most once.")
			continue
		}
		first = u
	}
	p := v.c.Program
	if p == nil {
		return
	}
	switch {
	case p.Runner == "" && first == nil:
		v.report(here(p.Pos), "no-runner", `add runner: "elf" to the program`,
			"Component has a `program` block defined, but doesn't specify a `runner`. "+
				"Components need to use a runner to actually execute code.")
	case p.Runner != "" && first != nil && (first.SourceName != p.Runner || first.Source.Kind != RefEnvironment):
		v.report(here(first.Pos), "runner-conflict", at("remove one of them; `program.runner`", p.RunnerPos),
			"Component has conflicting runners in `program` block and `use` block.")
	}
}

func (v *validator) children() {
	for i := range v.c.Children {
		c := &v.c.Children[i]
		if _, fragment, ok := strings.Cut(c.URL, "#"); ok && strings.HasSuffix(fragment, ".cml") {
			v.report(v.pos(SectionChildren, i, "url", c.Pos), "cml-url", fmt.Sprintf("did you mean %q?", strings.TrimSuffix(c.URL, "l")),
				"child URL ends in .cml instead of .cm, which is almost certainly a mistake: %s", c.URL)
		}
		v.environmentOf(c.Environment, v.pos(SectionChildren, i, "environment", c.Pos))
		if r := c.Restart; r != nil && r.MaxDelayMS > 0 && r.MaxDelayMS < r.DelayMS {
			v.report(v.pos(SectionChildren, i, "restart", c.Pos), "bad-restart", "",
				"restart: max_delay_ms (%d) is less than delay_ms (%d)", r.MaxDelayMS, r.DelayMS)
		}
		if r := c.Restart; r != nil && r.Backoff != "" && !IsBackoff(r.Backoff) {
			v.report(v.pos(SectionChildren, i, "restart", c.Pos), "bad-restart", "", "restart: backoff %q is not a decimal of at least 1",
				r.Backoff)
		}
		if (c.Restart != nil) != (c.OnTerminate == OnTerminateRestart) {
			v.report(here(c.Pos), "bad-restart", "", "child %q: `restart` and on_terminate: \"restart\" belong together", c.Name)
		}
	}
}

// IsBackoff says whether s is what Restart.Backoff may be: a decimal of at least 1 with at most nine digits on either side of the
// point.
func IsBackoff(s string) bool {
	whole, fraction, point := strings.Cut(s, ".")
	digits := func(s string) bool { return s != "" && len(s) <= 9 && strings.Trim(s, "0123456789") == "" }
	return digits(whole) && strings.Trim(whole, "0") != "" && (!point || digits(fraction))
}

func (v *validator) collections() {
	for i := range v.c.Collections {
		c := &v.c.Collections[i]
		v.environmentOf(c.Environment, v.pos(SectionCollections, i, "environment", c.Pos))
	}
}

func (v *validator) environmentOf(env string, pos place) {
	if env == "" {
		return
	}
	if _, ok := v.environments_[env]; !ok {
		v.report(pos, "unknown-environment", v.nearest("#"+env, references(names(v.environments_))),
			"environment %q does not appear in \"environments\"", "#"+env)
	}
}

func (v *validator) environments() {
	n := 0 // registrations so far
	for i := range v.c.Environments {
		e := &v.c.Environments[i]
		where := func(r *Registration, key string) place {
			return v.pos(SectionRegistrations, n, key, r.Pos)
		}
		if !e.ExtendsRealm && e.StopTimeoutMS == nil {
			v.report(v.pos(SectionEnvironments, i, "extends", e.Pos), "no-stop-timeout",
				`add __stop_timeout_ms, or write extends: "realm"`,
				"'__stop_timeout_ms' must be provided if the environment does not extend another environment")
		}
		runners := make(map[string]*Registration, len(e.Runners))
		for j := range e.Runners {
			r := &e.Runners[j]
			if first, ok := runners[r.As]; ok {
				v.report(where(r, "as"), "duplicate-runner", at("the first one", first.Pos),
					"Duplicate runners registered under name %q: %q and %q.", r.As, r.Name, first.Name)
			} else {
				runners[r.As] = r
			}
			if r.Source.Kind == RefSelf && !v.has(KindRunner, r.Name) {
				v.report(here(r.Pos), "undeclared", v.nearest(r.Name, v.declared(KindRunner)),
					"Runner %q registered in environment is not in \"runners\"", r.Name)
			}
			v.registrationSource(r, where(r, "from"))
			n++
		}
		schemes := make(map[string]*Registration, len(e.Resolvers))
		for j := range e.Resolvers {
			r := &e.Resolvers[j]
			if first, ok := schemes[r.As]; ok {
				v.report(where(r, "scheme"), "duplicate-scheme", at("the first one", first.Pos),
					"scheme %q for resolver %q is already registered; previously registered to resolver %q.",
					r.As, r.Name, first.Name)
			} else {
				schemes[r.As] = r
			}
			if r.Source.Kind == RefSelf && !v.has(KindResolver, r.Name) {
				v.report(here(r.Pos), "undeclared", v.nearest(r.Name, v.declared(KindResolver)),
					"resolver %q registered in environment is not declared in \"capabilities\"", r.Name)
			}
			v.registrationSource(r, where(r, "from"))
			n++
		}
		debug := make(map[string]*Registration, len(e.Debug))
		for j := range e.Debug {
			r := &e.Debug[j]
			if first, ok := debug[r.As]; ok {
				v.report(where(r, "as"), "duplicate-debug", at("the first one", first.Pos),
					"%q is a duplicate debug protocol of environment %q",
					r.As, e.Name)
			} else {
				debug[r.As] = r
			}
			from := where(r, "from")
			v.declaredInSelf("registered as debug", KindProtocol, r.Name, r.Source, from)
			v.source("debug", KindProtocol, r.Source, from)
			if r.Source.Kind == RefVoid {
				v.report(from, "bad-source", "", "a debug protocol cannot come from void")
			}
			n++
		}
	}
}

func (v *validator) registrationSource(r *Registration, from place) {
	switch r.Source.Kind {
	case RefParent, RefSelf:
		return
	case RefChild:
		if _, ok := v.children_[r.Source.Name]; ok || r.Source.Name == "" {
			return
		}
	}
	v.report(from, "unknown-source", v.nearest(r.Source.String(), references(names(v.children_))),
		"%q %s source %q does not appear in \"children\"", r.Name, r.Kind, r.Source)
}

func (v *validator) has(k Kind, name string) bool {
	_, ok := v.capabilities_[capability{k, name}]
	return ok
}

// forInstance is a hint to a path that is missing.
func forInstance(k Kind, name string) string {
	if k == KindRunner || k == KindResolver {
		return fmt.Sprintf("for instance path: %q", "/svc/"+name)
	}
	return fmt.Sprintf("for instance path: %q", "/"+name)
}

func (v *validator) capabilities() {
	for i := range v.c.Capabilities {
		c := &v.c.Capabilities[i]
		switch c.Kind {
		case KindDirectory, KindRunner, KindResolver:
			if c.Path == "" {
				v.report(here(c.Pos), "missing-path", forInstance(c.Kind, c.Name), "\"path\" should be present with %q", c.Kind)
			}
			if c.Kind == KindDirectory && c.Rights == 0 {
				v.report(here(c.Pos), "missing-rights", `for instance rights: ["r*"]`, "\"rights\" should be present with %q", c.Kind)
			}
		case KindProtocol, KindService:
			if c.Path == "" {
				v.report(here(c.Pos), "missing-path", "", "\"path\" should be present with %q", c.Kind)
			}
		case KindStorage:
			v.storage(i, c)
		case KindConfig:
			if c.Config == nil {
				if !v.options.Partial {
					v.report(here(c.Pos), "missing-key", "", "config %q has no value", c.Name)
				}
				break
			}
			v.configType(c.Config.Type, c.Pos)
			if err := c.Config.Type.Check(c.Config.Value); err != nil {
				v.report(v.pos(SectionCapabilities, i, "value", c.Pos), "bad-config-value", "", "config %q: %v", c.Name, err)
			}
		case KindEventStream:
			v.report(here(c.Pos), "event-stream-declared", "offer or use it from framework or parent",
				"event streams are the manager's own: a component cannot declare one")
		}
	}
}

func (v *validator) storage(i int, c *Capability) {
	s := c.Storage
	if s == nil || s.BackingDir == "" {
		v.report(here(c.Pos), "missing-backing-dir", "name the directory that `from` provides",
			"\"backing_dir\" should be present with \"storage\"")
		return
	}
	from := v.pos(SectionCapabilities, i, "from", c.Pos)
	switch s.Source.Kind {
	case RefParent:
	case RefSelf:
	case RefChild:
		if _, ok := v.children_[s.Source.Name]; ok {
			return
		}
		fallthrough
	default:
		v.report(from, "unknown-source", v.nearest(s.Source.String(), references(names(v.children_))),
			"\"capabilities\" source %q does not appear in \"children\"", s.Source)
	}
}

func (v *validator) config() {
	if v.c.Config == nil {
		return
	}
	seen := make(map[string]Pos, len(v.c.Config.Fields))
	for i := range v.c.Config.Fields {
		f := &v.c.Config.Fields[i]
		if p, ok := seen[f.Key]; ok {
			v.report(here(f.Pos), "duplicate-key", at("the first one", p), "config key %q is defined twice", f.Key)
		}
		seen[f.Key] = f.Pos
		v.configType(f.Type, f.Pos)
		if err := name.CheckConfigKey(f.Key); err != nil && f.Key != "" {
			v.report(here(f.Pos), "bad-config-key", "", "%v", err)
		}
	}
}

// configType checks that a type is whole.
func (v *validator) configType(t ConfigType, pos Pos) {
	switch {
	case v.options.Partial:
	case t.Kind > ConfigVector:
		v.report(here(pos), "config-type", "", "unknown config type %d", t.Kind)
	case t.Kind == ConfigString && t.MaxSize == 0:
		v.report(here(pos), "config-type", "", "type string needs a max_size")
	case t.Kind == ConfigVector && (t.MaxCount == 0 || t.Element == nil):
		v.report(here(pos), "config-type", "", "type vector needs a max_count and an element")
	case t.Kind == ConfigVector && t.Element.Kind == ConfigVector:
		v.report(here(pos), "config-type", "", "a vector cannot hold vectors")
	case t.Kind == ConfigVector:
		v.configType(*t.Element, pos)
	}
}
