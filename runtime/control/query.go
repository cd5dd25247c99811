package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cmgr/cmgr/capabilities"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runtime/realm"
)

// shownCandidates bounds how many instances an ambiguous query lists.
const shownCandidates = 20

// find is the one instance that query means: the moniker if it starts with "/" (what stands above it is resolved if need be),
// else the one instance with that URL, or whose moniker ends with it, or whose moniker, URL or instance id contains it, tried in
// this order.
func (s *Server) find(ctx context.Context, query string) (realm.Info, error) {
	if query == "" {
		return realm.Info{}, invalid("find: the query is empty")
	}
	if query[0] == '/' || query[0] == '.' {
		m, err := name.ParseMoniker(query)
		if err != nil {
			return realm.Info{}, invalid("find: %v", err)
		}
		return s.findMoniker(ctx, m)
	}
	all := s.cfg.Tree.Instances()
	for _, matches := range []func(realm.Info) bool{
		func(i realm.Info) bool { return i.URL == query || i.ResolvedURL == query },
		func(i realm.Info) bool { return strings.HasSuffix(string(i.Moniker), "/"+query) },
		func(i realm.Info) bool { return matches(i, query) },
	} {
		var found []realm.Info
		for _, i := range all {
			if matches(i) {
				found = append(found, i)
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			hint := "did you mean one of these?"
			if more := len(found) - shownCandidates; more > 0 {
				hint = fmt.Sprintf("did you mean one of these, or of %d more?", more)
			}
			e := problem(capabilities.Invalid, hint, "find %s: more than one component instance matches", query)
			for _, i := range found[:min(len(found), shownCandidates)] {
				e.Problem.Candidates = append(e.Problem.Candidates, string(i.Moniker))
			}
			return realm.Info{}, e
		}
	}
	hint := "`cmgr list` shows all instances"
	if near := nearest(query, all); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	return realm.Info{}, problem(capabilities.NotFound, hint, "find %s: no matching component instance found", query)
}

func (s *Server) findMoniker(ctx context.Context, m name.Moniker) (realm.Info, error) {
	if i, ok := s.cfg.Tree.Instance(m); ok {
		return i, nil
	}
	if above, ok := m.Parent(); ok {
		if err := s.cfg.Tree.Resolve(ctx, above); err != nil {
			return realm.Info{}, err
		}
		if i, ok := s.cfg.Tree.Instance(m); ok {
			return i, nil
		}
	}
	hint := ""
	if near := nearest(string(m), s.cfg.Tree.Instances()); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	return realm.Info{}, problem(capabilities.NotFound, hint, "find %s: no such component instance", m)
}

// matches says whether part is a part of i's moniker, URL or instance id.
func matches(i realm.Info, part string) bool {
	return strings.Contains(string(i.Moniker), part) || strings.Contains(i.URL, part) || strings.Contains(i.ResolvedURL, part) ||
		strings.Contains(i.InstanceID, part)
}

// nearest is the moniker that is, or whose last segment is, probably meant by query.
func nearest(query string, all []realm.Info) string {
	var words []string
	of := map[string]string{}
	for _, i := range all {
		m := string(i.Moniker)
		for _, w := range []string{m, i.Moniker.Base()} {
			if _, ok := of[w]; !ok && w != "" {
				words, of[w] = append(words, w), m
			}
		}
	}
	return of[name.Nearest(query, words)]
}

// only is the instances that a filter lets through, in their order.
func (s *Server) only(ctx context.Context, filter string) ([]realm.Info, error) {
	all := s.cfg.Tree.Instances()
	word, of, related := strings.Cut(filter, ":")
	word = strings.TrimSuffix(word, "s")
	var keep func(realm.Info) bool
	switch {
	case filter == "":
		return all, nil
	case filter == "running":
		keep = isRunning
	case filter == "stopped":
		keep = func(i realm.Info) bool { return !isRunning(i) }
	case related && (word == "ancestor" || word == "descendant" || word == "relative"):
		at, err := s.find(ctx, of)
		if err != nil {
			return nil, err
		}
		keep = func(i realm.Info) bool {
			below, above := at.Moniker.Contains(i.Moniker), i.Moniker.Contains(at.Moniker)
			return below && word != "ancestor" || above && word != "descendant"
		}
	default:
		return nil, invalid("list filter should be 'running', 'stopped', 'ancestors:<name>', 'descendants:<name>' or "+
			"'relatives:<name>', is '%s'", filter)
	}
	return slices.DeleteFunc(all, func(i realm.Info) bool { return !keep(i) }), nil
}

// isRunning says whether i's program runs, be it on its way out.
func isRunning(i realm.Info) bool { return i.State == realm.Started || i.State == realm.Stopping }
