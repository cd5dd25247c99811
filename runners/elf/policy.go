package elf

import (
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/runners"
)

// Denied says which key of a program block that policy, as Config.Policy, does not allow m: a *PolicyError, or nil.
func Denied(policy func(policy string, m name.Moniker) bool, m name.Moniker, b runners.Block) error {
	return deniedBy(policy, m, b)
}
