package inet

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// Between cmgr and cmgr, who have found each other by Version, a connection begins with a greeting; Erlang never sees one.
//
//	to the server    {cmgr_hello, Id, Nonce}
//	to the loader    {cmgr_hello, Nonce2, Proof}     Proof is empty where the server has no cookie
//	to the server    {cmgr_cookie, Proof2}           only if Proof is not empty
//	to the loader    {cmgr_cookie, ok}
//
// A proof is the HMAC-SHA-256, by the cookie, of a word for its direction, both nonces (32 bytes each) and the id. It says that
// the other end knows the cookie when the connection begins; what follows is as open as everything here.
const (
	tagHello  term.Atom = "cmgr_hello"
	tagCookie term.Atom = "cmgr_cookie"
)

func proof(cookie, who, id string, a, b term.Bits) term.Bits {
	h := hmac.New(sha256.New, []byte(cookie))
	fmt.Fprintf(h, "cmgr %s %q %q %q", who, a.Bytes, b.Bytes, id)
	return term.Bits{Bytes: string(h.Sum(nil))}
}

func same(a, b term.Bits) bool { return hmac.Equal([]byte(a.Bytes), []byte(b.Bytes)) }

func nonce() term.Bits {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return term.Bits{Bytes: string(b)}
}

// tagged are the elements behind the tag of a tuple of n.
func tagged(t term.Term, tag term.Atom, n int) ([]term.Term, bool) {
	p, ok := t.(term.Tuple)
	if !ok || len(p) != n || p[0] != tag {
		return nil, false
	}
	return p[1:], true
}

// greet greets a server.
func (c *conn) greet(id, cookie string) error {
	_ = c.SetDeadline(time.Now().Add(c.idle))
	say := func(t term.Term) (term.Term, error) {
		if _, err := c.Write(frame(t)); err != nil {
			return nil, err
		}
		n, err := readLength(c.in)
		if err != nil {
			return nil, noEOF(err)
		}
		return readTerm(c.in, min(n, maxRequest))
	}
	mine := nonce()
	t, err := say(term.Tuple{tagHello, term.String(id), mine})
	if err != nil {
		return err
	}
	hello, ok := tagged(t, tagHello, 3)
	if !ok {
		return fmt.Errorf("%w: %s to a greeting", errProtocol, clip(t))
	}
	its, ok1 := hello[0].(term.Bits)
	shown, ok2 := hello[1].(term.Bits)
	switch {
	case !ok1 || !ok2 || len(its.Bytes) != 32:
		return fmt.Errorf("%w: %s to a greeting", errProtocol, clip(t))
	case shown.Bytes == "" && cookie == "":
		return nil
	case shown.Bytes == "":
		return errors.New("it has no cookie, so it may be anybody")
	case cookie == "":
		return errors.New("it wants a cookie, and none was given")
	case !same(shown, proof(cookie, "server", id, mine, its)):
		return errors.New("it has another cookie")
	}
	t, err = say(term.Tuple{tagCookie, proof(cookie, "client", id, mine, its)})
	if err != nil {
		return err
	}
	if term.Compare(t, term.Tuple{tagCookie, term.Atom("ok")}) != 0 {
		return fmt.Errorf("%w: %s to a cookie", errProtocol, clip(t))
	}
	return nil
}

// errCookie is the end of a connection on which the cookie was not shown.
var errCookie = errors.New("it does not know the cookie")

// greeted answers a greeting and, if there is a cookie, sees it shown.
func (s *Server) greeted(c net.Conn, in *bufio.Reader, hello []term.Term) error {
	id, ok1 := term.IsString(hello[0])
	its, ok2 := hello[1].(term.Bits)
	if !ok1 || !ok2 || len(its.Bytes) != 32 || len(id) > 255 {
		return errors.New("a greeting that is none")
	}
	s.cfg.Log.Info("connected", "id", id, "peer", peerOf(c))
	mine, shown := nonce(), term.Bits{}
	if s.cfg.Cookie != "" {
		shown = proof(s.cfg.Cookie, "server", id, its, mine)
	}
	if err := s.send(c, term.Tuple{tagHello, mine, shown}); err != nil || s.cfg.Cookie == "" {
		return err
	}
	b, err := readFrame(in, maxRequest)
	if err != nil {
		return fmt.Errorf("%w: %w", errCookie, err)
	}
	t, err := term.DecodeWithin(b, maxRequest)
	if err != nil {
		return err
	}
	said, ok := tagged(t, tagCookie, 2)
	if !ok {
		return errCookie
	}
	if p, ok := said[0].(term.Bits); !ok || !same(p, proof(s.cfg.Cookie, "client", id, its, mine)) {
		return errCookie
	}
	return s.send(c, term.Tuple{tagCookie, term.Atom("ok")})
}
