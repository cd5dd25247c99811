package manager

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/realm"
)

// A route is asked again by what has happened in the tree: what a program finds goes where its routes lead now, without being
// started again where the route can change by itself.
func TestRoutesFollow(t *testing.T) {
	for name, sandbox := range map[string]string{"unconfined": `security_policy: { sandbox: { unconfined: ["/**", "/"] } }`, "confined": ""} {
		t.Run(name, func(t *testing.T) { routesFollow(t, sandbox) })
	}
}

func routesFollow(t *testing.T, sandbox string) {
	l := newLive(t)
	l.manifest("root.cml", `{
		program: { runner: "elf", binary: "bin/root" },
		capabilities: [ { dictionary: "box" } ],
		collections: [ { name: "jobs", durability: "transient", allowed_offers: "static_and_dynamic" } ],
		children: [
			{ name: "server", url: "server.cml" }, { name: "client", url: "client.cml" }, { name: "late", url: "late.cml" },
			{ name: "gone", url: "gone.cml" }, { name: "boxed", url: "boxed.cml" }, { name: "crowd", url: "crowd.cml" },
		],
		offer: [
			{ protocol: "echo", from: "#server", to: "#client" },
			{ protocol: "echo", from: "#server", as: "first", to: "self/box" },
			{ protocol: "echo", from: "#gone", to: "#late" },
			{ service: "work", from: "#gone", to: "#crowd" },
			{ dictionary: "box", from: "self", to: "#boxed" },
		],
	}`)
	const serves = `{
		program: { runner: "elf", binary: "bin/worker" },
		capabilities: [ { protocol: "echo" }, { service: "work" } ],
		expose: [ { protocol: "echo", from: "self" }, { service: "work", from: "self" } ],
	}`
	server := func(by string) string {
		return `{ children: [ { name: "a", url: "worker.cml" }, { name: "b", url: "worker.cml" } ], expose: [ { protocol: "echo", from: "#` + by + `" } ] }`
	}
	l.manifest("worker.cml", serves)
	l.manifest("server.cml", server("a"))
	const uses = `{ program: { runner: "elf", binary: "bin/user" }, use: [ { protocol: "echo" } ] }`
	l.manifest("client.cml", uses)
	l.manifest("late.cml", `{ program: { runner: "elf", binary: "bin/user" }, use: [ { protocol: "echo", path: "/run/app/echo" } ] }`)
	l.manifest("crowd.cml", `{ program: { runner: "elf", binary: "bin/user" }, use: [ { service: "work" } ] }`)
	l.manifest("boxed.cml", `{ program: { runner: "elf", binary: "bin/user" }, use: [ { dictionary: "box", path: "/box" } ] }`)
	l.put("cmgr.json5", "{ "+sandbox+" }")
	l.run(Config{})
	ctx, r := t.Context(), l.m.Realm()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pid := func(m name.Moniker) string {
		t.Helper()
		i, _ := r.Instance(m)
		if i.State != realm.Started {
			t.Fatalf("%s is %s: %v", m, i.State, i.LastError)
		}
		return i.StartedAt.String()
	}
	// hears waits until who answers m at path is who: "" for nobody.
	hears := func(m name.Moniker, path, who string) {
		t.Helper()
		var got string
		for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			base, err := l.view(ctx, m)
			must(err)
			c, err := dialLong(filepath.Join(base, path), syscall.SOCK_STREAM)
			if errors.Is(err, syscall.ECONNREFUSED) {
				if got = ""; who == "" {
					return
				}
				continue
			}
			if err != nil {
				got = err.Error()
				continue
			}
			text, _ := io.ReadAll(c)
			c.Close()
			if got = strings.TrimSpace(string(text)); got == who {
				return
			}
		}
		t.Fatalf("%s hears %q at %s, want %q", m, got, path, who)
	}
	create := func(child, url string, offers ...manifest.Offer) {
		t.Helper()
		_, err := r.Create(ctx, name.Root, "jobs", realm.ChildDecl{Name: child, URL: url, DynamicOffers: offers})
		must(err)
	}
	change := func(file, text, reload string) {
		t.Helper()
		l.manifest(file, text)
		_, err := r.Reload(ctx, name.Moniker(reload), false)
		must(err)
	}

	// A sibling that comes, goes and comes again.
	create("web", "client.cml", manifest.Offer{
		Kind: manifest.KindProtocol, Source: manifest.Ref{Kind: manifest.RefChild, Name: "jobs:db"}, SourceName: "echo", TargetName: "echo",
	})
	must(r.Start(ctx, "/jobs:web", "test"))
	since := pid("/jobs:web")
	hears("/jobs:web", "svc/echo", "")
	must(l.logged("/jobs:web", "`/` does not have child `#jobs:db`"))
	for range 2 {
		create("db", "worker.cml")
		hears("/jobs:web", "svc/echo", "/jobs:db echo")
		must(r.Destroy(ctx, "/jobs:db"))
		hears("/jobs:web", "svc/echo", "")
	}
	must(l.logged("/jobs:web", "protocol echo is available now"))
	if now := pid("/jobs:web"); now != since {
		t.Errorf("/jobs:web was started again: %s, %s", since, now)
	}

	// A manifest that was missing.
	must(r.Start(ctx, "/late", "test"))
	must(r.Start(ctx, "/crowd", "test"))
	hears("/late", "run/app/echo", "")
	change("gone.cml", serves, "/")
	hears("/late", "run/app/echo", "/gone echo")
	hears("/crowd", "svc/work/default/work", "/gone work")

	// A reload of a part of the tree, whose routes lead into others.
	must(r.Start(ctx, "/client", "test"))
	must(r.Start(ctx, "/boxed", "test"))
	hears("/client", "svc/echo", "/server/a echo")
	hears("/boxed", "box/first", "/server/a echo")
	change("server.cml", server("b"), "/server")
	hears("/client", "svc/echo", "/server/b echo")
	hears("/boxed", "box/first", "/server/b echo")

	// What is forgotten, and read anew.
	since = pid("/client")
	must(r.Unresolve(ctx, "/server"))
	l.manifest("server.cml", server("a"))
	must(r.Resolve(ctx, "/server"))
	hears("/client", "svc/echo", "/server/a echo")
	hears("/boxed", "box/first", "/server/a echo")
	if now := pid("/client"); now != since {
		t.Errorf("/client was started again: %s, %s", since, now)
	}

	// One more in a dictionary.
	root, err := os.ReadFile(filepath.Join(l.dir, "root.cml"))
	must(err)
	change("root.cml", strings.Replace(string(root), `as: "first", to: "self/box" },`,
		`as: "first", to: "self/box" }, { protocol: "echo", from: "#gone", as: "second", to: "self/box" },`, 1), "/")
	hears("/boxed", "box/second", "/gone echo")
}

// What a component provides by path from a reload on has its directory, too, and what its program has put there leads nowhere else.
func TestProvidesMoreAfterReload(t *testing.T) {
	l := newLive(t)
	const root = `{
		children: [ { name: "files", url: "files.cml" } ],
		expose: [ { directory: "one", from: "#files" } %s ],
	}`
	const files = `{
		program: { runner: "elf", binary: "bin/x" },
		capabilities: [ { directory: "one", rights: [ "rw*" ], path: "/one" } %s ],
		expose: [ { directory: "one", from: "self" } %s ],
	}`
	l.manifest("root.cml", fmt.Sprintf(root, ""))
	l.manifest("files.cml", fmt.Sprintf(files, "", ""))
	l.put("cmgr.json5", "{}")
	l.run(Config{})
	ctx, r := t.Context(), l.m.Realm()
	open := func(directory string) error {
		f, err := r.OpenExposed(ctx, "/", directory)
		if err == nil {
			f.Close()
		}
		return err
	}
	if err := open("one"); err != nil {
		t.Fatal(err)
	}
	base, err := l.view(ctx, "/files")
	if err != nil {
		t.Fatal(err)
	}
	host := t.TempDir()
	if err := os.Symlink(host, filepath.Join(base, "out/three")); err != nil {
		t.Fatal(err)
	}
	more := func(directory string) {
		t.Helper()
		l.manifest("root.cml", fmt.Sprintf(root, `, { directory: "`+directory+`", from: "#files" }`))
		l.manifest("files.cml", fmt.Sprintf(files, `, { directory: "`+directory+`", rights: [ "rw*" ], path: "/`+directory+`/deep" }`,
			`, { directory: "`+directory+`", from: "self" }`))
		_, err := r.Reload(ctx, name.Root, false)
		if err != nil && directory != "three" {
			t.Fatal(err)
		}
	}
	more("two")
	if err := open("two"); err != nil {
		t.Error(err)
	}
	more("three")
	if err := open("three"); err == nil {
		t.Error("a directory is made through a symbolic link")
	}
	if entries, err := os.ReadDir(host); err != nil || len(entries) > 0 {
		t.Errorf("made on the host: %v, %v", entries, err)
	}
}
