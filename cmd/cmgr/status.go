package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "say how far the manager is",
		Long: `Say what the manager does (starting, started or stopping) and what the progress
of its boot script is, as Erlang's init:get_status(): {InternalStatus,Progress}.
While a script is being run, also at which instruction it is and since when.
Without a script the progress is what the manager does.`,
		Example:           `  cmgr status                 # {started,started}`,
		GroupID:           groupLook,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Status(ctx, &controlpb.StatusRequest{})
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(r)
				}
				fmt.Fprintf(a.out, "{%s,%s}\n", r.GetInternal(), printable(r.GetProgress()))
				if r.GetStep() > 0 {
					fmt.Fprintf(a.out, "instruction %d of %d for %s: %s\n", r.GetStep(), r.GetSteps(),
						a.now().Sub(r.GetSince().AsTime()).Round(1e8), printable(r.GetInstruction()))
				}
				return nil
			})
		},
	}
}
