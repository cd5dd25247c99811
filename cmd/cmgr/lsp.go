package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/lsp"
	"github.com/cmgr/cmgr/runtime/control"
)

func newLSP(a *app) *cobra.Command {
	var o lsp.Options
	cmd := &cobra.Command{
		Use:   "lsp [--includeroot DIR] [--includepath DIR] [--stdio]",
		Short: "serve an editor that edits manifests",
		Long: `Speak the Language Server Protocol on standard input and output: an editor
starts this for manifests (.cml). It gets diagnostics while somebody types,
completion, explanations, definitions, references, rename, symbols, formatting
and repairs. The manual, cmgr(1), says how to set editors up.`,
		Example:           `  vim.lsp.start({ name = "cmgr", cmd = { "cmgr", "lsp" } })    -- in neovim`,
		GroupID:           groupTool,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			o.Version = versionString()
			err := lsp.Serve(a.in, a.out, o)
			kind := capabilities.Invalid
			switch {
			case err == nil:
				return nil
			case errors.Is(err, lsp.ErrNoShutdown):
				kind = capabilities.Precondition
			case errors.Is(err, lsp.ErrGone):
				kind = capabilities.Unavailable
			case !errors.Is(err, lsp.ErrHeader):
				kind = capabilities.Internal
			}
			return &control.Error{Problem: &control.Problem{Kind: kind.String(), Message: "lsp: " + err.Error()}}
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.IncludeRoot, "includeroot", "", "what // of an include means is `DIR`")
	f.StringArrayVar(&o.IncludePaths, "includepath", nil, "look for includes in `DIR`, too; can be repeated")
	f.Bool("stdio", false, "does nothing: there is no other way") // some editors always pass it
	return cmd
}
