package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/manager"
)

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [QUERY]",
		Short: "check the machine, or one instance",
		Long: `Without QUERY, say what the manager found on this machine: with what it holds
components' processes together and why, which limits it can set, and what will
not work. Without a manager, say what one would find. With QUERY, check an
instance: each capability that it uses and exposes, and how its last run ended.
The exit code is 1 if something fails.`,
		Example: `  cmgr doctor
  cmgr doctor /core/net`,
		GroupID:           groupLook,
		Args:              between(0, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.with(cmd, func(ctx context.Context, c *control.Client) error {
				if len(args) == 1 {
					return a.examine(ctx, c, args[0])
				}
				r, err := c.Doctor(ctx, &controlpb.DoctorRequest{})
				if err != nil {
					return err
				}
				return a.checks(r.GetChecks())
			})
			if len(args) == 0 && errors.Is(err, control.ErrNoManager) {
				return a.checks(control.CheckMessages(manager.Machine()))
			}
			return err
		},
	}
}

// checks prints what was found; what fails makes the exit code 1.
func (a *app) checks(checks []*controlpb.Check) (err error) {
	if a.json {
		err = printList(a, checks)
	}
	s := a.screen(a.out)
	for _, x := range checks {
		if !a.json {
			fmt.Fprintf(a.out, "%s %s: %s\n", s.mark(x.GetStatus()), x.GetKey(), x.GetValue())
			s.hints(a, x.GetHint(), "    ")
		}
		if err == nil && x.GetStatus() == "fail" {
			err = errFailed
		}
	}
	return err
}

func (s screen) hints(a *app, hint, indent string) {
	if hint == "" {
		return
	}
	for line := range strings.SplitSeq(hint, "\n") {
		fmt.Fprintf(a.out, "%s%s %s\n", indent, s.yellow("hint:"), line)
	}
}

// examine is `doctor QUERY`. Its JSON is that of `route`.
func (a *app) examine(ctx context.Context, c *control.Client, query string) error {
	i, err := c.Show(ctx, &controlpb.InstanceRequest{Query: query})
	if err != nil {
		return err
	}
	r, err := c.Route(ctx, &controlpb.RouteRequest{Query: i.GetMoniker()})
	if err != nil {
		return err
	}
	if a.json {
		err = printList(a, r.GetRoutes())
	}
	s := a.screen(a.out)
	if !a.json {
		rows := []pair{
			{"Moniker", []string{i.GetMoniker()}},
			{"URL", []string{i.GetUrl()}},
			{"State", []string{stateWord(i.GetState(), i.GetStarting())}},
		}
		if e := ended(i.GetLastExit()); e != "" {
			rows = append(rows, pair{"Last exit", []string{e}})
		}
		if e := i.GetLastError(); e != "" {
			rows = append(rows, pair{"Last error", strings.Split(e, "\n")})
		}
		s.pairs(a.out, rows)
	}
	for _, part := range [...]struct{ declType, title string }{{"use", "Used"}, {"expose", "Exposed"}} {
		title := fmt.Sprintf("\n%s Capabilities\n", part.title)
		for _, x := range r.GetRoutes() {
			if x.GetDeclType() != part.declType {
				continue
			}
			if err == nil && x.GetOutcome() == "Failed" {
				err = errFailed
			}
			if a.json {
				continue
			}
			fmt.Fprintf(a.out, "%s %s %s %s", title, s.mark(x.GetOutcome()), x.GetKind(), x.GetCapability())
			title = ""
			switch x.GetOutcome() {
			case "Success":
				fmt.Fprintf(a.out, " from %s\n", x.GetSourceMoniker())
			case "Void":
				fmt.Fprint(a.out, " from void\n")
			default:
				fmt.Fprintf(a.out, ": %s\n", x.GetErrorSummary())
				s.hints(a, x.GetHint(), "     ")
			}
		}
	}
	return err
}
