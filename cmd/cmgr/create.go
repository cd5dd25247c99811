package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/resolver"
)

func newCreate(a *app) *cobra.Command {
	var values []string
	c := &cobra.Command{
		Use:   "create MONIKER URL [--config KEY=VALUE]...",
		Short: "add an instance to a collection",
		Long: `Add an instance to a collection. MONIKER is PARENT/COLLECTION:NAME. It starts
when it is used or started; in a collection with durability "single_run" it
starts at once. cmgr run MONIKER URL creates and starts in one step.

--config gives it values of its configuration, of keys that its manifest lets
its parent set (mutability: [ "parent" ]).`,
		Example: `  cmgr create /core/jobs:import-7 import.cml
  cmgr create /core/jobs:import-8 import.cml --config from=2026-03-01`,
		GroupID: groupAct,
		Args:    between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				if !a.json {
					fmt.Fprintf(a.out, "URL: %s\nMoniker: %s\nCreating component instance...\n", args[1], args[0])
				}
				url, err := manifestURL(args[1])
				if err != nil {
					return err
				}
				config, err := keyValues(values)
				if err != nil {
					return err
				}
				r, err := c.Create(ctx, &controlpb.CreateRequest{Moniker: args[0], Url: url, Config: config})
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(r.GetInstance())
				}
				return nil
			})
		},
	}
	c.Flags().StringArrayVar(&values, "config", nil, "a value of its configuration, `KEY=VALUE`; may be repeated")
	return c
}

// manifestURL is what somebody types for a manifest: a path from where they are, or a URL. What has a fragment is relative to the
// parent's package, as in a manifest.
func manifestURL(arg string) (string, error) {
	if name.Scheme(arg) != "" || strings.Contains(arg, "#") {
		return arg, nil
	}
	return resolver.FileURL(arg)
}

// runInCollection is `cmgr run COLLECTION[:NAME] URL`: it creates an instance in a collection of a running tree, and starts it.
func (a *app) runInCollection(cmd *cobra.Command, target, url string, recreate bool) error {
	return a.with(cmd, func(ctx context.Context, c *control.Client) error {
		began := a.now()
		if !a.json {
			fmt.Fprintf(a.out, "URL: %s\n", url)
		}
		url, err := manifestURL(url)
		if err != nil {
			return err
		}
		r, err := c.RunInCollection(ctx, &controlpb.RunInCollectionRequest{Moniker: target, Url: url, Recreate: recreate})
		if err != nil {
			return err
		}
		if !a.json {
			fmt.Fprintf(a.out, "Moniker: %s\n", r.GetInstance().GetMoniker())
		}
		return a.outcome("", r.GetInstance(), "Stopped", began)
	})
}
