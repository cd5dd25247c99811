package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newRoute(a *app) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "route [--why] QUERY [FILTER]",
		Short: "walk the routes of what an instance uses and exposes",
		Long: `Walk the routes of all that an instance uses and exposes, and say where each
comes from, or why it comes from nowhere and what to add to which manifest.
Nothing is started. FILTER is a comma-separated list of parts of capabilities'
names, with "use:" or "expose:" before those that only mean one side. The exit
code is 1 if a route fails.`,
		Example: `  cmgr route /core/net
  cmgr route net use:log --why   # every hop, with the manifest's line
  cmgr route net --json | jq '.[] | select(.outcome == "Failed")'`,
		GroupID:           groupLook,
		Args:              between(1, 2),
		ValidArgsFunction: a.monikersThen(func(x *controlpb.RouteReport) string { return x.GetDeclType() + ":" + x.GetCapability() }),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &controlpb.RouteRequest{Query: args[0]}
			if len(args) == 2 {
				req.Filters = strings.FieldsFunc(args[1], func(r rune) bool { return r == ',' })
			}
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Route(ctx, req)
				if err == nil && len(r.GetRoutes()) == 0 && len(req.GetFilters()) > 0 {
					err = noRoute(ctx, c, r.GetMoniker(), args[1])
				}
				if err != nil {
					return err
				}
				if a.json {
					err = printList(a, r.GetRoutes())
				} else {
					a.routes(r, verbose)
				}
				for _, x := range r.GetRoutes() {
					if err == nil && x.GetOutcome() == "Failed" {
						err = errFailed
					}
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&verbose, "why", "v", false, "every hop of each route, with the manifest's line")
	return cmd
}

// noRoute says that nothing of the instance m is called so, and what is.
func noRoute(ctx context.Context, c *control.Client, m, filter string) error {
	r, err := c.Route(ctx, &controlpb.RouteRequest{Query: m})
	if err != nil {
		return err
	}
	p := &control.Problem{Kind: capabilities.NotFound.String(), Message: fmt.Sprintf("route %s: it uses and exposes nothing like %s", m, filter)}
	var names []string
	for _, x := range r.GetRoutes() {
		names = append(names, x.GetDeclType()+":"+x.GetCapability())
	}
	if slices.Sort(names); len(names) > 0 {
		p.Hint = "it has " + strings.Join(slices.Compact(names), ", ")
	}
	return &control.Error{Problem: p}
}

func (a *app) routes(r *controlpb.RouteResponse, verbose bool) {
	s := a.screen(a.out)
	row := func(key, value string) { fmt.Fprintf(a.out, "%14s  %s\n", key+":", value) }
	fmt.Fprintf(a.out, "Moniker: %s\n", r.GetMoniker())
	if len(r.GetRoutes()) == 0 {
		fmt.Fprintln(a.out, "It uses and exposes nothing.")
	}
	for k, x := range r.GetRoutes() {
		if k > 0 {
			fmt.Fprintln(a.out)
		}
		row("Capability", fmt.Sprintf("%s (%s)", x.GetCapability(), x.GetDeclType()))
		mark := s.mark(x.GetOutcome())
		switch x.GetOutcome() {
		case "Success":
			row("Result", mark+" Success")
			row("Source", x.GetSourceMoniker())
			if rights := x.GetRights(); len(rights) > 0 {
				row("Rights", strings.Join(rights, ", "))
			}
			if x.GetSubdir() != "" {
				row("Subdirectory", x.GetSubdir())
			}
			key := "Instances"
			for _, i := range x.GetServiceInstances() {
				text := fmt.Sprintf("%s  %s of %s", i.GetName(), i.GetSourceName(), i.GetSourceMoniker())
				if i.GetError() != "" {
					text = i.GetName() + "  " + s.red("[✗]") + " " + i.GetError()
				}
				row(key, text)
				key = "and"
			}
			if names := x.GetDictionaryEntries(); len(names) > 0 {
				row("Contents", strings.Join(names, ", "))
			}
		case "Void":
			row("Result", mark+" Routed from void")
		default:
			row("Result", mark+" "+x.GetErrorSummary())
			for line := range strings.SplitSeq(x.GetHint(), "\n") {
				if line != "" {
					row("Hint", line)
				}
			}
		}
		if verbose {
			for n, h := range x.GetHops() {
				key := "Route"
				if n > 0 {
					key = "then"
				}
				row(key, hop(h))
			}
		}
	}
}

// mark is an outcome, or the status of a check, at a glance.
func (s screen) mark(outcome string) string {
	switch outcome {
	case "Success", "ok":
		return s.green("[✓]")
	case "Void", "warn":
		return s.yellow("[~]")
	default:
		return s.red("[✗]")
	}
}

// hop is "offer log by / (root.cml:12:5)".
func hop(h *controlpb.Hop) string {
	at := h.GetMoniker()
	if at == "" {
		at = "<component manager>"
	}
	text := fmt.Sprintf("%s %s by %s", h.GetDecl(), h.GetCapability(), at)
	if p := h.GetPosition(); p != nil {
		text += " (" + place(p) + ")"
	}
	return text
}

// place is "file:line:col", as far as known.
func place(p *controlpb.Position) string {
	if p.GetLine() == 0 {
		return p.GetFile()
	}
	return fmt.Sprintf("%s:%d:%d", p.GetFile(), p.GetLine(), p.GetColumn())
}
