package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/runtime/boot/term"
)

// TestLoaders runs the conformance suites of loaders: real Erlang nodes boot from our server, we fetch from a real erl_boot_server and from
// misbehaving ones, and from port programs. Each has a network namespace of its own: the boot servers' port is fixed.
func TestLoaders(t *testing.T) {
	suites := filepath.Join(needs.Shared(t), "conformance/erlang")
	for _, tool := range []string{"bash", "python3", "erl", "erlc", "unshare", "gcc"} {
		needs.Tool(t, tool)
	}
	if os.Geteuid() != 0 {
		needs.Userns(t)
	}
	bin := filepath.Join(t.TempDir(), "cmgr")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for suite, env := range map[string]string{
		"boot_from_server.sh": "BOOTSERVER=" + bin + " bootserver",
		"fetch_from_erl.sh":   "FETCH=" + bin + " fetch --loader inet",
		"port_loader/run.sh":  "PORTFETCH=" + bin + " fetch",
	} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "bash", filepath.Join(suites, suite))
			// SECS bounds a request: its 4 seconds are too few for what Python does on a machine that is busy.
			cmd.Env = append(os.Environ(), env, "SECS=10", "PYTHONDONTWRITEBYTECODE=1", "WORK="+t.TempDir(), "BOOTROOT="+filepath.Join("/mnt", "cmgr-boot-test"))
			out, err := cmd.CombinedOutput()
			if passed := regexp.MustCompile(`(?m)^[1-9][0-9]* passed, 0 failed$`); err != nil || !passed.Match(out) {
				t.Errorf("%s: %v\n%s", suite, err, regexp.MustCompile(`(?m)^ok .*\n`).ReplaceAll(out, nil))
			}
		})
	}
}

// TestThousandFiles fetches a thousand files from real erl_boot_servers, of which the first is killed midway: each file is whole, and comes
// from the second then.
func TestThousandFiles(t *testing.T) {
	server := filepath.Join(needs.Shared(t), "conformance/erlang/oracle/erl_boot_server.sh")
	for _, tool := range []string{"bash", "erl", "unshare", "ip", "tc"} {
		needs.Tool(t, tool)
	}
	needs.Root(t)
	dir := t.TempDir()
	bin := filepath.Join(dir, "cmgr")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	// The servers' port is fixed: they and the loader are in a network namespace of their own. The list is read as it grows.
	const script = `set -e
ip link set lo up
mkdir files out
for i in $(seq 1000); do head -c $((i * 37)) /dev/urandom >files/$i; done
v=$(erl -noshell -eval 'io:format("~s",[erlang:system_info(version)]),halt().')
setsid "$SERVER" --addr 127.0.0.1 --allow 127.0.0.1 --root / >one.log 2>&1 & one=$!
setsid "$SERVER" --addr 127.0.0.2 --allow 127.0.0.1 --root / >two.log 2>&1 & two=$!
trap 'kill -9 -- -$one -$two 2>/dev/null' EXIT
for host in 127.0.0.1 127.0.0.2; do
	./cmgr fetch --loader inet --hosts $host --erts-version $v --timeout 60 $PWD/files/1 >got 2>/dev/null || { cat *.log; exit 1; }
	cmp got files/1
done
# So slowly that the end of the first server comes before the end of the files.
tc qdisc add dev lo root tbf rate 40mbit burst 256kb latency 400ms
n=0
while read -r line; do
	n=$((n + 1))
	[ "$line" = "$n ok" ] || { echo "$line"; exit 1; }
	[ $n != 300 ] || { kill -9 -- -$one; tc qdisc del dev lo root; }
done < <(./cmgr fetch --loader inet --hosts 127.0.0.1,127.0.0.2 --erts-version $v --outdir out $(seq -f "$PWD/files/%g" 1000) 2>err)
[ $n = 1000 ] || { cat err; exit 1; }
grep -q 'boot server failed' err
(cd files && sha256sum *) >want
(cd out && sha256sum *) >have
cmp want have
echo same
`
	cmd := exec.CommandContext(t.Context(), "unshare", "-n", "bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SERVER="+server, "ERL_CRASH_DUMP_SECONDS=0")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "same\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestBootserverComponent serves files by a boot server that is a component of a tree.
func TestBootserverComponent(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "cmgr")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, text := range map[string]string{
		"root.cml": `{ children: [ { name: "boot", url: "boot.cml", startup: "eager" } ] }`,
		"boot.cml": `{ program: { runner: "builtin", function: "bootserver",
			args: ["--addr", "127.0.0.1:0", "--allow", "127.0.0.1", "--root", "` + dir + `"] },
			capabilities: [ { protocol: "bootserver" } ], expose: [ { protocol: "bootserver", from: "self" } ] }`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := exec.Command(bin, "run", "--socket", filepath.Join(dir, "s"), "--state", filepath.Join(dir, "state"), filepath.Join(dir, "root.cml"))
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = run.Process.Signal(syscall.SIGTERM)
		if err := run.Wait(); err != nil {
			t.Errorf("cmgr run: %v", err)
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	m := regexp.MustCompile(`on udp (\S+),`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("%q, %v", line, err)
	}
	got, err := exec.Command(bin, "fetch", "--loader", "inet", "--hosts", m[1], "/root.cml").Output()
	want, _ := os.ReadFile(filepath.Join(dir, "root.cml"))
	if err != nil || string(got) != string(want) {
		t.Errorf("fetched %q, %v", got, err)
	}
	// The same file over the socket of its protocol: {get,"/root.cml"}.
	ask := exec.Command(bin, "connect", "--socket", filepath.Join(dir, "s"), "/boot", "bootserver")
	ask.Stdin = strings.NewReader("\x00\x00\x00\x15\x83h\x02d\x00\x03getk\x00\x09/root.cml")
	if got, err := ask.Output(); err != nil || !bytes.HasSuffix(got, want) {
		t.Errorf("over the socket: %q, %v", got, err)
	}
}

// TestMeterOfTwo shows a boot file, and then its signature, which is smaller.
func TestMeterOfTwo(t *testing.T) {
	t.Setenv("TERM", "xterm")
	var out bytes.Buffer
	m := &meter{screen: screen{width: 80}, out: &out, now: func() time.Time { return now }, files: 1}
	m.progress("/site.boot", 5000, 5000)
	m.progress("/site.boot.sig", 44, 88)
	m.mu.Lock()
	m.draw()
	m.mu.Unlock()
	m.end()
	if got := out.String(); !strings.Contains(got, "site.boot.sig 44 B of 88 B [============            ] 50%") {
		t.Errorf("%q", got)
	}
}

// TestLargeBootFile: of a boot file only so much is read as one may have, before it is known whether it can be trusted.
func TestLargeBootFile(t *testing.T) {
	dir := t.TempDir()
	loader, trust := filepath.Join(dir, "loader.sh"), filepath.Join(dir, "trust")
	size := strconv.Itoa(term.MaxSize + 1)
	if err := errors.Join(
		os.WriteFile(loader, []byte("#!/bin/sh\nprintf y; head -c "+size+" /dev/zero\n"), 0o755),
		os.WriteFile(trust, []byte("sha256 "+strings.Repeat("0", 64)+"\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	// Not in this process: who starts programs by internal/sys/proc inherits what other programs leave, for good.
	cmd := itself(t, "boot", "/large", "--loader", loader, "--trust", trust)
	said, _ := cmd.CombinedOutput()
	want := "boot file /large.boot: at most 16777216 bytes are read"
	if code := cmd.ProcessState.ExitCode(); code != 111 || !strings.Contains(string(said), want) {
		t.Errorf("%d, %s", code, said)
	}
}
