package manager

import (
	"context"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/internal/sys/sock"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runtime/host"
	"github.com/cmgr/cmgr/runtime/realm"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// hosts are the protocols that a manager speaks itself, by the kind of source and by name.
type hosts struct {
	framework  map[string]realm.Host // from "framework", in each component
	builtin    map[string]realm.Host // offered to the root
	capability map[string]realm.Host // made of a storage capability: routing.StorageAdmin
	events     realm.Host            // event streams, whatever their source; nobody if Serve is nil
}

// Host is what serves a route of that kind to that source.
func (h hosts) Host(k manifest.Kind, s capabilities.Source) (realm.Host, bool) {
	if k == manifest.KindEventStream {
		return h.events, h.events.Serve != nil
	}
	by, named := h.builtin, s.Name
	switch s.Kind {
	case capabilities.FromFramework:
		by = h.framework
	case capabilities.FromCapability:
		by, named = h.capability, routing.StorageAdmin
	}
	host, ok := by[named]
	return host, ok
}

// serveFramework makes the framework's protocols. They are spoken once the tree is there.
func (m *Manager) serveFramework(s *Settings) {
	serve := sync.OnceValue(func() *host.Host {
		return host.New(host.Config{
			Tree: m.realm, Allowed: s.allowsFramework, Note: m.logs.Note,
		})
	})
	m.hosts.framework = map[string]realm.Host{}
	for _, p := range framework.Protocols() {
		t := sock.Stream
		if framework.Packets(p) {
			t = sock.Packets
		}
		m.hosts.framework[p] = realm.Host{Type: t, Serve: func(ctx context.Context, c realm.Caller, conn *os.File) {
			_ = serve().Serve(ctx, c.User, c.By[0].Route.Source.At, p, conn) // it is in the user's log
		}}
	}
	m.hosts.capability = map[string]realm.Host{
		routing.StorageAdmin: {Type: sock.Packets, Serve: func(ctx context.Context, c realm.Caller, conn *os.File) {
			src := c.By[0].Route.Source
			_ = serve().ServeStorage(ctx, c.User, src.At, src.Name, conn) // it is in the user's log
		}},
	}
	m.hosts.builtin = map[string]realm.Host{}
	for _, p := range confine.Protocols() {
		m.hosts.builtin[p] = realm.Host{Machine: true}
	}
	m.hosts.events = realm.Host{Type: sock.Stream, Serve: func(ctx context.Context, c realm.Caller, conn *os.File) {
		var streams []host.Stream
		for _, d := range c.By {
			s := host.Stream{Event: d.Route.Source.Name, Route: d.Route}
			if d.Use != nil {
				s.Filter = d.Use.Filter
			}
			streams = append(streams, s)
		}
		_ = serve().Events(ctx, c.User, streams, conn)
	}}
}

// diskResolvers are the resolvers that every manager has; they compile with o.
func diskResolvers(o cml.Options) map[string]resolver.Resolver {
	return map[string]resolver.Resolver{
		"file": resolver.NewDisk(o), "efile": resolver.NewLoaded(resolver.LoadedConfig{Options: o}),
		resolver.ServiceScheme: resolver.Services{},
	}
}

// Above is what a manager with these settings has above its root, for tools that look at a tree which nobody runs: its
// capabilities, and the resolvers among them by name, which compile with o; of those that have loaders the ones in loaders, which
// may be nil. Without settings (nil) it is what every manager has, and nothing is forbidden.
func Above(o cml.Options, s *Settings, loaded *Loaders) (routing.Builtins, map[string]resolver.Resolver) {
	resolvers := diskResolvers(o)
	if loaded != nil {
		maps.Copy(resolvers, loaded.Resolvers())
	}
	b := builtins{
		runners: []string{runnerELF, runnerRunit}, resolvers: slices.Collect(maps.Keys(resolvers)), framework: framework.Protocols(),
		directories: map[string]manifest.Rights{dataDirectory: manifest.RightsRW}, protocols: confine.Protocols(), policy: s,
	}
	if s != nil {
		b.protocols = slices.AppendSeq(b.protocols, maps.Keys(s.HostSockets))
		for n, d := range s.HostDirectories {
			b.directories[n] = d.Rights
		}
	}
	return b, resolvers
}

// builtins is what stands above the root and beside each component, by name.
type builtins struct {
	runners, resolvers, protocols []string
	framework                     []string // protocols
	directories                   map[string]manifest.Rights
	policy                        *Settings // nil: nothing is forbidden
}

// dataDirectory is the directory that every manager offers to the root: where storage can be kept.
const dataDirectory = "data"

func (m *Manager) builtins(rs map[string]runners.Runner, resolvers map[string]resolver.Resolver, s *Settings) builtins {
	directories := map[string]manifest.Rights{}
	for n, d := range m.directories {
		directories[n] = d.Rights
	}
	return builtins{
		runners: slices.Collect(maps.Keys(rs)), resolvers: slices.Collect(maps.Keys(resolvers)),
		protocols:   append(slices.Collect(maps.Keys(m.hosts.builtin)), slices.Collect(maps.Keys(m.hostSockets))...),
		framework:   slices.Collect(maps.Keys(m.hosts.framework)),
		directories: directories, policy: s,
	}
}

func (b builtins) Has(k manifest.Kind, capability string) bool {
	return slices.Contains(b.of(k), capability)
}

func (b builtins) Framework(k manifest.Kind, capability string) bool {
	return k == manifest.KindProtocol && slices.Contains(b.framework, capability) ||
		k == manifest.KindEventStream && slices.Contains(framework.Events(), capability) ||
		k == manifest.KindDirectory && capability == "pkg"
}

func (b builtins) InRootEnvironment(k manifest.Kind, nameOrScheme string) bool {
	return (k == manifest.KindRunner || k == manifest.KindResolver) && b.Has(k, nameOrScheme)
}

// List names all of a kind, for "did you mean".
func (b builtins) List(k manifest.Kind) []string {
	all := slices.Clone(b.of(k))
	switch k {
	case manifest.KindProtocol:
		all = append(all, b.framework...)
	case manifest.KindDirectory:
		all = append(all, "pkg")
	}
	slices.Sort(all)
	return all
}

func (b builtins) of(k manifest.Kind) []string {
	switch k {
	case manifest.KindRunner:
		return b.runners
	case manifest.KindResolver:
		return b.resolvers
	case manifest.KindProtocol:
		return b.protocols
	case manifest.KindEventStream:
		return framework.Events()
	case manifest.KindDirectory:
		return slices.Collect(maps.Keys(b.directories))
	default:
		return nil
	}
}

// Rights are what may be done in a directory that is offered to the root.
func (b builtins) Rights(directory string) manifest.Rights { return b.directories[directory] }

// Forbids is what the configuration says.
func (b builtins) Forbids(k manifest.Kind, src capabilities.Source, target name.Moniker) (reason, hint string) {
	if b.policy == nil {
		return "", ""
	}
	return b.policy.forbids(k, src, target)
}

// ForbidsDebug is what the configuration says.
func (b builtins) ForbidsDebug(owner name.Moniker, environment, protocol string) (reason, hint string) {
	if b.policy == nil {
		return "", ""
	}
	return b.policy.forbidsDebug(owner, environment, protocol)
}
