package elf

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runners/elf/job"
)

// A resource is an entry of `resources`: what a component's processes may use together.
type resource struct {
	name     string // of the key, without "resources."
	value    string // as it stands in the manifest
	optional bool
	job.Resource
}

// resourceKinds are the keys of `resources`, each with its file of cgroup v2 and how its value is read.
var resourceKinds = map[string]struct {
	file string
	read func(string) (string, error)
}{
	"memory_max":  {"memory.max", readAmount},
	"memory_high": {"memory.high", readAmount},
	"pids_max":    {"pids.max", readCount},
	"cpu_max":     {"cpu.max", readPercent},
	"cpu_weight":  {"cpu.weight", readWeight},
	"io_weight":   {"io.weight", readWeight},
}

const (
	resourcesKey = "resources"
	optionalKey  = "resources.optional"
)

// parseResources reads `resources`, as far as it is right.
func parseResources(b runners.Block) (rs []resource, errs []error) {
	fail := func(key, format string, args ...any) { errs = append(errs, b.Errorf(key, format, args...)) }
	if _, ok := b.Info.Get(resourcesKey); ok { // an object would be there as its keys
		fail(resourcesKey, `must be an object, such as { memory_max: "64M" }`)
	}
	optional, err := b.Strings(optionalKey)
	if err != nil {
		errs = append(errs, err)
	}
	for _, e := range b.Info {
		name, ok := strings.CutPrefix(e.Key, resourcesKey+".")
		if !ok || e.Key == optionalKey {
			continue
		}
		kind, ok := resourceKinds[name]
		if !ok {
			fail(e.Key, "there is no resource %q; there are %s", name, strings.Join(resourceNames(), " "))
			continue
		}
		value, _, err := b.String(e.Key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		text, err := kind.read(value)
		if err != nil {
			fail(e.Key, "is %q, must be %v", value, err)
		}
		rs = append(rs, resource{name, value, slices.Contains(optional, name), job.Resource{File: kind.file, Text: text}})
	}
	for _, name := range optional {
		if !slices.ContainsFunc(rs, func(r resource) bool { return r.name == name }) {
			fail(optionalKey, "names %q, which is not in resources", name)
		}
	}
	return rs, errs
}

func resourceNames() []string {
	var names []string
	for n := range resourceKinds {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// most is the kernel's word for no limit (cgroup v2 documentation).
const most = "max"

func readAmount(s string) (string, error) {
	if s == most {
		return s, nil
	}
	n, err := parseAmount(s)
	if err != nil || n == 0 || s == "unlimited" {
		return "", errors.New(`a number of bytes (with K, M or G) or "max"`)
	}
	return strconv.FormatUint(n, 10), nil
}

func readCount(s string) (string, error) {
	n, err := strconv.ParseUint(s, 10, 22) // the kernel's PID_MAX_LIMIT is 2^22
	if s != most && (err != nil || n == 0) {
		return "", errors.New(`a number of processes and threads, at least 1, or "max"`)
	}
	return s, nil
}

// period is the kernel's default of cpu.max, in microseconds.
const period = 100_000

func readPercent(s string) (string, error) {
	if s == most {
		return s, nil
	}
	number, ok := strings.CutSuffix(s, "%")
	n, err := strconv.ParseUint(number, 10, 20)
	if !ok || err != nil || n == 0 {
		return "", errors.New(`a percentage of one processor's time, such as "50%" or "200%", or "max"`)
	}
	return fmt.Sprintf("%d %d", n*period/100, period), nil
}

func readWeight(s string) (string, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < 1 || n > 10000 {
		return "", errors.New(`a number from "1" to "10000"; "100" is everybody's`)
	}
	return s, nil
}

// limit gives a job its resources. The manifest's place is in the error, and what is missing.
func (r *Runner) limit(j *job.Job, rs []resource, info *runners.StartInfo) error {
	for _, l := range rs {
		err := j.Limit(l.Resource)
		if err == nil {
			continue
		}
		if _, ok := errors.AsType[*job.MissingError](err); ok && l.optional {
			r.Log.Warn("a limit that is optional is not to be had", "instance", info.Moniker, "resource", l.name, "why", err)
			continue
		}
		return at(info, resourcesKey+"."+l.name, err)
	}
	return nil
}

// describeResources is what tools show of them.
func describeResources(rs []resource) []runners.Detail {
	if len(rs) == 0 {
		return nil
	}
	texts := make([]string, len(rs))
	for i, r := range rs {
		texts[i] = r.name + " " + r.value
	}
	return []runners.Detail{{Key: "Resources", Value: strings.Join(texts, ", ")}}
}

// isResource says whether an entry is one that parseResources judges.
func isResource(e manifest.Entry) bool { return strings.HasPrefix(e.Key, resourcesKey+".") }
