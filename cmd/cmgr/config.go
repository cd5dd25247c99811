package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "config list QUERY | config set QUERY KEY=VALUE... | config unset QUERY [KEY...]",
		Short: "look at configuration, and override it",
		Long: `Show a component's configuration and where each value comes from, and override
values. An override is preferred to all other sources. It counts from the next
start on, and lasts until it is taken back or the manager ends.`,
		Example: `  cmgr config list /core/web
  cmgr config set /core/web port=8081 'hosts=["a", "b"]' --reload
  cmgr config unset /core/web port`,
		GroupID: groupAct,
		Args:    cobra.ArbitraryArgs,
		RunE:    subcommand,
	}
	list := &cobra.Command{
		Use:   "list QUERY",
		Short: "show values and their sources",
		Long: `Show the configuration that an instance will find at its next start, each key
with its value and where that comes from: "default" of the manifest, "package"
(the value file beside the manifest), "capability of" a component, "parent" (who
created it in a collection) or "override". The later ones are preferred.`,
		Args:              between(1, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Config(ctx, &controlpb.InstanceRequest{Query: args[0]})
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(r)
				}
				if len(r.GetValues()) == 0 {
					fmt.Fprintf(a.err, "%s has no configuration\n", r.GetMoniker())
					return nil
				}
				var rows [][]cell
				for _, v := range r.GetValues() {
					rows = append(rows, []cell{
						{text: v.GetKey()}, {text: v.GetType()}, {text: printable(v.GetValue())}, {text: configSource(v)},
					})
				}
				a.screen(a.out).table(a.out, []cell{{text: "Key"}, {text: "Type"}, {text: "Value"}, {text: "Source"}}, rows)
				return nil
			})
		},
	}
	var reload bool
	change := func(c *cobra.Command, do func(ctx context.Context, c *control.Client, args []string) (*controlpb.InstanceResponse, error)) *cobra.Command {
		c.Flags().BoolVar(&reload, "reload", false, "restart the instance if it runs, so that it counts at once")
		c.ValidArgsFunction = a.monikers(1)
		c.RunE = func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				began := a.now()
				r, err := do(ctx, c, args)
				if err != nil {
					return err
				}
				runs := r.GetInstance().GetState() == "started"
				if runs && reload {
					if r, err = c.Restart(ctx, &controlpb.InstanceRequest{Query: r.GetInstance().GetMoniker()}); err != nil {
						return err
					}
					return a.outcome("", r.GetInstance(), "Stopped", began)
				}
				if a.json {
					return a.printJSON(r.GetInstance())
				}
				if runs {
					fmt.Fprintf(a.err, "it counts from the next start on: `cmgr restart %s`, or --reload here\n", r.GetInstance().GetMoniker())
				}
				return nil
			})
		}
		return c
	}
	set := change(&cobra.Command{
		Use:   "set QUERY KEY=VALUE... [--reload]",
		Short: "override values",
		Long: `Override values of an instance's configuration, all or none. VALUE is JSON5; a
string needs no quotes.`,
		Args: between(2, -1),
	}, func(ctx context.Context, c *control.Client, args []string) (*controlpb.InstanceResponse, error) {
		values, err := keyValues(args[1:])
		if err != nil {
			return nil, err
		}
		return c.SetConfig(ctx, &controlpb.SetConfigRequest{Query: args[0], Values: values})
	})
	unset := change(&cobra.Command{
		Use:   "unset QUERY [KEY...] [--reload]",
		Short: "take overrides back",
		Long:  `Take back overrides of an instance's configuration: those of the keys, or all.`,
		Args:  between(1, -1),
	}, func(ctx context.Context, c *control.Client, args []string) (*controlpb.InstanceResponse, error) {
		return c.UnsetConfig(ctx, &controlpb.UnsetConfigRequest{Query: args[0], Keys: args[1:]})
	})
	for _, sub := range []*cobra.Command{list, set, unset} {
		sub.DisableFlagsInUseLine = true
		c.AddCommand(sub)
	}
	return c
}

// subcommand is what a command does that has only subcommands: it says so.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef(cmd, "usage: "+cmd.UseLine(), "an argument is missing")
	}
	return usagef(cmd, "usage: "+cmd.UseLine(), "unknown command %q", args[0])
}

// configSource is where a value comes from, for people.
func configSource(v *controlpb.ConfigValue) string {
	if m := v.GetSourceMoniker(); m != "" {
		return v.GetSource() + " of " + m
	}
	return v.GetSource()
}

// keyValues reads KEY=VALUE arguments.
func keyValues(args []string) (map[string]string, error) {
	out := make(map[string]string, len(args))
	for _, s := range args {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usageError{&control.Error{Problem: &control.Problem{
				Kind: "invalid", Message: fmt.Sprintf("%q is not KEY=VALUE", s), Hint: "as in port=8081",
			}}}
		}
		if _, twice := out[k]; twice {
			return nil, usageError{&control.Error{Problem: &control.Problem{Kind: "invalid", Message: fmt.Sprintf("key %q is given twice", k)}}}
		}
		out[k] = v
	}
	return out, nil
}
