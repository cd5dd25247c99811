package main

import (
	"bytes"
	"cmp"
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

// readInclude reads a file that a manifest includes. The manifest may be somebody else's, so nothing is waited for.
func readInclude(file string) ([]byte, error) {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, errors.New("it is not a regular file"))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSource))
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
	return &cml.Includes{Root: f.root, Paths: f.paths, Open: readInclude}
}

// ruleFlags say what manifests must and may do.
type ruleFlags struct {
	features                                     []string
	mustOfferProtocol, mustUseProtocol, mustDict []string
	set                                          *pflag.FlagSet
}

func (f *ruleFlags) addFeatures(flags *pflag.FlagSet) {
	f.set = flags
	flags.StringSliceVarP(&f.features, "features", "f", nil,
		"refuse restricted features but those of the `LIST`; without this option none is refused")
}

func (f *ruleFlags) add(flags *pflag.FlagSet) {
	f.addFeatures(flags)
	flags.StringSliceVar(&f.mustOfferProtocol, "must-offer-protocol", nil,
		"every child and collection must be offered the protocols of the `LIST`")
	flags.StringSliceVar(&f.mustUseProtocol, "must-use-protocol", nil, "every component must use the protocols of the `LIST`")
	flags.StringSliceVar(&f.mustDict, "must-offer-dictionary", nil,
		"every child and collection must be offered the dictionaries of the `LIST`")
}

func (f *ruleFlags) options(in *cml.Includes) cml.Options {
	return cml.Options{
		Restrict: f.set.Changed("features"), Features: f.features, MustOfferProtocols: f.mustOfferProtocol,
		MustUseProtocols: f.mustUseProtocol, MustOfferDictionaries: f.mustDict, Includes: in,
	}
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
	flags.StringVar(&f.stamp, "stamp", "", "touch `FILE` if all is well")
}

// check refuses a depfile that has no target.
func (f *outputFlags) check(cmd *cobra.Command) error {
	if f.depfile != "" && f.target() == "" {
		return usagef(cmd, "give --output or --stamp too: it is what depends on the files read", "--depfile has no target")
	}
	return nil
}

func (f *outputFlags) target() string {
	if f.output != "" && f.output != "-" {
		return f.output
	}
	return f.stamp
}

// finish writes the depfile and the stamp.
func (f *outputFlags) finish(inputs []string) error {
	if f.depfile != "" {
		if err := writeFile(f.depfile, depfile(f.target(), inputs)); err != nil {
			return err
		}
	}
	if f.stamp != "" {
		return writeFile(f.stamp, nil)
	}
	return nil
}

// depfile is a rule for make: target depends on inputs.
func depfile(target string, inputs []string) []byte {
	escape := strings.NewReplacer(" ", `\ `, "#", `\#`, "$", "$$")
	inputs = slices.Compact(slices.Sorted(slices.Values(inputs)))
	line := escape.Replace(target) + ":"
	for _, in := range inputs {
		if in != stdinName && in != "-" {
			line += " " + escape.Replace(in)
		}
	}
	return []byte(line + "\n")
}

// write writes b to the output, standard output if there is none, and then the depfile and the stamp.
func (f *outputFlags) write(a *app, b []byte, inputs []string) error {
	var err error
	if f.output == "" || f.output == "-" {
		_, err = a.out.Write(b)
	} else {
		err = writeFile(f.output, b)
	}
	if err != nil {
		return err
	}
	return f.finish(inputs)
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

// linesOf are the lines of a file that are not empty.
func linesOf(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fileError(file, err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out, nil
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
