package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newMetrics(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "print metrics for Prometheus and its kin",
		Long: `Print metrics of the manager and of all instances, in the text format of
OpenMetrics: what runs, what failed, restarts, CPU time, memory and processes.
The manager's socket answers a GET of /metrics with the same.`,
		Example: `  cmgr metrics > /var/lib/node_exporter/cmgr.prom
  curl --unix-socket /run/cmgr/default.sock http://cmgr/metrics`,
		GroupID:           groupLook,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				v, err := c.Version(ctx, &controlpb.VersionRequest{})
				if err != nil {
					return err
				}
				list, err := c.List(ctx, &controlpb.ListRequest{Usage: true})
				if err != nil {
					return err
				}
				all := control.Metrics(v, list.GetInstances())
				if a.json {
					return a.writeJSON(all)
				}
				_, err = a.out.Write(control.MetricsText(all))
				return err
			})
		},
	}
}
