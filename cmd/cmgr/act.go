package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

// An act is a method of the service that does something to one instance.
type act func(*control.Client, context.Context, *controlpb.InstanceRequest) (*controlpb.InstanceResponse, error)

// action completes a subcommand that does something to one instance: it says which, does it, and says what came of it. idle is
// the word for an instance that is resolved and doesn't run afterwards.
func (a *app) action(doing, idle string, do act, cmd *cobra.Command) *cobra.Command {
	cmd.GroupID = groupAct
	cmd.Args = between(1, 1)
	cmd.ValidArgsFunction = a.monikers(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.with(cmd, func(ctx context.Context, c *control.Client) error {
			moniker, err := a.announce(ctx, c, args[0], doing)
			if err != nil {
				return err
			}
			began := a.now()
			stop := a.showWaiting(ctx, c)
			r, err := do(c, ctx, &controlpb.InstanceRequest{Query: moniker})
			stop()
			if err != nil {
				return err
			}
			return a.outcome(r.GetInstance(), idle, began)
		})
	}
	return cmd
}

// announce finds the instance, and says which it is and what is being done to it before that is done: it may take its time.
func (a *app) announce(ctx context.Context, c *control.Client, query, doing string) (string, error) {
	r, err := c.Show(ctx, &controlpb.InstanceRequest{Query: query})
	if err != nil {
		return "", err
	}
	if !a.json {
		fmt.Fprintf(a.out, "Moniker: %s\n%s component instance...\n", r.GetMoniker(), doing)
	}
	return r.GetMoniker(), nil
}

// outcome says how an instance is after an action that began then, and how a run ended that ended since.
func (a *app) outcome(i *controlpb.Instance, idle string, began time.Time) error {
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
	fmt.Fprintln(a.out, word)
	return nil
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
