package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newReload(a *app) *cobra.Command {
	dry := false
	cmd := &cobra.Command{
		Use:   "reload [--dry-run] [QUERY...]",
		Short: "read manifests again and change what has changed",
		Long: `Read the manifests of instances, and of all below them, as they are now, and
change what has changed: a component whose program, configuration, capabilities
or routes are others than before is restarted; what is new is added, and started
if it is eager; what is gone is shut down; all else runs on. What is eager and
failed is started again. Without QUERY that is the whole tree.

If a manifest has become invalid, that is said and nothing is changed.
With --dry-run nothing is changed either, and what would be is listed.`,
		Example: `  cmgr reload --dry-run
  cmgr reload /core/net`,
		GroupID:           groupAct,
		Args:              between(0, -1),
		ValidArgsFunction: a.monikers(-1),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only list what would be changed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = []string{"/"}
		}
		doing := "Reloading"
		if dry {
			doing = "Comparing"
		}
		return a.act(cmd, args, anyInstance, doing, func(ctx context.Context, c *control.Client, m string, began time.Time) acted {
			r, err := c.Reload(ctx, &controlpb.ReloadRequest{Query: m, DryRun: dry})
			if err != nil && !a.json { // what was changed all the same comes first
				if done := control.ProblemOf(err).GetChanges(); len(done) > 0 {
					return acted{func(name string) error { a.changes(name, done, false); return err }, nil}
				}
			}
			return acted{func(name string) error {
				if a.json {
					return a.printJSON(r)
				}
				a.changes(name, r.GetChanges(), dry)
				if dry {
					return nil
				}
				return a.outcome(name, r.GetInstance(), "Stopped", began)
			}, err}
		})
	}
	return cmd
}

// changes lists, for the instance of that name if there are several, what a reload has done or, if would, would do.
func (a *app) changes(name string, all []*controlpb.Change, would bool) {
	if len(all) == 0 {
		fmt.Fprintln(a.out, name+"Nothing has changed.")
	}
	for _, c := range all {
		verb := c.GetKind()
		if would {
			verb = "would be " + verb
		}
		line := c.GetMoniker() + " " + verb
		if c.GetWhy() != "" {
			line += ": " + printable(c.GetWhy())
		}
		if p := c.GetPosition(); p != nil {
			line += fmt.Sprintf(" (%s)", manifest.Pos{File: p.GetFile(), Line: p.GetLine(), Col: p.GetColumn()})
		}
		fmt.Fprintln(a.out, line)
	}
}
