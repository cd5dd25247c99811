package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
)

// wasmRunner runs WebAssembly modules that speak WASI (preview 1), each in a sandbox of its own inside this process.
//
//	program: { module: "hello.wasm", args: ["Hello"], environ: ["KEY=value"] }
//
// A module finds its package at /pkg, read-only, and what was routed to it at the paths it asked for. There are no signals in
// WASI: a module is asked to stop by the end of its standard input. Kill ends it wherever it is.
type wasmRunner struct {
	compiled wazero.CompilationCache // a module's machine code is made once, however many components run it
}

func newWasmRunner() *wasmRunner { return &wasmRunner{wazero.NewCompilationCache()} }

// Close frees the machine code. Every program must have ended.
func (r *wasmRunner) Close() error { return r.compiled.Close(context.Background()) }

// Start compiles the module and runs it on a goroutine of its own.
func (r *wasmRunner) Start(ctx context.Context, info runners.StartInfo) (_ runners.Program, err error) {
	p := &program{info: info}
	// ctx bounds the starting only; what the program does ends by Kill.
	run, kill := context.WithCancel(context.WithoutCancel(ctx))
	p.killed, p.kill = run, kill
	defer func() {
		if err != nil {
			p.release()
			why := capabilities.CodeOf(err)
			if ctx.Err() != nil {
				why = capabilities.Unavailable
			}
			err = &runners.Error{Op: "start", At: info.Moniker, Why: why, Err: err}
		}
	}()

	block := info.Program
	if unknown := block.Unknown("module", "args", "environ"); len(unknown) > 0 {
		return nil, block.Errorf(unknown[0].Key, "is no key of the wasm runner, which has module, args and environ")
	}
	module, ok, err := block.String("module")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, block.Errorf("module", "is missing: name a .wasm file of the package")
	}
	args, err := block.Strings("args")
	if err != nil {
		return nil, err
	}
	environ, err := block.Strings("environ")
	if err != nil {
		return nil, err
	}
	code, err := readModule(info.Package.Dir, module)
	if err != nil {
		return nil, block.Errorf("module", "%v", err)
	}

	p.runtime = wazero.NewRuntimeWithConfig(run,
		wazero.NewRuntimeConfig().WithCompilationCache(r.compiled).WithCloseOnContextDone(true))
	wasi_snapshot_preview1.MustInstantiate(run, p.runtime)
	p.module, err = p.runtime.CompileModule(run, code)
	if err != nil {
		return nil, block.Errorf("module", "%s: %v", module, err)
	}
	stdin, stop := io.Pipe()
	p.stdin = stop
	config := wazero.NewModuleConfig().WithArgs(append([]string{module}, args...)...).
		WithStdin(stdin).WithFSConfig(p.mounts()).
		WithSysWalltime().WithSysNanotime().WithNanosleep(p.sleep)
	if info.Stdout != nil {
		config = config.WithStdout(info.Stdout)
	}
	if info.Stderr != nil {
		config = config.WithStderr(info.Stderr)
	}
	for _, e := range environ {
		key, value, _ := strings.Cut(e, "=")
		config = config.WithEnv(key, value)
	}

	if info.BreakOnStart != nil {
		select {
		case <-info.BreakOnStart:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p.started = time.Now()
	go p.run(config) // ends with the program, which Wait tells
	return p, nil
}

// readModule reads a file of the package; one that a symbolic link leads out of it is not.
func readModule(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.ReadFile(name)
}

// A program is one run of a module.
type program struct {
	runners.Ending
	info    runners.StartInfo
	runtime wazero.Runtime
	module  wazero.CompiledModule
	stdin   io.Closer
	started time.Time
	killed  context.Context
	kill    context.CancelFunc

	mu    sync.Mutex // guards cause; held for no call to anything outside
	cause runners.Cause
}

// run runs the module's _start to its end.
func (p *program) run(config wazero.ModuleConfig) {
	_, err := p.runtime.InstantiateModule(p.killed, p.module, config)
	ended := time.Now()
	p.mu.Lock()
	exit := runners.Exit{Cause: p.cause, Started: p.started, Ended: ended}
	p.mu.Unlock()
	var code *sys.ExitError
	switch {
	case exit.Cause == runners.ByKill:
		exit.Code = -1
	case errors.As(err, &code):
		exit.Code = int(code.ExitCode())
	case err != nil: // a trap: the module is wrong, and has no exit code
		exit.Code, exit.Detail = -1, firstLine(err)
	}
	p.release()
	p.End(exit)
}

// release frees what the program had.
func (p *program) release() {
	p.kill()
	if p.runtime != nil {
		p.runtime.Close(context.Background())
	}
	p.info.Close()
}

// mounts is the module's file system: its package and its namespace.
func (p *program) mounts() wazero.FSConfig {
	config := wazero.NewFSConfig()
	if dir := p.info.Package.Dir; dir != "" {
		config = config.WithReadOnlyDirMount(dir, "/pkg")
	}
	for _, e := range p.info.Namespace {
		if st, err := e.File.Stat(); err != nil || !st.IsDir() {
			continue // WASI preview 1 has no way to connect to a socket
		}
		dir := fmt.Sprintf("/proc/self/fd/%d", e.File.Fd())
		if e.Rights.Has(manifest.RightWriteBytes) {
			config = config.WithDirMount(dir, path.Clean(e.Path))
		} else {
			config = config.WithReadOnlyDirMount(dir, path.Clean(e.Path))
		}
	}
	return config
}

// sleep is the module's sleep: one that a kill ends.
func (p *program) sleep(ns int64) {
	t := time.NewTimer(time.Duration(ns))
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.killed.Done():
	}
}

// asked notes who ends the program, unless it ends already by something stronger.
func (p *program) asked(by runners.Cause) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cause = max(p.cause, by)
}

// Stop ends the module's standard input.
func (p *program) Stop(context.Context) error {
	p.asked(runners.ByStop)
	return p.stdin.Close()
}

// Kill ends the module at the next instruction that the runtime checks, or, if it waits in a call, there.
func (p *program) Kill(context.Context) error {
	p.asked(runners.ByKill)
	p.kill()
	return p.stdin.Close()
}

// Describe shows the module.
func (p *program) Describe() []runners.Detail {
	module, _, _ := p.info.Program.String("module")
	return []runners.Detail{{Key: "Module", Value: path.Join(p.info.Package.Dir, module)}}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
