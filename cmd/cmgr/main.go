// An idle manager must not wake up; Go would look for changed CPU limits twice a minute.
//
//go:debug updatemaxprocs=0

// Command cmgr runs trees of components and manages those that run: `cmgr run root.cml` is the manager, in the foreground; the
// other subcommands speak to it over its socket. cmgr(1) is the manual.
package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/cmgr/cmgr/runners/runit/early"
)

func main() { os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }

// Main is the program that args[0] names, or for cmgr itself its first argument.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if p, args := early.Called(args); p != nil { // in a test of it: a process has ended with p by now
		return p(args, stdin, stdout, stderr)
	}
	switch {
	case filepath.Base(args[0]) == "heart":
		return heartProgram(args, stdin, stdout, stderr)
	case len(args) > 1 && args[1] == "heart":
		return heartProgram(args[1:], stdin, stdout, stderr)
	case len(args) > 1 && args[1] == "init":
		if p := initProgram(args[2:]); p != nil {
			return p(args[1:], stdin, stdout, stderr)
		}
	}
	return cmgr(args, stdin, stdout, stderr)
}
