package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newWait(a *app) *cobra.Command {
	var until string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait QUERY --until running|stopped|exited [--timeout DURATION]",
		Short: "wait for an instance to run, stop or exit",
		Long: `Wait until an instance runs (and is ready, where its manifest asks for that),
until it doesn't run and no restart is due, or until a run of it has ended; if
one has ended and it doesn't run, that is now. The exit code is 0 then, and 1 if
it will not come to that any more, or not within the timeout. With --until
exited it is the outcome of the run: 0 if the program returned 0, else 1.`,
		Example: `  cmgr start db && cmgr wait db --until running --timeout 30s
  cmgr wait /core/jobs:import-7 --until exited && echo imported`,
		GroupID:           groupLook,
		Args:              between(1, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if until != "running" && until != "stopped" && until != "exited" {
				return usagef(cmd, "usage: "+cmd.UseLine(), "--until must be running, stopped or exited, is %q", until)
			}
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				if timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, timeout)
					defer cancel()
				}
				r, err := c.Wait(ctx, &controlpb.WaitRequest{Query: args[0], Until: until})
				if e, ok := errors.AsType[*connect.Error](err); ok && e.Code() == connect.CodeDeadlineExceeded {
					return &control.Error{Problem: &control.Problem{
						Kind: capabilities.Unavailable.String(), Message: fmt.Sprintf("wait %s: not %s within %s", args[0], until, timeout),
						Hint: fmt.Sprintf("`cmgr show %s` says how it is", args[0]),
					}}
				}
				if err != nil {
					return err
				}
				if a.json {
					err = a.printJSON(r)
				} else if x := r.GetExit(); until == "exited" {
					fmt.Fprintf(a.out, "%s %s\n", r.GetMoniker(), printable(x.GetText()))
				}
				if err == nil && until == "exited" && !r.GetExit().GetOk() {
					err = errFailed
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&until, "until", "", "`STATE` to wait for: running, stopped or exited")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after `DURATION` (30s); 0: never")
	completeFlag(cmd, "until", []string{"running", "stopped", "exited"}, cobra.ShellCompDirectiveDefault)
	return cmd
}
