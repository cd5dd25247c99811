package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cmgr/cmgr/manifest/name"
)

// disabled is what must not start, kept in a file of the state directory: one moniker a line, sorted. Monikers of what no
// manifest has any more stay, and do no harm.
type disabled struct {
	path string

	// mu guards what follows, and the file.
	mu  sync.Mutex
	set map[name.Moniker]bool
}

// readDisabled reads the file, which need not be there.
func readDisabled(path string) (*disabled, error) {
	d := &disabled{path: path, set: map[name.Moniker]bool{}}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		m, err := name.ParseMoniker(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		d.set[m] = true
	}
	return d, nil
}

// Has says whether m is disabled.
func (d *disabled) Has(m name.Moniker) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.set[m]
}

// Set keeps that m is disabled, or is not, before it returns.
func (d *disabled) Set(m name.Moniker, is bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	set := maps.Clone(d.set)
	if set[m] = true; !is {
		delete(set, m)
	}
	var b strings.Builder
	for _, m := range slices.Sorted(maps.Keys(set)) {
		b.WriteString(string(m) + "\n")
	}
	if err := replace(d.path, b.String()); err != nil {
		return err
	}
	d.set = set
	return nil
}

// replace writes a file anew, so that after a crash it holds either what it held or all of text.
func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain once it is renamed
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
