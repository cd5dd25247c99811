package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newKill(a *app) *cobra.Command {
	return a.action("Killing", "Stopped", (*control.Client).Kill, &cobra.Command{
		Use:   "kill QUERY",
		Short: "kill an instance",
		Long: `End an instance's program and everything that it started at once, without
asking. What follows is up to its restart policy.`,
		Example: `  cmgr kill /core/net`,
	})
}
