package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cmgr/cmgr/runners/builtin"
	"github.com/cmgr/cmgr/runtime/loader/inet"
)

// bootserverFlags are the options of a boot server, as a command and as a component.
type bootserverFlags struct {
	cfg  inet.ServerConfig
	root string
}

func (b *bootserverFlags) define(f *pflag.FlagSet) {
	f.StringVar(&b.cfg.Addr, "addr", "", "serve on the `ADDRESS` (UDP port 4368, or ADDRESS:PORT)")
	f.StringSliceVar(&b.cfg.Allow, "allow", nil, "answer only this `HOST`: address, network or name; several by commas")
	f.StringVar(&b.root, "root", "", "serve the files of `DIR`: /a/b is DIR/a/b, and nothing else")
	f.StringVar(&b.cfg.Version, "erts-version", "any", "answer only nodes of the ERTS `VERSION`, such as 13.1.5; or any")
	f.Uint8Var(&b.cfg.Priority, "priority", 0, "tell the priority `N`; loaders take the lowest")
	f.StringVar(&b.cfg.Cookie, "cookie", "", "serve only cmgr's loaders, and of them those that know the `COOKIE`")
}

var errMissing = errors.New("--addr, --allow and --root are needed")

// listen opens the server.
func (b *bootserverFlags) listen(log *slog.Logger) (*inet.Server, error) {
	sockets := len(b.cfg.Listeners) > 0 && b.cfg.Addr == "" && len(b.cfg.Allow) == 0
	if b.root == "" || !sockets && (b.cfg.Addr == "" || len(b.cfg.Allow) == 0) {
		return nil, errMissing
	}
	root, err := os.OpenRoot(b.root)
	if err != nil {
		return nil, fmt.Errorf("boot server: --root: %w", err)
	}
	b.cfg.Root, b.cfg.Log = root, log
	return inet.Listen(b.cfg)
}

func newBootserver(a *app) *cobra.Command {
	var b bootserverFlags
	cmd := &cobra.Command{
		Use:   "bootserver --addr ADDRESS --allow HOST --root DIR",
		Short: "serve files to loaders on other hosts, Erlang's too",
		Long: `Serve the files below a directory as Erlang's erl_boot_server does: to real
nodes (erl -loader inet -hosts ADDRESS -id NAME), which boot from it, and to
cmgr (cmgr run --loader inet, cmgr fetch). It serves until it is interrupted.

Nothing is encrypted, and the address is all that tells who asks. Serve on a
network that is trusted, or through a tunnel, and let cmgr's loaders accept only
packages whose hash or signature they know (cmgr run --trust).`,
		Example: `  cmgr bootserver --addr 10.0.0.1 --allow 10.0.0.0/24 --root /srv/boot
  cmgr bootserver --addr 10.0.0.1 --allow 10.0.0.7 --root /srv/otp --erts-version 13.1.5`,
		GroupID: groupRun,
		Args:    between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := b.listen(slog.New(slog.NewTextHandler(a.err, nil)))
			if err != nil {
				if errors.Is(err, errMissing) {
					return usagef(cmd, "usage: "+cmd.UseLine(), "%v", err)
				}
				return err
			}
			ctx, cancel := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer cancel()
			stop := context.AfterFunc(ctx, s.Close)
			defer stop()
			fmt.Fprintf(a.err, "cmgr: serving %s on udp %s, tcp %s\n", b.root, s.UDPAddr(), s.TCPAddr())
			return s.Serve()
		},
	}
	b.define(cmd.Flags())
	_ = cmd.MarkFlagDirname("root")
	return cmd
}

// bootserverComponent is the function bootserver of the runner builtin: a boot server as a component. Its arguments are the
// command's options; root is the directory that is routed to it at /root, unless --root says another. It also serves on the
// sockets of the protocols that it declares, and on them alone without --addr and --allow.
func bootserverComponent(ctx context.Context, env *builtin.Env) error {
	var b bootserverFlags
	f := pflag.NewFlagSet("bootserver", pflag.ContinueOnError)
	f.SetOutput(env.Stderr)
	b.define(f)
	if err := f.Parse(env.Args); err != nil {
		return err
	}
	for _, n := range env.Namespace {
		if n.Path == "/root" && b.root == "" {
			b.root = fmt.Sprintf("/proc/self/fd/%d", n.File.Fd())
		}
	}
	for _, l := range env.Listeners {
		// Not the original: what nobody accepts here waits for the next run.
		nl, err := net.FileListener(l.File)
		if err != nil {
			return err
		}
		defer nl.Close()
		nl.(*net.UnixListener).SetUnlinkOnClose(false) // the name is the manager's
		b.cfg.Listeners = append(b.cfg.Listeners, nl)
	}
	s, err := b.listen(slog.New(slog.NewTextHandler(env.Stderr, nil)))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.Close)()
	at, what := "its sockets", b.root
	if strings.HasPrefix(what, "/proc/self/fd/") {
		what = "the directory routed to /root"
	}
	if b.cfg.Addr != "" {
		at = fmt.Sprintf("udp %s, tcp %s", s.UDPAddr(), s.TCPAddr())
	}
	fmt.Fprintf(env.Stdout, "serving %s on %s\n", what, at)
	return s.Serve()
}
