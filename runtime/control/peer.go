package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"connectrpc.com/connect"

	"github.com/cmgr/cmgr/capabilities"
)

type peerKey struct{}

// withPeer puts who is at the other end of c (unix(7), SO_PEERCRED) into a connection's context.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if cred, err := peerOf(c); err == nil {
		return context.WithValue(ctx, peerKey{}, cred)
	}
	return ctx
}

func peerOf(c net.Conn) (*syscall.Ucred, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("peer of %s: not a socket", c.RemoteAddr())
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *syscall.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if ctlErr != nil {
		return nil, ctlErr
	}
	return cred, err
}

// ofOwner lets only the user uid and root through to h. The socket's mode says the same, but not where somebody changed it or
// passed a connection on.
func ofOwner(uid uint32, h http.Handler) http.Handler {
	errors := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cred, ok := r.Context().Value(peerKey{}).(*syscall.Ucred)
		if ok && (cred.Uid == uid || cred.Uid == 0) {
			h.ServeHTTP(w, r)
			return
		}
		who := "an unknown user"
		if ok {
			who = fmt.Sprintf("user %d", cred.Uid)
		}
		err := problem(capabilities.Denied, "", "%s may not manage components of user %d", who, uid)
		// What can fail is telling the peer, who will notice.
		if errors.IsSupported(r) {
			_ = errors.Write(w, r, err.wire())
		} else {
			http.Error(w, err.Problem.GetMessage(), http.StatusForbidden)
		}
	})
}
