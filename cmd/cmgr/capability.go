package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newCapability(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "capability NAME",
		Short: "find who declares, exposes, offers and uses a capability",
		Long: `Find the instances whose manifests declare, expose, offer or use a capability
of that NAME, on either side of a rename, each with its place. Only manifests
that the manager has read are searched; "cmgr verify --who-can-reach NAME"
follows the routes of a whole tree.`,
		Example: `  cmgr capability log
  cmgr capability log --json | jq -r '.uses[].moniker'`,
		GroupID:           groupLook,
		Args:              between(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Capability(ctx, &controlpb.CapabilityRequest{Name: args[0]})
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(r)
				}
				for _, g := range []struct {
					title string
					list  []*controlpb.Mention
				}{
					{"Declarations", r.GetDeclarations()}, {"Exposes", r.GetExposes()}, {"Offers", r.GetOffers()}, {"Uses", r.GetUses()},
				} {
					if len(g.list) == 0 {
						continue
					}
					fmt.Fprintf(a.out, "%s:\n", g.title)
					for _, m := range g.list {
						fmt.Fprintf(a.out, "  %s  %s\n", m.GetMoniker(), mention(m))
					}
				}
				return nil
			})
		},
	}
}

// mention is "protocol log from #log as syslog to #web (core.cml:7:9)".
func mention(m *controlpb.Mention) string {
	text := m.GetKind() + " " + m.GetSourceName()
	if m.GetFrom() != "" {
		text += " from " + m.GetFrom()
	}
	if m.GetTargetName() != m.GetSourceName() {
		text += " as " + m.GetTargetName()
	}
	if m.GetTo() != "" {
		text += " to " + m.GetTo()
	}
	if p := m.GetPosition(); p != nil {
		text += " (" + place(p) + ")"
	}
	return text
}
