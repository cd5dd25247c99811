package cml

import (
	"os"
	"regexp"
	"slices"
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
