package runners

import (
	"fmt"
	"sort"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
)

// A Block is the `program` block, with typed look-ups. Keys are dotted ("lifecycle.stop_event").
type Block struct {
	Pos  manifest.Pos
	Info manifest.Dictionary
}

// A BlockError is a value of the program block that its runner does not accept.
type BlockError struct {
	Pos  manifest.Pos
	Key  string
	What string
}

func (e *BlockError) Error() string {
	s := fmt.Sprintf("program.%s: %s", e.Key, e.What)
	if e.Pos.IsValid() {
		s = e.Pos.String() + ": " + s
	}
	return s
}

// Code is Invalid.
func (*BlockError) Code() capabilities.Code { return capabilities.Invalid }

func (b Block) bad(e manifest.Entry, format string, args ...any) error {
	return &BlockError{Pos: e.Pos, Key: e.Key, What: fmt.Sprintf(format, args...)}
}

// String is the string at key; false if the key is absent or null.
func (b Block) String(key string) (string, bool, error) {
	e, ok := b.Info.Get(key)
	if !ok {
		return "", false, nil
	}
	switch v := e.Value.(type) {
	case manifest.String:
		return string(v), true, nil
	case manifest.Null:
		return "", false, nil
	default:
		return "", false, b.bad(e, "must be a string, is %s", describe(v))
	}
}

// Strings is the array of strings at key; nil if absent or null.
func (b Block) Strings(key string) ([]string, error) {
	e, ok := b.Info.Get(key)
	if !ok {
		return nil, nil
	}
	switch v := e.Value.(type) {
	case manifest.Strings:
		return v, nil
	case manifest.Null:
		return nil, nil
	default:
		return nil, b.bad(e, "must be an array of strings, is %s", describe(v))
	}
}

// Bool is the "true" or "false" at key (the language has no other booleans here); false if absent.
func (b Block) Bool(key string) (bool, error) {
	s, err := b.Enum(key, "false", "true", "false")
	return s == "true", err
}

// Enum is one of the allowed strings at key, or def if absent.
func (b Block) Enum(key, def string, allowed ...string) (string, error) {
	s, ok, err := b.String(key)
	if err != nil {
		return "", err
	}
	if !ok {
		return def, nil
	}
	for _, a := range allowed {
		if s == a {
			return s, nil
		}
	}
	e, _ := b.Info.Get(key)
	return "", b.bad(e, "is %q, must be one of %q", s, allowed)
}

// Errorf is an error about the value at key.
func (b Block) Errorf(key, format string, args ...any) error {
	e, ok := b.Info.Get(key)
	if !ok {
		e = manifest.Entry{Key: key, Pos: b.Pos}
	}
	return b.bad(e, format, args...)
}

// Unknown are the entries whose key is none of the known ones, sorted by key.
func (b Block) Unknown(known ...string) []manifest.Entry {
	set := make(map[string]bool, len(known))
	for _, k := range known {
		set[k] = true
	}
	var out []manifest.Entry
	for _, e := range b.Info {
		if !set[e.Key] {
			out = append(out, e)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

func describe(v manifest.Value) string {
	switch v.(type) {
	case manifest.String:
		return "a string"
	case manifest.Strings:
		return "an array of strings"
	case manifest.Objects:
		return "an array of objects"
	default:
		return "null"
	}
}
