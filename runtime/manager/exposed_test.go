package manager

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/runtime/realm"
)

// A parent reaches all that its children expose by Realm, whatever its kind and wherever it comes from.
func TestOpenExposedDir(t *testing.T) {
	l := newLive(t)
	l.manifest("root.cml", `{
		program: { runner: "elf", binary: "bin/root" },
		children: [ { name: "pool", url: "pool.cml" } ],
		use: [ { protocol: "cmgr.component.Realm", from: "framework" } ],
	}`)
	l.manifest("pool.cml", `{
		children: [ { name: "x", url: "x.cml" }, { name: "y", url: "x.cml" } ],
		expose: [
			{ protocol: "echo", from: "#x" },
			{ protocol: "cmgr.component.Binder", from: "framework" },
			{ service: "work", from: [ "#x", "#y" ] },
			{ directory: "data", from: "#x", rights: [ "r*" ], subdir: "pub" },
			{ directory: "all", from: "#x" },
			{ directory: "gone", from: "void", availability: "optional" },
		],
	}`)
	l.manifest("x.cml", `{
		program: { runner: "elf", binary: "bin/x" },
		capabilities: [ { protocol: "echo" }, { service: "work" }, { directory: "data", rights: [ "rw*" ], path: "/d" } ],
		expose: [ { protocol: "echo", from: "self" }, { service: "work", from: "self" }, { directory: "data", from: "self" }, { directory: "data", from: "self", as: "all" } ],
	}`)
	l.put("cmgr.json5", "{}")
	l.run(Config{})
	ctx, r := t.Context(), l.m.Realm()
	if err := r.Start(ctx, "/", "test"); err != nil {
		t.Fatal(err)
	}
	base, err := l.view(ctx, "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := dialLong(filepath.Join(base, "svc/cmgr.component.Realm"), syscall.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	c, err := framework.NewClient(ctx, conn.(*net.UnixConn), framework.Realm)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	client, pool := framework.RealmClient{Client: c}, framework.Ref{Name: "pool"}

	got, err := client.OpenExposedDir(ctx, pool)
	want := []framework.Capability{
		{Kind: "directory", Name: "all"},
		{Kind: "directory", Name: "data"},
		{Kind: "directory", Name: "gone"},
		{Kind: "protocol", Name: "cmgr.component.Binder"},
		{Kind: "protocol", Name: "echo"},
		{Kind: "service", Name: "work", Instances: []string{"x", "y"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("exposed: %v, %v", got, err)
	}
	if i, _ := r.Instance("/pool/x"); i.State == realm.Started {
		t.Error("what was only asked for runs")
	}
	hears := func(who string, conn net.Conn, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", who, err)
			return
		}
		defer conn.Close()
		if text, err := io.ReadAll(conn); strings.TrimSpace(string(text)) != who {
			t.Errorf("heard %q, %v; want %q", text, err, who)
		}
	}
	conn, err = client.ConnectExposed(ctx, pool, "echo")
	hears("/pool/x echo", conn, err)
	for _, i := range []string{"x", "y"} {
		conn, err = client.ConnectInstance(ctx, pool, "work", i)
		hears("/pool/"+i+" work", conn, err)
	}
	if conn, err = client.ConnectExposed(ctx, pool, "cmgr.component.Binder"); err != nil {
		t.Errorf("a protocol of the framework: %v", err)
	} else {
		conn.Close()
	}

	all, err := client.OpenDirectory(ctx, pool, "all")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	if err := errors.Join(syscall.Mkdirat(int(all.Fd()), "pub", 0o755), write(all, "pub/f")); err != nil {
		t.Errorf("a directory with all rights: %v", err)
	}
	data, err := client.OpenDirectory(ctx, pool, "data")
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	if names, err := data.Readdirnames(-1); len(names) != 1 || names[0] != "f" {
		t.Errorf("its subdirectory has %v, %v", names, err)
	}
	if os.Geteuid() == 0 {
		if err := write(data, "g"); !errors.Is(err, syscall.EROFS) {
			t.Errorf("a directory that may only be read: %v", err)
		}
		if up, err := syscall.Openat(int(data.Fd()), "..", syscall.O_DIRECTORY, 0); err == nil {
			var a, b syscall.Stat_t
			if syscall.Fstat(up, &a) != nil || syscall.Fstat(int(data.Fd()), &b) != nil || a.Ino != b.Ino {
				t.Error("the directory leads to what is above it")
			}
			syscall.Close(up)
		}
	}
	for what, ask := range map[string]func() error{
		"was not exposed": func() error { _, err := client.OpenDirectory(ctx, pool, "nothing"); return err },
		"is no directory": func() error { _, err := client.OpenDirectory(ctx, pool, "gone"); return err },
		"no instance":     func() error { _, err := client.ConnectInstance(ctx, pool, "work", "z"); return err },
	} {
		if err := ask(); err == nil || capabilities.CodeOf(err) != capabilities.NotFound || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want not found: %s", err, what)
		}
	}
}

// write makes an empty file in dir.
func write(dir *os.File, file string) error {
	fd, err := syscall.Openat(int(dir.Fd()), file, syscall.O_CREAT|syscall.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return syscall.Close(fd)
}
