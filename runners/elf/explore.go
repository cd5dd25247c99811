package elf

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
)

// exploring begins the names of the jobs of explorations.
const exploring = "explore"

// toolsPath is where an exploration finds its tools.
const toolsPath = "/tools"

// Explore runs an operator's program as the component's own would be: its user, environment, directory, limits and world. Beside
// a run it is in a job within that one's, if jobs are cgroups, and then in its very world, if that needs no place for Tools,
// which are found at /tools.
func (r *Runner) Explore(ctx context.Context, info runners.StartInfo, x runners.Exploration) (runners.Program, error) {
	for _, h := range info.Handles { // their numbers are the program's own affair
		h.File.Close()
	}
	info.Handles = []runners.Handle{{Number: 0, File: x.Files[0]}}
	info.Stdout, info.Stderr = x.Files[1], x.Files[2]
	if x.Tools != nil {
		x.Tools = mnt.Here(x.Tools)
		info.Namespace = append(info.Namespace, runners.NamespaceEntry{Path: toolsPath, File: x.Tools, Rights: manifest.RightsRX})
	}
	defer info.Close()
	p, err := r.explore(ctx, &info, x)
	if err == nil {
		return p, nil
	}
	e := failure(&info, err).(*runners.Error)
	e.Op = "explore"
	if pe, ok := errors.AsType[*proc.Error](err); ok && pe.Op == "exec" {
		e.Err = err // not the manifest's binary is meant
	}
	return nil, e
}

func (r *Runner) explore(ctx context.Context, info *runners.StartInfo, x runners.Exploration) (*program, error) {
	s, errs := parse(info.Program)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.key, s.binary, s.args = "binary", x.Command[0], x.Command[1:]
	s.stop, s.ready, s.critical, s.health = stopByKill, false, false, health{}
	s.stdout, s.stderr = true, true
	s.environ = slices.DeleteFunc(slices.Clone(s.environ), func(old string) bool {
		name, _, _ := strings.Cut(old, "=")
		return slices.ContainsFunc(x.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	})
	s.environ = append(s.environ, x.Env...)
	if x.Tools != nil {
		tools := toolsPath
		if r.grants(info.Moniker, info.Machine).Unconfined {
			tools = filepath.Join(info.View, toolsPath)
		}
		path := Path
		s.environ = slices.DeleteFunc(s.environ, func(e string) bool {
			own, ok := strings.CutPrefix(e, "PATH=")
			if ok {
				path = own
			}
			return ok
		})
		s.environ = append(s.environ, "PATH="+tools+":"+path)
	}
	in := place{explores: true, terminal: x.Terminal}
	switch b := x.Beside.(type) {
	case *program:
		in.beside = b
	case *service:
		in.beside, _ = b.main.(*program)
	}
	if in.beside != nil {
		s.resources = nil                                           // the run's hold for it, too
		if x.Tools == nil && r.Jobs.Backend().Name == job.Cgroup2 { // else it would be a keeper that entered
			in.beside.mu.Lock()
			s.join = in.beside.pid
			in.beside.mu.Unlock()
		}
	}
	if s.join > 0 {
		handles := len(info.Handles)
		if p, err := r.begin(ctx, s, info, in); err == nil {
			return p, nil
		}
		// What the run was given is not what it would be given now, or it ends.
		for _, h := range info.Handles[handles:] {
			h.File.Close()
		}
		info.Handles = info.Handles[:handles]
	}
	s.join = 0
	return r.begin(ctx, s, info, in)
}
