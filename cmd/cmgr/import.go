package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/cml"
	"github.com/cmgr/cmgr/runners/elf"
	"github.com/cmgr/cmgr/runners/runit"
	"github.com/cmgr/cmgr/runtime/control"
)

func newImport(a *app) *cobra.Command {
	out := "."
	cmd := &cobra.Command{
		Use:   "import runit DIR [-o OUT]",
		Short: "write manifests for service directories",
		Long: `Write the manifests that run what runit runs: DIR is a service directory, or a
directory of them such as /etc/service. A root.cml with a child for each, and a
manifest for each, are written to the directory OUT, which is made if need be.
Comments in them tell what could not be carried over. The service directories
stay where they are. Files that are there are never overwritten.`,
		Example: `  cmgr import runit /etc/service -o services
  cmgr run services/root.cml`,
		GroupID:   groupTool,
		Args:      between(2, 2),
		ValidArgs: []string{"runit"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "runit" {
				return usagef(cmd, "usage: "+cmd.UseLine(), "%q: only runit can be imported", args[0])
			}
			files, err := importRunit(args[1])
			if err != nil {
				return err
			}
			paths := []string{}
			for _, f := range files {
				path := filepath.Join(out, f.name)
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					return &control.Error{Problem: &control.Problem{
						Kind: capabilities.Precondition.String(), Message: fmt.Sprintf("import %s: %s is there already", args[1], path),
						Hint: "name another directory: -o OUT",
					}}
				}
				paths = append(paths, path)
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return fileError(out, err)
			}
			for i, f := range files {
				if err := writeNew(paths[i], string(f.text)); err != nil {
					return err
				}
			}
			if a.json {
				return a.writeJSON(struct {
					Root  string   `json:"root"`
					Files []string `json:"files"`
				}{paths[0], paths})
			}
			for _, p := range paths {
				fmt.Fprintln(a.out, p)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", out, "write to the directory `OUT`")
	return cmd
}

// An imported is a manifest that was made.
type imported struct {
	name string
	text []byte
}

// importRunit makes the manifests for the service directory dir or those in it, the root first.
func importRunit(dir string) ([]imported, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fileError(dir, err)
	}
	var services, notes []string
	all := false
	if _, err := os.Stat(filepath.Join(abs, "run")); err == nil {
		services = []string{abs}
	} else {
		all = true
		entries, err := os.ReadDir(abs)
		if err != nil {
			return nil, fileError(dir, err)
		}
		for _, e := range entries {
			path := filepath.Join(abs, e.Name())
			if st, err := os.Stat(path); err != nil || !st.IsDir() || strings.HasPrefix(e.Name(), ".") {
				continue // as runsvdir does
			}
			if _, err := os.Stat(filepath.Join(path, "run")); err != nil {
				notes = append(notes, fmt.Sprintf("%q is left out: it has no run.", e.Name()))
				continue
			}
			services = append(services, path)
		}
	}
	if len(services) == 0 {
		return nil, &control.Error{Problem: &control.Problem{
			Kind: capabilities.NotFound.String(), Message: fmt.Sprintf("import %s: no service directory is there", dir),
			Hint: "a service directory has a file run",
		}}
	}
	files := []imported{{name: "root.cml"}}
	var children strings.Builder
	taken := map[string]bool{"root": true}
	for _, path := range services {
		child := runit.ComponentName(filepath.Base(path), taken)
		taken[child] = true
		again := ""
		if all {
			again = `, on_terminate: "restart"` // as runsvdir starts runsv again
		}
		fmt.Fprintf(&children, "{ name: %q, url: %q, startup: \"eager\"%s },\n", child, child+".cml", again)
		text, err := formatText(child+".cml", fmt.Sprintf("%s{ program: { runner: \"runit\", service_dir: %s } }",
			comments(lost(path, child)), strconv.Quote(path)))
		if err != nil {
			return nil, err
		}
		files = append(files, imported{child + ".cml", text})
	}
	head := []string{fmt.Sprintf("The service %q.", abs)}
	if all {
		head = []string{
			fmt.Sprintf("The services of %q. One that is added there later is not noticed; a component with", abs),
			fmt.Sprintf("program: { runner: \"runit\", service_dirs: %q } notices it (cml(5)).", abs),
		}
	}
	head = append(append(head, "Of the environment of runsv or runsvdir they get PATH alone, which is "+elf.Path+"."), notes...)
	files[0].text, err = formatText("root.cml", fmt.Sprintf("%s{ children: [\n%s] }", comments(head), children.String()))
	return files, err
}

// lost is what the component of the service directory path does otherwise than runsv's service.
func lost(path, child string) (notes []string) {
	if base := filepath.Base(path); base != child {
		notes = append(notes, fmt.Sprintf("Its name %q cannot be a component's.", base))
	}
	for _, file := range []string{"run", "finish", "log/run"} {
		b, err := os.ReadFile(filepath.Join(path, file))
		switch {
		case err != nil:
			if !errors.Is(err, fs.ErrNotExist) {
				notes = append(notes, fmt.Sprintf("%s could not be read; what it needs is not known.", file))
			}
		case strings.Contains(string(b), "sv start") || strings.Contains(string(b), "sv up") || strings.Contains(string(b), "sv check"):
			notes = append(notes, file+" calls sv: its names must be found where SVDIR says, and the environment of the manager is not handed on.")
		}
	}
	return notes
}

func comments(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString("// " + l + "\n")
	}
	return b.String()
}

// formatText is src as `cmgr fmt` writes it.
func formatText(file, src string) ([]byte, error) {
	text, found := cml.Format(file, []byte(src))
	if len(found) > 0 {
		return nil, found
	}
	return text, nil
}

// writeNew writes a file that was not there.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fileError(path, err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
