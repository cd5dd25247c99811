package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runners"
)

// A shell in the place of a component's program works on its user's own descriptors, so this has a path of its own, too:
//
//	POST /explore?query=QUERY&command=TEXT&terminal=BOOL&env=NAME%3DVALUE…
//
// The answer is "101 Switching Protocols", or an error with its Problem as JSON. Then the client sends one byte with three
// descriptors (SCM_RIGHTS): standard input, output and error, and perhaps a fourth, of a directory with tools. The server sends
// lines of JSON: {"launched": true} when the shell runs, and in the end {"exit": Exit} or {"problem": Problem}. A client that
// goes away ends the shell.
const explorePath = "/explore"

// An Exploration is a shell in the place of a component's program.
type Exploration struct {
	Query string
	// Command is what the shell does, as by sh -c; "" has it read commands.
	Command string
	// Files are its standard input, output and error, which stay the caller's. Terminal says that they are one terminal, which is to
	// be the shell's own.
	Files    [3]*os.File
	Terminal bool
	Env      []string // "NAME=value"
	// Launched, if not nil, is called once it runs.
	Launched func()
	// Tools is a directory with programs that it finds first; nil for none.
	Tools *os.File
}

// The shells of an Exploration. It may be the first process of a PID namespace, which no signal that it does not handle ends
// (pid_namespaces(7)), so what is to be interruptible is a child of it.
const (
	shellInteractive = `if command -v bash >/dev/null; then
	HISTFILE= PS1="[$CMGR_MONIKER] \w \\$ " exec bash --norc --noprofile -i
fi
PS1="[$CMGR_MONIKER] $ " exec sh -i`
	shellCommand = `trap : INT QUIT TERM; sh -c "$1"; exit $?`
)

func (x *Exploration) command() []string {
	switch {
	case x.Command != "":
		return []string{"/bin/sh", "-c", shellCommand, "sh", x.Command}
	case x.Terminal:
		return []string{"/bin/sh", "-c", shellInteractive, "sh"}
	}
	return []string{"/bin/sh"}
}

// outcome is what the server sends.
type outcome struct {
	Launched bool            `json:"launched,omitempty"`
	Exit     json.RawMessage `json:"exit,omitempty"`
	Problem  json.RawMessage `json:"problem,omitempty"`
}

// explore answers explorePath.
func (s *Server) explore(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	i, err := s.find(r.Context(), q.Get("query"))
	switch {
	case err != nil:
		err = failed("find", q.Get("query"), err)
	case s.cfg.Explore == nil:
		err = failed("explore", string(i.Moniker), problem(capabilities.Unavailable, "", "this manager lets nobody explore"))
	}
	if err != nil {
		refuse(w, err)
		return
	}
	s.wg.Add(1) // while the server still waits for this request
	defer s.wg.Done()
	u := upgrade(w)
	if u == nil {
		return
	}
	defer u.Close()
	text := Exploration{Command: q.Get("command"), Terminal: q.Get("terminal") == "true"}
	x := runners.Exploration{Command: text.command(), Terminal: text.Terminal, Env: q["env"]}
	send := func(o outcome) {
		u.SetWriteDeadline(time.Now().Add(answerTime))
		_ = json.NewEncoder(u).Encode(o) // what can fail is telling the peer, who will notice
	}
	x.Launched = func() { send(outcome{Launched: true}) }
	ctx, cancel := s.untilClose(context.WithoutCancel(r.Context())) // the server takes a request that gave its connection away for done
	defer cancel()
	exited := runners.Exit{}
	if err = receiveFiles(u, &x); err == nil {
		s.wg.Go(func() {
			_, _ = u.Read(make([]byte, 1)) // nothing comes but the end
			cancel()
		})
		note := "explored by " + whoIs(r.Context())
		if text.Command != "" {
			note += ": " + text.Command
		}
		exited, err = s.cfg.Explore(ctx, i.Moniker, x, note)
	}
	var out outcome
	if err != nil {
		out.Problem, err = JSON(ProblemOf(failed("explore", string(i.Moniker), err)))
	} else {
		out.Exit, err = JSON(exit(&exited))
	}
	if err == nil {
		send(out)
	}
}

// whoIs says who is at the other end of ctx's connection.
func whoIs(ctx context.Context) string {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return "an unknown user"
	}
	return fmt.Sprintf("user %d, process %d", p.UID, p.PID)
}

// receiveFiles takes the descriptors that the client sends.
func receiveFiles(u *net.UnixConn, x *runners.Exploration) error {
	u.SetReadDeadline(time.Now().Add(answerTime))
	fds, err := receiveRights(u, 4)
	if err != nil {
		return fmt.Errorf("take descriptors: %w", err)
	}
	u.SetReadDeadline(time.Time{})
	for n, fd := range fds {
		f := os.NewFile(uintptr(fd), "exploration")
		if n < len(x.Files) {
			x.Files[n] = f
		} else {
			x.Tools = f
		}
	}
	if len(fds) < len(x.Files) {
		x.Close()
		return invalid("three descriptors are needed, and %d were sent", len(fds))
	}
	for n, f := range append(x.Files[:], x.Tools) {
		if f == nil {
			continue
		}
		st, err := f.Stat()
		// One of a directory would lead out of what the component may see.
		if isTools := n == len(x.Files); err == nil && st.IsDir() != isTools {
			err = invalid("descriptor %d: is a directory, or must be one", n)
		}
		if err != nil {
			x.Close()
			return err
		}
	}
	return nil
}

// receiveRights reads at least a byte, and with it at most so many descriptors.
func receiveRights(u *net.UnixConn, most int) (fds []int, err error) {
	oob := make([]byte, syscall.CmsgSpace(4*most))
	n, oobn, flags, _, err := u.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		more, perr := syscall.ParseUnixRights(&msgs[i])
		fds, err = append(fds, more...), errors.Join(err, perr)
	}
	switch {
	case err != nil:
	case flags&syscall.MSG_CTRUNC != 0 || len(fds) > most:
		err = fmt.Errorf("more than %d were sent", most)
	case n == 0:
		err = io.ErrUnexpectedEOF
	default:
		return fds, nil
	}
	for _, fd := range fds {
		syscall.Close(fd)
	}
	return nil, err
}

// Explore runs a shell in the place of a component's program until it ends, and returns how it did; at the end of ctx it is
// killed.
func (c *Client) Explore(ctx context.Context, x Exploration) (*controlpb.Exit, error) {
	conn, err := c.ask(ctx, explorePath, url.Values{
		"query": {x.Query}, "command": {x.Command}, "terminal": {strconv.FormatBool(x.Terminal)}, "env": x.Env,
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	answers := bufio.NewReader(conn)
	r, err := http.ReadResponse(answers, nil)
	if err != nil {
		return nil, unanswered(ctx, err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusSwitchingProtocols {
		return nil, refusal(r)
	}
	var fds []int
	for _, f := range append(x.Files[:], x.Tools) {
		if f != nil {
			fds = append(fds, int(f.Fd())) // which makes it block, as programs expect
		}
	}
	if _, _, err := conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(fds...), nil); err != nil {
		return nil, unanswered(ctx, err)
	}
	var out outcome
	for said := json.NewDecoder(answers); len(out.Problem)+len(out.Exit) == 0; {
		if err := said.Decode(&out); err != nil {
			return nil, unanswered(ctx, err)
		}
		if out.Launched && x.Launched != nil {
			x.Launched()
			x.Launched = nil
		}
	}
	if len(out.Problem) > 0 {
		p := &Problem{}
		if err := protojson.Unmarshal(out.Problem, p); err != nil {
			return nil, unanswered(ctx, err)
		}
		return nil, &Error{p}
	}
	exit := &controlpb.Exit{}
	if err := protojson.Unmarshal(out.Exit, exit); err != nil {
		return nil, unanswered(ctx, err)
	}
	return exit, nil
}

// unanswered is err where the manager's answer does not come.
func unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("the manager's answer: %w", err)
}
