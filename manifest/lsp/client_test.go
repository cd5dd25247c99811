package lsp

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// A client speaks to a server of its own.
type client struct {
	t        testing.TB
	in       *io.PipeWriter
	received chan received
	ended    chan error
	id       int
	waiting  []received // notifications that nobody has asked for yet
}

// received is any message of the server.
type received struct {
	ID     json.RawMessage
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  *rpcError
}

// start starts a server, not initialized. It is stopped when the test ends.
func start(t testing.TB, o Options) *client {
	inRead, inWrite := io.Pipe()
	outRead, outWrite := io.Pipe()
	c := &client{t: t, in: inWrite, received: make(chan received, 10_000), ended: make(chan error, 1)}
	go func() {
		err := Serve(inRead, outWrite, o)
		outWrite.Close()
		inRead.Close() // what is written after an exit goes nowhere
		c.ended <- err
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(c.received)
		r := bufio.NewReader(outRead)
		for {
			n, err := readHeader(r)
			if err != nil {
				return
			}
			b := make([]byte, n)
			if _, err := io.ReadFull(r, b); err != nil {
				t.Error(err)
				return
			}
			var m received
			if err := json.Unmarshal(b, &m); err != nil {
				t.Errorf("%v: %s", err, b)
			}
			c.received <- m
		}
	}()
	t.Cleanup(func() { inWrite.Close(); <-done })
	return c
}

// open starts a server that is initialized with capabilities.
func open(t testing.TB, o Options, capabilities string) *client {
	c := start(t, o)
	c.call("initialize", json.RawMessage(`{"capabilities":`+capabilities+`}`))
	c.notify("initialized", object{})
	return c
}

func (c *client) write(v any) {
	c.t.Helper()
	if err := write(c.in, v); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) notify(method string, params any) {
	c.t.Helper()
	c.write(object{"jsonrpc": "2.0", "method": method, "params": params})
}

// next is the next message of the server.
func (c *client) next() received {
	c.t.Helper()
	select {
	case m, ok := <-c.received:
		if !ok {
			c.t.Fatal("the server ended")
		}
		return m
	case <-time.After(2 * time.Minute):
		c.t.Fatal("the server says nothing")
	}
	return received{}
}

// call waits for the response to a request.
func (c *client) call(method string, params any) received {
	c.t.Helper()
	c.id++
	c.write(object{"jsonrpc": "2.0", "id": c.id, "method": method, "params": params})
	for {
		m := c.next()
		if m.Method == "" {
			return m
		}
		c.waiting = append(c.waiting, m)
	}
}

type published struct {
	URI         string
	Version     *int
	Diagnostics []diagnostic
}

// published waits for the diagnostics of a version of a document.
func (c *client) published(uri string, version int) []diagnostic {
	c.t.Helper()
	for {
		var m received
		if len(c.waiting) > 0 {
			m, c.waiting = c.waiting[0], c.waiting[1:]
		} else {
			m = c.next()
		}
		var p published
		if m.Method != "textDocument/publishDiagnostics" || json.Unmarshal(m.Params, &p) != nil {
			c.t.Fatalf("unexpected %+v", m)
		}
		if p.URI == uri && p.Version != nil && *p.Version == version {
			return p.Diagnostics
		}
	}
}
