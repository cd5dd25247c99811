package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

func newInclude(a *app) *cobra.Command {
	var in includeFlags
	var rules ruleFlags
	var out outputFlags
	validate := true
	cmd := &cobra.Command{
		Use:   "include FILE [-o OUT]",
		Short: "merge what a manifest includes into it",
		Long: `Write a manifest with all that it includes merged into it, as JSON in a fixed
order: what includes give is easy to see and to compare. It is checked as by
cmgr compile unless --validate=false is given.`,
		Example: `  cmgr include root.cml
  diff <(cmgr include old.cml) <(cmgr include new.cml)`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: completeFiles("cml"),
		RunE: func(_ *cobra.Command, args []string) error {
			o, err := rules.options(in.includes())
			if err != nil {
				return err
			}
			file, src, err := a.readManifest(args[0])
			if err != nil {
				return err
			}
			var doc *cml.Document
			var found manifest.Diagnostics
			if validate {
				doc, _, found = cml.LoadDocument(file, src, o)
			} else {
				doc, found = cml.Parse(file, src)
				found = append(found, cml.Expand(doc, in.includes())...)
			}
			if err := a.refuse(found); err != nil {
				return err
			}
			doc.Canonicalize()
			sources := append([]string{file}, doc.Included...)
			if err := out.write(a, doc.Indented(), sources); err != nil {
				return err
			}
			return out.tell(a, sources, found)
		},
	}
	f := cmd.Flags()
	in.add(f)
	rules.features.add(cmd)
	out.add(f, true, true)
	f.BoolVar(&validate, "validate", true, "`true` or false: check the result")
	f.Lookup("validate").NoOptDefVal = "" // so that "--validate false" is one option, as in cmc
	return cmd
}
