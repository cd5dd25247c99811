package cml

import (
	"errors"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// The tables below are the language: which keys each object has, what each key may hold. Reading, comparing and printing
// documents all go by them.

// A shape is a closed object.
type shape[T any] struct {
	name string // for messages: "a child"
	keys []key[T]
	gone map[string]string // keys of older dialects, and what to write instead
	at   func(*T) *At

	section string // of clauses: "use", …; "" for other objects
}

// A key is one key of a shape.
type key[T any] struct {
	name     string
	form     form
	field    func(*T) any // pointer to where the value is kept, of the type that form expects
	doc      string
	required bool
	kind     manifest.Kind   // set if the key is a capability keyword
	of       []manifest.Kind // the kinds that it applies to; nil means all
}

func (s *shape[T]) names() []string {
	out := make([]string, len(s.keys))
	for i := range s.keys {
		out[i] = s.keys[i].name
	}
	return out
}

// keywords are the capability keywords of s.
func (s *shape[T]) keywords() []string {
	var out []string
	for i := range s.keys {
		if s.keys[i].kind != 0 {
			out = append(out, s.keys[i].name)
		}
	}
	return out
}

// String forms.
var (
	aName      = textForm{what: "name", check: name.Check}
	aPath      = textForm{what: "path", check: name.CheckPath}
	aRelative  = textForm{what: "relative path", check: name.CheckRelativePath}
	aURL       = textForm{what: "URL", check: name.CheckURL}
	aScheme    = textForm{what: "URL scheme", check: name.CheckScheme}
	aConfigKey = textForm{what: "config key", check: name.CheckConfigKey}
	anyText    = textForm{what: "string"}
	manyNames  = textsForm{
		one: true, many: true, item: textForm{
			what:  "name",
			check: nameOf("a name or nonempty array of names, with unique elements"),
		},
		want: "a name or nonempty array of names, with unique elements",
	}
	singleName  = textsForm{one: true, item: aName, want: "a name"}
	paths       = textsForm{many: true, empty: true, repeats: true, item: anyText, want: "an array of paths"}
	rightTokens = textsForm{many: true, item: words(rightWords...), want: "a nonempty array of rights, with unique elements"}
)

var rightWords = []string{
	"connect", "enumerate", "execute", "get_attributes", "modify_directory", "read_bytes", "traverse",
	"update_attributes", "write_bytes", "r*", "w*", "x*", "rw*", "rx*",
}

func words(w ...string) textForm { return textForm{what: "word", words: w} }

// nameOf checks a Name and words its error as want, as the reference compiler does where a clause takes more than a name.
func nameOf(want string) func(string) error {
	return func(s string) error {
		err := name.Check(s)
		if e, ok := errors.AsType[*name.Error](err); ok && !e.Length {
			e.Want = want
		}
		return err
	}
}

// Reference forms.
var (
	refUse = refs{
		"parent framework debug self", true, "parent self #",
		`"parent", "framework", "debug", "self", "#<capability-name>", "#<child-name>", "#<collection-name>", dictionary path, or none`,
	}
	refOffer = refs{
		"parent framework self void", true, "parent self #",
		`one or an array of "parent", "framework", "self", "#<child-name>", "#<collection-name>", or a dictionary path`,
	}
	refExpose = refs{
		"framework self void", true, "parent self #",
		`one or an array of "framework", "self", "#<child-name>", or a dictionary path`,
	}
	refTo          = refs{"", true, "self", `"#<child-name>", "#<collection-name>", or "self/<dictionary>"`}
	refOwn         = refs{"parent self", true, "", `"parent", "self", or "#<child-name>"`}
	refEnvironment = refs{"", true, "", `"#<environment-name>"`}
	refScope       = refs{"", true, "", `"#<child-name>" or "#<collection-name>"`}
)

// refWords are the words that any reference may be; no child is meant by them.
var refWords = []string{"parent", "self", "framework", "debug", "void", "all"}

// refs is a grammar of references.
type refs struct {
	words string // allowed as they are
	named bool   // "#name"
	roots string // of dictionary paths
	want  string
}

func (r refs) check(s string) error {
	if s == "" || len(s) > name.MaxPath {
		return &name.Error{Value: s, Length: true, Want: r.want}
	}
	root, path, isPath := strings.Cut(s, "/")
	bad := &name.Error{Value: s, Want: r.want}
	set := r.words
	if isPath {
		set = r.roots
		if path == "." || name.CheckRelativePath(path) != nil {
			return bad
		}
	}
	if strings.HasPrefix(root, "#") {
		if len(root) > name.MaxReference {
			bad.Length = true
			return bad
		}
		if name.Check(root[1:]) != nil || isPath && !containsWord(set, "#") {
			return bad
		}
		return nil
	}
	if !containsWord(set, root) {
		return bad
	}
	return nil
}

func containsWord(set, word string) bool {
	return word != "" && slices.Contains(strings.Fields(set), word)
}

func ref(r refs) textForm { return textForm{what: "reference", check: r.check, refs: &r} }

func oneOrMany(r refs, want string) textsForm {
	return textsForm{one: true, many: true, item: ref(r), want: want}
}

// targets are what `to` of an offer takes: the word "all" only by itself.
var targets = textsForm{
	one: true, many: true, bare: "all", item: ref(refTo),
	want: `one or an array of "#<child-name>", "#<collection-name>", or "self/<dictionary>", with unique elements`,
}

// oneRef keeps a single reference where others may have several.
func oneRef(r refs) textsForm { return textsForm{one: true, item: ref(r), want: r.want} }

var (
	aDependency = words("strong", "weak")
	aNonZero    = uintForm{min: 1, max: 1<<32 - 1, want: "a nonzero u32"}
	aUint32     = uintForm{max: 1<<32 - 1, want: "an unsigned 32-bit integer"}
	aFree       = freeForm{}
	aFreeObject = freeForm{object: true}
)

var configWords = []string{"bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "string", "vector"}

var documentShape = shape[Document]{
	name: "a manifest",
	at:   func(d *Document) *At { return &d.At },
	gone: map[string]string{
		"runner":    `write the runner within "program": program: { runner: "elf" }`,
		"disable":   `"disable" is no longer part of the language; remove it`,
		"runners":   `declare a runner with capabilities: [ { runner: … } ]`,
		"resolvers": `declare a resolver with capabilities: [ { resolver: … } ]`,
		"storage":   `declare storage with capabilities: [ { storage: … } ]`,
	},
	keys: []key[Document]{
		{name: "include", form: paths, field: func(d *Document) any { return &d.Include }, doc: "files to merge into this one"},
		{name: "program", form: aFreeObject, field: func(d *Document) any { return &d.Program }, doc: "the runner and what it is told"},
		{
			name: "children", form: listForm[Child]{&childShape}, field: func(d *Document) any { return &d.Children },
			doc: "static children",
		},
		{
			name: "collections", form: listForm[Collection]{&collectionShape}, field: func(d *Document) any { return &d.Collections },
			doc: "places for dynamic children",
		},
		{
			name: "environments", form: listForm[Environment]{&environmentShape}, field: func(d *Document) any { return &d.Environments },
			doc: "environments for children and collections",
		},
		{
			name: "capabilities", form: listForm[Clause]{&capabilityShape}, field: func(d *Document) any { return &d.Capabilities },
			doc: "what this component provides",
		},
		{
			name: "use", form: listForm[Clause]{&useShape}, field: func(d *Document) any { return &d.Use },
			doc: "what this component's program consumes",
		},
		{
			name: "offer", form: listForm[Clause]{&offerShape}, field: func(d *Document) any { return &d.Offer },
			doc: "what children are given",
		},
		{
			name: "expose", form: listForm[Clause]{&exposeShape}, field: func(d *Document) any { return &d.Expose },
			doc: "what the parent is given",
		},
		{
			name: "facets", form: aFreeObject, field: func(d *Document) any { return &d.Facets },
			doc: "free data that only other tools read",
		},
		{
			name: "config", form: configForm{}, field: func(d *Document) any { return &d.Config },
			doc: "the schema of structured configuration",
		},
	},
}

var childShape = shape[Child]{
	name: "a child",
	at:   func(c *Child) *At { return &c.At },
	keys: []key[Child]{
		{name: "name", form: aName, field: func(c *Child) any { return &c.Name }, required: true, doc: "its name among its siblings"},
		{name: "url", form: aURL, field: func(c *Child) any { return &c.URL }, required: true, doc: "where its manifest is"},
		{
			name: "startup", form: words("lazy", "eager"), field: func(c *Child) any { return &c.Startup },
			doc: "when it starts: lazy at its first use, eager with its parent",
		},
		{
			name: "on_terminate", form: words("none", "reboot", "restart"), field: func(c *Child) any { return &c.OnTerminate },
			doc: "what follows when it ends",
		},
		{
			name: "restart", form: objectForm[Restart]{&restartShape}, field: func(c *Child) any { return &c.Restart },
			doc: "how it is restarted",
		},
		{
			name: "environment", form: ref(refEnvironment), field: func(c *Child) any { return &c.Environment },
			doc: "one of this manifest's environments",
		},
	},
}

var restartShape = shape[Restart]{
	name: "`restart`",
	at:   func(r *Restart) *At { return &r.At },
	keys: []key[Restart]{
		{
			name: "when", form: words("always", "failure"), field: func(r *Restart) any { return &r.When },
			doc: "which ends are followed by a restart",
		},
		{
			name: "delay_ms", form: aUint32, field: func(r *Restart) any { return &r.Delay },
			doc: "milliseconds before the first restart of a series; if not given, starts are a second apart",
		},
		{name: "max_delay_ms", form: aUint32, field: func(r *Restart) any { return &r.MaxDelay }, doc: "the delay never exceeds this"},
		{
			name: "backoff", form: decimalForm{}, field: func(r *Restart) any { return &r.Backoff },
			doc: "the factor from one delay to the next",
		},
		{
			name: "limit", form: aUint32, field: func(r *Restart) any { return &r.Limit },
			doc: "at most so many restarts within window_ms",
		},
		{name: "window_ms", form: aNonZero, field: func(r *Restart) any { return &r.Window }, doc: "the time that limit counts in"},
	},
}

var collectionShape = shape[Collection]{
	name: "a collection",
	at:   func(c *Collection) *At { return &c.At },
	keys: []key[Collection]{
		{name: "name", form: aName, field: func(c *Collection) any { return &c.Name }, required: true, doc: "its name"},
		{
			name: "durability", form: words("transient", "single_run"), field: func(c *Collection) any { return &c.Durability },
			required: true, doc: "how long a child lives",
		},
		{
			name: "environment", form: ref(refEnvironment), field: func(c *Collection) any { return &c.Environment },
			doc: "one of this manifest's environments",
		},
		{
			name: "allowed_offers", form: words("static_only", "static_and_dynamic"),
			field: func(c *Collection) any { return &c.AllowedOffers }, doc: "whether a child may be created with offers of its own",
		},
		{
			name: "allow_long_names", form: boolForm{}, field: func(c *Collection) any { return &c.AllowLongNames },
			doc: "whether children may have names of up to 1024 bytes",
		},
		{
			name: "persistent_storage", form: boolForm{}, field: func(c *Collection) any { return &c.PersistentStorage },
			doc: "whether a child's storage outlives it",
		},
	},
}

var environmentShape = shape[Environment]{
	name: "an environment",
	at:   func(e *Environment) *At { return &e.At },
	keys: []key[Environment]{
		{name: "name", form: aName, field: func(e *Environment) any { return &e.Name }, required: true, doc: "its name"},
		{
			name: "extends", form: words("realm", "none"), field: func(e *Environment) any { return &e.Extends },
			doc: "what it starts from",
		},
		{
			name: "runners", form: listForm[Registration]{&runnerShape}, field: func(e *Environment) any { return &e.Runners },
			doc: "runners that program.runner finds",
		},
		{
			name: "resolvers", form: listForm[Registration]{&resolverShape}, field: func(e *Environment) any { return &e.Resolvers },
			doc: "resolvers by URL scheme",
		},
		{
			name: "debug", form: listForm[Registration]{&debugShape}, field: func(e *Environment) any { return &e.Debug },
			doc: "protocols that can be used from debug",
		},
		{
			name: "__stop_timeout_ms", form: aUint32, field: func(e *Environment) any { return &e.StopTimeout },
			doc: "milliseconds from a stop to a kill",
		},
	},
}

func registrationAt(r *Registration) *At { return &r.At }

var runnerShape = shape[Registration]{name: "a runner registration", at: registrationAt, keys: []key[Registration]{
	{
		name: "runner", form: singleName, field: func(r *Registration) any { return &r.Names }, required: true,
		doc: "its name in the source",
	},
	{
		name: "from", form: ref(refOwn), field: func(r *Registration) any { return &r.From }, required: true,
		doc: "where it comes from",
	},
	{name: "as", form: aName, field: func(r *Registration) any { return &r.As }, doc: "its name in the environment"},
}}

var resolverShape = shape[Registration]{name: "a resolver registration", at: registrationAt, keys: []key[Registration]{
	{
		name: "resolver", form: singleName, field: func(r *Registration) any { return &r.Names }, required: true,
		doc: "its name in the source",
	},
	{
		name: "from", form: ref(refOwn), field: func(r *Registration) any { return &r.From }, required: true,
		doc: "where it comes from",
	},
	{
		name: "scheme", form: aScheme, field: func(r *Registration) any { return &r.Scheme }, required: true,
		doc: "the URL scheme that it resolves",
	},
}}

var debugShape = shape[Registration]{name: "a debug registration", at: registrationAt, keys: []key[Registration]{
	{
		name: "protocol", form: manyNames, field: func(r *Registration) any { return &r.Names }, required: true,
		doc: "its name in the source",
	},
	{
		name: "from", form: ref(refOffer), field: func(r *Registration) any { return &r.From }, required: true,
		doc: "where it comes from",
	},
	{name: "as", form: aName, field: func(r *Registration) any { return &r.As }, doc: "its name in the environment"},
}}

func clauseAt(c *Clause) *At { return &c.At }

// keyword is a key that names the capability.
func keyword(k manifest.Kind, f textsForm) key[Clause] {
	return key[Clause]{
		name: k.String(), form: f, field: func(c *Clause) any { return &c.Names }, kind: k,
		doc: "the " + k.String() + "'s name",
	}
}

// Sets of kinds.
var (
	pathed = []manifest.Kind{
		manifest.KindProtocol, manifest.KindService, manifest.KindDirectory, manifest.KindRunner,
		manifest.KindResolver, manifest.KindDictionary, manifest.KindStorage,
	}
	usedAtPath = []manifest.Kind{
		manifest.KindProtocol, manifest.KindService, manifest.KindDirectory, manifest.KindStorage,
		manifest.KindEventStream, manifest.KindDictionary,
	}
	ordering  = []manifest.Kind{manifest.KindProtocol, manifest.KindService, manifest.KindDirectory, manifest.KindDictionary}
	directory = []manifest.Kind{manifest.KindDirectory}
	protocol  = []manifest.Kind{manifest.KindProtocol}
	storage   = []manifest.Kind{manifest.KindStorage}
	events    = []manifest.Kind{manifest.KindEventStream}
	configs   = []manifest.Kind{manifest.KindConfig}
)

// configKeys are the type of a configuration value, within a clause.
var configKeys = []key[Clause]{
	{name: "type", form: words(configWords...), field: func(c *Clause) any { return &c.Type.Type }, of: configs, doc: "its type"},
	{
		name: "max_size", form: aNonZero, field: func(c *Clause) any { return &c.Type.MaxSize }, of: configs,
		doc: "the most bytes of a string",
	},
	{
		name: "max_count", form: aNonZero, field: func(c *Clause) any { return &c.Type.MaxCount }, of: configs,
		doc: "the most elements of a vector",
	},
	{
		name: "element", form: elementForm{}, field: func(c *Clause) any { return &c.Type.Element }, of: configs,
		doc: "the type of a vector's elements",
	},
}

var (
	keyAs = key[Clause]{
		name: "as", form: aName, field: func(c *Clause) any { return &c.As },
		doc: "its name for the target",
	}
	keyRights = key[Clause]{
		name: "rights", form: rightTokens, field: func(c *Clause) any { return &c.Rights }, of: directory,
		doc: "what may be done in the directory",
	}
	keyScope = key[Clause]{
		name: "scope", form: oneOrMany(refScope, "one or an array of scopes"),
		field: func(c *Clause) any { return &c.Scope }, of: events, doc: "the children that events are about",
	}
	keyAvailability = key[Clause]{
		name: "availability", form: words("required", "optional", "same_as_target", "transitional"),
		field: func(c *Clause) any { return &c.Availability }, doc: "how much the target relies on it",
	}
	keySource = key[Clause]{
		name: "source_availability", form: words("required", "unknown"),
		field: func(c *Clause) any { return &c.SourceAvailability }, doc: "unknown: the source may be missing",
	}
	keyDependency = key[Clause]{
		name: "dependency", form: aDependency, field: func(c *Clause) any { return &c.Dependency },
		of: ordering, doc: "whether it orders shutdown",
	}
)

func keySubdir(of []manifest.Kind) key[Clause] {
	return key[Clause]{
		name: "subdir", form: aRelative, field: func(c *Clause) any { return &c.Subdir }, of: of,
		doc: "the part of the directory that is meant",
	}
}

var capabilityShape = shape[Clause]{
	name: "an entry of `capabilities`", at: clauseAt, section: "capability",
	keys: append([]key[Clause]{
		keyword(manifest.KindService, manyNames), keyword(manifest.KindProtocol, manyNames), keyword(manifest.KindDirectory,
			singleName),
		keyword(manifest.KindStorage, singleName), keyword(manifest.KindRunner, singleName), keyword(manifest.KindResolver, singleName),
		keyword(manifest.KindEventStream, manyNames), keyword(manifest.KindDictionary, singleName), keyword(manifest.KindConfig,
			singleName),
		{
			name: "path", form: aPath, field: func(c *Clause) any { return &c.Path }, of: pathed,
			doc: "where the program serves it, in its outgoing directory",
		},
		keyRights,
		{name: "from", form: oneRef(refOwn), field: func(c *Clause) any { return &c.From }, of: []manifest.Kind{
			manifest.KindStorage,
			manifest.KindRunner, manifest.KindResolver,
		}, doc: "the source of the backing directory"},
		{
			name: "backing_dir", form: aName, field: func(c *Clause) any { return &c.BackingDir }, of: storage,
			doc: "the directory capability that holds the storage",
		},
		keySubdir(storage),
		{
			name: "storage_id", form: words("static_instance_id", "static_instance_id_or_moniker"),
			field: func(c *Clause) any { return &c.StorageID }, of: storage, doc: "how a user of the storage is told apart",
		},
		{name: "value", form: aFree, field: func(c *Clause) any { return &c.Value }, of: configs, doc: "the value"},
		{
			name: "delivery", form: words("immediate", "on_readable"), field: func(c *Clause) any { return &c.Delivery }, of: protocol,
			doc: "when the provider starts",
		},
		{
			name: "activation", form: words("listen", "bind"), field: func(c *Clause) any { return &c.Activation }, of: protocol,
			doc: "who makes the socket",
		},
	}, configKeys...),
}

var useShape = shape[Clause]{
	name: "an entry of `use`", at: clauseAt, section: "use",
	gone: map[string]string{
		"resolver":                "a resolver is not used but put into an environment: environments: [ { resolvers: … } ]",
		"event":                   "events are now used as event_stream",
		"event_stream_deprecated": "events are now used as event_stream",
		"config_key":              `"config_key" is now called "key"`,
		"mode":                    "event modes are no longer part of the language; remove it",
		"modes":                   "event modes are no longer part of the language; remove it",
		"subscriptions":           "event subscriptions are no longer part of the language; name the events in event_stream",
		"as":                      `a use has no "as"; say where it appears with "path"`,
	},
	keys: append([]key[Clause]{
		keyword(manifest.KindService, manyNames), keyword(manifest.KindProtocol, manyNames), keyword(manifest.KindDirectory,
			singleName),
		keyword(manifest.KindStorage, singleName), keyword(manifest.KindEventStream, manyNames), keyword(manifest.KindRunner,
			singleName),
		keyword(manifest.KindConfig, singleName), keyword(manifest.KindDictionary, manyNames),
		{
			name: "from", form: oneRef(refUse), field: func(c *Clause) any { return &c.From },
			doc: "where it comes from; parent if not said",
		},
		{name: "path", form: aPath, field: func(c *Clause) any { return &c.Path }, of: usedAtPath, doc: "where the program finds it"},
		{
			name: "numbered_handle", form: uintForm{max: 255, want: "an unsigned 8-bit integer"},
			field: func(c *Clause) any { return &c.NumberedHandle }, of: protocol, doc: "the number of the handle, instead of a path",
		},
		keyRights, keySubdir(directory), keyScope,
		{name: "filter", form: aFreeObject, field: func(c *Clause) any { return &c.Filter }, doc: "which events are meant"},
		keyDependency, keyAvailability,
		{
			name: "key", form: aConfigKey, field: func(c *Clause) any { return &c.Key }, of: configs,
			doc: "the key that receives the value",
		},
		{
			name: "default", form: aFree, field: func(c *Clause) any { return &c.Default }, of: configs,
			doc: "the value where none is routed",
		},
	}, configKeys...),
}

var offerShape = shape[Clause]{
	name: "an entry of `offer`", at: clauseAt, section: "offer",
	gone: map[string]string{"event": "events are now offered as event_stream"},
	keys: []key[Clause]{
		keyword(manifest.KindService, manyNames), keyword(manifest.KindProtocol, manyNames), keyword(manifest.KindDirectory, manyNames),
		keyword(manifest.KindStorage, manyNames), keyword(manifest.KindRunner, manyNames), keyword(manifest.KindResolver, manyNames),
		keyword(manifest.KindEventStream, manyNames), keyword(manifest.KindDictionary, manyNames), keyword(manifest.KindConfig,
			manyNames),
		{
			name: "from", form: oneOrMany(refOffer, refOffer.want), field: func(c *Clause) any { return &c.From }, required: true,
			doc: "where it comes from",
		},
		{name: "to", form: targets, field: func(c *Clause) any { return &c.To }, required: true, doc: "who is given it"},
		keyAs, keyDependency, keyRights, keySubdir(directory), keyScope, keyAvailability, keySource,
		{
			name: "target_availability", form: words("required", "unknown"), field: func(c *Clause) any { return &c.TargetAvailability },
			doc: "unknown: the target may be missing",
		},
	},
}

var exposeShape = shape[Clause]{
	name: "an entry of `expose`", at: clauseAt, section: "expose",
	gone: map[string]string{"storage": "storage cannot be exposed; expose the directory behind it"},
	keys: []key[Clause]{
		keyword(manifest.KindService, manyNames), keyword(manifest.KindProtocol, manyNames), keyword(manifest.KindDirectory, manyNames),
		keyword(manifest.KindRunner, manyNames), keyword(manifest.KindResolver, manyNames), keyword(manifest.KindEventStream,
			manyNames),
		keyword(manifest.KindDictionary, manyNames), keyword(manifest.KindConfig, manyNames),
		{
			name: "from", form: oneOrMany(refExpose, refExpose.want), field: func(c *Clause) any { return &c.From }, required: true,
			doc: "where it comes from",
		},
		{
			name: "to", form: textsForm{one: true, item: words("parent", "framework"), want: `"parent" or "framework"`},
			field: func(c *Clause) any { return &c.To }, doc: "who is given it; parent if not said",
		},
		keyAs, keyRights, keySubdir(directory), keyScope, keyAvailability, keySource,
	},
}

var configTypeShape = shape[ConfigType]{
	name: "a config type", at: func(t *ConfigType) *At { return &t.At },
	keys: append(elementKeys[:len(elementKeys):len(elementKeys)],
		key[ConfigType]{
			name: "mutability", form: textsForm{many: true, empty: true, item: words("parent"), want: "an array of words"},
			field: func(t *ConfigType) any { return &t.Mutability }, doc: "who may override it",
		}),
}

var elementShape = shape[ConfigType]{
	name: "a config element type", at: func(t *ConfigType) *At { return &t.At },
	keys: elementKeys,
}

var elementKeys = []key[ConfigType]{
	{name: "type", form: words(configWords...), field: func(t *ConfigType) any { return &t.Type }, required: true, doc: "the type"},
	{name: "max_size", form: aNonZero, field: func(t *ConfigType) any { return &t.MaxSize }, doc: "the most bytes of a string"},
	{name: "max_count", form: aNonZero, field: func(t *ConfigType) any { return &t.MaxCount }, doc: "the most elements of a vector"},
	{
		name: "element", form: elementForm{}, field: func(t *ConfigType) any { return &t.Element },
		doc: "the type of a vector's elements",
	},
}
