package control

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/name"
)

// TestConnect: the client gets the very connection, and whoever cannot is told why.
func TestConnect(t *testing.T) {
	tr := newTree(t, map[string]string{
		"root.cml": `{
			children: [ { name: "echo", url: "echo.cml" }, { name: "user", url: "user.cml" } ],
			offer: [ { protocol: "Echo", from: "#echo", to: "#user" } ],
		}`,
		"echo.cml": `{ program: { runner: "elf", binary: "b" }, capabilities: [ { protocol: "Echo" }, { protocol: "Own" } ],
			expose: [ { protocol: "Echo", from: "self" } ] }`,
		"user.cml": `{ program: { runner: "elf", binary: "b" }, use: [ { protocol: "Echo" }, { protocol: "Nothing" } ] }`,
	})
	refuse := errors.New("it is tired")
	c, _, _ := serve(t, tr, func(cfg *Config) {
		cfg.Connect = func(_ context.Context, m name.Moniker, protocol string) (*os.File, error) {
			if protocol == "Own" {
				return nil, refuse
			}
			fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			theirs := os.NewFile(uintptr(fds[1]), "provider")
			defer theirs.Close()
			_, err = theirs.WriteString(string(m) + " " + protocol)
			return os.NewFile(uintptr(fds[0]), "connection"), err
		}
	})
	for _, query := range []string{"/echo", "/user"} {
		conn, err := c.Connect(bounded(t), query, "Echo")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(conn)
		conn.Close()
		if string(b) != "/echo Echo" || err != nil {
			t.Errorf("%s: %q, %v", query, b, err)
		}
	}
	for _, want := range []struct {
		query, protocol, text string
		code                  capabilities.Code
	}{
		{"/echo", "Own", "connect to /echo Own: it is tired", capabilities.Internal},
		{"/user", "Nothing", "`Nothing` was not offered to `/user` by parent", capabilities.NotFound},
		{"/user", "Ecko", "did you mean Echo?", capabilities.NotFound},
		{"/", "x", "it has none", capabilities.NotFound},
		{"/nobody", "Echo", "nobody", capabilities.NotFound},
		{"/user", "", "it has Echo, Nothing", capabilities.NotFound},
	} {
		_, err := c.Connect(bounded(t), want.query, want.protocol)
		if err == nil || !strings.Contains(err.Error(), want.text) || capabilities.CodeOf(err) != want.code {
			t.Errorf("%s %s: %v (%v)", want.query, want.protocol, err, capabilities.CodeOf(err))
		}
	}
}
