package chpst

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// setEnv sets name, or removes it. A name with a "=" in it ends there, as in runit.
func (c *change) setEnv(name, value string, set bool) {
	entry := name
	if set {
		entry += "=" + value
	}
	name, _, _ = strings.Cut(entry, "=")
	kept := c.env[:0]
	for _, e := range c.env {
		if !strings.HasPrefix(e, name+"=") {
			kept = append(kept, e)
		}
	}
	c.env = kept
	if set {
		c.env = append(c.env, entry)
	}
}

// envDir changes the environment as the files of dir say. Directories in it are an error, or skipped.
func (c *change) envDir(dir string, skip, verbose bool) error {
	// runit changes to the directory, which may be allowed where reading it is not, or the other way round.
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(at)
		err = unix.Faccessat(at, ".", unix.X_OK, unix.AT_EACCESS)
	}
	if err != nil {
		return fatal(err, "unable to switch to directory", dir)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fatal(err, "unable to open directory", dir)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fatal(err, "unable to read directory", dir)
	}
	for _, name := range names {
		if name[0] == '.' {
			continue
		}
		b, err := os.ReadFile(dir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // a link to nothing, or just removed: as an empty file
		}
		if err != nil {
			text := fmt.Sprintf("unable to read %s/%s: %s", dir, name, djb.Text(err))
			if st, e := os.Stat(dir + "/" + name); !skip || e != nil || !st.IsDir() {
				return fatalf("%s", text)
			}
			if verbose {
				fmt.Fprintf(c.stderr, "chpst: warning: %s\n", text)
			}
			continue
		}
		c.setEnv(name, envValue(b), len(b) > 0)
	}
	return nil
}

// envValue is what a file of an environment directory says: its first line without blanks at the end, NUL for newline.
func envValue(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte("\n"))
	b = bytes.TrimRight(b, " \t")
	return string(bytes.ReplaceAll(b, []byte{0}, []byte("\n")))
}

// envIDs sets UID and GID.
func (c *change) envIDs(u ids, err error) error {
	if err == nil {
		c.setEnv("GID", strconv.Itoa(u.gids[0]), true)
		c.setEnv("UID", strconv.Itoa(u.uid), true)
	}
	return err
}
