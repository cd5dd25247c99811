package elf

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
)

// entry is a namespace entry for a directory or socket of the host.
func entry(t testing.TB, path, host string, rights manifest.Rights) runners.NamespaceEntry {
	t.Helper()
	f, err := os.OpenFile(host, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	return runners.NamespaceEntry{Path: path, File: f, Rights: rights}
}

// all reads what the program writes until its end.
func (r *run) all() string {
	r.t.Helper()
	b, err := io.ReadAll(r.out)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// A confined program is what its package says it is, where its package says, and finds what was routed to it.
func TestConfinedWorld(t *testing.T) {
	r := newRig(t, " confined")
	dir := t.TempDir()
	for path, text := range map[string]string{
		"pkg/bin/tool": "#!/bin/sh\necho \"$0 $* in $(pwd)\"; cat data /routed/file; echo x 2>&- > /routed/new || echo read-only\n",
		"pkg/data":     "of the package\n", "pkg/bin/data": "of bin\n", "routed/file": "routed\n", "outside": "secret\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.info.Package.Dir = filepath.Join(dir, "pkg")
	for _, c := range []struct {
		name string
		kv   []any
		want string
	}{
		{"in its package", nil, "/pkg/bin/tool a b in /pkg\nof the package\nrouted\nread-only\n"},
		{"in a directory of it", []any{"cwd", "bin"}, "/pkg/bin/tool a b in /pkg/bin\nof bin\nrouted\nread-only\n"},
		{"elsewhere", []any{"cwd", "/pkg/bin"}, "/pkg/bin/tool a b in /pkg/bin\nof bin\nrouted\nread-only\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.info.Namespace = []runners.NamespaceEntry{entry(t, "/routed", filepath.Join(dir, "routed"), manifest.RightsR)}
			p := r.start(t, block(append([]any{"binary", "bin/tool", "args", []string{"a", "b"}}, c.kv...)...))
			if got := p.all(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			p.ends(0, 0, runners.BySelf)
		})
	}

	t.Run("a descriptor of a directory leads nowhere else", func(t *testing.T) {
		f, err := os.Open(filepath.Join(dir, "routed"))
		if err != nil {
			t.Fatal(err)
		}
		r.info.Namespace, r.info.Handles = nil, []runners.Handle{{Number: 5, File: f}}
		defer func() { r.info.Handles = nil }()
		p := r.start(t, sh("cd -P /proc/self/fd/5 && cat file; cd -P .. && ls && cat outside || echo no"))
		if got := p.all(); got != "routed\nfile\nno\n" {
			t.Errorf("%q", got)
		}
	})

	t.Run("limits", func(t *testing.T) {
		p := r.start(t, sh("ulimit -n; ulimit -c; umask", "limits.nofile", "100:200", "limits.core", "0", "umask", "077"))
		if got := p.all(); got != "100\n0\n0077\n" {
			t.Errorf("%q", got)
		}
	})

	t.Run("free by policy", func(t *testing.T) {
		r.Grants = func(m name.Moniker) confine.Grants { return confine.Grants{Unconfined: m == "/test"} }
		defer func() { r.Grants = nil }()
		p := r.start(t, sh("cat "+filepath.Join(dir, "outside")))
		if got := p.all(); got != "secret\n" {
			t.Errorf("%q", got)
		}
	})

	for _, c := range []struct {
		name    string
		block   runners.Block
		entries []runners.NamespaceEntry
		grants  confine.Grants
		want    []string
	}{
		{
			"a program outside of its world", block("binary", filepath.Join(dir, "pkg/bin/tool")), nil,
			confine.Grants{},
			[]string{"a.cml:2:5: program.binary", "no such file", "not in the component's world"},
		},
		{
			"a directory that isn't there", sh("exit", "cwd", "/var/log"), nil,
			confine.Grants{},
			[]string{"program.cwd", "chdir /var/log: no such file or directory"},
		},
		{
			"a place in the platform", sh("exit"),
			[]runners.NamespaceEntry{entry(t, "/usr/no/such", dir, 0)},
			confine.Grants{},
			[]string{"path /usr/no/such: lies in a directory of the platform"},
		},
		{
			"a place of the world's own", sh("exit"),
			[]runners.NamespaceEntry{entry(t, "/pkg/data", dir, 0)},
			confine.Grants{},
			[]string{"path /pkg/data: is the world's own"},
		},
		{
			"a place twice", sh("exit"),
			[]runners.NamespaceEntry{entry(t, "/a", dir, 0), entry(t, "/a", dir, 0)},
			confine.Grants{},
			[]string{"path /a: is given twice"},
		},
		{
			"no such capability", sh("exit"), nil,
			confine.Grants{Capabilities: []string{"CAP_FLY"}},
			[]string{`there is no capability "CAP_FLY"`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.info.Namespace = c.entries
			r.Grants = func(name.Moniker) confine.Grants { return c.grants }
			defer func() { r.Grants, r.info.Namespace = nil, nil }()
			_, _, err := r.try(t, t.Context(), c.block)
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("%v; want %q", err, w)
				}
			}
		})
	}
}

// Capabilities that are granted are there, for whoever the program runs as, and no other.
func TestConfinedCapabilities(t *testing.T) {
	needs.Root(t)
	r := newRig(t, " confined")
	r.Grants = func(name.Moniker) confine.Grants {
		return confine.Grants{Capabilities: []string{"CAP_NET_BIND_SERVICE", "CAP_CHOWN"}}
	}
	const want = "CapInh:\t0000000000000401\nCapPrm:\t0000000000000401\nCapEff:\t0000000000000401\nCapBnd:\t0000000000000401\n" +
		"CapAmb:\t0000000000000401\n"
	users := []string{"root"}
	if _, err := user.Lookup("nobody"); err == nil && os.Getenv("CI") == "" {
		users = append(users, "nobody")
	}
	for _, u := range users {
		p := r.start(t, sh("grep ^Cap /proc/self/status", "user", u))
		if got := p.all(); got != want {
			t.Errorf("as %s: %s", u, got)
		}
	}
}

// free is a TCP port that was free a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// eventually tries until it succeeds.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	for end := time.Now().Add(bound); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// Real programs, as Debian has them, run confined.
func TestConfinedPrograms(t *testing.T) {
	data := func(t *testing.T, mode os.FileMode) string {
		t.Helper()
		d := t.TempDir()
		if err := os.Chmod(d, mode); err != nil {
			t.Fatal(err)
		}
		return d
	}
	confined := func(t *testing.T, g confine.Grants, entries ...runners.NamespaceEntry) *rig {
		r := newRig(t, " confined")
		r.info.Namespace = entries
		r.Grants = func(name.Moniker) confine.Grants { return g }
		return r
	}
	system := func(t *testing.T, tool string) string {
		t.Helper()
		path := needs.Tool(t, tool)
		if real, err := filepath.EvalSymlinks(path); err != nil || !strings.HasPrefix(real, "/usr/") {
			path = "/usr/bin/" + tool
			if _, err := os.Stat(path); err != nil {
				t.Skipf("%s is not the system's", real)
			}
		}
		return path
	}

	t.Run("shell", func(t *testing.T) {
		p := confined(t, confine.Grants{}).start(t, sh("echo $$ $(echo a | tr a b) $(ls / | grep -c home) <&-; exit 3"))
		if got := p.all(); got != "1 b 0\n" {
			t.Errorf("%q", got)
		}
		p.ends(3, 0, runners.BySelf)
	})

	t.Run("python", func(t *testing.T) {
		python := system(t, "python3")
		r := confined(t, confine.Grants{})
		p := r.start(t, block("binary", python, "args", []string{"-c", `
import os, socket, ssl, subprocess, tempfile, threading, json, hashlib, ctypes, multiprocessing, pwd
with tempfile.NamedTemporaryFile() as f: f.write(b"x")
t = threading.Thread(target=lambda: None); t.start(); t.join()
multiprocessing.Lock()
ssl.create_default_context(); pwd.getpwuid(0)
assert subprocess.run(["/bin/echo", "hi"], capture_output=True).stdout == b"hi\n"
try: socket.socket()
except OSError as e: print(type(e).__name__, e.errno)
print(os.getpid(), sorted(os.listdir("/proc/self/fd"))[:3])`}))
		if got := p.all(); got != "OSError 97\n1 ['0', '1', '2']\n" {
			t.Errorf("%q", got)
		}
		p.ends(0, 0, runners.BySelf)
	})

	t.Run("nginx", func(t *testing.T) {
		nginx := system(t, "nginx")
		work, port := data(t, 0o755), free(t)
		conf := fmt.Sprintf(`user root; daemon off; pid /work/pid; error_log stderr; events {}
http { access_log off; client_body_temp_path /work/b; proxy_temp_path /work/p; fastcgi_temp_path /work/f; uwsgi_temp_path /work/u;
scgi_temp_path /work/s; server { listen 127.0.0.1:%s; root /work; } }`, port)
		for file, text := range map[string]string{"conf": conf, "page": "hello from nginx"} {
			if err := os.WriteFile(filepath.Join(work, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b := block("binary", nginx, "args", []string{"-c", "/work/conf", "-e", "stderr"}, "stop_signal", "QUIT")
		p := confined(t, confine.Grants{Network: true}, entry(t, "/work", work, manifest.RightsRW)).start(t, b)
		var page string
		eventually(t, func() error {
			resp, err := http.Get("http://127.0.0.1:" + port + "/page")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			page = string(b)
			return err
		})
		http.DefaultClient.CloseIdleConnections()
		if page != "hello from nginx" {
			t.Errorf("the page is %q", page)
		}
		p.ask()
		p.ends(0, 0, runners.ByStop)

		q := confined(t, confine.Grants{}, entry(t, "/work", work, manifest.RightsRW)).start(t, b)
		if x := wait(t, q); x.Code != 1 {
			t.Errorf("without the network it %v", x)
		}
	})

	t.Run("redis", func(t *testing.T) {
		redis := system(t, "redis-server")
		work := data(t, 0o755)
		p := confined(t, confine.Grants{}, entry(t, "/work", work, manifest.RightsRW)).start(t, block("binary", redis, "cwd", "/work",
			"args", []string{"--port", "0", "--unixsocket", "/work/socket", "--dir", "/work", "--save", "", "--appendonly", "yes"}))
		say := func(command string) (string, error) {
			c, err := net.Dial("unix", filepath.Join(work, "socket"))
			if err != nil {
				return "", err
			}
			defer c.Close()
			fmt.Fprint(c, command+"\r\n")
			return bufio.NewReader(c).ReadString('\n')
		}
		eventually(t, func() error {
			got, err := say("SET a 1")
			if err == nil && got != "+OK\r\n" {
				err = fmt.Errorf("redis says %q", got)
			}
			return err
		})
		if got, _ := say("INCR a"); got != ":2\r\n" {
			t.Errorf("INCR: %q", got)
		}
		p.ask()
		p.ends(0, 0, runners.ByStop)
	})

	t.Run("postgres", func(t *testing.T) {
		needs.Root(t)
		postgres := needs.Tool(t, "postgres")
		if real, err := filepath.EvalSymlinks(postgres); err == nil {
			postgres = real
		}
		if !strings.HasPrefix(postgres, "/usr/") {
			t.Skipf("%s is not the system's", postgres)
		}
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		work := data(t, 0o755)
		home := filepath.Join(work, "data")
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(home, uid, gid); err != nil {
			t.Fatal(err)
		}
		r := confined(t, confine.Grants{})
		with := func() { r.info.Namespace = []runners.NamespaceEntry{entry(t, "/data", home, manifest.RightsRW)} }
		with()
		v := r.start(t, block("binary", postgres, "args", []string{"-V"}, "user", "postgres"))
		if got := v.all(); !strings.HasPrefix(got, "postgres (PostgreSQL)") {
			t.Errorf("-V says %q", got)
		}
		with()
		bin := filepath.Dir(postgres)
		i := r.start(t, block("binary", filepath.Join(bin, "initdb"), "user", "postgres",
			"args", []string{"-D", "/data", "-A", "trust", "--no-sync"},
			"environ", []string{"LC_ALL=C", "PATH=/usr/bin:/bin:" + bin}))
		out := i.all()
		if x := wait(t, i); x.Code != 0 {
			t.Fatalf("initdb %v:\n%s", x, out)
		}
		with()
		p := r.start(t, block("binary", postgres, "user", "postgres",
			"args", []string{"-D", "/data", "-k", "/data", "-c", "listen_addresses="},
			"stop_signal", "INT"))
		psql, err := exec.LookPath(filepath.Join(bin, "psql"))
		if err != nil {
			t.Fatal(err)
		}
		var answer string
		eventually(t, func() error {
			with()
			q := r.start(t, block("binary", psql, "args", []string{"-h", "/data", "-Atc", "select 6*7", "postgres"}, "user", "postgres"))
			answer = q.all()
			if x := wait(t, q); x.Code != 0 {
				return fmt.Errorf("psql %v: %s", x, answer)
			}
			return nil
		})
		if answer != "42\n" {
			t.Errorf("the answer is %q", answer)
		}
		p.ask()
		p.ends(0, 0, runners.ByStop)
	})
}
