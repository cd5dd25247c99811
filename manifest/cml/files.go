package cml

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest/json5"
)

// ReadInclude reads an included file from the disk: it is an Includes.Open. The manifest may be somebody else's, so only regular
// files are read, nothing is waited for, and of a file that is too large no more than is needed to say so.
func ReadInclude(file string) ([]byte, error) {
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, errors.New("it is not a regular file"))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, json5.DefaultMaxBytes+1))
}

// Depfile is a rule for make or ninja, on one line: target depends on inputs, which are sorted, each once.
func Depfile(target string, inputs []string) []byte {
	escape := strings.NewReplacer(" ", `\ `, "#", `\#`, "$", "$$")
	line := escape.Replace(target) + ":"
	for _, in := range slices.Compact(slices.Sorted(slices.Values(inputs))) {
		line += " " + escape.Replace(in)
	}
	return []byte(line + "\n")
}

// PackageFiles are the files of a package, for ValidateReferences: those below a directory, by their paths from there; or those
// that a file lists, one "FILE=SOURCE" or "FILE" a line.
func PackageFiles(pkg string) ([]string, error) {
	info, err := os.Stat(pkg)
	if err != nil {
		return nil, err
	}
	var out []string
	if info.IsDir() {
		err := fs.WalkDir(os.DirFS(pkg), ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				out = append(out, filepath.ToSlash(path))
			}
			return err
		})
		return out, err
	}
	lines, err := ReadLines(pkg)
	for _, line := range lines {
		dst, _, _ := strings.Cut(line, "=")
		out = append(out, dst)
	}
	return out, err
}

// ReadLines are the lines of a file, without the blanks around them and without those that are empty.
func ReadLines(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}
