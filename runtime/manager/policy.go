package manager

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// aboveRoot is the source_moniker of what the manager itself has.
const aboveRoot = "<component_manager>"

// A CapabilityRule lets the instances of Targets have one capability; who is in the targets of no rule about it may not.
type CapabilityRule struct {
	Pos     manifest.Pos
	From    capabilities.SourceKind // FromComponent, FromBuiltin, FromFramework or FromCapability
	Source  name.Moniker            // whose it is; "" for FromBuiltin
	Name    string                  // as the source calls it; of FromCapability that of the storage
	Kind    manifest.Kind
	Targets []name.Pattern
}

// A DebugRule lets the instances of Owners register one protocol for debugging in their environments of one name.
type DebugRule struct {
	Pos         manifest.Pos
	Name        string // as the registration names the protocol, before "as"
	Owners      name.Pattern
	Environment string
}

// rules reads capability_policy.
func (r *reader) rules(v hujson.Value, into *[]CapabilityRule) {
	r.each(v, func(e hujson.Value) {
		rule := CapabilityRule{Pos: r.pos(e.StartOffset)}
		var at [4]manifest.Pos
		var source, kind, moniker string
		before := len(r.found)
		r.object(e, "security_policy.capability_policy.", map[string]func(hujson.Value){
			"source_moniker":  func(v hujson.Value) { r.str(v, &moniker, &at[0]) },
			"source":          func(v hujson.Value) { r.str(v, &source, &at[1]) },
			"source_name":     func(v hujson.Value) { r.str(v, &rule.Name, &at[2]) },
			"capability":      func(v hujson.Value) { r.str(v, &kind, &at[3]) },
			"target_monikers": func(v hujson.Value) { r.patterns(v, &rule.Targets) },
		})
		if len(r.found) > before {
			return
		}
		bad := func(rule, format string, args ...any) { r.complain(e.StartOffset, rule, format, args...) }
		kinds := manifest.Kinds()
		i := slices.IndexFunc(kinds, func(k manifest.Kind) bool { return k.String() == kind })
		var err error
		if moniker != aboveRoot {
			rule.Source, err = name.ParseMoniker(moniker)
		}
		from, known := map[string]capabilities.SourceKind{
			"component": capabilities.FromComponent, "self": capabilities.FromComponent, "framework": capabilities.FromFramework,
			"capability": capabilities.FromCapability, "environment": capabilities.FromBuiltin,
		}[source]
		switch {
		case err != nil || moniker == "":
			bad("moniker", "source_moniker: must be a moniker or %q, is %q", aboveRoot, moniker)
		case source == "void":
			bad("capability-policy", `source "void": what nobody has needs no policy`)
		case !known:
			bad("capability-policy", `source must be "component", "framework", "capability" or "environment", is %q`, source)
		case moniker == aboveRoot && (source == "framework" || source == "capability"):
			bad("capability-policy", "source %q: %s has none; name the component whose it is", source, aboveRoot)
		case moniker != aboveRoot && source == "environment":
			bad("capability-policy", `source "environment": source_moniker must be %q`, aboveRoot)
		case i < 0:
			bad("capability-policy", `capability %q is no kind, such as "protocol" or "directory"`, kind)
		case name.Check(rule.Name) != nil:
			bad("capability-policy", "source_name %q is no name", rule.Name)
		case source == "framework" && kind == "protocol" && !slices.Contains(framework.Protocols(), rule.Name):
			d := r.complain(e.StartOffset, "capability-policy", "source_name %q is no protocol of the framework", rule.Name)
			if near := name.Nearest(rule.Name, framework.Protocols()); near != "" {
				d.Hint = fmt.Sprintf("did you mean %q?", near)
			}
		default:
			rule.Kind, rule.From = kinds[i], from
			if moniker == aboveRoot {
				rule.From = capabilities.FromBuiltin
			}
			*into = append(*into, rule)
		}
	})
}

// debugRules reads debug_registration_policy.
func (r *reader) debugRules(v hujson.Value, into *[]DebugRule) {
	r.each(v, func(e hujson.Value) {
		rule := DebugRule{Pos: r.pos(e.StartOffset)}
		var at [4]manifest.Pos
		var debug, owners string
		before := len(r.found)
		r.object(e, "security_policy.debug_registration_policy.", map[string]func(hujson.Value){
			"debug":            func(v hujson.Value) { r.str(v, &debug, &at[0]) },
			"name":             func(v hujson.Value) { r.str(v, &rule.Name, &at[1]) },
			"target_moniker":   func(v hujson.Value) { r.str(v, &owners, &at[2]) },
			"environment_name": func(v hujson.Value) { r.str(v, &rule.Environment, &at[3]) },
		})
		if len(r.found) > before {
			return
		}
		var err error
		rule.Owners, err = name.ParsePattern(owners)
		switch {
		case debug != "protocol":
			r.complain(e.StartOffset, "debug-policy", `debug must be "protocol", is %q: nothing else can be registered`, debug)
		case name.Check(rule.Name) != nil:
			r.complain(e.StartOffset, "debug-policy", "name %q is no name of a protocol", rule.Name)
		case name.Check(rule.Environment) != nil:
			r.complain(e.StartOffset, "debug-policy", "environment_name %q is no name of an environment", rule.Environment)
		case err != nil:
			r.complain(e.StartOffset, "pattern", "target_moniker: %v", err)
		default:
			*into = append(*into, rule)
		}
	})
}

// each calls f for the elements of a list.
func (r *reader) each(v hujson.Value, f func(hujson.Value)) {
	a, ok := v.Value.(*hujson.Array)
	if !ok {
		r.complain(v.StartOffset, "wrong-type", "must be an array of objects")
		return
	}
	for _, e := range a.Elements {
		f(e)
	}
}

// allowsFramework says whether user may have a restricted protocol of the framework of scope.
func (s *Settings) allowsFramework(protocol string, scope, user name.Moniker) bool {
	reason, _ := s.forbids(manifest.KindProtocol, capabilities.Source{Kind: capabilities.FromFramework, At: scope, Name: protocol}, user)
	return reason == ""
}

// forbids says why target may not have a capability, and how it would be allowed to; "" where it may.
func (s *Settings) forbids(k manifest.Kind, src capabilities.Source, target name.Moniker) (reason, hint string) {
	if src.Kind == capabilities.FromDictionary {
		src.Kind = capabilities.FromComponent
	}
	var about []string
	for i := range s.CapabilityPolicy {
		r := &s.CapabilityPolicy[i]
		if r.Kind != k || r.From != src.Kind || r.Source != src.At || r.Name != src.Name {
			continue
		}
		if matches(r.Targets, target) {
			return "", ""
		}
		about = append(about, r.Pos.String())
	}
	restricted := src.Kind == capabilities.FromFramework && k == manifest.KindProtocol && framework.Restricted(src.Name)
	if len(about) == 0 && !restricted {
		return "", ""
	}
	reason = fmt.Sprintf("security policy disallows `%s` from `%s` being used at `%s`", src.Name, src, target)
	if src.Kind == capabilities.FromCapability {
		reason = fmt.Sprintf("security policy disallows `%s` of storage `%s` of `%s` being used at `%s`",
			routing.StorageAdmin, src.Name, src.At, target)
	}
	if len(about) > 0 {
		return reason, fmt.Sprintf("add %q to target_monikers at %s", target, strings.Join(about, " or "))
	}
	return reason, fmt.Sprintf("add it to security_policy.capability_policy of the manager's --config: { source_moniker: %q, source: "+
		`"framework", source_name: %q, capability: "protocol", target_monikers: [%q] }`, src.At, src.Name, target)
}

// forbidsDebug says why owner may not register a protocol for debugging, and how it would be allowed to; "" where it may.
func (s *Settings) forbidsDebug(owner name.Moniker, environment, protocol string) (reason, hint string) {
	for i := range s.DebugPolicy {
		if r := &s.DebugPolicy[i]; r.Name == protocol && r.Environment == environment && r.Owners.Match(owner) {
			return "", ""
		}
	}
	reason = fmt.Sprintf("debug security policy disallows `%s` from being registered in environment `%s` at `%s`",
		protocol, environment, owner)
	return reason, fmt.Sprintf("add it to security_policy.debug_registration_policy of the manager's --config: { debug: \"protocol\", name: %q, "+
		"target_moniker: %q, environment_name: %q }", protocol, owner, environment)
}
