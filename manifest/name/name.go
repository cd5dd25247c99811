package name

import (
	"fmt"
	"strings"
)

// Limits in bytes.
const (
	MaxName      = 255
	MaxLongName  = 1024
	MaxPath      = 4095
	MaxURL       = 4096
	MaxConfigKey = 64
	MaxScheme    = 255
	MaxReference = 1 + MaxName
)

// An Error is a string that does not follow its grammar. A caller whose clause allows more than the grammar at fault ("a name or
// nonempty array of names, …") may put its own words into Want.
type Error struct {
	Value  string
	Length bool   // its length is what is wrong
	Want   string // what was expected: "a valid URL"
}

// Error is the wording of the reference compiler: `invalid value: string "x", expected …`, `invalid length N, expected …`.
func (e *Error) Error() string {
	if e.Length {
		return fmt.Sprintf("invalid length %d, expected %s", len(e.Value), e.Want)
	}
	return fmt.Sprintf("invalid value: string %q, expected %s", e.Value, e.Want)
}

// grammar checks the length of s, then ok. wantLength tells what a good length is.
func grammar(s string, limit int, wantLength, want string, ok func(string) bool) error {
	if s == "" || len(s) > limit {
		return &Error{Value: s, Length: true, Want: wantLength}
	}
	if !ok(s) {
		return &Error{Value: s, Want: want}
	}
	return nil
}

const (
	wantName       = "a name that consists of [A-Za-z0-9_.-] and starts with [A-Za-z0-9_]"
	wantNameLength = "a non-empty name no more than 255 characters in length"
	wantLongLength = "a non-empty name no more than 1024 characters in length"
	wantPath       = "a path with leading `/` and non-empty segments, where each segment is no more than fuchsia.io/MAX_NAME_LENGTH " +
		"bytes in length, cannot be . or .., and cannot contain embedded NULs"
	wantPathLength     = "a non-empty path no more than fuchsia.io/MAX_PATH_LENGTH bytes in length"
	wantRelative       = "a path with no leading `/` and non-empty segments"
	wantRelativeLength = "a non-empty path no more than fuchsia.io/MAX_PATH_LENGTH characters in length"
	wantScheme         = "a valid URL scheme"
	wantSchemeLength   = "a non-empty URL scheme no more than 255 characters in length"
	wantKey            = "a name which must start with a letter, can contain letters, numbers, and underscores, but cannot end with " +
		"an underscore"
	wantKeyLength = "a non-empty name no more than 64 characters in length"
	wantReference = "a reference \"#<name>\""
)

// Check says whether s is a Name: 1 to 255 bytes, the first of [A-Za-z0-9_], the rest of [A-Za-z0-9_.-]. The error, as of every
// Check… here, is an *Error.
func Check(s string) error { return grammar(s, MaxName, wantNameLength, wantName, isWord) }

// CheckLong says whether s is a LongName: a Name of up to 1024 bytes, as dynamic children may have.
func CheckLong(s string) error { return grammar(s, MaxLongName, wantLongLength, wantName, isWord) }

// CheckPath says whether s is a Path: "/" and Names joined by "/", at most 4095 bytes. So there is no "." and no "..", no empty
// segment and no slash at the end, and "/" itself is none.
func CheckPath(s string) error {
	return grammar(s, MaxPath, wantPathLength, wantPath, func(s string) bool { return s[0] == '/' && areNames(s[1:]) })
}

// CheckNamespacePath says whether s is a Path or "/".
func CheckNamespacePath(s string) error {
	if s == "/" {
		return nil
	}
	return CheckPath(s)
}

// CheckRelativePath says whether s is ".", or Names joined by "/", at most 4095 bytes.
func CheckRelativePath(s string) error {
	return grammar(s, MaxPath, wantRelativeLength, wantRelative, func(s string) bool { return s == "." || areNames(s) })
}

// CheckScheme says whether s is the scheme of a URL: 1 to 255 bytes, the first of [a-z], the rest of [a-z0-9+.-].
func CheckScheme(s string) error {
	return grammar(s, MaxScheme, wantSchemeLength, wantScheme, func(s string) bool { return s == strings.ToLower(s) && isScheme(s) })
}

// CheckConfigKey says whether s is a key of structured configuration: 1 to 64 bytes, the first of [a-z], the rest of [a-z0-9_],
// the last not "_".
func CheckConfigKey(s string) error {
	return grammar(s, MaxConfigKey, wantKeyLength, wantKey, func(s string) bool {
		for i := range len(s) {
			if c := s[i]; !lower(c) && (i == 0 || !digit(c) && c != '_') {
				return false
			}
		}
		return s[len(s)-1] != '_'
	})
}

// CheckReference says whether s is a Reference: "#" and a Name.
func CheckReference(s string) error {
	return grammar(s, MaxReference, wantReference, wantReference, func(s string) bool { return s[0] == '#' && Check(s[1:]) == nil })
}

func lower(c byte) bool  { return c >= 'a' && c <= 'z' }
func letter(c byte) bool { return lower(c | 0x20) }
func digit(c byte) bool  { return c >= '0' && c <= '9' }

// isWord checks a Name's alphabet only.
func isWord(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !letter(c) && !digit(c) && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return s != ""
}

// areNames says whether s is one or more Names joined by "/".
func areNames(s string) bool {
	for seg := range strings.SplitSeq(s, "/") {
		if Check(seg) != nil {
			return false
		}
	}
	return true
}

// isScheme checks a scheme's alphabet, capitals allowed as everywhere but in a manifest's `scheme` (RFC 3986 §3.1).
func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !letter(c) && (i == 0 || !digit(c) && c != '+' && c != '.' && c != '-') {
			return false
		}
	}
	return s != ""
}
