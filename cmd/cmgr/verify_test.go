package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var verifyFiles = map[string]string{
	"good/root.cml": `{
    children: [ { name: "log", url: "log.cml" }, { name: "web", url: "web.cml" } ],
    offer: [
        { runner: "elf", from: "parent", to: [ "#log", "#web" ] },
        { protocol: "log", from: "#log", as: "syslog", to: "#web" },
    ],
}
`,
	"good/log.cml": `{
    program: { binary: "bin/log" },
    use: [ { runner: "elf" } ],
    capabilities: [ { protocol: "log" } ],
    expose: [ { protocol: "log", from: "self" } ],
}
`,
	"good/web.cml": `{
    program: { binary: "bin/web" },
    use: [ { runner: "elf" }, { protocol: "syslog" } ],
}
`,
	"bad/root.cml": `{
    children: [
        { name: "log", url: "log.cml" },
        { name: "web", url: "web.cml" },
        { name: "web2", url: "web.cml" },
        { name: "web3", url: "web.cml" },
        { name: "gone", url: "lgo.cml" },
        { name: "broken", url: "broken.cml" },
        { name: "broken2", url: "broken.cml" },
    ],
    offer: [
        { runner: "elf", from: "parent", to: [ "#log", "#web", "#web2", "#web3" ] },
        { protocol: "log", from: "#log", as: "syslog", to: [ "#web", "#web2", "#web3" ] },
        { protocol: "metrics", from: "#log", to: "#web", availability: "optional" },
    ],
}
`,
	"bad/log.cml": `{
    program: { binary: "bin/log" },
    use: [ { runner: "elf" } ],
    capabilities: [ { protocol: "log" } ],
    expose: [ { protocol: "log", from: "self" } ],
}
`,
	"bad/web.cml": `{
    program: { binary: "bin/web" },
    use: [
        { runner: "elf" },
        { protocol: "syslog" },
        { protocol: "metrics", availability: "optional" },
        { protocol: "auth" },
    ],
}
`,
	"bad/broken.cml": `{
    use: [ { protocol: "log", form: "parent" } ],
}
`,
	"all.json5": `[
    { target: "/", protocol: "metrics", reason: "next release" },
    { target: "/*", protocol: "metrics", reason: "next release" },
    { target: "/*", protocol: "auth", reason: "next release" },
    { target: "/*", resolver: "file", reason: "built elsewhere" },
]
`,
	"stale.json5": `[
    { target: "/web2", protocol: "auth", reason: "next release" },
    { target: "/log", protocol: "auth", reason: "a mistake" },
]
`,
	"wrong.json5": "[ { target: '/web', protocl: 'auth', reason: 'r' } ]\n",
	"policy/root.cml": `{
    program: { runner: "elf", binary: "bin/p", main_process_critical: "true" },
    capabilities: [ { protocol: [ "log", "trace" ] } ],
    children: [
        { name: "a", url: "a.cml", environment: "#traced" },
        { name: "b", url: "a.cml", environment: "#traced" },
        { name: "c", url: "a.cml", environment: "#other", on_terminate: "reboot" },
    ],
    environments: [
        { name: "traced", extends: "realm", debug: [ { protocol: "trace", from: "self" } ] },
        { name: "other", extends: "realm", debug: [ { protocol: "trace", from: "self" } ] },
    ],
    offer: [
        { protocol: "log", from: "self", to: [ "#a", "#b", "#c" ] },
        { protocol: "cmgr.component.RealmQuery", from: "framework", to: [ "#a", "#b", "#c" ] },
        { directory: "certs", from: "parent", to: [ "#a", "#b", "#c" ] },
        { protocol: "dbus", from: "parent", to: [ "#a", "#b", "#c" ] },
    ],
}
`,
	"policy/a.cml": `{
    program: { runner: "elf", binary: "bin/a" },
    use: [
        { protocol: [ "log", "cmgr.component.RealmQuery", "dbus" ] },
        { protocol: "trace", from: "debug" },
        { directory: "certs", rights: [ "rw*" ], path: "/certs" },
    ],
}
`,
	"host.json5": `{ namespace_capabilities: [
    { directory: "certs", path: "/etc/ssl", rights: [ "r*" ] },
    { protocol: "dbus", path: "/run/dbus/system_bus_socket" },
] }
`,
	"policy.json5": `{ security_policy: {
    capability_policy: [
        { source_moniker: "/", source: "component", source_name: "log", capability: "protocol", target_monikers: [ "/a", "/b" ] },
        { source_moniker: "<component_manager>", source: "component", source_name: "dbus", capability: "protocol", target_monikers: [ "/b" ] },
        { source_moniker: "/", source: "framework", source_name: "cmgr.component.RealmQuery", capability: "protocol", target_monikers: [ "/b" ] },
    ],
    debug_registration_policy: [ { debug: "protocol", name: "trace", target_moniker: "/", environment_name: "traced" } ],
} }
`,
	"more.json5": `{ security_policy: {
    capability_policy: [
        { source_moniker: "/", source: "component", source_name: "log", capability: "protocol", target_monikers: [ "/*" ] },
        { source_moniker: "<component_manager>", source: "component", source_name: "dbus", capability: "protocol", target_monikers: [ "/*" ] },
        { source_moniker: "/", source: "framework", source_name: "cmgr.component.RealmQuery", capability: "protocol", target_monikers: [ "/**" ] },
    ],
    debug_registration_policy: [ { debug: "protocol", name: "trace", target_moniker: "/", environment_name: "other" } ],
    child_policy: { reboot_on_terminate: [ "/c" ] },
    job_policy: { main_process_critical: [ "/" ] },
} }
`,
	"slips.cml":         "{ childern: [], use: [ { protocl: 'x' } ], ofer: [] }\n",
	"restrict/root.cml": "{ collections: [ { name: 'c', durability: 'transient', allow_long_names: true } ] }\n",
}

// Every line is a call of `cmgr verify`; testdata/verify.txt has what it wrote and returned.
const verifyCommands = `
good/root.cml
good/root.cml --json
good/root.cml --sarif
good/root.cml --limit 2
good/root.cml --limit 0
good
slips.cml
bad/root.cml
bad/root.cml --json
bad/root.cml --sarif
bad/root.cml --allow all.json5
bad/root.cml --allow all.json5 --stamp DIR/a.stamp --depfile DIR/a.d
cat a.d
bad/root.cml --stamp DIR/b.stamp --depfile DIR/b.d --limit 9
cat b.d
bad/root.cml --allow stale.json5
bad/root.cml --allow wrong.json5
bad/root.cml --allow none.json5
bad/broken.cml
bad/broken.cml --json
bad/broken.cml --sarif
none.cml
good/root.cml --who-can-reach protocol:log@/log
good/root.cml --who-can-reach elf --json
good/root.cml --who-can-reach lgo
good/root.cml --sandbox
policy/root.cml --config host.json5 --config policy.json5 --sandbox --json
good/root.cml --who-can-reach protcol:log
bad/root.cml --who-can-reach runner:log
good/root.cml --diff good/root.cml
good/root.cml --diff bad/root.cml
good/root.cml --diff bad/root.cml --json
good/root.cml --diff none.cml
good/root.cml --shutdown-order
good/root.cml --shutdown-order --json
good/root.cml --shutdown-order --allow all.json5
good/root.cml --sarif --json
restrict/root.cml
restrict/root.cml --features allow_long_names
restrict/root.cml --features delivery_type
good/root.cml bad/root.cml
policy/root.cml
policy/root.cml --config host.json5
policy/root.cml --config host.json5 --config policy.json5
policy/root.cml --config host.json5 --config policy.json5 --config more.json5
policy/root.cml --config host.json5 --config policy.json5 --who-can-reach trace
policy/root.cml --config none.json5
--loader inet --hosts 127.0.0.1 --id n /srv/root.cml --depfile DIR/c.d
`

func TestVerifyGolden(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range verifyFiles {
		file = filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var got strings.Builder
	for line := range strings.Lines(strings.TrimSpace(verifyCommands)) {
		line = strings.TrimSpace(line)
		if file, ok := strings.CutPrefix(line, "cat "); ok {
			b, err := os.ReadFile(file)
			fmt.Fprintf(&got, "$ cat %s\n%s%v\n\n", file, b, err)
			continue
		}
		args := strings.Fields(strings.ReplaceAll(line, "DIR", dir))
		code, stdout, stderr := run(append([]string{"verify"}, args...)...)
		fmt.Fprintf(&got, "$ cmgr verify %s\n%s", line, stdout)
		for l := range strings.Lines(stderr) {
			got.WriteString("2> " + l)
		}
		fmt.Fprintf(&got, "= %d\n\n", code)
	}
	text := strings.ReplaceAll(got.String(), dir, "DIR")
	text = strings.ReplaceAll(text, `"version": "`+versionString()+`"`, `"version": "VERSION"`)
	const file = "testdata/verify.txt"
	golden := filepath.Join(here, file)
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), text); d != "" {
		t.Errorf("-want +got (run with -update, and read what changed):\n%s", d)
	}
}

// here is this package's directory, wherever a test goes.
var here, _ = os.Getwd()

// Progress is shown after half a second, at most ten times a second, and leaves nothing behind.
func TestProgress(t *testing.T) {
	clock := now
	var b strings.Builder
	tell, done := progress(&b, func() time.Time { return clock })
	tell(1, 0)
	clock = clock.Add(400 * time.Millisecond)
	tell(2, 0)
	done()
	if b.Len() > 0 {
		t.Errorf("soon: %q", b.String())
	}
	clock = clock.Add(100 * time.Millisecond)
	tell(1234, 0)
	tell(1235, 0)
	clock = clock.Add(100 * time.Millisecond)
	tell(5, 10000)
	done()
	if want := "\r\x1b[K1,234 components read\r\x1b[K5 of 10,000 components verified\r\x1b[K"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}
