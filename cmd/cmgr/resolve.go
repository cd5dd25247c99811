package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/control"
)

func newResolve(a *app) *cobra.Command {
	return a.action("Resolving", "Resolved", (*control.Client).Resolve, &cobra.Command{
		Use:   "resolve QUERY...",
		Short: "read the manifests of instances",
		Long: `Read the manifest of an instance, and of those above it, if that has not been
done. Its static children are known then; nothing starts.`,
		Example: `  cmgr resolve /core/net`,
	})
}
