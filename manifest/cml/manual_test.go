package cml

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestManualNamesEveryKey compares cml.5 with the tables of the language.
func TestManualNamesEveryKey(t *testing.T) {
	text, err := os.ReadFile("cml.5")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range slices.Concat(
		documentShape.names(), childShape.names(), restartShape.names(), collectionShape.names(), environmentShape.names(),
		runnerShape.names(), resolverShape.names(), debugShape.names(), capabilityShape.names(), useShape.names(),
		offerShape.names(), exposeShape.names(), configTypeShape.names(),
	) {
		// In the term of a list, or as a key in an example's braces.
		term := regexp.MustCompile(`(?m)^\.It Ic ([^\n]*[ ,])?` + key + `\b|^\.Li \{ [^\n]*\b` + key + `:`)
		if !term.Match(text) {
			t.Errorf("cml.5 does not tell what %q is", key)
		}
	}
	for _, word := range slices.Concat(configWords, rightWords) {
		if !regexp.MustCompile(`(?m)^\.(It )?Dq ` + regexp.QuoteMeta(word) + `( |$)`).Match(text) {
			t.Errorf("cml.5 does not name %q", word)
		}
	}
}

// TestLanguage: each key of the language has words of the manual, turned into Markdown with nothing of mdoc left.
func TestLanguage(t *testing.T) {
	seen := map[*Object]bool{}
	var walk func(o *Object)
	walk = func(o *Object) {
		if seen[o] {
			return
		}
		seen[o] = true
		for i := range o.Keys {
			k := &o.Keys[i]
			if k.Doc == "" || regexp.MustCompile("\\b(Ic|Dq|Li|Pq|Po|Pc|Ns|Sx|Xr|Ar)\\b|\\\\|``|  ").MatchString(k.Doc) {
				t.Errorf("%s: %s: %q", o.Name, k.Name, k.Doc)
			}
			if k.Value.Object != nil {
				walk(k.Value.Object)
			}
		}
	}
	walk(Language())
	for _, c := range []struct {
		of  *Object
		key string
		doc string
	}{
		{Language().Key("children").Value.Object, "environment", "`#environment` of this manifest. Default: this component's own " +
			"environment."},
		{Language().Key("environments").Value.Object, "runners", "Array of `{ runner: NAME, from: SOURCE, as: NAME }`."},
		{Language().Key("program").Value.Object.Key("lifecycle").Value.Object, "stop_event", `How it is asked to end: "signal" ` +
			`(default), "notify" by a message on its lifecycle channel, or "ignore": it is not asked but killed. What has not ended ` +
			`within the stop timeout of its environment is killed too.`},
		{Language().Key("offer").Value.Object, "to", "`#child`, `#collection`, `self/dictionary`, or an array of them"},
		{Language().Key("use").Value.Object, "filter", "event_stream: an object, such as `{ name: \"a.protocol\" }`."},
		{Language().Key("capabilities").Value.Object, "backing_dir", "the directory capability that holds the storage\n\n" +
			"storage (required): the source"},
	} {
		if got := c.of.Key(c.key).Doc; !regexp.MustCompile("^" + regexp.QuoteMeta(c.doc)).MatchString(got) {
			t.Errorf("%s: %s: %q, want %q", c.of.Name, c.key, got, c.doc)
		}
	}
}

// TestReference: each key of each object is in the reference, with what it may hold.
func TestReference(t *testing.T) {
	text := string(Reference())
	for _, want := range []string{
		"## A manifest\n", "## An entry of `offer`\n", "## `program`\n",
		"### `to`\n\n*`all`; or one of `#NAME`, `self/DICTIONARY`; or an array of these; required*\n\n`#child`",
		"### `durability`\n\n*one of `transient`, `single_run`; required*\n\n",
		"### `rights`\n\n*an array, each one of `connect`, ", "### `__stop_timeout_ms`\n\n*an integer from 0 to 4294967295*\n\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the reference", want)
		}
	}
	keys := 0
	seen := map[*Object]bool{}
	var count func(o *Object)
	count = func(o *Object) {
		if seen[o] {
			return
		}
		seen[o] = true
		keys += len(o.Keys)
		for i := range o.Keys {
			if v := o.Keys[i].Value.Object; v != nil {
				count(v)
			}
		}
	}
	count(Language())
	if n := strings.Count(text, "\n### `"); n != keys || keys < 100 {
		t.Errorf("%d keys in the reference, %d in the language", n, keys)
	}
}
