package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/cml"
)

func newReference(a *app) *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:     "reference [-o OUT]",
		Aliases: []string{"print-cml-reference"}, // as cmc calls it
		Short:   "write the reference of manifests",
		Long: `Write what each key of a manifest may hold and what it means, as Markdown: all
that an editor shows. cml(5) is the manual to read from the beginning.`,
		Example:           `  cmgr reference | less`,
		GroupID:           groupTool,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			text := cml.Reference()
			if a.json && (out.output == "" || out.output == "-") {
				return a.writeJSON(struct {
					Text string `json:"text"`
				}{string(text)})
			}
			if err := out.write(a, text, nil); err != nil {
				return err
			}
			return out.tell(a, []string{}, nil)
		},
	}
	out.add(cmd.Flags(), true, false)
	return cmd
}
