package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"connectrpc.com/connect"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/sock"
)

// NoGroup is that nobody but the manager's user and root may manage its components: the group of root cannot be chosen.
const NoGroup = 0

type peerKey struct{}

// A peer is who is at the other end of a connection.
type peer struct {
	sock.Peer
	member bool // of the group that may manage
}

// withPeer gives the function that puts who is at the other end of a connection, of which group's members may manage, into its
// context.
func withPeer(group int) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, c net.Conn) context.Context {
		sc, ok := c.(syscall.Conn)
		if !ok {
			return ctx
		}
		cred, err := sock.PeerOf(sc)
		if err != nil {
			return ctx
		}
		p := peer{Peer: cred}
		if group != NoGroup {
			p.member, _ = sock.PeerInGroup(sc, uint32(group)) // who is not known to be is none
		}
		return context.WithValue(ctx, peerKey{}, p)
	}
}

// ofOwner lets only the user uid, root, and members of the group through to h. The socket's mode says the same, but not where
// somebody changed it or passed a connection on.
func ofOwner(uid uint32, h http.Handler) http.Handler {
	errors := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok := r.Context().Value(peerKey{}).(peer)
		if ok && (p.UID == uid || p.UID == 0 || p.member) {
			h.ServeHTTP(w, r)
			return
		}
		who := "an unknown user"
		if ok {
			who = fmt.Sprintf("user %d", p.UID)
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
