package elf

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
)

// stopEvent is how a program is asked to end.
type stopEvent uint8

const (
	stopBySignal stopEvent = iota // send it stop_signal
	stopByNotify                  // send Stop on its lifecycle channel
	stopByKill                    // don't ask ("ignore")
)

// settings are a program block, read.
type settings struct {
	key        string // of binary in the program block
	binary     string // relative: below the package
	args       []string
	environ    []string
	cwd        string // "" for the package's directory; relative: below the package
	umask      uint32
	user       string
	group      string
	limits     []job.Limit
	resources  []resource
	stop       stopEvent
	stopSignal syscall.Signal
	ready      bool // by its lifecycle channel
	health     health
	stdout     bool // forwarded to the log
	stderr     bool
	critical   bool
	join       int // the process whose world it is to be in; 0: one of its own
}

// The policies that guard keys of the program block, by their names in security_policy.job_policy.
const (
	MainProcessCritical = "main_process_critical"
	AmbientMarkVmoExec  = "ambient_mark_vmo_exec"
	CreateRawProcesses  = "create_raw_processes"
)

// guarded are the keys whose "true" needs the policy.
var guarded = []struct{ key, policy string }{
	{"main_process_critical", MainProcessCritical},
	{"job_policy_ambient_mark_vmo_exec", AmbientMarkVmoExec},
	{"job_policy_create_raw_processes", CreateRawProcesses},
}

// A key without effect on Linux is still checked for its values, and guarded as it is on Fuchsia.
var (
	withoutEffect = []string{
		"job_policy_ambient_mark_vmo_exec", "job_policy_create_raw_processes", "is_shared_process", "job_policy_bad_handles",
		"job_with_available_exception_channel", "use_next_vdso", "memory_attribution",
	}
	boolean    = []string{"true", "false"}
	badHandles = []string{"deny", "allow_exception"}
)

// known are the keys with an effect, but for limits.* and resources.*.
var known = []string{
	"binary", "args", "environ", "lifecycle.stop_event", "stop_signal", "forward_stdout_to", "forward_stderr_to",
	"main_process_critical", "cwd", "umask", "user", "group", "ready", keyFinish, keyCheck, keyLog,
	healthExec, "health.interval_ms", "health.timeout_ms", "health.retries", "health.start_ms",
}

// otherWords are what other tools call these keys.
var otherWords = map[string]string{
	"command": "binary", "cmd": "binary", "exec": "binary", "executable": "binary", "path": "binary", "program": "binary",
	"arguments": "args", "argv": "args", "env": "environ", "environment": "environ", "workdir": "cwd", "working_dir": "cwd",
	"working_directory": "cwd", "chdir": "cwd", "dir": "cwd", "uid": "user", "gid": "group",
}

// A PolicyError is a key of the program block that the manager's configuration does not allow for the component.
type PolicyError struct {
	Pos     manifest.Pos
	Key     string // of the program block
	Policy  string // of security_policy.job_policy
	Moniker name.Moniker
}

func (e *PolicyError) Error() string {
	s := fmt.Sprintf("program.%s: violates the policy %s, which does not list %s", e.Key, e.Policy, e.Moniker)
	if e.Pos.IsValid() {
		s = e.Pos.String() + ": " + s
	}
	return s
}

// Code is Denied.
func (*PolicyError) Code() capabilities.Code { return capabilities.Denied }

// Check tells what is wrong with a program block, and warns of keys that the ELF runner does not know or that have no effect on
// Linux. What it can't know is left to the start: policies, and whether files and users exist.
func Check(b runners.Block) manifest.Diagnostics {
	_, errs := parse(b)
	var ds manifest.Diagnostics
	for _, err := range errs {
		d := manifest.Diagnostic{Pos: b.Pos, Rule: "program", Message: err.Error()}
		if e, ok := errors.AsType[*runners.BlockError](err); ok {
			d.Pos, d.Message = e.Pos, "program."+e.Key+": "+e.What
		}
		ds = append(ds, d)
	}
	return append(ds, warnings(b)...)
}

// warnings are what is to be said of a block that can be used.
func warnings(b runners.Block) (ds manifest.Diagnostics) {
	warn := func(e manifest.Entry, rule, message, hint string) {
		message = "program." + e.Key + ": " + message
		ds = append(ds, manifest.Diagnostic{Pos: e.Pos, Rule: rule, Message: message, Hint: hint, Warning: true})
	}
	for _, e := range b.Unknown(known...) {
		if strings.HasPrefix(e.Key, "limits.") || isResource(e) {
			continue // an unknown one is an error
		}
		if slices.Contains(withoutEffect, e.Key) {
			warn(e, "no-effect", "has no effect on Linux", "")
			continue
		}
		hint := ""
		if variable, ok := strings.CutPrefix(e.Key, "environ."); ok {
			hint = fmt.Sprintf("environ is an array: environ: [ %q ]", variable+"=…")
		} else if n := cmp.Or(otherWords[e.Key], nearest(e.Key)); n != "" {
			hint = fmt.Sprintf("did you mean %q?", n)
		}
		warn(e, "unknown-key", "the ELF runner does not know this key", hint)
	}
	if e, ok := b.Info.Get("stop_signal"); ok {
		if s, _ := b.Enum("lifecycle.stop_event", "signal", "signal"); s != "signal" {
			warn(e, "no-effect", "has no effect unless lifecycle.stop_event is \"signal\"", "")
		}
	}
	return ds
}

// nearest is the key that was probably meant, or "".
func nearest(key string) string {
	candidates := slices.Concat(known, withoutEffect)
	for _, r := range proc.Resources() {
		candidates = append(candidates, "limits."+r)
	}
	for _, r := range resourceNames() {
		candidates = append(candidates, resourcesKey+"."+r)
	}
	slices.Sort(candidates)
	// A dotted key may have lost its first word: "stop_event".
	if i := slices.IndexFunc(candidates, func(c string) bool { return strings.HasSuffix(c, "."+key) }); i >= 0 {
		return candidates[i]
	}
	return name.Nearest(key, candidates)
}

// parse reads a program block, as far as it is right; errs are *runners.BlockErrors.
func parse(b runners.Block) (s settings, errs []error) {
	fail := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	text := func(key, def string) string {
		v, ok, err := b.String(key)
		fail(err)
		if err == nil && strings.ContainsRune(v, 0) {
			fail(b.Errorf(key, "holds a NUL"))
		}
		if !ok {
			return def
		}
		return v
	}
	enum := func(key, def string, allowed ...string) string {
		v, err := b.Enum(key, def, allowed...)
		fail(err)
		return v
	}
	list := func(key string) []string {
		v, err := b.Strings(key)
		fail(err)
		if slices.ContainsFunc(v, func(s string) bool { return strings.ContainsRune(s, 0) }) {
			fail(b.Errorf(key, "holds a NUL"))
		}
		return v
	}

	s.key = "binary"
	if s.binary = text("binary", ""); s.binary == "" && len(errs) == 0 {
		fail(b.Errorf("binary", "is missing: the ELF runner needs the path of a program, below the package or absolute"))
	}
	s.args = list("args")
	s.environ = list("environ")
	for _, e := range s.environ {
		switch k, _, ok := strings.Cut(e, "="); {
		case !ok || k == "":
			fail(b.Errorf("environ", "%q is not NAME=VALUE", e))
		case slices.Contains(ownVariables, k):
			fail(b.Errorf("environ", "%s is set by the ELF runner", k))
		}
	}
	switch enum("lifecycle.stop_event", "signal", "signal", "notify", "ignore") {
	case "notify":
		s.stop = stopByNotify
	case "ignore":
		s.stop = stopByKill
	}
	var err error
	if s.stopSignal, err = runners.ParseSignal(text("stop_signal", "SIGTERM")); err != nil {
		fail(b.Errorf("stop_signal", "%v", err))
	}
	s.stdout = enum("forward_stdout_to", "log", "log", "none") == "log"
	s.stderr = enum("forward_stderr_to", "log", "log", "none") == "log"
	s.critical = enum("main_process_critical", "false", "true", "false") == "true"
	s.ready = enum("ready", "none", "none", "lifecycle") == "lifecycle"
	var herrs []error
	s.health, herrs = parseHealth(b)
	errs = append(errs, herrs...)
	s.cwd = text("cwd", "")
	s.user = text("user", "")
	s.group = text("group", "")
	mask, err := strconv.ParseUint(text("umask", "022"), 8, 32)
	if err != nil || mask > 0o777 {
		fail(b.Errorf("umask", "must be an octal number from \"0\" to \"777\""))
	}
	s.umask = uint32(mask)
	if _, ok := b.Info.Get("limits"); ok { // an object would be there as its keys
		fail(b.Errorf("limits", `must be an object, such as { nofile: "1024" }`))
	}
	for _, e := range b.Info {
		if resource, ok := strings.CutPrefix(e.Key, "limits."); ok {
			v, _, err := b.String(e.Key)
			if err != nil {
				fail(err)
				continue
			}
			l, err := parseLimit(resource, v)
			if err != nil {
				fail(b.Errorf(e.Key, "%v", err))
			}
			s.limits = append(s.limits, l)
		}
	}
	var rerrs []error
	s.resources, rerrs = parseResources(b)
	errs = append(errs, rerrs...)
	_, cerrs := parseCommands(b)
	errs = append(errs, cerrs...)
	for _, key := range withoutEffect {
		allowed := boolean
		if key == "job_policy_bad_handles" {
			allowed = badHandles
		}
		enum(key, "", allowed...)
	}
	if isTrue(b, "is_shared_process") && !isTrue(b, "job_policy_create_raw_processes") {
		fail(b.Errorf("is_shared_process", "cannot be enabled without also enabling job_policy_create_raw_processes"))
	}
	return s, errs
}

func isTrue(b runners.Block, key string) bool {
	v, err := b.Bool(key)
	return err == nil && v
}

// deniedBy returns the first key that policy does not allow for m, as an error.
func deniedBy(policy func(string, name.Moniker) bool, m name.Moniker, b runners.Block) error {
	for _, g := range guarded {
		if isTrue(b, g.key) && (policy == nil || !policy(g.policy, m)) {
			e, _ := b.Info.Get(g.key)
			return &PolicyError{Pos: e.Pos, Key: g.key, Policy: g.policy, Moniker: m}
		}
	}
	return nil
}

// parseLimit reads "N" or "SOFT:HARD", each a number, with K, M or G for powers of 1024, or "unlimited".
func parseLimit(resource, value string) (job.Limit, error) {
	if all := proc.Resources(); !slices.Contains(all, resource) {
		return job.Limit{}, fmt.Errorf("there is no limit %q; there are %s", resource, strings.Join(all, " "))
	}
	soft, hard, two := strings.Cut(value, ":")
	if !two {
		hard = soft
	}
	cur, err1 := parseAmount(soft)
	top, err2 := parseAmount(hard)
	if errors.Join(err1, err2) != nil {
		return job.Limit{}, fmt.Errorf("is %q, must be N or SOFT:HARD, each a number (with K, M or G) or \"unlimited\"", value)
	}
	if cur > top {
		return job.Limit{}, fmt.Errorf("is %q: the soft limit is above the hard one", value)
	}
	return job.Limit{Resource: resource, Soft: cur, Hard: top}, nil
}

func parseAmount(s string) (uint64, error) {
	if s == "unlimited" {
		return proc.Infinity, nil
	}
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("KMG", s[n-1]); i >= 0 {
			s, shift = s[:n-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > math.MaxInt64>>shift {
		return 0, strconv.ErrRange
	}
	return v << shift, nil
}

// lookup finds whom to run as: user and group, each a name or a number. A user that the system knows brings its own group and its
// supplementary groups; group replaces the first, and without a user the manager's stays. nil: as the manager.
func lookup(b runners.Block, usr, grp string) (*syscall.Credential, error) {
	if usr == "" && grp == "" {
		return nil, nil
	}
	c := &syscall.Credential{Uid: uint32(os.Getuid())}
	if usr != "" {
		u, err := user.Lookup(usr)
		if err != nil {
			u, err = user.LookupId(usr)
		}
		switch {
		case err == nil:
			c.Uid, c.Gid = number(u.Uid), number(u.Gid)
			ids, err := u.GroupIds()
			if err != nil {
				return nil, b.Errorf("user", "the groups of %q: %v", usr, err)
			}
			for _, id := range ids {
				c.Groups = append(c.Groups, number(id))
			}
		case !isNumber(usr):
			return nil, b.Errorf("user", "there is no user %q", usr)
		case grp == "":
			return nil, b.Errorf("user", "the system does not know user %s, so program.group must be given too", usr)
		default:
			c.Uid = number(usr)
		}
	}
	if grp != "" {
		g, err := user.LookupGroup(grp)
		switch {
		case err == nil:
			c.Gid = number(g.Gid)
		case isNumber(grp):
			c.Gid = number(grp)
		default:
			return nil, b.Errorf("group", "there is no group %q", grp)
		}
	}
	return c, nil
}

// isNumber says whether s is the number of a user or group. The highest is none: to setresuid(2) it means no change.
func isNumber(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && n != math.MaxUint32
}

// number is s, of which it is known that it is one.
func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32)
	return uint32(n)
}
