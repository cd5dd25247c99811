package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/boot/term"
)

func newSystools(a *app) *cobra.Command {
	var otp26 bool
	cmd := &cobra.Command{
		Use:   "systools script2boot SCRIPT BOOT [--otp26]",
		Short: "make an Erlang boot file of a boot script",
		Long: `Write the boot file BOOT of the source SCRIPT: byte for byte what Erlang's
systools:script2boot writes. As there, any term will do; cmgr script check says
whether it is a script.`,
		Example:           `  cmgr systools script2boot start.script start.boot`,
		GroupID:           groupTool,
		Args:              between(3, 3),
		ValidArgsFunction: completeFiles("script", "boot"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "script2boot" {
				return usagef(cmd, "usage: "+cmd.UseLine(), "unknown command %q", args[0])
			}
			in, out := args[1], args[2]
			b, err := os.ReadFile(in)
			if err != nil {
				return fileError(in, err)
			}
			t, err := term.Parse(in, b)
			if err != nil {
				return badScript(err)
			}
			boot := term.Encode(t, otp26)
			if err := os.WriteFile(out, boot, 0o666); err != nil {
				return fileError(out, err)
			}
			if !a.json {
				return nil
			}
			return a.writeJSON(struct {
				Output string `json:"output"`
				Bytes  int    `json:"bytes"`
			}{out, len(boot)})
		},
	}
	cmd.Flags().BoolVar(&otp26, "otp26", false, "write as OTP 26 and later do: atoms in UTF-8")
	return cmd
}
