package control

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runners"
	"github.com/cmgr/cmgr/runtime/realm"
)

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func instance(i realm.Info) *controlpb.Instance {
	out := &controlpb.Instance{
		Moniker: string(i.Moniker), Url: i.URL, State: i.State.String(), Starting: i.Starting, Environment: i.Environment,
		LastExit: exit(i.LastExit), LastError: errorText(i.LastError),
		Restarts: uint32(i.Restarts), NextStart: timestamp(i.NextStart), GaveUp: i.RestartsUp, Disabled: i.Disabled,
	}
	if isRunning(i) {
		out.StartedAt, out.StartReason = timestamp(i.StartedAt), i.StartReason
	}
	return out
}

func exit(e *runners.Exit) *controlpb.Exit {
	if e == nil {
		return nil
	}
	out := &controlpb.Exit{
		Ok: e.Well(), Code: int32(e.Code), CoreDumped: e.CoreDumped, Cause: e.Cause.String(), Critical: e.Critical, Detail: e.Detail,
		StartedAt: timestamp(e.Started), EndedAt: timestamp(e.Ended), Text: e.String(),
	}
	if e.Signal != 0 {
		out.Signal = runners.SignalName(e.Signal)
	}
	return out
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return ProblemOf(err).GetMessage()
}

// usage is what p uses now; nil if nobody can know. The processes' ids are left out.
func usage(ctx context.Context, p runners.Program) *controlpb.Usage {
	m, ok := p.(runners.Measurer)
	if !ok {
		return nil
	}
	s, err := m.Stats(ctx)
	if err != nil {
		return nil // it ended just now
	}
	out := &controlpb.Usage{}
	if s.CPU >= 0 {
		out.CpuSeconds = new(s.CPU.Seconds())
	}
	if s.Memory >= 0 {
		out.MemoryBytes = new(float64(s.Memory))
	}
	if s.Processes >= 0 {
		out.Processes = new(int32(s.Processes))
	}
	return out
}

func event(e realm.Event) *controlpb.Event {
	out := &controlpb.Event{
		Seq: float64(e.Seq), Time: timestamp(e.Time), Kind: e.Kind.String(), Moniker: string(e.Moniker), Url: e.URL, Text: e.Text,
		Exit: exit(e.Exit), Error: errorText(e.Err),
	}
	if e.Kind == realm.EventRestarting {
		out.DelaySeconds = new(e.Delay.Seconds())
	}
	return out
}

// resolved is what i's manifest says; nil if it has not been read.
func resolved(i realm.Info) *controlpb.Resolved {
	d := i.Decl
	if d == nil {
		return nil
	}
	out := &controlpb.Resolved{
		ResolvedUrl: i.ResolvedURL, PackageDirectory: i.PackageDir, Runner: runnerName(d), ManifestSources: d.Sources,
	}
	for _, u := range d.Uses {
		if u.TargetPath != "" {
			out.IncomingCapabilities = append(out.IncomingCapabilities, u.TargetPath)
		}
	}
	for _, e := range d.Exposes {
		if e.Target.Kind == manifest.RefParent {
			out.ExposedCapabilities = append(out.ExposedCapabilities, e.TargetName)
		}
	}
	for _, c := range d.Collections {
		out.Collections = append(out.Collections, c.Name)
	}
	// A service put together of several sources is one capability.
	for _, list := range []*[]string{&out.IncomingCapabilities, &out.ExposedCapabilities} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return out
}

// runnerName is the runner as the manifest names it; "" for a component without a program.
func runnerName(d *manifest.Component) string {
	if d.Program == nil {
		return ""
	}
	for _, u := range d.Uses {
		if u.Kind == manifest.KindRunner {
			return u.SourceName
		}
	}
	return d.Program.Runner
}

// started is what is known of i's running program; its Runtime only if the runner tells.
func started(ctx context.Context, i realm.Info) *controlpb.Started {
	out := &controlpb.Started{StartReason: i.StartReason, StartedAt: timestamp(i.StartedAt)}
	for _, c := range i.Decl.Capabilities {
		if c.Path != "" {
			out.OutgoingCapabilities = append(out.OutgoingCapabilities, c.Name)
		}
	}
	if i.Program == nil {
		return out
	}
	out.Usage = usage(ctx, i.Program)
	if l, ok := i.Program.(runners.ProcessLister); ok {
		if pids, err := l.Processes(ctx); err == nil {
			if out.Usage == nil {
				out.Usage = &controlpb.Usage{}
			}
			for _, p := range pids {
				out.Usage.ProcessIds = append(out.Usage.ProcessIds, int32(p))
			}
		}
	}
	if d, ok := i.Program.(runners.Describer); ok {
		for _, x := range d.Describe() {
			if x.Key == "Runtime" {
				out.Runtime = x.Value
			} else {
				out.Details = append(out.Details, &controlpb.Detail{Key: x.Key, Value: x.Value})
			}
		}
	}
	return out
}
