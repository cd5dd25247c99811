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
	var sandbox bool
	cmd := &cobra.Command{
		Use:   "show QUERY [--sandbox]",
		Short: "show all that is known of an instance",
		Long: `Show all that is known of one instance: what its manifest says, whether it runs
and why, its processes and what they use, how its last run ended, and where its
log is. With --sandbox: all that its program can touch, and why it may; it need
not run for that.`,
		Example: `  cmgr show /core/net
  cmgr show /core/net --sandbox
  cmgr show net --json | jq .resolved.started.usage`,
		GroupID:           groupLook,
		Args:              between(1, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				if sandbox {
					return a.showSandbox(ctx, c, args[0])
				}
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
	cmd.Flags().BoolVar(&sandbox, "sandbox", false, "show what its program can touch")
	return cmd
}

// showSandbox is `show --sandbox`.
func (a *app) showSandbox(ctx context.Context, c *control.Client, query string) error {
	r, err := c.Sandbox(ctx, &controlpb.InstanceRequest{Query: query})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	word := "not confined"
	if r.GetConfined() {
		word = "confined"
	}
	fmt.Fprintf(a.out, "%s: %s: %s\n", r.GetMoniker(), word, printable(r.GetWhy()))
	wide := 0
	for _, x := range r.GetAccess() {
		wide = max(wide, len(x.GetPath()))
	}
	for _, x := range r.GetAccess() {
		line := fmt.Sprintf("  %-*s  %-3s  %s", wide, printable(x.GetPath()), x.GetMay(), printable(x.GetWhat()))
		if w := x.GetWhy(); w != "" {
			line += " (" + printable(w) + ")"
		}
		if l := x.GetNotWithheld(); len(l) > 0 {
			line += "; not granted, but not to be withheld: " + strings.Join(l, ", ")
		}
		fmt.Fprintln(a.out, line)
	}
	return nil
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
