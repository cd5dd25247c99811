package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newStatus(a *app) *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status [--wait [--timeout DURATION]]",
		Short: "say how far the manager is",
		Long: `Say what the manager does (starting, started or stopping) and what the progress
of its boot script is, as Erlang's init:get_status(): {InternalStatus,Progress}.
While a script is being run, also at which instruction it is and since when.
Without a script the progress is what the manager does.

With --wait it is said once the manager is not starting any more: what is eager
has been started, or the script has been run to its end. The exit code is 1 then
if it has not come to that, but is stopping, or not within the timeout.`,
		Example: `  cmgr status                 # {started,started}
  cmgr status --wait --timeout 2m && echo up`,
		GroupID:           groupLook,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout != 0 && !wait {
				return usagef(cmd, "usage: "+cmd.UseLine(), "--timeout is for --wait")
			}
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Status(ctx, &controlpb.StatusRequest{})
				for end := time.Now().Add(timeout); err == nil && wait && r.GetInternal() == "starting" && (timeout == 0 || time.Now().Before(end)); {
					time.Sleep(100 * time.Millisecond)
					r, err = c.Status(ctx, &controlpb.StatusRequest{})
				}
				if err != nil {
					return err
				}
				failed := error(nil)
				if wait && r.GetInternal() != "started" {
					failed = errFailed
				}
				if a.json {
					return cmp.Or(a.printJSON(r), failed)
				}
				fmt.Fprintf(a.out, "{%s,%s}\n", r.GetInternal(), printable(r.GetProgress()))
				if r.GetStep() > 0 {
					fmt.Fprintf(a.out, "instruction %d of %d for %s: %s\n", r.GetStep(), r.GetSteps(),
						a.now().Sub(r.GetSince().AsTime()).Round(1e8), printable(r.GetInstruction()))
				}
				return failed
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "say it once the manager is not starting any more")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "with --wait: give up after `DURATION` (30s); 0: never")
	return cmd
}
