package inet_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/inet"
	"github.com/cmgr/cmgr/runtime/loader/loadertest"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// serve serves dir on an address of its own of the loopback network, and returns the server and the host to ask.
func serve(t testing.TB, dir string, change func(*inet.ServerConfig)) (*inet.Server, string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := inet.ServerConfig{Addr: "127.0.0.1:0", Allow: []string{"127.0.0.0/8"}, Root: root}
	if change != nil {
		change(&cfg)
	}
	s, err := inet.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { s.Close(); wg.Wait() })
	if cfg.Addr == "" {
		return s, "unix:" + cfg.Listeners[0].Addr().String()
	}
	return s, s.UDPAddr().String()
}

// onSocket has a server serve on a socket alone.
func onSocket(t testing.TB) func(*inet.ServerConfig) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	return func(c *inet.ServerConfig) { c.Addr, c.Allow, c.Listeners = "", nil, []net.Listener{l} }
}

func dial(t testing.TB, cfg inet.Config) *inet.Loader {
	t.Helper()
	cfg.Idle, cfg.Timeout = cmp.Or(cfg.Idle, time.Minute), cmp.Or(cfg.Timeout, time.Minute) // a busy machine is not a silent server
	l, err := inet.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func tree(t testing.TB, files fstest.MapFS) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, files); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestContract(t *testing.T) {
	for _, sub := range []string{"", "some/where"} {
		t.Run("dir "+sub, func(t *testing.T) {
			loadertest.Run(t, func(t *testing.T, files fstest.MapFS) loader.Loader {
				top := t.TempDir()
				if err := os.CopyFS(filepath.Join(top, sub), files); err != nil {
					t.Fatal(err)
				}
				_, host := serve(t, top, nil)
				return dial(t, inet.Config{Hosts: []string{host}, Dir: sub})
			})
		})
	}
	t.Run("on a socket", func(t *testing.T) {
		loadertest.Run(t, func(t *testing.T, files fstest.MapFS) loader.Loader {
			_, host := serve(t, tree(t, files), onSocket(t))
			return dial(t, inet.Config{Hosts: []string{host}})
		})
	})
}

// get fetches a file as a string.
func get(ctx context.Context, l *inet.Loader, name string) (string, error) {
	f, err := l.Get(ctx, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

// What the disk says travels, and means the same.
func TestReasons(t *testing.T) {
	dir := tree(t, fstest.MapFS{"file": {Data: []byte("x")}, "dir/file": {}})
	if err := errors.Join(syscall.Mkfifo(dir+"/fifo", 0o600), os.Symlink("/etc/passwd", dir+"/out"), os.Symlink("loop", dir+"/loop")); err != nil {
		t.Fatal(err)
	}
	_, host := serve(t, dir, nil)
	l := dial(t, inet.Config{Hosts: []string{host}})
	for name, want := range map[string]inet.Reason{
		"/none": "enoent", "/file/x": "enotdir", "/dir": "eisdir", "/": "eisdir", "/fifo": "eacces", "/out": "enoent", "/../../etc/passwd": "enoent",
		"/loop": "eloop", "/" + strings.Repeat("x", 300): "enametoolong", "/nul\x00": "badarg",
	} {
		_, err := l.Get(t.Context(), name)
		var got inet.Reason
		if !errors.As(err, &got) || got != want {
			t.Errorf("get %.20q: %v, want %s", name, err, want)
		}
		if exist := want == "enoent" || want == "enotdir"; errors.Is(err, fs.ErrNotExist) != exist {
			t.Errorf("get %.20q: %v, does not exist: %v", name, err, !exist)
		}
	}
	for _, name := range []string{"\xff", strings.Repeat("/x", 1<<20)} {
		if _, err := l.Get(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get %.20q: %v", name, err)
		}
	}
	if got, err := get(t.Context(), l, "dir/../file"); err != nil || got != "x" {
		t.Errorf("a relative name: %q, %v", got, err)
	}
}

// A server that ends is replaced by the next one, without an error for anybody; the whole of each file comes from one of them.
func TestFailover(t *testing.T) {
	files := fstest.MapFS{}
	for i := range 200 {
		files[fmt.Sprintf("f%d", i)] = &fstest.MapFile{Data: bytes.Repeat([]byte{byte(i)}, 1+i*1000)}
	}
	dir := tree(t, files)
	first, host1 := serve(t, dir, nil)
	_, host2 := serve(t, dir, nil)
	l := dial(t, inet.Config{Hosts: []string{host1, host2}})
	var wg sync.WaitGroup
	var n atomic.Int32
	for range 4 {
		wg.Go(func() {
			for name, f := range files {
				if n.Add(1) == 100 {
					first.Close()
				}
				got, err := get(t.Context(), l, "/"+name)
				if err != nil || got != string(f.Data) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// The lowest priority number is taken, whoever answers last, and among equals the first of the hosts.
func TestPriority(t *testing.T) {
	var hosts []string
	for i, p := range []uint8{5, 1, 1} {
		_, h := serve(t, tree(t, fstest.MapFS{"x": {Data: []byte{byte('a' + i)}}}), func(c *inet.ServerConfig) { c.Priority = p })
		hosts = append(hosts, h)
	}
	for want, order := range map[string][]int{"b": {0, 1, 2}, "c": {2, 1, 0}, "a": {0}} {
		cfg := inet.Config{}
		for _, i := range order {
			cfg.Hosts = append(cfg.Hosts, hosts[i])
		}
		if got, err := get(t.Context(), dial(t, cfg), "/x"); err != nil || got != want {
			t.Errorf("hosts %v: from %q, %v, want %q", order, got, err, want)
		}
	}
}

// A socket is a host like any other, but that it is not searched for.
func TestSocket(t *testing.T) {
	serves := func(what string, change func(*inet.ServerConfig)) (*inet.Server, string) {
		return serve(t, tree(t, fstest.MapFS{"x": {Data: []byte(what)}}), change)
	}
	first, socket := serves("socket", onSocket(t))
	_, address := serves("address", nil)
	none := "unix:" + filepath.Join(t.TempDir(), "none")
	ask := func(want string, hosts ...string) {
		t.Helper()
		if got, err := get(t.Context(), dial(t, inet.Config{Hosts: hosts}), "/x"); got != want || err != nil {
			t.Errorf("%v: %q, %v, want %q", hosts, got, err, want)
		}
	}
	ask("socket", socket, address)
	ask("address", address, socket)
	ask("socket", none, socket)
	ask("address", none, address)
	ask("socket", "127.0.0.1:9", socket)
	first.Close()
	ask("address", socket, address)
	if _, err := get(t.Context(), dial(t, inet.Config{Hosts: []string{none}}), "/x"); err == nil || errors.Is(err, loader.ErrNotExist) ||
		!strings.Contains(err.Error(), none[len("unix:"):]) {
		t.Errorf("without a socket: %v", err)
	}
	for _, hosts := range [][]string{{"unix:"}, {socket, " "}, {"127.0.0.1:99999"}, {"boot:"}} {
		if _, err := inet.Open(inet.Config{Hosts: hosts}); err == nil {
			t.Errorf("%q are hosts", hosts)
		}
	}
}

func TestRefused(t *testing.T) {
	dir := tree(t, fstest.MapFS{"x": {}})
	s, host := serve(t, dir, func(c *inet.ServerConfig) { c.Allow = []string{"127.0.0.9", "10.0.0.0/8"} })
	l := dial(t, inet.Config{Hosts: []string{host}, Timeout: time.Second})
	_, err := l.Get(t.Context(), "/x")
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no boot server answered") {
		t.Errorf("not in the list: %v", err)
	}
	c, err := net.Dial("tcp", s.TCPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("over TCP: %q, %v", b, err)
	}
	for _, allow := range []string{"", "10.0.0.1/8", "no such host", "1.2.3.4/33"} {
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := inet.Listen(inet.ServerConfig{Addr: "127.0.0.1:0", Root: root, Allow: []string{allow}}); err == nil {
			s.Close()
			t.Errorf("allow %q: accepted", allow)
		}
	}
}

func TestVersions(t *testing.T) {
	_, host := serve(t, tree(t, fstest.MapFS{"x": {Data: []byte("x")}}), func(c *inet.ServerConfig) { c.Version = "13.1.5" })
	for version, fine := range map[string]bool{"": true, "13.1.5": true, "13.1": false} {
		cfg := inet.Config{Hosts: []string{host}, Version: version}
		if !fine {
			cfg.Timeout = time.Second
		}
		got, err := get(t.Context(), dial(t, cfg), "/x")
		if (err == nil && got == "x") != fine {
			t.Errorf("version %q: %q, %v", version, got, err)
		}
	}
}

// A cookie keeps out who doesn't know it, on either side, and Erlang's nodes, who cannot show one.
func TestCookie(t *testing.T) {
	dir := tree(t, fstest.MapFS{"x": {Data: []byte("x")}})
	hosts := map[string]string{}
	for _, cookie := range []string{"", "chocolate"} {
		_, hosts[cookie] = serve(t, dir, func(c *inet.ServerConfig) { c.Cookie = cookie })
	}
	for _, c := range []struct{ server, loader, version, says string }{
		{"", "", "", ""},
		{"chocolate", "chocolate", "", ""},
		{"chocolate", "", "", "wants a cookie"},
		{"chocolate", "vanilla", "", "another cookie"},
		{"", "chocolate", "", "has no cookie"},
		{"chocolate", "chocolate", "13.1.5", "EOF"},
		{"", "chocolate", "13.1.5", ""},
	} {
		l := dial(t, inet.Config{Hosts: []string{hosts[c.server]}, Cookie: c.loader, Version: c.version, ID: "node1"})
		got, err := get(t.Context(), l, "/x")
		if c.says == "" && (err != nil || got != "x") || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

// A loader that nobody answers, or whose context ends, says so in time and names what it asked.
func TestSilence(t *testing.T) {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	port := tcp.Addr().(*net.TCPAddr).Port
	var wg sync.WaitGroup
	defer wg.Wait()
	defer udp.Close()
	wg.Go(func() {
		b := make([]byte, 100)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(append([]byte{'E', 'B', 'O', 'O', 'T', 'R', 0, byte(port >> 8), byte(port)}, b[6:n]...), from)
		}
	})
	host := udp.LocalAddr().String()
	// It accepts, by the kernel, and never answers.
	_, err = dial(t, inet.Config{Hosts: []string{host}, Idle: 50 * time.Millisecond}).Get(t.Context(), "/x")
	if err == nil || !strings.Contains(err.Error(), tcp.Addr().String()) || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("a silent server: %v", err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	if _, err = dial(t, inet.Config{Hosts: []string{host}, Idle: time.Hour}).Get(ctx, "/x"); !errors.Is(err, cause) {
		t.Errorf("a context that ended: %v", err)
	}
	if _, err = dial(t, inet.Config{Hosts: []string{"no.such.host.invalid"}}).Get(t.Context(), "/x"); err == nil || !strings.Contains(err.Error(), "no.such.host.invalid") {
		t.Errorf("a host without address: %v", err)
	}
}

// raw is a connection to the server, on which a test says what it wants.
type raw struct {
	net.Conn
	t testing.TB
}

func connect(t testing.TB, s *inet.Server) raw {
	t.Helper()
	c, err := net.Dial("tcp", s.TCPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { c.Close() })
	return raw{c, t}
}

func (c raw) send(b []byte) {
	_, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
}

// receive reads one answer; nil when there is none.
func (c raw) receive() term.Term {
	var l [4]byte
	if _, err := io.ReadFull(c, l[:]); err != nil {
		return nil
	}
	b := make([]byte, binary.BigEndian.Uint32(l[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil
	}
	t, err := term.Decode(b)
	if err != nil {
		c.t.Errorf("the answer %x: %v", b, err)
	}
	return t
}

// isX says whether r is the answer with the contents "x".
func isX(r term.Term) bool {
	return r != nil && term.Compare(r, term.Tuple{term.Atom("get"), term.Tuple{term.Atom("ok"), term.Bits{Bytes: "x"}}}) == 0
}

func ask(name string) []byte {
	return term.Encode(term.Tuple{term.Atom("get"), term.String(name)}, false)
}

// A thousand connections, of which some say nothing, some half a request and some take no answer, keep nobody from being served.
func TestThousandConnections(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	s, host := serve(t, tree(t, fstest.MapFS{"x": {Data: []byte("x")}, "big": {Data: big}}), nil)
	var conns []raw
	for i := range 1000 {
		c := connect(t, s)
		switch i % 4 {
		case 0:
			_, _ = c.Write([]byte{0, 0, 0, 42, 131})
		case 1:
			c.send(ask("/big"))
		case 2:
			c.send(ask("/x"))
		}
		conns = append(conns, c)
	}
	l := dial(t, inet.Config{Hosts: []string{host}})
	if got, err := get(t.Context(), l, "/big"); err != nil || got != string(big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for i := 2; i < 1000; i += 4 {
		if r := conns[i].receive(); !isX(r) {
			t.Fatalf("connection %d got %v", i, r)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	s, _ := serve(t, tree(t, fstest.MapFS{"x": {Data: []byte("x")}}), func(c *inet.ServerConfig) { c.MaxConns = 3 })
	for i := range 5 {
		c := connect(t, s)
		c.send(ask("/x"))
		if r := c.receive(); (r != nil) != (i < 3) {
			t.Errorf("connection %d: %v", i, r)
		}
	}
}

// A server on all addresses answers from the one that was asked.
func TestAllAddresses(t *testing.T) {
	s, _ := serve(t, tree(t, fstest.MapFS{"x": {Data: []byte("x")}}), func(c *inet.ServerConfig) { c.Addr = "0.0.0.0:0" })
	for _, a := range []string{"127.0.0.1", "127.1.2.3"} {
		host := netip.AddrPortFrom(netip.MustParseAddr(a), s.UDPAddr().Port()).String()
		if got, err := get(t.Context(), dial(t, inet.Config{Hosts: []string{host}}), "/x"); err != nil || got != "x" {
			t.Errorf("asked at %s: %q, %v", host, got, err)
		}
	}
}

// A file that changes while it is sent ends the connection; the loader never gives out half of it.
func TestFileShrinks(t *testing.T) {
	dir := tree(t, fstest.MapFS{"big": {Data: make([]byte, 64<<20)}})
	s, _ := serve(t, dir, nil)
	c := connect(t, s)
	c.send(ask("/big"))
	if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir+"/big", 0); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n >= 64<<20 {
		t.Errorf("%d bytes more, %v", n, err)
	}
}

// FuzzServer sends frames to a server: each gets one answer, a term that the loader knows to read, or the connection ends; and another
// connection is served as if nothing had been.
func FuzzServer(f *testing.F) {
	f.Add(ask("/x"))
	f.Add([]byte("\x83\xff\x00"))
	f.Add([]byte{})
	f.Add([]byte("\x83d\x00\x07get_cwd"))
	f.Add([]byte("\x83h\x02d\x00\x08list_dirk\x00\x01/"))
	f.Add([]byte("\x83h\x02d\x00\x0eread_file_infol\x00\x00\x00\x02a/axj"))
	f.Add([]byte("\x83h\x02d\x00\x03getl\xff\xff\xff\xffa/"))
	f.Add([]byte("\x83P\xff\xff\xff\xf0x"))
	f.Add(append([]byte{131}, bytes.Repeat([]byte("l\x00\x00\x00\x01"), 10000)...))
	s, host := serve(f, tree(f, fstest.MapFS{"x": {Data: []byte("x")}}), nil)
	l := dial(f, inet.Config{Hosts: []string{host}})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := connect(t, s)
		c.send(b)
		if r, ok := c.receive().(term.Tuple); ok {
			if len(r) != 2 {
				t.Errorf("answer %s", term.Text(r))
			}
			c.send(ask("/x"))
			if r := c.receive(); !isX(r) {
				t.Errorf("the next answer of the connection: %v", r)
			}
		}
		c.Close()
		if got, err := get(t.Context(), l, "/x"); err != nil || got != "x" {
			t.Errorf("another connection: %q, %v", got, err)
		}
	})
}
