// Package cml reads the source language of component manifests (.cml, JSON5 text) and compiles it to manifest's declarations.
//
//	Parse    text → Document: what was written, with places; every key and string checked against the tables of schema.go
//	Compile  Document → manifest.Component: one entry a name, defaults filled, targets expanded
//	Load     both, and manifest.Validate
//
// Between the first two, Expand merges what a document includes, and Merge and Canonicalize do what their names say.
// Format and Repair work on the text, and Decompile makes one of a declaration.
//
// Each stage reports all errors that it finds and gives the next one as much as it could read.
package cml

import (
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// A Source is one source file.
type Source struct {
	File string
	Tree json5.Tree // with every comment; its Root is empty if the text could not be read
}

// An At is a place in a source. The zero At belongs to what was not written.
type At struct {
	Source *Source
	Offset int
}

// IsSet says whether something was written here.
func (a At) IsSet() bool { return a.Source != nil }

// Pos is the place as line and column.
func (a At) Pos() manifest.Pos {
	if a.Source == nil {
		return manifest.Pos{}
	}
	p := a.Source.Tree.Position(a.Offset)
	return manifest.Pos{File: a.Source.File, Line: int32(p.Line), Col: int32(p.Col)}
}

// A Document is one manifest as it was written, or several merged into one.
type Document struct {
	At           At
	Source       *Source  // the main file
	Included     []string // the files that Expand merged into it
	IncludedAt   []At     // for each of them, the first place that includes it
	Include      Texts
	Program      Free
	Children     List[Child]
	Collections  List[Collection]
	Environments List[Environment]
	Capabilities List[Clause]
	Use          List[Clause]
	Offer        List[Clause]
	Expose       List[Clause]
	Facets       Free
	Config       ConfigSection
}

// A Text is a string with its place.
type Text struct {
	At    At
	Value string
}

// Texts are strings that were written as one string, or as an array.
type Texts struct {
	At    At
	Items []Text
	Many  bool // written as an array
}

// A Flag is a boolean.
type Flag struct {
	At    At
	Value bool
}

// A Uint is an unsigned number.
type Uint struct {
	At    At
	Value uint64
}

// A List is an array of objects.
type List[T any] struct {
	At    At
	Items []T
}

// A Free is a value without a fixed form, as program, facets and filter hold them.
type Free struct {
	At      At
	Kind    json5.Kind
	Text    string // a string decoded; a number or boolean as it was written
	Items   []Free // of an array
	Members []Member
}

// A Member is one key of a Free object.
type Member struct {
	At    At // of the key
	Name  string
	Value Free
}

// Get returns the member of that name, or nil.
func (f *Free) Get(name string) *Member {
	for i := range f.Members {
		if f.Members[i].Name == name {
			return &f.Members[i]
		}
	}
	return nil
}

// A Child is an entry of `children`.
type Child struct {
	At          At
	Name        Text
	URL         Text
	Startup     Text
	OnTerminate Text
	Restart     Restart
	Environment Text
}

// Restart is a child's `restart`.
type Restart struct {
	At       At
	When     Text
	Delay    Uint
	MaxDelay Uint
	Backoff  Text
	Limit    Uint
	Window   Uint
}

// A Collection is an entry of `collections`.
type Collection struct {
	At                At
	Name              Text
	Durability        Text
	Environment       Text
	AllowedOffers     Text
	AllowLongNames    Flag
	PersistentStorage Flag
}

// An Environment is an entry of `environments`.
type Environment struct {
	At          At
	Name        Text
	Extends     Text
	StopTimeout Uint
	Runners     List[Registration]
	Resolvers   List[Registration]
	Debug       List[Registration]
}

// A Registration is an entry of an environment's `runners`, `resolvers` or `debug`.
type Registration struct {
	At     At
	Names  Texts
	From   Text
	As     Text
	Scheme Text
}

// A Clause is an entry of `capabilities`, `use`, `offer` or `expose`. Only some keys belong to each section and kind.
type Clause struct {
	At    At
	Kind  manifest.Kind // the keyword; 0 if it has none
	Names Texts         // what the keyword names

	From  Texts
	To    Texts
	As    Text
	Path  Text
	Scope Texts

	Rights             Texts
	Subdir             Text
	Dependency         Text
	Availability       Text
	SourceAvailability Text
	TargetAvailability Text

	NumberedHandle Uint // use protocol
	Filter         Free // use event_stream
	BackingDir     Text // storage
	StorageID      Text
	Delivery       Text // protocol
	Activation     Text

	Key     Text // config
	Type    ConfigType
	Value   Free
	Default Free
}

// A ConfigType is a type of structured configuration.
type ConfigType struct {
	At         At
	Type       Text
	MaxSize    Uint
	MaxCount   Uint
	Element    *ConfigType
	Mutability Texts
}

// A ConfigSection is the `config` section.
type ConfigSection struct {
	At     At
	Fields []ConfigField
}

// A ConfigField is one key of it.
type ConfigField struct {
	Key  Text
	Type ConfigType
}
