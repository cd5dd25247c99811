package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/control"
)

// signals are those that people send to daemons.
var signals = []string{"HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "KILL", "STOP", "CONT", "WINCH", "ALRM"}

func newSignal(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "signal SIGNAL QUERY...",
		Short: "send a signal to the main process",
		Long: `Send a signal to the main process of instances: HUP, SIGHUP, hup and 1 are the
same. What the program does with it is its own affair; if it ends, that is an
end by itself, and its restart policy follows.`,
		Example: `  cmgr signal HUP /core/net
  cmgr signal USR1 '/web/*'`,
		GroupID: groupAct,
		Args:    between(2, -1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return signals, cobra.ShellCompDirectiveNoFileComp
			}
			return a.monikers(-1)(cmd, args[1:], begun)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.signal(cmd, args[0], args[1:]) },
	}
}

func (a *app) signal(cmd *cobra.Command, signal string, queries []string) error {
	sig, err := runners.ParseSignal(signal)
	if err != nil {
		return usagef(cmd, "names are as in `kill -l`: HUP, TERM, USR1", "%v", err)
	}
	hasProgram := func(i *controlpb.Instance) bool { return i.GetUsage() != nil } // one that runs
	return a.act(cmd, queries, hasProgram, "Sending "+runners.SignalName(sig)+" to",
		func(ctx context.Context, c *control.Client, m string, began time.Time) acted {
			r, err := c.Signal(ctx, &controlpb.SignalRequest{Query: m, Signal: signal})
			return acted{func(name string) error { return a.outcome(name, r.GetInstance(), "Stopped", began) }, err}
		})
}
