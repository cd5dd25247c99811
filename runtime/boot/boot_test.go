package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/runnertest"
	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/realm"
	"github.com/cmgr/cmgr/runtime/resolver"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// plan checks a script of these instructions.
func plan(t testing.TB, o Options, instructions string) (*Plan, []error) {
	t.Helper()
	s, err := term.Parse("x", []byte(`{script,{"site","1"},[`+strings.TrimSuffix(instructions, ",")+"]}."))
	if err != nil {
		t.Fatal(err)
	}
	return Check(s, o)
}

// TestCheck is what is wrong with each instruction, told with its number before anything is done.
func TestCheck(t *testing.T) {
	const load = `{path,["$ROOT"]},{primLoad,[a,b]},`
	const app = `{apply,{application,load,[{application,x,[{modules,[a]}]}]}},`
	for _, c := range []struct{ script, want string }{
		// preLoaded
		{`{preLoaded,[elf,java]}`, "instruction 1, {preLoaded,[elf,java]}: java is not built into this cmgr"},
		{`{preLoaded,["elf"]}`, `"elf" is not built into this cmgr`},
		{`{preLoaded,elf}`, "not a list of what is built in"},
		// path
		{`{path,["$SITE/x"]}`, "cannot expand $SITE; -boot_var SITE DIR says what it is"},
		{`{path,["$SITE"]}`, "cannot expand $SITE"},
		{`{path,[1]}`, "instruction 1, {path,[1]}: "},
		{`{path,x}`, "instruction 1, {path,x}: "},
		// primLoad
		{`{primLoad,a}`, "instruction 1, {primLoad,a}: "},
		{`{primLoad,["a"]}`, "instruction 1, {primLoad,[\"a\"]}: "},
		{`{primLoad,['A b']}`, `component "A b": `},
		{`{primLoad,[a,a]}`, "module a twice in one list"},
		// kernel_load_completed, and what is no instruction
		{`kernel_load_completed`, "instruction 1, kernel_load_completed: "},
		{`{kernel_load_completed,x}`, "instruction 1, {kernel_load_completed,x}: "},
		{`{frobnicate,x}`, "instruction 1, {frobnicate,x}: "},
		{`{}`, "instruction 1, {}: "},
		{`{progress}`, "instruction 1, {progress}: "},
		// kernelProcess
		{load + `{kernelProcess,a,{component,start,[c]}}`, "instruction 3, {kernelProcess,a,{component,start,[c]}}: no primLoad before has the component c"},
		{load + `{kernelProcess,a,{component,run,[a]}}`, "component:start and heart:start are those of a kernelProcess"},
		{load + `{kernelProcess,a,{component,start,a}}`, "instruction 3"},
		{load + `{kernelProcess,a,{component,start,[a,[{ready_ms,0}]]}}`, "ready_ms is a number of milliseconds or infinity, not 0"},
		{load + `{kernelProcess,a,{component,start,[a,[{ready,1}]]}}`, "no such option: {ready,1}"},
		{load + `{kernelProcess,a,{component,start,[a,x]}}`, "not a list of options: x"},
		{`{kernelProcess,a}`, "instruction 1"},
		// apply
		{`{apply,{os,cmd,["rm"]}}`, "there is no os:cmd/1 (component:start/1,2 run/1,2; application:load/1 start_boot/2; heart:start/0; cmgr:sleep/1 log/1 require/1)"},
		{load + `{apply,{component,run,[]}}`, "there is no component:run/0"},
		{load + `{apply,{component,run,[migrat]}}`, "no primLoad before has the component migrat"},
		{load + `{apply,{component,run,[a,[{timeout_ms,-1}]]}}`, "timeout_ms is a number of milliseconds or infinity, not -1"},
		{load + `{apply,{component,run,[a,[{may_fail,maybe}]]}}`, "may_fail is true or false, not maybe"},
		{`{apply,{component,run,[a]}}`, "no primLoad before has the component a"},
		{`{apply,{application,load,[x]}}`, "not {application,Name,[{Key,Value}…]}"},
		{`{apply,{application,load,[{application,x,[{modules,[a]}]}]}}`, "no primLoad before has the component a"},
		{`{apply,{application,load,[{application,x,[{modules,a}]}]}}`, "its modules are not a list"},
		{load + app + app, "application x is loaded a second time"},
		{load + `{apply,{application,start_boot,[x,permanent]}}`, "no application:load before has the application x"},
		{load + app + `{apply,{application,start_boot,[x,often]}}`, "the type is permanent, transient or temporary, not often"},
		{`{apply,{application,load,[{application,x,[{env,[{cmgr,[{tree,x}]}]}]}]}}`, "the tree of the application is damaged; compile it again"},
		{`{apply,{heart,stop,[]}}`, "there is no heart:stop/0"},
		{`{apply,{cmgr,sleep,[forever]}}`, "not a number of milliseconds: forever"},
		{`{apply,{cmgr,sleep,[-1]}}`, "not a number of milliseconds: -1"},
		{`{apply,{cmgr,log,[text]}}`, "not a string: text"},
		{`{apply,{cmgr,require,["99.1"]}}`, "this is cmgr 1.2, and at least 99.1 is wanted"},
		{`{apply,{cmgr,require,[new]}}`, "not a version: new"},
		{`{apply,{cmgr,require,["1.2"]}},{preLoaded,[elf,loader,log,runit]},{apply,{heart,start,[]}},{kernelProcess,heart,{heart,start,[]}}`, ""},
		// Everything is told at once.
		{`{path,["$A"]},{primLoad,[a]},{apply,{component,run,[b]}}`, "cannot expand $A; -boot_var A DIR says what it is\ninstruction 3"},
	} {
		_, found := plan(t, Options{Root: "/r", Version: "1.2"}, c.script)
		got := ""
		if err := errors.Join(found...); err != nil {
			got = err.Error()
		}
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.script, got, c.want)
		}
	}
}

// TestPath is where components are looked for: -pa before the script's directories, -pz after, -path in the place of all; and what is
// resolved at first use only.
func TestPath(t *testing.T) {
	const script = `{path,["$ROOT/a",'$SITE',"b/$ROOT"]},{primLoad,[x]},{kernel_load_completed},{path,[]},{primLoad,[y,x]}`
	for _, c := range []struct {
		o    Options
		x, y string
	}{
		{Options{}, "/r/a /s b/$ROOT", ""},
		{Options{Pa: []string{"p", "q"}, Pz: []string{"z"}}, "p q /r/a /s b/$ROOT z", "p q z"},
		{Options{Pa: []string{"p"}, Path: []string{"only"}}, "only", "only"},
		{Options{Path: []string{}}, "", ""},
		{Options{Interactive: true}, "/r/a /s b/$ROOT", ""},
	} {
		c.o.Root, c.o.Vars = "/r", map[string]string{"SITE": "/s", "ROOT": "/not"}
		p, found := plan(t, c.o, script)
		if found != nil {
			t.Fatal(found)
		}
		x, y := p.Component("x"), p.Component("y")
		if strings.Join(x.Dirs, " ") != c.x || strings.Join(y.Dirs, " ") != c.y || x.Lazy || y.Lazy != c.o.Interactive {
			t.Errorf("%+v: %+v, %+v", c.o, x, y)
		}
	}
}

// world runs a script of components that a fake runner runs.
type world struct {
	*Boot
	t     *testing.T
	tree  *realm.Realm
	fake  *runnertest.Fake
	dir   string
	ended chan string // who ended that must not have, and why

	mu   sync.Mutex
	news []News
}

type above struct{}

func (above) Has(k manifest.Kind, n string) bool {
	return k == manifest.KindRunner && n == "fake" || k == manifest.KindResolver && (n == "file" || n == Scheme)
}
func (above) Framework(manifest.Kind, string) bool               { return false }
func (a above) InRootEnvironment(k manifest.Kind, n string) bool { return a.Has(k, n) }

type sinks struct{}

func (sinks) Open(name.Moniker) (stdout, stderr *os.File, drained func(context.Context), err error) {
	return nil, nil, func(context.Context) {}, nil
}
func (sinks) Note(name.Moniker, string) {}
func (sinks) Remove(name.Moniker)       {}

type forbid struct{}

func (forbid) RebootOnTerminate(name.Moniker) bool { return false }

// newWorld has the components a to e, and the instructions that load them.
func newWorld(t *testing.T, instructions string) *world {
	w := &world{t: t, fake: runnertest.NewFake(), dir: t.TempDir(), ended: make(chan string, 10)}
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		if err := os.WriteFile(filepath.Join(w.dir, n+".cml"), []byte(`{ program: { runner: "fake" } }`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, found := plan(t, Options{Root: w.dir}, `{path,["$ROOT"]},{primLoad,[a,b,c,d,e]},`+instructions)
	if found != nil {
		t.Fatal(found)
	}
	disk := resolver.NewDisk(cml.Options{})
	r, err := NewResolver(p, Files{Resolver: disk, Scheme: "file"}, true)
	if err != nil {
		t.Fatal(err)
	}
	w.tree = realm.New(realm.Config{
		RootURL: RootURL, Builtins: above{}, Runners: map[string]runners.Runner{"fake": w.fake},
		Resolvers: map[string]resolver.Resolver{"file": disk, Scheme: r}, Sinks: sinks{}, Policy: forbid{}, Log: slog.New(slog.DiscardHandler),
	})
	w.Boot = New(p, w.tree, func(n News) {
		w.mu.Lock()
		w.news = append(w.news, n)
		w.mu.Unlock()
	})
	t.Cleanup(func() {
		w.tree.Close()
		w.fake.Wait()
	})
	return w
}

// watch has the end of what is watched told.
func (w *world) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Watch(ctx, func(m name.Moniker, why string) { w.ended <- string(m) + " " + why })
	}()
	w.t.Cleanup(func() { cancel(); <-done })
}

// log is what the fake runner did with the script's components.
func (w *world) log() string { return strings.Join(w.fake.Log(), ", ") }

func in(t *testing.T, f func(*testing.T)) { t.Helper(); synctest.Test(t, f) }

// TestRun does each instruction, in order, and tells how far it is.
func TestRun(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, `{progress,{any,["term"]}},
			{kernelProcess,a,{component,start,[a]}},
			{apply,{component,run,[b]}},
			{apply,{cmgr,sleep,[2000]}},
			{apply,{cmgr,log,["here"]}},
			{apply,{application,load,[{application,app,[{modules,[a,b,c,d]}]}]}},
			{apply,{application,start_boot,[app,temporary]}},
			{apply,{component,start,[e]}},{progress,started}`)
		w.fake.Behave("/b", runnertest.ExitZero)
		if s := w.Status(); s.Internal != "starting" || s.Progress != "starting" || s.Step != 0 || s.Steps != 11 {
			t.Errorf("before: %+v", s)
		}
		begun := time.Now()
		if err := w.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d != 2*time.Second {
			t.Errorf("it took %v", d)
		}
		if s := w.Status(); s.Internal != "started" || s.Progress != "started" || s.Step != 11 {
			t.Errorf("after: %+v", s)
		}
		// Of the application only what has not been started is: c and d, beside each other.
		got := w.log()
		got = strings.Replace(got, "start /d, start /c", "start /c, start /d", 1)
		if got != "start /a, start /b, exit /b, start /c, start /d, start /e" {
			t.Error(got)
		}
		var reached, said []string
		begins := 0
		for _, n := range w.news {
			switch {
			case n.Reached:
				reached = append(reached, n.Progress)
			case n.Said != "":
				said = append(said, n.Said)
			case n.Begins:
				begins++
			}
		}
		if strings.Join(reached, " ") != `{any,["term"]} started` || strings.Join(said, " ") != "here" || begins != 11 {
			t.Errorf("%q %q %d", reached, said, begins)
		}
	})
}

// TestRunFails: an instruction that fails ends the boot, with its number, and the rest isn't done.
func TestRunFails(t *testing.T) {
	const app = `{apply,{application,load,[{application,app,[{modules,[b,c]}]}]}},`
	for _, c := range []struct {
		instruction string
		behaviour   runnertest.Behaviour // of b
		want        string
		after       time.Duration
	}{
		{`{kernelProcess,b,{component,start,[b]}}`, runnertest.NeverStarts, "instruction 3, {kernelProcess,b,{component,start,[b]}}: ", 0},
		{`{kernelProcess,b,{component,start,[b]}}`, runnertest.NeverReady, "it hangs: not ready within 30s", 30 * time.Second},
		{`{kernelProcess,b,{component,start,[b,[{ready_ms,1500}]]}}`, runnertest.NeverReady, "it hangs: not ready within 1.5s", 1500 * time.Millisecond},
		{`{apply,{component,start,[b]}}`, runnertest.NeverReady, "it hangs: not ready within 30s", 30 * time.Second},
		{`{apply,{component,run,[b]}}`, runnertest.ExitSeven, "component b: exited code=7", 0},
		{`{apply,{component,run,[b]}}`, runnertest.NeverStarts, "component b: ", 0},
		{`{apply,{component,run,[b]}}`, runnertest.UntilStopped, "component b: it hangs: not ended within 5m0s", 300 * time.Second},
		{`{apply,{component,run,[b,[{may_fail,true},{timeout_ms,100}]]}}`, runnertest.UntilStopped, "it hangs: not ended within 100ms", 100 * time.Millisecond},
		{`{apply,{component,run,[b,[{may_fail,true}]]}}`, runnertest.ExitSeven, "", 0},
		{app + `{apply,{application,start_boot,[app,permanent]}}`, runnertest.NeverStarts, "application app is permanent: ", 0},
		{app + `{apply,{application,start_boot,[app,transient]}}`, runnertest.NeverStarts, "", 0},
		{app + `{apply,{application,start_boot,[app,temporary]}}`, runnertest.NeverReady, "", 30 * time.Second},
	} {
		t.Run(c.instruction+" "+string(c.behaviour), func(t *testing.T) {
			in(t, func(t *testing.T) {
				w := newWorld(t, c.instruction+`,{apply,{component,start,[e]}}`)
				w.fake.Behave("/b", c.behaviour)
				begun := time.Now()
				err := w.Run(t.Context())
				if d := time.Since(begun); d != c.after {
					t.Errorf("after %v, want %v", d, c.after)
				}
				w.fake.Behave("/b", runnertest.UntilStopped)
				went := slices.Contains(w.fake.Log(), "start /e")
				if c.want == "" {
					if err != nil || !went {
						t.Errorf("%v; %s", err, w.log())
					}
					return
				}
				var step *StepError
				if !errors.As(err, &step) || step.Step < 3 || !strings.Contains(err.Error(), c.want) || went {
					t.Errorf("%v, want %q; %s", err, c.want, w.log())
				}
				synctest.Wait()
				if c.behaviour == runnertest.UntilStopped && slices.Contains(w.fake.Running(), "/b") {
					t.Error("what hangs still runs")
				}
			})
		})
	}
}

// TestHangs: an apply that never returns is told, with its instruction, after 5 s, 15 s and so on, and ends when the boot is given up.
func TestHangs(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, `{apply,{component,run,[b,[{timeout_ms,infinity}]]}}`)
		ctx, cancel := context.WithCancelCause(t.Context())
		over := make(chan error)
		go func() { over <- w.Run(ctx) }()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		var hangs []time.Duration
		w.mu.Lock()
		for _, n := range w.news {
			if n.Hangs > 0 && n.Step == 3 && n.Text == "{apply,{component,run,[b,[{timeout_ms,infinity}]]}}" {
				hangs = append(hangs, n.Hangs)
			}
		}
		w.mu.Unlock()
		if !slices.Equal(hangs, []time.Duration{5 * time.Second, 15 * time.Second}) {
			t.Errorf("told %v", hangs)
		}
		if s := w.Status(); s.Internal != "starting" || s.Step != 3 || time.Since(s.Since) != 20*time.Second {
			t.Errorf("%+v", s)
		}
		why := errors.New("told to end")
		cancel(why)
		if err := <-over; !errors.Is(err, why) {
			t.Error(err)
		}
	})
}

// TestWatch: who must not end, and how, by who started it.
func TestWatch(t *testing.T) {
	const app = `{apply,{application,load,[{application,app,[{modules,[b]}]}]}},`
	fine, failed := runners.Exit{Code: 0}, runners.Exit{Code: 3}
	for _, c := range []struct {
		name, instruction string
		exit              runners.Exit
		want              string
	}{
		{"kernel process, well", `{kernelProcess,b,{component,start,[b]}}`, fine, "/b it is a kernel process of the boot script: exited code=0"},
		{"kernel process, not well", `{kernelProcess,b,{component,start,[b]}}`, failed, "/b it is a kernel process of the boot script: exited code=3"},
		{"permanent", app + `{apply,{application,start_boot,[app,permanent]}}`, fine, "/b it is permanent of the boot script: exited code=0"},
		{"transient, not well", app + `{apply,{application,start_boot,[app,transient]}}`, failed, "/b it is transient of the boot script: exited code=3"},
		{"transient, well", app + `{apply,{application,start_boot,[app,transient]}}`, fine, ""},
		{"temporary", app + `{apply,{application,start_boot,[app,temporary]}}`, failed, ""},
		{"apply", `{apply,{component,start,[b]}}`, failed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				w := newWorld(t, c.instruction+`,{kernelProcess,e,{component,start,[e]}}`)
				w.watch()
				if err := w.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !w.fake.Exit("/b", c.exit) {
					t.Fatal("it does not run")
				}
				synctest.Wait()
				got := ""
				select {
				case got = <-w.ended:
				default:
				}
				if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
					t.Errorf("%q, want %q", got, c.want)
				}
			})
		})
	}
}

// TestWatchEarly: a kernel process that dies while the script is still being run, and one that somebody stopped on purpose.
func TestWatchEarly(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, `{kernelProcess,a,{component,start,[a]}},{kernelProcess,b,{component,start,[b]}},{apply,{component,run,[c]}}`)
		w.watch()
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- w.Run(ctx) }()
		synctest.Wait()
		if err := w.tree.Stop(t.Context(), "/a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(w.ended) > 0 {
			t.Errorf("asked to stop: %s", <-w.ended)
		}
		w.fake.Exit("/b", runners.Exit{})
		if got := <-w.ended; !strings.HasPrefix(got, "/b it is a kernel process") {
			t.Error(got)
		}
		cancel()
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestStop stops applications and then kernel processes, each of them in the reverse order of their starts; what does not stop is killed
// after its stop timeout, and who comes after it waits for that.
func TestStop(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, `{kernelProcess,a,{component,start,[a]}},{kernelProcess,b,{component,start,[b]}},
			{apply,{application,load,[{application,one,[{modules,[c]}]}]}},{apply,{application,load,[{application,two,[{modules,[d,e]}]}]}},
			{apply,{application,start_boot,[one,permanent]}},{apply,{application,start_boot,[two,permanent]}}`)
		w.watch()
		w.fake.Behave("/b", runnertest.IgnoresStop)
		w.fake.Behave("/d", runnertest.IgnoresStop)
		if err := w.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := len(w.fake.Log())
		begun := time.Now()
		w.Stop(t.Context())
		if d := time.Since(begun); d != 10*time.Second { // 5 s each for b and d
			t.Errorf("it took %v", d)
		}
		got := w.fake.Log()[before:]
		slices.Sort(got[:2]) // d and e at once
		if s := strings.Join(got, ", "); s != "stop /d, stop /e, kill /d, stop /c, stop /b, kill /b, stop /a" {
			t.Error(s)
		}
		synctest.Wait()
		if s := w.Status(); s.Internal != "stopping" || len(w.ended) > 0 {
			t.Errorf("%+v; %d ends were told", s, len(w.ended))
		}
	})
}

// TestStopApplied: what is started, or run, by an apply goes before the kernel processes, in its turn among the applications.
func TestStopApplied(t *testing.T) {
	in(t, func(t *testing.T) {
		w := newWorld(t, `{kernelProcess,a,{component,start,[a]}},{apply,{component,start,[b]}},
			{apply,{application,load,[{application,one,[{modules,[c]}]}]}},{apply,{application,start_boot,[one,permanent]}},
			{apply,{component,start,[d]}},{apply,{component,run,[e]}}`)
		w.watch()
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- w.Run(ctx) }()
		synctest.Wait() // e runs
		cancel()
		<-over
		before := len(w.fake.Log())
		w.Stop(t.Context())
		if s := strings.Join(w.fake.Log()[before:], ", "); s != "stop /e, stop /d, stop /c, stop /b, stop /a" {
			t.Error(s)
		}
	})
}

// FuzzCheck checks any script. The law: what is accepted is the same plan when it is printed and read again, and each of its steps names
// only components that it loads.
func FuzzCheck(f *testing.F) {
	f.Add(`[{preLoaded,[elf]},{path,["$ROOT/a",'$SITE']},{primLoad,[a,b]},{kernel_load_completed},{kernelProcess,heart,{heart,start,[]}},
		{kernelProcess,a,{component,start,[a,[{ready_ms,infinity}]]}},{apply,{component,run,["b",[{may_fail,true},{timeout_ms,5}]]}},
		{apply,{application,load,[{application,x,[{modules,[a,b]}]}]}},{apply,{application,start_boot,[x,transient]}},{progress,#{1=>started}}]`)
	f.Add(`[{apply,{cmgr,sleep,[1]}},{apply,{cmgr,log,["x"]}},{apply,{cmgr,require,["0.1"]}}]`)
	f.Add(`[{apply,{application,load,[{application,x,[{env,[{cmgr,[{tree,[{root,<<"file:///r">>},{start,[[<<"/">>]]}]}]}]}]}]}}]`)
	o := Options{Root: "/r", Vars: map[string]string{"SITE": "/s"}, Version: "1.2"}
	f.Fuzz(func(t *testing.T, instructions string) {
		s, err := term.Parse("x", []byte(`{script,{"site","1"},`+instructions+"}."))
		if err != nil {
			return
		}
		p, found := Check(s, o)
		again, err := term.Parse("x", []byte(term.Text(s)+"."))
		if err != nil {
			t.Fatal(err)
		}
		q, found2 := Check(again, o)
		if len(found) != len(found2) || (p == nil) != (found != nil) || !reflect.DeepEqual(p, q) {
			t.Fatalf("%s: %v, then %v", term.Text(s), found, found2)
		}
		for _, e := range found {
			if e.Error() == "" {
				t.Error("an empty complaint")
			}
		}
		if p == nil {
			return
		}
		for _, s := range p.steps {
			var names []string
			switch do := s.do.(type) {
			case kernel:
				names = []string{do.name}
			case run:
				names = []string{do.name}
			case start:
				names = slices.Concat(do.levels...)
			}
			for _, n := range names {
				if p.Component(n) == nil && p.Tree == nil {
					t.Errorf("instruction %d, %s: %q is not loaded", s.at, s.text, n)
				}
			}
		}
	})
}
