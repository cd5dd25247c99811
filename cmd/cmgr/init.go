package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/runners/runit/pid1"
	"github.com/cmgr/cmgr/runtime/control"
)

// firstTree are the files of a tree to begin with, in the order in which they are to be read.
var firstTree = []struct{ name, text string }{
	{"README.md", `Run this tree with "cmgr run root.cml", look at it from elsewhere with "cmgr list -v", and stop it with Ctrl-C.
root.cml is the tree, and hello.cml its one component: let it run your own program. The language is in cml(5).
After each change "cmgr check *.cml" says what is wrong, and "cmgr fmt -w *.cml" brings the files in shape.
`},
	{"root.cml", `// The root of the tree: its children, and what each is given. Nobody gets what its parent does not offer.
{
    children: [
        {
            name: "hello",
            url: "hello.cml",
            startup: "eager",
        },
    ],
    offer: [
        // The manager gives the root the runner "elf", which runs programs of this machine.
        {
            runner: "elf",
            from: "parent",
            to: "#hello",
        },
    ],
}
`},
	{"hello.cml", `// A component: what it runs, and what it needs for that.
{
    program: {
        runner: "elf",
        binary: "/bin/sh",
        args: [
            "-c",
            "echo Hello from $CMGR_MONIKER; exec sleep infinity",
        ],
    },
}
`},
}

func newInit(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "write a first tree that runs; as process no. 1: be the init",
		Long: `Write a first tree that runs: a root, one component, and a short README.md. They
are written to DIR, which is made if need be, or to the current directory. Files
that are there are never overwritten.

As process no. 1 (of a machine or of a container) it is the init instead, as when
it is called by the names init, runit or runit-init, and then without DIR: stages
1, 2 and 3 of /etc/runit; or with a manifest, a tree in place of stage 2, with
the flags of cmgr run. "cmgr init 0" asks that process to power off, "cmgr init
6" to reboot. The manual is runit(8).`,
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
					return usagef(cmd, "run it without a machine of its own: cmgr run "+args[0], "only process no. 1 can be the init of %s", args[0])
				}
				dir = args[0]
			}
			files := []string{}
			for _, f := range firstTree {
				path := filepath.Join(dir, f.name)
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					return &control.Error{Problem: &control.Problem{
						Kind: capabilities.Precondition.String(), Message: fmt.Sprintf("init %s: %s is there already", dir, path),
						Hint: "name another directory: cmgr init DIR",
					}}
				}
				files = append(files, path)
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fileError(dir, err)
			}
			for i, f := range firstTree {
				if err := writeNew(files[i], f.text); err != nil {
					return err
				}
			}
			root := files[1]
			if a.json {
				return a.writeJSON(struct {
					Root  string   `json:"root"`
					Files []string `json:"files"`
				}{root, files})
			}
			for _, f := range files {
				fmt.Fprintln(a.out, f)
			}
			_, err := fmt.Fprintf(a.err, "cmgr: run it: cmgr run %s\n", root)
			return err
		},
	}
}

// writeNew writes a file that was not there.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fileError(path, err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
