package main

import (
	"os"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest/cml"
)

// cmcFlags rewrites what only cmc takes: several values after one -p or -f (`--features a b`), each of which is given an option
// of its own. A word is another value where it can be nothing else: the name of a feature, or an existing directory. So the FILE
// may still come after the options.
func cmcFlags(args []string) []string {
	at := commandAt(args)
	if at < 0 {
		return args
	}
	features, paths := []string{"-f", "--features"}, []string{"-p", "--includepath"}
	switch args[at] {
	case "check", "validate", "compile", "include":
	case "check-includes":
		features = nil // its -f is another option
	case "verify":
		paths = nil
	default:
		return args
	}
	out := slices.Clone(args[:at+1])
	for i := at + 1; i < len(args); i++ {
		out = append(out, args[i])
		isMore := isDirectory
		switch option, _, given := strings.Cut(args[i], "="); {
		case args[i] == "--":
			return append(out, args[i+1:]...)
		case slices.Contains(features, option):
			isMore = func(word string) bool { return slices.Contains(cml.Features(), word) }
			fallthrough
		case slices.Contains(paths, option):
			if i++; given {
				i-- // its first value is there already
			} else if i < len(args) {
				out = append(out, args[i])
			}
			for i+1 < len(args) && isMore(args[i+1]) {
				i++
				out = append(out, option, args[i])
			}
		}
	}
	return out
}

func isDirectory(word string) bool {
	info, err := os.Stat(word)
	return err == nil && info.IsDir()
}

// commandAt is where the subcommand stands in a command line, -1 if there is none.
func commandAt(args []string) int {
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains([]string{"--name", "--socket", "--stamp", "-s"}, args[i]):
			i++
		case !strings.HasPrefix(args[i], "-"):
			return i
		}
	}
	return -1
}
