package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/runtime/boot/systools"
	"github.com/cmgr/cmgr/runtime/boot/term"
)

func newScript(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "script dump FILE | script check FILE",
		Short: "show or check an Erlang boot script",
		Long: `Read an Erlang boot script: its source (.script) or the file made of it (.boot).
dump writes its term, with --json one JSON value that tells all kinds of terms
apart. check says at which instructions Erlang's init would stop.`,
		Example:           `  cmgr script check start.boot`,
		GroupID:           groupTool,
		Args:              between(2, 2),
		ValidArgsFunction: completeFiles("script", "boot"),
		RunE: func(cmd *cobra.Command, args []string) error {
			do, file := args[0], args[1]
			if do != "dump" && do != "check" {
				return usagef(cmd, "it is dump or check", "unknown command %q", do)
			}
			t, err := readTerm(file)
			if err != nil {
				return err
			}
			if do == "dump" {
				if _, err := systools.Instructions(t); err != nil {
					return badScript(fmt.Errorf("%s: %w", file, err))
				}
				text := []byte(term.Text(t) + ".")
				if a.json {
					text = term.JSON(t)
				}
				_, err := a.out.Write(append(text, '\n'))
				return err
			}
			found := systools.Check(t)
			if a.json {
				said := struct {
					File     string   `json:"file"`
					Problems []string `json:"problems"`
				}{file, []string{}}
				for _, f := range found {
					said.Problems = append(said.Problems, f.Error())
				}
				if err := a.writeJSON(said); err != nil {
					return err
				}
			} else {
				for _, f := range found {
					fmt.Fprintf(a.err, "cmgr: %s: %s\n", file, f)
				}
			}
			if len(found) > 0 {
				return errFailed
			}
			return nil
		},
	}
}

// readTerm reads the term of a script, in either form.
func readTerm(file string) (term.Term, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fileError(file, err)
	}
	t, err := systools.Read(file, b)
	if err != nil {
		return nil, badScript(err)
	}
	return t, nil
}
