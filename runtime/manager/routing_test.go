package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/capabilities/routing/routingtest"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/builtin"
	"github.com/cmgr/cmgr/runners/remote"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
)

func TestMain(m *testing.M) {
	if me := os.Getenv("CMGR_MONIKER"); me != "" {
		component(me)
	}
	os.Exit(leak.Run(m))
}

// component is the program of all components of TestRouting: on each protocol that it provides it says who it is and what it was
// asked for; it is a runner, too.
func component(me string) {
	for i, n := range strings.Split(os.Getenv("LISTEN_FDNAMES"), ":") {
		if n == "" {
			break
		}
		l, err := net.FileListener(os.NewFile(uintptr(3+i), n))
		if err != nil {
			panic(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					panic(err)
				}
				if u, ok := c.(*net.UnixConn); ok && n == "live" {
					own := &items{me: me, names: []string{"grow", "item"}, changed: make(chan struct{}, 1)}
					go framework.ServeDictionary(context.Background(), u, own, own.changed)
					continue
				}
				if l.Addr().Network() == "unixpacket" {
					go remote.Serve(context.Background(), c.(*net.UnixConn), nobody{})
					continue
				}
				fmt.Fprintf(c, "%s %s\n", me, n)
				c.Close()
			}
		}()
	}
	select {}
}

// items are the dictionary "live" of a component: each says whose it is, and "grow" adds "more".
type items struct {
	me      string
	changed chan struct{}
	mu      sync.Mutex
	names   []string
}

func (d *items) Names(context.Context) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.names), nil
}

func (d *items) Open(_ context.Context, item string, conn net.Conn) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.names, item) {
		return &fs.PathError{Op: "open", Path: item, Err: fs.ErrNotExist}
	}
	if item == "grow" {
		d.names = append(d.names, "more")
		d.changed <- struct{}{}
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s\n", d.me, item)
	return nil
}

// nobody runs programs that do nothing, if it sees their packages.
type nobody struct{}

func (nobody) Start(_ context.Context, info runners.StartInfo) (runners.Program, error) {
	defer info.Close()
	if _, err := os.Stat(filepath.Join(info.Package.Dir, "root.cml")); err != nil {
		return nil, err
	}
	return idle{ended: make(chan struct{})}, nil
}

type idle struct{ ended chan struct{} }

func (p idle) Stop(context.Context) error { close(p.ended); return nil }
func (p idle) Kill(context.Context) error { return p.Stop(context.Background()) }
func (p idle) Wait(ctx context.Context) (runners.Exit, error) {
	select {
	case <-p.ended:
		return runners.Exit{Cause: runners.ByStop}, nil
	case <-ctx.Done():
		return runners.Exit{}, ctx.Err()
	}
}

// The cases that the engine passes offline hold in a tree of processes, too: the live engine answers, the management socket says
// the same, and what a component finds in its namespace is what the answer says.
func TestRouting(t *testing.T) {
	for name, sandbox := range map[string]string{"unconfined": `unconfined: ["/**", "/"]`, "confined": ""} {
		t.Run(name, func(t *testing.T) {
			routingtest.Run(t, func(t *testing.T, c routingtest.Case) routingtest.Tree { return openLive(t, c, sandbox) })
		})
	}
}

// bound is how long anything may take on a busy machine.
const bound = 2 * time.Minute

// live is a case that runs.
type live struct {
	t      *testing.T
	m      *Manager
	dir    string
	client *control.Client
	looked map[name.Moniker]error // who was started, and with what result
}

var binaries = regexp.MustCompile(`binary: "([^"]+)"`)

func openLive(t *testing.T, c routingtest.Case, sandbox string) *live {
	l := newLive(t)
	for file, text := range c.Files {
		l.manifest(file, text)
	}

	// What the root is offered is of the host.
	var offered, ids []string
	for _, d := range c.Builtins.Offered[manifest.KindDirectory] {
		l.put("host/"+d+"/x", "")
		offered = append(offered, fmt.Sprintf("{ directory: %q, path: %q, rights: [\"rw*\"] }", d, filepath.Join(l.dir, "host", d)))
	}
	for _, p := range c.Builtins.Offered[manifest.KindProtocol] {
		offered = append(offered, fmt.Sprintf("{ protocol: %q, path: %q }", p, l.listen(p)))
	}
	for i, m := range []string{"/a", "/mid/a"} { // they keep something in storage that is for those with an id
		ids = append(ids, fmt.Sprintf("{ instance_id: %q, moniker: %q }", strings.Repeat(fmt.Sprint(i), 64), m))
	}
	l.put("ids.json5", "{ instances: ["+strings.Join(ids, ", ")+"] }")
	l.put("cmgr.json5", fmt.Sprintf("{ security_policy: { sandbox: { %s } }, namespace_capabilities: [%s], component_id_index_path: \"ids.json5\" }",
		sandbox, strings.Join(offered, ", ")))

	l.run(Config{Functions: map[string]builtin.Func{}, builtins: c.Builtins})
	return l
}

// run runs the root that was put there, with the configuration cmgr.json5.
func (l *live) run(cfg Config) {
	t := l.t
	short, err := os.MkdirTemp("", "r")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	cfg.Root, cfg.Name, cfg.Socket = filepath.Join(l.dir, "root.cml"), fmt.Sprintf("routing-%d", os.Getpid()), filepath.Join(short, "s")
	cfg.StateDir, cfg.Files, cfg.Stay = filepath.Join(short, "state"), []string{filepath.Join(l.dir, "cmgr.json5")}, true
	if l.m, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.m.Run(ctx) }() // some cases cannot start their root
	t.Cleanup(func() {
		if l.client != nil {
			l.client.Close()
		}
		l.m.KillAll()
		cancel()
		<-done
	})
	if l.client, err = control.Dial(t.Context(), "", cfg.Socket); err != nil {
		t.Fatal(err)
	}
}

func newLive(t *testing.T) *live {
	return &live{t: t, dir: t.TempDir(), looked: map[name.Moniker]error{}}
}

// manifest puts a manifest there, and the program that it names.
func (l *live) manifest(file, text string) {
	me, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	text = withProgram(l.t, file, text)
	l.put(file, text)
	for _, m := range binaries.FindAllStringSubmatch(text, -1) {
		at := filepath.Join(l.dir, m[1])
		if _, err := os.Stat(at); err == nil {
			continue
		}
		l.put(m[1], "")
		if err := errors.Join(os.Remove(at), os.Link(me, at)); err == nil {
			continue
		}
		program, err := os.ReadFile(me)
		if err := errors.Join(err, os.WriteFile(at, program, 0o755)); err != nil {
			l.t.Fatal(err)
		}
	}
}

// withProgram gives a manifest that uses or provides something a program, after all that it says: no position changes.
func withProgram(t *testing.T, file, text string) string {
	v, ds := cml.Load(file, []byte(text), cml.Options{})
	if ds.Err() != nil {
		t.Fatal(ds.Err())
	}
	d := v.Decl()
	if d.Program != nil || len(d.Uses)+len(d.Capabilities) == 0 {
		return text
	}
	end := strings.LastIndexByte(text, '}')
	body := strings.TrimRight(text[:end], " \n")
	if !strings.HasSuffix(body, ",") {
		body += ","
	}
	return body + ` program: { runner: "elf", binary: "bin/agent" } }` + "\n"
}

func (l *live) put(file, text string) {
	file = filepath.Join(l.dir, file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o755)); err != nil {
		l.t.Fatal(err)
	}
}

// listen is the path of a socket of the host at which everybody is told its name.
func (l *live) listen(protocol string) string {
	dir, err := os.MkdirTemp("", "h")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { os.RemoveAll(dir) })
	ls, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	l.t.Cleanup(func() { ls.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ls.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "<component manager> %s\n", protocol)
			c.Close()
		}
	}()
	return ls.Addr().String()
}

func (l *live) Root() routing.Node {
	n, _ := l.m.Realm().Node(name.Root)
	return n
}

func (l *live) Engine() *routing.Engine { return l.m.Realm().Engine() }

func (l *live) Dir() string { return l.dir }

func (l *live) Create(
	ctx context.Context, parent routing.Node, collection, child, url string, offers []manifest.Offer,
) (routing.Node, error) {
	m, err := l.m.Realm().Create(ctx, parent.Moniker(), collection, realm.ChildDecl{Name: child, URL: url, DynamicOffers: offers})
	if err != nil {
		return nil, err
	}
	n, _ := l.m.Realm().Node(m)
	return n, nil
}

// Look asks the management socket the same, and looks at what the answer is about.
func (l *live) Look(ctx context.Context, q routingtest.Question) error {
	if err := l.sameOverSocket(ctx, q); err != nil {
		return err
	}
	m := q.Node.Moniker()
	switch q.Asked {
	case "runner":
		return l.runs(ctx, q)
	case "exposed":
		if q.Kind != manifest.KindProtocol || q.Err != nil {
			return nil
		}
		f, err := l.m.Realm().ConnectExposed(ctx, m, q.Name, "")
		if err != nil {
			return err
		}
		defer f.Close()
		return says(f, q.Route.Source)
	case "use":
		if err := l.start(ctx, q.Node); err != nil {
			return l.maySo(ctx, q.Node, err)
		}
		base, err := l.view(ctx, m)
		if err != nil {
			return err
		}
		// Services come and go in directories a moment later.
		for end := time.Now().Add(bound); ; time.Sleep(10 * time.Millisecond) {
			if err = l.found(ctx, q, base); err == nil || time.Now().After(end) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("in the namespace of %s: %w", m, err)
		}
		if q.Err != nil && q.Use.Availability == manifest.Required && q.Kind != manifest.KindRunner {
			return l.logged(m, q.Err.Reason)
		}
	}
	return nil
}

// sameOverSocket compares the answer with that of the management socket, of which one can ask only for uses and exposes.
func (l *live) sameOverSocket(ctx context.Context, q routingtest.Question) error {
	if q.Asked != "use" && q.Asked != "expose" && (q.Asked != "runner" || q.Route == nil && q.Err == nil) {
		return nil
	}
	got, err := l.client.Route(ctx, &controlpb.RouteRequest{Query: string(q.Node.Moniker())})
	if err != nil {
		return err
	}
	want := &controlpb.RouteReport{DeclType: q.Asked, Kind: q.Kind.String(), Capability: q.Name, Outcome: "Success"}
	if q.Asked == "runner" {
		want.DeclType, want.Kind = "use", "runner"
	}
	var hops int
	switch {
	case q.Err != nil:
		want.Outcome, want.ErrorSummary, want.Hint, hops = "Failed", q.Err.Reason, q.Err.Hint, len(q.Err.Hops)
		want.ErrorCode = q.Err.Why.String()
	case q.Route.Source.Kind == capabilities.FromVoid:
		want.Outcome, hops = "Void", len(q.Route.Hops)
	default:
		want.SourceMoniker, hops = q.Route.Source.String(), len(q.Route.Hops)
		want.Rights, want.Subdir = q.Route.Rights.Short(), q.Route.Subdir
	}
	for _, r := range got.GetRoutes() {
		if r.GetDeclType() != want.GetDeclType() || r.GetKind() != want.GetKind() || q.Name != "" && r.GetCapability() != q.Name {
			continue
		}
		if r.GetErrorCode() != want.GetErrorCode() || !slices.Equal(r.GetRights(), want.GetRights()) || r.GetSubdir() != want.GetSubdir() ||
			r.GetOutcome() != want.GetOutcome() || r.GetSourceMoniker() != want.GetSourceMoniker() ||
			want.GetHint() != "" && r.GetHint() != want.GetHint() || // a resolver may have one more
			!strings.HasPrefix(r.GetErrorSummary(), want.GetErrorSummary()) || len(r.GetHops()) != hops {
			return fmt.Errorf("the management socket says %v, want %v and %d hops", r, want, hops)
		}
		return nil
	}
	return fmt.Errorf("the management socket does not say %v", want)
}

// runs starts the component, and sees that its runner runs it.
func (l *live) runs(ctx context.Context, q routingtest.Question) error {
	m := q.Node.Moniker()
	if q.Route != nil && q.Route.Source.Name == "builtin" {
		return nil // it has no functions
	}
	err := l.start(ctx, q.Node)
	if q.Err != nil {
		if err == nil || !strings.Contains(err.Error(), q.Err.Reason) {
			return fmt.Errorf("start %s: %v, want %s", m, err, q.Err.Reason)
		}
		return nil
	}
	if err != nil {
		return l.maySo(ctx, q.Node, err)
	}
	i, _ := l.m.Realm().Instance(m)
	if i.State != realm.Started || (i.Program == nil) != (q.Route == nil) {
		return fmt.Errorf("%s is %s with program %v", m, i.State, i.Program)
	}
	if q.Route != nil && q.Route.Source.Kind == capabilities.FromComponent {
		if p, _ := l.m.Realm().Instance(q.Route.Source.At); p.State != realm.Started {
			return fmt.Errorf("the runner of %s, %s, is %s", m, p.Moniker, p.State)
		}
	}
	return nil
}

// start starts n's program once, when what it will find in directories is there.
func (l *live) start(ctx context.Context, n routing.Node) error {
	m := n.Moniker()
	if err, ok := l.looked[m]; ok {
		return err
	}
	err := l.fill(ctx, n)
	if err == nil {
		err = l.m.Realm().Start(ctx, m, "looked at")
	}
	l.looked[m] = err
	return err
}

// maySo says whether what n uses allows that it does not start: its runner or its configuration is not there.
func (l *live) maySo(ctx context.Context, n routing.Node, failed error) error {
	var why []error
	_, err := l.Engine().Runner(ctx, n)
	why = append(why, err)
	d, err := n.Decl(ctx)
	if err != nil {
		return err
	}
	for i := range d.Uses {
		if d.Uses[i].Kind == manifest.KindConfig {
			_, err := l.Engine().Use(ctx, n, &d.Uses[i])
			why = append(why, err)
		}
	}
	for _, err := range why {
		if f, ok := errors.AsType[*capabilities.Error](err); ok && strings.Contains(failed.Error(), f.Reason) {
			return nil
		}
	}
	return failed
}

// fill puts into the directories that n uses who provides them.
func (l *live) fill(ctx context.Context, n routing.Node) error {
	d, err := n.Decl(ctx)
	if err != nil {
		return err
	}
	for i := range d.Uses {
		u := &d.Uses[i]
		r, err := l.Engine().Use(ctx, n, u)
		if u.Kind != manifest.KindDirectory || err != nil || r.Source.Kind != capabilities.FromComponent || r.Source.At == n.Moniker() {
			continue
		}
		p, _ := l.m.Realm().Node(r.Source.At)
		if err := l.start(ctx, p); err != nil {
			return err
		}
		base, err := l.view(ctx, r.Source.At)
		if err != nil {
			return err
		}
		at := filepath.Join(base, "out", r.Source.Capability.Path, r.Subdir)
		if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, "whose"), []byte(whose(r)), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func whose(r *capabilities.Route) string {
	return fmt.Sprintf("%s %s %s", r.Source.At, r.Source.Name, r.Subdir)
}

// view is where the namespace of m's program lies, seen from here.
func (l *live) view(ctx context.Context, m name.Moniker) (string, error) {
	i, _ := l.m.Realm().Instance(m)
	p, ok := i.Program.(runners.ProcessLister)
	if !ok {
		return "", fmt.Errorf("%s has no processes: %v, last error %v", m, i.State, i.LastError)
	}
	pids, err := p.Processes(ctx)
	if err != nil || len(pids) == 0 {
		return "", fmt.Errorf("%s has processes %v, %w", m, pids, err)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids[0]))
	for end := time.Now().Add(bound); err == nil && len(env) == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		env, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids[0])) // in the middle of an execve there is none
	}
	for ; err == nil && !bytes.Contains(env, []byte("CMGR_MONIKER=")); time.Sleep(time.Millisecond) { // its exec is not over
		env, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids[0]))
	}
	for _, e := range bytes.Split(env, []byte{0}) {
		if dir, ok := strings.CutPrefix(string(e), "CMGR_NAMESPACE="); ok {
			return dir, err
		}
	}
	return fmt.Sprintf("/proc/%d/root", pids[0]), err
}

// found says what at base is otherwise than q's answer.
func (l *live) found(ctx context.Context, q routingtest.Question, base string) error {
	at := filepath.Join(base, q.Use.TargetPath)
	if q.Err == nil && q.Route.Source.Kind == capabilities.FromVoid && q.Kind != manifest.KindConfig {
		if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w, it should not be there", q.Use.TargetPath, err)
		}
		return nil
	}
	switch q.Kind {
	case manifest.KindProtocol, manifest.KindEventStream:
		return l.foundProtocol(ctx, q, at)
	case manifest.KindDirectory:
		return l.foundDirectory(q, at)
	case manifest.KindStorage:
		if q.Err != nil {
			return absentAt(at)
		}
		return os.WriteFile(filepath.Join(at, "mine"), nil, 0o600)
	case manifest.KindService:
		return l.foundService(q, at)
	case manifest.KindDictionary:
		if _, err := os.ReadDir(at); err != nil || q.Err != nil || q.Route.Source.Capability == nil || q.Route.Source.Capability.Path == "" {
			return err
		}
		c, err := dialLong(filepath.Join(at, "item"), syscall.SOCK_STREAM)
		if err != nil {
			return err
		}
		defer c.Close()
		return says(c, capabilities.Source{At: q.Route.Source.At, Name: "item"})
	case manifest.KindConfig:
		text, err := os.ReadFile(filepath.Join(base, "config/config.json"))
		var values map[string]any
		if err := errors.Join(err, json.Unmarshal(text, &values)); err != nil {
			return err
		}
		want := fmt.Sprint(q.Use.Config.Default)
		if q.Err == nil && q.Route.Source.Kind == capabilities.FromComponent {
			want = fmt.Sprint(q.Route.Source.Capability.Config.Value)
		}
		if got := fmt.Sprint(values[q.Use.Config.Key]); got != want {
			return fmt.Errorf("%s is %s, want %s", q.Use.Config.Key, got, want)
		}
	}
	return nil
}

func absentAt(at string) error {
	if names, err := os.ReadDir(at); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %v, %w: it should not be there", filepath.Base(at), names, err)
	}
	return nil
}

func (l *live) foundProtocol(ctx context.Context, q routingtest.Question, at string) error {
	if q.Err == nil && q.Route.Source.Kind == capabilities.FromFramework && q.Kind == manifest.KindProtocol ||
		q.Err == nil && q.Route.Source.Kind == capabilities.FromCapability {
		return l.foundFramework(ctx, q, at)
	}
	c, err := dialLong(at, syscall.SOCK_STREAM)
	if q.Err != nil {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("connect to %s: %w, want a refusal", q.Name, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if q.Kind == manifest.KindEventStream {
		return nil // runtime/host's tests read them
	}
	return says(c, q.Route.Source)
}

// says reads from f who provides it.
func says(f io.Reader, s capabilities.Source) error {
	text, err := io.ReadAll(f)
	if want := s.String() + " " + s.Name + "\n"; string(text) != want {
		return fmt.Errorf("who is there says %q, %w; want %q", text, err, want)
	}
	return nil
}

// dialLong connects to a path of any length.
func dialLong(at string, t int) (*os.File, error) {
	dir, err := os.Open(filepath.Dir(at))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := syscall.Socket(syscall.AF_UNIX, t|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), at)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(at))}); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// foundFramework asks what tells whose framework or storage it is.
func (l *live) foundFramework(ctx context.Context, q routingtest.Question, at string) error {
	protocol, t := q.Route.Source.Name, syscall.SOCK_STREAM
	if q.Route.Source.Kind == capabilities.FromCapability {
		protocol = framework.StorageAdmin
	}
	if framework.Packets(protocol) {
		t = syscall.SOCK_SEQPACKET
	}
	f, err := dialLong(at, t)
	if err != nil {
		return err
	}
	defer f.Close()
	if protocol == framework.Binder {
		return nil
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	c, err := framework.NewClient(ctx, conn.(*net.UnixConn), protocol)
	if err != nil {
		return err
	}
	defer c.Close()
	if protocol == framework.StorageAdmin {
		_, _, err := (&framework.StorageClient{Client: c}).Status(ctx)
		return err
	}
	_, err = (&framework.RealmClient{Client: c}).ListChildren(ctx, "nowhere")
	if want := fmt.Sprintf("`%s` does not have collection `#nowhere`", q.Route.Source.At); err == nil || !strings.Contains(err.Error(), want) {
		return fmt.Errorf("%s says %w, want %s", protocol, err, want)
	}
	return nil
}

func (l *live) foundDirectory(q routingtest.Question, at string) error {
	if q.Err != nil {
		return absentAt(at)
	}
	switch r := q.Route; {
	case r.Source.Kind == capabilities.FromFramework: // its package
		_, err := os.Stat(filepath.Join(at, "root.cml"))
		return err
	case r.Source.At == q.Node.Moniker(): // fill did not know where
		_, err := os.ReadDir(at)
		return err
	}
	text, err := os.ReadFile(filepath.Join(at, "whose"))
	if want := whose(q.Route); string(text) != want {
		return fmt.Errorf("it is that of %q, %w; want %q", text, err, want)
	}
	if strings.HasPrefix(at, "/proc/") { // a world of its own
		err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600)
		if may := q.Use.Rights.Has(manifest.RightsW); may != (err == nil) {
			return fmt.Errorf("write: %w; rights %s", err, q.Use.Rights.Names())
		}
	}
	return nil
}

func (l *live) foundService(q routingtest.Question, at string) error {
	instances, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	got, want := map[string]int{}, map[string]int{}
	for _, i := range instances {
		c, err := dialLong(filepath.Join(at, i.Name(), filepath.Base(at)), syscall.SOCK_STREAM)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(c)
		c.Close()
		if err != nil {
			return err
		}
		got[string(text)]++
	}
	var members func(r *capabilities.Route)
	members = func(r *capabilities.Route) {
		if r.Source.Kind == capabilities.FromComponent {
			want[fmt.Sprintf("%s %s\n", r.Source.At, r.Source.Name)]++
		}
		for _, m := range r.Members {
			if m.Err == nil {
				members(m.Route)
			}
		}
	}
	if q.Err == nil {
		members(q.Route)
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("%s has the instances %v, want %v", q.Name, got, want)
	}
	return nil
}

// logged sees that m's log says why something is not there.
func (l *live) logged(m name.Moniker, reason string) error {
	lines, err := l.m.Logs().Read(m, -1)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(lines, func(line logs.Line) bool { return strings.Contains(line.Text, reason) }) {
		return fmt.Errorf("the log of %s does not say %q: %v", m, reason, lines)
	}
	return nil
}
