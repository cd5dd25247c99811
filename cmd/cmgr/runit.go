package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/cmgr/cmgr/runners/runit/chpst"
	"github.com/cmgr/cmgr/runners/runit/pid1"
	"github.com/cmgr/cmgr/runners/runit/runsvdir"
	"github.com/cmgr/cmgr/runners/runit/sv"
	"github.com/cmgr/cmgr/runners/runit/svlogd"
	"github.com/cmgr/cmgr/runtime/heart"
)

// programs are what this binary is besides cmgr: for `cmgr NAME …`, and when it is called by such a name through a link.
var programs = map[string]program{
	"runsv":    runsvdir.Runsv,
	"runsvdir": runsvdir.Main,
	"sv":       sv.Main,
	"svlogd":   svlogd.Main,

	"runit":      pid1.Main,
	"runit-init": pid1.Main,

	"heart": heart.Main,
}

func init() {
	for _, name := range chpst.Names {
		programs[name], programs["d"+name] = chpst.Main, chpst.Main
	}
}

// initProgram is what `cmgr init ARGS` is when it is not the command that writes a first tree, else nil: process no. 1, unless it is
// given a directory, and elsewhere what asks it to end.
func initProgram(args []string) program {
	switch {
	case os.Getpid() == 1 && (len(args) == 0 || slices.ContainsFunc(args, pid1.IsManifest)):
	case len(args) == 1 && (args[0] == "0" || args[0] == "6"):
	default:
		return nil
	}
	return pid1.Main
}

// calledAs is the program that this binary is when it is called as name: the first that is named along the chain of links that
// begins there; nil for cmgr. So /etc/init.d/web, a link to /usr/bin/sv, which is a link to cmgr, is sv, under the name web.
func calledAs(name string) program {
	if p := programs[filepath.Base(name)]; p != nil || filepath.Base(name) == "cmgr" {
		return p
	}
	if filepath.Base(name) == "init" {
		return pid1.Main
	}
	path, err := exec.LookPath(name) // a name without a slash was found in PATH
	for range 40 {                   // as many links as the kernel follows
		if err != nil {
			return nil
		}
		if p := programs[filepath.Base(path)]; p != nil {
			return p
		}
		var target string
		if target, err = os.Readlink(path); !filepath.IsAbs(target) {
			target = filepath.Dir(path) + "/" + target
		}
		path = target
	}
	return nil
}
