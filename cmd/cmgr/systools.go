package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/runtime/boot/systools"
	"github.com/cmgr/cmgr/runtime/boot/term"
	"github.com/cmgr/cmgr/runtime/control"
)

func newSystools(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "systools make-script [--components] REL | systools script2boot SCRIPT BOOT [--otp26]",
		Short: "make Erlang boot scripts and boot files",
		Long: `Do what Erlang's systools does, without Erlang: make the boot script of a
release, and make a boot file of a boot script.`,
		Example: `  cmgr systools make-script --path '/usr/lib/erlang/lib/*/ebin' shop
  cmgr systools script2boot start.script start.boot`,
		GroupID: groupTool,
		Args:    cobra.ArbitraryArgs,
		RunE:    subcommand,
	}
	for _, c := range []*cobra.Command{newMakeScript(a), newScript2boot(a)} {
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

func newScript2boot(a *app) *cobra.Command {
	var otp26 bool
	cmd := &cobra.Command{
		Use:   "script2boot SCRIPT BOOT [--otp26]",
		Short: "make a boot file of a boot script",
		Long: `Write the boot file BOOT of the source SCRIPT: byte for byte what Erlang's
systools:script2boot writes. As there, any term will do; cmgr script check says
whether it is a script.`,
		Example:           `  cmgr systools script2boot start.script start.boot`,
		Args:              between(2, 2),
		ValidArgsFunction: completeFiles("script", "boot"),
		RunE: func(_ *cobra.Command, args []string) error {
			in, out := args[0], args[1]
			b, err := os.ReadFile(in)
			if err != nil {
				return fileError(in, err)
			}
			t, err := term.Parse(in, b)
			if err != nil {
				return badScript(err)
			}
			boot := term.Encode(t, otp26)
			if err := os.WriteFile(out, boot, 0o666); err != nil {
				return fileError(out, err)
			}
			if !a.json {
				return nil
			}
			return a.writeJSON(struct {
				Output string `json:"output"`
				Bytes  int    `json:"bytes"`
			}{out, len(boot)})
		},
	}
	cmd.Flags().BoolVar(&otp26, "otp26", false, "write as OTP 26 and later do: atoms in UTF-8")
	return cmd
}

func newMakeScript(a *app) *cobra.Command {
	var o systools.Options
	var variables []string
	var noModuleTests bool
	cmd := &cobra.Command{
		Use:   "make-script [--path GLOB] [--local] [--components] REL",
		Short: "make the boot script of a release",
		Long: `Read the release REL.rel and the .app files of the applications that it lists,
check that they fit together, and write REL.script and REL.boot: the same terms,
and the same boot file byte for byte, as systools:make_script of OTP 25 writes.

.app files are looked for in the directories of --path (a * stands for any part
of a name), in the working directory, and in those of $ERL_LIBS and of an Erlang
that is installed. The result of --json is {"result":"ok","warnings":TERM} or
{"result":"error","error":TERM}, with systools' own terms as cmgr script dump
--json writes them.

With --components the modules of the applications are components of cmgr, and
kernel and stdlib are not needed; cmgr boot runs what is made then.`,
		Example: `  cmgr systools make-script --path 'lib/*/ebin' shop
  cmgr systools make-script --components --path 'lib/*/components' site && cmgr boot site`,
		Args:              between(1, 1),
		ValidArgsFunction: completeFiles("rel"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, v := range variables {
				name, dir, ok := strings.Cut(v, "=")
				if !ok || name == "" {
					return usagef(cmd, "usage: "+cmd.UseLine(), "--variable %s: it is written NAME=DIR", v)
				}
				o.Variables = append(o.Variables, systools.Variable{Name: name, Dir: dir})
			}
			warnings, err := systools.Make(strings.TrimSuffix(args[0], ".rel"), o)
			if f, ok := errors.AsType[*systools.Failure](err); ok {
				if !a.json {
					return badScript(f)
				}
				fmt.Fprintf(a.out, "{\"result\":\"error\",\"error\":%s}\n", term.JSON(f.Term))
				return errFailed
			}
			if err != nil {
				return fileError(args[0], err)
			}
			if !a.json {
				for _, w := range warnings {
					fmt.Fprintf(a.err, "cmgr: warning: %s\n", w.What)
				}
				return nil
			}
			terms := make([]json.RawMessage, len(warnings))
			for i, w := range warnings {
				terms[i] = term.JSON(w.Term)
			}
			return a.writeJSON(struct {
				Result   string `json:"result"`
				Warnings struct {
					List []json.RawMessage `json:"l"`
				} `json:"warnings"`
			}{"ok", struct {
				List []json.RawMessage `json:"l"`
			}{terms}})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Path, "path", nil, "look for .app files in directories that match `GLOB`")
	f.BoolVar(&o.Local, "local", false, "name the directories where the .app files are, in the place of $ROOT/lib/NAME-VERSION")
	f.StringArrayVar(&variables, "variable", nil, "what is below DIR is below $NAME in the script (`NAME=DIR`)")
	f.StringVar(&o.OutDir, "outdir", "", "write into `DIR`")
	f.StringVar(&o.ScriptName, "script-name", "", "call the files `NAME` in the place of REL")
	f.BoolVar(&o.NoDotErlang, "no-dot-erlang", false, "don't have ~/.erlang run")
	f.BoolVar(&o.NoWarnSASL, "no-warn-sasl", false, "don't warn that sasl is missing")
	f.BoolVar(&o.WarningsAsErrors, "warnings-as-errors", false, "fail where there is something to warn of")
	f.BoolVar(&o.SrcTests, "src-tests", false, "check that modules are compiled, and not older than their sources")
	f.BoolVar(&o.OTPBuild, "otp-build", false, "name directories without versions")
	f.BoolVar(&noModuleTests, "no-module-tests", false, "without effect, as in OTP")
	f.BoolVar(&o.Components, "components", false, "the modules are components of cmgr")
	return cmd
}

// badScript is err as a fault of the file.
func badScript(err error) error {
	return &control.Error{Problem: &control.Problem{Kind: capabilities.Invalid.String(), Message: err.Error()}}
}
