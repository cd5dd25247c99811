package inet

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

// ServerConfig says what a Server serves, where, and to whom.
type ServerConfig struct {
	// Addr is the address that it serves on, with a UDP port if that is not Port. Nodes are sent to the address that they asked, at
	// a TCP port of the system's choice. "" is none: then it serves on Listeners alone.
	Addr string
	// Allow are those who may connect: addresses, networks ("10.0.0.0/8"), or names, which are looked up once. Nobody else gets an
	// answer.
	Allow []string
	// Root is the directory with the files: /a/b is Root/a/b. Nothing outside is served, whatever ".." or symlinks say. The Server
	// closes it.
	Root *os.Root
	// Listeners are sockets on which it serves, too, whoever connects. The Server closes them.
	Listeners []net.Listener
	// Version is the ERTS version of the nodes that are answered, "" or "any" for whatever they have: a node's code must fit its
	// emulator, which Erlang's server ensures by serving only its own version.
	Version string
	// Priority is what it tells of itself, 0 the first.
	Priority uint8
	// Cookie, unless "", must be known to who connects; then it serves only cmgr's loaders, for Erlang's know no such thing.
	Cookie string
	// MaxConns bounds the connections at one time; 0 is 4096.
	MaxConns int
	// Log is told who connects and is refused; nil is silence.
	Log *slog.Logger
}

// A Server is a boot server.
type Server struct {
	cfg   ServerConfig
	allow []netip.Prefix
	udp   *net.UDPConn // nil without an address, as is tcp
	tcp   *net.TCPListener

	wg sync.WaitGroup // the connections
	// mu guards what is below it.
	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

const (
	// patience bounds in time the rest of a request whose beginning came, and the taking of each part of an answer. Between requests
	// a connection may be idle for ever: a node that finds it closed stalls for a minute (erlang.md a.5).
	patience = 60 * time.Second
	// part is what of an answer must be taken at a time.
	part = 1 << 20
	// small is the size in bytes of files that are sent at once with their head.
	small = 32 << 10
)

// Listen opens the ports. Serve serves them.
func Listen(cfg ServerConfig) (_ *Server, err error) {
	defer func() {
		if err != nil {
			cfg.Root.Close()
			for _, l := range cfg.Listeners {
				l.Close()
			}
			err = fmt.Errorf("boot server: %w", err)
		}
	}()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.MaxConns = cmp.Or(cfg.MaxConns, 4096)
	if cfg.Version == "any" {
		cfg.Version = ""
	}
	if len(cfg.Version) > maxVersion {
		return nil, fmt.Errorf("a version of more than %d bytes", maxVersion)
	}
	s := &Server{cfg: cfg, conns: map[net.Conn]struct{}{}}
	if cfg.Addr == "" && len(cfg.Listeners) > 0 {
		return s, nil
	}
	if s.allow, err = prefixes(cfg.Allow); err != nil {
		return nil, err
	}
	host, port, err := splitHost(cfg.Addr)
	if err != nil {
		return nil, err
	}
	at, err := net.ResolveUDPAddr("udp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return nil, err
	}
	if at.IP == nil {
		return nil, errors.New("no address to serve on")
	}
	network := "4"
	if at.IP.To4() == nil {
		network = "6"
	}
	if s.udp, err = net.ListenUDP("udp"+network, at); err != nil {
		return nil, err
	}
	if s.tcp, err = net.ListenTCP("tcp"+network, &net.TCPAddr{IP: at.IP, Zone: at.Zone}); err == nil && at.IP.IsUnspecified() && network == "4" {
		err = receiveDestination(s.udp)
	}
	if err != nil {
		s.udp.Close()
		if s.tcp != nil {
			s.tcp.Close()
		}
		return nil, err
	}
	return s, nil
}

// prefixes reads who may connect.
func prefixes(allow []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, a := range allow {
		if p, err := netip.ParsePrefix(a); err == nil {
			if p != p.Masked() {
				return nil, fmt.Errorf("network %s: it is written %s", a, p.Masked())
			}
			out = append(out, p)
			continue
		}
		if ip, err := netip.ParseAddr(a); err == nil {
			out = append(out, netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()))
			continue
		}
		if a == "" || strings.ContainsAny(a, "/ ") {
			return nil, fmt.Errorf("%q is no address, network or name of a host", a)
		}
		ips, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", a)
		if err != nil {
			return nil, err
		}
		for _, ip := range ips {
			out = append(out, netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("nobody is allowed to connect")
	}
	return out, nil
}

// UDPAddr is where it is asked.
func (s *Server) UDPAddr() netip.AddrPort { return s.udp.LocalAddr().(*net.UDPAddr).AddrPort() }

// TCPAddr is where it serves.
func (s *Server) TCPAddr() netip.AddrPort { return s.tcp.Addr().(*net.TCPAddr).AddrPort() }

// Serve serves until Close, and returns when nothing of it is left. An error is one of the ports, which ends it.
func (s *Server) Serve() error {
	var all []func() error
	listeners := s.cfg.Listeners
	if s.udp != nil {
		all = append(all, s.answer)
		listeners = append(slices.Clone(listeners), s.tcp)
	}
	for _, l := range listeners {
		all = append(all, func() error { return s.accept(l) })
	}
	failed := make(chan error, len(all))
	for _, f := range all {
		s.wg.Go(func() {
			if err := f(); err != nil && !errors.Is(err, net.ErrClosed) {
				failed <- err
				s.Close()
			}
		})
	}
	s.wg.Wait()
	select {
	case err := <-failed:
		return fmt.Errorf("boot server: %w", err)
	default:
		return nil
	}
}

// Close ends Serve and all connections.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.udp != nil {
		s.udp.Close()
		s.tcp.Close()
	}
	for _, l := range s.cfg.Listeners {
		l.Close()
	}
	s.cfg.Root.Close()
	for c := range s.conns {
		c.Close()
	}
}

func (s *Server) allowed(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range s.allow {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// answer answers those who look for a server.
func (s *Server) answer() error {
	var buf [512]byte
	var oob [64]byte
	port := s.TCPAddr().Port()
	for {
		n, oobn, _, from, err := s.udp.ReadMsgUDPAddrPort(buf[:], oob[:])
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.cfg.Log.Debug("boot server", "error", err) // an ICMP error of an earlier answer
			continue
		}
		version, ok := strings.CutPrefix(string(buf[:n]), query)
		switch {
		case !s.allowed(from.Addr()):
			s.cfg.Log.Info("refused: not in the list", "peer", from.Addr())
		case !ok || version == "" || len(version) > maxVersion || strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' }):
			s.cfg.Log.Info("refused: no query for a boot server", "peer", from.Addr())
		case s.cfg.Version != "" && version != s.cfg.Version && version != Version:
			s.cfg.Log.Warn("refused: another version", "peer", from.Addr(), "its", version, "served", s.cfg.Version)
		default:
			b := append([]byte(answer), s.cfg.Priority, byte(port>>8), byte(port))
			b = append(b, version...)
			if _, _, err := s.udp.WriteMsgUDPAddrPort(b, sourceOf(oob[:oobn]), from); err != nil && !errors.Is(err, net.ErrClosed) {
				s.cfg.Log.Warn("cannot answer", "peer", from, "error", err)
			}
		}
	}
}

// accept serves those who connect to l.
func (s *Server) accept(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS) {
				s.cfg.Log.Error("cannot accept", "error", err)
				time.Sleep(100 * time.Millisecond) // somebody must end first
				continue
			}
			if errors.Is(err, syscall.ECONNABORTED) {
				continue
			}
			return err
		}
		peer := peerOf(c)
		if tcp, ok := peer.(*net.TCPAddr); ok {
			if !s.allowed(tcp.AddrPort().Addr()) {
				s.cfg.Log.Info("refused: not in the list", "peer", tcp.AddrPort().Addr())
				c.Close()
				continue
			}
		}
		s.mu.Lock()
		full := len(s.conns) >= s.cfg.MaxConns
		if s.closed || full {
			s.mu.Unlock()
			if full {
				s.cfg.Log.Warn("refused: too many connections", "peer", peer, "at most", s.cfg.MaxConns)
			}
			c.Close()
			continue
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			err := s.serve(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			closed := s.closed
			s.mu.Unlock()
			if err != nil && !closed {
				s.cfg.Log.Warn("connection ended", "peer", peer, "error", err)
			}
		})
	}
}

// peerOf is who is on the other side; one of a unix socket has no name but the socket's.
func peerOf(c net.Conn) net.Addr {
	if a, ok := c.LocalAddr().(*net.UnixAddr); ok {
		return a
	}
	return c.RemoteAddr()
}

// serve answers the requests of one connection, one after the other, until it ends.
func (s *Server) serve(c net.Conn) error {
	in := bufio.NewReaderSize(c, 1024)
	known := s.cfg.Cookie == ""
	for {
		if _, err := in.Peek(1); err != nil {
			if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
				return nil
			}
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		b, err := readFrame(in, maxRequest)
		if err != nil {
			return err
		}
		t, err := term.DecodeWithin(b, maxRequest)
		if hello, ok := tagged(t, tagHello, 3); err == nil && ok {
			if err := s.greeted(c, in, hello); err != nil {
				return err
			}
			known = true
		} else if !known {
			return errCookie
		} else if err := s.reply(c, t, err); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Time{})
	}
}

// errBadName is the end of a connection that asks for a name that is none, as it is for Erlang's server.
var errBadName = errors.New("a name that is no list of characters")

// reply answers one request; bad is why it is no term.
func (s *Server) reply(c net.Conn, t term.Term, bad error) error {
	if bad != nil {
		return s.send(c, term.Tuple{term.Atom("error"), term.Tuple{term.Atom("badarg"), term.List{}}})
	}
	if t == cmdCwd {
		return s.send(c, term.Tuple{cmdCwd, term.Tuple{term.Atom("ok"), term.String("/")}})
	}
	cmd, arg := term.Atom(""), term.Term(nil)
	if p, ok := t.(term.Tuple); ok && len(p) == 2 {
		cmd, _ = p[0].(term.Atom)
		arg = p[1]
	}
	var answer func(name string) (term.Term, error)
	switch cmd {
	case cmdGet:
		answer = nil
	case cmdListDir:
		answer = s.listDir
	case cmdFileInfo:
		answer = func(name string) (term.Term, error) { return s.info(s.cfg.Root.Stat, name) }
	case cmdLinkInfo:
		answer = func(name string) (term.Term, error) { return s.info(s.cfg.Root.Lstat, name) }
	case cmdCwd: // of a drive
		return s.send(c, term.Tuple{cmd, term.Tuple{term.Atom("error"), term.Atom("einval")}})
	default:
		return s.send(c, term.Tuple{term.Atom("error"), term.Atom("unknown_command")})
	}
	name, err := nameOf(arg)
	if errors.Is(err, errBadName) {
		return err
	}
	var v term.Term
	if err == nil && answer == nil {
		if err = s.sendFile(c, name); err == nil || errors.Is(err, errSending) {
			return err
		}
	} else if err == nil {
		v, err = answer(name)
	}
	if errors.Is(err, fs.ErrClosed) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) {
		return err // it says nothing of the file; whoever asked asks again, here or elsewhere
	}
	if err != nil {
		return s.send(c, term.Tuple{cmd, term.Tuple{term.Atom("error"), reasonOf(err)}})
	}
	return s.send(c, term.Tuple{cmd, term.Tuple{term.Atom("ok"), v}})
}

// nameOf is the path below the root that a request names: relative ones are relative to /, which is what get_cwd says.
func nameOf(t term.Term) (string, error) {
	elems, ok := term.Proper(t)
	if !ok {
		return "", errBadName
	}
	name, ok := term.IsString(term.Cons(elems, nil))
	if !ok || strings.ContainsRune(name, 0) {
		return "", fs.ErrInvalid
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	return cmp.Or(name, "."), nil
}

func (s *Server) listDir(name string) (term.Term, error) {
	f, err := s.cfg.Root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []term.Term
	for _, n := range names {
		out = append(out, term.String(n))
	}
	return term.Cons(out, nil), nil
}

func (s *Server) info(stat func(string) (fs.FileInfo, error), name string) (term.Term, error) {
	st, err := stat(name)
	if err != nil {
		return nil, err
	}
	return infoTerm(st), nil
}

// errSending is an error after which the connection cannot be used any more.
var errSending = errors.New("cannot send")

// send sends t.
func (s *Server) send(c net.Conn, t term.Term) error {
	b := frame(t)
	for len(b) > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		n, err := c.Write(b[:min(part, len(b))])
		if err != nil {
			return fmt.Errorf("%w: %w", errSending, err)
		}
		b = b[n:]
	}
	return nil
}

// okBinary is the beginning of {get,{ok,Binary}}, up to the binary's length.
var okBinary = []byte("\x83h\x02d\x00\x03geth\x02d\x00\x02okm")

// sendFile sends {get,{ok,Contents}}, the contents from the disk without a copy here. Errors but errSending come before anything
// was sent.
func (s *Server) sendFile(c net.Conn, name string) error {
	f, err := s.cfg.Root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return syscall.EISDIR
	case !st.Mode().IsRegular():
		return syscall.EACCES
	case st.Size() > 1<<32-1-int64(len(okBinary))-4:
		return syscall.EFBIG
	}
	size := st.Size()
	head := binary.BigEndian.AppendUint32(make([]byte, 0, 64+min(size, small)), uint32(int64(len(okBinary))+4+size))
	head = binary.BigEndian.AppendUint32(append(head, okBinary...), uint32(size))
	left := size
	if size <= small {
		at := len(head)
		head = head[:at+int(size)]
		if _, err := io.ReadFull(f, head[at:]); err != nil {
			return syscall.EIO // it became shorter
		}
		left = 0
	}
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.Write(head); err != nil {
		return fmt.Errorf("%w: %w", errSending, err)
	}
	for left > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		n, err := io.Copy(c, &io.LimitedReader{R: f, N: min(left, part)}) // by sendfile(2), to TCP
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF // it became shorter
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errSending, err)
		}
		left -= n
	}
	return nil
}

// receiveDestination has the socket tell to which of this machine's addresses a datagram came: nodes connect to the address that
// an answer comes from.
func receiveDestination(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_PKTINFO, 1) })
	return errors.Join(err, failed)
}

// sourceOf makes of the message that says where a datagram came to one that has an answer sent from there (ip(7), IP_PKTINFO).
func sourceOf(oob []byte) []byte {
	if len(oob) < syscall.CmsgSpace(syscall.SizeofInet4Pktinfo) {
		return nil
	}
	out := append([]byte(nil), oob[:syscall.CmsgSpace(syscall.SizeofInet4Pktinfo)]...)
	// struct in_pktinfo: interface, local address, address in the header. The kernel sends from the second, on any interface if that
	// is 0.
	clear(out[syscall.CmsgLen(0):][:4])
	return out
}
