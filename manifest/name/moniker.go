// Package name holds the grammars of everything that is named in a component tree: names, paths, URLs, monikers and
// moniker patterns. One implementation serves the manifest compiler, the stored form and the running tree.
//
// Source: the reference of the component manifest language (string types) and of monikers.
package name

import (
	"errors"
	"fmt"
	"strings"
)

// A Moniker says where in the tree an instance stands: "/" is the root, "/core/net" a static child of a static child,
// "/core/jobs:import-7" the child "import-7" of the collection "jobs" of "/core". The value is always canonical; make
// one with ParseMoniker or Child.
type Moniker string

// Root is the moniker of the root instance.
const Root Moniker = "/"

// ParseMoniker reads the canonical form, and "./a/b" and "." as meaning the same below the root.
func ParseMoniker(s string) (Moniker, error) {
	in := s
	switch {
	case s == "/" || s == "." || s == "./":
		return Root, nil
	case strings.HasPrefix(s, "./"):
		s = s[1:]
	case !strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("moniker %q: must start with / (the root) or ./", in)
	}
	for seg := range strings.SplitSeq(s[1:], "/") {
		if err := CheckChild(seg); err != nil {
			return "", fmt.Errorf("moniker %q: %w", in, err)
		}
	}
	return Moniker(s), nil
}

// CheckChild checks one segment of a moniker: a Name, or a collection's Name, a colon and a LongName.
func CheckChild(seg string) error {
	if seg == "" {
		return errors.New("empty segment")
	}
	coll, child, dynamic := strings.Cut(seg, ":")
	if err := Check(coll); err != nil {
		return err
	}
	if dynamic {
		return CheckLong(child)
	}
	return nil
}

// Child is the moniker of m's child with the given segment ("net", or "jobs:import-7").
func (m Moniker) Child(seg string) Moniker {
	if m == Root {
		return Moniker("/" + seg)
	}
	return m + Moniker("/"+seg)
}

// Parent is the moniker of m's parent; false for the root.
func (m Moniker) Parent() (Moniker, bool) {
	if m == Root || m == "" {
		return "", false
	}
	i := strings.LastIndexByte(string(m), '/')
	if i == 0 {
		return Root, true
	}
	return m[:i], true
}

// Base is m's last segment; "" for the root.
func (m Moniker) Base() string {
	return string(m[strings.LastIndexByte(string(m), '/')+1:])
}

// Collection is the collection that m's last segment names; "" for a static child.
func (m Moniker) Collection() string {
	coll, _, dynamic := strings.Cut(m.Base(), ":")
	if !dynamic {
		return ""
	}
	return coll
}

// Segments are the steps from the root to m, none for the root.
func (m Moniker) Segments() []string {
	if m == Root || m == "" {
		return nil
	}
	return strings.Split(string(m[1:]), "/")
}

// Contains says whether other is m itself or below it.
func (m Moniker) Contains(other Moniker) bool {
	if m == Root || m == other {
		return true
	}
	return strings.HasPrefix(string(other), string(m)+"/")
}

func (m Moniker) String() string { return string(m) }
