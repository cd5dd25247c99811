package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/manifest/codec"
	"github.com/cmgr/cmgr/manifest/json5"
	"github.com/cmgr/cmgr/runtime/control"
)

// stdinName is how places in standard input are called.
const stdinName = "<stdin>"

// maxSource is one byte more than any reader of manifests takes; so much is enough for it to say so.
const maxSource = max(json5.DefaultMaxBytes, codec.MaxSize) + 1

// readSource reads a file, or standard input if its name is "-", and gives the name for messages.
func (a *app) readSource(file string) (name string, src []byte, err error) {
	if file == "-" {
		src, err = io.ReadAll(io.LimitReader(a.in, maxSource))
		return stdinName, src, err
	}
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		src, err = io.ReadAll(io.LimitReader(f, maxSource))
	}
	if err != nil {
		return file, nil, fileError(file, err)
	}
	return file, src, nil
}

// readManifest is readSource for what must be the source of a manifest.
func (a *app) readManifest(file string) (name string, src []byte, err error) {
	name, src, err = a.readSource(file)
	if err == nil && codec.Is(src) {
		err = &control.Error{Problem: &control.Problem{
			Kind: capabilities.Invalid.String(), Message: fmt.Sprintf("read %s: it is a compiled manifest, not its source", name),
			Hint: "cmgr decompile " + file + " turns it into source",
		}}
	}
	return name, src, err
}

// fileError is err about a file that the command line names.
func fileError(file string, err error) error {
	p := &control.Problem{Kind: capabilities.Invalid.String(), Message: fmt.Sprintf("read %s: %v", file, cause(err))}
	switch info, statErr := os.Stat(file); {
	case errors.Is(err, fs.ErrNotExist):
		p.Kind, p.Message = capabilities.NotFound.String(), fmt.Sprintf("read %s: no such file", file)
	case errors.Is(err, fs.ErrPermission):
		p.Kind = capabilities.Denied.String()
	case statErr == nil && info.IsDir():
		p.Message = fmt.Sprintf("read %s: it is a directory", file)
		if near, _ := filepath.Glob(filepath.Join(file, "*.cml")); len(near) > 0 {
			p.Hint = "name a file in it, such as " + near[0]
		}
	}
	return &control.Error{Problem: p}
}

// cause is err without the name of the file, which is said already.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// includeFlags say where included files are.
type includeFlags struct {
	root  string
	paths []string
}

func (f *includeFlags) add(flags *pflag.FlagSet) {
	flags.StringVarP(&f.root, "includeroot", "r", ".", "the `DIR` that // at the beginning of an include means")
	flags.StringArrayVarP(&f.paths, "includepath", "p", nil, "another `DIR` to look for includes in (repeatable)")
}

func (f *includeFlags) includes() *cml.Includes {
	return &cml.Includes{Root: f.root, Paths: f.paths, Open: cml.ReadInclude}
}

// featureFlags say which restricted features manifests may use.
type featureFlags struct {
	names []string
	cmd   *cobra.Command
}

func (f *featureFlags) add(cmd *cobra.Command) {
	f.cmd = cmd
	cmd.Flags().StringSliceVarP(&f.names, "features", "f", nil,
		"refuse restricted features but those of the `LIST`; without this option none is refused")
	completeFlag(cmd, "features", cml.Features(), 0)
}

// options are the compiler's for these features.
func (f *featureFlags) options() (cml.Options, error) {
	o := cml.Options{Restrict: f.cmd.Flags().Changed("features")}
	for _, n := range f.names {
		o.Features = append(o.Features, strings.Fields(n)...) // cmc takes them in one word, too
	}
	if err := cml.CheckFeatures(o.Features); err != nil {
		return o, usagef(f.cmd, "there are "+strings.Join(cml.Features(), ", "), "--features: %v", err)
	}
	return o, nil
}

// ruleFlags say what manifests must and may do.
type ruleFlags struct {
	features                                     featureFlags
	mustOfferProtocol, mustUseProtocol, mustDict []string
}

func (f *ruleFlags) add(cmd *cobra.Command) {
	f.features.add(cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&f.mustOfferProtocol, "must-offer-protocol", nil,
		"every child and collection must be offered the protocols of the `LIST`")
	flags.StringSliceVar(&f.mustUseProtocol, "must-use-protocol", nil, "every component must use the protocols of the `LIST`")
	flags.StringSliceVar(&f.mustDict, "must-offer-dictionary", nil,
		"every child and collection must be offered the dictionaries of the `LIST`")
}

func (f *ruleFlags) options(in *cml.Includes) (cml.Options, error) {
	o, err := f.features.options()
	o.MustOfferProtocols, o.MustUseProtocols, o.MustOfferDictionaries = f.mustOfferProtocol, f.mustUseProtocol, f.mustDict
	o.Includes = in
	return o, err
}

// outputFlags say where to write, and what build systems want to know.
type outputFlags struct{ output, depfile, stamp string }

func (f *outputFlags) add(flags *pflag.FlagSet, output, depfile bool) {
	if output {
		flags.StringVarP(&f.output, "output", "o", "", "write to `OUT`")
	}
	if depfile {
		flags.StringVarP(&f.depfile, "depfile", "d", "", "write what was read to `FILE`, as a rule for make or ninja")
	}
	flags.StringVarP(&f.stamp, "stamp", "s", "", "touch `FILE` if all is well")
}

// target is what depends on the files that were read, "" if it is nothing.
func (f *outputFlags) target() string {
	if f.output != "" && f.output != "-" {
		return f.output
	}
	return f.stamp
}

// finish writes the depfile and the stamp. Without a target there is no rule to write, and an old one is removed.
func (f *outputFlags) finish(a *app, inputs []string) error {
	inputs = slices.DeleteFunc(slices.Clone(inputs), func(in string) bool { return in == stdinName || in == "-" })
	switch {
	case f.depfile == "":
	case f.target() != "":
		if err := writeFile(f.depfile, cml.Depfile(f.target(), inputs)); err != nil {
			return err
		}
	default:
		if !a.json {
			fmt.Fprintf(a.err, "cmgr: no %s: nothing depends on what was read; give --output or --stamp, too\n", f.depfile)
		}
		if err := os.Remove(f.depfile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if f.stamp != "" {
		return writeFile(f.stamp, nil)
	}
	return nil
}

// write writes b to the output, standard output if there is none, and then the depfile and the stamp. As cmc does, it makes the
// directory of the output, and leaves a file that is the same already as old as it is: what depends on it is not built again.
func (f *outputFlags) write(a *app, b []byte, inputs []string) error {
	if err := f.put(a, b); err != nil {
		return err
	}
	return f.finish(a, inputs)
}

// put is write without depfile and stamp.
func (f *outputFlags) put(a *app, b []byte) error {
	var err error
	if f.output == "" || f.output == "-" {
		_, err = a.out.Write(b)
	} else if !holds(f.output, b) {
		if err = os.MkdirAll(filepath.Dir(f.output), 0o755); err == nil {
			err = writeFile(f.output, b)
		}
	}
	return err
}

// tell says as JSON what write wrote to a file.
func (f *outputFlags) tell(a *app, sources []string, found manifest.Diagnostics) error {
	if !a.json || f.output == "" || f.output == "-" {
		return nil
	}
	return a.writeJSON(struct {
		Output   string               `json:"output"`
		Sources  []string             `json:"sources"`
		Findings manifest.Diagnostics `json:"findings"`
	}{f.output, sources, findings(found)})
}

// holds says whether a file holds just b.
func holds(path string, b []byte) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(b)) {
		return false
	}
	old, err := os.ReadFile(path)
	return err == nil && bytes.Equal(old, b)
}

// writeFile replaces path in one step, so that nobody reads half of it. It keeps the mode of what is there, and its link.
func writeFile(path string, b []byte) error {
	mode := fs.FileMode(0o644)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() {
			return os.WriteFile(path, b, mode) // a device or a pipe
		}
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain once it is renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(mode)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// linesOf are the lines of a file that the command line names.
func linesOf(file string) ([]string, error) {
	lines, err := cml.ReadLines(file)
	if err != nil {
		return nil, fileError(file, err)
	}
	return lines, nil
}

// findings are ds as an array, which is [] for none.
func findings(ds manifest.Diagnostics) manifest.Diagnostics {
	return append(manifest.Diagnostics{}, ds...)
}

// writeJSON writes v as one line.
func (a *app) writeJSON(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := a.out.Write(b.Bytes())
	return err
}

// completeFiles completes names of files with these endings.
func completeFiles(endings ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(endings, cobra.ShellCompDirectiveFilterFileExt)
}
