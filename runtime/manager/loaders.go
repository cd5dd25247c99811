package manager

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/loader/cache"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/resolver"
)

// LoadersConfig says what loaders there are.
type LoadersConfig struct {
	// Settings have some, and how large the cache may be; nil has none.
	Settings *Settings
	// More are others, by the name of their resolver, which is also a scheme.
	More map[string]prim.Config
	// Trust is the file that says which packages they may get (cache.Trust); "" takes that of Settings, or else accepts all.
	Trust string
	// Once says of which, by its name, each package is fetched once for all that name it; nil: of none.
	Once func(name string) bool
	// Dir is where packages are kept; InUse says which of its directories somebody uses (cache.Config).
	Dir   string
	InUse func() []string
	Log   *slog.Logger
}

// Loaders are the resolvers that have loaders.
type Loaders struct {
	cache  *cache.Cache // nil without any
	prims  map[string]*prim.Loader
	loaded map[string]*resolver.Loaded
}

// OpenLoaders opens them. Nothing is fetched yet.
func OpenLoaders(cfg LoadersConfig) (_ *Loaders, err error) {
	l := &Loaders{prims: map[string]*prim.Loader{}, loaded: map[string]*resolver.Loaded{}}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	settings := cmp.Or(cfg.Settings, &Settings{})
	all := map[string]prim.Config{}
	maps.Copy(all, settings.Loaders)
	maps.Copy(all, cfg.More)
	if len(all) == 0 {
		return l, nil
	}
	var trust *cache.Trust
	if file := cmp.Or(cfg.Trust, settings.Trust); file != "" {
		if trust, err = cache.ReadTrust(file); err != nil {
			return nil, err
		}
	}
	l.cache, err = cache.Open(cache.Config{Dir: cfg.Dir, MaxSize: settings.CacheMaxSize, InUse: cfg.InUse, Log: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	for n, c := range all {
		if err := name.Check(n); err != nil || n == "file" || n == resolver.ServiceScheme {
			return nil, fmt.Errorf("loader %q: not a name that a loader can have", n)
		}
		c.Log = cfg.Log
		if l.prims[n], err = prim.Start(c); err != nil {
			delete(l.prims, n)
			return nil, err
		}
		l.loaded[n] = resolver.NewLoaded(resolver.LoadedConfig{
			Loader: l.prims[n], Cache: l.cache, Trust: trust, Once: cfg.Once != nil && cfg.Once(n),
		})
	}
	return l, nil
}

// Resolvers are the resolvers, by name.
func (l *Loaders) Resolvers() map[string]resolver.Resolver {
	out := map[string]resolver.Resolver{}
	for n, r := range l.loaded {
		out[n] = r
	}
	return out
}

// dirs are the directories of packages that they go on using.
func (l *Loaders) dirs() []string {
	var out []string
	for _, r := range l.loaded {
		out = append(out, r.Dirs()...)
	}
	return out
}

// Close ends the loaders. Nothing may run from packages any more of which nothing says what is in them.
func (l *Loaders) Close() error {
	var errs []error
	for _, r := range l.loaded {
		errs = append(errs, r.Close())
	}
	for _, p := range l.prims {
		errs = append(errs, p.Stop())
	}
	return errors.Join(errs...)
}
