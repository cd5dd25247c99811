package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newReload(a *app) *cobra.Command {
	return a.action("Reloading", "Stopped", (*control.Client).Reload, &cobra.Command{
		Use:   "reload QUERY...",
		Short: "read the manifest of an instance again",
		Long: `Read the manifest of an instance, and those below it, as they are now: the
instance and all below it are shut down, and what ran is started again as far as
it is still there. If the manifest has become invalid, that is said and nothing
is stopped.`,
		Example: `  cmgr reload /core/net`,
	})
}
