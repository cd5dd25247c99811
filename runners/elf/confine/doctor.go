package confine

import (
	"cmp"
	"fmt"
	"os"
	"slices"
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

// A Place is what a component was routed at a path.
type Place struct {
	Path, What string
	Rights     manifest.Rights
}

// An Access is one thing that a program can touch.
type Access struct {
	Path  string          // where it finds it, or the name of what is no file: "network"
	May   string          // what may be done, as ls shows it; "" for what is no file
	What  string          // for people
	Loose manifest.Rights // not granted, but not to be withheld here
}

// Describe lists what a program can touch that has a package or not, the places, and the grants: in the order of paths, what is no
// file last.
func (c *Confiner) Describe(pkg bool, places []Place, g Grants) []Access {
	var all []Access
	add := func(path, may, what string) { all = append(all, Access{Path: path, May: may, What: what}) }
	points := make([]point, len(places))
	above := slices.Clone(places)
	tmp := !slices.ContainsFunc(places, func(p Place) bool { return p.Path == "/tmp" })
	if tmp {
		above = append(above, Place{Path: "/tmp", Rights: manifest.RightsRW})
	}
	for i, p := range places {
		points[i] = point{path: p.Path}
		loose := c.Loose(p.Rights)
		if withheld(p.Rights) != 0 {
			// Landlock can't take back what it allows above.
			for _, a := range above {
				if strings.HasPrefix(p.Path, a.Path+"/") {
					loose |= a.Rights & writing &^ p.Rights
				}
			}
		}
		all = append(all, Access{p.Path, may(p.Rights), p.What, loose})
	}
	c.mu.Lock()
	things := c.things
	c.mu.Unlock()
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
	if pkg {
		add("/pkg", "r-x", "its package")
	}
	add("/dev/{full,null,random,urandom,zero}", "rw-", "devices")
	add("/proc", "rw-", "its own processes alone")
	if tmp {
		add("/tmp", "rw-", "its own, in memory; also /dev/shm")
	}
	slices.SortStableFunc(all, func(a, b Access) int { return strings.Compare(a.Path, b.Path) })
	if g.Network {
		add("network", "", "the host's")
	} else {
		add("network", "", "none; unix sockets only")
	}
	add("capabilities", "", cmp.Or(strings.Join(g.Capabilities, ", "), "none"))
	return all
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
