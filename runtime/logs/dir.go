package logs

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/manifest/name"
)

// The directory of a moniker is its name with "+" for "/", and without the first: "core+net", "core+jobs:import-7", "+" for the
// root. Names of components have no "+" and no "~". One that would be longer than maxDirName is cut and ends in "~" and a hash;
// the file "moniker" in it has the moniker.
const (
	maxDirName  = 200
	monikerFile = "moniker"
	removedFile = "removed" // empty; its time says when the instance was destroyed
)

func dirName(m name.Moniker) string {
	if m == name.Root {
		return "+"
	}
	s := strings.ReplaceAll(string(m[1:]), "/", "+")
	if len(s) <= maxDirName {
		return s
	}
	sum := sha256.Sum256([]byte(m))
	return s[:maxDirName-33] + "~" + hex.EncodeToString(sum[:16])
}

// dirMoniker is the moniker of a directory's path; false if the directory is none of ours.
func dirMoniker(path string) (name.Moniker, bool) {
	base := filepath.Base(path)
	s := "/" + strings.ReplaceAll(base, "+", "/")
	switch {
	case base == "+":
		s = "/"
	case strings.Contains(base, "~"):
		text, err := os.ReadFile(filepath.Join(path, monikerFile))
		if err != nil {
			return "", false
		}
		s = strings.TrimSuffix(string(text), "\n")
	}
	m, err := name.ParseMoniker(s)
	return m, err == nil && dirName(m) == base
}

// makeDir makes m's directory, on the thread: see logdir.Writer for why not by package os's files.
func makeDir(path string, m name.Moniker) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !strings.Contains(filepath.Base(path), "~") {
		return nil
	}
	path = filepath.Join(path, monikerFile)
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd)
	if _, err := syscall.Write(fd, []byte(m+"\n")); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// stored is every moniker that dir has logs of.
func stored(dir string) ([]name.Moniker, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ms []name.Moniker
	for _, e := range entries {
		if m, ok := dirMoniker(filepath.Join(dir, e.Name())); ok && e.IsDir() {
			ms = append(ms, m)
		}
	}
	return ms, err
}

// A removal is an instance that was destroyed, with the modification time of its removedFile.
type removal struct {
	moniker name.Moniker
	at      syscall.Timespec
}

// removals are those that are marked in dir, the oldest first.
func removals(dir string) ([]removal, error) {
	monikers, err := stored(dir)
	var removed []removal
	for _, m := range monikers {
		var st syscall.Stat_t
		if syscall.Lstat(filepath.Join(dir, dirName(m), removedFile), &st) == nil {
			removed = append(removed, removal{m, st.Mtim})
		}
	}
	slices.SortFunc(removed, func(a, b removal) int { return cmp.Compare(a.at.Nano(), b.at.Nano()) })
	return removed, err
}
