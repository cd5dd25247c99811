package e2e

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// bootServer serves root on this machine's own network, and returns where it is asked.
func bootServer(t *testing.T, root string, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"bootserver", "--addr", "127.0.0.1:0", "--allow", "127.0.0.1", "--root", root}, args...)...)
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(said)
	line, err := in.ReadString('\n')
	drained := make(chan struct{})
	go func() { _, _ = in.WriteTo(new(strings.Builder)); close(drained) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-drained
		if err := cmd.Wait(); err != nil {
			t.Errorf("boot server: %v", err)
		}
	})
	m := regexp.MustCompile(`on udp (\S+),`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("%q, %v", line, err)
	}
	return m[1]
}

// echoes is a package in dir, with a program of its own, that says what.
func echoes(dir, name, what string) map[string]string {
	return map[string]string{
		dir + "/" + name + ".cml": `{ program: { runner: "elf", binary: "` + name + `.sh" } }`,
		dir + "/" + name + ".sh":  "#!/bin/sh\necho " + what + "\n",
	}
}

func files(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// TestBootLoaded boots scripts of which everything is on another host, or behind a port program.
func TestBootLoaded(t *testing.T) {
	dir := write(t, files(echoes("c", "one", "one says this"), echoes("d/two/meta", "two", "never"), map[string]string{
		"d/two/two.sh":    "#!/bin/sh\necho two says this\n",
		"tree/root.cml":   `{ children: [ { name: "a", url: "sub/a.cml", startup: "eager" }, { name: "b", url: "late/b.cml" } ] }`,
		"tree/sub/a.cml":  `{ program: { runner: "elf", binary: "a.sh" } }`,
		"tree/sub/a.sh":   "#!/bin/sh\necho a says this\n",
		"tree/late/b.cml": sh("echo never"),
		"cat.sh": `#!/bin/sh
read -r name; name=${name#f}
if [ -f "$ROOT$name" ]; then printf y; cat "$ROOT$name"; else printf z; fi
`,
	}))
	script(t, dir, "site", `{path,["$ROOT/c","$D"]},{primLoad,[one]},{kernel_load_completed},{primLoad,[two]},{apply,{component,run,[one]}},{apply,{component,run,[two]}},{progress,started}`)
	script(t, dir, "gone", `{path,["$ROOT/c"]},{primLoad,[one,three]},{progress,started}`)
	put(t, filepath.Join(dir, "junk.boot"), "no term")
	tool(t, dir, 0, "compile", "--boot", "tree/root.cml", "-o", "tree/site")
	for _, where := range []string{"changed", "without"} { // sources, since they were compiled
		if err := os.CopyFS(filepath.Join(dir, where), os.DirFS(filepath.Join(dir, "tree"))); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, where, "sub/a.sh"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(dir, "changed/late/b.cml"), sh("echo changed"))
	if err := errors.Join(os.Remove(filepath.Join(dir, "without/root.cml")), os.Remove(filepath.Join(dir, "without/sub/a.cml"))); err != nil {
		t.Fatal(err)
	}
	// A tree of which all is listed, and one more boot file, which nobody has.
	if err := os.CopyFS(filepath.Join(dir, "sealed"), os.DirFS(filepath.Join(dir, "tree"))); err != nil {
		t.Fatal(err)
	}
	sum := func(file string) string {
		return fmt.Sprintf("%x", sha256.Sum256([]byte(readFile(t, filepath.Join(dir, "sealed", file)))))
	}
	listed := ""
	for _, in := range [][]string{{".", "root.cml"}, {"sub", "a.cml", "a.sh"}, {"late", "b.cml"}} {
		text := ""
		for _, file := range in[1:] {
			text += file + "=" + sum(filepath.Join(in[0], file)) + "\n"
		}
		put(t, filepath.Join(dir, "sealed", in[0], "meta/contents"), text)
		listed += "sha256 " + sum(filepath.Join(in[0], "meta/contents")) + "\n"
	}
	put(t, filepath.Join(dir, "sealed/forged.cml"), sh("echo forged says this"))
	tool(t, dir, 0, "compile", "--boot", "sealed/forged.cml", "-o", "sealed/forged")
	empty := t.TempDir()
	put(t, filepath.Join(empty, "listed"), listed+"sha256 "+sum("site.boot")+"\n")
	put(t, filepath.Join(empty, "packages"), listed)
	put(t, filepath.Join(empty, "config.json5"), `{ trust: "packages" }`)
	server, guarded := bootServer(t, dir), bootServer(t, dir, "--cookie", "secret")
	inet := []string{"-loader", "inet", "-hosts", server, "-id", "edge7"}
	put(t, filepath.Join(empty, "trust"), "sha256 "+strings.Repeat("0", 64)+"\n")

	t.Setenv("ROOT", dir)
	port := []string{"--loader", filepath.Join(dir, "cat.sh")}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"inet", append([]string{"/site", "-boot_var", "D", "/d"}, inet...), 0, "two says this"},
		{"relative", append([]string{"site", "-boot_var", "D", "/d"}, inet...), 0, "one says this"},
		{"root", append([]string{"site", "-root", "/tree"}, inet...), 1, "cannot expand $D"},
		{"found in root", append([]string{"one/site", "-root", "/tree/.."}, inet...), 1, "enoent"},
		{"interactive", append([]string{"/site", "-mode", "interactive", "-boot_var", "D", "/d"}, inet...), 0, "two says this"},
		{"a tree", append([]string{"/tree/site"}, inet...), 0, "a says this"},
		{"a tree whose sources are gone", append([]string{"/without/site"}, inet...), 0, "a says this"},
		{"a tree whose sources have changed", append([]string{"/changed/site"}, inet...), 1, "changed: /changed/late/b.cml"},
		{"that all the same", append([]string{"/changed/site", "--stale"}, inet...), 0, "a says this"},
		{"path", append([]string{"/gone", "-path", "/c"}, inet...), 1, "component three: no three.cm, three.cml or three/meta/three.cm in /c"},
		{"failover", []string{"/tree/site", "-loader", "inet", "-hosts", "127.0.0.1:9", server}, 0, "a says this"},
		{"cookie", []string{"/tree/site", "-loader", "inet", "-hosts", guarded, "-setcookie", "secret"}, 0, "a says this"},
		{"another cookie", []string{"/tree/site", "-loader", "inet", "-hosts", guarded, "-setcookie", "wrong"}, 111, "it has another cookie"},
		{"no such file", append([]string{"/nothing"}, inet...), 1, "/nothing.boot: enoent"},
		{"no script", append([]string{"/junk"}, inet...), 1, "/junk.boot"},
		{"a relative directory", append([]string{"/site", "-pa", "here"}, inet...), 100, "here: with --loader inet a directory is one of the other side"},
		{"no hosts", []string{"/site", "-loader", "inet"}, 100, "--loader inet needs --hosts"},
		{"not trusted", append([]string{"/tree/site", "--trust", filepath.Join(empty, "trust")}, inet...), 1, "boot file /tree/site.boot: not trusted"},
		{"trusted", append([]string{"/sealed/site", "--trust", filepath.Join(empty, "listed")}, inet...), 0, "a says this"},
		{"a boot file of trusted packages", append([]string{"/sealed/forged", "--trust", filepath.Join(empty, "listed")}, inet...), 1, "boot file /sealed/forged.boot: not trusted"},
		{"the configuration's trust", append([]string{"/sealed/site", "--config", filepath.Join(empty, "config.json5")}, inet...), 1, "boot file /sealed/site.boot: not trusted"},
		{"port", append([]string{"/site", "-boot_var", "D", "/d"}, port...), 0, "two says this"},
		{"port, a tree", append([]string{"/tree/site"}, port...), 0, "a says this"},
		{"port, no such file", append([]string{"/nothing"}, port...), 1, "/nothing.boot"},
	} {
		r := boot(t, empty, c.args...)
		if code := r.wait(); c.code != 0 && strings.Contains(r.out(), "says this") {
			t.Errorf("%s: started\n%s%s", c.name, r.out(), r.err())
		} else if code != c.code || !strings.Contains(r.out()+r.err(), c.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", c.name, code, c.code, c.want, r.out(), r.err())
		}
	}
}

// TestEmptyMachine boots a release on a machine that has nothing but cmgr: a network, PID and mount namespace of its own. Everything comes
// from two hosts in other network namespaces, of which the first dies in the middle of a file. A compiled tree then boots from the other.
// All is in namespaces that end with the script.
func TestEmptyMachine(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	for _, tool := range []string{"bash", "unshare", "ip", "tc", "chroot"} {
		needs.Tool(t, tool)
	}
	const manifest = `{ program: { runner: "elf", binary: "program", args: ["version"] } }`
	app := func(name string) string {
		return fmt.Sprintf(`{application,%s,[{description,""},{vsn,"1"},{modules,[%s]},{registered,[]},{applications,[]},{env,[{cmgr,[{run,[%[2]s]}]}]}]}.`,
			name, name+"1")
	}
	dir := write(t, map[string]string{
		"srv/lib/base-1/components/base1.cml": manifest, "srv/lib/base-1/components/base.app": app("base"),
		"srv/lib/shop-1/components/shop1.cml": manifest, "srv/lib/shop-1/components/shop.app": app("shop"),
		"srv/site.rel":      `{release,{"site","7"},{erts,"0.0"},[{base,"1"},{shop,"1"}]}.`,
		"srv/tree/root.cml": `{ children: [ { name: "a", url: "a.cml", startup: "eager" } ] }`,
		"srv/tree/a.cml":    manifest,
	})
	srv, static := filepath.Join(dir, "srv"), filepath.Join(dir, "cmgr")
	build := exec.Command("go", "build", "-o", static, "../../cmd/cmgr")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as `make` builds it
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, to := range []string{"lib/base-1/components", "lib/shop-1/components", "tree"} {
		// A static program of some 20 MB: this one. No two are the same, so that each is fetched.
		b, err := os.ReadFile(static)
		if err == nil {
			err = os.WriteFile(filepath.Join(srv, to, "program"), append(b, to...), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tool(t, srv, 0, "systools", "make-script", "--components", "--path", "lib/*/components", "site")
	tool(t, srv, 0, "compile", "--boot", "tree/root.cml", "-o", "tree/site")
	const text = `set -e
until_line() { n=0; until grep -q "$1" "$2"; do n=$((n + 1)); [ $n -lt 1500 ] || { echo "no $1 in $2"; cat "$2"; exit 1; }; sleep 0.1; done; }
mount -t tmpfs none /run
for n in sw a b c; do ip netns add $n; done
ip -n sw link add br0 type bridge
ip -n sw link set br0 up
i=0
for n in a b c; do
	i=$((i + 1))
	ip -n sw link add v$n type veth peer name eth0 netns $n
	ip -n sw link set v$n master br0 up
	ip -n $n addr add 10.9.0.$i/24 dev eth0
	ip -n $n link set eth0 up
	ip -n $n link set lo up
done
ip netns exec a tc qdisc add dev eth0 root tbf rate 30mbit burst 64kb latency 400ms
ip netns exec a "$CMGR" bootserver --addr 10.9.0.1 --allow 10.9.0.3 --root srv 2>a.log & a=$!
ip netns exec b "$CMGR" bootserver --addr 10.9.0.2 --allow 10.9.0.3 --root srv 2>b.log &
until_line serving a.log
until_line serving b.log
mkdir empty
mount -t tmpfs none empty
mkdir empty/proc empty/dev
mount -t proc none empty/proc
mknod empty/dev/null c 1 3
cp "$CMGR" empty/cmgr
ip netns exec c chroot empty /cmgr boot /site -loader inet -hosts 10.9.0.1 10.9.0.2 -id empty --state /state >out 2>err & c=$!
n=0
until [ $(ip netns exec a cat /sys/class/net/eth0/statistics/tx_bytes) -gt 3000000 ]; do
	n=$((n + 1)); [ $n -lt 3000 ] && kill -0 $c || { echo "A sends nothing"; cat a.log err; exit 1; }; sleep 0.05
done
kill -9 $a
wait $c || { echo "exit code $?"; cat out err; exit 1; }
cat out err
echo "servers that were asked:"; grep -l id=empty a.log b.log
find empty -name '*.cml' -o -name program | sed 's/^/left: /'
ip netns exec c chroot empty /cmgr boot /tree/site -loader inet -hosts 10.9.0.1 10.9.0.2 --state /state
echo all done
`
	// The script's own PID namespace ends, and all in it, when unshare does; the network namespaces are mounts of its mount namespace.
	cmd := exec.CommandContext(t.Context(), "unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "bash", "-c", text)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CMGR="+static, "NO_COLOR=1")
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"/base1 | cmgr ", "/shop1 | cmgr ", "/a | cmgr ", "boot: progress started", "boot server failed", "a.log\nb.log\n", "all done\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestRunLoaded: what `cmgr run` gets by a loader, and along which path; and what it accepts.
func TestRunLoaded(t *testing.T) {
	dir := write(t, files(echoes("c", "one", "one of c"), echoes("d", "one", "one of d"), echoes("d", "two", "two of d"),
		echoes("pkg", "sealed", "sealed"), echoes("local", "one", "one of local")))
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(file string) string {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", sha256.Sum256(b))
	}
	put(t, filepath.Join(dir, "pkg/meta/contents"), fmt.Sprintf("sealed.cml=%s\nsealed.sh=%s\n", sum("pkg/sealed.cml"), sum("pkg/sealed.sh")))
	put(t, filepath.Join(dir, "trust"), "sha256 "+sum("pkg/meta/contents")+"\n")
	put(t, filepath.Join(dir, "distrust"), "sha256 "+sum("pkg/sealed.sh")+"\n")
	put(t, filepath.Join(dir, "cat.sh"), `#!/bin/sh
name=$(cat); name=${name#f}
if [ -f "$ROOT$name" ]; then printf y; cat "$ROOT$name"; else printf z; fi
`)
	t.Setenv("ROOT", dir)
	inet := []string{"--loader", "inet", "--hosts", bootServer(t, dir)}
	port := []string{"--loader", filepath.Join(dir, "cat.sh")}
	trust := func(file string) []string { return []string{"--trust", filepath.Join(dir, file)} }
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"inet", append(inet, "/c/one.cml"), 0, "/ | one of c"},
		{"a URL", append(inet, "inet:///d/one.cml"), 0, "/ | one of d"},
		{"path, in order", append(inet, "--path", "/none", "--path", "/d", "--path", "/c", "one.cml"), 0, "/ | one of d"},
		{"pa before pz", append(inet, "--pz", "/d", "--pa", "/c", "one.cml"), 0, "/ | one of c"},
		{"pz is looked at", append(inet, "--pa", "/c", "--pz", "/d", "two.cml"), 0, "/ | two of d"},
		{"nowhere along the path", append(inet, "--path", "/c", "--path", "/none", "two.cml"), 1, "in none of /c, /none"},
		{"port", append(port, "/c/one.cml"), 0, "/ | one of c"},
		{"port, path", append(port, "--path", "/none", "--path", "/d", "one.cml"), 0, "/ | one of d"},
		{"efile", []string{"--loader", "efile", "--path", filepath.Join(dir, "none"), "--path", filepath.Join(dir, "local"), "one.cml"}, 0, "/ | one of local"},
		{"trusted", append(append(inet, trust("trust")...), "/pkg/sealed.cml"), 0, "/ | sealed"},
		{"not in the list", append(append(inet, trust("distrust")...), "/pkg/sealed.cml"), 1, "/pkg"},
		{"without contents", append(append(inet, trust("trust")...), "/c/one.cml"), 1, "it has no meta/contents"},
		{"trusted, by a program", append(append(port, trust("trust")...), "/pkg/sealed.cml"), 0, "/ | sealed"},
		{"no list", append(append(inet, trust("nothing")...), "/pkg/sealed.cml"), 111, "nothing"},
	} {
		r := prepare(t, t.TempDir())
		r.begin(exec.Command(binary, append([]string{"run", "--socket", r.sock, "--state", r.state}, c.args...)...), nil)
		if code := r.wait(); code != c.code || !strings.Contains(r.out()+r.err(), c.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", c.name, code, c.code, c.want, r.out(), r.err())
		}
	}
	// What was listed and has changed since is refused, though its list is trusted.
	put(t, filepath.Join(dir, "pkg/sealed.sh"), "#!/bin/sh\necho forged\n")
	r := prepare(t, t.TempDir())
	r.begin(exec.Command(binary, append(append([]string{"run", "--socket", r.sock, "--state", r.state, "/pkg/sealed.cml"}, inet...), trust("trust")...)...), nil)
	if code := r.wait(); code != 1 || strings.Contains(r.out(), "forged") || !strings.Contains(r.err(), "/pkg/sealed.sh: sha256 is ") {
		t.Errorf("forged: exit code %d\n%s%s", code, r.out(), r.err())
	}
}

// TestResolversOfEnvironments: each environment says by which loader its URLs are resolved; the loaders are the configuration's.
func TestResolversOfEnvironments(t *testing.T) {
	dir := write(t, files(echoes("far/c", "one", "by the boot server"), echoes("vault/c", "one", "by the program"), echoes("near", "one", "from the disk"), map[string]string{
		"cat.sh": `#!/bin/sh
name=$(cat); name=${name#f}
if [ -f "$ROOT$name" ]; then printf y; cat "$ROOT$name"; else printf z; fi
`,
	}))
	t.Setenv("ROOT", filepath.Join(dir, "vault"))
	put(t, filepath.Join(dir, "root.cml"), fmt.Sprintf(`{
		environments: [
			{ name: "by-far", extends: "realm", resolvers: [ { resolver: "edge", from: "parent", scheme: "site" } ] },
			{ name: "by-vault", extends: "realm", resolvers: [ { resolver: "vault", from: "parent", scheme: "site" } ] },
			{ name: "by-near", extends: "realm", resolvers: [ { resolver: "efile", from: "parent", scheme: "site" } ] },
		],
		children: [
			{ name: "far", url: "site:///c/one.cml", startup: "eager", environment: "#by-far" },
			{ name: "vault", url: "site:///c/one.cml", startup: "eager", environment: "#by-vault" },
			{ name: "near", url: "site://%s/near/one.cml", startup: "eager", environment: "#by-near" },
			{ name: "direct", url: "edge:///c/one.cml", startup: "eager" },
			{ name: "none", url: "site:///c/one.cml" },
		],
	}`, dir))
	put(t, filepath.Join(dir, "config.json5"), fmt.Sprintf(`{ loaders: {
		edge: { loader: "inet", hosts: ["127.0.0.1:9", %q], id: "edge7", cookie: "secret" },
		vault: { loader: %q, framing: "raw" },
	} }`, bootServer(t, filepath.Join(dir, "far"), "--cookie", "secret"), filepath.Join(dir, "cat.sh")))
	r := run(t, dir, "--config", filepath.Join(dir, "config.json5"), "--stay")
	for _, want := range []string{"/far | by the boot server", "/vault | by the program", "/near | from the disk", "/direct | by the boot server"} {
		r.until(want, func() bool { return strings.Contains(r.out(), want+"\n") })
	}
	if out, err, code := r.cmgr("start", "/none"); code == 0 || !strings.Contains(err, "site") {
		t.Errorf("a scheme without a resolver: exit code %d\n%s%s", code, out, err)
	}
	if code := r.stop(); code != 1 {
		t.Errorf("exit code %d\n%s", code, r.err())
	}
}

// TestCacheBound: of the packages that loaders got those go that nobody has used for long, as soon as another needs room, and none that
// an instance has.
func TestCacheBound(t *testing.T) {
	filled := func(name string) map[string]string {
		return map[string]string{name + "/meta/x.cml": sh("echo " + name + " runs; sleep 1000"), name + "/fill": strings.Repeat(name, 400<<10)}
	}
	dir := write(t, files(filled("aa"), filled("bb"), filled("cc"), map[string]string{
		"root.cml":     `{ children: [ { name: "a", url: "inet:///aa#meta/x.cm" }, { name: "b", url: "inet:///bb#meta/x.cm" }, { name: "c", url: "inet:///cc#meta/x.cm" } ] }`,
		"config.json5": `{ cache: { max_size: 1048576 } }`,
	}))
	r := prepare(t, dir)
	r.begin(exec.Command(binary, "run", "--socket", r.sock, "--state", r.state, "--stay", "--loader", "inet", "--hosts", bootServer(t, dir),
		"--config", filepath.Join(dir, "config.json5"), "file://"+dir+"/root.cml"), nil)
	r.until("the manager", func() bool { _, _, code := r.cmgr("list"); return code == 0 })
	// start has all packages be of long ago, then starts name, and says how many there are.
	start := func(name string) int {
		t.Helper()
		packages, _ := filepath.Glob(filepath.Join(r.state, "cache/pkg/*"))
		long := time.Now().Add(-24 * time.Hour)
		for _, p := range packages {
			if err := os.Chtimes(p, long, long); err != nil {
				t.Fatal(err)
			}
		}
		r.must("start", "/"+name)
		r.until(name, func() bool { return strings.Contains(r.out(), "/"+name+" | "+name+name+" runs\n") })
		packages, _ = filepath.Glob(filepath.Join(r.state, "cache/pkg/*"))
		return len(packages)
	}
	if n := start("a"); n != 1 {
		t.Errorf("%d packages, want a's", n)
	}
	if n := start("b"); n != 2 {
		t.Errorf("%d packages, want 2: a is in use", n)
	}
	if out, err, _ := r.cmgr("doctor"); !strings.Contains(out, "2 packages, 1600 KiB of at most 1024 KiB") {
		t.Errorf("the doctor says\n%s%s", out, err)
	}
	r.must("stop", "/a")
	r.must("unresolve", "/a")
	if n := start("c"); n != 2 {
		t.Errorf("%d packages, want 2: a is not used any more", n)
	}
	r.stop()
}

// TestRoutedBootServer: one component is the boot server, with a directory that is routed to it, on a socket alone; others reach it where
// that is routed to them, and fetch files from it, or run a tree of their own that comes from it.
func TestRoutedBootServer(t *testing.T) {
	needs.Root(t)
	static := filepath.Join(t.TempDir(), "cmgr")
	build := exec.Command("go", "build", "-o", static, "../../cmd/cmgr")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := write(t, files(echoes("served/c", "one", "one of the served"), map[string]string{
		"served/file": "a file\n",
		"root.cml": `{
			children: [ { name: "boot", url: "boot.cml" }, { name: "fetch", url: "fetch.cml", startup: "eager" }, { name: "below", url: "below.cml", startup: "eager" } ],
			offer: [
				{ directory: "pkg", from: "framework", as: "served", to: "#boot", rights: ["r*"], subdir: "served" },
				{ protocol: "bootserver", from: "#boot", to: [ "#fetch", "#below" ] },
			],
		}`,
		"boot.cml": `{
			program: { runner: "builtin", function: "bootserver" },
			use: [ { directory: "served", path: "/root", rights: ["r*"] } ],
			capabilities: [ { protocol: "bootserver" } ],
			expose: [ { protocol: "bootserver", from: "self" } ],
		}`,
		"fetch.cml": `{
			program: { runner: "elf", binary: "sh.sh", args: [ "fetch --loader inet --hosts unix:$S /file" ] },
			use: [ { protocol: "bootserver" } ],
		}`,
		"below.cml": `{
			program: { runner: "elf", binary: "sh.sh", args: [ "run --loader inet --hosts unix:$S --state $W/state --socket $W/s inet:///c/one.cml" ] },
			use: [ { protocol: "bootserver" } ],
		}`,
		"sh.sh": "#!/bin/sh\nS=${CMGR_NAMESPACE-}/svc/bootserver W=$(mktemp -d)\nexport HOME=$W\neval \"${0%/*}/cmgr $1\"\nrm -r $W\n",
	}))
	if err := os.Link(static, filepath.Join(dir, "cmgr")); err != nil {
		t.Fatal(err)
	}
	for _, free := range []string{"/**", "/below"} { // a manager within a component cannot confine anything
		args := configured(t, `{ security_policy: { sandbox: { unconfined: ["`+free+`"] } } }`)
		r := run(t, dir, args...)
		for _, want := range []string{"/fetch | a file\n", "/below | / | one of the served\n"} {
			r.until(want, func() bool { return strings.Contains(r.out(), want) })
		}
		if code := r.stop(); code != 0 {
			t.Errorf("%q: exit code %d\n%s%s", args, code, r.out(), r.err())
		}
	}
}

// TestVerifyLoaded: a tree that comes by loaders is verified as it would run, and nothing of it is left.
func TestVerifyLoaded(t *testing.T) {
	dir := write(t, files(echoes("c", "one", "never"), map[string]string{
		"good.cml": `{ children: [ { name: "a", url: "c/one.cml" }, { name: "b", url: "inet:///c/one.cml" } ] }`,
		"bad.cml":  `{ children: [ { name: "a", url: "c/one.cml" } ], offer: [ { protocol: "p", from: "#a", to: "#a" } ], use: [ { protocol: "q" } ] }`,
	}))
	host := bootServer(t, dir)
	put(t, filepath.Join(dir, "here.cml"), `{ children: [ { name: "x", url: "edge:///good.cml" } ] }`)
	put(t, filepath.Join(dir, "config.json5"), fmt.Sprintf(`{ loaders: { edge: { loader: "inet", hosts: [%q] } } }`, host))
	put(t, filepath.Join(dir, "both.json5"), fmt.Sprintf(`{ loaders: { edge: { loader: "inet", hosts: [%q] }, inet: { loader: "inet", hosts: [%[1]q] } } }`, host))
	put(t, filepath.Join(dir, "trust"), "sha256 "+strings.Repeat("0", 64)+"\n")
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	inet := []string{"--loader", "inet", "--hosts", host}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{append(inet, "/good.cml"), 0, "2 manifests, 3 components"},
		{append(inet, "--path", "/none", "--path", "/", "good.cml"), 0, "2 manifests, 3 components"},
		{append(inet, "/bad.cml"), 1, "bad.cml:1:"},
		{append(inet, "/none.cml"), 1, "no such manifest: tried /none.cml"},
		{append(inet, "--trust", filepath.Join(dir, "trust"), "/good.cml"), 1, "not trusted"},
		{append(inet, "/good.cml", "--diff", "/good.cml"), 0, ""},
		{[]string{"--config", filepath.Join(dir, "both.json5"), filepath.Join(dir, "here.cml")}, 0, ", 4 components"},
		{[]string{"--config", filepath.Join(dir, "config.json5"), filepath.Join(dir, "here.cml")}, 1, "resolver `inet` was not registered"},
		{[]string{"--hosts", host, filepath.Join(dir, "here.cml")}, 100, "--hosts is for --loader inet"},
	} {
		if out := tool(t, dir, c.code, append([]string{"verify"}, c.args...)...); !strings.Contains(out, c.want) {
			t.Errorf("%q: no %q in\n%s", c.args, c.want, out)
		}
	}
	if left, err := os.ReadDir(temp); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}
