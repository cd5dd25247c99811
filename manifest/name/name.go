package name

import (
	"errors"
	"fmt"
)

// Limits in bytes.
const (
	MaxName      = 255
	MaxLongName  = 1024
	MaxPath      = 4095
	MaxURL       = 4096
	MaxConfigKey = 64
)

// Check says whether s is a Name: 1 to 255 bytes, the first of [A-Za-z0-9_], the rest of [A-Za-z0-9_.-].
func Check(s string) error { return check(s, MaxName) }

// CheckLong says whether s is a LongName: a Name of up to 1024 bytes, as dynamic children may have.
func CheckLong(s string) error { return check(s, MaxLongName) }

func check(s string, limit int) error {
	if s == "" {
		return errors.New("a name may not be empty")
	}
	if len(s) > limit {
		return fmt.Errorf("name of %d bytes: no more than %d allowed", len(s), limit)
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || i > 0 && (c == '.' || c == '-') {
			continue
		}
		return fmt.Errorf("name %q: must consist of [A-Za-z0-9_.-] and start with [A-Za-z0-9_]", s)
	}
	return nil
}
