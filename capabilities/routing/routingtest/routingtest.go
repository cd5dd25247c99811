// Package routingtest holds the cases that every tree must pass that claims to be a tree for routing: the offline one and the one
// that runs. A case is an archive (txtar): questions with their answers, and the manifests of the tree that they are about.
//
//	# What the root declares reaches /a under another name.
//	use /a protocol log -> / protocol syslog
//	-- root.cml --
//	{ children: [{ name: "a", url: "a.cml" }], … }
//	-- a.cml --
//	{ use: [{ protocol: "log" }] }
//
// Lines before the first file, in order:
//
//	# a comment
//	builtin KIND NAME                                what stands above the root, beside Defaults
//	create M COLLECTION NAME URL [, OFFER]…          a dynamic child of M, with offers of its own, each
//	                                                 KIND NAME from REF [as NAME] [DEPENDENCY] [AVAILABILITY]
//	use M KIND NAME                                  where M's use of that name leads
//	offer M KIND NAME TO                             where M's offer under that name to TO ("#a") leads
//	expose M KIND NAME                               what M exposes under that name
//	exposed M KIND NAME                              what is had from M under that name, exposed or not
//	runner M                                         what runs M
//	resolver M SCHEME                                what resolves M
//	timeout M                                        how long M may take to stop
//	stops M                                          what stops at once in the realm of M, and what after that
//	why QUESTION                                     the same, with the declarations on the way
//
// An answer follows its question on the same line. It is one of
//
//	-> M KIND NAME                      a component declares it; M is <component manager> for a built-in, <framework of M> for
//	                                    the framework's, "storage of M" for what the manager makes of storage
//	-> dictionary D of M KIND NAME      the program of M has it in its dictionary D, or not
//	-> M aggregate NAME                 a service put together; its members follow, a line each
//	-> void                             absent on purpose
//	-> none                             nothing is needed
//	!! CODE REASON                      the route fails
//
// and after it in brackets what else the route says: rights, subdir, availability (if it is not required), scope. Indented lines
// tell of a failure where (at) and what to do (hint), of storage what backs it, of an aggregate its members, and after why the
// hops.
package routingtest

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/capabilities/routing"
	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
)

//go:embed testdata/*.txtar
var cases embed.FS

var update = flag.Bool("update", false, "write the answers found into testdata (only in the directory of routingtest)")

// A Case is what a tree is made of.
type Case struct {
	Files    map[string]string // manifests by path; the root is root.cml, a child's URL a path relative to its parent's manifest
	Builtins Builtins
}

// A Tree is a tree made of a Case.
type Tree interface {
	Root() routing.Node
	// Create makes a dynamic child. The offers are as routing.Node.DynamicOffers has them.
	Create(ctx context.Context, parent routing.Node, collection, child, url string, offers []manifest.Offer) (routing.Node, error)
}

// A Live tree runs. Its own engine answers, and after each answer it is looked at whether what runs agrees.
type Live interface {
	Tree
	Engine() *routing.Engine
	// Look says what is otherwise in the running tree than q's answer says.
	Look(ctx context.Context, q Question) error
}

// A Question is one about a capability, with its answer.
type Question struct {
	Asked string // "use", "offer", "expose", "exposed", "runner", "resolver"
	Node  routing.Node
	Kind  manifest.Kind
	Name  string
	Use   *manifest.Use // what was asked, of "use"
	Route *capabilities.Route
	Err   *capabilities.Error // nil where Route is not
}

// A Placed tree read its manifests from files below Dir; answers leave that out.
type Placed interface{ Dir() string }

// Run asks all questions of all cases of the trees that open makes.
func Run(t *testing.T, open func(t *testing.T, c Case) Tree) {
	names, err := cases.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range names {
		t.Run(strings.TrimSuffix(entry.Name(), ".txtar"), func(t *testing.T) {
			file := path.Join("testdata", entry.Name())
			text, err := cases.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			questions, files := split(string(text))
			got, err := answers(t, questions, files, open)
			if err != nil {
				t.Fatal(err)
			}
			if got == questions {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(got+string(text[len(questions):])), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s:\n%s", file, differences(questions, got))
		})
	}
}

// split cuts an archive into what is before its first file and its files.
func split(text string) (head string, files map[string]string) {
	files = make(map[string]string)
	current := ""
	for line := range strings.Lines(text) {
		if f, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(f, " --") {
			current = strings.TrimSuffix(f, " --")
			files[current] = ""
			continue
		}
		if current == "" {
			head += line
		} else {
			files[current] += line
		}
	}
	return head, files
}

// differences shows the lines of two texts that are not in both, with their numbers.
func differences(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var b strings.Builder
	for i, line := range w {
		if !slices.Contains(g, line) {
			fmt.Fprintf(&b, "%4d - %s\n", i+1, line)
		}
	}
	for i, line := range g {
		if !slices.Contains(w, line) {
			fmt.Fprintf(&b, "%4d + %s\n", i+1, line)
		}
	}
	if b.Len() == 0 {
		return "the same lines in another order:\n" + got
	}
	return b.String()
}

// answers is the questions with the answers that the tree gives.
func answers(t *testing.T, questions string, files map[string]string, open func(t *testing.T, c Case) Tree) (string, error) {
	c := Case{Files: files, Builtins: Defaults()}
	for line := range strings.Lines(questions) {
		if w := strings.Fields(line); len(w) == 3 && w[0] == "builtin" {
			k, err := parseKind(w[1])
			if err != nil {
				return "", err
			}
			c.Builtins.Offered[k] = append(c.Builtins.Offered[k], w[2])
		}
	}
	a := asker{tree: open(t, c), ctx: t.Context(), engine: routing.New(c.Builtins)}
	if l, ok := a.tree.(Live); ok {
		a.engine, a.look = l.Engine(), l.Look
	}
	var b strings.Builder
	for line := range strings.Lines(questions) {
		text := strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(text, " ") {
			continue // belongs to the answer before
		}
		question, _, _ := strings.Cut(text, " -> ")
		question, _, _ = strings.Cut(question, " !! ")
		words := strings.Fields(question)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") || words[0] == "builtin" {
			b.WriteString(line)
			continue
		}
		if words[0] == "create" {
			if err := a.create(strings.TrimPrefix(question, "create ")); err != nil {
				return "", fmt.Errorf("%s: %w", question, err)
			}
			b.WriteString(line)
			continue
		}
		answer, err := a.ask(words)
		if err != nil {
			return "", fmt.Errorf("%s: %w", question, err)
		}
		if p, ok := a.tree.(Placed); ok {
			answer = strings.ReplaceAll(answer, p.Dir()+"/", "")
		}
		b.WriteString(strings.TrimSpace(question) + " " + answer + "\n")
	}
	return b.String(), nil
}

type asker struct {
	tree   Tree
	ctx    context.Context
	engine *routing.Engine
	look   func(context.Context, Question) error // nil where nothing runs
}

func (a asker) node(moniker string) (routing.Node, error) {
	m, err := name.ParseMoniker(moniker)
	if err != nil {
		return nil, err
	}
	n := a.tree.Root()
	for _, seg := range m.Segments() {
		c, ok, err := n.Child(a.ctx, seg)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%s has no child %s", n.Moniker(), seg)
		}
		n = c
	}
	return n, nil
}

// create does "M COLLECTION NAME URL [, OFFER]…".
func (a asker) create(text string) error {
	parts := strings.Split(text, ",")
	w := strings.Fields(parts[0])
	if len(w) != 4 {
		return errors.New("want M COLLECTION NAME URL")
	}
	n, err := a.node(w[0])
	if err != nil {
		return err
	}
	var offers []manifest.Offer
	for _, p := range parts[1:] {
		o, err := parseOffer(strings.Fields(p))
		if err != nil {
			return err
		}
		offers = append(offers, o)
	}
	_, err = a.tree.Create(a.ctx, n, w[1], w[2], w[3], offers)
	return err
}

// parseOffer reads KIND NAME from REF [as NAME] [weak] [optional|transitional|same_as_target].
func parseOffer(w []string) (manifest.Offer, error) {
	if len(w) < 4 || w[2] != "from" {
		return manifest.Offer{}, errors.New("want KIND NAME from REF")
	}
	k, err := parseKind(w[0])
	if err != nil {
		return manifest.Offer{}, err
	}
	o := manifest.Offer{Kind: k, SourceName: w[1], TargetName: w[1]}
	switch ref, dict, _ := strings.Cut(w[3], "/"); ref {
	case "parent":
		o.Source = manifest.Ref{Kind: manifest.RefParent, Dictionary: dict}
	case "self":
		o.Source = manifest.Ref{Kind: manifest.RefSelf, Dictionary: dict}
	case "void":
		o.Source = manifest.Ref{Kind: manifest.RefVoid}
	case "framework":
		o.Source = manifest.Ref{Kind: manifest.RefFramework}
	default:
		o.Source = manifest.Ref{Kind: manifest.RefChild, Name: strings.TrimPrefix(ref, "#"), Dictionary: dict}
	}
	rest := w[4:]
	if len(rest) >= 2 && rest[0] == "as" {
		o.TargetName, rest = rest[1], rest[2:]
	}
	for _, word := range rest {
		switch word {
		case "weak":
			o.Dependency = manifest.Weak
		case "optional":
			o.Availability = manifest.Optional
		case "transitional":
			o.Availability = manifest.Transitional
		case "same_as_target":
			o.Availability = manifest.SameAsTarget
		default:
			return o, fmt.Errorf("%q in an offer", word)
		}
	}
	return o, nil
}

func parseKind(s string) (manifest.Kind, error) {
	for _, k := range manifest.Kinds() {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("kind %q", s)
}

// ask answers the question of these words.
func (a asker) ask(w []string) (string, error) {
	why := w[0] == "why"
	if why {
		w = w[1:]
	}
	if len(w) < 2 {
		return "", errors.New("want a question and a moniker")
	}
	n, err := a.node(w[1])
	if err != nil {
		return "", err
	}
	switch {
	case w[0] == "timeout" && len(w) == 2:
		d, err := a.engine.StopTimeout(a.ctx, n)
		return "-> " + d.String(), err
	case w[0] == "stops" && len(w) == 2:
		return a.stops(n)
	}
	q := Question{Asked: w[0], Node: n}
	q.Route, err = a.route(n, w, &q)
	if f, ok := errors.AsType[*capabilities.Error](err); ok {
		q.Err = f
	} else if err != nil {
		return "", err
	}
	if a.look != nil {
		if err := a.look(a.ctx, q); err != nil {
			return "", err
		}
	}
	if q.Err != nil {
		return failure(q.Err, why), nil
	}
	return success(q.Route, why), nil
}

func (a asker) route(n routing.Node, w []string, q *Question) (*capabilities.Route, error) {
	if len(w) < 4 {
		switch {
		case w[0] == "runner" && len(w) == 2:
			return a.engine.Runner(a.ctx, n)
		case w[0] == "resolver" && len(w) == 3:
			return a.engine.Resolver(a.ctx, n, w[2])
		}
		return nil, errors.New("no such question")
	}
	d, err := n.Decl(a.ctx)
	if err != nil {
		return nil, err
	}
	k, err := parseKind(w[2])
	if err != nil {
		return nil, err
	}
	q.Kind, q.Name = k, w[3]
	switch w[0] {
	case "exposed":
		return a.engine.Exposed(a.ctx, n, k, w[3])
	case "use":
		for i := range d.Uses {
			if u := &d.Uses[i]; u.Kind == k && u.SourceName == w[3] {
				q.Use = u
				return a.engine.Use(a.ctx, n, u)
			}
		}
	case "offer":
		for i := range d.Offers {
			if o := &d.Offers[i]; o.Kind == k && o.TargetName == w[3] && len(w) == 5 && o.Target.String() == w[4] {
				return a.engine.Offer(a.ctx, n, o)
			}
		}
	case "expose":
		for i := range d.Exposes {
			if x := &d.Exposes[i]; x.Kind == k && x.TargetName == w[3] {
				return a.engine.Expose(a.ctx, n, x)
			}
		}
	}
	return nil, errors.New("the manifest has nothing of that kind and name")
}

// stops drives the stops of n's realm, all that may stop at once in one step.
func (a asker) stops(n routing.Node) (string, error) {
	d, err := n.Decl(a.ctx)
	if err != nil {
		return "", err
	}
	var dynamic []routing.Dynamic
	for i := range d.Collections {
		for _, c := range n.Dynamic(d.Collections[i].Name) {
			dynamic = append(dynamic, routing.Dynamic{Segment: c.Moniker().Base(), Offers: c.DynamicOffers()})
		}
	}
	g := routing.Dependencies(d, dynamic)
	s, ready, err := g.Stops()
	if err != nil {
		return "!! " + err.Error(), nil
	}
	var steps []string
	for len(ready) > 0 {
		var names []string
		var next []routing.Vertex
		for _, v := range ready {
			names = append(names, g.Name(v))
			next = append(next, s.Done(v)...)
		}
		slices.Sort(names)
		steps = append(steps, strings.Join(names, " "))
		ready = next
	}
	return "-> " + strings.Join(steps, ", "), nil
}

func success(r *capabilities.Route, why bool) string {
	if r == nil {
		return "-> none"
	}
	var b strings.Builder
	b.WriteString("-> " + source(r))
	if why {
		hops(&b, r.Hops)
	}
	if r.Backing != nil {
		b.WriteString("\n  backing " + source(r.Backing))
		if why {
			hops(&b, r.Backing.Hops)
		}
	}
	for _, m := range r.Members {
		if m.Err != nil {
			b.WriteString("\n  member !! " + strings.ReplaceAll(m.Err.Error(), "\n", "\n  "))
		} else {
			b.WriteString("\n  member " + source(m.Route))
		}
	}
	return b.String()
}

func source(r *capabilities.Route) string {
	var s string
	switch r.Source.Kind {
	case capabilities.FromVoid:
		s = "void"
	case capabilities.FromCapability:
		s = fmt.Sprintf("storage of %s %s", r.Source.At, r.Source.Name)
	case capabilities.FromDictionary:
		s = fmt.Sprintf("dictionary %s of %s %s %s", r.Source.Capability.Name, r.Source.At, r.Kind, r.Source.Name)
	case capabilities.FromCollection:
		s = fmt.Sprintf("%s aggregate %s", r.Source.At, r.Source.Name)
	default:
		s = fmt.Sprintf("%s %s %s", r.Source, r.Kind, r.Source.Name)
	}
	var more []string
	if r.Rights != 0 {
		more = append(more, "rights "+strings.Join(r.Rights.Names(), " "))
	}
	if r.Subdir != "" {
		more = append(more, "subdir "+r.Subdir)
	}
	if r.Availability != manifest.Required {
		more = append(more, r.Availability.String())
	}
	for _, sc := range r.Scope {
		text := "scope " + string(sc.At)
		for _, seg := range sc.Segments {
			text += " #" + seg
		}
		more = append(more, text)
	}
	if len(more) > 0 {
		s += " [" + strings.Join(more, ", ") + "]"
	}
	return s
}

func failure(f *capabilities.Error, why bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "!! %s %s", f.Why, f.Reason)
	fmt.Fprintf(&b, "\n  at %s", f.At)
	if f.Pos.IsValid() {
		fmt.Fprintf(&b, " %s", f.Pos)
	}
	if f.Hint != "" {
		fmt.Fprintf(&b, "\n  hint: %s", f.Hint)
	}
	if why {
		hops(&b, f.Hops)
	}
	return b.String()
}

func hops(b *strings.Builder, hs []capabilities.Hop) {
	for _, h := range hs {
		at := string(h.At)
		if h.At == "" {
			at = "<component manager>"
		}
		fmt.Fprintf(b, "\n  %s %s %s %s", at, h.Decl, h.Kind, h.Name)
		if h.Pos.IsValid() {
			fmt.Fprintf(b, " %s", h.Pos)
		}
	}
}

// Builtins are routing.Builtins as lists.
type Builtins struct {
	Offered     map[manifest.Kind][]string // to the root
	FromAll     map[manifest.Kind][]string // the framework's
	Environment map[manifest.Kind][]string // the root's
}

// Defaults are the built-ins of every case; a case may add to what is offered.
func Defaults() Builtins {
	return Builtins{
		Offered: map[manifest.Kind][]string{
			manifest.KindRunner:      {"elf", "builtin"},
			manifest.KindResolver:    {"file"},
			manifest.KindProtocol:    {"linux.Netwatch"},
			manifest.KindDirectory:   {"var"},
			manifest.KindEventStream: {"started", "stopped"},
		},
		FromAll: map[manifest.Kind][]string{
			manifest.KindProtocol:    {"cmgr.component.Realm", "cmgr.component.Binder"},
			manifest.KindDirectory:   {"pkg"},
			manifest.KindEventStream: {"started", "stopped"},
		},
		Environment: map[manifest.Kind][]string{
			manifest.KindRunner:   {"elf", "builtin"},
			manifest.KindResolver: {"file"},
			manifest.KindProtocol: {"linux.Debug"},
		},
	}
}

// Has says whether the root is offered this.
func (b Builtins) Has(k manifest.Kind, s string) bool { return slices.Contains(b.Offered[k], s) }

// Framework says whether every component has this from "framework".
func (b Builtins) Framework(k manifest.Kind, s string) bool { return slices.Contains(b.FromAll[k], s) }

// InRootEnvironment says whether the root's environment has this.
func (b Builtins) InRootEnvironment(k manifest.Kind, s string) bool {
	return slices.Contains(b.Environment[k], s)
}

// List names all that is offered to the root or in its environment.
func (b Builtins) List(k manifest.Kind) []string {
	all := slices.Concat(b.Offered[k], b.FromAll[k], b.Environment[k])
	slices.Sort(all)
	return slices.Compact(all)
}
