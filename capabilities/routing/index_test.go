package routing

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cmgr/cmgr/manifest"
)

// An index finds what reading from top to bottom finds, in the same order.
func TestIndexLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SampledFrom([]manifest.Kind{manifest.KindProtocol, manifest.KindService})
		names := rapid.SampledFrom([]string{"p", "q", "r"})
		targets := rapid.SampledFrom([]manifest.Ref{
			childRef("p"), childRef("q"),
			{Kind: manifest.RefCollection, Name: "p"},
			{Kind: manifest.RefSelf, Dictionary: "p"},
			parent,
			{Kind: manifest.RefFramework},
		})
		d := &manifest.Component{}
		for i := range rapid.IntRange(indexFrom-4, indexFrom+12).Draw(t, "n") {
			// The source's name tells the entries apart.
			s := fmt.Sprint(i)
			k, to, as := kinds.Draw(t, "kind"), targets.Draw(t, "target"), names.Draw(t, "as")
			d.Offers = append(d.Offers, manifest.Offer{Kind: k, SourceName: s, Target: to, TargetName: as})
			d.Exposes = append(d.Exposes, manifest.Expose{Kind: k, SourceName: s, Target: to, TargetName: as})
		}
		for _, k := range manifest.Kinds()[:2] {
			for _, as := range []string{"p", "q", "r"} {
				d.Capabilities = append(d.Capabilities, manifest.Capability{Kind: k, Name: as})
			}
		}
		k, to, as := kinds.Draw(t, "asked kind"), targets.Draw(t, "asked target"), names.Draw(t, "asked name")

		var wantOffers, wantExposes, gotOffers, gotExposes []string
		for i := range d.Offers {
			if o := &d.Offers[i]; o.Kind == k && o.Target == to && o.TargetName == as {
				wantOffers = append(wantOffers, o.SourceName)
			}
			if x := &d.Exposes[i]; x.Kind == k && x.TargetName == as && x.Target.Kind != manifest.RefFramework {
				wantExposes = append(wantExposes, x.SourceName)
			}
		}
		if o, more := offersOf(d, keyOf(&manifest.Offer{Kind: k, Target: to, TargetName: as})); o != nil {
			gotOffers = append(gotOffers, o.SourceName)
			for _, o := range more {
				gotOffers = append(gotOffers, o.SourceName)
			}
		}
		if x, more := exposesOf(d, k, as); x != nil {
			gotExposes = append(gotExposes, x.SourceName)
			for _, x := range more {
				gotExposes = append(gotExposes, x.SourceName)
			}
		}
		if fmt.Sprint(wantOffers) != fmt.Sprint(gotOffers) || fmt.Sprint(wantExposes) != fmt.Sprint(gotExposes) {
			t.Fatalf("offers %v, want %v; exposes %v, want %v", gotOffers, wantOffers, gotExposes, wantExposes)
		}
		wantTo := positions(d, func(o *manifest.Offer) bool {
			return o.Kind == k && o.Target.Kind == to.Kind && o.Target.Name == to.Name
		})
		wantNamed := positions(d, func(o *manifest.Offer) bool { return o.Kind == k && o.TargetName == as })
		gotTo, gotNamed := offersTo(d, offerTo{to.Kind, k, to.Name}), offersNamed(d, capKey{k, as})
		if !slices.Equal(wantTo, gotTo) || !slices.Equal(wantNamed, gotNamed) {
			t.Fatalf("offers to %v, want %v; named %v, want %v", gotTo, wantTo, gotNamed, wantNamed)
		}
		if c := capabilityOf(d, k, as); c == nil || c.Kind != k || c.Name != as {
			t.Fatalf("capability %v", c)
		}
		if c := capabilityOf(d, manifest.KindRunner, as); c != nil {
			t.Fatalf("%v is no runner", c)
		}
	})
}
