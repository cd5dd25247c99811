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
	"wrong.json5":       "[ { target: '/web', protocl: 'auth', reason: 'r' } ]\n",
	"restrict/root.cml": "{ collections: [ { name: 'c', durability: 'transient', allow_long_names: true } ] }\n",
}

// Every line is a call of `cmgr verify`; testdata/verify.txt has what it wrote and returned.
const verifyCommands = `
good/root.cml
good/root.cml --json
good/root.cml --sarif
good/root.cml --limit 2
good/root.cml --limit 0
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
