package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cmgr/cmgr/runtime/boot"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/screen"
	"github.com/cmgr/cmgr/runtime/verify"
)

// bootResolvers adds what resolves the components of the boot script to those of the manager, and says which URL the root has.
func (m *Manager) bootResolvers() (root string, err error) {
	p, all := m.cfg.Boot, m.resolvers
	if t := p.Tree; t != nil {
		loaded, _ := all[m.cfg.BootLoader].(*resolver.Loaded)
		m.compiled = resolver.NewCompiled(resolver.CompiledConfig{
			Records: t.Records, Manifests: t.Manifests, Sources: t.Sources, Rest: all["file"], Loaded: loaded,
		})
		all["file"] = m.compiled
		return t.URL, nil
	}
	all[boot.Scheme], err = boot.NewResolver(p, m.bootFiles(), true)
	return boot.RootURL, err
}

// bootFiles are where the components of the boot script are.
func (m *Manager) bootFiles() boot.Files {
	f := boot.Files{Resolver: m.resolvers["file"], Scheme: "file"}
	if n := m.cfg.BootLoader; n != "" {
		f = boot.Files{Resolver: m.resolvers[n], Scheme: n, Loader: m.loaders.prims[n]}
	}
	return f
}

// bootUp runs the boot script. The whole of it is checked first: each component that is not lazy is resolved, with all below it,
// and each of their routes must lead somewhere. A tree that was compiled has been checked then, but for its packages.
func (m *Manager) bootUp(ctx context.Context) error {
	if s := m.cfg.Screen; s != nil {
		s.Progress(&screen.Boot{Of: m.cfg.Boot.Steps(), Said: "starting", Doing: "what it loads is resolved"})
		s.Flush()
	}
	var err error
	if t := m.cfg.Boot.Tree; t == nil {
		err = m.checkBoot(ctx)
	} else if !t.Lazy {
		err = m.compiled.Fetch(ctx)
	}
	if err != nil {
		return err
	}
	return m.boot.Run(ctx)
}

func (m *Manager) checkBoot(ctx context.Context) error {
	resolvers := map[string]resolver.Resolver{}
	for n, r := range m.resolvers {
		resolvers[n] = r
	}
	var err error
	if resolvers[boot.Scheme], err = boot.NewResolver(m.cfg.Boot, m.bootFiles(), false); err != nil {
		return err
	}
	t, err := verify.Open(ctx, verify.Config{Root: boot.RootURL, Builtins: m.above, Resolvers: resolvers})
	if err != nil {
		return err
	}
	var found []error
	_, err = t.Check(ctx, nil, false, func(r verify.Result) {
		if r.Severity != verify.Error || r.Err == nil {
			return
		}
		at := ""
		if segs := r.Target.Segments(); len(segs) > 0 {
			if c := m.cfg.Boot.Component(segs[0]); c != nil {
				at = c.At + ": "
			}
		} else if c := m.cfg.Boot.Component(strings.TrimPrefix(r.Name, boot.RootURL)); c != nil {
			at = c.At + ": "
		}
		found = append(found, fmt.Errorf("%s%w", at, r.Err))
	})
	if err == nil && found != nil {
		err = errors.Join(found...)
	}
	return err
}

// tellBoot shows how a boot goes on.
func (m *Manager) tellBoot(n boot.News) {
	s := m.cfg.Screen
	if s == nil {
		return
	}
	at := &screen.Boot{Done: n.Step - 1, Of: n.Steps, Said: n.Progress, Doing: n.Text}
	switch {
	case n.Internal != "starting":
		s.Progress(nil)
	case n.Hangs > 0:
		s.Say(fmt.Sprintf("boot: instruction %d, %s, has not returned for %s", n.Step, n.Text, n.Hangs))
	case n.Said != "":
		s.Say("boot: " + n.Said)
	case n.Reached && m.cfg.BootDebug: // said already
	case n.Reached:
		at.Done, at.Doing, at.Reached = n.Step, "", true
		s.Progress(at)
	case n.Begins:
		if m.cfg.BootDebug && n.Debug != "" {
			s.Say("boot: " + n.Debug)
		}
		s.Progress(at)
	default:
		return
	}
	s.Flush()
}

// progress is what the management interface says of the boot.
func (m *Manager) progress() control.Progress {
	if m.boot != nil {
		s := m.boot.Status()
		p := control.Progress{Internal: s.Internal, Said: s.Progress}
		if s.Internal == "starting" {
			p.Step, p.Steps, p.Instruction, p.Since = s.Step, s.Steps, s.Text, s.Since
		}
		return p
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return control.Progress{Internal: m.phase, Said: m.phase}
}

// enter says what the manager does from now on.
func (m *Manager) enter(phase string) {
	m.mu.Lock()
	m.phase = phase
	m.mu.Unlock()
}

// bootFailed takes the tree down, as the script could not be run to its end.
func (m *Manager) bootFailed(err error) {
	m.mu.Lock()
	m.failed = fmt.Errorf("boot: %w", err)
	m.mu.Unlock()
	if m.cfg.Screen != nil {
		m.cfg.Screen.Progress(nil)
		m.cfg.Screen.Say("boot failed, shutting down")
	}
	m.downOnce.Do(func() { close(m.down) })
}

// stopBoot stops what the script started, in its order.
func (m *Manager) stopBoot(ctx context.Context) {
	m.enter("stopping")
	if m.boot != nil {
		m.boot.Stop(ctx)
	}
}
