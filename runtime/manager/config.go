package manager

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners/elf"
	"github.com/cmgr/cmgr/runners/elf/confine"
	"github.com/cmgr/cmgr/runtime/loader/port"
	"github.com/cmgr/cmgr/runtime/loader/prim"
	"github.com/cmgr/cmgr/runtime/realm"
)

// Settings is what the manager's configuration files say (`--config`, JSON5). Several files are merged: lists are joined, a
// scalar that two files set is an error. An empty list of monikers allows nobody.
//
//	{
//	  root_component_url: "root.cml",
//	  security_policy: {
//	    job_policy: { main_process_critical: ["/core/net"], ambient_mark_vmo_exec: [], create_raw_processes: [] },
//	    sandbox: { unconfined: ["/legacy"], network: ["/web"], platform: ["/opt/java"], required: true },
//	    child_policy: { reboot_on_terminate: ["/core/**"] },
//	    operator_policy: { explore: ["/**"] },
//	    capability_policy: [{
//	      source_moniker: "/core", source: "framework", source_name: "cmgr.component.RealmQuery", capability: "protocol",
//	      target_monikers: ["/core", "/core/shell"],
//	    }],
//	    debug_registration_policy: [{ debug: "protocol", name: "cmgr.Trace", target_moniker: "/core", environment_name: "traced" }],
//	  },
//	  loaders: {
//	    inet: { hosts: ["10.0.0.1", "10.0.0.2"], id: "edge7", cookie: "secret", erts_version: "13.1.5" },
//	    vault: { loader: "/usr/lib/vault-loader --fast", framing: "packet4" },
//	  },
//	  trust: "trusted",
//	  namespace_capabilities: [
//	    { directory: "certs", path: "/etc/ssl/certs", rights: ["r*"] }, { protocol: "dbus", path: "/run/dbus/system_bus_socket" },
//	  ],
//	  component_id_index_path: "ids.json5",
//	  log: { max_size: 1000000, max_files: 10 },
//	  management: { group: "adm" },
//	}
type Settings struct {
	RootURL             string
	MainProcessCritical []name.Pattern
	AmbientMarkVmoExec  []name.Pattern
	CreateRawProcesses  []name.Pattern
	Reboot              []name.Pattern
	// Unconfined are the components that share the manager's world, not one of their own (runners/elf/confine); of all others,
	// Network are those that have the host's network without its being routed to them.
	Unconfined, Network []name.Pattern
	// Explore are the components that `cmgr explore` may enter; nil for all.
	Explore []name.Pattern
	// Platform are directories and files of the host that all programs find, beside confine.DefaultPlatform.
	Platform []string
	// Required says whether the manager is to refuse to run where nothing can be confined; nil: if it is root, it does.
	Required *bool
	// Loaders are resolvers of the root environment that get packages by a loader, by name. Trust is the file that says which
	// packages.
	Loaders map[string]prim.Config
	Trust   string
	// CapabilityPolicy says who may have a capability. One that no rule is about is anybody's, but for the restricted protocols of
	// the framework, which are nobody's then.
	CapabilityPolicy []CapabilityRule
	// DebugPolicy says which protocols may be registered for debugging, and where; no others may.
	DebugPolicy []DebugRule
	// HostDirectories and HostSockets are what the root is offered of the host (namespace_capabilities), by name.
	HostDirectories map[string]realm.HostDirectory
	HostSockets     map[string]string
	// InstanceIDs is the component id index: the ids under which components keep what they store, of the file
	// component_id_index_path.
	InstanceIDs map[name.Moniker]string
	// LogMaxSize is the size in bytes at which an instance's log is rotated, LogMaxFiles how many rotated files it keeps; 0: the
	// log's own defaults.
	LogMaxSize  int64
	LogMaxFiles int
	// CacheMaxSize bounds in bytes what is kept of what loaders got; 0: the cache's own default.
	CacheMaxSize int64
	// ManagementGroup is the id of the group whose members may manage beside the manager's user and root; 0 for none.
	ManagementGroup int

	rootAt, sizeAt, filesAt, cacheAt, trustAt, idsAt, groupAt, requiredAt manifest.Pos // where the scalars were set
}

// ReadSettings reads and merges configuration files.
func ReadSettings(files ...string) (*Settings, error) {
	s := &Settings{}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		if err := s.merge(f, src); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// merge adds one file's text to s; the error is manifest.Diagnostics.
func (s *Settings) merge(file string, src []byte) error {
	r, ok := newReader(file, src)
	if !ok {
		return r.found
	}
	r.object(r.tree.Root, "", map[string]func(hujson.Value){
		"root_component_url": func(v hujson.Value) { r.str(v, &s.RootURL, &s.rootAt) },
		"security_policy": func(v hujson.Value) {
			r.object(v, "security_policy.", map[string]func(hujson.Value){
				"job_policy": func(v hujson.Value) {
					r.object(v, "security_policy.job_policy.", map[string]func(hujson.Value){
						"main_process_critical": func(v hujson.Value) { r.patterns(v, &s.MainProcessCritical) },
						"ambient_mark_vmo_exec": func(v hujson.Value) { r.patterns(v, &s.AmbientMarkVmoExec) },
						"create_raw_processes":  func(v hujson.Value) { r.patterns(v, &s.CreateRawProcesses) },
					})
				},
				"capability_policy":         func(v hujson.Value) { r.rules(v, &s.CapabilityPolicy) },
				"debug_registration_policy": func(v hujson.Value) { r.debugRules(v, &s.DebugPolicy) },
				"sandbox": func(v hujson.Value) {
					r.object(v, "security_policy.sandbox.", map[string]func(hujson.Value){
						"unconfined": func(v hujson.Value) { r.patterns(v, &s.Unconfined) },
						"network":    func(v hujson.Value) { r.patterns(v, &s.Network) },
						"platform":   func(v hujson.Value) { r.paths(v, &s.Platform) },
						"required": func(v hujson.Value) {
							var on bool
							if r.boolean(v, &on, &s.requiredAt) {
								s.Required = &on
							}
						},
					})
				},
				"child_policy": func(v hujson.Value) {
					r.object(v, "security_policy.child_policy.", map[string]func(hujson.Value){
						"reboot_on_terminate": func(v hujson.Value) { r.patterns(v, &s.Reboot) },
					})
				},
				"operator_policy": func(v hujson.Value) {
					r.object(v, "security_policy.operator_policy.", map[string]func(hujson.Value){
						"explore": func(v hujson.Value) {
							if r.patterns(v, &s.Explore); s.Explore == nil {
								s.Explore = []name.Pattern{}
							}
						},
					})
				},
			})
		},
		"loaders": func(v hujson.Value) { s.loaders(r, v) },
		"trust": func(v hujson.Value) {
			if r.str(v, &s.Trust, &s.trustAt); s.Trust != "" && !filepath.IsAbs(s.Trust) {
				s.Trust = filepath.Join(filepath.Dir(file), s.Trust)
			}
		},
		"namespace_capabilities": func(v hujson.Value) { s.offered(r, v) },
		"component_id_index_path": func(v hujson.Value) {
			var path string
			if r.str(v, &path, &s.idsAt); path == "" {
				return
			}
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(file), path)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				r.complain(v.StartOffset, "component-id-index", "%v", err)
				return
			}
			r.found = append(r.found, s.readIDs(path, text)...)
		},
		"management": func(v hujson.Value) {
			r.object(v, "management.", map[string]func(hujson.Value){
				"group": func(v hujson.Value) { r.group(v, &s.ManagementGroup, &s.groupAt) },
			})
		},
		"cache": func(v hujson.Value) {
			r.object(v, "cache.", map[string]func(hujson.Value){
				"max_size": func(v hujson.Value) { r.number(v, 1<<20, 1<<50, &s.CacheMaxSize, &s.cacheAt) },
			})
		},
		"log": func(v hujson.Value) {
			r.object(v, "log.", map[string]func(hujson.Value){
				"max_size": func(v hujson.Value) { r.number(v, 4096, 1<<40, &s.LogMaxSize, &s.sizeAt) },
				"max_files": func(v hujson.Value) {
					n := int64(s.LogMaxFiles)
					r.number(v, 1, 1000, &n, &s.filesAt)
					s.LogMaxFiles = int(n)
				},
			})
		},
	})
	return r.found.Err()
}

// offered reads namespace_capabilities: capabilities as a manifest declares them, of which the paths are the host's.
func (s *Settings) offered(r *reader, v hujson.Value) {
	r.each(v, func(e hujson.Value) {
		var protocol, directory, path string
		var tokens []string
		var at [3]manifest.Pos
		before := len(r.found)
		r.object(e, "namespace_capabilities.", map[string]func(hujson.Value){
			"protocol":  func(v hujson.Value) { r.str(v, &protocol, &at[0]) },
			"directory": func(v hujson.Value) { r.str(v, &directory, &at[1]) },
			"path":      func(v hujson.Value) { r.str(v, &path, &at[2]) },
			"rights":    func(v hujson.Value) { r.strs(v, &tokens) },
		})
		if len(r.found) > before {
			return
		}
		bad := func(format string, args ...any) { r.complain(e.StartOffset, "namespace-capability", format, args...) }
		var rights manifest.Rights
		for _, t := range tokens {
			some, ok := manifest.ParseRights(t)
			if !ok {
				bad("%q is no right", t)
			}
			rights |= some
		}
		capability := cmp.Or(protocol, directory)
		_, twice := s.HostDirectories[capability]
		_, again := s.HostSockets[capability]
		switch {
		case len(r.found) > before:
		case (protocol == "") == (directory == ""):
			bad("name a protocol or a directory; nothing else can be offered from here")
		case name.Check(capability) != nil:
			bad("%q is no name", capability)
		case twice || again || directory == dataDirectory || slices.Contains(confine.Protocols(), protocol):
			bad("%q is offered already", capability)
		case !filepath.IsAbs(path):
			bad("path must be one of this machine, and absolute; is %q", path)
		case protocol != "" && rights != 0:
			bad("a protocol has no rights")
		case directory != "" && rights == 0:
			bad("directory %q needs rights, such as [\"r*\"]", directory)
		case protocol != "":
			if s.HostSockets == nil {
				s.HostSockets = map[string]string{}
			}
			s.HostSockets[protocol] = filepath.Clean(path)
		default:
			if s.HostDirectories == nil {
				s.HostDirectories = map[string]realm.HostDirectory{}
			}
			s.HostDirectories[directory] = realm.HostDirectory{Path: filepath.Clean(path), Rights: rights}
		}
	})
}

// readIDs reads a component id index: { instances: [{ instance_id: "…", moniker: "/core/net" }] }.
func (s *Settings) readIDs(file string, text []byte) manifest.Diagnostics {
	r, ok := newReader(file, text)
	if !ok {
		return r.found
	}
	s.InstanceIDs = map[name.Moniker]string{}
	ids := map[string]bool{}
	r.object(r.tree.Root, "", map[string]func(hujson.Value){
		"instances": func(v hujson.Value) {
			r.each(v, func(e hujson.Value) {
				var id, moniker string
				var at [2]manifest.Pos
				before := len(r.found)
				r.object(e, "instances.", map[string]func(hujson.Value){
					"instance_id": func(v hujson.Value) { r.str(v, &id, &at[0]) },
					"moniker":     func(v hujson.Value) { r.str(v, &moniker, &at[1]) },
				})
				if len(r.found) > before {
					return
				}
				m, err := name.ParseMoniker(moniker)
				switch raw, herr := hex.DecodeString(id); {
				case herr != nil || len(raw) != 32 || id != strings.ToLower(id):
					d := r.complain(e.StartOffset, "component-id-index", "instance_id must be 64 lower-case hexadecimal digits, is %q", id)
					d.Hint = "`openssl rand -hex 32` makes one"
				case err != nil || !strings.HasPrefix(moniker, "/"):
					r.complain(e.StartOffset, "component-id-index", "moniker must be absolute, is %q", moniker)
				case ids[id]:
					r.complain(e.StartOffset, "component-id-index", "instance_id %s stands here a second time", id)
				case s.InstanceIDs[m] != "":
					r.complain(e.StartOffset, "component-id-index", "moniker %s stands here a second time", m)
				default:
					ids[id], s.InstanceIDs[m] = true, id
				}
			})
		},
	})
	return r.found
}

// loaders reads the loaders; one whose kind is not said is of the kind that its name is.
func (s *Settings) loaders(r *reader, v hujson.Value) {
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		r.complain(v.StartOffset, "wrong-type", "loaders must be an object")
		return
	}
	for _, m := range o.Members {
		n := json5.Name(m.Name)
		at := m.Name.StartOffset
		switch _, twice := s.Loaders[n]; {
		case name.Check(n) != nil || n == "file":
			r.complain(at, "loader", "%q is no name that a loader can have", n)
			continue
		case twice:
			r.complain(at, "set-twice", "loader %q was set before", n)
			continue
		}
		cfg := prim.Config{}
		var framing string
		str := func(into *string) func(hujson.Value) {
			var once manifest.Pos
			return func(v hujson.Value) { r.str(v, into, &once) }
		}
		list := func(into *[]string) func(hujson.Value) { return func(v hujson.Value) { r.strs(v, into) } }
		r.object(m.Value, "loaders."+n+".", map[string]func(hujson.Value){
			"loader": str(&cfg.Loader), "id": str(&cfg.ID), "cookie": str(&cfg.Cookie), "erts_version": str(&cfg.Version),
			"framing": str(&framing),
			"hosts":   list(&cfg.Hosts), "path": list(&cfg.Path),
		})
		cfg.Transport = port.Transport(framing)
		if cfg.Loader == "" {
			cfg.Loader = n
		}
		switch kind := cfg.Kind(); {
		case kind == prim.Inet && len(cfg.Hosts) == 0:
			r.complain(at, "loader", "loader %q needs hosts", n)
		case kind != prim.Inet && len(cfg.Hosts) > 0:
			r.complain(at, "loader", "loader %q: only inet has hosts", n)
		case framing != "" && (kind != "port" || cfg.Transport != port.Raw && cfg.Transport != port.Packet4):
			r.complain(at, "loader", "loader %q: framing is raw or packet4, for port programs", n)
		}
		if s.Loaders == nil {
			s.Loaders = map[string]prim.Config{}
		}
		s.Loaders[n] = cfg
	}
}

// A reader decodes one file and collects what is wrong with it.
type reader struct {
	file  string
	tree  *json5.Tree
	found manifest.Diagnostics
}

// newReader parses a file's text; ok is false where its syntax is wrong.
func newReader(file string, src []byte) (r *reader, ok bool) {
	tree, err := json5.Parse(src, json5.Options{})
	r = &reader{file: file, tree: &tree}
	if errs, wrong := errors.AsType[json5.Errors](err); wrong {
		for _, e := range errs {
			r.complain(e.Offset, "syntax", "%s", e.Message)
		}
		return r, false
	}
	for _, d := range tree.Duplicates {
		r.complain(d.Second, "duplicate-key", "key %q stands here a second time", d.Name)
	}
	return r, true
}

func (r *reader) pos(offset int) manifest.Pos {
	p := r.tree.Position(offset)
	return manifest.Pos{File: r.file, Line: int32(p.Line), Col: int32(p.Col)}
}

func (r *reader) complain(offset int, rule, format string, args ...any) *manifest.Diagnostic {
	r.found = append(r.found, manifest.Diagnostic{Pos: r.pos(offset), Rule: rule, Message: fmt.Sprintf(format, args...)})
	return &r.found[len(r.found)-1]
}

func (r *reader) object(v hujson.Value, at string, keys map[string]func(hujson.Value)) {
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		r.complain(v.StartOffset, "wrong-type", "%s must be an object", cmp.Or(strings.TrimSuffix(at, "."), "the configuration"))
		return
	}
	for _, m := range o.Members {
		key := json5.Name(m.Name)
		f := keys[key]
		if f == nil {
			known := make([]string, 0, len(keys))
			for k := range keys {
				known = append(known, k)
			}
			d := r.complain(m.Name.StartOffset, "unknown-key", "unknown field `%s`", at+key)
			if near := name.Nearest(key, known); near != "" {
				d.Hint = fmt.Sprintf("did you mean %q?", at+near)
			}
			continue
		}
		f(m.Value)
	}
}

// once tells whether a scalar may be set here, and remembers where it was.
func (r *reader) once(v hujson.Value, at *manifest.Pos) bool {
	if at.IsValid() {
		r.complain(v.StartOffset, "set-twice", "this was set before, at %s", at)
		return false
	}
	*at = r.pos(v.StartOffset)
	return true
}

func (r *reader) str(v hujson.Value, into *string, at *manifest.Pos) {
	if json5.KindOf(v) != json5.String {
		r.complain(v.StartOffset, "wrong-type", "must be a string")
	} else if r.once(v, at) {
		*into = json5.Text(v)
	}
}

func (r *reader) number(v hujson.Value, least, most int64, into *int64, at *manifest.Pos) {
	n, err := json5.Int(v)
	if err != nil || n < least || n > most {
		r.complain(v.StartOffset, "wrong-type", "must be a whole number from %d to %d", least, most)
	} else if r.once(v, at) {
		*into = n
	}
}

// group reads the name or number of a group.
func (r *reader) group(v hujson.Value, into *int, at *manifest.Pos) {
	var text string
	before := len(r.found)
	if r.str(v, &text, at); len(r.found) > before {
		return
	}
	id := text
	if g, err := user.LookupGroup(text); err == nil {
		id = g.Gid
	}
	n, err := strconv.ParseInt(id, 10, 32)
	switch {
	case err != nil || n < 0:
		r.complain(v.StartOffset, "group", "there is no group %q", text)
	case n == 0:
		r.complain(v.StartOffset, "group", "the group of root cannot manage: choose one that is made for it")
	default:
		*into = int(n)
	}
}

func (r *reader) boolean(v hujson.Value, into *bool, at *manifest.Pos) bool {
	if json5.KindOf(v) != json5.Bool {
		r.complain(v.StartOffset, "wrong-type", "must be true or false")
		return false
	}
	*into = bool(v.Value.(hujson.Literal).Bool())
	return r.once(v, at)
}

// paths reads absolute paths.
func (r *reader) paths(v hujson.Value, into *[]string) {
	var all []string
	r.strs(v, &all)
	for _, p := range all {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
			r.complain(v.StartOffset, "path", "%q: must be an absolute path, without a slash at its end and other than /", p)
			continue
		}
		*into = append(*into, p)
	}
}

func (r *reader) strs(v hujson.Value, into *[]string) {
	a, ok := v.Value.(*hujson.Array)
	if !ok {
		r.complain(v.StartOffset, "wrong-type", "must be an array of strings")
		return
	}
	for _, e := range a.Elements {
		if json5.KindOf(e) != json5.String || json5.Text(e) == "" {
			r.complain(e.StartOffset, "wrong-type", "must be a string that is not empty")
			continue
		}
		*into = append(*into, json5.Text(e))
	}
}

func (r *reader) patterns(v hujson.Value, into *[]name.Pattern) {
	a, ok := v.Value.(*hujson.Array)
	if !ok {
		r.complain(v.StartOffset, "wrong-type", "must be an array of moniker patterns")
		return
	}
	for _, e := range a.Elements {
		if json5.KindOf(e) != json5.String {
			r.complain(e.StartOffset, "wrong-type", "must be a moniker pattern, such as \"/core/net\" or \"/core/**\"")
			continue
		}
		p, err := name.ParsePattern(json5.Text(e))
		if err != nil {
			r.complain(e.StartOffset, "pattern", "%v", err)
			continue
		}
		*into = append(*into, p)
	}
}

func matches(ps []name.Pattern, m name.Moniker) bool {
	return slices.ContainsFunc(ps, func(p name.Pattern) bool { return p.Match(m) })
}

// RebootOnTerminate says whether m may have on_terminate: "reboot".
func (s *Settings) RebootOnTerminate(m name.Moniker) bool { return matches(s.Reboot, m) }

// Grants are what m has of the machine.
func (s *Settings) Grants(m name.Moniker) confine.Grants {
	return confine.Grants{Unconfined: matches(s.Unconfined, m), Network: matches(s.Network, m)}
}

// Job is the ELF runner's policy.
func (s *Settings) Job(policy string, m name.Moniker) bool {
	switch policy {
	case elf.MainProcessCritical:
		return matches(s.MainProcessCritical, m)
	case elf.AmbientMarkVmoExec:
		return matches(s.AmbientMarkVmoExec, m)
	case elf.CreateRawProcesses:
		return matches(s.CreateRawProcesses, m)
	}
	return false
}
