package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

func newJSON5(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "json5 FILE",
		Short: "turn JSON5 into JSON",
		Long: `Write a JSON5 text as standard JSON on one line. FILE may be - for standard input.
What is not JSON5, or cannot be said in JSON (NaN, the infinities), is an error.`,
		Example:           `  cmgr json5 root.cml | jq '.children[].name'`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: completeFiles("cml", "json5"),
		RunE: func(_ *cobra.Command, args []string) error {
			file, src, err := a.readSource(args[0])
			if err != nil {
				return err
			}
			tree, err := json5.Parse(src, json5.Options{})
			var out []byte
			if err == nil {
				out, err = json5.ToJSON(&tree)
			}
			if es, ok := errors.AsType[json5.Errors](err); ok {
				var ds manifest.Diagnostics
				for _, e := range es {
					ds = append(ds, manifest.Diagnostic{
						Pos: manifest.Pos{File: file, Line: int32(e.Line), Col: int32(e.Col)}, Rule: "syntax", Message: e.Message,
						Hint: e.Hint(),
					})
				}
				return a.refuse(ds)
			}
			_, err = a.out.Write(append(out, '\n'))
			return err
		},
	}
}
