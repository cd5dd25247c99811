package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/builtin"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runners/elf/job"
	"github.com/cmgr/cmgr/runners/runit/pid1"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/heart"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/manager"
	front "github.com/cmgr/cmgr/runtime/screen"
)

func newRun(a *app) *cobra.Command {
	var cfg manager.Config
	var watch heart.Config
	var verbose, recreate bool
	var from prim.Config
	var framing string
	cmd := &cobra.Command{
		Use:   "run ROOT | run COLLECTION[:NAME] URL",
		Short: "run a tree of components, in the foreground",
		Long: `Run the tree of components below the manifest ROOT (.cml or compiled .cm), in
the foreground.

What components print goes to standard output, each line with the moniker of its
component; changes of state go to standard error. With --json both are lines of
JSON on standard output.

It ends when nothing runs and nothing can be started any more (--stay: only when
told to). Interrupt it (Ctrl-C, SIGTERM) to shut down in dependency order; a
second interrupt kills what is left, which then did not end well. The exit code
is 0 only if all ended well.

With two arguments: create a component in a collection of the tree that runs,
and start it.`,
		Example: `  cmgr run root.cml
  cmgr run --name test --state /tmp/test --config cmgr.json5 root.cml
  cmgr run /core/jobs:import-7 file:///opt/import/import.cml`,
		GroupID: groupRun,
		Args:    between(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return a.runInCollection(cmd, args[0], args[1], recreate)
			}
			if len(args) == 1 {
				cfg.Root = args[0]
			} else if len(cfg.Files) == 0 {
				return usagef(cmd, "usage: "+cmd.UseLine(), "the root component's manifest is missing")
			}
			var err error
			if cfg.Root, cfg.Loaders, err = loadBy(cmd, cfg.Root, from, framing); err != nil {
				return err
			}
			return a.run(cmd, cfg, watch, verbose)
		},
	}
	f := cmd.Flags()
	managerFlags(f, &cfg, &watch, &verbose)
	loaderFlags(f, &from, &framing)
	pathFlags(f, &from)
	treesLoaderFlags(f, &cfg.Trust, &from)
	f.BoolVar(&recreate, "recreate", false, "in a collection: destroy an instance of that name first")
	return cmd
}

// managerFlags are the flags of the commands that are a manager.
func managerFlags(f *pflag.FlagSet, cfg *manager.Config, watch *heart.Config, verbose *bool) {
	f.StringArrayVar(&cfg.Files, "config", nil, "a configuration `FILE` (JSON5); several are merged")
	f.StringVar(&cfg.StateDir, "state", "", "the `DIR` for logs and what the next start must know (default below /var/lib/cmgr, or your home)")
	f.BoolVar(&cfg.Stay, "stay", false, "stay when nothing runs any more")
	f.StringVar(&cfg.Job, "job", "", "contain processes by `BACKEND`: cgroup2, pidns or subreaper (default: the strongest that works)")
	f.StringVar(&watch.Command, "heart", "", "have a watchdog run the shell command `CMD` when the manager hangs, dies, or fails")
	f.IntVar(&watch.Timeout, "heart-timeout", heart.DefaultTimeout, "with --heart: after so many `SECONDS` without a sign of life it hangs")
	f.StringVar(&watch.Program, "heart-program", "", "with --heart: the watchdog is `PROGRAM`, such as Erlang's heart")
	f.BoolVarP(verbose, "verbose", "v", false, "also show what only concerns manifests, and what the manager does")
}

// treesLoaderFlags are the flags about loaders of commands that load a tree.
func treesLoaderFlags(f *pflag.FlagSet, trust *string, from *prim.Config) {
	f.StringVar(&from.Cookie, "setcookie", "", "inet: the secret `COOKIE` of cmgr's boot servers; Erlang's never get it")
	f.StringVar(trust, "trust", "", "load only packages whose hash or signer stands in `FILE`")
}

// checkHeart says what is wrong with the flags about the watchdog, and makes its program's name absolute.
func checkHeart(cmd *cobra.Command, watch *heart.Config) error {
	line := "usage: " + cmd.UseLine()
	for _, f := range []string{"heart-timeout", "heart-program"} {
		if cmd.Flags().Changed(f) && !cmd.Flags().Changed("heart") {
			return usagef(cmd, line, "--%s is for --heart", f)
		}
	}
	if !cmd.Flags().Changed("heart") {
		return nil
	}
	if watch.Program != "" {
		at, err := exec.LookPath(watch.Program) // only looks
		if err == nil {
			watch.Program, err = filepath.Abs(at)
		}
		if err != nil {
			return err
		}
	}
	if err := watch.Check(); err != nil {
		return usagef(cmd, line, "--heart: %v", err)
	}
	return nil
}

// loadBy is what the flags say of a loader, if they do, and the URL of the root that it loads; a URL stays as it is.
func loadBy(cmd *cobra.Command, root string, from prim.Config, framing string) (string, map[string]prim.Config, error) {
	said := false
	for _, f := range []string{"loader", "framing", "hosts", "id", "erts-version", "setcookie", "path", "pa", "pz"} {
		said = said || cmd.Flags().Changed(f)
	}
	if !said {
		return root, nil, nil
	}
	if err := checkLoader(cmd, &from, framing); err != nil {
		return "", nil, err
	}
	kind := from.Kind()
	if root != "" && name.Scheme(root) == "" {
		at := (&url.URL{Path: root}).EscapedPath()
		if path.IsAbs(root) {
			at = "//" + at
		}
		root = kind + ":" + at
	}
	return root, map[string]prim.Config{kind: from}, nil
}

// run is the manager.
func (a *app) run(cmd *cobra.Command, cfg manager.Config, watch heart.Config, verbose bool) error {
	if err := checkHeart(cmd, &watch); err != nil {
		return err
	}
	if err := name.Check(a.name); err != nil {
		return usagef(cmd, "usage: "+cmd.UseLine(), "--name: %v", err)
	}
	switch cfg.Job {
	case "", job.Cgroup2, job.PIDNS, job.Subreaper:
	default:
		return usagef(cmd, fmt.Sprintf("there are %s, %s and %s", job.Cgroup2, job.PIDNS, job.Subreaper), "no such backend %q", cfg.Job)
	}
	_ = confine.Reenter() // the manager tells why nothing is confined
	cfg.Name, cfg.Socket, cfg.Version = a.name, a.socket, versionString()
	cfg.Functions = map[string]builtin.Func{"bootserver": bootserverComponent}
	terminal := a.screen(a.out)
	cfg.Screen = front.New(a.out, a.err, front.Options{
		Terminal: terminal.width > 0, Color: terminal.color, JSON: a.json, Verbose: verbose,
		Width: func() int { return a.screen(a.err).line() },
	})
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	cfg.Log = cfg.Screen.Logger(level)

	// A terminal that goes away takes the tree with it, in order; a closed pipe must not kill the manager in the middle of a line.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGHUP) { // nohup(1)
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE)

	m, err := manager.New(cfg)
	if err != nil {
		return err
	}
	var watchdog *heart.Heart // after New: a name that is taken is no death of this manager
	if watch.Command != "" {
		watch.Alive, watch.Log = m.Alive, cfg.Log
		if watchdog, err = heart.Start(watch); err != nil {
			m.Close()
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				// Act first, and speak without waiting: whoever reads our output may have stopped reading.
				what := "shutting down in order; once more to kill what is left"
				if ctx.Err() != nil || s == syscall.SIGQUIT {
					what = "killing what is left"
					m.KillAll()
				}
				cancel()
				go func() {
					cfg.Screen.Say(fmt.Sprintf("%s: %s", s, what))
					cfg.Screen.Flush()
				}()
			}
		}
	}()
	err = m.Run(ctx)
	close(done)
	<-stopped
	cancel()
	if watchdog != nil {
		if err == nil || m.Asked() {
			watchdog.Stop()
		} else {
			watchdog.Leave()
		}
	}
	if out, ok := errors.AsType[*manager.Outcome](err); ok {
		if out.Rebooted != "" && os.Getenv(pid1.TreeEnv) != "" {
			if err := pid1.AskReboot(); err != nil {
				return fmt.Errorf("reboot: %w", err)
			}
		}
		return &control.Error{Problem: &control.Problem{Kind: capabilities.Unavailable.String(), Message: out.Error()}}
	}
	return cmp.Or(err, cfg.Screen.Err())
}
