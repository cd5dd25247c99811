package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/runners/runit/pid1"
	"github.com/cmgr/cmgr/runtime/control"
)

func newInit(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "write a first tree that runs; as process no. 1: be the init",
		Long: `Write a first tree that runs: a root, one component, and a short README.md. They
are written to DIR, which is made if need be, or to the current directory. Files
that are there are never overwritten.

As process no. 1 (of a machine or of a container) it is the init instead, as
when it is called by the names init, runit or runit-init, and then without DIR:
stages 1, 2 and 3 of /etc/runit; or with a manifest, a tree in place of stage 2,
with the flags of cmgr run. "cmgr init 0" asks that process to power off, "cmgr
init 6" to reboot. The manual is runit(8).`,
		Example: `  cmgr init first
  cmgr run first/root.cml
  init=/usr/bin/cmgr -- init /etc/cmgr/root.cml      (at the end of a boot line)
  cmgr init 6`,
		GroupID: groupTool,
		Args:    between(0, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				if pid1.IsManifest(args[0]) {
					return usagef(cmd, "run it without a machine of its own: cmgr run "+args[0], "only process no. 1 can be the init of %s",
						args[0])
				}
				dir = args[0]
			}
			files, err := cml.Init(dir)
			if there, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrExist) {
				return &control.Error{Problem: &control.Problem{
					Kind: capabilities.Precondition.String(), Message: fmt.Sprintf("init %s: %s is there already", dir, there.Path),
					Hint: "name another directory: cmgr init DIR",
				}}
			}
			if err != nil {
				return fileError(dir, err)
			}
			root := files[0]
			if a.json {
				return a.writeJSON(struct {
					Root  string   `json:"root"`
					Files []string `json:"files"`
				}{root, files})
			}
			for _, f := range files {
				fmt.Fprintln(a.out, f)
			}
			_, err = fmt.Fprintf(a.err, "cmgr: run it: cmgr run %s\n", root)
			return err
		},
	}
}
