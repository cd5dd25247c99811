package job

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/capabilities"
)

// A Resource is a limit on what a job may use, or its share: a file of cgroup v2 and what is written to it.
type Resource struct {
	File string // "memory.max"; what stands before the dot is the controller
	Text string // "67108864"
}

func (r Resource) controller() string {
	c, _, _ := strings.Cut(r.File, ".")
	return c
}

// A MissingError says why a Resource is not to be had on this machine, and what can be done.
type MissingError struct{ What, Hint string }

func (e *MissingError) Error() string { return e.What }

// Code is Unavailable.
func (*MissingError) Code() capabilities.Code { return capabilities.Unavailable }

// Limit sets a limit, or share, of the job, before its Start. The error is a *MissingError where no job can have it here.
func (j *Job) Limit(r Resource) error { return j.m.backend.limit(j, r) }

// Exhausted says which limits of the job its processes have met: that the kernel killed some for want of memory, and that it
// refused to start some; "" if neither. It is to be asked before Kill.
func (j *Job) Exhausted() string {
	if j.isClosed() {
		return ""
	}
	return j.m.backend.exhausted(j)
}

func (k *keepers) limit(*Job, Resource) error {
	what := Subreaper
	if k.opts.Namespace {
		what = PIDNS
	}
	return &MissingError{"jobs are contained by " + what + ", and only a cgroup v2 limits what a job uses", "`cmgr doctor` says why there is none"}
}

func (*keepers) exhausted(*Job) string { return "" }

// groupOOM has the kernel kill a whole job that is out of memory, not one process of it.
const groupOOM = "memory.oom.group"

func (c *cgroups) limit(j *Job, r Resource) error {
	if err := c.enable(r.controller()); err != nil {
		return err
	}
	dir := c.dir(j) + "/"
	if r.File == "memory.max" {
		if err := write(dir+groupOOM, "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("limit job %s: %w", j.name, err)
		}
	}
	files := []string{r.File}
	if r.File == "io.weight" {
		files = append(files, "io.bfq.weight") // with another scheduler
	}
	for _, f := range files {
		err := write(dir+f, r.Text)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("limit job %s: %w", j.name, err)
		}
	}
	return &MissingError{
		What: fmt.Sprintf("the kernel has no %s in cgroup v2 (it has the controller %s)", strings.Join(files, " and no "), r.controller()),
		Hint: "",
	}
}

func (c *cgroups) exhausted(j *Job) string {
	var what []string
	dir := c.dir(j) + "/"
	if n := counted(dir+"memory.events", "oom_kill"); n > 0 {
		what = append(what, fmt.Sprintf("out of memory: the kernel killed %s%s", processes(n), limitIn(dir, "memory.max")))
	}
	if n := counted(dir+"pids.events", "max"); n > 0 {
		what = append(what, fmt.Sprintf("the kernel refused to start a process %d times%s", n, limitIn(dir, "pids.max")))
	}
	return strings.Join(what, "; ")
}

func processes(n int64) string {
	if n == 1 {
		return "a process"
	}
	return fmt.Sprintf("%d processes", n)
}

// limitIn is a limit of the job in words; "" if it has none.
func limitIn(dir, file string) string {
	b, err := os.ReadFile(dir + file)
	limit := strings.TrimSpace(string(b))
	if err != nil || limit == "max" {
		return ""
	}
	return " (" + file + " " + limit + ")"
}

// counted is a number in one of the files that have lines of a name and a number; 0 where there is no such file.
func counted(path, name string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == name {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// enable has jobs get files of controller. The kernel gives them to the children of a cgroup that has them itself and says so in
// cgroup.subtree_control, which it can only where it holds no processes (but for the root). So this process may have to move into a
// cgroup beside the jobs'.
func (c *cgroups) enable(controller string) error {
	c.enabling.Lock()
	defer c.enabling.Unlock()
	own := filepath.Dir(c.root)
	if has(c.root+"/cgroup.subtree_control", controller) {
		return nil
	}
	if !has(c.root+"/cgroup.controllers", controller) {
		if !has(own+"/cgroup.controllers", controller) {
			return missing(own, controller)
		}
		err := c.passDown(own, controller)
		if err != nil {
			return &MissingError{fmt.Sprintf("the controller %s cannot be passed down: %v", controller, err), alone}
		}
	}
	if err := write(c.root+"/cgroup.subtree_control", "+"+controller); err != nil {
		return &MissingError{What: fmt.Sprintf("the controller %s cannot be passed down: %v", controller, err)}
	}
	return nil
}

// alone is how to have a cgroup of one's own.
const alone = "start cmgr in a cgroup of its own, as with `systemd-run --scope -p Delegate=yes cmgr …`"

func (c *cgroups) passDown(own, controller string) error {
	err := write(own+"/cgroup.subtree_control", "+"+controller)
	if errors.Is(err, unix.EBUSY) && c.self == "" {
		self := selfOf(c.root)
		if err := os.Mkdir(self, 0o755); err != nil {
			return err
		}
		if err := write(self+"/cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
			return errors.Join(err, unix.Rmdir(self))
		}
		c.self = self
		err = write(own+"/cgroup.subtree_control", "+"+controller)
	}
	if err == nil {
		c.passed = append(c.passed, controller)
		return nil
	}
	if errors.Is(err, unix.EBUSY) {
		b, _ := os.ReadFile(own + "/cgroup.procs")
		err = fmt.Errorf("%s holds other processes, such as %s", own, strings.Join(strings.Fields(string(b)), ", "))
	}
	if len(c.passed) == 0 {
		c.moveBack()
	}
	return err
}

// selfOf is the cgroup of a manager that had to leave the one above root.
func selfOf(root string) string { return root + "+self" }

// moveBack undoes what passDown has done.
func (c *cgroups) moveBack() {
	own := filepath.Dir(c.root)
	for _, controller := range c.passed {
		_ = write(own+"/cgroup.subtree_control", "-"+controller)
	}
	if c.self != "" {
		_ = write(own+"/cgroup.procs", strconv.Itoa(os.Getpid()))
		_ = unix.Rmdir(c.self)
	}
	c.passed, c.self = nil, ""
}

// has says whether word is in a file of words.
func has(path, word string) bool {
	b, _ := os.ReadFile(path)
	return slices.Contains(strings.Fields(string(b)), word)
}

// missing says why own has not got controller.
func missing(own, controller string) error {
	above := own
	for {
		parent := filepath.Dir(above)
		if _, err := os.Stat(parent + "/cgroup.controllers"); err != nil {
			break
		}
		if has(parent+"/cgroup.controllers", controller) {
			return &MissingError{
				fmt.Sprintf("the controller %s is not passed down by %s, so that %s has not got it", controller, parent, above),
				fmt.Sprintf("under systemd, set Delegate=yes for the unit that cmgr runs in; else write +%s to %s/cgroup.subtree_control", controller, parent),
			}
		}
		above = parent
	}
	// /proc/self/cgroup has a line for each hierarchy of the first version, with its controllers (cgroups(7)); there the io
	// controller is blkio.
	name := controller
	if name == "io" {
		name = "blkio"
	}
	b, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 && slices.Contains(strings.Split(f[1], ","), name) {
			return &MissingError{
				fmt.Sprintf("the controller %s belongs to a hierarchy of cgroup v1 on this machine, so that cgroup v2 has not got it", controller),
				"boot with cgroup_no_v1=all, or with systemd.unified_cgroup_hierarchy=1",
			}
		}
	}
	return &MissingError{fmt.Sprintf("cgroup v2 has no controller %s on this machine (%s/cgroup.controllers)", controller, own), ""}
}
