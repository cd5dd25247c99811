package main

import (
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/heart"
)

// newHeart is for the help of it alone: Main has what else `cmgr heart` does, for which the manager's command line is no use.
func newHeart(*app) *cobra.Command {
	return &cobra.Command{
		Use:   "heart [-pid PID] [-ht SECONDS]",
		Short: "watch a manager from outside (cmgr run --heart starts it)",
		Long: `Watch the process at the other end of standard input and output, as Erlang's
program heart does, whose messages, options and environment it has. "cmgr run
--heart CMD" starts it, and so does erl -heart where this binary is called
heart; there is no need to start it by hand.

If no beat comes for SECONDS (60), it kills the process PID. When the process
has ended without saying that it shuts down, it runs the command that it was
told or that HEART_COMMAND has, once, and ends.`,
		Example: `  cmgr run --heart 'systemctl restart cmgr' root.cml`,
		Hidden:  true, // from the list of commands
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		DisableFlagParsing: true,
	}
}

// heartProgram is the watchdog, unless somebody asks what it is.
func heartProgram(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 2 && slices.Contains([]string{"-h", "-help", "--help"}, args[1]) {
		return cmgr([]string{"cmgr", "help", "heart"}, stdin, stdout, stderr)
	}
	return heart.Main(args, stdin, stdout, stderr)
}
