package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/proto/componentpb"
	"github.com/cmgr/cmgr/runners"
)

// maxManifest is the longest answer of a resolver in another process, in bytes.
const maxManifest = 4 << 20

// Remote is the manager's end of a connection to a resolver in another process (runtime/host/PROTOCOL.md). It is not trusted:
// what it answers is checked as any manifest is, and the package that it names lies in its own.
type Remote struct {
	conn *rpc.Conn
	pkg  string
}

// NewRemote makes a Remote of a connection to a resolver whose package is the directory pkg, "" for none. It owns conn; on an
// error it is closed.
func NewRemote(ctx context.Context, conn *net.UnixConn, pkg string) (*Remote, error) {
	c, err := rpc.Connect(ctx, conn, rpc.Config{Protocol: framework.Resolver, Versions: []uint32{1}, MaxBody: maxManifest})
	if err != nil {
		return nil, err
	}
	return &Remote{c, pkg}, nil
}

// Done is closed when the resolver has gone.
func (r *Remote) Done() <-chan struct{} { return r.conn.Done() }

// Close ends the connection.
func (r *Remote) Close() { r.conn.Close() }

// Err is why the resolver has gone; nil while it is there.
func (r *Remote) Err() error {
	switch err := r.conn.Err(); {
	case errors.Is(err, io.EOF):
		return errors.New("the resolver closed its connection")
	case errors.Is(err, rpc.ErrClosed):
		return errors.New("the connection to the resolver was closed")
	case err != nil && !errors.As(err, new(*rpc.Error)):
		return fmt.Errorf("the resolver was dropped: it %w", err)
	default:
		return err
	}
}

// Resolve asks the resolver for the declaration at ref.
func (r *Remote) Resolve(ctx context.Context, ref string, parent *Resolved) (*Resolved, error) {
	fail := func(why capabilities.Code, err error) (*Resolved, error) {
		return nil, &Error{URL: ref, Why: why, Err: err}
	}
	ask := &componentpb.Resolve{Url: ref}
	if parent != nil {
		ask.Parent = parent.URL
	}
	body, err := proto.Marshal(ask)
	if err != nil {
		return fail(capabilities.Invalid, err)
	}
	m, err := r.conn.Call(ctx, "Resolve", rpc.Message{Body: body})
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if e := (*rpc.Error)(nil); errors.As(err, &e) {
			return nil, &Error{URL: ref, Why: e.Why, Err: errors.New(e.Text), Hint: e.Hint}
		}
		if gone := r.Err(); gone != nil {
			err = gone
		}
		return fail(capabilities.Unavailable, err)
	}
	got := new(componentpb.Resolved)
	if err := proto.Unmarshal(m.Body, got); err != nil {
		return fail(capabilities.Internal, errors.New("the resolver's answer is no Resolved"))
	}
	if u, err := url.Parse(got.Url); err != nil || u.Scheme == "" {
		return fail(capabilities.Internal, fmt.Errorf("the resolver's answer has the URL %q, which is not absolute", got.Url))
	}
	out := &Resolved{URL: got.Url}
	if got.Package != "" {
		if out.Package, err = r.packageAt(got.Package); err != nil {
			return fail(capabilities.NotFound, err)
		}
	}
	file := got.File
	if file == "" {
		file = got.Url
	}
	var found manifest.Diagnostics
	if codec.Is(got.Manifest) {
		out.Decl, found = codec.Load(file, got.Manifest)
	} else {
		// It can include nothing: its neighbours are files of another's.
		out.Decl, found = cml.Load(file, got.Manifest, cml.Options{})
	}
	if err := found.Err(); err != nil {
		return fail(capabilities.Invalid, err)
	}
	out.Warnings = found
	return out, nil
}

// packageAt is the package that the resolver names: a directory of its own package.
func (r *Remote) packageAt(path string) (runners.Package, error) {
	if r.pkg == "" {
		return runners.Package{}, errors.New("the resolver names a package, and has none itself")
	}
	if path != "." && !filepath.IsLocal(path) {
		return runners.Package{}, fmt.Errorf("the resolver names the package %q, which is not in its own", path)
	}
	// What it is now may be a symlink to elsewhere: only where it leads counts.
	own, err := filepath.EvalSymlinks(r.pkg)
	if err != nil {
		return runners.Package{}, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(own, path))
	if err != nil {
		return runners.Package{}, fmt.Errorf("the resolver names a package that is not there: %w", err)
	}
	if rel, err := filepath.Rel(own, dir); err != nil || rel != "." && !filepath.IsLocal(rel) {
		return runners.Package{}, fmt.Errorf("the resolver names the package %q, which leads out of its own", path)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return runners.Package{}, fmt.Errorf("the resolver names the package %q, which is no directory", path)
	}
	return runners.Package{Dir: dir}, nil
}
