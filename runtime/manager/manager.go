// Package manager puts a cmgr together: the tree, the built-in runners and resolvers, the jobs, the logs and the management
// socket. It decides nothing itself. It is also the way to make one's own cmgr, with one's own runner:
//
//	m, err := manager.New(manager.Config{
//		Root:    "root.cml",
//		Runners: map[string]runners.Runner{"wasm": wasmRunner},
//		Screen:  screen.New(os.Stdout, os.Stderr, screen.Options{}),
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	err = m.Run(ctx)
//
// The process that runs a manager must not use os/exec: the manager reaps every child of the process. For an ordinary user its
// main calls confine.Reenter before anything else, or nothing is confined.
package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/protocol"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/probe"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/builtin"
	"github.com/cmgr/cmgr/runners/elf"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runit"
	"github.com/cmgr/cmgr/runtime/boot"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
	"github.com/cmgr/cmgr/runtime/resolver"
	"github.com/cmgr/cmgr/runtime/screen"
)

// Config says what a manager is made of. Only Root is needed.
type Config struct {
	// Root is the root component's manifest: a file (.cml or .cm) or a URL. "" takes root_component_url of Files.
	Root string
	// Name tells managers on one machine apart; "" is "default". It names the management socket and the state directory.
	Name string
	// StateDir holds logs and what the next start must know of this one; "" is StateDir(Name).
	StateDir string
	// Socket is the management socket's path; "" is control.Path(Name).
	Socket string
	// Files are configuration files (see Settings).
	Files []string
	// Runners are runners beside "elf" and "runit", by the name under which the root environment has them.
	Runners map[string]runners.Runner
	// Functions are Go functions for the runner "builtin".
	Functions map[string]builtin.Func
	// Loaders are resolvers beside "file", "efile" and "runit" whose packages a loader gets, by the name under which the root
	// environment has them, which is also a scheme: "inet:///srv/net.cml". They are added to those of Files.
	Loaders map[string]prim.Config
	// Trust is the file that says which packages they may get (cache.Trust); "" takes that of Files, or else accepts all.
	Trust string
	// Job forces a job backend (job.Cgroup2, …); "" takes the strongest that the machine allows.
	Job string
	// Screen shows output and changes of state; nil shows nothing.
	Screen *screen.Screen
	// Stay keeps the manager when nothing runs any more.
	Stay bool
	// Version is what the management interface tells.
	Version string
	// Boot is a boot script to run, in the place of Root; BootDebug shows each of its instructions. What it loads comes by the one
	// of Loaders that is called BootLoader; "" is the disk.
	Boot       *boot.Plan
	BootDebug  bool
	BootLoader string
	// Log is for what concerns the manager itself; nil is silence.
	Log *slog.Logger

	builtins routing.Builtins // in the place of its own, for tests; nil
}

// A Manager runs one tree.
type Manager struct {
	cfg         Config
	root        string // URL
	settings    *Settings
	loop        *poll.Loop
	jobs        *job.Manager
	logs        *logs.Logs
	sockets     *protocol.Sockets
	elf         *elf.Runner
	runit       *runit.Runner
	realm       *realm.Realm
	control     *control.Server
	hosts       hosts // of the protocols that it speaks itself
	socket      net.Listener
	loaders     *Loaders
	directories map[string]realm.HostDirectory // those of the host that the root is offered, by name
	hostSockets map[string]string              // likewise
	exposed     string                         // where what the root exposes is found
	confiner    *confine.Confiner              // nil: nobody is confined
	weak        error                          // why not

	alive     func()
	down      chan struct{} // closed when the tree must go down
	downOnce  sync.Once
	boot      *boot.Boot         // nil without a script
	compiled  *resolver.Compiled // nil without one of a tree
	above     routing.Builtins
	resolvers map[string]resolver.Resolver

	// mu guards what follows.
	mu       sync.Mutex
	asked    bool   // it was told to end
	rebooted string // why one component's end took the tree down, "" if none did
	failed   error  // why the boot script could not be run to its end
	phase    string // starting, started or stopping
}

// StateDir is where a manager of that name keeps its logs: below /var/lib/cmgr for root, else below $XDG_STATE_HOME/cmgr or
// ~/.local/state/cmgr, or, without a home, a directory of the user's below the system's temporary one.
func StateDir(manager string) string {
	if os.Geteuid() == 0 {
		return filepath.Join("/var/lib/cmgr", manager)
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "cmgr", manager)
	}
	if h, err := os.UserHomeDir(); err == nil {
		if st, err := os.Stat(h); err == nil && st.IsDir() && h != "/" {
			return filepath.Join(h, ".local/state/cmgr", manager)
		}
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("cmgr-%d", os.Geteuid()), manager)
}

// New puts a manager together: it reads the configuration, cleans up what a dead manager with the same state directory left, and
// takes the management socket. No manifest is read and nothing is started. Close, or Run, ends it.
func New(cfg Config) (_ *Manager, err error) {
	settings, err := ReadSettings(cfg.Files...)
	if err != nil {
		return nil, err
	}
	cfg.Name = cmp.Or(cfg.Name, "default")
	if err := name.Check(cfg.Name); err != nil {
		return nil, fmt.Errorf("manager's name: %w", err)
	}
	cfg.StateDir = cmp.Or(cfg.StateDir, StateDir(cfg.Name))
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{cfg: cfg, settings: settings, down: make(chan struct{}), phase: "starting"}
	if cfg.Boot == nil {
		if m.root, err = rootURL(cfg.Root, settings); err != nil {
			return nil, err
		}
	}
	for n := range cfg.Runners {
		if err := name.Check(n); err != nil || n == runnerELF || n == runnerRunit || n == "builtin" {
			return nil, fmt.Errorf("runner %q: not a name that a runner of one's own can have", n)
		}
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	// The name first: a manager that has it already must be told of before anything of it is touched.
	if m.socket, err = control.Listen(cfg.Name, cfg.Socket, settings.ManagementGroup); err != nil {
		return nil, err
	}
	m.exposed = control.ExposedPath(cmp.Or(cfg.Socket, control.Path(cfg.Name)))
	if err := own(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if m.loop, err = poll.New(); err != nil {
		return nil, err
	}
	m.jobs, err = job.Open(job.Options{Name: cfg.Name, State: cfg.StateDir, Backend: cfg.Job, Loop: m.loop})
	if err != nil {
		return nil, err
	}
	if b := m.jobs.Backend(); len(b.Missing) > 0 {
		level := slog.LevelInfo // an ordinary user has mostly no choice
		if os.Geteuid() == 0 {
			level = slog.LevelWarn
		}
		cfg.Log.Log(context.Background(), level, "components are contained by "+b.Name+": "+b.Guarantee, "why",
			strings.Join(b.Missing, "; "))
	}
	m.logs, err = logs.New(logs.Config{Dir: filepath.Join(cfg.StateDir, "logs"), Size: settings.LogMaxSize, Keep: settings.LogMaxFiles})
	if err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	if m.sockets, err = protocol.Open(filepath.Join(cfg.StateDir, "run"), m.loop); err != nil {
		return nil, err
	}
	if short, err := aliases(); err != nil {
		return nil, err
	} else if err := m.sockets.Alias(short); err != nil {
		return nil, err
	}
	if err := m.openConfiner(settings); err != nil {
		return nil, err
	}
	m.elf = elf.New(elf.Config{
		Jobs: m.jobs, Loop: m.loop, Policy: settings.Job, Log: cfg.Log, Confine: m.confiner, Grants: settings.Grants,
	})

	if m.runit, err = runit.New(runit.Config{Jobs: m.jobs, Loop: m.loop, Tree: services{m}, Log: cfg.Log}); err != nil {
		return nil, err
	}

	all := maps.Clone(cfg.Runners)
	if all == nil {
		all = map[string]runners.Runner{}
	}
	all[runnerELF], all[runnerRunit] = m.elf, m.runit
	if cfg.Functions != nil {
		all["builtin"] = builtin.New(builtin.Config{Funcs: cfg.Functions, Log: cfg.Log})
	}
	m.resolvers = diskResolvers(cml.Options{})
	m.loaders, err = OpenLoaders(LoadersConfig{
		Settings: settings, More: cfg.Loaders, Trust: cfg.Trust, Once: func(n string) bool { return n == cfg.BootLoader },
		Dir:   filepath.Join(cfg.StateDir, "cache"),
		InUse: m.packages, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	maps.Copy(m.resolvers, m.loaders.Resolvers())
	if cfg.Boot != nil {
		if m.root, err = m.bootResolvers(); err != nil {
			return nil, err
		}
	}
	m.serveFramework(settings)
	m.hostSockets = settings.HostSockets
	m.directories = map[string]realm.HostDirectory{
		dataDirectory: {Path: filepath.Join(cfg.StateDir, "data"), Rights: manifest.RightsRW},
	}
	maps.Copy(m.directories, settings.HostDirectories)
	if err := os.MkdirAll(m.directories[dataDirectory].Path, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	off, err := readDisabled(filepath.Join(cfg.StateDir, "disabled"))
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if m.above = cfg.builtins; m.above == nil {
		m.above = m.builtins(all, m.resolvers, settings)
	}
	m.realm = realm.New(realm.Config{
		RootURL: m.root, Builtins: m.above, Runners: all, Resolvers: m.resolvers,
		Sockets: m.sockets, Hosts: m.hosts, Directories: m.directories, HostSockets: m.hostSockets, InstanceIDs: settings.InstanceIDs,
		Sinks: m.logs, Policy: settings, Disabled: off, Log: cfg.Log, Rebooted: m.reboot,
		Exposed: func(dir string) {
			if err := m.expose(dir, settings.ManagementGroup); err != nil {
				cfg.Log.Error("what the root exposes cannot be reached", "error", err)
			}
		},
		Confined: func(n name.Moniker) bool { return m.confiner != nil && !settings.Grants(n).Unconfined },
	})
	m.control = control.New(control.Config{
		Name: cfg.Name, Version: cfg.Version, RootURL: m.root, Group: settings.ManagementGroup,
		Tree: control.OfRealm(m.realm), Router: m.realm.Engine(), Logs: m.logs, Connect: m.realm.Connect, Explore: m.explorer(settings),
		Doctor: m.doctor, Sandbox: m.sandbox, Progress: m.progress, Shutdown: m.shutdownAsked, Log: cfg.Log,
	})
	loop, tree := m.loop, m.realm // a manager that is closed has none
	m.alive = func() {
		answered := make(chan struct{})
		if loop.Do(func() { close(answered) }) {
			<-answered
		}
		tree.Runs()
	}
	if cfg.Boot != nil {
		m.boot = boot.New(cfg.Boot, m.realm, m.tellBoot)
	}
	return m, nil
}

// openConfiner makes what confines components. Where that can't be, the manager of an ordinary user goes on without, and says so.
func (m *Manager) openConfiner(s *Settings) (err error) {
	platform := slices.Concat(confine.DefaultPlatform, s.Platform)
	if m.confiner, err = confine.Open(confine.Options{Platform: platform}); err == nil {
		return nil
	}
	m.confiner, m.weak = nil, err
	if required := s.Required; required == nil && probe.Admin() || required != nil && *required {
		return &control.Error{Problem: &control.Problem{
			Kind: capabilities.Unavailable.String(), Message: "components cannot be confined here: " + err.Error(),
			Hint: "`cmgr doctor` says what the machine lacks; security_policy.sandbox.required: false in the manager's configuration runs them " +
				"unconfined",
		}}
	}
	m.cfg.Log.Warn("components are not confined: they have all that the manager's user has", "why", err)
	return nil
}

// packages are the directories of the packages that instances have.
func (m *Manager) packages() []string {
	var out []string
	for _, i := range m.realm.Instances() {
		out = append(out, i.PackageDir)
	}
	return append(out, m.loaders.dirs()...)
}

// own makes dir if it isn't there. One in the system's temporary directory could have been made by anybody who knew its name: it,
// and what is between, must be the user's own.
func own(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		// Programs that run as other users must get to what is theirs in it; what is nobody's but the manager's is closed itself.
		dirs := []string{dir}
		if above := filepath.Dir(dir); above == StateDir("") {
			dirs = append(dirs, above)
		}
		for _, d := range dirs {
			st, err := os.Stat(d)
			if err != nil {
				return err
			}
			if err := os.Chmod(d, st.Mode().Perm()|0o011); err != nil {
				return err
			}
		}
	}
	tmp := filepath.Clean(os.TempDir()) + "/"
	for ; strings.HasPrefix(dir, tmp) || strings.HasPrefix(dir, "/tmp/"); dir = filepath.Dir(dir) {
		st, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok || int(sys.Uid) == os.Geteuid() && st.IsDir() || sys.Uid == 0 && st.IsDir() && st.Mode()&0o022 == 0 {
			continue
		}
		return fmt.Errorf("%s belongs to uid %d, who may not be trusted with it", dir, sys.Uid)
	}
	return nil
}

// aliases is where long names of directories with sockets have short ones. All may pass through root's: its programs may run as
// other users.
func aliases() (string, error) {
	if os.Geteuid() == 0 {
		const dir = "/run/cmgr-ns"
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return "", err
		}
		return dir, os.Chmod(dir, 0o711)
	}
	base := cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), os.TempDir())
	if len(base) > len("/run/user/4294967295") {
		base = "/tmp" // a long one would be of no use
	}
	dir := filepath.Join(base, fmt.Sprintf("cmgr-ns-%d", os.Geteuid()))
	return dir, own(dir)
}

// rootURL is the one URL that the command line or the configuration gives.
func rootURL(arg string, s *Settings) (string, error) {
	at := ""
	switch {
	case arg != "" && s.RootURL != "":
		return "", fmt.Errorf("root component: given twice, as %s and in the configuration at %s", arg, s.rootAt)
	case arg == "" && s.RootURL == "":
		return "", errors.New("root component: none given")
	case arg == "":
		arg, at = s.RootURL, filepath.Dir(s.rootAt.File)
	}
	if name.Scheme(arg) != "" {
		return arg, nil
	}
	if at != "" && !filepath.IsAbs(arg) {
		arg = filepath.Join(at, arg)
	}
	return resolver.FileURL(arg)
}

// Realm is the tree.
func (m *Manager) Realm() *realm.Realm { return m.realm }

// Logs are the components' logs.
func (m *Manager) Logs() *logs.Logs { return m.logs }

// Alive returns once the tree and the loop of its processes answer; if they are stuck, never.
func (m *Manager) Alive() { m.alive() }

// Asked says whether the manager was told to end: by Run's ctx or over its socket.
func (m *Manager) Asked() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// ask notes that it was.
func (m *Manager) ask() {
	m.mu.Lock()
	m.asked = true
	m.mu.Unlock()
}

// KillAll makes the shutdown that is under way, or comes, a quick one: nothing is waited for any more.
func (m *Manager) KillAll() { m.realm.KillAll() }

// A Outcome is why a run did not end well.
type Outcome struct {
	Failures []realm.Failure
	Rebooted string // whose end took the tree down, and why; "" if none did
	Boot     error  // why the boot script could not be run to its end; nil if it was, or there is none
	Shutdown error  // what could not be shut down
}

func (o *Outcome) Error() string {
	var b strings.Builder
	if o.Boot != nil {
		b.WriteString(o.Boot.Error())
	} else if o.Rebooted != "" {
		b.WriteString(o.Rebooted)
	} else if n := len(o.Failures); n > 0 {
		words := "components"
		if n == 1 {
			words = "component"
		}
		fmt.Fprintf(&b, "%d %s did not end well:", n, words)
		for i, f := range o.Failures {
			if i == 10 {
				fmt.Fprintf(&b, " and %d more", n-i)
				break
			}
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(" " + string(f.Moniker))
		}
	}
	if o.Shutdown != nil {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(o.Shutdown.Error())
	}
	return b.String()
}

// Run starts the root, and everything eager, and returns once nothing runs and nothing can be started any more (or, with
// Config.Stay, only once it is told to). When ctx ends the tree is shut down in order. The error is an *Outcome unless all ended
// well. After Run the manager is closed.
func (m *Manager) Run(ctx context.Context) error {
	defer m.close()
	var show sync.WaitGroup
	if m.cfg.Screen != nil {
		show.Go(m.show())
	}
	var serve sync.WaitGroup
	serve.Go(func() {
		if err := m.control.Serve(m.socket); err != nil {
			m.cfg.Log.Error("management socket", "error", err)
		}
	})

	idle := make(chan struct{})
	waiting, stopWaiting := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() {
		if m.boot != nil {
			if err := m.bootUp(waiting); err != nil {
				if waiting.Err() == nil && m.boot.Status().Internal != "stopping" {
					m.bootFailed(err)
				}
				return
			}
		} else {
			_ = m.realm.Start(waiting, name.Root, "root") // its events tell
			m.enter("started")
		}
		if !m.cfg.Stay && m.realm.Idle(waiting) == nil {
			close(idle)
		}
	})
	if m.boot != nil {
		wait.Go(func() { m.boot.Watch(waiting, m.reboot) })
	}
	select {
	case <-ctx.Done():
	case <-m.down:
	case <-idle:
	}
	if ctx.Err() != nil {
		m.ask()
	}
	stopWaiting()
	wait.Wait()
	if lazy := m.lazy(); m.boot == nil && m.realm.Runs() == 0 && len(m.realm.Failures()) == 0 && lazy != "" && m.cfg.Screen != nil {
		m.cfg.Screen.Say(fmt.Sprintf("nothing was started: %s waits to be used; give it startup: \"eager\", or run with --stay and `cmgr start %s`",
			lazy, lazy))
	}
	m.stopBoot(context.Background())
	down := m.realm.Shutdown(context.Background())
	out := &Outcome{Failures: m.realm.Failures(), Shutdown: down}
	m.mu.Lock()
	out.Rebooted, out.Boot = m.rebooted, m.failed
	m.mu.Unlock()

	const patience = 5 * time.Second
	closing, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = m.control.Close(closing)
	serve.Wait()
	m.realm.Close()
	shown := make(chan struct{})
	go func() { show.Wait(); close(shown) }()
	for over := false; !over; {
		before := m.taken()
		select {
		case <-shown:
			over = true
		case <-time.After(patience):
			over = m.taken() == before // whoever reads our output doesn't
		}
	}
	if len(out.Failures) > 0 || out.Rebooted != "" || out.Boot != nil || down != nil {
		return out
	}
	return nil
}

// taken is how much of what is shown has been read.
func (m *Manager) taken() int64 {
	if m.cfg.Screen == nil {
		return 0
	}
	return m.cfg.Screen.Taken()
}

// lazy is a child that nothing has started, "" if there is none.
func (m *Manager) lazy() name.Moniker {
	for _, i := range m.realm.Instances() {
		if i.State == realm.Unresolved && !i.Disabled {
			return i.Moniker
		}
	}
	return ""
}

// Close frees what New made, of a manager that is not Run.
func (m *Manager) Close() { m.close() }

// close frees what New made, as far as it did.
func (m *Manager) close() {
	if m.exposed != "" {
		_ = unlink(m.exposed) // if not, the next manager replaces it
	}
	if m.socket != nil {
		_ = m.socket.Close()
	}
	if m.realm != nil {
		m.realm.Close()
	}
	if m.elf != nil {
		m.elf.Close()
	}
	if m.loaders != nil {
		if err := m.loaders.Close(); err != nil {
			m.cfg.Log.Error("loader", "error", err)
		}
		m.loaders = nil
	}
	if m.confiner != nil {
		_ = m.confiner.Close()
	}
	if m.runit != nil {
		m.runit.Close()
	}
	if m.jobs != nil {
		if err := m.jobs.Close(); err != nil {
			m.cfg.Log.Error("jobs", "error", err)
		}
	}
	if m.logs != nil {
		_ = m.logs.Close()
	}
	if m.sockets != nil {
		_ = m.sockets.Close() // what remains, the next manager removes
	}
	if m.loop != nil {
		_ = m.loop.Close()
	}
	m.sockets, m.confiner = nil, nil
	m.socket, m.realm, m.elf, m.runit, m.jobs, m.logs, m.loop = nil, nil, nil, nil, nil, nil, nil
}

// reboot is called when one component's end must take the tree down.
func (m *Manager) reboot(at name.Moniker, why string) {
	m.mu.Lock()
	if m.rebooted == "" {
		m.rebooted = fmt.Sprintf("%s took the tree down: %s", at, why)
	}
	m.mu.Unlock()
	m.downOnce.Do(func() { close(m.down) })
}

// expose has what the root exposes found in dir, "" for nothing, by whoever may manage it.
func (m *Manager) expose(dir string, group int) error {
	if dir == "" {
		return unlink(m.exposed)
	}
	err, mode := error(nil), os.FileMode(0o700)
	if group != control.NoGroup {
		err, mode = os.Chown(dir, -1, group), 0o750
	}
	if err = cmp.Or(err, os.Chmod(dir, mode)); err != nil {
		return err
	}
	if err := unlink(m.exposed); err != nil {
		return err
	}
	return os.Symlink(dir, m.exposed)
}

// unlink removes a symbolic link, if there is one at path; that there is something else is an error.
func unlink(path string) error {
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSymlink:
		return fmt.Errorf("%s: is in the way: no symbolic link", path)
	}
	return os.Remove(path)
}

// explorer runs operators' programs in the place of components' own, as far as settings let it.
func (m *Manager) explorer(s *Settings) func(context.Context, name.Moniker, runners.Exploration, string) (runners.Exit, error) {
	return func(ctx context.Context, at name.Moniker, x runners.Exploration, note string) (runners.Exit, error) {
		if s.Explore != nil && !matches(s.Explore, at) {
			x.Close()
			return runners.Exit{}, &realm.Error{
				Op: "explore", At: at, Why: capabilities.Denied, Err: errors.New("the manager's configuration does not let it be explored"),
				Hint: fmt.Sprintf("to allow it, add %q to security_policy.operator_policy.explore of the manager's configuration", at),
			}
		}
		return m.realm.Explore(ctx, at, x, note)
	}
}

// shutdownAsked is a shutdown over the management socket.
func (m *Manager) shutdownAsked(ctx context.Context) error {
	m.ask()
	m.stopBoot(ctx)
	err := m.realm.Shutdown(ctx)
	m.downOnce.Do(func() { close(m.down) })
	return err
}

// show gives the function that brings lines and events to the screen, in their order as far as there is one: an event is shown
// after what its component wrote before it.
func (m *Manager) show() func() {
	lines := m.logs.Subscribe(func(name.Moniker) bool { return true })
	events := m.realm.Subscribe(0)
	return func() {
		defer lines.Close()
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		drain := func() {
			for {
				l, err := lines.Next(ended)
				if err != nil {
					return
				}
				m.cfg.Screen.Line(l)
			}
		}
		type news struct {
			e    realm.Event
			lost uint64
		}
		next := make(chan news, 64)
		go func() {
			defer close(next)
			for {
				e, lost, err := events.Next(context.Background())
				if err != nil {
					return
				}
				next <- news{e, lost}
			}
		}()
		for {
			select {
			case <-lines.Ready():
				drain()
			case n, ok := <-next:
				drain()
				if !ok {
					m.cfg.Screen.Flush()
					return
				}
				if n.lost > 0 {
					m.cfg.Screen.Lost(n.lost, "changes of state", "`cmgr list` has the states")
				}
				m.cfg.Screen.Event(n.e)
			}
			if len(next) == 0 {
				m.cfg.Screen.Flush()
			}
		}
	}
}

// The runners that every manager has.
const (
	runnerELF   = "elf"
	runnerRunit = "runit"
)
