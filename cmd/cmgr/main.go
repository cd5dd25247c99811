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
)

// A program is one of those that this binary is. It returns the exit code.
type program func(args []string, stdin io.Reader, stdout, stderr io.Writer) int

// programs are the names under which this binary is another program than cmgr.
var programs = map[string]program{}

func main() { os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }

// Main is the program that args[0] names.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if p, ok := programs[filepath.Base(args[0])]; ok {
		return p(args, stdin, stdout, stderr)
	}
	return cmgr(args, stdin, stdout, stderr)
}
