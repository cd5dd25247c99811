package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What is found, what isn't, and what completes, when somebody looks at a tree.
func TestLook(t *testing.T) {
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "echo", url: "echo.cml" }, { name: "user", url: "user.cml", startup: "eager" },
				{ name: "sets", url: "sets.cml" } ],
			offer: [ { protocol: "echo", from: "#echo", to: "#user" },
				{ service: "store", from: "#sets", to: "#user" } ],
		}`,
		"sets.cml": `{
			children: [ { name: "ann", url: "store.cml" }, { name: "ben", url: "store.cml" } ],
			capabilities: [ { dictionary: "kit" } ],
			offer: [ { service: "store", from: "#ann", to: "self/kit" }, { protocol: "tell", from: "#ben", to: "self/kit" } ],
			expose: [ { service: "store", from: [ "#ann", "#ben" ] }, { dictionary: "kit", from: "self" } ],
		}`,
		"store.cml": `{
			program: { runner: "elf", binary: "/bin/cat" }, capabilities: [ { service: "store" }, { protocol: "tell" } ],
			expose: [ { service: "store", from: "self" }, { protocol: "tell", from: "self" } ],
		}`,
		"echo.cml": `{
			program: { runner: "elf", binary: "/bin/cat" }, capabilities: [ { protocol: "echo" } ], expose: [ { protocol: "echo", from: "self" } ],
		}`,
		"user.cml": `{ program: { runner: "elf", binary: "/bin/true" }, use: [ { protocol: "echo" }, { service: "store" } ] }`,
	})
	r := run(t, dir, "--stay")
	r.until("the user's end", func() bool { return strings.Contains(r.out()+r.err(), "/user exited code=0") })
	for _, c := range []struct {
		args string
		code int
		want string // a part of the output, which is otherwise the error's text
	}{
		{"route user use:echo --why", 0, "expose echo by /echo (" + dir + "/echo.cml:2:"},
		{"route user nix", 1, "route /user: it uses and exposes nothing like nix\ncmgr: hint: it has use:echo, use:elf, use:store\n"},
		{"route user nix --json", 1, `"kind":"not_found"`},
		{"route /", 0, "Moniker: /\nIt uses and exposes nothing.\n"},
		{"route user store", 0, "Instances:  ann  store of /sets/ann\n          and:  ben  store of /sets/ben\n"},
		{"route sets", 0, "Contents:  store, tell\n"},
		{"route user store --json", 0, `"service_instances":[{"name":"ann","source_moniker":"/sets/ann","source_name":"store","error":""},`},
		{"route sets kit --json", 0, `"dictionary_entries":["store","tell"]`},
		{"__complete route user e", 0, ":4\n"},
		{"__complete route user use:", 0, "use:elf\nuse:echo\nuse:store\n:4\n"},
		{"__complete connect user ", 0, "echo\n:4\n"},
		{"__complete cp /us", 0, "/user:/\tResolved\n:2\n"},
		{"__complete storage copy /us", 0, "/user::\tResolved\n:2\n"},
		{"__complete cp ./", 0, ":0\n"},
		{"__complete explore /us", 0, "/user\tResolved\n:4\n"},
	} {
		// The socket is a flag before the subcommand, as nothing may follow what is to be completed.
		cmd := exec.Command(binary, strings.Split(c.args, " ")...)
		if words := strings.Split(c.args, " "); words[0] == "__complete" {
			cmd.Args = append([]string{binary, "__complete", "--socket", r.sock}, words[1:]...)
		} else {
			cmd.Args = append(cmd.Args, "--socket", r.sock)
		}
		cmd.Env = r.env
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %d, %s", c.args, code, out)
		}
	}

	// What could not be written was not said.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range []string{"list", "route user", "capability echo", "events", "show user", "list --json"} {
		cmd := exec.Command(binary, append(strings.Fields(args), "--socket", r.sock)...)
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = full, &said
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 111 || !strings.Contains(said.String(), "no space left on device") {
			t.Errorf("%s on a full disk: %d, %s", args, code, said.String())
		}
	}
	r.stop()
}
