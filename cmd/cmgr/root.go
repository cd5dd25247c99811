package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

// The exit codes of cmgr.
const (
	exitFine   = 0
	exitFailed = 1   // the thing failed
	exitUsage  = 100 // the command line is wrong
	exitSystem = 111 // the system or the manager failed, or there is no manager
)

// An app is one call of cmgr: where it reads and writes, and the flags that every subcommand has.
type app struct {
	in       io.Reader
	out, err io.Writer

	now func() time.Time

	name, socket  string
	json, noColor bool

	parsed bool // the command line was accepted
}

// cmgr is the program.
func cmgr(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return (&app{in: stdin, out: stdout, err: stderr, now: time.Now}).main(args[1:])
}

func (a *app) main(args []string) int {
	out := &sink{Writer: a.out}
	a.out = out
	root := newRoot(a)
	root.SetArgs(cmcFlags(erlangFlags(args)))
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil && out.failed != nil && cmd.GroupID != groupRun { // those go on without anybody who reads them
		err = fmt.Errorf("write to standard output: %w", cause(out.failed))
	}
	if err == nil {
		return exitFine
	}
	if !a.parsed {
		err = usage(cmd, err)
		a.json = slices.Contains(args, "--json") // it may stand after what is wrong
	}
	return a.report(err)
}

// The groups of subcommands in the help.
const (
	groupRun  = "run"
	groupAct  = "act"
	groupLook = "look"
	groupTool = "tool"
)

// newRoot is the command `cmgr` with all its subcommands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "cmgr",
		Short: "run components and manage those that run",
		Long: `cmgr runs trees of components: programs with a manifest that says what each
needs and gives. It routes capabilities from parent to child, and nothing else
reaches a component.

A QUERY names one instance: its moniker (/core/net), its URL, or a part of
either that only one instance has. What acts on instances takes several, and
patterns of monikers ('/core/*').

As first argument, or as the name it is called by, it also takes runit's
programs: runsv, runsvdir, sv, svlogd, chpst. Each has its own manual.

Exit codes: 0 fine, 1 the thing failed, 100 wrong usage, 111 the system failed
or no manager runs.`,
		Example: `  cmgr init first             # a first tree
  cmgr run first/root.cml     # the manager, in the foreground
  cmgr list -v                # what runs, in another terminal
  cmgr show /core/net`,
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRun:           func(*cobra.Command, []string) { a.parsed = true },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupAct, Title: "Act:"},
		&cobra.Group{ID: groupTool, Title: "Tools:"},
	)
	root.SetHelpCommand(newHelp())
	f := root.PersistentFlags()
	f.StringVar(&a.name, "name", control.DefaultName, "the manager's `NAME`")
	f.StringVar(&a.socket, "socket", "", "the manager's socket is `PATH`, whatever its name")
	f.BoolVar(&a.json, "json", false, "write JSON, errors too")
	f.BoolVar(&a.noColor, "no-color", false, "no colours, even on a terminal (or set NO_COLOR)")
	for _, newCommand := range subcommands {
		c := newCommand(a)
		c.DisableFlagsInUseLine = true // Use has them, as the manual does
		root.AddCommand(c)
	}
	return root
}

// subcommands are what cmgr can do, in the order of the manual.
var subcommands = []func(*app) *cobra.Command{
	newRun, newBoot, newBootserver, newCompile, newVerify,
	newList, newShow, newGraph, newRoute, newCapability, newLogs, newEvents, newWait, newStatus, newMetrics, newDoctor,
	newStart, newStop, newRestart, newEnable, newDisable, newKill, newSignal, newConnect, newExplore, newConfig, newStorage, newCp,
	newResolve, newUnresolve, newReload, newCreate, newDestroy, newShutdown,
	newInit, newImport, newCheck, newFmt, newInclude, newMerge, newCheckIncludes, newValidateReferences, newJSON5, newDecompile,
	newFetch, newScript, newSystools, newHeart,
	newSchema, newReference, newLSP, newCompletion, newVersion,
}

// A usageError is a command line that is wrong.
type usageError struct{ err *control.Error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// usage is err, which cobra found in the command line of cmd, in our words.
func usage(cmd *cobra.Command, err error) error {
	if e, ok := errors.AsType[usageError](err); ok {
		return e
	}
	text, suggestions, _ := strings.Cut(err.Error(), "\n\nDid you mean this?")
	hint := fmt.Sprintf("usage: %s", cmd.UseLine())
	if words := strings.Fields(suggestions); len(words) > 0 {
		hint = fmt.Sprintf("did you mean %s?", strings.Join(words, " or "))
	} else if !cmd.HasParent() {
		hint = "`cmgr help` lists the commands"
	}
	return usagef(cmd, hint, "%s", text)
}

// usagef makes a usageError.
func usagef(cmd *cobra.Command, hint, format string, args ...any) error {
	at := ""
	if cmd.HasParent() {
		at = cmd.Name() + ": "
	}
	return usageError{&control.Error{Problem: &control.Problem{
		Kind: capabilities.Invalid.String(), Message: at + fmt.Sprintf(format, args...), Hint: hint,
	}}}
}

// between accepts from least to most arguments, any number from least on if most is negative.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef(cmd, "usage: "+cmd.UseLine(), "an argument is missing")
		case most >= 0 && len(args) > most:
			return usagef(cmd, "usage: "+cmd.UseLine(), "too many arguments, beginning with %q", args[most])
		}
		return nil
	}
}

// reported is an error that has been written already; it is the exit code.
type reported int

func (r reported) Error() string { return fmt.Sprintf("exit code %d", int(r)) }

// errFailed is what went wrong and has been written.
const errFailed = reported(exitFailed)

// report writes err to stderr, as text or JSON, and returns the exit code that goes with it.
func (a *app) report(err error) int {
	code := exitFailed
	p := control.ProblemOf(err)
	ce, isConnect := errors.AsType[*connect.Error](err)
	_, isUsage := errors.AsType[usageError](err)
	written, isReported := errors.AsType[reported](err)
	switch {
	case isReported:
		return int(written)
	case isUsage:
		code = exitUsage
	case errors.Is(err, control.ErrNoManager), p.GetKind() == capabilities.Internal.String() && !isConnect:
		code = exitSystem
	case isConnect && ce.Code() == connect.CodeUnavailable && len(ce.Details()) == 0:
		p = &control.Problem{Kind: p.GetKind(), Message: "the manager went away: " + p.GetMessage()}
		code = exitSystem
	case isConnect && ce.Code() == connect.CodeInternal:
		code = exitSystem
	}
	if a.json {
		b, err := control.JSON(p)
		if err == nil {
			fmt.Fprintf(a.err, "{\"error\":%s}\n", b)
		}
		return code
	}
	c := a.screen(a.err)
	hint := func(text string) {
		for line := range strings.Lines(text) {
			fmt.Fprintf(a.err, "%s hint: %s\n", c.yellow("cmgr:"), strings.TrimSuffix(line, "\n"))
		}
	}
	rest, findings := p.GetHint(), p.GetFindings()
	each := len(findings) > 1
	if each { // each has its hint; what else is to be said follows
		of := map[string]bool{}
		for _, f := range findings {
			for line := range strings.SplitSeq(f.GetHint(), "\n") {
				of[line] = true
			}
		}
		rest = strings.Join(slices.DeleteFunc(strings.Split(rest, "\n"), func(line string) bool { return of[line] }), "\n")
	}
	for line := range strings.SplitSeq(p.GetMessage(), "\n") {
		fmt.Fprintf(a.err, "%s %s\n", c.red("cmgr:"), line)
		if each && len(findings) > 0 && strings.Contains(line, findings[0].GetMessage()) {
			hint(findings[0].GetHint())
			findings = findings[1:]
		}
	}
	hint(rest)
	for _, m := range p.GetCandidates() {
		fmt.Fprintf(a.err, "  %s\n", m)
	}
	return code
}

// dial finds the manager. Close the client.
func (a *app) dial(ctx context.Context) (*control.Client, error) {
	return control.Dial(ctx, a.name, a.socket)
}

// with runs f with a client of the manager.
func (a *app) with(cmd *cobra.Command, f func(context.Context, *control.Client) error) error {
	c, err := a.dial(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Close()
	return f(cmd.Context(), c)
}

// printJSON writes m as one line.
func (a *app) printJSON(m proto.Message) error {
	b, err := control.JSON(m)
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(b, '\n'))
	return err
}

// printList writes ms as an array on one line.
func printList[M proto.Message](a *app, ms []M) error {
	line := []byte{'['}
	for i, m := range ms {
		b, err := control.JSON(m)
		if err != nil {
			return err
		}
		if i > 0 {
			line = append(line, ',')
		}
		line = append(line, b...)
	}
	_, err := a.out.Write(append(line, "]\n"...))
	return err
}

// completeFlag completes a flag of cmd, which has been declared, with words.
func completeFlag(cmd *cobra.Command, flag string, words []string, how cobra.ShellCompDirective) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp|how))
}

// completionTime bounds the wait for the manager while somebody waits for a completion.
const completionTime = time.Second

// monikers completes queries from the running manager, and is silent if there is none.
func (a *app) monikers(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		c, err := a.dial(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		r, err := c.List(ctx, &controlpb.ListRequest{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, i := range r.GetInstances() {
			if strings.HasPrefix(i.GetMoniker(), begun) {
				out = append(out, cobra.CompletionWithDesc(i.GetMoniker(), stateWord(i.GetState(), i.GetStarting())))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// monikersThen completes a query, and then what word makes of its routes; "" for nothing.
func (a *app) monikersThen(word func(*controlpb.RouteReport) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != 1 {
			return a.monikers(1)(cmd, args, begun)
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		c, err := a.dial(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		r, err := c.Route(ctx, &controlpb.RouteRequest{Query: args[0]})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, x := range r.GetRoutes() {
			if w := word(x); w != "" && strings.HasPrefix(w, begun) && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// monikersOr completes a file of one's own, or a query with after behind it.
func (a *app) monikersOr(after string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, _ := a.monikers(-1)(cmd, args, begun)
		for i, f := range found {
			m, what, _ := strings.Cut(f, "\t")
			found[i] = cobra.CompletionWithDesc(m+after, what)
		}
		if len(found) == 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return found, cobra.ShellCompDirectiveNoSpace
	}
}
