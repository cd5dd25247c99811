package djb

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Search is the path of the program name: itself if it has a slash, else the first in PATH that may be executed; an error if
// there is none, or if name may not be. It is what os/exec.LookPath does, without what that package needs at a start.
func Search(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, mayExecute(name)
	}
	for _, dir := range strings.Split(os.Getenv("PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		if path := dir + "/" + name; mayExecute(path) == nil {
			return path, nil
		}
	}
	return "", syscall.ENOENT
}

func mayExecute(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return syscall.EISDIR
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}
