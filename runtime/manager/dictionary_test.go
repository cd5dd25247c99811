package manager

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
)

// What a program has in its dictionary, others find as a directory, and as protocols by name; it comes and goes as the program says.
func TestDictionaryOfAProgram(t *testing.T) {
	l := newLive(t)
	l.manifest("root.cml", `{
		children: [ { name: "box", url: "box.cml" }, { name: "a", url: "a.cml" }, { name: "dead", url: "dead.cml" }, { name: "b", url: "b.cml" } ],
		offer: [
			{ dictionary: "live", from: "#box", to: "#a" },
			{ protocol: "item", from: "#box/live", to: "#b", as: "one" },
			{ dictionary: "live", from: "#dead", to: "#b" },
		],
		expose: [ { protocol: "item", from: "#box/live" } ],
	}`)
	l.manifest("box.cml", `{
		program: { runner: "elf", binary: "bin/box" },
		capabilities: [ { dictionary: "live", path: "/svc/live" } ],
		expose: [ { dictionary: "live", from: "self" } ],
	}`)
	l.manifest("a.cml", `{
		program: { runner: "elf", binary: "bin/a" },
		use: [ { dictionary: "live", path: "/live" }, { protocol: [ "item", "nope" ], from: "parent/live" } ],
	}`)
	l.manifest("b.cml", `{
		program: { runner: "elf", binary: "bin/a" },
		use: [ { protocol: "one" }, { dictionary: "live", path: "/live" } ],
	}`)
	l.put("bin/true", "#!/bin/sh\n")
	l.manifest("dead.cml", `{
		program: { runner: "elf", binary: "bin/true" },
		capabilities: [ { dictionary: "live", path: "/svc/live" } ],
		expose: [ { dictionary: "live", from: "self" } ],
	}`)
	l.put("cmgr.json5", "{}")
	l.run(Config{})
	ctx, r := t.Context(), l.m.Realm()
	base := map[name.Moniker]string{}
	for _, m := range []name.Moniker{"/a", "/b"} {
		err := r.Start(ctx, m, "test")
		if err == nil {
			base[m], err = l.view(ctx, m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	hears := func(m name.Moniker, path string) string {
		t.Helper()
		c, err := dialLong(filepath.Join(base[m], path), syscall.SOCK_STREAM)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		text, err := io.ReadAll(c)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(text))
	}
	listed := func(m name.Moniker) (names []string) {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(base[m], "live"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(bound); !is(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	if got := listed("/a"); !slices.Equal(got, []string{"grow", "item"}) {
		t.Errorf("in the dictionary: %q", got)
	}
	for m, path := range map[name.Moniker]string{"/a": "live/item", "/b": "svc/one"} {
		if got := hears(m, path); got != "/box item" {
			t.Errorf("%s hears %q", m, got)
		}
	}
	if got := hears("/a", "svc/item"); got != "/box item" {
		t.Errorf("by name: %q", got)
	}
	if f, err := r.ConnectExposed(ctx, "/", "item", ""); err != nil {
		t.Error(err)
	} else {
		text, err := io.ReadAll(f)
		f.Close()
		if string(text) != "/box item\n" {
			t.Errorf("exposed: %q, %v", text, err)
		}
	}

	// What the program does not have: who connects is disconnected, and told why.
	if got := hears("/a", "svc/nope"); got != "" {
		t.Errorf("what is not there says %q", got)
	}
	until("the reason", func() bool { return l.logged("/a", "open nope: file does not exist") == nil })

	if got := hears("/a", "live/grow"); got != "/box grow" {
		t.Errorf("hears %q", got)
	}
	until("one more", func() bool { return slices.Equal(listed("/a"), []string{"grow", "item", "more"}) })
	if got := hears("/a", "live/more"); got != "/box more" {
		t.Errorf("hears %q", got)
	}

	// One that has ended is started by who connects, and has what it had at first.
	if err := r.Stop(ctx, "/box"); err != nil {
		t.Fatal(err)
	}
	if got := hears("/a", "live/item"); got != "/box item" {
		t.Errorf("after a restart: %q", got)
	}
	until("what the next run has", func() bool { return slices.Equal(listed("/a"), []string{"grow", "item"}) })

	// One that does not speak.
	if got := listed("/b"); len(got) > 0 {
		t.Errorf("in the dictionary of nobody: %q", got)
	}
	if err := l.logged("/b", "dictionary live is not available"); err != nil {
		t.Error(err)
	}

	got, err := l.client.Route(ctx, &controlpb.RouteRequest{Query: "/b", Filters: []string{"use:one"}})
	if err != nil || len(got.GetRoutes()) != 1 || got.GetRoutes()[0].GetSourceMoniker() != "/box" || got.GetRoutes()[0].GetKind() != manifest.KindProtocol.String() {
		t.Errorf("%v, %v", got, err)
	}
}
