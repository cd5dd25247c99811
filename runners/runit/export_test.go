package runit

import "github.com/cmgr/cmgr/runners"

// Over says whether p's supervision is at its end; on the loop.
func Over(p runners.Program) bool { return p.(*program).service.Over() }
