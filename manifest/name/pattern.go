package name

import (
	"fmt"
	"strings"
)

// A Pattern says which instances a line of a policy means. Each of its segments is
//
//	net       that child             *         any child, static or dynamic
//	coll:x    that dynamic child     coll:*    any child of the collection
//	**        whatever is below, at least one level; at the end only
//	coll:**   any child of the collection and whatever is below it; at the end only
//
// and "/" alone is the root. Neither "/a/*" nor "/a/**" means "/a" itself. Source: the allowlists of component manager's
// configuration. The zero Pattern matches nothing.
type Pattern struct {
	text     string
	segments []string
}

// ParsePattern reads a pattern; it must start with "/".
func ParsePattern(s string) (Pattern, error) {
	if !strings.HasPrefix(s, "/") {
		return Pattern{}, fmt.Errorf("allowlist entry (%q) must start with a '/'", s)
	}
	if s == "/" {
		return Pattern{text: s}, nil
	}
	segments := strings.Split(s[1:], "/")
	for i, seg := range segments {
		coll, child, dynamic := strings.Cut(seg, ":")
		last := coll
		if dynamic {
			last = child
			if err := Check(coll); err != nil {
				return Pattern{}, fmt.Errorf("allowlist entry (%q): %w", s, err)
			}
		}
		switch {
		case last == "**" && i < len(segments)-1:
			return Pattern{}, fmt.Errorf("allowlist entry (%q) must have '**' wildcard only at the end", s)
		case last == "**" || last == "*":
		default:
			if err := CheckChild(seg); err != nil {
				return Pattern{}, fmt.Errorf("allowlist entry (%q): %w", s, err)
			}
		}
	}
	return Pattern{text: s, segments: segments}, nil
}

// Match says whether p means m.
func (p Pattern) Match(m Moniker) bool {
	steps := m.Segments()
	for i, seg := range p.segments {
		if i >= len(steps) {
			return false
		}
		switch coll, child, _ := strings.Cut(seg, ":"); {
		case seg == "**":
			return true
		case child == "**":
			return strings.HasPrefix(steps[i], coll+":")
		case seg == "*":
		case child == "*":
			if !strings.HasPrefix(steps[i], coll+":") {
				return false
			}
		case seg != steps[i]:
			return false
		}
	}
	return p.text != "" && m != "" && len(steps) == len(p.segments)
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }
