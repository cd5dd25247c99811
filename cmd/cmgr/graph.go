package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/control"
)

func newGraph(a *app) *cobra.Command {
	var only, format string
	var routes bool
	formats := map[string]func(io.Writer, screen, *controlpb.GraphResponse){"text": drawTree, "dot": drawDOT, "mermaid": drawMermaid}
	cmd := &cobra.Command{
		Use:   "graph [--format text|dot|mermaid] [--routes] [--only FILTER]",
		Short: "draw the tree",
		Long: `Draw the tree: as text, for Graphviz (dot) or for Mermaid. With --routes also
who uses what of whom.

In text, ● runs, ◐ starts or stops, ○ does not run, and ✗ does not run because
it failed.`,
		Example: `  cmgr graph
  cmgr graph --format dot --routes | dot -Tsvg > tree.svg`,
		GroupID:           groupLook,
		Args:              between(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			draw, ok := formats[format]
			if !ok {
				return usagef(cmd, "usage: "+cmd.UseLine(), "--format must be text, dot or mermaid, is %q", format)
			}
			return a.with(cmd, func(ctx context.Context, c *control.Client) error {
				r, err := c.Graph(ctx, &controlpb.GraphRequest{Only: only, Routes: routes})
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(r)
				}
				draw(a.out, a.screen(a.out), r)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "`text`, dot or mermaid")
	cmd.Flags().StringVar(&only, "only", "", "only what `FILTER` lets through, as in cmgr list")
	cmd.Flags().BoolVar(&routes, "routes", false, "also draw the routes between instances")
	completeFlag(cmd, "only", filters, cobra.ShellCompDirectiveNoSpace)
	completeFlag(cmd, "format", []string{"text", "dot", "mermaid"}, cobra.ShellCompDirectiveDefault)
	return cmd
}

// above is the nearest ancestor of m among those that are drawn; "" for none.
func above(drawn map[string]bool, m string) string {
	for p, ok := name.Moniker(m).Parent(); ok; p, ok = p.Parent() {
		if drawn[string(p)] {
			return string(p)
		}
	}
	return ""
}

// family is who is drawn below whom; "" has those at the top.
func family(r *controlpb.GraphResponse) map[string][]*controlpb.Instance {
	drawn := map[string]bool{}
	for _, i := range r.GetInstances() {
		drawn[i.GetMoniker()] = true
	}
	below := map[string][]*controlpb.Instance{}
	for _, i := range r.GetInstances() {
		p := above(drawn, i.GetMoniker())
		below[p] = append(below[p], i)
	}
	return below
}

func drawTree(w io.Writer, s screen, r *controlpb.GraphResponse) {
	below := family(r)
	uses := map[string][]*controlpb.Edge{}
	for _, e := range r.GetRoutes() {
		uses[e.GetFrom()] = append(uses[e.GetFrom()], e)
	}
	var draw func(i *controlpb.Instance, parent, line, next string)
	draw = func(i *controlpb.Instance, parent, line, next string) {
		label := i.GetMoniker()
		if parent != "" {
			label = strings.TrimPrefix(strings.TrimPrefix(label, parent), "/")
		}
		state := stateMark(i)
		if color := s.stateColor(i.GetState(), i.GetStarting()); state == "✗" {
			state = s.red(state)
		} else {
			state = color(state)
		}
		fmt.Fprintf(w, "%s%s %s\n", line, state, s.fit(label, len([]rune(line))+2))
		kids := below[i.GetMoniker()]
		bar := "  "
		if len(kids) > 0 {
			bar = "│ "
		}
		for _, e := range uses[i.GetMoniker()] {
			text := fmt.Sprintf("%s%s← %s %s from %s", next, bar, e.GetKind(), e.GetCapability(), e.GetTo())
			fmt.Fprintln(w, s.dim(s.fit(text, 0)))
		}
		for k, c := range kids {
			if k == len(kids)-1 {
				draw(c, i.GetMoniker(), next+"└── ", next+"    ")
			} else {
				draw(c, i.GetMoniker(), next+"├── ", next+"│   ")
			}
		}
	}
	for _, i := range below[""] {
		draw(i, "", "", "")
	}
}

func stateMark(i *controlpb.Instance) string {
	switch {
	case i.GetState() == "started":
		return "●"
	case i.GetStarting() || i.GetState() == "stopping":
		return "◐"
	case badly(i):
		return "✗"
	default:
		return "○"
	}
}

func drawDOT(w io.Writer, _ screen, r *controlpb.GraphResponse) {
	fmt.Fprintln(w, `digraph cmgr {
  node [shape=box, style="rounded,filled", fontname="sans-serif"];
  edge [fontname="sans-serif", fontsize=10];`)
	// Monikers, kinds and names hold neither quotes nor backslashes.
	for _, i := range r.GetInstances() {
		state := stateWord(i.GetState(), i.GetStarting())
		fmt.Fprintf(w, "  \"%s\" [fillcolor=\"%s\", tooltip=\"%s\"];\n", i.GetMoniker(), fill(i), state)
	}
	for parent, i := range edges(r) {
		fmt.Fprintf(w, "  \"%s\" -> \"%s\" [arrowhead=none];\n", parent, i.GetMoniker())
	}
	for _, e := range r.GetRoutes() {
		fmt.Fprintf(w, "  \"%s\" -> \"%s\" [style=dashed, constraint=false, label=\"%s %s\"];\n",
			e.GetFrom(), e.GetTo(), e.GetKind(), e.GetCapability())
	}
	fmt.Fprintln(w, "}")
}

func drawMermaid(w io.Writer, _ screen, r *controlpb.GraphResponse) {
	fmt.Fprintln(w, "graph TD")
	id := map[string]int{}
	for k, i := range r.GetInstances() {
		id[i.GetMoniker()] = k
		fmt.Fprintf(w, "  n%d[\"%s\"]\n  style n%d fill:%s\n", k, i.GetMoniker(), k, fill(i))
	}
	for parent, i := range edges(r) {
		fmt.Fprintf(w, "  n%d --- n%d\n", id[parent], id[i.GetMoniker()])
	}
	for _, e := range r.GetRoutes() {
		fmt.Fprintf(w, "  n%d -. \"%s %s\" .-> n%d\n", id[e.GetFrom()], e.GetKind(), e.GetCapability(), id[e.GetTo()])
	}
}

// edges are parents and children, in the order of the children.
func edges(r *controlpb.GraphResponse) func(yield func(string, *controlpb.Instance) bool) {
	return func(yield func(string, *controlpb.Instance) bool) {
		drawn := map[string]bool{}
		for _, i := range r.GetInstances() {
			drawn[i.GetMoniker()] = true
		}
		for _, i := range r.GetInstances() {
			if p := above(drawn, i.GetMoniker()); p != "" && !yield(p, i) {
				return
			}
		}
	}
}

// fill is the colour of an instance's box.
func fill(i *controlpb.Instance) string {
	switch stateMark(i) {
	case "●":
		return "#c8e6c9"
	case "◐":
		return "#fff9c4"
	case "✗":
		return "#ffcdd2"
	default:
		return "#eeeeee"
	}
}
