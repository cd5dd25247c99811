package codec

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/cml"
)

// ErrNoSource is a declaration that no manifest compiles to: another compiler made it.
var ErrNoSource = errors.New("no manifest says the same")

// Decompile is the source of c, as cml.Decompile writes it, from which the same bytes are compiled but for the places. The error
// wraps ErrNoSource if there is none.
func Decompile(c *manifest.Component) ([]byte, error) {
	src := cml.Decompile(c)
	again, found := cml.Load("decompiled.cml", src, cml.Options{})
	if err := found.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSource, err)
	}
	one, err := EncodeStripped(c)
	if err != nil {
		return nil, err
	}
	two, err := EncodeStripped(again.Decl())
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(one, two):
		return nil, ErrNoSource
	}
	return src, nil
}
