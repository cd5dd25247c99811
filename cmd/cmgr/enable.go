package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newEnable(a *app) *cobra.Command {
	return a.action("Enabling", "Stopped", (*control.Client).Enable, &cobra.Command{
		Use:   "enable QUERY...",
		Short: "let instances start that were disabled",
		Long: `Let an instance start again that was disabled, and start it if it is eager and
its parent runs. One that is not disabled is fine.`,
		Example: `  cmgr enable /core/net`,
	})
}

func newDisable(a *app) *cobra.Command {
	return a.action("Disabling", "Stopped", (*control.Client).Disable, &cobra.Command{
		Use:   "disable QUERY...",
		Short: "stop instances, and keep them from starting",
		Long: `Stop an instance as stop does, and keep it from starting, whoever asks for it,
until it is enabled: in later runs on the same state directory too. Its children
go on, but are not started with it any more. It is for what stands in manifests:
what a collection holds does not last anyway.`,
		Example: `  cmgr disable /core/net`,
	})
}
