package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/elf"
)

func TestSettings(t *testing.T) {
	var s Settings
	for file, text := range map[string]string{
		"a": `{ root_component_url: 'root.cml', security_policy: { job_policy: { main_process_critical: ['/core/net'] } }, log: { max_size: 5000 } }`,
		"b": `{ security_policy: { job_policy: { main_process_critical: ['/x/**'], create_raw_processes: ['/'] },
			child_policy: { reboot_on_terminate: ['/core/*'] } }, log: { max_files: 3 }, management: { group: '4321' } }`,
	} {
		if err := s.merge(file, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		policy string
		m      name.Moniker
		want   bool
	}{
		{elf.MainProcessCritical, "/core/net", true},
		{elf.MainProcessCritical, "/x/y/z", true},
		{elf.MainProcessCritical, "/x", false},
		{elf.CreateRawProcesses, "/", true},
		{elf.CreateRawProcesses, "/core/net", false},
		{elf.AmbientMarkVmoExec, "/core/net", false},
		{"another", "/core/net", false},
	} {
		if got := s.Job(c.policy, c.m); got != c.want {
			t.Errorf("%s for %s: %v, want %v", c.policy, c.m, got, c.want)
		}
	}
	if !s.RebootOnTerminate("/core/net") || s.RebootOnTerminate("/core") {
		t.Error("reboot_on_terminate is not what the files say")
	}
	if s.RootURL != "root.cml" || s.LogMaxSize != 5000 || s.LogMaxFiles != 3 || s.ManagementGroup != 4321 {
		t.Errorf("%+v", s)
	}
	var none Settings
	if none.RebootOnTerminate("/") || none.Job(elf.MainProcessCritical, "/") {
		t.Error("nothing said allows something")
	}
}

func TestSettingsErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{ securty_policy: {} }`: "f:1:3: unknown field `securty_policy`",
		`{ security_policy: { job_policy: { main_process_critcal: [] } } }`: `did you mean "security_policy.job_policy.main_process_critical"?`,
		`{ security_policy: [] }`: `f:1:20: security_policy must be an object`,
		`{ security_policy: { job_policy: { main_process_critical: "/a" } } }`:  `f:1:59: must be an array`,
		`{ security_policy: { job_policy: { main_process_critical: ["a"] } } }`: `f:1:60: allowlist entry ("a") must start with a '/'`,
		`{ security_policy: { child_policy: { reboot_on_terminate: [ 1 ] } } }`: `f:1:61: must be a moniker pattern`,
		`{ log: { max_size: 1 } }`:                             `f:1:20: must be a whole number from 4096`,
		`{ log: { max_size: 5000 max_files: 3 } }`:             `comma`,
		`{ root_component_url: "a", root_component_url: "b" }`: `stands here a second time`,
		`{ root_component_url: 7 }`:                            `f:1:23: must be a string`,
		`{ management: { group: "no-such-group" } }`:           `f:1:24: there is no group "no-such-group"`,
		`{ management: { group: "" } }`:                        `f:1:24: there is no group ""`,
		`{ management: { group: "0" } }`:                       `f:1:24: the group of root cannot manage`,
		`{ management: { group: 4321 } }`:                      `f:1:24: must be a string`,
		`{ management: { grup: "adm" } }`:                      `did you mean "management.group"?`,
		`[]`:                                                   `the configuration must be an object`,
	} {
		var s Settings
		err := s.merge("f", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tgives %v\n\twant %s", text, err, want)
		}
	}
	var s Settings
	if err := s.merge("f", []byte(`{ root_component_url: "a" }`)); err != nil {
		t.Fatal(err)
	}
	if err := s.merge("g", []byte(`{ root_component_url: "b" }`)); err == nil || !strings.Contains(err.Error(), "set before, at f:1:23") {
		t.Errorf("a scalar set twice: %v", err)
	}
}

func TestCapabilityPolicy(t *testing.T) {
	const rule = `{ security_policy: { capability_policy: [ { source_moniker: "/core", source: "framework", capability: "protocol",
		source_name: "cmgr.component.RealmQuery", target_monikers: ["/core", "/core/*"] } ] } }`
	var s Settings
	if err := s.merge("f", []byte(rule)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		protocol    string
		scope, user name.Moniker
		want        bool
	}{
		{"cmgr.component.RealmQuery", "/core", "/core", true},
		{"cmgr.component.RealmQuery", "/core", "/core/shell", true},
		{"cmgr.component.RealmQuery", "/core", "/other", false},
		{"cmgr.component.RealmQuery", "/", "/core", false},
		{"cmgr.component.Introspector", "/core", "/core", false},
	} {
		if got := s.allowsFramework(c.protocol, c.scope, c.user); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if new(Settings).allowsFramework("cmgr.component.RealmQuery", "/", "/") {
		t.Error("nothing said allows something")
	}
	for change, want := range map[[2]string]string{
		{`"/core", source:`, `"core:", source:`}:                 "source_moniker",
		{`"framework"`, `"frame"`}:                               `source must be "component", "framework"`,
		{`"framework"`, `"void"`}:                                "needs no policy",
		{`"framework"`, `"environment"`}:                         `source_moniker must be "<component_manager>"`,
		{`"/core", source:`, `"<component_manager>", source:`}:   "has none",
		{`"protocol"`, `"protocl"`}:                              "is no kind",
		{`cmgr.component.RealmQuery`, `cmgr.component.RealmQry`}: `did you mean "cmgr.component.RealmQuery"?`,
		{`"/core/*"`, `"core"`}:                                  "must start with a '/'",
		{`source_name`, `source_nam`}:                            "did you mean",
	} {
		var s Settings
		if err := s.merge("f", []byte(strings.Replace(rule, change[0], change[1], 1))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", change[1], err, want)
		}
	}
}

func TestRootURL(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cmgr.json5")
	if err := os.WriteFile(file, []byte(`{ root_component_url: "x/root.cml" }`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSettings(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := rootURL("", s); err != nil || got != "file://"+dir+"/x/root.cml" {
		t.Errorf("%q, %v: a path in a configuration file is relative to that file", got, err)
	}
	if _, err := rootURL("other.cml", s); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("given twice: %v", err)
	}
	if got, err := rootURL("file:///r.cml", &Settings{}); err != nil || got != "file:///r.cml" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := rootURL("", &Settings{}); err == nil {
		t.Error("no root is fine?")
	}
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{ log: { max_size: 5000 } }`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Settings
		if err := s.merge("f", text); err != nil && !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("an error without a place: %v", err)
		}
	})
}

func TestNamespaceCapabilities(t *testing.T) {
	var s Settings
	if err := s.merge("f", []byte(`{ namespace_capabilities: [
		{ directory: "certs", path: "/etc/ssl/", rights: [ "r*" ] }, { protocol: "bus", path: "/run/bus" } ] }`)); err != nil {
		t.Fatal(err)
	}
	if d := s.HostDirectories["certs"]; d.Path != "/etc/ssl" || d.Rights != manifest.RightsR || s.HostSockets["bus"] != "/run/bus" {
		t.Errorf("%+v", s)
	}
	for entry, want := range map[string]string{
		`{ directory: "bus", path: "/a", rights: ["r*"] }`:  `f:1:29: "bus" is offered already`,
		`{ directory: "data", path: "/a", rights: ["r*"] }`: `"data" is offered already`,
		`{ directory: "d", path: "/a" }`:                    `directory "d" needs rights`,
		`{ directory: "d", path: "a", rights: ["r*"] }`:     "absolute",
		`{ directory: "d", path: "/a", rights: ["q*"] }`:    `"q*" is no right`,
		`{ protocol: "p", path: "/a", rights: ["r*"] }`:     "a protocol has no rights",
		`{ protocol: "p", directory: "d", path: "/a" }`:     "name a protocol or a directory",
		`{ protocol: "p/q", path: "/a" }`:                   `"p/q" is no name`,
		`{ storage: "p", path: "/a" }`:                      "unknown field `namespace_capabilities.storage`",
		`1`:                                                 "must be an object",
	} {
		if err := s.merge("f", []byte(`{ namespace_capabilities: [ `+entry+` ] }`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tgives %v\n\twant %s", entry, err, want)
		}
	}
}

func TestComponentIDIndex(t *testing.T) {
	dir := t.TempDir()
	id := func(c string) string { return strings.Repeat(c, 64) }
	read := func(index string) (*Settings, error) {
		for file, text := range map[string]string{"c": `{ component_id_index_path: "ids" }`, "ids": index} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return ReadSettings(filepath.Join(dir, "c"))
	}
	s, err := read(`{ instances: [ { instance_id: "` + id("a") + `", moniker: "/core/net" }, { instance_id: "` + id("0") + `", moniker: "/jobs:x" } ] }`)
	if err != nil || len(s.InstanceIDs) != 2 || s.InstanceIDs["/core/net"] != id("a") || s.InstanceIDs["/jobs:x"] != id("0") {
		t.Errorf("%v, %v", s, err)
	}
	for index, want := range map[string]string{
		`{ instances: [ { instance_id: "` + id("A") + `", moniker: "/a" } ] }`:                                                    "ids:1:16: instance_id must be 64 lower-case",
		`{ instances: [ { instance_id: "aa", moniker: "/a" } ] }`:                                                                 "64 lower-case",
		`{ instances: [ { instance_id: "` + id("a") + `", moniker: "a" } ] }`:                                                     "must be absolute",
		`{ instances: [ { instance_id: "` + id("a") + `", moniker: "/a" }, { instance_id: "` + id("a") + `", moniker: "/b" } ] }`: "a second time",
		`{ instances: [ { instance_id: "` + id("a") + `", moniker: "/a" }, { instance_id: "` + id("b") + `", moniker: "/a" } ] }`: "moniker /a stands here a second time",
		`{ instances: [], instances: [] }`: `ids:1:18: key "instances" stands here a second time`,
		`{ instance: [] }`:                 `did you mean "instances"?`,
		`{ instances: 1 }`:                 "must be an array",
		`{`:                                "ids:1:",
	} {
		if _, err := read(index); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tgives %v\n\twant %s", index, err, want)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ids")); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSettings(filepath.Join(dir, "c")); err == nil || !strings.Contains(err.Error(), "c:1:28: open ") {
		t.Error(err)
	}
}
