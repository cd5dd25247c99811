package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// script writes DIR/NAME.script, and NAME.boot by systools.
func script(t *testing.T, dir, name, instructions string) {
	t.Helper()
	put(t, filepath.Join(dir, name+".script"), `{script,{"`+name+`","1"},[`+instructions+"]}.\n")
	tool(t, dir, 0, "systools", "script2boot", name+".script", name+".boot")
}

// tool runs a command that is no manager in dir, and returns all it prints.
func tool(t *testing.T, dir string, code int, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != code {
		t.Fatalf("cmgr %s: %v, want exit code %d\n%s", strings.Join(args, " "), err, code, out)
	}
	return string(out)
}

// boot runs `cmgr boot` in dir.
func boot(t *testing.T, dir string, args ...string) *tree {
	t.Helper()
	r := prepare(t, dir)
	cmd := exec.Command(binary, append([]string{"boot", "--socket", r.sock, "--state", r.state}, args...)...)
	cmd.Dir = dir
	r.begin(cmd, func(*exec.Cmd) {})
	return r
}

func sh(text string) string {
	return fmt.Sprintf("{ program: { runner: \"elf\", binary: \"/bin/sh\", args: [ \"-c\", %q ] } }", text)
}

// daemon says its name at the begin and when it is asked to end.
func daemon(name string) string {
	return sh("trap 'echo " + name + " ends; exit' TERM; echo " + name + " runs; while :; do sleep 0.1; done")
}

// TestBootRelease makes a release of components, boots it, and stops it in the reverse order.
func TestBootRelease(t *testing.T) {
	dir := write(t, map[string]string{
		"lib/base-1/components/logd.cml":    daemon("logd"),
		"lib/shop-2/components/db.cml":      daemon("db"),
		"lib/shop-2/components/migrate.cml": sh("echo migrated"),
		"lib/base-1/components/base.app": `{application,base,[{description,""},{vsn,"1"},{modules,[logd]},{registered,[]},{applications,[]},
			{env,[{cmgr,[{critical,[logd]}]}]}]}.`,
		"lib/shop-2/components/shop.app": `{application,shop,[{description,""},{vsn,"2"},{modules,[db,migrate]},{registered,[]},{applications,[base]},
			{env,[{cmgr,[{run,[migrate]}]}]}]}.`,
		"site.rel": `{release,{"site","7"},{erts,"0.0"},[{shop,"2"},{base,"1"}]}.`,
	})
	tool(t, dir, 0, "systools", "make-script", "--components", "--path", "lib/*/components", "site")
	r := boot(t, dir, "site", "-init_debug")
	r.until("{started,started}", func() bool {
		out, _, code := r.cmgr("status")
		return code == 0 && strings.HasPrefix(out, "{started,started}\n")
	})
	r.until("both programs, and what was done", func() bool {
		return strings.Contains(r.out(), "logd runs") && strings.Contains(r.out(), "db runs") &&
			strings.Contains(r.err(), "{progress,modules_loaded}") && strings.Contains(r.err(), "{start,logd}")
	})
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
	// What a program prints may be seen after others have begun; the changes of state stand in their order.
	inOrder := func(text string, words ...string) {
		at := 0
		for _, w := range words {
			i := strings.Index(text[at:], w)
			if i < 0 {
				t.Errorf("no %q where it should stand in\n%s", w, text)
				return
			}
			at += i
		}
	}
	inOrder(r.err(), "/logd started", "/migrate started", "/migrate exited", "/db started", "/db exited", "/logd exited")
	inOrder(r.out(), "db ends", "logd ends")
}

// TestBootFails: what is wrong is told with its instruction, before anything is started, and what fails ends the system.
func TestBootFails(t *testing.T) {
	dir := write(t, map[string]string{
		"c/db.cml":    daemon("db"),
		"c/bad.cml":   sh("exit 3"),
		"c/lost.cml":  `{ program: { runner: "elf", binary: "/bin/true" }, use: [ { protocol: "p" } ] }`,
		"c/ends.cml":  sh("sleep 0.3; echo over"),
		"c/hangs.cml": sh("while :; do sleep 1; done"),
	})
	const load = `{path,["$ROOT/c"]},{primLoad,[db,bad,ends,hangs]},{kernelProcess,db,{component,start,[db]}},`
	for _, c := range []struct{ name, script, want string }{
		{"late", load + `{apply,{component,start,[nobody]}}`, "instruction 4, {apply,{component,start,[nobody]}}: no primLoad before has the component nobody"},
		{"mfa", load + `{apply,{os,cmd,["rm"]}}`, "there is no os:cmd/1"},
		{"var", `{path,["$SITE/c"]},{primLoad,[db]}`, "cannot expand $SITE"},
		{"missing", `{path,["$ROOT/c"]},{primLoad,[gone]},{progress,started}`, "instruction 2, {primLoad,[gone]}: "},
		{"routes", `{path,["$ROOT/c"]},{primLoad,[lost]},{progress,started}`, "protocol"},
		{"newer", `{apply,{cmgr,require,["99.0"]}},{preLoaded,[java]},{progress,started}`, "java is not built into this cmgr"},
		{"run", load + `{apply,{component,run,[bad]}},{progress,started}`, "instruction 4, {apply,{component,run,[bad]}}: component bad: exited code=3"},
		{"end", load + `{kernelProcess,ends,{component,start,[ends]}},{progress,started}`, "/ends took the tree down: it is a kernel process"},
		{"hang", load + `{apply,{component,run,[hangs,[{timeout_ms,200}]]}}`, "instruction 4, {apply,{component,run,[hangs,[{timeout_ms,200}]]}}: component hangs: it hangs: not ended within 200ms"},
	} {
		script(t, dir, c.name, c.script)
		r := boot(t, dir, c.name)
		if code := r.wait(); code != 1 || !strings.Contains(r.err(), c.want) {
			t.Errorf("%s: exit code %d, want 1 and %q\n%s", c.name, code, c.want, r.err())
		}
		if started := strings.Contains(r.out(), "db runs") || strings.Contains(r.err(), "/db started"); started != strings.Contains("run end hang", c.name) {
			t.Errorf("%s: started: %t\n%s", c.name, started, r.err())
		}
	}
	script(t, dir, "may", load+`{apply,{component,run,[bad,[{may_fail,true}]]}},{apply,{cmgr,sleep,[1]}},{apply,{cmgr,log,["here"]}},{progress,{any,"term"}}`)
	r := boot(t, dir, "may")
	r.until("the last progress", func() bool {
		out, _, _ := r.cmgr("status")
		return strings.HasPrefix(out, "{started,{any,\"term\"}}\n")
	})
	r.stop()
}

// TestStatusWait: whoever waits is told when the script has been run to its end, or will not be.
func TestStatusWait(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "c/a.cml"), sh("while ! [ -e go ]; do sleep 0.05; done; read code <go; exit $code"))
	script(t, dir, "s", `{path,["$ROOT/c"]},{primLoad,[a]},{progress,loaded},{apply,{component,run,[a]}},{progress,started}`)
	for _, c := range []struct {
		exit string
		code int
	}{{"0", 0}, {"3", 1}} {
		os.Remove(filepath.Join(dir, "c/go"))
		r := boot(t, dir, "s", "--stay")
		r.until("a runs", func() bool {
			out, _, _ := r.cmgr("status")
			return strings.HasPrefix(out, "{starting,loaded}\ninstruction 4 of 5")
		})
		if out, err, code := r.cmgr("status", "--wait", "--timeout", "200ms"); code != 1 || !strings.HasPrefix(out, "{starting,loaded}\ninstruction 4 of 5") {
			t.Errorf("exit code %d\n%s%s", code, out, err)
		}
		told := make(chan string, 1)
		go func() {
			out, err, code := r.cmgr("status", "--wait")
			told <- fmt.Sprintf("%s%s%d", out, err, code)
		}()
		put(t, filepath.Join(dir, "c/going"), c.exit+"\n")
		if err := os.Rename(filepath.Join(dir, "c/going"), filepath.Join(dir, "c/go")); err != nil {
			t.Fatal(err)
		}
		// One that stops may be gone before it is asked again.
		if got := <-told; c.code == 0 && got != "{started,started}\n0" || c.code != 0 && (got == "" || strings.HasSuffix(got, "\n0")) {
			t.Errorf("%s: it said %s", c.exit, got)
		}
		if c.code == 0 {
			r.stop()
		} else if code := r.wait(); code != 1 {
			t.Errorf("exit code %d", code)
		}
	}
}

// TestBootInteractive: what is loaded after kernel_load_completed is looked for at its first use, and with -path elsewhere.
func TestBootInteractive(t *testing.T) {
	dir := write(t, map[string]string{"other/db.cml": daemon("db")})
	script(t, dir, "s", `{path,["$ROOT/c"]},{kernel_load_completed},{primLoad,[db,gone]},{progress,started}`)
	if r := boot(t, dir, "s"); r.wait() != 1 {
		t.Error("embedded: a missing component is no fault")
	}
	r := boot(t, dir, "s", "-mode", "interactive", "--stay", "-path", "none", "other")
	r.until("started", func() bool { out, _, _ := r.cmgr("status"); return out == "{started,started}\n" })
	r.must("start", "/db")
	if _, _, code := r.cmgr("start", "/gone"); code == 0 {
		t.Error("what is nowhere starts")
	}
	r.stop()
}

// TestBootCompiled: a compiled tree starts where its sources are gone, and is refused where they have changed.
func TestBootCompiled(t *testing.T) {
	dir := write(t, map[string]string{
		"root.cml":  `{ children: [ { name: "a", url: "sub/a.cml", startup: "eager" } ], offer: [ { runner: "elf", from: "parent", to: "#a" } ] }`,
		"sub/a.cml": sh("echo hello"),
	})
	tool(t, dir, 0, "compile", "--boot", "root.cml", "-o", "site")
	moved := filepath.Join(dir, "moved")
	if err := os.MkdirAll(filepath.Join(moved, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "site.boot"), filepath.Join(moved, "site.boot")); err != nil {
		t.Fatal(err)
	}
	if r := boot(t, moved, "site"); r.wait() != 0 || !strings.Contains(r.out(), "hello") {
		t.Errorf("moved: %s\n%s", r.out(), r.err())
	}
	put(t, filepath.Join(moved, "sub/a.cml"), sh("echo changed"))
	if r := boot(t, moved, "site"); r.wait() != 1 || !strings.Contains(r.err(), "sub/a.cml") {
		t.Errorf("changed: %s\n%s", r.out(), r.err())
	}
	if r := boot(t, moved, "site", "--stale"); r.wait() != 0 || !strings.Contains(r.out(), "hello") {
		t.Errorf("stale: %s\n%s", r.out(), r.err())
	}
	put(t, filepath.Join(dir, "sub/a.cml"), "{ use: [ { protocol: \"nowhere\" } ] }")
	tool(t, dir, 1, "compile", "--boot", "root.cml", "-o", "site")
}

// TestBootMoved: all that was compiled of a directory goes with it, also what an absolute URL names, and nothing is looked for where it was.
// A source that cannot be read is told of, one that is gone isn't missed.
func TestBootMoved(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "old place")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "root.cml"), `{ children: [
		{ name: "a", url: "file://`+strings.ReplaceAll(dir, " ", "%20")+`/pkg#meta/a.cm", startup: "eager" },
		{ name: "b", url: "sub/b.cml", startup: "eager" },
	] }`)
	put(t, filepath.Join(dir, "pkg/meta/a.cml"), `{ program: { runner: "elf", binary: "bin/a.sh" }, children: [ { name: "c", url: "#meta/c.cm", startup: "eager" } ] }`)
	put(t, filepath.Join(dir, "pkg/meta/c.cml"), sh("echo c says this"))
	put(t, filepath.Join(dir, "pkg/bin/a.sh"), "#!/bin/sh\necho a is in $0\n")
	put(t, filepath.Join(dir, "sub/b.cml"), `{ program: { runner: "elf", binary: "b.sh" } }`)
	put(t, filepath.Join(dir, "sub/b.sh"), "#!/bin/sh\necho b is in $0\n")
	tool(t, dir, 0, "compile", "--boot", "root.cml", "-o", "site")
	moved := filepath.Join(top, "new place")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	check := func(what string, code int, want ...string) {
		t.Helper()
		r := boot(t, top, "new place/site")
		if got := r.wait(); got != code {
			t.Errorf("%s: exit code %d", what, got)
		}
		for _, w := range want {
			if !strings.Contains(r.out()+r.err(), w) {
				t.Errorf("%s: no %q in\n%s%s", what, w, r.out(), r.err())
			}
		}
	}
	all := []string{"/a | a is in /pkg/bin/a.sh", "/a/c | c says this", "/b | b is in /pkg/b.sh"}
	check("moved", 0, all...)
	for _, source := range []string{"root.cml", "pkg/meta/a.cml", "pkg/meta/c.cml", "sub/b.cml"} {
		if err := os.Remove(filepath.Join(moved, source)); err != nil {
			t.Fatal(err)
		}
	}
	check("without sources", 0, all...)
	if err := os.Mkdir(filepath.Join(moved, "root.cml"), 0o700); err != nil {
		t.Fatal(err)
	}
	check("a source that cannot be read", 1, "new place/root.cml: it is a directory", "--stale")
}

// TestBootFlags: a script's path, with the options about it in all orders, is the one that Erlang's init makes of them.
func TestBootFlags(t *testing.T) {
	for _, tool := range []string{"erl", "escript"} {
		needs.Tool(t, tool)
	}
	dir := write(t, map[string]string{"real.escript": `
main(_) ->
	{ok,Bin} = file:read_file(filename:join(code:root_dir(), "bin/start_clean.boot")),
	{script,Id,Is} = binary_to_term(Bin),
	Path = {path,["$ROOT/r", "$V/y", "$V", "/abs/$V", rel]},
	More = [case I of {progress,started} -> [Path,I]; _ -> [I] end || I <- Is],
	ok = file:write_file("real.boot", term_to_binary({script,Id,lists:append(More)})),
	[io:format("~s ", [filename:dirname(code:which(M))]) || M <- [kernel,lists]],
	io:format("~s", [code:root_dir()]).
`})
	cmd := exec.Command("escript", "real.escript")
	cmd.Dir = dir
	said, err := cmd.CombinedOutput()
	of := strings.Fields(string(said))
	if err != nil || len(of) != 3 {
		t.Fatalf("%v\n%s", err, said)
	}
	script(t, dir, "ours", `{path,["$ROOT/r","$V/y","$V","/abs/$V",rel]},{primLoad,[gone]},{progress,started}`)
	for _, flags := range []string{
		"-boot_var V /v",
		"-boot_var V /v1 -boot_var V /v2",
		"-boot_var V /v -boot_var ROOT /other",
		"-boot_var V /v -pa /a",
		"-boot_var V /v -pa /a /b -pa /c",
		"-boot_var V /v -pz /x /y -pz /z",
		"-pz /x -pa /a -boot_var V /v -pz /y -pa /b /c",
		"-boot_var V /v -path /p /q",
		"-boot_var V /v -path /p -pa /a -pz /z",
		"-boot_var W /w",
		"",
	} {
		words := strings.Fields(flags)
		theirs := words
		if strings.Contains(flags, "-path") { // Erlang must find itself there
			theirs = strings.Fields(strings.Replace(flags, "-path", "-path "+of[0]+" "+of[1], 1))
		}
		real := exec.Command("erl", append([]string{"-noshell", "-boot", "./real", "-eval", `{ok,P} = erl_prim_loader:get_path(), io:format("PATH~p~n", [P]), halt().`}, theirs...)...)
		real.Dir, real.Env = dir, append(os.Environ(), "ERL_CRASH_DUMP_SECONDS=0")
		said, _ := real.CombinedOutput()
		var want []string
		for _, m := range regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(string(said[max(0, strings.Index(string(said), "PATH")):]), -1) {
			if m[1] != of[0] && m[1] != of[1] {
				want = append(want, filepath.Clean(m[1]))
			}
		}
		r := boot(t, dir, append([]string{"ours", "-root", of[2]}, words...)...)
		if code := r.wait(); code != 1 {
			t.Errorf("%s: exit code %d", flags, code)
		}
		ours := r.err()
		if _, at, _ := strings.Cut(string(said), "'cannot expand $V in bootfile'"); at != "" {
			if !strings.Contains(ours, "cannot expand $V") {
				t.Errorf("%s: Erlang says\n%s, and we\n%s", flags, said, ours)
			}
			continue
		}
		_, list, _ := strings.Cut(ours, "gone/meta/gone.cm in ")
		list, _, _ = strings.Cut(list, "\n")
		if got := strings.Split(list, ", "); !slices.Equal(got, want) {
			t.Errorf("%s: the path is %q, Erlang's %q\n%s", flags, got, want, ours)
		}
	}
}

// TestInitDebug: -init_debug says what Erlang's init says of the same instructions.
func TestInitDebug(t *testing.T) {
	for _, tool := range []string{"erl", "escript"} {
		needs.Tool(t, tool)
	}
	const is = `{progress,early},{kernelProcess,db,{component,start,[db]}},
		{apply,{component,run,['the-job',[{timeout_ms,300000},{may_fail,true}]]}},
		{progress,{'two words',"text",-1,[]}},{apply,{cmgr,log,["quoted \"word\""]}}`
	dir := write(t, map[string]string{
		"c/db.cml":      daemon("db"),
		"c/the-job.cml": sh("exit 0"),
		"component.erl": "-module(component).\n-export([start/1,run/2]).\nstart(_) -> {ok,spawn_link(fun() -> receive x -> x end end)}.\nrun(_,_) -> ok.\n",
		"cmgr.erl":      "-module(cmgr).\n-export([log/1]).\nlog(_) -> ok.\n",
		"real.escript": `
main(_) ->
	[{ok,_} = compile:file(F) || F <- [component,cmgr]],
	{ok,Bin} = file:read_file(filename:join(code:root_dir(), "bin/start_clean.boot")),
	{script,Id,Is} = binary_to_term(Bin),
	More = [case I of {progress,started} -> [` + is + `,I]; _ -> [I] end || I <- Is],
	ok = file:write_file("real.boot", term_to_binary({script,Id,lists:append(More)})).
`,
	})
	make := exec.Command("escript", "real.escript")
	make.Dir = dir
	if said, err := make.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	real := exec.CommandContext(t.Context(), "erl", "-noshell", "-boot", "./real", "-init_debug", "-eval", "halt().")
	real.Dir = dir
	said, err := real.CombinedOutput()
	_, theirs, ok := strings.Cut(string(said), "{progress,early}")
	if err != nil || !ok {
		t.Fatalf("%v\n%s", err, said)
	}

	script(t, dir, "ours", `{path,["$ROOT/c"]},{primLoad,[db,'the-job']},`+is+`,{progress,started}`)
	r := boot(t, dir, "ours", "-init_debug")
	r.until("{started,started}", func() bool {
		out, _, code := r.cmgr("status")
		return code == 0 && strings.HasPrefix(out, "{started,started}\n")
	})
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var ours []string
	for line := range strings.Lines(r.err()) {
		if line, ok := strings.CutPrefix(line, "cmgr: boot: {"); ok {
			ours = append(ours, "{"+line)
		}
	}
	if got := strings.Join(ours, ""); got != "{progress,early}"+strings.ReplaceAll(theirs, "\r", "") {
		t.Errorf("Erlang says\n{progress,early}%s\nand we\n%s\nof all\n%s", theirs, got, r.err())
	}
}

// BenchmarkBoot starts 1,000 components from their sources, from sources that are verified first, as a compiled tree was, and from that. Once
// with programs, whose starts take nearly all of the time, and once without, so that it is the loading that is measured.
func BenchmarkBoot(b *testing.B) {
	for _, c := range []struct{ name, component string }{
		{"programs", `{ program: { runner: "elf", binary: "/bin/true", args: [ "%d" ] } }`},
		{"declarations", `// Component %d.
			{
				use: [ { protocol: [ "log", "net" ] } ],
				capabilities: [ { protocol: [ "query", "admin" ] } ],
				expose: [ { protocol: [ "query", "admin" ], from: "self" } ],
				facets: { owner: "somebody", tags: [ "a", "b" ] },
			}`},
	} {
		dir := b.TempDir()
		file := func(name, text string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		var children, offers strings.Builder
		for n := range 1000 {
			fmt.Fprintf(&children, "{ name: \"c%d\", url: \"c%d.cml\", startup: \"eager\" },", n, n)
			fmt.Fprintf(&offers, "{ protocol: [ \"log\", \"net\" ], from: \"self\", to: \"#c%d\" },", n)
			file(fmt.Sprintf("c%d.cml", n), fmt.Sprintf(c.component, n))
		}
		file("root.cml", "{ capabilities: [ { protocol: [ \"log\", \"net\" ] } ], children: ["+children.String()+"], offer: ["+offers.String()+"] }")
		root, compiled := filepath.Join(dir, "root.cml"), filepath.Join(dir, "root")
		if out, err := exec.Command(binary, "compile", "--boot", root, "-o", compiled).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		manager := []string{"--socket", filepath.Join(dir, "s"), "--state", filepath.Join(dir, "state")}
		for _, how := range []struct {
			name     string
			commands [][]string
		}{
			{"sources", [][]string{append([]string{"run", root}, manager...)}},
			{"verified", [][]string{{"verify", root}, append([]string{"run", root}, manager...)}},
			{"compiled", [][]string{append([]string{"boot", compiled}, manager...)}},
		} {
			b.Run(c.name+"/"+how.name, func(b *testing.B) {
				var cpu time.Duration
				for b.Loop() {
					for _, args := range how.commands {
						cmd := exec.Command(binary, args...)
						if out, err := cmd.CombinedOutput(); err != nil {
							b.Fatalf("%v\n%s", err, out)
						}
						cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
					}
				}
				b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
			})
		}
	}
}
