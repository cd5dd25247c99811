package elf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runners/elf/job"
)

// grants are what m may have beyond the rule, by the manager's configuration and as machine was routed to it; Unconfined where
// nothing is confined at all.
func (r *Runner) grants(m name.Moniker, machine []string) (g confine.Grants) {
	if r.Confine == nil {
		return confine.Grants{Unconfined: true}
	}
	if r.Grants != nil {
		g = r.Grants(m)
	}
	for _, p := range machine {
		g.Add(p)
	}
	return g
}

// confine gives spec its world, unless it is to have none, with what info routes to it. After the start, release is to be called.
func (r *Runner) confine(s *settings, info *runners.StartInfo, spec *job.Spec) (release func(), err error) {
	in := confine.Contents{Package: -1, Grants: r.grants(info.Moniker, info.Machine)}
	if in.Grants.Unconfined {
		if len(info.Listeners) > 0 {
			spec.TellPID = listenPID
		}
		return func() {}, beside(info, spec)
	}
	if len(info.Listeners) > 0 {
		spec.Env = append(spec.Env, listenPID+"=1") // of a PID namespace of its own
	}
	var opened []int
	closeAll := func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	file, dir := spec.Path, s.cwd
	if info.Package.Dir != "" {
		if in.Package, err = unix.Open(info.Package.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, &unavailable{fmt.Errorf("package %s: %w", info.Package.Dir, err)}
		}
		opened = append(opened, in.Package)
		if !filepath.IsAbs(s.binary) {
			file = filepath.Join("/pkg", s.binary)
			spec.Args[0] = file
		}
		if !filepath.IsAbs(dir) {
			dir = filepath.Join("/pkg", dir)
		}
	}
	for _, e := range info.Namespace {
		in.Items = append(in.Items, confine.Item{Path: e.Path, FD: int(e.File.Fd()), Rights: e.Rights})
	}
	for i, fd := range spec.Files[min(3, len(spec.Files)):] {
		root, err := confine.Alone(fd, manifest.RightsRW|manifest.RightExecute)
		if err != nil {
			return nil, &unavailable{fmt.Errorf("descriptor %d: %w", i+3, err)}
		}
		if root >= 0 {
			spec.Files[i+3] = root
			opened = append(opened, root)
		}
	}
	var world *proc.World
	var done func()
	if s.join != 0 {
		world, done, err = r.Confine.Join(s.join, in, file, dir)
	} else {
		world, done, err = r.Confine.World(in, file, dir)
	}
	if err != nil {
		return nil, &worldError{err}
	}
	spec.World = world
	return func() {
		done()
		closeAll()
	}, nil
}

const listenPID = "LISTEN_PID"

// beside has a program that shares the manager's file system find its namespace below info.View, where what is not there yet is
// linked to.
func beside(info *runners.StartInfo, spec *job.Spec) error {
	if info.View == "" {
		return nil
	}
	for _, e := range info.Namespace {
		at := filepath.Join(info.View, e.Path)
		var here, there unix.Stat_t
		if err := unix.Fstat(int(e.File.Fd()), &there); err != nil {
			return &unavailable{fmt.Errorf("path %s: %w", e.Path, err)}
		}
		if err := unix.Lstat(at, &here); err == nil {
			if here.Dev == there.Dev && here.Ino == there.Ino {
				continue
			}
		}
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", e.File.Fd()))
		if old, _ := os.Readlink(at); err == nil && old == target {
			continue // for another program of the same run
		}
		if err == nil {
			_ = os.Remove(at) // an empty place for it, or nothing
			if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
				err = os.Symlink(target, at)
			}
		}
		if err != nil {
			return &unavailable{fmt.Errorf("path %s: %w", e.Path, err)}
		}
	}
	spec.Env = append(spec.Env, namespaceEnv+"="+info.View)
	return nil
}

// namespaceEnv is the variable that tells a program that shares the manager's file system where its namespace is.
const namespaceEnv = "CMGR_NAMESPACE"

// worldError says why there is no world for a program.
type worldError struct{ error }

func (e *worldError) Unwrap() error { return e.error }

// Code is Invalid where nothing can be mounted at a path, else Unavailable.
func (e *worldError) Code() capabilities.Code {
	if _, ok := errors.AsType[*confine.PointError](e.error); ok {
		return capabilities.Invalid
	}
	return capabilities.Unavailable
}
