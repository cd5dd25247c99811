package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newEvents(a *app) *cobra.Command {
	var follow bool
	var from string
	cmd := &cobra.Command{
		Use:   "events [-f] [--since WHEN] [QUERY]",
		Short: "show the changes of state",
		Long: `Show the changes of state that the manager still knows, of one instance or of
all, oldest first; with -f go on as they happen. WHEN is a time ago (10m), "now"
for only new ones, or the number of an event, for those after it (the seq of
--json).`,
		Example: `  cmgr events --since 10m
  cmgr events -f --since now --json`,
		GroupID:           groupLook,
		Args:              between(0, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &controlpb.EventsRequest{Follow: follow}
			if len(args) == 1 {
				req.Query = args[0]
			}
			if err := when(req, from, a.now()); err != nil {
				return usagef(cmd, "", "%v", err)
			}
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				events, err := c.Events(ctx, req)
				if err != nil {
					return err
				}
				defer events.Close()
				s := a.screen(a.out)
				for events.Receive() {
					if a.json {
						err = a.printJSON(events.Msg())
					} else {
						_, err = fmt.Fprintln(a.out, s.event(events.Msg()))
					}
					if err != nil {
						return err
					}
				}
				return events.Err()
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new ones as they happen")
	cmd.Flags().StringVar(&from, "since", "", "only those since `WHEN`")
	return cmd
}

// when reads --since into req.
func when(req *controlpb.EventsRequest, since string, now time.Time) error {
	if since == "" {
		return nil
	}
	if since == "now" {
		req.NewOnly = true
		return nil
	}
	if seq, err := strconv.ParseUint(since, 10, 53); err == nil {
		req.SinceSeq = float64(seq)
		return nil
	}
	d, err := time.ParseDuration(since)
	if err != nil || d < 0 {
		return fmt.Errorf("--since must be a time ago such as 10m, now, or the number of an event, is %q", since)
	}
	req.SinceTime = timestamppb.New(now.Add(-d))
	return nil
}

// event is one line: "10:02:11.420 /net stopped: exited code=1 after=3s".
func (s screen) event(e *controlpb.Event) string {
	kind := strings.ReplaceAll(e.GetKind(), "_", " ")
	var more []string
	color := func(text string) string { return text }
	switch e.GetKind() {
	case "started":
		color = s.green
	case "failed", "gave_up", "reboot", "lost":
		color = s.red
	case "waiting", "restarting", "missing":
		color = s.yellow
	}
	if e.DelaySeconds != nil {
		kind += " in " + time.Duration(e.GetDelaySeconds()*float64(time.Second)).Round(time.Millisecond).String()
	}
	if x := e.GetExit(); x != nil {
		more = append(more, x.GetText())
		if !x.GetOk() {
			color = s.red
		}
	}
	for _, text := range []string{e.GetError(), e.GetText()} {
		if text != "" {
			more = append(more, text)
		}
	}
	line := clock(e.GetTime()) + " " + e.GetMoniker() + " " + color(kind)
	if len(more) > 0 {
		line += ": " + printable(strings.ReplaceAll(strings.Join(more, "; "), "\n", "; "))
	}
	return line
}
