package manager

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/verify"
)

// What the policy forbids is forbidden in the tree that runs and in the one that is looked at before, in the same words.
func TestPolicy(t *testing.T) {
	l := newLive(t)
	l.manifest("root.cml", `{
		program: { runner: "elf", binary: "bin/root" },
		capabilities: [ { protocol: [ "log", "trace" ] }, { service: "work" }, { dictionary: "box" }, { dictionary: "outer" } ],
		children: [ { name: "a", url: "a.cml", environment: "#traced" }, { name: "b", url: "a.cml", environment: "#other" } ],
		environments: [
			{ name: "traced", extends: "realm", debug: [ { protocol: "trace", from: "self" } ] },
			{ name: "other", extends: "realm", debug: [ { protocol: "trace", from: "self" } ] },
		],
		offer: [
			{ protocol: "log", from: "self", to: [ "#a", "#b" ] },
			{ protocol: "cmgr.component.RealmQuery", from: "framework", to: [ "#a", "#b" ] },
			{ protocol: "bus", from: "parent", to: [ "#a", "#b" ] },
			{ directory: "etc", from: "parent", to: [ "#a", "#b" ] },
			{ protocol: "log", from: "self", to: "self/box" },
			{ service: "work", from: "self", to: "self/box" },
			{ dictionary: "box", from: "self", to: "self/outer" },
			{ dictionary: "outer", from: "self", to: [ "#a", "#b" ] },
		],
	}`)
	l.manifest("a.cml", `{
		program: { runner: "elf", binary: "bin/a" },
		use: [
			{ protocol: [ "log", "cmgr.component.RealmQuery", "bus" ] },
			{ protocol: "trace", from: "debug" },
			{ directory: "etc", rights: [ "rw*" ], path: "/data" },
			{ dictionary: "outer", path: "/all" },
		],
	}`)
	l.put("host/x", "")
	l.put("cmgr.json5", fmt.Sprintf(`{
		security_policy: {
			capability_policy: [
				{ source_moniker: "/", source: "component", source_name: "log", capability: "protocol", target_monikers: [ "/a" ] },
				{ source_moniker: "<component_manager>", source: "component", source_name: "bus", capability: "protocol", target_monikers: [ "/a" ] },
				{ source_moniker: "/", source: "framework", source_name: "cmgr.component.RealmQuery", capability: "protocol",
					target_monikers: [ "/a" ] },
				{ source_moniker: "/", source: "component", source_name: "work", capability: "service", target_monikers: [ "/a" ] },
			],
			debug_registration_policy: [ { debug: "protocol", name: "trace", target_moniker: "/", environment_name: "traced" } ],
		},
		namespace_capabilities: [ { directory: "etc", path: %q, rights: [ "r*" ] }, { protocol: "bus", path: %q } ],
	}`, filepath.Join(l.dir, "host"), l.listen("bus")))
	l.run(Config{})
	config := filepath.Join(l.dir, "cmgr.json5")
	want := map[string]string{
		"/a etc":                       "requested rights (rw*) greater than provided rights (r*) at \"<component manager>\"",
		"/b etc":                       "requested rights (rw*) greater than provided rights (r*) at \"<component manager>\"",
		"/b log":                       "security policy disallows `log` from `/` being used at `/b`; add \"/b\" to target_monikers at " + config + ":4:5",
		"/b bus":                       "security policy disallows `bus` from `<component manager>` being used at `/b`; add \"/b\" to target_monikers at " + config + ":5:5",
		"/b cmgr.component.RealmQuery": "security policy disallows `cmgr.component.RealmQuery` from `<framework of />` being used at `/b`; add \"/b\" to target_monikers at " + config + ":6:5",
		"/b trace": "debug security policy disallows `trace` from being registered in environment `other` at `/`; add it to " +
			"security_policy.debug_registration_policy of the manager's --config: { debug: \"protocol\", name: \"trace\", target_moniker: \"/\", " +
			"environment_name: \"other\" }",
	}
	for _, c := range []string{"etc"} { // whose hint is not of a rule
		for _, m := range []string{"/a ", "/b "} {
			want[m+c] += "; ask for fewer rights, or give them in namespace_capabilities of the manager's --config"
		}
	}
	compare := func(how string, got map[string]string) {
		t.Helper()
		for _, m := range []string{"/a", "/b"} {
			for _, c := range []string{"log", "bus", "cmgr.component.RealmQuery", "trace", "etc"} {
				if key := m + " " + c; got[key] != want[key] {
					t.Errorf("%s, %s: %q, want %q", how, key, got[key], want[key])
				}
			}
		}
	}

	live := map[string]string{}
	for _, m := range []string{"/a", "/b"} {
		r, err := l.client.Route(t.Context(), &controlpb.RouteRequest{Query: m})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range r.GetRoutes() {
			if r.GetErrorSummary() != "" {
				live[m+" "+r.GetCapability()] = r.GetErrorSummary() + "; " + r.GetHint()
			}
		}
	}
	compare("live", live)

	settings, err := ReadSettings(config)
	if err != nil {
		t.Fatal(err)
	}
	cfg := verify.Config{Root: "file://" + filepath.Join(l.dir, "root.cml"), Policy: settings}
	cfg.Builtins, cfg.Resolvers = Above(cml.Options{}, settings, nil)
	tree, err := verify.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	offline := map[string]string{}
	_, err = tree.Check(t.Context(), nil, true, func(r verify.Result) {
		if r.Decl == "use" && r.Err != nil {
			offline[string(r.Target)+" "+r.Name] = r.Err.Reason + "; " + r.Err.Hint
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	compare("offline", offline)

	for _, w := range []string{"protocol:log", "service:work"} {
		wanted, err := verify.ParseWanted(w)
		if err != nil {
			t.Fatal(err)
		}
		reached, _, err := tree.WhoCanReach(t.Context(), wanted)
		if err != nil || len(reached) == 0 {
			t.Errorf("%s: %v, %v", w, reached, err)
		}
		for _, r := range reached {
			if r.By.Target != "/a" {
				t.Errorf("%s reaches %s by %s", w, r.By.Target, r.By.Name)
			}
		}
	}

	// And what is forbidden is refused.
	for _, m := range []name.Moniker{"/a", "/b"} {
		n, _ := l.m.Realm().Node(m)
		if err := l.start(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		base, err := l.view(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{"log", "bus", "cmgr.component.RealmQuery", "trace"} {
			kind := syscall.SOCK_STREAM
			if p == "cmgr.component.RealmQuery" && m == "/a" {
				kind = syscall.SOCK_SEQPACKET
			}
			c, err := dialLong(filepath.Join(base, "svc", p), kind)
			if err == nil {
				c.Close()
			}
			if m == "/a" && err != nil || m == "/b" && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s connects to %s: %v", m, p, err)
			}
		}
		// A dictionary gives nobody what the policy forbids.
		for path, forbidden := range map[string]error{"log": syscall.ECONNREFUSED, "work/default/work": syscall.ENOENT} {
			c, err := dialLong(filepath.Join(base, "all/box", path), syscall.SOCK_STREAM)
			if err == nil {
				c.Close()
			}
			if m == "/a" && err != nil || m == "/b" && !errors.Is(err, forbidden) {
				t.Errorf("%s connects to %s of the dictionary: %v", m, path, err)
			}
		}
		if err := absentAt(filepath.Join(base, "data")); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
	if err := l.logged("/b", "debug security policy disallows `trace`"); err != nil {
		t.Error(err)
	}
}
