package manifest

import (
	"errors"
	"strconv"
	"strings"
)

// A Diagnostic is one finding about a manifest. As JSON it has the form that findings have everywhere: that of Finding in
// proto/control/v1.
type Diagnostic struct {
	Pos        Pos    `json:"position,omitzero"`
	Rule       string `json:"rule"`                 // short name of the rule: "unknown-key", "duplicate-name", …
	Message    string `json:"message"`              // lower case, no final period
	Hint       string `json:"hint"`                 // what to do next; "" for none
	Warning    bool   `json:"warning"`              // it does not keep the manifest from being used
	IncludedAt Pos    `json:"included_at,omitzero"` // the include that brought Pos.File in; zero if that is the manifest itself
}

// Error is "file:line:col: message", with the place of the include and the hint on lines of their own.
func (d Diagnostic) Error() string {
	s := d.Message
	if d.Pos.IsValid() {
		s = d.Pos.String() + ": " + s
	}
	if d.IncludedAt.IsValid() {
		s += "\n  included at " + d.IncludedAt.String()
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

// Omitted is a finding that stands for n others, errors or warnings, which are too many to tell them all; pos is where the last
// one is that is told.
func Omitted(pos Pos, n int, warning bool) Diagnostic {
	what := "errors"
	if warning {
		what = "warnings"
	}
	return Diagnostic{Pos: pos, Rule: "too-many", Message: "there are " + strconv.Itoa(n) + " more " + what, Warning: warning}
}

// AsDiagnostics finds the diagnostics in err's chain.
func AsDiagnostics(err error) (Diagnostics, bool) {
	var ds Diagnostics
	ok := errors.As(err, &ds)
	return ds, ok
}
