package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/codec"
)

func newCompile(a *app) *cobra.Command {
	var in includeFlags
	var rules ruleFlags
	var out outputFlags
	var runner string
	var strip bool
	var whole bool
	cmd := &cobra.Command{
		Use:   "compile FILE [-o OUT] | compile --boot ROOT -o NAME",
		Short: "compile a manifest",
		Long: `Compile a manifest (.cml, see cml(5)) to its stored form (.cm), with all that it
includes, or say what is wrong with it and where. Warnings don't keep it from
being compiled. cmgr run takes either form. OUT is FILE with the ending .cm if
-o is not given; - is standard output.

With --boot: read the whole tree below the manifest ROOT, verify it, and write
it as the boot script NAME.script, for people and diff, and the boot file
NAME.boot, which cmgr boot starts without reading a manifest again. What lies
below the directory of NAME may be moved together with it.`,
		Example: `  cmgr compile root.cml -o root.cm
  cmgr compile --boot root.cml -o site && cmgr boot site
  cmgr compile root.cml -o root.cm --depfile root.d --includeroot .. -p ../shards`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: completeFiles("cml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if whole {
				if out.output == "" || out.output == "-" {
					return usagef(cmd, "usage: "+cmd.UseLine(), "--boot needs the name of the files to write: -o NAME")
				}
				return a.compileBoot(cmd.Context(), args[0], out.output)
			}
			if out.output == "" {
				out.output = "-"
				if args[0] != "-" {
					out.output = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ".cm"
				}
			}
			o, err := rules.options(in.includes())
			if err != nil {
				return err
			}
			file, src, err := a.readManifest(args[0])
			if err != nil {
				return err
			}
			o.ForceRunner = runner
			v, found := cml.Load(file, src, o)
			if err := a.refuse(found); err != nil {
				return err
			}
			encode := codec.Encode
			if strip {
				encode = codec.EncodeStripped
			}
			b, err := encode(v.Decl())
			if err != nil {
				return fmt.Errorf("compile %s: %w", file, err)
			}
			if err := out.write(a, b, v.Decl().Sources); err != nil {
				return err
			}
			return out.tell(a, v.Decl().Sources, found)
		},
	}
	f := cmd.Flags()
	in.add(f)
	rules.add(cmd)
	out.add(f, true, true)
	f.BoolVar(&strip, "strip", false, "leave out where things were written: equal manifests become equal bytes")
	f.BoolVar(&whole, "boot", false, "compile the whole tree to a boot script")
	f.String("config-package-path", "", "does nothing: there is no file of configuration values whose `PATH` would be needed")
	f.StringVar(&runner, "experimental-force-runner", "", "compile as if program.runner were `NAME`")
	return cmd
}
