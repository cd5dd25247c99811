package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/cml"
)

func newCheckIncludes(a *app) *cobra.Command {
	var in includeFlags
	var out outputFlags
	var from string
	cmd := &cobra.Command{
		Use:   "check-includes FILE EXPECTED...",
		Short: "check that a manifest includes certain files",
		Long: `Check that a manifest includes each of the expected files, named as in an
include, be it through other files. If none is expected all is well.`,
		Example:           `  cmgr check-includes root.cml log/client.shard.cml -p shards`,
		GroupID:           groupTool,
		Args:              between(1, -1),
		ValidArgsFunction: completeFiles("cml"),
		RunE: func(_ *cobra.Command, args []string) error {
			expected := args[1:]
			if from != "" {
				more, err := linesOf(from)
				if err != nil {
					return err
				}
				expected = append(expected, more...)
			}
			file, src, err := a.readManifest(args[0])
			if err != nil {
				return err
			}
			doc, found := cml.Parse(file, src)
			if len(expected) > 0 {
				found = append(found, cml.CheckIncludes(doc, expected, in.includes())...)
			} else {
				found = nil
			}
			if err := a.refuse(found); err != nil {
				return err
			}
			if a.json {
				err := a.writeJSON(struct {
					File     string   `json:"file"`
					Includes []string `json:"includes"`
				}{file, append([]string{}, doc.Included...)})
				if err != nil {
					return err
				}
			}
			return out.finish(a, append([]string{file}, doc.Included...))
		},
	}
	f := cmd.Flags()
	in.add(f)
	out.add(f, false, true)
	f.StringVarP(&from, "fromfile", "f", "", "also expect the files that `FILE` names, one a line")
	return cmd
}
