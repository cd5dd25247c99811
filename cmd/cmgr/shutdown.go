package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newShutdown(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "shutdown",
		Short: "shut the whole tree down, and end the manager",
		Long: `Stop every instance for good, each after those that depend on it, and end the
manager. Whoever takes his time to stop is named. It returns when all have
stopped.`,
		Example:           `  cmgr shutdown --name staging`,
		GroupID:           groupAct,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				stop := a.showWaiting(ctx, c)
				defer stop()
				r, err := c.Shutdown(ctx, &controlpb.ShutdownRequest{})
				if err != nil || !a.json {
					return err
				}
				return a.printJSON(r)
			})
		},
	}
}
