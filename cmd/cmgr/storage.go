package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newStorage(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "storage list [QUERY] | storage copy SOURCE DESTINATION [--storage NAME] | storage delete QUERY [STORAGE...]",
		Short: "look at what components keep, copy it, delete it",
		Long: `Look after what components keep in their storages, whether they run or not, and
whether they are still in the tree: one that is gone is named by its moniker.`,
		Example: `  cmgr storage list
  cmgr storage copy /core/db::. backup
  cmgr storage copy settings.json /core/app::settings.json
  cmgr storage delete /core/jobs:import-7`,
		GroupID: groupAct,
		Args:    cobra.ArbitraryArgs,
		RunE:    subcommand,
	}
	for _, sub := range []*cobra.Command{newStorageList(a), newStorageCopy(a), newStorageDelete(a)} {
		sub.DisableFlagsInUseLine = true
		c.AddCommand(sub)
	}
	return c
}

func newStorageList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list [QUERY]",
		Short: "list what is kept where",
		Long: `List who keeps something in which storage, and in which directory of this
machine that is. Storages of components whose manifests have been read are
looked at.`,
		Args:              between(0, 1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Storage(ctx, &controlpb.StorageRequest{Query: strings.Join(args, "")})
				if err != nil {
					return err
				}
				if a.json {
					return printList(a, r.GetStored())
				}
				var title []cell
				for _, t := range []string{"Moniker", "Storage", "Provider", "Instance ID", "", "Directory"} {
					title = append(title, cell{text: t})
				}
				var rows [][]cell
				for _, s := range r.GetStored() {
					orphan := ""
					if s.GetOrphan() {
						orphan = "(not in the tree)"
					}
					rows = append(rows, []cell{
						{text: s.GetMoniker()},
						{text: s.GetStorage()},
						{text: s.GetProvider()},
						{text: s.GetInstanceId()},
						{text: orphan},
						{text: printable(s.GetDirectory())},
					})
				}
				if len(rows) > 0 {
					a.screen(a.out).table(a.out, title, rows)
				}
				return nil
			})
		},
	}
}

func newStorageDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete QUERY [STORAGE...]",
		Short: "delete what an instance keeps",
		Long: `Delete what an instance keeps, in the storages that are named (as their
providers call them) or in all. Its program must not run.`,
		Args:              between(1, -1),
		ValidArgsFunction: a.monikers(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				all, err := stored(ctx, c, args[0], args[1:])
				if err != nil {
					return err
				}
				for _, s := range all {
					ask := &controlpb.DeleteStorageRequest{Moniker: s.GetMoniker(), Provider: s.GetProvider(), Storage: s.GetStorage()}
					if _, err := c.DeleteStorage(ctx, ask); err != nil {
						return err
					}
					if !a.json {
						fmt.Fprintf(a.out, "deleted what %s kept in %s of %s\n", s.GetMoniker(), s.GetStorage(), s.GetProvider())
					}
				}
				if a.json {
					return printList(a, all)
				}
				return nil
			})
		},
	}
}

// stored is what the instance keeps, in the storages of these names or in all; there must be something in each.
func stored(ctx context.Context, c *control.Client, query string, names []string) ([]*controlpb.Stored, error) {
	r, err := c.Storage(ctx, &controlpb.StorageRequest{Query: query})
	if err != nil {
		return nil, err
	}
	all := r.GetStored()
	missing := func(what string) error {
		p := &control.Problem{Kind: capabilities.NotFound.String()}
		p.Message = fmt.Sprintf("storage of %s: it keeps nothing%s", query, what)
		for _, s := range all {
			p.Candidates = append(p.Candidates, s.GetStorage())
		}
		return &control.Error{Problem: p}
	}
	if len(all) == 0 {
		return nil, missing("")
	}
	for _, n := range names {
		if !slices.ContainsFunc(all, func(s *controlpb.Stored) bool { return s.GetStorage() == n }) {
			return nil, missing(" in " + n + ", only in")
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(s *controlpb.Stored) bool {
		return len(names) > 0 && !slices.Contains(names, s.GetStorage())
	}), nil
}

func newStorageCopy(a *app) *cobra.Command {
	var storage string
	cmd := &cobra.Command{
		Use:   "copy SOURCE DESTINATION [--storage NAME]",
		Short: "copy files from and to storage",
		Long: `Copy a file, or a directory with all in it, from or to what an instance keeps:
QUERY::PATH is PATH there, anything else a file of one's own, "-" standard input
or output. Into a directory, a copy is put under its own name. --storage says
which, if there is something in several; something must have been kept there.`,
		Args:              between(2, 2),
		ValidArgsFunction: a.monikersOr("::"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				return a.copy(cmd, args, "::", func(query, p string) (spot, error) {
					var names []string
					if storage != "" {
						names = []string{storage}
					}
					all, err := stored(ctx, c, query, names)
					if err != nil {
						return spot{}, err
					}
					if len(all) > 1 {
						return spot{}, &control.Error{Problem: &control.Problem{
							Kind: capabilities.Invalid.String(), Message: fmt.Sprintf("storage of %s: it keeps something in several storages", query),
							Hint: "name one by --storage: " + all[0].GetStorage() + ", " + all[1].GetStorage() + ", …",
						}}
					}
					root, err := os.OpenRoot(all[0].GetDirectory())
					return spot{root: root, path: path.Join(".", path.Clean("/" + p)[1:])}, err
				})
			})
		},
	}
	cmd.Flags().StringVar(&storage, "storage", "", "in the storage `NAME`, as its provider calls it")
	return cmd
}

// copy copies from args[0] to args[1], exactly one of which is QUERY, separator, path; open opens that.
func (a *app) copy(cmd *cobra.Command, args []string, separator string, open func(query, path string) (spot, error)) error {
	var at [2]spot
	theirs := 0
	for k, arg := range args {
		query, p, ok := strings.Cut(arg, separator)
		if !ok || strings.HasPrefix(arg, "./") || strings.HasPrefix(arg, "../") {
			at[k] = spot{path: arg, shown: arg}
			continue
		}
		if theirs++; theirs > 1 {
			break
		}
		s, err := open(query, p)
		if err != nil {
			return err
		}
		defer s.root.Close()
		s.shown = arg
		at[k] = s
	}
	if theirs != 1 {
		return usagef(cmd, "one of them is QUERY"+separator+"PATH, the other a file of your own", "one side must be a component's")
	}
	if err := copyAll(at[0], at[1], a.in, a.out); err != nil {
		return copyError(err)
	}
	return nil
}

// copyError says what could not be copied: each file on a line.
func copyError(err error) error {
	p := &control.Problem{Kind: capabilities.Invalid.String()}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Kind = capabilities.NotFound.String()
	case errors.Is(err, fs.ErrPermission):
		p.Kind = capabilities.Denied.String()
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if p.Message != "" {
			p.Message += "\n"
		}
		p.Message += "copy " + line
	}
	return &control.Error{Problem: p}
}
