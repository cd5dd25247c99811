package servicedir

import "github.com/cmgr/cmgr/runners/runit/djb"

// An Error is what could not be done, in runit's words.
type Error struct {
	Op  string // "unable to open supervise/lock"
	Err error  // nil where Op says it all
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Op
	}
	return e.Op + ": " + djb.Text(e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
