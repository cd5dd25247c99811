package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
)

// bound is long after anything that works, on a busy machine too.
const bound = 2 * time.Minute

// bounded is a context that ends then.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	t.Cleanup(cancel)
	return ctx
}

func resolveAll(t testing.TB, tr *tree) {
	t.Helper()
	for _, m := range []name.Moniker{"/core", "/netstack", "/core/net", "/core/log"} {
		if err := tr.Resolve(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQueries(t *testing.T) {
	tr := shop(t)
	resolveAll(t, tr)
	for _, j := range []string{"import-7", "import-77"} {
		if _, err := tr.Create(t.Context(), "/core", "jobs", realm.ChildDecl{Name: j, URL: "import.cml"}); err != nil {
			t.Fatal(err)
		}
	}
	c, _, _ := serve(t, tr)
	for _, q := range []struct{ query, want string }{
		{"/", "/"},
		{"/core/net", "/core/net"},
		{"./core/net", "/core/net"},
		{"net.cml", "/core/net"},             // the whole URL, though "netstack.cml" has no such part
		{"file:///pkg/net.cml", "/core/net"}, // resolved
		{"net", "/core/net"},                 // the last segment, though /netstack contains it
		{"core/log", "/core/log"},            // the last segments
		{"stack", "/netstack"},               // a part
		{"jobs:import-7", "/core/jobs:import-7"},
	} {
		r, err := c.Show(bounded(t), &controlpb.InstanceRequest{Query: q.query})
		if err != nil || r.GetMoniker() != q.want {
			t.Errorf("%s is %s, %v; want %s", q.query, r.GetMoniker(), err, q.want)
		}
	}
	for _, q := range []struct {
		query, message, hint string
		candidates           []string
		code                 connect.Code
	}{
		{
			"import.cml", "find import.cml: more than one component instance matches", "did you mean one of these?",
			[]string{"/core/jobs:import-7", "/core/jobs:import-77"},
			connect.CodeInvalidArgument,
		},
		{"netz", "find netz: no matching component instance found", "did you mean /core/net?", nil, connect.CodeNotFound},
		{"zzzzzz", "find zzzzzz: no matching component instance found", "`cmgr list` shows all instances", nil, connect.CodeNotFound},
		{
			"/core/jobs:import-777", "find /core/jobs:import-777: no such component instance", "did you mean /core/jobs:import-77?",
			nil, connect.CodeNotFound,
		},
		{"/core//net", `find: moniker "/core//net": empty segment`, "", nil, connect.CodeInvalidArgument},
		{"", "find: the query is empty", "", nil, connect.CodeInvalidArgument},
	} {
		_, err := c.Stop(bounded(t), &controlpb.InstanceRequest{Query: q.query})
		p := ProblemOf(err)
		if p.GetMessage() != q.message || p.GetHint() != q.hint || !slices.Equal(p.GetCandidates(), q.candidates) ||
			connect.CodeOf(err) != q.code {
			t.Errorf("%q: %v: %v", q.query, connect.CodeOf(err), p)
		}
	}
}

func TestMonikerIsFoundBelowWhatIsNotResolved(t *testing.T) {
	tr := shop(t)
	if _, known := tr.Instance("/core/net"); known {
		t.Fatal("/core/net is known before /core is resolved")
	}
	c, _, _ := serve(t, tr)
	if r, err := c.Show(bounded(t), &controlpb.InstanceRequest{Query: "/core/net"}); err != nil || r.GetMoniker() != "/core/net" {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestConfig(t *testing.T) {
	tr := shop(t)
	resolveAll(t, tr)
	c, _, _ := serve(t, tr)
	want := func(want string) {
		t.Helper()
		r, err := c.Config(bounded(t), &controlpb.InstanceRequest{Query: "net"})
		if err != nil {
			t.Fatal(err)
		}
		got := r.GetMoniker()
		for _, v := range r.GetValues() {
			got += " " + strings.Join([]string{v.GetKey(), v.GetType(), v.GetValue(), v.GetSource(), v.GetSourceMoniker()}, ",")
		}
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	r, err := c.SetConfig(bounded(t), &controlpb.SetConfigRequest{Query: "net", Values: map[string]string{"b": "2", "a": "one"}})
	if err != nil || r.GetInstance().GetMoniker() != "/core/net" {
		t.Fatal(r, err)
	}
	want(`/core/net a,string,"one",override, b,string,"2",override,`)
	show, err := c.Show(bounded(t), &controlpb.InstanceRequest{Query: "net"})
	if err != nil || len(show.GetResolved().GetConfiguration()) != 2 {
		t.Errorf("%v, %v", show, err)
	}
	if _, err := c.UnsetConfig(bounded(t), &controlpb.UnsetConfigRequest{Query: "net", Keys: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	want(`/core/net b,string,"2",override,`)
	if _, err := c.UnsetConfig(bounded(t), &controlpb.UnsetConfigRequest{Query: "net"}); err != nil {
		t.Fatal(err)
	}
	want("/core/net")
}

func TestStorage(t *testing.T) {
	tr := shop(t)
	resolveAll(t, tr)
	tr.stored = []realm.Stored{
		{Provider: "/", Storage: "data", User: "/core/net", ID: "6", Directory: "/d/6"},
		{Provider: "/core", Storage: "data", User: "/core/gone", Directory: "/d/gone/data"},
	}
	c, _, _ := serve(t, tr)
	list := func(query string) string {
		r, err := c.Storage(bounded(t), &controlpb.StorageRequest{Query: query})
		if err != nil {
			return ProblemOf(err).GetMessage()
		}
		var out []string
		for _, x := range r.GetStored() {
			out = append(out, fmt.Sprint(x.GetMoniker(), x.GetProvider(), x.GetStorage(), x.GetInstanceId(), x.GetDirectory(), x.GetOrphan()))
		}
		return strings.Join(out, " ")
	}
	for query, want := range map[string]string{
		"":           "/core/net/data6/d/6false /core/gone/coredata/d/gone/datatrue",
		"net":        "/core/net/data6/d/6false",
		"/core/gone": "/core/gone/coredata/d/gone/datatrue",
		"/core/log":  "",
		"/core/none": "find /core/none: no such component instance",
		"nothing":    "find nothing: no matching component instance found",
	} {
		if got := list(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	ask := &controlpb.DeleteStorageRequest{Moniker: "/core/gone", Provider: "/core", Storage: "data"}
	if _, err := c.DeleteStorage(bounded(t), ask); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteStorage(bounded(t), ask); connect.CodeOf(err) != connect.CodeNotFound {
		t.Error(err)
	}
	if got, want := list(""), "/core/net/data6/d/6false"; got != want {
		t.Errorf("afterwards %s", got)
	}
}

func TestFilters(t *testing.T) {
	tr := shop(t)
	resolveAll(t, tr)
	if err := tr.Start(t.Context(), "/core/net", "test"); err != nil {
		t.Fatal(err)
	}
	c, _, _ := serve(t, tr)
	for filter, want := range map[string]string{
		"":                      "/ /core /core/log /core/net /netstack",
		"running":               "/core/net",
		"stopped":               "/ /core /core/log /netstack",
		"ancestors:/core/net":   "/ /core /core/net",
		"ancestor:log":          "/ /core /core/log",
		"descendants:/core":     "/core /core/log /core/net",
		"relatives:/core":       "/ /core /core/log /core/net",
		"relatives:/netstack":   "/ /netstack",
		"descendants:netstack":  "/netstack",
		"descendant:/core/log/": "error: list: find: moniker \"/core/log/\": empty segment",
		"ancestors:zzzz":        "error: list: find zzzz: no matching component instance found",
		"sleeping": "error: list filter should be 'running', 'stopped', 'ancestors:<name>', 'descendants:<name>' or " +
			"'relatives:<name>', is 'sleeping'",
	} {
		r, err := c.List(bounded(t), &controlpb.ListRequest{Only: filter})
		var all []string
		for _, i := range r.GetInstances() {
			all = append(all, i.GetMoniker())
		}
		got := strings.Join(all, " ")
		if err != nil {
			got = "error: " + ProblemOf(err).GetMessage()
		}
		if got != want {
			t.Errorf("%q: %s\nwant %s", filter, got, want)
		}
	}
}

func TestShow(t *testing.T) {
	tr := shop(t)
	resolveAll(t, tr)
	if err := errors.Join(tr.Start(t.Context(), "/core/net", "first"), tr.Kill(t.Context(), "/core/net"), tr.Start(t.Context(),
		"/core/net", "again")); err != nil {
		t.Fatal(err)
	}
	c, _, _ := serve(t, tr)
	r, err := c.Show(bounded(t), &controlpb.InstanceRequest{Query: "net"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := JSON(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"moniker":"/core/net","url":"net.cml","environment":"slow","instance_id":"","state":"started","starting":false,` +
		`"resolved":{"resolved_url":"file:///pkg/net.cml","package_directory":"/pkg","runner":"elf",` +
		`"incoming_capabilities":["/svc/billing","/svc/logger","/svc/metrics"],"exposed_capabilities":["tcp"],"collections":[],` +
		`"manifest_sources":["net.cml"],"configuration":[],` +
		`"started":{"runtime":"ELF","outgoing_capabilities":["tcp"],"start_reason":"again","started_at":"2026-03-01T10:02:11.420Z",` +
		`"usage":{"cpu_seconds":1.5,"memory_bytes":3145728,"process_ids":[20490,20491]},` +
		`"details":[{"key":"Job ID","value":"/sys/fs/cgroup/cmgr/net"}]}},` +
		`"last_exit":{"ok":true,"code":-1,"signal":"SIGKILL","core_dumped":false,"cause":"kill","critical":false,"detail":"",` +
		`"started_at":"2026-03-01T10:02:11.420Z","ended_at":"2026-03-01T10:02:14.420Z",` +
		`"text":"killed by SIGKILL after=3s (killed on demand)"},` +
		`"last_error":"","restarts":0,"gave_up":false,"log_directory":"/state/logs/core+net","stop_timeout_ms":30000,"disabled":false}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestActions(t *testing.T) {
	tr := shop(t)
	c, _, _ := serve(t, tr)
	query := func(q string) *controlpb.InstanceRequest { return &controlpb.InstanceRequest{Query: q} }
	step := func(what, want string, r *controlpb.InstanceResponse, err error) {
		t.Helper()
		got := r.GetInstance().GetMoniker() + " " + r.GetInstance().GetState()
		if err != nil {
			got = ProblemOf(err).GetKind() + ": " + ProblemOf(err).GetMessage()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	ctx := bounded(t)
	r, err := c.Resolve(ctx, query("/core"))
	step("resolve", "/core resolved", r, err)
	r, err = c.Start(ctx, query("net"))
	step("start", "/core/net started", r, err)
	signal := func(q, sig string) (*controlpb.InstanceResponse, error) {
		return c.Signal(ctx, &controlpb.SignalRequest{Query: q, Signal: sig})
	}
	r, err = signal("net", "hup")
	step("signal", "/core/net started", r, err)
	r, err = signal("net", "USR1")
	step("signal that fails", "internal: signal /core/net: got user defined signal 1", r, err)
	r, err = signal("net", "hop")
	step("no signal", `invalid: signal /core/net: unknown signal "hop"; kill -l lists them`, r, err)
	r, err = signal("/core", "hup")
	step("signal without a program", "precondition: signal /core: no program of it runs", r, err)
	r, err = c.Stop(ctx, query("net"))
	step("stop", "/core/net resolved", r, err)
	r, err = c.Restart(ctx, query("net"))
	step("restart", "/core/net started", r, err)
	r, err = c.Stop(ctx, query("net"))
	step("stop again", "/core/net resolved", r, err)
	for _, dry := range []bool{true, false} {
		rr, err := c.Reload(ctx, &controlpb.ReloadRequest{Query: "net", DryRun: dry})
		state := map[bool]string{true: "resolved", false: "started"}[dry]
		step("reload", "/core/net "+state, &controlpb.InstanceResponse{Instance: rr.GetInstance()}, err)
		got, err := JSON(rr)
		const want = `"changes":[{"moniker":"/core/net","kind":"restarted","why":"its program changed",` +
			`"position":{"file":"net.cml","line":3,"column":7}},{"moniker":"/core/net/new","kind":"added","why":""}]}`
		if err != nil || !strings.HasSuffix(string(got), want) {
			t.Errorf("reload: %s, %v", got, err)
		}
	}
	r, err = c.Kill(ctx, query("net"))
	step("kill", "/core/net resolved", r, err)
	r, err = c.Unresolve(ctx, query("net"))
	step("unresolve", "/core/net unresolved", r, err)
	r, err = c.Create(ctx, &controlpb.CreateRequest{Moniker: "/core/jobs:a", Url: "import.cml"})
	step("create", "/core/jobs:a unresolved", r, err)
	r, err = c.Create(ctx, &controlpb.CreateRequest{Moniker: "/core/a", Url: "import.cml"})
	step("create outside", "invalid: create: /core/a is no instance of a collection", r, err)
	r, err = c.Create(ctx, &controlpb.CreateRequest{Moniker: "/core/tasks:a", Url: "import.cml"})
	step("create nowhere", "not_found: create /core/tasks:a: `/core` does not have collection `#tasks`", r, err)
	run := func(m string, recreate bool) (*controlpb.InstanceResponse, error) {
		return c.RunInCollection(ctx, &controlpb.RunInCollectionRequest{Moniker: m, Url: "import.cml", Recreate: recreate})
	}
	r, err = run("/core/jobs", false)
	step("run", "/core/jobs:import started", r, err)
	r, err = run("/core/jobs:import", false)
	step("run again", "precondition: run /core/jobs:import: component instance already exists", r, err)
	r, err = run("/core/jobs:import", true)
	step("run anew", "/core/jobs:import started", r, err)
	r, err = run("/", false)
	step("run the root", "invalid: run: the root is no collection", r, err)
	d, err := c.Destroy(ctx, query("jobs:import"))
	if err != nil || d.GetMoniker() != "/core/jobs:import" {
		t.Errorf("destroy: %v, %v", d, err)
	}
	_, err = c.Destroy(ctx, query("/core/net"))
	step("destroy", "invalid: destroy /core/net: only dynamic children can be destroyed", nil, err)
	if _, err = c.Show(ctx, query("jobs:import")); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("after destroy: %v", err)
	}
}

// A start whose errors are those of a manifest arrives with places, rules and hints.
func TestProblemsSurviveTheWire(t *testing.T) {
	tr := shop(t)
	pos := manifest.Pos{File: "a.cml", Line: 3, Col: 7}
	for m, err := range map[name.Moniker]error{
		"/netstack": &realm.Error{
			Op: "start", At: "/netstack", Why: capabilities.Precondition, Err: errors.New("not now"),
			Hint: "wait",
		},
		"/core": fmt.Errorf("resolve: %w", manifest.Diagnostics{
			{Pos: pos, Rule: "unknown-key", Message: `unknown key "urk"`, Hint: `did you mean "url"?`},
			{Pos: pos, Rule: "syntax", Message: "missing comma"},
		}),
		"/": &capabilities.Error{
			Target: "/", Kind: manifest.KindRunner, Name: "elf", Reason: "was not offered", Pos: pos, Hint: "offer it",
			Why: capabilities.Denied,
		},
	} {
		tr.startError[m] = err
	}
	c, _, _ := serve(t, tr)
	at := &controlpb.Position{File: "a.cml", Line: 3, Column: 7}
	for m, want := range map[string]*Problem{
		"/netstack": {Kind: "precondition", Message: "start /netstack: not now", Hint: "wait"},
		"/core": {
			Kind:    "invalid",
			Message: "start /core: resolve: a.cml:3:7: unknown key \"urk\"\na.cml:3:7: missing comma", Hint: `did you mean "url"?`,
			Findings: []*controlpb.Finding{
				{Position: at, Rule: "unknown-key", Message: `unknown key "urk"`, Hint: `did you mean "url"?`},
				{Position: at, Rule: "syntax", Message: "missing comma"},
			},
		},
		"/": {Kind: "denied", Message: "start /: runner elf: was not offered (a.cml:3:7)", Hint: "offer it"},
	} {
		_, err := c.Start(bounded(t), &controlpb.InstanceRequest{Query: m})
		got := ProblemOf(err)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v\nwant %v", m, got, want)
		}
		if (&Error{got}).Code() != capabilities.CodeOf(tr.startError[name.Moniker(m)]) && m != "/core" {
			t.Errorf("%s: code %v", m, (&Error{got}).Code())
		}
	}
}

func TestCapability(t *testing.T) {
	tr := shop(t)
	c, _, _ := serve(t, tr)
	if _, err := c.Capability(bounded(t), &controlpb.CapabilityRequest{Name: "syslog"}); ProblemOf(err).GetHint() == "" ||
		connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("before anything is resolved: %v", err)
	}
	resolveAll(t, tr)
	got := map[string]string{}
	for _, n := range []string{"syslog", "logger", "elf"} {
		r, err := c.Capability(bounded(t), &controlpb.CapabilityRequest{Name: n})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range [][]*controlpb.Mention{r.GetDeclarations(), r.GetExposes(), r.GetOffers(), r.GetUses()} {
			for _, m := range g {
				got[n] += fmt.Sprintf("%s %s %s>%s %s>%s %s:%d\n", m.GetMoniker(), m.GetKind(), m.GetSourceName(), m.GetTargetName(),
					m.GetFrom(), m.GetTo(), m.GetPosition().GetFile(), m.GetPosition().GetLine())
			}
			got[n] += "-\n"
		}
	}
	want := map[string]string{
		"syslog": "/core/log protocol syslog>syslog > log.cml:4\n-\n/core/log protocol syslog>syslog self>parent log.cml:5\n-\n" +
			"/core protocol syslog>logger #log>#net core.cml:7\n-\n-\n",
		"logger": "-\n-\n/core protocol syslog>logger #log>#net core.cml:7\n-\n/core/net protocol logger>logger parent> net.cml:5\n-\n",
		"elf": "-\n-\n/ runner elf>elf parent>#core root.cml:3\n/ runner elf>elf parent>#netstack root.cml:3\n" +
			"/core runner elf>elf parent>#net core.cml:6\n/core runner elf>elf parent>#log core.cml:6\n-\n" +
			"/core/log runner elf>elf parent> log.cml:3\n/core/net runner elf>elf parent> net.cml:4\n-\n",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := c.Capability(bounded(t), &controlpb.CapabilityRequest{Name: "syslag"}); ProblemOf(err).GetHint() != "did you mean syslog?" {
		t.Errorf("a near miss: %v", ProblemOf(err))
	}
	if _, err := c.Capability(bounded(t), &controlpb.CapabilityRequest{Name: "/"}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("no name: %v", err)
	}
}

func TestRoute(t *testing.T) {
	tr := shop(t)
	c, _, _ := serve(t, tr)
	r, err := c.Route(bounded(t), &controlpb.RouteRequest{Query: "/core/net"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range r.GetRoutes() {
		s := fmt.Sprintf("%s %s %s: %s %s", x.GetDeclType(), x.GetKind(), x.GetCapability(), x.GetOutcome(), x.GetSourceMoniker())
		for _, h := range x.GetHops() {
			s += fmt.Sprintf(" | %s %s %s", h.GetMoniker(), h.GetDecl(), h.GetCapability())
			if p := h.GetPosition(); p != nil {
				s += fmt.Sprintf(" %s:%d", p.GetFile(), p.GetLine())
			}
		}
		got = append(got, s)
		if failed := x.GetOutcome() == "Failed"; failed != (x.GetErrorSummary() != "") || failed != (x.GetHint() != "") {
			t.Errorf("%s: error %q, hint %q", s, x.GetErrorSummary(), x.GetHint())
		}
	}
	want := []string{
		"use runner elf: Success <component manager> | /core/net use elf net.cml:4 | /core offer elf core.cml:6 | / offer elf " +
			"root.cml:3 |  builtin elf",
		"use protocol logger: Success /core/log | /core/net use logger net.cml:5 | /core offer logger core.cml:7 | /core/log expose " +
			"syslog log.cml:5 | /core/log capability syslog log.cml:4",
		"use protocol metrics: Void  | /core/net use metrics net.cml:6 | /core offer metrics core.cml:8",
		"use protocol billing: Failed  | /core/net use billing net.cml:7",
		"expose protocol tcp: Success /core/net | /core/net expose tcp net.cml:10 | /core/net capability tcp net.cml:9",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if got := r.GetRoutes()[3].GetErrorSummary(); got != "`billing` was not offered to `/core/net` by parent" {
		t.Errorf("error summary: %s", got)
	}
}

func TestWanted(t *testing.T) {
	for _, x := range []struct {
		filters, declType, name string
		want                    bool
	}{
		{"", "use", "a.Log", true},
		{"Log", "use", "a.Log", true},
		{"Log", "expose", "a.Log", true},
		{"use:Log", "use", "a.Log", true},
		{"use:Log", "expose", "a.Log", false},
		{"expose:Log,b", "use", "b.Log", true},
		{"expose:Log,c", "use", "b.Log", false},
	} {
		filters := strings.FieldsFunc(x.filters, func(r rune) bool { return r == ',' })
		if got := wanted(filters, x.declType, x.name); got != x.want {
			t.Errorf("%+v: %v", x, got)
		}
	}
}

func TestGraph(t *testing.T) {
	tr := shop(t)
	resolveAll(t, tr)
	c, _, _ := serve(t, tr)
	r, err := c.Graph(bounded(t), &controlpb.GraphRequest{Routes: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.GetInstances()); n != 5 {
		t.Errorf("%d instances", n)
	}
	if got, want := fmt.Sprint(r.GetRoutes()), fmt.Sprint([]*controlpb.Edge{{
		From: "/core/net", To: "/core/log", Kind: "protocol",
		Capability: "logger",
	}}); got != want {
		t.Errorf("routes: %s, want %s", got, want)
	}
	r, err = c.Graph(bounded(t), &controlpb.GraphRequest{Routes: true, Only: "ancestors:net"})
	if err != nil || len(r.GetRoutes()) != 0 || len(r.GetInstances()) != 3 {
		t.Errorf("ancestors: %v, %v", r, err)
	}
}

// collect reads a stream to its end.
func collect[M any, S interface {
	Receive() bool
	Msg() *M
	Err() error
	Close() error
}](t testing.TB, s S, err error, f func(*M) string) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out []string
	for s.Receive() {
		out = append(out, f(s.Msg()))
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	return out
}

func TestEvents(t *testing.T) {
	tr := shop(t)
	if err := tr.Start(t.Context(), "/netstack", "test"); err != nil {
		t.Fatal(err)
	}
	c, s, _ := serve(t, tr)
	text := func(e *controlpb.Event) string {
		return fmt.Sprintf("%v %s %s", e.GetSeq(), e.GetKind(), e.GetMoniker())
	}
	all := []string{
		"1 discovered /", "2 resolved /", "3 discovered /core", "4 discovered /netstack", "5 resolved /netstack",
		"6 started /netstack",
	}
	for _, x := range []struct {
		what string
		req  *controlpb.EventsRequest
		want []string
	}{
		{"all", &controlpb.EventsRequest{}, all},
		{"since seq", &controlpb.EventsRequest{SinceSeq: 4}, all[4:]},
		{"since time", &controlpb.EventsRequest{SinceTime: timestamp(epoch.Add(3 * time.Second))}, all[3:]},
		{"of one", &controlpb.EventsRequest{Query: "netstack"}, all[3:]},
		{"of one, since", &controlpb.EventsRequest{Query: "netstack", SinceSeq: 5}, all[5:]},
		{"new", &controlpb.EventsRequest{NewOnly: true}, nil},
		{"from the future", &controlpb.EventsRequest{SinceSeq: 1e6}, nil},
	} {
		r, err := c.Events(bounded(t), x.req)
		if got := collect(t, r, err, text); !slices.Equal(got, x.want) {
			t.Errorf("%s: %q, want %q", x.what, got, x.want)
		}
	}
	if err := tr.Destroy(t.Context(), "/core/jobs:none"); err != nil {
		t.Fatal(err)
	}
	r, err := c.Events(bounded(t), &controlpb.EventsRequest{Query: "/core/jobs:none"})
	if got := collect(t, r, err, text); !slices.Equal(got, []string{"7 destroyed /core/jobs:none"}) {
		t.Errorf("of one that is gone: %q", got)
	}
	r, err = c.Events(bounded(t), &controlpb.EventsRequest{Query: "/core/jobs:never"})
	if err != nil || r.Receive() || connect.CodeOf(r.Err()) != connect.CodeNotFound {
		t.Errorf("of one that never was: %v, %v", err, r.Err())
	}
	r.Close()
	// A follower gets what comes, and a clean end with the manager's.
	r, err = c.Events(bounded(t), &controlpb.EventsRequest{Follow: true, SinceSeq: 9})
	if err != nil || !r.Receive() || text(r.Msg()) != "10 discovered /core/log" {
		t.Fatalf("follow: %v, %v", r.Msg(), err)
	}
	if err := tr.Stop(t.Context(), "/netstack"); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close(bounded(t)) }()
	if got := collect(t, r, nil, text); !slices.Equal(got, []string{"11 stopped /netstack"}) {
		t.Errorf("follow: %q", got)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestLogs(t *testing.T) {
	line := func(m name.Moniker, s logs.Stream, text string) logs.Line {
		return logs.Line{Moniker: m, Time: epoch, Stream: s, Text: text}
	}
	kept := fakeLogs{
		old: []logs.Line{
			line("/core", logs.Stdout, "c1"), line("/netstack", logs.Stderr, "n1"), line("/core", logs.Stdout, "c2"),
			line("/core/jobs:gone", logs.Manager, "g1"), line("/core", logs.Manager, "c3"),
		},
		new: make(chan logs.Line),
	}
	c, s, _ := serve(t, shop(t), func(cfg *Config) { cfg.Logs = kept })
	text := func(l *controlpb.LogLine) string {
		return fmt.Sprintf("%s %s %s", l.GetMoniker(), l.GetStream(), l.GetText())
	}
	for _, x := range []struct {
		req  *controlpb.LogsRequest
		want []string
	}{
		{&controlpb.LogsRequest{}, []string{
			"/core stdout c1", "/netstack stderr n1", "/core stdout c2",
			"/core/jobs:gone manager g1", "/core manager c3",
		}},
		{&controlpb.LogsRequest{Queries: []string{"/core"}, Lines: new(uint32(2))}, []string{"/core stdout c2", "/core manager c3"}},
		{&controlpb.LogsRequest{Queries: []string{"/core", "netst"}, Lines: new(uint32(1))}, []string{
			"/netstack stderr n1",
			"/core manager c3",
		}},
		{&controlpb.LogsRequest{Queries: []string{"/core/jobs:gone"}}, []string{"/core/jobs:gone manager g1"}},
		{&controlpb.LogsRequest{Lines: new(uint32(0))}, nil},
	} {
		r, err := c.Logs(bounded(t), x.req)
		if got := collect(t, r, err, text); !slices.Equal(got, x.want) {
			t.Errorf("%v: %q, want %q", x.req, got, x.want)
		}
	}
	r, err := c.Logs(bounded(t), &controlpb.LogsRequest{Queries: []string{"/core/jobs:never"}})
	if err == nil {
		for r.Receive() {
			t.Errorf("a line: %v", r.Msg())
		}
		if err = r.Err(); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("no such instance: %v", err)
		}
		r.Close()
	}
	r, err = c.Logs(bounded(t), &controlpb.LogsRequest{Queries: []string{"/core"}, Lines: new(uint32(1)), Follow: true})
	if err != nil || !r.Receive() || text(r.Msg()) != "/core manager c3" {
		t.Fatalf("follow: %v, %v", r.Msg(), err)
	}
	kept.new <- line("/netstack", logs.Stdout, "other")
	kept.new <- line("/core", logs.Stdout, "c4")
	if !r.Receive() || text(r.Msg()) != "/core stdout c4" {
		t.Errorf("follow: %v", r.Msg())
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close(bounded(t)) }()
	if got := collect(t, r, nil, text); len(got) != 0 {
		t.Errorf("after the end: %q", got)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestWait(t *testing.T) {
	exited := runners.Exit{Code: 3, Started: epoch, Ended: epoch.Add(time.Second)}
	for _, x := range []struct {
		what, until string
		before      func(*tree) // what has happened
		then        func(*tree) // what happens once somebody waits
		want        string
	}{
		{"runs already", "running", func(tr *tree) { _ = tr.Start(context.Background(), "/netstack", "") }, nil, "started"},
		{"starts", "running", nil, func(tr *tree) { _ = tr.Start(context.Background(), "/netstack", "") }, "started"},
		{"runs only for a moment", "running", nil, func(tr *tree) {
			_ = tr.Start(context.Background(), "/netstack", "")
			_ = tr.ends("/netstack", exited)
		}, "started"},
		{"cannot start", "running", nil, func(tr *tree) {
			tr.startError["/netstack"] = &realm.Error{
				Op: "start", At: "/netstack", Why: capabilities.NotFound,
				Err: errors.New("no binary"),
			}
			_ = tr.Start(context.Background(), "/netstack", "")
		}, "not_found: wait /netstack: start /netstack: no binary"},
		{"gives up", "running", nil, func(tr *tree) {
			_ = tr.change("/netstack", realm.Event{Kind: realm.EventGaveUp}, func(i *realm.Info) { i.RestartsUp = true })
		}, "unavailable: wait /netstack: its restart policy has given up"},
		{"has given up", "running", func(tr *tree) {
			_ = tr.change("/netstack", realm.Event{Kind: realm.EventGaveUp}, func(i *realm.Info) { i.RestartsUp = true })
		}, nil, "unavailable: wait /netstack: its restart policy has given up"},
		{"is shut down", "running", nil, func(tr *tree) {
			_ = tr.change("/netstack", realm.Event{Kind: realm.EventShutdown}, func(i *realm.Info) { i.State = realm.Shutdown })
		}, "precondition: wait /netstack: it is shut down and will not be running any more"},
		{"never ran", "stopped", nil, nil, "unresolved"},
		{"stops", "stopped", func(tr *tree) { _ = tr.Start(context.Background(), "/netstack", "") }, func(tr *tree) {
			_ = tr.Stop(context.Background(), "/netstack")
		}, "resolved exited code=0 after=3s (asked to stop)"},
		{"another stops", "stopped", func(tr *tree) { _ = tr.Start(context.Background(), "/netstack", "") }, func(tr *tree) {
			_ = tr.Start(context.Background(), "/core", "")
			_ = tr.Stop(context.Background(), "/core")
			_ = tr.ends("/netstack", exited)
		}, "resolved exited code=3 after=1s"},
		{"is due again", "stopped", func(tr *tree) {
			_ = tr.change("/netstack", realm.Event{Kind: realm.EventRestarting}, func(i *realm.Info) { i.NextStart = epoch })
		}, func(tr *tree) {
			_ = tr.change("/netstack", realm.Event{Kind: realm.EventGaveUp}, func(i *realm.Info) { i.NextStart = time.Time{} })
		}, "unresolved"},
		{"has exited", "exited", func(tr *tree) { _ = tr.ends("/netstack", exited) }, nil, "resolved exited code=3 after=1s"},
		{
			"exits and is back before one looks", "exited", func(tr *tree) { _ = tr.Start(context.Background(), "/netstack", "") },
			func(tr *tree) {
				tr.mu.Lock()
				x := exited
				tr.emit(realm.Event{Kind: realm.EventStopped, Moniker: "/netstack", Exit: &x})
				tr.emit(realm.Event{Kind: realm.EventStarted, Moniker: "/netstack"})
				tr.mu.Unlock()
			}, "started exited code=3 after=1s",
		},
		{"is destroyed", "exited", nil, func(tr *tree) {
			tr.remove("/netstack")
		}, "precondition: wait /netstack: it is destroyed and will not be exited any more"},
		{"ends and is destroyed before one looks", "exited", func(tr *tree) {
			_ = tr.Start(context.Background(), "/netstack", "")
		}, func(tr *tree) {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			delete(tr.instances, "/netstack")
			tr.emit(realm.Event{Kind: realm.EventResolved, Moniker: "/netstack"}) // what makes one look
			x := exited
			tr.emit(realm.Event{Kind: realm.EventStopped, Moniker: "/netstack", Exit: &x})
		}, "destroyed exited code=3 after=1s"},
		{"was destroyed", "exited", func(tr *tree) {
			_ = tr.ends("/netstack", exited)
			tr.remove("/netstack")
		}, nil, "destroyed exited code=3 after=1s"},
		{"was destroyed", "running", func(tr *tree) {
			tr.remove("/netstack")
		}, nil, "not_found: find /netstack: no such component instance"},
		{"ends with the tree", "exited", nil, func(tr *tree) { tr.close() }, "unavailable: wait /netstack: the tree is shut down"},
		{"for nonsense", "done", nil, nil, "invalid: wait: until must be 'running', 'stopped' or 'exited', is 'done'"},
	} {
		t.Run(x.what, func(t *testing.T) {
			tr := shop(t)
			if x.before != nil {
				x.before(tr)
			}
			tr.subscribed = make(chan struct{}, 1)
			c, _, _ := serve(t, tr)
			type answer struct {
				r   *controlpb.WaitResponse
				err error
			}
			got := make(chan answer, 1)
			ctx := bounded(t)
			go func() {
				r, err := c.Wait(ctx, &controlpb.WaitRequest{Query: "/netstack", Until: x.until})
				got <- answer{r, err}
			}()
			if x.then != nil {
				<-tr.subscribed
				x.then(tr)
			}
			a := <-got
			text := strings.TrimSpace(a.r.GetState() + " " + a.r.GetExit().GetText())
			if a.err != nil {
				text = ProblemOf(a.err).GetKind() + ": " + ProblemOf(a.err).GetMessage()
			}
			if text != x.want {
				t.Errorf("got %s, want %s", text, x.want)
			}
		})
	}
}

func TestWaitEndsWithItsDeadline(t *testing.T) {
	c, _, _ := serve(t, shop(t))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(ctx, &controlpb.WaitRequest{
		Query: "netstack",
		Until: "running",
	}); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestDoctorVersionShutdown(t *testing.T) {
	tr := shop(t)
	c, _, _ := serve(t, tr, func(cfg *Config) {
		cfg.Doctor = func(context.Context) []Check { return []Check{{Warn, "job backend", "subreaper", "mount cgroup v2"}} }
	})
	d, err := c.Doctor(bounded(t), &controlpb.DoctorRequest{})
	if want := fmt.Sprint([]*controlpb.Check{{
		Status: "warn", Key: "job backend", Value: "subreaper",
		Hint: "mount cgroup v2",
	}}); err != nil || fmt.Sprint(d.GetChecks()) != want {
		t.Errorf("doctor: %v, %v", d, err)
	}
	v, err := c.Version(bounded(t), &controlpb.VersionRequest{})
	if err != nil || v.GetVersion() != "v1" || v.GetManager() != "test" || v.GetRootUrl() != "root.cml" || v.GetProcessId() <= 0 {
		t.Errorf("version: %v, %v", v, err)
	}
	if _, err := c.Shutdown(bounded(t), &controlpb.ShutdownRequest{}); err != nil || !tr.closed {
		t.Errorf("shutdown: %v", err)
	}
}

func TestNameOf(t *testing.T) {
	for url, want := range map[string]string{
		"import.cml":                     "import",
		"jobs/import.cm":                 "import",
		"file:///srv/pkg#meta/import.cm": "import",
		"file:///srv/pkg/a b%.cml":       "a_b_",
		"boot://host/x.cml?hash=1":       "x",
		"no-ending":                      "no-ending",
	} {
		if got := nameOf(url); got != want {
			t.Errorf("nameOf(%q) = %q, want %q", url, got, want)
		}
	}
}

// What is not Connect is answered in its own way, and harms nothing.
func TestPlainHTTP(t *testing.T) {
	_, _, socket := serve(t, shop(t))
	c, err := Dial(t.Context(), "", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.http.Get("http://cmgr/" + filepath.Base(socket))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("GET: %s", r.Status)
	}
}
