package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
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
			src := cml.Decompile(v.Decl())
			if err := compilesTo(src, v.Decl()); err != nil {
				return fmt.Errorf("decompile %s: %w", file, err)
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

// compilesTo checks that src is the source of c: a stored form may say what no source can.
func compilesTo(src []byte, c *manifest.Component) error {
	again, found := cml.Load("decompiled.cml", src, cml.Options{})
	if err := found.Err(); err != nil {
		return fmt.Errorf("no manifest says the same: %w", err)
	}
	one, err := codec.EncodeStripped(c)
	if err != nil {
		return err
	}
	two, err := codec.EncodeStripped(again.Decl())
	if err != nil || !bytes.Equal(one, two) {
		return &control.Error{Problem: &control.Problem{
			Kind: capabilities.Invalid.String(), Message: "no manifest says the same", Hint: "was it written by another compiler?",
		}}
	}
	return nil
}
