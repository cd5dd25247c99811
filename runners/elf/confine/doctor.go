package confine

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/manifest"
)

// A Finding is one line of what confinement comes to on this machine, for people.
type Finding struct {
	Name  string
	Value string
	// Weaker says what does not hold here that holds elsewhere, and why; "": nothing.
	Weaker string
}

// Doctor says what is in force, and what is weaker here.
func (c *Confiner) Doctor() []Finding {
	user := Finding{
		Name: "confinement", Value: "namespaces of mounts, processes and network; no capabilities; system calls filtered",
	}
	if !Root() {
		user.Weaker = "in a user namespace, all programs run as the manager's own user: `user` and `group` are refused; granted " +
			"capabilities hold for the namespace alone"
	}
	landlock := Finding{Name: "landlock", Value: fmt.Sprintf("ABI %d", c.landlock)}
	switch {
	case c.landlock < landlockRefer:
		landlock.Weaker = "a directory with only one of write_bytes and modify_directory can be written in both ways " +
			"(Linux 5.19), and " +
			scopesMissing
	case c.landlock < landlockScopes:
		landlock.Weaker = scopesMissing
	}
	memory := Finding{Name: "executable memory", Value: "no memory file can be executed"}
	if !c.memfd {
		memory.Weaker = "a memory file can be executed where it does not say so when it is made: " + memfdNoexec + " cannot be set"
		if _, err := os.Stat(memfdNoexec); err != nil {
			memory.Weaker += " (Linux 6.3)"
		}
	}
	return []Finding{user, landlock, memory}
}

const scopesMissing = "programs without the network can reach each other's abstract unix sockets, and those with it " +
	"also the host's (Linux 6.12)"

// Describe lists what a program with those contents can touch, one thing a line: the path, what may be done, and what it is. host
// tells what a path was routed from, or "".
func (c *Confiner) Describe(in Contents, host func(path string) string) []string {
	var lines []string
	add := func(path, may, what string) {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%-24s %-5s %s", path, may, what), " "))
	}
	c.mu.Lock()
	things := c.things
	c.mu.Unlock()
	points := make([]point, len(in.Items))
	for i, it := range in.Items {
		points[i] = point{path: it.Path}
	}
	for _, t := range without(things, points) {
		switch t.kind {
		case aDirectory:
			add(t.path, "r-x", "the platform")
		case aFile:
			add(t.path, "r--", "the platform, a copy")
		case aLink:
			add(t.path, "", "the platform, leads to "+t.target)
		}
	}
	if in.Package >= 0 {
		add("/pkg", "r-x", "its package")
	}
	for _, it := range in.Items {
		what := "routed"
		if host != nil {
			if from := host(it.Path); from != "" {
				what += " from " + from
			}
		}
		if loose := c.Loose(it.Rights); loose != 0 {
			what += "; not granted, but not to be withheld: " + strings.Join(loose.Names(), ", ")
		}
		add(it.Path, may(it.Rights), what)
	}
	add("/dev/{null,zero,full,random,urandom}", "rw-", "devices")
	add("/proc", "rw-", "its own processes alone")
	if in.Grants.Tmp {
		add("/tmp", "rw-", "its own, in memory")
		add("/dev/shm", "rw-", "its own, in memory")
	}
	if in.Grants.Network {
		add("network", "", "the host's")
	} else {
		add("network", "", "none; unix sockets only")
	}
	add("capabilities", "", cmp.Or(strings.Join(in.Grants.Capabilities, ", "), "none"))
	return lines
}

// may is what attributes leaves of r, as ls shows it.
func may(r manifest.Rights) string {
	a, s := attributes(r), []byte("rwx")
	if a&unix.MOUNT_ATTR_RDONLY != 0 {
		s[1] = '-'
	}
	if a&unix.MOUNT_ATTR_NOEXEC != 0 {
		s[2] = '-'
	}
	return string(s)
}
