package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newCp(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "copy files from and to a running component",
		Long: `Copy a file, or a directory with all in it, from or to the files of a component
that runs: QUERY:/PATH is PATH as its program finds it, anything else a file of
one's own, "-" standard input or output. Into a directory, a copy is put under
its own name. No symbolic link leads out of what the program sees; of a program
that shares the host's files, only what was routed to it and its package (/pkg)
can be named. "cmgr storage copy" is for components that do not run.`,
		Example: `  cmgr cp /core/web:/data/access.log .
  cmgr cp new.conf /core/web:/data/`,
		GroupID:           groupAct,
		Args:              between(2, 2),
		ValidArgsFunction: a.monikersOr(":/"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				return a.copy(cmd, args, ":/", func(query, p string) (spot, error) {
					r, err := c.Show(ctx, &controlpb.InstanceRequest{Query: query})
					if err != nil {
						return spot{}, err
					}
					s, err := c.Sandbox(ctx, &controlpb.InstanceRequest{Query: r.GetMoniker()})
					if err != nil {
						return spot{}, err
					}
					return seen(r, s.GetConfined(), "/"+p)
				})
			})
		},
	}
}

// seen is what the program of r, which is confined or shares the manager's files, finds at p.
func seen(r *controlpb.ShowResponse, confined bool, p string) (spot, error) {
	fail := func(code capabilities.Code, hint, format string, args ...any) (spot, error) {
		return spot{}, &control.Error{Problem: &control.Problem{
			Kind: code.String(), Message: "copy: " + r.GetMoniker() + ": " + fmt.Sprintf(format, args...), Hint: hint,
		}}
	}
	ids := r.GetResolved().GetStarted().GetUsage().GetProcessIds()
	if len(ids) == 0 {
		return fail(capabilities.Precondition, "`cmgr start "+r.GetMoniker()+"`", "no process of it runs")
	}
	proc := fmt.Sprintf("/proc/%d", ids[0])
	p = path.Clean(p)
	if confined {
		root, err := os.OpenRoot(proc + "/root")
		if err != nil {
			return fail(capabilities.Denied, "", "open its files: %v", cause(err))
		}
		return spot{root: root, path: path.Join(".", p[1:])}, nil
	}
	// It shares the files of this machine. What was routed to it has links below its view, which the manager made.
	for at := p; at != "/"; at = path.Dir(at) {
		target := ""
		if at == "/pkg" {
			target = r.GetResolved().GetPackageDirectory()
		} else if view := environ(proc, "CMGR_NAMESPACE"); view != "" {
			target, _ = filepath.EvalSymlinks(filepath.Join(view, at))
		}
		if st, err := os.Stat(target); target == "" || err != nil || !st.IsDir() {
			continue
		}
		root, err := os.OpenRoot(target)
		if err != nil {
			return fail(capabilities.Denied, "", "open its files: %v", cause(err))
		}
		return spot{root: root, path: path.Join(".", strings.TrimPrefix(p, at))}, nil
	}
	return fail(capabilities.NotFound, "it shares the files of this machine: copy others as your own",
		"nothing is routed to it at %s", p)
}

// environ is a variable of the environment of a process.
func environ(proc, name string) string {
	b, err := os.ReadFile(proc + "/environ")
	for try := 0; try < 100 && err == nil && len(b) == 0; try++ { // in the middle of an execve it has none
		time.Sleep(time.Millisecond)
		b, err = os.ReadFile(proc + "/environ")
	}
	if err != nil {
		return ""
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if value, ok := bytes.CutPrefix(v, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}
