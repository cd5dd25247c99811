package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/runtime/control"
)

func newDecompile(a *app) *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:     "decompile FILE [-o OUT]",
		Aliases: []string{"debug-print-cm"}, // as cmc calls what shows a compiled manifest
		Short:   "turn a compiled manifest back into source",
		Long: `Write the source of a compiled manifest (.cm): it compiles to the same. What the
compiler took away is gone: comments, includes, and how things were written.
FILE may be - for standard input.`,
		Example:           `  cmgr decompile root.cm`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: completeFiles("cm"),
		RunE: func(_ *cobra.Command, args []string) error {
			file, b, err := a.readSource(args[0])
			if err != nil {
				return err
			}
			if !codec.Is(b) {
				return &control.Error{Problem: &control.Problem{
					Kind: capabilities.Invalid.String(), Message: fmt.Sprintf("decompile %s: it is not a compiled manifest", file),
					Hint: "compile it with cmgr compile",
				}}
			}
			v, found := codec.Load(file, b)
			if v.IsZero() {
				return a.refuse(found)
			}
			src, err := codec.Decompile(v.Decl())
			if err != nil {
				p := control.ProblemOf(err)
				p.Message = fmt.Sprintf("decompile %s: %v", file, err)
				if errors.Is(err, codec.ErrNoSource) {
					p.Kind, p.Hint = capabilities.Invalid.String(), "was it written by another compiler?"
				}
				return &control.Error{Problem: p}
			}
			header := fmt.Sprintf("// Decompiled from %s, which was compiled from %s.\n", comment(file),
				comment(strings.Join(v.Decl().Sources, ", ")))
			text := append([]byte(header), src...)
			said := struct {
				Sources []string `json:"sources"`
				Output  string   `json:"output,omitempty"` // where the text was written
				Text    string   `json:"text,omitempty"`   // or the text
			}{Sources: v.Decl().Sources, Output: out.output}
			if a.json && (out.output == "" || out.output == "-") {
				said.Output, said.Text = "", string(text)
				if err := a.writeJSON(said); err != nil {
					return err
				}
				return out.finish(a, nil)
			}
			if err := out.write(a, text, nil); err != nil || !a.json {
				return err
			}
			return a.writeJSON(said)
		},
	}
	out.add(cmd.Flags(), true, false)
	return cmd
}

// comment is text that cannot end a comment.
func comment(text string) string {
	return strings.Join(strings.FieldsFunc(printable(text), func(r rune) bool { return r == '\u2028' || r == '\u2029' }), " ")
}
