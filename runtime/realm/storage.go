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
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/internal/sys/mnt"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/elf/confine"
)

// What a component keeps in a storage lies below the storage's backing directory: in a directory of its instance id where the
// component id index has one, else, by its moniker below the storage's component, in net/children/jobs:a/data
// (component-runtime.md §4).

// The parts of such a path that are not monikers' segments.
const (
	storageData     = "data"
	storageChildren = "children"
)

// storedAt is where user's data lies in a storage that the component at declares: tree holds dir, and for a moniker also what is
// kept for those below it.
func (r *Realm) storedAt(user, at name.Moniker, c *manifest.Capability) (dir, tree string, err error) {
	if id := r.cfg.InstanceIDs[user]; id != "" {
		return id, id, nil
	}
	if c.Storage.StaticIDOnly {
		return "", "", &Error{
			Op: "open", At: user, Why: capabilities.NotFound,
			Err: fmt.Errorf("it tried to use a storage capability from %s but it is not in the component id index", at),
			Hint: "give it an instance_id in the file that component_id_index_path of the manager's --config names, or the storage\n" +
				`  storage_id: "static_instance_id_or_moniker"`,
		}
	}
	below := strings.TrimPrefix(strings.TrimPrefix(string(user), string(at)), "/")
	tree = strings.Join(strings.Split(below, "/"), "/"+storageChildren+"/")
	return path.Join(tree, storageData), tree, nil
}

// storage opens i's own directory of a storage, making it if need be.
func (i *instance) storage(ctx context.Context, route *capabilities.Route) (*os.File, error) {
	rel, _, err := i.realm.storedAt(i.moniker, route.Source.At, route.Source.Capability)
	if err != nil {
		return nil, err
	}
	holder, err := i.realm.reach(ctx, route.Source.At)
	if err != nil {
		return nil, err
	}
	dir, err := i.realm.directory(ctx, holder, route.Backing, true)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return mnt.MakeBeneath(dir, rel, 0o700)
}

// purge removes what i, and all below it, keep in storages.
func (i *instance) purge(ctx context.Context) {
	if i.realm.cfg.Sockets == nil {
		return
	}
	i.mu.Lock()
	res := i.resolutionLocked()
	kids := i.childrenLocked()
	i.mu.Unlock()
	for _, c := range kids {
		c.purge(ctx)
	}
	if res == nil {
		return
	}
	d := res.Decl.Decl()
	for k := range d.Uses {
		if d.Uses[k].Kind != manifest.KindStorage {
			continue
		}
		if err := i.purgeOne(ctx, &d.Uses[k]); err != nil {
			i.realm.cfg.Log.Warn("storage of a destroyed component remains", "instance", i.moniker,
				"storage", d.Uses[k].SourceName, "error", err)
		}
	}
}

func (i *instance) purgeOne(ctx context.Context, u *manifest.Use) error {
	route, err := i.realm.engine.Use(ctx, i, u)
	if err != nil || route.Source.Kind == capabilities.FromVoid {
		return nil // it had none
	}
	_, tree, err := i.realm.storedAt(i.moniker, route.Source.At, route.Source.Capability)
	if err != nil {
		return nil
	}
	root, _, err := i.realm.backingRoot(ctx, route.Source.At, route.Backing)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(tree)
}

// backingRoot opens the directory that a storage is kept in, making it if need be. It starts nobody.
func (r *Realm) backingRoot(
	ctx context.Context, at name.Moniker, backing *capabilities.Route,
) (root *os.Root, dir string, err error) {
	f, err := r.directoryAsIs(ctx, at, backing, true)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	link := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if dir, err = os.Readlink(link); err != nil {
		return nil, "", err
	}
	root, err = os.OpenRoot(link)
	return root, dir, err
}

// A Stored is what one component keeps in one storage.
type Stored struct {
	Provider  name.Moniker // whose storage it is
	Storage   string       // the storage's name there
	User      name.Moniker
	ID        string // under which instance id; "" for under the moniker
	Directory string // on the host
}

// Storages is all that is kept in the storages of the components that are known, whether its owner is in the tree or not; sorted.
// Nothing is started for that.
func (r *Realm) Storages(ctx context.Context) ([]Stored, error) {
	var out []Stored
	for _, n := range r.Instances() {
		if n.Decl == nil {
			continue
		}
		for k := range n.Decl.Capabilities {
			c := &n.Decl.Capabilities[k]
			if c.Kind != manifest.KindStorage {
				continue
			}
			some, err := r.Stored(ctx, n.Moniker, c.Name)
			if err != nil {
				return nil, err
			}
			out = append(out, some...)
		}
	}
	return out, nil
}

// Stored is what is kept in one storage, sorted by user.
func (r *Realm) Stored(ctx context.Context, at name.Moniker, storage string) ([]Stored, error) {
	_, root, dir, err := r.openStorage(ctx, at, storage)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	byID := make(map[string]name.Moniker, len(r.cfg.InstanceIDs))
	for m, id := range r.cfg.InstanceIDs {
		byID[id] = m
	}
	var out []Stored
	var walk func(m name.Moniker, rel string) error
	walk = func(m name.Moniker, rel string) error {
		entries, err := fs.ReadDir(root.FS(), rel)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			s := Stored{Provider: at, Storage: storage}
			sub := path.Join(rel, e.Name())
			if s.User = byID[e.Name()]; rel == "." && s.User != "" {
				s.ID, s.Directory = e.Name(), path.Join(dir, sub)
				out = append(out, s)
				continue
			}
			if name.CheckChild(e.Name()) != nil {
				continue // nothing of ours
			}
			s.User = m.Child(e.Name())
			if st, err := root.Stat(path.Join(sub, storageData)); err == nil && st.IsDir() {
				s.Directory = path.Join(dir, sub, storageData)
				out = append(out, s)
			}
			if err := walk(s.User, path.Join(sub, storageChildren)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	if err := walk(at, "."); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b Stored) int { return strings.Compare(string(a.User), string(b.User)) })
	return out, nil
}

// openStorage opens the directory of a storage that the component at declares; it starts nobody.
func (r *Realm) openStorage(
	ctx context.Context, at name.Moniker, storage string,
) (c *manifest.Capability, root *os.Root, dir string, err error) {
	i, err := r.reach(ctx, at)
	if err != nil {
		return nil, nil, "", err
	}
	d, err := i.Decl(ctx)
	if err != nil {
		return nil, nil, "", err
	}
	c = d.Capability(manifest.KindStorage, storage)
	if c == nil {
		return nil, nil, "", &Error{Op: "open", At: at, Why: capabilities.NotFound, Err: fmt.Errorf("it declares no storage %q", storage)}
	}
	// Who administers it has the same directory as who uses it.
	route, err := r.engine.Use(ctx, i, &manifest.Use{
		Kind: manifest.KindProtocol, Source: manifest.Ref{Kind: manifest.RefCapability, Name: storage},
		SourceName: routing.StorageAdmin, Pos: c.Pos,
	})
	if err != nil {
		return nil, nil, "", err
	}
	root, dir, err = r.backingRoot(ctx, at, route.Backing)
	return c, root, dir, err
}

// OpenStored opens what user keeps in a storage that the component at declares, making it if need be; "" is the whole storage.
// The descriptor is the caller's, and leads nowhere else where the manager may see to that.
func (r *Realm) OpenStored(ctx context.Context, at name.Moniker, storage string, user name.Moniker) (*os.File, error) {
	c, root, _, err := r.openStorage(ctx, at, storage)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	rel := "."
	if user != "" {
		if rel, _, err = r.storedAt(user, at, c); err != nil {
			return nil, err
		}
	}
	if err := root.MkdirAll(rel, 0o700); err != nil {
		return nil, err
	}
	dir, err := root.Open(rel)
	if err != nil {
		return nil, err
	}
	return confine.Give(dir, manifest.RightsRW)
}

// DeleteStored removes what user keeps in a storage that the component at declares; a user that is running is refused. "" removes
// what anybody keeps there.
func (r *Realm) DeleteStored(ctx context.Context, at name.Moniker, storage string, user name.Moniker) error {
	all, err := r.Stored(ctx, at, storage)
	if err != nil {
		return err
	}
	if user != "" {
		all = slices.DeleteFunc(all, func(s Stored) bool { return s.User != user })
		if len(all) == 0 {
			return &Error{
				Op: "delete storage of", At: user, Why: capabilities.NotFound, Err: fmt.Errorf("it keeps nothing in %s of %s", storage, at),
			}
		}
	}
	for _, s := range all {
		if i := r.find(s.User); i != nil && i.info().Program != nil {
			return &Error{
				Op: "delete storage of", At: s.User, Why: capabilities.Precondition, Err: errors.New("its program runs"),
				Hint: fmt.Sprintf("`cmgr stop %s`", s.User),
			}
		}
	}
	c, root, _, err := r.openStorage(ctx, at, storage)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, s := range all {
		rel, _, err := r.storedAt(s.User, at, c)
		if err != nil {
			return err
		}
		if err := root.RemoveAll(rel); err != nil {
			return err
		}
	}
	return nil
}
