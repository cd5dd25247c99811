package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

func newFmt(a *app) *cobra.Command {
	var write, check, fix bool
	var out outputFlags
	cmd := &cobra.Command{
		Use:     "fmt [-w] [--check] [--fix] [-o OUT] [FILE...]",
		Aliases: []string{"format"}, // as cmc calls it
		Short:   "format manifests",
		Long: `Format manifests in the one style that they have: four blanks a level, keys in a
fixed order, one a line. Comments are kept, and the meaning is the same. The
result goes to standard output, or with -w back to the files. Without FILE, or
where it is -, standard input is formatted.

--fix first makes the one obvious repair of slips in the syntax, such as a
missing comma, quote or bracket or one bracket too many, and says what it did.`,
		Example: `  cmgr fmt -w *.cml
  cmgr fmt --check *.cml      # exit code 1 and their names, if some are not formatted
  cmgr fmt --fix -w root.cml`,
		GroupID:           groupTool,
		ValidArgsFunction: completeFiles("cml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case check && write:
				return usagef(cmd, "usage: "+cmd.UseLine(), "--check writes nothing; leave out -w")
			case out.output != "" && (check || write || len(args) > 1):
				return usagef(cmd, "usage: cmgr fmt FILE -o OUT", "-o is for one file, without -w and --check")
			case write && (len(args) == 0 || slices.Contains(args, "-")):
				return usagef(cmd, "usage: "+cmd.UseLine(), "-w needs a FILE to write back to")
			}
			if len(args) == 0 {
				if f, ok := a.in.(*os.File); ok && isTerminal(f) {
					return usagef(cmd, "usage: "+cmd.UseLine(), "name a FILE, or - for what is typed here")
				}
				args = []string{"-"}
			}
			files := []formatted{}
			var wrong manifest.Diagnostics
			unformatted := false
			for _, file := range args {
				f, ds, err := a.format(file, fix)
				if err != nil {
					ds = append(ds, unreadable(file, err)) // the others are formatted all the same
				}
				wrong = append(wrong, ds...)
				if len(ds) > 0 {
					continue
				}
				unformatted = unformatted || f.Changed
				switch {
				case check && f.Changed && !a.json:
					fmt.Fprintln(a.out, f.File)
				case check || write && !f.Changed:
				case write:
					err = writeFile(file, f.text)
				case out.output != "" && out.output != "-":
					err = out.put(a, f.text)
				case a.json:
					text := string(f.text)
					f.Text = &text
				default:
					_, err = a.out.Write(f.text)
				}
				if err != nil {
					return err
				}
				files = append(files, f)
			}
			if a.json && len(files) > 0 {
				if err := a.writeJSON(struct {
					Files []formatted `json:"files"`
				}{files}); err != nil {
					return err
				}
			}
			if len(wrong) > 0 {
				return a.refuse(wrong)
			}
			if check && unformatted {
				return errFailed
			}
			return out.finish(a, nil)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&write, "write", "w", false, "write the files instead of standard output")
	f.BoolVarP(&write, "in-place", "i", false, "the same, as cmc calls it")
	f.BoolVar(&check, "check", false, "only list the files that are not formatted")
	f.BoolVar(&fix, "fix", false, "repair slips in the syntax first")
	out.add(f, true, false)
	for _, old := range []string{"pretty", "cml"} { // cmc ignores them, and scripts still have them
		f.BoolP(old, map[string]string{"pretty": "p"}[old], false, "does nothing, as in cmc")
		f.Lookup(old).Hidden = true
	}
	return cmd
}

// formatted is a file that has been formatted.
type formatted struct {
	File    string               `json:"file"`
	Changed bool                 `json:"changed"`
	Fixes   manifest.Diagnostics `json:"fixes"`
	Text    *string              `json:"text,omitempty"` // if it was not written to the file

	text []byte
}

// format formats a file, and says what was repaired; ds is what keeps it from being formatted.
func (a *app) format(file string, fix bool) (out formatted, ds manifest.Diagnostics, err error) {
	name, src, err := a.readManifest(file)
	if err != nil {
		return out, nil, err
	}
	out = formatted{File: name, Fixes: manifest.Diagnostics{}}
	fixed, fixes := cml.Repair(name, src)
	switch {
	case fixed == nil:
		return out, fixes, nil // beyond repair
	case len(fixes) > 0 && !fix:
		for i := range fixes {
			fixes[i].Hint += "; cmgr fmt --fix does it"
		}
		return out, fixes, nil
	}
	out.Fixes = findings(fixes)
	if !a.json {
		s := a.screen(a.err)
		for _, d := range fixes {
			fmt.Fprintf(a.err, "cmgr: %s: %s %s (%s)\n", d.Pos, s.green("fixed:"), printable(d.Message), printable(d.Hint))
		}
	}
	out.text, ds = cml.Format(name, fixed)
	out.Changed = !bytes.Equal(out.text, src)
	return out, ds, nil
}
