package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/elf/confine"
)

// An Exposure is how much of the machine, and of others, a component's program can touch.
type Exposure struct {
	Moniker name.Moniker `json:"target_moniker"`
	// Score goes from 0, a program that was given nothing, to 100, one that has all that the manager's user has.
	Score   int      `json:"score"`
	Reasons []Reason `json:"reasons"` // worst first

	runner   name.Moniker // the component that runs it; "": the manager
	runnerAt manifest.Pos
}

// A Reason is a part of a score.
type Reason struct {
	Score int          `json:"score"`
	What  string       `json:"what"`
	Pos   manifest.Pos `json:"position,omitzero"` // of the line that says so; not valid for the manager's configuration
}

// ambient is the score of a program that is not confined, and the highest.
const ambient = 100

// What the parts of ambient authority are worth that can be given to a confined program. The scale is that of harm: who has the
// network reaches other machines; who has CAP_SYS_ADMIN can have all.
const (
	worthNetwork    = 25
	worthRoot       = 60 // a capability of Linux that is as good as root
	worthCapability = 10
	worthControl    = 15 // a protocol by which others are seen or changed
	worthRealm      = 5  // its own children
	worthShared     = 4  // a directory of others that it may write
	worthExecutable = 6  // besides, one that it may execute from: it can run what it has written
	worthRead       = 1
	worthProtocol   = 1 // of another component, or the manager
)

// asRoot are the capabilities of Linux from which one gets to all others (capabilities(7)).
var asRoot = strings.Fields(`linux.cap.sys_admin linux.cap.sys_module linux.cap.sys_rawio linux.cap.sys_ptrace linux.cap.dac_override
	linux.cap.dac_read_search linux.cap.setuid linux.cap.setfcap linux.cap.mknod linux.cap.bpf linux.cap.sys_chroot linux.cap.chown
	linux.cap.fowner linux.cap.sys_boot linux.cap.mac_admin linux.cap.mac_override`)

// Exposures are those of all components with a program, worst first. grants says what the manager's configuration gives.
func (t *Tree) Exposures(ctx context.Context, grants func(name.Moniker) confine.Grants) ([]Exposure, error) {
	by := map[name.Moniker]*Exposure{}
	var all []*Exposure
	err := t.ends(ctx, func(n *node, r Result) {
		d, _ := n.Decl(ctx)
		if d == nil || d.Program == nil || r.Route == nil || r.Target != n.moniker {
			return
		}
		e := by[n.moniker]
		if e == nil {
			e = &Exposure{Moniker: n.moniker, Reasons: []Reason{}}
			by[n.moniker] = e
			all = append(all, e)
			g := grants(n.moniker)
			if g.Unconfined {
				e.add(ambient, manifest.Pos{}, "it is not confined, by security_policy.sandbox.unconfined")
			} else if g.Network {
				e.add(worthNetwork, manifest.Pos{}, "the host's network, by security_policy.sandbox.network")
			}
		}
		switch r.Decl {
		case "program":
			switch s := r.Route.Source; {
			case s.Kind == capabilities.FromComponent:
				e.runner, e.runnerAt = s.At, r.Pos
			case s.Name != "elf":
				e.add(ambient, r.Pos, "its runner %s does not confine it", s.Name)
			}
		case "use":
			e.use(&r, d)
		}
	})
	for _, e := range all {
		e.addRunner(by)
	}
	out := make([]Exposure, len(all))
	for i, e := range all {
		slices.SortStableFunc(e.Reasons, func(a, b Reason) int { return b.Score - a.Score })
		e.Score = min(e.Score, ambient)
		out[i] = *e
	}
	slices.SortStableFunc(out, func(a, b Exposure) int { return b.Score - a.Score })
	return out, err
}

func (e *Exposure) add(score int, at manifest.Pos, format string, args ...any) {
	e.Score += score
	e.Reasons = append(e.Reasons, Reason{score, fmt.Sprintf(format, args...), at})
}

// addRunner adds what the component can touch that runs it, as part of which it runs.
func (e *Exposure) addRunner(by map[name.Moniker]*Exposure) {
	r := by[e.runner]
	e.runner = "" // once
	if r == nil {
		return
	}
	r.addRunner(by)
	if score := min(r.Score, ambient); score > 0 {
		e.add(score, e.runnerAt, "what its runner %s can touch", r.Moniker)
	}
}

// use adds what a use means.
func (e *Exposure) use(r *Result, d *manifest.Component) {
	s := r.Route.Source
	if s.Kind == capabilities.FromVoid {
		return
	}
	switch r.Kind {
	case manifest.KindDirectory:
		rights := manifest.Rights(0)
		for i := range d.Uses {
			if u := &d.Uses[i]; u.Pos == r.Pos && u.Kind == r.Kind && u.SourceName == r.Name {
				rights = u.Rights
			}
		}
		score, may := worthRead, "read"
		if s.Kind == capabilities.FromFramework && s.At == e.Moniker {
			score = 0 // its own package, which it sees anyway
		}
		if rights&(manifest.RightWriteBytes|manifest.RightModifyDirectory) != 0 {
			score, may = worthShared, "write"
			if rights.Has(manifest.RightExecute) {
				score, may = worthShared+worthExecutable, "write and execute"
			}
		}
		if score > 0 {
			e.add(score, r.Pos, "it may %s directory %s of %s", may, s.Name, s)
		}
	case manifest.KindProtocol, manifest.KindService:
		switch {
		case s.Kind == capabilities.FromBuiltin && s.Name == confine.Network:
			e.add(worthNetwork, r.Pos, "the host's network")
		case s.Kind == capabilities.FromBuiltin && slices.Contains(asRoot, s.Name):
			e.add(worthRoot, r.Pos, "%s, which is as good as root", s.Name)
		case s.Kind == capabilities.FromBuiltin && slices.Contains(confine.Protocols(), s.Name):
			e.add(worthCapability, r.Pos, "%s", s.Name)
		case s.Kind == capabilities.FromFramework && framework.Restricted(s.Name):
			e.add(worthControl, r.Pos, "%s of %s", s.Name, s)
		case s.Kind == capabilities.FromFramework && s.Name == framework.Realm:
			e.add(worthRealm, r.Pos, "%s: it makes children", s.Name)
		default:
			e.add(worthProtocol, r.Pos, "%s %s of %s", r.Kind, s.Name, s)
		}
	}
}
