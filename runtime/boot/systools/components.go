package systools

import (
	"slices"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// Builtins is what each cmgr has in it, as {preLoaded,…} of a script of components names it.
var Builtins = []term.Atom{"elf", "loader", "log", "runit"}

// components is the boot script of a release whose applications' modules are components (erlang-mapping.md 2). What an .app file
// says beyond that stands in its env, under cmgr: {critical,[Component]} are kernel processes, {run,[Component]} run to their end
// before the application starts.
func components(r *release, apps []*application, o Options) (term.Term, error) {
	is := []term.Term{
		tuple("preLoaded", list(Builtins)), progress("preloaded"),
		apply("cmgr", "require", term.String(r.erts)),
		term.Tuple{term.Atom("kernel_load_completed")},
		progress("kernel_load_completed"),
	}
	var all []string
	var kernel, once []term.Term
	for _, a := range apps {
		dir, err := o.dir(a, "components")
		if err != nil {
			return nil, err
		}
		all = append(all, dir)
		mods := slices.Clone(a.modules)
		slices.Sort(mods)
		is = append(is, pathOf([]string{dir}), tuple("primLoad", list(mods)))
		if a.kind == "none" || a.kind == "load" {
			continue
		}
		critical, err := a.chosen("critical")
		if err != nil {
			return nil, err
		}
		for _, c := range critical {
			kernel = append(kernel, tuple("kernelProcess", c, term.Tuple{term.Atom("component"), term.Atom("start"), list([]term.Atom{c})}))
		}
		first, err := a.chosen("run")
		if err != nil {
			return nil, err
		}
		for _, c := range first {
			once = append(once, apply("component", "run", c))
		}
	}
	is = append(is, progress("modules_loaded"), pathOf(all))
	is = append(append(is, kernel...), progress("init_kernel_started"))
	is = append(append(is, loads(apps, "")...), progress("applications_loaded"))
	is = append(append(is, once...), starts(apps)...)
	return script(r, append(is, progress("started"))), nil
}

// chosen are the modules that a key under cmgr in the application's env names.
func (a *application) chosen(key term.Atom) ([]term.Atom, error) {
	names, ok := atoms(Setting(a.env, key))
	if !ok {
		return nil, fail(tuple("bad_param", term.Atom("env")), "%s: env: cmgr: %s is not a list of components", a.name, key)
	}
	for _, c := range names {
		if !slices.Contains(a.modules, c) {
			return nil, fail(tuple("bad_param", term.Atom("env")), "%s: env: cmgr: %s names %s, which is not among its modules", a.name,
				key, c)
		}
	}
	return names, nil
}

// Setting is the value of key under cmgr in an application's env; [] if there is none.
func Setting(env term.Term, key term.Atom) term.Term {
	lookup := func(in term.Term, key term.Atom) term.Term {
		elems, _ := term.Proper(in)
		for _, e := range elems {
			if kv, ok := e.(term.Tuple); ok && len(kv) == 2 && kv[0] == key {
				return kv[1]
			}
		}
		return term.List{}
	}
	return lookup(lookup(env, "cmgr"), key)
}
