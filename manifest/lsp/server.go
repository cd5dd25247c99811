// Package lsp is a language server for manifests (.cml): diagnostics, completion, hover, definitions, references, rename,
// symbols, formatting and code actions, by the Language Server Protocol 3.17
// (https://microsoft.github.io/language-server-protocol) over a pair of streams.
//
// One goroutine reads what the client sends; Serve's own does everything else, one message at a time, so that nothing is locked.
// The server asks the client nothing, and looks at files only when it is asked about something that names them.
package lsp

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmgr/cmgr/manifest/json5"
)

// Options are what a server is told. Its zero value is fine.
type Options struct {
	IncludeRoot  string        // what "//" of an include means; "": the client's folder
	IncludePaths []string      // where includes are looked for, too
	Delay        time.Duration // diagnostics come when the typing has paused for so long; 0: 150 ms
	Version      string        // of the program, for the client's log
}

// Why Serve ended other than well.
var (
	// ErrNoShutdown is an exit without a shutdown before, for which the protocol wants exit code 1.
	ErrNoShutdown = errors.New("exit without shutdown")
	// ErrGone is the end of the input before an exit.
	ErrGone = errors.New("the client went away")
)

// Limits on what a client may open.
const (
	maxDocuments = 1000
	maxText      = 64 << 20 // bytes of all open documents
)

// queueLength is how many messages are read ahead, so that a request can be cancelled before its turn.
const queueLength = 8

// Serve speaks to one client until it says exit or goes away. The error is nil after shutdown and exit; else ErrNoShutdown,
// ErrGone, or what is wrong with the streams. Serve returns only after in has been read to its end or to an exit.
func Serve(in io.Reader, out io.Writer, o Options) error {
	if o.Delay == 0 {
		o.Delay = 150 * time.Millisecond
	}
	if o.IncludeRoot != "" {
		o.IncludeRoot = absolute(o.IncludeRoot)
	}
	o.IncludePaths = slices.Clone(o.IncludePaths)
	for i, p := range o.IncludePaths {
		o.IncludePaths[i] = absolute(p)
	}
	s := &server{out: out, options: o, documents: map[string]*document{}, utf16: true, waiting: map[string]bool{}}
	queue := make(chan message, queueLength)
	var ended error
	go func() {
		defer close(queue)
		ended = s.listen(bufio.NewReaderSize(in, maxHeader), queue)
	}()
	s.timer = time.NewTimer(o.Delay)
	defer s.timer.Stop()
	for {
		select {
		case m, ok := <-queue:
			if !ok {
				return s.verdict(ended)
			}
			s.handle(m)
		case <-s.timer.C:
			s.publishChanged()
		}
	}
}

// absolute is path, which is relative to the working directory.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path // there is no working directory, so nothing is found there
}

// listen puts messages into the queue until exit, which is not put there, or the end. It returns what ended it, nil for exit.
func (s *server) listen(r *bufio.Reader, queue chan<- message) error {
	for {
		m, err := read(r)
		switch {
		case err != nil:
			return err
		case m.Method == "exit":
			return nil
		case m.Method == "$/cancelRequest":
			s.cancel(m.Params)
			continue
		case m.ID != nil && m.broken == nil:
			s.mu.Lock()
			s.waiting[string(m.ID)] = true
			s.mu.Unlock()
		}
		queue <- m
	}
}

func (s *server) verdict(ended error) error {
	switch {
	case s.writeError != nil:
		return s.writeError
	case ended == nil && !s.down:
		return ErrNoShutdown
	case ended == nil, ended == io.EOF && s.down:
		return nil
	case ended == io.EOF, ended == io.ErrUnexpectedEOF:
		return ErrGone
	}
	return ended
}

// A server is the state of one connection.
type server struct {
	out        io.Writer
	writeError error // the first one; nothing is written after it
	options    Options

	up, down bool // initialize, shutdown has been handled
	client   clientCapabilities
	utf16    bool
	folders  []string

	documents map[string]*document // by URI
	size      int                  // bytes of their texts
	timer     *time.Timer

	mu      sync.Mutex
	waiting map[string]bool // requests in the queue by id; false when they were cancelled
}

// A document is a text that the client has open.
type document struct {
	uri, path string // path is "" unless it is a file
	version   *int
	text      *text
	includes  bool // perhaps
	changed   bool // since its diagnostics were published

	parsed   bool
	root     *node
	comments [][2]int
}

// name is the document in messages.
func (d *document) name() string {
	if d.path != "" {
		return d.path
	}
	return d.uri
}

// tree is the document's tree, nil if it holds no value.
func (s *server) tree(d *document) *node {
	if !d.parsed {
		for _, o := range s.documents { // trees are large, and one is enough
			o.parsed, o.root, o.comments = false, nil, nil
		}
		if len(d.text.src) <= json5.DefaultMaxBytes {
			d.root, d.comments = parseTree(d.text.src)
		}
		d.parsed = true
	}
	return d.root
}

// cancel notes that a request is not wanted any more.
func (s *server) cancel(params json.RawMessage) {
	var p struct {
		ID json.RawMessage `json:"id"`
	}
	if json.Unmarshal(params, &p) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[string(p.ID)] {
		s.waiting[string(p.ID)] = false
	}
}

// wanted says whether a request is still wanted when its turn has come.
func (s *server) wanted(m message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok, known := s.waiting[string(m.ID)]
	delete(s.waiting, string(m.ID))
	return ok || !known // a second request of the same id is the client's mistake, but wanted
}

func (s *server) send(v any) {
	if s.writeError == nil {
		s.writeError = write(s.out, v)
	}
}

func (s *server) notify(method string, params any) {
	s.send(struct {
		Version string `json:"jsonrpc"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
	}{"2.0", method, params})
}

func (s *server) respond(id json.RawMessage, result any, err *rpcError) {
	if err != nil {
		s.send(struct {
			Version string          `json:"jsonrpc"`
			ID      json.RawMessage `json:"id"` // null if it is not known
			Error   *rpcError       `json:"error"`
		}{"2.0", id, err})
		return
	}
	s.send(struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Result  any             `json:"result"`
	}{"2.0", id, result})
}

// handle deals with one message: a request gets one response, anything else none.
func (s *server) handle(m message) {
	switch {
	case m.broken != nil:
		s.respond(m.ID, nil, m.broken)
	case m.Method == "": // a response to what was never asked
	case m.ID != nil:
		if !s.wanted(m) {
			s.respond(m.ID, nil, failf(codeCancelled, "cancelled"))
			return
		}
		result, err := s.request(m)
		s.respond(m.ID, result, err)
	case s.up && !s.down:
		s.notified(m)
	}
}

// request answers a request.
func (s *server) request(m message) (any, *rpcError) {
	switch {
	case m.Method == "initialize" && !s.up:
		return s.initialize(m.Params)
	case !s.up:
		return nil, failf(codeNotInitialized, "%s before initialize", m.Method)
	case s.down || m.Method == "initialize":
		return nil, failf(codeInvalidRequest, "%s is not possible any more", m.Method)
	case m.Method == "shutdown":
		s.down = true
		return nil, nil
	}
	f, ok := features[m.Method]
	if !ok {
		return nil, failf(codeNoMethod, "no method %.80q", m.Method)
	}
	var p params
	if err := json.Unmarshal(m.Params, &p); err != nil {
		return nil, failf(codeInvalidParams, "%s: %v", m.Method, err)
	}
	d := s.documents[p.TextDocument.URI]
	if d == nil {
		return nil, failf(codeInvalidParams, "%s: %.200q is not open", m.Method, p.TextDocument.URI)
	}
	return f(s, d, &p)
}

// features are the requests about a document.
var features = map[string]func(*server, *document, *params) (any, *rpcError){
	"textDocument/completion":     (*server).completion,
	"textDocument/hover":          (*server).hover,
	"textDocument/definition":     (*server).definition,
	"textDocument/references":     (*server).references,
	"textDocument/prepareRename":  (*server).prepareRename,
	"textDocument/rename":         (*server).rename,
	"textDocument/documentSymbol": (*server).symbols,
	"textDocument/formatting":     (*server).formatting,
	"textDocument/codeAction":     (*server).codeActions,
}

// params are the parameters of all features together.
type params struct {
	TextDocument struct {
		URI string `json:"uri"`
	} `json:"textDocument"`
	Position position `json:"position"`
	Range    span     `json:"range"`
	NewName  string   `json:"newName"`
	Context  struct {
		IncludeDeclaration bool     `json:"includeDeclaration"`
		Only               []string `json:"only"`
	} `json:"context"`
}

// clientCapabilities are what the server wants to know of the client.
type clientCapabilities struct {
	General struct {
		PositionEncodings []string `json:"positionEncodings"`
	} `json:"general"`
	TextDocument struct {
		Completion struct {
			CompletionItem struct {
				Snippets bool `json:"snippetSupport"`
			} `json:"completionItem"`
		} `json:"completion"`
		Hover struct {
			ContentFormat []string `json:"contentFormat"`
		} `json:"hover"`
		DocumentSymbol struct {
			Hierarchical bool `json:"hierarchicalDocumentSymbolSupport"`
		} `json:"documentSymbol"`
	} `json:"textDocument"`
}

type object = map[string]any

func (s *server) initialize(raw json.RawMessage) (any, *rpcError) {
	var p struct {
		Capabilities     clientCapabilities `json:"capabilities"`
		RootURI          string             `json:"rootUri"`
		WorkspaceFolders []struct {
			URI string `json:"uri"`
		} `json:"workspaceFolders"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, failf(codeInvalidParams, "initialize: %v", err)
	}
	s.up = true
	s.client = p.Capabilities
	encoding := "utf-16"
	for _, e := range p.Capabilities.General.PositionEncodings {
		if e == "utf-8" { // ours too, so nothing has to be counted
			encoding, s.utf16 = e, false
		}
	}
	for _, f := range p.WorkspaceFolders {
		if path := pathOf(f.URI); path != "" {
			s.folders = append(s.folders, path)
		}
	}
	if path := pathOf(p.RootURI); path != "" && len(s.folders) == 0 {
		s.folders = []string{path}
	}
	return object{
		"serverInfo": object{"name": "cmgr", "version": s.options.Version},
		"capabilities": object{
			"positionEncoding":           encoding,
			"textDocumentSync":           object{"openClose": true, "change": 2, "save": object{"includeText": false}},
			"completionProvider":         object{"triggerCharacters": []string{`"`, `'`, "#", "/", ":"}},
			"hoverProvider":              true,
			"definitionProvider":         true,
			"referencesProvider":         true,
			"renameProvider":             object{"prepareProvider": true},
			"documentSymbolProvider":     true,
			"documentFormattingProvider": true,
			"codeActionProvider":         object{"codeActionKinds": []string{kindQuickFix, kindFixAll}},
		},
	}, nil
}

// notified deals with a notification. One that is wrong cannot be answered, so it is shown to the user.
func (s *server) notified(m message) {
	var p struct {
		TextDocument struct {
			URI     string `json:"uri"`
			Version *int   `json:"version"`
			Text    string `json:"text"`
		} `json:"textDocument"`
		ContentChanges []struct {
			Range *span  `json:"range"`
			Text  string `json:"text"`
		} `json:"contentChanges"`
	}
	if !strings.HasPrefix(m.Method, "textDocument/did") {
		return
	}
	if err := json.Unmarshal(m.Params, &p); err != nil {
		s.complain("%s: %v", m.Method, err)
		return
	}
	uri := p.TextDocument.URI
	d := s.documents[uri]
	if m.Method == "textDocument/didOpen" {
		if d == nil && len(s.documents) == maxDocuments {
			s.complain("%.200q: more than %d documents are open", uri, maxDocuments)
			return
		}
		if d == nil {
			d = &document{uri: uri, path: pathOf(uri), text: newText("", s.utf16)}
			s.documents[uri] = d
		}
		d.version = p.TextDocument.Version
		s.setText(d, p.TextDocument.Text)
		s.publishChanged() // nobody types yet
		return
	}
	if d == nil {
		s.complain("%s: %.200q is not open", m.Method, uri)
		return
	}
	switch m.Method {
	case "textDocument/didChange":
		for _, c := range p.ContentChanges {
			if c.Range != nil {
				c.Text = d.text.replace(*c.Range, c.Text)
			}
			s.setText(d, c.Text)
		}
		d.version = p.TextDocument.Version
		s.timer.Reset(s.options.Delay)
	case "textDocument/didSave":
		s.changed(d)
		s.publishChanged()
	case "textDocument/didClose":
		delete(s.documents, uri)
		s.size -= len(d.text.src)
		s.publish(uri, nil, []diagnostic{})
		s.changed(d)
		s.timer.Reset(s.options.Delay)
	}
}

// complain shows an error to the user.
func (s *server) complain(format string, args ...any) {
	s.notify("window/showMessage", object{"type": 1, "message": "cmgr: " + failf(0, format, args...).Message})
}

// setText gives d a new text.
func (s *server) setText(d *document, src string) {
	if s.size-len(d.text.src)+len(src) > maxText {
		s.complain("%.200q: the open documents have more than %d bytes", d.uri, maxText)
		src = ""
	}
	s.size += len(src) - len(d.text.src)
	d.text = newText(src, s.utf16)
	d.includes = strings.Contains(src, "include")
	d.parsed, d.root, d.comments = false, nil, nil
	s.changed(d)
}

// changed notes that d has other diagnostics now, perhaps, and so has what includes something.
func (s *server) changed(d *document) {
	d.changed = true
	for _, o := range s.documents {
		o.changed = o.changed || o.includes
	}
}
