package cml

import (
	"fmt"
	"slices"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/json5"
)

// requirements checks what the options ask of every manifest (V71, V72).
func (k *compiler) requirements() {
	for _, p := range k.options.MustOfferProtocols {
		k.mustOffer(manifest.KindProtocol, "Protocol", p)
	}
	for _, d := range k.options.MustOfferDictionaries {
		k.mustOffer(manifest.KindDictionary, "Dictionary", d)
	}
	for _, p := range k.options.MustUseProtocols {
		if !slices.ContainsFunc(k.out.Uses, func(u manifest.Use) bool { return u.Kind == manifest.KindProtocol && u.SourceName == p }) {
			at := k.doc.At
			if use := k.doc.Use.At; use.Source == at.Source {
				at = use
			}
			k.report(at, "must-use", fmt.Sprintf("add { protocol: %q } to `use`", p), "Protocol %q is not used by a component but is required by all", p)
		}
	}
}

// mustOffer checks that every child and collection is offered something under the name.
func (k *compiler) mustOffer(kind manifest.Kind, word, name string) {
	given := map[manifest.Ref]bool{}
	for i := range k.out.Offers {
		if o := &k.out.Offers[i]; o.Kind == kind && o.TargetName == name {
			if toAll(k.offers[i].clause) {
				return
			}
			given[o.Target] = true
		}
	}
	for i := range k.out.Children {
		if c := &k.doc.Children.Items[i]; !given[manifest.Ref{Kind: manifest.RefChild, Name: c.Name.Value}] {
			k.report(c.Name.At, "must-offer", offering(kind, name, c.Name.Value),
				"%s %q is not offered to child component %q but it is a required offer", word, name,
				c.Name.Value)
		}
	}
	for i := range k.out.Collections {
		if c := &k.doc.Collections.Items[i]; !given[manifest.Ref{Kind: manifest.RefCollection, Name: c.Name.Value}] {
			k.report(c.Name.At, "must-offer", offering(kind, name, c.Name.Value),
				"%s %q is not offered to collection %q but it is a required offer", word, name,
				c.Name.Value)
		}
	}
}

// offering is the hint to an offer that is missing.
func offering(kind manifest.Kind, name, to string) string {
	return fmt.Sprintf("add { %s: %q, from: \"parent\", to: %q } to `offer`, or offer it to \"all\"", kind, name, "#"+to)
}

// testFacets checks the one facet that the language knows, "fuchsia.test" (V73, V74, V75).
func (k *compiler) testFacets() {
	const (
		packages = "deprecated-allowed-packages"
		feature  = "allow_non_hermetic_packages"
	)
	facets := &k.doc.Facets
	if !facets.At.IsSet() {
		return
	}
	var allowed *Member
	if m := facets.Get("fuchsia.test"); m != nil {
		if m.Value.Kind != json5.Object {
			k.report(m.Value.At, "bad-facet", "", "'fuchsia.test' is not an object: %s", m.Value.Text)
			return
		}
		if typ := m.Value.Get("type"); typ != nil && slices.Contains(k.options.Features, "restrict_test_type_in_facets") {
			k.report(typ.At, "bad-facet", "remove it", "'type' is not allowed in facets.")
		}
		allowed = m.Value.Get(packages)
	}
	if !slices.Contains(k.options.Features, "enable_"+feature+"_feature") {
		return
	}
	switch has := slices.Contains(k.options.Features, feature); {
	case allowed != nil && !has:
		k.report(allowed.At, "restricted-feature", "enable it with --features "+feature,
			"restricted_feature '%s' should be present with facet '%s'", feature, packages)
	case allowed == nil && has:
		k.report(facets.At, "restricted-feature", "", "Remove restricted_feature '%s' as the manifest does not contain facet '%s'",
			feature, packages)
	}
}
