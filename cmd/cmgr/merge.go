package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

func newMerge(a *app) *cobra.Command {
	var out outputFlags
	var from string
	cmd := &cobra.Command{
		Use:   "merge FILE... [-o OUT]",
		Short: "merge manifests into one",
		Long: `Merge manifests as an include merges them, in the order given, and write the
result as JSON. Nothing is checked but what merging needs, and what the files
include is not read. A file may also hold an array of manifests.`,
		Example:           `  cmgr merge base.cml site.cml -o root.cml`,
		GroupID:           groupTool,
		ValidArgsFunction: completeFiles("cml"),
		RunE: func(cmd *cobra.Command, files []string) error {
			if from != "" {
				more, err := linesOf(from)
				if err != nil {
					return err
				}
				files = append(files, more...)
			}
			if err := between(1, -1)(cmd, files); err != nil {
				return err
			}
			var docs []*cml.Document
			var found manifest.Diagnostics
			for _, file := range files {
				name, src, err := a.readManifest(file)
				if err != nil {
					return err
				}
				more, ds := cml.ParseMany(name, src)
				docs, found = append(docs, more...), append(found, ds...)
			}
			doc, ds := cml.MergeAll(docs)
			found = append(found, ds...)
			if err := a.refuse(found); err != nil {
				return err
			}
			if err := out.write(a, doc.Indented(), files); err != nil {
				return err
			}
			return out.tell(a, files, found)
		},
	}
	out.add(cmd.Flags(), true, true)
	cmd.Flags().StringVarP(&from, "fromfile", "f", "", "also merge the files that `FILE` names, one a line")
	return cmd
}
