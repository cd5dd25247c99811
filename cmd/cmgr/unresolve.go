package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newUnresolve(a *app) *cobra.Command {
	return a.action("Unresolving", "Stopped", (*control.Client).Unresolve, &cobra.Command{
		Use:     "unresolve QUERY...",
		Short:   "forget the manifest of an instance",
		Long:    `Stop an instance and forget its manifest. The next start reads it again.`,
		Example: `  cmgr unresolve /core/net`,
	})
}
