package runit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runit/djb"
	"github.com/cmgr/cmgr/runners/runit/runsvdir"
)

// A Tree is where the services of a directory of them become components. All of it may be called from any goroutine.
type Tree interface {
	// Has says whether m has that collection, a transient one.
	Has(m name.Moniker, collection string) bool
	// Create adds the service directory at dir to the collection of m and has it started, which is not waited for; whatever
	// ends it unasked, it is started again. A child of that name is replaced.
	Create(ctx context.Context, m name.Moniker, collection, child, dir string) error
	// Destroy ends a child and takes it out; one that isn't there is fine.
	Destroy(ctx context.Context, m name.Moniker, collection, child string) error
}

// The keys of the program block, and the collection where it names none.
const (
	keyDir            = "service_dir"
	keyDirs           = "service_dirs"
	keyCollection     = "collection"
	defaultCollection = "services"
)

// A directory is one run of a component whose program block has service_dirs: what runsvdir does, with children in its collection
// in place of runsv processes. Its children are destroyed by the tree when it has ended, as those of any component are.
type directory struct {
	runners.Ending
	runner     *Runner
	moniker    name.Moniker
	dir        string
	collection string
	started    time.Time
	cancel     context.CancelFunc
	wg         sync.WaitGroup // of what is done to children

	// mu guards what follows.
	mu       sync.Mutex
	cause    runners.Cause
	services map[string]*service // by the name of its directory
	leaving  []*service          // those that may not be gone yet
}

// A service is a child.
type service struct {
	dev, ino uint64
	child    string
	created  chan struct{} // closed when the tree has it, or could not take it
	gone     chan struct{} // closed when the tree has it no more
}

func (r *Runner) startDirectory(ctx context.Context, info *runners.StartInfo) (*directory, error) {
	for _, e := range info.Program.Unknown("runner", keyDirs, keyCollection) {
		return nil, info.Program.Errorf(e.Key, "is not a key of the runner runit beside service_dirs; collection is")
	}
	dir, err := pathAt(info, keyDirs, "it names a directory of service directories")
	if err != nil {
		return nil, err
	}
	collection, ok, err := info.Program.String(keyCollection)
	if err != nil {
		return nil, err
	}
	if !ok {
		collection = defaultCollection
	}
	switch {
	case r.Jobs.Backend().Name != job.Cgroup2:
		return nil, errNoCgroup
	case r.Tree == nil:
		return nil, errors.New("service_dirs: there is no tree for its services here")
	case !r.Tree.Has(info.Moniker, collection):
		return nil, info.Program.Errorf(keyDirs,
			`needs a collection for its services: add collections: [{ name: %q, durability: "transient" }]`, collection)
	}
	if err := hold(ctx, info); err != nil {
		return nil, err
	}
	d := &directory{
		runner: r, moniker: info.Moniker, dir: dir, collection: collection, started: time.Now(), services: map[string]*service{},
	}
	run, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	r.wg.Go(func() {
		runsvdir.Follow(run, dir, func() { d.scan(run) }, d.warn)
		d.wg.Wait()
		d.mu.Lock()
		x := runners.Exit{Cause: d.cause, Started: d.started, Ended: time.Now()}
		d.mu.Unlock()
		if x.Cause == runners.ByKill {
			x.Code, x.Signal = -1, syscall.SIGKILL
		}
		d.End(x)
	})
	return d, nil
}

func (d *directory) warn(what string) {
	d.runner.Log.Warn(what, "instance", d.moniker, "service_dirs", d.dir)
}

// scan makes the children those that the directory has now.
func (d *directory) scan(ctx context.Context) {
	found, err := d.look()
	if err != nil { // as runsvdir, it waits for it
		d.warn("unable to read " + d.dir + ": " + djb.Text(err))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaving = slices.DeleteFunc(d.leaving, func(s *service) bool { return isClosed(s.gone) })
	for base, s := range d.services {
		if n := found[base]; n != nil && n.ino == s.ino && n.dev == s.dev {
			continue
		}
		delete(d.services, base)
		d.leaving = append(d.leaving, s)
		d.wg.Go(func() {
			defer close(s.gone)
			<-s.created
			if err := d.runner.Tree.Destroy(ctx, d.moniker, d.collection, s.child); err != nil && ctx.Err() == nil {
				d.warn("unable to remove " + base + ": " + err.Error())
			}
		})
	}
	taken := map[string]bool{}
	for _, s := range d.services {
		taken[s.child] = true
	}
	bases := make([]string, 0, len(found))
	for base := range found {
		if d.services[base] == nil {
			bases = append(bases, base)
		}
	}
	slices.Sort(bases)
	for i, base := range bases {
		if len(d.services) >= runsvdir.MaxServices {
			d.warn(fmt.Sprintf("unable to start %s and %d more: too many services, %d is the most",
				base, len(bases)-i-1, len(d.services)))
			break
		}
		s := found[base]
		s.child = ComponentName(base, taken)
		taken[s.child] = true
		d.services[base] = s
		var before []*service
		for _, l := range d.leaving {
			if l.child == s.child || l.ino == s.ino && l.dev == s.dev { // a directory has one supervisor at a time
				before = append(before, l)
			}
		}
		d.wg.Go(func() { d.create(ctx, base, s, before) })
	}
}

// create adds a child once others are gone.
func (d *directory) create(ctx context.Context, base string, s *service, before []*service) {
	defer close(s.created)
	for _, b := range before {
		select {
		case <-b.gone:
		case <-ctx.Done():
			return
		}
	}
	d.mu.Lock()
	wanted := d.services[base] == s
	d.mu.Unlock()
	if !wanted || ctx.Err() != nil {
		return
	}
	err := d.runner.Tree.Create(ctx, d.moniker, d.collection, s.child, filepath.Join(d.dir, base))
	if err != nil && ctx.Err() == nil {
		d.warn("unable to start " + base + ": " + err.Error())
	}
}

// look lists the service directories, by name: as runsvdir does, each directory once, but under the name that it has here
// already.
func (d *directory) look() (map[string]*service, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	found := map[string]*service{}
	names := map[[2]uint64]string{}
	for _, e := range entries {
		base := e.Name()
		var st unix.Stat_t
		if strings.HasPrefix(base, ".") {
			continue
		} else if err := unix.Stat(filepath.Join(d.dir, base), &st); err != nil {
			d.warn("unable to stat " + base + ": " + djb.Text(err))
			continue
		} else if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		id := [2]uint64{st.Dev, st.Ino}
		if other, ok := names[id]; ok {
			if old := d.services[base]; old == nil || old.dev != st.Dev || old.ino != st.Ino {
				continue
			}
			delete(found, other)
		}
		names[id] = base
		found[base] = &service{dev: st.Dev, ino: st.Ino, created: make(chan struct{}), gone: make(chan struct{})}
	}
	return found, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ComponentName is base, the name of a service directory, as the name of a component that isn't taken.
func ComponentName(base string, taken map[string]bool) string {
	n := strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, base)
	n = n[:min(len(n), 200)] // room for what makes it unique
	if name.Check(n) != nil {
		n = "_" + n
	}
	for try, i := n, 2; ; i++ {
		if !taken[try] {
			return try
		}
		try = fmt.Sprintf("%s_%d", n, i)
	}
}

func (d *directory) end(c runners.Cause) {
	d.mu.Lock()
	if d.cause == runners.BySelf {
		d.cause = c
	}
	d.mu.Unlock()
	d.cancel()
}

// Stop ends it; its children are destroyed.
func (d *directory) Stop(context.Context) error { d.end(runners.ByStop); return nil }

// Kill ends it likewise: it has no process of its own.
func (d *directory) Kill(context.Context) error { d.end(runners.ByKill); return nil }

// Describe names the directory, and says how many services there are.
func (d *directory) Describe() []runners.Detail {
	d.mu.Lock()
	defer d.mu.Unlock()
	return []runners.Detail{{Key: "Services directory", Value: d.dir}, {Key: "Services", Value: fmt.Sprint(len(d.services))}}
}
