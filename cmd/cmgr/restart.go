package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newRestart(a *app) *cobra.Command {
	return a.action("Restarting", "Stopped", (*control.Client).Restart, &cobra.Command{
		Use:   "restart QUERY...",
		Short: "stop instances and start them again",
		Long: `Stop an instance as stop does, and then start it. One that does not run is
started. Its manifest is not read again; reload does that.`,
		Example: `  cmgr restart /core/net`,
	})
}
