package lsp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cmgr/cmgr/manifest/json5"
)

// frame is the message that a client sends.
func frame(content string) string {
	return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(content), content)
}

// converse is what a server answers to input, one message a line, and what Serve returns.
func converse(t testing.TB, input string) ([]received, error) {
	var out bytes.Buffer
	err := Serve(strings.NewReader(input), &out, Options{Delay: time.Hour})
	r := bufio.NewReader(&out)
	var got []received
	for {
		n, e := readHeader(r)
		if e == io.EOF {
			return got, err
		}
		if e != nil {
			t.Fatal(e)
		}
		b := make([]byte, n)
		if _, e := io.ReadFull(r, b); e != nil {
			t.Fatal(e)
		}
		var m received
		if e := json.Unmarshal(b, &m); e != nil {
			t.Fatalf("%v: %s", e, b)
		}
		got = append(got, m)
	}
}

const (
	initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{}}}`
	shutdown   = `{"jsonrpc":"2.0","id":"last","method":"shutdown"}`
	exit       = `{"jsonrpc":"2.0","method":"exit"}`
)

func TestConversations(t *testing.T) {
	for _, c := range []struct {
		name     string
		messages []string
		want     string // "id:code …" of the responses
		err      error
	}{
		{"all is well", []string{initialize, shutdown, exit}, `1:0 "last":0`, nil},
		{"exit without shutdown", []string{initialize, exit}, `1:0`, ErrNoShutdown},
		{"exit at once", []string{exit}, ``, ErrNoShutdown},
		{"the client goes away", []string{initialize}, `1:0`, ErrGone},
		{"the client goes away after shutdown", []string{initialize, shutdown}, `1:0 "last":0`, nil},
		{
			"before initialize",
			[]string{`{"id":7,"method":"shutdown"}`, `{"method":"textDocument/didOpen"}`, exit},
			`7:-32002`, ErrNoShutdown,
		},
		{"initialize twice", []string{initialize, initialize, exit}, `1:0 1:-32600`, ErrNoShutdown},
		{
			"after shutdown",
			[]string{initialize, shutdown, `{"id":2,"method":"textDocument/hover"}`, exit},
			`1:0 "last":0 2:-32600`, nil,
		},
		{"unknown method", []string{initialize, `{"id":2,"method":"a/b"}`, `{"method":"a/b"}`, exit}, `1:0 2:-32601`, ErrNoShutdown},
		{"no JSON", []string{`{`, initialize, exit}, `null:-32700 1:0`, ErrNoShutdown},
		{"no request", []string{
			`[]`, `7`, `{"id":4}`, `{"id":{},"method":"x"}`, `{"id":null,"method":"x"}`, `{"id":5,"method":[]}`, exit,
		}, `null:-32600 null:-32600 4:-32600 null:-32600 null:-32600 5:-32600`, ErrNoShutdown},
		{"responses are nothing", []string{initialize, `{"id":9,"result":null}`, `{"id":9,"error":{}}`, exit}, `1:0`, ErrNoShutdown},
		{"bad parameters", []string{
			initialize, `{"id":2,"method":"textDocument/hover","params":[1]}`, `{"id":3,"method":"textDocument/hover"}`,
			`{"id":4,"method":"textDocument/hover","params":{"textDocument":{"uri":"file:///x.cml"}}}`, exit,
		}, `1:0 2:-32602 3:-32602 4:-32602`, ErrNoShutdown},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in strings.Builder
			for _, m := range c.messages {
				in.WriteString(frame(m))
			}
			got, err := converse(t, in.String())
			var words []string
			for _, m := range got {
				code := 0
				if m.Error != nil {
					code = m.Error.Code
				}
				id := string(m.ID)
				if id == "" {
					id = "null"
				}
				words = append(words, fmt.Sprintf("%s:%d", id, code))
			}
			if text := strings.Join(words, " "); text != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %s and %v, want %s and %v", text, err, c.want, c.err)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	for _, c := range []struct {
		name, input string
		err         error
	}{
		{"other fields", "Content-Type: application/vscode-jsonrpc; charset=utf-8\r\ncontent-length:  " + fmt.Sprint(len(exit)) +
			"\r\n\r\n" + exit, ErrNoShutdown},
		{"bare line feeds", fmt.Sprintf("Content-Length: %d\n\n%s", len(exit), exit), ErrNoShutdown},
		{"no length", "Content-Type: x\r\n\r\n" + exit, ErrHeader},
		{"nothing", "\r\n\r\n", ErrHeader},
		{"no field", "hello\r\n\r\n", ErrHeader},
		{"no number", "Content-Length: many\r\n\r\n", ErrHeader},
		{"negative", "Content-Length: -1\r\n\r\n", ErrHeader},
		{"too much", "Content-Length: 99999999999999999999\r\n\r\n", ErrHeader},
		{"twice", "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", ErrHeader},
		{"endless line", strings.Repeat("a", 1<<20), ErrHeader},
		{"endless header", strings.Repeat("a: b\r\n", 1<<16), ErrHeader},
		{"cut off in the header", "Content-Length: 2\r\n", ErrGone},
		{"cut off in the message", "Content-Length: 200\r\n\r\n{}", ErrGone},
		{"a promise of much", "Content-Length: 16777216\r\n\r\n{}", ErrGone},
		{"empty", "", ErrGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := converse(t, c.input); !errors.Is(err, c.err) || len(got) > 0 {
				t.Errorf("got %v and %v, want %v", got, err, c.err)
			}
		})
	}
}

// TestLargeMessage: one that is too large is refused, and the next one read.
func TestLargeMessage(t *testing.T) {
	got, err := converse(t, frame(strings.Repeat(" ", maxMessage+1))+frame(initialize)+frame(shutdown)+frame(exit))
	if err != nil || len(got) != 3 || got[0].Error.Code != codeInvalidRequest || got[1].Error != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// TestCancel: a request that waits for its turn is answered as cancelled. The server is kept busy until both are in its queue by
// nobody reading its answers.
func TestCancel(t *testing.T) {
	in, inWrite := io.Pipe()
	outRead, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(in, out, Options{})
		out.Close()
	}()
	send := func(s string) {
		if _, err := io.WriteString(inWrite, frame(s)); err != nil {
			t.Error(err)
		}
	}
	send(initialize) // and now it waits to write the answer
	send(`{"id":2,"method":"textDocument/hover","params":{}}`)
	send(`{"id":3,"method":"textDocument/hover","params":{}}`)
	send(`{"method":"$/cancelRequest","params":{"id":3}}`)
	send(`{"method":"$/cancelRequest","params":{"id":4}}`)
	send(`{"method":"$/cancelRequest"}`)
	send(shutdown) // the cancellations have been read
	var codes []int
	r := bufio.NewReader(outRead)
	for range 4 {
		n, err := readHeader(r)
		if err != nil {
			t.Fatal(err)
		}
		var m received
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil || json.Unmarshal(b, &m) != nil {
			t.Fatal(err, string(b))
		}
		if m.Error == nil {
			m.Error = &rpcError{}
		}
		codes = append(codes, m.Error.Code)
	}
	if fmt.Sprint(codes) != fmt.Sprint([]int{0, codeInvalidParams, codeCancelled, 0}) {
		t.Errorf("codes %v", codes)
	}
	send(exit)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestTyping: edits in a row are one diagnosis, of the last version, and the text is what an editor would have.
func TestTyping(t *testing.T) {
	c := open(t, Options{Delay: 300 * time.Millisecond}, `{}`) // no typing is slower than that
	const uri = "untitled:Untitled-1"
	c.notify("textDocument/didOpen", object{"textDocument": object{"uri": uri, "version": 1, "text": ""}})
	if ds := c.published(uri, 1); len(ds) == 0 {
		t.Error("nothing is wrong with nothing")
	}
	want := "{ use: [ { protocol: \"𝄞\" } ], }\r\n// é\n"
	at := position{}
	for i, r := range want {
		c.notify("textDocument/didChange", object{
			"textDocument":   object{"uri": uri, "version": i + 2},
			"contentChanges": []object{{"range": span{at, at}, "text": string(r)}},
		})
		switch r {
		case '\r':
		case '\n':
			at = position{Line: at.Line + 1}
		default:
			at.Character += utf16Len(r)
		}
	}
	last := strings.LastIndex(want, "\n") + 2
	found := 0
	for m := range c.received {
		var p published
		if m.Method != "textDocument/publishDiagnostics" || json.Unmarshal(m.Params, &p) != nil {
			t.Fatalf("%+v", m)
		}
		if found++; *p.Version == last {
			ds, at := p.Diagnostics, span{position{0, 21}, position{0, 25}}
			if len(ds) != 1 || ds[0].Code != "bad-name" || ds[0].Range != at {
				t.Errorf("%+v", p.Diagnostics)
			}
			break
		}
	}
	if found > len(want)/2 {
		t.Errorf("%d diagnoses of %d edits", found, len(want))
	}
	// All at once, what is typed afterwards included; and something that is beyond the text.
	c.notify("textDocument/didChange", object{"textDocument": object{"uri": uri, "version": 100}, "contentChanges": []object{
		{"text": "{ a }"},
		{"range": span{position{0, 2}, position{0, 3}}, "text": "program: {}"},
		{"range": span{position{7, 2}, position{9, 3}}, "text": " "},
		{"range": span{position{0, 99}, position{0, 999}}, "text": "\n"},
	}})
	if ds := c.published(uri, 100); len(ds) != 1 || ds[0].Code != "no-runner" {
		t.Errorf("%+v", ds)
	}
	c.notify("textDocument/didClose", object{"textDocument": object{"uri": uri}})
	if m := c.next(); !strings.Contains(string(m.Params), `"diagnostics":[]`) {
		t.Errorf("after closing: %s", m.Params)
	}
}

// TestIncludedFileIsWatched: what is wrong in a file that is open and included shows in the one that includes it, as it is typed.
func TestIncludedFileIsWatched(t *testing.T) {
	c := open(t, Options{Delay: time.Millisecond, IncludeRoot: "/nowhere"}, `{}`)
	open := func(uri string, text string) {
		c.notify("textDocument/didOpen", object{"textDocument": object{"uri": uri, "version": 1, "text": text}})
	}
	open("file:///nowhere/a/root.cml", `{ include: [ "//b/x.shard.cml" ] }`)
	if ds := c.published("file:///nowhere/a/root.cml", 1); len(ds) != 1 || ds[0].Code != "include" {
		t.Errorf("%+v", ds)
	}
	open("file:///nowhere/b/x.shard.cml", `{ }`)
	if ds := c.published("file:///nowhere/a/root.cml", 1); len(ds) != 0 {
		t.Errorf("%+v", ds)
	}
	c.notify("textDocument/didChange", object{
		"textDocument":   object{"uri": "file:///nowhere/b/x.shard.cml", "version": 2},
		"contentChanges": []object{{"text": `{ sue: [] }`}},
	})
	ds := c.published("file:///nowhere/a/root.cml", 1)
	if len(ds) != 1 || ds[0].Code != "unknown-key" || ds[0].Related[0].Location.URI != "file:///nowhere/b/x.shard.cml" ||
		ds[0].Range != (span{position{0, 13}, position{0, 30}}) {
		t.Errorf("%+v", ds)
	}
}

// TestLimits: what is too much is refused, with words for the user.
func TestLimits(t *testing.T) {
	c := open(t, Options{Delay: time.Millisecond}, `{}`)
	large := strings.Repeat(" ", json5.DefaultMaxBytes+1)
	opened := func(uri, text string) {
		c.notify("textDocument/didOpen", object{"textDocument": object{"uri": uri, "version": 1, "text": text}})
	}
	opened("file:///0.cml", large)
	if ds := c.published("file:///0.cml", 1); len(ds) != 1 || !strings.Contains(ds[0].Message, "no more than") {
		t.Errorf("%+v", ds)
	}
	complaint := func(words string) {
		t.Helper()
		for {
			if m := c.next(); m.Method == "window/showMessage" && strings.Contains(string(m.Params), words) {
				return
			}
		}
	}
	for i := 1; i <= maxText/len(large); i++ {
		opened(fmt.Sprintf("file:///%d.cml", i), large)
	}
	complaint("the open documents have more than")
	for i := range maxDocuments + 1 {
		opened(fmt.Sprintf("file:///small/%d.cml", i), "{}")
	}
	complaint("more than 1000 documents are open")
	c.notify("textDocument/didChange", object{"textDocument": object{"uri": "file:///none.cml"}})
	complaint("is not open")
	// A tree of more brackets than anybody looks at, and more values.
	for _, text := range []string{strings.Repeat("[", 1<<20), strings.Repeat("{a:", 1<<20), "[" + strings.Repeat("0,", 1<<20)} {
		root, _ := parseTree(text)
		n := 0
		for v := root; v != nil; n++ {
			switch {
			case len(v.items) > 0:
				v = v.items[0]
			case len(v.members) > 0:
				v = v.members[0].value
			default:
				v = nil
			}
		}
		if n > maxDepth+1 || len(root.items) > maxNodes {
			t.Errorf("%.3q…: %d deep, %d items", text, n, len(root.items))
		}
	}
}
