package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/runtime/control"
	"github.com/cmgr/cmgr/runtime/loader"
	"github.com/cmgr/cmgr/runtime/loader/cache"
	"github.com/cmgr/cmgr/runtime/loader/inet"
	"github.com/cmgr/cmgr/runtime/loader/port"
	"github.com/cmgr/cmgr/runtime/loader/prim"
)

// loaderFlags defines the flags that say what loader to use, and pathFlags those that say where it looks for relative names.
func loaderFlags(f *pflag.FlagSet, cfg *prim.Config, transport *string) {
	f.StringVar(&cfg.Loader, "loader", prim.Efile, "the `LOADER`: efile (the disk), inet (boot servers) or a port program")
	f.StringVar(transport, "framing", "", "a port program's messages are `raw` (the default: one process each) or packet4")
	f.StringSliceVar(&cfg.Hosts, "hosts", nil, "inet: the boot servers, each a `HOST`, the best first; several by commas")
	f.StringVar(&cfg.ID, "id", "", "inet: this machine's `NAME`, for the server's log")
	f.StringVar(&cfg.Version, "erts-version", "", "inet: ask Erlang's servers, which answer only their own ERTS `VERSION`")
}

func pathFlags(f *pflag.FlagSet, cfg *prim.Config) {
	f.StringArrayVar(&cfg.Path, "path", nil, "look for relative names in `DIR`; repeated, in this order (default .)")
	f.StringArrayVar(&cfg.Pa, "pa", nil, "look in `DIR` before the others")
	f.StringArrayVar(&cfg.Pz, "pz", nil, "look in `DIR` after the others")
}

// checkLoader takes the framing over and says what is wrong with the flags together.
func checkLoader(cmd *cobra.Command, cfg *prim.Config, framing string) error {
	cfg.Transport = port.Transport(framing)
	switch kind := cfg.Kind(); {
	case framing != "" && cfg.Transport != port.Raw && cfg.Transport != port.Packet4:
		return usagef(cmd, "usage: "+cmd.UseLine(), "--framing is raw or packet4, not %q", framing)
	case framing != "" && kind != "port":
		return usagef(cmd, "usage: "+cmd.UseLine(), "--framing is for a port program")
	case kind == prim.Inet && len(cfg.Hosts) == 0:
		return usagef(cmd, "usage: "+cmd.UseLine(), "--loader inet needs --hosts")
	case kind != prim.Inet && len(cfg.Hosts) > 0:
		return usagef(cmd, "usage: "+cmd.UseLine(), "--hosts is for --loader inet")
	}
	return nil
}

func newFetch(a *app) *cobra.Command {
	var cfg prim.Config
	var transport, outdir string
	var timeout float64
	cmd := &cobra.Command{
		Use:   "fetch [--loader LOADER] [--hosts HOST] FILE",
		Short: "fetch a file by a loader, to standard output",
		Long: `Fetch a file as components' packages are fetched, and write it to standard
output once it is there as a whole. A relative FILE is looked for along --path.

Exit codes: 0 fine, 1 the other side has no such file or cannot read it, 111 it
did not answer, or not as it should.`,
		Example: `  cmgr fetch --loader inet --hosts 10.0.0.1,10.0.0.2 /srv/tree/root.cml
  cmgr fetch --loader inet --hosts 10.0.0.1 --erts-version 13.1.5 /usr/lib/erlang/bin/start.boot
  cmgr fetch --loader ./from-git.sh meta/net.cm`,
		GroupID: groupTool,
		RunE: func(cmd *cobra.Command, args []string) error {
			most := 1
			if outdir != "" {
				most = -1
			}
			if err := between(1, most)(cmd, args); err != nil {
				return err
			}
			meter := &meter{screen: a.screen(a.err), out: a.err, now: a.now, files: len(args)}
			defer meter.end()
			cfg.Progress = meter.progress
			cfg.Log = slog.New(&plainLog{w: meter.above(a.err)})
			if err := checkLoader(cmd, &cfg, transport); err != nil {
				return err
			}
			if !(timeout >= 0 && timeout <= 1e9) { // NaN, too
				return usagef(cmd, "usage: "+cmd.UseLine(), "--timeout is a number of seconds from 0 to 1e9, not %v", timeout)
			}
			if outdir != "" {
				if st, err := os.Stat(outdir); err != nil || !st.IsDir() {
					return fmt.Errorf("--outdir: %w", cmp.Or(err, error(&os.PathError{Op: "write to", Path: outdir, Err: syscall.ENOTDIR})))
				}
			}
			l, err := prim.Start(cfg)
			if err != nil {
				return err
			}
			fetch := func(name string, to func(loader.File) error) error {
				ctx := cmd.Context()
				if timeout > 0 {
					t := time.Duration(timeout * float64(time.Second))
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeoutCause(ctx, t, fmt.Errorf("given up after %v", t))
					defer cancel()
				}
				f, at, err := l.Get(ctx, name)
				meter.fetched(at)
				if err != nil {
					return err
				}
				defer f.Close()
				if err := to(f); err != nil {
					return &unwritten{err}
				}
				return nil
			}
			if outdir == "" {
				err = fetch(args[0], func(f loader.File) error { _, err := io.Copy(a.out, f); return err })
			} else {
				atOnce := 1
				if cfg.Kind() == prim.Inet {
					atOnce = inetAtOnce
				}
				err = fetchAll(meter.above(a.out), meter.above(a.err), args, outdir, atOnce, fetch)
			}
			return errors.Join(fetchError(err), l.Stop())
		},
	}
	loaderFlags(cmd.Flags(), &cfg, &transport)
	pathFlags(cmd.Flags(), &cfg)
	cmd.Flags().StringVar(&cfg.Cookie, "cookie", "", "inet: the secret `COOKIE` of cmgr's boot servers; Erlang's never get it")
	cmd.Flags().Float64Var(&timeout, "timeout", 0, "give up after so many `SECONDS` (default: only when the loader does)")
	cmd.Flags().StringVar(&outdir, "outdir", "", "fetch several files, to `DIR`/1, DIR/2 and so on, and say of each ok, notfound or fail")
	_ = cmd.MarkFlagDirname("outdir")
	completeFlag(cmd, "loader", []string{prim.Efile, prim.Inet}, cobra.ShellCompDirectiveDefault)
	completeFlag(cmd, "framing", []string{string(port.Raw), string(port.Packet4)}, cobra.ShellCompDirectiveDefault)
	return cmd
}

// inetAtOnce is how many files are fetched at one time from boot servers, each over a connection of its own: one request after
// the other spends most of its time waiting.
const inetAtOnce = 8

// fetchAll fetches files, atOnce at one time, and says in their order how each went; that some didn't is no failure of its own.
func fetchAll(out, said io.Writer, names []string, outdir string, atOnce int, fetch func(string, func(loader.File) error) error) error {
	results := make([]chan error, len(names))
	for i := range results {
		results[i] = make(chan error, 1)
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(atOnce, len(names)) {
		workers.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(names) {
					return
				}
				results[i] <- fetch(names[i], func(f loader.File) error { return saveFile(filepath.Join(outdir, strconv.Itoa(i+1)), f) })
			}
		})
	}
	defer workers.Wait()
	for i := range names {
		err := <-results[i]
		word := "ok"
		switch {
		case errors.Is(err, loader.ErrNotExist):
			word = "notfound"
		case err != nil:
			word = "fail"
		}
		if err != nil {
			fmt.Fprintf(said, "cmgr: %v\n", err)
		}
		if _, err := fmt.Fprintf(out, "%d %s\n", i+1, word); err != nil {
			next.Store(int64(len(names))) // nobody listens any more
			return err
		}
	}
	return nil
}

// saveFile makes a file of f, or none.
func saveFile(name string, f io.Reader) error {
	t, err := os.CreateTemp(filepath.Dir(name), "."+path.Base(name)+".*")
	if err != nil {
		return err
	}
	if _, err = io.Copy(t, f); err == nil {
		err = t.Chmod(0o644)
	}
	if err = errors.Join(err, t.Close()); err == nil {
		err = os.Rename(t.Name(), name)
	}
	if err != nil {
		os.Remove(t.Name())
	}
	return err
}

// An unwritten is an error of what was fetched, on this side: whatever is not there, it is not the file that was asked for.
type unwritten struct{ err error }

func (e *unwritten) Error() string { return e.err.Error() }

// fetchError is err as it is reported: what the other side answered is a failure, anything else the system's.
func fetchError(err error) error {
	if err == nil {
		return nil
	}
	p := &control.Problem{Kind: capabilities.Internal.String(), Message: err.Error()}
	var reason inet.Reason
	switch {
	case errors.Is(err, loader.ErrNotExist):
		p.Kind = capabilities.NotFound.String()
	case errors.Is(err, os.ErrPermission), errors.Is(err, cache.ErrUntrusted):
		p.Kind = capabilities.Denied.String()
	case errors.As(err, &reason), errors.Is(err, syscall.EISDIR):
		p.Kind = capabilities.Unavailable.String()
	}
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		p.Hint = h.Hint()
	}
	return &control.Error{Problem: p}
}

// A meter shows on a terminal what has come of the files that are fetched, ten times a second.
type meter struct {
	screen screen
	out    io.Writer
	now    func() time.Time
	files  int // that are to come

	mu    sync.Mutex // guards what follows
	begun time.Time
	ended int              // files
	bytes int64            // of those
	came  map[string]int64 // of the others, by name
	name  string           // of the last that something came of
	total int64            // that it has
	news  bool
	shown bool
	over  chan struct{} // closed when the meter ends; nil before there is anything to show
	wait  sync.WaitGroup
}

// progress is that something came: now so many bytes of so many, -1 if that is unknown.
func (m *meter) progress(name string, done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.screen.line() == 0 {
		return
	}
	if m.over == nil {
		m.begun, m.came, m.over = m.now(), map[string]int64{}, make(chan struct{})
		m.wait.Go(m.tick)
	}
	m.came[name], m.name, m.total, m.news = done, name, total, true
	if !m.shown && m.ended == 0 {
		m.draw()
	}
}

func (m *meter) tick() {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			m.mu.Lock()
			if m.news {
				m.draw()
			}
			m.mu.Unlock()
		case <-m.over:
			return
		}
	}
}

// fetched is that a file has come as a whole, or will not.
func (m *meter) fetched(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended++
	m.bytes += m.came[name]
	delete(m.came, name)
	if m.news = m.over != nil; m.ended == m.files {
		m.clear()
	}
}

func (m *meter) draw() {
	done, part, total, text := m.bytes, int64(m.ended), int64(m.files), fmt.Sprintf("%d of %d files, ", m.ended, m.files)
	for _, n := range m.came {
		done += n
	}
	text += size(done)
	if m.files == 1 {
		// Of what comes now: a boot file is followed by its signature.
		done = m.came[m.name]
		part, total, text = done, m.total, path.Base(m.name)+" "+size(done)
		if total > 0 {
			text += " of " + size(total)
		}
	}
	if total > 0 {
		const bar = 24
		part = min(part, total)
		full := int(part * bar / total)
		text += fmt.Sprintf(" [%s%s] %d%%", strings.Repeat("=", full), strings.Repeat(" ", bar-full), part*100/total)
	}
	if s := m.now().Sub(m.begun).Seconds(); s > 0.1 {
		text += fmt.Sprintf(" %s/s", size(int64(float64(done)/s)))
	}
	fmt.Fprintf(m.out, "\r%s\x1b[K", m.screen.fit(text, 1))
	m.shown, m.news = true, false
}

// clear takes what is shown away.
func (m *meter) clear() {
	if m.shown {
		fmt.Fprint(m.out, "\r\x1b[K")
	}
	m.shown, m.news = false, false
}

// end ends the meter.
func (m *meter) end() {
	m.mu.Lock()
	over := m.over
	m.mu.Unlock()
	if over != nil {
		close(over)
		m.wait.Wait()
		m.clear()
	}
}

// above is w, to whose terminal the meter may write, too: its line goes before, and comes back with the next news.
func (m *meter) above(w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.clear()
		return w.Write(p)
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// size is a number of bytes to be read by people.
func size(n int64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 10<<10 {
			return fmt.Sprintf("%d %s", n, unit)
		}
		n >>= 10
	}
	return fmt.Sprintf("%d GiB", n)
}

// plainLog writes log records as cmgr's other messages on standard error.
type plainLog struct {
	w     io.Writer
	attrs []slog.Attr
}

func (h *plainLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (h *plainLog) WithGroup(string) slog.Handler                { return h }
func (h *plainLog) WithAttrs(a []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], a...)
	return &c
}

func (h *plainLog) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "cmgr: %s", strconv.Quote(r.Message)[1:len(strconv.Quote(r.Message))-1])
	each := func(a slog.Attr) bool {
		if a.Value.String() != "" {
			fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		}
		return true
	}
	for _, a := range h.attrs {
		each(a)
	}
	r.Attrs(each)
	b.WriteByte('\n')
	_, err := h.w.Write(b.Bytes())
	return err
}
