package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/cml"
)

func newSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "write a JSON Schema of manifests",
		Long: `Write a JSON Schema (draft 2020-12) of manifests, for editors and other tools.
It knows every key and word of the language, but not what depends on other parts
of a manifest: cmgr compile and cmgr lsp say that too.`,
		Example:           `  cmgr schema > cml.schema.json`,
		GroupID:           groupTool,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(cml.JSONSchema())
			return err
		},
	}
}
