package realm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// outgoingPath is where a program that provides directories finds the one that their paths are in.
const outgoingPath = "/out"

// outgoing is the directory in which i provides what it declares by path, with the directories that are on the way to that. It
// stays as long as the instance.
func (i *instance) outgoing(ctx context.Context) (string, error) {
	d, err := i.Decl(ctx)
	if err != nil {
		return "", err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.out == "" {
		if i.out, err = i.realm.cfg.Sockets.Outgoing(); err != nil {
			return "", err
		}
	}
	if i.outFor == d {
		return i.out, nil
	}
	top, err := mnt.Open(i.out)
	if err != nil {
		return "", err
	}
	defer top.Close()
	for k := range d.Capabilities {
		c := &d.Capabilities[k]
		if !inOutgoing(c) {
			continue
		}
		at := c.Path
		if c.Kind == manifest.KindProtocol {
			at = path.Dir(at)
		}
		made, err := mnt.MakeBeneath(top, at, 0o777) // whoever the program runs as
		if err != nil {
			return "", err
		}
		made.Close()
	}
	i.outFor = d
	return i.out, nil
}

// inOutgoing says whether a program provides c by what it puts into its outgoing directory.
func inOutgoing(c *manifest.Capability) bool {
	return c.Kind == manifest.KindDirectory || c.Kind == manifest.KindProtocol && c.Activate == manifest.ActivationBind
}

// deliverOutgoing gives the program the directory for what it provides.
func (i *instance) deliverOutgoing(ctx context.Context, d *manifest.Component, info *runners.StartInfo) error {
	if !slices.ContainsFunc(d.Capabilities, func(c manifest.Capability) bool { return inOutgoing(&c) }) {
		return nil
	}
	dir, err := i.outgoing(ctx)
	if err != nil {
		return err
	}
	for _, to := range []func(*os.File){
		func(f *os.File) { info.Outgoing = f },
		func(f *os.File) {
			info.Namespace = append(info.Namespace, runners.NamespaceEntry{Path: outgoingPath, File: f, Rights: manifest.RightsRW})
		},
	} {
		f, err := mnt.Open(dir)
		if err != nil {
			return err
		}
		to(f)
	}
	return nil
}

// directory opens what a directory route leads to, for user, and starts who provides it. What of its path is missing is made if
// makes says so.
func (r *Realm) directory(ctx context.Context, user *instance, route *capabilities.Route, makes bool) (*os.File, error) {
	if s := route.Source; s.Kind == capabilities.FromComponent {
		i, err := r.reach(ctx, s.At)
		if err != nil {
			return nil, err
		}
		if _, err := i.outgoing(ctx); err != nil {
			return nil, err
		}
		if i != user {
			// Its provider is started; where that waits for the user in turn, the directory has to do as it is.
			if done, err := i.await(ctx, "start"); err == nil {
				done() // start says it again
				if err := i.start(ctx, reasonAccess(s.Name)); err != nil {
					return nil, err
				}
			}
		}
	}
	return r.directoryAsIs(ctx, user.moniker, route, makes)
}

// directoryAsIs is directory that starts nobody.
func (r *Realm) directoryAsIs(ctx context.Context, user name.Moniker, route *capabilities.Route, makes bool) (*os.File, error) {
	var base, rel string
	switch s := route.Source; s.Kind {
	case capabilities.FromFramework:
		i, err := r.reach(ctx, s.At)
		if err != nil {
			return nil, err
		}
		res, err := i.resolve(ctx)
		if err != nil {
			return nil, err
		}
		if base = res.Package.Dir; base == "" {
			return nil, &Error{Op: "open", At: s.At, Why: capabilities.NotFound, Err: errors.New("it has no package on this machine")}
		}
	case capabilities.FromBuiltin:
		have := r.cfg.Directories[s.Name]
		if base = have.Path; base != "" && !have.Rights.Has(route.Rights) {
			return nil, &Error{
				Op: "open", At: user, Why: capabilities.Denied, Err: fmt.Errorf("requested rights (%s) greater than provided rights (%s) at %s",
					strings.Join(route.Rights.Names(), ", "), strings.Join(have.Rights.Names(), ", "), s),
			}
		}
		if base == "" {
			return nil, &Error{Op: "open", At: user, Why: capabilities.NotFound, Err: fmt.Errorf("directory %s: not in this manager", s.Name)}
		}
	case capabilities.FromComponent:
		i, err := r.reach(ctx, s.At)
		if err != nil {
			return nil, err
		}
		if base, err = i.outgoing(ctx); err != nil {
			return nil, err
		}
		rel = s.Capability.Path
	default:
		return nil, &Error{Op: "open", At: user, Why: capabilities.NotFound, Err: fmt.Errorf("%s: is no directory", s)}
	}
	dir, err := mnt.Open(base)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	rel = strings.TrimPrefix(path.Join("/", rel, route.Subdir), "/")
	if makes {
		return mnt.MakeBeneath(dir, rel, 0o755)
	}
	f, err := mnt.Beneath(dir, rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Op: "open", At: user, Why: capabilities.NotFound, Err: fmt.Errorf("%s has no directory %q", route.Source, rel)}
	}
	return f, err
}

// deliverFiles puts the directory or storage that u uses into the namespace.
func (i *instance) deliverFiles(ctx context.Context, got *delivery, u *manifest.Use, info *runners.StartInfo) error {
	route, err := i.realm.engine.Use(ctx, i, u)
	if err == nil && route.Source.Kind == capabilities.FromVoid {
		return nil
	}
	var f *os.File
	rights := manifest.RightsRW
	if err == nil {
		if u.Kind == manifest.KindStorage {
			f, err = i.storage(ctx, route)
		} else {
			rights = u.Rights
			f, err = i.realm.directory(ctx, i, route, false)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		i.missing(u, err)
		return nil
	}
	return i.putFiles(got, u.TargetPath, runners.NamespaceEntry{File: f, Rights: rights, Own: u.Kind == manifest.KindStorage}, info)
}

// putFiles puts the directory of e, which it owns, at at.
func (i *instance) putFiles(got *delivery, at string, e runners.NamespaceEntry, info *runners.StartInfo) error {
	v, err := i.see(got, info)
	if err == nil && covered(at, info) {
		err = v.Hold(at, true)
	}
	if err != nil {
		e.File.Close()
		return err
	}
	e.Path = at
	info.Namespace = append(info.Namespace, e)
	return nil
}
