package manifest

import (
	"errors"
	"strings"
)

// A Diagnostic is one finding about a manifest.
type Diagnostic struct {
	Pos     Pos
	Rule    string // short name of the rule: "unknown-key", "duplicate-name", …
	Message string // lower case, no final period
	Hint    string // what to do next; "" for none
	Warning bool   // it does not keep the manifest from being used
}

// Error is "file:line:col: message", with the hint on a line of its own.
func (d Diagnostic) Error() string {
	s := d.Message
	if d.Pos.IsValid() {
		s = d.Pos.String() + ": " + s
	}
	if d.Hint != "" {
		s += "\n  hint: " + d.Hint
	}
	return s
}

// Diagnostics are findings in the order of their places. As an error it is one line (and hint) each.
type Diagnostics []Diagnostic

func (ds Diagnostics) Error() string {
	var b strings.Builder
	for i, d := range ds {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(d.Error())
	}
	return b.String()
}

// Errors are those that are not warnings.
func (ds Diagnostics) Errors() Diagnostics {
	var out Diagnostics
	for _, d := range ds {
		if !d.Warning {
			out = append(out, d)
		}
	}
	return out
}

// Err is ds's errors as an error, or nil when it holds at most warnings.
func (ds Diagnostics) Err() error {
	if e := ds.Errors(); len(e) > 0 {
		return e
	}
	return nil
}

// AsDiagnostics finds the diagnostics in err's chain.
func AsDiagnostics(err error) (Diagnostics, bool) {
	var ds Diagnostics
	ok := errors.As(err, &ds)
	return ds, ok
}
