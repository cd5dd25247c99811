package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestErlangNode runs a real Erlang node as one component of a tree, and the boot server that it boots from as another: the node has no
// file of Erlang's library but through the server, and runs a module that is nowhere else. The server has the directory that the root
// routes to it, its package, and the node a route to the server's socket: it is stopped first, for which it loads code. Once
// more with the node, and all else, confined: it has the network only.
func TestErlangNode(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	for _, tool := range []string{"erlc", "unshare", "ip", "sh"} {
		needs.Tool(t, tool)
	}
	programs := erlang(t)
	nowhere := fmt.Sprintf("/mnt/cmgr-test-%d", os.Getpid()) // Erlang's root, which only the server has
	dir := t.TempDir()
	const tree = `set -e
otp=$(erl -noshell -eval 'io:format("~s",[code:root_dir()]),halt().')
mkdir -p "$T/bin" "$T/lib/only-1/ebin"
for a in kernel stdlib; do
	d=$(ls -d "$otp"/lib/$a-* | head -1)
	mkdir -p "$T/lib/${d##*/}"
	cp -r "$d/ebin" "$T/lib/${d##*/}/"
done
cat >only.erl <<X
-module(only).
-export([main/0]).
main() ->
	{error,enoent} = prim_file:read_file_info(code:root_dir()),
	{Script,_} = init:script_id(),
	io:format("~s at the server only: ~s~n", [Script, code:which(?MODULE)]).
X
erlc -o "$T/lib/only-1/ebin" only.erl
rm only.erl
cat >"$T/lib/only-1/ebin/only.app" <<X
{application,only,[{description,""},{vsn,"1"},{modules,[only]},{registered,[]},{applications,[kernel,stdlib]}]}.
X
cd "$T/bin"
erl -noshell -eval '
	[K,S] = [begin application:load(A), {ok,V} = application:get_key(A,vsn), {A,V} end || A <- [kernel,stdlib]],
	ok = file:write_file("node.rel", io_lib:format("~p.~n", [{release,{"node","1"},{erts,erlang:system_info(version)},[K,S,{only,"1"}]}])),
	ok = systools:make_script("node",[no_warn_sasl,no_dot_erlang,{path,["../lib/only-1/ebin"]}]),
	halt().'
`
	build := exec.Command("sh", "-c", tree)
	build.Dir = dir
	build.Env = append(os.Environ(), "T="+filepath.Join(dir, "served", nowhere))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, text := range map[string]string{
		"root.cml": `{
			children: [ { name: "boot", url: "boot.cml", startup: "eager" }, { name: "node", url: "node.cml", startup: "eager" } ],
			offer: [
				{ directory: "pkg", from: "framework", as: "served", to: "#boot", rights: ["r*"], subdir: "served" },
				{ protocol: "bootserver", from: "#boot", to: "#node" },
			],
		}`,
		"boot.cml": `{
			program: { runner: "builtin", function: "bootserver", args: ["--addr", "127.0.0.1", "--allow", "127.0.0.1"] },
			use: [ { directory: "served", path: "/root", rights: ["r*"] } ],
			capabilities: [ { protocol: "bootserver" } ],
			expose: [ { protocol: "bootserver", from: "self" } ],
		}`,
		"node.cml": fmt.Sprintf(`{
			program: {
				runner: "elf", binary: "%[1]s/erlexec",
				args: ["-noshell", "-noinput", "+S", "1:1", "-loader", "inet", "-hosts", "127.0.0.1", "-id", "node1", "-setcookie", "chocolate",
					"-boot", "%[2]s/bin/node", "-s", "only", "main"],
				environ: ["ROOTDIR=%[2]s", "BINDIR=%[1]s", "EMU=beam", "PROGNAME=erl", "HOME=/", "ERL_CRASH_DUMP_SECONDS=0", "PATH=/usr/bin:/bin"],
			},
			use: [ { protocol: "bootserver" } ],
		}`, programs, nowhere),
		"open.json5":     `{ security_policy: { sandbox: { unconfined: ["/**"] } } }`,
		"confined.json5": `{ security_policy: { sandbox: { network: ["/node"] } } }`,
	} {
		put(t, filepath.Join(dir, name), text)
	}
	for _, config := range []string{"open.json5", "confined.json5"} {
		t.Run(config, func(t *testing.T) {
			// A node asks at a fixed port: both have a network namespace of their own.
			r := prepare(t, dir)
			r.begin(exec.Command("unshare", "-n", "sh", "-c", `ip link set lo up; exec "$@"`, "sh", binary, "run", filepath.Join(dir, "root.cml"),
				"--config", filepath.Join(dir, config), "--socket", r.sock, "--state", r.state), nil)
			want := fmt.Sprintf("/node | node at the server only: %s/lib/only-1/ebin/only.beam", nowhere)
			r.until("the node", func() bool { return strings.Contains(r.out(), want) })
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d\n%s%s", code, r.out(), r.err())
			}
		})
	}
}
