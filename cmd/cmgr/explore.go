package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/pty"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/control"
)

func newExplore(a *app) *cobra.Command {
	var command, tools string
	cmd := &cobra.Command{
		Use:   "explore [-c COMMAND] [--tools DIR] QUERY",
		Short: "a shell in the place of a component's program",
		Long: `Run a shell in the place of a component's program: with what is routed to it,
as its user, in its environment and directory, and under all its limits. What
the component cannot do, the shell cannot. A component that runs need not know
of it: the shell is counted among its processes, and ends with it. One that
does not run is not started.

On a terminal the shell has one of its own. Otherwise it reads commands from
standard input; the exit code is the command's, or 128 and the number of the
signal that ended it. Beside a confined component that runs, the shell is in its
very namespaces, where jobs are cgroups: it sees its files and processes, and
can as little do anything to these as any other component. With --tools it is in
namespaces of its own.`,
		Example: `  cmgr explore /core/web
  cmgr explore web -c 'ls -l /data && cat /config/config.json'
  cmgr explore web --tools /opt/debug/bin   # with programs of one's own`,
		GroupID:           groupAct,
		Args:              between(1, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				x := control.Exploration{Query: args[0], Command: command}
				if tools != "" {
					dir, err := os.Open(tools)
					if err != nil {
						return err
					}
					defer dir.Close()
					if st, err := dir.Stat(); err == nil && !st.IsDir() {
						return usagef(cmd, "", "%s: is no directory", tools)
					}
					x.Tools = dir
				}
				if cmd.Flags().Changed("command") && command == "" {
					return usagef(cmd, "", "the command is empty")
				}
				return a.explore(ctx, c, x)
			})
		},
	}
	cmd.Flags().StringVarP(&command, "command", "c", "", "what the shell is to do: `COMMAND`, as by sh -c")
	cmd.Flags().StringVar(&tools, "tools", "", "programs are found in `DIR` first, which is /tools there")
	_ = cmd.MarkFlagDirname("tools")
	return cmd
}

// drainTime is how long nothing more may come once the shell has ended, until nothing more is expected: something that did not
// end with it may have got hold of its output.
const drainTime = time.Second

func (a *app) explore(ctx context.Context, c *control.Client, x control.Exploration) error {
	// A terminal is to be as it was, whatever ends this.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var ends ends
	defer ends.close()
	in, isFile := a.in.(*os.File)
	out := fileOf(a.out)
	var err error
	if isFile && isTerminal(in) && isTerminal(out) {
		err = ends.terminal(&x, in, out)
	} else {
		err = ends.streams(&x, a)
	}
	if err != nil {
		return err
	}
	exit, err := c.Explore(ctx, x)
	ends.drain()
	switch {
	case err != nil:
		return err
	case exit.GetCause() == runners.ByRunner.String():
		return &control.Error{Problem: &control.Problem{
			Kind: capabilities.Precondition.String(), Message: "explore: " + exit.GetDetail(),
		}}
	case exit.GetSignal() != "":
		sig, err := runners.ParseSignal(exit.GetSignal())
		if err != nil {
			return err
		}
		return reported(128 + int(sig))
	case exit.GetCode() != 0:
		return reported(exit.GetCode())
	}
	return nil
}

// ends are the client's side of what a shell reads and writes.
type ends struct {
	mine    []*os.File // closed in the end
	theirs  []*os.File // closed once the shell has ended
	outputs []*os.File // of mine, those that the shell's output comes from
	restore func()     // of the terminal
	ended   atomic.Bool
	relays  sync.WaitGroup
}

// terminal gives the shell a terminal of its own, and has in and out relay it: the user's is not for what may be hostile.
func (e *ends) terminal(x *control.Exploration, in, out *os.File) error {
	master, theirs, err := pty.Open()
	if err != nil {
		return err
	}
	e.mine, e.theirs = append(e.mine, master), append(e.theirs, theirs)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	resize := func() {
		if columns, rows, err := term.GetSize(int(out.Fd())); err == nil {
			_ = pty.Resize(master, columns, rows) // one that is closed has no size
		}
	}
	resize()
	var before *term.State
	e.restore = func() {
		signal.Stop(resized)
		close(resized)
		if before != nil {
			_ = term.Restore(int(in.Fd()), before)
		}
	}
	// Until there is somebody to interrupt, Ctrl-C is for this process; whoever sees that there is shall not be too early.
	x.Launched = func() {
		before, _ = term.MakeRaw(int(in.Fd()))
		e.relay(out, master)
	}
	go func() {
		for range resized {
			resize()
		}
	}()
	// Not awaited: it reads what is typed until the process ends.
	go func() { _, _ = io.Copy(master, in) }()
	x.Files, x.Terminal = [3]*os.File{theirs, theirs, theirs}, true
	if t := os.Getenv("TERM"); t != "" {
		x.Env = append(x.Env, "TERM="+t)
	}
	return nil
}

// streams gives the shell what this process has itself, but for terminals and what is no file: those it gets through pipes.
func (e *ends) streams(x *control.Exploration, a *app) error {
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			e.mine = append(e.mine, r, w)
		}
		return r, w, err
	}
	if f, ok := a.in.(*os.File); ok && !isTerminal(f) {
		x.Files[0] = f
	} else {
		r, w, err := pipe()
		if err != nil {
			return err
		}
		x.Files[0] = r
		// Not awaited: standard input may never end. It ends with the process.
		go func() {
			_, _ = io.Copy(w, a.in)
			w.Close()
		}()
	}
	for n, to := range []io.Writer{a.out, a.err} {
		if f := fileOf(to); f != nil && !isTerminal(f) {
			x.Files[n+1] = f
			continue
		}
		r, w, err := pipe()
		if err != nil {
			return err
		}
		e.theirs = append(e.theirs, w)
		x.Files[n+1] = w
		e.relay(to, r)
	}
	return nil
}

// relay copies to to what comes from the shell, as long as something may come.
func (e *ends) relay(to io.Writer, from *os.File) {
	e.outputs = append(e.outputs, from)
	e.relays.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			if e.ended.Load() { // however long it took to write the last
				_ = from.SetReadDeadline(time.Now().Add(drainTime))
			}
			n, err := from.Read(buf)
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	})
}

// drain waits for the rest of what the shell, which has ended, wrote.
func (e *ends) drain() {
	for _, f := range e.theirs {
		f.Close()
	}
	e.ended.Store(true)
	for _, f := range e.outputs {
		_ = f.SetReadDeadline(time.Now().Add(drainTime))
	}
	e.relays.Wait()
}

// close gives back what was taken.
func (e *ends) close() {
	for _, f := range e.mine {
		f.Close()
	}
	e.relays.Wait()
	if e.restore != nil {
		e.restore()
	}
}
