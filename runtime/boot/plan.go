// Package boot runs boot scripts: Erlang's instructions, with init's meaning, on components (erlang-mapping.md). A script is
// checked as a whole before anything of it is done. It is made by `cmgr systools make-script --components`, by hand, or of a tree
// by Compile.
//
// What can be called is this table, and nothing else:
//
//	component:start(Name), component:start(Name, [{ready_ms,N}])   start it; it has to be ready after 30 s
//	component:run(Name), component:run(Name, [{timeout_ms,N},{may_fail,true}])   run it to its end, within 300 s; it must end well
//	application:load({application,Name,[…]})   make an application known; its modules are components
//	application:start_boot(Name, Type)   start its components, beside each other
//	heart:start()   nothing: `--heart` starts the watchdog
//	cmgr:sleep(Milliseconds), cmgr:log(Text), cmgr:require(LeastVersion)
//
// In the place of N stands infinity for no limit. component:start is for kernelProcess and apply, the others are for apply.
package boot

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/boot/systools"
	"github.com/cmgr/cmgr/runtime/boot/term"
)

// Options are those of the command line of a boot.
type Options struct {
	Root        string            // what $ROOT stands for: a directory, absolute
	Vars        map[string]string // what other variables stand for
	Interactive bool              // resolve at first use what is loaded after kernel_load_completed; else everything at once
	Pa, Pz      []string          // directories before and after those of the script
	Path        []string          // directories in the place of those of the script, of Pa and of Pz; nil for none
	Version     string            // of this cmgr, for cmgr:require
}

// Bounds where the script says nothing.
const (
	ReadyTimeout = 30 * time.Second
	RunTimeout   = 300 * time.Second
)

// A Type is how an application, or a component, is missed: what follows when it ends.
type Type string

// The types of applications.
const (
	Permanent Type = "permanent" // any end takes the system down
	Transient Type = "transient" // only a failure does
	Temporary Type = "temporary" // none does
)

// A Plan is a script that was checked.
type Plan struct {
	Name, Version string
	Tree          *Tree // of a script that Compile made; else nil

	steps      []step
	components map[string]*Component
}

// A Component is one that a script loads, or that an application has.
type Component struct {
	Name string
	Dirs []string // where its manifest is looked for
	Lazy bool     // not before its first use
	// At is the instruction that loads it.
	At string
}

// Components are the script's, by name.
func (p *Plan) Components() []*Component {
	out := make([]*Component, 0, len(p.components))
	for _, c := range p.components {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Component) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Component is the one of that name, nil if the script has none.
func (p *Plan) Component(name string) *Component { return p.components[name] }

// Steps is the number of instructions.
func (p *Plan) Steps() int { return len(p.steps) }

// A step is one instruction, with its number from 1 and its text for people.
type step struct {
	at   int
	text string
	said string // by -init_debug, as init says it; "" for nothing
	do   any    // progress, kernel, run, start, pause or say; nil for what has been done by checking
}

// What steps do.
type (
	progress struct{ to term.Term }
	kernel   struct {
		name    string
		timeout time.Duration // 0 for none
		watch   Type          // "" if it is not watched
	}
	run struct {
		name    string
		timeout time.Duration
		mayFail bool
	}
	start struct {
		app    string
		levels [][]string // names; those of a level beside each other
		watch  Type
	}
	pause time.Duration
	say   string
)

// A checker makes a plan, and collects what is wrong.
type checker struct {
	*Plan
	o     Options
	found []error
	at    string   // the instruction
	path  []string // of the script, as it stands
	full  bool     // kernel_load_completed is over
	apps  map[term.Atom]*app
}

type app struct {
	members []string
	tree    *Tree
}

func (c *checker) wrong(format string, args ...any) {
	c.found = append(c.found, fmt.Errorf("%s: %w", c.at, fmt.Errorf(format, args...)))
}

// Check makes a plan of the script t, or says all that is wrong with it. No file is looked at.
func Check(t term.Term, o Options) (*Plan, []error) {
	if found := systools.Check(t); found != nil {
		return nil, found
	}
	is, err := systools.Instructions(t)
	if err != nil {
		return nil, []error{err}
	}
	c := &checker{Plan: &Plan{components: map[string]*Component{}}, o: o, apps: map[term.Atom]*app{}}
	if id, ok := t.(term.Tuple)[1].(term.Tuple); ok && len(id) == 2 {
		c.Name, _ = term.IsString(id[0])
		c.Version, _ = term.IsString(id[1])
	}
	c.path = o.dirs(nil)
	for i, e := range is.Elems {
		s := step{at: i + 1, text: brief(e), said: debug(e)}
		c.at = fmt.Sprintf("instruction %d, %s", s.at, s.text)
		s.do = c.instruction(e.(term.Tuple))
		c.steps = append(c.steps, s)
	}
	if c.found != nil {
		return nil, c.found
	}
	return c.Plan, nil
}

// debug is what init -init_debug says of an instruction: neither of paths nor of what is loaded.
func debug(t term.Term) string {
	i := t.(term.Tuple)
	switch i[0] {
	case term.Atom("progress"), term.Atom("apply"):
		return term.Text(t)
	case term.Atom("kernelProcess"):
		return "{start," + term.Text(i[1]) + "}"
	}
	return ""
}

// brief is the beginning of an instruction, without what an application says of itself.
func brief(t term.Term) string {
	i := t.(term.Tuple)
	if i[0] == term.Atom("apply") {
		if mfa := i[1].(term.Tuple); mfa[0] == term.Atom("application") && mfa[1] == term.Atom("load") {
			if args, _ := term.Proper(mfa[2]); len(args) == 1 {
				if a, ok := args[0].(term.Tuple); ok && len(a) == 3 {
					return "{apply,{application,load,[{application," + term.Text(a[1]) + ",…}]}}"
				}
			}
		}
	}
	r := []rune(term.Text(t))
	if len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return string(r)
}

// dirs is the loader's path while the script says path.
func (o Options) dirs(path []string) []string {
	if o.Path != nil {
		return o.Path
	}
	return slices.Concat(o.Pa, path, o.Pz)
}

func (c *checker) instruction(i term.Tuple) any {
	switch i[0].(term.Atom) {
	case "preLoaded":
		c.builtins(i[1])
	case "progress":
		return progress{i[1]}
	case "path":
		var dirs []string
		elems, _ := term.Proper(i[1])
		for _, e := range elems {
			dirs = append(dirs, c.expand(text(e)))
		}
		c.path = c.o.dirs(dirs)
	case "primLoad":
		mods, _ := term.Proper(i[1])
		for _, m := range mods {
			c.load(string(m.(term.Atom)))
		}
	case "kernel_load_completed":
		c.full = true
	case "kernelProcess":
		mfa := i[2].(term.Tuple)
		if mfa[0] == term.Atom("heart") {
			return c.call(mfa)
		}
		if mfa[0] != term.Atom("component") || mfa[1] != term.Atom("start") {
			c.unknown(mfa, "component:start and heart:start are those of a kernelProcess")
			return nil
		}
		do := c.call(mfa)
		if k, ok := do.(kernel); ok {
			k.watch = Permanent
			return k
		}
	case "apply":
		return c.call(i[1].(term.Tuple))
	}
	return nil
}

// text is an atom's or a string's.
func text(t term.Term) string {
	if a, ok := t.(term.Atom); ok {
		return string(a)
	}
	s, _ := term.IsString(t)
	return s
}

// expand puts a directory in the place of a variable at the beginning, as init does.
func (c *checker) expand(dir string) string {
	v, rest, _ := strings.Cut(dir, "/")
	if !strings.HasPrefix(v, "$") {
		return dir
	}
	to, ok := c.o.Vars[v[1:]]
	if v == "$ROOT" {
		to, ok = c.o.Root, true
	}
	if !ok {
		c.wrong("cannot expand %s; -boot_var %s DIR says what it is", v, v[1:])
	}
	return filepath.Join(to, rest)
}

// builtins are what this cmgr must have in it.
func (c *checker) builtins(t term.Term) {
	mods, ok := term.Proper(t)
	if !ok {
		c.wrong("not a list of what is built in")
	}
	var missing []string
	for _, m := range mods {
		if a, ok := m.(term.Atom); !ok || !slices.Contains(systools.Builtins, a) {
			missing = append(missing, term.Text(m))
		}
	}
	switch n := len(missing); n {
	case 0:
	case 1, 2, 3, 4:
		c.wrong("%s is not built into this cmgr", strings.Join(missing, ", "))
	default:
		c.wrong("%s and %d more are not built into this cmgr", strings.Join(missing[:3], ", "), n-3)
	}
}

func (c *checker) load(n string) {
	if err := name.Check(n); err != nil {
		c.wrong("component %q: %w", n, err)
		return
	}
	if c.components[n] != nil {
		return // what is loaded is loaded
	}
	c.components[n] = &Component{Name: n, Dirs: c.path, Lazy: c.full && c.o.Interactive, At: c.at}
}

func (c *checker) unknown(mfa term.Tuple, hint string) {
	args, _ := term.Proper(mfa[2])
	c.wrong("there is no %s:%s/%d (%s)", mfa[0], mfa[1], len(args), hint)
}

const table = "component:start/1,2 run/1,2; application:load/1 start_boot/2; heart:start/0; cmgr:sleep/1 log/1 require/1"

// call checks a call of something in the table.
func (c *checker) call(mfa term.Tuple) any {
	args, _ := term.Proper(mfa[2])
	switch call := fmt.Sprintf("%s:%s/%d", mfa[0], mfa[1], len(args)); call {
	case "component:start/1", "component:start/2":
		k := kernel{name: c.known(args[0]), timeout: ReadyTimeout}
		c.settings(args[1:], map[term.Atom]any{"ready_ms": &k.timeout})
		return k
	case "component:run/1", "component:run/2":
		r := run{name: c.known(args[0]), timeout: RunTimeout}
		c.settings(args[1:], map[term.Atom]any{"timeout_ms": &r.timeout, "may_fail": &r.mayFail})
		return r
	case "application:load/1":
		c.application(args[0])
	case "application:start_boot/2":
		return c.startBoot(args[0], args[1])
	case "heart:start/0":
	case "cmgr:sleep/1":
		ms, ok := args[0].(term.Int)
		if !ok || ms < 0 || ms > 1<<31 {
			c.wrong("not a number of milliseconds: %s", term.Text(args[0]))
		}
		return pause(time.Duration(ms) * time.Millisecond)
	case "cmgr:log/1":
		s, ok := term.IsString(args[0])
		if !ok {
			c.wrong("not a string: %s", term.Text(args[0]))
		}
		return say(s)
	case "cmgr:require/1":
		s, ok := term.IsString(args[0])
		switch newer, known := newer(s, c.o.Version); {
		case !ok:
			c.wrong("not a version: %s", term.Text(args[0]))
		case known && newer:
			c.wrong("this is cmgr %s, and at least %s is wanted", c.o.Version, s)
		}
	default:
		c.unknown(mfa, table)
	}
	return nil
}

// newer says whether the version a is newer than b, if both are numbers between dots.
func newer(a, b string) (newer, known bool) {
	parse := func(s string) (out []int, ok bool) {
		s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "-")
		for p := range strings.SplitSeq(s, ".") {
			n, err := strconv.Atoi(p)
			if err != nil {
				return nil, false
			}
			out = append(out, n)
		}
		return out, true
	}
	x, ok1 := parse(a)
	y, ok2 := parse(b)
	return slices.Compare(x, y) > 0, ok1 && ok2
}

// known is the name of a component that the script has loaded.
func (c *checker) known(t term.Term) string {
	n := text(t)
	if c.Plan.Tree != nil {
		if _, err := name.ParseMoniker(n); err == nil {
			return n
		}
	}
	if n == "" || c.components[n] == nil {
		names := make([]string, 0, len(c.components))
		for k := range c.components {
			names = append(names, k)
		}
		hint := ""
		if near := name.Nearest(n, names); near != "" {
			hint = ", did you mean " + near + "?"
		}
		c.wrong("no primLoad before has the component %s%s", term.Text(t), hint)
	}
	return n
}

// settings reads a list of {Key,Value} into what to points to.
func (c *checker) settings(args []term.Term, to map[term.Atom]any) {
	if len(args) == 0 {
		return
	}
	elems, ok := term.Proper(args[0])
	if !ok {
		c.wrong("not a list of options: %s", term.Text(args[0]))
	}
	for _, e := range elems {
		kv, ok := e.(term.Tuple)
		var key term.Atom
		if ok = ok && len(kv) == 2; ok {
			key, ok = kv[0].(term.Atom)
		}
		if !ok || to[key] == nil {
			c.wrong("no such option: %s", term.Text(e))
			continue
		}
		switch v := to[key].(type) {
		case *bool:
			*v = kv[1] == term.Atom("true")
			if !*v && kv[1] != term.Atom("false") {
				c.wrong("%s is true or false, not %s", key, term.Text(kv[1]))
			}
		case *time.Duration:
			ms, ok := kv[1].(term.Int)
			switch {
			case kv[1] == term.Atom("infinity"):
				*v = 0
			case !ok || ms <= 0 || ms > 1<<31:
				c.wrong("%s is a number of milliseconds or infinity, not %s", key, term.Text(kv[1]))
			default:
				*v = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// application makes an application known: {application,Name,[{modules,[…]},…]}.
func (c *checker) application(t term.Term) {
	a, ok := t.(term.Tuple)
	var n term.Atom
	if ok = ok && len(a) == 3 && a[0] == term.Atom("application"); ok {
		n, ok = a[1].(term.Atom)
	}
	if !ok {
		c.wrong("not {application,Name,[{Key,Value}…]}")
		return
	}
	if c.apps[n] != nil {
		c.wrong("application %s is loaded a second time", n)
	}
	out := &app{}
	c.apps[n] = out
	if tree := systools.Setting(lookup(a[2], "env"), "tree"); !isNil(tree) {
		tr, err := readTree(tree, c.o.Root)
		switch {
		case err != nil:
			c.wrong("%w", err)
		case c.Plan.Tree != nil || len(c.components) > 0:
			c.wrong("a script has one tree and nothing beside it")
		default:
			tr.Lazy = c.o.Interactive
		}
		c.Plan.Tree, out.tree = tr, tr
		return
	}
	mods, ok := term.Proper(lookup(a[2], "modules"))
	if !ok {
		c.wrong("its modules are not a list")
	}
	for _, m := range mods {
		out.members = append(out.members, c.known(m))
	}
}

func isNil(t term.Term) bool {
	l, ok := t.(term.List)
	return ok && l.Elems == nil
}

// lookup is the value of key in a list of {Key,Value}; [] if there is none.
func lookup(in term.Term, key term.Atom) term.Term {
	elems, _ := term.Proper(in)
	for _, e := range elems {
		if kv, ok := e.(term.Tuple); ok && len(kv) == 2 && kv[0] == key {
			return kv[1]
		}
	}
	return term.List{}
}

func (c *checker) startBoot(n, kind term.Term) any {
	s := start{app: text(n), watch: Type(text(kind))}
	if !slices.Contains([]Type{Permanent, Transient, Temporary}, s.watch) {
		c.wrong("the type is permanent, transient or temporary, not %s", term.Text(kind))
	}
	a := c.apps[term.Atom(s.app)]
	switch {
	case a == nil:
		c.wrong("no application:load before has the application %s", term.Text(n))
	case a.tree != nil:
		s.levels = a.tree.Start
	default:
		s.levels = [][]string{c.unstarted(a.members)}
	}
	return s
}

// unstarted are those of an application's members that no kernelProcess and no apply before has started or run.
func (c *checker) unstarted(members []string) []string {
	done := map[string]bool{}
	for _, s := range c.steps {
		switch do := s.do.(type) {
		case kernel:
			done[do.name] = true
		case run:
			done[do.name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool { return done[m] })
}

// Moniker is where the component of that name stands: monikers are in a tree, other names are the root's children.
func Moniker(component string) (name.Moniker, error) {
	if strings.HasPrefix(component, "/") {
		return name.ParseMoniker(component)
	}
	if component == "" {
		return "", errors.New("a component without a name")
	}
	return name.Root.Child(component), nil
}
