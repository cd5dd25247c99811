// Custom-runner is a component manager with one runner more than cmgr has: "wasm". See README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runtime/manager"
	"github.com/cmgr/cmgr/runtime/screen"
)

func main() {
	_ = confine.Reenter() // before anything else; where that can't be, the manager says what follows
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: custom-runner ROOT [STATE-DIR]")
		os.Exit(100)
	}
	if err := run(os.Args[1], strings.Join(os.Args[2:], "")); err != nil {
		fmt.Fprintln(os.Stderr, "custom-runner:", err)
		os.Exit(1)
	}
}

func run(root, state string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	wasm := newWasmRunner()
	defer wasm.Close()
	m, err := manager.New(manager.Config{
		Root:     root,
		StateDir: state,
		Name:     "custom-runner",
		Runners:  map[string]runners.Runner{"wasm": wasm},
		Screen:   screen.New(os.Stdout, os.Stderr, screen.Options{}),
	})
	if err != nil {
		return err
	}
	return m.Run(ctx)
}
