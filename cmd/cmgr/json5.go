package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/cml"
)

func newJSON5(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "json5 FILE",
		Short: "turn JSON5 into JSON",
		Long: `Write a JSON5 text as standard JSON on one line. FILE may be - for standard
input. What is not JSON5, or cannot be said in JSON (NaN, the infinities), is an
error.`,
		Example:           `  cmgr json5 root.cml | jq '.children[].name'`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: completeFiles("cml", "json5"),
		RunE: func(_ *cobra.Command, args []string) error {
			file, src, err := a.readSource(args[0])
			if err != nil {
				return err
			}
			out, found := cml.ToJSON(file, src)
			if err := a.refuse(found); err != nil {
				return err
			}
			_, err = a.out.Write(out)
			return err
		},
	}
}
