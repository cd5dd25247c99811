package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/sys/mnt"
)

// A thing is a path of the platform as it is found on the host.
type thing struct {
	path   string // in the world
	kind   thingKind
	target string // of a link; else the host's path
	stamp  string // another one if it is another file
}

type thingKind uint8

const (
	aDirectory thingKind = iota // mounted
	aFile                       // copied
	aLink                       // made
)

// without is things but for those that points take the place of.
func without(things []thing, points []point) []thing {
	return slices.DeleteFunc(slices.Clone(things), func(t thing) bool {
		return slices.ContainsFunc(points, func(p point) bool { return p.path == t.path || strings.HasPrefix(t.path, p.path+"/") })
	})
}

// findPlatform finds what of the platform there is.
func (c *Confiner) findPlatform() (things []thing) {
	for _, p := range c.platform {
		t := thing{path: p, target: p}
		info, err := os.Lstat(p)
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			real, rerr := filepath.EvalSymlinks(p)
			if rerr == nil && c.covers(real) {
				// /bin → usr/bin: what it leads to is there too.
				t.kind = aLink
				t.target, err = os.Readlink(p)
			} else {
				// /etc/resolv.conf → /run/…: what it leads to stands in its place.
				t.target = real
				info, err = os.Stat(p)
			}
		}
		if err != nil {
			continue
		}
		switch {
		case t.kind == aLink:
		case info.IsDir():
			t.kind = aDirectory
		case info.Mode().IsRegular():
			t.kind = aFile
			t.stamp = fmt.Sprint(info.Size(), info.ModTime().UnixNano())
		default:
			continue
		}
		things = append(things, t)
	}
	return things
}

// covers says whether the host's path is within a directory of the platform.
func (c *Confiner) covers(real string) bool {
	return slices.ContainsFunc(c.platform, func(p string) bool {
		if real != p && !strings.HasPrefix(real, p+"/") {
			return false
		}
		info, err := os.Lstat(p)
		return err == nil && info.IsDir()
	})
}

// maxFile is how much of a file of the platform is copied.
const maxFile = 16 << 20

// plant makes a seed and returns its namespace.
func plant(things []thing, points []point) (int, error) {
	return mnt.Namespace(unix.CLONE_NEWNS, func() (err error) {
		// What is needed of the host is taken while it is there.
		type mounted struct {
			fd   int
			path string
		}
		var mounts []mounted
		defer func() {
			for _, m := range mounts {
				unix.Close(m.fd)
			}
		}()
		tree := func(from, to string, attr uint64) error {
			fd, err := mnt.Tree(unix.AT_FDCWD, from, attr)
			if err == nil {
				mounts = append(mounts, mounted{fd, to})
			}
			return err
		}
		files := map[string][]byte{}
		for _, t := range things {
			switch t.kind {
			case aDirectory:
				err = tree(t.target, t.path, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
			case aFile:
				files[t.path], err = os.ReadFile(t.target)
				if errors.Is(err, fs.ErrPermission) || len(files[t.path]) > maxFile {
					delete(files, t.path) // what the manager may not see, its programs don't
					err = nil
				}
			}
			if err != nil {
				return err
			}
		}
		nodes := !inUserNamespace() // there no device node can be made
		if !nodes {
			for name := range devices {
				if err := tree("/dev/"+name, "/dev/"+name, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
					return err
				}
			}
		}
		root, err := mnt.FS("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "mode", "755", "size", "32m")
		if err != nil {
			return err
		}
		if err := mnt.Root(root); err != nil {
			return err
		}
		// From here on "/" is the seed's.
		dirs := []string{"/dev", "/pkg", "/proc", "/tmp"}
		for _, t := range things {
			switch t.kind {
			case aDirectory:
				dirs = append(dirs, t.path)
			case aFile, aLink:
				dirs = append(dirs, path.Dir(t.path))
			}
		}
		for _, d := range dirs {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		for _, t := range things {
			if text, ok := files[t.path]; ok {
				err = os.WriteFile(t.path, text, 0o644)
			} else if t.kind == aLink {
				err = os.Symlink(t.target, t.path)
			}
			if err != nil {
				return err
			}
		}
		for name, minor := range devices {
			if nodes {
				err = unix.Mknod("/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, uint32(minor))))
			} else {
				err = os.WriteFile("/dev/"+name, nil, 0o666)
			}
			if err != nil {
				return fmt.Errorf("make /dev/%s: %w", name, err)
			}
		}
		for name, target := range links {
			if slices.ContainsFunc(points, func(p point) bool {
				return p.path == "/dev/"+name || strings.HasPrefix(p.path, "/dev/"+name+"/")
			}) {
				continue
			}
			if err := os.Symlink(target, "/dev/"+name); err != nil {
				return err
			}
		}
		for len(mounts) > 0 {
			m := mounts[0]
			mounts = mounts[1:]
			if err := mnt.Attach(m.fd, m.path); err != nil {
				return err
			}
		}
		for _, p := range points {
			if err := p.make(); err != nil {
				return err
			}
		}
		return mnt.Restrict("/", unix.MOUNT_ATTR_RDONLY)
	})
}

// make makes the mount point, where that is possible: in what the platform mounts it must be there.
func (p point) make() error {
	var err error
	if p.dir {
		err = os.MkdirAll(p.path, 0o755)
	} else if err = os.MkdirAll(path.Dir(p.path), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(p.path, os.O_RDONLY|os.O_CREATE, 0o444); err == nil {
			f.Close()
		}
	}
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.ENXIO) {
		return &PointError{Path: p.path, Dir: p.dir}
	}
	return err
}

// A PointError says that nothing can be mounted at a path.
type PointError struct {
	Path string
	Dir  bool // a directory would have to be there, or a file
}

func (e *PointError) Error() string {
	what := "file"
	if e.Dir {
		what = "directory"
	}
	return fmt.Sprintf("path %s: lies in a directory of the platform, where there is no such %s to mount on", e.Path, what)
}
