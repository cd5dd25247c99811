package manager

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runtime/control"
)

// sandbox says what m's program can touch, and why: as its next start would find it.
func (m *Manager) sandbox(ctx context.Context, at name.Moniker) (*control.Sandbox, error) {
	if err := m.realm.Resolve(ctx, at); err != nil {
		return nil, err
	}
	n, _ := m.realm.Node(at)
	d, err := n.Decl(ctx)
	if err != nil {
		return nil, err
	}
	out := &control.Sandbox{}
	runner, err := m.realm.Engine().Runner(ctx, n)
	if err != nil {
		return nil, err
	}
	grants := m.settings.Grants(at)
	switch {
	case runner == nil:
		out.Why = "it has no program"
		return out, nil
	case runner.Source.Kind != capabilities.FromBuiltin || runner.Source.Name != runnerELF:
		out.Why = fmt.Sprintf("its runner %s is not elf, and gives it what it likes of the following", runner.Source.Name)
	case m.confiner == nil:
		out.Why = "nothing is confined here (cmgr doctor says why): it has all that the manager's user has, among it"
	case grants.Unconfined:
		out.Why = "security_policy.sandbox.unconfined of the manager's configuration lists it: it has all that the manager's user has, among it"
	default:
		out.Confined, out.Why = true, "it has this and nothing else"
	}
	why := map[string]string{}
	if grants.Network {
		why["network"] = "security_policy.sandbox.network of the manager's configuration"
	}
	var places []confine.Place
	for i := range d.Uses {
		u := &d.Uses[i]
		r, err := m.realm.Engine().Use(ctx, n, u)
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p := confine.Place{Path: u.TargetPath, What: fmt.Sprintf("%s %s", u.Kind, u.SourceName), Rights: manifest.RightsR}
		switch {
		case u.Kind == manifest.KindConfig:
			p.Path, p.What = "/config", "configuration"
			if slices.ContainsFunc(places, func(o confine.Place) bool { return o.Path == p.Path }) {
				continue
			}
			r, err = nil, nil
		case err == nil && r.Source.Kind == capabilities.FromVoid, p.Path == "" && u.NumberedHandle == nil:
			continue // runners; what is absent on purpose
		case err == nil && m.machine(r.Source):
			grants.Add(r.Source.Name)
			key := "network"
			if r.Source.Name != confine.Network {
				key = "capabilities"
			}
			if why[key] != "" {
				why[key] += "; "
			}
			why[key] += fmt.Sprintf("%s, used at %s", r.Source.Name, u.Pos)
			continue
		case u.Kind == manifest.KindStorage:
			p.Rights = manifest.RightsRW
		case u.Kind == manifest.KindDirectory:
			p.Rights = u.Rights
		}
		if u.NumberedHandle != nil {
			p.Path = fmt.Sprintf("descriptor %d", *u.NumberedHandle)
		}
		reason := fmt.Sprintf("used at %s", u.Pos)
		if r != nil {
			reason = fmt.Sprintf("from %s, %s", m.whence(r), reason)
		} else if err != nil {
			p.Rights, reason = 0, "leads nowhere: `cmgr route` says why; "+reason
			if u.Kind == manifest.KindDirectory || u.Kind == manifest.KindStorage {
				continue // it is not there
			}
		}
		why[p.Path] = reason
		places = append(places, p)
	}
	for _, c := range d.Capabilities {
		if c.Kind == manifest.KindDirectory {
			places = append(places, confine.Place{Path: "/out", What: "what it provides", Rights: manifest.RightsRW})
			break
		}
	}
	i, _ := m.realm.Instance(at)
	if out.Confined {
		for _, a := range m.confiner.Describe(i.PackageDir != "", places, grants) {
			if a.Path == "/pkg" {
				why["/pkg"] = i.PackageDir
			}
			out.Access = append(out.Access, control.Access{
				Path: a.Path, May: a.May, What: a.What, Why: why[a.Path], NotWithheld: a.Loose.Names(),
			})
		}
		return out, nil
	}
	for _, p := range places {
		out.Access = append(out.Access, control.Access{Path: p.Path, What: p.What, Why: why[p.Path]})
	}
	return out, nil
}

// machine says whether s is a protocol that means something of the machine.
func (m *Manager) machine(s capabilities.Source) bool {
	return s.Kind == capabilities.FromBuiltin && m.hosts.builtin[s.Name].Machine
}

// whence is where a route leads, down to the host's directory where it is one.
func (m *Manager) whence(r *capabilities.Route) string {
	dir := ""
	switch s := r.Source; s.Kind {
	case capabilities.FromBuiltin:
		dir = m.directories[s.Name].Path
	case capabilities.FromFramework:
		if i, ok := m.realm.Instance(s.At); ok && r.Kind == manifest.KindDirectory {
			dir = i.PackageDir
		}
	}
	if dir != "" {
		return filepath.Join(dir, r.Subdir)
	}
	return r.Source.String()
}
