package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newKill(a *app) *cobra.Command {
	var signal string
	cmd := a.action("Killing", "Stopped", (*control.Client).Kill, &cobra.Command{
		Use:   "kill [-s SIGNAL] QUERY...",
		Short: "kill instances",
		Long: `End the programs of instances and everything that they started at once, without
asking. Like stop it is final: no restart policy follows.

With -s only send SIGNAL to the main process, as cmgr signal does.`,
		Example: `  cmgr kill /core/net
  cmgr kill -s HUP /core/net`,
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "send only `SIGNAL`, to the main process")
	completeFlag(cmd, "signal", signals, cobra.ShellCompDirectiveDefault)
	kill := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("signal") {
			return a.signal(cmd, signal, args)
		}
		return kill(cmd, args)
	}
	return cmd
}
