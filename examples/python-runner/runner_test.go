// Package pythonrunner tests the runner in Python beside it: by the cases that every runner must pass, over its socket.
package pythonrunner

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/remote"
	"github.com/cmgr/cmgr/runners/runnertest"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// bound is how long a thing that must happen may take on a busy machine.
const bound = 2 * time.Minute

// python is the runner, started as README.md says, and a connection to it.
func python(t testing.TB) (*remote.Runner, *exec.Cmd) {
	t.Helper()
	return listening(t, filepath.Join(t.TempDir(), "runner"))
}

// listening is python with its socket at path.
func listening(t testing.TB, path string) (*remote.Runner, *exec.Cmd) {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := exec.Command(needs.Tool(t, "python3"), "runner.py")
	c.ExtraFiles = []*os.File{f}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	r, err := remote.Dial(ctx, path, remote.Config{Patience: bound})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, c
}

func block(kv ...any) runners.Block {
	var b runners.Block
	for i := 0; i < len(kv); i += 2 {
		pos := manifest.Pos{File: "x.cml", Line: int32(i) + 1, Col: 9}
		b.Info = append(b.Info, manifest.Entry{Key: kv[i].(string), Pos: pos, Value: kv[i+1].(manifest.Value)})
	}
	return b
}

// testdata is a package.
func testdata(t testing.TB) runners.Package {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return runners.Package{Dir: dir}
}

func TestContract(t *testing.T) {
	r, _ := python(t)
	runnertest.Run(t, runnertest.Kit{
		Runner: r,
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			script := "kit.py"
			if b == runnertest.NeverStarts {
				script = "missing.py"
			}
			return runners.StartInfo{
				Program: block("args", manifest.Strings{string(b)}, "script", manifest.String(script)), Package: testdata(t),
			}, b != runnertest.NeverReady
		},
	})
}

// run runs info with both streams caught, and returns the first's text when all that writes there has gone.
func run(t *testing.T, r runners.Runner, info runners.StartInfo, while func(runners.Program, *bufio.Reader)) (runners.Exit, string) {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	in.SetReadDeadline(time.Now().Add(bound))
	info.Moniker, info.URL, info.Stdout, info.Package = "/x", "file:///x.cml", out, testdata(t)
	p, err := r.Start(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(in)
	if while != nil {
		while(p, lines)
	}
	text, err := io.ReadAll(lines)
	if err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	x, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return x, string(text)
}

func function(name string) runners.StartInfo {
	return runners.StartInfo{Program: block("function", manifest.String("functions:"+name))}
}

func TestFunctionFindsItsWorld(t *testing.T) {
	r, _ := python(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("routed"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	rd, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(wr, "granted")
	wr.Close()
	info := function("show")
	info.Program.Info = append(block("args", manifest.Strings{"-v", "ü"}).Info, info.Program.Info...)
	info.Namespace = []runners.NamespaceEntry{{Path: "/data", File: data, Rights: manifest.RightsR}}
	info.Handles = []runners.Handle{{Number: 9, File: rd}}
	info.Config = bytes.Repeat([]byte("c"), 100_000) // longer than a packet
	x, text := run(t, r, info, nil)
	want := `[0, 1, 2, 9]
/x file:///x.cml ['functions:show', '-v', 'ü'] testdata
100000 ['/data'] None [9]
routed granted
`
	if !x.OK() || text != want {
		t.Errorf("exit %v, output\n%swant\n%s", x, text, want)
	}
}

func TestEnds(t *testing.T) {
	r, _ := python(t)
	for _, test := range []struct {
		function, want string
	}{
		{"seven", "exited code=7"},
		{"fail", "exited code=1: KeyError: 'missing'"},
		{"leave", "exited code=1: not today"},
		{"missing", "exited code=1: AttributeError: module 'functions' has no attribute 'missing'"},
		{"children", "exited code=0"},
		{"crash", "killed by SIGSEGV"},
	} {
		x, _ := run(t, r, function(test.function), nil)
		x.Started, x.Ended, x.CoreDumped = time.Time{}, time.Time{}, false
		if x.String() != test.want {
			t.Errorf("%s: %v, want %s", test.function, x, test.want)
		}
	}
}

// TestStopIsAnException: a function that is asked to stop leaves by its finally.
func TestStopIsAnException(t *testing.T) {
	r, _ := python(t)
	x, text := run(t, r, function("cleanup"), func(p runners.Program, out *bufio.Reader) {
		if line, err := out.ReadString('\n'); line != "serving\n" {
			t.Errorf("%q, %v", line, err)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if !x.OK() || x.Cause != runners.ByStop || text != "leaving\n" {
		t.Errorf("exit %v, output %q", x, text)
	}
}

func TestRefuses(t *testing.T) {
	r, _ := python(t)
	for want, b := range map[string]runners.Block{
		"needs a script or a function":                         block(),
		"x.cml:1:9: program.script: must be a string":          block("script", manifest.Strings{"a"}),
		"program.script: no file nosuch.py in the package":     block("script", manifest.String("nosuch.py")),
		"program.script: must be a path in the package":        block("script", manifest.String("../runner.py")),
		`program.function: must be "module:function"`:          block("function", manifest.String("show")),
		"x.cml:3:9: program.args: must be an array of strings": block("script", manifest.String("kit.py"), "args", manifest.String("a")),
		"program.binary: the python runner does not know":      block("binary", manifest.String("/bin/sh")),
	} {
		_, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/x", Program: b, Package: testdata(t)})
		if err == nil || !strings.Contains(err.Error(), want) || capabilities.CodeOf(err) != capabilities.Invalid {
			t.Errorf("%v (%v), want %q", err, capabilities.CodeOf(err), want)
		}
	}
}

// TestRunnerEnds: the programs of a runner that is told to end, or is killed, have ended with it, as the manager sees it.
func TestRunnerEnds(t *testing.T) {
	r, c := python(t)
	x, _ := run(t, r, function("cleanup"), func(_ runners.Program, out *bufio.Reader) {
		if _, err := out.ReadString('\n'); err != nil {
			t.Error(err)
		}
		c.Process.Signal(syscall.SIGTERM)
	})
	if x.Cause != runners.ByRunner || x.OK() {
		t.Errorf("exit %v", x)
	}
}

// TestManagerGoes: when the connection ends, nothing of its programs is left; other managers have theirs.
func TestManagerGoes(t *testing.T) {
	r, _ := python(t)
	_, text := run(t, r, function("cleanup"), func(p runners.Program, out *bufio.Reader) {
		if _, err := out.ReadString('\n'); err != nil {
			t.Error(err)
		}
		r.Close()
	})
	if text != "" {
		t.Errorf("it was not killed, it left: %q", text)
	}
}

// TestLies: what is no message, and a protocol that it doesn't speak, is refused with a word, and it goes on with others.
func TestLies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runner")
	r, _ := listening(t, path)
	for lie, want := range map[string]string{
		"ssh-2.0":                            "sends what is no message",
		"\x0a\x06\x0a\x01a\x12\x01\x01":      "another protocol",
		"\x22\x07\x08\x01\x12\x03abc":        "out of turn",
		"\x0a\x17\x0a\x15" + remote.Protocol: "no version",
	} {
		c, err := net.Dial("unixpacket", path)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(bound))
		buf := make([]byte, 1000)
		n := 0
		if _, err = c.Write([]byte(lie)); err == nil {
			n, err = c.Read(buf)
		}
		c.Close()
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Errorf("%q: %q, %v; want %q", lie, buf[:n], err, want)
		}
	}
	if x, _ := run(t, r, function("seven"), nil); x.Code != 7 {
		t.Errorf("exit %v", x)
	}
}

// BenchmarkStart is a whole run of a script that ends at once.
func BenchmarkStart(b *testing.B) {
	r, _ := python(b)
	for b.Loop() {
		info := runners.StartInfo{
			Moniker: "/x", Package: testdata(b),
			Program: block("args", manifest.Strings{string(runnertest.ExitSeven)}, "script", manifest.String("kit.py")),
		}
		p, err := r.Start(b.Context(), info)
		if err != nil {
			b.Fatal(err)
		}
		if x, err := p.Wait(b.Context()); err != nil || x.Code != 7 {
			b.Fatal(x, err)
		}
	}
}
