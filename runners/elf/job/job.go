// Package job holds all processes of a component together, so that none is lost and none survives: the strongest containment
// that the machine allows, one job for each run of a component.
//
// Three backends, in the order of their strength:
//
//	cgroup2    a cgroup v2 directory for each job, entered at the clone, ended by cgroup.kill: the kernel kills everything in it
//	           at once, whatever it forks meanwhile. Needs a cgroup that this process may write (root, or delegated).
//	pidns      a PID namespace for each job (in a user namespace for an ordinary user): the kernel kills everything with the
//	           death of its first process. That is a keeper, a small process of this binary, since as process no. 1 a program
//	           would ignore every signal that it doesn't catch.
//	subreaper  a keeper for each job that adopts all orphans and kills its descendants one by one until none is left: best
//	           effort. A tree that forks faster than it is walked may take long to end.
//
// A keeper costs a process and about 1 MB; a cgroup costs nothing of the kind. When the manager dies, keepers kill what they
// keep; a cgroup is found by the next manager with the same state directory.
package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cmgr/cmgr/internal/sys/poll"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/runners"
)

// The names of the backends.
const (
	Cgroup2   = "cgroup2"
	PIDNS     = "pidns"
	Subreaper = "subreaper"
)

// What a start says, again here for callers that may not import internal/sys/proc's floor for its names alone.
type (
	// Spec is what to start; its Cgroup is the job's to set.
	Spec = proc.Spec
	// Status is how a process ended.
	Status = proc.Status
	// Limit is one resource limit.
	Limit = proc.Limit
)

// Options say how to open a Manager.
type Options struct {
	// Name tells managers apart in the names of what they make; "" is "cmgr".
	Name string
	// State is a directory in which the Manager records what a successor must clean up should it die; it must exist. Only one
	// Manager at a time can have it. "": nothing is recorded, and nothing of a dead one is found.
	State string
	// Backend forces one of the backends; "" chooses the strongest that works here.
	Backend string
	// Loop is where descriptors are watched; it must outlive the Manager. nil: one of its own.
	Loop *poll.Loop
}

// Backend says what a Manager contains jobs with.
type Backend struct {
	Name string
	// Guarantee says what holds.
	Guarantee string
	// Missing says for each stronger backend why it is not in force.
	Missing []string
}

var guarantees = map[string]string{
	Cgroup2:   "the kernel kills a whole job at once; nothing survives",
	PIDNS:     "the kernel kills a whole job with its first process; nothing survives",
	Subreaper: "a job's processes are found and killed one by one; best effort",
}

// Manager makes jobs.
type Manager struct {
	launcher *proc.Launcher
	loop     *poll.Loop
	ownLoop  bool
	about    Backend
	backend  backend
	record   *record // nil without a state directory
	within   atomic.Int64
}

// backend is what differs between the kinds of job. Its methods get jobs of its own.
type backend interface {
	make(j *Job) error
	// start sets what of j belongs to its program, and returns the program's number.
	start(j *Job, s *Spec, exited func(Status)) (pid int, err error)
	signal(j *Job, sig syscall.Signal) error
	kill(ctx context.Context, j *Job) error
	processes(j *Job) ([]int, error)
	stats(j *Job) (runners.Stats, error)
	limit(j *Job, r Resource) error
	exhausted(j *Job) string
	path(j *Job) string
	remove(j *Job) error
	close() error
}

// Open returns a Manager, after it has killed and removed what a dead one with the same state directory left. Close ends it.
func Open(o Options) (*Manager, error) {
	if o.Name == "" {
		o.Name = "cmgr"
	}
	launcher, err := proc.Open()
	if err != nil {
		return nil, fmt.Errorf("open jobs: %w", err)
	}
	m := &Manager{launcher: launcher, loop: o.Loop}
	fail := func(err error) (*Manager, error) {
		m.release()
		return nil, fmt.Errorf("open jobs: %w", err)
	}
	if m.loop == nil {
		if m.loop, err = poll.New(); err != nil {
			return fail(err)
		}
		m.ownLoop = true
	}
	if o.State != "" {
		if m.record, err = openRecord(o.State); err != nil {
			return fail(err)
		}
	}
	for _, b := range []struct {
		name string
		open func(*Manager, Options) (backend, error)
	}{{Cgroup2, openCgroups}, {PIDNS, openPIDNS}, {Subreaper, openSubreaper}} {
		if o.Backend != "" && o.Backend != b.name {
			continue
		}
		m.backend, err = b.open(m, o)
		if err == nil {
			m.about.Name, m.about.Guarantee = b.name, guarantees[b.name]
			return m, nil
		}
		if se, ok := errors.AsType[*stateError](err); ok {
			return fail(se) // a full disk is no reason to contain less
		}
		m.about.Missing = append(m.about.Missing, b.name+": "+err.Error())
	}
	if len(m.about.Missing) == 0 {
		return fail(fmt.Errorf("no such backend %q; there are %s, %s and %s", o.Backend, Cgroup2, PIDNS, Subreaper))
	}
	return fail(errors.New(strings.Join(m.about.Missing, "; ")))
}

// A stateError is what keeps a Manager from recording what it makes.
type stateError struct{ error }

func (e *stateError) Unwrap() error { return e.error }

// Backend says what contains the jobs of m.
func (m *Manager) Backend() Backend {
	b := m.about
	b.Missing = slices.Clone(b.Missing)
	return b
}

// Close kills what jobs are left and removes them.
func (m *Manager) Close() error {
	err := m.backend.close()
	m.release()
	if err != nil {
		return fmt.Errorf("close jobs: %w", err)
	}
	return nil
}

func (m *Manager) release() {
	m.launcher.Close()
	if m.ownLoop {
		m.loop.Close()
	}
	if m.record != nil {
		m.record.close()
	}
}

// A Job is a component's processes. Its methods may be called from any goroutine; but Start together with Kill or Close may leave
// something running, and Close is for the last user.
type Job struct {
	m    *Manager
	name string // unique among m's; a file name

	mu      sync.Mutex
	closed  bool          // its name may be another's now
	main    int32         // process number, 0 before the start
	process *proc.Process // the main process, with cgroups, once started
	keeper  *proc.Keeper  // with the others, once started
	watch   *watch        // with cgroups, while somebody waits; under cgroups.mu
}

// New makes an empty job. name is for people, such as a moniker.
func (m *Manager) New(name string) (*Job, error) {
	j := &Job{m: m, name: fileName(name)}
	if err := m.backend.make(j); err != nil {
		return nil, fmt.Errorf("make job %s: %w", name, err)
	}
	return j, nil
}

// Within makes an empty job within another: one that ends with that at the latest, and whose processes are of that too, as far as its
// limits and its account go. Without cgroups it is one like any other. name is for people.
func (m *Manager) Within(j *Job, name string) (*Job, error) {
	if m.about.Name != Cgroup2 {
		return m.New(name)
	}
	// A name that comes again would be that of another job, should j have ended and its name be another's.
	n := &Job{m: m, name: fmt.Sprintf("%s/%s-%d", j.name, fileName(name), m.within.Add(1))}
	if err := m.backend.make(n); err != nil {
		return nil, fmt.Errorf("make job %s: %w", n.name, err)
	}
	return n, nil
}

// fileName makes name fit for a directory: "/core/net" is "core+net", since a moniker has no "+".
func fileName(name string) string {
	s := strings.ReplaceAll(strings.Trim(name, "/"), "/", "+")
	switch {
	case s == "" || s == "." || s == "..":
		return "root" + s
	case len(s) > 200: // NAME_MAX is 255; the end tells most, and make sees to it that names are unique
		return "…" + strings.ToValidUTF8(s[len(s)-200:], "")
	}
	return s
}

// Start starts the main process in the job, once in the job's life, and returns its number (-1 if it ended before that could be
// told). exited is called once when it has ended, possibly before Start returns; other processes of the job may go on then. It
// is called where all ends are told and must not block: no Start, Kill or Close there. An error is a *StartError; then the job
// is as before.
func (j *Job) Start(s Spec, exited func(Status)) (pid int, err error) {
	j.mu.Lock()
	used := j.main != 0 || j.closed
	j.mu.Unlock()
	if used {
		return 0, fmt.Errorf("start in job %s: it has had its main process", j.name)
	}
	pid, err = j.m.backend.start(j, &s, exited)
	if err != nil {
		if e, ok := errors.AsType[*proc.Error](err); ok {
			err = &StartError{e}
		}
		return 0, err
	}
	j.mu.Lock()
	j.main = int32(pid)
	j.mu.Unlock()
	return pid, nil
}

// Signal sends sig to the main process; os.ErrProcessDone says that it has ended.
func (j *Job) Signal(sig syscall.Signal) error { return j.m.backend.signal(j, sig) }

// Kill kills every process of the job and waits until none is left. If ctx ends before that, the error is a *RemainError.
func (j *Job) Kill(ctx context.Context) error {
	if j.isClosed() {
		return nil
	}
	return j.m.backend.kill(ctx, j)
}

func (j *Job) isClosed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.closed
}

// Processes are the numbers of the job's processes, the main one first, then in ascending order.
func (j *Job) Processes() ([]int, error) {
	if j.isClosed() {
		return nil, nil
	}
	pids, err := j.m.backend.processes(j)
	if err != nil {
		return nil, fmt.Errorf("list job %s: %w", j.name, err)
	}
	j.mu.Lock()
	main := int(j.main)
	j.mu.Unlock()
	slices.SortFunc(pids, func(a, b int) int {
		switch {
		case a == b:
			return 0
		case a == main || b != main && a < b:
			return -1
		}
		return 1
	})
	return slices.Compact(pids), nil
}

// Stats is what the job's processes use, and in CPU also what those used that have ended.
func (j *Job) Stats() (runners.Stats, error) {
	if j.isClosed() {
		return runners.Stats{}, nil
	}
	st, err := j.m.backend.stats(j)
	if err != nil {
		return st, fmt.Errorf("measure job %s: %w", j.name, err)
	}
	return st, nil
}

// Path is the job's cgroup directory, or for another backend the keeper: "pid 1234".
func (j *Job) Path() string { return j.m.backend.path(j) }

// Close removes the job; a second Close does nothing. Processes that are left make it fail with a *RemainError: Kill before.
func (j *Job) Close() error {
	if j.isClosed() {
		return nil
	}
	if err := j.m.backend.remove(j); err != nil {
		return err
	}
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	return nil
}

// A RemainError says that processes of a job are left.
type RemainError struct {
	Job  string
	PIDs []int
	Err  error // why the wait ended; may be nil
}

func (e *RemainError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "job %s: not empty: ", e.Job)
	for i, pid := range e.PIDs {
		if i == 8 {
			fmt.Fprintf(&b, " and %d more", len(e.PIDs)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		comm, state := describe(pid)
		fmt.Fprintf(&b, "process %d (%s, %s)", pid, comm, state)
	}
	if len(e.PIDs) == 0 {
		b.WriteString("processes that cannot be listed")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

func (e *RemainError) Unwrap() error { return e.Err }

// describe tells a process's name and state (proc(5)); D is the one that no signal reaches.
func describe(pid int) (comm, state string) {
	f, err := stat(pid)
	if err != nil {
		return "?", "gone"
	}
	states := map[string]string{
		"R": "running", "S": "sleeping", "D": "uninterruptible", "Z": "zombie", "T": "stopped", "t": "traced",
	}
	if s, ok := states[f[1]]; ok {
		return f[0], s
	}
	return f[0], "state " + f[1]
}

// stat is /proc/pid/stat (proc(5)) from the second field on: the name, the state, the parent, …
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil, err
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return nil, fmt.Errorf("process %d: unknown stat format", pid)
	}
	return append([]string{s[open+1 : end]}, strings.Fields(s[end+1:])...), nil
}

// resident is the memory of the processes, in bytes: pages that several share count for each.
func resident(pids []int) int64 {
	var pages int64
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
		if err != nil {
			continue // ended meanwhile
		}
		if f := strings.Fields(string(b)); len(f) > 1 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			pages += n
		}
	}
	return pages * int64(os.Getpagesize())
}

const closeTimeout = 5 * time.Second
