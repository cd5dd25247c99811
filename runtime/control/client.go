package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb/controlpbconnect"
)

// ErrNoManager is in the chain of Dial's error when there is no manager to speak to.
var ErrNoManager = errors.New("no manager")

// A Client speaks to one manager. Its errors are made for ProblemOf.
type Client struct {
	controlpbconnect.ControlClient
	http *http.Client
	dial func(context.Context) (net.Conn, error)
}

// Dial finds the manager of that name, or the one that listens at socket if that is not "", and checks that it is there.
func Dial(ctx context.Context, manager, socket string) (*Client, error) {
	path := socket
	if path == "" {
		path = Path(manager)
	}
	var d net.Dialer
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
	conn, err := dial(ctx, "", "")
	if err != nil {
		return nil, noManager(manager, socket, path, err)
	}
	conn.Close()
	c := &http.Client{Transport: &http.Transport{DialContext: dial}}
	again := func(ctx context.Context) (net.Conn, error) { return dial(ctx, "", "") }
	return &Client{controlpbconnect.NewControlClient(c, "http://cmgr"), c, again}, nil
}

// Close drops the client's connections; call it after the last stream is closed.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func noManager(manager, socket, path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return absent{problem(capabilities.Denied, "", "the manager at %s belongs to another user", path)}
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		return absent{problem(capabilities.Unavailable, "", "%v", err)}
	case socket != "":
		return absent{problem(capabilities.Unavailable, "", "no manager listens at %s", path)}
	}
	hint := "start one with `cmgr run ROOT`"
	if manager != DefaultName {
		hint = fmt.Sprintf("start one with `cmgr run --name %s ROOT`", manager)
	}
	if others := Running(); len(others) > 0 {
		hint += ", or name another with --name (running: " + strings.Join(others, ", ") + ")"
	}
	const writable = 2
	if root := filepath.Join(rootDir, manager+".sock"); path != root && syscall.Access(root, writable) == nil {
		hint += "; root's manager of that name lets you in by --socket " + root
	}
	return absent{problem(capabilities.Unavailable, hint, "no manager named %s is running", manager)}
}

// absent is an Error that is ErrNoManager too.
type absent struct{ err *Error }

func (a absent) Error() string   { return a.err.Error() }
func (a absent) Unwrap() []error { return []error{a.err, ErrNoManager} }
