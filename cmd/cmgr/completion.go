package main

import (
	"github.com/spf13/cobra"
)

func newCompletion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "write a shell's completion script",
		Long: `Write the script with which a shell completes cmgr's commands and flags, and the
monikers of the running manager.

For bash, which needs bash-completion:
  cmgr completion bash > ~/.local/share/bash-completion/completions/cmgr
For zsh, in a directory of fpath:
  cmgr completion zsh > ~/.zsh/completions/_cmgr
For fish:
  cmgr completion fish > ~/.config/fish/completions/cmgr.fish`,
		Example:           `  source <(cmgr completion bash)`,
		GroupID:           groupTool,
		Args:              between(1, 1),
		ValidArgsFunction: cobra.FixedCompletions([]cobra.Completion{"bash", "zsh", "fish"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.out)
			case "fish":
				return cmd.Root().GenFishCompletion(a.out, true)
			default:
				return usagef(cmd, "usage: "+cmd.UseLine(), "no completion for %q", args[0])
			}
		},
	}
}
