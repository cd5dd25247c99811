package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newStart(a *app) *cobra.Command {
	return a.action("Starting", "Stopped", (*control.Client).Start, &cobra.Command{
		Use:   "start QUERY...",
		Short: "start instances",
		Long: `Start an instance's program, and after it the children that are eager. Returns
once the program runs, and is ready where its manifest asks for that. An
instance that runs already is fine.`,
		Example: `  cmgr start /core/net`,
	})
}
