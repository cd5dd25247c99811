package main

import (
	"os"
	"slices"

	"github.com/cmgr/cmgr/runners/runit/early"
	"github.com/cmgr/cmgr/runners/runit/pid1"
)

// initProgram is what `cmgr init ARGS` is when it is not the command that writes a first tree, else nil: process no. 1, unless it
// is given a directory, and elsewhere what asks it to end.
func initProgram(args []string) early.Program {
	switch {
	case os.Getpid() == 1 && (len(args) == 0 || slices.ContainsFunc(args, pid1.IsManifest)):
	case len(args) == 1 && (args[0] == "0" || args[0] == "6"):
	default:
		return nil
	}
	return pid1.Main
}
