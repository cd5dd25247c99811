package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/runtime/control"
)

func newCompile(a *app) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "compile FILE [-o OUT]",
		Short: "compile a manifest",
		Long: `Compile a manifest (.cml, see cml(5)) to its stored form (.cm), or say what is
wrong with it and where. Warnings don't keep it from being compiled. cmgr run
takes either form. OUT is FILE with the ending .cm if -o is not given; - is
standard output.`,
		Example:           `  cmgr compile root.cml -o root.cm`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: cobra.FixedCompletions([]cobra.Completion{"cml"}, cobra.ShellCompDirectiveFilterFileExt),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := os.ReadFile(args[0])
			if err != nil {
				return &control.Error{Problem: &control.Problem{Kind: capabilities.NotFound.String(), Message: "compile: " + err.Error()}}
			}
			v, found := cml.Load(args[0], src, cml.Options{})
			if err := found.Err(); err != nil {
				return err
			}
			for _, d := range found {
				fmt.Fprintf(a.err, "cmgr: warning: %s\n", d.Error())
			}
			b, err := codec.Encode(v.Decl())
			if err != nil {
				return fmt.Errorf("compile %s: %w", args[0], err)
			}
			if out == "-" {
				_, err = a.out.Write(b)
				return err
			}
			if out == "" {
				out = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ".cm"
			}
			return writeFile(out, b)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `OUT`")
	return cmd
}

// writeFile replaces path in one step, so that nobody reads half of it.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain once it is renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
