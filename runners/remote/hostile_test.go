package remote

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/proto/runnerpb"
	"github.com/cmgr/cmgr/runners"
)

// A liar is a runner without manners, which can frame a message.
type liar struct {
	t    *testing.T
	conn *rpc.Conn
}

func (l *liar) tell(what string, m proto.Message, files ...*os.File) {
	l.t.Helper()
	body, err := proto.Marshal(m)
	if err != nil {
		l.t.Fatal(err)
	}
	_ = l.conn.Notify(context.Background(), what, rpc.Message{Body: body, Files: files})
}

// accepts answers every request well.
func accepts(context.Context, string) error { return nil }

// against is a manager's end whose runner handles requests by handle.
func against(t *testing.T, patience time.Duration, handle func(ctx context.Context, method string) error) (*Runner, *liar) {
	t.Helper()
	a, b := sockets(t)
	l := &liar{t: t}
	open := make(chan error, 1)
	go func() {
		var err error
		l.conn, err = rpc.Accept(context.Background(), b, rpc.Config{
			Protocol: Protocol, Versions: versions, MaxFDs: rpc.MaxFDs, MaxBody: MaxStartInfo,
			Handle: func(ctx context.Context, method string, m rpc.Message) (rpc.Message, error) {
				m.Close()
				if method != "Start" && method != "Stop" && method != "Kill" {
					return rpc.Message{}, rpc.ErrUnsupported
				}
				return rpc.Message{}, handle(ctx, method)
			},
		})
		open <- err
	}()
	r, err := New(t.Context(), a, Config{Patience: patience})
	if err = errors.Join(err, <-open); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		l.conn.Close()
	})
	return r, l
}

func start(t *testing.T, r *Runner) runners.Program {
	t.Helper()
	p, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLiars: a runner that lies is dropped with a clear word, and its programs have died.
func TestLiars(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, test := range []struct {
		name, want string
		lie        func(l *liar)
	}{
		{"end of nobody", "tells the end of program 0", func(l *liar) { l.tell("Exit", &runnerpb.Exit{}) }},
		{"end of a stranger", "tells the end of program 99", func(l *liar) { l.tell("Exit", &runnerpb.Exit{Program: 99}) }},
		{"end of the one to come", "tells the end of program 3", func(l *liar) { l.tell("Exit", &runnerpb.Exit{Program: 3}) }},
		{"end, twice", "tells the end of program 2, which it was not given or which has ended", func(l *liar) {
			l.tell("Exit", &runnerpb.Exit{Program: 2})
			l.tell("Exit", &runnerpb.Exit{Program: 2})
		}},
		{"signal 9999", "signal 9999 ended program 1; there is none", func(l *liar) {
			l.tell("Exit", &runnerpb.Exit{Program: 1, Signal: 9999})
		}},
		{"diagnostics of a stranger", "diagnostics of program 99", func(l *liar) {
			l.tell("Diagnostics", &runnerpb.Diagnostics{Program: 99})
		}},
		{"diagnostics of nobody", "diagnostics of program 0", func(l *liar) { l.tell("Diagnostics", &runnerpb.Diagnostics{}) }},
		{"no Exit", "an Exit that is none", func(l *liar) {
			_ = l.conn.Notify(context.Background(), "Exit", rpc.Message{Body: []byte("gone")})
		}},
		{"no Diagnostics", "Diagnostics that are none", func(l *liar) {
			_ = l.conn.Notify(context.Background(), "Diagnostics", rpc.Message{Body: []byte("fine")})
		}},
		{"a descriptor", "1 descriptors with a message; 0 is the most", func(l *liar) {
			l.tell("Exit", &runnerpb.Exit{Program: 1}, null)
		}},
		{"many descriptors", "descriptors", func(l *liar) {
			l.tell("Exit", &runnerpb.Exit{Program: 1}, slices.Repeat([]*os.File{null}, rpc.MaxFDs)...)
		}},
		{"a huge message", "a body of 100000 bytes; 32768 is the most", func(l *liar) {
			_ = l.conn.Notify(context.Background(), "Exit", rpc.Message{Body: make([]byte, 100_000)})
		}},
		{"a flood", "packets within 10s that nobody asked for", func(l *liar) {
			for l.conn.Err() == nil {
				l.tell("Diagnostics", &runnerpb.Diagnostics{Program: 1})
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, l := against(t, bound, accepts)
			p := start(t, r)
			start(t, r)
			test.lie(l)
			x := wait(t, p)
			if x.Cause != runners.ByRunner || x.Code != -1 || !strings.Contains(x.Detail, test.want) ||
				!strings.HasPrefix(x.Detail, "the runner was dropped: it ") {
				t.Errorf("exit %v, want %q", x, test.want)
			}
			<-l.conn.Done()
			// It was told the same, unless its own end failed first.
			var told *rpc.Error
			if errors.As(l.conn.Err(), &told) && !strings.Contains(told.Text, test.want) {
				t.Errorf("it was told %v", told)
			}
			if _, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/y"}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("a start afterwards: %v", err)
			}
		})
	}
}

// TestUnknownIsIgnored: what a later version may say is no lie.
func TestUnknownIsIgnored(t *testing.T) {
	r, l := against(t, bound, accepts)
	p := start(t, r)
	l.tell("Escrow", &runnerpb.Program{Program: 1})
	cause99 := []byte{0x08, 0x01, 0x10, 0x05, 0x28, 0x63, 0x7a, 0x01, 0x00}
	_ = l.conn.Notify(t.Context(), "Exit", rpc.Message{Body: cause99})
	if x := wait(t, p); x.Code != 5 || x.Cause != runners.BySelf {
		t.Errorf("exit %v", x)
	}
	l.tell("Diagnostics", &runnerpb.Diagnostics{Program: 1}) // crossed the end
	start(t, r)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// TestExits: what a runner says of an end, and what the manager makes of it.
func TestExits(t *testing.T) {
	for _, test := range []struct {
		do   func(runners.Program)
		exit *runnerpb.Exit
		want runners.Exit
	}{
		{nil, &runnerpb.Exit{Code: 3, Detail: "so\nit went\x1b[2J"}, runners.Exit{Code: 3, Detail: "so it went [2J"}},
		{nil, &runnerpb.Exit{Code: 3, Signal: 11, CoreDumped: true}, runners.Exit{Code: -1, Signal: 11, CoreDumped: true}},
		{nil, &runnerpb.Exit{CoreDumped: true}, runners.Exit{}},
		{func(p runners.Program) { p.Stop(context.Background()) }, &runnerpb.Exit{}, runners.Exit{Cause: runners.ByStop}},
		{
			func(p runners.Program) { p.Stop(context.Background()); p.Kill(context.Background()) }, &runnerpb.Exit{Code: -1},
			runners.Exit{Code: -1, Cause: runners.ByKill},
		},
		{func(p runners.Program) { p.Kill(context.Background()) }, &runnerpb.Exit{Cause: runnerpb.Cause_CAUSE_SELF}, runners.Exit{}},
		{
			nil, &runnerpb.Exit{Cause: runnerpb.Cause_CAUSE_TIMEOUT, Signal: 9},
			runners.Exit{Code: -1, Signal: 9, Cause: runners.ByTimeout},
		},
		{nil, &runnerpb.Exit{Detail: strings.Repeat("ü", 1000)}, runners.Exit{Detail: strings.Repeat("ü", maxText/2)}},
	} {
		r, l := against(t, bound, accepts)
		p := start(t, r)
		if test.do != nil {
			test.do(p)
		}
		test.exit.Program = 1
		l.tell("Exit", test.exit)
		x := wait(t, p)
		if x.Started.IsZero() || x.Ended.Before(x.Started) {
			t.Errorf("times %v, %v", x.Started, x.Ended)
		}
		x.Started, x.Ended = time.Time{}, time.Time{}
		if x != test.want {
			t.Errorf("%v became %+v, want %+v", test.exit, x, test.want)
		}
	}
}

func TestDiagnosticsAreBounded(t *testing.T) {
	r, l := against(t, bound, accepts)
	p := start(t, r)
	d := &runnerpb.Diagnostics{Program: 1, Details: []*runnerpb.Detail{
		{Key: "Interpreter\x00", Value: "3.11\n"},
		{Key: "", Value: "no key"},
		{Key: "no value"},
		{Key: "long", Value: strings.Repeat("x", 5000)},
	}}
	for range 100 {
		d.Details = append(d.Details, &runnerpb.Detail{Key: "k", Value: "v"})
	}
	l.tell("Diagnostics", d)
	l.tell("Exit", &runnerpb.Exit{Program: 1})
	wait(t, p)
	got := p.(runners.Describer).Describe()
	if len(got) != maxDetails-2 || got[0] != (runners.Detail{Key: "Interpreter", Value: "3.11"}) || len(got[1].Value) != maxText {
		t.Errorf("%d details: %.100q", len(got), got)
	}
}

// Runners that hang: each is dropped after Config.Patience, no earlier call than that waits for ever.
func TestHangingRunners(t *testing.T) {
	const patience = time.Second // in which a runner that does not hang has done all that it must
	for _, test := range []struct {
		which, want string
		do          func(t *testing.T, r *Runner)
	}{
		{"Start", "does not answer: a cancelled request is 1s old", func(t *testing.T, r *Runner) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := r.Start(ctx, runners.StartInfo{Moniker: "/y"}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("start: %v", err)
			}
		}},
		{"Stop", "does not answer: a cancelled request is 1s old", func(t *testing.T, r *Runner) {
			p := start(t, r)
			if err := p.Stop(t.Context()); err != nil {
				t.Errorf("stop, ended by the runner's end: %v", err)
			}
			if x := wait(t, p); x.Cause != runners.ByRunner {
				t.Errorf("exit %v", x)
			}
		}},
		{"Kill", "it was killed 1s ago", func(t *testing.T, r *Runner) {
			p := start(t, r)
			if err := p.Kill(t.Context()); err != nil {
				t.Errorf("kill, ended by the runner's end: %v", err)
			}
			if x := wait(t, p); x.Cause != runners.ByRunner {
				t.Errorf("exit %v", x)
			}
		}},
		{"the end", "does not end program 1: it was killed 1s ago", func(t *testing.T, r *Runner) {
			p := start(t, r)
			if err := p.Kill(t.Context()); err != nil {
				t.Error(err)
			}
			if x := wait(t, p); x.Cause != runners.ByRunner || x.OK() {
				t.Errorf("exit %v", x)
			}
		}},
		{"nothing", "does not end program 1", func(t *testing.T, r *Runner) {
			// It answers a cancelled start that it has started, and never ends it.
			ctx, cancel := context.WithCancel(t.Context())
			p := &program{runner: r, moniker: "/z"}
			if err := r.add(p); err != nil {
				t.Fatal(err)
			}
			cancel()
			<-ctx.Done()
			p.destroy()
			if x, ok := p.Ended(); !ok || x.Cause != runners.ByRunner {
				t.Errorf("exit %v, %v", x, ok)
			}
		}},
	} {
		t.Run(test.which, func(t *testing.T) {
			t.Parallel()
			dropped := make(chan struct{})
			defer close(dropped)
			r, _ := against(t, patience, func(ctx context.Context, method string) error {
				if method == test.which {
					// Deaf to the cancellation: only the connection's end ends it, as if by a kill of its process.
					<-ctx.Done()
					<-dropped
				}
				return nil
			})
			test.do(t, r)
			select {
			case <-r.Done():
			case <-time.After(bound):
				t.Fatal("it was not dropped")
			}
			if err := r.Err(); !strings.Contains(err.Error(), test.want) {
				t.Errorf("dropped for %v, want %q", err, test.want)
			}
		})
	}
}

// TestDeniedOrders: an error of a living runner is the caller's, in its words.
func TestDeniedOrders(t *testing.T) {
	r, _ := against(t, bound, func(_ context.Context, method string) error {
		switch method {
		case "Stop":
			return &rpc.Error{Why: capabilities.Precondition, Text: "it is busy", Hint: "later"}
		case "Kill":
			return rpc.ErrUnsupported
		}
		return nil
	})
	p := start(t, r)
	err := p.Stop(t.Context())
	if capabilities.CodeOf(err) != capabilities.Precondition || err.Error() != "stop /x: it is busy\n  hint: later" {
		t.Errorf("stop: %v", err)
	}
	if err := p.Kill(t.Context()); err == nil || err.Error() != "kill /x: the runner does not know how to kill" {
		t.Errorf("kill: %v", err)
	}
}

// TestServeRefuses: what a manager must not send; the connection goes on.
func TestServeRefuses(t *testing.T) {
	a, b := sockets(t)
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), b, catcher{err: errors.New("it came through")}) }()
	c, err := rpc.Connect(t.Context(), a, rpc.Config{Protocol: Protocol, Versions: versions})
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, test := range []struct {
		want  string
		info  *runnerpb.StartInfo
		files []*os.File
	}{
		{"it came through", &runnerpb.StartInfo{Program: 1}, nil},
		{"program 0 is none", &runnerpb.StartInfo{}, []*os.File{null}},
		{"descriptor 2 is nothing", &runnerpb.StartInfo{Program: 1, Stdout: 1}, []*os.File{null, null}},
		{"stdout is descriptor 2 of 1", &runnerpb.StartInfo{Program: 1, Stdout: 2}, []*os.File{null}},
		{"stdout is descriptor 4294967295 of 1", &runnerpb.StartInfo{Program: 1, Stdout: 1<<32 - 1}, []*os.File{null}},
		{
			"stderr is descriptor 1, which is something else too",
			&runnerpb.StartInfo{Program: 1, Stdout: 1, Stderr: 1},
			[]*os.File{null},
		},
		{"/data is descriptor 0 of 0", &runnerpb.StartInfo{Program: 1, Namespace: []*runnerpb.NamespaceEntry{{Path: "/data"}}}, nil},
		{"handle 7 is descriptor 0 of 0", &runnerpb.StartInfo{Program: 1, Handles: []*runnerpb.Handle{{Number: 7}}}, nil},
		{
			"handle 256; 255 is the highest",
			&runnerpb.StartInfo{Program: 1, Handles: []*runnerpb.Handle{{Number: 256, File: 1}}},
			[]*os.File{null},
		},
		{
			`key "a" of the program block without a value`,
			&runnerpb.StartInfo{Program: 1, Block: []*runnerpb.Entry{{Key: "a"}}},
			[]*os.File{null},
		},
		{"it came through", &runnerpb.StartInfo{Program: 1, Package: &runnerpb.Package{Path: "/no/such", Dir: 1}}, []*os.File{dir}},
		{"package is descriptor 0 of 0", &runnerpb.StartInfo{Program: 1, Package: &runnerpb.Package{Path: "/"}}, nil},
		{"it came through", &runnerpb.StartInfo{Program: 1, Package: &runnerpb.Package{Path: dir.Name(), Dir: 1}}, []*os.File{dir}},
	} {
		body, err := proto.Marshal(test.info)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Call(t.Context(), "Start", rpc.Message{Body: body, Files: test.files})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %q", test.info, err, test.want)
		}
		if test.want != "it came through" && capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("%v is %v", err, capabilities.CodeOf(err))
		}
	}
	for _, method := range []string{"Start", "Stop", "Kill"} {
		_, err := c.Call(t.Context(), method, rpc.Message{Body: []byte("hello")})
		if capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("%s of nonsense: %v", method, err)
		}
	}
	if _, err := c.Call(t.Context(), "Stop", rpc.Message{Body: []byte{8, 77}}); capabilities.CodeOf(err) != capabilities.NotFound {
		t.Errorf("stop of a stranger: %v", err)
	}
	c.Close()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}

// FuzzStartInfo: what decode takes, encode writes so that decode takes it for the same.
func FuzzStartInfo(f *testing.F) {
	for _, info := range []runners.StartInfo{
		{Moniker: "/a", URL: "u", Config: []byte{}, Program: block("k", manifest.String("v"), "l", manifest.Strings{"x"})},
		{Moniker: "/", Program: block("o", manifest.Objects{{{Key: "k", Value: manifest.Null{}}}})},
	} {
		m, _, err := encode(1, info, false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Body, uint8(0))
	}
	seed, err := proto.Marshal(&runnerpb.StartInfo{
		Program: 7, Stdout: 1, Namespace: []*runnerpb.NamespaceEntry{{Path: "/p", File: 2, Rights: 1<<32 - 1}},
		Handles: []*runnerpb.Handle{{Number: 3, File: 3}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		m := rpc.Message{Body: bytes.Clone(b)}
		for range n % 8 {
			file, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			m.Files = append(m.Files, file)
		}
		id, info, pkg, err := decode(m)
		defer info.Close()
		defer pkg.Close()
		for _, file := range m.Files {
			if _, serr := file.Stat(); (serr != nil) != (err != nil) && info.Package.Dir == "" {
				t.Fatalf("decode: %v; a file: %v", err, serr)
			}
		}
		if err != nil {
			return
		}
		out, dir, err := encode(id, info, false)
		if err != nil {
			t.Fatalf("%x was taken, and not given: %v", b, err)
		}
		if dir != nil {
			defer dir.Close()
		}
		again, info2, pkg2, err := decode(rpc.Message{Body: out.Body, Files: out.Files})
		defer pkg2.Close()
		if err != nil || again != id {
			t.Fatalf("%x: program %d became %d, %v", b, id, again, err)
		}
		same := cmp.Comparer(func(a, b *os.File) bool { return a == b || a != nil && b != nil })
		if d := cmp.Diff(info, info2, same, cmp.Comparer(func(a, b manifest.Strings) bool { return slices.Equal(a, b) })); d != "" {
			t.Fatal(d)
		}
	})
}
