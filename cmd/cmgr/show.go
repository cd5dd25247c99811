package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show QUERY",
		Short: "show all that is known of an instance",
		Long: `Show all that is known of one instance: what its manifest says, whether it runs
and why, its processes and what they use, how its last run ended, and where its
log is.`,
		Example: `  cmgr show /core/net
  cmgr show net --json | jq .resolved.started.usage`,
		GroupID:           groupLook,
		Args:              between(1, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Show(ctx, &controlpb.InstanceRequest{Query: args[0]})
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(r)
				}
				s := a.screen(a.out)
				s.pairs(a.out, shown(r, a.now()))
				return nil
			})
		},
	}
}

// shown are the rows of `show`, in the order of the reference; what the reference doesn't have stands at the end.
func shown(r *controlpb.ShowResponse, now time.Time) []pair {
	var rows []pair
	add := func(key string, values ...string) {
		if strings.Join(values, "") != "" {
			rows = append(rows, pair{key, values})
		}
	}
	add("Moniker", r.GetMoniker())
	add("URL", r.GetUrl())
	add("Environment", or(r.GetEnvironment(), "N/A"))
	add("Instance ID", or(r.GetInstanceId(), "None"))
	if d := r.GetResolved(); d == nil {
		if add("Component State", "Unresolved"); r.GetDisabled() {
			add("Execution State", "Stopped (disabled)")
		}
	} else {
		add("Component State", "Resolved")
		add("Resolved URL", d.GetResolvedUrl())
		add("Runner", d.GetRunner())
		add("Namespace Capabilities", d.GetIncomingCapabilities()...)
		add("Exposed Capabilities", d.GetExposedCapabilities()...)
		add("Package Directory", d.GetPackageDirectory())
		var values []string
		for _, v := range d.GetConfiguration() {
			values = append(values, v.GetKey()+" -> "+printable(v.GetValue()))
		}
		add("Configuration", values...)
		add("Collections", d.GetCollections()...)
		add("Manifest Sources", d.GetManifestSources()...)
		execution := stateWord(r.GetState(), r.GetStarting())
		if r.GetState() == "resolved" && !r.GetStarting() {
			execution = "Stopped"
		}
		if r.GetDisabled() {
			execution += " (disabled)"
		}
		add("Execution State", execution)
		rows = append(rows, running(d.GetStarted(), now)...)
	}
	add("Last exit", ended(r.GetLastExit()))
	add("Last error", strings.Split(printable(strings.ReplaceAll(r.GetLastError(), "\n", "\t")), "\t")...)
	restarts := fmt.Sprint(r.GetRestarts())
	if r.GetGaveUp() {
		restarts += " (gave up)"
	}
	add("Restarts", restarts)
	if t := r.GetNextStart(); t != nil {
		add("Next start", moment(t)+" (in "+span(t.AsTime().Sub(now))+")")
	}
	if ms := r.GetStopTimeoutMs(); ms > 0 {
		add("Stop timeout", (time.Duration(ms) * time.Millisecond).String())
	}
	add("Log directory", r.GetLogDirectory())
	return rows
}

// running are the rows of what runs.
func running(st *controlpb.Started, now time.Time) []pair {
	if st == nil {
		return nil
	}
	var rows []pair
	add := func(key string, values ...string) {
		if strings.Join(values, "") != "" {
			rows = append(rows, pair{key, values})
		}
	}
	add("Start reason", st.GetStartReason())
	add("Outgoing Capabilities", st.GetOutgoingCapabilities()...)
	add("Runtime", st.GetRuntime())
	if t := st.GetStartedAt(); t != nil {
		add("Running since", moment(t)+" (for "+since(t, now)+")")
	}
	for _, d := range st.GetDetails() {
		add(d.GetKey(), printable(d.GetValue()))
	}
	if u := st.GetUsage(); u != nil {
		ids := make([]string, len(u.GetProcessIds()))
		for k, id := range u.GetProcessIds() {
			ids[k] = fmt.Sprint(id)
		}
		add("Process IDs", strings.Join(ids, " "))
		memory, cpu := usageWords(u)
		add("Memory", memory)
		add("CPU", cpu)
	}
	return rows
}

// ended is an exit with the time at which it was.
func ended(e *controlpb.Exit) string {
	if e == nil {
		return ""
	}
	text := printable(e.GetText())
	if t := e.GetEndedAt(); t != nil {
		text += ", at " + moment(t)
	}
	return text
}

// moment is a time in full.
func moment(t *timestamppb.Timestamp) string {
	return t.AsTime().UTC().Format("2006-01-02 15:04:05.00 MST")
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
