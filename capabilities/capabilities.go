// Package capabilities is the door to what flows along routes: the answer to a route question, the reasons why one fails, and the
// closed list of error codes that every layer above reports in. The engine that answers is in capabilities/routing.
package capabilities

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

// A Code is one of the closed kinds of error, for machines and on the wire.
type Code uint8

const (
	Internal     Code = iota // a fault of the manager or the system
	NotFound                 // it isn't there, or was not routed
	Invalid                  // the request or the manifest is wrong
	Denied                   // policy or rights forbid it
	Unavailable              // it is there but cannot be had now
	Precondition             // the instance is not in a state for it
)

var codes = [...]string{"internal", "not_found", "invalid", "denied", "unavailable", "precondition"}

func (c Code) String() string { return codes[c] }

// ParseCode is the code that a String is of; Internal for another one.
func ParseCode(s string) Code { return Code(max(0, slices.Index(codes[:], s))) }

// CodeOf is the code of the first error in err's chain that has one (a method `Code() Code`), else Internal.
func CodeOf(err error) Code {
	var c interface{ Code() Code }
	if errors.As(err, &c) {
		return c.Code()
	}
	return Internal
}

// A Route is the way of one capability from the component that asked to where it comes from.
type Route struct {
	Kind   manifest.Kind
	Target name.Moniker // who asked
	Hops   []Hop        // from the target's declaration to the source's, in the order walked
	Source Source
	// Rights and Subdir are composed over the hops (directory, storage); Subdir is below the source's path.
	Rights       manifest.Rights
	Subdir       string
	Availability manifest.Availability // what the target asks for after all hops
	// Scope narrows an event stream: an event passes if every Scope contains the instance that it is about.
	Scope []Scope
	// Backing is the route of the directory that a storage capability keeps its data in, from the component that declares the
	// storage; nil for other kinds. Backing.Subdir includes the storage's own subdir.
	Backing *Route
	// Members are what a service from FromCollection is put together of, in order; none for an empty collection. Their hops begin
	// where this route's end.
	Members []Member
}

// A Hop is one declaration on the way.
type Hop struct {
	At   name.Moniker  // whose manifest says it; "" above the root
	Decl string        // "use", "offer", "expose", "environment", "program", "capability", "builtin"
	Kind manifest.Kind // the route's own, or KindDictionary on the way to the dictionary that holds it
	Name string        // the capability's name here
	Pos  manifest.Pos
}

// A Member is one part of an aggregated service. Exactly one of its fields is set: a part that cannot be had does not take the
// others with it.
type Member struct {
	Route *Route
	Err   error
}

// A Scope is the part of the tree below At that an event stream tells of: At itself and all below it if Segments is empty, else
// only the children and collections named.
type Scope struct {
	At       name.Moniker
	Segments []string // "net", or "jobs" for every child of that collection
}

// Contains says whether the scope includes m.
func (s Scope) Contains(m name.Moniker) bool {
	if !s.At.Contains(m) {
		return false
	}
	if len(s.Segments) == 0 {
		return true
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(string(m), string(s.At)), "/")
	seg, _, _ := strings.Cut(rest, "/")
	collection, _, _ := strings.Cut(seg, ":")
	return slices.Contains(s.Segments, seg) || slices.Contains(s.Segments, collection)
}

// SourceKind says what provides a capability.
type SourceKind uint8

const (
	FromComponent  SourceKind = iota // a component declares it
	FromBuiltin                      // the manager itself, above the root
	FromFramework                    // the manager, scoped to the component At
	FromVoid                         // nobody, on purpose
	FromCapability                   // made by the manager out of another capability (StorageAdmin)
	FromCollection                   // aggregated from the instances of a collection, or of several sources
	FromDictionary                   // an item of a dictionary that At's program provides (Capability), which may not have it
)

var sourceKinds = [...]string{"component", "builtin", "framework", "void", "capability", "collection", "dictionary"}

func (k SourceKind) String() string { return sourceKinds[k] }

// A Source is where a route ends.
type Source struct {
	Kind       SourceKind
	At         name.Moniker         // the component; "" for builtins
	Name       string               // the capability's name there
	Capability *manifest.Capability // its declaration; nil for builtins, framework and void
}

// String is the source as tools print it: a moniker, or <component manager>.
func (s Source) String() string {
	switch s.Kind {
	case FromBuiltin:
		return "<component manager>"
	case FromVoid:
		return "void"
	case FromFramework:
		return "<framework of " + string(s.At) + ">"
	case FromCollection:
		return string(s.At) + " #" + s.Name
	default:
		return string(s.At)
	}
}

// An Error says why a route fails: who asked for what, at which instance the walk ended, and what to add where.
type Error struct {
	Target name.Moniker // who asked
	Kind   manifest.Kind
	Name   string       // as the target calls it
	At     name.Moniker // where the walk ended
	Reason string       // the reference's words: "`elf` was not offered to `/a` by parent"
	Pos    manifest.Pos // the declaration that leads nowhere; may be unknown
	Hint   string       // the line to add and the manifest to add it to; "" for none
	Why    Code
	Hops   []Hop // the way that was walked
	Err    error // the cause, when something other than the declarations failed (a manifest that cannot be resolved)
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %s", e.Kind, e.Name, e.Reason)
	if e.Pos.IsValid() {
		s += " (" + e.Pos.String() + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Code is the error's kind.
func (e *Error) Code() Code { return e.Why }
