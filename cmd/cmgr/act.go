package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

// An act is a method of the service that does something to one instance.
type act func(*control.Client, context.Context, *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error)

// action completes a subcommand that does something to instances: it says which, does it, and says what came of it. idle is
// the word for an instance that is resolved and doesn't run afterwards.
func (a *app) action(doing, idle string, do act, cmd *cobra.Command) *cobra.Command {
	cmd.GroupID = groupAct
	cmd.Args = between(1, -1)
	cmd.ValidArgsFunction = a.monikers(-1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.act(cmd, args, anyInstance, doing, func(ctx context.Context, c *control.Client, m string, began time.Time) acted {
			r, err := do(c, ctx, &controlpb.InstanceRequest{Query: m})
			return acted{func(name string) error { return a.outcome(name, r.GetInstance(), idle, began) }, err}
		})
	}
	return cmd
}

// acted is what came of an act on one instance: an error, or what writes it, each line with the name before it.
type acted struct {
	write func(name string) error
	err   error
}

func anyInstance(*controlpb.Instance) bool { return true }

// act does something to all instances that the queries mean, at once; of those that a pattern matches, to those that may be
// meant. It begins with none before it has found all, and one that fails keeps no other from it.
func (a *app) act(
	cmd *cobra.Command, queries []string, may func(*controlpb.Instance) bool, doing string,
	do func(ctx context.Context, c *control.Client, moniker string, began time.Time) acted,
) error {
	return a.with(cmd, func(ctx context.Context, c *control.Client) error {
		monikers, err := selected(ctx, c, queries, may)
		if err != nil {
			return err
		}
		if !a.json {
			// What is being done is said before it is done: it may take its time.
			for _, m := range monikers {
				fmt.Fprintf(a.out, "Moniker: %s\n", m)
			}
			fmt.Fprintf(a.out, "%s component %s...\n", doing, plural(len(monikers), "instance", "instances"))
		}
		began := a.now()
		stop := a.showWaiting(ctx, c)
		all := make([]acted, len(monikers))
		var wg sync.WaitGroup
		for k, m := range monikers {
			wg.Go(func() { all[k] = do(ctx, c, m, began) })
		}
		wg.Wait()
		stop()
		code := exitFine
		for k, r := range all {
			name := ""
			if len(all) > 1 {
				name = monikers[k] + ": "
			}
			if r.err == nil {
				r.err = r.write(name)
			}
			switch {
			case r.err == nil:
			case len(all) == 1:
				return r.err
			default:
				code = max(code, a.report(r.err))
			}
		}
		if code != exitFine {
			return reported(code)
		}
		return nil
	})
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// selected finds the instances that queries mean, without saying one twice. A query with one of *?[ in it is a pattern of
// monikers (path.Match), and means all that it matches and that may be meant.
func selected(ctx context.Context, c *control.Client, queries []string, may func(*controlpb.Instance) bool) ([]string, error) {
	var out []string
	add := func(m string) {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	for _, q := range queries {
		if !strings.ContainsAny(q, "*?[") || strings.Contains(q, "://") {
			r, err := c.Show(ctx, &controlpb.InstanceRequest{Query: q})
			if err != nil {
				return nil, err
			}
			add(r.GetMoniker())
			continue
		}
		r, err := c.List(ctx, &controlpb.ListRequest{Usage: true})
		if err != nil {
			return nil, err
		}
		found := false
		for _, i := range r.GetInstances() {
			match, err := path.Match(q, i.GetMoniker())
			if err != nil {
				return nil, &control.Error{Problem: &control.Problem{
					Kind: capabilities.Invalid.String(), Message: fmt.Sprintf("find %s: %v", q, err),
					Hint: "a pattern is as the shell's: * and ? stand for what is within one segment of a moniker, [a-z] for one character",
				}}
			}
			if match && may(i) {
				found = true
				add(i.GetMoniker())
			}
		}
		if !found {
			return nil, &control.Error{Problem: &control.Problem{
				Kind: capabilities.NotFound.String(), Message: fmt.Sprintf("find %s: no component instance matches the pattern", q),
				Hint: "* stands for what is within one segment of a moniker: /core/* matches /core/net; `cmgr list` shows all instances",
			}}
		}
	}
	return out, nil
}

// outcome says how an instance is after an action that began then, and how a run ended that ended since.
func (a *app) outcome(name string, i *controlpb.Instance, idle string, began time.Time) error {
	if a.json {
		return a.printJSON(i)
	}
	word := stateWord(i.GetState(), i.GetStarting())
	switch {
	case i.GetStarting():
	case i.GetState() == "resolved":
		word = idle
	case i.GetState() == "unresolved":
		word = "Unresolved"
	}
	if x := i.GetLastExit(); x != nil && !x.GetEndedAt().AsTime().Before(began) {
		word += ": " + printable(x.GetText())
	}
	_, err := fmt.Fprintln(a.out, name+word)
	return err
}

// showWaiting writes who is being waited for, until the returned function is called.
func (a *app) showWaiting(ctx context.Context, c *control.Client) (stop func()) {
	if a.json {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		events, err := c.Events(ctx, &controlpb.EventsRequest{Follow: true, NewOnly: true})
		if err != nil {
			return // the action itself will tell what is wrong
		}
		defer events.Close()
		for events.Receive() {
			if e := events.Msg(); e.GetKind() == "waiting" {
				fmt.Fprintf(a.err, "waiting for %s: %s\n", e.GetMoniker(), printable(e.GetText()))
			}
		}
	}()
	return func() { cancel(); <-done }
}
