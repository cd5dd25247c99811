package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/runtime/boot"
	"github.com/cmgr/cmgr/runtime/boot/systools"
	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/heart"
	"github.com/cmgr/cmgr/runtime/loader/cache"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/manager"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/verify"
)

func newBoot(a *app) *cobra.Command {
	var cfg manager.Config
	var watch heart.Config
	var verbose, stale bool
	var from prim.Config
	var mode, root, framing string
	var pa, pz, path, vars []string
	cmd := &cobra.Command{
		Use:   "boot NAME [-mode MODE] [-pa DIR] [-pz DIR] [-path DIR] [-boot_var V DIR] [-loader LOADER]",
		Short: "run a boot script, in the foreground",
		Long: `Run the boot file NAME.boot: an Erlang boot script whose modules are components
(cmgr systools make-script --components), or a tree that was compiled (cmgr
compile --boot). The whole script is checked before anything of it is done: its
instructions, what they call, and the routes of all its components.

In embedded mode, the default, everything is resolved at once and nothing
afterwards; in interactive mode what is loaded after kernel_load_completed is
resolved at its first use. The path is -pa, the script's, -pz, or -path alone;
$ROOT in it is --root, other variables are set by -boot_var. As in Erlang, a
list of directories goes on to the next option, and options have one dash or
two.

With -loader inet, or a port program, the boot file and all that it loads,
manifests and packages, come by the loader; directories are then those of the
other side.

A kernelProcess that ends takes the system down, and so does an application as
its type says. A tree whose sources have changed since it was compiled is
refused, unless --stale is given. Ctrl-C stops applications and then kernel
processes, in the reverse order of their starts.`,
		Example: `  cmgr boot site -boot_var SITE /srv/site
  cmgr boot /srv/site -loader inet -hosts 10.0.0.1 10.0.0.2 -id edge7
  cmgr boot site -pa ./build -mode interactive --init_debug
  cmgr compile --boot root.cml -o shop && cmgr boot shop`,
		GroupID:           groupRun,
		Args:              between(1, 1),
		ValidArgsFunction: completeFiles("boot"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if mode != "embedded" && mode != "interactive" {
				return usagef(cmd, "usage: "+cmd.UseLine(), "-mode is embedded or interactive, not %q", mode)
			}
			if err := checkLoader(cmd, &from, framing); err != nil {
				return err
			}
			o := boot.Options{Interactive: mode == "interactive", Pa: groups(pa, true), Pz: groups(pz, false), Version: versionString()}
			if cmd.Flags().Changed("path") {
				o.Path = append([]string{}, groups(path, false)...)
			}
			var t term.Term
			var err error
			file := strings.TrimSuffix(args[0], ".boot") + ".boot"
			if from.Kind() == prim.Efile {
				t, err = bootOnDisk(file, root, &o)
			} else {
				cfg.BootLoader = from.Kind()
				cfg.Loaders = map[string]prim.Config{cfg.BootLoader: from}
				file, t, err = a.bootOver(cmd.Context(), from, cfg, file, root, &o)
			}
			if err != nil {
				return err
			}
			o.Vars = map[string]string{}
			for _, v := range vars {
				pair := strings.Split(v, "\x00")
				if len(pair) == 1 {
					pair = strings.SplitN(v, "=", 2)
				}
				if len(pair) != 2 {
					return usagef(cmd, "usage: "+cmd.UseLine(), "-boot_var takes a name and a directory")
				}
				o.Vars[pair[0]] = pair[1]
			}
			plan, found := boot.Check(t, o)
			if found != nil {
				lines := make([]string, len(found))
				for i, f := range found {
					lines[i] = fmt.Sprintf("%s: %v", file, f)
				}
				return badScript(errors.New(strings.Join(lines, "\n")))
			}
			if plan.Tree != nil && stale {
				plan.Tree.Sources = nil
			}
			if plan.Tree != nil && cfg.BootLoader == "" {
				if err := fresh(file, plan.Tree); err != nil {
					return err
				}
			}
			cfg.Boot = plan
			return a.run(cmd, cfg, watch, verbose)
		},
	}
	f := cmd.Flags()
	managerFlags(f, &cfg, &watch, &verbose)
	loaderFlags(f, &from, &framing)
	treesLoaderFlags(f, &cfg.Trust, &from)
	f.StringVar(&mode, "mode", "embedded", "embedded: resolve everything at once; interactive: at first use")
	f.StringArrayVar(&pa, "pa", nil, "look in `DIR`... first")
	f.StringArrayVar(&pz, "pz", nil, "look in `DIR`... last")
	f.StringArrayVar(&path, "path", nil, "look in `DIR`... and not where the script says")
	f.StringArrayVar(&vars, "boot_var", nil, "$NAME in the script is DIR (`NAME=DIR`, or two arguments)")
	f.StringVar(&root, "root", "", "$ROOT in the script is `DIR` (default: where NAME.boot is)")
	f.BoolVar(&cfg.BootDebug, "init_debug", false, "show what is started, applied and reached, in init's words")
	f.BoolVar(&stale, "stale", false, "run a tree as it was compiled, though its sources have changed")
	return cmd
}

// bootOnDisk reads the boot file, and sets the root of o unless it is given.
func bootOnDisk(file, root string, o *boot.Options) (term.Term, error) {
	t, err := readTerm(file)
	if err != nil {
		if e := new(control.Error); errors.As(err, &e) && errors.Is(missingBoot(file), fs.ErrNotExist) {
			e.Problem.Hint = "`cmgr systools make-script --components` and `cmgr compile --boot` make one"
		}
		return nil, err
	}
	if o.Root, err = realDir(cmp.Or(root, filepath.Dir(file))); err != nil {
		return nil, fileError(root, err)
	}
	return t, nil
}

// bootOver is bootOnDisk by a loader, as init does it: a relative name is looked for where the loader is, then in the root. All
// names are those of the other side.
func (a *app) bootOver(
	ctx context.Context, from prim.Config, cfg manager.Config, file, root string, o *boot.Options,
) (string, term.Term, error) {
	for _, dir := range append([]string{root}, slices.Concat(o.Pa, o.Path, o.Pz)...) {
		if dir != "" && !filepath.IsAbs(dir) {
			return file, nil, usageError{&control.Error{Problem: &control.Problem{
				Kind: capabilities.Invalid.String(), Message: fmt.Sprintf("boot: %s: with --loader %s a directory is one of the other side, absolute", dir, from.Kind()),
			}}}
		}
	}
	meter := &meter{screen: a.screen(a.err), out: a.err, now: a.now, files: 1}
	defer meter.end()
	from.Progress = meter.progress
	from.Log = slog.New(&plainLog{w: meter.above(a.err)})
	l, err := prim.Start(from)
	if err != nil {
		return file, nil, err
	}
	settings, err := manager.ReadSettings(cfg.Files...)
	if err != nil {
		return file, nil, errors.Join(err, l.Stop())
	}
	f, at, err := l.Get(ctx, file)
	if errors.Is(err, fs.ErrNotExist) && root != "" && !filepath.IsAbs(file) {
		f, at, err = l.Get(ctx, filepath.Join(root, file))
	}
	var b []byte
	if err == nil {
		// Nothing says yet that it may be trusted: it must not fill the memory.
		if b, err = io.ReadAll(io.LimitReader(f, term.MaxSize+1)); len(b) > term.MaxSize {
			err = fmt.Errorf("boot file %s: at most %d bytes are read", at, term.MaxSize)
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = trusted(ctx, l, cmp.Or(cfg.Trust, settings.Trust), at, b)
	}
	if err = errors.Join(err, l.Stop()); err != nil {
		return file, nil, fetchError(err)
	}
	file = filepath.Join("/", at)
	o.Root = cmp.Or(root, filepath.Dir(file))
	t, err := systools.Read(file, b)
	if err != nil {
		return file, nil, badScript(err)
	}
	return file, t, nil
}

// trusted refuses a boot file that came by a loader and that the file of trust, unless it is "", does not accept: it has
// manifests, or says which of a package's are run.
func trusted(ctx context.Context, l *prim.Loader, trust, file string, b []byte) error {
	if trust == "" {
		return nil
	}
	t, err := cache.ReadTrust(trust)
	if err != nil {
		return err
	}
	const most = 64 << 10 // of a signature
	err = t.Check(file, b, func(name string) ([]byte, error) {
		f, _, err := l.Get(ctx, name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, most))
	})
	if err != nil {
		return fmt.Errorf("boot file %s: %w", file, err)
	}
	return nil
}

// realDir is the directory's absolute name without symlinks.
func realDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// missingBoot says why the file cannot be found.
func missingBoot(file string) error {
	_, err := filepath.EvalSymlinks(file)
	return err
}

// fresh refuses a tree whose sources have changed.
func fresh(file string, t *boot.Tree) error {
	changed, err := t.Stale()
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		e := fileError(pe.Path, err)
		if c, ok := errors.AsType[*control.Error](e); ok {
			c.Problem.Hint = file + " was compiled from it; --stale runs it without asking"
		}
		return e
	}
	if changed == nil {
		return nil
	}
	return &control.Error{Problem: &control.Problem{
		Kind:    capabilities.Precondition.String(),
		Message: fmt.Sprintf("%s is stale: since it was compiled these have changed: %s", file, strings.Join(changed, ", ")),
		Hint:    resolver.StaleHint,
	}}
}

// groups are the directories of an option that was given several times, each time with a list: later lists come first if
// newestFirst.
func groups(lists []string, newestFirst bool) []string {
	var out []string
	for _, l := range lists {
		dirs := strings.Split(l, "\x00")
		if newestFirst {
			out = slices.Concat(dirs, out)
		} else {
			out = append(out, dirs...)
		}
	}
	return out
}

// erlangFlags rewrites Erlang's options of `cmgr boot`, one dash and any number of arguments up to the next option, to ours: two
// dashes and one argument, in which NUL stands between several.
func erlangFlags(args []string) []string {
	at := commandAt(args)
	if at < 0 || args[at] != "boot" {
		return args
	}
	out := slices.Clone(args[:at+1])
	for rest := args[at+1:]; len(rest) > 0; {
		arg := rest[0]
		rest = rest[1:]
		option := strings.TrimLeft(arg, "-")
		if option == arg {
			out = append(out, arg)
			continue
		}
		most := map[string]int{
			"mode": 1, "pa": len(rest), "pz": len(rest), "path": len(rest), "boot_var": 2, "init_debug": 0, "root": 1,
			"heart": 1, "loader": 1, "hosts": len(rest), "id": 1, "setcookie": 1,
		}
		n, known := most[option]
		if !known {
			out = append(out, arg)
			continue
		}
		var values []string
		for len(values) < n && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			values, rest = append(values, rest[0]), rest[1:]
		}
		out = append(out, "--"+option)
		if n > 0 && len(values) > 0 {
			sep := "\x00"
			if option == "hosts" {
				sep = ","
			}
			out = append(out, strings.Join(values, sep))
		}
	}
	return out
}

// compileBoot writes the tree below root as a boot script, if all its routes lead somewhere.
func (a *app) compileBoot(ctx context.Context, root, out string) error {
	url, err := resolver.FileURL(root)
	if err != nil {
		return err
	}
	out = strings.TrimSuffix(strings.TrimSuffix(out, ".boot"), ".script")
	dir, err := realDir(filepath.Dir(out))
	if err != nil {
		return fmt.Errorf("write %s.boot: %w", out, cause(err))
	}
	v := verifier{app: a, limit: verify.DefaultLimit}
	t, done, err := v.open(ctx, root)
	if err != nil {
		return err
	}
	var found []verify.Result
	s, err := t.Check(ctx, nil, false, func(r verify.Result) { found = append(found, r) })
	done()
	if err != nil {
		return err
	}
	if s.Errors > 0 {
		a.out = a.err // what was asked for is not made
		v.app = a
		v.text(t, s, found, nil)
		return errFailed
	}
	_, resolvers := manager.Above(cml.Options{}, nil, nil)
	script, err := boot.Compile(ctx, url, dir, resolvers["file"])
	if err != nil {
		return err
	}
	if err := systools.Write(out, script); err != nil {
		return fmt.Errorf("write %s.boot: %w", out, cause(err))
	}
	if !a.json {
		return nil
	}
	return a.writeJSON(struct {
		Script    string `json:"script"`
		Boot      string `json:"boot"`
		Instances int    `json:"instances"`
		Manifests int    `json:"manifests"`
	}{out + ".script", out + ".boot", t.Instances, t.Manifests})
}
