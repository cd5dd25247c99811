// Package manifest is the door to declarations: what a component says of itself, in types. It holds no parser (manifest/cml
// has the source language, manifest/codec the stored form) and no tree.
//
//	source text ─cml.Parse─► cml.Document ─cml.Compile─► Component ─Validate─► Validated ─► the tree
//
// A Component is the compiled declaration: one entry for each name (a clause `protocol: ["a", "b"]` has become two entries, an
// offer to two children two offers), each with the place it was written at. Only a Validated enters a tree.
package manifest

import "strconv"

// A Pos is a place in a source file. Line and Col count from 1, Col in characters. The zero Pos means "unknown".
type Pos struct {
	File string `json:"file"`
	Line int32  `json:"line"`
	Col  int32  `json:"column"`
}

// IsValid says whether p is known.
func (p Pos) IsValid() bool { return p.Line > 0 || p.File != "" }

// String is "file:line:col", as far as known.
func (p Pos) String() string {
	s := p.File
	if p.Line > 0 {
		if s != "" {
			s += ":"
		}
		s += strconv.Itoa(int(p.Line)) + ":" + strconv.Itoa(int(p.Col))
	}
	return s
}

// A Component is one compiled declaration.
type Component struct {
	Program      *Program
	Children     []Child
	Collections  []Collection
	Environments []Environment
	Capabilities []Capability
	Uses         []Use
	Offers       []Offer
	Exposes      []Expose
	Facets       Dictionary
	Config       *Config

	// Sources are the files that this declaration came from, the main one first, then what it includes.
	Sources []string
}

// Child returns the static child of that name, or nil.
func (c *Component) Child(name string) *Child {
	for i := range c.Children {
		if c.Children[i].Name == name {
			return &c.Children[i]
		}
	}
	return nil
}

// Collection returns the collection of that name, or nil.
func (c *Component) Collection(name string) *Collection {
	for i := range c.Collections {
		if c.Collections[i].Name == name {
			return &c.Collections[i]
		}
	}
	return nil
}

// Environment returns the environment of that name, or nil.
func (c *Component) Environment(name string) *Environment {
	for i := range c.Environments {
		if c.Environments[i].Name == name {
			return &c.Environments[i]
		}
	}
	return nil
}

// Capability returns the declared capability of that kind and name, or nil.
func (c *Component) Capability(k Kind, name string) *Capability {
	for i := range c.Capabilities {
		if c.Capabilities[i].Kind == k && c.Capabilities[i].Name == name {
			return &c.Capabilities[i]
		}
	}
	return nil
}

// Program is the `program` block: which runner runs it, and data that only that runner understands.
type Program struct {
	Pos Pos
	// Runner is program.runner, looked up in the environment; "" when a `use` of a runner names it.
	Runner    string
	RunnerPos Pos
	// Info is everything but `runner`; nested objects are flattened to dotted keys ("lifecycle.stop_event").
	Info Dictionary
}

// A Dictionary is free-form data as `program` and `facets` may hold it, sorted by key.
type Dictionary []Entry

// An Entry is one key of a Dictionary.
type Entry struct {
	Key   string
	Pos   Pos
	Value Value
}

// Get returns the value at key.
func (d Dictionary) Get(key string) (Entry, bool) {
	for _, e := range d {
		if e.Key == key {
			return e, true
		}
	}
	return Entry{}, false
}

// A Value is one of String, Strings, Objects or Null: all that the language allows in a Dictionary.
type Value interface{ value() }

type (
	// String is a JSON string.
	String string
	// Strings is an array of strings, or the empty array.
	Strings []string
	// Objects is an array of objects, each flattened.
	Objects []Dictionary
	// Null is null.
	Null struct{}
)

func (String) value()  {}
func (Strings) value() {}
func (Objects) value() {}
func (Null) value()    {}

// A Child is a static child.
type Child struct {
	Pos         Pos
	Name        string
	URL         string
	Startup     Startup
	OnTerminate OnTerminate
	Restart     *Restart // set if and only if OnTerminate is OnTerminateRestart
	Environment string   // the name of one of this declaration's environments, or "" to inherit
}

// Startup says when a child starts.
type Startup uint8

const (
	Lazy  Startup = iota // at the first use of what it provides, or by an operator
	Eager                // with its parent
)

func (s Startup) String() string { return [...]string{"lazy", "eager"}[s] }

// OnTerminate says what follows when a child's program ends other than by a stop or shutdown that was asked for.
type OnTerminate uint8

const (
	OnTerminateNone    OnTerminate = iota // it stays stopped until the next use
	OnTerminateReboot                     // the whole tree shuts down and the manager exits non-zero
	OnTerminateRestart                    // it is started again, as Restart says
)

func (o OnTerminate) String() string { return [...]string{"none", "reboot", "restart"}[o] }

// Restart is the `restart` object of a child. Times are in milliseconds.
type Restart struct {
	When       RestartWhen
	DelayMS    uint32 // before the first restart of a series
	FromStart  bool   // delays count from the last start instead of its end; so it is, with 1,000 ms, where the manifest gives none
	MaxDelayMS uint32 // the delay never exceeds this; 0: no growth beyond DelayMS unless Backoff says so, bounded at one hour
	Backoff    string // the factor from one delay to the next as a decimal, "" means "1"
	Limit      uint32 // at most so many restarts within WindowMS; 0: no limit
	WindowMS   uint32 // also: a run that lasts as long as this resets the delay; default 60,000
}

// RestartWhen says which ends are followed by a restart.
type RestartWhen uint8

const (
	RestartAlways  RestartWhen = iota // any end
	RestartFailure                    // any end but exit code 0
)

func (w RestartWhen) String() string { return [...]string{"always", "failure"}[w] }

// A Collection holds dynamic children.
type Collection struct {
	Pos               Pos
	Name              string
	Durability        Durability
	Environment       string
	DynamicOffers     bool // allowed_offers: "static_and_dynamic"
	AllowLongNames    bool
	PersistentStorage bool
}

// Durability says how long a dynamic child lives.
type Durability uint8

const (
	Transient Durability = iota // until destroyed, or its parent stops
	SingleRun                   // started when created, destroyed when it stops
)

func (d Durability) String() string { return [...]string{"transient", "single_run"}[d] }

// An Environment is what a parent can give to children beside offers.
type Environment struct {
	Pos           Pos
	Name          string
	ExtendsRealm  bool
	StopTimeoutMS *uint32 // nil: as the environment it extends
	Runners       []Registration
	Resolvers     []Registration
	Debug         []Registration
}

// A Registration puts a capability into an environment.
type Registration struct {
	Pos    Pos
	Kind   Kind // KindRunner, KindResolver or KindProtocol (debug)
	Source Ref
	Name   string // in the source
	As     string // in the environment; for a resolver the URL scheme
}

// Kind is a kind of capability.
type Kind uint8

const (
	KindProtocol Kind = iota + 1
	KindService
	KindDirectory
	KindStorage
	KindRunner
	KindResolver
	KindEventStream
	KindDictionary
	KindConfig
)

var kinds = [...]string{"", "protocol", "service", "directory", "storage", "runner", "resolver", "event_stream", "dictionary", "config"}

// String is the keyword of the manifest language.
func (k Kind) String() string { return kinds[k] }

// Kinds are all kinds, in the order of the language's tables.
func Kinds() []Kind {
	return []Kind{KindProtocol, KindService, KindDirectory, KindStorage, KindRunner, KindResolver, KindEventStream, KindDictionary, KindConfig}
}

// A Ref says where a capability comes from or goes to, seen from the component that says it.
type Ref struct {
	Kind RefKind
	// Name is the child's, collection's or capability's name; "" for the others.
	Name string
	// Dictionary is the path within a dictionary ("d/e" of "parent/d/e"), "" for none. As an offer's target it is the
	// component's own dictionary ("self/d").
	Dictionary string
}

// RefKind is a kind of Ref.
type RefKind uint8

const (
	RefParent RefKind = iota + 1
	RefSelf
	RefChild
	RefCollection
	RefCapability // "#storage": a capability that the component itself declares
	RefFramework
	RefDebug
	RefVoid
	RefEnvironment // a use of a runner through the environment
)

// String is the form in which the manifest writes it.
func (r Ref) String() string {
	var s string
	switch r.Kind {
	case RefParent:
		s = "parent"
	case RefSelf:
		s = "self"
	case RefFramework:
		s = "framework"
	case RefDebug:
		s = "debug"
	case RefVoid:
		s = "void"
	case RefEnvironment:
		s = "environment"
	default:
		s = "#" + r.Name
	}
	if r.Dictionary != "" {
		s += "/" + r.Dictionary
	}
	return s
}

// A Capability is something that this component declares, that is, provides. Fields that a kind doesn't have are zero.
type Capability struct {
	Pos  Pos
	Kind Kind
	Name string
	// Path is the place in the program's outgoing directory: protocol, service, directory, runner, resolver; for a
	// dictionary it makes it a dynamic one.
	Path     string
	Rights   Rights       // directory
	Storage  *StorageDecl // storage
	Config   *ConfigValue // config
	Delivery Delivery     // protocol
	Activate Activation   // protocol: who makes the socket
}

// Activation says who makes the listening socket of a protocol.
type Activation uint8

const (
	ActivationListen Activation = iota // the manager holds it and passes it to the program
	ActivationBind                     // the program binds it in its outgoing directory
)

func (a Activation) String() string { return [...]string{"listen", "bind"}[a] }

// StorageDecl is what a storage capability adds.
type StorageDecl struct {
	Source       Ref    // of the backing directory: parent, self or a child
	BackingDir   string // name of a directory capability
	Subdir       string
	StaticIDOnly bool // storage_id: "static_instance_id"
}

// Delivery is a protocol's `delivery`.
type Delivery uint8

const (
	DeliverImmediate  Delivery = iota
	DeliverOnReadable          // the provider starts when there is something to read
)

func (d Delivery) String() string { return [...]string{"immediate", "on_readable"}[d] }

// DependencyType says whether a route orders shutdown.
type DependencyType uint8

const (
	Strong DependencyType = iota
	Weak
)

func (d DependencyType) String() string { return [...]string{"strong", "weak"}[d] }

// Availability says how much a target relies on a route.
type Availability uint8

const (
	Required Availability = iota
	Optional
	Transitional
	SameAsTarget
)

func (a Availability) String() string {
	return [...]string{"required", "optional", "transitional", "same_as_target"}[a]
}

// A Use is a capability that this component's program consumes.
type Use struct {
	Pos            Pos
	Kind           Kind
	Source         Ref
	SourceName     string
	TargetPath     string // in the program's namespace: protocol, service, directory, storage, event_stream, dictionary
	NumberedHandle *uint8 // protocol, instead of TargetPath
	Rights         Rights
	Subdir         string
	Scope          []Ref
	Filter         Dictionary // event_stream
	Dependency     DependencyType
	Availability   Availability
	Config         *UseConfig
}

// UseConfig is what a use of a config capability adds.
type UseConfig struct {
	Key     string
	Type    ConfigType
	Default any // as ConfigValue.Value; nil for none
}

// An Offer gives a capability to one child, collection or own dictionary.
type Offer struct {
	Pos          Pos
	Kind         Kind
	Source       Ref
	SourceName   string
	Target       Ref // RefChild, RefCollection, or RefSelf with a Dictionary
	TargetName   string
	Rights       Rights
	Subdir       string
	Scope        []Ref
	Dependency   DependencyType
	Availability Availability
}

// An Expose gives a capability to the parent or the framework.
type Expose struct {
	Pos          Pos
	Kind         Kind
	Source       Ref
	SourceName   string
	Target       Ref // RefParent or RefFramework
	TargetName   string
	Rights       Rights
	Subdir       string
	Scope        []Ref
	Availability Availability
}

// Config is the schema of structured configuration.
type Config struct {
	Pos    Pos
	Fields []ConfigField // sorted by key
	// FromCapabilities: the values come from routed config capabilities only, there is no value file.
	FromCapabilities bool
}

// ConfigField is one key of the schema.
type ConfigField struct {
	Pos             Pos
	Key             string
	Type            ConfigType
	MutableByParent bool
}

// ConfigType is a type of the schema.
type ConfigType struct {
	Kind     ConfigKind
	MaxSize  uint32      // string: bytes
	MaxCount uint32      // vector: elements
	Element  *ConfigType // vector
}

// ConfigKind is the basic type.
type ConfigKind uint8

const (
	ConfigBool ConfigKind = iota
	ConfigUint8
	ConfigUint16
	ConfigUint32
	ConfigUint64
	ConfigInt8
	ConfigInt16
	ConfigInt32
	ConfigInt64
	ConfigString
	ConfigVector
)

func (k ConfigKind) String() string {
	return [...]string{"bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "string", "vector"}[k]
}

// ConfigValue is the constant of a config capability.
type ConfigValue struct {
	Type ConfigType
	// Value is bool, uint64 (unsigned types), int64 (signed types), string, or []any of these.
	Value any
}

// Rights are what may be done in a directory: a set of the Right… bits.
type Rights uint16

const (
	RightConnect Rights = 1 << iota
	RightEnumerate
	RightExecute
	RightGetAttributes
	RightModifyDirectory
	RightReadBytes
	RightTraverse
	RightUpdateAttributes
	RightWriteBytes
)

// The aliases of the language.
const (
	RightsR  = RightConnect | RightEnumerate | RightTraverse | RightReadBytes | RightGetAttributes
	RightsW  = RightConnect | RightEnumerate | RightTraverse | RightWriteBytes | RightModifyDirectory | RightUpdateAttributes
	RightsX  = RightConnect | RightEnumerate | RightTraverse | RightExecute
	RightsRW = RightsR | RightsW
	RightsRX = RightsR | RightExecute
)

var rightNames = [...]string{"connect", "enumerate", "execute", "get_attributes", "modify_directory", "read_bytes", "traverse", "update_attributes", "write_bytes"}

// Names are the tokens of r, in alphabetical order.
func (r Rights) Names() []string {
	var out []string
	for i, n := range rightNames {
		if r&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

// Short is Names, or one alias ("rw*") if that says the same.
func (r Rights) Short() []string {
	for _, a := range []struct {
		r    Rights
		name string
	}{{RightsR, "r*"}, {RightsW, "w*"}, {RightsX, "x*"}, {RightsRW, "rw*"}, {RightsRX, "rx*"}} {
		if r == a.r {
			return []string{a.name}
		}
	}
	return r.Names()
}

// Has says whether every right of other is in r.
func (r Rights) Has(other Rights) bool { return r&other == other }
