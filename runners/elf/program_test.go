package elf

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
	"github.com/cmgr/cmgr/internal/sys/proc"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// block is a program block of keys and values, each a string, a []string or nil.
func block(kv ...any) runners.Block {
	b := runners.Block{Pos: manifest.Pos{File: "a.cml", Line: 1, Col: 1}}
	for i := 0; i < len(kv); i += 2 {
		e := manifest.Entry{Key: kv[i].(string), Pos: manifest.Pos{File: "a.cml", Line: int32(i/2 + 2), Col: 5}}
		switch v := kv[i+1].(type) {
		case string:
			e.Value = manifest.String(v)
		case []string:
			e.Value = manifest.Strings(v)
		case nil:
			e.Value = manifest.Null{}
		}
		b.Info = append(b.Info, e)
	}
	return b
}

// TestVectors: the cases of Fuchsia's own tests (src/sys/lib/elf_runner/src/config.rs).
func TestVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(needs.Shared(t), "vectors/cml/elf_runner_program.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, Policy, Want string
		Program            map[string]any
		Expect             map[string]any
		Error              string `json:"error_contains"`
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 28 {
		t.Errorf("%d cases, want 28", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			b := block()
			for k, v := range c.Program {
				switch v := v.(type) {
				case string:
					b.Info = append(b.Info, block(k, v).Info...)
				case []any:
					list := []string{}
					for _, s := range v {
						list = append(list, s.(string))
					}
					b.Info = append(b.Info, block(k, list).Info...)
				default:
					t.Fatalf("value of type %T", v)
				}
			}
			s, errs := parse(b)
			policy := func(string, name.Moniker) bool { return c.Policy == "permissive" }
			if err := deniedBy(policy, "/a", b); err != nil {
				errs = append(errs, err)
			}
			if c.Want == "error" {
				// "JobPolicyDisallowed policy=NAME (ACCESS_DENIED)", "InvalidValue KEY", "InvalidType KEY"
				kind, key, _ := strings.Cut(c.Error, " ")
				if len(errs) != 1 {
					t.Fatalf("errors %v, want one: %s", errs, c.Error)
				}
				switch e := errs[0].(type) {
				case *PolicyError:
					if want := "policy=" + e.Policy + " (ACCESS_DENIED)"; kind != "JobPolicyDisallowed" || key != want {
						t.Errorf("got %v, want %s", e, c.Error)
					}
				case *runners.BlockError:
					if e.Key != key || !strings.HasPrefix(kind, "Invalid") {
						t.Errorf("got %v, want %s", e, c.Error)
					}
				default:
					t.Errorf("got %v, want %s", e, c.Error)
				}
				return
			}
			if len(errs) > 0 {
				t.Fatalf("errors %v", errs)
			}
			for k, want := range c.Expect {
				got, ok := map[string]func() any{
					"stdout_sink":           func() any { return map[bool]string{true: "log", false: "none"}[s.stdout] },
					"stderr_sink":           func() any { return map[bool]string{true: "log", false: "none"}[s.stderr] },
					"notify_lifecycle_stop": func() any { return s.stop == stopByNotify },
					"main_process_critical": func() any { return s.critical },
					"environ": func() any {
						if len(s.environ) == 0 {
							return nil
						}
						return s.environ
					},
					"ambient_mark_vmo_exec": func() any { return isTrue(b, "job_policy_ambient_mark_vmo_exec") },
					"create_raw_processes":  func() any { return isTrue(b, "job_policy_create_raw_processes") },
					"use_next_vdso":         func() any { return isTrue(b, "use_next_vdso") },
				}[k]
				if !ok {
					t.Errorf("nothing here is %s", k)
				} else if fmt.Sprint(got()) != fmt.Sprint(want) {
					t.Errorf("%s is %v, want %v", k, got(), want)
				}
			}
		})
	}
}

func TestParse(t *testing.T) {
	s, errs := parse(block(
		"binary", "bin/x", "args", []string{"-v", ""}, "environ", []string{"A=b=c", "D="}, "lifecycle.stop_event", "signal",
		"stop_signal", "SIGINT", "cwd", "data", "umask", "0077", "user", "nobody", "group", "7", "ready", "lifecycle",
		"limits.nofile", "1024:4096", "limits.as", "2G", "limits.core", "0", "limits.stack", "unlimited", "stdout", nil,
	))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	wantLimits := []proc.Limit{
		{Resource: "nofile", Soft: 1024, Hard: 4096},
		{Resource: "as", Soft: 2 << 30, Hard: 2 << 30},
		{Resource: "core"},
		{Resource: "stack", Soft: proc.Infinity, Hard: proc.Infinity},
	}
	if s.binary != "bin/x" || !slices.Equal(s.args, []string{"-v", ""}) || !slices.Equal(s.environ, []string{"A=b=c", "D="}) ||
		s.stop != stopBySignal || s.stopSignal != 2 || s.cwd != "data" || s.umask != 0o077 || s.user != "nobody" || s.group != "7" ||
		!s.ready || !slices.Equal(s.limits, wantLimits) {
		t.Errorf("read %+v", s)
	}
	s, errs = parse(block("binary", "x"))
	if len(errs) > 0 || s.stop != stopBySignal || s.stopSignal != 15 || s.umask != 0o022 || !s.stdout || !s.stderr || s.ready ||
		s.critical {
		t.Errorf("defaults %+v, %v", s, errs)
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		b    runners.Block
		want string
	}{
		{block(), `a.cml:1:1: program.binary: is missing: the ELF runner needs the path of a program, below the package or absolute`},
		{block("binary", ""), `a.cml:2:5: program.binary: is missing: the ELF runner needs the path of a program`},
		{block("binary", []string{"x"}), `a.cml:2:5: program.binary: must be a string, is an array of strings`},
		{block("binary", "a\x00b"), `a.cml:2:5: program.binary: holds a NUL`},
		{block("binary", "x", "args", "y"), `a.cml:3:5: program.args: must be an array of strings, is a string`},
		{block("binary", "x", "args", []string{"\x00"}), `a.cml:3:5: program.args: holds a NUL`},
		{block("binary", "x", "environ", []string{"A"}), `a.cml:3:5: program.environ: "A" is not NAME=VALUE`},
		{block("binary", "x", "environ", []string{"=A"}), `a.cml:3:5: program.environ: "=A" is not NAME=VALUE`},
		{block("binary", "x", "environ", []string{"CMGR_URL=x"}), `a.cml:3:5: program.environ: CMGR_URL is set by the ELF runner`},
		{block("binary", "x", "stop_signal", "SIGFOO"), `a.cml:3:5: program.stop_signal: unknown signal "SIGFOO"`},
		{block("binary", "x", "umask", "089"), `a.cml:3:5: program.umask: must be an octal number from "0" to "777"`},
		{block("binary", "x", "umask", "1777"), `a.cml:3:5: program.umask: must be an octal number from "0" to "777"`},
		{block("binary", "x", "ready", "yes"), `a.cml:3:5: program.ready: is "yes", must be one of ["none" "lifecycle"]`},
		{block("binary", "x", "finish", []string{}), `a.cml:3:5: program.finish: must be the path of a program, or an array of that`},
		{block("binary", "x", "check", []string{"y", "\x00"}), `a.cml:3:5: program.check: holds a NUL`},
		{block("binary", "x", "log", "y", "forward_stdout_to", "none"), `a.cml:3:5: program.log: has nothing to read where`},
		{block("binary", "x", "health", "y"), `a.cml:3:5: program.health: must be an object`},
		{block("binary", "x", "health.exec", "y"), `a.cml:3:5: program.health.exec: must be an array of strings`},
		{block("binary", "x", "health.exec", []string{}), `a.cml:3:5: program.health.exec: must be a program and its arguments`},
		{block("binary", "x", "health.retries", "3"), `a.cml:3:5: program.health.retries: has no meaning without health.exec`},
		{
			block("binary", "x", "health.exec", []string{"y"}, "health.retries", "0"),
			`a.cml:4:5: program.health.retries: is "0", must be a whole number from 1 to 1000`,
		},
		{
			block("binary", "x", "health.exec", []string{"y"}, "health.start_ms", "-1"),
			`a.cml:4:5: program.health.start_ms: is "-1", must be a whole number from 0 to 86400000`,
		},
		{block("binary", "x", "limits.files", "3"), `program.limits.files: there is no limit "files"; there are as core cpu`},
		{
			block("binary", "x", "limits.core", ""),
			`program.limits.core: is "", must be N or SOFT:HARD, each a number (with K, M or G) or "unlimited"`,
		},
		{block("binary", "x", "limits.core", "1:2:3"), `program.limits.core: is "1:2:3", must be N or SOFT:HARD`},
		{block("binary", "x", "limits.core", "99999999999G"), `program.limits.core: is "99999999999G", must be N or SOFT:HARD`},
		{block("binary", "x", "limits.core", "unlimited:1"), `is "unlimited:1": the soft limit is above the hard one`},
		{block("binary", "x", "limits.core", []string{}), `program.limits.core: must be a string, is an array of strings`},
		{
			block("binary", "x", "is_shared_process", "true"),
			`program.is_shared_process: cannot be enabled without also enabling job_policy_create_raw_processes`,
		},
		{
			block("binary", "x", "job_policy_bad_handles", "x"),
			`program.job_policy_bad_handles: is "x", must be one of ["deny" "allow_exception"]`,
		},
		{
			block("binary", "x", "memory_attribution", "maybe"),
			`program.memory_attribution: is "maybe", must be one of ["true" "false"]`,
		},
	} {
		err := Check(c.b).Err()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func TestCheckWarns(t *testing.T) {
	for _, c := range []struct {
		b          runners.Block
		rule, hint string
	}{
		{block("binary", "x", "binery", "y"), "unknown-key", `did you mean "binary"?`},
		{block("binary", "x", "stop_event", "notify"), "unknown-key", `did you mean "lifecycle.stop_event"?`},
		{
			block("binary", "x", "job_policy_create_raw_proceses", "true"), "unknown-key",
			`did you mean "job_policy_create_raw_processes"?`,
		},
		{block("binary", "x", "zzz", "y"), "unknown-key", ""},
		{block("binary", "x", "use_next_vdso", "true"), "no-effect", ""},
		{block("binary", "x", "stop_signal", "INT", "lifecycle.stop_event", "ignore"), "no-effect", ""},
	} {
		ds := Check(c.b)
		if ds.Err() != nil || len(ds) != 1 || ds[0].Rule != c.rule || ds[0].Hint != c.hint || !ds[0].Pos.IsValid() {
			t.Errorf("%v: got %+v, want %s %q", c.b.Info, ds, c.rule, c.hint)
		}
	}
	if ds := Check(block("binary", "x", "limits.core", "0", "stop_signal", "INT")); len(ds) > 0 {
		t.Errorf("nothing is wrong, and got %v", ds)
	}
}

func TestLookup(t *testing.T) {
	if c, err := lookup(runners.Block{}, "", ""); c != nil || err != nil {
		t.Errorf("nobody else: %v, %v", c, err)
	}
	root, err := user.LookupId("0")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{root.Username, "0"} {
		c, err := lookup(runners.Block{}, u, "")
		if err != nil || c.Uid != 0 || c.Gid != number(root.Gid) || !slices.Contains(c.Groups, 0) {
			t.Errorf("user %s: %+v, %v", u, c, err)
		}
	}
	if c, err := lookup(runners.Block{}, "3999999999", "77"); err != nil || c.Uid != 3999999999 || c.Gid != 77 || len(c.Groups) > 0 {
		t.Errorf("unknown numbers: %+v, %v", c, err)
	}
	for _, x := range [][2]string{
		{"no-such-user", ""}, {"3999999999", ""}, {"", "no-such-group"}, {"-1", "0"}, {"99999999999", "0"},
	} {
		if c, err := lookup(runners.Block{}, x[0], x[1]); err == nil {
			t.Errorf("user %q, group %q: %+v", x[0], x[1], c)
		}
	}
}

// FuzzLimit: a limit that is accepted says the same when it is written out in plain numbers.
func FuzzLimit(f *testing.F) {
	for _, s := range []string{
		"0", "1024:4096", "2G", "unlimited", "1K:unlimited", "9223372036854775807", "8589934591G", "+1", "0x1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseLimit("nofile", s)
		if err != nil {
			return
		}
		plain := func(n uint64) string {
			if n == proc.Infinity {
				return "unlimited"
			}
			return fmt.Sprint(n)
		}
		again, err := parseLimit("nofile", plain(l.Soft)+":"+plain(l.Hard))
		if err != nil || again != l || l.Soft > l.Hard {
			t.Errorf("%q is %+v, and that is %+v, %v", s, l, again, err)
		}
	})
}
