package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newList(a *app) *cobra.Command {
	var only string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "list [-v] [--only FILTER]",
		Short: "list the component instances",
		Long: `List the component instances, one moniker a line.

With -v a table: the state (Running, Resolved, or Stopped if its manifest has
not been read, or Disabled), since when it runs, how often its restart policy
started it, what its processes use (memory now, CPU since the start), how the
last run ended, and the URL. Columns in which nothing stands are left out.

FILTER is running, stopped, ancestors:QUERY, descendants:QUERY or
relatives:QUERY; an instance is among its own relatives.`,
		Example: `  cmgr list --only running
  cmgr list -v --only descendants:/core
  cmgr list --json | jq -r '.[] | select(.restarts > 0) | .moniker'`,
		GroupID:           groupLook,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.List(ctx, &controlpb.ListRequest{Only: only, Usage: verbose})
				if err != nil {
					return err
				}
				if a.json {
					return printList(a, r.GetInstances())
				}
				a.list(r.GetInstances(), verbose)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&only, "only", "", "only what `FILTER` lets through")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "a table with states, ends and use of resources")
	completeFlag(cmd, "only", filters, cobra.ShellCompDirectiveNoSpace)
	return cmd
}

// filters are the beginnings of --only.
var filters = []string{"running", "stopped", "ancestors:", "descendants:", "relatives:"}

func (a *app) list(all []*controlpb.Instance, verbose bool) {
	if !verbose {
		for _, i := range all {
			fmt.Fprintln(a.out, i.GetMoniker())
		}
		return
	}
	s, now := a.screen(a.out), a.now()
	var title []cell
	for _, t := range []string{"State", "Moniker", "Uptime", "Restarts", "Memory", "CPU", "Last exit", "URL"} {
		title = append(title, cell{text: t})
	}
	var rows [][]cell
	for _, i := range all {
		rows = append(rows, row(s, i, now))
	}
	s.table(a.out, title, rows)
}

// maxEnd bounds the column of last exits: an error can be long, and `cmgr show` has all of it.
const maxEnd = 60

func row(s screen, i *controlpb.Instance, now time.Time) []cell {
	restarts, memory, cpu := "", "", ""
	if n := i.GetRestarts(); n > 0 {
		restarts = strconv.Itoa(int(n))
	}
	if i.GetGaveUp() {
		restarts += " (gave up)"
	}
	if u := i.GetUsage(); u != nil {
		memory, cpu = usageWords(u)
	}
	end := cell{text: screen{width: maxEnd}.fit(printable(lastEnd(i)), 0)}
	if badly(i) {
		end.color = s.red
	}
	state := stateWord(i.GetState(), i.GetStarting())
	if i.GetDisabled() && !i.GetStarting() && (i.GetState() == "unresolved" || i.GetState() == "resolved") {
		state = "Disabled"
	}
	return []cell{
		{state, s.stateColor(i.GetState(), i.GetStarting())},
		{text: i.GetMoniker()},
		{text: since(i.GetStartedAt(), now)},
		{text: restarts},
		{text: memory},
		{text: cpu},
		end,
		{text: i.GetUrl()},
	}
}

// usageWords are memory and CPU for people; "" for what is not known.
func usageWords(u *controlpb.Usage) (memory, cpu string) {
	if u.MemoryBytes != nil {
		memory = byteWords(u.GetMemoryBytes())
	}
	if u.CpuSeconds != nil {
		cpu = fmt.Sprintf("%.2fs", u.GetCpuSeconds())
	}
	return memory, cpu
}
