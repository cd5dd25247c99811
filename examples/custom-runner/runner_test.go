package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/leak"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/runnertest"
)

func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }

// buildWasm builds the Go program in dir as a WASI module.
func buildWasm(t *testing.T, dir, out string) {
	t.Helper()
	c := exec.Command("go", "build", "-o", out, "./"+dir)
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", dir, err, text)
	}
}

func TestWasmRunnerKeepsTheContract(t *testing.T) {
	r := newWasmRunner()
	defer r.Close()
	pkg := t.TempDir()
	buildWasm(t, "testdata/kit", filepath.Join(pkg, "kit.wasm"))
	if err := os.WriteFile(filepath.Join(pkg, "output"), runnertest.Output(), 0o644); err != nil {
		t.Fatal(err)
	}
	runnertest.Run(t, runnertest.Kit{
		Runner: r,
		Info: func(t *testing.T, b runnertest.Behaviour) (runners.StartInfo, bool) {
			module := "kit.wasm"
			if b == runnertest.NeverStarts {
				module = "missing.wasm"
			}
			return runners.StartInfo{
				Program: block("module", manifest.String(module), "args", manifest.Strings{string(b)}),
				Package: runners.Package{Dir: pkg},
			}, b != runnertest.NeverReady && b != runnertest.SurvivesKill
		},
	})
}

func TestWasmRunnerRefuses(t *testing.T) {
	r := newWasmRunner()
	defer r.Close()
	pkg := t.TempDir()
	if err := os.WriteFile(filepath.Join(pkg, "text.wasm"), []byte("not wasm"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(pkg, "out.wasm")); err != nil {
		t.Fatal(err)
	}
	for want, b := range map[string]runners.Block{
		"program.module: is missing":      block(),
		"must be a string":                block("module", manifest.Strings{"a"}),
		"must be an array of strings":     block("module", manifest.String("text.wasm"), "args", manifest.String("a")),
		"invalid magic number":            block("module", manifest.String("text.wasm")),
		"path escapes":                    block("module", manifest.String("out.wasm")),
		"no such file":                    block("module", manifest.String("none.wasm")),
		"program.binary: is no key of th": block("module", manifest.String("text.wasm"), "binary", manifest.String("a")),
	} {
		_, err := r.Start(t.Context(), runners.StartInfo{Moniker: "/m", Program: b, Package: runners.Package{Dir: pkg}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %q", b.Info, err, want)
		}
	}
}

func TestTrapHasNoExitCode(t *testing.T) {
	r := newWasmRunner()
	defer r.Close()
	pkg := t.TempDir()
	// (module (func (export "_start") unreachable))
	trap := "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x07\x0a\x01\x06_start\x00\x00\x0a\x05\x01\x03\x00\x00\x0b"
	if err := os.WriteFile(filepath.Join(pkg, "trap.wasm"), []byte(trap), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := r.Start(t.Context(), runners.StartInfo{
		Moniker: "/m", Program: block("module", manifest.String("trap.wasm")), Package: runners.Package{Dir: pkg},
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait(t.Context())
	if err != nil || exit.Code != -1 || !strings.Contains(exit.Detail, "unreachable") {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// TestExample does what README.md says.
func TestExample(t *testing.T) {
	dir := t.TempDir()
	buildWasm(t, "hello", filepath.Join(dir, "hello.wasm"))
	for _, file := range []string{"root.cml", "hello.cml", "echo.cml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "custom-runner")
	if text, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	c := exec.CommandContext(t.Context(), program, filepath.Join(dir, "root.cml"), filepath.Join(dir, "state"))
	c.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(got)
	if want := []string{"/echo | Hello from a process!", "/hello | Hello from WebAssembly!"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("it printed %q (%v), want %q\n%s", got, err, want, stderr.String())
	}
}

// block is a program block of these keys and values.
func block(kv ...any) runners.Block {
	var b runners.Block
	for i := 0; i < len(kv); i += 2 {
		b.Info = append(b.Info, manifest.Entry{Key: kv[i].(string), Value: kv[i+1].(manifest.Value)})
	}
	return b
}
