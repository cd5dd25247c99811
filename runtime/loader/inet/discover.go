package inet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A server is one that has answered, or a socket, which nobody asks.
type server struct {
	addr     netip.AddrPort // of TCP
	path     string         // of the unix socket; "" for one of TCP
	priority uint8          // 0 is the first
	host     int            // which of the hosts it was asked as
}

func (s server) String() string {
	if s.path != "" {
		return unixHost + s.path
	}
	return s.addr.String()
}

// unixHost begins the name of a host that is the path of a unix socket.
const unixHost = "unix:"

const (
	// silence is how long is waited for one more answer (erlang.md a.2).
	silence = 500 * time.Millisecond
	// rounds is how often servers of priority 0 are asked for, where others have answered.
	rounds = 3
)

// An asked is a host to ask, or the path of a socket.
type asked struct {
	addr      netip.AddrPort
	broadcast bool
	path      string
}

// discover asks all hosts until at least one server has answered, and returns those that did: the lowest priority first, among
// equals in the order of the hosts. What the real loader does there, the last to answer first, is an error of its own (erlang.md
// a.3). It doesn't wait for others once the first host has answered with priority 0 and is good, or all have answered.
func (l *Loader) discover(ctx context.Context, good func(server) bool) ([]server, error) {
	hosts, err := l.lookup(ctx)
	if err != nil {
		return nil, err
	}
	var found []server
	for i, h := range hosts {
		if h.path != "" {
			found = append(found, server{path: h.path, host: i})
		}
	}
	if len(found) > 0 && (found[0].host == 0 && good(found[0]) || answered(found, hosts)) {
		return found, nil
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	q := []byte(query + l.cfg.Version)
	buf := make([]byte, 512)
	for round := 1; ; round++ {
		var sent error
		for _, h := range hosts {
			if h.path != "" {
				continue
			}
			if _, err := conn.WriteToUDPAddrPort(q, h.addr); err != nil {
				sent = err
			}
		}
		for {
			_ = conn.SetReadDeadline(time.Now().Add(silence))
			if err := context.Cause(ctx); err != nil { // after the deadline, which ctx's end would have set before
				return nil, noAnswer(l, found, sent, err)
			}
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
					break
				}
				return nil, err
			}
			s, ok := parseAnswer(buf[:n], from, hosts)
			if !ok || slices.Contains(found, s) {
				continue
			}
			found = append(found, s)
			if s.priority == 0 && s.host == 0 && good(s) || answered(found, hosts) {
				return ranked(found), nil
			}
		}
		if err := context.Cause(ctx); err != nil {
			return nil, noAnswer(l, found, sent, err)
		}
		first := func(s server) bool { return s.priority == 0 }
		if len(found) > 0 && (round >= rounds || slices.ContainsFunc(found, first)) {
			return ranked(found), nil
		}
	}
}

// noAnswer says that nobody answered, and what that may mean.
func noAnswer(l *Loader, found []server, sent, cause error) error {
	if len(found) > 0 {
		return cause
	}
	why := "no boot server answered"
	if sent != nil {
		why += " (" + sent.Error() + ")"
	}
	return &noServer{
		msg:  fmt.Sprintf("%s: asked %s over UDP for version %s", why, strings.Join(l.cfg.Hosts, ", "), l.cfg.Version),
		hint: "a boot server is silent to whom it doesn't list (cmgr bootserver --allow), and Erlang's also to any other version than its own (--erts-version)",
		err:  cause,
	}
}

type noServer struct {
	msg, hint string
	err       error
}

func (e *noServer) Error() string { return e.msg }
func (e *noServer) Hint() string  { return e.hint }
func (e *noServer) Unwrap() error { return e.err }

// ranked sorts servers.
func ranked(found []server) []server {
	slices.SortStableFunc(found, func(a, b server) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.host, b.host))
	})
	return found
}

// answered says whether there is nobody left to wait for.
func answered(found []server, hosts []asked) bool {
	for i, h := range hosts {
		if h.broadcast || !slices.ContainsFunc(found, func(s server) bool { return s.host == i }) {
			return false
		}
	}
	return true
}

// parseAnswer reads a datagram. One from whom nobody asked counts only if somebody asked everybody.
func parseAnswer(b []byte, from netip.AddrPort, hosts []asked) (server, bool) {
	if len(b) < len(answer)+3 || !bytes.HasPrefix(b, []byte(answer)) {
		return server{}, false
	}
	addr := from.Addr().Unmap()
	host := slices.IndexFunc(hosts, func(h asked) bool { return h.addr.Addr() == addr && h.addr.Port() == from.Port() })
	if host < 0 {
		host = slices.IndexFunc(hosts, func(h asked) bool { return h.broadcast })
	}
	port := binary.BigEndian.Uint16(b[len(answer)+1:])
	return server{addr: netip.AddrPortFrom(addr, port), priority: b[len(answer)], host: host}, host >= 0 && port != 0
}

// lookup finds the addresses of the hosts, all of them: one that cannot be found is an error only if no other can, as any other
// host that doesn't answer.
func (l *Loader) lookup(ctx context.Context) ([]asked, error) {
	var out []asked
	var failed error
	for _, h := range l.cfg.Hosts {
		if path, ok := strings.CutPrefix(h, unixHost); ok {
			out = append(out, asked{path: path})
			continue
		}
		name, port, _ := splitHost(h) // Open found no fault
		addrs := []netip.Addr{}
		if a, err := netip.ParseAddr(name); err == nil {
			addrs = append(addrs, a)
		} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", name); err != nil {
			failed = fmt.Errorf("host %s: %w", h, err)
			l.cfg.Log.Warn("boot server", "host", h, "error", err)
		}
		for _, a := range addrs {
			at := asked{addr: netip.AddrPortFrom(a.Unmap(), port), broadcast: isBroadcast(a.Unmap())}
			if !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	if len(out) == 0 {
		return nil, failed
	}
	return out, nil
}

// splitHost splits "host", "host:port", "::1" or "[::1]:port".
func splitHost(h string) (string, uint16, error) {
	name, p, err := net.SplitHostPort(h)
	if err != nil {
		return strings.Trim(h, "[]"), Port, nil
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %q is no port, a number up to 65535", h, p)
	}
	return name, uint16(n), nil
}

// isBroadcast says whether a is everybody's address on a network of this machine, or a multicast address.
func isBroadcast(a netip.Addr) bool {
	if a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	if !a.Is4() {
		return false
	}
	addrs, _ := net.InterfaceAddrs()
	for _, i := range addrs {
		n, ok := i.(*net.IPNet)
		if !ok || n.IP.To4() == nil {
			continue
		}
		if ones, bits := n.Mask.Size(); bits-ones < 2 { // a network of one or two has none
			continue
		}
		ip, mask, want := n.IP.To4(), n.Mask, a.As4()
		if len(mask) == 16 {
			mask = mask[12:]
		}
		same := true
		for k := range want {
			same = same && want[k] == ip[k]|^mask[k]
		}
		if same {
			return true
		}
	}
	return false
}
