package systools

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// Options are those of systools:make_script.
type Options struct {
	Path             []string // directories of .app files; * stands for any characters but a slash
	Local            bool     // the directories are those of the .app files
	OTPBuild         bool     // the directories have no versions
	Variables        []Variable
	OutDir           string // "": that of the release
	ScriptName       string // "": the release's
	NoDotErlang      bool   // don't run ~/.erlang
	NoWarnSASL       bool
	WarningsAsErrors bool
	SrcTests         bool // check that compiled modules are there and newer than their sources
	Components       bool // the modules are components of cmgr: see components
}

// A Variable stands for a directory, as $Name in a script.
type Variable struct{ Name, Dir string }

// Make reads the release rel (its file is REL.rel) and the .app files of what it lists, and writes REL.script and REL.boot, as
// systools:make_script does. The error is a *Failure unless the fault is a file that cannot be written.
func Make(rel string, o Options) (warnings []*Failure, err error) {
	path := distinctStrings(append(expand(o.Path), codePath()...))
	r, err := readRelease(rel, path)
	if err != nil {
		return nil, err
	}
	warn := func(t term.Term, format string, args ...any) { warnings = append(warnings, fail(t, format, args...)) }
	if !o.Components {
		missing, err := r.mandatory()
		if err != nil {
			return nil, err
		}
		if missing != nil && !o.NoWarnSASL {
			warn(missing[0], "sasl is missing: a node cannot be upgraded with this release")
		}
	}
	apps, err := r.readApplications(path)
	if err != nil {
		return nil, err
	}
	sorted, err := order(apps)
	if err != nil {
		return nil, err
	}
	if o.SrcTests {
		if err := testSources(apps, warn); err != nil {
			return nil, err
		}
	}
	if o.WarningsAsErrors && len(warnings) > 0 {
		var terms []term.Term
		var what []string
		for _, w := range warnings {
			terms, what = append(terms, w.Term), append(what, w.What)
		}
		return nil, fail(tuple("warnings_treated_as_errors", term.Cons(terms, nil)), "%s", strings.Join(what, "\n"))
	}
	var script term.Term
	if o.Components {
		script, err = components(r, sorted, o)
	} else {
		script, err = nodeScript(r, sorted, o)
	}
	if err != nil {
		return nil, err
	}
	out := rel
	if o.ScriptName != "" {
		out = o.ScriptName
	}
	if o.OutDir != "" {
		out = join(o.OutDir, filepath.Base(out))
	}
	return warnings, Write(out, script)
}

// Write writes script as NAME.script and NAME.boot.
func Write(name string, script term.Term) error {
	for _, f := range []struct {
		name string
		text []byte
	}{
		{name + ".script", []byte("%% coding: utf-8\n" + term.Format(script) + ".\n")},
		{name + ".boot", term.Encode(script, false)},
	} {
		if err := os.WriteFile(f.name, f.text, 0o666); err != nil {
			var errno syscall.Errno
			errors.As(err, &errno)
			return fail(tuple("open", term.String(f.name), posix(errno)), "%v", err)
		}
	}
	return nil
}

// posix is Erlang's name of an error of the system.
func posix(e syscall.Errno) term.Atom {
	names := map[syscall.Errno]term.Atom{
		syscall.ENOENT: "enoent", syscall.EACCES: "eacces", syscall.ENOTDIR: "enotdir", syscall.EISDIR: "eisdir",
		syscall.ENOSPC: "enospc", syscall.EROFS: "erofs", syscall.ENAMETOOLONG: "enametoolong", syscall.EPERM: "eperm",
	}
	if n, ok := names[e]; ok {
		return n
	}
	return "unknown"
}

// codePath is where the real one looks at last, the code path of its node: the working directory, what $ERL_LIBS says, and the
// libraries of the Erlang that is installed, if there is one.
func codePath() []string {
	var libs []string
	for _, d := range filepath.SplitList(os.Getenv("ERL_LIBS")) {
		libs = append(libs, join(d, "*", "ebin"))
	}
	for _, d := range filepath.SplitList(os.Getenv("PATH")) {
		// erl is a link into the tree that has the libraries.
		if erl, err := filepath.EvalSymlinks(filepath.Join(d, "erl")); err == nil {
			libs = append(libs, join(filepath.Dir(filepath.Dir(erl)), "lib", "*", "ebin"))
			break
		}
	}
	return append([]string{"."}, expand(libs)...)
}

// join joins as Erlang's filename:join does: "." and ".." stay, and what is absolute begins anew.
func join(parts ...string) string {
	out := ""
	for _, p := range parts {
		switch {
		case p == "":
		case out == "" || strings.HasPrefix(p, "/"):
			out = p
		default:
			out = strings.TrimRight(out, "/") + "/" + p
		}
	}
	for strings.Contains(out, "//") {
		out = strings.ReplaceAll(out, "//", "/")
	}
	if len(out) > 1 {
		out = strings.TrimRight(out, "/")
	}
	return out
}

// split is filename:split.
func split(path string) []string {
	var parts []string
	if strings.HasPrefix(path, "/") {
		parts = []string{"/"}
	}
	return append(parts, strings.FieldsFunc(path, func(r rune) bool { return r == '/' })...)
}

// expand replaces directories with a * by those that there are, and drops those that are not there.
func expand(path []string) []string {
	isDir := func(d string) bool {
		st, err := os.Stat(d)
		return err == nil && st.IsDir()
	}
	var out []string
	for _, p := range path {
		dirs := []string{""}
		for _, part := range split(p) {
			var next []string
			for _, d := range dirs {
				names := []string{part}
				if strings.Contains(part, "*") {
					names = nil
					in := d
					if in == "" {
						in = "."
					}
					entries, err := os.ReadDir(in)
					if err != nil {
						continue
					}
					for _, e := range entries {
						if ok, err := filepath.Match(strings.NewReplacer(`[`, `\[`, `?`, `\?`, `\`, `\\`).Replace(part), e.Name()); ok && err == nil {
							names = append(names, e.Name())
						}
					}
				}
				for _, n := range names {
					if full := join(d, n); isDir(full) {
						next = append(next, full)
					}
				}
			}
			dirs = next
		}
		for _, d := range dirs {
			if d != "" {
				out = append(out, d)
			}
		}
	}
	return out
}

func distinctStrings(in []string) []string {
	var out []string
	for _, s := range in {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// testSources checks that modules have compiled files, not older than their sources.
func testSources(apps []*application, warn func(term.Term, string, ...any)) error {
	var errs []term.Term
	var what []string
	for _, a := range apps {
		for _, m := range a.modules {
			at := term.Term(term.Tuple{m, a.name, term.String(a.dir)})
			st, err := os.Stat(join(a.dir, string(m)+".beam"))
			if err != nil {
				errs = append(errs, tuple("error", term.Tuple{tuple("module_not_found", a.name, m), at}))
				what = append(what, fmt.Sprintf("%s: module %s not found in %s", a.name, m, a.dir))
				continue
			}
			src, ok := source(a.dir, string(m))
			switch {
			case !ok:
				warn(tuple("source_not_found", at), "%s: the source of module %s is not found", a.name, m)
			case src.Truncate(time.Second).After(st.ModTime().Truncate(time.Second)):
				warn(tuple("obj_out_of_date", at), "%s: module %s is older than its source", a.name, m)
			}
		}
	}
	if errs == nil {
		return nil
	}
	return fail(tuple("modules", term.Cons(errs, nil)), "%s", strings.Join(what, "\n"))
}

// source says when the source of a module was changed that is compiled in dir: it is beside it, or, for an ebin, somewhere in
// src.
func source(dir, module string) (changed time.Time, ok bool) {
	parts := split(dir)
	dirs := []string{dir}
	if len(parts) > 0 && parts[len(parts)-1] == "ebin" {
		src := join(append(slices.Clone(parts[:len(parts)-1]), "src")...)
		dirs = nil
		for _, root := range []string{src, join(src, "e_src")} {
			_ = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, p)
				}
				return nil
			})
		}
	}
	for _, d := range dirs {
		if st, err := os.Stat(join(d, module+".erl")); err == nil {
			return st.ModTime(), true
		}
	}
	return changed, false
}

// preloaded and mandatory are the modules that OTP 25's systools has in each script.
var (
	preloaded = []term.Atom{
		"atomics", "counters", "erl_init", "erl_prim_loader", "erl_tracer", "erlang", "erts_code_purger",
		"erts_dirty_process_signal_handler", "erts_internal", "erts_literal_area_collector", "init", "persistent_term", "prim_buffer",
		"prim_eval", "prim_file", "prim_inet", "prim_net", "prim_socket", "prim_zip", "socket_registry", "zlib",
	}
	mandatory = []term.Atom{
		"error_handler", "application", "application_controller", "application_master", "code", "code_server", "erl_eval", "erl_lint",
		"erl_parse", "error_logger", "ets", "file", "filename", "file_server", "file_io_server", "gen", "gen_event", "gen_server",
		"heart", "kernel", "logger", "logger_filters", "logger_server", "logger_backend", "logger_config", "logger_simple_h", "lists",
		"proc_lib", "supervisor",
	}
)

// progress is {progress,name}.
func progress(name term.Atom) term.Term { return tuple("progress", name) }

// apply is {apply,{m,f,args}}.
func apply(m, f term.Atom, args ...term.Term) term.Term {
	return tuple("apply", term.Tuple{m, f, term.Cons(args, nil)})
}

// pathOf is the instruction that sets the path.
func pathOf(dirs []string) term.Term {
	var terms []term.Term
	for _, d := range distinctStrings(dirs) {
		terms = append(terms, term.String(d))
	}
	return tuple("path", term.Cons(terms, nil))
}

// nodeScript is the boot script of an Erlang node.
func nodeScript(r *release, apps []*application, o Options) (term.Term, error) {
	var kernel []*application
	var all, base []string
	for _, a := range apps {
		dir, err := o.dir(a, "ebin")
		if err != nil {
			return nil, err
		}
		all = append(all, dir)
		if a.name == "kernel" {
			kernel = append(kernel, a)
		}
		if a.name == "kernel" || a.name == "stdlib" {
			base = append(base, dir)
		}
	}
	if len(kernel) != 1 {
		return nil, fail(tuple("duplicate_application", term.Atom("kernel")), "the release has kernel twice")
	}
	is := []term.Term{
		tuple("preLoaded", list(preloaded)), progress("preloaded"),
		pathOf(base), tuple("primLoad", list(mandatory)),
		term.Tuple{term.Atom("kernel_load_completed")},
		progress("kernel_load_completed"),
	}
	for i, a := range apps {
		var mods []term.Atom
		for _, m := range a.modules {
			if !slices.Contains(mandatory, m) && !slices.Contains(preloaded, m) {
				mods = append(mods, m)
			}
		}
		slices.Sort(mods)
		is = append(is, pathOf(all[i:i+1]), tuple("primLoad", list(mods)))
	}
	process := func(name, m, f term.Atom, args ...term.Term) term.Term {
		return tuple("kernelProcess", name, term.Tuple{m, f, term.Cons(args, nil)})
	}
	is = append(is, progress("modules_loaded"), pathOf(all),
		process("heart", "heart", "start"), process("logger", "logger_server", "start_link"),
		process("application_controller", "application_controller", "start", kernel[0].term()), progress("init_kernel_started"))
	is = append(is, loads(apps, "kernel")...)
	is = append(is, progress("applications_loaded"))
	is = append(is, starts(apps)...)
	if !o.NoDotErlang {
		is = append(is, apply("c", "erlangrc"))
	}
	return script(r, append(is, progress("started"))), nil
}

func script(r *release, is []term.Term) term.Term {
	return term.Tuple{term.Atom("script"), term.Tuple{term.String(r.name), term.String(r.vsn)}, term.Cons(is, nil)}
}

// loads are the instructions that make applications known.
func loads(apps []*application, not term.Atom) []term.Term {
	var is []term.Term
	for _, a := range apps {
		if a.name != not && a.kind != "none" {
			is = append(is, apply("application", "load", a.term()))
		}
	}
	return is
}

// starts are those that start them; who includes an application starts it.
func starts(apps []*application) []term.Term {
	included := map[term.Atom]bool{}
	for _, a := range apps {
		for _, i := range a.includes {
			included[i] = true
		}
	}
	var is []term.Term
	for _, a := range apps {
		if !included[a.name] && a.kind != "none" && a.kind != "load" {
			is = append(is, apply("application", "start_boot", a.name, a.kind))
		}
	}
	return is
}

// dir is the directory of an application's modules as the script names it; base is what an installed one is called.
func (o Options) dir(a *application, base string) (string, error) {
	name := string(a.name)
	versioned := []string{name + "-" + a.vsn, base}
	switch {
	case o.Local:
		if filepath.IsAbs(a.dir) {
			return a.dir, nil
		}
		wd, err := os.Getwd()
		return join(wd, a.dir), err
	case o.OTPBuild:
		return join("$ROOT", "lib", name, base), nil
	}
	for _, v := range o.Variables {
		prefix := strings.TrimRight(v.Dir, "/")
		if !strings.HasPrefix(a.dir, prefix) {
			continue
		}
		below := split(a.dir)[len(split(prefix)):]
		if n := len(below); n >= 2 && below[n-1] == base && (below[n-2] == name || below[n-2] == versioned[0]) {
			below = below[:n-2]
		}
		return join(append(append([]string{"$" + v.Name}, below...), versioned...)...), nil
	}
	return join(append([]string{"$ROOT", "lib"}, versioned...)...), nil
}
