package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/needs"
)

// TestRealPrograms is a web server, a cache and a database in one tree: they serve, one is killed and comes back, all stop as they
// like to be stopped, and their data is there the next time.
func TestRealPrograms(t *testing.T) {
	needs.Root(t) // the database's user is another one
	nginx, redis := needs.Tool(t, "nginx"), needs.Tool(t, "redis-server")
	initdb, postgres, psql := debian(t, "initdb"), debian(t, "postgres"), needs.Tool(t, "psql")
	owner := needs.User(t, "postgres")
	dir, err := os.MkdirTemp("", "cmgr-real") // the database's user must get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	for _, d := range []string{"", "db", "cache", "web"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "db"), uid, gid); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(initdb, "-D", filepath.Join(dir, "db/data"), "-A", "trust", "--no-sync")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := freePort(t)
	put(t, filepath.Join(dir, "web/index.html"), "hello from a component\n")
	put(t, filepath.Join(dir, "web/nginx.conf"), fmt.Sprintf(`daemon off; pid %[1]s/web/pid; error_log stderr; worker_processes 2;
		events {}
		http { access_log /dev/stdout; client_body_temp_path %[1]s/web/t; proxy_temp_path %[1]s/web/t; fastcgi_temp_path %[1]s/web/t;
			uwsgi_temp_path %[1]s/web/t; scgi_temp_path %[1]s/web/t;
			server { listen 127.0.0.1:%[2]d; root %[1]s/web; } }
	`, dir, port))
	put(t, filepath.Join(dir, "root.cml"), `{
		children: [
			{ name: "db", url: "db.cml", environment: "#patient", startup: "eager" },
			{ name: "cache", url: "cache.cml", environment: "#patient", startup: "eager", on_terminate: "restart", restart: { when: "failure", delay_ms: 10, limit: 5 } },
			{ name: "web", url: "web.cml", environment: "#patient", startup: "eager" },
		],
		environments: [ { name: "patient", extends: "realm", __stop_timeout_ms: 60000 } ],
		offer: [ { runner: "elf", from: "parent", to: [ "#db", "#cache", "#web" ] } ],
	}`)
	use := `use: [ { runner: "elf" } ], `
	put(t, filepath.Join(dir, "db.cml"), fmt.Sprintf(`{ %s program: { binary: %q, user: "postgres", stop_signal: "SIGINT",
		args: [ "-D", "%[3]s/db/data", "-k", "%[3]s/db", "-c", "listen_addresses=" ] } }`, use, postgres, dir))
	put(t, filepath.Join(dir, "cache.cml"), fmt.Sprintf(`{ %s program: { binary: %q,
		args: [ "--port", "0", "--unixsocket", "%[3]s/cache/s", "--dir", "%[3]s/cache", "--save", "3600", "1", "--appendonly", "no" ] } }`, use, redis, dir))
	put(t, filepath.Join(dir, "web.cml"), fmt.Sprintf(`{ %s program: { binary: %q, stop_signal: "SIGQUIT", args: [ "-c", "%s/web/nginx.conf" ] } }`,
		use, nginx, dir))

	sql := func(q string) string {
		out, err := exec.Command(psql, "-h", filepath.Join(dir, "db"), "-U", "postgres", "-XAtc", q).CombinedOutput()
		if err != nil {
			return err.Error() + ": " + string(out)
		}
		return strings.TrimSpace(string(out))
	}
	ask := func(line string) string { return redisCommand(filepath.Join(dir, "cache/s"), line) }
	serving := func(r *tree) {
		t.Helper()
		r.until("the database", func() bool { return sql("select 1") == "1" })
		r.until("the cache", func() bool { return ask("PING") == "+PONG" })
		r.until("the web server", func() bool { return strings.Contains(get(port), "hello from a component") })
	}

	r := run(t, dir, append(unconfined(t), "--json", "--stay")...) // their files are where the test can see them
	serving(r)
	if got := sql("create table t (x int); insert into t values (42)"); !strings.Contains(got, "INSERT") {
		t.Fatalf("psql: %s", got)
	}
	if got := ask("SET k before"); got != "+OK" {
		t.Fatalf("redis: %s", got)
	}
	if got := ask("SAVE"); got != "+OK" {
		t.Fatalf("redis: %s", got)
	}

	var info struct {
		Resolved struct {
			Started struct {
				Usage struct {
					PIDs []int `json:"process_ids"`
				}
			}
		}
		Restarts int
	}
	if err := json.Unmarshal([]byte(r.must("show", "/cache", "--json")), &info); err != nil || len(info.Resolved.Started.Usage.PIDs) == 0 {
		t.Fatalf("show: %v: %s", err, r.must("show", "/cache", "--json"))
	}
	if err := syscall.Kill(info.Resolved.Started.Usage.PIDs[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("the restart", func() bool { return at(r.events(), "restarting", "/cache") >= 0 && ask("GET k") == "before" })
	serving(r) // the others never stopped
	r.until("being told of the starts", func() bool { return count(r.events(), "started") >= 5 })
	if n := count(r.events(), "started"); n != 5 {
		t.Errorf("%d starts, want 5: the root, three programs, one restart", n)
	}

	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, m := range []string{"/db", "/cache", "/web"} {
		i := len(r.events()) - 1
		for r.events()[i].Kind != "stopped" || r.events()[i].Moniker != m {
			i--
		}
		if x := r.events()[i].Exit; x.Code != 0 || x.Cause != "stop" {
			t.Errorf("%s did not stop gracefully: %+v", m, *x)
		}
	}
	for _, name := range []string{postgres, redis, nginx} {
		if out, _ := exec.Command("pgrep", "-f", name+".*"+dir).Output(); len(out) > 0 {
			t.Errorf("%s is left behind: %s", name, out)
		}
	}

	r2 := prepare(t, dir)
	r2.state = r.state
	r2.start(append(unconfined(t), "--json", "--stay")...)
	serving(r2)
	if got := sql("select x from t"); got != "42" {
		t.Errorf("the database has %q", got)
	}
	if got := ask("GET k"); got != "before" {
		t.Errorf("the cache says %q", got)
	}
	if code := r2.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// debian is PostgreSQL's program from Debian's package, which its user can run; another in the PATH may be for root only.
func debian(t *testing.T, name string) string {
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return found[len(found)-1]
	}
	return needs.Tool(t, name)
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// listen accepts connections on a port of loopback, which it returns, and closes them.
func listen(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// get is a GET of / by hand: no keep-alive connection stays behind.
func get(port int) string {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n")
	var b strings.Builder
	for s := bufio.NewScanner(c); s.Scan(); {
		b.WriteString(s.Text() + "\n")
	}
	return b.String()
}

// redisCommand gives the answer: its first line, or the text that this announces.
func redisCommand(socket, line string) string {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	fmt.Fprintf(c, "%s\r\n", line)
	s := bufio.NewScanner(c)
	if s.Scan(); strings.HasPrefix(s.Text(), "$") && s.Text() != "$-1" {
		s.Scan()
	}
	return s.Text()
}
