package elf

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/probe"
	"github.com/cmgr/cmgr/runners/elf/job"
)

func TestResources(t *testing.T) {
	rs, errs := parseResources(block(
		"resources.memory_max", "64M", "resources.memory_high", "max", "resources.pids_max", "20", "resources.cpu_max", "150%",
		"resources.cpu_weight", "1", "resources.io_weight", "10000", "resources.optional", []string{"io_weight"}))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	want := map[string]string{
		"memory.max": "67108864", "memory.high": "max", "pids.max": "20", "cpu.max": "150000 100000", "cpu.weight": "1", "io.weight": "10000",
	}
	for _, r := range rs {
		if want[r.File] != r.Text || r.optional != (r.name == "io_weight") {
			t.Errorf("%+v", r)
		}
		delete(want, r.File)
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
	for _, c := range []struct {
		key  string
		v    any
		want string
	}{
		{"resources", "64M", "must be an object"},
		{"resources.memory", "64M", `there is no resource "memory"; there are cpu_max cpu_weight io_weight memory_high memory_max pids_max`},
		{"resources.memory_max", "0", `is "0", must be a number of bytes (with K, M or G) or "max"`},
		{"resources.memory_max", "64MB", `is "64MB", must be a number of bytes`},
		{"resources.memory_max", "unlimited", `is "unlimited", must be a number of bytes`},
		{"resources.memory_max", []string{"64M"}, `must be a string, is an array of strings`},
		{"resources.pids_max", "-1", `is "-1", must be a number of processes and threads`},
		{"resources.cpu_max", "2", `is "2", must be a percentage of one processor's time`},
		{"resources.cpu_max", "0%", `is "0%", must be a percentage`},
		{"resources.cpu_weight", "0", `is "0", must be a number from "1" to "10000"`},
		{"resources.io_weight", "10001", `is "10001", must be a number from "1" to "10000"`},
		{"resources.optional", []string{"pids_max"}, `names "pids_max", which is not in resources`},
		{"resources.optional", "pids_max", `must be an array of strings`},
	} {
		err := Check(block("binary", "x", c.key, c.v)).Err()
		if err == nil || !strings.Contains(err.Error(), "a.cml:3:5: program."+c.key+": "+c.want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func FuzzResources(f *testing.F) {
	f.Add("memory_max", "64M")
	f.Add("cpu_max", "50%")
	f.Add("io_weight", "max")
	// Whatever is accepted is what the kernel reads: its word for no limit, or one or two numbers.
	f.Fuzz(func(t *testing.T, name, value string) {
		kind, ok := resourceKinds[name]
		if !ok {
			return
		}
		text, err := kind.read(value)
		if err != nil {
			return
		}
		fields := strings.Fields(text)
		if len(fields) == 0 || len(fields) > 2 || strings.Trim(strings.Join(fields, ""), "0123456789") != "" && text != most {
			t.Errorf("%s %q is %q", name, value, text)
		}
	})
}

// TestResourcesMissing asks for a limit that is not to be had here: by an error that says what is missing, unless it is optional.
func TestResourcesMissing(t *testing.T) {
	for _, backend := range []string{job.Cgroup2, job.Subreaper} {
		t.Run(backend, func(t *testing.T) {
			name := "memory_max"
			if backend == job.Cgroup2 {
				needs.Cgroup2(t)
				dir, err := probe.Cgroup()
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(dir + "/cgroup.controllers")
				if err != nil {
					t.Fatal(err)
				}
				name = ""
				for _, n := range resourceNames() {
					if controller, _, _ := strings.Cut(resourceKinds[n].file, "."); !strings.Contains(" "+string(b), " "+controller) {
						name = n
					}
				}
				if name == "" {
					t.Skip("all controllers are there; TestVM has a machine where they are used")
				}
			}
			value := map[string]string{"cpu_max": "50%"}[name]
			if value == "" {
				value = "100"
			}
			r := newRig(t, backend)
			info := r.info
			info.Program = sh("echo runs", "resources."+name, value)
			_, err := r.Start(context.Background(), info)
			if err == nil || !strings.Contains(err.Error(), "program.resources."+name+": ") || !strings.Contains(err.Error(), "resources.optional") ||
				backend == job.Cgroup2 && !strings.Contains(err.Error(), "the controller "+strings.TrimSuffix(resourceKinds[name].file, ".max")[:2]) {
				t.Errorf("the error does not say what is missing: %v", err)
			}
			p := r.start(t, sh("echo runs", "resources."+name, value, "resources.optional", []string{name}))
			p.ends(0, 0, 0)
			if log := r.log.String(); !strings.Contains(log, "optional") || !strings.Contains(log, name) {
				t.Errorf("the log does not tell of it: %s", log)
			}
		})
	}
}
