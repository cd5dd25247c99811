// Package early is what this binary is besides cmgr, for `cmgr NAME …` and when it is called by such a name through a link:
// runit's programs. They run before most other packages of the binary have been initialised, which takes more time than some of them do.
//
// Packages are initialised in an order of the language: of those whose imports have been, the first by import path. So all of
// Go's and Google's that nothing here needs come later, as long as what is imported here imports little: not path/filepath,
// for it would have to wait for nearly everything before "p", nor os/exec, which imports it. internal/e2e's TestEarly tells.
package early

import (
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/runners/runit/chpst"
	"github.com/cmgr/cmgr/runners/runit/djb"
	"github.com/cmgr/cmgr/runners/runit/pid1"
	"github.com/cmgr/cmgr/runners/runit/runsvdir"
	"github.com/cmgr/cmgr/runners/runit/sv"
	"github.com/cmgr/cmgr/runners/runit/svlogd"
)

// A Program is one of those that this binary is. It returns the exit code.
type Program func(args []string, stdin io.Reader, stdout, stderr io.Writer) int

func init() {
	if p, args := Called(os.Args); p != nil {
		// By a goroutine of its own, for this one is bound to its thread.
		go func() { os.Exit(p(args, os.Stdin, os.Stdout, os.Stderr)) }()
		select {}
	}
}

// Called is the program that this binary is when it is called with args, and its arguments; nil for any other.
func Called(args []string) (Program, []string) {
	if len(args) == 0 {
		return nil, nil
	}
	if p := calledAs(args[0]); p != nil {
		return p, args
	}
	if len(args) > 1 {
		if p := named(args[1]); p != nil {
			return p, args[1:]
		}
	}
	return nil, nil
}

func named(name string) Program {
	switch name {
	case "sv":
		return sv.Main
	case "svlogd":
		return svlogd.Main
	case "runsv":
		return runsvdir.Runsv
	case "runsvdir":
		return runsvdir.Main
	case "runit", "runit-init":
		return pid1.Main
	}
	if slices.Contains(chpst.Names, strings.TrimPrefix(name, "d")) {
		return chpst.Main
	}
	return nil
}

// calledAs is the program that this binary is when it is called as name: the first that is named along the chain of links that
// begins there. So /etc/init.d/web, a link to /usr/bin/sv, which is a link to cmgr, is sv, under the name web.
func calledAs(name string) Program {
	switch base := path.Base(name); base {
	case "cmgr", "heart": // which are not runit's
		return nil
	case "init":
		return pid1.Main
	default:
		if p := named(base); p != nil {
			return p
		}
	}
	file, err := djb.Search(name) // a name without a slash was found in PATH
	for range 40 {                // as many links as the kernel follows
		if err != nil {
			return nil
		}
		if p := named(path.Base(file)); p != nil {
			return p
		}
		var target string
		if target, err = os.Readlink(file); !path.IsAbs(target) {
			target = path.Dir(file) + "/" + target
		}
		file = target
	}
	return nil
}
