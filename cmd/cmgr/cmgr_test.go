package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/proto/controlpb/controlpbconnect"
	"github.com/cmgr/cmgr/runtime/control"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // lines that follow each other have local times
	os.Exit(leak.Run(m))
}

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(ago time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-ago)) }

// shop is a manager of a tree that never changes.
type shop struct {
	controlpbconnect.UnimplementedControlHandler
}

var (
	crashed = &controlpb.Exit{Code: 3, Cause: "self", EndedAt: at(4 * time.Minute), Text: "exited code=3 after=1m2s"}
	asked   = &controlpb.Exit{Ok: true, Cause: "stop", EndedAt: at(0), Text: "exited code=0 after=2h46m40s"}
)

var instances = []*controlpb.Instance{
	{Moniker: "/", Url: "file:///srv/root.cml", State: "started", StartedAt: at(26 * time.Hour)},
	{
		Moniker: "/core", Url: "core.cml", State: "started", StartedAt: at(3 * time.Minute), Restarts: 2, LastExit: crashed,
		Usage: &controlpb.Usage{CpuSeconds: new(1.5), MemoryBytes: new(3.5 * (1 << 20))},
	},
	{Moniker: "/core/jobs:import-7", Url: "https://example.org/import#meta/import.cm", State: "resolved", Starting: true},
	{Moniker: "/core/net", Url: "net.cml", State: "resolved", LastExit: crashed, Restarts: 5, GaveUp: true},
	{Moniker: "/idle", Url: "idle.cml", State: "unresolved", Disabled: true},
	{Moniker: "/log", Url: "log.cml", State: "unresolved", LastError: "resolve /log: log.cml: no such file\nmore"},
}

func find(query string) (*controlpb.Instance, error) {
	for _, i := range instances {
		if i.GetMoniker() == query {
			return i, nil
		}
	}
	code, p := connect.CodeNotFound, &control.Problem{Kind: "not_found", Message: "find " + query + ": no matching component " +
		"instance found"}
	if query == "o" {
		code, p = connect.CodeInvalidArgument, &control.Problem{
			Kind: "invalid", Message: "find o: more than one component instance matches", Hint: "did you mean one of these?",
			Candidates: []string{"/core", "/log"},
		}
	}
	err := connect.NewError(code, errors.New(p.GetMessage()))
	d, _ := connect.NewErrorDetail(p)
	err.AddDetail(d)
	return nil, err
}

func (shop) List(context.Context, *controlpb.ListRequest) (*controlpb.ListResponse, error) {
	return &controlpb.ListResponse{Instances: instances}, nil
}

func (shop) Show(_ context.Context, r *controlpb.InstanceRequest) (*controlpb.ShowResponse, error) {
	i, err := find(r.GetQuery())
	if err != nil {
		return nil, err
	}
	out := &controlpb.ShowResponse{
		Moniker: i.GetMoniker(), Url: i.GetUrl(), State: i.GetState(), LastExit: i.GetLastExit(), LastError: i.GetLastError(),
		Restarts: i.GetRestarts(),
		GaveUp:   i.GetGaveUp(), LogDirectory: "/var/lib/cmgr/default/logs/core", StopTimeoutMs: 5000,
	}
	if i.GetState() == "unresolved" {
		return out, nil
	}
	out.Environment = "core-env"
	out.NextStart = at(-2 * time.Second)
	out.Resolved = &controlpb.Resolved{
		ResolvedUrl: "file:///srv/core.cml", PackageDirectory: "/srv", Runner: "elf", IncomingCapabilities: []string{
			"/data",
			"/svc/log",
		},
		ExposedCapabilities: []string{"core"}, Collections: []string{"jobs"}, ManifestSources: []string{
			"/srv/core.cml",
			"/srv/shared.cml",
		},
	}
	if i.GetState() == "started" {
		out.Resolved.Started = &controlpb.Started{
			Runtime: "ELF", OutgoingCapabilities: []string{"core"}, StartReason: "eager", StartedAt: i.GetStartedAt(),
			Usage:   &controlpb.Usage{CpuSeconds: new(1.5), MemoryBytes: new(900.0), ProcessIds: []int32{20490, 20491}},
			Details: []*controlpb.Detail{{Key: "Job ID", Value: "/sys/fs/cgroup/cmgr/core"}, {Key: "Process ID", Value: "20490"}},
		}
	}
	return out, nil
}

func (shop) Stop(_ context.Context, r *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return &controlpb.InstanceResponse{Instance: &controlpb.Instance{Moniker: r.GetQuery(), State: "resolved", LastExit: asked}}, nil
}

func (shop) Disable(_ context.Context, r *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return &controlpb.InstanceResponse{Instance: &controlpb.Instance{Moniker: r.GetQuery(), State: "resolved", Disabled: true, LastExit: asked}}, nil
}

func (shop) Enable(_ context.Context, r *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return &controlpb.InstanceResponse{Instance: &controlpb.Instance{Moniker: r.GetQuery(), State: "started"}}, nil
}

func (shop) Start(_ context.Context, r *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	err := connect.NewError(connect.CodeNotFound, errors.New("start /core/net: runner elf: was not offered"))
	d, _ := connect.NewErrorDetail(&control.Problem{
		Kind: "not_found", Message: "start /core/net: runner elf: was not offered",
		Hint: `add { runner: "elf", from: "parent", to: "#net" } to core.cml`,
	})
	err.AddDetail(d)
	return nil, err
}

func (shop) Kill(context.Context, *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	return nil, connect.NewError(connect.CodeInternal, errors.New("kill /core: it still runs 5s after it was killed"))
}

func (shop) Signal(_ context.Context, r *controlpb.SignalRequest) (*controlpb.InstanceResponse, error) {
	i, err := find(r.GetQuery())
	if err == nil && i.GetState() != "started" {
		err = connect.NewError(connect.CodeFailedPrecondition, errors.New("signal "+r.GetQuery()+": no program of it runs"))
	}
	return &controlpb.InstanceResponse{Instance: i}, err
}

func (shop) Reload(_ context.Context, r *controlpb.ReloadRequest) (*controlpb.ReloadResponse, error) {
	i, err := find(r.GetQuery())
	out := &controlpb.ReloadResponse{Instance: i}
	if r.GetQuery() == "/core/net" {
		out.Changes = []*controlpb.Change{
			{
				Moniker: "/core/net", Kind: "restarted", Why: "its program changed",
				Position: &controlpb.Position{File: "net.cml", Line: 3, Column: 7},
			},
			{Moniker: "/core/net/old", Kind: "removed", Why: "its parent does not have it any more"},
			{Moniker: "/core/net/new", Kind: "added"},
		}
	}
	return out, err
}

func (shop) Resolve(_ context.Context, r *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
	i, err := find(r.GetQuery())
	return &controlpb.InstanceResponse{Instance: i}, err
}

func (shop) Destroy(_ context.Context, r *controlpb.InstanceRequest) (*controlpb.DestroyResponse, error) {
	return &controlpb.DestroyResponse{Moniker: r.GetQuery()}, nil
}

func (shop) Create(_ context.Context, r *controlpb.CreateRequest) (*controlpb.InstanceResponse, error) {
	return &controlpb.InstanceResponse{Instance: &controlpb.Instance{
		Moniker: r.GetMoniker(), Url: r.GetUrl(),
		State: "unresolved",
	}}, nil
}

func (shop) RunInCollection(_ context.Context, r *controlpb.RunInCollectionRequest) (*controlpb.InstanceResponse, error) {
	return &controlpb.InstanceResponse{Instance: &controlpb.Instance{Moniker: r.GetMoniker() + ":import", State: "started"}}, nil
}

func (shop) Shutdown(context.Context, *controlpb.ShutdownRequest) (*controlpb.ShutdownResponse, error) {
	return &controlpb.ShutdownResponse{}, nil
}

func (shop) Capability(context.Context, *controlpb.CapabilityRequest) (*controlpb.CapabilityResponse, error) {
	at := &controlpb.Position{File: "core.cml", Line: 3, Column: 9}
	return &controlpb.CapabilityResponse{
		Declarations: []*controlpb.Mention{{Moniker: "/log", Kind: "protocol", SourceName: "log", TargetName: "log"}},
		Offers: []*controlpb.Mention{
			{Moniker: "/", Kind: "protocol", SourceName: "log", TargetName: "syslog", From: "#log", To: "#core", Position: at},
		},
		Uses: []*controlpb.Mention{{Moniker: "/core", Kind: "directory", SourceName: "log", TargetName: "log", From: "parent", Position: at}},
	}, nil
}

func (shop) Route(_ context.Context, r *controlpb.RouteRequest) (*controlpb.RouteResponse, error) {
	out := &controlpb.RouteResponse{Moniker: "/core", Routes: []*controlpb.RouteReport{
		{
			DeclType: "use", Kind: "runner", Capability: "elf", Outcome: "Success", SourceMoniker: "<component manager>",
			Hops: []*controlpb.Hop{
				{Moniker: "/core", Decl: "use", Capability: "elf", Position: &controlpb.Position{File: "core.cml", Line: 3, Column: 9}},
				{Moniker: "/", Decl: "offer", Capability: "elf", Position: &controlpb.Position{File: "root.cml", Line: 12, Column: 5}},
				{Decl: "builtin", Capability: "elf"},
			},
		},
		{DeclType: "use", Kind: "protocol", Capability: "metrics", Outcome: "Void"},
		{
			DeclType: "use", Kind: "protocol", Capability: "billing", Outcome: "Failed",
			ErrorSummary: "`billing` was not offered to `/core` by parent",
			Hint:         "offer it in root.cml",
		},
		{DeclType: "expose", Kind: "protocol", Capability: "core", Outcome: "Success", SourceMoniker: "/core"},
	}}
	if slices.Equal(r.GetFilters(), []string{"use:elf", "core"}) {
		out.Routes = []*controlpb.RouteReport{out.Routes[0], out.Routes[3]}
	}
	return out, nil
}

func (shop) Graph(_ context.Context, r *controlpb.GraphRequest) (*controlpb.GraphResponse, error) {
	out := &controlpb.GraphResponse{Instances: instances}
	if r.GetOnly() == "descendants:/core" {
		out.Instances = instances[1:4]
	}
	if r.GetRoutes() {
		out.Routes = []*controlpb.Edge{{From: "/core/net", To: "/core", Kind: "protocol", Capability: "core"}}
	}
	return out, nil
}

func (shop) Logs(_ context.Context, r *controlpb.LogsRequest, out *connect.ServerStream[controlpb.LogLine]) error {
	lines := []*controlpb.LogLine{
		{Moniker: "/core", Time: at(time.Second), Text: "listening", Stream: "stdout"},
		{Moniker: "/core/net", Time: at(0), Text: "no route", Stream: "stderr"},
	}
	if len(r.GetQueries()) == 1 {
		lines = lines[:1]
	}
	if r.Lines != nil {
		lines = append(lines, &controlpb.LogLine{Text: fmt.Sprintf("only %d lines", r.GetLines()), Stream: "manager"})
	}
	for _, l := range lines {
		if err := out.Send(l); err != nil {
			return err
		}
	}
	return nil
}

func (shop) Events(_ context.Context, r *controlpb.EventsRequest, out *connect.ServerStream[controlpb.Event]) error {
	events := []*controlpb.Event{
		{Seq: 7, Time: at(5 * time.Minute), Kind: "started", Moniker: "/core/net", Text: "eager"},
		{Seq: 8, Time: at(4 * time.Minute), Kind: "stopped", Moniker: "/core/net", Exit: crashed},
		{
			Seq: 9, Time: at(4 * time.Minute), Kind: "restarting", Moniker: "/core/net", DelaySeconds: new(2.0),
			Text: "3 of 5 within 1m0s",
		},
		{Seq: 10, Time: at(3 * time.Minute), Kind: "failed", Moniker: "/core/net", Error: "start /core/net: no memory"},
		{Seq: 11, Time: at(3 * time.Minute), Kind: "gave_up", Moniker: "/core/net"},
	}
	if r.GetNewOnly() {
		events = nil
	}
	for _, e := range events {
		if e.GetSeq() <= r.GetSinceSeq() || r.GetSinceTime() != nil && e.GetTime().AsTime().Before(r.GetSinceTime().AsTime()) {
			continue
		}
		if err := out.Send(e); err != nil {
			return err
		}
	}
	return nil
}

func (shop) Wait(ctx context.Context, r *controlpb.WaitRequest) (*controlpb.WaitResponse, error) {
	switch {
	case r.GetQuery() == "/core/jobs:import-7":
		<-ctx.Done()
		return nil, connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
	case r.GetUntil() == "exited" && r.GetQuery() == "/core/net":
		return &controlpb.WaitResponse{Moniker: "/core/net", State: "resolved", Exit: crashed}, nil
	case r.GetUntil() == "exited":
		return &controlpb.WaitResponse{Moniker: r.GetQuery(), State: "resolved", Exit: asked}, nil
	default:
		return &controlpb.WaitResponse{Moniker: r.GetQuery(), State: "started"}, nil
	}
}

func (shop) Version(context.Context, *controlpb.VersionRequest) (*controlpb.VersionResponse, error) {
	return &controlpb.VersionResponse{Version: "v1", Manager: "default", RootUrl: "file:///srv/root.cml", StartedAt: at(26 * time.Hour)}, nil
}

func (shop) Doctor(context.Context, *controlpb.DoctorRequest) (*controlpb.DoctorResponse, error) {
	return &controlpb.DoctorResponse{Checks: []*controlpb.Check{
		{Status: "ok", Key: "Job backend", Value: "cgroup2"},
		{Status: "warn", Key: "Open files", Value: "up to 1024", Hint: "raise the limit"},
		{Status: "fail", Key: "Memory limits", Value: "no controller", Hint: "delegate memory"},
	}}, nil
}

// serve serves h and returns its socket.
func serve(t testing.TB, h controlpbconnect.ControlHandler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(controlpbconnect.NewControlHandler(h))
	s := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return socket
}

// run is cmgr with these arguments.
func run(args ...string) (code int, stdout, stderr string) { return runWith("", args...) }

// runWith is run with something on standard input.
func runWith(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	a := &app{in: strings.NewReader(stdin), out: &out, err: &err, now: func() time.Time { return now }}
	return a.main(args), out.String(), err.String()
}

// Every line is a command; testdata/golden.txt has what it wrote and returned.
const commands = `
list
list -v
list --json
list extra
list --nosuchflag --json
lst
show
show /core
show /log
show /core --json
show o
show nothing
show o --json
start /core/net
start /core/net --json
stop /core
stop /core --json
stop /core /core/net /core
stop /core /core/net --json
stop /core nothing
stop /core*
stop /nothing/*
stop /core/[
start /core /core/net
start
disable /core
enable /core
kill /core
kill -s hup /core
signal SIGUSR1 /core
signal HUP /core /core/net
signal HUP /*
signal nonsense /core
signal HUP
resolve /core/net
destroy /core/jobs:import-7
create /core/jobs:import-8 import.cml
create /core/jobs:import-8
run /core/jobs import.cml
run /core/jobs import.cml --json
shutdown
shutdown --json
route /core
route -v /core use:elf,core
route /core --json
capability log
capability log --json
capability
graph
graph --routes
graph --only descendants:/core --routes
graph --format dot --routes
graph --format mermaid --routes
graph --format svg
graph --json
logs
logs -t
logs /core
logs -f /core /core/net
logs -n 5
logs -n -5
logs --json /core
events
events --since 9
events --since 210s
events --since never
events --json --since 10
wait /core --until running
wait /core --until exited
wait /core/net --until exited
wait /core/net --until exited --json
wait /core/jobs:import-7 --until running --timeout 20ms
wait /core
metrics
metrics --json
doctor
doctor --json
doctor /core
version extra
completion tcsh
help lisst
reload /core
reload
reload /core/net --dry-run
reload /core /core/net
reload --json
fetch
fetch /no/such
fetch /no/such --json
fetch /dev
fetch /dev/null
fetch --path /no --path /such file
fetch --framing raw /dev/null
fetch --framing cooked --loader ./program file
fetch --loader inet /dev/null
fetch --hosts 127.0.0.1 /dev/null
fetch --timeout -1 /dev/null
fetch --timeout 1e11 /dev/null
fetch --timeout nan /dev/null
fetch --outdir /no/such /dev/null
bootserver
bootserver --addr 127.0.0.1:0 --allow 127.0.0.1 --root /no/such
bootserver --addr 127.0.0.1:0 --allow 10.0.0.1/8 --root /dev
bootserver --addr 127.0.0.1:99999 --allow 127.0.0.1 --root /dev
fetch --loader inet --hosts 127.0.0.1:99999 /dev/null
`

func TestGolden(t *testing.T) {
	socket := serve(t, shop{})
	var got strings.Builder
	for line := range strings.Lines(strings.TrimSpace(commands)) {
		args := strings.Fields(line)
		code, stdout, stderr := run(append(args, "--socket", socket)...)
		fmt.Fprintf(&got, "$ cmgr %s\n%s", strings.Join(args, " "), stdout)
		for l := range strings.Lines(stderr) {
			got.WriteString("2> " + l)
		}
		fmt.Fprintf(&got, "= %d\n\n", code)
	}
	const file = "testdata/golden.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("-want +got (run with -update, and read what changed):\n%s", d)
	}
}

// slow is a manager whose shutdown waits for a component, until somebody has been told so.
type slow struct {
	controlpbconnect.UnimplementedControlHandler
	told chan struct{}
}

func (slow) Events(_ context.Context, r *controlpb.EventsRequest, out *connect.ServerStream[controlpb.Event]) error {
	if !r.GetNewOnly() || !r.GetFollow() {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("old events are of no use here"))
	}
	return out.Send(&controlpb.Event{
		Kind: "waiting", Moniker: "/core", Time: at(0),
		Text: "asked to stop 2s ago, will be killed after 5s",
	})
}

func (s slow) Shutdown(ctx context.Context, _ *controlpb.ShutdownRequest) (*controlpb.ShutdownResponse, error) {
	select {
	case <-s.told:
		return &controlpb.ShutdownResponse{}, nil
	case <-time.After(2 * time.Minute):
		return nil, connect.NewError(connect.CodeInternal, errors.New("nobody was told whom this waits for"))
	}
}

// Write closes told when the text is written.
func (s slow) Write(p []byte) (int, error) {
	if string(p) == "waiting for /core: asked to stop 2s ago, will be killed after 5s\n" {
		close(s.told)
	}
	return len(p), nil
}

func TestWhoIsWaitedForIsNamed(t *testing.T) {
	s := slow{told: make(chan struct{})}
	a := &app{in: strings.NewReader(""), out: io.Discard, err: s, now: time.Now}
	if code := a.main([]string{"shutdown", "--socket", serve(t, s)}); code != exitFine {
		t.Errorf("exit %d", code)
	}
}

func TestCompile(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.cml"), filepath.Join(dir, "bad.cml")
	for file, src := range map[string]string{
		good: `{ use: [ { runner: "elf" } ], program: { binary: "x" } }`,
		bad:  "{\n  childen: [],\n}",
	} {
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, stderr := run("compile", good); code != exitFine {
		t.Fatalf("%d: %s", code, stderr)
	}
	b, err := os.ReadFile(filepath.Join(dir, "good.cm"))
	if v, found := codec.Load("good.cm", b); err != nil || v.IsZero() || v.Decl().Program == nil {
		t.Errorf("good.cm: %v, %v", found, err)
	}
	if code, stdout, _ := run("compile", good, "-o", "-"); code != exitFine || stdout != string(b) {
		t.Errorf("standard output differs from the file, or exit %d", code)
	}
	out := filepath.Join(dir, "bad.cm")
	code, _, stderr := run("compile", bad, "-o", out)
	if code != exitFailed || !strings.HasPrefix(stderr, "cmgr: "+bad+":2:3: ") {
		t.Errorf("%d: %s", code, stderr)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("bad.cm is there: %v", err)
	}
	if code, _, stderr := run("compile", filepath.Join(dir, "none.cml")); code != exitFailed || !strings.Contains(stderr,
		"no such file") {
		t.Errorf("no file: %d, %s", code, stderr)
	}
}

func TestTableFitsTheScreen(t *testing.T) {
	cells := func(texts ...string) (row []cell) {
		for _, t := range texts {
			row = append(row, cell{text: t})
		}
		return row
	}
	title := cells("A", "Bee", "None", "C")
	rows := [][]cell{cells("long", "", "", "0123456789"), cells("x", "y", "", "")}
	for width, want := range map[int]string{
		0:  "A     Bee  C\nlong       0123456789\nx     y\n",
		16: "A     Bee  C\nlong       0123…\nx     y\n",
		11: "A     Bee\nlong\nx     y\n",
	} {
		var got strings.Builder
		screen{width: width}.table(&got, title, rows)
		if got.String() != want {
			t.Errorf("%d columns:\n%swant\n%s", width, got.String(), want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\tb\x1b[31m\u009b\x7fü"); got != "a\tb\uFFFD[31m\uFFFD\uFFFDü" {
		t.Errorf("%q", got)
	}
}

func TestWordsForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59999 * time.Millisecond: "59s", 61 * time.Second: "1m01s", 3601 * time.Second: "1h00m",
		50 * time.Hour: "2d02h",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[float64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 30: "5.0 GiB", 1 << 60: "1.0 EiB",
		1 << 70: "1024.0 EiB",
	} {
		if got := byteWords(n); got != want {
			t.Errorf("byteWords(%v) = %s, want %s", n, got, want)
		}
	}
}

func TestNoManager(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none")
	code, stdout, stderr := run("list", "--socket", socket)
	if want := "cmgr: no manager listens at " + socket + "\n"; code != exitSystem || stdout != "" || stderr != want {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
	// Completion has nothing to say, and says it quietly.
	if code, stdout, _ := run("__complete", "--socket", socket, "show", ""); code != exitFine || stdout != ":4\n" {
		t.Errorf("completion: %d, %q", code, stdout)
	}
}

func TestCompletionOfMonikers(t *testing.T) {
	socket := serve(t, shop{})
	for args, want := range map[string]string{
		"show /core/":         "/core/jobs:import-7\tStarting\n/core/net\tResolved\n:4\n",
		"show /core /l":       ":4\n",
		"logs /core /l":       "/log\tStopped\n:4\n",
		"wait /core --until ": "running\nstopped\nexited\n:4\n",
		"graph --format ":     "text\ndot\nmermaid\n:4\n",
		"list --only ":        "running\nstopped\nancestors:\ndescendants:\nrelatives:\n:6\n",
		"completion ":         "bash\nzsh\nfish\n:4\n",
	} {
		fields := strings.Split(args, " ")
		if _, got, _ := run(append([]string{"__complete", "--socket", socket}, fields...)...); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

func TestCompletionScriptsParse(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, script, stderr := run("completion", shell)
		if code != exitFine || !strings.Contains(script, "cmgr") {
			t.Fatalf("%s: %d, %s", shell, code, stderr)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // most machines have only bash
		}
		check := exec.Command(path, "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
}

// each calls f for every subcommand that people see.
func each(f func(*cobra.Command)) {
	root := newRoot(&app{})
	root.InitDefaultHelpCmd() // as Execute does
	for _, c := range root.Commands() {
		if !c.Hidden {
			f(c)
		}
	}
}

func TestEveryCommandIsExplained(t *testing.T) {
	n := 0
	each(func(c *cobra.Command) {
		n++
		if c.Short == "" || c.Long == "" || c.Example == "" || c.GroupID == "" {
			t.Errorf("%s: Short %q, Long %q, Example %q, GroupID %q", c.Name(), c.Short, c.Long, c.Example, c.GroupID)
		}
		code, help, stderr := run(c.Name(), "--help")
		if code != exitFine || !strings.Contains(help, c.UseLine()) || stderr != "" {
			t.Errorf("%s --help: %d\n%s%s", c.Name(), code, help, stderr)
		}
		if _, other, _ := run("help", c.Name()); other != help {
			t.Errorf("help %s differs from %s --help", c.Name(), c.Name())
		}
		for line := range strings.Lines(help) {
			if len([]rune(line)) > 131 {
				t.Errorf("%s --help: a line of %d columns: %s", c.Name(), len([]rune(line)), line)
			}
		}
	})
	if n < 20 {
		t.Errorf("only %d commands", n)
	}
}

// The manual has each command's synopsis as the command line has it, and every flag.
func TestManual(t *testing.T) {
	src, err := os.ReadFile("cmgr.1")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(src), "\n.Sh SYNOPSIS\n.Nm\n")
	synopsis, rest, _ := strings.Cut(page, "\n.Sh DESCRIPTION\n")
	var got, want []string
	for part := range strings.SplitSeq(synopsis, "\n.Nm\n") {
		got = append(got, mdocText(part))
	}
	each(func(c *cobra.Command) {
		for use := range strings.SplitSeq(c.Use, " | ") {
			want = append(want, strings.ReplaceAll(use, " ", ""))
		}
	})
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("SYNOPSIS: -commands +manual\n%s", d)
	}
	check := func(c, section string) func(*pflag.Flag) {
		return func(f *pflag.Flag) {
			name := "-" + f.Name
			if f.Shorthand != "" {
				name = "(-" + f.Name + "|" + f.Shorthand + ")"
			}
			if !regexp.MustCompile(`Fl (.* )?`+name+`\b`).MatchString(section) && !f.Hidden && f.Name != "help" {
				t.Errorf("%s: --%s is not in the manual", c, f.Name)
			}
		}
	}
	// The section of a command is what follows its terms up to the next command.
	sections := map[string]string{}
	for _, part := range regexp.MustCompile(`(?m)^\.It Cm |^\.S[sh] `).Split(rest, -1) {
		words := strings.Fields(part + " .")
		sections[words[0]] += part
		if words[0] == "script" || words[0] == "systools" {
			sections[words[1]] += part
		}
	}
	sections["boot"] += sections["run"] // whose options it has
	each(func(c *cobra.Command) { c.LocalFlags().VisitAll(check(c.Name(), sections[c.Name()])) })
	newRoot(&app{}).PersistentFlags().VisitAll(check("cmgr", rest))
}

func TestManualIsClean(t *testing.T) {
	if out, err := exec.Command(needs.Tool(t, "mandoc"), "-Tlint", "-Wwarning", "cmgr.1").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// mdocText is what a few lines of mdoc say, without blanks.
func mdocText(src string) string {
	var out strings.Builder
	for line := range strings.SplitSeq(src, "\n") {
		closing := ""
		for w := range strings.FieldsSeq(strings.TrimPrefix(line, ".")) {
			switch w {
			case "Cm", "Ar", "Ns":
			case "Fl":
				out.WriteString("-")
			case "Op":
				out.WriteString("[")
				closing += "]"
			default:
				out.WriteString(w)
			}
		}
		out.WriteString(closing)
	}
	return out.String()
}

// The watchdog has options of Erlang's; a person who asks what it is gets an answer, by all of its names.
func TestHeartHelp(t *testing.T) {
	_, want, _ := run("help", "heart")
	for _, args := range [][]string{{"cmgr", "heart", "--help"}, {"cmgr", "heart", "-h"}, {"/usr/lib/heart", "-help"}} {
		var out, err bytes.Buffer
		if code := Main(args, strings.NewReader(""), &out, &err); code != exitFine || out.String() != want || !strings.Contains(want, "cmgr heart [-pid PID]") {
			t.Errorf("%q: %d\n%s%s", args, code, out.String(), err.String())
		}
	}
}
