package framework

import (
	"context"
	"errors"
	"io"
	"net"

	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/rpc"
	"github.com/cmgr/cmgr/proto/componentpb"
)

// Items are what is in a dictionary that a program provides (`capabilities: [{ dictionary: "d", path: "/svc/d" }]`): protocols,
// by name. Its methods may be called at the same time.
type Items interface {
	// Names are all protocols that there are now. There may be more, which those who know their names can connect to.
	Names(ctx context.Context) ([]string, error)
	// Open takes a connection that a component has made to the protocol of that name; it must not block for the conversation. An
	// error refuses it; the connection is closed then. Its words come into the log of who has connected.
	Open(ctx context.Context, name string, conn net.Conn) error
}

// ServeDictionary provides items over conn, which a manager has made: accepted from the listening socket of the dictionary's name
// (LISTEN_FDNAMES; sd_listen_fds(3)). Each receive from changed says that Names has changed; changed may be nil. It returns when
// the manager has closed the connection (nil) or breaks the protocol, or ctx is done (its cause). The conn is closed.
func ServeDictionary(ctx context.Context, conn *net.UnixConn, items Items, changed <-chan struct{}) error {
	c, err := rpc.Accept(ctx, conn, rpc.Config{
		Protocol: Dictionary, Versions: []uint32{version}, MaxFDs: 1, MaxBody: maxItem,
		Handle: func(ctx context.Context, method string, m rpc.Message) (rpc.Message, error) {
			switch method {
			case "List":
				m.Close()
				return listed(ctx, items)
			case "Open":
				return rpc.Message{}, opened(ctx, items, m)
			}
			m.Close()
			return rpc.Message{}, rpc.ErrUnsupported
		},
	})
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		select {
		case _, more := <-changed:
			if !more {
				changed = nil
				continue
			}
			if err := c.Notify(ctx, "Changed", rpc.Message{}); err != nil && ctx.Err() == nil {
				<-c.Done()
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.Done():
			if err := c.Err(); !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		}
	}
}

// maxItem is the longest request to a dictionary, in bytes.
const maxItem = 4096

func listed(ctx context.Context, items Items) (rpc.Message, error) {
	names, err := items.Names(ctx)
	if err != nil {
		return rpc.Message{}, &rpc.Error{Why: capabilities.CodeOf(err), Text: err.Error()}
	}
	out := &componentpb.Exposed{}
	for _, n := range names {
		out.Capabilities = append(out.Capabilities, &componentpb.Capability{Kind: "protocol", Name: n})
	}
	body, err := proto.Marshal(out)
	return rpc.Message{Body: body}, err
}

func opened(ctx context.Context, items Items, m rpc.Message) error {
	defer m.Close()
	q := new(componentpb.Capability)
	if err := proto.Unmarshal(m.Body, q); err != nil || q.Kind != "protocol" || len(m.Files) != 1 {
		return &rpc.Error{Why: capabilities.Invalid, Text: "the request is no protocol with its connection"}
	}
	conn, err := net.FileConn(m.Files[0])
	if err != nil {
		return &rpc.Error{Why: capabilities.Invalid, Text: "the descriptor is no connection"}
	}
	if err := items.Open(ctx, q.Name, conn); err != nil {
		conn.Close()
		return &rpc.Error{Why: capabilities.CodeOf(err), Text: err.Error()}
	}
	return nil
}
