package routingtest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmgr/cmgr/manifest"
)

func TestSplit(t *testing.T) {
	head, files := split("# one\nrunner /\n-- root.cml --\n{ // -- no marker\n}\n-- a/b.cml --\n-- c.cml --\n{}\n")
	want := map[string]string{"root.cml": "{ // -- no marker\n}\n", "a/b.cml": "", "c.cml": "{}\n"}
	if d := cmp.Diff(want, files); d != "" || head != "# one\nrunner /\n" {
		t.Errorf("%q, %s", head, d)
	}
}

// A wrong answer must be seen, in whatever way it is wrong.
func TestDifferences(t *testing.T) {
	for _, c := range []struct{ want, got, text string }{
		{"a\nb", "a\nc", "   2 - b\n   2 + c\n"},
		{"a\nb", "a", "   2 - b\n"},
		{"a\nb", "b\na", "the same lines in another order:\nb\na"},
	} {
		if got := differences(c.want, c.got); got != c.text {
			t.Errorf("%q", got)
		}
	}
}

func TestParseOffer(t *testing.T) {
	want := manifest.Offer{
		Kind: manifest.KindProtocol, Source: manifest.Ref{
			Kind: manifest.RefChild, Name: "jobs:db",
			Dictionary: "d/e",
		}, SourceName: "db",
		TargetName: "store", Dependency: manifest.Weak, Availability: manifest.Optional,
	}
	got, err := parseOffer([]string{"protocol", "db", "from", "#jobs:db/d/e", "as", "store", "weak", "optional"})
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, bad := range [][]string{
		{"protocol"},
		{"protocl", "x", "from", "self"},
		{"protocol", "x", "from", "self", "as"},
		{"protocol", "x", "from", "self", "soft"},
	} {
		if _, err := parseOffer(bad); err == nil {
			t.Errorf("%q is an offer", bad)
		}
	}
}
