package main

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newConnect(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "connect QUERY PROTOCOL",
		Short: "speak to a component's protocol by hand",
		Long: `Connect to a protocol that an instance declares, exposes or uses, which starts
its provider: what is read from standard input goes there, and what comes from
there is written to standard output, until the other end closes. The manager
hands the connection over and does not stand between.`,
		Example: `  cmgr connect /core/echo example.Echo
  echo PING | cmgr connect redis redis`,
		GroupID: groupAct,
		Args:    between(2, 2),
		ValidArgsFunction: a.monikersThen(func(x *controlpb.RouteReport) string {
			if x.GetKind() != "protocol" {
				return ""
			}
			return x.GetCapability()
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				conn, err := c.Connect(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				defer conn.Close()
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				// Not awaited: standard input may never end. It ends with the process.
				go func() {
					_, _ = io.Copy(conn, a.in)
					_ = conn.CloseWrite()
				}()
				if _, err := io.Copy(a.out, conn); err != nil && ctx.Err() == nil && !errors.Is(err, syscall.ECONNRESET) {
					return err
				}
				return nil
			})
		},
	}
}
