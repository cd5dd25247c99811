package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newStop(a *app) *cobra.Command {
	return a.action("Stopping", "Stopped", (*control.Client).Stop, &cobra.Command{
		Use:   "stop QUERY...",
		Short: "stop instances",
		Long: `Ask an instance's program to end, and wait until nothing of it is left. If it
takes longer than its stop timeout (cmgr show), it and all that it started is
killed. Children go on, and the instance can be started again.`,
		Example: `  cmgr stop /core/net`,
	})
}
