package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/framework"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/componentpb"
	"github.com/cmgr/cmgr/runtime/realm"
)

// A Stream is one event stream that a component uses.
type Stream struct {
	Event  string // "started", …: one of framework.Events
	Route  *capabilities.Route
	Filter manifest.Dictionary
}

// What a filter can say: of which instances, as patterns of monikers below the scope, and how events are written.
const (
	filterMoniker  = "moniker"
	filterEncoding = "encoding"
)

// A filter is a Stream made ready.
type filter struct {
	event    string
	root     name.Moniker // monikers are relative to it
	scope    []capabilities.Scope
	patterns []name.Pattern // nil: any
}

// readStreams checks streams, and says whether they are to be written as protobuf.
func readStreams(streams []Stream) (out []filter, binary bool, err error) {
	for _, s := range streams {
		f := filter{event: s.Event, root: name.Root, scope: s.Route.Scope}
		if s.Route.Source.Kind == capabilities.FromFramework {
			f.root = s.Route.Source.At
		}
		if !slices.Contains(framework.Events(), s.Event) {
			return nil, false, fmt.Errorf("there is no event stream %q", s.Event)
		}
		for _, e := range s.Filter {
			var list []string
			switch v := e.Value.(type) {
			case manifest.String:
				list = []string{string(v)}
			case manifest.Strings:
				list = v
			default:
				return nil, false, fmt.Errorf("%s: filter %s must be a string or a list of strings", e.Pos, e.Key)
			}
			switch e.Key {
			case filterMoniker:
				f.patterns = []name.Pattern{}
				for _, t := range list {
					p, err := name.ParsePattern(strings.TrimPrefix(t, "."))
					if err != nil {
						return nil, false, fmt.Errorf("%s: filter moniker: %w", e.Pos, err)
					}
					f.patterns = append(f.patterns, p)
				}
			case filterEncoding:
				switch strings.Join(list, ",") {
				case "json":
				case "protobuf":
					binary = true
				default:
					return nil, false, fmt.Errorf("%s: filter encoding must be json or protobuf", e.Pos)
				}
			default:
				return nil, false, fmt.Errorf("%s: an event stream has no filter %q (moniker, encoding)", e.Pos, e.Key)
			}
		}
		out = append(out, f)
	}
	return out, binary, nil
}

// lets says whether f's stream has e.
func (f *filter) lets(e *realm.Event) bool {
	if e.Kind.String() != f.event || !f.root.Contains(e.Moniker) {
		return false
	}
	for _, s := range f.scope {
		if !s.Contains(e.Moniker) {
			return false
		}
	}
	if f.patterns == nil {
		return true
	}
	below := join(name.Root, relativeTo(f.root, e.Moniker))
	return slices.ContainsFunc(f.patterns, func(p name.Pattern) bool { return p.Match(below) })
}

// relativeTo is m as if root were the root.
func relativeTo(root, m name.Moniker) name.Moniker {
	below, _ := name.ParseMoniker(relative(root, m))
	return below
}

// An event is a line of an event stream.
type event struct {
	Kind    string     `json:"kind"`
	Moniker string     `json:"moniker"`
	URL     string     `json:"url"`
	Time    string     `json:"time"` // RFC 3339
	Exit    *eventExit `json:"exit,omitempty"`
	Text    string     `json:"text,omitempty"`
	Lost    uint64     `json:"lost,omitempty"`
}

type eventExit struct {
	Code   int    `json:"code"`
	Signal int    `json:"signal,omitempty"`
	Cause  string `json:"cause"`
	Text   string `json:"text"`
}

// Events writes the events of streams, which user uses under one path, to conn, a connection (SOCK_STREAM) that user has made:
// those since user was started, and new ones as they happen, until it closes or ctx ends. A reader that is too slow makes the
// manager hold nothing: it is told how many it has lost. The conn is Events'.
func (h *Host) Events(ctx context.Context, user name.Moniker, streams []Stream, conn *os.File) error {
	c, err := take(conn)
	if err != nil {
		return err
	}
	defer c.Close()
	filters, binary, err := readStreams(streams)
	if err != nil {
		h.cfg.Note(user, "event stream: "+err.Error())
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	closed := watch(c, cancel)
	defer func() { c.Close(); <-closed }()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()

	var since time.Time
	if i, ok := h.cfg.Tree.Instance(user); ok {
		since = i.StartedAt
	}
	first := true
	events := h.cfg.Tree.Subscribe(0)
	var lost uint64
	for {
		e, n, err := events.Next(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, realm.ErrClosed) {
				return nil
			}
			return err
		}
		if first && e.Time.Before(since) {
			n = 0 // what was before is nobody's loss
		}
		first = false
		lost += n
		if e.Time.Before(since) {
			continue
		}
		k := slices.IndexFunc(filters, func(f filter) bool { return f.lets(&e) })
		if k < 0 {
			continue
		}
		if err := write(c, binary, filters[k].root, &e, lost); err != nil {
			return nil // it has closed, or ctx has ended
		}
		lost = 0
	}
}

// watch reads and forgets what a client sends where nothing is to be said, and calls gone when it has closed.
func watch(c net.Conn, gone func()) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		defer gone()
		_, _ = io.Copy(io.Discard, onlyReader{c})
	}()
	return done
}

// onlyReader keeps io.Copy from splicing.
type onlyReader struct{ io.Reader }

func write(w io.Writer, binary bool, root name.Moniker, e *realm.Event, lost uint64) error {
	text := e.Text
	if e.Err != nil {
		text = e.Err.Error()
	}
	if binary {
		_, err := protodelim.MarshalTo(w, &componentpb.Event{
			Kind: e.Kind.String(), Moniker: relative(root, e.Moniker), Url: e.URL, TimeNs: e.Time.UnixNano(), Exit: exitOf(e.Exit),
			Text: text, Lost: lost,
		})
		return err
	}
	line := event{
		Kind: e.Kind.String(), Moniker: relative(root, e.Moniker), URL: e.URL, Time: e.Time.UTC().Format(time.RFC3339Nano),
		Text: text, Lost: lost,
	}
	if x := e.Exit; x != nil {
		line.Exit = &eventExit{x.Code, int(x.Signal), x.Cause.String(), x.String()}
	}
	b, err := json.Marshal(line)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return err
}

// bind is framework.Binder: a connection starts the component, and ends when it stops. Nothing is said.
func (s *session) bind(ctx context.Context, c *net.UnixConn) error {
	ctx, cancel := context.WithCancel(ctx)
	closed := watch(c, cancel)
	defer func() { c.Close(); <-closed }()
	defer cancel()
	if err := s.cfg.Tree.Start(ctx, s.scope, fmt.Sprintf("%s requested capability %q", s.user, framework.Binder)); err != nil {
		if ctx.Err() == nil {
			s.cfg.Note(s.user, fmt.Sprintf("%s: %v", framework.Binder, err))
		}
		return err
	}
	if err := stopped(ctx, s.cfg.Tree, s.scope); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
