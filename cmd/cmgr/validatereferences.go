package main

import (
	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/runtime/verify"
)

func newValidateReferences(a *app) *cobra.Command {
	var in includeFlags
	var out outputFlags
	var file, pkg, label string
	cmd := &cobra.Command{
		Use:   "validate-references -c MANIFEST -p PACKAGE",
		Short: "check that a package has the program of a component",
		Long: `Check that the files that the program of a component names are in its package.
MANIFEST is a manifest, or a compiled one. PACKAGE is the package's directory,
or a list of its files, one "FILE=SOURCE" a line. Absolute paths are files of
the machine, and not looked for; only the runners elf, driver and those of tests
are known to run a file of the package.`,
		Example:           `  cmgr validate-references -c hello.cml -p .`,
		GroupID:           groupTool,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" || pkg == "" {
				return usagef(cmd, "usage: "+cmd.UseLine(), "-c and -p are needed")
			}
			name, src, err := a.readSource(file)
			if err != nil {
				return err
			}
			provided, err := cml.PackageFiles(pkg)
			if err != nil {
				return fileError(pkg, err)
			}
			found := verify.CheckReferences(name, src, cml.Options{Includes: in.includes()}, provided)
			for i := range found {
				if label != "" {
					found[i].Message = label + ": " + found[i].Message
				}
			}
			if err := a.refuse(found); err != nil {
				return err
			}
			if a.json {
				if err := a.writeJSON(struct {
					File  string `json:"file"`
					Files int    `json:"package_files"`
				}{name, len(provided)}); err != nil {
					return err
				}
			}
			return out.finish(a, nil)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "component-manifest", "c", "", "the `MANIFEST`")
	f.StringVarP(&pkg, "package-manifest", "p", "", "the `PACKAGE`")
	f.StringVarP(&label, "context", "e", "", "put `LABEL` before what is wrong, to tell what is being built")
	f.StringVarP(&in.root, "includeroot", "r", ".", "the `DIR` that // at the beginning of an include means")
	f.StringArrayVar(&in.paths, "includepath", nil, "another `DIR` to look for includes in (repeatable)")
	out.add(f, false, false)
	return cmd
}
