package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/verify"
)

func newCheck(a *app) *cobra.Command {
	var in includeFlags
	var rules ruleFlags
	var out outputFlags
	var sarif bool
	cmd := &cobra.Command{
		Use:     "check FILE...",
		Aliases: []string{"validate"}, // as it is called in older versions of cmc
		Short:   "say what is wrong with manifests",
		Long: `Say all that is wrong with manifests, with file, line and column, the name of
the rule, and what to do next. What they include is read too, and the program of
components that the runner elf runs is checked as that runner will. Warnings
don't count as failure. A FILE may be a compiled manifest, or - for standard
input.

The exit code is 1 if there is an error.`,
		Example: `  cmgr check *.cml
  cmgr check root.cml --must-use-protocol log
  cmgr check *.cml --sarif > manifests.sarif
  cmgr check root.cml --json | jq '.findings[] | select(.warning | not)'`,
		GroupID:           groupTool,
		Args:              between(1, -1),
		ValidArgsFunction: completeFiles("cml", "cm"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.json && sarif {
				return usagef(cmd, "usage: "+cmd.UseLine(), "--json and --sarif don't go together")
			}
			o, err := rules.options(in.includes())
			if err != nil {
				return err
			}
			var all manifest.Diagnostics
			said := map[string]bool{} // what stands in a file that several include is said once
			for _, file := range args {
				for _, d := range a.check(file, o) {
					if key := d.Error(); !said[key] {
						said[key] = true
						all = append(all, d)
					}
				}
			}
			errs := len(all.Errors())
			switch {
			case sarif:
				err = a.writeSARIF(nil, all)
			case a.json:
				err = a.writeJSON(struct {
					Files    []string             `json:"files"`
					Findings manifest.Diagnostics `json:"findings"`
					Errors   int                  `json:"errors"`
					Warnings int                  `json:"warnings"`
				}{args, findings(all), errs, len(all) - errs})
			default:
				a.show(a.out, "", all)
				_, err = fmt.Fprintf(a.out, "%s: %s, %s\n", count(len(args), "file"), count(errs, "error"),
					count(len(all)-errs, "warning"))
			}
			if err != nil {
				return err
			}
			if errs > 0 {
				return errFailed
			}
			return out.finish(a, nil)
		},
	}
	f := cmd.Flags()
	in.add(f)
	rules.add(cmd)
	out.add(f, false, false)
	f.BoolVar(&sarif, "sarif", false, "write SARIF 2.1.0, for tools of code review")
	return cmd
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

// check is all that is to be said of one manifest.
func (a *app) check(file string, o cml.Options) manifest.Diagnostics {
	file, src, err := a.readSource(file)
	if err != nil {
		return manifest.Diagnostics{unreadable(file, err)}
	}
	return verify.CheckManifest(file, src, o)
}

// unreadable is why a file, one of several, cannot be read.
func unreadable(file string, err error) manifest.Diagnostic {
	p := control.ProblemOf(err)
	why := p.GetMessage()
	if _, rest, ok := strings.Cut(why, ": "); ok {
		why = rest // without the name of the file, which is said
	}
	return manifest.Diagnostic{Pos: manifest.Pos{File: file}, Rule: "file", Message: why, Hint: p.GetHint()}
}

// show writes findings on w, on a terminal with the line that each is about; prefix begins each.
func (a *app) show(w io.Writer, prefix string, ds manifest.Diagnostics) {
	s := a.screen(w)
	files := map[string][]string{} // their lines
	for _, d := range ds {
		severity := s.red("error:")
		if d.Warning {
			severity = s.yellow("warning:")
		}
		at := d.Pos.String()
		if at != "" {
			at += ": "
		}
		fmt.Fprintf(w, "%s%s%s %s %s\n", prefix, at, severity, printable(d.Message), s.dim("["+d.Rule+"]"))
		if s.width > 0 && d.Pos.Line > 0 {
			if _, ok := files[d.Pos.File]; !ok {
				b, _ := os.ReadFile(d.Pos.File) // without it there is no excerpt
				files[d.Pos.File] = strings.Split(string(b), "\n")
			}
			s.excerpt(w, files[d.Pos.File], int(d.Pos.Line), int(d.Pos.Col))
		}
		if d.IncludedAt.IsValid() {
			fmt.Fprintf(w, "  %s %s\n", s.dim("included at"), d.IncludedAt)
		}
		if d.Hint != "" {
			mark := s.yellow("hint:")
			for line := range strings.SplitSeq(d.Hint, "\n") { // the edges of a cycle stand on lines of their own
				fmt.Fprintf(w, "  %s %s\n", mark, printable(line))
				mark = "     "
			}
		}
	}
}

// refuse writes findings to standard error, and returns an error if one of them is an error.
func (a *app) refuse(ds manifest.Diagnostics) error {
	err := ds.Err()
	switch {
	case a.json && err == nil:
		return nil // warnings are in what is written
	case a.json:
		p := control.ProblemOf(err)
		p.Findings = control.Findings(ds) // the warnings too
		return &control.Error{Problem: p}
	}
	a.show(a.err, "cmgr: ", ds)
	if err != nil {
		return errFailed
	}
	return nil
}
