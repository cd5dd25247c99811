package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/realm"
)

// A Problem is an error as it goes over the wire.
type Problem = controlpb.Problem

// An Error is a Problem as a Go error.
type Error struct{ Problem *Problem }

// Error is the message, with hints and candidates on lines of their own.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Problem.GetMessage())
	if h := e.Problem.GetHint(); h != "" {
		for line := range strings.SplitSeq(h, "\n") {
			b.WriteString(hintPrefix + line)
		}
	}
	for _, c := range e.Problem.GetCandidates() {
		b.WriteString("\n    " + c)
	}
	return b.String()
}

// hintPrefix is how every room of the house starts the hint of an error's text.
const hintPrefix = "\n  hint: "

// Code is the error's kind.
func (e *Error) Code() capabilities.Code { return capabilities.ParseCode(e.Problem.GetKind()) }

var wireCodes = map[capabilities.Code]connect.Code{
	capabilities.Internal:     connect.CodeInternal,
	capabilities.NotFound:     connect.CodeNotFound,
	capabilities.Invalid:      connect.CodeInvalidArgument,
	capabilities.Denied:       connect.CodePermissionDenied,
	capabilities.Unavailable:  connect.CodeUnavailable,
	capabilities.Precondition: connect.CodeFailedPrecondition,
}

// wire is e as the service returns it: the kind's code, the message, and the whole Problem as a detail.
func (e *Error) wire() *connect.Error {
	out := connect.NewError(wireCodes[e.Code()], errors.New(e.Problem.GetMessage()))
	if d, err := connect.NewErrorDetail(e.Problem); err == nil {
		out.AddDetail(d)
	}
	return out
}

// ProblemOf is err as a Problem: the one that came over the wire, or one made of its code, text, hints and diagnostics.
func ProblemOf(err error) *Problem {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Problem
	}
	p := &Problem{Kind: capabilities.CodeOf(err).String()}
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		for _, d := range ce.Details() {
			if m, err := d.Value(); err == nil {
				if got, ok := m.(*Problem); ok {
					return got
				}
			}
		}
		for kind, code := range wireCodes {
			if code == ce.Code() {
				p.Kind = kind.String()
			}
		}
		err = ce.Unwrap()
	}
	if ds, ok := manifest.AsDiagnostics(err); ok {
		p.Kind = capabilities.Invalid.String()
		p.Findings = Findings(ds)
	}
	var message, hints []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if h, ok := strings.CutPrefix(line, strings.TrimPrefix(hintPrefix, "\n")); ok {
			hints = append(hints, h)
		} else {
			message = append(message, line)
		}
	}
	p.Message, p.Hint = strings.Join(message, "\n"), strings.Join(slices.Compact(hints), "\n")
	return p
}

// failed is what a handler returns: err, with "op object: " before it unless its text begins so already.
func failed(op, object string, err error) error {
	var p *Problem
	switch {
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("%s %s: %w", op, object, err))
	case errors.Is(err, realm.ErrClosed):
		p = &Problem{Kind: capabilities.Unavailable.String(), Message: err.Error()}
	default:
		p = ProblemOf(err)
	}
	// The tree may have looked for another instance on the way to this one.
	found := op == "find" && strings.HasPrefix(p.Message, "find")
	if prefix := strings.TrimSpace(op + " " + object); !found && !strings.HasPrefix(p.Message, prefix) {
		p.Message = prefix + ": " + p.Message
	}
	return (&Error{p}).wire()
}

// problem makes an Error; hint is "" for none.
func problem(code capabilities.Code, hint, format string, args ...any) *Error {
	return &Error{&Problem{Kind: code.String(), Message: fmt.Sprintf(format, args...), Hint: hint}}
}

func invalid(format string, args ...any) error {
	return problem(capabilities.Invalid, "", format, args...)
}

// Findings are ds as they are told.
func Findings(ds manifest.Diagnostics) []*controlpb.Finding {
	out := make([]*controlpb.Finding, len(ds))
	for i, d := range ds {
		out[i] = &controlpb.Finding{
			Position: position(d.Pos), Rule: d.Rule, Message: d.Message, Hint: d.Hint, Warning: d.Warning,
			IncludedAt: position(d.IncludedAt),
		}
	}
	return out
}

func position(p manifest.Pos) *controlpb.Position {
	if !p.IsValid() {
		return nil
	}
	return &controlpb.Position{File: p.File, Line: p.Line, Column: p.Col}
}
