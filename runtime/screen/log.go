package screen

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// Logger is a log of the manager's own whose records of at least that level are lines of the screen: "warning: what (key=value
// …)".
func (s *Screen) Logger(level slog.Level) *slog.Logger {
	return slog.New(&handler{screen: s, level: level})
}

type handler struct {
	screen *Screen
	level  slog.Level
	with   string // attributes, already written
	group  string // prefix of keys
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(h.with)
	r.Attrs(func(a slog.Attr) bool {
		h.write(&b, a)
		return true
	})
	word := map[slog.Level]string{slog.LevelError: "error: ", slog.LevelWarn: "warning: "}[r.Level]
	h.screen.Say(word + r.Message + paren(strings.TrimPrefix(b.String(), " ")))
	h.screen.Flush()
	return nil
}

// write adds " key=value"; an empty value says nothing.
func (h *handler) write(b *strings.Builder, a slog.Attr) {
	if v := a.Value.Resolve().String(); v != "" {
		fmt.Fprintf(b, " %s%s=%s", h.group, a.Key, v)
	}
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.with)
	for _, a := range as {
		h.write(&b, a)
	}
	return &handler{h.screen, h.level, b.String(), h.group}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.screen, h.level, h.with, h.group + name + "."}
}
