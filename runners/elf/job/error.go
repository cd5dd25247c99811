package job

import (
	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/internal/sys/proc"
)

// A StartError is why a process was not started.
type StartError struct{ Cause *proc.Error }

func (e *StartError) Error() string { return e.Cause.Error() }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Cause }

// Code is the closed kind for the layers above.
func (e *StartError) Code() capabilities.Code {
	switch e.Cause.Kind {
	case proc.NotFound:
		return capabilities.NotFound
	case proc.Invalid, proc.NotExecutable, proc.WrongFormat, proc.TooBig:
		return capabilities.Invalid
	case proc.Denied:
		return capabilities.Denied
	case proc.Exhausted:
		return capabilities.Unavailable
	case proc.Other:
	}
	return capabilities.Internal
}
