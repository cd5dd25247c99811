package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

// followedLines is how many old lines of each instance `logs -f` shows before new ones, as tail(1) does.
const followedLines = 10

func newLogs(a *app) *cobra.Command {
	var follow, times bool
	var lines int
	cmd := &cobra.Command{
		Use:   "logs [-ft] [-n LINES] [QUERY...]",
		Short: "show what components wrote",
		Long: `Show what the named instances, or all of them, wrote to standard output and
standard error, in order of time. Lines have the moniker before them unless
exactly one QUERY is given. The moniker of an instance that was destroyed finds
its log too.

The same lines are in the log directory of the instance (cmgr show), in svlogd's
format.`,
		Example: `  cmgr logs -n 20 /core/net
  cmgr logs -f
  cmgr logs --json | jq -r 'select(.stream == "stderr") | .text'`,
		GroupID:           groupLook,
		Args:              between(0, -1),
		ValidArgsFunction: a.monikers(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &controlpb.LogsRequest{Queries: args, Follow: follow}
			switch {
			case lines >= 0:
				req.Lines = new(uint32(lines))
			case cmd.Flags().Changed("lines"):
				return usagef(cmd, "", "-n must not be negative, is %d", lines)
			case follow:
				req.Lines = new(uint32(followedLines))
			}
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Logs(ctx, req)
				if err != nil {
					return err
				}
				defer r.Close()
				s := a.screen(a.out)
				for r.Receive() {
					if a.json {
						err = a.printJSON(r.Msg())
					} else {
						_, err = fmt.Fprintln(a.out, s.logLine(r.Msg(), len(args) != 1, times))
					}
					if err != nil {
						return err
					}
				}
				return r.Err()
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines as they are written")
	cmd.Flags().BoolVarP(&times, "times", "t", false, "the time before each line")
	cmd.Flags().IntVarP(&lines, "lines", "n", -1, "only the last `LINES` of each (else all, with -f 10)")
	cmd.Flags().Lookup("lines").DefValue = "0" // the help shall not tell of -1
	return cmd
}

// logLine is one line of output as a person reads it.
func (s screen) logLine(l *controlpb.LogLine, moniker, times bool) string {
	text := l.GetText()
	if s.width > 0 {
		text = printable(text)
	}
	if l.GetStream() == "manager" {
		text = s.dim("cmgr: " + text)
	}
	if m := l.GetMoniker(); moniker && m != "" {
		bar := "|"
		if l.GetStream() == "stderr" {
			bar = s.yellow(bar)
		}
		text = m + " " + bar + " " + text
	}
	if t := l.GetTime(); times && t != nil {
		text = s.dim(t.AsTime().UTC().Format("2006-01-02T15:04:05.000Z")) + " " + text
	}
	return text
}
