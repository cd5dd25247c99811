package control

import (
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/logs"
	"github.com/cmgr/cmgr/runtime/realm"
)

// EventMessage is e as Events gives it.
func EventMessage(e realm.Event) *controlpb.Event { return event(e) }

// LineMessage is l as Logs gives it.
func LineMessage(l logs.Line) *controlpb.LogLine {
	return &controlpb.LogLine{
		Moniker: string(l.Moniker), Time: timestamp(l.Time), Text: l.Text, Stream: l.Stream.String(), Partial: l.Partial,
	}
}

// CheckMessages are checks as Doctor gives them.
func CheckMessages(checks []Check) []*controlpb.Check {
	out := make([]*controlpb.Check, len(checks))
	for i, c := range checks {
		out[i] = &controlpb.Check{Status: c.Status.String(), Key: c.Key, Value: c.Value, Hint: c.Hint}
	}
	return out
}
