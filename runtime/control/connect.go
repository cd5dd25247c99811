package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A connection to a component's protocol is a descriptor, which no Connect method can give. So it has a path of its own on the same
// socket:
//
//	POST /connect?query=QUERY&protocol=NAME
//
// The answer is "101 Switching Protocols" and then one byte, which carries the connection (SCM_RIGHTS), and the end; or an error with
// its Problem as JSON.
const connectPath = "/connect"

// connectTo answers connectPath.
func (s *Server) connectTo(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f, err := s.connection(r.Context(), q.Get("query"), q.Get("protocol"))
	if err != nil {
		refuse(w, err)
		return
	}
	defer f.Close()
	u := upgrade(w)
	if u == nil {
		return
	}
	defer u.Close()
	_, _, _ = u.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(f.Fd())), nil)
}

// refuse answers a request that is for no Connect method with err's Problem.
func refuse(w http.ResponseWriter, err error) {
	b, jerr := JSON(ProblemOf(err))
	if jerr != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write(b) // what can fail is telling the peer, who will notice
}

// answerTime is how long a peer may take to take what is sent to it.
const answerTime = 10 * time.Second

// upgrade answers "101 Switching Protocols" and returns the connection, which is the caller's; nil if that can't be.
func upgrade(w http.ResponseWriter) *net.UnixConn {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		http.Error(w, "no descriptor can be passed here", http.StatusHTTPVersionNotSupported)
		return nil
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		return nil
	}
	u, ok := conn.(*net.UnixConn)
	if ok {
		u.SetWriteDeadline(time.Now().Add(answerTime))
		const head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: descriptor\r\n\r\n"
		_, err = u.Write([]byte(head))
	}
	if !ok || err != nil {
		conn.Close()
		return nil
	}
	return u
}

// connection connects to a protocol that the instance declares, exposes or uses, in this order.
func (s *Server) connection(ctx context.Context, query, protocol string) (*os.File, error) {
	i, err := s.find(ctx, query)
	if err != nil {
		return nil, failed("find", query, err)
	}
	fail := func(err error) (*os.File, error) {
		return nil, failed("connect to", string(i.Moniker)+" "+protocol, err)
	}
	n, ok := s.cfg.Tree.Node(i.Moniker)
	if !ok {
		return fail(gone(i.Moniker))
	}
	d, err := n.Decl(ctx)
	if err != nil {
		return fail(err)
	}
	if s.cfg.Connect == nil {
		return fail(problem(capabilities.Unavailable, "", "this manager connects to no components"))
	}
	if d.Capability(manifest.KindProtocol, protocol) != nil {
		f, err := s.cfg.Connect(ctx, i.Moniker, protocol)
		if err != nil {
			return fail(err)
		}
		return f, nil
	}
	var names []string
	for _, q := range s.routes(ctx, n, d, nil) {
		if q.kind != manifest.KindProtocol {
			continue
		}
		names = append(names, q.name)
		switch {
		case q.name != protocol:
			continue
		case q.err != nil:
			return fail(q.err)
		case q.route.Source.Kind != capabilities.FromComponent:
			return fail(problem(capabilities.Unavailable, "", "it comes from %s, not from a component", q.route.Source))
		}
		f, err := s.cfg.Connect(ctx, q.route.Source.At, q.route.Source.Name)
		if err != nil {
			return fail(err)
		}
		return f, nil
	}
	for k := range d.Capabilities {
		if c := &d.Capabilities[k]; c.Kind == manifest.KindProtocol {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	hint := "it has none"
	if near := name.Nearest(protocol, names); near != "" {
		hint = "did you mean " + near + "?"
	} else if len(names) > 0 {
		hint = "it has " + strings.Join(names, ", ")
	}
	return fail(problem(capabilities.NotFound, hint, "it declares, exposes and uses no such protocol"))
}

// Connect connects to a protocol that an instance declares, exposes or uses, starting its provider. The connection, which is the
// caller's, leads to the component itself, not through the manager.
func (c *Client) Connect(ctx context.Context, query, protocol string) (*net.UnixConn, error) {
	conn, err := c.ask(ctx, connectPath, url.Values{"query": {query}, "protocol": {protocol}})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var text bytes.Buffer
	var got *os.File
	defer func() {
		if got != nil {
			got.Close()
		}
	}()
	buf, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	for text.Len() < maxRequest {
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		text.Write(buf[:n])
		if msgs, perr := syscall.ParseSocketControlMessage(oob[:oobn]); perr == nil {
			for _, m := range msgs {
				fds, _ := syscall.ParseUnixRights(&m)
				for _, fd := range fds {
					if got != nil {
						got.Close()
					}
					got = os.NewFile(uintptr(fd), "connection")
				}
			}
		}
		if errors.Is(err, io.EOF) || n == 0 && err == nil {
			break
		}
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, fmt.Errorf("ask the manager: %w", err)
		}
	}
	r, err := http.ReadResponse(bufio.NewReader(&text), nil)
	if err != nil {
		return nil, fmt.Errorf("the manager's answer: %w", err)
	}
	defer r.Body.Close()
	if r.StatusCode == http.StatusSwitchingProtocols && got != nil {
		to, err := net.FileConn(got)
		if err != nil {
			return nil, err
		}
		u, ok := to.(*net.UnixConn)
		if !ok {
			to.Close()
			return nil, errors.New("the manager's answer is no unix socket")
		}
		return u, nil
	}
	return nil, refusal(r)
}

// ask sends a request for path, which is no Connect method's, on a connection of its own.
func (c *Client) ask(ctx context.Context, path string, q url.Values) (*net.UnixConn, error) {
	raw, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	conn := raw.(*net.UnixConn)
	if _, err := fmt.Fprintf(conn, "POST %s?%s HTTP/1.1\r\nHost: cmgr\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
		path, q.Encode()); err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask the manager: %w", err)
	}
	return conn, nil
}

// refusal is what an answer says that is not the one hoped for.
func refusal(r *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	p := &Problem{}
	if err != nil || protojson.Unmarshal(body, p) != nil || p.GetMessage() == "" {
		return fmt.Errorf("the manager answers %s", r.Status)
	}
	return &Error{p}
}
