package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/manager"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/verify"
)

func newVerify(a *app) *cobra.Command {
	v := verifier{app: a}
	var reach, other string
	var order, sandbox bool
	var features featureFlags
	var config []string
	var from prim.Config
	var framing, trust string
	cmd := &cobra.Command{
		Use:   "verify ROOT [--config FILE] [--allow FILE] [--sarif] [--who-can-reach CAP] [--diff OTHER] [--shutdown-order] [--sandbox]",
		Short: "check all routes of a tree without running it",
		Long: `Read the tree below the manifest ROOT, ask of each component where all that it
uses, offers, exposes and has in environments comes from, which runner runs it
and which resolver finds it, and say what leads nowhere, in which line, and
which line to add. The answers are those of the running tree; only what will be
created in collections is not known.

What is required and missing is an error, what is optional a warning, what is
transitional nothing; a program that the runner elf will refuse is an error,
too. The exit code is 0 if there are no errors. FILE has the failures that are
known (JSON5); an entry that allows nothing is an error:

  [ { target: "/core/**", protocol: "log", reason: "in the next release" } ]

With --config the tree is looked at as it would run with that configuration:
what the root is offered of the host is there, and what security_policy forbids
is an error. With --loader ROOT, unless it is a URL, and the packages are
fetched as cmgr run does.

CAP is [KIND:]NAME[@MONIKER], by the name that its source MONIKER calls it.

--sandbox says of each program how much of the machine and of others it can
touch: from 0, nothing, to 100, all that the manager's user has; and which lines
give it that. It is no more than an order in which to look at them.`,
		Example: `  cmgr verify root.cml
  cmgr verify root.cml --sarif > routes.sarif      # for code review
  cmgr verify root.cml --who-can-reach protocol:log@/core/log
  cmgr verify --loader inet --hosts 10.0.0.1 /srv/tree/root.cml
  cmgr verify old/root.cml --diff new/root.cml     # exit code 1 if routes differ`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: cobra.FixedCompletions([]cobra.Completion{"cml", "cm"}, cobra.ShellCompDirectiveFilterFileExt),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if v.options, err = features.options(); err != nil {
				return err
			}
			if len(config) > 0 {
				if v.settings, err = manager.ReadSettings(config...); err != nil {
					return err
				}
			}
			root, more, err := loadBy(cmd, args[0], from, framing)
			if err == nil && other != "" {
				other, _, err = loadBy(cmd, other, from, framing)
			}
			if err != nil {
				return err
			}
			if _, local := more["efile"]; more != nil && !local && cmd.Flags().Changed("depfile") {
				return usagef(cmd, "usage: "+cmd.UseLine(), "--depfile lists files of this disk, and what a loader gets is none")
			}
			if v.settings != nil || more != nil {
				closed, err := v.load(more, trust)
				if err != nil {
					return err
				}
				defer closed()
			}
			var modes []string
			for _, m := range []string{"json", "sarif", "who-can-reach", "diff", "shutdown-order", "sandbox", "allow", "stamp", "depfile"} {
				// JSON is a form of each but SARIF; an allowlist and what builds want are for the check, in whatever form.
				forCheck := m == "allow" || m == "stamp" || m == "depfile"
				if cmd.Flags().Changed(m) && (m != "json" || v.sarif) && (!forCheck || len(modes) > 0 && !v.sarif) {
					modes = append(modes, "--"+m)
				}
			}
			switch {
			case v.limit < 1:
				return usagef(cmd, "usage: "+cmd.UseLine(), "--limit must be at least 1, is %d", v.limit)
			case len(modes) > 1:
				return usagef(cmd, "usage: "+cmd.UseLine(), "%s don't go together", strings.Join(modes, " and "))
			case cmd.Flags().Changed("who-can-reach"):
				wanted, err := verify.ParseWanted(reach)
				if err != nil {
					return usagef(cmd, "usage: "+cmd.UseLine(), "--who-can-reach %s: %v", reach, err)
				}
				return v.reach(cmd.Context(), root, wanted)
			case cmd.Flags().Changed("diff"):
				return v.diff(cmd.Context(), root, other)
			case order:
				return v.order(cmd.Context(), root)
			case sandbox:
				return v.sandbox(cmd.Context(), root)
			default:
				return v.check(cmd.Context(), root)
			}
		},
	}
	f := cmd.Flags()
	f.BoolVar(&v.sarif, "sarif", false, "write SARIF 2.1.0, for tools of code review")
	f.StringArrayVar(&config, "config", nil, "a configuration `FILE` of the manager (JSON5); several are merged")
	f.StringVar(&v.allow, "allow", "", "`FILE` has the failures that are known")
	f.StringVar(&reach, "who-can-reach", "", "list whom the capability `CAP` reaches, and how")
	f.StringVar(&other, "diff", "", "list the routes that are different in the tree below `OTHER`")
	f.BoolVar(&order, "shutdown-order", false, "list who would stop when the tree is shut down, step by step")
	f.BoolVar(&sandbox, "sandbox", false, "list how much each program can touch, worst first, and by which lines")
	f.IntVar(&v.limit, "limit", verify.DefaultLimit, "refuse a tree of more than `N` instances")
	loaderFlags(f, &from, &framing)
	pathFlags(f, &from)
	treesLoaderFlags(f, &trust, &from)
	v.build.add(f, false, true)
	features.add(cmd)
	return cmd
}

// A verifier is one call of `cmgr verify`.
type verifier struct {
	*app
	sarif   bool
	allow   string
	limit   int
	options cml.Options
	// settings are those that the tree would run with; nil where they are not known.
	settings *manager.Settings
	loaders  *manager.Loaders // nil: none
	build    outputFlags
}

// load opens the loaders of the settings, and more. What they get is kept until closed is called.
func (v *verifier) load(more map[string]prim.Config, trust string) (closed func(), err error) {
	dir, err := os.MkdirTemp("", "cmgr-verify-*")
	if err != nil {
		return nil, err
	}
	v.loaders, err = manager.OpenLoaders(manager.LoadersConfig{
		Settings: v.settings, More: more, Trust: trust, Once: func(string) bool { return true }, Dir: dir,
		Log: slog.New(&plainLog{w: v.err}),
	})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	// Whoever ends this process by a signal has its packages removed first.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	over := make(chan struct{})
	go func() {
		defer close(over)
		if s, ok := <-signals; ok {
			os.RemoveAll(dir)
			signal.Reset(s)
			_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-over
		_ = v.loaders.Close()
		os.RemoveAll(dir)
	}, nil
}

// open reads the tree below root. The function that it returns must be called before anything is written.
func (v *verifier) open(ctx context.Context, root string) (*verify.Tree, func(), error) {
	if name.Scheme(root) == "" {
		url, err := resolver.FileURL(root)
		if err != nil {
			return nil, nil, err
		}
		root = url
	}
	if os.Getenv("GOGC") == "" {
		// It ends in seconds: half as much again of memory for a quarter less of CPU time.
		debug.SetGCPercent(400)
	}
	cfg := verify.Config{Root: root, Limit: v.limit}
	cfg.Builtins, cfg.Resolvers = manager.Above(v.options, v.settings, v.loaders)
	if v.settings != nil {
		cfg.Policy = v.settings
	}
	done := func() {}
	if v.screen(v.err).width > 0 && os.Getenv("TERM") != "dumb" {
		cfg.Progress, done = progress(v.err, time.Now)
	}
	t, err := verify.Open(ctx, cfg)
	if err != nil {
		done()
	}
	return t, done, err
}

// progress writes on a terminal how far a verification has come, if it takes longer than half a second. Calling done removes it.
func progress(w io.Writer, now func() time.Time) (tell func(of, total int), done func()) {
	next, shown := now().Add(500*time.Millisecond), false
	tell = func(of, total int) {
		t := now()
		if t.Before(next) {
			return
		}
		next, shown = t.Add(100*time.Millisecond), true
		line := thousands(of) + " components read"
		if total > 0 {
			line = fmt.Sprintf("%s of %s components verified", thousands(of), thousands(total))
		}
		fmt.Fprintf(w, "\r\x1b[K%s", line)
	}
	return tell, func() {
		if shown {
			fmt.Fprint(w, "\r\x1b[K")
		}
	}
}

func (v *verifier) check(ctx context.Context, root string) error {
	var allow *verify.Allowlist
	if v.allow != "" {
		var err error
		if allow, err = verify.ReadAllowlist(v.allow); err != nil {
			return missingFile(err)
		}
	}
	t, done, err := v.open(ctx, root)
	if ds, ok := manifest.AsDiagnostics(err); ok && v.sarif {
		// What reviews manifests wants a log of those that cannot be verified at all, too.
		if err := v.writeSARIF(nil, ds); err != nil {
			return err
		}
		return errFailed
	}
	if err != nil {
		return err
	}
	var all verify.JSON
	var found []verify.Result
	s, err := t.Check(ctx, allow, v.json, func(r verify.Result) {
		if v.json {
			all.Add(&r)
		} else {
			found = append(found, r)
		}
	})
	done()
	if err != nil {
		return err
	}
	stale := allow.Stale()
	switch {
	case v.json:
		err = all.Write(v.out, t, s, stale)
	case v.sarif:
		err = v.writeSARIF(found, stale)
	default:
		v.text(t, s, found, stale)
	}
	switch {
	case err != nil:
		return err
	case s.Errors+len(stale) > 0:
		return errFailed
	}
	read := t.Files()
	if v.allow != "" {
		read = append(read, v.allow)
	}
	return v.build.finish(v.app, read)
}

// missingFile is err, that a file named on the command line cannot be read, as what failed rather than the system.
func missingFile(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &control.Error{Problem: &control.Problem{Kind: capabilities.NotFound.String(), Message: err.Error()}}
	}
	return err
}

func (a *app) writeSARIF(found []verify.Result, ds manifest.Diagnostics) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	out := verify.SARIF{Dir: dir, Version: versionString()}
	for i := range found {
		out.Add(&found[i])
	}
	out.AddFindings(ds, "")
	return out.Write(a.out)
}

// text writes the results for people: by component, and what fails alike at many instances of one manifest once.
func (v *verifier) text(t *verify.Tree, s verify.Summary, found []verify.Result, stale manifest.Diagnostics) {
	sc := v.screen(v.out)
	first := map[int]int{} // of those that are alike and not allowed, the one that is told; by the number of the first
	alike := map[int][]name.Moniker{}
	for i := range found {
		r := &found[i]
		number := r.Like
		if number == 0 {
			number = i + 1
		}
		if r.Allowed != "" {
			continue
		}
		if _, ok := first[number]; !ok {
			first[number] = i
			continue
		}
		alike[first[number]] = append(alike[first[number]], r.Target)
	}
	told := map[int]bool{}
	for _, i := range first {
		told[i] = true
	}
	var at name.Moniker
	findings, causes := map[string]bool{}, map[string]bool{}
	near := nearFiles()
	for i := range found {
		r := &found[i]
		if !told[i] {
			continue
		}
		if r.Target != at {
			at = r.Target
			fmt.Fprintln(v.out, at)
		}
		word, where := sc.red("error:"), r.Err.Pos
		if r.Severity == verify.Warning {
			word = sc.yellow("warning:")
		}
		if !where.IsValid() {
			where = r.Pos
		}
		cause, place, decl := near(verify.Cause(r.Err)), near(where.String()), near(r.Pos.String())
		hint := near(r.Err.Hint)
		if where != r.Pos && causes[place+cause] {
			// What is missing there is missing for many, and explained once.
			fmt.Fprintf(v.out, "  %s: %s %s: fails for the same reason, at %s\n", decl, word, r.Subject(), place)
			hint = ""
		} else {
			fmt.Fprintf(v.out, "  %s: %s %s: %s\n", place, word, r.Subject(), cause)
			if where != r.Pos {
				fmt.Fprintf(v.out, "    the %s is at %s\n", r.Decl, decl)
			}
		}
		causes[place+cause] = true
		if ds, ok := manifest.AsDiagnostics(r.Err.Err); ok && (r.Decl == "child" || r.Decl == "program") {
			for _, d := range ds {
				if text := d.Error(); !findings[text] {
					findings[text] = true
					fmt.Fprintf(v.out, "    %s\n", strings.ReplaceAll(near(text), "\n", "\n    "))
				}
			}
		}
		for line := range strings.Lines(hint) {
			fmt.Fprintf(v.out, "    hint: %s\n", strings.TrimSuffix(line, "\n"))
		}
		if more := alike[i]; len(more) > 0 {
			fmt.Fprintf(v.out, "    the same at %s more of this manifest: %s\n", thousands(len(more)), some(more))
		}
	}
	for _, d := range stale {
		fmt.Fprintf(v.out, "%s: %s %s\n    hint: %s\n", d.Pos, sc.red("error:"), d.Message, d.Hint)
	}
	if len(told)+len(stale) > 0 {
		fmt.Fprintln(v.out)
	}
	sum := "nothing is wrong"
	if errs := s.Errors + len(stale); errs+s.Warnings > 0 {
		var parts []string
		if errs > 0 {
			parts = append(parts, sc.red(count(errs, "error")))
		}
		if s.Warnings > 0 {
			parts = append(parts, sc.yellow(count(s.Warnings, "warning")))
		}
		sum = strings.Join(parts, ", ")
	}
	if s.Allowed > 0 {
		sum += fmt.Sprintf(", %s allowed", thousands(s.Allowed))
	}
	fmt.Fprintf(v.out, "%s, %s, %s: %s\n", count(t.Manifests, "manifest"), count(t.Instances, "component"),
		count(s.Routes, "route"), sum)
}

// nearFiles shortens the names of files below the working directory in a text, which the tree knows by their full names.
func nearFiles() func(string) string {
	dir, err := os.Getwd()
	if err != nil || dir == "/" {
		return func(s string) string { return s }
	}
	dir += "/"
	within := strings.NewReplacer(" "+dir, " ", "("+dir, "(", "\n"+dir, "\n")
	return func(s string) string { return strings.TrimPrefix(within.Replace(s), dir) }
}

// some are the first few of ms.
func some(ms []name.Moniker) string {
	const few = 3
	var b strings.Builder
	for i, m := range ms {
		if i == few {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(m))
	}
	return b.String()
}

// thousands is n, which is not negative, with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (v *verifier) reach(ctx context.Context, root string, wanted verify.Wanted) error {
	t, done, err := v.open(ctx, root)
	if err != nil {
		return err
	}
	reached, similar, err := t.WhoCanReach(ctx, wanted)
	done()
	if err != nil {
		return err
	}
	if similar != "" {
		p := &control.Problem{
			Kind:    capabilities.NotFound.String(),
			Message: fmt.Sprintf("verify: no component of this tree has a capability %q", wanted.Name),
		}
		if similar != wanted.Name {
			p.Hint = fmt.Sprintf("did you mean %q?", similar)
		}
		return &control.Error{Problem: p}
	}
	if v.json {
		return v.marshal(append([]verify.Reach{}, reached...))
	}
	sc, near := v.screen(v.out), nearFiles()
	for _, r := range reached {
		fmt.Fprintf(v.out, "%s: %s, from %s of %s\n", r.By.Target, r.By.Subject(), r.Source.Name, r.Source)
		for _, h := range r.Hops {
			fmt.Fprintf(v.out, "  %s\n", sc.dim(near(verifyHop(h))))
		}
	}
	if len(reached) == 0 {
		fmt.Fprintf(v.out, "%s reaches nobody\n", wanted)
	}
	return nil
}

func (v *verifier) sandbox(ctx context.Context, root string) error {
	t, done, err := v.open(ctx, root)
	if err != nil {
		return err
	}
	grants := func(name.Moniker) (none confine.Grants) { return }
	if v.settings != nil {
		grants = v.settings.Grants
	}
	all, err := t.Exposures(ctx, grants)
	done()
	if err != nil {
		return err
	}
	if v.json {
		return v.marshal(append([]verify.Exposure{}, all...))
	}
	sc, near := v.screen(v.out), nearFiles()
	for _, e := range all {
		fmt.Fprintf(v.out, "%3d  %s\n", e.Score, e.Moniker)
		for _, r := range e.Reasons {
			where := ""
			if r.Pos.IsValid() {
				where = " (" + near(r.Pos.String()) + ")"
			}
			fmt.Fprintf(v.out, "     %+4d  %s%s\n", r.Score, r.What, sc.dim(where))
		}
	}
	return nil
}

// verifyHop is "offer log by / (root.cml:12:5)".
func verifyHop(h capabilities.Hop) string {
	at := string(h.At)
	if at == "" {
		at = "<component manager>"
	}
	s := fmt.Sprintf("%s %s %s by %s", h.Decl, h.Kind, h.Name, at)
	if h.Pos.IsValid() {
		s += " (" + h.Pos.String() + ")"
	}
	return s
}

func (v *verifier) diff(ctx context.Context, root, other string) error {
	before, done, err := v.open(ctx, root)
	if err != nil {
		return err
	}
	done()
	after, done, err := v.open(ctx, other)
	if err != nil {
		return err
	}
	changes, err := verify.Diff(ctx, before, after)
	done()
	if err != nil {
		return err
	}
	if v.json {
		if err := v.marshal(append([]verify.Change{}, changes...)); err != nil {
			return err
		}
	} else {
		v.changes(changes)
	}
	if len(changes) > 0 {
		return errFailed
	}
	return nil
}

func (v *verifier) changes(changes []verify.Change) {
	sc, near := v.screen(v.out), nearFiles()
	for _, c := range changes {
		r := c.After
		if r == nil {
			r = c.Before
		}
		fmt.Fprintf(v.out, "%s %s: %s\n", c.Word(), r.Target, r.Subject())
		side := func(sign string, paint func(string) string, r *verify.Result) {
			if r == nil {
				return
			}
			fmt.Fprintf(v.out, "  %s\n", paint(sign+" "+near(r.Ending())))
			hops := []capabilities.Hop(nil)
			switch {
			case r.Route != nil:
				hops = r.Route.Hops
			case r.Err != nil:
				hops = r.Err.Hops
			}
			for _, h := range hops {
				fmt.Fprintf(v.out, "      %s\n", sc.dim(near(verifyHop(h))))
			}
		}
		side("-", sc.red, c.Before)
		side("+", sc.green, c.After)
	}
	if len(changes) == 0 {
		fmt.Fprintln(v.out, "no route differs")
	} else {
		fmt.Fprintf(v.out, "\n%s\n", count(len(changes), "change"))
	}
}

func (v *verifier) order(ctx context.Context, root string) error {
	t, done, err := v.open(ctx, root)
	if err != nil {
		return err
	}
	steps, cycles, err := t.ShutdownOrder(ctx)
	done()
	if err != nil {
		return err
	}
	if v.json {
		err = v.marshal(struct {
			Steps  [][]name.Moniker `json:"steps"`
			Cycles []verify.Cycle   `json:"cycles"`
		}{steps, append([]verify.Cycle{}, cycles...)})
	} else {
		for i, s := range steps {
			for _, m := range s {
				fmt.Fprintf(v.out, "%*d  %s\n", len(fmt.Sprint(len(steps))), i+1, m)
			}
		}
		sc := v.screen(v.out)
		for _, c := range cycles {
			fmt.Fprintf(v.out, "%s in %s: strong dependency cycle: %s; these stop without an order\n", sc.red("error:"), c.At,
				strings.Join(c.Path, " -> "))
		}
	}
	if err == nil && len(cycles) > 0 {
		err = errFailed
	}
	return err
}

// marshal writes x as one line.
func (v *verifier) marshal(x any) error {
	e := json.NewEncoder(v.out)
	e.SetEscapeHTML(false)
	return e.Encode(x)
}
