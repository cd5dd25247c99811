package cml

import (
	"fmt"
	"slices"

	"github.com/cmgr/cmgr/manifest/name"
)

// features are those that the reference compiler knows, the ones that gate something here first.
var features = []string{
	"allow_long_names", "delivery_type", "dynamic_dictionaries", "use_dictionaries", "allow_non_hermetic_packages",
	"enable_allow_non_hermetic_packages_feature", "restrict_test_type_in_facets", "dictionaries",
}

// Features are the names that Options.Features may hold.
func Features() []string { return slices.Clone(features) }

// CheckFeatures says which of names is no feature, nil if all are.
func CheckFeatures(names []string) error {
	for _, n := range names {
		if slices.Contains(features, n) {
			continue
		}
		if near := name.Nearest(n, features); near != "" {
			return fmt.Errorf("unrecognized feature %q; did you mean %q?", n, near)
		}
		return fmt.Errorf("unrecognized feature %q", n)
	}
	return nil
}
