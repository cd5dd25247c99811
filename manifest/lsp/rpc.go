package lsp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits on what a client sends.
const (
	maxHeader  = 4 << 10  // bytes of one line of a header
	maxHeaders = 16       // lines of one header
	maxMessage = 16 << 20 // bytes of one message; longer ones are skipped
)

// ErrHeader is input where nobody can tell where the next message begins.
var ErrHeader = errors.New("malformed header")

// A message is a request, a notification or a response, as the client sends it (JSON-RPC 2.0 §4, §5).
type message struct {
	ID     json.RawMessage `json:"id"` // nil if it has none
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`

	broken *rpcError // it could not be read
}

// An rpcError is why a request has no result.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return e.Message }

// Codes of errors: JSON-RPC 2.0 §5.1 and the language server protocol's.
const (
	codeParse          = -32700
	codeInvalidRequest = -32600
	codeNoMethod       = -32601
	codeInvalidParams  = -32602
	codeNotInitialized = -32002
	codeCancelled      = -32800
	codeFailed         = -32803
)

func failf(code int, format string, args ...any) *rpcError {
	return &rpcError{code, fmt.Sprintf(format, args...)}
}

// read reads one message. The error is io.EOF at the end, or one after which nothing can be read.
func read(r *bufio.Reader) (message, error) {
	n, err := readHeader(r)
	if err != nil {
		return message{}, err
	}
	if n > maxMessage {
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			return message{}, errors.Join(ErrHeader, err)
		}
		return message{broken: failf(codeInvalidRequest, "message of %d bytes: no more than %d allowed", n, maxMessage)}, nil
	}
	// Not allocated before it is there: the header may promise more than ever comes.
	body, err := io.ReadAll(io.LimitReader(r, n))
	switch {
	case err != nil:
		return message{}, err
	case int64(len(body)) < n:
		return message{}, io.ErrUnexpectedEOF
	}
	return decode(body), nil
}

// readHeader reads a header and returns the length of the message.
func readHeader(r *bufio.Reader) (int64, error) {
	length := int64(-1)
	for i := 0; ; i++ {
		line, err := r.ReadSlice('\n')
		switch {
		case err == io.EOF && i == 0 && len(line) == 0:
			return 0, io.EOF
		case err == io.EOF:
			return 0, io.ErrUnexpectedEOF
		case err != nil || i == maxHeaders:
			return 0, fmt.Errorf("%w: too long", ErrHeader)
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			if length < 0 {
				return 0, fmt.Errorf("%w: no Content-Length", ErrHeader)
			}
			return length, nil
		}
		key, value, ok := strings.Cut(text, ":")
		if !ok {
			return 0, fmt.Errorf("%w: %.40q", ErrHeader, text)
		}
		if strings.EqualFold(strings.TrimSpace(key), "Content-Length") {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil || n < 0 || length >= 0 {
				return 0, fmt.Errorf("%w: %.40q", ErrHeader, text)
			}
			length = n
		}
	}
}

// decode reads the content of a message.
func decode(body []byte) message {
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		code := codeParse
		if json.Valid(body) {
			code = codeInvalidRequest
			// What is no request may still say whose it is.
			var id struct {
				ID json.RawMessage `json:"id"`
			}
			if json.Unmarshal(body, &id) == nil && validID(id.ID) {
				m.ID = id.ID
			}
		}
		return message{ID: m.ID, broken: failf(code, "%v", err)}
	}
	switch {
	case m.ID != nil && !validID(m.ID):
		return message{broken: failf(codeInvalidRequest, "the id of a request is a string or an integer")}
	case m.Method == "" && !isResponse(body):
		return message{ID: m.ID, broken: failf(codeInvalidRequest, "no method")}
	}
	return m
}

// validID says whether id is a string or an integer.
func validID(id json.RawMessage) bool {
	if len(id) == 0 || len(id) > 256 {
		return false
	}
	if id[0] == '"' {
		return true
	}
	_, err := strconv.ParseInt(string(id), 10, 64)
	return err == nil
}

// isResponse says whether body is a response. This server asks nothing, so it does not matter to what.
func isResponse(body []byte) bool {
	var keys map[string]json.RawMessage
	return json.Unmarshal(body, &keys) == nil && (keys["result"] != nil || keys["error"] != nil)
}

// write writes v, which can be marshalled, as one message.
func write(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(fmt.Appendf(nil, "Content-Length: %d\r\n\r\n", len(b)), b...))
	return err
}
