package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newDestroy(a *app) *cobra.Command {
	destroy := func(c *control.Client, ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error) {
		r, err := c.Destroy(ctx, req)
		return &controlpb.InstanceResponse{Instance: &controlpb.Instance{Moniker: r.GetMoniker(), State: "destroyed"}}, err
	}
	return a.action("Destroying", "Stopped", destroy, &cobra.Command{
		Use:   "destroy QUERY...",
		Short: "take an instance out of its collection",
		Long: `Shut an instance of a collection down, with all below it, and take it out of the
tree. Children that stand in a manifest can't be destroyed.`,
		Example: `  cmgr destroy /core/jobs:import-7`,
	})
}
